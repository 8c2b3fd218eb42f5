//! What a run shows of itself while it goes on: how noisy its gradients are, and when it begins to learn by heart. None of it
//! changes what is trained.

use hone_job::event::Event;
use hone_job::insight::{GradientNoise, Overfitting};

use super::Run;
use crate::optim::{NoiseEstimate, NoiseSample, NoiseScale};
use crate::task::evaluate::RowFigure;

/// A scale is clear when its standard error is at most this share of it.
const CLEAR: f64 = 0.25;
/// It is told again when it has changed by this factor.
const CHANGED: f64 = 1.5;
/// A change of the held-out rows is one when it is so many of its standard errors.
const TURNED: f64 = 2.0;

/// The noise of a run's gradients, and what was told of it.
#[derive(Debug, Default)]
pub(super) struct Noise {
    scale: NoiseScale,
    /// The scale that was told last; infinite where there was no signal.
    told: Option<f64>,
}

impl Noise {
    /// What is to be told now, if anything is.
    fn observe(&mut self, sample: NoiseSample) -> Option<NoiseEstimate> {
        self.scale.observe(sample);
        let estimate = self.scale.estimate()?;
        let is_clear = match estimate.scale {
            Some(scale) => estimate.standard_error <= CLEAR * scale,
            // That there is no signal is clear once the whole window says so.
            None => estimate.steps == NoiseScale::WINDOW as u64,
        };
        let scale = estimate.scale.unwrap_or(f64::INFINITY);
        let is_news = self.told.is_none_or(|told| scale.max(told) / scale.min(told) > CHANGED);
        (is_clear && is_news).then(|| {
            self.told = Some(scale);
            estimate
        })
    }
}

/// What an evaluation and the steps before it say together.
#[derive(Debug, Clone)]
struct Place {
    step: u64,
    rows: Vec<RowFigure>,
    training_loss: f64,
}

/// Watches for the turn after which held-out rows get worse while training rows get better.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Sum and count of the training losses since the last evaluation.
    losses: (f64, u64),
    best: Option<Place>,
    told: bool,
}

impl Turn {
    /// Takes in a step's loss.
    fn step(&mut self, loss: f64) {
        if loss.is_finite() {
            self.losses = (self.losses.0 + loss, self.losses.1 + 1);
        }
    }

    /// Takes in an evaluation. Says so when the run has turned since the best one.
    fn evaluated(&mut self, step: u64, rows: &[RowFigure]) -> Option<Overfitting> {
        let (sum, count) = std::mem::take(&mut self.losses);
        let now = Place { step, rows: rows.to_vec(), training_loss: sum / count as f64 };
        let Some(best) = &self.best else {
            self.best = Some(now);
            return None;
        };
        let (change, standard_error) = change(&best.rows, &now.rows);
        if change < 0.0 {
            self.best = Some(now);
            self.told = false;
            return None;
        }
        let has_turned = change > TURNED * standard_error && now.training_loss < best.training_loss;
        if self.told || !has_turned {
            return None;
        }
        self.told = true;
        Some(Overfitting {
            step,
            turned_at_step: best.step,
            held_out_change: change,
            standard_error,
            training_loss_then: best.training_loss,
            training_loss_now: now.training_loss,
        })
    }
}

/// How much harder the rows became, averaged over them, and the standard error of that. Rows weigh alike, so that the
/// difference is taken row by row.
fn change(before: &[RowFigure], now: &[RowFigure]) -> (f64, f64) {
    let differences: Vec<f64> = before.iter().zip(now).map(|(one, other)| other.hardness() - one.hardness()).collect();
    let count = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / count;
    let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

impl Run {
    /// Tells how noisy the gradients are, when that is news.
    pub(super) fn observe_noise(&mut self, sample: Option<NoiseSample>) {
        let Some(estimate) = sample.and_then(|sample| self.noise.observe(sample)) else { return };
        let examples_per_step = self.training().batch.examples_per_step;
        let signal_share =
            estimate.scale.map(|scale| f64::from(examples_per_step) / (f64::from(examples_per_step) + scale));
        self.observer.report(Event::GradientNoise(GradientNoise {
            step: self.progress.step,
            noise_scale: estimate.scale,
            standard_error: estimate.scale.map_or(0.0, |_| estimate.standard_error),
            signal_share,
            examples_per_step,
            measured_steps: estimate.steps,
            advice: advice(estimate.scale, examples_per_step),
        }));
    }

    /// Takes in a step's loss.
    pub(super) fn observe_loss(&mut self, loss: f64) {
        self.turn.step(loss);
    }

    /// Tells when the run begins to learn by heart.
    pub(super) fn observe_turn(&mut self) {
        let step = self.progress.step;
        if let Some(found) = self.turn.evaluated(step, &self.row_figures) {
            self.observer.report(Event::Overfitting(found));
        }
    }
}

/// What a scale means for steps of so many examples. By McCandlish et al. 2018, equations 2.7 and 2.8, a run of `b` examples
/// a step needs `1 + scale / b` times the fewest steps and `1 + b / scale` times the fewest examples.
fn advice(scale: Option<f64>, examples_per_step: u32) -> String {
    let examples = f64::from(examples_per_step);
    let Some(scale) = scale else {
        return format!(
            "the gradients of steps of {examples_per_step} examples cannot be told apart from noise; more examples a step, or a \
             lower rate, average it out"
        );
    };
    let times = 1.0 + scale / examples;
    if scale > 3.0 * examples {
        let better = rounded(scale);
        format!(
            "most of a step's gradient is noise; with about {better} examples a step (now {examples_per_step}) the same progress \
             would take about {:.0} times fewer steps, for twice the fewest examples",
            times / (1.0 + scale / better as f64)
        )
    } else if examples > 3.0 * scale {
        format!(
            "little of a step's gradient is noise: about {} examples a step (now {examples_per_step}) would get as far with fewer \
             examples in all",
            rounded(scale).max(1)
        )
    } else {
        format!("{examples_per_step} examples a step are about right: neither steps nor examples are wasted")
    }
}

/// A number of examples as a person would choose it: a power of two.
fn rounded(scale: f64) -> u64 {
    2f64.powf(scale.max(1.0).log2().round()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(loss: f64) -> RowFigure {
        RowFigure { loss, margin: None }
    }

    fn rows(losses: &[f64]) -> Vec<RowFigure> {
        losses.iter().map(|loss| row(*loss)).collect()
    }

    #[test]
    fn a_turn_is_told_once_and_only_while_training_rows_get_better() {
        let mut turn = Turn::default();
        let mut evaluated = |training: f64, held_out: &[f64], step: u64| {
            turn.step(training);
            turn.evaluated(step, &rows(held_out))
        };
        assert_eq!(evaluated(3.0, &[2.0, 2.1, 1.9, 2.0], 10), None);
        assert_eq!(evaluated(2.0, &[1.5, 1.6, 1.4, 1.5], 20), None, "both get better");
        assert_eq!(evaluated(1.9, &[1.4, 1.8, 1.3, 1.6], 30), None, "worse by less than two standard errors");
        let found = evaluated(1.0, &[1.7, 1.8, 1.65, 1.7], 40).unwrap();
        assert_eq!((found.step, found.turned_at_step), (40, 20));
        assert!((found.held_out_change - 0.2125).abs() < 1e-12 && found.standard_error < 0.03, "{found:?}");
        assert_eq!((found.training_loss_then, found.training_loss_now), (2.0, 1.0));
        assert_eq!(evaluated(0.5, &[2.7, 2.8, 2.6, 2.7], 50), None, "once");
        assert_eq!(evaluated(0.5, &[1.0, 1.0, 1.0, 1.0], 60), None, "a new best");
        assert!(evaluated(0.4, &[1.1, 1.1, 1.1, 1.2], 70).is_some(), "and another turn");
        let mut diverging = Turn::default();
        diverging.step(1.0);
        assert_eq!(diverging.evaluated(1, &rows(&[1.0, 1.0, 1.1])), None);
        diverging.step(2.0);
        assert_eq!(diverging.evaluated(2, &rows(&[2.0, 2.0, 2.1])), None, "training rows got worse, too");
    }

    #[test]
    fn margins_turn_when_they_shrink() {
        let pairs = |margins: &[f64]| -> Vec<RowFigure> {
            margins.iter().map(|margin| RowFigure { loss: 1.0, margin: Some(*margin) }).collect()
        };
        let mut turn = Turn::default();
        turn.step(0.6);
        assert_eq!(turn.evaluated(1, &pairs(&[1.0, 2.0, 1.5])), None);
        turn.step(0.3);
        assert!(turn.evaluated(2, &pairs(&[0.5, 1.4, 1.0])).is_some());
    }

    #[test]
    fn noise_is_told_when_it_is_clear_and_when_it_changes() {
        let mut noise = Noise::default();
        let sample = |noise: f64| NoiseSample { noise, signal: 1.0 };
        let told: Vec<_> = (0..NoiseScale::FEWEST).filter_map(|_| noise.observe(sample(40.0))).collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].scale, Some(40.0));
        assert!((0..40).all(|_| noise.observe(sample(41.0)).is_none()));
        let told: Vec<_> = (0..200).filter_map(|_| noise.observe(sample(130.0))).collect();
        assert!((1..=3).contains(&told.len()) && told.last().unwrap().scale.unwrap() > 60.0, "{told:?}");

        let mut nothing = Noise::default();
        let signal = |n: usize| if n.is_multiple_of(2) { 1.0 } else { -1.0 };
        let told: Vec<_> =
            (0..200).filter_map(|n| nothing.observe(NoiseSample { noise: 9.0, signal: signal(n) })).collect();
        assert!(told.len() == 1 && told[0].scale.is_none() && told[0].steps == NoiseScale::WINDOW as u64, "{told:?}");
    }

    #[test]
    fn advice_follows_the_scale() {
        assert!(advice(Some(500.0), 16).contains("about 512 examples a step (now 16)"), "{}", advice(Some(500.0), 16));
        assert!(advice(Some(500.0), 16).contains("about 16 times fewer steps"));
        assert!(advice(Some(3.7), 64).contains("about 4 examples a step (now 64)"));
        assert!(advice(Some(20.0), 16).contains("about right"));
        assert!(advice(None, 16).contains("cannot be told apart"));
    }
}
