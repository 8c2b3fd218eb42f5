//! What the trainer does: a task of a spec in, the end of the attempt out.

use std::sync::Arc;

use hone_job::event::Event;
use hone_job::spec::Task;

use crate::device::{self, Compute};
use crate::error::Error;
use crate::link::{Command, End, Link, Welcome};
use crate::workspace::Workspace;

pub mod evaluate;
pub mod generate;
mod objective;
pub mod progress;
mod reference;
mod resume;
mod saver;
pub mod score;
mod setup;
pub mod train;
mod usage;

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
            tracing::error!(reason = ?failure.reason, "{failure}");
            End::Failed(failure)
        }
    }
}

fn attempt(welcome: &Welcome, link: &Link, workspace: &Workspace) -> Result<End, Error> {
    let libraries = hone_ops::load_cuda().map_err(|error| Error::Device(error.to_string()))?;
    let threads = device::set_threads();
    let compute = Compute::choose(welcome.spec.task.training().precision)?;
    tracing::info!(cuda = libraries.cuda, threads, device = compute.device_name(), "LibTorch is ready");
    match &welcome.spec.task {
        Task::Sft(_) | Task::Dpo(_) => train::train(welcome, workspace, compute, Arc::new(link.clone())),
    }
}
