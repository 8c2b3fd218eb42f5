//! How far a run is: all that exact resume needs beside weights and moments, kept as `trainer_state.json`.
//!
//! Nothing random needs a state of its own: the order of rows and every dropout mask follow from the seed and from the
//! place in the run, see [`mask_seed`].

use hone_data::order::Cursor;
use hone_job::event::PreferenceMetrics;
use hone_job::spec::LoraInit;
use serde::{Deserialize, Serialize};

use super::early_stopping::EarlyStopping;
use crate::mix::mix;
use crate::optim::Plateau;

/// Name of the file in a checkpoint.
pub const TRAINER_STATE: &str = "trainer_state.json";
/// Layout version that this code writes and reads.
pub const VERSION: u32 = 1;

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Layout version, [`VERSION`].
    pub version: u32,
    /// Optimizer steps taken, skipped ones included.
    pub step: u64,
    /// Updates that the optimizer made.
    pub num_updates: u64,
    /// What kind of state the optimizer's file holds: [`crate::optim::Optimizer::kind`].
    #[serde(default = "first_kind")]
    pub optimizer: String,
    /// Where the next step's rows begin.
    pub cursor: Cursor,
    /// Training examples of the run: a resumed run must see as many.
    pub num_examples: u64,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    /// Tokens trained on.
    pub trained_tokens: u64,
    /// Updates skipped since loss or gradient was not finite.
    pub skipped_steps: u64,
    /// The newest of them without a sound one after.
    pub skipped_in_a_row: u64,
    /// Wall time of all training steps, in seconds.
    pub train_seconds: f64,
    /// Wall time of all evaluations, in seconds.
    pub eval_seconds: f64,
    /// The part of it spent between the first step and the last, which has a budget.
    pub eval_seconds_between: f64,
    /// Held-out loss before the first step.
    pub first_evaluation: Option<Measured>,
    /// The newest held-out loss.
    pub last_evaluation: Option<Measured>,
    /// The lowest held-out loss.
    pub best_evaluation: Option<Measured>,
    /// An evaluation is due and was put off.
    pub evaluation_put_off: bool,
    /// Most tokens of a micro-batch, where memory ran out under those of the spec. The cut moves sums by a rounding, so that a
    /// resumed run must have the same.
    #[serde(default)]
    pub tokens_per_micro_batch: Option<u32>,
    /// How the adapter was initialised, where its start is taken off the base: the checkpoint holds it converted then.
    #[serde(default)]
    pub converted_from: Option<LoraInit>,
    /// What a plateau schedule has seen; untouched under any other.
    #[serde(default)]
    pub plateau: Plateau,
    /// What early stopping has seen; untouched where it is off.
    #[serde(default)]
    pub(super) early_stopping: EarlyStopping,
}

impl Progress {
    /// Passes over the training rows so far, of which one takes `epoch_len` examples.
    pub fn epoch(&self, epoch_len: usize) -> f64 {
        self.cursor.epoch as f64 + self.cursor.position as f64 / epoch_len as f64
    }
}

/// The only kind there was when checkpoints did not say it yet.
fn first_kind() -> String {
    "adamw with float32 moments".into()
}

/// A held-out loss and when it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Steps taken before.
    pub step: u64,
    /// Mean negative log-likelihood, in nats.
    pub loss: f64,
    /// Wall time of the evaluation, in seconds.
    pub seconds: f64,
    /// How pairs were told apart; in dpo only.
    #[serde(default)]
    pub preference: Option<PreferenceMetrics>,
}

/// Decides the dropout masks of one micro-batch of one step.
pub fn mask_seed(seed: u64, step: u64, micro_batch: usize) -> u64 {
    mix(mix(seed, step), micro_batch as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers whose decimal text a hasty parser gets wrong in the last bit.
    #[test]
    fn every_number_survives_its_text_to_the_bit() {
        for word in 0..20_000 {
            let number = |salt| (mix(salt, word) >> 11) as f64 / 2f64.powi(53) * 7.0;
            let progress = Progress {
                train_seconds: number(1),
                best_evaluation: Some(Measured { step: word, loss: number(2), seconds: number(3), preference: None }),
                ..Progress::default()
            };
            let text = serde_json::to_vec_pretty(&progress).unwrap();
            assert_eq!(serde_json::from_slice::<Progress>(&text).unwrap(), progress);
        }
    }

    #[test]
    fn every_micro_batch_has_masks_of_its_own() {
        let mut seeds: Vec<u64> = (0..3)
            .flat_map(|seed| (0..50).flat_map(move |step| (0..4).map(move |i| mask_seed(seed, step, i))))
            .collect();
        assert_eq!(mask_seed(1, 2, 3), mask_seed(1, 2, 3));
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 600);
    }
}
