//! Files that change while the server runs: they are looked at again every two seconds.
//!
//! Their content is compared, not the time of the last change: a mounted secret changes by a link, and the files are small.

use std::fmt::Display;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often files are read again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Keeps looking until the server stops. `look_again` takes over what the files of `what` say now, and tells whether that is
/// anything new; files that are broken change nothing.
pub(crate) async fn keep_looking<E: Display>(
    what: &str,
    look_again: impl Fn() -> Result<bool, E>,
    stopping: CancellationToken,
) {
    let mut complaint = String::new();
    while stopping.run_until_cancelled(tokio::time::sleep(LOOK_AGAIN)).await.is_some() {
        match look_again() {
            Ok(changed) => {
                complaint.clear();
                if changed {
                    tracing::info!("{what} have changed");
                }
            }
            // Said once, not every two seconds.
            Err(error) if complaint == error.to_string() => {}
            Err(error) => {
                tracing::error!(%error, "{what} before this change stay in force");
                complaint = error.to_string();
            }
        }
    }
}
