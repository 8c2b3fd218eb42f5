//! What a model wrote to prompts.

use serde::{Deserialize, Serialize};

/// What a model wrote.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerReport {
    /// Answers that were written.
    pub answers: u64,
    /// Rows that could not be answered.
    pub failed_rows: u64,
    /// Answers that are as long as they may be.
    pub reached_length: u64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub answer_tokens: u64,
    /// How long it took.
    pub seconds: f64,
    /// The first answers.
    pub shown: Vec<ShownAnswer>,
}

/// An answer with what was asked. Texts are cut at 2000 characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownAnswer {
    /// Object the row is in.
    pub object: String,
    /// Number of the row in it, from 1.
    pub row: u64,
    /// What was asked.
    pub prompt: String,
    /// What the row expects; empty where it does not say.
    pub expected: String,
    /// What the model wrote.
    pub answer: String,
}
