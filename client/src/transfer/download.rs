//! A checkpoint into a local folder: written beside its place, each file verified, renamed into place when all are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use hone_proto::v1 as pb;
use tokio::io::AsyncWriteExt;

use super::{OnProgress, Progress, Tally, is_plain_name};
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
    let mut folder = PartialFolder::beside(target)?;
    let object = format!("{job_id}/{}", checkpoint.checkpoint_id);
    let mut incoming = Incoming::new(&object, checkpoint, folder.path.clone())?;
    let silence = client.options().transfer_timeout;
    let timed_out = |_| Error::from(RpcError::timed_out(CALL, &object, silence));
    let failed = |status: tonic::Status| Error::from(RpcError::new(CALL, &object, &status));
    let request = pb::DownloadCheckpointRequest {
        job_id: job_id.to_owned(),
        checkpoint_id: checkpoint.checkpoint_id.clone(),
        ..Default::default()
    };
    let mut stub = client.job_stub();
    let opening = tokio::time::timeout(silence, stub.download_checkpoint(request));
    let mut chunks = opening.await.map_err(timed_out)?.map_err(failed)?.into_inner();
    while let Some(chunk) = tokio::time::timeout(silence, chunks.next()).await.map_err(timed_out)? {
        incoming.take(chunk.map_err(failed)?, &mut *progress).await?;
    }
    incoming.finish().await?;
    folder.keep_as(target)
}

fn refuse_occupied(target: &Path) -> Result<()> {
    match std::fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Error::input(target, "the folder is not empty; name a new one")),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("write into", target, error)),
    }
}

/// The folder while it is incomplete; removed when dropped, unless it was kept.
struct PartialFolder {
    path: PathBuf,
    kept: bool,
}

impl PartialFolder {
    fn beside(target: &Path) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::input(target, "not the name of a folder"))?;
        let parent = target.parent().unwrap_or(Path::new(""));
        let hidden = format!(".{}.partial-{}", name.to_string_lossy(), uuid::Uuid::new_v4().simple());
        let path = parent.join(hidden);
        std::fs::create_dir_all(&path).map_err(|error| Error::file("create", &path, error))?;
        Ok(Self { path, kept: false })
    }

    fn keep_as(&mut self, target: &Path) -> Result<()> {
        std::fs::rename(&self.path, target).map_err(|error| Error::file("rename the download to", target, error))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing can be done about a folder that will not go; its name says what it is.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Files arriving one after the other.
struct Incoming<'a> {
    object: &'a str,
    folder: PathBuf,
    /// What the manifest lists and has not arrived yet.
    awaited: HashMap<&'a str, &'a pb::CheckpointFile>,
    manifest_seen: bool,
    current: Option<Writing>,
    done_bytes: u64,
    total_bytes: u64,
}

struct Writing {
    announced: pb::CheckpointFile,
    file: tokio::fs::File,
    path: PathBuf,
    tally: Tally,
}

impl<'a> Incoming<'a> {
    fn new(object: &'a str, checkpoint: &'a pb::Checkpoint, folder: PathBuf) -> Result<Self> {
        if let Some(file) = checkpoint.files.iter().find(|file| !is_plain_name(&file.name)) {
            return Err(unsafe_name(object, &file.name));
        }
        Ok(Self {
            object,
            folder,
            awaited: checkpoint.files.iter().map(|file| (file.name.as_str(), file)).collect(),
            manifest_seen: false,
            current: None,
            done_bytes: 0,
            total_bytes: checkpoint.files.iter().map(|file| file.size_bytes).sum(),
        })
    }

    async fn take(&mut self, chunk: pb::DownloadCheckpointResponse, progress: OnProgress<'_>) -> Result<()> {
        if let Some(file) = chunk.file {
            let same = self.current.as_ref().is_some_and(|current| current.announced.name == file.name);
            if !same {
                self.close().await?;
                self.begin(file).await?;
            }
        }
        let object = self.object;
        let Some(current) = &mut self.current else {
            return Err(Error::damaged(object, "data came before the name of its file"));
        };
        let name = &current.announced.name;
        if chunk.offset != current.tally.size_bytes {
            let detail = format!("{name}: data for byte {} came at byte {}", chunk.offset, current.tally.size_bytes);
            return Err(Error::damaged(object, detail));
        }
        if current.tally.size_bytes + chunk.data.len() as u64 > current.announced.size_bytes {
            let detail = format!("{name}: more than the announced {} bytes", current.announced.size_bytes);
            return Err(Error::damaged(object, detail));
        }
        current.tally.add(&chunk.data);
        current.file.write_all(&chunk.data).await.map_err(|error| Error::file("write", &current.path, error))?;
        self.done_bytes += chunk.data.len() as u64;
        let total_bytes = self.total_bytes.max(self.done_bytes);
        progress(Progress { file: name, done_bytes: self.done_bytes, total_bytes });
        Ok(())
    }

    /// A file begins: its name must be plain, and its size and digest those of the manifest.
    async fn begin(&mut self, announced: pb::CheckpointFile) -> Result<()> {
        let name = announced.name.as_str();
        if !is_plain_name(name) {
            return Err(unsafe_name(self.object, name));
        }
        match self.awaited.remove(name) {
            Some(listed) if *listed == announced => {}
            Some(listed) => {
                let (size, other) = (listed.size_bytes, announced.size_bytes);
                let (digest, another) = (&listed.sha256, &announced.sha256);
                let detail = format!("{name}: the manifest says {size} bytes, {digest}; the stream {other}, {another}");
                return Err(Error::damaged(self.object, detail));
            }
            None if name == MANIFEST && !self.manifest_seen => self.manifest_seen = true,
            None => return Err(Error::damaged(self.object, format!("{name}: not in the manifest, or sent twice"))),
        }
        let path = self.folder.join(name);
        let file = tokio::fs::File::create(&path).await.map_err(|error| Error::file("create", &path, error))?;
        self.current = Some(Writing { announced, file, path, tally: Tally::default() });
        Ok(())
    }

    /// The current file is complete, or the download is worth nothing.
    async fn close(&mut self) -> Result<()> {
        let Some(Writing { announced, mut file, path, tally }) = self.current.take() else { return Ok(()) };
        let (size_bytes, sha256) = tally.finish();
        if size_bytes != announced.size_bytes || !sha256.eq_ignore_ascii_case(&announced.sha256) {
            let pb::CheckpointFile { name, size_bytes: due_bytes, sha256: due } = announced;
            let detail =
                format!("{name}: {due_bytes} bytes with SHA-256 {due} were due, {size_bytes} with {sha256} came");
            return Err(Error::damaged(self.object, detail));
        }
        let unwritten = |error| Error::file("write", &path, error);
        file.flush().await.map_err(unwritten)?;
        file.sync_all().await.map_err(unwritten)
    }

    async fn finish(mut self) -> Result<()> {
        self.close().await?;
        let mut missing: Vec<_> = self.awaited.keys().copied().collect();
        if !self.manifest_seen {
            missing.push(MANIFEST);
        }
        missing.sort_unstable();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::damaged(self.object, format!("the stream ended without {}", missing.join(", ")))),
        }
    }
}

fn unsafe_name(object: &str, name: &str) -> Error {
    Error::damaged(object, format!("refusing the file name {name:?}: it could leave the folder"))
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
