//! Reads rows: an object of JSONL or Parquet in, plain, .gz or .zst; [`Row`]s with object and number out.
//!
//! Memory is bounded whatever the file says: JSONL streams with a longest line, compressed data has a largest size. A row
//! that cannot be read is reported with what was expected, and reading goes on behind it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use hone_job::event::RowNote;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::storage::{self, Location};

mod jsonl;
mod parquet;

/// Longest line of JSONL, in bytes.
pub const MAX_LINE_BYTES: usize = 16 << 20;
/// Most bytes that a compressed object may unfold to.
pub const MAX_UNPACKED_BYTES: u64 = 64 << 30;

/// A row as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// URI of the object it is in.
    pub object: Arc<str>,
    /// Number in the object, from 1: the line of JSONL, the row of Parquet.
    pub number: u64,
    /// The row; always a JSON object.
    pub value: Value,
}

impl Row {
    /// A remark about this row.
    pub fn note(&self, note: impl Into<String>) -> RowNote {
        RowNote { object: self.object.to_string(), row: self.number, note: note.into() }
    }
}

/// Why an object cannot be read as rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A source names neither an object nor a folder with rows.
    #[error("{uri}: there are no rows here: {found}; expected .jsonl or .parquet files, plain, .gz or .zst")]
    NoObjects {
        /// The source.
        uri: String,
        /// What was there instead.
        found: String,
    },
    /// Reading broke off.
    #[error("{object}: reading failed after row {row}: {source}")]
    Read {
        /// The object.
        object: String,
        /// The last row that was read; 0 when there was none.
        row: u64,
        /// The cause.
        source: io::Error,
    },
    /// The object is no readable Parquet file.
    #[error("{object}: not a readable Parquet file (after row {row}): {what}")]
    Parquet {
        /// The object.
        object: String,
        /// The last row that was read.
        row: u64,
        /// What is wrong.
        what: String,
    },
}

/// What reading gives: a row, or a remark about one that is malformed.
pub type RowResult = Result<Row, RowNote>;

/// The objects that a source names: itself, or the data files of a folder, sorted by name.
pub async fn objects(source: &Location) -> Result<Vec<Location>, Error> {
    if source.exists().await? {
        return Ok(vec![source.clone()]);
    }
    let entries = source.list().await?;
    let rows: Vec<Location> =
        entries.iter().filter(|entry| holds_rows(&entry.name)).map(|entry| entry.location.clone()).collect();
    if rows.is_empty() {
        let names: Vec<&str> = entries.iter().take(5).map(|entry| entry.name.as_str()).collect();
        let found = match entries.len() {
            0 => "no object has this name, and none lies below it".to_string(),
            count => format!("{count} objects such as {}", names.join(", ")),
        };
        return Err(Error::NoObjects { uri: source.uri.clone(), found });
    }
    Ok(rows)
}

/// Whether a file of a folder is data by its name. An uploaded dataset keeps its rows in a file named `data`.
fn holds_rows(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let plain = file.strip_suffix(".gz").or(file.strip_suffix(".zst")).unwrap_or(&file);
    plain == "data" || [".jsonl", ".ndjson", ".parquet"].iter().any(|end| plain.ends_with(end))
}

/// Reads an object. Blocks, so it belongs on a thread for that; `runtime` carries the transfers of remote objects.
pub fn read(
    object: &Location,
    runtime: &Handle,
) -> Result<Box<dyn Iterator<Item = Result<RowResult, Error>> + Send>, Error> {
    let name: Arc<str> = object.uri.as_str().into();
    let failed = |source: io::Error| Error::Read { object: object.uri.clone(), row: 0, source };
    let (start, raw) = peek(open(object, runtime)?).map_err(failed)?;
    let packing = Packing::of(&start);
    let plain: Box<dyn BufRead + Send> = match packing {
        Packing::None => raw,
        Packing::Gzip => unpacked(flate2::bufread::MultiGzDecoder::new(raw)),
        Packing::Zstd => unpacked(zstd::Decoder::with_buffer(raw).map_err(failed)?),
    };
    let (start, mut plain) = peek(plain).map_err(failed)?;
    if start != *b"PAR1" {
        return Ok(Box::new(jsonl::Lines::new(plain, name)));
    }
    // Parquet is read from its end, so it must be a file here.
    let file = match (object.local_path(), packing) {
        (Some(path), Packing::None) => File::open(path).map_err(failed)?,
        _ => {
            let mut file = tempfile::tempfile().map_err(failed)?;
            io::copy(&mut plain, &mut file).map_err(failed)?;
            file
        }
    };
    Ok(Box::new(parquet::Rows::open(file, name)?))
}

/// How an object is compressed, by its first bytes; names lie more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    fn of(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// The first four bytes, or as many as there are, and the reader as if they had not been read.
fn peek(mut reader: Box<dyn BufRead + Send>) -> io::Result<(Vec<u8>, Box<dyn BufRead + Send>)> {
    let mut start = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut start)?;
    Ok((start.clone(), Box::new(Read::chain(io::Cursor::new(start), reader))))
}

fn unpacked(reader: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(1 << 16, Capped { reader, left: MAX_UNPACKED_BYTES }))
}

fn open(object: &Location, runtime: &Handle) -> Result<Box<dyn BufRead + Send>, Error> {
    if let Some(path) = object.local_path() {
        let file = File::open(path).map_err(|source| Error::Read { object: object.uri.clone(), row: 0, source })?;
        return Ok(Box::new(BufReader::with_capacity(1 << 16, file)));
    }
    let stream = runtime.block_on(object.get_stream())?;
    Ok(Box::new(BufReader::new(Remote { stream, runtime: runtime.clone(), piece: Bytes::new() })))
}

/// A transfer as a blocking reader.
struct Remote {
    stream: BoxStream<'static, storage::Result<Bytes>>,
    runtime: Handle,
    piece: Bytes,
}

impl Read for Remote {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.try_next()).map_err(io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

/// Stops a small file that unfolds without end.
struct Capped<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(len as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("it unfolds to more than {MAX_UNPACKED_BYTES} bytes"))
        })?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
