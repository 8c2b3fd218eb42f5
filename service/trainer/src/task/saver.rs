//! Saving beside the steps: a snapshot in host memory in, a verified checkpoint and its event out, while training goes on.

use std::sync::Arc;
use std::time::Instant;

use hone_job::checkpoint::Manifest;
use hone_job::event::{CheckpointSaved, Event, Warning};
use hone_job::spec::Metric;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::Observer;
use crate::checkpoint::{self, EVAL_LOSS, Folder, Saved, Snapshot};

/// Writes one checkpoint at a time.
pub(super) struct Saver {
    folder: Folder,
    keep_last: u32,
    /// What the best one is the best by.
    metric: Metric,
    runtime: Handle,
    observer: Arc<dyn Observer>,
    /// Checkpoints of the job that exist, oldest first.
    manifests: Vec<Manifest>,
    pending: Option<JoinHandle<Result<Saved, checkpoint::Error>>>,
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
        let manifests = runtime.block_on(folder.manifests())?;
        Ok(Saver { folder, keep_last, metric, runtime, observer, manifests, pending: None })
    }

    /// Starts to save. Waits only for the save before, if it is still on its way. A failure is a warning.
    pub(super) fn start(&mut self, snapshot: Snapshot) {
        self.spawn(snapshot, |error, observer| {
            let message = format!("{error}; training goes on and the next checkpoint is tried as usual");
            let code = Warning::CHECKPOINT_NOT_SAVED.into();
            observer.report(Event::Warning(Warning { code, message }));
        });
    }

    fn spawn(&mut self, snapshot: Snapshot, on_failure: fn(&checkpoint::Error, &dyn Observer)) {
        // Its failure has been told.
        let _ = self.settle();
        let (folder, observer) = (self.folder.clone(), self.observer.clone());
        self.pending = Some(self.runtime.spawn(async move {
            let start = Instant::now();
            let saved = folder.save(&snapshot).await.inspect_err(|error| on_failure(error, &*observer))?;
            observer.report(Event::CheckpointSaved(CheckpointSaved {
                checkpoint_id: saved.checkpoint_id.clone(),
                step: snapshot.step,
                uri: saved.uri.clone(),
                size_bytes: saved.manifest.size_bytes(),
                eval_loss: snapshot.metrics.get(EVAL_LOSS).copied(),
                seconds: start.elapsed().as_secs_f64(),
            }));
            Ok(saved)
        }));
    }

    /// Saves and waits until the checkpoint exists.
    pub(super) fn finish(&mut self, snapshot: Snapshot) -> Result<Saved, checkpoint::Error> {
        self.spawn(snapshot, |_, _| {});
        Ok(self.settle()?.expect("a save was started"))
    }

    /// Waits for the save on its way, then removes what need not be kept.
    fn settle(&mut self) -> Result<Option<Saved>, checkpoint::Error> {
        let Some(pending) = self.pending.take() else { return Ok(None) };
        let saved = self.runtime.block_on(pending).expect("saving does not panic")?;
        self.manifests.retain(|manifest| manifest.step != saved.manifest.step);
        self.manifests.push(saved.manifest.clone());
        self.manifests.sort_by_key(|manifest| manifest.step);
        let kept = self.runtime.block_on(self.folder.prune(&self.manifests, self.keep_last, self.metric));
        match kept {
            Ok(removed) => self.manifests.retain(|manifest| !removed.contains(&manifest.step)),
            // What was to go is still there: no harm to the run.
            Err(error) => tracing::warn!(%error, "old checkpoints were not removed"),
        }
        Ok(Some(saved))
    }

    /// Step of the best checkpoint; the newest when none was measured.
    pub(super) fn best_step(&self) -> Option<u64> {
        checkpoint::best(&self.manifests, self.metric).or_else(|| self.manifests.last().map(|manifest| manifest.step))
    }
}
