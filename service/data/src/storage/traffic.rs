//! What this process moved to and from storage.

use std::sync::atomic::{AtomicU64, Ordering};

static READ: AtomicU64 = AtomicU64::new(0);
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Bytes that this process moved since it began. Files of this machine that are mapped into memory are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Fetched.
    pub read_bytes: u64,
    /// Written; of an upload in parts, those that were handed over.
    pub written_bytes: u64,
}

/// The traffic so far.
pub fn traffic() -> Traffic {
    Traffic { read_bytes: READ.load(Ordering::Relaxed), written_bytes: WRITTEN.load(Ordering::Relaxed) }
}

pub(super) fn note_read(num_bytes: usize) {
    READ.fetch_add(num_bytes as u64, Ordering::Relaxed);
}

pub(super) fn note_written(num_bytes: usize) {
    WRITTEN.fetch_add(num_bytes as u64, Ordering::Relaxed);
}
