//! Errors as callers see them: the one place that picks gRPC codes. Each status carries an ErrorInfo whose reason is for
//! programs, and what else helps: field violations, a wait, a remedy.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use hone_data::{dataset, source, storage, tokenizer};
use hone_job::id::Kind;
use hone_job::spec::Violation;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::preview;
use crate::checkpoints;
use crate::record::Refusal;
use crate::store;
use crate::uploads;

/// Domain of every ErrorInfo.
const DOMAIN: &str = "hone";

/// How long to wait before a full queue is worth another try.
const QUEUE_WAIT: Duration = Duration::from_secs(30);

/// An error of a call, about to become a status. It may come from a process that works for the call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Problem(Box<Content>);

/// Boxed, since results carry it everywhere and are rarely errors.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    #[serde(with = "code")]
    code: Code,
    reason: Cow<'static, str>,
    message: String,
    metadata: HashMap<String, String>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    remedy: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Content {
            code,
            reason: reason.into(),
            message: message.into(),
            metadata: HashMap::new(),
            violations: Vec::new(),
            retry_after: None,
            remedy: None,
        }))
    }

    /// Fields that are wrong, all of them.
    pub(crate) fn invalid(violations: Vec<Violation>) -> Self {
        let message = match violations.as_slice() {
            [one] => format!("{}: {}", one.field, one.description),
            many => format!("{} fields are wrong: {}", many.len(), fields(many)),
        };
        let mut problem = Self::new(Code::InvalidArgument, "INVALID_FIELDS", message);
        problem.0.violations = violations;
        problem
    }

    /// One field that is wrong.
    pub(crate) fn field(field: &str, description: impl Into<String>) -> Self {
        Self::invalid(vec![Violation::new(field, description)])
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(Code::NotFound, "NOT_FOUND", format!("there is no {what} {id}")).about("id", id)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }

    /// The server is going away.
    pub(crate) fn stopping() -> Self {
        Self::new(Code::Unavailable, "SERVER_STOPPING", "the server is stopping").after(Duration::from_secs(1))
    }

    /// The same with another code.
    pub(crate) fn with_code(mut self, code: Code) -> Self {
        self.0.code = code;
        self
    }

    pub(crate) fn about(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.to_string(), value.into());
        self
    }

    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub(crate) fn try_this(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }
}

/// A code as its number.
mod code {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
        i32::from(*code).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
        Ok(Code::from(i32::deserialize(deserializer)?))
    }
}

fn fields(violations: &[Violation]) -> String {
    let mut names: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    names.dedup();
    names.join(", ")
}

impl From<Problem> for Status {
    fn from(Problem(problem): Problem) -> Self {
        if matches!(problem.code, Code::Internal | Code::DataLoss) {
            tracing::error!(reason = %problem.reason, "{}", problem.message);
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(problem.reason, DOMAIN, problem.metadata);
        for violation in problem.violations {
            details.add_bad_request_violation(violation.field, violation.description);
        }
        if let Some(wait) = problem.retry_after {
            details.set_retry_info(Some(wait));
        }
        if let Some(remedy) = problem.remedy {
            details.add_help_link(remedy, "");
        }
        Status::with_error_details(problem.code, problem.message, details)
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        let message = error.to_string();
        match error {
            E::NotFound { kind, id } => Self::not_found(noun(kind), &id),
            E::RequestReused { job_id, .. } => {
                Self::new(Code::AlreadyExists, "REQUEST_ID_REUSED", message).about("job_id", job_id)
            }
            E::QueueFull { max_queued } => Self::new(Code::ResourceExhausted, "QUEUE_FULL", message)
                .about("max_queued_jobs", max_queued.to_string())
                .after(QUEUE_WAIT),
            E::TooManyJobs { max_jobs, .. } => Self::new(Code::ResourceExhausted, "TOO_MANY_JOBS", message)
                .about("max_jobs", max_jobs.to_string())
                .try_this("wait until one has ended, or cancel one"),
            E::TooManyBytes { max_bytes, .. } => Self::new(Code::ResourceExhausted, "TOO_MANY_BYTES", message)
                .about("max_bytes", max_bytes.to_string())
                .try_this("delete datasets or models that are not needed"),
            E::InUse { job_id, .. } => Self::new(Code::FailedPrecondition, "IN_USE", message)
                .try_this(format!("wait until {job_id} has ended, or cancel it"))
                .about("job_id", job_id),
            E::NotFinal { job_id, state } => Self::new(Code::FailedPrecondition, "JOB_NOT_FINAL", message)
                .try_this(format!("cancel {job_id} first"))
                .about("state", state.to_string()),
            E::Refused { refusal, .. } => Self::refused(message, &refusal),
            E::Failed(_) => Self::new(Code::Unavailable, "STORE_FAILED", message),
        }
    }
}

impl Problem {
    fn refused(message: String, refusal: &Refusal) -> Self {
        match refusal {
            Refusal::State { state, .. } => {
                Self::new(Code::FailedPrecondition, "WRONG_STATE", message).about("state", state.to_string())
            }
            Refusal::Superseded { current, .. } => {
                Self::new(Code::FailedPrecondition, "ATTEMPT_SUPERSEDED", message).about("attempt", current.to_string())
            }
            Refusal::AttemptOver { .. } => Self::new(Code::FailedPrecondition, "ATTEMPT_OVER", message),
            Refusal::Gap { expected, .. } => {
                Self::new(Code::OutOfRange, "REPORT_GAP", message).about("expected", expected.to_string())
            }
        }
    }
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Job => "job",
        Kind::Dataset => "dataset",
        Kind::Model => "model",
    }
}

impl From<storage::Error> for Problem {
    fn from(error: storage::Error) -> Self {
        use storage::Error as E;
        let (code, reason, uri) = match &error {
            E::Unusable { uri, .. } => (Code::InvalidArgument, "URI_UNUSABLE", uri),
            E::NotFound { uri, .. } => (Code::NotFound, "OBJECT_NOT_FOUND", uri),
            E::Refused { uri, .. } => (Code::FailedPrecondition, "STORAGE_REFUSED", uri),
            E::Unreachable { uri, .. } => (Code::Unavailable, "STORAGE_UNREACHABLE", uri),
            E::Store { uri, .. } => (Code::Unavailable, "STORAGE_FAILED", uri),
            E::Local { uri, .. } => (Code::Internal, "STORAGE_FAILED", uri),
        };
        Self::new(code, reason, error.to_string()).about("uri", uri)
    }
}

impl From<checkpoints::Error> for Problem {
    fn from(error: checkpoints::Error) -> Self {
        use checkpoints::Error as E;
        match error {
            E::NotFound { job_id, checkpoint_id } => {
                Self::not_found("checkpoint", &checkpoint_id).about("job_id", job_id)
            }
            E::None { job_id } => {
                Self::new(Code::NotFound, "NO_CHECKPOINT", format!("{job_id} has saved no checkpoint"))
                    .try_this("wait for the first checkpoint_saved event")
            }
            E::Damaged { .. } => {
                Self::new(Code::DataLoss, "CHECKPOINT_DAMAGED", error.to_string()).try_this("use an earlier checkpoint")
            }
            E::Storage(error) => error.into(),
        }
    }
}

impl From<uploads::Error> for Problem {
    fn from(error: uploads::Error) -> Self {
        use uploads::Error as E;
        let message = error.to_string();
        match error {
            E::TooLarge { limit, .. } => Self::new(Code::ResourceExhausted, "UPLOAD_TOO_LARGE", message)
                .about("limit_bytes", limit.to_string())
                .try_this("upload less, or raise the server's limit"),
            E::Busy => Self::new(Code::ResourceExhausted, "TOO_MANY_UPLOADS", message).after(Duration::from_secs(5)),
            E::Crowded => Self::new(Code::ResourceExhausted, "TOO_MANY_PARTS", message)
                .try_this("send the parts of an upload one after the other"),
            E::Digest { .. } => Self::new(Code::DataLoss, "DIGEST_MISMATCH", message).try_this("upload it again"),
            E::Invalid(violation) => Self::invalid(vec![violation]),
            E::Broken(status) => Self::new(Code::Aborted, "UPLOAD_BROKEN", message).about("cause", status),
            E::Moved { received, .. } => Self::new(Code::Aborted, "UPLOAD_MOVED", message)
                .about("received_bytes", received.to_string())
                .try_this("send a header alone to learn how far the upload is, or begin anew with offset 0"),
            E::Silent => Self::new(Code::DeadlineExceeded, "UPLOAD_SILENT", message),
            E::Storage(error) => error.into(),
            E::Store(error) => error.into(),
        }
    }
}

impl From<preview::Error> for Problem {
    fn from(error: preview::Error) -> Self {
        match error {
            preview::Error::Storage(error) => error.into(),
            preview::Error::Missing { ref uri } => {
                Self::new(Code::NotFound, "OBJECT_NOT_FOUND", error.to_string()).about("uri", uri)
            }
            preview::Error::Model { .. } | preview::Error::Gguf(_) => {
                Self::new(Code::FailedPrecondition, "MODEL_UNSUPPORTED", error.to_string())
            }
            preview::Error::Tokenizer(error) => tokenizer_problem(error),
            preview::Error::Data(error) => error.into(),
            preview::Error::TooLarge { limit_bytes, .. } => {
                Self::new(Code::ResourceExhausted, "PREVIEW_TOO_LARGE", error.to_string())
                    .about("limit_bytes", limit_bytes.to_string())
                    .try_this("preview fewer rows, or raise the server's --max-preview-memory")
            }
            preview::Error::Local { .. } | preview::Error::Interrupted(_) => Self::internal(error.to_string()),
        }
    }
}

fn tokenizer_problem(error: tokenizer::Error) -> Problem {
    Problem::new(Code::FailedPrecondition, "MODEL_UNSUPPORTED", error.to_string())
}

impl From<dataset::Error> for Problem {
    fn from(error: dataset::Error) -> Self {
        let message = error.to_string();
        match error {
            dataset::Error::Source(source::Error::Storage(error)) => error.into(),
            dataset::Error::Source(source::Error::NoObjects { uri, .. }) => {
                Self::new(Code::NotFound, "OBJECT_NOT_FOUND", message).about("uri", uri)
            }
            dataset::Error::Template(_) => Self::new(Code::InvalidArgument, "TEMPLATE_INVALID", message),
            dataset::Error::Interrupted(_) | dataset::Error::Examples(_) => Self::internal(message),
            _ => Self::new(Code::FailedPrecondition, "DATA_INVALID", message),
        }
    }
}
