//! Where things lie below the storage root. Ids and names were checked before they become paths.
//!
//! ```text
//! <root>/models/<id>/…   <root>/datasets/<id>/{file, manifest.json}   <root>/jobs/<id>/checkpoints/<checkpoint>/…
//! <root>/jobs/<id>/report/{loss.png, summary.json, hard_examples.jsonl}   <root>/jobs/<id>/tensorboard/events.out.tfevents.…
//! <root>/reference/<fingerprint>.safetensors
//! ```

use hone_data::storage::{self, Location, Storage, StorageOptions};
use hone_job::id::Kind;

/// The storage root, open.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: Location,
    options: StorageOptions,
}

impl Layout {
    /// Opens the root; looks at nothing in it yet.
    pub(crate) fn open(root: &str, options: &StorageOptions) -> Result<Self, storage::Error> {
        Ok(Self { root: Storage::open(root, options)?, options: options.clone() })
    }

    /// Writes and deletes an object: a root that cannot be written is found at start, not at the first checkpoint.
    pub(crate) async fn probe(&self) -> Result<(), storage::Error> {
        let probe = self.root.join(&format!(".hone-probe-{}", uuid::Uuid::new_v4().simple()));
        probe.put("hone").await?;
        probe.delete().await
    }

    /// URI of the root.
    pub(crate) fn root_uri(&self) -> &str {
        &self.root.uri
    }

    /// Folder of an upload.
    pub(crate) fn upload(&self, kind: Kind, id: &str) -> Location {
        self.root.join(&format!("{}/{id}", if kind == Kind::Model { "models" } else { "datasets" }))
    }

    /// Folder of a job.
    pub(crate) fn job(&self, job_id: &str) -> Location {
        self.root.join(&format!("jobs/{job_id}"))
    }

    /// Folder of a job's checkpoints.
    pub(crate) fn checkpoints(&self, job_id: &str) -> Location {
        self.job(job_id).join("checkpoints")
    }

    /// Folder of what a job leaves to look at.
    pub(crate) fn report(&self, job_id: &str) -> Location {
        self.job(job_id).join("report")
    }

    /// Folder of a job's numbers for TensorBoard.
    pub(crate) fn tensorboard(&self, job_id: &str) -> Location {
        self.job(job_id).join("tensorboard")
    }

    /// Folder of what reference policies say about datasets.
    pub(crate) fn reference(&self) -> Location {
        self.root.join("reference")
    }

    /// Any place that a job may read.
    pub(crate) fn open_uri(&self, uri: &str) -> Result<Location, storage::Error> {
        Storage::open(uri, &self.options)
    }
}
