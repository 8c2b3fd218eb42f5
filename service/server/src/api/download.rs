//! The files of a checkpoint as a stream of chunks, checked against the manifest on the way: more than was announced is
//! never sent, and a file that differs ends the stream with its name.

use std::pin::Pin;

use async_stream::try_stream;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use hone_job::checkpoint::{File, MANIFEST};
use hone_proto::v1 as pb;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::CHUNK_BYTES;
use super::status::Problem;
use crate::checkpoints::{Checkpoint, Error};

pub(super) type Chunks = Pin<Box<dyn Stream<Item = Result<pb::DownloadCheckpointResponse, Status>> + Send>>;

/// What is wanted of a checkpoint.
pub(super) struct Stretch {
    /// Only this file; empty for all.
    pub(super) file_name: String,
    /// From this byte of it.
    pub(super) offset: u64,
    /// So many bytes; 0 for all that are left.
    pub(super) length: u64,
}

/// Every file, the manifest last; or the only one that is wanted, perhaps in part.
pub(super) fn chunks(checkpoint: Checkpoint, wanted: Stretch) -> Result<Chunks, Problem> {
    if wanted.offset > 0 || wanted.length > 0 {
        return stretch(checkpoint, wanted);
    }
    let only = wanted.file_name.as_str();
    let is_wanted = |name: &str| only.is_empty() || only == name;
    let files: Vec<File> = checkpoint.manifest.files.iter().filter(|file| is_wanted(&file.name)).cloned().collect();
    let with_manifest = is_wanted(MANIFEST);
    if files.is_empty() && !with_manifest {
        return Err(Problem::not_found("file", only).about("checkpoint_id", checkpoint.checkpoint_id));
    }
    Ok(Box::pin(try_stream! {
        for file in &files {
            let announced =
                pb::CheckpointFile { name: file.name.clone(), size_bytes: file.size_bytes, sha256: file.sha256.clone() };
            let damaged = |detail: String| Status::from(Problem::from(checkpoint.damaged(&file.name, detail)));
            let object = checkpoint.folder.join(&file.name);
            let lost = |error: hone_data::storage::Error| match error.is_not_found() {
                true => damaged("it is missing".into()),
                false => Problem::from(Error::Storage(error)).into(),
            };
            let mut pieces = object.get_stream().await.map_err(lost)?;
            let mut first = Some(announced);
            let mut hash = Sha256::new();
            let mut offset = 0;
            while let Some(mut piece) = pieces.try_next().await.map_err(lost)? {
                if offset + piece.len() as u64 > file.size_bytes {
                    Err(damaged(format!("it is longer than {} bytes", file.size_bytes)))?;
                }
                while !piece.is_empty() {
                    let data = piece.split_to(piece.len().min(CHUNK_BYTES));
                    hash.update(&data);
                    let length = data.len() as u64;
                    yield pb::DownloadCheckpointResponse { file: first.take(), offset, data };
                    offset += length;
                }
            }
            if offset != file.size_bytes {
                Err(damaged(format!("it has {offset} bytes, {} were written", file.size_bytes)))?;
            }
            let found = hex::encode(hash.finalize());
            if found != file.sha256 {
                Err(damaged(format!("its SHA-256 is {found}, {} was written", file.sha256)))?;
            }
            if first.is_some() {
                yield pb::DownloadCheckpointResponse { file: first, offset: 0, data: Bytes::new() };
            }
        }
        if !with_manifest {
            return;
        }
        let bytes = checkpoint.manifest_bytes;
        let announced = pb::CheckpointFile {
            name: MANIFEST.into(),
            size_bytes: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(&bytes)),
        };
        let mut first = Some(announced);
        let mut offset = 0;
        while first.is_some() || (offset as usize) < bytes.len() {
            let data = bytes.slice(offset as usize..bytes.len().min(offset as usize + CHUNK_BYTES));
            let length = data.len() as u64;
            yield pb::DownloadCheckpointResponse { file: first.take(), offset, data };
            offset += length;
        }
    }))
}

/// Part of one file. It is not compared with the manifest, which tells of whole files; who puts the parts together does that.
fn stretch(checkpoint: Checkpoint, wanted: Stretch) -> Result<Chunks, Problem> {
    let Stretch { file_name, offset, length } = wanted;
    if file_name.is_empty() {
        return Err(Problem::field("file_name", "is required with offset or length"));
    }
    let manifest = File {
        name: MANIFEST.into(),
        size_bytes: checkpoint.manifest_bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(&checkpoint.manifest_bytes)),
    };
    let listed = checkpoint.manifest.files.iter().chain([&manifest]).find(|file| file.name == file_name).cloned();
    let Some(file) = listed else {
        return Err(Problem::not_found("file", &file_name).about("checkpoint_id", checkpoint.checkpoint_id));
    };
    if offset > file.size_bytes {
        let what = format!("is {offset}; {file_name} has {} bytes", file.size_bytes);
        return Err(Problem::field("offset", what));
    }
    let left = file.size_bytes - offset;
    let end = offset + if length == 0 { left } else { length.min(left) };
    Ok(Box::pin(try_stream! {
        let announced = pb::CheckpointFile { name: file.name, size_bytes: file.size_bytes, sha256: file.sha256 };
        let mut first = Some(announced);
        let mut offset = offset;
        if file_name == MANIFEST {
            let data = checkpoint.manifest_bytes.slice(offset as usize..end as usize);
            yield pb::DownloadCheckpointResponse { file: first.take(), offset, data };
            return;
        }
        let damaged = |detail: String| Status::from(Problem::from(checkpoint.damaged(&file_name, detail)));
        let lost = |error: hone_data::storage::Error| match error.is_not_found() {
            true => damaged("it is missing".into()),
            false => Problem::from(Error::Storage(error)).into(),
        };
        if offset < end {
            let object = checkpoint.folder.join(&file_name);
            let mut pieces = object.get_stream_of(offset..end).await.map_err(lost)?;
            while let Some(mut piece) = pieces.try_next().await.map_err(lost)? {
                while !piece.is_empty() {
                    let data = piece.split_to(piece.len().min(CHUNK_BYTES));
                    let length = data.len() as u64;
                    yield pb::DownloadCheckpointResponse { file: first.take(), offset, data };
                    offset += length;
                }
            }
        }
        if offset != end {
            Err(damaged(format!("it ends at byte {offset}, {} were written", file.size_bytes)))?;
        }
        if first.is_some() {
            yield pb::DownloadCheckpointResponse { file: first, offset, data: Bytes::new() };
        }
    }))
}
