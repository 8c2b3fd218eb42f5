//! Evaluations and comparisons, there and back.

use hone_job::spec::{Candidate, CompareTask, EvaluateTask, RowKind, ScoredRows, Scoring};
use hone_proto::v1 as pb;

use super::Reader;
use super::choices::{loss_on, loss_on_message, precision, precision_message};

/// Seed of a comparison's bootstrap where none is given.
const SEED: u64 = 42;

impl Reader {
    pub(super) fn evaluate(&mut self, path: &str, task: pb::EvaluateTask) -> EvaluateTask {
        EvaluateTask {
            checkpoint: task.checkpoint,
            data: self.scored_rows(&format!("{path}.data"), task.data.unwrap_or_default()),
            scoring: self.scoring(&format!("{path}.scoring"), task.scoring.unwrap_or_default()),
        }
    }

    pub(super) fn compare(&mut self, path: &str, task: pb::CompareTask) -> CompareTask {
        let candidate = |pb::Candidate { name, checkpoint }| Candidate { name, checkpoint };
        CompareTask {
            candidates: task.candidates.into_iter().map(candidate).collect(),
            data: self.scored_rows(&format!("{path}.data"), task.data.unwrap_or_default()),
            scoring: self.scoring(&format!("{path}.scoring"), task.scoring.unwrap_or_default()),
            seed: task.seed.unwrap_or(SEED),
        }
    }

    fn scored_rows(&mut self, path: &str, data: pb::ScoredRows) -> ScoredRows {
        ScoredRows {
            rows: data.rows,
            kind: self.choice(format!("{path}.kind"), data.kind, kind),
            loss_on: self.choice(format!("{path}.loss_on"), data.loss_on, loss_on),
            chat_template: data.chat_template,
            max_examples: data.max_examples,
        }
    }

    fn scoring(&mut self, path: &str, scoring: pb::ScoringSpec) -> Scoring {
        let defaults = Scoring::default();
        Scoring {
            precision: self.choice(format!("{path}.precision"), scoring.precision, precision),
            tokens_per_micro_batch: scoring.tokens_per_micro_batch.unwrap_or(defaults.tokens_per_micro_batch),
            shown_rows: scoring.shown_rows.unwrap_or(defaults.shown_rows),
            max_new_tokens: scoring.max_new_tokens.unwrap_or(defaults.max_new_tokens),
        }
    }
}

fn kind(value: pb::RowKind) -> RowKind {
    match value {
        pb::RowKind::Unspecified => RowKind::Auto,
        pb::RowKind::Texts => RowKind::Texts,
        pb::RowKind::Pairs => RowKind::Pairs,
        pb::RowKind::Questions => RowKind::Questions,
        pb::RowKind::Choices => RowKind::Choices,
    }
}

/// The settings in force as a message.
pub(super) fn evaluate_message(task: EvaluateTask) -> pb::EvaluateTask {
    pb::EvaluateTask {
        checkpoint: task.checkpoint,
        data: Some(rows_message(task.data)),
        scoring: Some(scoring_message(task.scoring)),
    }
}

/// The settings in force as a message.
pub(super) fn compare_message(task: CompareTask) -> pb::CompareTask {
    let candidate = |Candidate { name, checkpoint }| pb::Candidate { name, checkpoint };
    pb::CompareTask {
        candidates: task.candidates.into_iter().map(candidate).collect(),
        data: Some(rows_message(task.data)),
        scoring: Some(scoring_message(task.scoring)),
        seed: Some(task.seed),
    }
}

fn rows_message(data: ScoredRows) -> pb::ScoredRows {
    pb::ScoredRows {
        rows: data.rows,
        // What `Auto` is depends on the first row; the scores say it.
        kind: match data.kind {
            RowKind::Auto => pb::RowKind::Unspecified,
            RowKind::Texts => pb::RowKind::Texts,
            RowKind::Pairs => pb::RowKind::Pairs,
            RowKind::Questions => pb::RowKind::Questions,
            RowKind::Choices => pb::RowKind::Choices,
        }
        .into(),
        loss_on: loss_on_message(data.loss_on).into(),
        chat_template: data.chat_template,
        max_examples: data.max_examples,
    }
}

fn scoring_message(scoring: Scoring) -> pb::ScoringSpec {
    pb::ScoringSpec {
        precision: precision_message(scoring.precision).into(),
        tokens_per_micro_batch: Some(scoring.tokens_per_micro_batch),
        shown_rows: Some(scoring.shown_rows),
        max_new_tokens: Some(scoring.max_new_tokens),
    }
}
