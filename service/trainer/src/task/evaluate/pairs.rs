//! Evaluation of held-out pairs: averages over pairs, whatever the micro-batches, with standard errors over pairs.

use std::collections::BTreeMap;
use std::time::Instant;

use hone_data::admit::bucket;
use hone_data::pack::pack;
use hone_data::tokenize::Example;
use hone_job::event::{BucketLoss, Evaluation, PreferenceMetrics};
use tch::{Kind, Tensor};

use super::{RowFigure, finite};
use crate::loss::pairs::AnswerScores;
use crate::loss::preference::{self, Pairs};
use crate::model::{Adapter, Decoder};
use crate::task::objective::{FIGURES, Metrics, PairObjective, chosen_targets, figures};

/// Scores every pair. `step` is the number of steps taken; whether it is the best so far is left to the caller.
pub(in crate::task) fn evaluate_pairs(
    model: &Decoder,
    adapter: Option<&Adapter>,
    objective: &PairObjective,
    examples: &[Example],
    tokens_per_micro_batch: usize,
    step: u64,
) -> (Evaluation, Vec<RowFigure>) {
    let start = Instant::now();
    let rows = tch::no_grad(|| score_pairs(model, adapter, objective, examples, tokens_per_micro_batch));
    let all: Vec<usize> = (0..examples.len()).collect();
    let whole = Part::new(objective, examples, &rows, &all);
    let figure = |(row, example): (&Metrics, &Example)| RowFigure {
        loss: row.chosen_nll / chosen_targets(&[example]) as f64,
        margin: Some(row.reward_chosen - row.reward_rejected),
    };
    let figures = rows.iter().zip(examples).map(figure).collect();
    let evaluation = Evaluation {
        step,
        loss: finite(whole.loss),
        loss_standard_error: whole.loss_standard_error,
        perplexity: None,
        token_accuracy: whole.token_accuracy,
        examples: examples.len() as u64,
        tokens: examples.iter().map(Example::num_targets).sum(),
        buckets: buckets(objective, examples, &rows),
        seconds: start.elapsed().as_secs_f64(),
        best: false,
        preference: Some(whole.preference),
        answers: None,
    };
    (evaluation, figures)
}

/// Figures of each pair, in the order of the examples. Losses are taken once all pairs are scored, since some of them compare
/// pairs with each other.
fn score_pairs(
    model: &Decoder,
    adapter: Option<&Adapter>,
    objective: &PairObjective,
    examples: &[Example],
    max_tokens: usize,
) -> Vec<Metrics> {
    let all: Vec<&Example> = examples.iter().collect();
    let micro_batches = pack(&all, max_tokens, model.prefixes());
    let parts: Vec<AnswerScores> = micro_batches
        .iter()
        .map(|micro_batch| AnswerScores::new(model, adapter, micro_batch, None, &objective.preference))
        .collect();
    let scores = AnswerScores::joined(&parts, &micro_batches);
    let indices = Tensor::arange(examples.len() as i64, (Kind::Int64, tch::Device::Cpu));
    let reference = objective.eval.of(&indices, model.device());
    let pairs = Pairs { scores: &scores, reference, matching: None };
    let losses = preference::pair_losses(&objective.preference, &pairs);
    let flat = figures(&objective.preference, &pairs, &losses).flatten(0, 1);
    let flat = Vec::<f64>::try_from(flat).expect("a flat vector");
    flat.chunks(FIGURES as usize).map(Metrics::of).collect()
}

/// Averages over some of the pairs.
struct Part {
    loss: f64,
    loss_standard_error: f64,
    token_accuracy: f64,
    preference: PreferenceMetrics,
}

impl Part {
    fn new(objective: &PairObjective, examples: &[Example], rows: &[Metrics], of: &[usize]) -> Part {
        let count = of.len() as f64;
        let some: Vec<&Example> = of.iter().map(|&index| &examples[index]).collect();
        let targets = chosen_targets(&some) as f64;
        let sum = |figure: fn(&Metrics) -> f64| of.iter().map(|&index| figure(&rows[index])).sum::<f64>();
        let whole = Metrics {
            loss: sum(|row| row.loss),
            chosen_nll: sum(|row| row.chosen_nll),
            chosen_correct: sum(|row| row.chosen_correct),
            wins: sum(|row| row.wins),
            ties: sum(|row| row.ties),
            reward_chosen: sum(|row| row.reward_chosen),
            reward_rejected: sum(|row| row.reward_rejected),
            logps_chosen: sum(|row| row.logps_chosen),
            logps_rejected: sum(|row| row.logps_rejected),
        };
        let mean_nll = whole.chosen_nll / targets;
        let nll_weight = preference::nll_weight(&objective.preference);
        // Of the ratio Σ nll / Σ tokens what a pair adds to its deviation, as in the evaluation of texts.
        let deviation = |index: usize| {
            let tokens = chosen_targets(&[&examples[index]]) as f64;
            let of_ratio = (rows[index].chosen_nll - mean_nll * tokens) * count / targets;
            rows[index].loss - whole.loss / count + nll_weight * of_ratio
        };
        let margin = |index: usize| rows[index].reward_chosen - rows[index].reward_rejected;
        let mut preference = whole.mean(count);
        preference.accuracy_standard_error =
            standard_error(of.iter().map(|&index| rows[index].wins - whole.wins / count));
        preference.margin_standard_error = standard_error(of.iter().map(|&index| margin(index) - preference.margin));
        Part {
            loss: whole.loss / count + nll_weight * mean_nll,
            loss_standard_error: standard_error(of.iter().map(|&index| deviation(index))),
            token_accuracy: whole.chosen_correct / targets.max(1.0),
            preference,
        }
    }
}

/// `√(Σ d² / (m (m - 1)))` of m deviations from their mean; 0 where there is none.
pub(in crate::task) fn standard_error(deviations: impl Iterator<Item = f64>) -> f64 {
    let (count, squares) = deviations.fold((0.0, 0.0), |(count, squares), d| (count + 1.0, squares + d * d));
    let error: f64 = (squares / (count * (count - 1.0))).sqrt();
    if error.is_finite() { error } else { 0.0 }
}

fn buckets(objective: &PairObjective, examples: &[Example], rows: &[Metrics]) -> Vec<BucketLoss> {
    let mut members: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, example) in examples.iter().enumerate() {
        members.entry(bucket(example.len() as u64)).or_default().push(index);
    }
    members
        .into_iter()
        .map(|(up_to_tokens, members)| {
            let part = Part::new(objective, examples, rows, &members);
            BucketLoss {
                up_to_tokens,
                loss: part.loss,
                tokens: members.iter().map(|&index| examples[index].num_targets()).sum(),
                examples: members.len() as u64,
                preference: Some(part.preference),
            }
        })
        .filter(|bucket| bucket.loss.is_finite())
        .collect()
}
