//! Prompts that a model answers.

use serde::{Deserialize, Serialize};

use super::{Check, Precision, Sampling};

/// A model answers prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateTask {
    /// What answers: the URI of a checkpoint, of a PEFT adapter, or of a model's folder. Default: the base model.
    pub checkpoint: Option<String>,
    /// What is asked.
    pub data: PromptRows,
    /// How answers go on.
    pub sampling: Sampling,
    /// Answers to each row; those after the first need a temperature to differ. At most
    /// [`GenerateTask::MAX_ANSWERS_PER_ROW`], default 1.
    pub answers_per_row: u32,
    /// Answers that are written at once. 1 to [`GenerateTask::MAX_AT_ONCE`], default 8.
    pub answers_at_once: u32,
    /// Number format of weights and activations.
    pub precision: Precision,
}

/// Rows that are answered: `{"prompt"}`, `{"messages"}`, or any row that could be trained on, whose answer is then not shown
/// to the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptRows {
    /// `ds-…` ids, `file://` or `s3://` URIs. At least one.
    pub rows: Vec<String>,
    /// A chat template instead of the tokenizer's own.
    pub chat_template: Option<String>,
    /// At most this many rows, a uniform sample. Default: all.
    pub max_examples: Option<u64>,
}

impl PromptRows {
    /// Rows with every default.
    pub fn of(rows: Vec<String>) -> Self {
        Self { rows, chat_template: None, max_examples: None }
    }
}

impl GenerateTask {
    /// Most answers to a row.
    pub const MAX_ANSWERS_PER_ROW: u32 = 64;
    /// Most answers at once.
    pub const MAX_AT_ONCE: u32 = 256;

    /// The base model's likeliest answers, with every default.
    pub fn new(data: PromptRows) -> Self {
        Self {
            checkpoint: None,
            data,
            sampling: Sampling::default(),
            answers_per_row: 1,
            answers_at_once: 8,
            precision: Precision::default(),
        }
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.that(self.checkpoint.as_deref() != Some(""), "checkpoint", "is empty: give a URI, or leave it out");
        let PromptRows { rows, chat_template, max_examples } = &self.data;
        check.sources(rows, "data.rows");
        check.template(chat_template.as_ref());
        check.that(*max_examples != Some(0), "data.max_examples", "must be at least 1");
        self.sampling.validate(check);
        check.within(self.answers_per_row.into(), 1.0..=Self::MAX_ANSWERS_PER_ROW.into(), "answers_per_row");
        check.within(self.answers_at_once.into(), 1.0..=Self::MAX_AT_ONCE.into(), "answers_at_once");
        let same = self.answers_per_row > 1 && self.sampling.temperature == 0.0;
        check.that(
            !same,
            "answers_per_row",
            "gives the same answer each time at temperature 0; set sampling.temperature",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::super::{JobSpec, Task};
    use super::*;

    #[test]
    fn what_cannot_be_generated_is_told_by_its_field() {
        let fields = |task: GenerateTask| -> Vec<String> {
            let task = Task::Generate(task);
            JobSpec { task, ..spec() }.validate().into_iter().map(|violation| violation.field).collect()
        };
        assert_eq!(fields(GenerateTask::new(PromptRows::of(vec!["ds-1".into()]))), [""; 0]);
        let sampling = Sampling {
            max_new_tokens: 0,
            temperature: f64::NAN,
            top_k: 0,
            top_p: 0.0,
            min_p: 1.5,
            repetition_penalty: 0.0,
            seed: 1,
            stop: vec![String::new()],
        };
        let data = PromptRows { max_examples: Some(0), ..PromptRows::of(Vec::new()) };
        let task = GenerateTask {
            checkpoint: Some(String::new()),
            sampling,
            answers_per_row: 65,
            answers_at_once: 0,
            ..GenerateTask::new(data)
        };
        let expected = [
            "checkpoint",
            "data.rows",
            "data.max_examples",
            "sampling.max_new_tokens",
            "sampling.temperature",
            "sampling.top_p",
            "sampling.min_p",
            "sampling.repetition_penalty",
            "sampling.stop",
            "answers_per_row",
            "answers_at_once",
        ];
        assert_eq!(fields(task), expected.map(|field| format!("spec.generate.{field}")));
        let same = GenerateTask { answers_per_row: 2, ..GenerateTask::new(PromptRows::of(vec!["ds-1".into()])) };
        assert_eq!(fields(same), ["spec.generate.answers_per_row"]);
    }
}
