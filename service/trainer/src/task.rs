//! What the trainer does: a task of a spec in, the end of the attempt out.

use std::sync::Arc;
use std::time::Instant;

use hone_job::event::{CheckpointSaved, Event, Outcome};
use hone_job::spec::{DpoTask, SftTask, Task};

use crate::checkpoint::{Folder, Origin, Saved, sha256};
use crate::device::{self, Compute};
use crate::error::Error;
use crate::link::{Command, End, Link, Welcome};
use crate::trace;
use crate::workspace::Workspace;

mod activations;
mod attempt;
mod benchmark;
mod compare;
mod early_stopping;
pub mod evaluate;
pub mod export;
mod generate;
mod hard_examples;
mod models;
mod objective;
pub mod progress;
mod reference;
mod resume;
mod row_text;
mod saver;
pub mod score;
mod setup;
mod step_clock;
mod teller;
#[cfg(test)]
pub(crate) mod testing;
pub mod train;
mod usage;

pub use usage::{Usage, peak_memory_bytes};

/// Whom a task tells what happens, and who says when to stop: the server, or a test.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn report(&self, event: Event);
    /// The task began: the job is RUNNING.
    fn running(&self);
    /// Steps taken so far.
    fn step(&self, step: u64);
    /// What is wanted at this step boundary.
    fn command(&self) -> Option<Command>;
}

impl Observer for Link {
    fn report(&self, event: Event) {
        Link::report(self, event);
    }

    fn running(&self) {
        Link::running(self);
    }

    fn step(&self, step: u64) {
        Link::step(self, step);
    }

    fn command(&self) -> Option<Command> {
        Link::command(self)
    }
}

/// Works on the job that the server gave, on the calling thread, until it is done, stopped or failed.
pub fn run(welcome: &Welcome, link: &Link, workspace: &Workspace) -> End {
    match attempt(welcome, link, workspace) {
        Ok(end) => end,
        Err(error) => {
            let failure = error.failure();
            let reason = format!("{:?}", failure.reason);
            let _span =
                trace::part(tracing::info_span!("failure", otel.status_code = "ERROR", error.type = reason)).entered();
            tracing::error!(reason = ?failure.reason, "{failure}");
            End::Failed(failure)
        }
    }
}

fn attempt(welcome: &Welcome, link: &Link, workspace: &Workspace) -> Result<End, Error> {
    let libraries = hone_ops::load_cuda().map_err(|error| Error::Device(error.to_string()))?;
    let threads = device::set_threads();
    tracing::info!(cuda = libraries.cuda, threads, "LibTorch is ready");
    let observer = Arc::new(link.clone());
    match &welcome.spec.task {
        Task::Sft(SftTask { training, .. }) | Task::Dpo(DpoTask { training, .. }) => {
            train::train(welcome, workspace, Compute::choose(training.precision)?, observer)
        }
        Task::Evaluate(task) => compare::evaluate(welcome, task, workspace, observer),
        Task::Compare(task) => compare::compare(welcome, task, workspace, observer),
        Task::Generate(task) => generate::generate(welcome, task, workspace, observer),
        Task::Benchmark(task) => benchmark::benchmark(welcome, task, workspace, observer),
        Task::Export(task) => export::export(welcome, task, workspace, &*observer),
    }
}

/// Whether the job is to end now.
fn is_stopped(observer: &dyn Observer) -> bool {
    matches!(observer.command(), Some(Command::Cancel | Command::Stop))
}

/// Writes files that are the only checkpoint of a job. It is durable and verified then.
fn save_only_checkpoint(
    files: impl IntoIterator<Item = (&'static str, Vec<u8>)>,
    folder: &Folder,
    workspace: &Workspace,
) -> Result<Saved, Error> {
    let saved = workspace.runtime().block_on(async {
        let mut writing = folder.begin(0).await?;
        for (name, bytes) in files {
            writing.put(name, bytes.into()).await?;
        }
        writing.finish(Default::default()).await
    });
    Ok(saved?)
}

/// Tells of the only checkpoint of a job, which is durable, and of what else came out.
fn tell_only_checkpoint(saved: Saved, start: Instant, outcome: Outcome, observer: &dyn Observer) {
    observer.report(Event::CheckpointSaved(CheckpointSaved {
        checkpoint_id: saved.checkpoint_id.clone(),
        step: saved.manifest.step,
        uri: saved.uri.clone(),
        size_bytes: saved.manifest.size_bytes(),
        eval_loss: None,
        seconds: start.elapsed().as_secs_f64(),
    }));
    observer.report(Event::Result(Outcome {
        final_checkpoint_id: saved.checkpoint_id.clone(),
        best_checkpoint_id: saved.checkpoint_id,
        final_checkpoint_uri: saved.uri,
        ..outcome
    }));
}

/// The checkpoints of the job.
fn checkpoints(workspace: &Workspace, welcome: &Welcome, base_model_fingerprint: String) -> Result<Folder, Error> {
    let location = workspace.open(&welcome.job_uri)?.join("checkpoints");
    let spec = serde_json::to_vec(&welcome.spec).expect("a spec has a text");
    let origin = Origin {
        job_id: welcome.job_id.clone(),
        attempt: welcome.attempt,
        spec_sha256: sha256(&spec),
        base_model_fingerprint,
    };
    Ok(Folder::new(location, origin))
}
