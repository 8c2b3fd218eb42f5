//! Files that come in pieces and become a model or a dataset: bounded, hashed on the way, written straight to storage.
//!
//! An upload exists once its manifest and its row in the store are written. Until then it is an [`Incoming`]; one that
//! is not kept is to be discarded, which removes all it wrote.

use std::sync::Arc;

use bytes::Bytes;
use hone_data::storage::{self, Location, Parts};
use hone_job::checkpoint::{File, MANIFEST, is_plain_name};
use hone_job::id::Kind;
use hone_job::spec::Violation;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::caller::Caller;
use crate::layout::Layout;
use crate::store::{self, Store, Upload, UploadQuery};

mod session;
mod unfinished;

pub(crate) use session::{Claim, Hold, Key, Sessions, State};
pub(crate) use unfinished::Unfinished;

/// Parts of a file that are on their way to storage at once.
const PARTS_AT_ONCE: usize = 2;

/// Most files of a model.
const MAX_FILES: usize = 1024;

/// Parts of all uploads together that wait for their turn in memory.
pub(crate) const MAX_EARLY: usize = 24;

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Too much came.
    #[error("the upload is larger than {limit} bytes, which is the limit for a {what}")]
    TooLarge { what: &'static str, limit: u64 },
    /// Too many at once.
    #[error("too many uploads are under way")]
    Busy,
    /// A part came early, and too many wait.
    #[error("too many parts of uploads wait for those before them")]
    Crowded,
    /// Other bytes came than were announced.
    #[error("{name}: SHA-256 {expected} was announced, {found} came; nothing was kept")]
    Digest { name: String, expected: String, found: String },
    /// What came makes no model or dataset.
    #[error("{}: {}", .0.field, .0.description)]
    Invalid(Violation),
    /// The stream ended before its end.
    #[error("the upload broke off: {0}; nothing was kept")]
    Broken(String),
    /// A stream goes on from another place than where the one before it ended.
    #[error("the stream goes on from byte {asked}, but {received} have come under this request_id")]
    Moved { asked: u64, received: u64 },
    /// Nothing came for too long.
    #[error("nothing came for too long; nothing was kept")]
    Silent,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The job store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    pub(crate) fn invalid(field: &str, what: impl Into<String>) -> Self {
        Error::Invalid(Violation::new(field, what))
    }

    /// A stream whose place was taken.
    pub(crate) fn replaced() -> Self {
        Error::Broken("another stream took its place".into())
    }
}

/// Models and datasets.
#[derive(Clone)]
pub(crate) struct Uploads {
    store: Arc<dyn Store>,
    layout: Layout,
    unfinished: Unfinished,
    sessions: Arc<Sessions>,
    room: Arc<Semaphore>,
    early: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Uploads {
    /// Uploads into `layout`, at most `max_uploads` at once, noted as `unfinished` while they are on their way.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        layout: Layout,
        unfinished: Unfinished,
        max_uploads: usize,
        tasks: TaskTracker,
    ) -> Self {
        let (room, early) = (Arc::new(Semaphore::new(max_uploads)), Arc::new(Semaphore::new(MAX_EARLY)));
        Self { store, layout, unfinished, sessions: Arc::default(), room, early, tasks }
    }

    /// Where what must not be cut short is run: a caller who goes away drops his call, not the cleaning up after it.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The session of an upload that may go on, for one of its streams.
    pub(crate) fn hold(&self, key: Key) -> Hold {
        self.sessions.hold(key)
    }

    /// Room in memory for a part that comes early.
    pub(crate) fn early(&self) -> &Arc<Semaphore> {
        &self.early
    }

    /// The upload of a session, as its stream wants it: from where the one before it ended, or anew.
    pub(crate) async fn resume(
        &self,
        claim: &mut Claim,
        offset: u64,
        total_bytes: Option<u64>,
    ) -> Result<Option<Incoming>, Error> {
        if offset == 0 {
            if let State::Parked(incoming) = claim.clear() {
                // On a task of its own: who goes away now must not leave half of it. What cannot be removed says so itself.
                let _ = self.tasks.spawn(incoming.discard()).await;
            }
            return Ok(None);
        }
        match &mut *claim.state {
            State::Parked(incoming) if incoming.num_bytes == offset => incoming.goes_on(total_bytes, &self.room)?,
            State::Parked(incoming) => return Err(Error::Moved { asked: offset, received: incoming.num_bytes }),
            State::Fresh | State::Kept(_) => return Err(Error::Moved { asked: offset, received: 0 }),
        }
        match claim.take() {
            State::Parked(incoming) => Ok(Some(*incoming)),
            State::Fresh | State::Kept(_) => Ok(None),
        }
    }

    /// An upload of a caller begins; of at most `limit` bytes in all, and of `total_bytes` where that was announced.
    pub(crate) async fn begin(
        &self,
        kind: Kind,
        limit: u64,
        total_bytes: Option<u64>,
        caller: &Caller,
    ) -> Result<Incoming, Error> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let owner = Owner { project: caller.project.clone(), max_bytes: caller.limits.max_bytes };
        let held = match owner.max_bytes {
            Some(_) => self.store.uploaded_bytes(&owner.project).await?,
            None => 0,
        };
        let id = kind.fresh();
        let folder = self.layout.upload(kind, &id);
        let incoming = Incoming {
            kind,
            id,
            folder,
            unfinished: self.unfinished.clone(),
            owner,
            limit,
            held,
            total_bytes,
            num_bytes: 0,
            files: Vec::new(),
            current: None,
            place: Place::Comes(room),
        };
        incoming.check_size(total_bytes.unwrap_or_default())?;
        self.unfinished.note(&incoming.id)?;
        Ok(incoming)
    }

    /// Everything has come: writes the manifest, then the row. From now on it exists.
    pub(crate) async fn keep(&self, incoming: &mut Incoming, display_name: String) -> Result<Upload, Error> {
        incoming.end_file().await?;
        let uri = match incoming.kind {
            Kind::Dataset => incoming.folder.join(&display_name).uri,
            _ => incoming.folder.uri.clone(),
        };
        let files = incoming.files.clone();
        let create_time = chrono::Utc::now();
        let Owner { project, max_bytes } = incoming.owner.clone();
        let upload = Upload { id: incoming.id.clone(), ordinal: 0, project, display_name, files, uri, create_time };
        // A model's folder holds the model's files alone: loaders look at what lies there.
        if incoming.kind == Kind::Dataset {
            let manifest = serde_json::to_vec_pretty(&upload).map_err(store::Error::from)?;
            incoming.folder.join(MANIFEST).put(manifest).await?;
        }
        let upload = self.store.create_upload(upload, max_bytes).await?;
        self.unfinished.forget(&upload.id);
        tracing::info!(id = upload.id, name = upload.display_name, size_bytes = upload.size_bytes(), "uploaded");
        Ok(upload)
    }

    /// One upload, if the caller may see it.
    pub(crate) async fn get(&self, id: &str, caller: &Caller) -> Result<Upload, store::Error> {
        visible_upload(&*self.store, id, caller).await
    }

    /// Uploads, newest first.
    pub(crate) async fn list(&self, query: UploadQuery) -> Result<Vec<Upload>, store::Error> {
        self.store.uploads(query).await
    }

    /// Removes an upload that no living job reads. Its row goes first: what is left of it then is only space, and that is
    /// tried to be freed.
    pub(crate) async fn delete(&self, id: &str, caller: &Caller) -> Result<(), store::Error> {
        self.get(id, caller).await?;
        let upload = self.store.delete_upload(id).await?;
        let folder = self.layout.upload(upload.kind(), id);
        let removed = async {
            folder.join(MANIFEST).delete().await?;
            folder.delete_prefix().await
        };
        match removed.await {
            Ok(_) => tracing::info!(id, "upload deleted"),
            Err(error) => tracing::warn!(id, %error, "an upload was deleted, its files remain"),
        }
        Ok(())
    }
}

/// One upload, if the caller may see it; one that he may not see does not exist for him.
pub(crate) async fn visible_upload(store: &dyn Store, id: &str, caller: &Caller) -> Result<Upload, store::Error> {
    let upload = store.upload(id).await?;
    match caller.sees(&upload.project) {
        true => Ok(upload),
        false => Err(store::Error::NotFound { kind: upload.kind(), id: upload.id }),
    }
}

/// Whose an upload will be, and how much its project may hold.
#[derive(Clone)]
struct Owner {
    project: String,
    max_bytes: Option<u64>,
}

/// An upload on its way.
pub(crate) struct Incoming {
    kind: Kind,
    id: String,
    folder: Location,
    unfinished: Unfinished,
    owner: Owner,
    limit: u64,
    /// Bytes that the project held when it began, where that matters.
    held: u64,
    /// Bytes it is to have, where that was announced.
    total_bytes: Option<u64>,
    num_bytes: u64,
    files: Vec<File>,
    current: Option<Current>,
    place: Place,
}

/// What an upload is counted among.
enum Place {
    /// Those that come at once.
    Comes(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit),
    /// Those that no stream brings.
    Waits(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit),
}

/// A file on its way.
struct Current {
    name: String,
    announced: String,
    parts: Parts,
    hash: Sha256,
    num_bytes: u64,
}

impl Incoming {
    /// A file begins, and the one before it ends. `sha256` is what its bytes must have; empty when that is not known.
    pub(crate) async fn begin_file(&mut self, name: &str, sha256: &str) -> Result<(), Error> {
        self.end_file().await?;
        if !is_plain_name(name) {
            return Err(Error::invalid(
                "name",
                format!("{name:?} is no file name of letters, digits, '.', '_' and '-'"),
            ));
        }
        if self.files.iter().any(|file| file.name == name) {
            return Err(Error::invalid("name", format!("{name} came twice")));
        }
        if self.files.len() == MAX_FILES {
            return Err(Error::invalid("file", format!("more than {MAX_FILES} files")));
        }
        if !sha256.is_empty() && (sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(Error::invalid("sha256", format!("{sha256:?} is no SHA-256: 64 hexadecimal digits")));
        }
        let parts = self.folder.join(name).put_in_parts(PARTS_AT_ONCE).await?;
        self.current = Some(Current {
            name: name.to_string(),
            announced: sha256.to_ascii_lowercase(),
            parts,
            hash: Sha256::new(),
            num_bytes: 0,
        });
        Ok(())
    }

    /// More of the file begun last.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.num_bytes += bytes.len() as u64;
        self.check_size(self.num_bytes)?;
        if let Some(total) = self.total_bytes.filter(|total| self.num_bytes > *total) {
            return Err(Error::invalid("chunk", format!("more came than the {total} bytes of header.total_bytes")));
        }
        let Some(current) = &mut self.current else { return Err(Error::invalid("chunk", "came before its file")) };
        current.hash.update(&bytes);
        current.num_bytes += bytes.len() as u64;
        Ok(current.parts.write(bytes).await?)
    }

    /// Whether it may have so many bytes.
    fn check_size(&self, num_bytes: u64) -> Result<(), Error> {
        if num_bytes > self.limit {
            let what = if self.kind == Kind::Model { "model" } else { "dataset" };
            return Err(Error::TooLarge { what, limit: self.limit });
        }
        // Looked at again when it is kept: others may come meanwhile.
        match self.owner.max_bytes {
            Some(max_bytes) if self.held + num_bytes > max_bytes => {
                Err(store::Error::TooManyBytes { project: self.owner.project.clone(), max_bytes }.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether all has come that was announced; where nothing was, the end of its stream says so.
    pub(crate) fn is_whole(&self) -> bool {
        self.total_bytes.is_none_or(|total| total == self.num_bytes)
    }

    /// Another stream goes on with it, which says the same of its size.
    fn goes_on(&mut self, total_bytes: Option<u64>, room: &Arc<Semaphore>) -> Result<(), Error> {
        if let (Some(before), Some(total)) = (self.total_bytes, total_bytes)
            && before != total
        {
            return Err(Error::invalid("header.total_bytes", format!("is {total}; another stream said {before}")));
        }
        if let Place::Waits(_) = self.place {
            self.place = Place::Comes(room.clone().try_acquire_owned().map_err(|_| Error::Busy)?);
        }
        self.total_bytes = self.total_bytes.or(total_bytes);
        Ok(())
    }

    /// No stream brings it for now. Says whether there is room for it to wait.
    fn waits(&mut self, parking: &Arc<Semaphore>) -> bool {
        if let Place::Comes(_) = self.place {
            let Ok(place) = parking.clone().try_acquire_owned() else { return false };
            self.place = Place::Waits(place);
        }
        true
    }

    /// Files that came, the last perhaps in part: name and bytes.
    pub(crate) fn received(&self) -> impl Iterator<Item = (&str, u64)> {
        let whole = self.files.iter().map(|file| (file.name.as_str(), file.size_bytes));
        whole.chain(self.current.iter().map(|file| (file.name.as_str(), file.num_bytes)))
    }

    /// Names of the files that came whole.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str())
    }

    /// The file begun last has come whole.
    pub(crate) async fn end_file(&mut self) -> Result<(), Error> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let Current { name, announced, parts, hash, num_bytes } = current;
        let found = hex::encode(hash.finalize());
        if !announced.is_empty() && announced != found {
            parts.abort().await;
            return Err(Error::Digest { name, expected: announced, found });
        }
        if num_bytes == 0 {
            parts.abort().await;
            return Err(Error::invalid("file", format!("{name} is empty")));
        }
        parts.finish().await?;
        self.files.push(File { name, size_bytes: num_bytes, sha256: found });
        Ok(())
    }

    /// Removes all that was written.
    pub(crate) async fn discard(mut self) {
        if let Some(current) = self.current.take() {
            current.parts.abort().await;
        }
        match self.folder.delete_prefix().await {
            Ok(_) => self.unfinished.forget(&self.id),
            Err(error) => {
                tracing::warn!(id = self.id, %error, "an upload failed, and its files remain until the next start")
            }
        }
    }
}

#[cfg(test)]
mod tests;
