//! How far something long is, told as the phase of the job.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hone_data::dataset;
use hone_job::event::{Event, Phase};

use super::Observer;

/// Time between two words on how far something is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Tells how far a phase is, not more often than a person can read.
pub(super) struct Teller {
    observer: Arc<dyn Observer>,
    phase: &'static str,
    told: Mutex<Instant>,
}

impl Teller {
    pub(super) fn new(observer: Arc<dyn Observer>, phase: &'static str) -> Teller {
        Teller { observer, phase, told: Mutex::new(Instant::now()) }
    }

    pub(super) fn tell(&self, detail: &str) {
        self.observer.report(Event::Phase(Phase { name: self.phase.into(), detail: detail.into() }));
    }

    pub(super) fn tell_sometimes(&self, detail: impl FnOnce() -> String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            self.tell(&detail());
        }
    }

    /// Tells how many of a file's bytes have come from storage.
    pub(super) fn fetched(&self, done: u64, total: u64) {
        self.tell_sometimes(|| format!("{} of {} fetched", mebibytes(done), mebibytes(total)));
    }

    /// Tells how many bytes of weights are loaded.
    pub(super) fn read(&self, done: u64, total: u64) {
        self.tell_sometimes(|| format!("{} of {} read", mebibytes(done), mebibytes(total)));
    }
}

/// Begins the phase in which rows are read, and tells how many were.
pub(super) fn reading_rows(observer: &Arc<dyn Observer>) -> dataset::Progress {
    let teller = Teller::new(observer.clone(), "reading_data");
    teller.tell("");
    Arc::new(move |rows| teller.tell_sometimes(|| format!("{rows} rows read")))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
