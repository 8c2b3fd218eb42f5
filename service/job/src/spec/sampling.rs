//! How a text goes on: which of the likely tokens is taken, and where it ends.

use serde::{Deserialize, Serialize};

use super::{Check, Violation};

/// How a text goes on. Names and meanings are those of transformers' `GenerationConfig`, in the order in which it applies
/// them: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Most tokens that are written. 1 to [`Sampling::MAX_NEW_TOKENS`], default 256.
    pub max_new_tokens: u32,
    /// Logits are divided by it; 0 takes the likeliest token each time. 0 to 100, default 0.
    pub temperature: f64,
    /// Only so many of the likeliest tokens; 0 is all. Default 0.
    pub top_k: u32,
    /// Only the fewest of the likeliest tokens whose probabilities reach this sum. Above 0, at most 1, default 1.
    pub top_p: f64,
    /// Only tokens at least this share as likely as the likeliest. 0 to 1, default 0.
    pub min_p: f64,
    /// Logits of tokens that stand in the prompt or the text are divided by it where positive and multiplied where negative
    /// (Keskar et al. 2019, arXiv:1909.05858). Above 0, at most 100, default 1, which changes nothing.
    pub repetition_penalty: f64,
    /// What chance draws from. The same seed gives the same text, as far as the model's own rounding allows. Default 42.
    pub seed: u64,
    /// Texts that end what is written, which does not hold them. At most [`Sampling::MAX_STOPS`] of
    /// [`Sampling::MAX_STOP_BYTES`] bytes.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 42,
            stop: Vec::new(),
        }
    }
}

impl Sampling {
    /// Longest text that may be asked for, in tokens.
    pub const MAX_NEW_TOKENS: u32 = 1 << 20;
    /// Most texts that end what is written.
    pub const MAX_STOPS: usize = 16;
    /// Longest of them.
    pub const MAX_STOP_BYTES: usize = 256;

    /// The likeliest token each time, for at most so many.
    pub fn greedy(max_new_tokens: u32) -> Self {
        Self { max_new_tokens, ..Self::default() }
    }

    /// What is wrong with it, by fields of `sampling`.
    pub fn violations(&self) -> Vec<Violation> {
        let mut check = Check { path: "", found: Vec::new() };
        self.validate(&mut check);
        check.found
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.within(self.max_new_tokens.into(), 1.0..=Self::MAX_NEW_TOKENS.into(), "sampling.max_new_tokens");
        check.within(self.temperature, 0.0..=100.0, "sampling.temperature");
        check.that(self.top_p > 0.0 && self.top_p <= 1.0, "sampling.top_p", "must be above 0 and at most 1");
        check.within(self.min_p, 0.0..=1.0, "sampling.min_p");
        let penalty = self.repetition_penalty;
        let is_usable = penalty > 0.0 && penalty <= 100.0;
        check.that(is_usable, "sampling.repetition_penalty", "must be above 0 and at most 100");
        let most = Self::MAX_STOPS;
        let count = self.stop.len();
        check.that(count <= most, "sampling.stop", format!("has {count} texts; at most {most}"));
        let is_sized = self.stop.iter().all(|stop| (1..=Self::MAX_STOP_BYTES).contains(&stop.len()));
        check.that(is_sized, "sampling.stop", "has a text that is empty or longer than 256 bytes");
    }
}
