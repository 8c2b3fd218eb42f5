//! How long a run will still take, from what its steps, evaluations and saves took so far.

use super::Run;

/// What is known of a run when it is asked how long it will take.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Measured {
    /// Steps to take, and the time of one.
    steps_left: u64,
    step_seconds: f64,
    /// Steps between evaluations; 0 is never.
    eval_every_steps: u64,
    eval_seconds: f64,
    /// Largest share of the time that evaluations between steps may take, where there is one.
    max_eval_share: Option<f64>,
    /// Time of a save: only the last one is waited for.
    save_seconds: f64,
}

impl Measured {
    fn seconds_left(&self) -> f64 {
        let steps = self.steps_left as f64 * self.step_seconds;
        if self.steps_left == 0 {
            return self.save_seconds;
        }
        // The evaluation after the last step has no share to keep to.
        let between = (self.steps_left - 1).checked_div(self.eval_every_steps).unwrap_or(0) as f64 * self.eval_seconds;
        let between = match self.max_eval_share {
            Some(share) if share < 1.0 => between.min(steps * share / (1.0 - share)),
            _ => between,
        };
        steps + between + self.eval_seconds + self.save_seconds
    }
}

impl Run {
    /// Seconds until the end.
    pub(super) fn seconds_left(&self) -> f64 {
        let progress = &self.progress;
        let measured = Measured {
            steps_left: self.total_steps.saturating_sub(progress.step),
            step_seconds: progress.train_seconds / progress.step.max(1) as f64,
            eval_every_steps: self.eval_every_steps,
            eval_seconds: progress.last_evaluation.map_or(0.0, |last| last.seconds),
            max_eval_share: (!self.evaluations_decide()).then(|| self.training().evaluation.max_time_fraction),
            save_seconds: self.saver.newest_seconds(),
        };
        measured.seconds_left()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_and_the_last_save_count() {
        let steps = Measured { steps_left: 10, step_seconds: 2.0, ..Measured::default() };
        assert_eq!(steps.seconds_left(), 20.0);
        let saved = Measured { save_seconds: 3.0, ..steps };
        assert_eq!(saved.seconds_left(), 23.0);
        // After steps 4 and 8 of the ten that are left, and after the last.
        let evaluated = Measured { eval_every_steps: 4, eval_seconds: 5.0, ..saved };
        assert_eq!(evaluated.seconds_left(), 20.0 + 2.0 * 5.0 + 5.0 + 3.0);
        // A tenth of the time is a ninth of the steps'.
        let bounded = Measured { max_eval_share: Some(0.1), ..evaluated };
        assert!((bounded.seconds_left() - (20.0 + 20.0 / 9.0 + 5.0 + 3.0)).abs() < 1e-9);
        assert_eq!(Measured { steps_left: 0, ..evaluated }.seconds_left(), 3.0);
    }
}
