//! Optimizer and schedule, there and back. A field that the chosen type does not have is a violation, since a setting
//! that does nothing is a mistake.

use hone_job::spec::{Decay, DecayShape, MomentFormat, Optimizer, Plateau, Schedule, ScheduleKind, UpdateRule, Warmup};
use hone_proto::v1 as pb;
use pb::schedule_spec::{Decay as DecayOneof, Warmup as WarmupOneof};

use super::Reader;

/// A field of a type, by name, and whether the request has it.
type Given = (&'static str, bool);

impl Reader {
    /// The optimizer of a request; `path` is its field, `rate_scale` what the rule's default learning rate is multiplied by.
    pub(super) fn optimizer(&mut self, path: &str, optimizer: pb::OptimizerSpec, rate_scale: f64) -> Optimizer {
        use pb::OptimizerType as Type;
        let pb::OptimizerSpec { beta1, beta2, epsilon, momentum, nesterov, .. } = optimizer;
        let given = [
            ("beta1", beta1.is_some()),
            ("beta2", beta2.is_some()),
            ("epsilon", epsilon.is_some()),
            ("momentum", momentum.is_some()),
            ("nesterov", nesterov.is_some()),
        ];
        let defaults = match self.choice(format!("{path}.type"), optimizer.r#type, |kind: Type| kind) {
            Type::Unspecified | Type::Adamw => UpdateRule::adamw(),
            Type::Lion => UpdateRule::lion(),
            Type::Sgd => UpdateRule::sgd(),
        };
        let (rule, own): (UpdateRule, &[&str]) = match defaults {
            UpdateRule::AdamW { beta1: b1, beta2: b2, epsilon: e } => {
                let (beta1, beta2) = (beta1.unwrap_or(b1), beta2.unwrap_or(b2));
                let rule = UpdateRule::AdamW { beta1, beta2, epsilon: epsilon.unwrap_or(e) };
                (rule, &["beta1", "beta2", "epsilon"])
            }
            UpdateRule::Lion { beta1: b1, beta2: b2 } => {
                let (beta1, beta2) = (beta1.unwrap_or(b1), beta2.unwrap_or(b2));
                (UpdateRule::Lion { beta1, beta2 }, &["beta1", "beta2"])
            }
            UpdateRule::Sgd { momentum: m, nesterov: n } => {
                let (momentum, nesterov) = (momentum.unwrap_or(m), nesterov.unwrap_or(n));
                (UpdateRule::Sgd { momentum, nesterov }, &["momentum", "nesterov"])
            }
        };
        self.refuse_foreign(path, rule.name(), &given, own);
        let defaults = Optimizer::of(rule);
        Optimizer {
            rule,
            learning_rate: optimizer.learning_rate.unwrap_or_else(|| scaled(defaults.learning_rate, rate_scale)),
            lora_plus_ratio: optimizer.lora_plus_ratio.unwrap_or(defaults.lora_plus_ratio),
            weight_decay: optimizer.weight_decay.unwrap_or(defaults.weight_decay),
            max_grad_norm: optimizer.max_grad_norm.unwrap_or(defaults.max_grad_norm),
            moments: self.choice(format!("{path}.moments"), optimizer.moments, moment_format),
            gradient_groups_every_steps: optimizer.gradient_groups_every_steps.unwrap_or_default(),
        }
    }

    /// The schedule of a request; `path` is its field.
    pub(super) fn schedule(&mut self, path: &str, schedule: pb::ScheduleSpec) -> Schedule {
        use pb::ScheduleType as Type;
        let defaults = Schedule::default();
        let kind = self.choice(format!("{path}.type"), schedule.r#type, |kind: Type| kind);
        let shape = self.choice(format!("{path}.decay_shape"), schedule.decay_shape, decay_shape);
        let decay = schedule.decay.map(|decay| match decay {
            DecayOneof::DecaySteps(steps) => Decay::Steps(steps),
            DecayOneof::DecayRatio(ratio) => Decay::Ratio(ratio),
        });
        let given = [
            ("num_cycles", schedule.num_cycles.is_some()),
            ("power", schedule.power.is_some()),
            ("timescale", schedule.timescale.is_some()),
            ("decay_steps", matches!(schedule.decay, Some(DecayOneof::DecaySteps(_)))),
            ("decay_ratio", matches!(schedule.decay, Some(DecayOneof::DecayRatio(_)))),
            ("decay_shape", schedule.decay_shape != 0),
            ("plateau", schedule.plateau.is_some()),
        ];
        let (kind, own): (ScheduleKind, &[&str]) = match kind {
            Type::Unspecified | Type::Cosine => (ScheduleKind::Cosine, &[]),
            Type::Linear => (ScheduleKind::Linear, &[]),
            Type::Constant => (ScheduleKind::Constant, &[]),
            Type::CosineWithRestarts => {
                let num_cycles = schedule.num_cycles.unwrap_or(1);
                (ScheduleKind::CosineWithRestarts { num_cycles }, &["num_cycles"])
            }
            Type::Polynomial => (ScheduleKind::Polynomial { power: schedule.power.unwrap_or(1.0) }, &["power"]),
            Type::InverseSqrt => (ScheduleKind::InverseSqrt { timescale: schedule.timescale }, &["timescale"]),
            Type::WarmupStableDecay => {
                let kind = ScheduleKind::WarmupStableDecay { decay: decay.unwrap_or_default(), shape };
                (kind, &["decay_steps", "decay_ratio", "decay_shape"])
            }
            Type::Plateau => (ScheduleKind::Plateau(plateau(schedule.plateau.unwrap_or_default())), &["plateau"]),
        };
        self.refuse_foreign(path, kind.name(), &given, own);
        Schedule {
            kind,
            warmup: match schedule.warmup {
                Some(WarmupOneof::WarmupSteps(steps)) => Warmup::Steps(steps),
                Some(WarmupOneof::WarmupRatio(ratio)) => Warmup::Ratio(ratio),
                None => defaults.warmup,
            },
            min_learning_rate_ratio: schedule.min_learning_rate_ratio.unwrap_or(defaults.min_learning_rate_ratio),
        }
    }

    /// Every field that was given and is not among the chosen type's own.
    fn refuse_foreign(&mut self, path: &str, chosen: &str, given: &[Given], own: &[&str]) {
        for (field, _) in given.iter().filter(|(field, given)| *given && !own.contains(field)) {
            self.wrong(format!("{path}.{field}"), format!("{chosen} has no such setting; leave it out"));
        }
    }
}

/// A default times a scale, as a person would write it: 2e-4 · 0.05 is 1e-5, and not 1.0000000000000001e-5.
fn scaled(rate: f64, scale: f64) -> f64 {
    format!("{:.1e}", rate * scale).parse().expect("a number's text is a number")
}

fn moment_format(value: pb::MomentFormat) -> MomentFormat {
    match value {
        pb::MomentFormat::Unspecified => MomentFormat::default(),
        pb::MomentFormat::Float32 => MomentFormat::Float32,
        pb::MomentFormat::Block8 => MomentFormat::Block8,
    }
}

fn decay_shape(value: pb::DecayShape) -> DecayShape {
    match value {
        pb::DecayShape::Unspecified => DecayShape::default(),
        pb::DecayShape::Cosine => DecayShape::Cosine,
        pb::DecayShape::Linear => DecayShape::Linear,
        pb::DecayShape::OneMinusSqrt => DecayShape::OneMinusSqrt,
    }
}

fn plateau(plateau: pb::PlateauSpec) -> Plateau {
    let defaults = Plateau::default();
    Plateau {
        factor: plateau.factor.unwrap_or(defaults.factor),
        patience: plateau.patience.unwrap_or(defaults.patience),
        threshold: plateau.threshold.unwrap_or(defaults.threshold),
        cooldown: plateau.cooldown.unwrap_or(defaults.cooldown),
    }
}

/// The optimizer in force as a message: the chosen type's fields only.
pub(super) fn optimizer_message(optimizer: Optimizer) -> pb::OptimizerSpec {
    let mut message = pb::OptimizerSpec {
        learning_rate: Some(optimizer.learning_rate),
        weight_decay: Some(optimizer.weight_decay),
        max_grad_norm: Some(optimizer.max_grad_norm),
        lora_plus_ratio: Some(optimizer.lora_plus_ratio),
        moments: match optimizer.moments {
            MomentFormat::Float32 => pb::MomentFormat::Float32,
            MomentFormat::Block8 => pb::MomentFormat::Block8,
        }
        .into(),
        gradient_groups_every_steps: Some(optimizer.gradient_groups_every_steps),
        ..Default::default()
    };
    match optimizer.rule {
        UpdateRule::AdamW { beta1, beta2, epsilon } => {
            message.set_type(pb::OptimizerType::Adamw);
            (message.beta1, message.beta2, message.epsilon) = (Some(beta1), Some(beta2), Some(epsilon));
        }
        UpdateRule::Lion { beta1, beta2 } => {
            message.set_type(pb::OptimizerType::Lion);
            (message.beta1, message.beta2) = (Some(beta1), Some(beta2));
        }
        UpdateRule::Sgd { momentum, nesterov } => {
            message.set_type(pb::OptimizerType::Sgd);
            (message.momentum, message.nesterov) = (Some(momentum), Some(nesterov));
        }
    }
    message
}

/// The schedule in force as a message: the chosen type's fields only.
pub(super) fn schedule_message(schedule: Schedule) -> pb::ScheduleSpec {
    let mut message = pb::ScheduleSpec {
        warmup: Some(match schedule.warmup {
            Warmup::Steps(steps) => WarmupOneof::WarmupSteps(steps),
            Warmup::Ratio(ratio) => WarmupOneof::WarmupRatio(ratio),
        }),
        min_learning_rate_ratio: Some(schedule.min_learning_rate_ratio),
        ..Default::default()
    };
    match schedule.kind {
        ScheduleKind::Cosine => message.set_type(pb::ScheduleType::Cosine),
        ScheduleKind::Linear => message.set_type(pb::ScheduleType::Linear),
        ScheduleKind::Constant => message.set_type(pb::ScheduleType::Constant),
        ScheduleKind::CosineWithRestarts { num_cycles } => {
            message.set_type(pb::ScheduleType::CosineWithRestarts);
            message.num_cycles = Some(num_cycles);
        }
        ScheduleKind::Polynomial { power } => {
            message.set_type(pb::ScheduleType::Polynomial);
            message.power = Some(power);
        }
        ScheduleKind::InverseSqrt { timescale } => {
            message.set_type(pb::ScheduleType::InverseSqrt);
            message.timescale = timescale;
        }
        ScheduleKind::WarmupStableDecay { decay, shape } => {
            message.set_type(pb::ScheduleType::WarmupStableDecay);
            message.decay = Some(match decay {
                Decay::Steps(steps) => DecayOneof::DecaySteps(steps),
                Decay::Ratio(ratio) => DecayOneof::DecayRatio(ratio),
            });
            message.set_decay_shape(match shape {
                DecayShape::Cosine => pb::DecayShape::Cosine,
                DecayShape::Linear => pb::DecayShape::Linear,
                DecayShape::OneMinusSqrt => pb::DecayShape::OneMinusSqrt,
            });
        }
        ScheduleKind::Plateau(plateau) => {
            message.set_type(pb::ScheduleType::Plateau);
            message.plateau = Some(pb::PlateauSpec {
                factor: Some(plateau.factor),
                patience: Some(plateau.patience),
                threshold: Some(plateau.threshold),
                cooldown: Some(plateau.cooldown),
            });
        }
    }
    message
}
