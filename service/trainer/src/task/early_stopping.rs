//! Stopping when the held-out rows stop improving, as transformers' EarlyStoppingCallback counts.

use hone_job::event::{EarlyStopped, Evaluation};
use hone_job::spec::{self, Metric};
use serde::{Deserialize, Serialize};

/// What was seen so far. Kept with a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct EarlyStopping {
    /// The best figure.
    best: Option<f64>,
    /// The step at which it was measured.
    best_step: u64,
    /// Evaluations in a row since that were not better.
    num_bad: u32,
}

impl EarlyStopping {
    /// Takes an evaluation, and says whether it is the best so far. One whose figure is not finite is not better.
    pub(super) fn observe(&mut self, evaluation: &Evaluation, options: &spec::EarlyStopping) -> bool {
        let value = figure(options.metric, evaluation);
        let is_better = match (value, self.best) {
            (Some(_), None) => true,
            (Some(value), Some(best)) => options.metric.gain(value, best) > options.threshold,
            (None, _) => false,
        };
        if is_better {
            (self.best, self.best_step, self.num_bad) = (value, evaluation.step, 0);
        } else {
            self.num_bad += 1;
        }
        is_better
    }

    /// What to tell once enough evaluations in a row were not better; none before.
    pub(super) fn verdict(&self, step: u64, options: &spec::EarlyStopping) -> Option<EarlyStopped> {
        (self.num_bad >= options.patience).then(|| EarlyStopped {
            step,
            metric: options.metric.name().into(),
            best: self.best,
            best_step: self.best_step,
            evaluations: self.num_bad,
        })
    }
}

/// The value of a metric in an evaluation.
fn figure(metric: Metric, evaluation: &Evaluation) -> Option<f64> {
    let pairs = evaluation.preference;
    match metric {
        Metric::Loss => evaluation.loss,
        Metric::Accuracy => pairs.map(|pairs| pairs.accuracy),
        Metric::Margin => pairs.map(|pairs| pairs.margin),
    }
    .filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(options: &spec::EarlyStopping, losses: &[Option<f64>]) -> (Vec<bool>, Option<EarlyStopped>) {
        let mut stopping = EarlyStopping::default();
        let better = losses.iter().zip(0..).map(|(loss, step)| {
            assert_eq!(stopping.verdict(step, options), None, "it would have stopped before step {step}");
            stopping.observe(&Evaluation { step, loss: *loss, ..Evaluation::default() }, options)
        });
        let better = better.collect();
        (better, stopping.verdict(losses.len() as u64, options))
    }

    #[test]
    fn counts_as_the_callback_of_transformers_does() {
        let options = spec::EarlyStopping { patience: 2, threshold: 0.1, ..Default::default() };
        // A gain of exactly the threshold, or of less, is none; what is not finite is none either.
        let (better, stopped) = losses(&options, &[Some(2.0), Some(1.5), Some(1.45), Some(1.2), None, Some(1.15)]);
        assert_eq!(better, [true, true, false, true, false, false]);
        let expected = EarlyStopped { step: 6, metric: "loss".into(), best: Some(1.2), best_step: 3, evaluations: 2 };
        assert_eq!(stopped, Some(expected));
        assert_eq!(losses(&options, &[Some(1.0), Some(1.0)]).1, None);
    }

    #[test]
    fn accuracy_is_better_when_it_is_higher() {
        let options = spec::EarlyStopping { metric: Metric::Accuracy, patience: 1, ..Default::default() };
        let evaluation = |accuracy| Evaluation {
            preference: Some(hone_job::event::PreferenceMetrics { accuracy, ..Default::default() }),
            ..Evaluation::default()
        };
        let mut stopping = EarlyStopping::default();
        assert!(stopping.observe(&evaluation(0.5), &options) && stopping.observe(&evaluation(0.75), &options));
        assert!(!stopping.observe(&evaluation(0.75), &options));
        assert!(stopping.verdict(3, &options).is_some());
    }
}
