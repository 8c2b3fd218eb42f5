//! Evaluation of held-out rows: examples in, averages over tokens out, whatever the micro-batches.
//!
//! No row is cut or left out for its length, since that would flatter the result; the loss per length bucket shows where
//! it comes from. The standard error treats rows as the sample, because tokens of one row are not independent: with s_i
//! nats on n_i tokens of row i of m, and L = Σs / Σn, it is `√(m / (m - 1) · Σ(s_i - L n_i)²) / Σn`, the usual one of a
//! ratio (Cochran 1977, Sampling Techniques, section 6.4).

use std::collections::BTreeMap;
use std::time::Instant;

use hone_data::admit::bucket;
use hone_data::pack::pack;
use hone_data::tokenize::Example;
use hone_job::event::{BucketLoss, Evaluation};
use serde::Serialize;
use tch::Kind;

use crate::loss::{Targets, token_losses};
use crate::model::{Adapter, Batch, Decoder};

mod pairs;

pub(super) use pairs::{evaluate_pairs, standard_error};

/// Scores every example. `step` is the number of steps taken; whether it is the best so far is left to the caller.
pub(super) fn evaluate(
    model: &Decoder,
    adapter: Option<&Adapter>,
    examples: &[Example],
    tokens_per_micro_batch: usize,
    step: u64,
) -> (Evaluation, Vec<RowFigure>) {
    let start = Instant::now();
    let scores = score_documents(model, adapter, examples, tokens_per_micro_batch, &mut |_| true);
    let rows: Vec<_> = scores.expect("nobody ends it").into_iter().map(|documents| documents[0]).collect();
    let evaluation = Evaluation { step, seconds: start.elapsed().as_secs_f64(), ..summary(examples, &rows) };
    let figures = rows.iter().map(|row| RowFigure { loss: row.nll / row.tokens as f64, margin: None }).collect();
    (evaluation, figures)
}

/// How well the model does on one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RowFigure {
    /// Nats per token of the text, or of the chosen answer.
    pub(super) loss: f64,
    /// Reward of the chosen answer less that of the rejected one; of pairs.
    pub(super) margin: Option<f64>,
}

impl RowFigure {
    /// How hard the row is; more is harder.
    pub(super) fn hardness(self) -> f64 {
        self.margin.map_or(self.loss, |margin| -margin)
    }
}

/// Averages over the rows of some examples, one of each.
pub(super) fn summary(examples: &[Example], rows: &[DocumentScore]) -> Evaluation {
    let (total, standard_error) = total(rows);
    let loss = finite(total.nll / total.tokens as f64);
    Evaluation {
        loss,
        loss_standard_error: standard_error,
        perplexity: loss.map(f64::exp).and_then(finite),
        token_accuracy: total.correct as f64 / total.tokens.max(1) as f64,
        examples: examples.len() as u64,
        tokens: total.tokens,
        buckets: buckets(examples, rows),
        ..Evaluation::default()
    }
}

/// What the model says about one document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct DocumentScore {
    /// Negative log-likelihood of its targets, in nats.
    pub(super) nll: f64,
    /// Its targets.
    pub(super) tokens: u64,
    /// Those that the model ranks first.
    pub(super) correct: u64,
}

impl DocumentScore {
    fn add(&mut self, other: DocumentScore) {
        self.nll += other.nll;
        self.tokens += other.tokens;
        self.correct += other.correct;
    }
}

/// Scores every document of every example. `go_on` hears how many examples are done, and ends it with false; then there is
/// nothing.
pub(super) fn score_documents(
    model: &Decoder,
    adapter: Option<&Adapter>,
    examples: &[Example],
    max_tokens: usize,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Option<Vec<Vec<DocumentScore>>> {
    let none = |example: &Example| vec![DocumentScore::default(); example.documents.len()];
    let mut rows: Vec<_> = examples.iter().map(none).collect();
    let all: Vec<&Example> = examples.iter().collect();
    let mut done = 0;
    tch::no_grad(|| {
        for micro_batch in pack(&all, max_tokens, model.prefixes()) {
            if !go_on(done) {
                return None;
            }
            let targets = Targets::new(&micro_batch, model.device());
            let hidden = model.forward(&Batch::of(&micro_batch, model.device()), adapter, None);
            let losses = token_losses(model, adapter, &hidden, &targets);
            let nll = Vec::<f64>::try_from(losses.nll.to_kind(Kind::Double)).expect("a flat vector");
            let correct = Vec::<bool>::try_from(losses.correct).expect("a flat vector");
            let places = places(&micro_batch.examples);
            for ((document, nll), correct) in targets.documents().iter().zip(nll).zip(correct) {
                let (example, number) = places[*document];
                rows[example][number].add(DocumentScore { nll, tokens: 1, correct: correct.into() });
            }
            done += places.iter().filter(|(_, number)| *number == 0).count();
        }
        Some(rows)
    })
}

/// For each document of a micro-batch its example and its number within it; `examples` has the example of each, and those of
/// one are neighbours.
fn places(examples: &[usize]) -> Vec<(usize, usize)> {
    let neighbours = examples.chunk_by(|one, other| one == other);
    neighbours.flat_map(|same| same.iter().copied().zip(0..)).collect()
}

/// The sum over all rows, and the standard error of its loss.
fn total(rows: &[DocumentScore]) -> (DocumentScore, f64) {
    let mut total = DocumentScore::default();
    rows.iter().for_each(|row| total.add(*row));
    let loss = total.nll / total.tokens as f64;
    let num_rows = rows.len() as f64;
    let squares: f64 = rows.iter().map(|row| (row.nll - loss * row.tokens as f64).powi(2)).sum();
    let standard_error = (num_rows / (num_rows - 1.0) * squares).sqrt() / total.tokens as f64;
    (total, if standard_error.is_finite() { standard_error } else { 0.0 })
}

fn buckets(examples: &[Example], rows: &[DocumentScore]) -> Vec<BucketLoss> {
    let mut buckets: BTreeMap<u64, (DocumentScore, u64)> = BTreeMap::new();
    for (example, row) in examples.iter().zip(rows) {
        let (sum, count) = buckets.entry(bucket(example.len() as u64)).or_default();
        sum.add(*row);
        *count += 1;
    }
    let loss = |sum: DocumentScore| sum.nll / sum.tokens.max(1) as f64;
    buckets
        .into_iter()
        .filter(|(_, (sum, _))| loss(*sum).is_finite())
        .map(|(up_to_tokens, (sum, examples))| BucketLoss {
            up_to_tokens,
            loss: loss(sum),
            tokens: sum.tokens,
            examples,
            preference: None,
        })
        .collect()
}

/// The number, if JSON has a word for it.
pub(super) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use hone_data::tokenize::{Document, IGNORE_INDEX};

    use super::*;
    use crate::model::{Architecture, tiny};

    fn example(len: usize, seed: usize) -> Example {
        let input_ids: Vec<u32> = (0..len).map(|i| ((i * 7 + seed * 13 + 1) % 53) as u32).collect();
        let next = |i: usize| if i % 3 == 1 || i + 1 == len { IGNORE_INDEX } else { i64::from(input_ids[i + 1]) };
        let labels = (0..len).map(next).collect();
        let documents = vec![Document { input_ids, labels }];
        Example { documents, object: "rows".into(), row: seed as u64 + 1, is_text: false }
    }

    #[test]
    fn does_not_depend_on_how_rows_are_cut_into_micro_batches() {
        let model = tiny::model(Architecture::Llama);
        let examples: Vec<Example> =
            [5, 40, 3, 17, 17, 60].iter().enumerate().map(|(i, &len)| example(len, i)).collect();
        let at = |max_tokens| evaluate(&model, None, &examples, max_tokens, 3).0;
        let one = at(1);
        assert_eq!((one.step, one.examples), (3, 6));
        assert_eq!(one.tokens, examples.iter().map(Example::num_targets).sum::<u64>());
        for max_tokens in [20, 64, 1000] {
            let other = at(max_tokens);
            assert!((one.loss.unwrap() - other.loss.unwrap()).abs() < 1e-5);
            assert!((one.loss_standard_error - other.loss_standard_error).abs() < 1e-5);
            assert_eq!(one.token_accuracy, other.token_accuracy);
            assert_eq!(one.buckets.len(), other.buckets.len());
        }
        let by_buckets: f64 = one.buckets.iter().map(|bucket| bucket.loss * bucket.tokens as f64).sum();
        assert!((by_buckets / one.tokens as f64 - one.loss.unwrap()).abs() < 1e-9);
        assert_eq!(one.buckets.iter().map(|bucket| bucket.up_to_tokens).collect::<Vec<_>>(), [16, 24, 48, 64]);
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean_when_rows_are_alike() {
        // Rows of one token each: the ratio is a mean, and its error the usual s / √m.
        let rows: Vec<DocumentScore> =
            [1.0, 2.0, 4.0, 5.0].map(|nll| DocumentScore { nll, tokens: 1, correct: 0 }).to_vec();
        let (sum, error) = total(&rows);
        assert_eq!(sum.nll, 12.0);
        let variance = [4.0f64, 1.0, 1.0, 4.0].iter().sum::<f64>() / 3.0;
        assert!((error - (variance / 4.0).sqrt()).abs() < 1e-12);
        assert_eq!(total(&rows[..1]).1, 0.0);
    }
}
