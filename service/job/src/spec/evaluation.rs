//! When and how to evaluate, and when to stop for it.

use serde::{Deserialize, Serialize};

use super::Check;

/// When and how to evaluate. The run is always evaluated at its end, and before the first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps between evaluations. Default: so that there are about ten.
    pub every_steps: Option<u64>,
    /// Evaluations in between are put off while they would take more than this share of the time so far. Default 0.1.
    pub max_time_fraction: f64,
    /// Ends the run when the held-out rows stop improving. Default: off.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
    /// Held-out rows that each evaluation shows, the hardest. 0 to 50, default 5.
    #[serde(default = "default_hard_examples")]
    pub hard_examples: u32,
    /// Which evaluations have the model answer those rows. Default: the last one.
    #[serde(default)]
    pub answer_hard_examples: AnswerHardExamples,
}

/// Which evaluations of a run have the model answer the rows that it finds hardest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerHardExamples {
    /// The last one, also where early stopping made it the last. The default.
    #[default]
    Last,
    /// Every one.
    Every,
    /// None.
    Never,
}

fn default_hard_examples() -> u32 {
    5
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            every_steps: None,
            max_time_fraction: 0.1,
            early_stopping: None,
            hard_examples: default_hard_examples(),
            answer_hard_examples: AnswerHardExamples::default(),
        }
    }
}

impl Evaluation {
    pub(super) fn validate(&self, has_held_out_rows: bool, check: &mut Check<'_>) {
        check.that(self.every_steps != Some(0), "evaluation.every_steps", "must be at least 1");
        check.within(self.max_time_fraction, 0.0..=1.0, "evaluation.max_time_fraction");
        check.within(f64::from(self.hard_examples), 0.0..=50.0, "evaluation.hard_examples");
        let Some(stopping) = self.early_stopping else { return };
        let needs = "watches held-out rows: give data.eval or data.eval_fraction";
        check.that(has_held_out_rows, "evaluation.early_stopping", needs);
        check.within(f64::from(stopping.patience), 1.0..=1000.0, "evaluation.early_stopping.patience");
        check.within(stopping.threshold, 0.0..=1000.0, "evaluation.early_stopping.threshold");
    }
}

/// Ends the run when the held-out rows stop improving, as transformers' EarlyStoppingCallback counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// The held-out figure that decides. Default: the loss.
    pub metric: Metric,
    /// Evaluations in a row that are not better, after which the run ends. 1 to 1000, default 3.
    pub patience: u32,
    /// By how much a figure must be better than the best one. 0 to 1000, default 0.
    pub threshold: f64,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { metric: Metric::Loss, patience: 3, threshold: 0.0 }
    }
}

/// A held-out figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The loss; lower is better. The default.
    #[default]
    Loss,
    /// Share of pairs that the reward tells apart; higher is better.
    Accuracy,
    /// Mean difference of the rewards of a pair; higher is better.
    Margin,
}

impl Metric {
    /// Its word in specs and events.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Loss => "loss",
            Metric::Accuracy => "accuracy",
            Metric::Margin => "margin",
        }
    }

    /// Its name among a checkpoint's metrics.
    pub fn key(self) -> &'static str {
        match self {
            Metric::Loss => "eval_loss",
            Metric::Accuracy => "eval_accuracy",
            Metric::Margin => "eval_margin",
        }
    }

    /// By how much one value is better than another.
    pub fn gain(self, value: f64, than: f64) -> f64 {
        match self {
            Metric::Loss => than - value,
            Metric::Accuracy | Metric::Margin => value - than,
        }
    }
}
