//! When a transfer that was cut is gone on with: as long as the tries get anywhere.

use tonic::Code;

use crate::error::{Error, Result};
use crate::retry::RetryPolicy;

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
        if self.in_vain >= self.policy.max_attempts || !is_cut(&error) {
            return Err(error);
        }
        let asked = error.rpc().and_then(|rpc| rpc.retry_after);
        let delay = self.policy.delay(self.in_vain, asked);
        tracing::debug!(%error, ?delay, "a transfer was cut and goes on");
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
    use tonic::Status;

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
}
