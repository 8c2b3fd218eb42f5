//! The API through its front door: a real listener, a client, and a trainer played by the test.

use tonic::{Code, Status};
use tonic_types::StatusExt;

mod attach;
mod checkpoints;
mod jobs;
mod limits;
mod metrics;
mod parts;
mod projects;
mod reports;
mod surface;
mod tokens;
mod traces;
mod uploads;
mod watch;

/// What a refusal says to programs: its code, its reason, and the fields it is about.
fn told(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let fields = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    (status.code(), reason, fields.iter().map(|violation| violation.field.clone()).collect())
}

/// Checks code and reason of a refusal.
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = result.expect_err("it should have been refused");
    let (found_code, found_reason, _) = told(&status);
    assert_eq!((found_code, found_reason.as_str()), (code, reason), "{status}");
    status
}
