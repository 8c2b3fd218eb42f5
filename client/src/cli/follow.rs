//! A job as it runs: events to a progress bar on a terminal, to plain lines when piped, to JSON for programs; then its end.

use std::pin::pin;

use futures::StreamExt;
use hone_client::{Finished, JobHandle, Outcome, Update, v1};
use serde_json::json;

use crate::bar::Bar;
use crate::failure::Failure;
use crate::human::{duration, here};
use crate::json;
use crate::narrate::{Narrator, failure_text, result_text, state};
use crate::output::{Output, Paint};

/// How a command ended that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Done; a job that was followed succeeded.
    Done,
    /// The job failed.
    JobFailed,
    /// The job was cancelled.
    JobCancelled,
    /// Ctrl-C while following.
    Interrupted,
}

impl Ending {
    /// The exit code, as `hone --help` lists it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::JobFailed => 3,
            Self::JobCancelled => 4,
            Self::Interrupted => 130,
        }
    }
}

impl From<&Outcome> for Ending {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(_) => Self::Done,
            Outcome::Failed(_) => Self::JobFailed,
            Outcome::Cancelled => Self::JobCancelled,
        }
    }
}

/// Shows the job's events after a number until it has ended, or until Ctrl-C.
pub(crate) async fn follow(job: &JobHandle, after: u64, out: &Output) -> Result<Ending, Failure> {
    // The plan may be among the events that are not asked for.
    let total_steps = if after > 0 { job.get().await?.total_steps } else { 0 };
    let mut view = View::of(out, total_steps);
    let mut last_sequence = after;
    let mut updates = job.updates_after(after);
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    // From here on Ctrl-C is ours: the first poll installs the handler, and events must not come before it.
    let _ = futures::poll!(&mut interrupt);
    loop {
        let update = tokio::select! {
            update = updates.next() => update,
            _ = &mut interrupt => {
                view.clear();
                tell_it_goes_on(job.id(), last_sequence, out);
                return Ok(Ending::Interrupted);
            }
        };
        match update {
            Some(Ok(Update::Event(event))) => {
                last_sequence = event.sequence;
                view.event(&event)?;
            }
            Some(Ok(Update::Reconnecting { error, delay })) => {
                let wait = duration(delay.as_secs_f64());
                view.note(&format!("connection lost ({error}); next attempt in {wait}"));
            }
            // A kind of update that this program is too old for.
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                view.clear();
                if error.is_unreachable() {
                    tell_it_goes_on(job.id(), last_sequence, out);
                }
                return Err(error.into());
            }
            None => break,
        }
    }
    view.clear();
    let finished = job.wait().await?;
    if !out.json {
        // The events before it have told the result.
        out.print(&closing(&finished, false, out.paint))?;
    }
    Ok(Ending::from(&finished.outcome))
}

fn tell_it_goes_on(job_id: &str, last_sequence: u64, out: &Output) {
    if out.local {
        let text =
            "The job saves and waits, since its server ends with this command; it goes on with the next --local.";
        return out.note_with(text, json!({ "job_id": job_id, "last_sequence": last_sequence.to_string() }));
    }
    let after = if last_sequence > 0 { format!(" --after {last_sequence}") } else { String::new() };
    let text = format!(
        "The job goes on without you.\n  watch it:  hone jobs watch {job_id}{after}\n  cancel it: hone jobs cancel {job_id}"
    );
    out.note_with(&text, json!({ "job_id": job_id, "last_sequence": last_sequence.to_string() }));
}

/// A name for what a job of this task made.
fn folder_of(job: &v1::Job) -> &'static str {
    use v1::job_spec::Task;
    match job.spec.as_ref().and_then(|spec| spec.task.as_ref()) {
        Some(Task::Evaluate(_) | Task::Compare(_)) => "scores",
        Some(Task::Generate(_)) => "answers",
        Some(Task::Benchmark(_)) => "benchmark",
        Some(Task::Export(_)) => "exported",
        Some(Task::Sft(_) | Task::Dpo(_)) | None => "adapter",
    }
}

/// What is said last: how the job ended, in full or in a line, and what to do with it.
pub(crate) fn closing(finished: &Finished, in_full: bool, paint: Paint) -> String {
    let Finished { job, outcome } = finished;
    let job_id = &job.job_id;
    let mut lines = vec![format!("{job_id} {}", state(job.state, paint))];
    match outcome {
        Outcome::Succeeded(result) => {
            lines.extend(in_full.then(|| result_text(result, paint)));
            let folder = folder_of(job);
            lines.push(format!("{}  hone checkpoints download {job_id} --to {folder}", paint.dim("take it home")));
            if result.steps > 0 {
                lines.push(format!("{}  hone plot {job_id} -o loss.png", paint.dim("loss curve  ")));
            }
        }
        Outcome::Failed(failure) => lines.extend(in_full.then(|| failure_text(failure, paint))),
        Outcome::Cancelled if job.step > 0 => {
            lines.push(format!("{}  hone checkpoints list {job_id}", paint.dim("what it saved")));
        }
        Outcome::Cancelled => {}
    }
    lines.join("\n")
}

/// Where events go.
#[allow(clippy::large_enum_variant, reason = "there is one")]
enum View<'a> {
    /// JSON lines.
    Json(&'a Output),
    /// Plain lines.
    Plain(&'a Output, Narrator),
    /// A bar, with lines above it.
    Live(Narrator, Bar),
}

impl<'a> View<'a> {
    /// The view that suits the output; `total_steps` is 0 when they are not known yet.
    fn of(out: &'a Output, total_steps: u64) -> Self {
        let narrator = || Narrator::new(out.paint, here(), total_steps);
        match (out.json, out.live) {
            (true, _) => Self::Json(out),
            (false, false) => Self::Plain(out, narrator()),
            (false, true) => Self::Live(narrator(), Bar::new(total_steps)),
        }
    }

    fn event(&mut self, event: &v1::JobEvent) -> Result<(), Failure> {
        match self {
            Self::Json(out) => out.print(&json::line("JobEvent", event)),
            Self::Plain(out, narrator) => narrator.plain(event).map_or(Ok(()), |text| out.print(&text)),
            Self::Live(narrator, bar) => {
                if let Some(text) = narrator.told(event) {
                    bar.print(&text);
                }
                bar.update(event);
                Ok(())
            }
        }
    }

    fn note(&self, text: &str) {
        match self {
            Self::Json(out) | Self::Plain(out, _) => out.note(text),
            Self::Live(_, bar) => bar.print(text),
        }
    }

    fn clear(&self) {
        if let Self::Live(_, bar) = self {
            bar.clear();
        }
    }
}
