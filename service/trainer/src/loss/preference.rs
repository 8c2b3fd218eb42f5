//! The losses of preference optimisation: sums of log-probabilities in, one loss a pair out. Pure arithmetic on `[P]`.
//!
//! Formulas and names are TRL's (DPOTrainer 1.16), each with its paper in `hone_job::spec::PreferenceLoss`; where hone differs,
//! docs/numerics.md says why. With u the log-ratio of policy to reference of an answer, g the score that the divergence makes
//! of it, β the scale, ε the label smoothing and |y| the tokens of an answer: Δ = g(u_chosen) - g(u_rejected).

use hone_job::spec::{Divergence, Preference, PreferenceLoss};
use tch::{Kind, Tensor};

use super::pairs::AnswerScores;

/// exp of more than this is no float32 any more, as in TRL.
const MAX_EXPONENT: f64 = 80.0;

/// Pairs with what both policies say about them. Each pair of tensors is the chosen side, then the rejected; float32 `[P]`.
#[derive(Debug)]
pub struct Pairs<'a> {
    /// What the policy says.
    pub scores: &'a AnswerScores,
    /// Log-probabilities under the reference; zero where no loss needs it.
    pub reference: [Tensor; 2],
    /// Whom aot compares each pair with; none means among these pairs.
    pub matching: Option<Matching>,
}

/// Whom aot compares each pair with: quantiles of the other side over all pairs of a step, as numbers without gradient.
#[derive(Debug)]
pub struct Matching {
    /// For each pair the reference's margin of the same rank as the policy's. `[P]`
    margin: Tensor,
    /// For each chosen answer the rejected log-ratio of the same rank, and the reverse. `[P]`
    ratio: [Tensor; 2],
}

impl Matching {
    /// Over all pairs of a step.
    pub fn new(logps: &[Tensor; 2], reference: &[Tensor; 2]) -> Matching {
        let ratio = [0, 1].map(|side| logps[side].detach() - &reference[side]);
        let margin = logps[0].detach() - logps[1].detach();
        Matching {
            margin: same_rank(&margin, &(&reference[0] - &reference[1])),
            ratio: [same_rank(&ratio[0], &ratio[1]), same_rank(&ratio[1], &ratio[0])],
        }
    }

    /// Those of some of the pairs.
    pub fn select(&self, pairs: &Tensor) -> Matching {
        let of = |x: &Tensor| x.index_select(0, pairs);
        Matching { margin: of(&self.margin), ratio: self.ratio.each_ref().map(of) }
    }
}

/// For each value the one of `others` that has its rank.
fn same_rank(values: &Tensor, others: &Tensor) -> Tensor {
    let ranks = values.argsort(0, false).argsort(0, false);
    others.sort(0, false).0.index_select(0, &ranks)
}

/// Weight of the chosen answers' negative log-likelihood, which is averaged over tokens, beside the mean over pairs.
pub fn nll_weight(preference: &Preference) -> f64 {
    let holds_nll = |kind| matches!(kind, PreferenceLoss::Sft | PreferenceLoss::Orpo);
    preference.losses.iter().filter(|loss| holds_nll(loss.kind)).map(|loss| loss.weight).sum()
}

/// Whether a loss compares pairs with each other.
pub fn sorts_pairs(preference: &Preference) -> bool {
    preference.losses.iter().any(|loss| matches!(loss.kind, PreferenceLoss::Aot | PreferenceLoss::AotUnpaired))
}

/// The weighted sum of the losses of each pair, without the part of [`nll_weight`]. `[P]`
pub fn pair_losses(preference: &Preference, pairs: &Pairs<'_>) -> Tensor {
    let terms = Terms::new(preference, pairs);
    let mut sum = pairs.scores.logps[0].detach().zeros_like();
    for loss in &preference.losses {
        if let Some(term) = terms.loss(loss.kind) {
            sum += term * loss.weight;
        }
    }
    match &pairs.scores.weights {
        Some(weights) => sum * weights,
        None => sum,
    }
}

/// Rewards as metrics show them, without gradient: β times the log-ratio, or where the first loss has no reference β times the
/// log-probability, per token in orpo and simpo. Chosen, rejected; `[P]`
pub fn rewards(preference: &Preference, pairs: &Pairs<'_>) -> [Tensor; 2] {
    let first = preference.losses.first().map_or(PreferenceLoss::Sigmoid, |loss| loss.kind);
    [0, 1].map(|side| {
        let logps = pairs.scores.logps[side].detach();
        let reward = match first.is_per_token() {
            true => logps / pairs.scores.tokens[side].clamp_min(1.0),
            false => logps - &pairs.reference[side],
        };
        reward * preference.beta
    })
}

struct Terms<'a> {
    preference: &'a Preference,
    pairs: &'a Pairs<'a>,
    /// u
    ratio: [Tensor; 2],
    /// g(u)
    score: [Tensor; 2],
    /// βΔ
    margin: Tensor,
}

impl<'a> Terms<'a> {
    fn new(preference: &'a Preference, pairs: &'a Pairs<'a>) -> Terms<'a> {
        let ratio = [0, 1].map(|side| &pairs.scores.logps[side] - &pairs.reference[side]);
        let score = ratio.each_ref().map(|ratio| divergence(preference.divergence, ratio));
        let margin = (&score[0] - &score[1]) * preference.beta;
        Terms { preference, pairs, ratio, score, margin }
    }

    /// None where all of the loss is token-weighted.
    fn loss(&self, kind: PreferenceLoss) -> Option<Tensor> {
        let (beta, epsilon) = (self.preference.beta, self.preference.label_smoothing);
        let margin = &self.margin;
        let [chosen, rejected] = &self.ratio;
        let smoothed = |margin: &Tensor| log_sigmoid(margin) * (epsilon - 1.0) - log_sigmoid(&margin.neg()) * epsilon;
        Some(match kind {
            PreferenceLoss::Sigmoid => smoothed(margin),
            PreferenceLoss::Hinge => (margin.neg() + 1.0).relu(),
            PreferenceLoss::Ipo => (self.score_per_token() - 1.0 / (2.0 * beta)).square(),
            PreferenceLoss::Robust => {
                let (right, wrong) = (log_sigmoid(margin), log_sigmoid(&margin.neg()));
                (right * (epsilon - 1.0) + wrong * epsilon) / (1.0 - 2.0 * epsilon)
            }
            PreferenceLoss::ExoPair => {
                let part = |margin: &Tensor, target: f64| margin.sigmoid() * (log_sigmoid(margin) - target);
                part(margin, (-epsilon).ln_1p()) + part(&margin.neg(), epsilon.ln())
            }
            PreferenceLoss::NcaPair => {
                let (chosen, rejected) = (chosen * beta, rejected * beta);
                let noise = log_sigmoid(&chosen.neg()) + log_sigmoid(&rejected.neg());
                log_sigmoid(&chosen).neg() - noise * 0.5
            }
            PreferenceLoss::BcoPair => -(log_sigmoid(&(chosen * beta)) + log_sigmoid(&(rejected * -beta))),
            PreferenceLoss::SppoHard => (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square(),
            PreferenceLoss::Aot => {
                let matching = self.matching();
                let logps = &self.pairs.scores.logps;
                smoothed(&((&logps[0] - &logps[1] - &matching.margin) * beta))
            }
            PreferenceLoss::AotUnpaired => {
                let [to_chosen, to_rejected] = &self.matching().ratio;
                let loss = smoothed(&((chosen - to_chosen) * beta));
                // Seen from the rejected side it is the same sum, so it gives its gradient and no value.
                let other = smoothed(&((to_rejected - rejected) * beta));
                loss + (&other - other.detach())
            }
            PreferenceLoss::ApoZero => 1.0 - (chosen * beta).sigmoid() + (rejected * beta).sigmoid(),
            PreferenceLoss::ApoDown => (chosen * beta).sigmoid() + 1.0 - ((chosen - rejected) * beta).sigmoid(),
            PreferenceLoss::Discopop => {
                let blend = (margin / self.preference.discopop_tau).sigmoid();
                log_sigmoid(margin).neg() * (1.0 - &blend) + margin.neg().exp() * blend
            }
            PreferenceLoss::SigmoidNorm => smoothed_plain(&(self.score_per_token() * beta)),
            PreferenceLoss::Sft => return None,
            PreferenceLoss::Orpo => {
                let [chosen, rejected] = self.mean_logps();
                let log_odds = &chosen - &rejected - (log1m_exp(&chosen) - log1m_exp(&rejected));
                log_sigmoid(&log_odds) * -beta
            }
            PreferenceLoss::Simpo => {
                let [chosen, rejected] = self.mean_logps();
                smoothed(&((chosen - rejected) * beta - self.preference.simpo_gamma))
            }
        })
    }

    fn score_per_token(&self) -> Tensor {
        let per_token = |side: usize| &self.score[side] / self.pairs.scores.tokens[side].clamp_min(1.0);
        per_token(0) - per_token(1)
    }

    fn mean_logps(&self) -> [Tensor; 2] {
        [0, 1].map(|side| &self.pairs.scores.logps[side] / self.pairs.scores.tokens[side].clamp_min(1.0))
    }

    fn matching(&self) -> Matching {
        let among_these = || Matching::new(&self.pairs.scores.logps, &self.pairs.reference);
        let all = |matching: &Matching| Matching {
            margin: matching.margin.shallow_clone(),
            ratio: matching.ratio.each_ref().map(Tensor::shallow_clone),
        };
        self.pairs.matching.as_ref().map_or_else(among_these, all)
    }
}

/// g(u)
fn divergence(divergence: Divergence, ratio: &Tensor) -> Tensor {
    match divergence {
        Divergence::ReverseKl => ratio.shallow_clone(),
        Divergence::ForwardKl => 1.0 - ratio.neg().exp(),
        Divergence::JensenShannon => log_sigmoid(ratio) + std::f64::consts::LN_2,
        // The limit is u itself.
        Divergence::Alpha(alpha) if (alpha - 1.0).abs() < 1e-6 => ratio.shallow_clone(),
        Divergence::Alpha(alpha) => ((ratio * (alpha - 1.0)).clamp_max(MAX_EXPONENT).exp() - 1.0) / (alpha - 1.0),
    }
}

fn log_sigmoid(x: &Tensor) -> Tensor {
    x.log_sigmoid()
}

fn smoothed_plain(margin: &Tensor) -> Tensor {
    log_sigmoid(margin).neg()
}

/// log(1 - exp(x)) for x below 0, exact near 0 and far from it (Mächler 2012).
fn log1m_exp(x: &Tensor) -> Tensor {
    let near = x.gt(-std::f64::consts::LN_2);
    // Either branch is given numbers that suit it, so that the one not taken has no infinite gradient.
    let near_x = x.clamp(-std::f64::consts::LN_2, -f64::from(f32::EPSILON));
    let far_x = x.clamp_max(-std::f64::consts::LN_2);
    near_x.expm1().neg().log().where_self(&near, &far_x.exp().neg().log1p())
}

/// Float32 `[P]` of numbers on the host.
pub fn column(values: impl IntoIterator<Item = f32>, device: tch::Device) -> Tensor {
    Tensor::from_slice(&values.into_iter().collect::<Vec<_>>()).to_kind(Kind::Float).to_device(device)
}

#[cfg(test)]
mod tests;
