//! What dpo has beside the parts that every training task has, there and back.

use hone_job::spec::{Divergence, Preference, PreferenceLoss, Reference, WeightedLoss};
use hone_proto::v1 as pb;
use pb::reference_policy::Policy;

use super::{Reader, TrainingParts};

impl Reader {
    pub(super) fn preference(&mut self, path: &str, task: &pb::DpoTask) -> Preference {
        let mut losses = Vec::new();
        for (index, loss) in task.losses.iter().enumerate() {
            let kind = self.choice(format!("{path}.losses[{index}].type"), loss.r#type, loss_kind);
            losses.push(WeightedLoss { kind, weight: loss.weight.unwrap_or(1.0) });
        }
        let defaults = if losses.is_empty() { Preference::default() } else { Preference::with(losses) };
        let divergence = self.choice(format!("{path}.divergence"), task.divergence, |value| match value {
            pb::Divergence::Unspecified | pb::Divergence::ReverseKl => Divergence::ReverseKl,
            pb::Divergence::ForwardKl => Divergence::ForwardKl,
            pb::Divergence::JensenShannon => Divergence::JensenShannon,
            pb::Divergence::Alpha => Divergence::Alpha(task.divergence_alpha.unwrap_or(0.5)),
        });
        if task.divergence_alpha.is_some() && !matches!(divergence, Divergence::Alpha(_)) {
            self.wrong(format!("{path}.divergence_alpha"), "is for DIVERGENCE_ALPHA alone");
        }
        Preference {
            beta: task.beta.unwrap_or(defaults.beta),
            label_smoothing: task.label_smoothing.unwrap_or(defaults.label_smoothing),
            reference: match task.reference.as_ref().and_then(|reference| reference.policy.as_ref()) {
                None | Some(Policy::Initial(_)) => Reference::Initial,
                Some(Policy::Base(_)) => Reference::Base,
                Some(Policy::Checkpoint(uri)) => Reference::Checkpoint(uri.clone()),
            },
            divergence,
            length_alpha: task.length_alpha.unwrap_or(defaults.length_alpha),
            use_weighting: task.use_weighting.unwrap_or(defaults.use_weighting),
            simpo_gamma: task.simpo_gamma.unwrap_or(defaults.simpo_gamma),
            discopop_tau: task.discopop_tau.unwrap_or(defaults.discopop_tau),
            losses: defaults.losses,
        }
    }
}

/// The settings in force, and those of the training, as a message.
pub(super) fn message(preference: Preference, training: TrainingParts) -> pb::DpoTask {
    let losses = preference.losses.iter();
    let policy = match preference.reference {
        Reference::Initial => Policy::Initial(pb::InitialPolicy {}),
        Reference::Base => Policy::Base(pb::BasePolicy {}),
        Reference::Checkpoint(uri) => Policy::Checkpoint(uri),
    };
    let (divergence, divergence_alpha) = match preference.divergence {
        Divergence::ReverseKl => (pb::Divergence::ReverseKl, None),
        Divergence::ForwardKl => (pb::Divergence::ForwardKl, None),
        Divergence::JensenShannon => (pb::Divergence::JensenShannon, None),
        Divergence::Alpha(alpha) => (pb::Divergence::Alpha, Some(alpha)),
    };
    pb::DpoTask {
        losses: losses
            .map(|loss| pb::PreferenceLoss { r#type: loss_type(loss.kind).into(), weight: Some(loss.weight) })
            .collect(),
        beta: Some(preference.beta),
        label_smoothing: Some(preference.label_smoothing),
        reference: Some(pb::ReferencePolicy { policy: Some(policy) }),
        divergence: divergence.into(),
        divergence_alpha,
        length_alpha: Some(preference.length_alpha),
        use_weighting: Some(preference.use_weighting),
        simpo_gamma: Some(preference.simpo_gamma),
        discopop_tau: Some(preference.discopop_tau),
        ..training.into()
    }
}

/// The domain's names and the proto's are the same words, so one list serves both ways.
const TYPES: [(pb::PreferenceLossType, PreferenceLoss); 17] = {
    use PreferenceLoss as Loss;
    use pb::PreferenceLossType as Type;
    [
        (Type::Sigmoid, Loss::Sigmoid),
        (Type::Hinge, Loss::Hinge),
        (Type::Ipo, Loss::Ipo),
        (Type::Robust, Loss::Robust),
        (Type::ExoPair, Loss::ExoPair),
        (Type::NcaPair, Loss::NcaPair),
        (Type::BcoPair, Loss::BcoPair),
        (Type::SppoHard, Loss::SppoHard),
        (Type::Aot, Loss::Aot),
        (Type::AotUnpaired, Loss::AotUnpaired),
        (Type::ApoZero, Loss::ApoZero),
        (Type::ApoDown, Loss::ApoDown),
        (Type::Discopop, Loss::Discopop),
        (Type::SigmoidNorm, Loss::SigmoidNorm),
        (Type::Sft, Loss::Sft),
        (Type::Orpo, Loss::Orpo),
        (Type::Simpo, Loss::Simpo),
    ]
};

fn loss_kind(value: pb::PreferenceLossType) -> PreferenceLoss {
    TYPES.iter().find(|(known, _)| *known == value).map(|(_, kind)| *kind).unwrap_or_default()
}

fn loss_type(kind: PreferenceLoss) -> pb::PreferenceLossType {
    TYPES.iter().find(|(_, known)| *known == kind).map(|(value, _)| *value).unwrap_or_default()
}
