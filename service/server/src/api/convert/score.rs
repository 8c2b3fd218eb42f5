//! What models make of rows, as a message.

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
