//! What can go wrong with storage, told so that the reader knows what to check.

use std::fmt;
use std::path::PathBuf;

/// What was being done when storage failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making sense of the URI and the settings.
    Open,
    /// Listing or looking for objects.
    List,
    /// Reading.
    Get,
    /// Writing.
    Put,
    /// Deleting.
    Delete,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Open => "open",
            Step::List => "list",
            Step::Get => "get",
            Step::Put => "put",
            Step::Delete => "delete",
        })
    }
}

/// Why an object could not be reached. Every variant names the URI and the step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI or the settings make no sense.
    #[error("{uri}: cannot open: {what}")]
    Unusable {
        /// The URI as given.
        uri: String,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// There is no such object.
    #[error("{uri}: cannot {step}: it does not exist")]
    NotFound {
        /// The object.
        uri: String,
        /// What was tried.
        step: Step,
    },
    /// The store knows us but refuses, or does not know us.
    #[error("{uri}: cannot {step}: access was refused; {check}: {reason}")]
    Refused {
        /// The object.
        uri: String,
        /// What was tried.
        step: Step,
        /// Settings to look at.
        check: &'static str,
        /// What the store said, shortened.
        reason: String,
        /// What the store said.
        source: Box<object_store::Error>,
    },
    /// Nothing answers.
    #[error(
        "{uri}: cannot {step}: the store does not answer; check HONE_S3_ENDPOINT ({endpoint}) and the network: {reason}"
    )]
    Unreachable {
        /// The object.
        uri: String,
        /// What was tried.
        step: Step,
        /// Endpoint in force.
        endpoint: String,
        /// What the network said.
        reason: String,
        /// The cause.
        source: Box<object_store::Error>,
    },
    /// The store failed otherwise.
    #[error("{uri}: cannot {step}: {reason}")]
    Store {
        /// The object.
        uri: String,
        /// What was tried.
        step: Step,
        /// What the store said, shortened.
        reason: String,
        /// The cause.
        source: Box<object_store::Error>,
    },
    /// A file on this machine failed.
    #[error("{uri}: cannot {step}: {path}: {source}")]
    Local {
        /// The object.
        uri: String,
        /// What was tried.
        step: Step,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether trying again later may help without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Store { .. })
    }

    pub(super) fn from_store(place: Place<'_>, step: Step, error: object_store::Error) -> Self {
        let uri = place.uri.to_string();
        let reason = innermost(&error);
        match error {
            object_store::Error::NotFound { .. } => Error::NotFound { uri, step },
            error if is_refusal(&error) => {
                let check = match place.is_local {
                    true => "check the permissions of the file",
                    false => {
                        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and HONE_S3_REGION, and what the key may do"
                    }
                };
                Error::Refused { uri, step, check, reason, source: Box::new(error) }
            }
            error if is_network(&error) => {
                let endpoint = place.endpoint.to_string();
                Error::Unreachable { uri, step, endpoint, reason, source: Box::new(error) }
            }
            error => Error::Store { uri, step, reason, source: Box::new(error) },
        }
    }

    /// Whether the object is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }
}

/// What is known of the object beside the error.
pub(super) struct Place<'a> {
    pub(super) uri: &'a str,
    pub(super) is_local: bool,
    pub(super) endpoint: &'a str,
}

/// Whether the store refused us. A refused listing comes as a generic error, so its status is looked for in the text.
fn is_refusal(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => true,
        E::Generic { source, .. } => {
            let text = source.to_string();
            ["status code: 401", "status code: 403"].iter().any(|status| text.contains(status))
        }
        _ => false,
    }
}

/// The last cause of a chain, which says the most in the fewest words; S3's answer is XML, of which the code is enough.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    match code {
        Some(code) => code.to_string(),
        None => text.chars().take(300).collect(),
    }
}

fn is_network(error: &(dyn std::error::Error + 'static)) -> bool {
    use object_store::client::{HttpError, HttpErrorKind};
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return !matches!(http.kind(), HttpErrorKind::Decode);
        }
        next = error.source();
    }
    false
}
