//! The flags of optimizer and schedule, shared by every training command, and the messages they make.

use clap::Args;
use hone_client::v1;
use v1::schedule_spec::{Decay, Warmup};

use crate::choice::{decay_shape, moments, optimizer, schedule};

/// How gradients become updates.
#[derive(Debug, Args)]
pub(crate) struct OptimizerArgs {
    /// Peak learning rate, above 0, at most 1. Default 2e-4; 2e-5 with lion, 1e-3 with sgd;
    /// in dpo a twentieth of that.
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    learning_rate: Option<f64>,
    /// The rule of the update. Default adamw.
    #[arg(long, value_name = "RULE", value_parser = optimizer(), help_heading = "Training")]
    optimizer: Option<v1::OptimizerType>,
    /// Weight decay, 0 to 1. Default 0.
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    weight_decay: Option<f64>,
    /// Norm to which gradients are clipped; 0 turns clipping off. Default 1.
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    max_grad_norm: Option<f64>,
    /// LoRA+: learning rate of the B matrices over that of the A matrices, 1 to 1000. Default 1.
    #[arg(long, value_name = "RATIO", help_heading = "Training")]
    lora_plus_ratio: Option<f64>,
    /// adamw, lion: beta 1, 0 to below 1. Default 0.9.
    #[arg(long, value_name = "BETA", help_heading = "Optimizer details")]
    beta1: Option<f64>,
    /// adamw, lion: beta 2, 0 to below 1. Default 0.999; 0.99 with lion.
    #[arg(long, value_name = "BETA", help_heading = "Optimizer details")]
    beta2: Option<f64>,
    /// adamw: added to the denominator. Default 1e-8.
    #[arg(long, value_name = "EPSILON", help_heading = "Optimizer details")]
    epsilon: Option<f64>,
    /// sgd: share of the last direction that is kept, 0 to below 1. Default 0.9.
    #[arg(long, value_name = "SHARE", help_heading = "Optimizer details")]
    momentum: Option<f64>,
    /// sgd: look ahead along the momentum.
    #[arg(long, help_heading = "Optimizer details")]
    nesterov: bool,
    /// Number format of the optimizer's moments. Default float32.
    #[arg(long, value_name = "FORMAT", value_parser = moments(), help_heading = "Optimizer details")]
    moments: Option<v1::MomentFormat>,
    /// Steps between two reports of the gradient's norm by layer; 0 reports none. Default 0.
    #[arg(long, value_name = "N", help_heading = "Optimizer details")]
    gradient_groups_every: Option<u32>,
}

impl OptimizerArgs {
    /// The optimizer that these flags ask for.
    pub(crate) fn spec(&self) -> v1::OptimizerSpec {
        v1::OptimizerSpec {
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            r#type: self.optimizer.unwrap_or_default().into(),
            momentum: self.momentum,
            nesterov: self.nesterov.then_some(true),
            lora_plus_ratio: self.lora_plus_ratio,
            moments: self.moments.unwrap_or_default().into(),
            gradient_groups_every_steps: self.gradient_groups_every,
        }
    }
}

/// How the learning rate moves.
#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Shape of the learning rate after warmup. Default cosine.
    #[arg(long, value_name = "SHAPE", value_parser = schedule(), help_heading = "Training")]
    schedule: Option<v1::ScheduleType>,
    /// Share of all steps spent warming up, 0 to 1. Default 0.03.
    #[arg(long, value_name = "SHARE", conflicts_with = "warmup_steps", help_heading = "Training")]
    warmup_ratio: Option<f64>,
    /// Steps spent warming up, instead of a share.
    #[arg(long, value_name = "N", help_heading = "Training")]
    warmup_steps: Option<u64>,
    /// The floor of the learning rate, as a share of the peak. Default 0.
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    min_learning_rate_ratio: Option<f64>,
    /// cosine-with-restarts: number of cosines. Default 1.
    #[arg(long, value_name = "N", help_heading = "Schedule details")]
    num_cycles: Option<u32>,
    /// polynomial: the power. Default 1.
    #[arg(long, value_name = "X", help_heading = "Schedule details")]
    power: Option<f64>,
    /// inverse-sqrt: time scale in steps. Default: the steps of warmup, or 10000 without.
    #[arg(long, value_name = "STEPS", help_heading = "Schedule details")]
    timescale: Option<u64>,
    /// warmup-stable-decay: steps of the decay at the end.
    #[arg(long, value_name = "N", conflicts_with = "decay_ratio", help_heading = "Schedule details")]
    decay_steps: Option<u64>,
    /// warmup-stable-decay: share of all steps that the decay takes. Default 0.1.
    #[arg(long, value_name = "SHARE", help_heading = "Schedule details")]
    decay_ratio: Option<f64>,
    /// warmup-stable-decay: shape of the decay. Default cosine.
    #[arg(long, value_name = "SHAPE", value_parser = decay_shape(), help_heading = "Schedule details")]
    decay_shape: Option<v1::DecayShape>,
    /// plateau: the rate is multiplied by this, above 0, below 1. Default 0.1.
    #[arg(long, value_name = "FACTOR", help_heading = "Schedule details")]
    plateau_factor: Option<f64>,
    /// plateau: evaluations in a row without improvement that are borne. Default 2.
    #[arg(long, value_name = "N", help_heading = "Schedule details")]
    plateau_patience: Option<u32>,
    /// plateau: share by which the held-out loss must fall below the best to count. Default 1e-4.
    #[arg(long, value_name = "SHARE", help_heading = "Schedule details")]
    plateau_threshold: Option<f64>,
    /// plateau: evaluations after a fall that are not counted. Default 0.
    #[arg(long, value_name = "N", help_heading = "Schedule details")]
    plateau_cooldown: Option<u32>,
}

impl ScheduleArgs {
    /// The schedule that these flags ask for.
    pub(crate) fn spec(&self) -> v1::ScheduleSpec {
        let plateau = v1::PlateauSpec {
            factor: self.plateau_factor,
            patience: self.plateau_patience,
            threshold: self.plateau_threshold,
            cooldown: self.plateau_cooldown,
        };
        let warmup_ratio = self.warmup_ratio.map(Warmup::WarmupRatio);
        let decay_ratio = self.decay_ratio.map(Decay::DecayRatio);
        v1::ScheduleSpec {
            r#type: self.schedule.unwrap_or_default().into(),
            warmup: warmup_ratio.or(self.warmup_steps.map(Warmup::WarmupSteps)),
            min_learning_rate_ratio: self.min_learning_rate_ratio,
            num_cycles: self.num_cycles,
            power: self.power,
            timescale: self.timescale,
            decay: decay_ratio.or(self.decay_steps.map(Decay::DecaySteps)),
            decay_shape: self.decay_shape.unwrap_or_default().into(),
            plateau: (plateau != v1::PlateauSpec::default()).then_some(plateau),
        }
    }
}
