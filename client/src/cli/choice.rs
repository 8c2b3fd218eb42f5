//! Flags with a few choices: takes a word, gives the value of the proto's enum, so that no list of values is kept twice.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use hone_client::v1;

/// A word and what it means.
type Word = (&'static str, &'static str);

const SCHEDULE: &[Word] = &[
    ("cosine", "half a cosine down to the floor"),
    ("linear", "a straight line down to the floor"),
    ("constant", "flat"),
    ("cosine-with-restarts", "half cosines, each from the peak down to the floor"),
    ("polynomial", "what is left of the run to some power, down to the floor"),
    ("inverse-sqrt", "one over the square root of the steps"),
    ("warmup-stable-decay", "flat, then down to the floor at the end of the run"),
    ("plateau", "flat, and lower whenever the held-out loss has stopped falling"),
];
const LORA_INIT: &[Word] = &[
    ("default", "A random, B zero"),
    ("gaussian", "A normal with a standard deviation of 1 / rank, B zero"),
    ("orthogonal", "from one orthogonal matrix; even ranks only"),
    ("pissa", "the largest singular components, taken off the base"),
    ("olora", "the start of the QR decomposition, taken off the base"),
];
const DECAY_SHAPE: &[Word] =
    &[("cosine", "half a cosine"), ("linear", "a straight line"), ("one-minus-sqrt", "steep first, then flat")];
const OPTIMIZER: &[Word] = &[
    ("adamw", "Adam with decoupled weight decay"),
    ("lion", "the sign of a moment"),
    ("sgd", "gradient descent with momentum"),
];
const MOMENTS: &[Word] =
    &[("float32", "IEEE single precision"), ("block8", "blocks of 8-bit codes: a quarter of the memory")];
const OVER_LENGTH: &[Word] = &[
    ("drop", "left out, counted and listed by row number"),
    ("truncate", "cut, the end token kept"),
    ("split", "text rows only: cut into several rows that together keep every token"),
    ("fail", "the job fails and names the rows"),
];
const LOSS_ON: &[Word] = &[
    ("completion", "the completion; in a conversation, the last assistant turn"),
    ("assistant", "every assistant turn of a conversation"),
    ("all", "every token, prompt included"),
];
const MIX_UNTIL: &[Word] = &[
    ("first_exhausted", "with the first source that has no example left"),
    ("all_exhausted", "when every source has come whole; the small ones start over"),
];
const ROW_KIND: &[Word] = &[
    ("texts", "the likelihood of their tokens"),
    ("pairs", "which of two answers is likelier"),
    ("questions", "as texts, and what the model answers beside the completion"),
    ("choices", "which of several answers is the likeliest"),
];
const PRECISION: &[Word] = &[("float32", "IEEE single precision"), ("bfloat16", "brain floating point")];
const ORDER: &[Word] =
    &[("shuffled", "a new permutation each epoch, from the seed"), ("sequential", "as in the files")];
const ACTIVATION_CHECKPOINTING: &[Word] = &[
    ("auto", "for micro-batches that would take more than half of the free memory"),
    ("on", "always"),
    ("off", "never"),
];
const ATTENTION: &[Word] = &[
    ("flash", "scores are never held whole; on a GPU for bfloat16 alone"),
    ("efficient", "scores are never held whole; on a GPU, in any precision"),
    ("math", "the plain formula: scores of a whole document are held in memory"),
];
const DIVERGENCE: &[Word] = &[
    ("reverse_kl", "the log-ratio itself, as in DPO"),
    ("forward_kl", ""),
    ("jensen_shannon", ""),
    ("alpha", "with --divergence-alpha"),
];
const PREFERENCE_LOSS: &[Word] = &[
    ("sigmoid", "DPO; with label smoothing cDPO"),
    ("hinge", "SLiC"),
    ("ipo", ""),
    ("robust", ""),
    ("exo_pair", ""),
    ("nca_pair", ""),
    ("bco_pair", ""),
    ("sppo_hard", ""),
    ("aot", ""),
    ("aot_unpaired", ""),
    ("apo_zero", ""),
    ("apo_down", ""),
    ("discopop", ""),
    ("sigmoid_norm", ""),
    ("sft", ""),
    ("orpo", ""),
    ("simpo", ""),
];
const EXPORT_FORMAT: &[Word] =
    &[("hugging-face", "a folder for transformers, vLLM and others"), ("gguf", "one file for llama.cpp")];
const WEIGHT_TYPE: &[Word] =
    &[("float32", "IEEE single precision"), ("bfloat16", "brain floating point"), ("float16", "IEEE half precision")];
const EARLY_STOPPING_METRIC: &[Word] = &[
    ("loss", "lower is better"),
    ("accuracy", "of pairs, higher is better"),
    ("margin", "of pairs, higher is better"),
];
const ANSWER_HARD_EXAMPLES: &[Word] = &[
    ("last", "the last evaluation"),
    ("every", "every evaluation, which takes of the time that evaluations may have"),
    ("never", "none"),
];
const JOB_STATE: &[Word] = &[
    ("queued", ""),
    ("preparing", ""),
    ("running", ""),
    ("pausing", ""),
    ("paused", ""),
    ("cancelling", ""),
    ("cancelled", ""),
    ("succeeded", ""),
    ("failed", ""),
];

/// Shape of the learning rate after warmup.
pub(crate) fn schedule() -> impl TypedValueParser<Value = v1::ScheduleType> {
    choice(SCHEDULE, "SCHEDULE_TYPE_", v1::ScheduleType::from_str_name)
}

/// What a fresh adapter starts with.
pub(crate) fn lora_init() -> impl TypedValueParser<Value = v1::LoraInit> {
    choice(LORA_INIT, "LORA_INIT_", v1::LoraInit::from_str_name)
}

/// Shape of the decay of a warmup-stable-decay schedule.
pub(crate) fn decay_shape() -> impl TypedValueParser<Value = v1::DecayShape> {
    choice(DECAY_SHAPE, "DECAY_SHAPE_", v1::DecayShape::from_str_name)
}

/// The held-out figure that ends a run early.
pub(crate) fn early_stopping_metric() -> impl TypedValueParser<Value = v1::EarlyStoppingMetric> {
    choice(EARLY_STOPPING_METRIC, "EARLY_STOPPING_METRIC_", v1::EarlyStoppingMetric::from_str_name)
}

/// Which evaluations have the model answer the hardest rows.
pub(crate) fn answer_hard_examples() -> impl TypedValueParser<Value = v1::AnswerHardExamples> {
    choice(ANSWER_HARD_EXAMPLES, "ANSWER_HARD_EXAMPLES_", v1::AnswerHardExamples::from_str_name)
}

/// What of a row is scored.
pub(crate) fn row_kind() -> impl TypedValueParser<Value = v1::RowKind> {
    choice(ROW_KIND, "ROW_KIND_", v1::RowKind::from_str_name)
}

/// Layout of exported files.
pub(crate) fn export_format() -> impl TypedValueParser<Value = v1::ExportFormat> {
    choice(EXPORT_FORMAT, "EXPORT_FORMAT_", v1::ExportFormat::from_str_name)
}

/// Number format of exported weights.
pub(crate) fn weight_type() -> impl TypedValueParser<Value = v1::WeightType> {
    choice(WEIGHT_TYPE, "WEIGHT_TYPE_", v1::WeightType::from_str_name)
}

/// The rule by which gradients become updates.
pub(crate) fn optimizer() -> impl TypedValueParser<Value = v1::OptimizerType> {
    choice(OPTIMIZER, "OPTIMIZER_TYPE_", v1::OptimizerType::from_str_name)
}

/// Number format of the optimizer's moments.
pub(crate) fn moments() -> impl TypedValueParser<Value = v1::MomentFormat> {
    choice(MOMENTS, "MOMENT_FORMAT_", v1::MomentFormat::from_str_name)
}

/// What happens to a training row longer than the longest.
pub(crate) fn over_length() -> impl TypedValueParser<Value = v1::OverLength> {
    choice(OVER_LENGTH, "OVER_LENGTH_", v1::OverLength::from_str_name)
}

/// Which tokens of a row are trained on.
pub(crate) fn loss_on() -> impl TypedValueParser<Value = v1::LossOn> {
    choice(LOSS_ON, "LOSS_ON_", v1::LossOn::from_str_name)
}

/// When an epoch over mixed sources ends.
pub(crate) fn mix_until() -> impl TypedValueParser<Value = v1::MixUntil> {
    choice(MIX_UNTIL, "MIX_UNTIL_", v1::MixUntil::from_str_name)
}

/// Number format of base weights and activations.
pub(crate) fn precision() -> impl TypedValueParser<Value = v1::Precision> {
    choice(PRECISION, "PRECISION_", v1::Precision::from_str_name)
}

/// Order of the training rows.
pub(crate) fn order() -> impl TypedValueParser<Value = v1::Order> {
    choice(ORDER, "ORDER_", v1::Order::from_str_name)
}

/// Whether what happens inside layers is made again.
pub(crate) fn activation_checkpointing() -> impl TypedValueParser<Value = v1::ActivationCheckpointing> {
    choice(ACTIVATION_CHECKPOINTING, "ACTIVATION_CHECKPOINTING_", v1::ActivationCheckpointing::from_str_name)
}

/// How attention is computed.
pub(crate) fn attention() -> impl TypedValueParser<Value = v1::AttentionKernel> {
    choice(ATTENTION, "ATTENTION_KERNEL_", v1::AttentionKernel::from_str_name)
}

/// What holds a policy to its reference.
pub(crate) fn divergence() -> impl TypedValueParser<Value = v1::Divergence> {
    choice(DIVERGENCE, "DIVERGENCE_", v1::Divergence::from_str_name)
}

/// A loss of pairs by its name; the error lists the names.
pub(crate) fn preference_loss(name: &str) -> Result<v1::PreferenceLossType, String> {
    let known = || PREFERENCE_LOSS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let value = format!("PREFERENCE_LOSS_TYPE_{}", name.to_uppercase());
    v1::PreferenceLossType::from_str_name(&value)
        .filter(|value| *value != v1::PreferenceLossType::Unspecified)
        .ok_or_else(|| format!("{name:?} is no loss; there are {}", known()))
}

/// Where a job stands.
pub(crate) fn job_state() -> impl TypedValueParser<Value = v1::JobState> {
    choice(JOB_STATE, "JOB_STATE_", v1::JobState::from_str_name)
}

fn choice<T: Clone + Send + Sync + 'static>(
    words: &'static [Word],
    prefix: &'static str,
    read: fn(&str) -> Option<T>,
) -> impl TypedValueParser<Value = T> {
    let possible = |(word, help): &Word| match help.is_empty() {
        true => PossibleValue::new(word),
        false => PossibleValue::new(word).help(help),
    };
    PossibleValuesParser::new(words.iter().map(possible))
        .try_map(move |word| read(&value_name(prefix, &word)).ok_or("not known"))
}

/// The name of an enum's value for a word: `ORDER_SEQUENTIAL`.
fn value_name(prefix: &str, word: &str) -> String {
    format!("{prefix}{}", word.to_uppercase().replace('-', "_"))
}

/// The word for the name of an enum's value: `sequential`.
pub(crate) fn name_of(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::pool;

    #[test]
    fn every_value_of_an_enum_can_be_chosen_and_no_other() {
        for (name, prefix, words) in [
            ("ScheduleType", "SCHEDULE_TYPE_", SCHEDULE),
            ("LoraInit", "LORA_INIT_", LORA_INIT),
            ("DecayShape", "DECAY_SHAPE_", DECAY_SHAPE),
            ("OptimizerType", "OPTIMIZER_TYPE_", OPTIMIZER),
            ("MomentFormat", "MOMENT_FORMAT_", MOMENTS),
            ("OverLength", "OVER_LENGTH_", OVER_LENGTH),
            ("LossOn", "LOSS_ON_", LOSS_ON),
            ("MixUntil", "MIX_UNTIL_", MIX_UNTIL),
            ("Precision", "PRECISION_", PRECISION),
            ("Order", "ORDER_", ORDER),
            ("ActivationCheckpointing", "ACTIVATION_CHECKPOINTING_", ACTIVATION_CHECKPOINTING),
            ("Divergence", "DIVERGENCE_", DIVERGENCE),
            ("PreferenceLossType", "PREFERENCE_LOSS_TYPE_", PREFERENCE_LOSS),
            ("ExportFormat", "EXPORT_FORMAT_", EXPORT_FORMAT),
            ("WeightType", "WEIGHT_TYPE_", WEIGHT_TYPE),
            ("EarlyStoppingMetric", "EARLY_STOPPING_METRIC_", EARLY_STOPPING_METRIC),
            ("AnswerHardExamples", "ANSWER_HARD_EXAMPLES_", ANSWER_HARD_EXAMPLES),
            ("JobState", "JOB_STATE_", JOB_STATE),
        ] {
            let descriptor = pool().get_enum_by_name(&format!("hone.v1.{name}")).expect(name);
            let values = descriptor.values().filter(|value| value.number() != 0);
            let named: Vec<_> = values.map(|value| value.name().to_owned()).collect();
            let offered: Vec<_> = words.iter().map(|(word, _)| value_name(prefix, word)).collect();
            assert_eq!(offered, named);
        }
    }
}
