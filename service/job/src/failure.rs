//! Why a job failed: data, not an error of the call that reads it.

use serde::{Deserialize, Serialize};

/// The class of a failure; programs branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// A row, or the dataset as a whole, cannot be trained on.
    InvalidData,
    /// The model's architecture, files or tokenizer cannot be used.
    ModelUnsupported,
    /// Host or device memory ran out.
    OutOfMemory,
    /// Losses or gradients stayed NaN or infinite past the budget.
    NonFinite,
    /// Object storage refused, failed or could not be reached.
    Storage,
    /// The trainer died: a signal, a panic, an unexpected exit.
    TrainerCrashed,
    /// The trainer made no progress for too long.
    TrainerStalled,
    /// The machine was taken away.
    Preempted,
    /// A fault of hone itself.
    Internal,
}

impl Reason {
    /// Whether another attempt from the last checkpoint may succeed with nothing changed.
    pub fn retryable(self) -> bool {
        matches!(self, Reason::TrainerCrashed | Reason::TrainerStalled | Reason::Preempted | Reason::Storage)
    }
}

/// A failure, written for the person who gets it at night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The class.
    pub reason: Reason,
    /// What failed, with its causes.
    pub message: String,
    /// Where: a row (`object:row`), object URI, tensor name or step. Empty when it has no place.
    pub location: String,
    /// What to try.
    pub remedy: String,
    /// Whether another attempt may succeed with nothing changed.
    pub retryable: bool,
}

impl Failure {
    /// A failure of class `reason`, retryable as the class is.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            location: String::new(),
            remedy: String::new(),
            retryable: reason.retryable(),
        }
    }

    /// Says where it happened.
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.location = location.into();
        self
    }

    /// Says what to try.
    pub fn try_this(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.location.is_empty() {
            write!(f, " (at {})", self.location)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; try: {}", self.remedy)?;
        }
        Ok(())
    }
}
