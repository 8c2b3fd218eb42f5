//! What preference optimisation is asked to do: which losses, against which reference.

use serde::{Deserialize, Serialize};

use super::{Check, Training};

/// Learning from pairs of answers, one better than the other: DPO (arXiv 2305.18290) and its kin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DpoTask {
    /// The parts shared with every training task.
    pub training: Training,
    /// The loss and what it is measured against.
    pub preference: Preference,
}

/// What is made small, and against which policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// The losses, added up with their weights. At least one. Default: sigmoid alone.
    pub losses: Vec<WeightedLoss>,
    /// Scale of rewards. Default 0.1; 2 when the first loss is simpo.
    pub beta: f64,
    /// Share of pairs taken to be labelled the wrong way round. 0 to below 0.5, default 0.
    pub label_smoothing: f64,
    /// What the policy is compared with.
    pub reference: Reference,
    /// What holds the policy to the reference.
    pub divergence: Divergence,
    /// Weight of tokens past the length of the shorter answer (LD-DPO, arXiv 2409.06411). 0 to 1, default 1.
    pub length_alpha: f64,
    /// Weights pairs by how likely the policy itself would write them (WPO, arXiv 2406.11827). Default off.
    pub use_weighting: bool,
    /// Margin that simpo asks for. Default 0.5.
    pub simpo_gamma: f64,
    /// Temperature of discopop's blend. Default 0.05.
    pub discopop_tau: f64,
}

impl Preference {
    /// These losses with every other setting's default.
    pub fn with(losses: Vec<WeightedLoss>) -> Self {
        let is_simpo = losses.first().is_some_and(|first| first.kind == PreferenceLoss::Simpo);
        Self {
            losses,
            beta: if is_simpo { 2.0 } else { 0.1 },
            label_smoothing: 0.0,
            reference: Reference::default(),
            divergence: Divergence::default(),
            length_alpha: 1.0,
            use_weighting: false,
            simpo_gamma: 0.5,
            discopop_tau: 0.05,
        }
    }

    /// Whether a loss compares with the reference.
    pub fn needs_reference(&self) -> bool {
        self.losses.iter().any(|loss| loss.kind.needs_reference())
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.that(!self.losses.is_empty(), "losses", "at least one loss");
        check.that(self.losses.len() <= PreferenceLoss::ALL.len(), "losses", "each loss once at most");
        for (index, loss) in self.losses.iter().enumerate() {
            let ok = loss.weight > 0.0 && loss.weight <= 1000.0;
            check.that(ok, &format!("losses[{index}].weight"), "must be above 0, at most 1000");
            let is_new = !self.losses[..index].iter().any(|earlier| earlier.kind == loss.kind);
            check.that(is_new, &format!("losses[{index}].type"), "is listed already; add the weights up");
        }
        let has = |kind: PreferenceLoss| self.losses.iter().any(|loss| loss.kind == kind);
        check.that(self.beta > 0.0 && self.beta <= 100.0, "beta", "must be above 0, at most 100");
        let smoothing = (0.0..0.5).contains(&self.label_smoothing);
        check.that(smoothing, "label_smoothing", "must be from 0 to below 0.5");
        let exo = !has(PreferenceLoss::ExoPair) || self.label_smoothing > 0.0;
        check.that(exo, "label_smoothing", "must be above 0 for exo_pair, such as 0.001");
        check.within(self.length_alpha, 0.0..=1.0, "length_alpha");
        check.within(self.simpo_gamma, 0.0..=100.0, "simpo_gamma");
        check.that(
            self.discopop_tau > 0.0 && self.discopop_tau <= 100.0,
            "discopop_tau",
            "must be above 0, at most 100",
        );
        if let Divergence::Alpha(alpha) = self.divergence {
            check.that(alpha > 0.0 && alpha <= 100.0, "divergence_alpha", "must be above 0, at most 100");
        }
        for loss in self.losses.iter().filter(|loss| !loss.kind.takes_divergence()) {
            let ok = self.divergence == Divergence::ReverseKl;
            check.that(ok, "divergence", format!("{} is defined for reverse_kl alone", loss.kind.name()));
        }
        let sorted = has(PreferenceLoss::Aot) || has(PreferenceLoss::AotUnpaired);
        check.that(!(self.use_weighting && sorted), "use_weighting", "sorts pairs apart in aot and aot_unpaired");
    }
}

impl Default for Preference {
    fn default() -> Self {
        Self::with(vec![WeightedLoss { kind: PreferenceLoss::Sigmoid, weight: 1.0 }])
    }
}

/// A loss with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WeightedLoss {
    /// Which one.
    pub kind: PreferenceLoss,
    /// What it is multiplied by. Above 0, default 1.
    pub weight: f64,
}

/// What is made small for each pair. Names as in TRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// DPO (arXiv 2305.18290), with label smoothing cDPO. The default.
    #[default]
    Sigmoid,
    /// SLiC (arXiv 2305.10425).
    Hinge,
    /// IPO (arXiv 2310.12036), margins per token.
    Ipo,
    /// Robust DPO (arXiv 2403.00409).
    Robust,
    /// EXO (arXiv 2402.00856).
    ExoPair,
    /// NCA (arXiv 2402.05369).
    NcaPair,
    /// BCO (arXiv 2404.04656).
    BcoPair,
    /// SPPO with hard labels (arXiv 2405.00675).
    SppoHard,
    /// AOT (arXiv 2406.05882): sorted margins of the pairs of a step.
    Aot,
    /// AOT over answers without their pairing.
    AotUnpaired,
    /// APO-zero (arXiv 2408.06266).
    ApoZero,
    /// APO-down.
    ApoDown,
    /// DiscoPOP (arXiv 2406.08414).
    Discopop,
    /// Length-normalised DPO (arXiv 2411.15124).
    SigmoidNorm,
    /// Negative log-likelihood of the chosen answers over tokens.
    Sft,
    /// ORPO (arXiv 2403.07691).
    Orpo,
    /// SimPO (arXiv 2405.14734).
    Simpo,
}

impl PreferenceLoss {
    /// Every loss.
    pub const ALL: [PreferenceLoss; 17] = [
        Self::Sigmoid,
        Self::Hinge,
        Self::Ipo,
        Self::Robust,
        Self::ExoPair,
        Self::NcaPair,
        Self::BcoPair,
        Self::SppoHard,
        Self::Aot,
        Self::AotUnpaired,
        Self::ApoZero,
        Self::ApoDown,
        Self::Discopop,
        Self::SigmoidNorm,
        Self::Sft,
        Self::Orpo,
        Self::Simpo,
    ];

    /// Its name, as in TRL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Hinge => "hinge",
            Self::Ipo => "ipo",
            Self::Robust => "robust",
            Self::ExoPair => "exo_pair",
            Self::NcaPair => "nca_pair",
            Self::BcoPair => "bco_pair",
            Self::SppoHard => "sppo_hard",
            Self::Aot => "aot",
            Self::AotUnpaired => "aot_unpaired",
            Self::ApoZero => "apo_zero",
            Self::ApoDown => "apo_down",
            Self::Discopop => "discopop",
            Self::SigmoidNorm => "sigmoid_norm",
            Self::Sft => "sft",
            Self::Orpo => "orpo",
            Self::Simpo => "simpo",
        }
    }

    /// Whether it compares with the reference.
    pub fn needs_reference(self) -> bool {
        !matches!(self, Self::Sft | Self::Orpo | Self::Simpo)
    }

    /// Whether rewards are per token in it, as its margin is.
    pub fn is_per_token(self) -> bool {
        matches!(self, Self::Orpo | Self::Simpo)
    }

    /// Whether it is defined for divergences other than reverse KL, as in TRL. What has no reference does not mind.
    pub fn takes_divergence(self) -> bool {
        use PreferenceLoss::*;
        matches!(self, Sigmoid | SigmoidNorm | Hinge | Ipo | ExoPair | Robust | Discopop | Sft | Orpo | Simpo)
    }
}

/// What the policy is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The policy as it was before the first step. The default.
    #[default]
    Initial,
    /// The base model without an adapter.
    Base,
    /// The base model with the adapter of this URI.
    Checkpoint(String),
}

/// What holds the policy to the reference (arXiv 2309.16240): the score g(u) of a log-ratio u.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// g(u) = u. The default.
    #[default]
    ReverseKl,
    /// g(u) = 1 - exp(-u).
    ForwardKl,
    /// g(u) = log 2 + log σ(u).
    JensenShannon,
    /// g(u) = (exp((α - 1) u) - 1) / (α - 1).
    Alpha(f64),
}

#[cfg(test)]
mod tests {
    use super::super::Violation;
    use super::*;

    fn violations(preference: &Preference) -> Vec<String> {
        let mut check = Check { path: "spec.dpo", found: Vec::new() };
        preference.validate(&mut check);
        check.found.into_iter().map(|Violation { field, .. }| field).collect()
    }

    fn of(kinds: &[PreferenceLoss]) -> Preference {
        Preference::with(kinds.iter().map(|&kind| WeightedLoss { kind, weight: 1.0 }).collect())
    }

    #[test]
    fn every_loss_is_valid_by_itself_but_exo_pair_needs_smoothing() {
        for kind in PreferenceLoss::ALL {
            let mut preference = of(&[kind]);
            assert_eq!(violations(&preference).is_empty(), kind != PreferenceLoss::ExoPair, "{kind:?}");
            preference.label_smoothing = 1e-3;
            assert_eq!(violations(&preference), [""; 0], "{kind:?}");
        }
        assert_eq!(of(&[PreferenceLoss::Simpo]).beta, 2.0);
        assert!(!of(&[PreferenceLoss::Simpo, PreferenceLoss::Sft]).needs_reference());
        assert!(of(&[PreferenceLoss::Sft, PreferenceLoss::Aot]).needs_reference());
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let mut bad = of(&[PreferenceLoss::Aot, PreferenceLoss::Aot]);
        bad.losses[0].weight = f64::NAN;
        bad.beta = 0.0;
        bad.label_smoothing = 0.5;
        bad.use_weighting = true;
        bad.divergence = Divergence::Alpha(-1.0);
        assert_eq!(
            violations(&bad),
            [
                "spec.dpo.losses[0].weight",
                "spec.dpo.losses[1].type",
                "spec.dpo.beta",
                "spec.dpo.label_smoothing",
                "spec.dpo.divergence_alpha",
                "spec.dpo.divergence",
                "spec.dpo.divergence",
                "spec.dpo.use_weighting",
            ]
        );
    }
}
