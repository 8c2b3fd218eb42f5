//! Where trainers run. An executor starts the process of an attempt and finds it again after a restart of the server; how
//! the attempt goes is told by the trainer itself over its connection, and judged by the supervisor.

use async_trait::async_trait;
use hone_data::storage::Secret;

pub(crate) mod environment;
pub mod local;
mod oom;

/// What a trainer is started with.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The job it works on.
    pub job_id: String,
    /// The attempt it is.
    pub attempt: u32,
    /// The secret it proves itself with.
    pub secret: Secret,
}

/// Why a trainer could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the trainer: {what}: {source}")]
pub struct Error {
    /// What failed, on which file.
    pub what: String,
    /// The cause.
    pub source: std::io::Error,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It left by itself with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It is gone, and nobody saw how.
    Gone,
    /// It is gone with the boot of the machine that it ran in.
    Rebooted,
}

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: Status,
    /// Whether the kernel killed a process for memory meanwhile.
    pub oom_killed: bool,
    /// The last lines it wrote.
    pub last_words: String,
    /// Where the rest of them is, for people.
    pub log: String,
}

/// Starts trainers.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Starts one. It outlives the server when the server dies.
    async fn start(&self, launch: &Launch) -> Result<Box<dyn Process>, Error>;

    /// One that an earlier run of the server started, by [`Process::handle`]; its end can be seen, its status cannot.
    async fn find(&self, job_id: &str, attempt: u32, handle: &str) -> Box<dyn Process>;
}

/// A trainer's process.
#[async_trait]
pub trait Process: Send {
    /// What it can be found by after a restart of the server.
    fn handle(&self) -> String;

    /// Waits for its end, and leaves no zombie. May be dropped and called again.
    async fn ended(&mut self) -> Exit;

    /// Kills it and all it started; [`Self::ended`] tells when it is over.
    fn kill(&mut self);
}
