//! What every training task has: rows, what is trained, how, for how long, and what is kept.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Check, Data, Evaluation, Lora, LoraInit, Optimizer, Schedule};

/// The parts shared by every training task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Rows to train and evaluate on.
    pub data: Data,
    /// What is trained.
    pub adapter: Adapter,
    /// What to start from: the URI of a checkpoint, of a PEFT adapter, or, where all weights are trained, of a model's folder.
    /// Default: the base model.
    pub init_from: Option<String>,
    /// How gradients become updates.
    pub optimizer: Optimizer,
    /// How the learning rate moves.
    pub schedule: Schedule,
    /// How many examples make a step, and how they are cut to fit memory.
    pub batch: Batch,
    /// When to stop.
    pub length: Length,
    /// When and how to evaluate.
    pub evaluation: Evaluation,
    /// When to save and what to keep.
    pub checkpoints: Checkpoints,
    /// Number format of base weights and activations.
    pub precision: Precision,
    /// Seed of order, initialisation and dropout. Default 42.
    pub seed: u64,
    /// Order of the rows.
    pub order: Order,
    /// How attention is computed.
    #[serde(default)]
    pub attention: AttentionKernel,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "a job has one")]
pub enum Adapter {
    /// Low-rank adapters on frozen weights (arXiv 2106.09685).
    Lora(Lora),
    /// All weights of the model.
    Full,
}

impl Adapter {
    /// The settings of LoRA, where it is that.
    pub fn lora(&self) -> Option<&Lora> {
        match self {
            Adapter::Lora(lora) => Some(lora),
            Adapter::Full => None,
        }
    }

    /// What the default learning rates, which suit adapters, are multiplied by: trained whole, a model wants a tenth.
    pub fn default_rate_scale(&self) -> f64 {
        match self {
            Adapter::Lora(_) => 1.0,
            Adapter::Full => 0.1,
        }
    }
}

/// How many examples make a step, and how they are cut to fit memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Examples of one optimizer step. Same as per-device batch size times gradient accumulation elsewhere. Default 16.
    pub examples_per_step: u32,
    /// Most tokens that go through the model at once; a longer row goes alone. Does not change the result. Default 2048.
    pub tokens_per_micro_batch: u32,
    /// Whether what happens inside layers is made again in the backward pass rather than kept. Does not change the result.
    #[serde(default)]
    pub activation_checkpointing: ActivationCheckpointing,
}

/// Whether what happens inside layers is made again in the backward pass (arXiv:1604.06174).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationCheckpointing {
    /// For micro-batches whose activations would take more than half of the free memory.
    #[default]
    Auto,
    /// Always: less memory, a third more work.
    On,
    /// Never.
    Off,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            examples_per_step: 16,
            tokens_per_micro_batch: 2048,
            activation_checkpointing: ActivationCheckpointing::Auto,
        }
    }
}

/// When a run stops.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Passes over the training rows; may be a fraction. Default 1.
    Epochs(f64),
    /// Optimizer steps.
    MaxSteps(u64),
}

impl Length {
    /// Optimizer steps of a run over `num_examples`, the last group of an epoch possibly short.
    pub fn total_steps(self, num_examples: u64, examples_per_step: u32) -> u64 {
        match self {
            Length::MaxSteps(steps) => steps,
            Length::Epochs(epochs) => {
                let steps_per_epoch = num_examples.div_ceil(u64::from(examples_per_step));
                ((steps_per_epoch as f64 * epochs).ceil() as u64).max(1)
            }
        }
    }
}

/// When to save and what to keep. The end of a run is always saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Steps between checkpoints; 0 means by time only. Default 0.
    pub every_steps: u64,
    /// Minutes between checkpoints; 0 means by steps only. Default 10.
    pub every_minutes: f64,
    /// Checkpoints to keep beside the best one, newest first; 0 keeps all. Default 0.
    pub keep_last: u32,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every_steps: 0, every_minutes: 10.0, keep_last: 0 }
    }
}

/// Number format of weights and activations. What is trained is always kept in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bfloat16 on a GPU, float32 on a CPU. The default.
    #[default]
    Auto,
    /// IEEE single precision.
    Float32,
    /// Brain floating point.
    Bfloat16,
}

/// How attention is computed. What comes out differs by rounding alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKernel {
    /// Flash attention where the device has it, else what LibTorch chooses. The default.
    #[default]
    Auto,
    /// Flash attention: scores are never held whole (arXiv 2205.14135).
    Flash,
    /// Memory-efficient attention (arXiv 2112.05682): a GPU in any precision.
    Efficient,
    /// The plain formula: scores of a whole document are held in memory.
    Math,
}

/// Order of the training rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A new permutation each epoch, from the seed and the epoch. The default.
    #[default]
    Shuffled,
    /// As in the files.
    Sequential,
}

impl Training {
    /// Tokens that a micro-batch may hold.
    pub const MICRO_BATCHES: RangeInclusive<u32> = 16..=1_048_576;

    /// Settings for training on `train` with every default.
    pub fn on(train: Vec<String>) -> Self {
        Self {
            data: Data::of(train),
            adapter: Adapter::Lora(Lora::default()),
            init_from: None,
            optimizer: Optimizer::default(),
            schedule: Schedule::default(),
            batch: Batch::default(),
            length: Length::Epochs(1.0),
            evaluation: Evaluation::default(),
            checkpoints: Checkpoints::default(),
            precision: Precision::default(),
            seed: 42,
            order: Order::default(),
            attention: AttentionKernel::default(),
        }
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        self.data.validate(check);
        match &self.adapter {
            Adapter::Lora(lora) => {
                lora.validate(check);
                let fresh = self.init_from.is_none() || lora.init == LoraInit::Default;
                check.that(fresh, "adapter.lora.init", "is for a fresh adapter: leave it out where init_from is given");
            }
            Adapter::Full => {
                let is_one = self.optimizer.lora_plus_ratio == 1.0;
                check.that(is_one, "optimizer.lora_plus_ratio", "is for lora: with full there are no A and B matrices");
            }
        }
        self.optimizer.validate(check);
        let has_held_out_rows = !self.data.eval.is_empty() || self.data.eval_fraction > 0.0;
        self.schedule.validate(has_held_out_rows, check);
        check.within(f64::from(self.batch.examples_per_step), 1.0..=65536.0, "batch.examples_per_step");
        let (least, most) = Self::MICRO_BATCHES.into_inner();
        let tokens = f64::from(self.batch.tokens_per_micro_batch);
        check.within(tokens, f64::from(least)..=f64::from(most), "batch.tokens_per_micro_batch");
        match self.length {
            Length::Epochs(epochs) => {
                check.that(
                    epochs > 0.0 && epochs <= 1000.0,
                    "epochs",
                    format!("is {epochs}; must be above 0, at most 1000"),
                );
            }
            Length::MaxSteps(steps) => check.that((1..=1 << 40).contains(&steps), "max_steps", "must be at least 1"),
        }
        self.evaluation.validate(has_held_out_rows, check);
        check.within(self.checkpoints.every_minutes, 0.0..=1e6, "checkpoints.every_minutes");
    }
}
