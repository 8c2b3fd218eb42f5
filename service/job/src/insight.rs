//! What a run shows of itself while it goes on: how noisy its gradients are, and when it begins to learn by heart.

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
