//! Saving beside the steps: snapshots in host memory in, verified checkpoints and their events out, while training goes on.
//!
//! Snapshots stand in line and are written one after the other, each until it is durable: storage that fails is asked again
//! for as long as it takes. The line is bounded; where it is full, the steps wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hone_job::checkpoint::Manifest;
use hone_job::event::{CheckpointSaved, Event, Phase, Warning};
use hone_job::spec::Metric;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tracing::Instrument;

use super::Observer;
use crate::checkpoint::{self, EVAL_LOSS, Folder, Saved, Snapshot};
use crate::link::Command;
use crate::trace;

/// Most snapshots that may wait for storage, and most bytes of them. One may, however large.
const MAX_WAITING: usize = 8;
const MAX_WAITING_BYTES: u64 = 4 << 30;

/// Wait before a save is tried again; it doubles up to the longest.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// How often a thread that waits looks whether the server wants something.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Name of the phase in which the steps wait for storage.
const WAITING: &str = "waiting_for_storage";

/// The way to the writer, for the computing thread.
pub(super) struct Saver {
    snapshots: mpsc::UnboundedSender<Snapshot>,
    line: watch::Sender<Line>,
    hurry: Arc<Notify>,
    runtime: Handle,
    observer: Arc<dyn Observer>,
}

/// How saving stands.
#[derive(Default)]
struct Line {
    /// Snapshots that are taken and not durable, and their bytes.
    waiting: usize,
    waiting_bytes: u64,
    /// Tries that failed so far.
    failed_tries: u64,
    /// What the last try failed with, while the save is not done.
    trouble: Option<String>,
    /// The checkpoint written last, and how long that took.
    newest: Option<Saved>,
    newest_seconds: f64,
    /// Step of the best checkpoint; the newest when none was measured.
    best_step: Option<u64>,
}

impl Line {
    fn has_room_for(&self, num_bytes: u64) -> bool {
        self.waiting == 0 || (self.waiting < MAX_WAITING && self.waiting_bytes + num_bytes <= MAX_WAITING_BYTES)
    }
}

impl Saver {
    /// A saver for a job that may have checkpoints of earlier attempts already.
    pub(super) fn new(
        folder: Folder,
        keep_last: u32,
        metric: Metric,
        runtime: Handle,
        observer: Arc<dyn Observer>,
    ) -> Result<Saver, checkpoint::Error> {
        runtime.block_on(folder.sweep())?;
        let manifests = runtime.block_on(folder.manifests())?;
        let (snapshots, taken) = mpsc::unbounded_channel();
        let saver = Saver { snapshots, line: watch::Sender::default(), hurry: Arc::default(), runtime, observer };
        let (line, observer, hurry) = (saver.line.clone(), saver.observer.clone(), saver.hurry.clone());
        let writer = Writer { folder, keep_last, metric, manifests, line, observer, hurry };
        saver.runtime.spawn(writer.write_all(taken));
        Ok(saver)
    }

    /// Puts a snapshot into the line. Waits while that is full, unless storage fails and the task is to leave.
    pub(super) fn start(&self, snapshot: Snapshot) {
        let num_bytes = snapshot.num_bytes();
        if self.wait(|line| line.has_room_for(num_bytes), true) {
            self.push(snapshot);
        }
    }

    /// Saves and waits until the checkpoint exists. None when storage fails and the task is to leave.
    pub(super) fn finish(&self, snapshot: Snapshot) -> Option<Saved> {
        self.push(snapshot);
        self.wait(|line| line.waiting == 0, true).then(|| self.newest()).flatten()
    }

    /// Saves if storage lets it.
    pub(super) fn stop(&self, snapshot: Snapshot) {
        self.push(snapshot);
        self.settle();
    }

    /// Waits until everything in the line is durable or a try has failed.
    pub(super) fn settle(&self) {
        let failed_before = self.line.borrow().failed_tries;
        self.hurry.notify_one();
        self.wait(|line| line.waiting == 0 || line.failed_tries > failed_before, false);
    }

    /// Step of the best checkpoint, once one was saved.
    pub(super) fn best_step(&self) -> Option<u64> {
        self.line.borrow().best_step
    }

    /// The checkpoint that was written last, of this attempt.
    pub(super) fn newest(&self) -> Option<Saved> {
        self.line.borrow().newest.clone()
    }

    /// How long it took to write that one; 0 before there is one.
    pub(super) fn newest_seconds(&self) -> f64 {
        self.line.borrow().newest_seconds
    }

    fn push(&self, snapshot: Snapshot) {
        self.line.send_modify(|line| {
            line.waiting += 1;
            line.waiting_bytes += snapshot.num_bytes();
        });
        self.snapshots.send(snapshot).expect("the writer lives as long as the saver");
    }

    /// What is asked of the task while it waits. A checkpoint is not: the one it waits for is of this very step.
    fn is_to_leave(&self) -> bool {
        matches!(self.observer.command(), Some(Command::Cancel | Command::Stop))
    }

    /// Waits until the line is as wanted, and says whether it is. While storage fails it tells so, and where the task `may_leave`
    /// ends when that is asked for; storage that answers is waited for, since it soon has all.
    fn wait(&self, until: impl Fn(&Line) -> bool, may_leave: bool) -> bool {
        let mut line = self.line.subscribe();
        let mut is_told = false;
        loop {
            let trouble = {
                let line = line.borrow_and_update();
                if until(&line) {
                    return true;
                }
                line.trouble.clone()
            };
            if let Some(detail) = trouble {
                if may_leave && self.is_to_leave() {
                    return false;
                }
                if !is_told {
                    self.observer.report(Event::Phase(Phase { name: WAITING.into(), detail }));
                    is_told = true;
                }
            }
            // That nothing changed is a reason to look, too.
            let _ = self.runtime.block_on(async { tokio::time::timeout(LOOK_EVERY, line.changed()).await });
            assert!(!self.snapshots.is_closed(), "saving does not panic");
        }
    }
}

/// What writes the snapshots, on the runtime.
struct Writer {
    folder: Folder,
    keep_last: u32,
    /// What the best one is the best by.
    metric: Metric,
    /// Checkpoints of the job that exist, oldest first.
    manifests: Vec<Manifest>,
    line: watch::Sender<Line>,
    observer: Arc<dyn Observer>,
    hurry: Arc<Notify>,
}

impl Writer {
    async fn write_all(mut self, mut snapshots: mpsc::UnboundedReceiver<Snapshot>) {
        while let Some(snapshot) = snapshots.recv().await {
            let span = tracing::info_span!("checkpoint", step = snapshot.step, bytes = snapshot.num_bytes());
            let saved = self.save(&snapshot).instrument(trace::part(span)).await;
            self.keep(saved.manifest.clone()).await;
            let manifests = &self.manifests;
            let best_step =
                checkpoint::best(manifests, self.metric).or_else(|| manifests.last().map(|manifest| manifest.step));
            self.line.send_modify(|line| {
                line.waiting -= 1;
                line.waiting_bytes -= snapshot.num_bytes();
                (line.trouble, line.newest, line.best_step) = (None, Some(saved), best_step);
            });
        }
    }

    /// Writes a snapshot, in as many tries as it takes, and tells of it.
    async fn save(&self, snapshot: &Snapshot) -> Saved {
        let start = Instant::now();
        let mut delay = FIRST_DELAY;
        let saved = loop {
            let span = tracing::info_span!("upload", otel.status_code = tracing::field::Empty);
            let error = match self.folder.save(snapshot).instrument(span.clone()).await {
                Ok(saved) => break saved,
                Err(error) => error.to_string(),
            };
            span.record("otel.status_code", "ERROR");
            if self.line.borrow().trouble.is_none() {
                let message = format!("{error}; it is tried again until it is saved, and training goes on meanwhile");
                let code = Warning::CHECKPOINT_NOT_SAVED.into();
                self.observer.report(Event::Warning(Warning { code, message }));
            }
            self.line.send_modify(|line| {
                line.failed_tries += 1;
                line.trouble = Some(error);
            });
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (2 * delay).min(LONGEST_DELAY),
                () = self.hurry.notified() => {}
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        self.line.send_modify(|line| line.newest_seconds = seconds);
        self.observer.report(Event::CheckpointSaved(CheckpointSaved {
            checkpoint_id: saved.checkpoint_id.clone(),
            step: snapshot.step,
            uri: saved.uri.clone(),
            size_bytes: saved.manifest.size_bytes(),
            eval_loss: snapshot.metrics.get(EVAL_LOSS).copied(),
            seconds,
        }));
        saved
    }

    /// Takes up a new checkpoint, and removes those that need not be kept any more.
    async fn keep(&mut self, new: Manifest) {
        self.manifests.retain(|manifest| manifest.step != new.step);
        self.manifests.push(new);
        self.manifests.sort_by_key(|manifest| manifest.step);
        match self.folder.prune(&self.manifests, self.keep_last, self.metric).await {
            Ok(removed) => self.manifests.retain(|manifest| !removed.contains(&manifest.step)),
            // What was to go is still there: no harm to the run.
            Err(error) => tracing::warn!(%error, "old checkpoints were not removed"),
        }
    }
}

#[cfg(test)]
mod tests;
