//! What models make of the same rows: figures of each, differences with their uncertainty, rows worth a look.

use serde::{Deserialize, Serialize};

use crate::event::Evaluation;

/// What models make of the same rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreReport {
    /// The models, in the order of the spec.
    pub models: Vec<ModelScore>,
    /// Each model but the first, against the first.
    pub differences: Vec<ScoreDifference>,
    /// Rows with their text: the hardest of one model, those in which several differ most.
    pub rows: Vec<ShownRow>,
}

/// What one model makes of the rows.
///
/// Of pairs there is no reference: rewards are the log-probabilities of the answers, and loss, perplexity and token accuracy
/// are those of the chosen answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelScore {
    /// Its name in the spec; of an evaluate job `model`.
    pub name: String,
    /// Where its checkpoint lies; empty for the base model.
    pub uri: String,
    /// Its figures.
    pub evaluation: Evaluation,
}

/// How good answers are that a model wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerMetrics {
    /// Answers.
    pub answers: u64,
    /// Share that are what is expected, without the space around both.
    pub exact_match: f64,
    /// Its standard error.
    pub exact_match_standard_error: f64,
    /// Share that hold what is expected.
    pub contains: f64,
    /// Its standard error.
    pub contains_standard_error: f64,
}

/// How a model differs from another on the same rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreDifference {
    /// The model.
    pub name: String,
    /// The one that it is compared with.
    pub baseline: String,
    /// Its loss less the other's, in nats per token; of pairs the loss of the chosen answers.
    pub loss: Interval,
    /// Its token accuracy less the other's.
    pub token_accuracy: Interval,
    /// Of pairs, its share of likelier chosen answers less the other's.
    pub preference_accuracy: Option<Interval>,
    /// Of pairs, its `log p(chosen) - log p(rejected)` less the other's, in nats.
    pub margin: Option<Interval>,
    /// Of questions, its share of exact answers less the other's.
    #[serde(default)]
    pub exact_match: Option<Interval>,
    /// Of questions, its share of answers that hold what is expected less the other's.
    #[serde(default)]
    pub contains: Option<Interval>,
    /// Rows of which it does better: a lower loss, of pairs a larger margin.
    pub wins: u64,
    /// Rows of which both do equally.
    pub ties: u64,
    /// Rows of which the other does better.
    pub losses: u64,
    /// The same by length.
    pub buckets: Vec<BucketDifference>,
}

/// A difference with its 95% interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The difference.
    pub difference: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The difference on rows whose length lies in a range.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BucketDifference {
    /// Longest length of the bucket, in tokens, inclusive.
    pub up_to_tokens: u64,
    /// Rows in it.
    pub examples: u64,
    /// Loss, of pairs margin, less the other model's.
    pub difference: Interval,
}

/// A row with what each model makes of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShownRow {
    /// Object the row is in.
    pub object: String,
    /// Number of the row in it, from 1.
    pub row: u64,
    /// What is given to the model; empty where every token is scored.
    pub prompt: String,
    /// What is scored; of pairs the chosen answer.
    pub expected: String,
    /// Of pairs the rejected answer.
    pub rejected: Option<String>,
    /// One for each model.
    pub scores: Vec<RowScore>,
}

/// What a model makes of a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowScore {
    /// The model's name.
    pub name: String,
    /// Mean negative log-likelihood of the scored tokens, in nats; of pairs of the chosen answer's. Absent when not finite.
    pub loss: Option<f64>,
    /// Of pairs `log p(chosen) - log p(rejected)`, in nats. Absent when not finite.
    pub margin: Option<f64>,
    /// What the model writes itself; empty where it was not asked.
    pub answer: String,
}

impl ScoreReport {
    /// Makes numbers that are not finite absent or 0, since JSON has no word for them.
    pub fn retain_finite(&mut self) {
        for difference in &mut self.differences {
            let ScoreDifference {
                loss,
                token_accuracy,
                preference_accuracy,
                margin,
                exact_match,
                contains,
                buckets,
                ..
            } = difference;
            let of_buckets = buckets.iter_mut().map(|bucket| &mut bucket.difference);
            let of_answers = [preference_accuracy, margin, exact_match, contains].into_iter().flatten();
            let all = [loss, token_accuracy].into_iter().chain(of_answers).chain(of_buckets);
            for Interval { difference, low, high } in all {
                for number in [difference, low, high] {
                    *number = if number.is_finite() { *number } else { 0.0 };
                }
            }
        }
        for score in self.rows.iter_mut().flat_map(|row| &mut row.scores) {
            score.loss = score.loss.filter(|loss| loss.is_finite());
            score.margin = score.margin.filter(|margin| margin.is_finite());
        }
    }
}
