//! Models that are scored on rows: one alone, or several against each other.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Batch, Check, LossOn, Precision, limits};

/// One model scored on rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluateTask {
    /// What to score: the URI of a checkpoint, of a PEFT adapter, or of a model's folder. Default: the base model.
    pub checkpoint: Option<String>,
    /// Rows to score.
    pub data: ScoredRows,
    /// How scoring goes.
    pub scoring: Scoring,
}

/// Models scored on the same rows; every other one is compared with the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompareTask {
    /// The models, 2 to [`CompareTask::MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// Rows to score.
    pub data: ScoredRows,
    /// How scoring goes.
    pub scoring: Scoring,
    /// Seed of the bootstrap. Default 42.
    pub seed: u64,
}

/// One of the models that are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// What the figures call it; different from the others.
    pub name: String,
    /// The URI of a checkpoint, of a PEFT adapter, or of a model's folder. Default: the base model.
    pub checkpoint: Option<String>,
}

/// Rows that models are scored on. None is left out or cut for its length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoredRows {
    /// `ds-…` ids, `file://` or `s3://` URIs. At least one.
    pub rows: Vec<String>,
    /// What of a row is scored.
    pub kind: RowKind,
    /// Which tokens of texts are scored.
    pub loss_on: LossOn,
    /// A chat template instead of the tokenizer's own.
    pub chat_template: Option<String>,
    /// At most this many rows, a uniform sample. Default: all.
    pub max_examples: Option<u64>,
}

/// What of a row is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// Pairs when the first row has chosen or rejected, else texts. The default.
    #[default]
    Auto,
    /// The likelihood of its tokens.
    Texts,
    /// Which of two answers is likelier.
    Pairs,
    /// As texts, and what the model writes itself beside the completion.
    Questions,
    /// Which of several answers is the likeliest.
    Choices,
}

/// How scoring goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scoring {
    /// Number format of weights and activations.
    pub precision: Precision,
    /// Most tokens that go through the model at once; a longer row goes alone. Does not change the result. Default 2048.
    pub tokens_per_micro_batch: u32,
    /// Rows to show with their text. At most [`Scoring::MAX_SHOWN_ROWS`], default 5.
    pub shown_rows: u32,
    /// Length of the answer that each model writes to a shown row, of questions to every row; 0 writes none. At most [`Scoring::MAX_NEW_TOKENS`],
    /// default 64.
    pub max_new_tokens: u32,
}

impl Default for Scoring {
    fn default() -> Self {
        Self {
            precision: Precision::default(),
            tokens_per_micro_batch: Batch::default().tokens_per_micro_batch,
            shown_rows: 5,
            max_new_tokens: 64,
        }
    }
}

impl Scoring {
    /// Most rows that are shown.
    pub const MAX_SHOWN_ROWS: u32 = 50;
    /// Longest answer to a shown row.
    pub const MAX_NEW_TOKENS: u32 = 1024;

    fn validate(&self, check: &mut Check<'_>) {
        check.that(self.tokens_per_micro_batch > 0, "scoring.tokens_per_micro_batch", "must be at least 1");
        check.within(f64::from(self.shown_rows), 0.0..=Self::MAX_SHOWN_ROWS.into(), "scoring.shown_rows");
        check.within(f64::from(self.max_new_tokens), 0.0..=Self::MAX_NEW_TOKENS.into(), "scoring.max_new_tokens");
    }

    fn validate_for(&self, kind: RowKind, check: &mut Check<'_>) {
        self.validate(check);
        let answers = kind != RowKind::Questions || self.max_new_tokens > 0;
        check.that(answers, "scoring.max_new_tokens", "must be at least 1 for questions, which are answered");
    }
}

impl ScoredRows {
    /// Rows with every default.
    pub fn of(rows: Vec<String>) -> Self {
        Self { rows, kind: RowKind::default(), loss_on: LossOn::default(), chat_template: None, max_examples: None }
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.sources(&self.rows, "data.rows");
        check.template(self.chat_template.as_ref());
        check.that(self.max_examples != Some(0), "data.max_examples", "must be at least 1");
    }
}

impl EvaluateTask {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.that(self.checkpoint.as_deref() != Some(""), "checkpoint", "is empty: give a URI, or leave it out");
        self.data.validate(check);
        self.scoring.validate_for(self.data.kind, check);
    }
}

impl CompareTask {
    /// Most models of a comparison.
    pub const MAX_CANDIDATES: usize = 16;

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let (count, most) = (self.candidates.len(), Self::MAX_CANDIDATES);
        let has_room = (2..=most).contains(&count);
        check.that(has_room, "candidates", format!("has {count} models; a comparison takes 2 to {most}"));
        let mut names = BTreeSet::new();
        for (index, Candidate { name, checkpoint }) in self.candidates.iter().take(most).enumerate() {
            let is_sized = !name.is_empty() && name.len() <= limits::MAX_NAME_BYTES;
            check.that(is_sized, &format!("candidates[{index}].name"), "is required: 1 to 256 bytes");
            let is_new = names.insert(name);
            check.that(is_new, &format!("candidates[{index}].name"), "is the name of an earlier one");
            let field = format!("candidates[{index}].checkpoint");
            check.that(checkpoint.as_deref() != Some(""), &field, "is empty: give a URI, or leave it out");
        }
        self.data.validate(check);
        self.scoring.validate_for(self.data.kind, check);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::super::{JobSpec, Task};
    use super::*;

    fn candidate(name: &str) -> Candidate {
        Candidate { name: name.into(), checkpoint: None }
    }

    fn fields(task: Task) -> Vec<String> {
        JobSpec { task, ..spec() }.validate().into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn a_comparison_takes_models_of_different_names() {
        let task = |names: &[&str]| {
            Task::Compare(CompareTask {
                candidates: names.iter().map(|name| candidate(name)).collect(),
                data: ScoredRows::of(vec!["ds-1".into()]),
                scoring: Scoring::default(),
                seed: 42,
            })
        };
        assert_eq!(fields(task(&["base", "sft"])), [""; 0]);
        assert_eq!(fields(task(&["base"])), ["spec.compare.candidates"]);
        assert_eq!(
            fields(task(&["a", "a", ""])),
            ["spec.compare.candidates[1].name", "spec.compare.candidates[2].name"]
        );
        assert_eq!(fields(task(&["m"; 40]))[0], "spec.compare.candidates");
    }

    #[test]
    fn what_an_evaluation_cannot_do_is_told_by_its_field() {
        let data = ScoredRows { max_examples: Some(0), ..ScoredRows::of(Vec::new()) };
        let scoring = Scoring { tokens_per_micro_batch: 0, shown_rows: 51, max_new_tokens: 1025, ..Scoring::default() };
        let found = fields(Task::Evaluate(EvaluateTask { checkpoint: Some(String::new()), data, scoring }));
        let expected = [
            "checkpoint",
            "data.rows",
            "data.max_examples",
            "scoring.tokens_per_micro_batch",
            "scoring.shown_rows",
            "scoring.max_new_tokens",
        ];
        assert_eq!(found, expected.map(|field| format!("spec.evaluate.{field}")));
    }
}
