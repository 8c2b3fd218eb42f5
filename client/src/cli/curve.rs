//! A job's losses as points: takes its events, gives series to draw and the numbers as CSV.

use std::collections::BTreeMap;
use std::fmt::Write;

use hone_client::v1;
use v1::job_event::Event;

/// A point of the held-out loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EvalPoint {
    pub(crate) step: u64,
    pub(crate) loss: f64,
    pub(crate) standard_error: f64,
}

/// Losses per step. A later attempt that takes a step again replaces what the earlier one said of it.
#[derive(Debug, Default)]
pub(crate) struct Curve {
    steps: BTreeMap<u64, v1::TrainStep>,
    evaluations: BTreeMap<u64, v1::EvaluationResult>,
}

impl Curve {
    pub(crate) fn of(events: &[v1::JobEvent]) -> Self {
        let mut curve = Self::default();
        for event in events {
            match &event.event {
                Some(Event::TrainStep(step)) => drop(curve.steps.insert(step.step, step.clone())),
                Some(Event::Evaluation(result)) => drop(curve.evaluations.insert(result.step, result.clone())),
                _ => {}
            }
        }
        curve
    }

    /// Training loss of each step that has one.
    pub(crate) fn train(&self) -> Vec<(u64, f64)> {
        self.steps.values().filter_map(|step| Some((step.step, step.loss?))).collect()
    }

    /// Held-out loss of each evaluation that has one.
    pub(crate) fn eval(&self) -> Vec<EvalPoint> {
        let point = |result: &v1::EvaluationResult| {
            Some(EvalPoint { step: result.step, loss: result.loss?, standard_error: result.loss_standard_error })
        };
        self.evaluations.values().filter_map(point).collect()
    }

    /// A line a step, and one for each evaluation that stands before the first or between.
    pub(crate) fn csv(&self) -> String {
        let mut text = "step,loss,learning_rate,grad_norm,trained_tokens,tokens_per_second,eval_loss\n".to_owned();
        let steps: std::collections::BTreeSet<_> = self.steps.keys().chain(self.evaluations.keys()).collect();
        let cell = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        for number in steps {
            let step = self.steps.get(number);
            let result = self.evaluations.get(number);
            let columns = [
                number.to_string(),
                cell(step.and_then(|step| step.loss)),
                cell(step.map(|step| step.learning_rate)),
                cell(step.and_then(|step| step.grad_norm)),
                step.map(|step| step.trained_tokens.to_string()).unwrap_or_default(),
                cell(step.map(|step| step.tokens_per_second)),
                cell(result.and_then(|result| result.loss)),
            ];
            writeln!(text, "{}", columns.join(",")).expect("a String takes everything");
        }
        text
    }
}

/// The points on a smooth line: at each the straight line that fits its neighbours best, weighted by a Gaussian. It looks
/// both ways, so that nothing lags, and follows a slope to its very ends, where a mean would flatten it.
pub(crate) fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    // Wider for longer runs, but less than in proportion, so that the drop at the start is not smeared.
    let sigma = (0.6 * (points.len() as f64).sqrt()).max(1.0);
    let reach = (3.0 * sigma).ceil() as usize;
    let fit_at = |place: usize| {
        let window = place.saturating_sub(reach)..(place + reach + 1).min(points.len());
        let [mut w, mut wx, mut wxx, mut wy, mut wxy] = [0.0; 5];
        for other in window {
            let x = other as f64 - place as f64;
            let weight = (-0.5 * (x / sigma).powi(2)).exp();
            w += weight;
            wx += weight * x;
            wxx += weight * x * x;
            wy += weight * points[other].1;
            wxy += weight * x * points[other].1;
        }
        // The fitted line at x = 0; a single point is its own line.
        let determinant = w * wxx - wx * wx;
        if determinant > 0.0 { (wxx * wy - wx * wxy) / determinant } else { wy / w }
    };
    points.iter().enumerate().map(|(place, point)| (point.0, fit_at(place))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn step(step: u64, loss: Option<f64>) -> v1::JobEvent {
        let step = v1::TrainStep { step, loss, learning_rate: 0.5, trained_tokens: 7, ..Default::default() };
        v1::JobEvent { event: Some(Event::TrainStep(step)), ..Default::default() }
    }

    pub(crate) fn evaluation(step: u64, loss: f64) -> v1::JobEvent {
        let result = v1::EvaluationResult { step, loss: Some(loss), loss_standard_error: 0.05, ..Default::default() };
        v1::JobEvent { event: Some(Event::Evaluation(result)), ..Default::default() }
    }

    #[test]
    fn a_step_taken_again_counts_once_and_one_without_loss_is_left_out() {
        let events = [step(1, Some(4.0)), step(2, Some(3.0)), step(2, Some(2.5)), step(3, None), step(4, Some(2.0))];
        assert_eq!(Curve::of(&events).train(), [(1, 4.0), (2, 2.5), (4, 2.0)]);
    }

    #[test]
    fn csv_has_a_line_a_step_and_the_evaluation_before_the_first() {
        let curve = Curve::of(&[evaluation(0, 5.0), step(1, Some(4.5)), step(2, None), evaluation(2, 3.5)]);
        let expected = "\
step,loss,learning_rate,grad_norm,trained_tokens,tokens_per_second,eval_loss
0,,,,,,5
1,4.5,0.5,,7,0,
2,,0.5,,7,0,3.5
";
        assert_eq!(curve.csv(), expected);
    }

    #[test]
    fn smoothing_keeps_a_straight_line_to_its_ends() {
        for slope in [0.0, -0.25] {
            let line: Vec<_> = (0..50).map(|step| (step, 2.0 + slope * step as f64)).collect();
            let smooth = smoothed(&line);
            assert!(line.iter().zip(&smooth).all(|(one, other)| (one.1 - other.1).abs() < 1e-9), "{smooth:?}");
        }
        assert_eq!(smoothed(&[(1, 3.0)]), [(1, 3.0)]);
    }

    #[test]
    fn smoothing_takes_the_edge_off_a_peak_and_looks_both_ways() {
        let mut peak: Vec<_> = (0..51).map(|step| (step, 2.0)).collect();
        peak[25].1 = 10.0;
        let smooth = smoothed(&peak);
        assert!(smooth[25].1 < 6.0 && smooth[25].1 > smooth[24].1 && smooth[24].1 > 2.0);
        assert!((smooth[24].1 - smooth[26].1).abs() < 1e-9);
    }
}
