//! Where a run's files are on this machine: the URI of a model or adapter in, a local path out, fetched once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use hone_data::cache::{Cache, Cached, Partial};
use hone_data::storage::{self, Entry, Location, Step, Storage, StorageOptions};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

use crate::error::Error;

/// Files that are fetched at once.
const FILES_AT_ONCE: usize = 4;

/// Ends of the names that a model, tokenizer, adapter or checkpoint is made of. Folders of models often hold the same
/// weights again in other formats, many gigabytes of them.
const WANTED: [&str; 6] = [".json", ".safetensors", ".gguf", ".jinja", ".txt", "tokenizer.model"];

/// Local copies of objects, by what they hold.
#[derive(Debug, Clone)]
pub struct Workspace {
    cache: Cache,
    /// Copies in use. Weights may be mapped into memory as long as the process lives.
    used: Arc<Mutex<Vec<Cached>>>,
    storage: StorageOptions,
    runtime: Handle,
}

impl Workspace {
    /// A workspace whose copies lie in `cache`; storage is reached as the environment says, by tasks on `runtime`.
    pub fn new(cache: Cache, runtime: Handle) -> Workspace {
        Workspace { cache, used: Arc::default(), storage: StorageOptions::from_env(), runtime }
    }

    /// The runtime, for waiting on other storage work from the computing thread.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// How storage is reached.
    pub fn storage(&self) -> &StorageOptions {
        &self.storage
    }

    /// A folder for files that are gone when it is dropped.
    pub fn scratch(&self) -> Result<Partial, Error> {
        Ok(self.cache.begin(0)?)
    }

    /// The place of a URI.
    pub fn open(&self, uri: &str) -> Result<Location, Error> {
        Ok(Storage::open(uri, &self.storage)?)
    }

    /// The places of several.
    pub fn open_all(&self, uris: &[String]) -> Result<Vec<Location>, Error> {
        uris.iter().map(|uri| self.open(uri)).collect()
    }

    /// A local path with what lies at the URI: itself for `file://`, else a copy, whole or absent, made at most once for
    /// equal content. A folder stays a folder (files directly in it that a model or adapter is made of); a single object
    /// becomes a file of the same name. `progress` is told the bytes fetched so far, and in all.
    ///
    /// Waits; not to be called on the runtime's own threads.
    pub fn local(&self, uri: &str, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<PathBuf, Error> {
        let place = self.open(uri)?;
        match place.local_path() {
            Some(path) if path.exists() => Ok(path.to_path_buf()),
            Some(_) => Err(storage::Error::NotFound { uri: uri.to_string(), step: Step::Get }.into()),
            None => self.runtime.block_on(self.fetch(&place, progress)),
        }
    }

    async fn fetch(&self, place: &Location, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<PathBuf, Error> {
        let mut entries = wanted(place.list().await?);
        let is_folder = !entries.is_empty();
        if !is_folder {
            let object = place.entry().await?;
            entries.push(object.ok_or_else(|| storage::Error::NotFound { uri: place.uri.clone(), step: Step::Get })?);
        }
        let name = key(&place.uri, &entries);
        let copy = match self.cache.get(&name)? {
            Some(copy) => copy,
            None => self.fetch_all(place, &entries, &name, progress).await?,
        };
        let folder = copy.path().to_path_buf();
        self.used.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        Ok(if is_folder { folder } else { folder.join(&entries[0].name) })
    }

    async fn fetch_all(
        &self,
        place: &Location,
        entries: &[Entry],
        name: &str,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Cached, Error> {
        let total = entries.iter().map(|entry| entry.num_bytes).sum();
        let partial = self.cache.begin(total)?;
        tracing::info!(uri = place.uri, files = entries.len(), bytes = total, "fetching");
        let fetched = AtomicU64::new(0);
        let progress = |bytes: u64| progress(fetched.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        stream::iter(entries)
            .map(|entry| fetch_file(entry, partial.path().join(&entry.name), &progress))
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(partial.finish(name)?)
    }
}

/// The files directly in a folder that a model or adapter is made of.
fn wanted(entries: Vec<Entry>) -> Vec<Entry> {
    let is_wanted = |name: &str| !name.contains('/') && WANTED.iter().any(|end| name.ends_with(end));
    entries.into_iter().filter(|entry| is_wanted(&entry.name)).collect()
}

/// Name of the copy: what is at the URI, told by names, sizes and the store's marks, decides it.
fn key(uri: &str, entries: &[Entry]) -> String {
    let mut hash = Sha256::new().chain_update(uri);
    for entry in entries {
        let mark = entry.e_tag.as_deref().unwrap_or_default();
        hash.update(format!("\n{}\t{}\t{mark}", entry.name, entry.num_bytes));
    }
    hex::encode(hash.finalize())
}

async fn fetch_file(entry: &Entry, path: PathBuf, progress: &(dyn Fn(u64) + Sync)) -> Result<(), Error> {
    let uri = &entry.location.uri;
    let failed = |source| Error::Io { path: path.clone(), source };
    let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
    let mut pieces = entry.location.get_stream().await?;
    let mut num_bytes = 0;
    while let Some(piece) = pieces.try_next().await? {
        file.write_all(&piece).await.map_err(failed)?;
        num_bytes += piece.len() as u64;
        progress(piece.len() as u64);
    }
    file.sync_all().await.map_err(failed)?;
    match num_bytes == entry.num_bytes {
        true => Ok(()),
        false => Err(Error::Input {
            place: uri.clone(),
            what: format!("{num_bytes} bytes came where the store lists {}", entry.num_bytes),
        }),
    }
}

#[cfg(test)]
mod tests;
