//! When a transfer that was cut, or that found no room, is gone on with: as long as the tries get anywhere.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::error::{Error, Result};
use crate::options::ConnectOptions;
use crate::retry::RetryPolicy;

/// Why a server refuses streams that it would take one after the other: the token may have few calls open, or many parts of others
/// wait already.
const TOO_MANY: [&str; 2] = ["TOO_MANY_CALLS", "TOO_MANY_PARTS"];

/// Why a server takes no upload at all for now: it is busy with those of others.
const BUSY: [&str; 1] = ["TOO_MANY_UPLOADS"];

/// Whether a transfer in several streams should go on in one.
pub(crate) fn is_too_many(error: &Error) -> bool {
    is_because_of(error, &TOO_MANY)
}

fn is_because_of(error: &Error, reasons: &[&str]) -> bool {
    error.rpc().is_some_and(|rpc| reasons.contains(&rpc.reason.as_str()))
}

/// The tries of one transfer. Those that bring bytes do not count, and neither does their time.
pub(crate) struct Tries<'a> {
    policy: &'a RetryPolicy,
    give_up_after: Duration,
    in_vain: u32,
    failing_since: Option<Instant>,
    reached_bytes: u64,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(options: &'a ConnectOptions) -> Self {
        let (policy, give_up_after) = (&options.retry, options.transfer_give_up_after);
        Self { policy, give_up_after, in_vain: 0, failing_since: None, reached_bytes: 0 }
    }

    /// So many bytes are safe.
    pub(crate) fn reached(&mut self, bytes: u64) {
        if bytes > self.reached_bytes {
            (self.reached_bytes, self.in_vain, self.failing_since) = (bytes, 0, None);
        }
    }

    /// Waits before the next try, or gives back the error when there is to be none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        self.in_vain = self.in_vain.saturating_add(1);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let over = self.policy.max_attempts <= 1 || since.elapsed() >= self.give_up_after;
        let asked = error.rpc().and_then(|rpc| rpc.retry_after);
        // A server counts the calls that a transfer has closed for a moment longer, so that this, too, passes.
        let passes = is_cut(&error) || is_too_many(&error) || is_because_of(&error, &BUSY);
        if over || !passes || self.policy.is_too_long(asked) {
            return Err(error);
        }
        let delay = self.policy.delay(self.in_vain, asked);
        tracing::debug!(%error, ?delay, "a transfer goes on after a wait");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// Whether the way to the server may have broken: that shows as many things, depending on where it broke.
fn is_cut(error: &Error) -> bool {
    let cut =
        [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted, Code::Cancelled, Code::Unknown, Code::Internal];
    error.code().is_some_and(|code| cut.contains(&code))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;
    use crate::error::RpcError;

    fn options() -> ConnectOptions {
        ConnectOptions::new("localhost:7400")
    }

    fn error(code: Code) -> Error {
        RpcError::new("UploadDataset", "", &Status::new(code, "cut")).into()
    }

    #[tokio::test(start_paused = true)]
    async fn tries_that_get_nowhere_end_and_others_go_on() {
        let options = options();
        let mut tries = Tries::new(&options);
        let start = Instant::now();
        for bytes in 1..1000 {
            tries.after(error(Code::Unavailable)).await.expect("another try");
            tries.reached(bytes);
        }
        assert!(start.elapsed() > options.transfer_give_up_after);
        let start = Instant::now();
        while tries.after(error(Code::Unavailable)).await.is_ok() {
            tries.reached(999);
        }
        assert!(start.elapsed() >= options.transfer_give_up_after);
        assert!(start.elapsed() <= options.transfer_give_up_after + options.retry.max_delay);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_one_attempt_gets_one() {
        let options = options().retry(RetryPolicy::never());
        Tries::new(&options).after(error(Code::Unavailable)).await.expect_err("no second try");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_refuses_is_not_tried_again() {
        let options = options();
        for code in [Code::InvalidArgument, Code::NotFound, Code::DataLoss, Code::ResourceExhausted] {
            assert!(Tries::new(&options).after(error(code)).await.is_err(), "{code:?}");
        }
    }

    fn detailed(code: Code, details: ErrorDetails) -> Error {
        RpcError::new("UploadDataset", "", &Status::with_error_details(code, "refused", details)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_the_server_still_counts_are_waited_for() {
        let options = options();
        let mut tries = Tries::new(&options);
        for reason in TOO_MANY.into_iter().chain(BUSY) {
            let details = ErrorDetails::with_error_info(reason, "hone", HashMap::new());
            let error = detailed(Code::ResourceExhausted, details);
            assert_eq!(is_too_many(&error), !BUSY.contains(&reason));
            tries.after(error).await.expect("another try");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_too_long_a_wait_is_not_waited_for() {
        let options = options();
        let (policy, give_up_after) = (&options.retry, options.transfer_give_up_after);
        assert!(policy.longest_wait < give_up_after);
        let after = |wait| detailed(Code::Unavailable, ErrorDetails::with_retry_info(Some(wait)));
        let start = tokio::time::Instant::now();
        Tries::new(&options).after(after(policy.longest_wait)).await.expect("another try");
        assert_eq!(start.elapsed(), policy.longest_wait);
        Tries::new(&options).after(after(policy.longest_wait + Duration::from_secs(1))).await.expect_err("too long");
        assert_eq!(start.elapsed(), policy.longest_wait);
    }
}
