//! Figures of each model, and how it differs from the first.

use std::collections::BTreeMap;

use hone_data::admit::bucket;
use hone_data::tokenize::Example;
use hone_job::event::{Evaluation, PreferenceMetrics};
use hone_job::score::{BucketDifference, ModelScore, ScoreDifference, ScoreReport};
use hone_job::spec::Candidate;

use super::{Bootstrap, Grades};
use crate::task::evaluate::{DocumentScore, standard_error, summary};

/// What one model makes of the rows.
pub(super) struct Scored<'a> {
    /// The model.
    pub(super) candidate: &'a Candidate,
    /// Steps of its checkpoint.
    pub(super) step: u64,
    /// The score of each document of each row: one, or of a pair that of the chosen and that of the rejected answer, or of
    /// choices that of the right one and those of the others.
    pub(super) rows: Vec<Vec<DocumentScore>>,
    /// What it wrote to every row, where that was asked.
    pub(super) grades: Option<Grades>,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Scored<'_> {
    /// `log p(chosen) - log p(rejected)` of a pair; of choices, less that of the likeliest wrong one.
    pub(super) fn margin(&self, row: usize) -> f64 {
        self.rejected(row).nll - self.rows[row][0].nll
    }

    /// The rejected answer; of choices the likeliest wrong one.
    fn rejected(&self, row: usize) -> DocumentScore {
        let others = self.rows[row][1..].iter().copied();
        others.min_by(|one, other| one.nll.total_cmp(&other.nll)).expect("another answer")
    }

    /// Whether the right answer is the likeliest per token.
    fn is_right_per_token(&self, row: usize) -> bool {
        let loss = |document: &DocumentScore| document.nll / document.tokens as f64;
        self.rows[row][1..].iter().all(|other| loss(other) > loss(&self.rows[row][0]))
    }

    /// Nats per token of a row's text or chosen answer.
    pub(super) fn loss(&self, row: usize) -> f64 {
        self.rows[row][0].nll / self.rows[row][0].tokens as f64
    }

    /// How well it does on a row; more is better.
    fn merit(&self, row: usize, are_pairs: bool) -> f64 {
        if are_pairs { self.margin(row) } else { -self.loss(row) }
    }
}

/// The figures of all models, without rows to show.
pub(super) fn report(
    examples: &[Example],
    scored: &[Scored<'_>],
    are_pairs: bool,
    bootstrap: Bootstrap,
) -> ScoreReport {
    let models = scored.iter().map(|one| ModelScore {
        name: one.candidate.name.clone(),
        uri: one.candidate.checkpoint.clone().unwrap_or_default(),
        evaluation: evaluation(examples, one, are_pairs),
    });
    let (first, others) = scored.split_first().expect("a model is scored");
    let against_first = |model| Contest { model, baseline: first, are_pairs, bootstrap }.difference(examples);
    ScoreReport { models: models.collect(), differences: others.iter().map(against_first).collect(), rows: Vec::new() }
}

fn evaluation(examples: &[Example], scored: &Scored<'_>, are_pairs: bool) -> Evaluation {
    let all: Vec<usize> = (0..examples.len()).collect();
    let mut evaluation = summary(examples, &scored.first());
    evaluation.step = scored.step;
    evaluation.seconds = scored.seconds;
    evaluation.answers = scored.grades.as_ref().map(Grades::metrics);
    if are_pairs {
        evaluation.preference = Some(preference(scored, &all));
        let members = by_length(examples);
        for found in &mut evaluation.buckets {
            found.preference = members.get(&found.up_to_tokens).map(|rows| preference(scored, rows));
        }
    }
    evaluation
}

/// How the answers of some pairs are told apart by their likelihood alone.
fn preference(scored: &Scored<'_>, rows: &[usize]) -> PreferenceMetrics {
    let mean = |of: &dyn Fn(usize) -> f64| rows.iter().map(|&row| of(row)).sum::<f64>() / rows.len() as f64;
    let (chosen, rejected) = (mean(&|row| -scored.rows[row][0].nll), mean(&|row| -scored.rejected(row).nll));
    let has_choices = rows.iter().any(|&row| scored.rows[row].len() > 2);
    let wins = |row: usize| f64::from(u8::from(scored.margin(row) > 0.0));
    let (accuracy, margin) = (mean(&wins), mean(&|row| scored.margin(row)));
    PreferenceMetrics {
        pairs: rows.len() as u64,
        accuracy,
        ties: mean(&|row| f64::from(u8::from(scored.margin(row) == 0.0))),
        margin,
        reward_chosen: chosen,
        reward_rejected: rejected,
        logps_chosen: chosen,
        logps_rejected: rejected,
        accuracy_standard_error: standard_error(rows.iter().map(|&row| wins(row) - accuracy)),
        margin_standard_error: standard_error(rows.iter().map(|&row| scored.margin(row) - margin)),
        accuracy_per_token: has_choices.then(|| mean(&|row| f64::from(u8::from(scored.is_right_per_token(row))))),
    }
}

/// The rows of each length bucket.
fn by_length(examples: &[Example]) -> BTreeMap<u64, Vec<usize>> {
    let mut members: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (row, example) in examples.iter().enumerate() {
        members.entry(bucket(example.len() as u64)).or_default().push(row);
    }
    members
}

/// A model against another.
struct Contest<'a> {
    model: &'a Scored<'a>,
    baseline: &'a Scored<'a>,
    are_pairs: bool,
    bootstrap: Bootstrap,
}

impl Contest<'_> {
    fn difference(&self, examples: &[Example]) -> ScoreDifference {
        let all: Vec<usize> = (0..examples.len()).collect();
        let interval = |of: &dyn Fn(usize) -> (f64, f64)| {
            self.bootstrap.ratio(&all.iter().map(|&row| of(row)).collect::<Vec<_>>())
        };
        let tokens = |row: usize| self.model.rows[row][0].tokens as f64;
        let correct = |one: &Scored<'_>, row: usize| one.rows[row][0].correct as f64;
        let prefers = |one: &Scored<'_>, row: usize| f64::from(u8::from(one.margin(row) > 0.0));
        let accuracy = |row| (prefers(self.model, row) - prefers(self.baseline, row), 1.0);
        let merits = all.iter().map(|&row| {
            let merit = |one: &Scored<'_>| one.merit(row, self.are_pairs);
            merit(self.model).total_cmp(&merit(self.baseline))
        });
        let merits: Vec<_> = merits.collect();
        let graded = |of: &dyn Fn(&Grades) -> &Vec<bool>| {
            let (model, baseline) = (self.model.grades.as_ref()?, self.baseline.grades.as_ref()?);
            let value = |one: &Grades, row: usize| f64::from(u8::from(of(one)[row]));
            Some(interval(&|row| (value(model, row) - value(baseline, row), 1.0)))
        };
        let count = |wanted| merits.iter().filter(|merit| **merit == wanted).count() as u64;
        ScoreDifference {
            name: self.model.candidate.name.clone(),
            baseline: self.baseline.candidate.name.clone(),
            loss: interval(&|row| self.loss(row)),
            token_accuracy: interval(&|row| (correct(self.model, row) - correct(self.baseline, row), tokens(row))),
            preference_accuracy: self.are_pairs.then(|| interval(&accuracy)),
            margin: self.are_pairs.then(|| interval(&|row| self.margin(row))),
            exact_match: graded(&|grades| &grades.is_exact),
            contains: graded(&|grades| &grades.contains),
            wins: count(std::cmp::Ordering::Greater),
            ties: count(std::cmp::Ordering::Equal),
            losses: count(std::cmp::Ordering::Less),
            buckets: by_length(examples).into_iter().map(|(len, rows)| self.bucket(len, &rows)).collect(),
        }
    }

    fn bucket(&self, up_to_tokens: u64, rows: &[usize]) -> BucketDifference {
        let of = |row| if self.are_pairs { self.margin(row) } else { self.loss(row) };
        let difference = self.bootstrap.ratio(&rows.iter().map(|&row| of(row)).collect::<Vec<_>>());
        BucketDifference { up_to_tokens, examples: rows.len() as u64, difference }
    }

    /// Nats by which the losses of a row differ, over its tokens.
    fn loss(&self, row: usize) -> (f64, f64) {
        let (model, baseline) = (self.model.rows[row][0], self.baseline.rows[row][0]);
        (model.nll - baseline.nll, model.tokens as f64)
    }

    fn margin(&self, row: usize) -> (f64, f64) {
        (self.model.margin(row) - self.baseline.margin(row), 1.0)
    }
}
