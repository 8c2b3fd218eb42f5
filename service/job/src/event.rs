//! What happened to a job, as typed records with units in their names.
//!
//! These are the records that the job store keeps, and that trainer and server exchange, as JSON; the public shape is
//! `hone.v1.JobEvent`. A number that was not finite is absent, since JSON has no word for it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::answer::AnswerReport;
use crate::benchmark::BenchmarkReport;
use crate::failure::Failure;
use crate::insight::{GradientGroup, GradientNoise, HardExamples, Leakage, Overfitting};
use crate::machine::{ResourceUsage, StepTime};
use crate::score::{AnswerMetrics, ScoreReport};
use crate::spec::JobSpec;
use crate::state::State;

/// One event of a job, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// Number of the event within its job, from 1, without gaps.
    pub sequence: u64,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// Attempt it belongs to; 0 before the first.
    pub attempt: u32,
    /// Trace that it belongs to, 32 hexadecimal digits; empty for none.
    #[serde(default)]
    pub trace_id: String,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The job moved to another state.
    StateChanged(StateChanged),
    /// The trainer entered a phase.
    Phase(Phase),
    /// What became of the rows.
    DatasetReport(DatasetReport),
    /// The spec with every default filled in.
    EffectiveSpec(Box<JobSpec>),
    /// What the run will do, known once model and data are.
    Plan(Plan),
    /// One optimizer step was taken.
    TrainStep(TrainStep),
    /// Held-out rows were evaluated.
    Evaluation(Evaluation),
    /// A checkpoint is durable and verified.
    CheckpointSaved(CheckpointSaved),
    /// Use of the machine.
    ResourceUsage(ResourceUsage),
    /// Something a person should know, which did not stop the job.
    Warning(Warning),
    /// What an export came to.
    ExportReport(ExportReport),
    /// The attempt goes on from a checkpoint.
    Resumed(Resumed),
    /// The run ends early, since the held-out rows stopped improving.
    EarlyStopped(EarlyStopped),
    /// The held-out rows that the model finds hardest.
    HardExamples(HardExamples),
    /// What models make of rows.
    Scores(ScoreReport),
    /// What a model wrote.
    Answers(AnswerReport),
    /// How much of a step's gradient is chance.
    GradientNoise(GradientNoise),
    /// The held-out rows got worse while the training rows got better.
    Overfitting(Overfitting),
    /// How fast training is with several settings.
    Benchmark(BenchmarkReport),
    /// Held-out rows that say nearly the same as training rows.
    Leakage(Leakage),
    /// The attempt failed.
    Failure(Failure),
    /// The job's outcome.
    Result(Outcome),
}

/// The job moved to another state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChanged {
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Why.
    pub detail: String,
}

/// The trainer entered a phase, such as `loading_model`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Name: `loading_model`, `reading_data`, `scoring_reference`, `initialising`, `training`, `evaluating`, `scoring`,
    /// `answering`, `measuring`, `merging`, `saving`.
    pub name: String,
    /// What exactly, for people: bytes read, rows read.
    pub detail: String,
}

/// What became of the rows of one split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DatasetReport {
    /// `train` or `eval`.
    pub split: String,
    /// Rows read.
    pub rows_read: u64,
    /// Examples that take part; more than rows when rows were split.
    pub examples: u64,
    /// Tokens of these examples.
    pub tokens: u64,
    /// Tokens trained on.
    pub trained_tokens: u64,
    /// Rows left out, changed or worth a look, by reason.
    pub reasons: Vec<ReasonCount>,
    /// Rows per length.
    pub length_histogram: Vec<LengthBucket>,
    /// Longest example, in tokens.
    pub longest_tokens: u64,
    /// The training sources and what an epoch takes of each; empty unless they are mixed by weight.
    #[serde(default)]
    pub sources: Vec<SourceShare>,
}

/// A source of training rows that is mixed with others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceShare {
    /// Where its rows are.
    pub uri: String,
    /// Its weight.
    pub weight: f64,
    /// Examples it has.
    pub examples: u64,
    /// Examples that an epoch takes of it; more than it has when it starts over.
    pub examples_per_epoch: u64,
}

/// How many rows met one fate, and which were the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The fate: `over_length_dropped`, `no_trainable_token`, `malformed`, …
    pub reason: String,
    /// Rows.
    pub count: u64,
    /// The first rows of this fate, at most 20.
    pub rows: Vec<RowNote>,
}

/// A row and what is to be said of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowNote {
    /// Object the row is in.
    pub object: String,
    /// Number of the row in it, from 1; for JSONL the line number.
    pub row: u64,
    /// What was found and what was expected.
    pub note: String,
}

/// Rows whose length lies in a range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthBucket {
    /// Longest length of the bucket, in tokens, inclusive.
    pub up_to_tokens: u64,
    /// Rows in it.
    pub rows: u64,
}

/// What the run will do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Optimizer steps in all.
    pub total_steps: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps of warmup.
    pub warmup_steps: u64,
    /// Steps between evaluations; 0 when only at start and end.
    pub eval_every_steps: u64,
    /// Parameters trained.
    pub trainable_parameters: u64,
    /// Parameters of the base model.
    pub base_parameters: u64,
    /// Device, such as `cpu` or `cuda:0`.
    pub device: String,
    /// Number format of weights and activations in force: `float32` or `bfloat16`.
    pub precision: String,
    /// Attention kernel in force.
    pub attention: String,
}

/// How a policy tells the better answer of a pair from the other, averaged over pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// Pairs.
    pub pairs: u64,
    /// Share of pairs whose chosen answer has the higher reward; a tie is no success.
    pub accuracy: f64,
    /// Share of pairs whose rewards are equal.
    pub ties: f64,
    /// Reward of the chosen answer less that of the rejected one.
    pub margin: f64,
    /// Reward of the chosen answer.
    pub reward_chosen: f64,
    /// Reward of the rejected answer.
    pub reward_rejected: f64,
    /// Log-probability of the chosen answer under the policy, in nats.
    pub logps_chosen: f64,
    /// Log-probability of the rejected answer under the policy, in nats.
    pub logps_rejected: f64,
    /// Standard error of the accuracy over pairs; 0 where it is not measured.
    pub accuracy_standard_error: f64,
    /// Standard error of the margin over pairs; 0 where it is not measured.
    pub margin_standard_error: f64,
    /// Share of rows whose right answer is the likeliest per token; of choices only.
    #[serde(default)]
    pub accuracy_per_token: Option<f64>,
}

/// One optimizer step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainStep {
    /// Steps taken, this one included; from 1.
    pub step: u64,
    /// Epochs done, with fraction.
    pub epoch: f64,
    /// Mean negative log-likelihood over the step's trained tokens, in nats; in dpo the mean loss over its pairs. Absent
    /// when not finite.
    pub loss: Option<f64>,
    /// Global L2 norm of the gradient before clipping. Absent when not finite.
    pub grad_norm: Option<f64>,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Examples of this step.
    pub examples: u64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Tokens trained on.
    pub trained_tokens: u64,
    /// Micro-batches the step was cut into.
    pub micro_batches: u32,
    /// Share of trained tokens that the model ranks first; in dpo of the chosen answers' tokens.
    pub token_accuracy: f64,
    /// Wall time of the step, in seconds.
    pub step_seconds: f64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Whether the update was skipped since loss or gradient was not finite.
    pub skipped: bool,
    /// Seconds until the run ends, estimated.
    pub remaining_seconds: f64,
    /// Peak memory of the process so far, in bytes.
    pub peak_memory_bytes: u64,
    /// How pairs were told apart; in dpo only.
    pub preference: Option<PreferenceMetrics>,
    /// What the time of the step went to, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<StepTime>,
    /// The gradient's norm by layer, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gradient_groups: Vec<GradientGroup>,
}

/// An evaluation of held-out rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps taken before it.
    pub step: u64,
    /// Mean negative log-likelihood over tokens, in nats; in dpo the mean loss over pairs. Absent when not finite.
    pub loss: Option<f64>,
    /// Standard error of the loss over rows.
    pub loss_standard_error: f64,
    /// exp(loss); absent in dpo.
    pub perplexity: Option<f64>,
    /// Share of tokens that the model ranks first; in dpo of the chosen answers' tokens.
    pub token_accuracy: f64,
    /// Examples evaluated.
    pub examples: u64,
    /// Tokens scored.
    pub tokens: u64,
    /// Loss per length bucket.
    pub buckets: Vec<BucketLoss>,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// Whether it is the best so far.
    pub best: bool,
    /// How pairs were told apart; in dpo only.
    pub preference: Option<PreferenceMetrics>,
    /// How good answers are that the model wrote; of questions only.
    #[serde(default)]
    pub answers: Option<AnswerMetrics>,
}

/// Loss of the rows in one length bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BucketLoss {
    /// Longest length of the bucket, in tokens, inclusive.
    pub up_to_tokens: u64,
    /// Mean negative log-likelihood over its tokens, in nats; in dpo the mean loss over its pairs.
    pub loss: f64,
    /// Tokens scored in it.
    pub tokens: u64,
    /// Examples in it.
    pub examples: u64,
    /// How pairs were told apart; in dpo only.
    pub preference: Option<PreferenceMetrics>,
}

/// A checkpoint is durable and verified.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointSaved {
    /// Id within the job, such as `step-000200`.
    pub checkpoint_id: String,
    /// Steps taken before it.
    pub step: u64,
    /// Where it lies.
    pub uri: String,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Held-out loss at the time, if it was measured.
    pub eval_loss: Option<f64>,
    /// Wall time from snapshot to verified, in seconds.
    pub seconds: f64,
}

/// Something a person should know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable name for programs, such as `end_token_not_trained`.
    pub code: String,
    /// What was found and what to do.
    pub message: String,
}

impl Warning {
    /// Code of the warning that somebody else than the server told the trainer to leave.
    pub const TOLD_TO_LEAVE: &str = "told_to_leave";

    /// Code of the warning that a checkpoint on the way could not be written.
    pub const CHECKPOINT_NOT_SAVED: &str = "checkpoint_not_saved";

    /// A warning that vLLM does not serve an adapter with these settings (its rules, not ours: it refuses `use_dora` and
    /// `modules_to_save`, and reads one rank and alpha for all modules).
    pub fn not_for_vllm(settings: &[&str]) -> Warning {
        let message = format!(
            "vLLM does not serve the adapter of this job as it is meant, because of {}; export the merged model to serve it \
             there",
            settings.join(", ")
        );
        Warning { code: "adapter_not_for_vllm".into(), message }
    }
}

/// The run ends early, since the held-out rows stopped improving.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopped {
    /// Optimizer steps taken.
    pub step: u64,
    /// The held-out figure that decided: `loss`, `accuracy`, `margin`.
    pub metric: String,
    /// Its best value.
    pub best: Option<f64>,
    /// The step at which that was measured.
    pub best_step: u64,
    /// Evaluations since that were not better.
    pub evaluations: u32,
}

/// An attempt goes on from a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    /// Id of the checkpoint within the job.
    pub checkpoint_id: String,
    /// Where it lies.
    pub uri: String,
    /// Optimizer steps that it holds.
    pub step: u64,
    /// Passes over the training rows so far.
    pub epoch: f64,
    /// The optimizer whose moments were restored.
    pub optimizer: String,
}

/// What an export came to.
///
/// An update is what training added to a weight. It is lost as far as the rounding to the exported number format moves the
/// sum of weight and update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportReport {
    /// Layout of the files: `hugging_face`, `gguf`.
    pub format: String,
    /// Number format of the weights: `float32`, `bfloat16`, `float16`.
    pub weight_type: String,
    /// Weights, tied ones once.
    pub parameters: u64,
    /// Tensors that training changed.
    pub merged_tensors: u64,
    /// What rounding moved all changed weights by, as a share of their update, both as L2 norms; none when nothing changed.
    pub update_lost: Option<f64>,
    /// Share of the changed tensors' weights that came out as the base model's, rounded to the same format.
    pub unchanged_fraction: Option<f64>,
    /// The tensor that loses the largest share of its update.
    pub worst_tensor: String,
    /// That share.
    pub worst_update_lost: Option<f64>,
    /// Whether embedding and head, which the base model ties, became two.
    pub untied: bool,
}

/// The job's outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Steps taken.
    pub steps: u64,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    /// Tokens trained on.
    pub trained_tokens: u64,
    /// Held-out loss before the first step.
    pub eval_loss_before: Option<f64>,
    /// Held-out loss after the last step.
    pub eval_loss_after: Option<f64>,
    /// The last checkpoint.
    pub final_checkpoint_id: String,
    /// Where it lies.
    pub final_checkpoint_uri: String,
    /// The checkpoint with the lowest held-out loss.
    pub best_checkpoint_id: String,
    /// Wall time of all training steps, in seconds.
    pub train_seconds: f64,
    /// Wall time of all evaluations, in seconds.
    pub eval_seconds: f64,
    /// Updates skipped since loss or gradient was not finite.
    pub skipped_steps: u64,
    /// How held-out pairs were told apart before the first step; in dpo only.
    pub preference_before: Option<PreferenceMetrics>,
    /// How held-out pairs were told apart after the last step; in dpo only.
    pub preference_after: Option<PreferenceMetrics>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_shape_through_json() {
        let event = JobEvent {
            sequence: 3,
            time: DateTime::UNIX_EPOCH,
            attempt: 1,
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            event: Event::TrainStep(TrainStep { step: 1, loss: Some(2.5), ..TrainStep::default() }),
        };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains(r#""event":{"train_step":{"step":1"#), "{text}");
        assert_eq!(serde_json::from_str::<JobEvent>(&text).unwrap(), event);
    }
}
