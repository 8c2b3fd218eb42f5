//! The progress bar of a job on a terminal: where it is, its latest losses, how long it still takes.

use std::time::Duration;

use hone_client::v1;
use indicatif::{ProgressBar, ProgressStyle};
use v1::job_event::Event;

use crate::human::{bytes, count, duration, loss, rate};
use crate::narrate::{phase_name, state_name};

/// Before the plan is known there is nothing to measure.
const WAITING: &str = "{spinner:.cyan} {prefix}  {elapsed:.dim}";
const RUNNING: &str = "{prefix:.bold}  {bar:32.cyan/dim}  {pos}/{len}  {percent}%\n{msg:.dim}";

/// A bar, and what it has been told.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    seen: Seen,
}

/// What the bar shows.
#[derive(Debug, Default)]
struct Seen {
    phase: String,
    total_steps: u64,
    step: Option<v1::TrainStep>,
    eval_loss: Option<f64>,
    /// Memory of the device, or of the trainer when there is none.
    memory_bytes: u64,
}

impl Bar {
    /// A bar for a run of `total_steps`; 0 when they are not known yet.
    pub(crate) fn new(total_steps: u64) -> Self {
        let bar = ProgressBar::new_spinner().with_style(style(WAITING));
        bar.enable_steady_tick(Duration::from_millis(120));
        let bar = Self { bar, seen: Seen { total_steps, ..Seen::default() } };
        bar.measure();
        bar
    }

    /// Shows how much there is, once that is known.
    fn measure(&self) {
        if self.seen.total_steps > 0 {
            self.bar.set_length(self.seen.total_steps);
            self.bar.set_style(style(RUNNING));
        }
    }

    /// Takes note of an event and draws.
    pub(crate) fn update(&mut self, event: &v1::JobEvent) {
        self.seen.take(event);
        if let Some(Event::Plan(_)) = &event.event {
            self.measure();
        }
        self.bar.set_prefix(self.seen.phase.clone());
        if let Some(step) = &self.seen.step {
            self.bar.set_position(step.step);
        }
        self.bar.set_message(self.seen.figures());
    }

    /// A line, or several, above the bar.
    pub(crate) fn print(&self, text: &str) {
        self.bar.println(text);
    }

    /// Takes the bar off the screen.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Seen {
    fn take(&mut self, event: &v1::JobEvent) {
        match &event.event {
            Some(Event::StateChanged(change)) => self.phase = state_name(change.to).to_lowercase(),
            Some(Event::Phase(phase)) => self.phase = phase_name(&phase.name),
            Some(Event::Plan(plan)) => self.total_steps = plan.total_steps,
            Some(Event::TrainStep(step)) => {
                self.memory_bytes = self.memory_bytes.max(step.peak_memory_bytes);
                self.step = Some(step.clone());
            }
            Some(Event::Evaluation(result)) => self.eval_loss = result.loss,
            Some(Event::ResourceUsage(usage)) => {
                self.memory_bytes = usage.device_memory_bytes.unwrap_or(usage.host_memory_bytes);
            }
            _ => {}
        }
    }

    /// The line of numbers under the bar.
    fn figures(&self) -> String {
        let mut parts = Vec::new();
        if let Some(step) = &self.step {
            parts.push(format!("loss {}", loss(step.loss)));
        }
        if let Some(eval_loss) = self.eval_loss {
            parts.push(format!("held out {eval_loss:.4}"));
        }
        if let Some(step) = &self.step {
            parts.push(format!("lr {}", rate(step.learning_rate)));
            parts.push(format!("{} tokens/s", count(step.tokens_per_second.round() as u64)));
        }
        if self.memory_bytes > 0 {
            parts.push(bytes(self.memory_bytes));
        }
        if let Some(step) = &self.step {
            parts.push(format!("{} left", duration(step.remaining_seconds)));
        }
        parts.join("  ")
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates are constants");
    style.progress_chars("━╸─").tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: Event) -> v1::JobEvent {
        v1::JobEvent { event: Some(event), ..Default::default() }
    }

    #[test]
    fn the_figures_are_the_latest_of_each() {
        let mut seen = Seen::default();
        assert_eq!(seen.figures(), "");
        seen.take(&event(Event::Evaluation(v1::EvaluationResult { loss: Some(3.5), ..Default::default() })));
        assert_eq!(seen.figures(), "held out 3.5000");
        let step = v1::TrainStep {
            step: 4,
            loss: Some(2.25),
            learning_rate: 2e-4,
            tokens_per_second: 1234.5,
            remaining_seconds: 75.0,
            peak_memory_bytes: 1_500_000_000,
            ..Default::default()
        };
        seen.take(&event(Event::TrainStep(step)));
        let figures = "loss 2.2500  held out 3.5000  lr 2.00e-4  1,235 tokens/s  1.5 GB  1m 15s left";
        assert_eq!(seen.figures(), figures);
        seen.take(&event(Event::Phase(v1::Phase { name: "reading_data".into(), detail: String::new() })));
        assert_eq!((seen.phase.as_str(), seen.figures().as_str()), ("reading data", figures));
    }

    #[test]
    fn the_templates_are_sound() {
        style(WAITING);
        style(RUNNING);
    }
}
