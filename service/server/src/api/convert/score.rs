//! What models make of rows, as messages.

use hone_job::answer::{AnswerReport, ShownAnswer};
use hone_job::insight::{HardExample, HardExamples, Surprise};
use hone_job::score::{BucketDifference, Interval, ModelScore, RowScore, ScoreDifference, ScoreReport, ShownRow};
use hone_proto::v1 as pb;

use super::event::evaluation;

pub(super) fn report(report: ScoreReport) -> pb::ScoreReport {
    pb::ScoreReport {
        models: report.models.into_iter().map(model).collect(),
        differences: report.differences.into_iter().map(difference).collect(),
        rows: report.rows.into_iter().map(shown_row).collect(),
    }
}

fn model(score: ModelScore) -> pb::ModelScore {
    pb::ModelScore { name: score.name, uri: score.uri, evaluation: Some(evaluation(score.evaluation)) }
}

fn difference(found: ScoreDifference) -> pb::ScoreDifference {
    pb::ScoreDifference {
        name: found.name,
        baseline: found.baseline,
        loss: Some(interval(found.loss)),
        token_accuracy: Some(interval(found.token_accuracy)),
        preference_accuracy: found.preference_accuracy.map(interval),
        margin: found.margin.map(interval),
        exact_match: found.exact_match.map(interval),
        contains: found.contains.map(interval),
        wins: found.wins,
        ties: found.ties,
        losses: found.losses,
        buckets: found.buckets.into_iter().map(bucket).collect(),
    }
}

fn interval(Interval { difference, low, high }: Interval) -> pb::Interval {
    pb::Interval { difference, low, high }
}

fn bucket(BucketDifference { up_to_tokens, examples, difference }: BucketDifference) -> pb::BucketDifference {
    pb::BucketDifference { up_to_tokens, examples, difference: Some(interval(difference)) }
}

fn shown_row(row: ShownRow) -> pb::ShownRow {
    let score = |RowScore { name, loss, margin, answer }| pb::RowScore { name, loss, margin, answer };
    pb::ShownRow {
        object: row.object,
        row: row.row,
        prompt: row.prompt,
        expected: row.expected,
        rejected: row.rejected.unwrap_or_default(),
        scores: row.scores.into_iter().map(score).collect(),
    }
}

pub(super) fn answers(report: AnswerReport) -> pb::AnswerReport {
    let shown = |ShownAnswer { object, row, prompt, expected, answer }| pb::ShownAnswer {
        object,
        row,
        prompt,
        expected,
        answer,
    };
    pb::AnswerReport {
        answers: report.answers,
        failed_rows: report.failed_rows,
        reached_length: report.reached_length,
        prompt_tokens: report.prompt_tokens,
        answer_tokens: report.answer_tokens,
        seconds: report.seconds,
        shown: report.shown.into_iter().map(shown).collect(),
    }
}

pub(super) fn hard_examples(found: HardExamples) -> pb::HardExamples {
    pb::HardExamples { step: found.step, examples: found.examples.into_iter().map(hard_example).collect() }
}

fn hard_example(found: HardExample) -> pb::HardExample {
    let surprise = |Surprise { token, expected, preferred, nll }| pb::Surprise { token, expected, preferred, nll };
    pb::HardExample {
        object: found.object,
        row: found.row,
        prompt: found.prompt,
        expected: found.expected,
        rejected: found.rejected.unwrap_or_default(),
        loss: found.loss,
        margin: found.margin,
        before: found.before,
        surprises: found.surprises.into_iter().map(surprise).collect(),
        answer: found.answer,
    }
}
