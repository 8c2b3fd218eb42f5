//! How gradients become updates: the rule with its settings, the rates of its groups, the format of its moments.

use serde::{Deserialize, Serialize};

use super::Check;

/// How gradients become updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Optimizer {
    /// The rule of the update. Default AdamW.
    pub rule: UpdateRule,
    /// Peak learning rate. Default [`UpdateRule::default_learning_rate`].
    pub learning_rate: f64,
    /// Learning rate of the B matrices over that of the A matrices: LoRA+ (arXiv 2402.12354). 1 to 1000, default 1.
    pub lora_plus_ratio: f64,
    /// Weight decay: decoupled for AdamW and Lion, added to the gradient for SGD. Default 0.
    pub weight_decay: f64,
    /// Global L2 norm to which gradients are clipped; 0 turns clipping off. Default 1.
    pub max_grad_norm: f64,
    /// Number format of the moments. Default float32.
    pub moments: MomentFormat,
    /// Steps between two reports of the gradient's norm by layer; 0 reports none. Default 0.
    pub gradient_groups_every_steps: u32,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::of(UpdateRule::adamw())
    }
}

impl Optimizer {
    /// A rule with the defaults of everything else.
    pub fn of(rule: UpdateRule) -> Self {
        Self {
            rule,
            learning_rate: rule.default_learning_rate(),
            lora_plus_ratio: 1.0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            moments: MomentFormat::default(),
            gradient_groups_every_steps: 0,
        }
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let rate = self.learning_rate;
        let sound = rate > 0.0 && rate <= 1.0;
        check.that(sound, "optimizer.learning_rate", format!("is {rate}; must be above 0, at most 1"));
        let share = |check: &mut Check<'_>, value: f64, field: &str| {
            check.that((0.0..1.0).contains(&value), field, format!("is {value}; must be from 0 to below 1"));
        };
        match self.rule {
            UpdateRule::AdamW { beta1, beta2, epsilon } => {
                share(check, beta1, "optimizer.beta1");
                share(check, beta2, "optimizer.beta2");
                check.within(epsilon, 1e-16..=1e-2, "optimizer.epsilon");
            }
            UpdateRule::Lion { beta1, beta2 } => {
                share(check, beta1, "optimizer.beta1");
                share(check, beta2, "optimizer.beta2");
            }
            UpdateRule::Sgd { momentum, nesterov } => {
                share(check, momentum, "optimizer.momentum");
                check.that(!nesterov || momentum > 0.0, "optimizer.nesterov", "needs a momentum above 0");
            }
        }
        check.within(self.weight_decay, 0.0..=1.0, "optimizer.weight_decay");
        check.within(self.max_grad_norm, 0.0..=1e6, "optimizer.max_grad_norm");
        check.within(self.lora_plus_ratio, 1.0..=1000.0, "optimizer.lora_plus_ratio");
        let every = f64::from(self.gradient_groups_every_steps);
        check.within(every, 0.0..=1e6, "optimizer.gradient_groups_every_steps");
    }
}

/// The rule of the update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateRule {
    /// Adam with decoupled weight decay (arXiv 1711.05101).
    #[serde(rename = "adamw")]
    AdamW {
        /// Decay of the first moment. Default 0.9.
        beta1: f64,
        /// Decay of the second moment. Default 0.999.
        beta2: f64,
        /// Added to the denominator. Default 1e-8.
        epsilon: f64,
    },
    /// The sign of a moment (arXiv 2302.06675).
    Lion {
        /// Weight of the moment in the update. Default 0.9.
        beta1: f64,
        /// Decay of the moment. Default 0.99.
        beta2: f64,
    },
    /// Gradient descent with momentum, as torch defines it.
    Sgd {
        /// Share of the last direction that is kept. Default 0.9.
        momentum: f64,
        /// Look ahead along the momentum. Default off.
        nesterov: bool,
    },
}

impl UpdateRule {
    /// AdamW with its defaults.
    pub const fn adamw() -> Self {
        UpdateRule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// Lion with its defaults.
    pub const fn lion() -> Self {
        UpdateRule::Lion { beta1: 0.9, beta2: 0.99 }
    }

    /// SGD with its defaults.
    pub const fn sgd() -> Self {
        UpdateRule::Sgd { momentum: 0.9, nesterov: false }
    }

    /// Its word in requests and in checkpoints.
    pub fn name(&self) -> &'static str {
        match self {
            UpdateRule::AdamW { .. } => "adamw",
            UpdateRule::Lion { .. } => "lion",
            UpdateRule::Sgd { .. } => "sgd",
        }
    }

    /// The learning rate where none is asked for: 2e-4 for AdamW, which suits LoRA (about ten times that of full training);
    /// a tenth of it for Lion, as its paper advises (3 to 10 times smaller); torch's own 1e-3 for SGD.
    pub fn default_learning_rate(&self) -> f64 {
        match self {
            UpdateRule::AdamW { .. } => 2e-4,
            UpdateRule::Lion { .. } => 2e-5,
            UpdateRule::Sgd { .. } => 1e-3,
        }
    }
}

/// Number format of the optimizer's moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentFormat {
    /// IEEE single precision. The default.
    #[default]
    Float32,
    /// Blocks of 256 values, each an 8-bit dynamic code times the block's largest magnitude (arXiv 2110.02861).
    Block8,
}

impl MomentFormat {
    /// Its word in requests and in checkpoints.
    pub fn name(self) -> &'static str {
        match self {
            MomentFormat::Float32 => "float32",
            MomentFormat::Block8 => "block8",
        }
    }
}
