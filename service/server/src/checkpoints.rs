//! The checkpoints of jobs: found by their manifests, without which there is none.

use bytes::Bytes;
use futures::{StreamExt, stream};
use hone_data::storage::{self, Location};
use hone_job::checkpoint::{MANIFEST, Manifest, is_plain_name};

use crate::layout::Layout;

/// A manifest may be so large; it names files, and there are few.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// Manifests that are read at once.
const READ_AHEAD: usize = 8;

/// Why there is no such checkpoint, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It does not exist.
    #[error("there is no checkpoint {checkpoint_id} of {job_id}")]
    NotFound { job_id: String, checkpoint_id: String },
    /// The job has none.
    #[error("{job_id} has no checkpoint")]
    None { job_id: String },
    /// It is not what its manifest says.
    #[error("{uri}: the checkpoint is damaged: {file}: {detail}")]
    Damaged { uri: String, file: String, detail: String },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// A checkpoint that exists.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    /// Its id within the job.
    pub(crate) checkpoint_id: String,
    /// Its place among the job's checkpoints: the step in its id.
    pub(crate) step: u64,
    /// Where its files lie.
    pub(crate) folder: Location,
    /// What it promises.
    pub(crate) manifest: Manifest,
    /// The manifest as it was written.
    pub(crate) manifest_bytes: Bytes,
}

impl Checkpoint {
    pub(crate) fn damaged(&self, file: &str, detail: impl Into<String>) -> Error {
        Error::Damaged { uri: self.folder.uri.clone(), file: file.to_string(), detail: detail.into() }
    }
}

/// The checkpoints below a storage root.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    layout: Layout,
}

impl Checkpoints {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// Checkpoints of a job, newest first, of steps before `before`. One whose manifest cannot be read is left out: it
    /// must not hide the others.
    pub(crate) async fn list(&self, job_id: &str, before: Option<u64>, limit: usize) -> Result<Vec<Checkpoint>, Error> {
        let steps = self.steps(job_id).await?.into_iter();
        let older = steps.filter(|(step, _)| before.is_none_or(|before| *step < before));
        let ids: Vec<String> = older.map(|(_, id)| id).collect();
        // Several manifests are on their way at once, since each takes a while where storage is far.
        let mut reading = stream::iter(ids.into_iter().map(|id| self.listed(job_id, id))).buffered(READ_AHEAD);
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(checkpoint) = reading.next().await
        {
            found.extend(checkpoint?);
        }
        Ok(found)
    }

    async fn listed(&self, job_id: &str, id: String) -> Result<Option<Checkpoint>, Error> {
        match self.get(job_id, &id).await {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(job_id, %error, "left out of a list");
                Ok(None)
            }
            // Deleted since.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest checkpoint of a job.
    pub(crate) async fn last(&self, job_id: &str) -> Result<Checkpoint, Error> {
        let last = self.list(job_id, None, 1).await?.into_iter().next();
        last.ok_or_else(|| Error::None { job_id: job_id.to_string() })
    }

    /// One checkpoint.
    pub(crate) async fn get(&self, job_id: &str, checkpoint_id: &str) -> Result<Checkpoint, Error> {
        let missing = || Error::NotFound { job_id: job_id.to_string(), checkpoint_id: checkpoint_id.to_string() };
        let step = step_of(checkpoint_id).ok_or_else(missing)?;
        let folder = self.layout.checkpoints(job_id).join(checkpoint_id);
        let damaged = |detail: String| Error::Damaged { uri: folder.uri.clone(), file: MANIFEST.into(), detail };
        let object = folder.join(MANIFEST);
        match object.num_bytes().await? {
            None => return Err(missing()),
            Some(size) if size > MAX_MANIFEST_BYTES => return Err(damaged(format!("{size} bytes are too many"))),
            Some(_) => {}
        }
        let manifest_bytes = object.get().await?;
        let manifest = Manifest::parse(&manifest_bytes).map_err(damaged)?;
        Ok(Checkpoint { checkpoint_id: checkpoint_id.to_string(), step, folder, manifest, manifest_bytes })
    }

    /// Deletes a checkpoint. The manifest goes first, so that there is never one whose files are gone.
    pub(crate) async fn delete(&self, job_id: &str, checkpoint_id: &str) -> Result<(), Error> {
        let checkpoint = self.get(job_id, checkpoint_id).await;
        // A damaged one may go as well.
        if let Err(error @ (Error::NotFound { .. } | Error::None { .. } | Error::Storage(_))) = checkpoint {
            return Err(error);
        }
        let folder = self.layout.checkpoints(job_id).join(checkpoint_id);
        folder.join(MANIFEST).delete().await?;
        folder.delete_prefix().await?;
        tracing::info!(job_id, checkpoint_id, "checkpoint deleted");
        Ok(())
    }

    /// Deletes all that a job wrote, manifests first.
    pub(crate) async fn delete_job(&self, job_id: &str) -> Result<(), storage::Error> {
        for (_, id) in self.steps(job_id).await? {
            self.layout.checkpoints(job_id).join(&id).join(MANIFEST).delete().await?;
        }
        self.layout.job(job_id).delete_prefix().await.map(drop)
    }

    /// Steps and ids of what has a manifest, newest first.
    async fn steps(&self, job_id: &str) -> Result<Vec<(u64, String)>, storage::Error> {
        let entries = self.layout.checkpoints(job_id).list().await?;
        let ids = entries.iter().filter_map(|entry| entry.name.strip_suffix(MANIFEST)?.strip_suffix('/'));
        let mut steps: Vec<_> = ids.filter_map(|id| Some((step_of(id)?, id.to_string()))).collect();
        steps.sort_by(|a, b| b.cmp(a));
        Ok(steps)
    }
}

/// The step in a checkpoint's id, if it is one.
fn step_of(id: &str) -> Option<u64> {
    id.strip_prefix("step-").filter(|_| is_plain_name(id))?.parse().ok()
}
