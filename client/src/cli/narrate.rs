//! A job's events as lines for people. Steps and resource usage come often and have lines of their own, which a plain
//! output thins out by the events' own time, so that history reads as the live job did.

use chrono::FixedOffset;
use hone_client::v1;
use v1::job_event::Event;

use crate::human::{bytes, clock, count, counted, duration, loss, percent, printable, rate, short_count};
use crate::output::Paint;
use crate::{benchmark, highlights};
use crate::{report, scores};

/// Least time between two lines on steps, in seconds.
const STEP_LINES_APART: f64 = 1.0;
/// Least time between two lines on the use of the machine, in seconds.
const USAGE_LINES_APART: f64 = 30.0;
/// Traffic below this is not told.
const QUIET_BYTES_PER_SECOND: f64 = 1e6;
/// Leaked rows that are shown.
const SHOWN_LEAKS: usize = 3;
/// Lines below the first stand under its text.
const INDENT: &str = "          ";

/// Tells events, and remembers what a line needs from earlier ones.
#[derive(Debug)]
pub(crate) struct Narrator {
    paint: Paint,
    zone: FixedOffset,
    total_steps: u64,
    last_step_line: f64,
    last_usage_line: f64,
}

impl Narrator {
    /// A narrator of a run of `total_steps`; 0 when they are not known yet.
    pub(crate) fn new(paint: Paint, zone: FixedOffset, total_steps: u64) -> Self {
        let never = f64::NEG_INFINITY;
        Self { paint, zone, total_steps, last_step_line: never, last_usage_line: never }
    }

    /// The lines for an event in a plain output; none for a step that comes too soon after the last one told.
    pub(crate) fn plain(&mut self, event: &v1::JobEvent) -> Option<String> {
        let now = event.time.as_ref().map_or(0.0, |time| time.seconds as f64 + f64::from(time.nanos) * 1e-9);
        let text = match &event.event {
            Some(Event::TrainStep(step)) => {
                let edge = step.step <= 1 || step.step == self.total_steps || step.skipped;
                if !edge && now - self.last_step_line < STEP_LINES_APART {
                    return None;
                }
                self.last_step_line = now;
                self.step(step)
            }
            Some(Event::ResourceUsage(usage)) => {
                if now - self.last_usage_line < USAGE_LINES_APART {
                    return None;
                }
                self.last_usage_line = now;
                self.paint.dim(&usage_text(usage))
            }
            Some(Event::Phase(phase)) => with_detail(&phase_name(&phase.name), &phase.detail),
            _ => return self.told(event),
        };
        Some(self.stamped(event, &text))
    }

    /// The lines for an event that deserves some even beside a progress bar, which shows steps, phases and use of the
    /// machine by itself.
    pub(crate) fn told(&mut self, event: &v1::JobEvent) -> Option<String> {
        let paint = self.paint;
        let text = match &event.event {
            Some(Event::StateChanged(change)) => state_change(change, paint),
            Some(Event::DatasetReport(report)) => report::summary(report, paint).join("\n"),
            Some(Event::EffectiveSpec(spec)) => settings(spec, paint),
            Some(Event::Plan(plan)) => {
                self.total_steps = plan.total_steps;
                plan_text(plan)
            }
            Some(Event::Evaluation(result)) => evaluation(result, paint),
            Some(Event::CheckpointSaved(saved)) => checkpoint(saved, paint),
            Some(Event::Warning(warning)) => {
                let code = paint.yellow(&format!("warning {}:", printable(&warning.code)));
                format!("{code} {}", printable(&warning.message))
            }
            Some(Event::Resumed(resumed)) => format!(
                "{} {} (epoch {:.2}, {})",
                paint.cyan("goes on from"),
                printable(&resumed.checkpoint_id),
                resumed.epoch,
                printable(&resumed.optimizer)
            ),
            Some(Event::EarlyStopped(stopped)) => format!(
                "{} at step {}: {} no better than {} at step {}",
                paint.cyan("stopped early"),
                stopped.step,
                counted(stopped.evaluations.into(), "evaluation"),
                stopped.best.map_or("anything".to_owned(), |best| format!("{} {best:.4}", printable(&stopped.metric))),
                stopped.best_step,
            ),
            Some(Event::HardExamples(found)) => scores::hardest(found, paint),
            Some(Event::Scores(report)) => scores::text(report, paint),
            Some(Event::Answers(report)) => scores::answers(report, paint),
            Some(Event::Benchmark(report)) => benchmark::text(report, paint),
            Some(Event::GradientNoise(found)) => noise(found, paint),
            Some(Event::Overfitting(found)) => overfitting(found, paint),
            Some(Event::Leakage(found)) => leakage(found, paint),
            Some(Event::ExportReport(report)) => export_text(report, paint),
            Some(Event::Failure(failure)) => failure_text(failure, paint),
            Some(Event::Result(result)) => result_text(result, paint),
            Some(Event::TrainStep(_) | Event::Phase(_) | Event::ResourceUsage(_)) => return None,
            None => paint.dim(&format!("event {} is of a kind that this client does not know", event.sequence)),
        };
        Some(self.stamped(event, &text))
    }

    fn step(&self, step: &v1::TrainStep) -> String {
        let place = match self.total_steps {
            0 => step.step.to_string(),
            total => format!("{:>width$}/{total}", step.step, width = total.to_string().len()),
        };
        let mut text = format!(
            "step {place}  loss {}{}  lr {}  grad {}  {} tokens/s  {} left",
            loss(step.loss),
            step.preference.as_ref().map_or_else(String::new, |pairs| format!("  {}", told_apart(pairs))),
            rate(step.learning_rate),
            step.grad_norm.map_or("not finite".to_owned(), |norm| format!("{norm:.3}")),
            count(step.tokens_per_second.round() as u64),
            duration(step.remaining_seconds),
        );
        if step.skipped {
            text += &self.paint.yellow("  update skipped: not finite");
        }
        text
    }

    /// The time before the first line, room before the others.
    fn stamped(&self, event: &v1::JobEvent, text: &str) -> String {
        let time = self.paint.dim(&clock(event.time.as_ref(), self.zone));
        format!("{time}  {}", text.replace('\n', &format!("\n{INDENT}")))
    }
}

/// The name of a state, in its colour.
pub(crate) fn state(number: i32, paint: Paint) -> String {
    let name = state_name(number);
    match v1::JobState::try_from(number).unwrap_or_default() {
        v1::JobState::Succeeded => paint.green(&name),
        v1::JobState::Failed => paint.red(&name),
        v1::JobState::Cancelled | v1::JobState::Cancelling | v1::JobState::Paused | v1::JobState::Pausing => {
            paint.yellow(&name)
        }
        _ => paint.bold(&name),
    }
}

/// The name of a state without its prefix; a state of a newer server has its number alone.
pub(crate) fn state_name(number: i32) -> String {
    match v1::JobState::try_from(number) {
        Ok(state) => state.as_str_name().trim_start_matches("JOB_STATE_").to_owned(),
        Err(_) => format!("STATE {number}"),
    }
}

/// Why a job failed, where, and what to try.
pub(crate) fn failure_text(failure: &v1::Failure, paint: Paint) -> String {
    let reason = match v1::FailureReason::try_from(failure.reason) {
        Ok(reason) => reason.as_str_name().trim_start_matches("FAILURE_REASON_").to_owned(),
        Err(_) => format!("REASON {}", failure.reason),
    };
    let mut text = format!("{} {}", paint.red(&format!("{reason}:")), printable(&failure.message));
    if !failure.location.is_empty() {
        text += &format!("\nwhere: {}", printable(&failure.location));
    }
    if !failure.remedy.is_empty() {
        text += &format!("\ntry:   {}", printable(&failure.remedy));
    }
    if failure.retryable {
        text += "\nthe same job may succeed when it is created again";
    }
    text
}

/// A phase for people.
pub(crate) fn phase_name(name: &str) -> String {
    printable(&name.replace('_', " "))
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() { text.to_owned() } else { format!("{text}: {}", printable(detail)) }
}

fn state_change(change: &v1::StateChanged, paint: Paint) -> String {
    let to = state(change.to, paint);
    match change.from {
        0 => with_detail(&to, &change.detail),
        from => with_detail(&format!("{} -> {to}", state_name(from)), &change.detail),
    }
}

fn settings(spec: &v1::JobSpec, paint: Paint) -> String {
    let line = |(heading, text): (&str, String)| format!("{}  {text}", paint.dim(&format!("{heading:<9}")));
    highlights::of(spec).into_iter().map(line).collect::<Vec<_>>().join("\n")
}

fn plan_text(plan: &v1::Plan) -> String {
    let evaluations = match plan.eval_every_steps {
        0 => "evaluated at start and end where rows are held out".to_owned(),
        steps => format!("evaluated every {}", counted(steps, "step")),
    };
    let share = plan.trainable_parameters as f64 / plan.base_parameters.max(1) as f64;
    format!(
        "plan: {}, {} an epoch, {} of warmup, {evaluations}\n{} parameters trained beside {} ({}); {}, {}, {} attention",
        counted(plan.total_steps, "step"),
        count(plan.steps_per_epoch),
        count(plan.warmup_steps),
        short_count(plan.trainable_parameters),
        short_count(plan.base_parameters),
        format_args!("{:.2}%", share * 100.0),
        printable(&plan.device),
        printable(&plan.precision),
        printable(&plan.attention),
    )
}

fn noise(found: &v1::GradientNoise, paint: Paint) -> String {
    let scale = match (found.noise_scale, found.signal_share) {
        (Some(scale), Some(share)) => {
            format!(
                " {scale:.0} ± {:.0} examples, {} of a step's gradient is signal",
                found.standard_error,
                percent(share)
            )
        }
        _ => " none yet".to_owned(),
    };
    format!("{}{scale}\n  {}", paint.cyan("gradient noise scale"), printable(&found.advice))
}

fn overfitting(found: &v1::Overfitting, paint: Paint) -> String {
    format!(
        "{} since step {}: held-out rows are {:.4} ± {:.4} harder, while the training loss went from {:.4} to {:.4}",
        paint.yellow("learns by heart"),
        found.turned_at_step,
        found.held_out_change,
        found.standard_error,
        found.training_loss_then,
        found.training_loss_now,
    )
}

fn leakage(found: &v1::Leakage, paint: Paint) -> String {
    let mut text = format!(
        "{} of {}: {} the same as a training row, {} nearly the same; the held-out loss flatters the run",
        paint.yellow("leakage"),
        counted(found.held_out_rows, "held-out row"),
        count(found.exact_rows),
        count(found.near_rows),
    );
    for pair in found.rows.iter().take(SHOWN_LEAKS) {
        let start: String = pair.text.chars().take(60).collect();
        let place = format!("row {} like training row {}", pair.row, pair.train_row);
        text += &format!("\n  {place}, {}: {}", percent(pair.similarity), printable(start.trim()));
    }
    text
}

fn evaluation(result: &v1::EvaluationResult, paint: Paint) -> String {
    let mut text = format!(
        "{} step {}  held-out loss {} ± {:.4}",
        paint.cyan("evaluation"),
        result.step,
        paint.bold(&loss(result.loss)),
        result.loss_standard_error,
    );
    if let Some(pairs) = &result.preference {
        text += &format!("  {}", told_apart(pairs));
    }
    if let Some(perplexity) = result.perplexity {
        text += &format!("  perplexity {perplexity:.2}");
    }
    text += &format!(
        "  accuracy {}  {}, {}",
        percent(result.token_accuracy),
        counted(result.examples, "example"),
        duration(result.seconds)
    );
    if result.best {
        text += &paint.green("  best so far");
    }
    text
}

/// How pairs were told apart.
fn told_apart(pairs: &v1::PreferenceMetrics) -> String {
    format!("pairs told apart: {}", share_and_margin(pairs))
}

fn share_and_margin(pairs: &v1::PreferenceMetrics) -> String {
    let has_error = pairs.accuracy_standard_error > 0.0 || pairs.margin_standard_error > 0.0;
    let error = |text: String| if has_error { format!(" ± {text}") } else { String::new() };
    let ties = if pairs.ties > 0.0 { format!(" ({} ties)", percent(pairs.ties)) } else { String::new() };
    format!(
        "{}{}{ties}, margin {:.4}{}",
        percent(pairs.accuracy),
        error(percent(pairs.accuracy_standard_error)),
        pairs.margin,
        error(format!("{:.4}", pairs.margin_standard_error)),
    )
}

fn checkpoint(saved: &v1::CheckpointSaved, paint: Paint) -> String {
    format!(
        "{} {}  {}, verified after {}  {}",
        paint.cyan("checkpoint"),
        printable(&saved.checkpoint_id),
        bytes(saved.size_bytes),
        duration(saved.seconds),
        paint.dim(&printable(&saved.uri)),
    )
}

/// What an export came to, and how much of the training it lost.
fn export_text(report: &v1::ExportReport, paint: Paint) -> String {
    let mut text = format!(
        "{} {} in {}, {} parameters",
        paint.cyan("exported"),
        printable(&report.format),
        printable(&report.weight_type),
        short_count(report.parameters),
    );
    if let (Some(lost), Some(unchanged)) = (report.update_lost, report.unchanged_fraction) {
        text += &format!(
            "\n{} changed; rounding took {} of the update away, {} of their weights came out as in the base model",
            counted(report.merged_tensors, "tensor"),
            percent(lost),
            percent(unchanged),
        );
    }
    if let Some(lost) = report.worst_update_lost.filter(|lost| *lost > 0.0) {
        text += &format!("\nmost of it in {}: {}", printable(&report.worst_tensor), percent(lost));
    }
    if report.untied {
        text += "\nembedding and head are tied no more";
    }
    text
}

fn usage_text(usage: &v1::ResourceUsage) -> String {
    let mut text = format!("machine: {} of memory, {:.1} cores", bytes(usage.host_memory_bytes), usage.cpu_cores);
    if let Some(memory) = usage.device_memory_bytes {
        text += &format!(", device {}", bytes(memory));
    }
    if let Some(share) = usage.device_utilization {
        text += &format!(" busy {}", percent(share));
    }
    if let Some(watts) = usage.device_power_watts {
        text += &format!(" {watts:.0} W");
    }
    if let Some(degrees) = usage.device_temperature_celsius {
        text += &format!(" {degrees:.0} °C");
    }
    let moved = [
        ("from storage", usage.storage_read_bytes_per_second),
        ("to storage", usage.storage_write_bytes_per_second),
        ("from disk", usage.disk_read_bytes_per_second),
        ("to disk", usage.disk_write_bytes_per_second),
    ];
    for (what, rate) in moved {
        // What rests is not worth a word.
        if let Some(rate) = rate.filter(|rate| *rate >= QUIET_BYTES_PER_SECOND) {
            text += &format!(", {}/s {what}", bytes(rate as u64));
        }
    }
    text
}

/// What came out of a job.
pub(crate) fn result_text(result: &v1::JobResult, paint: Paint) -> String {
    let mut text = match result.steps {
        0 => "done".to_owned(),
        steps => format!(
            "{}, {} ({} trained on), {} of training",
            counted(steps, "step"),
            counted(result.tokens, "token"),
            count(result.trained_tokens),
            duration(result.train_seconds),
        ),
    };
    if result.eval_seconds > 0.0 {
        text += &format!(", {} of evaluation", duration(result.eval_seconds));
    }
    if result.skipped_steps > 0 {
        text += &paint.yellow(&format!(", {} skipped", counted(result.skipped_steps, "update")));
    }
    if let (Some(before), Some(after)) = (result.eval_loss_before, result.eval_loss_after) {
        text += &format!("\nheld-out loss {before:.4} before, {} after", paint.bold(&format!("{after:.4}")));
    }
    if let (Some(before), Some(after)) = (&result.preference_before, &result.preference_after) {
        text += &format!("\n{} before; {} after", told_apart(before), share_and_margin(after));
    }
    if !result.final_checkpoint_id.is_empty() {
        text += &format!(
            "\nlast checkpoint {} in {}",
            printable(&result.final_checkpoint_id),
            printable(&result.final_checkpoint_uri)
        );
    }
    if !result.best_checkpoint_id.is_empty() && result.best_checkpoint_id != result.final_checkpoint_id {
        text += &format!("\nbest checkpoint {}", printable(&result.best_checkpoint_id));
    }
    text
}

#[cfg(test)]
#[path = "narrate_tests.rs"]
mod tests;
