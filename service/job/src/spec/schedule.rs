//! How the learning rate moves over the steps of a run.

use serde::{Deserialize, Serialize};

use super::Check;

/// How the learning rate moves over the steps of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// Shape after warmup.
    pub kind: ScheduleKind,
    /// Steps of linear warmup.
    pub warmup: Warmup,
    /// The floor, as a share of the peak. 0 to 1, default 0; the constant schedule has none.
    pub min_learning_rate_ratio: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup: Warmup::Ratio(0.03), min_learning_rate_ratio: 0.0 }
    }
}

/// Shape of the schedule after warmup.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine down to the floor. The default.
    #[default]
    Cosine,
    /// A straight line down to the floor.
    Linear,
    /// Flat.
    Constant,
    /// Half cosines, each from the peak down to the floor.
    CosineWithRestarts {
        /// How many. Default 1.
        num_cycles: u32,
    },
    /// What is left of the run to some power, down to the floor.
    Polynomial {
        /// The power. Above 0, default 1.
        power: f64,
    },
    /// One over the square root of `1 + (steps since warmup) / timescale`.
    InverseSqrt {
        /// In steps. Default: the steps of warmup, or 10000 without.
        timescale: Option<u64>,
    },
    /// Flat, then down to the floor at the end of the run.
    WarmupStableDecay {
        /// How long the decay is.
        decay: Decay,
        /// Its shape.
        shape: DecayShape,
    },
    /// Flat, and lower whenever the held-out loss has stopped falling.
    Plateau(Plateau),
}

impl ScheduleKind {
    /// Its word in requests.
    pub fn name(&self) -> &'static str {
        match self {
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::Linear => "linear",
            ScheduleKind::Constant => "constant",
            ScheduleKind::CosineWithRestarts { .. } => "cosine_with_restarts",
            ScheduleKind::Polynomial { .. } => "polynomial",
            ScheduleKind::InverseSqrt { .. } => "inverse_sqrt",
            ScheduleKind::WarmupStableDecay { .. } => "warmup_stable_decay",
            ScheduleKind::Plateau(_) => "plateau",
        }
    }
}

/// Length of the decay of a warmup-stable-decay schedule; warmup is never cut short for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// A number of steps.
    Steps(u64),
    /// A share of all steps, rounded up. Default 0.1.
    Ratio(f64),
}

impl Default for Decay {
    fn default() -> Self {
        Decay::Ratio(0.1)
    }
}

impl Decay {
    /// Steps of decay in a run of `total_steps`.
    pub fn steps(self, total_steps: u64) -> u64 {
        match self {
            Decay::Steps(steps) => steps,
            Decay::Ratio(ratio) => (total_steps as f64 * ratio).ceil() as u64,
        }
    }
}

/// Shape of a decay of which a share p is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayShape {
    /// Half a cosine. The default.
    #[default]
    Cosine,
    /// 1 - p.
    Linear,
    /// 1 - √p (arXiv 2405.18392).
    OneMinusSqrt,
}

/// When and how far the rate of a plateau schedule falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    /// The rate is multiplied by this. Above 0, below 1, default 0.1.
    pub factor: f64,
    /// Evaluations in a row without improvement that are borne; the next one lowers the rate. Default 2.
    pub patience: u32,
    /// An improvement is a loss below the best one times 1 - threshold. 0 to below 1, default 1e-4.
    pub threshold: f64,
    /// Evaluations after a fall that are not counted. Default 0.
    pub cooldown: u32,
}

impl Default for Plateau {
    fn default() -> Self {
        Self { factor: 0.1, patience: 2, threshold: 1e-4, cooldown: 0 }
    }
}

/// Length of the linear warmup.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// A number of steps.
    Steps(u64),
    /// A share of all steps, rounded up. Default 0.03.
    Ratio(f64),
}

impl Warmup {
    /// Steps of warmup in a run of `total_steps`.
    pub fn steps(self, total_steps: u64) -> u64 {
        match self {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (total_steps as f64 * ratio).ceil() as u64,
        }
    }
}

impl Schedule {
    pub(super) fn validate(&self, has_held_out_rows: bool, check: &mut Check<'_>) {
        match self.warmup {
            Warmup::Steps(steps) => check.that(steps <= 1 << 40, "schedule.warmup_steps", "is absurdly large"),
            Warmup::Ratio(ratio) => check.within(ratio, 0.0..=1.0, "schedule.warmup_ratio"),
        }
        check.within(self.min_learning_rate_ratio, 0.0..=1.0, "schedule.min_learning_rate_ratio");
        match self.kind {
            ScheduleKind::Cosine | ScheduleKind::Linear => {}
            ScheduleKind::Constant => {
                let has_floor = self.min_learning_rate_ratio > 0.0;
                check.that(
                    !has_floor,
                    "schedule.min_learning_rate_ratio",
                    "must be 0: the constant schedule never falls",
                );
            }
            ScheduleKind::CosineWithRestarts { num_cycles } => {
                check.within(f64::from(num_cycles), 1.0..=1e6, "schedule.num_cycles");
            }
            ScheduleKind::Polynomial { power } => {
                let sound = power > 0.0 && power <= 100.0;
                check.that(sound, "schedule.power", format!("is {power}; must be above 0, at most 100"));
            }
            ScheduleKind::InverseSqrt { timescale } => {
                check.that(timescale != Some(0), "schedule.timescale", "must be at least 1");
            }
            ScheduleKind::WarmupStableDecay { decay, .. } => match decay {
                Decay::Steps(steps) => check.that(steps <= 1 << 40, "schedule.decay_steps", "is absurdly large"),
                Decay::Ratio(ratio) => check.within(ratio, 0.0..=1.0, "schedule.decay_ratio"),
            },
            ScheduleKind::Plateau(plateau) => {
                let needs = "plateau watches the held-out loss: set data.eval or data.eval_fraction";
                check.that(has_held_out_rows, "schedule.type", needs);
                plateau.validate(check);
            }
        }
    }
}

impl Plateau {
    fn validate(&self, check: &mut Check<'_>) {
        let Plateau { factor, threshold, .. } = *self;
        let sound = factor > 0.0 && factor < 1.0;
        check.that(sound, "schedule.plateau.factor", format!("is {factor}; must be above 0, below 1"));
        let sound = (0.0..1.0).contains(&threshold);
        check.that(sound, "schedule.plateau.threshold", format!("is {threshold}; must be from 0 to below 1"));
    }
}
