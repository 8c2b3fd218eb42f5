//! A checkpoint while it is incomplete: a folder beside its place, in which every file has its full size and a list of how far
//! each of its parts is, so that another download of the same checkpoint goes on from there.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hone_proto::v1 as pb;

use super::stored::tally_of;
use super::{Tally, is_plain_name};
use crate::error::{Error, Result};

/// Bytes of a part: what one stream fetches, and what is fetched beside others.
const PART_BYTES: u64 = 32 << 20;

/// Most bytes of a checkpoint, 64 TiB: room is taken for what the server says, before any of it has come.
const MAX_BYTES: u64 = 64 << 40;

/// Ending of a file's list of parts. No file of a checkpoint begins with a dot.
const PARTS: &str = ".parts";
/// Held by the process that writes into the folder.
const LOCK: &str = ".lock";

/// The folder.
pub(super) struct PartialFolder {
    pub(super) path: PathBuf,
    _lock: File,
}

/// A stretch of a file, and how much of it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u64,
    /// First byte.
    pub(super) start: u64,
    /// The byte after its last one.
    pub(super) end: u64,
    /// Bytes from its start that are here.
    pub(super) done: u64,
}

impl PartialFolder {
    /// The folder of a checkpoint's download to `target`; what an earlier one left of the same files is still in it.
    pub(super) fn beside(target: &Path, object: &str, files: &[pb::CheckpointFile]) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::input(target, "not the name of a folder"))?;
        let parent = target.parent().unwrap_or(Path::new(""));
        let mut which = Tally::default();
        which.add(object.as_bytes());
        for file in files {
            which.add(format!("\n{} {} {}", file.name, file.size_bytes, file.sha256).as_bytes());
        }
        let digest = which.finish().1;
        let path = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), &digest[..16]));
        std::fs::create_dir_all(&path).map_err(|error| Error::file("create", &path, error))?;
        let lock_file = path.join(LOCK);
        let lock = File::create(&lock_file).map_err(|error| Error::file("create", &lock_file, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::input(target, "another download of this checkpoint into this folder is under way"))
            }
            Err(TryLockError::Error(error)) => Err(Error::file("lock", &lock_file, error)),
        }
    }

    /// The parts of a file and how far they are. The file has its full size from now on.
    pub(super) fn parts(&self, file: &pb::CheckpointFile) -> Result<Vec<Part>> {
        let path = self.path.join(&file.name);
        let failed = |error| Error::file("write", &path, error);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let list = self.list(file);
        let same_size = opened.metadata().map_err(failed)?.len() == file.size_bytes;
        let mut done = match std::fs::read(&list) {
            // Without its full size it is not what the list speaks of.
            Ok(done) if same_size => done,
            _ => Vec::new(),
        };
        done.resize(8 * file.size_bytes.div_ceil(PART_BYTES) as usize, 0);
        std::fs::write(&list, &done).map_err(|error| Error::file("write", &list, error))?;
        opened.set_len(file.size_bytes).map_err(failed)?;
        let numbers = done.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).zip(0..);
        let part = |(done, number): (u64, u64)| {
            let start = number * PART_BYTES;
            let end = file.size_bytes.min(start + PART_BYTES);
            Part { number, start, end, done: done.min(end - start) }
        };
        Ok(numbers.map(part).collect())
    }

    fn list(&self, file: &pb::CheckpointFile) -> PathBuf {
        self.path.join(format!(".{}{PARTS}", file.name))
    }

    /// Where a part is written.
    pub(super) fn writer(&self, file: &pb::CheckpointFile, part: Part) -> Result<PartWriter> {
        let open = |path: PathBuf| {
            let opened = OpenOptions::new().write(true).open(&path);
            opened.map_err(|error| Error::file("write", &path, error)).map(|file| (path, file))
        };
        let ((path, file), (_, list)) = (open(self.path.join(&file.name))?, open(self.list(file))?);
        Ok(PartWriter { path, file, list, part })
    }

    /// Whether a file is what the manifest says. One that is not is removed, so that it is fetched again.
    pub(super) async fn verify(&self, object: &str, file: &pb::CheckpointFile) -> Result<()> {
        let path = self.path.join(&file.name);
        let (size_bytes, sha256) = tally_of(&path).await?;
        if size_bytes == file.size_bytes && sha256.eq_ignore_ascii_case(&file.sha256) {
            let synced = File::open(&path).and_then(|file| file.sync_all());
            return synced.map_err(|error| Error::file("write", &path, error));
        }
        for damaged in [path.clone(), self.list(file)] {
            std::fs::remove_file(&damaged).map_err(|error| Error::file("remove", &damaged, error))?;
        }
        let pb::CheckpointFile { name, size_bytes: due_bytes, sha256: due } = file;
        let detail = format!("{name}: {due_bytes} bytes with SHA-256 {due} were due, {size_bytes} with {sha256} came");
        Err(Error::damaged(object, detail))
    }

    /// A file that came in one piece.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let written = File::create(&path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(|error| Error::file("write", &path, error))
    }

    /// Everything is here: the folder takes its name.
    pub(super) fn keep_as(self, target: &Path, files: &[pb::CheckpointFile]) -> Result<()> {
        let leftovers = files.iter().map(|file| self.list(file)).chain([self.path.join(LOCK)]);
        for path in leftovers {
            std::fs::remove_file(&path).map_err(|error| Error::file("remove", &path, error))?;
        }
        std::fs::rename(&self.path, target).map_err(|error| Error::file("rename the download to", target, error))
    }
}

/// A part on its way.
pub(super) struct PartWriter {
    path: PathBuf,
    file: File,
    list: File,
    pub(super) part: Part,
}

impl PartWriter {
    /// Where in the file the next byte goes.
    pub(super) fn place(&self) -> u64 {
        self.part.start + self.part.done
    }

    pub(super) fn is_whole(&self) -> bool {
        self.place() == self.part.end
    }

    /// Takes data that begins at a byte of the file, and gives how much of it was new. What is here already, and what belongs to
    /// another part, is left: a server that knows no parts sends files whole.
    pub(super) fn take(&mut self, offset: u64, data: &[u8]) -> Result<u64, Misplaced> {
        let place = self.place();
        if offset > place {
            return Err(Misplaced::Hole { due: place, found: offset });
        }
        let known = ((place - offset) as usize).min(data.len());
        let room = (self.part.end - place) as usize;
        let new = &data[known..];
        let new = &new[..new.len().min(room)];
        let written = self.file.seek(SeekFrom::Start(place)).and_then(|_| self.file.write_all(new));
        // First the bytes, then the word that they are here.
        let told = written.and_then(|()| {
            self.part.done += new.len() as u64;
            self.list.seek(SeekFrom::Start(8 * self.part.number))?;
            self.list.write_all(&self.part.done.to_le_bytes())
        });
        told.map_err(|error| Misplaced::File(Error::file("write", &self.path, error)))?;
        Ok(new.len() as u64)
    }
}

/// Why data could not be taken.
#[derive(Debug)]
pub(super) enum Misplaced {
    /// Bytes before it are missing.
    Hole { due: u64, found: u64 },
    /// The file could not be written.
    File(Error),
}

/// The names of a checkpoint's files must stay in its folder, and their sizes be such as files have.
pub(super) fn refuse_unsafe(object: &str, files: &[pb::CheckpointFile]) -> Result<()> {
    if let Some(file) = files.iter().find(|file| !is_plain_name(&file.name)) {
        let detail = format!("refusing the file name {:?}: it could leave the folder", file.name);
        return Err(Error::damaged(object, detail));
    }
    let total_bytes = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size_bytes));
    if total_bytes.is_none_or(|bytes| bytes > MAX_BYTES) {
        let detail = format!("refusing its size: the server says that it has more than {MAX_BYTES} bytes");
        return Err(Error::damaged(object, detail));
    }
    Ok(())
}

#[cfg(test)]
#[path = "partial_tests.rs"]
mod tests;
