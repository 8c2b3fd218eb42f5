//! The learning rate of each step, as transformers' schedulers give it.
//!
//! With s steps taken, w of warmup and S in all: `peak · s / w` while s < w; then, with `p = (s - w) / (S - w)`, the shape
//! is `(1 + cos πp) / 2` (cosine, Loshchilov & Hutter 2016, arXiv:1608.03983), `1 - p` (linear) or 1 (constant), drawn
//! between the floor and the peak. So the first step of a warmup has rate 0, as there.

use hone_job::spec::{self, ScheduleKind};

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
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / decay_steps).min(1.0);
        let shape = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Constant => 1.0,
        };
        self.peak * (self.floor + (1.0 - self.floor) * shape)
    }
}

#[cfg(test)]
mod tests {
    use hone_job::spec::Warmup;

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

    #[test]
    fn shapes_run_from_zero_over_the_peak_to_the_floor() {
        // transformers.get_cosine_schedule_with_warmup(optimizer, 2, 6) and its kin.
        let half = std::f64::consts::FRAC_1_SQRT_2;
        close(&rates(ScheduleKind::Cosine, 2, 0.0, 6), &[0.0, 0.5, 1.0, 0.5 + 0.5 * half, 0.5, 0.5 - 0.5 * half, 0.0]);
        close(&rates(ScheduleKind::Linear, 2, 0.0, 6), &[0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        close(&rates(ScheduleKind::Constant, 2, 0.0, 4), &[0.0, 0.5, 1.0, 1.0, 1.0]);
        close(&rates(ScheduleKind::Linear, 0, 0.5, 2), &[1.0, 0.75, 0.5]);
    }

    #[test]
    fn a_warmup_as_long_as_the_run_or_longer_only_rises() {
        close(&rates(ScheduleKind::Cosine, 4, 0.0, 2), &[0.0, 0.25, 0.5]);
        close(&rates(ScheduleKind::Cosine, 2, 0.0, 2), &[0.0, 0.5, 1.0]);
    }
}
