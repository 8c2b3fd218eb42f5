//! What a job's events tell of its run, by step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use hone_proto::v1;
use v1::job_event::Event;

/// A figure of held-out rows at a step, with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalPoint {
    /// Steps taken before.
    pub step: u64,
    /// The figure.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// The numbers of a run. A later attempt that takes a step again replaces what the earlier one said of it.
#[derive(Debug, Clone, Default)]
pub struct Run {
    steps: BTreeMap<u64, v1::TrainStep>,
    evaluations: BTreeMap<u64, v1::EvaluationResult>,
    /// Use of the machine, with the step before it.
    usage: Vec<(u64, v1::ResourceUsage)>,
}

impl Run {
    /// What events tell, in their order.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a v1::JobEvent>) -> Self {
        let mut run = Self::default();
        let mut last_step = 0;
        for event in events {
            match &event.event {
                Some(Event::TrainStep(step)) => {
                    last_step = step.step;
                    run.steps.insert(step.step, step.clone());
                }
                Some(Event::Evaluation(result)) => drop(run.evaluations.insert(result.step, result.clone())),
                Some(Event::ResourceUsage(usage)) => run.usage.push((last_step, *usage)),
                _ => {}
            }
        }
        run
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.train_loss().is_empty() && self.eval_loss().is_empty()
    }

    /// Training loss of each step that has one.
    pub fn train_loss(&self) -> Vec<(u64, f64)> {
        self.of_steps(|step| step.loss)
    }

    /// Held-out loss of each evaluation that has one.
    pub fn eval_loss(&self) -> Vec<EvalPoint> {
        self.of_evaluations(|result| Some((result.loss?, result.loss_standard_error)))
    }

    /// A number of each step that has one.
    pub(crate) fn of_steps(&self, number: impl Fn(&v1::TrainStep) -> Option<f64>) -> Vec<(u64, f64)> {
        let points = self.steps.values().filter_map(|step| Some((step.step, number(step)?)));
        points.filter(|point| point.1.is_finite()).collect()
    }

    /// A number and its standard error of each evaluation that has one.
    pub(crate) fn of_evaluations(
        &self,
        number: impl Fn(&v1::EvaluationResult) -> Option<(f64, f64)>,
    ) -> Vec<EvalPoint> {
        let points = self.evaluations.values().filter_map(|result| {
            let (value, error) = number(result)?;
            Some(EvalPoint { step: result.step, value, error })
        });
        points.filter(|point| point.value.is_finite() && point.error.is_finite()).collect()
    }

    /// A number of each sample of the machine's use that has one; none where a single sample has, which is no line.
    pub(crate) fn of_usage(&self, number: impl Fn(&v1::ResourceUsage) -> Option<f64>) -> Vec<(u64, f64)> {
        let points = self.usage.iter().filter_map(|(step, usage)| Some((*step, number(usage)?)));
        let points: Vec<_> = points.filter(|point| point.1.is_finite()).collect();
        if points.len() > 1 { points } else { Vec::new() }
    }

    /// The last of its steps and evaluations.
    pub fn last_step(&self) -> u64 {
        let last = |step: Option<&u64>| step.copied().unwrap_or_default();
        last(self.steps.keys().next_back()).max(last(self.evaluations.keys().next_back()))
    }

    /// A line about it, after what it is called.
    pub fn said(&self, name: &str) -> String {
        let eval = self.eval_loss();
        let mut parts = vec![name.to_owned()];
        if let (Some(first), Some(last)) = (eval.first(), eval.last()) {
            let said = |point: &EvalPoint| format!("{:.3} at step {}", point.value, point.step);
            parts.push(format!("held-out loss {}, {}", said(first), said(last)));
        }
        parts.join("  ·  ")
    }

    /// CSV: a line a step, and one for each evaluation that stands before the first or between.
    pub fn csv(&self) -> String {
        let mut text = "step,loss,learning_rate,grad_norm,trained_tokens,tokens_per_second,eval_loss\n".to_owned();
        let steps: BTreeSet<_> = self.steps.keys().chain(self.evaluations.keys()).collect();
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
            // A String takes everything.
            let _ = writeln!(text, "{}", columns.join(","));
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn event(event: Event) -> v1::JobEvent {
        v1::JobEvent { event: Some(event), ..Default::default() }
    }

    pub(crate) fn step(step: u64, loss: Option<f64>) -> v1::JobEvent {
        let step = v1::TrainStep { step, loss, learning_rate: 0.5, trained_tokens: 7, ..Default::default() };
        event(Event::TrainStep(step))
    }

    pub(crate) fn evaluation(step: u64, loss: f64) -> v1::JobEvent {
        let result = v1::EvaluationResult { step, loss: Some(loss), loss_standard_error: 0.05, ..Default::default() };
        event(Event::Evaluation(result))
    }

    #[test]
    fn a_step_taken_again_counts_once_and_one_without_loss_is_left_out() {
        let events = [step(1, Some(4.0)), step(2, Some(3.0)), step(2, Some(2.5)), step(3, None), step(4, Some(2.0))];
        let run = Run::of(&events);
        assert_eq!(run.train_loss(), [(1, 4.0), (2, 2.5), (4, 2.0)]);
        assert_eq!(run.last_step(), 4);
    }

    #[test]
    fn csv_has_a_line_a_step_and_the_evaluation_before_the_first() {
        let run = Run::of(&[evaluation(0, 5.0), step(1, Some(4.5)), step(2, None), evaluation(2, 3.5)]);
        let expected = "\
step,loss,learning_rate,grad_norm,trained_tokens,tokens_per_second,eval_loss
0,,,,,,5
1,4.5,0.5,,7,0,
2,,0.5,,7,0,3.5
";
        assert_eq!(run.csv(), expected);
    }
}
