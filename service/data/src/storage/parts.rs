//! Objects that are written in parts: no more than a few of them are in memory at once, and what a crash leaves is found.
//!
//! Parts of an upload that never ended cost money in a bucket and are in no listing. So its id is put beside the object
//! until it ends, as a note; who removes the folder aborts what its notes name.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, PutResult, UploadPart, WriteMultipart};
use tracing::Instrument;

use super::{Location, Result, Step, traffic};

/// Bytes of a part of what has an unknown length.
pub(super) const PART_BYTES: usize = 8 << 20;
/// Most parts of an object, by S3's rules.
const MAX_PARTS: u64 = 10_000;
/// What the name of a note ends with, and what its content begins with.
pub(super) const NOTE: &str = ".unfinished";
const NOTE_TITLE: &str = "id of an S3 multipart upload of hone:\n";

/// Bytes of a part of an object of `num_bytes`.
pub(super) fn part_bytes(num_bytes: u64) -> usize {
    PART_BYTES.max(num_bytes.div_ceil(MAX_PARTS) as usize)
}

/// An object on its way. One that is neither finished nor aborted does not exist, but takes room until its folder is
/// removed.
#[derive(Debug)]
pub struct Parts {
    object: Location,
    writer: WriteMultipart,
    /// Parts on their way at once.
    at_once: usize,
    note: Option<Location>,
}

impl Parts {
    pub(super) async fn begin(object: &Location, part_bytes: usize, at_once: usize) -> Result<Parts> {
        let failed = |error| object.failure(Step::Put, error);
        let (upload, note): (Box<dyn MultipartUpload>, _) = match &object.multipart {
            None => (object.store.put_multipart(&object.path).await.map_err(failed)?, None),
            Some(store) => {
                let upload = Upload::begin(store.clone(), &object.path).await.map_err(failed)?;
                let note = object.note()?;
                note.put_in_one(format!("{NOTE_TITLE}{}", upload.id).into()).await?;
                (Box::new(upload), Some(note))
            }
        };
        let writer = WriteMultipart::new_with_chunk_size(upload, part_bytes);
        Ok(Parts { object: object.clone(), writer, at_once, note })
    }

    /// Adds bytes; waits while as many parts as may be are on their way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let capacity = self.writer.wait_for_capacity(self.at_once).await;
        capacity.map_err(|error| self.object.failure(Step::Put, error))?;
        traffic::note_written(bytes.len());
        self.writer.put(bytes);
        Ok(())
    }

    /// The object exists once this returns.
    pub async fn finish(self) -> Result<()> {
        self.writer.finish().await.map_err(|error| self.object.failure(Step::Put, error))?;
        match self.note {
            Some(note) => note.delete().await,
            None => Ok(()),
        }
    }

    /// Gives the room back. Should that fail, the note stays for whoever removes the folder.
    pub async fn abort(self) {
        if self.writer.abort().await.is_ok()
            && let Some(note) = self.note
        {
            let _ = note.delete().await;
        }
    }
}

impl Location {
    /// Where the note of an upload of this object lies.
    fn note(&self) -> Result<Location> {
        let path = ObjectPath::parse(format!("{}{NOTE}", self.path));
        let path = path.map_err(|error| self.failure(Step::Put, error.into()))?;
        Ok(Location { path, uri: format!("{}{NOTE}", self.uri), ..self.clone() })
    }

    /// Aborts the upload that this object is the note of; if it is none, nothing happens.
    pub(super) async fn abort_noted(&self) -> Result<()> {
        let (Some(store), Some(name)) = (&self.multipart, self.path.as_ref().strip_suffix(NOTE)) else { return Ok(()) };
        let content = self.get().await?;
        let id = std::str::from_utf8(&content).ok().and_then(|content| content.strip_prefix(NOTE_TITLE));
        let (Some(id), Ok(object)) = (id, ObjectPath::parse(name)) else { return Ok(()) };
        match store.abort_multipart(&object, &id.to_string()).await {
            // It had ended, and only the note was too much.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failure(Step::Delete, error)),
        }
    }
}

/// object_store's own upload does not tell its id; this one does.
#[derive(Debug)]
struct Upload {
    store: Arc<AmazonS3>,
    path: ObjectPath,
    id: String,
    num_parts: usize,
    /// Those that have arrived, by their numbers.
    parts: Arc<Mutex<Vec<(usize, PartId)>>>,
}

impl Upload {
    async fn begin(store: Arc<AmazonS3>, path: &ObjectPath) -> object_store::Result<Upload> {
        let id = store.create_multipart(path).await?;
        Ok(Upload { store, path: path.clone(), id, num_parts: 0, parts: Arc::default() })
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let number = self.num_parts;
        self.num_parts += 1;
        let (store, path, id, parts) = (self.store.clone(), self.path.clone(), self.id.clone(), self.parts.clone());
        let put = async move {
            let part = store.put_part(&path, &id, number, payload).await?;
            parts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((number, part));
            Ok(())
        };
        // It becomes a task of its own, and stays part of what began it.
        Box::pin(put.in_current_span())
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let mut parts = std::mem::take(&mut *self.parts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        parts.sort_by_key(|(number, _)| *number);
        let parts = parts.into_iter().map(|(_, part)| part).collect();
        self.store.complete_multipart(&self.path, &self.id, parts).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.store.abort_multipart(&self.path, &self.id).await
    }
}
