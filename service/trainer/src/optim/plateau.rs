//! Lowering the rate when the held-out loss stops falling, as `torch.optim.lr_scheduler.ReduceLROnPlateau` counts.
//!
//! The direction is fixed: of a loss, lower is better. Each loss is better than the best one or bad; after more than
//! `patience` bad ones in a row the rate is multiplied by `factor`, down to the floor, and the next `cooldown` losses are
//! not counted. What differs from torch: it lowers the rate only when that changes it by more than 1e-8, which stops small
//! rates from falling at all; of a loss below 0 it takes the threshold in the wrong direction; and here losses measured
//! during warmup are not held against the rate, which is still rising.

use hone_job::spec;
use serde::{Deserialize, Serialize};

/// What a plateau schedule has seen, and how far it has lowered the rate. Kept with a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    /// Lowest loss so far, in nats.
    best: Option<f64>,
    /// Losses in a row that were not better.
    num_bad: u32,
    /// Losses still not to be counted.
    cooldown_left: u32,
    /// What the rate is multiplied by, 1 at first.
    scale: f64,
}

impl Default for Plateau {
    fn default() -> Self {
        Self { best: None, num_bad: 0, cooldown_left: 0, scale: 1.0 }
    }
}

impl Plateau {
    /// What the rate is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Takes a held-out loss, absent if it was not finite. `floor` is the lowest scale.
    pub fn observe(&mut self, loss: Option<f64>, during_warmup: bool, options: &spec::Plateau, floor: f64) {
        // As torch reckons it, so that ties fall alike; a negative best must be passed downwards too.
        let share = |best: f64| if best < 0.0 { 1.0 + options.threshold } else { 1.0 - options.threshold };
        let wanted = self.best.map_or(f64::INFINITY, |best| best * share(best));
        let is_better = loss.is_some_and(|loss| loss < wanted);
        if is_better {
            self.best = loss;
        }
        self.num_bad = if is_better || during_warmup { 0 } else { self.num_bad + 1 };
        if self.cooldown_left > 0 {
            self.cooldown_left -= 1;
            self.num_bad = 0;
        }
        if self.num_bad > options.patience {
            self.scale = (self.scale * options.factor).max(floor);
            self.cooldown_left = options.cooldown;
            self.num_bad = 0;
        }
    }
}

/// Evaluations of a run that may lower the rate: after warmup, with a step left to take.
pub fn acting_evaluations(every_steps: u64, warmup_steps: u64, total_steps: u64) -> u64 {
    if every_steps == 0 {
        return 0;
    }
    let up_to = |steps: u64| steps / every_steps;
    let last = total_steps.saturating_sub(1);
    up_to(last).saturating_sub(up_to(warmup_steps.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_rate_is_that_of_torch() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/optim/plateau.json");
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let numbers = |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
        let losses = numbers(&file["losses"]);
        let cases = file["cases"].as_array().unwrap();
        assert!(cases.len() > 4);
        for case in cases {
            let options: spec::Plateau = serde_json::from_value(case["plateau"].clone()).unwrap();
            let floor = case["min_learning_rate_ratio"].as_f64().unwrap();
            let mut plateau = Plateau::default();
            for (number, (loss, want)) in losses.iter().zip(numbers(&case["scales"])).enumerate() {
                plateau.observe(Some(*loss), false, &options, floor);
                let got = plateau.scale();
                assert!((got - want).abs() <= 1e-12 * want, "{case} at {number}: {got} against {want}");
            }
            assert!(plateau.scale() < 1.0, "a case that never acts tests nothing");
        }
    }

    #[test]
    fn a_loss_that_is_not_finite_is_bad_and_never_the_best() {
        let options = spec::Plateau { patience: 0, ..spec::Plateau::default() };
        let mut plateau = Plateau::default();
        plateau.observe(None, false, &options, 0.0);
        assert_eq!((plateau.best, plateau.scale), (None, options.factor));
        plateau.observe(Some(9.0), false, &options, 0.0);
        assert_eq!((plateau.best, plateau.scale), (Some(9.0), options.factor));
    }

    #[test]
    fn a_loss_below_zero_must_fall_by_the_threshold_too() {
        let options = spec::Plateau { patience: 0, threshold: 0.1, ..spec::Plateau::default() };
        let mut plateau = Plateau::default();
        plateau.observe(Some(-1.0), false, &options, 0.0);
        plateau.observe(Some(-1.2), false, &options, 0.0);
        assert_eq!((plateau.best, plateau.scale), (Some(-1.2), 1.0));
        plateau.observe(Some(-1.25), false, &options, 0.0);
        assert_eq!((plateau.best, plateau.scale), (Some(-1.2), options.factor));
    }

    /// torch stops where a fall would be less than 1e-8, which at a peak of 1e-5 is soon.
    #[test]
    fn the_rate_falls_by_however_little() {
        let options = spec::Plateau { factor: 0.1, patience: 0, ..spec::Plateau::default() };
        let mut plateau = Plateau::default();
        for _ in 0..=12 {
            plateau.observe(Some(1.0), false, &options, 0.0);
        }
        assert!((plateau.scale - 1e-12).abs() < 1e-24, "{}", plateau.scale);
    }

    #[test]
    fn losses_of_the_warmup_set_the_best_but_are_not_held_against_the_rate() {
        let options = spec::Plateau { patience: 0, ..spec::Plateau::default() };
        let mut plateau = Plateau::default();
        for loss in [3.0, 2.0, 5.0, 5.0] {
            plateau.observe(Some(loss), true, &options, 0.0);
        }
        assert_eq!((plateau.best, plateau.scale), (Some(2.0), 1.0));
        plateau.observe(Some(2.0), false, &options, 0.0);
        assert_eq!(plateau.scale, options.factor);
    }

    #[test]
    fn evaluations_that_may_act_lie_after_the_warmup_and_before_the_last_step() {
        for (every, warmup, total, want) in [
            (10, 0, 100, 9),
            (10, 0, 101, 10),
            (10, 25, 100, 7),
            (10, 20, 100, 8),
            (10, 200, 100, 0),
            (0, 0, 9, 0),
            (5, 0, 5, 0),
        ] {
            assert_eq!(acting_evaluations(every, warmup, total), want, "{every} {warmup} {total}");
            let counted = (1..total).filter(|step| every > 0 && step % every == 0 && *step >= warmup).count() as u64;
            assert_eq!(counted, want, "{every} {warmup} {total}");
        }
    }
}
