//! The harness of the whole-system tests: real binaries, a real S3 server, a network that breaks on command, and a
//! trainer that does as it is told.
//!
//! What it takes is what a test wants to happen; what it gives is running processes that are gone when the test is over.
//! It panics when something is not as it should be, and a server prints its log when its test fails.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod authority;
mod collector;
mod far;
mod faults;
mod gate;
mod load;
mod process;
mod proxy;
mod rows;
mod script;
mod seaweed;
mod server;
mod soak;
pub mod store_script;

pub use authority::{Authority, Certificate};
pub use collector::{Collector, NoCollector, Sent};
pub use far::{Transfer, far};
pub use faults::{FaultyStore, StoreFault};
pub use gate::{Arrival, Gate};
pub use load::{Load, load};
pub use process::{Ended, preloaded, run, signal, with_environment};
pub use proxy::Proxy;
pub use rows::{conversation, events_of, fixture_model, kind, next_event, sft, uri, write_lines};
pub use script::{Act, Hello, SCRIPTS_VARIABLE, SMALL_WEIGHTS, Script, weights};
pub use seaweed::{Bucket, SeaweedFs};
pub use server::{Server, Setup};
pub use soak::{Fault, Report, Workload, soak};

/// Longest wait for anything that should happen soon. A test that passes never waits for it.
pub const SOON: Duration = Duration::from_secs(60);

/// Waits for `future`, and fails the test when it takes longer than [`SOON`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, Box::pin(future)).await {
        Ok(value) => value,
        Err(_) => panic!("waited {SOON:?} for {what}"),
    }
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// A program built from this workspace, which cargo puts beside its other programs and one folder above the tests.
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a process knows its program");
    let built = this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    built.unwrap_or_else(|| panic!("{name} is not built: run `make build`"))
}

/// A program that `scripts/fetch.py` put into `.cache/bin`.
pub fn fetched(name: &str, package: &str) -> PathBuf {
    let path = repository().join(".cache/bin").join(name);
    assert!(path.is_file(), "{} is missing: run `python3 scripts/fetch.py {package}`", path.display());
    path
}
