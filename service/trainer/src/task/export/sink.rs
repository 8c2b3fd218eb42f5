//! Where exported files go: a checkpoint of a job, or a folder of this machine.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::checkpoint::Writing;
use crate::error::Error;

/// Takes files one after the other.
pub trait Sink {
    /// Whether the next file, of this name, is wanted still.
    fn wants(&mut self, name: &str) -> bool;
    /// Takes a file.
    fn put(&mut self, name: &str, bytes: Bytes) -> Result<(), Error>;
    /// Takes a file that lies in a folder below [`Sink::scratch`]; it may be gone afterwards.
    fn put_file(&mut self, name: &str, path: &Path) -> Result<(), Error>;
    /// A folder of this machine with room for files on their way.
    fn scratch(&self) -> &Path;
}

/// Files of a checkpoint.
pub(super) struct CheckpointSink<'a> {
    pub(super) runtime: &'a Handle,
    pub(super) writing: Writing,
    pub(super) scratch: &'a Path,
    pub(super) on_file: &'a dyn Fn(&str),
    pub(super) is_cancelled: &'a dyn Fn() -> bool,
}

impl Sink for CheckpointSink<'_> {
    fn wants(&mut self, name: &str) -> bool {
        (self.on_file)(name);
        !(self.is_cancelled)()
    }

    fn put(&mut self, name: &str, bytes: Bytes) -> Result<(), Error> {
        Ok(self.runtime.block_on(self.writing.put(name, bytes))?)
    }

    fn put_file(&mut self, name: &str, path: &Path) -> Result<(), Error> {
        Ok(self.runtime.block_on(self.writing.put_file(name, path))?)
    }

    fn scratch(&self) -> &Path {
        self.scratch
    }
}

/// Files of a folder that exists.
pub struct FolderSink(pub PathBuf);

impl FolderSink {
    fn failed(&self, name: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = self.0.join(name);
        move |source| Error::Io { path, source }
    }
}

impl Sink for FolderSink {
    fn wants(&mut self, _name: &str) -> bool {
        true
    }

    fn put(&mut self, name: &str, bytes: Bytes) -> Result<(), Error> {
        std::fs::write(self.0.join(name), bytes).map_err(self.failed(name))
    }

    fn put_file(&mut self, name: &str, path: &Path) -> Result<(), Error> {
        std::fs::rename(path, self.0.join(name)).map_err(self.failed(name))
    }

    fn scratch(&self) -> &Path {
        &self.0
    }
}
