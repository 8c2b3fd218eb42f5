//! When a transfer that was cut, or that found no room, is gone on with: as long as the tries get anywhere.

use tonic::Code;

use crate::error::{Error, Result};
use crate::retry::RetryPolicy;

/// Why a server refuses streams that it would take one after the other: the token may have few calls open, or many parts of others
/// wait already.
const TOO_MANY: [&str; 2] = ["TOO_MANY_CALLS", "TOO_MANY_PARTS"];

/// Whether a transfer in several streams should go on in one.
pub(crate) fn is_too_many(error: &Error) -> bool {
    error.rpc().is_some_and(|rpc| TOO_MANY.contains(&rpc.reason.as_str()))
}

/// The tries of one transfer. Those that bring bytes do not count.
pub(crate) struct Tries<'a> {
    policy: &'a RetryPolicy,
    in_vain: u32,
    reached_bytes: u64,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, in_vain: 0, reached_bytes: 0 }
    }

    /// So many bytes are safe.
    pub(crate) fn reached(&mut self, bytes: u64) {
        if bytes > self.reached_bytes {
            (self.reached_bytes, self.in_vain) = (bytes, 0);
        }
    }

    /// Waits before the next try, or gives back the error when there is to be none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        self.in_vain += 1;
        let asked = error.rpc().and_then(|rpc| rpc.retry_after);
        // A server counts the calls that a transfer has closed for a moment longer, so that this, too, passes.
        let passes = is_cut(&error) || is_too_many(&error);
        if self.in_vain >= self.policy.max_attempts || !passes || self.policy.is_too_long(asked) {
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
    use std::time::Duration;

    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;
    use crate::error::RpcError;

    fn error(code: Code) -> Error {
        RpcError::new("UploadDataset", "", &Status::new(code, "cut")).into()
    }

    #[tokio::test(start_paused = true)]
    async fn tries_that_get_nowhere_end_and_others_go_on() {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        let mut tries = Tries::new(&policy);
        for bytes in 1..10 {
            tries.after(error(Code::Unavailable)).await.expect("another try");
            tries.reached(bytes);
        }
        tries.after(error(Code::Unavailable)).await.expect("a try in vain");
        tries.reached(9);
        tries.after(error(Code::Unavailable)).await.expect("another one");
        tries.after(error(Code::Unavailable)).await.expect_err("the third in vain is the last");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_refuses_is_not_tried_again() {
        let policy = RetryPolicy::default();
        for code in [Code::InvalidArgument, Code::NotFound, Code::DataLoss, Code::ResourceExhausted] {
            assert!(Tries::new(&policy).after(error(code)).await.is_err(), "{code:?}");
        }
    }

    fn detailed(code: Code, details: ErrorDetails) -> Error {
        RpcError::new("UploadDataset", "", &Status::with_error_details(code, "refused", details)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_the_server_still_counts_are_waited_for() {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        let mut tries = Tries::new(&policy);
        for reason in TOO_MANY {
            let details = ErrorDetails::with_error_info(reason, "hone", HashMap::new());
            let error = detailed(Code::ResourceExhausted, details);
            assert!(is_too_many(&error));
            tries.after(error).await.expect("another try");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_too_long_a_wait_is_not_waited_for() {
        let policy = RetryPolicy::default();
        let after = |wait| detailed(Code::Unavailable, ErrorDetails::with_retry_info(Some(wait)));
        let start = tokio::time::Instant::now();
        Tries::new(&policy).after(after(policy.longest_wait)).await.expect("another try");
        assert_eq!(start.elapsed(), policy.longest_wait);
        Tries::new(&policy).after(after(policy.longest_wait + Duration::from_secs(1))).await.expect_err("too long");
        assert_eq!(start.elapsed(), policy.longest_wait);
    }
}
