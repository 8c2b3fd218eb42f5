//! The job store: jobs, their events, uploads and request ids; what is in it has happened.
//!
//! An event is kept in the transaction that changes its job's row ([`JobRecord::apply`] decides both), and is shown to
//! nobody before. Every store passes the same suite, `conformance`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hone_job::checkpoint::File;
use hone_job::event::JobEvent;
use hone_job::id::Kind;
use hone_job::state::State;
use serde::{Deserialize, Serialize};

use crate::record::{Change, JobRecord, Refusal};

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod memory;
pub mod sqlite;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("there is no {} {id}", noun(*kind))]
    NotFound {
        /// What kind of thing.
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// The request id belongs to another request.
    #[error("request id {request_id:?} was used for another job, {job_id}")]
    RequestReused {
        /// The request id.
        request_id: String,
        /// The job made under it.
        job_id: String,
    },
    /// Too many jobs wait.
    #[error("as many jobs wait already as may: {max_queued}")]
    QueueFull {
        /// The limit.
        max_queued: u32,
    },
    /// The project has as many jobs that have not ended as the caller may have.
    #[error("project {project} has {max_jobs} jobs that have not ended, which is the limit of this token")]
    TooManyJobs {
        /// The project.
        project: String,
        /// The limit.
        max_jobs: u32,
    },
    /// The project would store more uploads than the caller may.
    #[error("uploads of project {project} would come to more than {max_bytes} bytes, which is the limit of this token")]
    TooManyBytes {
        /// The project.
        project: String,
        /// The limit.
        max_bytes: u64,
    },
    /// Something is used by a job that has not ended.
    #[error("{id} is used by {job_id}, which has not ended")]
    InUse {
        /// What was to be deleted.
        id: String,
        /// The job.
        job_id: String,
    },
    /// A job that was to be deleted has not ended.
    #[error("{job_id} is {state} and has not ended")]
    NotFinal {
        /// The job.
        job_id: String,
        /// Its state.
        state: State,
    },
    /// The job does not allow the change.
    #[error("{job_id}: {refusal}")]
    Refused {
        /// The job.
        job_id: String,
        /// Why.
        refusal: Refusal,
    },
    /// The store itself failed.
    #[error("the job store failed: {0}")]
    Failed(String),
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Job => "job",
        Kind::Dataset => "dataset",
        Kind::Model => "model",
    }
}

/// A job about to be created.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The job; the store gives it its ordinal.
    pub record: JobRecord,
    /// Its first events.
    pub events: Vec<JobEvent>,
    /// Makes the creation safe to repeat.
    pub request: Option<Request>,
    /// Ids of uploads the job reads; they must exist and stay while it lives.
    pub inputs: Vec<String>,
    /// Bounds on creation.
    pub limits: JobLimits,
}

/// How many jobs there may be when another one is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    /// Most jobs that may wait, of all projects.
    pub max_queued: u32,
    /// Most jobs of the project that have not ended; none for no limit.
    pub max_of_project: Option<u32>,
}

/// A request id, and what was asked under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The project; each has request ids of its own.
    pub project: String,
    /// The id.
    pub id: String,
    /// SHA-256 of the request's content, hexadecimal.
    pub body_sha256: String,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobQuery {
    /// Of this project; of all when absent.
    pub project: Option<String>,
    /// In one of these states; all when empty.
    pub states: Vec<State>,
    /// With all of these labels.
    pub labels: Vec<(String, String)>,
    /// Created before this one.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A job after a change, and what the change came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The job.
    pub job: JobRecord,
    /// The events that were stored.
    pub events: Vec<JobEvent>,
}

/// How many jobs there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// By state; states of no job may be left out.
    pub states: Vec<(State, u64)>,
    /// When the oldest job was created that waits for its first attempt.
    pub waiting_since: Option<DateTime<Utc>>,
}

/// Which uploads to list.
#[derive(Debug, Clone)]
pub struct UploadQuery {
    /// Of this kind.
    pub kind: Kind,
    /// Of this project; of all when absent.
    pub project: Option<String>,
    /// Created before this one.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A model or dataset that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Its id, which tells the kind.
    pub id: String,
    /// Place in the order of creation; the store gives it.
    #[serde(skip)]
    pub ordinal: u64,
    /// The project it belongs to.
    #[serde(skip)]
    pub project: String,
    /// A name for people.
    pub display_name: String,
    /// Its files: one for a dataset.
    pub files: Vec<File>,
    /// Where it lies: the file of a dataset, the folder of a model.
    pub uri: String,
    /// When the upload ended.
    pub create_time: DateTime<Utc>,
}

impl Upload {
    /// What it is.
    pub fn kind(&self) -> Kind {
        if Kind::Model.matches(&self.id) { Kind::Model } else { Kind::Dataset }
    }

    /// Bytes of all its files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }
}

/// Bounds of one read of events, so that a watcher holds little memory whatever the events are.
pub(crate) const MAX_EVENTS: usize = 256;
pub(crate) const MAX_EVENT_BYTES: usize = 4 << 20;

/// What every store does. Calls are atomic and durable: what they answered outlives a power cut.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates a job, or returns the one made before under the same request id.
    async fn create_job(&self, job: NewJob) -> Result<JobRecord>;

    /// The job made under a request id with this content, if there is one; other content is an error.
    async fn job_of_request(&self, request: &Request) -> Result<Option<JobRecord>>;

    /// One job.
    async fn job(&self, job_id: &str) -> Result<JobRecord>;

    /// Jobs, newest first.
    async fn jobs(&self, query: JobQuery) -> Result<Vec<JobRecord>>;

    /// The job that is to start next: of those that may start now the one that has waited longest, else the one whose
    /// [`JobRecord::retry_time`] comes first.
    async fn next_queued(&self, now: DateTime<Utc>) -> Result<Option<JobRecord>>;

    /// Changes a job and keeps the events that come of it, both or neither.
    async fn change_job(&self, job_id: &str, change: Change, now: DateTime<Utc>) -> Result<Changed>;

    /// How many jobs there are, of all projects.
    async fn tally(&self) -> Result<Tally>;

    /// Events after a sequence number, oldest first: at least one where there is one, not all where there are many.
    async fn events(&self, job_id: &str, after: u64) -> Result<Vec<JobEvent>>;

    /// Removes a job that has ended, with its events and its request id.
    async fn delete_job(&self, job_id: &str) -> Result<()>;

    /// Keeps an upload; from now on it exists. `max_bytes` is what all uploads of its project may come to.
    async fn create_upload(&self, upload: Upload, max_bytes: Option<u64>) -> Result<Upload>;

    /// Bytes of all uploads of a project.
    async fn uploaded_bytes(&self, project: &str) -> Result<u64>;

    /// One upload.
    async fn upload(&self, id: &str) -> Result<Upload>;

    /// Uploads, newest first.
    async fn uploads(&self, query: UploadQuery) -> Result<Vec<Upload>>;

    /// Removes an upload that no living job reads, and returns it.
    async fn delete_upload(&self, id: &str) -> Result<Upload>;
}

/// The kind of an upload's id; an id of another shape names nothing.
pub(crate) fn upload_kind(id: &str) -> Kind {
    if id.starts_with(Kind::Model.prefix()) { Kind::Model } else { Kind::Dataset }
}
