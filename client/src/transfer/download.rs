//! A checkpoint into a local folder: fetched in parts, several at once, beside its place; every file verified against the
//! manifest; renamed into place when all are. What is cut goes on from where it was, in this download or in the next.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{TryStreamExt, stream};
use hone_proto::v1 as pb;

use super::partial::{Misplaced, Part, PartWriter, PartialFolder, refuse_unsafe};
use super::tries::{Tries, is_too_many};
use super::{OnProgress, Progress, Tally};
use crate::client::Client;
use crate::error::{Error, Result, RpcError};

const CALL: &str = "DownloadCheckpoint";

/// The one file that the manifest does not list.
const MANIFEST: &str = "manifest.json";

/// Fetches `checkpoint` into the folder `target`, which must not exist or be empty.
pub(crate) async fn download(
    client: &Client,
    job_id: &str,
    checkpoint: &pb::Checkpoint,
    target: &Path,
    progress: OnProgress<'_>,
) -> Result<()> {
    refuse_occupied(target)?;
    let object = format!("{job_id}/{}", checkpoint.checkpoint_id);
    refuse_unsafe(&object, &checkpoint.files)?;
    let folder = PartialFolder::beside(target, &object, &checkpoint.files)?;
    let fetch = Fetch {
        client,
        job_id,
        checkpoint_id: &checkpoint.checkpoint_id,
        object: &object,
        told: Mutex::new(Told {
            progress,
            done_bytes: 0,
            total_bytes: checkpoint.files.iter().map(|file| file.size_bytes).sum(),
        }),
    };
    let mut streams = client.options().transfer_streams.max(1);
    while let Err(error) = fetch.missing(&folder, &checkpoint.files, streams).await {
        if streams == 1 || !is_too_many(&error) {
            return Err(error);
        }
        streams = 1;
    }
    for file in &checkpoint.files {
        folder.verify(&object, file).await?;
    }
    folder.write(MANIFEST, &fetch.manifest().await?)?;
    folder.keep_as(target, &checkpoint.files)
}

fn refuse_occupied(target: &Path) -> Result<()> {
    match std::fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Error::input(target, "the folder is not empty; name a new one")),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("write into", target, error)),
    }
}

/// Who fetches what, and who is told.
struct Fetch<'a> {
    client: &'a Client,
    job_id: &'a str,
    checkpoint_id: &'a str,
    object: &'a str,
    told: Mutex<Told<'a>>,
}

struct Told<'a> {
    progress: OnProgress<'a>,
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> Fetch<'a> {
    /// What is not in the folder yet, in so many streams at once.
    async fn missing(&self, folder: &PartialFolder, files: &[pb::CheckpointFile], streams: usize) -> Result<()> {
        let mut parts = Vec::new();
        for file in files {
            parts.extend(folder.parts(file)?.into_iter().map(|part| (file, part)));
        }
        self.told().done_bytes = parts.iter().map(|(_, part)| part.done).sum();
        let missing = parts.into_iter().filter(|(_, part)| part.start + part.done < part.end);
        let missing = stream::iter(missing.map(|(file, part)| Ok((file, part))));
        let fetch = |(file, part)| self.part(file, folder.writer(file, part), streams == 1);
        missing.try_for_each_concurrent(streams, fetch).await
    }

    /// A part to its end, however often its stream is cut. One that is `alone` waits where the server takes no more calls.
    async fn part(&self, file: &pb::CheckpointFile, writer: Result<PartWriter>, alone: bool) -> Result<()> {
        let mut writer = writer?;
        let mut tries = Tries::new(self.client.options());
        while !writer.is_whole() {
            let result = self.stream(file, &mut writer).await;
            tries.reached(writer.part.done);
            match result {
                Ok(()) if writer.is_whole() => {}
                Ok(()) => return Err(self.short(file, writer.part)),
                Err(error) if !alone && is_too_many(&error) => return Err(error),
                Err(error) => tries.after(error).await?,
            }
        }
        Ok(())
    }

    fn short(&self, file: &pb::CheckpointFile, part: Part) -> Error {
        let at = part.start + part.done;
        Error::damaged(self.object, format!("{}: the stream ended at byte {at} of {}", file.name, part.end))
    }

    /// One stream, from where the part is.
    async fn stream(&self, file: &pb::CheckpointFile, writer: &mut PartWriter) -> Result<()> {
        let (offset, length) = (writer.place(), writer.part.end - writer.place());
        let mut chunks = self.open(&file.name, offset, length).await?;
        while let Some(chunk) = self.next(&mut chunks).await? {
            if let Some(announced) = chunk.file.filter(|announced| announced != file) {
                return Err(differs(self.object, file, &announced));
            }
            let taken = writer.take(chunk.offset, &chunk.data).map_err(|misplaced| match misplaced {
                Misplaced::Hole { due, found } => {
                    let detail = format!("{}: data for byte {found} came at byte {due}", file.name);
                    Error::damaged(self.object, detail)
                }
                Misplaced::File(error) => error,
            })?;
            self.tell(&file.name, taken);
            if writer.is_whole() {
                break;
            }
        }
        Ok(())
    }

    fn told(&self) -> MutexGuard<'_, Told<'a>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, file: &str, new_bytes: u64) {
        let mut told = self.told();
        told.done_bytes += new_bytes;
        let (done_bytes, total_bytes) = (told.done_bytes, told.total_bytes);
        (told.progress)(Progress { file, done_bytes, total_bytes });
    }

    /// The manifest, which is small.
    async fn manifest(&self) -> Result<Vec<u8>> {
        let mut tries = Tries::new(self.client.options());
        loop {
            match self.manifest_once().await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn manifest_once(&self) -> Result<Vec<u8>> {
        let mut chunks = self.open(MANIFEST, 0, 0).await?;
        let (mut announced, mut bytes) = (None, Vec::new());
        while let Some(chunk) = self.next(&mut chunks).await? {
            announced = announced.or(chunk.file);
            bytes.extend_from_slice(&chunk.data);
        }
        let announced = announced.unwrap_or_default();
        let mut tally = Tally::default();
        tally.add(&bytes);
        let (size_bytes, sha256) = tally.finish();
        let came = pb::CheckpointFile { name: MANIFEST.to_owned(), size_bytes, sha256 };
        if announced == came { Ok(bytes) } else { Err(differs(self.object, &announced, &came)) }
    }

    async fn open(
        &self,
        file_name: &str,
        offset: u64,
        length: u64,
    ) -> Result<tonic::Streaming<pb::DownloadCheckpointResponse>> {
        let (job_id, checkpoint_id) = (self.job_id.to_owned(), self.checkpoint_id.to_owned());
        let file_name = file_name.to_owned();
        let request = pb::DownloadCheckpointRequest { job_id, checkpoint_id, file_name, offset, length };
        let mut stub = self.client.job_stub();
        let silence = self.client.options().transfer_timeout;
        let opening = tokio::time::timeout(silence, stub.download_checkpoint(request)).await;
        let opened = opening.map_err(|_| self.silent())?;
        opened.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    async fn next(
        &self,
        chunks: &mut tonic::Streaming<pb::DownloadCheckpointResponse>,
    ) -> Result<Option<pb::DownloadCheckpointResponse>> {
        let silence = self.client.options().transfer_timeout;
        let next = tokio::time::timeout(silence, chunks.try_next()).await.map_err(|_| self.silent())?;
        next.map_err(|status| self.failed(&status))
    }

    fn silent(&self) -> Error {
        RpcError::timed_out(CALL, self.object, self.client.options().transfer_timeout).into()
    }

    fn failed(&self, status: &tonic::Status) -> Error {
        RpcError::new(CALL, self.object, status).into()
    }
}

fn differs(object: &str, listed: &pb::CheckpointFile, announced: &pb::CheckpointFile) -> Error {
    let (size, other) = (listed.size_bytes, announced.size_bytes);
    let (digest, another) = (&listed.sha256, &announced.sha256);
    let detail = format!(
        "{}: the manifest says {size} bytes, {digest}; the stream {} with {other}, {another}",
        listed.name, announced.name
    );
    Error::damaged(object, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absent_or_empty_folder_is_written_into() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(refuse_occupied(folder.path()).is_ok());
        assert!(refuse_occupied(&folder.path().join("new")).is_ok());
        std::fs::write(folder.path().join("file"), "").expect("a file");
        let error = refuse_occupied(folder.path()).expect_err("occupied").to_string();
        assert!(error.contains("not empty"), "{error}");
        assert!(refuse_occupied(&folder.path().join("file")).is_err());
    }
}
