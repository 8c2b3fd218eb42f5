//! Prompts that a model answers, there and back.

use hone_job::spec::{GenerateTask, PromptRows, Sampling};
use hone_proto::v1 as pb;

use super::Reader;
use super::choices::{precision, precision_message};

impl Reader {
    pub(super) fn generate(&mut self, path: &str, task: pb::GenerateTask) -> GenerateTask {
        let pb::PromptRows { rows, chat_template, max_examples } = task.data.unwrap_or_default();
        let defaults = GenerateTask::new(PromptRows { rows, chat_template, max_examples });
        GenerateTask {
            checkpoint: task.checkpoint,
            sampling: sampling(task.sampling),
            answers_per_row: task.answers_per_row.unwrap_or(defaults.answers_per_row),
            answers_at_once: task.answers_at_once.unwrap_or(defaults.answers_at_once),
            precision: self.choice(format!("{path}.precision"), task.precision, precision),
            ..defaults
        }
    }
}

/// How answers go on, with every default filled in. It is checked by who asks for it.
pub fn sampling(sampling: Option<pb::SamplingSpec>) -> Sampling {
    let (sampling, defaults) = (sampling.unwrap_or_default(), Sampling::default());
    Sampling {
        max_new_tokens: sampling.max_new_tokens.unwrap_or(defaults.max_new_tokens),
        temperature: sampling.temperature.unwrap_or(defaults.temperature),
        top_k: sampling.top_k.unwrap_or(defaults.top_k),
        top_p: sampling.top_p.unwrap_or(defaults.top_p),
        min_p: sampling.min_p.unwrap_or(defaults.min_p),
        repetition_penalty: sampling.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        seed: sampling.seed.unwrap_or(defaults.seed),
        stop: sampling.stop,
    }
}

/// The settings in force as a message.
pub(super) fn generate_message(task: GenerateTask) -> pb::GenerateTask {
    let PromptRows { rows, chat_template, max_examples } = task.data;
    let Sampling { max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop } = task.sampling;
    pb::GenerateTask {
        checkpoint: task.checkpoint,
        data: Some(pb::PromptRows { rows, chat_template, max_examples }),
        sampling: Some(pb::SamplingSpec {
            max_new_tokens: Some(max_new_tokens),
            temperature: Some(temperature),
            top_k: Some(top_k),
            top_p: Some(top_p),
            min_p: Some(min_p),
            repetition_penalty: Some(repetition_penalty),
            seed: Some(seed),
            stop,
        }),
        answers_per_row: Some(task.answers_per_row),
        answers_at_once: Some(task.answers_at_once),
        precision: precision_message(task.precision).into(),
    }
}
