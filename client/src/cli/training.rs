//! The flags that `train sft` and `train dpo` share, and the parts of a spec they make. A flag left out leaves its field absent,
//! so that the server's documented default holds in one place.

use std::path::PathBuf;

use clap::Args;
use hone_client::v1;
use hone_spec::{Length, TrainingParts};

use crate::choice::{
    activation_checkpointing, answer_hard_examples, attention, early_stopping_metric, mix_until, order, over_length,
    precision,
};
use crate::failure::Failure;
use crate::locate;
use crate::lora::LoraArgs;
use crate::optim::{OptimizerArgs, ScheduleArgs};
use crate::train::Submission;

/// Settings of training.
#[derive(Debug, Args)]
pub(crate) struct TrainingArgs {
    /// File with a spec (YAML, TOML or JSON; hone init writes one); what other flags say goes before it.
    #[arg(long, value_name = "FILE", help_heading = "Model and rows")]
    pub(crate) spec: Option<PathBuf>,
    /// The base model: an id (model-…), a file:// or s3:// URI, or a local path, which is uploaded first.
    #[arg(long, required_unless_present = "spec", help_heading = "Model and rows")]
    pub(crate) model: Option<String>,
    /// Training rows: an id (ds-…), a URI, or a local file, which is uploaded first. May be repeated.
    #[arg(long, required_unless_present = "spec", value_name = "ROWS", help_heading = "Model and rows")]
    pub(crate) train: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
    /// Start from what a job has trained: URI of a checkpoint or PEFT folder, or JOB/CHECKPOINT, or JOB for its last checkpoint.
    /// Default: the base model with a fresh adapter.
    #[arg(long, value_name = "CHECKPOINT", help_heading = "Model and rows")]
    init_from: Option<String>,

    /// Passes over the training rows; may be a fraction. Default 1.
    #[arg(long, value_name = "N", conflicts_with = "max_steps", help_heading = "Training")]
    epochs: Option<f64>,
    /// Optimizer steps, instead of epochs.
    #[arg(long, value_name = "N", help_heading = "Training")]
    max_steps: Option<u64>,
    #[command(flatten)]
    optimizer: OptimizerArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Examples of one optimizer step (elsewhere: per-device batch size x gradient accumulation). Default 16.
    #[arg(long, value_name = "N", help_heading = "Training")]
    examples_per_step: Option<u32>,
    /// Most tokens that go through the model at once; lowers memory, never changes the result. Default 2048.
    #[arg(long, value_name = "TOKENS", help_heading = "Training")]
    tokens_per_micro_batch: Option<u32>,
    /// Whether activations are made again in the backward pass rather than kept (elsewhere: gradient checkpointing); lowers
    /// memory, costs time, never changes the result. Default auto.
    #[arg(long, value_name = "WHEN", value_parser = activation_checkpointing(), help_heading = "Training")]
    activation_checkpointing: Option<v1::ActivationCheckpointing>,
    /// Number format of weights and activations. Default: bfloat16 on a GPU, float32 on a CPU.
    #[arg(long, value_name = "FORMAT", value_parser = precision(), help_heading = "Training")]
    precision: Option<v1::Precision>,
    /// How attention is computed. Default: the fastest kernel of the device.
    #[arg(long, value_name = "KERNEL", value_parser = attention(), help_heading = "Training")]
    attention: Option<v1::AttentionKernel>,
    /// Order of the training rows. Default shuffled.
    #[arg(long, value_parser = order(), help_heading = "Training")]
    order: Option<v1::Order>,
    /// Seed of order, initialisation and dropout. Default 42.
    #[arg(long, help_heading = "Training")]
    seed: Option<u64>,

    /// Train all weights of the model in place of an adapter; checkpoints are Hugging Face folders.
    #[arg(long, conflicts_with = "LoraArgs", help_heading = "Training")]
    full: bool,
    #[command(flatten)]
    lora: LoraArgs,

    /// Steps between evaluations of the held-out rows. Default: about ten in the run.
    #[arg(long, value_name = "STEPS", help_heading = "Evaluation and checkpoints")]
    eval_every: Option<u64>,
    /// End the run after so many evaluations in a row that are no better than the best one; that one is saved. Default: off.
    #[arg(long, value_name = "EVALUATIONS", help_heading = "Evaluation and checkpoints")]
    early_stopping: Option<u32>,
    /// By how much an evaluation must be better to count. Default 0.
    #[arg(long, value_name = "X", requires = "early_stopping", help_heading = "Evaluation and checkpoints")]
    early_stopping_threshold: Option<f64>,
    /// The held-out figure that decides. Default loss.
    #[arg(long, value_name = "FIGURE", value_parser = early_stopping_metric(), requires = "early_stopping", help_heading = "Evaluation and checkpoints")]
    early_stopping_metric: Option<v1::EarlyStoppingMetric>,
    /// Held-out rows that each evaluation shows, the hardest; 0 shows none. Default 5.
    #[arg(long, value_name = "N", help_heading = "Evaluation and checkpoints")]
    hard_examples: Option<u32>,
    /// Which evaluations show what the model itself writes to those rows. Default last.
    #[arg(long, value_name = "WHEN", value_parser = answer_hard_examples(), help_heading = "Evaluation and checkpoints")]
    answer_hard_examples: Option<v1::AnswerHardExamples>,
    /// Steps between checkpoints; 0 saves by time only (every 10 minutes) and at the end. Default 0.
    #[arg(long, value_name = "STEPS", help_heading = "Evaluation and checkpoints")]
    save_every: Option<u64>,
    /// Checkpoints to keep beside the best one; 0 keeps all. Default 0.
    #[arg(long, value_name = "N", help_heading = "Evaluation and checkpoints")]
    keep_last: Option<u32>,

    #[command(flatten)]
    pub(crate) submission: Submission,
}

/// Which rows take part, and which of their tokens.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Held-out rows for evaluation, named as the training rows are. May be repeated.
    #[arg(long, value_name = "ROWS", conflicts_with = "eval_fraction", help_heading = "Model and rows")]
    pub(crate) eval: Vec<String>,
    /// Share of the training rows to hold out for evaluation, 0 to below 1. Default 0.
    #[arg(long, value_name = "SHARE", help_heading = "Model and rows")]
    eval_fraction: Option<f64>,
    /// Longest training row, in tokens. Default 1024, or the model's own limit when that is shorter.
    #[arg(long, value_name = "TOKENS", help_heading = "Model and rows")]
    max_length: Option<u32>,
    /// What happens to longer training rows. Default drop: left out, counted, listed by number.
    #[arg(long, value_name = "POLICY", value_parser = over_length(), help_heading = "Model and rows")]
    over_length: Option<v1::OverLength>,
    /// File with a chat template (Jinja) to use instead of the tokenizer's own.
    #[arg(long, value_name = "FILE", help_heading = "Model and rows")]
    chat_template: Option<PathBuf>,
    /// At most this many training rows, a uniform sample. Default: all.
    #[arg(long, value_name = "N", help_heading = "Model and rows")]
    max_train_examples: Option<u64>,
    /// At most this many held-out rows, a uniform sample. Default: all.
    #[arg(long, value_name = "N", help_heading = "Model and rows")]
    max_eval_examples: Option<u64>,
    /// Mix the training sources by these weights, one for each --train, such as 3,1. Default: every row once an epoch.
    #[arg(long, value_name = "WEIGHTS", value_delimiter = ',', help_heading = "Model and rows")]
    mix: Vec<f64>,
    /// When an epoch over mixed sources ends. Default first_exhausted.
    #[arg(long, value_name = "WHEN", value_parser = mix_until(), requires = "mix", help_heading = "Model and rows")]
    mix_until: Option<v1::MixUntil>,
    /// Leave out training rows that say the same as an earlier one. Default: they are counted and take part.
    #[arg(long, help_heading = "Model and rows")]
    drop_duplicates: bool,
    /// Tell of held-out rows that share this much with a training row, 0 to 1; 0 looks for none. Default 0.8.
    #[arg(long, value_name = "SHARE", help_heading = "Model and rows")]
    leakage_similarity: Option<f64>,
}

impl TrainingArgs {
    /// The job of such a task.
    pub(crate) fn job(&self, task: v1::job_spec::Task) -> v1::JobSpec {
        self.submission.job(self.model.clone().unwrap_or_default(), task)
    }

    fn adapter(&self) -> Option<v1::AdapterSpec> {
        let kind = match self.full {
            true => Some(v1::adapter_spec::Kind::Full(v1::FullSpec {})),
            false => given(self.lora.spec()).map(v1::adapter_spec::Kind::Lora),
        };
        kind.map(|kind| v1::AdapterSpec { kind: Some(kind) })
    }

    /// The parts that these flags ask for, with models, rows and checkpoints named as the user named them.
    pub(crate) fn parts(&self) -> Result<TrainingParts, Failure> {
        let batch = v1::BatchSpec {
            examples_per_step: self.examples_per_step,
            tokens_per_micro_batch: self.tokens_per_micro_batch,
            activation_checkpointing: self.activation_checkpointing.unwrap_or_default().into(),
        };
        let early_stopping = self.early_stopping.map(|patience| v1::EarlyStoppingSpec {
            metric: self.early_stopping_metric.unwrap_or_default().into(),
            patience: Some(patience),
            threshold: self.early_stopping_threshold,
        });
        let evaluation = v1::EvaluationSpec {
            every_steps: self.eval_every,
            max_time_fraction: None,
            early_stopping,
            hard_examples: self.hard_examples,
            answer_hard_examples: self.answer_hard_examples.unwrap_or_default().into(),
        };
        let checkpoints =
            v1::CheckpointSpec { every_steps: self.save_every, every_minutes: None, keep_last: self.keep_last };
        Ok(TrainingParts {
            data: Some(self.data.spec(self.train.clone(), self.data.eval.clone())?),
            adapter: self.adapter(),
            init_from: self.init_from.clone(),
            optimizer: given(self.optimizer.spec()),
            schedule: given(self.schedule.spec()),
            batch: given(batch),
            length: self.epochs.map(Length::Epochs).or(self.max_steps.map(Length::MaxSteps)),
            evaluation: given(evaluation),
            checkpoints: given(checkpoints),
            precision: self.precision.unwrap_or_default().into(),
            seed: self.seed,
            order: self.order.unwrap_or_default().into(),
            attention: self.attention.unwrap_or_default().into(),
        })
    }
}

impl DataArgs {
    /// The rows that these flags ask for. Reads the chat template's file.
    pub(crate) fn spec(&self, train: Vec<String>, eval: Vec<String>) -> Result<v1::DataSpec, Failure> {
        Ok(v1::DataSpec {
            train,
            eval,
            eval_fraction: self.eval_fraction,
            max_length: self.max_length,
            over_length: self.over_length.unwrap_or_default().into(),
            chat_template: self.chat_template.as_deref().map(locate::text).transpose()?,
            max_train_examples: self.max_train_examples,
            max_eval_examples: self.max_eval_examples,
            mix: given(v1::MixSpec { weights: self.mix.clone(), until: self.mix_until.unwrap_or_default().into() }),
            drop_duplicates: self.drop_duplicates,
            leakage_similarity: self.leakage_similarity,
        })
    }
}

/// A group of settings, absent when none of them was given.
fn given<T: Default + PartialEq>(settings: T) -> Option<T> {
    (settings != T::default()).then_some(settings)
}

#[cfg(test)]
#[path = "training_tests.rs"]
mod tests;
