//! Evaluation and early stopping, there and back.

use hone_job::spec::{AnswerHardExamples, EarlyStopping, Evaluation, Metric};
use hone_proto::v1 as pb;

use super::Reader;

impl Reader {
    pub(super) fn evaluation(&mut self, path: &str, evaluation: pb::EvaluationSpec) -> Evaluation {
        let defaults = Evaluation::default();
        let early_stopping = evaluation.early_stopping.map(|stopping| {
            let defaults = EarlyStopping::default();
            EarlyStopping {
                metric: self.choice(format!("{path}.early_stopping.metric"), stopping.metric, metric),
                patience: stopping.patience.unwrap_or(defaults.patience),
                threshold: stopping.threshold.unwrap_or(defaults.threshold),
            }
        });
        Evaluation {
            every_steps: evaluation.every_steps,
            max_time_fraction: evaluation.max_time_fraction.unwrap_or(defaults.max_time_fraction),
            early_stopping,
            hard_examples: evaluation.hard_examples.unwrap_or(defaults.hard_examples),
            answer_hard_examples: self.choice(
                format!("{path}.answer_hard_examples"),
                evaluation.answer_hard_examples,
                answer_hard_examples,
            ),
        }
    }
}

fn metric(value: pb::EarlyStoppingMetric) -> Metric {
    match value {
        pb::EarlyStoppingMetric::Unspecified | pb::EarlyStoppingMetric::Loss => Metric::Loss,
        pb::EarlyStoppingMetric::Accuracy => Metric::Accuracy,
        pb::EarlyStoppingMetric::Margin => Metric::Margin,
    }
}

fn answer_hard_examples(value: pb::AnswerHardExamples) -> AnswerHardExamples {
    match value {
        pb::AnswerHardExamples::Unspecified | pb::AnswerHardExamples::Last => AnswerHardExamples::Last,
        pb::AnswerHardExamples::Every => AnswerHardExamples::Every,
        pb::AnswerHardExamples::Never => AnswerHardExamples::Never,
    }
}

/// The settings in force as a message.
pub(super) fn message(evaluation: Evaluation) -> pb::EvaluationSpec {
    let stopping = |stopping: EarlyStopping| pb::EarlyStoppingSpec {
        metric: match stopping.metric {
            Metric::Loss => pb::EarlyStoppingMetric::Loss,
            Metric::Accuracy => pb::EarlyStoppingMetric::Accuracy,
            Metric::Margin => pb::EarlyStoppingMetric::Margin,
        }
        .into(),
        patience: Some(stopping.patience),
        threshold: Some(stopping.threshold),
    };
    pb::EvaluationSpec {
        every_steps: evaluation.every_steps,
        max_time_fraction: Some(evaluation.max_time_fraction),
        early_stopping: evaluation.early_stopping.map(stopping),
        hard_examples: Some(evaluation.hard_examples),
        answer_hard_examples: match evaluation.answer_hard_examples {
            AnswerHardExamples::Last => pb::AnswerHardExamples::Last,
            AnswerHardExamples::Every => pb::AnswerHardExamples::Every,
            AnswerHardExamples::Never => pb::AnswerHardExamples::Never,
        }
        .into(),
    }
}
