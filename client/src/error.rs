//! What can go wrong between a caller and a server, as data: which call, which object, which fields, what to try.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A result of this crate.
///
/// ```no_run
/// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
/// let info = client.server_info().await?;
/// # Ok(())
/// # }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be asked, fetched or sent. A job that failed is no error: see [`Outcome`](crate::Outcome).
///
/// ```no_run
/// use hone_client::{Client, Code};
///
/// # async fn example() -> hone_client::Result<()> {
/// match Client::connect("http://127.0.0.1:7400").await?.get_job("job-…").await {
///     Ok(job) => println!("{:?}", job.state()),
///     Err(error) if error.code() == Some(Code::NotFound) => println!("no such job"),
///     Err(error) => println!("{error}; {}", error.hint().unwrap_or_default()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint is not one.
    #[error("cannot use the server address {endpoint:?}: {detail}")]
    Endpoint {
        /// The address as given.
        endpoint: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A token would go over plain http to another machine, where everybody on the way can read it.
    #[error("the token was not sent: {endpoint} is another machine, and the connection is not encrypted")]
    PlaintextToken {
        /// The server's address.
        endpoint: String,
    },
    /// The token holds what no header can carry. It is not shown.
    #[error("cannot send the token: it holds characters that no token has")]
    Token,
    /// No connection to the server.
    #[error("cannot reach the server at {endpoint}: {detail}")]
    Connect {
        /// The server's address.
        endpoint: String,
        /// The innermost cause.
        detail: String,
        /// The cause.
        #[source]
        source: tonic::transport::Error,
    },
    /// The server, or the way to it, answered a call with an error.
    #[error(transparent)]
    Rpc(Box<RpcError>),
    /// The runtime of the module `blocking` could not be started.
    #[error("cannot start a runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// A spec cannot run, whatever the server: what [`spec`](crate::spec) found before anything was sent.
    #[error("the spec cannot run{}", listed(violations))]
    Spec {
        /// Every field that is wrong, with the server's own paths and words.
        violations: Vec<FieldViolation>,
    },
    /// The server answered with something that its contract rules out.
    #[error("{call}: the server's answer breaks the contract: {detail}")]
    Contract {
        /// The call.
        call: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A local file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A local file or folder is not what the call takes.
    #[error("{}: {detail}", path.display())]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what is expected.
        detail: String,
    },
    /// The job has saved no checkpoint yet.
    #[error("{job_id}: no checkpoint has been saved")]
    NoCheckpoint {
        /// The job.
        job_id: String,
    },
    /// Bytes arrived that are not what was announced. Nothing of them was kept.
    #[error("{object}: {detail}")]
    Damaged {
        /// What was transferred.
        object: String,
        /// Expected and found.
        detail: String,
    },
}

impl Error {
    /// The error of a call, when it is one.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// if let Err(error) = client.server_info().await
    ///     && let Some(rpc) = error.rpc()
    /// {
    ///     println!("{} failed with {}, trace {}", rpc.call, rpc.reason, rpc.trace_id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn rpc(&self) -> Option<&RpcError> {
        match self {
            Self::Rpc(error) => Some(error),
            _ => None,
        }
    }

    /// The code of a call's error, when it is one.
    ///
    /// ```
    /// use hone_client::{Code, Error, RpcError};
    ///
    /// let error = Error::from(RpcError::new("GetJob", "job-1", &tonic::Status::not_found("no such job")));
    /// assert_eq!(error.code(), Some(Code::NotFound));
    /// ```
    pub fn code(&self) -> Option<Code> {
        self.rpc().map(|error| error.code)
    }

    /// Every field that is wrong, whether the server refused it or it was found before; empty for other errors.
    ///
    /// ```
    /// use hone_client::spec::{Data, Job, Optimizer, Sft};
    ///
    /// let sft = Sft::new(Data::new(["ds-1"])).optimizer(Optimizer::new().learning_rate(7.0));
    /// let error = Job::new("model-1", sft).build().unwrap_err();
    /// assert_eq!(error.violations()[0].field, "spec.sft.optimizer.learning_rate");
    /// ```
    pub fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Rpc(error) => &error.violations,
            Self::Spec { violations } => violations,
            _ => &[],
        }
    }

    /// Whether the server could not be asked at all, as opposed to having refused.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// if client.server_info().await.is_err_and(|error| error.is_unreachable()) {
    ///     println!("the server is away");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Rpc(error) => matches!(error.code, Code::Unavailable | Code::DeadlineExceeded),
            _ => false,
        }
    }

    /// What to try, in one sentence.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// if let Err(error) = client.server_info().await {
    ///     eprintln!("{error}");
    ///     error.hint().iter().for_each(|hint| eprintln!("hint: {hint}"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Endpoint { .. } => Some("give it as http://HOST:PORT or https://HOST:PORT".to_owned()),
            Self::Connect { .. } => Some("check that hone-server runs and listens on that address".to_owned()),
            Self::Rpc(error) => error.hint(),
            Self::Damaged { .. } => Some("try again; if it repeats, the stored object is damaged".to_owned()),
            Self::Contract { .. } => Some("compare the versions of client and server".to_owned()),
            Self::NoCheckpoint { .. } => Some("wait for the first checkpoint_saved event".to_owned()),
            Self::PlaintextToken { .. } => {
                Some("use https://, or allow it with --allow-plaintext-token (allow_plaintext_token)".to_owned())
            }
            Self::Token => Some("copy it again from where it was made".to_owned()),
            Self::File { .. } | Self::Input { .. } | Self::Spec { .. } | Self::Runtime(_) => None,
        }
    }

    pub(crate) fn connect(endpoint: &str, source: tonic::transport::Error) -> Self {
        Self::Connect { endpoint: endpoint.to_owned(), detail: innermost(&source), source }
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }

    pub(crate) fn input(path: impl Into<PathBuf>, detail: impl Into<String>) -> Self {
        Self::Input { path: path.into(), detail: detail.into() }
    }

    pub(crate) fn damaged(object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Damaged { object: object.into(), detail: detail.into() }
    }

    pub(crate) fn contract(call: &'static str, detail: impl Into<String>) -> Self {
        Self::Contract { call, detail: detail.into() }
    }
}

/// An error that a call ended with.
///
/// ```no_run
/// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
/// if let Err(error) = client.get_job("job-…").await
///     && let Some(rpc) = error.rpc()
/// {
///     println!("{} {}: {:?} {} (wait {:?})", rpc.call, rpc.object, rpc.code, rpc.message, rpc.retry_after);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RpcError {
    /// The call, such as `CreateJob`.
    pub call: &'static str,
    /// What it was about, such as a job id; may be empty.
    pub object: String,
    /// The gRPC code.
    pub code: Code,
    /// The server's words.
    pub message: String,
    /// ErrorInfo's reason, for programs: upper snake case, empty when the server sent none.
    /// A reason that this client does not know passes through.
    pub reason: String,
    /// ErrorInfo's metadata.
    pub metadata: HashMap<String, String>,
    /// Every field of the request that was refused.
    pub violations: Vec<FieldViolation>,
    /// How long the server asks to wait before another try.
    pub retry_after: Option<Duration>,
    /// What the server says to try: the texts of its Help detail.
    pub help: Vec<String>,
    /// The trace that the call belongs to, 32 hexadecimal digits, to be found where the server's telemetry goes; empty when the
    /// server told none.
    pub trace_id: String,
}

/// A field of a request and what is wrong with it.
///
/// ```
/// use hone_client::spec::{Data, Job, Sft};
///
/// let error = Job::new("model-1", Sft::new(Data::new(["ds-1"])).epochs(-1.0)).build().unwrap_err();
/// for violation in error.violations() {
///     println!("{} {}", violation.field, violation.description);
/// }
/// # assert_eq!(error.violations().len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, such as `spec.sft.adapter.lora.rank`.
    pub field: String,
    /// What was given and what is allowed.
    pub description: String,
}

impl RpcError {
    /// Reads a status with its details. Statuses made by the transport carry their cause only in their source chain.
    pub fn new(call: &'static str, object: impl Into<String>, status: &Status) -> Self {
        let details = status.get_error_details();
        let (reason, metadata) = match details.error_info() {
            Some(info) => (info.reason.clone(), info.metadata.clone()),
            None => Default::default(),
        };
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let help = details.help().map(|help| help.links.as_slice()).unwrap_or_default();
        Self {
            call,
            object: object.into(),
            code: code_of(status),
            message: message_of(status),
            reason,
            metadata,
            violations: violations
                .iter()
                .map(|one| FieldViolation { field: one.field.clone(), description: one.description.clone() })
                .collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            trace_id: details.request_info().map(|info| info.request_id.clone()).unwrap_or_default(),
            help: help.iter().map(|link| link.description.clone()).filter(|text| !text.is_empty()).collect(),
        }
    }

    /// A call that got no answer in time.
    pub(crate) fn timed_out(call: &'static str, object: impl Into<String>, waited: Duration) -> Self {
        let message = format!("no answer within {waited:?}");
        Self::new(call, object, &Status::deadline_exceeded(message))
    }

    /// The server's own advice, else what usually helps for this code.
    fn hint(&self) -> Option<String> {
        if !self.help.is_empty() {
            return Some(self.help.join("; "));
        }
        if let Some(remedy) = self.metadata.get("remedy").filter(|text| !text.is_empty()) {
            return Some(remedy.clone());
        }
        let hint = match self.code {
            Code::Unavailable => "check that hone-server runs and can be reached, then try again",
            Code::DeadlineExceeded => "try again, or allow more time",
            Code::NotFound => "list what exists and check the id",
            Code::AlreadyExists => "the same request id was used for another request; use a new one",
            Code::ResourceExhausted => "wait until other jobs have ended, or raise the server's limit",
            Code::Unimplemented => "the server is older than this client; update it",
            Code::Internal | Code::Unknown | Code::DataLoss => "look at the server's log",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        write!(f, ": {}{}", self.message, listed(&self.violations))
    }
}

impl std::error::Error for RpcError {}

impl From<RpcError> for Error {
    fn from(error: RpcError) -> Self {
        Self::Rpc(Box::new(error))
    }
}

/// Violations one after the other, as the end of a sentence.
fn listed(violations: &[FieldViolation]) -> String {
    violations.iter().map(|one| format!("; {}: {}", one.field, one.description)).collect()
}

/// The code of a status; one that the transport made, since the connection broke, may say UNKNOWN where it means UNAVAILABLE.
fn code_of(status: &Status) -> Code {
    match (status.code(), std::error::Error::source(status)) {
        (Code::Unknown, Some(_)) => Code::Unavailable,
        (code, _) => code,
    }
}

/// "transport error" tells nobody anything; the innermost cause does.
fn message_of(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{} ({})", status.message(), innermost(source)),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn refused() -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info("SPEC_INVALID", "hone", HashMap::from([("job".to_owned(), "j".to_owned())]));
        details.add_bad_request_violation("spec.sft.batch", "must be at least 1");
        details.add_bad_request_violation("spec.base_model.uri", "is required");
        details.set_retry_info(Some(Duration::from_secs(3)));
        details.add_help_link("set base_model.uri", "");
        Status::with_error_details(Code::InvalidArgument, "2 fields", details)
    }

    #[test]
    fn every_violation_arrives_as_data_and_as_text() {
        let error = RpcError::new("CreateJob", "", &refused());
        assert_eq!(error.reason, "SPEC_INVALID");
        assert_eq!(error.metadata["job"], "j");
        assert_eq!(error.retry_after, Some(Duration::from_secs(3)));
        let fields: Vec<_> = error.violations.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["spec.sft.batch", "spec.base_model.uri"]);
        let text = Error::from(error).to_string();
        assert_eq!(text, "CreateJob: 2 fields; spec.sft.batch: must be at least 1; spec.base_model.uri: is required");
    }

    #[test]
    fn the_servers_advice_goes_before_our_own() {
        let error = Error::from(RpcError::new("CreateJob", "", &refused()));
        assert_eq!(error.hint().as_deref(), Some("set base_model.uri"));
        let plain = Error::from(RpcError::new("GetJob", "job-1", &Status::not_found("no such job")));
        assert_eq!(plain.hint().as_deref(), Some("list what exists and check the id"));
        assert_eq!(plain.to_string(), "GetJob job-1: no such job");
    }

    #[test]
    fn unreachable_and_refused_are_told_apart() {
        let of = |status: Status| Error::from(RpcError::new("GetJob", "", &status)).is_unreachable();
        assert!(of(Status::unavailable("down")));
        assert!(of(Status::deadline_exceeded("late")));
        assert!(of(Status::from_error(std::io::Error::other("broken").into())));
        assert!(!of(Status::unknown("the server's own")));
        assert!(!of(Status::not_found("gone")));
        assert!(!of(Status::internal("fault")));
    }

    #[test]
    fn a_status_without_message_still_says_something() {
        let error = RpcError::new("GetJob", "", &Status::new(Code::Aborted, ""));
        assert!(!error.message.is_empty());
    }
}
