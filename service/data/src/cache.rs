//! Copies of objects on this machine, whole or absent, of a bounded size: the one that was used longest ago goes first, and
//! none that is in use.
//!
//! Several processes share the folder, and each of them may be killed. Whoever uses a copy, or makes one, holds a lock on its
//! folder, which ends with the process; whoever removes one takes the lock for himself first.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

/// Beginning of the names of folders that are no copies, or not yet. One that nobody has locked was left by a process that
/// was killed.
const PARTIAL: &str = ".partial-";

/// What the system said about a place in a cache.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct Error {
    /// The place.
    pub path: PathBuf,
    /// What it said.
    pub source: io::Error,
}

/// A folder of copies.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    max_bytes: Option<u64>,
}

/// A copy in use: it stays while this lives.
#[derive(Debug)]
pub struct Cached {
    path: PathBuf,
    _lock: File,
}

/// A copy that is being made, or files for a while; removed unless it is finished.
#[derive(Debug)]
pub struct Partial {
    cache: Cache,
    folder: TempDir,
    lock: File,
}

impl Cache {
    /// A cache in `folder`, made when it is needed, whose copies come to at most `max_bytes`; what is in use may be more.
    pub fn new(folder: PathBuf, max_bytes: Option<u64>) -> Self {
        Self { folder, max_bytes }
    }

    /// The copy of this name, if there is one.
    pub fn get(&self, name: &str) -> Result<Option<Cached>, Error> {
        let path = self.folder.join(name);
        let found = self.lock(&path).and_then(|lock| {
            // Its place among the others: the last one used.
            lock.as_ref().map(|lock| lock.set_modified(SystemTime::now())).transpose()?;
            Ok(lock)
        });
        match found {
            Ok(lock) => Ok(lock.map(|_lock| Cached { path, _lock })),
            Err(source) => Err(Error { path, source }),
        }
    }

    /// An empty folder for a copy of `num_bytes`, for which room is made.
    pub fn begin(&self, num_bytes: u64) -> Result<Partial, Error> {
        let failed = |source| Error { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        self.make_room(num_bytes).map_err(failed)?;
        loop {
            let folder = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(&self.folder).map_err(failed)?;
            // Another process may have taken it for one that was left.
            if let Some(lock) = self.lock(folder.path()).map_err(failed)? {
                return Ok(Partial { cache: self.clone(), folder, lock });
            }
        }
    }

    /// Shares a folder with others who use it, unless it is gone by then.
    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.lock_shared()?;
        Ok(is_at(&file, path)?.then_some(file))
    }

    /// Removes what was left, and copies until `num_bytes` more fit in.
    fn make_room(&self, num_bytes: u64) -> io::Result<()> {
        let mut copies = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let is_partial = entry.file_name().to_str().is_some_and(|name| name.starts_with(PARTIAL));
            // What goes meanwhile is gone.
            let Ok(found) = entry.metadata() else { continue };
            match found.is_dir() {
                true if is_partial => drop(self.remove(&entry.path())?),
                true => copies.push((found.modified()?, num_bytes_in(&entry.path()), entry.path())),
                false => {}
            }
        }
        let Some(max_bytes) = self.max_bytes else { return Ok(()) };
        copies.sort();
        let mut total = copies.iter().map(|(_, num_bytes, _)| num_bytes).sum::<u64>();
        for (_, copy_bytes, path) in copies {
            if total.saturating_add(num_bytes) <= max_bytes {
                break;
            }
            if self.remove(&path)? {
                tracing::info!(copy = %path.display(), bytes = copy_bytes, "removed from the cache to make room");
                total -= copy_bytes;
            }
        }
        Ok(())
    }

    /// Removes a folder unless somebody uses it. It loses its name first, so that no half of it is ever taken for a copy.
    fn remove(&self, path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, path)? => {}
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // No other folder has this number, so that the name is free.
        let doomed = self.folder.join(format!("{PARTIAL}{}", file.metadata()?.ino()));
        std::fs::rename(path, &doomed)?;
        std::fs::remove_dir_all(&doomed)?;
        Ok(true)
    }
}

impl Cached {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Partial {
    /// Where the files go.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the copy its name, in one step: what has a name is whole. Where another process was quicker, its copy counts.
    pub fn finish(self, name: &str) -> Result<Cached, Error> {
        let path = self.cache.folder.join(name);
        loop {
            match std::fs::rename(self.folder.path(), &path) {
                Ok(()) => return Ok(Cached { path, _lock: self.lock }),
                // It may be removed again before it is got.
                Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                    if let Some(copy) = self.cache.get(name)? {
                        return Ok(copy);
                    }
                }
                Err(source) => return Err(Error { path, source }),
            }
        }
    }
}

/// Whether an open file is still the one at a path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(found) => Ok((open.dev(), open.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bytes of the files in a folder. What goes meanwhile counts nothing.
fn num_bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let num_bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => num_bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    num_bytes.sum()
}

#[cfg(test)]
mod tests;
