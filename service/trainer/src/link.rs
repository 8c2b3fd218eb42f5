//! The connection to the server: events of the computing thread in, acknowledged reports out; commands come back.
//!
//! [`Link::attach`] dials and says hello. From then on a task of its own keeps the connection, and [`Link`] is a cheap
//! remote control for synchronous code: nothing on it waits for the network but [`Link::finish`] (and [`Link::report`]
//! when the server has been away for so long that its buffer is full). Reports are numbered within the attempt, kept until
//! they are acknowledged, and sent again over a new connection, so the server gets each once, in order.
//! Proto types stop here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hone_data::storage::Secret;
use hone_job::event::Event;
use hone_job::failure::Failure;
use hone_job::spec::JobSpec;
use hone_proto::trainer::v1 as pb;

mod connection;
mod queue;
mod record;

use connection::Connection;
use queue::Queue;

/// Where to attach, as what, and how patiently.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of the server, `http://` or `https://`.
    pub server: String,
    /// PEM file of the authorities that may have signed the certificate of an `https://` server. Default: those of the
    /// system.
    pub server_ca: Option<PathBuf>,
    /// Name that the certificate must be for. Default: the host of the URL.
    pub server_name: Option<String>,
    /// Job to work on.
    pub job_id: String,
    /// Attempt that this process is.
    pub attempt: u32,
    /// Secret made for the attempt.
    pub secret: Secret,
    /// How long the first connection may take, all tries together. Default 1 minute.
    pub attach_within: Duration,
    /// How long [`Link::finish`] waits for the last acknowledgement. Default 10 minutes.
    pub finish_within: Duration,
    /// Time between two heartbeats. Default 5 s.
    pub heartbeat_every: Duration,
    /// How long the server may take to answer a hello. Default 30 s.
    pub welcome_within: Duration,
    /// Wait before the first new try; doubles up to `longest_delay`, half of it left to chance. Default 200 ms.
    pub first_delay: Duration,
    /// Longest wait between two tries. Default 10 s.
    pub longest_delay: Duration,
    /// Most bytes of reports that wait for the server; above it [`Link::report`] waits too. Default 64 MiB, which is
    /// more than 100 000 steps.
    pub buffer_bytes: usize,
}

impl Options {
    /// Options with every default.
    pub fn new(server: impl Into<String>, job_id: impl Into<String>, attempt: u32, secret: Secret) -> Self {
        Self {
            server: server.into(),
            server_ca: None,
            server_name: None,
            job_id: job_id.into(),
            attempt,
            secret,
            attach_within: Duration::from_secs(60),
            finish_within: Duration::from_secs(600),
            heartbeat_every: Duration::from_secs(5),
            welcome_within: Duration::from_secs(30),
            first_delay: Duration::from_millis(200),
            longest_delay: Duration::from_secs(10),
            buffer_bytes: 64 << 20,
        }
    }
}

/// The work, as the server gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// The job.
    pub job_id: String,
    /// The attempt that this process is.
    pub attempt: u32,
    /// The effective spec, ids resolved to URIs.
    pub spec: JobSpec,
    /// Folder of the job, as a URI; checkpoints lie in `checkpoints/` below it.
    pub job_uri: String,
    /// Checkpoint to go on from, as a URI; none for a start.
    pub resume_from: Option<String>,
    /// Folder, as a URI, where what reference policies say is kept for all jobs.
    pub reference_uri: String,
    /// Place of the attempt in its trace, as W3C's traceparent; empty for none.
    pub traceparent: String,
}

/// What the server wants at the next step boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Save and leave; the job is cancelled.
    Cancel,
    /// Save and leave; the job is paused, the server is going away, or it will hear no more of this attempt.
    Stop,
    /// Save and go on.
    Checkpoint,
}

/// How the attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The task is done and its last upload is verified.
    Succeeded,
    /// Stopped as asked, the work saved.
    Stopped {
        /// The checkpoint that holds the work; none when no step was taken.
        checkpoint_id: Option<String>,
    },
    /// Failed.
    Failed(Failure),
}

/// Why there is no (further) connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server's URL makes no sense.
    #[error("HONE_SERVER {url:?} is no URL of a server: {what}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// Nobody answered in time.
    #[error("cannot attach to {server} within {waited:?}: {last}")]
    Unreachable {
        /// The server.
        server: String,
        /// How long it was tried.
        waited: Duration,
        /// What the last try ended with.
        last: String,
    },
    /// The server will not hear this attempt (any more): older than its own, wrong secret, unknown job.
    #[error("{server} refuses this attempt for good: {reason}")]
    Refused {
        /// The server.
        server: String,
        /// What it said.
        reason: String,
    },
    /// The last report was not acknowledged in time.
    #[error("{unacknowledged} reports were not acknowledged within {waited:?}")]
    Unacknowledged {
        /// Reports that the server may not know.
        unacknowledged: usize,
        /// How long it was waited.
        waited: Duration,
    },
}

/// The remote control of the connection, for synchronous code.
#[derive(Clone)]
pub struct Link {
    queue: Arc<Queue>,
    finish_within: Duration,
}

impl Link {
    /// Dials, says hello and gets the work; a task on the current runtime then keeps the connection.
    ///
    /// Tries again while nobody answers, for [`Options::attach_within`]; a refusal ends it at once.
    pub async fn attach(options: Options) -> Result<(Link, Welcome), Error> {
        let link = Link { queue: Arc::new(Queue::new(options.buffer_bytes)), finish_within: options.finish_within };
        let (connection, welcome) = Connection::open(options, link.queue.clone()).await?;
        tokio::spawn(connection.keep());
        Ok((link, welcome))
    }

    /// Tells the server of an event. Does not wait for the network while there is room in the buffer.
    ///
    /// Numbers that are not finite are left out, since JSON has no word for them.
    pub fn report(&self, event: Event) {
        self.queue.push(pb::report::Body::EventJson(record::event_json(event)));
    }

    /// Tells the server that the task began; the job is RUNNING.
    pub fn running(&self) {
        self.queue.push(pb::report::Body::Running(pb::Running {}));
    }

    /// Steps taken so far, for the next heartbeat.
    pub fn step(&self, step: u64) {
        self.queue.set_step(step);
    }

    /// The machine wants this process gone: the task stops at the next step boundary, as if the server had asked.
    pub fn stop(&self) {
        self.queue.request(Command::Stop);
    }

    /// What the server wants, to be asked at every step boundary. Cancel and stop stay; a checkpoint is asked for once.
    pub fn command(&self) -> Option<Command> {
        self.queue.command()
    }

    /// Sends the last report and waits until the server has recorded it; none may follow.
    pub fn finish(&self, end: End) -> Result<(), Error> {
        self.queue.push(pb::report::Body::Finished(record::finished(end)));
        self.queue.wait_until_empty(self.finish_within)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("queue", &self.queue).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
