//! Why a command could not do what it was asked: shown as one message, every field violation, and a hint; or as JSON.

use std::path::{Path, PathBuf};

use hone_client::{Error, FieldViolation};
use serde_json::{Map, Value, json};

use crate::output::Paint;

/// Why a command ended early. A job that failed is none: it is an [`Ending`](crate::follow::Ending).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] Error),
    /// What the user gave cannot be used.
    #[error("{message}")]
    Input { message: String, hint: Option<String>, violations: Vec<FieldViolation> },
    /// A local file could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Whoever read the output has left, as `head` does; nothing is wrong.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// Something given that cannot be used, and why.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::Input { message: message.into(), hint: None, violations: Vec::new() }
    }

    /// As [`input`](Self::input), with what to do instead.
    pub(crate) fn input_with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input { message: message.into(), hint: Some(hint.into()), violations: Vec::new() }
    }

    /// A local file that cannot be used.
    pub(crate) fn file(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::File { action, path: path.as_ref().to_owned(), source }
    }

    /// One message, a line for each violation, a hint.
    pub(crate) fn text(&self, paint: Paint) -> String {
        // What the server says of several fields is their names, which the list shows; of one field it says all.
        let (message, violations) = match (self.rpc(), self.violations()) {
            (Some(rpc), many @ [_, _, ..]) => (format!("{}: {} fields are wrong", rpc.call, many.len()), many),
            (Some(rpc), [one]) if rpc.message.contains(&one.description) => (self.message(), &[][..]),
            (_, violations) => (self.message(), violations),
        };
        let mut text = format!("{} {message}", paint.red("error:"));
        let width = violations.iter().map(|one| one.field.chars().count()).max().unwrap_or_default();
        for FieldViolation { field, description } in violations {
            text += &format!("\n  {}{}  {description}", paint.bold(field), " ".repeat(width - field.chars().count()));
        }
        if let Some(hint) = self.hint() {
            text += &format!("\n{} {hint}", paint.cyan("hint:"));
        }
        text
    }

    /// The same for programs. What does not apply is absent.
    pub(crate) fn json(&self) -> Value {
        let mut error = Map::from_iter([("message".to_owned(), json!(self.message()))]);
        let mut add = |name: &str, value: Value| error.insert(name.to_owned(), value);
        if let Some(rpc) = self.rpc() {
            add("code", json!(code_name(rpc.code)));
            add("call", json!(rpc.call));
            for (name, text) in [("object", &rpc.object), ("reason", &rpc.reason), ("trace_id", &rpc.trace_id)] {
                if !text.is_empty() {
                    add(name, json!(text));
                }
            }
            if !rpc.metadata.is_empty() {
                add("metadata", json!(rpc.metadata));
            }
        }
        if !self.violations().is_empty() {
            let violation = |one: &FieldViolation| json!({"field": one.field, "description": one.description});
            add("violations", self.violations().iter().map(violation).collect());
        }
        if let Some(hint) = self.hint() {
            add("hint", json!(hint));
        }
        json!({ "error": error })
    }

    fn rpc(&self) -> Option<&hone_client::RpcError> {
        match self {
            Self::Client(error) => error.rpc(),
            _ => None,
        }
    }

    /// The message without the violations, which are listed after it.
    fn message(&self) -> String {
        match self.rpc() {
            Some(rpc) if rpc.object.is_empty() => format!("{}: {}", rpc.call, rpc.message),
            Some(rpc) => format!("{} {}: {}", rpc.call, rpc.object, rpc.message),
            None => match self {
                Self::Client(Error::Spec { .. }) => "the spec cannot run".to_owned(),
                _ => self.to_string(),
            },
        }
    }

    fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Input { violations, .. } => violations,
            Self::Client(error) => error.violations(),
            Self::File { .. } | Self::OutputClosed => &[],
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint(),
            Self::Input { hint, .. } => hint.clone(),
            Self::File { .. } | Self::OutputClosed => None,
        }
    }
}

/// Name of a gRPC code, as grpcurl and the documentation write it: NOT_FOUND.
fn code_name(code: hone_client::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hone_client::{Code, RpcError};
    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn refused() -> Failure {
        let mut details = ErrorDetails::new();
        details.set_error_info("SPEC_INVALID", "hone", [("fields".to_owned(), "2".to_owned())]);
        details.add_bad_request_violation("spec.base_model.uri", "is required");
        details.add_bad_request_violation("spec.sft.adapter.lora.rank", "must be 1 to 1024, not 0");
        details.set_retry_info(Some(Duration::from_secs(1)));
        details.add_help_link("see docs/api.md", "");
        let status = Status::with_error_details(Code::InvalidArgument, "2 fields are invalid", details);
        Failure::Client(RpcError::new("CreateJob", "", &status).into())
    }

    #[test]
    fn every_violation_has_a_line_of_its_own() {
        let expected = "\
error: CreateJob: 2 fields are wrong
  spec.base_model.uri         is required
  spec.sft.adapter.lora.rank  must be 1 to 1024, not 0
hint: see docs/api.md";
        assert_eq!(refused().text(Paint::plain()), expected);
    }

    #[test]
    fn a_single_violation_that_the_message_tells_is_told_once() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("page_size", "must not be negative");
        let status = Status::with_error_details(Code::InvalidArgument, "page_size: must not be negative", details);
        let failure = Failure::Client(RpcError::new("ListJobs", "", &status).into());
        assert_eq!(failure.text(Paint::plain()), "error: ListJobs: page_size: must not be negative");
    }

    #[test]
    fn programs_get_code_reason_and_violations() {
        let expected = json!({"error": {
            "message": "CreateJob: 2 fields are invalid",
            "code": "INVALID_ARGUMENT",
            "call": "CreateJob",
            "reason": "SPEC_INVALID",
            "metadata": {"fields": "2"},
            "violations": [
                {"field": "spec.base_model.uri", "description": "is required"},
                {"field": "spec.sft.adapter.lora.rank", "description": "must be 1 to 1024, not 0"},
            ],
            "hint": "see docs/api.md",
        }});
        assert_eq!(refused().json(), expected);
    }

    #[test]
    fn what_does_not_apply_is_absent() {
        let failure = Failure::file("read", "rows.jsonl", std::io::Error::other("gone"));
        assert_eq!(failure.json(), json!({"error": {"message": "cannot read rows.jsonl: gone"}}));
        assert_eq!(failure.text(Paint::plain()), "error: cannot read rows.jsonl: gone");
    }

    #[test]
    fn codes_are_written_as_in_the_documentation() {
        for (code, name) in
            [(Code::NotFound, "NOT_FOUND"), (Code::Ok, "OK"), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")]
        {
            assert_eq!(code_name(code), name);
        }
    }
}
