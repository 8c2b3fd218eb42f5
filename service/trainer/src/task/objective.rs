//! What a run makes small: the examples of a step in, gradients of what is trained out, with figures of how it went.
//!
//! The one training loop serves every method; what differs is here. Sums stay on the device until the step is whole, since
//! reading one waits for everything before it.

use hone_data::pack::{MicroBatch, pack};
use hone_data::tokenize::Example;
use hone_job::event::PreferenceMetrics;
use hone_job::spec::Preference;
use tch::{Device, Kind, Tensor};

use super::activations::Activations;
use super::progress::mask_seed;
use crate::loss::pairs::{AnswerScores, places};
use crate::loss::preference::{self, Matching, Pairs};
use crate::loss::{Targets, token_losses};
use crate::model::{Adapter, Batch, Decoder, TrainingOptions};

/// What a run makes small.
#[derive(Debug)]
pub(super) enum Objective {
    /// The negative log-likelihood of targets, averaged over them.
    Likelihood {
        /// Noise on the embeddings (NEFTune); 0 is none.
        noise_alpha: f64,
    },
    /// Losses of pairs, averaged over pairs.
    Preference(PairObjective),
}

/// Losses of pairs, and what they are measured against.
#[derive(Debug)]
pub(super) struct PairObjective {
    /// Which losses.
    pub(super) preference: Preference,
    /// What the reference says about the training examples.
    pub(super) train: ReferenceLogps,
    /// What it says about the evaluation examples.
    pub(super) eval: ReferenceLogps,
}

/// Log-probabilities of answers under the reference: `[examples, 2]` float32, chosen and rejected; zero where no loss asks.
#[derive(Debug)]
pub(super) struct ReferenceLogps(pub(super) Tensor);

impl ReferenceLogps {
    /// For so many examples, when no loss asks.
    pub(super) fn none(num_examples: usize) -> ReferenceLogps {
        ReferenceLogps(Tensor::zeros([num_examples as i64, 2], (Kind::Float, Device::Cpu)))
    }

    /// Those of some of the examples, chosen and rejected. `[P]`
    pub(super) fn of(&self, examples: &Tensor, device: Device) -> [Tensor; 2] {
        let rows = self.0.index_select(0, &examples.to_device(Device::Cpu)).to_device(device);
        [0, 1].map(|side| rows.select(1, side))
    }
}

/// The examples of one optimizer step.
pub(super) struct Step<'a> {
    /// Their places among the training examples.
    pub(super) indices: &'a [usize],
    /// Themselves.
    pub(super) examples: Vec<&'a Example>,
    /// Most tokens that go through the model at once.
    pub(super) tokens_per_micro_batch: usize,
    /// What of a micro-batch is kept between its passes.
    pub(super) activations: Activations,
    /// Seed of the run, with the number of the step it decides dropout.
    pub(super) seed: u64,
    /// Steps taken before.
    pub(super) number: u64,
}

/// How far the gradients of a step are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Passed {
    /// Its rows are cut into micro-batches.
    Packed,
    /// The loss of a micro-batch is known.
    Forward,
    /// Its gradients are added up.
    Backward {
        /// Its weight in the step's average: its targets, or its pairs.
        weight: f64,
    },
}

/// What the backward passes of one step found; the gradients themselves are in what is trained.
#[derive(Debug)]
pub(super) struct Gradients {
    /// The loss of the step.
    pub(super) loss: f64,
    /// Share of the targets that the model ranks first; of pairs, of the chosen answers' targets.
    pub(super) accuracy: f64,
    /// Examples.
    pub(super) examples: u64,
    /// Tokens of all documents.
    pub(super) tokens: u64,
    /// Targets of all documents.
    pub(super) num_targets: u64,
    /// Micro-batches.
    pub(super) micro_batches: u32,
    /// How pairs were told apart, when there are any.
    pub(super) preference: Option<PreferenceMetrics>,
}

impl Objective {
    /// Adds up the gradients of a step's loss, micro-batch by micro-batch. `passed` hears how far it is.
    pub(super) fn gradients(
        &self,
        model: &Decoder,
        adapter: Option<&Adapter>,
        step: &Step<'_>,
        passed: &mut dyn FnMut(Passed),
    ) -> Gradients {
        let micro_batches = pack(&step.examples, step.tokens_per_micro_batch, model.prefixes());
        passed(Passed::Packed);
        let found = match self {
            Objective::Likelihood { noise_alpha } => {
                likelihood(model, adapter, step, &micro_batches, *noise_alpha, passed)
            }
            Objective::Preference(objective) => objective.gradients(model, adapter, step, &micro_batches, passed),
        };
        Gradients {
            examples: step.indices.len() as u64,
            tokens: step.examples.iter().map(|example| example.num_tokens()).sum(),
            num_targets: step.examples.iter().map(|example| example.num_targets()).sum(),
            micro_batches: micro_batches.len() as u32,
            ..found
        }
    }
}

impl Step<'_> {
    fn dropout_seed(&self, micro_batch: usize) -> u64 {
        mask_seed(self.seed, self.number, micro_batch)
    }

    /// How a micro-batch goes through the model; `number` is its place in the step.
    fn options<'a>(
        &self,
        model: &Decoder,
        adapter: Option<&'a Adapter>,
        number: usize,
        micro_batch: &MicroBatch,
    ) -> TrainingOptions<'a> {
        let recomputes = self.activations.are_recomputed(model, micro_batch.len() as u64);
        TrainingOptions { adapter, seed: self.dropout_seed(number), noise_alpha: 0.0, recomputes }
    }
}

/// Gradients of `Σ nll / n`, n being the targets of the whole step.
fn likelihood(
    model: &Decoder,
    adapter: Option<&Adapter>,
    step: &Step<'_>,
    micro_batches: &[MicroBatch],
    noise_alpha: f64,
    passed: &mut dyn FnMut(Passed),
) -> Gradients {
    let num_targets: u64 = micro_batches.iter().map(|batch| batch.num_targets).sum();
    let device = model.device();
    let mut sum = Tensor::zeros([2], (Kind::Double, device));
    for (number, micro_batch) in micro_batches.iter().enumerate() {
        let options = TrainingOptions { noise_alpha, ..step.options(model, adapter, number, micro_batch) };
        let pass = model.forward_to_train(Batch::of(micro_batch, device), options);
        let losses = token_losses(model, adapter, pass.hidden(), &Targets::new(micro_batch, device));
        let nll = losses.nll.sum(Kind::Float);
        passed(Passed::Forward);
        (&nll / num_targets as f64).backward();
        pass.backward();
        passed(Passed::Backward { weight: micro_batch.num_targets as f64 });
        let correct = losses.correct.sum(Kind::Double);
        sum += Tensor::stack(&[nll.detach().to_kind(Kind::Double), correct], 0);
    }
    let [nll, correct] = [0, 1].map(|i| sum.double_value(&[i]));
    let of_targets = |sum: f64| sum / num_targets as f64;
    Gradients { loss: of_targets(nll), accuracy: of_targets(correct), ..Gradients::none() }
}

impl PairObjective {
    fn gradients(
        &self,
        model: &Decoder,
        adapter: Option<&Adapter>,
        step: &Step<'_>,
        micro_batches: &[MicroBatch],
        passed: &mut dyn FnMut(Passed),
    ) -> Gradients {
        let device = model.device();
        let indices: Vec<i64> = step.indices.iter().map(|&index| index as i64).collect();
        let indices = Tensor::from_slice(&indices);
        let score = |number: usize| {
            AnswerScores::new(model, adapter, &micro_batches[number], Some(step.dropout_seed(number)), &self.preference)
        };
        let matching = (preference::sorts_pairs(&self.preference) && micro_batches.len() > 1).then(|| {
            let scores = tch::no_grad(|| {
                let parts: Vec<_> = (0..micro_batches.len()).map(score).collect();
                AnswerScores::joined(&parts, micro_batches)
            });
            Matching::new(&scores.logps, &self.train.of(&indices, device))
        });
        let (num_pairs, chosen_targets) = (step.examples.len() as f64, chosen_targets(&step.examples) as f64);
        let nll_weight = preference::nll_weight(&self.preference) / chosen_targets;
        let mut sum = Tensor::zeros([FIGURES], (Kind::Double, device));
        for (number, micro_batch) in micro_batches.iter().enumerate() {
            let places = places(micro_batch);
            let options = step.options(model, adapter, number, micro_batch);
            let (scores, pass) = AnswerScores::to_train(model, options, micro_batch, &self.preference);
            let pairs = Pairs {
                scores: &scores,
                reference: self.train.of(&indices.index_select(0, &places), device),
                matching: matching.as_ref().map(|matching| matching.select(&places.to_device(device))),
            };
            let losses = preference::pair_losses(&self.preference, &pairs);
            let mut loss = losses.sum(Kind::Float) / num_pairs;
            if nll_weight > 0.0 {
                loss += scores.chosen_nll.sum(Kind::Float) * nll_weight;
            }
            passed(Passed::Forward);
            loss.backward();
            pass.backward();
            passed(Passed::Backward { weight: places.numel() as f64 });
            sum += figures(&self.preference, &pairs, &losses.detach()).sum_dim_intlist(
                [0i64].as_slice(),
                false,
                Kind::Double,
            );
        }
        let sum = Vec::<f64>::try_from(sum).expect("a flat vector");
        let metrics = Metrics::of(&sum);
        Gradients {
            loss: metrics.loss / num_pairs + nll_weight * metrics.chosen_nll,
            accuracy: metrics.chosen_correct / chosen_targets,
            preference: Some(metrics.mean(num_pairs)),
            ..Gradients::none()
        }
    }
}

/// Targets of the better answers.
pub(super) fn chosen_targets(examples: &[&Example]) -> u64 {
    examples.iter().filter_map(|example| example.documents.first()).map(|document| document.num_targets()).sum()
}

/// Numbers that are kept of a pair.
pub(super) const FIGURES: i64 = 9;

/// What is kept of each pair: float64 `[P, FIGURES]`, in the order of [`Metrics`].
pub(super) fn figures(preference: &Preference, pairs: &Pairs<'_>, losses: &Tensor) -> Tensor {
    let [chosen, rejected] = preference::rewards(preference, pairs);
    let scores = pairs.scores;
    let columns = [
        losses.shallow_clone(),
        scores.chosen_nll.detach(),
        scores.chosen_correct.shallow_clone(),
        chosen.gt_tensor(&rejected),
        chosen.eq_tensor(&rejected),
        chosen,
        rejected,
        scores.logps[0].detach(),
        scores.logps[1].detach(),
    ];
    Tensor::stack(&columns.map(|column| column.to_kind(Kind::Double)), 1)
}

/// Sums over pairs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Metrics {
    pub(super) loss: f64,
    pub(super) chosen_nll: f64,
    pub(super) chosen_correct: f64,
    pub(super) wins: f64,
    pub(super) ties: f64,
    pub(super) reward_chosen: f64,
    pub(super) reward_rejected: f64,
    pub(super) logps_chosen: f64,
    pub(super) logps_rejected: f64,
}

impl Metrics {
    /// A row of [`figures`], or their sum.
    pub(super) fn of(figures: &[f64]) -> Metrics {
        let &[
            loss,
            chosen_nll,
            chosen_correct,
            wins,
            ties,
            reward_chosen,
            reward_rejected,
            logps_chosen,
            logps_rejected,
        ] = figures
        else {
            panic!("{FIGURES} figures, not {}", figures.len());
        };
        Metrics {
            loss,
            chosen_nll,
            chosen_correct,
            wins,
            ties,
            reward_chosen,
            reward_rejected,
            logps_chosen,
            logps_rejected,
        }
    }

    /// Averages over so many pairs.
    pub(super) fn mean(&self, num_pairs: f64) -> PreferenceMetrics {
        let mean = |sum: f64| sum / num_pairs;
        PreferenceMetrics {
            pairs: num_pairs as u64,
            accuracy: mean(self.wins),
            ties: mean(self.ties),
            margin: mean(self.reward_chosen - self.reward_rejected),
            reward_chosen: mean(self.reward_chosen),
            reward_rejected: mean(self.reward_rejected),
            logps_chosen: mean(self.logps_chosen),
            logps_rejected: mean(self.logps_rejected),
            ..PreferenceMetrics::default()
        }
    }
}

impl Gradients {
    fn none() -> Gradients {
        Gradients {
            loss: 0.0,
            accuracy: 0.0,
            examples: 0,
            tokens: 0,
            num_targets: 0,
            micro_batches: 0,
            preference: None,
        }
    }
}

#[cfg(test)]
mod tests;
