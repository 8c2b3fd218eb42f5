//! What a run shows of itself while it goes on: how noisy its gradients are, when it begins to learn by heart, and the rows
//! that it finds hard.

use serde::{Deserialize, Serialize};

/// How much of a step's gradient is chance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GradientNoise {
    /// Steps taken.
    pub step: u64,
    /// Examples in a step at which noise and signal are equal (McCandlish et al. 2018, arXiv:1812.06162). Absent while the
    /// signal cannot be told apart from noise.
    pub noise_scale: Option<f64>,
    /// Its standard error.
    pub standard_error: f64,
    /// Share of the square of this run's gradients that is signal; absent with the scale.
    pub signal_share: Option<f64>,
    /// Examples in a step of this run.
    pub examples_per_step: u32,
    /// Steps that it was measured in.
    pub measured_steps: u64,
    /// What that means for this run.
    pub advice: String,
}

/// The held-out rows got worse while the training rows got better.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Overfitting {
    /// Steps taken.
    pub step: u64,
    /// Steps before the evaluation with the best held-out figure, after which it turned.
    pub turned_at_step: u64,
    /// The held-out loss, of pairs the negative margin, now less that at the turn, over the same rows.
    pub held_out_change: f64,
    /// Its standard error, over rows.
    pub standard_error: f64,
    /// The training loss before the turn, averaged over the steps between two evaluations.
    pub training_loss_then: f64,
    /// The training loss of the newest such steps.
    pub training_loss_now: f64,
}

/// The gradient of some of the trained values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GradientGroup {
    /// Which ones: a layer, such as `layers.3`, or what belongs to none, such as `embed_tokens`.
    pub name: String,
    /// L2 norm of their gradient before clipping.
    pub norm: f64,
}

/// Held-out rows that say the same as training rows, or nearly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Leakage {
    /// Held-out rows looked at.
    pub held_out_rows: u64,
    /// Training rows that they were compared with.
    pub train_rows: u64,
    /// Those that say the same as a training row.
    pub exact_rows: u64,
    /// Those that say nearly the same as one, and are none of the above.
    pub near_rows: u64,
    /// Share of common pieces from which on rows are nearly the same.
    pub similarity: f64,
    /// The most similar pairs, the most similar first; at most 20.
    pub rows: Vec<LeakedRow>,
    /// How long the comparison took, in seconds.
    pub seconds: f64,
}

/// A held-out row and the training row that it is most like. Texts are cut at 500 characters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeakedRow {
    /// Object the held-out row is in.
    pub object: String,
    /// Number of the held-out row in it, from 1.
    pub row: u64,
    /// Its text.
    pub text: String,
    /// Object the training row is in.
    pub train_object: String,
    /// Number of the training row in it, from 1.
    pub train_row: u64,
    /// Its text.
    pub train_text: String,
    /// Share of common pieces; 1 where the rows say the same.
    pub similarity: f64,
}

/// The held-out rows that the model finds hardest, the hardest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HardExamples {
    /// Steps taken before the evaluation that found them.
    pub step: u64,
    /// The rows: those of the highest loss per token, in dpo of the lowest margin.
    pub examples: Vec<HardExample>,
}

/// A row that the model finds hard. Texts are cut at 2000 characters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HardExample {
    /// Object the row is in.
    pub object: String,
    /// Number of the row in it, from 1.
    pub row: u64,
    /// What is given to the model; empty where every token is scored.
    pub prompt: String,
    /// What is scored; in dpo the chosen answer.
    pub expected: String,
    /// In dpo the rejected answer.
    pub rejected: Option<String>,
    /// Mean negative log-likelihood of the scored tokens, in nats; in dpo of the chosen answer's. Absent when not finite.
    pub loss: Option<f64>,
    /// In dpo the reward of the chosen answer less that of the rejected one. Absent when not finite.
    pub margin: Option<f64>,
    /// The loss, in dpo the margin, at the evaluation before. Absent at the first of an attempt.
    pub before: Option<f64>,
    /// The least likely of the scored tokens, the least likely first; at most 5.
    pub surprises: Vec<Surprise>,
    /// What the model writes itself, the likeliest token each time; there after the last step only.
    pub answer: String,
}

/// A token that the model found unlikely.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Surprise {
    /// Its number in what is scored, from 1.
    pub token: u64,
    /// The token.
    pub expected: String,
    /// The one that the model found likeliest in its place.
    pub preferred: String,
    /// Negative log-likelihood of the token, in nats.
    pub nll: f64,
}
