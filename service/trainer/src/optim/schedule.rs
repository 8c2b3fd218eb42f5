//! The learning rate of each step, as transformers' schedulers give it.
//!
//! With t steps taken, w of warmup and S in all, the rate is the peak times `t / w` while t < w, so that the first step of
//! a warmup has rate 0, as there. Then, with `p = (t - w) / (S - w)`, it is the peak times `f + (1 - f) · shape`, f being
//! the floor and shape
//!
//! ```text
//! cosine                 (1 + cos πp) / 2                  (Loshchilov & Hutter 2016, arXiv:1608.03983)
//! linear                 1 - p
//! constant, plateau      1                                 (a plateau's scale comes on top, see `Plateau`)
//! cosine with restarts   (1 + cos(π · (cp mod 1))) / 2, 0 at the end, with c cycles
//! polynomial             (1 - p)^k
//! inverse sqrt           1 / √((t + s) / τ), s = τ - w, with timescale τ
//! warmup-stable-decay    1, and over the last d steps, q of them over: (1 + cos πq) / 2, 1 - q or 1 - √q
//! ```
//!
//! The warmup of warmup-stable-decay starts at the floor, as in transformers.

use std::f64::consts::PI;

use hone_job::spec::{self, DecayShape, ScheduleKind};

/// Timescale of the inverse square root where neither it nor a warmup is given; transformers' own.
const DEFAULT_TIMESCALE: u64 = 10_000;

/// A learning rate for every step of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    peak: f64,
    /// The floor, as a share of the peak.
    floor: f64,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// The schedule of a run of `total_steps` whose highest rate is `peak`.
    pub fn new(schedule: &spec::Schedule, peak: f64, total_steps: u64) -> Schedule {
        Schedule {
            kind: schedule.kind,
            peak,
            floor: schedule.min_learning_rate_ratio,
            warmup_steps: schedule.warmup.steps(total_steps),
            total_steps,
        }
    }

    /// Steps of warmup.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// The rate of the step that is taken after `step` others.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * self.warmup(step);
        }
        self.peak * self.above_floor(self.shape(step))
    }

    /// Between the floor, at 0, and the peak, at 1.
    fn above_floor(&self, shape: f64) -> f64 {
        shape * (1.0 - self.floor) + self.floor
    }

    fn warmup(&self, step: u64) -> f64 {
        let share = step as f64 / self.warmup_steps as f64;
        match self.kind {
            ScheduleKind::WarmupStableDecay { .. } => self.above_floor(share),
            _ => share,
        }
    }

    /// From 1 after warmup towards 0.
    fn shape(&self, step: u64) -> f64 {
        let since_warmup = (step - self.warmup_steps) as f64;
        let left = self.total_steps.saturating_sub(self.warmup_steps);
        let progress = (since_warmup / left.max(1) as f64).min(1.0);
        match self.kind {
            ScheduleKind::Cosine => half_cosine(progress),
            // Not 1 - progress, which loses digits near the end of a long run.
            ScheduleKind::Linear => self.total_steps.saturating_sub(step) as f64 / left.max(1) as f64,
            ScheduleKind::Constant | ScheduleKind::Plateau(_) => 1.0,
            ScheduleKind::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts { num_cycles } => half_cosine((f64::from(num_cycles) * progress) % 1.0),
            ScheduleKind::Polynomial { power } => (1.0 - progress).powf(power),
            ScheduleKind::InverseSqrt { timescale } => {
                let warmup = Some(self.warmup_steps).filter(|steps| *steps > 0);
                let timescale = timescale.or(warmup).unwrap_or(DEFAULT_TIMESCALE) as f64;
                1.0 / ((since_warmup + timescale) / timescale).sqrt()
            }
            ScheduleKind::WarmupStableDecay { decay, shape } => {
                let decay_steps = decay.steps(self.total_steps).min(left);
                let decayed = step.saturating_sub(self.total_steps.saturating_sub(decay_steps));
                decay_shape(shape, (decayed as f64 / decay_steps.max(1) as f64).min(1.0))
            }
        }
    }
}

fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (PI * progress).cos())
}

fn decay_shape(shape: DecayShape, progress: f64) -> f64 {
    match shape {
        DecayShape::Cosine => half_cosine(progress),
        DecayShape::Linear => 1.0 - progress,
        DecayShape::OneMinusSqrt => 1.0 - progress.sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hone_job::spec::{Decay, Plateau, Warmup};
    use serde_json::Value;

    use super::*;

    fn rates(kind: ScheduleKind, warmup_steps: u64, floor: f64, total_steps: u64) -> Vec<f64> {
        let spec = spec::Schedule { kind, warmup: Warmup::Steps(warmup_steps), min_learning_rate_ratio: floor };
        let schedule = Schedule::new(&spec, 1.0, total_steps);
        (0..=total_steps).map(|step| schedule.learning_rate(step)).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12), "{got:?} against {want:?}");
    }

    /// The words of tests/fixtures/optim/schedules.json.
    fn kind(settings: &Value) -> ScheduleKind {
        let number = |name: &str| settings[name].as_f64().unwrap();
        match settings["type"].as_str().unwrap() {
            "cosine" => ScheduleKind::Cosine,
            "linear" => ScheduleKind::Linear,
            "constant" => ScheduleKind::Constant,
            "cosine_with_restarts" => ScheduleKind::CosineWithRestarts { num_cycles: number("num_cycles") as u32 },
            "polynomial" => ScheduleKind::Polynomial { power: number("power") },
            "inverse_sqrt" => ScheduleKind::InverseSqrt { timescale: settings["timescale"].as_u64() },
            "warmup_stable_decay" => ScheduleKind::WarmupStableDecay {
                decay: Decay::Steps(settings["decay_steps"].as_u64().unwrap()),
                shape: serde_json::from_value(settings["decay_shape"].clone()).unwrap(),
            },
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_rate_is_that_of_transformers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/optim/schedules.json");
        let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let settings = &case["schedule"];
            let spec = spec::Schedule {
                kind: kind(settings),
                warmup: Warmup::Steps(settings["warmup_steps"].as_u64().unwrap()),
                min_learning_rate_ratio: settings["min_learning_rate_ratio"].as_f64().unwrap_or(0.0),
            };
            let total_steps = case["total_steps"].as_u64().unwrap();
            let schedule = Schedule::new(&spec, case["learning_rate"].as_f64().unwrap(), total_steps);
            for (step, want) in case["rates"].as_array().unwrap().iter().enumerate() {
                let (got, want) = (schedule.learning_rate(step as u64), want.as_f64().unwrap());
                assert!((got - want).abs() <= 1e-12 * want, "{settings} at {step}: {got} against {want}");
            }
        }
    }

    #[test]
    fn a_warmup_as_long_as_the_run_or_longer_only_rises() {
        close(&rates(ScheduleKind::Cosine, 4, 0.0, 2), &[0.0, 0.25, 0.5]);
        close(&rates(ScheduleKind::Cosine, 2, 0.0, 2), &[0.0, 0.5, 1.0]);
    }

    #[test]
    fn every_shape_that_falls_keeps_to_its_floor() {
        close(&rates(ScheduleKind::Linear, 0, 0.5, 2), &[1.0, 0.75, 0.5]);
        close(&rates(ScheduleKind::CosineWithRestarts { num_cycles: 2 }, 0, 0.5, 4), &[1.0, 0.75, 1.0, 0.75, 0.5]);
        close(&rates(ScheduleKind::InverseSqrt { timescale: Some(1) }, 0, 0.5, 3)[3..], &[0.75]);
    }

    #[test]
    fn a_decay_longer_than_what_warmup_leaves_takes_all_of_that() {
        let kind = |decay| ScheduleKind::WarmupStableDecay { decay, shape: DecayShape::Linear };
        close(&rates(kind(Decay::Steps(100)), 2, 0.0, 4), &[0.0, 0.5, 1.0, 0.5, 0.0]);
        close(&rates(kind(Decay::Ratio(0.5)), 0, 0.0, 4), &[1.0, 1.0, 1.0, 0.5, 0.0]);
        close(&rates(kind(Decay::Steps(0)), 0, 0.0, 2), &[1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_plateau_is_flat_by_itself() {
        close(&rates(ScheduleKind::Plateau(Plateau::default()), 2, 0.1, 4), &[0.0, 0.5, 1.0, 1.0, 1.0]);
    }
}
