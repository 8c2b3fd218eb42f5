//! When a call is tried again: the policy is plain data, chance is a parameter.

use std::future::Future;
use std::time::Duration;

use tonic::Code;

use crate::error::{Error, Result};

/// Codes after which a call is safe to repeat: the server did not act on it, or the call may be repeated by design.
///
/// ```
/// assert!(hone_client::RETRYABLE.contains(&hone_client::Code::Unavailable));
/// ```
pub const RETRYABLE: [Code; 1] = [Code::Unavailable];

/// When and how often to try again. Delays grow by `factor` up to `max_delay` and are then cut by chance,
/// so that clients that lost the same server do not come back in step.
///
/// ```
/// use std::time::Duration;
/// use hone_client::{ConnectOptions, RetryPolicy};
///
/// let mut patient = RetryPolicy::default();
/// patient.max_attempts = 20;
/// patient.max_delay = Duration::from_secs(30);
/// let options = ConnectOptions::new("http://127.0.0.1:7400").retry(patient);
/// assert_eq!(options.retry.max_attempts, 20);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Most attempts of one call, the first included. Default 5; 1 turns retries off.
    pub max_attempts: u32,
    /// Delay before the second attempt. Default 200 ms.
    pub first_delay: Duration,
    /// Growth from delay to delay. Default 2.
    pub factor: f64,
    /// Longest delay of our own choice. Default 5 s.
    pub max_delay: Duration,
    /// Share of the delay left to chance, 0 to 1. Default 0.5: between half the delay and all of it.
    pub jitter: f64,
    /// A server that asks for a longer wait than this gets no second attempt. Default 60 s.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            first_delay: Duration::from_millis(200),
            factor: 2.0,
            max_delay: Duration::from_secs(5),
            jitter: 0.5,
            longest_wait: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// One attempt and no more.
    ///
    /// ```
    /// assert_eq!(hone_client::RetryPolicy::never().max_attempts, 1);
    /// ```
    pub fn never() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }

    /// The wait before attempt `attempt + 1`, where `attempt` counts from 1. RetryInfo is a floor that chance
    /// never goes below.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let policy = hone_client::RetryPolicy::default();
    /// let asked = Duration::from_secs(7);
    /// assert!(policy.delay(1, None) <= policy.first_delay);
    /// assert_eq!(policy.delay(1, Some(asked)), asked);
    /// ```
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        self.delay_by(fastrand::f64(), attempt, retry_after)
    }

    /// The same by a given chance, from 0 to 1.
    fn delay_by(&self, chance: f64, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let exponent = attempt.saturating_sub(1).min(64);
        let grown = self.first_delay.as_secs_f64() * self.factor.max(1.0).powf(f64::from(exponent));
        let capped = grown.min(self.max_delay.as_secs_f64());
        let kept = 1.0 - self.jitter.clamp(0.0, 1.0) * chance;
        Duration::from_secs_f64(capped * kept).max(retry_after.unwrap_or_default())
    }

    /// The wait before the next attempt, or nothing when `error` is to be reported.
    fn next(&self, attempt: u32, error: &Error) -> Option<Duration> {
        let rpc = error.rpc().filter(|rpc| RETRYABLE.contains(&rpc.code))?;
        let goes_on = attempt < self.max_attempts && !self.is_too_long(rpc.retry_after);
        goes_on.then(|| self.delay(attempt, rpc.retry_after))
    }

    /// Whether the server asks for a longer wait than is taken.
    pub(crate) fn is_too_long(&self, retry_after: Option<Duration>) -> bool {
        retry_after.is_some_and(|asked| asked > self.longest_wait)
    }
}

/// Calls `attempt` with its number, from 1, until it gives something other than a retryable error or the policy ends.
pub(crate) async fn with_retry<T, F, Fut>(policy: &RetryPolicy, mut attempt: F) -> Result<T>
where
    F: FnMut(u32) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut number = 1;
    loop {
        let error = match attempt(number).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Some(delay) = policy.next(number, &error) else { return Err(error) };
        tracing::debug!(%error, attempt = number, ?delay, "trying again");
        tokio::time::sleep(delay).await;
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;
    use crate::error::RpcError;

    fn error(code: Code, retry_after: Option<Duration>) -> Error {
        let details = match retry_after {
            Some(delay) => ErrorDetails::with_retry_info(Some(delay)),
            None => ErrorDetails::new(),
        };
        RpcError::new("GetJob", "", &Status::with_error_details(code, "x", details)).into()
    }

    #[test]
    fn delays_grow_stay_within_the_jitter_and_stop_growing() {
        let policy = RetryPolicy::default();
        for (attempt, full_ms) in [(1, 200), (2, 400), (3, 800), (6, 5000), (4_000_000, 5000)] {
            let full = Duration::from_millis(full_ms);
            for (chance, expected) in [(0.0, full), (0.5, full * 3 / 4), (1.0, full / 2)] {
                assert_eq!(policy.delay_by(chance, attempt, None), expected, "attempt {attempt}, chance {chance}");
            }
        }
    }

    #[test]
    fn only_unavailable_is_retried() {
        let policy = RetryPolicy::default();
        for code in (0..17).map(Code::from_i32) {
            let again = policy.next(1, &error(code, None)).is_some();
            assert_eq!(again, code == Code::Unavailable, "{code:?}");
        }
    }

    #[test]
    fn the_servers_wait_is_obeyed_unless_it_is_too_long() {
        let policy = RetryPolicy::default();
        let asked = Duration::from_secs(20);
        assert_eq!(policy.next(1, &error(Code::Unavailable, Some(asked))), Some(asked));
        let much = Duration::from_secs(3600);
        assert_eq!(policy.next(1, &error(Code::Unavailable, Some(much))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_with_the_last_error_after_the_delays_between_them() {
        let policy = RetryPolicy { max_attempts: 3, jitter: 0.0, ..RetryPolicy::default() };
        let start = Instant::now();
        let mut seen = Vec::new();
        let result: Result<()> = with_retry(&policy, |number| {
            seen.push(number);
            async { Err(error(Code::Unavailable, None)) }
        })
        .await;
        assert!(result.is_err());
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!(start.elapsed().as_millis(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_the_attempts() {
        let result = with_retry(&RetryPolicy::default(), |number| async move {
            if number < 3 { Err(error(Code::Unavailable, None)) } else { Ok(number) }
        })
        .await;
        assert_eq!(result.expect("answered"), 3);
    }
}
