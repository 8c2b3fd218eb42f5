//! The pulse of this process: a count of what it gets done, by which the server tells a slow trainer from one that hangs.
//!
//! One number for the process, since it is the process that hangs or does not.

use std::sync::atomic::{AtomicU64, Ordering};

static DONE: AtomicU64 = AtomicU64::new(0);

/// Something was got done: a pass of a micro-batch, a tensor read, a file written.
pub fn beat() {
    DONE.fetch_add(1, Ordering::Relaxed);
}

/// How much was got done so far.
pub fn count() -> u64 {
    DONE.load(Ordering::Relaxed)
}
