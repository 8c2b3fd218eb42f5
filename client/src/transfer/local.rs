//! Local files that are about to be sent: which of them make a model, and their bytes, read once, in order, and hashed on the
//! way.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::{CHUNK_BYTES, Tally, is_plain_name};
use crate::error::{Error, Result};

/// Endings of the files that make a model folder; others, such as weights in another format, stay at home.
const MODEL_ENDINGS: [&str; 6] = ["safetensors", "json", "jinja", "model", "txt", "tiktoken"];

/// A file.
#[derive(Debug)]
pub(super) struct LocalFile {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) size_bytes: u64,
}

impl LocalFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(|error| Error::file("read", path, error))?;
        if !found.is_file() {
            return Err(Error::input(path, "not a file"));
        }
        if found.len() == 0 {
            return Err(Error::input(path, "the file is empty"));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !is_plain_name(name) {
            return Err(Error::input(path, "a file name of letters, digits, '.', '_' and '-' is needed; rename it"));
        }
        Ok(Self { path: path.to_owned(), name: name.to_owned(), size_bytes: found.len() })
    }
}

/// The files of a model, by name: the one GGUF file, or what a model folder needs.
pub(super) fn model_files(path: &Path) -> Result<Vec<LocalFile>> {
    if !path.is_dir() {
        let file = LocalFile::open(path)?;
        return match file.name.ends_with(".gguf") {
            true => Ok(vec![file]),
            false => Err(Error::input(path, "a model is a folder with config.json, or a .gguf file")),
        };
    }
    let unreadable = |error| Error::file("read", path, error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let found = entry.map_err(unreadable)?.path();
        let ending = found.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let hidden = found.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if MODEL_ENDINGS.contains(&ending) && !hidden && found.is_file() {
            files.push(LocalFile::open(&found)?);
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    for (needed, there) in [
        ("config.json", files.iter().any(|file| file.name == "config.json")),
        ("any .safetensors file", files.iter().any(|file| file.name.ends_with(".safetensors"))),
    ] {
        if !there {
            return Err(Error::input(path, format!("no model: the folder lacks {needed}")));
        }
    }
    Ok(files)
}

/// Files, one after the other.
pub(super) struct Reader<'a> {
    files: &'a [LocalFile],
    opened: Option<tokio::fs::File>,
    tally: Tally,
    /// Size and SHA-256 of those that have been read.
    read: Vec<(u64, String)>,
    num_bytes: u64,
}

/// Some bytes of one file.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Number of the file.
    pub(super) file: usize,
    /// Whether they are its first.
    pub(super) begins: bool,
    pub(super) bytes: Bytes,
}

impl<'a> Reader<'a> {
    pub(super) fn of(files: &'a [LocalFile]) -> Self {
        Self { files, opened: None, tally: Tally::default(), read: Vec::new(), num_bytes: 0 }
    }

    /// Bytes read so far.
    pub(super) fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// Size and SHA-256 of each file that has been read to its end.
    pub(super) fn digests(self) -> Vec<(u64, String)> {
        self.read
    }

    /// Reads what need not be sent, since digests are of all.
    pub(super) async fn skip(&mut self, num_bytes: u64) -> Result<()> {
        while self.num_bytes < num_bytes {
            if self.next(num_bytes - self.num_bytes).await?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// The next bytes, of one file, at most `most` or a chunk; none after the last file.
    pub(super) async fn next(&mut self, most: u64) -> Result<Option<Chunk>> {
        let most = most.min(CHUNK_BYTES as u64) as usize;
        while let Some(file) = self.files.get(self.read.len()) {
            let number = self.read.len();
            let unreadable = |error| Error::file("read", &file.path, error);
            let begins = self.opened.is_none();
            let opened = match &mut self.opened {
                Some(opened) => opened,
                None => self.opened.insert(tokio::fs::File::open(&file.path).await.map_err(unreadable)?),
            };
            let bytes = next_chunk(opened, most).await.map_err(unreadable)?;
            self.tally.add(&bytes);
            self.num_bytes += bytes.len() as u64;
            let changed = || Error::input(&file.path, "its size changed while it was sent; try again");
            if self.tally.size_bytes > file.size_bytes {
                return Err(changed());
            }
            if !bytes.is_empty() {
                return Ok(Some(Chunk { file: number, begins, bytes }));
            }
            if self.tally.size_bytes < file.size_bytes {
                return Err(changed());
            }
            self.opened = None;
            self.read.push(std::mem::take(&mut self.tally).finish());
        }
        Ok(None)
    }
}

/// Up to `most` bytes, fewer only at the end of the file.
async fn next_chunk(reader: &mut tokio::fs::File, most: usize) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(most);
    while chunk.len() < most {
        let room = (most - chunk.len()) as u64;
        if reader.take(room).read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok(chunk.freeze())
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
