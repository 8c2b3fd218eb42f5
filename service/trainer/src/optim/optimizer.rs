//! The update of all trained values: a rule over one flat vector, whose groups may have rates of their own.
//!
//! Weight by weight every rule is by itself, so how the vector is cut into groups and pieces does not change the result.

use std::ops::Range;

use hone_job::spec::{self, UpdateRule};
use tch::{Device, Tensor};

use super::moment::{Moment, Sign};
use super::{adamw, lion, sgd};

/// Neighbours in the flat vector that share a learning rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Which values.
    pub values: Range<i64>,
    /// Their rate over the run's.
    pub rate: f64,
    /// Whether weight decay is for them.
    pub decays: bool,
}

impl Group {
    /// The groups of LoRA+ (Hayou et al. 2024, arXiv:2402.12354) over a vector of `len` values that begins with `num_a` of
    /// A's and `num_b` of B's and of DoRA's lengths: these have `ratio` times the rate, as in PEFT's
    /// `create_loraplus_optimizer`. What comes after, the embedding's matrices and what is trained whole, has the rate of A.
    /// All are decayed alike.
    pub fn lora_plus(num_a: i64, num_b: i64, len: i64, ratio: f64) -> Vec<Group> {
        let borders = [0, num_a, num_a + num_b, len];
        let groups = borders.windows(2).zip([1.0, ratio, 1.0]);
        match ratio {
            1.0 => vec![Group { values: 0..len, rate: 1.0, decays: true }],
            _ => groups.map(|(pair, rate)| Group { values: pair[0]..pair[1], rate, decays: true }).collect(),
        }
    }

    /// The groups of a whole model, whose vector of `len` values begins with those of its matrices: norms and biases, which
    /// follow, are not decayed, as in transformers' Trainer.
    pub fn full(num_matrix_values: i64, len: i64) -> Vec<Group> {
        let group = |values, decays| Group { values, rate: 1.0, decays };
        vec![group(0..num_matrix_values, true), group(num_matrix_values..len, false)]
    }
}

/// What a rule is given for some neighbours: all flat and as long as each other.
pub(super) struct Step<'a> {
    /// The weights to move.
    pub(super) weights: &'a Tensor,
    /// Their gradient, after clipping.
    pub(super) gradient: &'a Tensor,
    /// Their rate.
    pub(super) learning_rate: f64,
    pub(super) weight_decay: f64,
    /// Number of this update, from 1.
    pub(super) number: u64,
}

/// Decoupled weight decay: `p ← p - η λ p`.
pub(super) fn decay(step: &Step<'_>) {
    if step.weight_decay > 0.0 {
        let _ = step.weights.shallow_clone().g_mul_scalar_(1.0 - step.learning_rate * step.weight_decay);
    }
}

/// The rule, its settings, and its moments.
#[derive(Debug)]
pub struct Optimizer {
    options: spec::Optimizer,
    groups: Vec<Group>,
    /// Pieces that are updated one after the other.
    pieces: Vec<Range<i64>>,
    moments: Vec<(&'static str, Moment)>,
    num_updates: u64,
}

impl Optimizer {
    /// No moments yet, for a vector that `groups` cover.
    pub fn new(options: &spec::Optimizer, groups: Vec<Group>, device: Device) -> Optimizer {
        let len = groups.iter().map(|group| group.values.end).max().unwrap_or(0);
        let moment = |(name, sign)| (name, Moment::new(options.moments, sign, len, device));
        Optimizer {
            options: options.clone(),
            groups,
            pieces: Moment::chunks(len),
            moments: moments_of(&options.rule).iter().copied().map(moment).collect(),
            num_updates: 0,
        }
    }

    /// One update of `weights` along `gradient`, both flat.
    pub fn update(&mut self, weights: &Tensor, gradient: &Tensor, learning_rate: f64) {
        self.num_updates += 1;
        tch::no_grad(|| {
            for piece in &self.pieces {
                let opened: Vec<Tensor> = self.moments.iter().map(|(_, moment)| moment.open(piece)).collect();
                for group in &self.groups {
                    self.update_part(group, piece, &opened, weights, gradient, learning_rate);
                }
                for ((_, moment), values) in self.moments.iter().zip(&opened) {
                    moment.close(piece, values);
                }
            }
        });
    }

    /// The values that are both in the group and in the piece whose moments are opened.
    fn update_part(
        &self,
        group: &Group,
        piece: &Range<i64>,
        opened: &[Tensor],
        weights: &Tensor,
        gradient: &Tensor,
        learning_rate: f64,
    ) {
        let start = group.values.start.max(piece.start);
        let len = group.values.end.min(piece.end) - start;
        if len <= 0 {
            return;
        }
        let mut moments: Vec<Tensor> = opened.iter().map(|moment| moment.narrow(0, start - piece.start, len)).collect();
        let step = Step {
            weights: &weights.narrow(0, start, len),
            gradient: &gradient.narrow(0, start, len),
            learning_rate: learning_rate * group.rate,
            weight_decay: if group.decays { self.options.weight_decay } else { 0.0 },
            number: self.num_updates,
        };
        match (self.options.rule, moments.as_mut_slice()) {
            (UpdateRule::AdamW { beta1, beta2, epsilon }, [m, v]) => {
                adamw::update(&step, [m, v], beta1, beta2, epsilon)
            }
            (UpdateRule::Lion { beta1, beta2 }, [m]) => lion::update(&step, m, beta1, beta2),
            (UpdateRule::Sgd { momentum, nesterov }, moments) => {
                sgd::update(&step, moments.first_mut(), momentum, nesterov);
            }
            (rule, moments) => unreachable!("{} moments of {}", moments.len(), rule.name()),
        }
    }

    /// The moments by torch's names. A checkpoint copies from them, a resumed run into them.
    pub fn moments(&self) -> impl Iterator<Item = (&'static str, &Moment)> {
        self.moments.iter().map(|(name, moment)| (*name, moment))
    }

    /// What kind of state this is, for people: only a run with the same can go on from it.
    pub fn kind(&self) -> String {
        format!("{} with {} moments", self.options.rule.name(), self.options.moments.name())
    }

    /// Updates made.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// Goes on after so many updates; their moments are to be copied into [`Optimizer::moments`].
    pub fn set_num_updates(&mut self, num_updates: u64) {
        self.num_updates = num_updates;
    }
}

/// The moments that a rule keeps, by torch's names.
fn moments_of(rule: &UpdateRule) -> &'static [(&'static str, Sign)] {
    match rule {
        UpdateRule::AdamW { .. } => &[("exp_avg", Sign::Signed), ("exp_avg_sq", Sign::Unsigned)],
        UpdateRule::Lion { .. } => &[("exp_avg", Sign::Signed)],
        UpdateRule::Sgd { momentum, .. } if *momentum == 0.0 => &[],
        UpdateRule::Sgd { .. } => &[("momentum_buffer", Sign::Signed)],
    }
}

#[cfg(test)]
mod tests;
