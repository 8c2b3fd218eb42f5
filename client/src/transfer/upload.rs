//! Local files to the server: a dataset file, or the files of a model. Each file is read once; its digest is computed on
//! the way and must be the one that the server found.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use futures::stream::{self, Stream};
use hone_proto::v1 as pb;
use pb::upload_dataset_request::Part as DatasetPart;
use pb::upload_model_request::Part as ModelPart;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tonic::{Response, Status};

use super::{CHUNK_BYTES, OnProgress, Progress, Tally, is_plain_name};
use crate::client::Client;
use crate::error::{Error, Result, RpcError};

/// Endings of the files that make a model folder; others, such as weights in another format, stay at home.
const MODEL_ENDINGS: [&str; 6] = ["safetensors", "json", "jinja", "model", "txt", "tiktoken"];

impl Client {
    /// Uploads a file of rows: .jsonl or .parquet, plain, .gz or .zst.
    pub async fn upload_dataset(&self, path: impl AsRef<Path>) -> Result<pb::Dataset> {
        self.upload_dataset_with(path, &mut |_| {}).await
    }

    /// As [`upload_dataset`](Self::upload_dataset), telling how far it is.
    pub async fn upload_dataset_with(&self, path: impl AsRef<Path>, progress: OnProgress<'_>) -> Result<pb::Dataset> {
        let file = LocalFile::open(path.as_ref())?;
        let request = |part| pb::UploadDatasetRequest { part: Some(part) };
        let header = pb::UploadDatasetHeader { file_name: file.name.clone(), sha256: String::new() };
        let (tx, rx) = channel(2);
        let upload =
            Upload { call: "UploadDataset", object: file.name.clone(), silence: self.options().transfer_timeout };
        let feeding = async {
            let mut feed = Feed::new(&upload, tx, progress, file.size_bytes);
            feed.send(request(DatasetPart::Header(header))).await?;
            let sent = feed.file(&file, |chunk| request(DatasetPart::Chunk(chunk))).await?;
            feed.end().await.map(|()| sent)
        };
        let mut stub = self.dataset_stub();
        let (response, sent) = upload.run(stub.upload_dataset(messages(rx)), feeding).await?;
        let dataset = response.dataset.ok_or_else(|| Error::contract(upload.call, "no dataset in the answer"))?;
        sent.agrees(&file.name, dataset.size_bytes, &dataset.sha256)?;
        Ok(dataset)
    }

    /// Uploads a model: a folder as Hugging Face lays it out, or one GGUF file. The name is for people; it may be empty.
    pub async fn upload_model(&self, path: impl AsRef<Path>, display_name: &str) -> Result<pb::Model> {
        self.upload_model_with(path, display_name, &mut |_| {}).await
    }

    /// As [`upload_model`](Self::upload_model), telling how far it is.
    pub async fn upload_model_with(
        &self,
        path: impl AsRef<Path>,
        display_name: &str,
        progress: OnProgress<'_>,
    ) -> Result<pb::Model> {
        let files = model_files(path.as_ref())?;
        let total = files.iter().map(|file| file.size_bytes).sum();
        let request = |part| pb::UploadModelRequest { part: Some(part) };
        let header = pb::UploadModelHeader { display_name: display_name.to_owned() };
        let (tx, rx) = channel(2);
        let object = path.as_ref().display().to_string();
        let upload = Upload { call: "UploadModel", object, silence: self.options().transfer_timeout };
        let feeding = async {
            let mut feed = Feed::new(&upload, tx, progress, total);
            feed.send(request(ModelPart::Header(header))).await?;
            let mut sent = Vec::new();
            for file in &files {
                let begin =
                    pb::ModelFile { name: file.name.clone(), size_bytes: file.size_bytes, sha256: String::new() };
                feed.send(request(ModelPart::File(begin))).await?;
                sent.push(feed.file(file, |chunk| request(ModelPart::Chunk(chunk))).await?);
            }
            feed.end().await.map(|()| sent)
        };
        let mut stub = self.model_stub();
        let (response, sent) = upload.run(stub.upload_model(messages(rx)), feeding).await?;
        let model = response.model.ok_or_else(|| Error::contract(upload.call, "no model in the answer"))?;
        for (file, sent) in files.iter().zip(sent) {
            let stored = model.files.iter().find(|stored| stored.name == file.name);
            let stored = stored.ok_or_else(|| Error::damaged(&file.name, "the server did not store it"))?;
            sent.agrees(&file.name, stored.size_bytes, &stored.sha256)?;
        }
        Ok(model)
    }
}

/// The messages up to the end mark. A feed that breaks off before it (a file that cannot be read, a caller who lost
/// interest) must never look like a whole upload, and HTTP/2 would end the stream in good order. So a message without a
/// part goes out, which the server refuses, and the stream stays open.
fn messages<M: Default + Send + 'static>(rx: Receiver<Option<M>>) -> impl Stream<Item = M> + Send + 'static {
    stream::unfold(Some(rx), |rx| async move {
        let Some(mut rx) = rx else { return std::future::pending().await };
        match rx.recv().await {
            Some(Some(message)) => Some((message, Some(rx))),
            Some(None) => None,
            None => Some((M::default(), None)),
        }
    })
}

/// A file about to be sent.
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

/// What went over the wire for one file.
struct Sent {
    size_bytes: u64,
    sha256: String,
}

impl Sent {
    fn agrees(&self, name: &str, size_bytes: u64, sha256: &str) -> Result<()> {
        if self.size_bytes == size_bytes && self.sha256.eq_ignore_ascii_case(sha256) {
            return Ok(());
        }
        let Self { size_bytes: sent_bytes, sha256: sent } = self;
        let detail =
            format!("sent {sent_bytes} bytes with SHA-256 {sent}, but the server stored {size_bytes} with {sha256}");
        Err(Error::damaged(name, detail))
    }
}

/// One upload: a call that takes a stream, and what feeds the stream.
struct Upload {
    call: &'static str,
    object: String,
    silence: Duration,
}

/// Why feeding stopped.
enum Stopped {
    /// The call no longer takes anything; its own answer says why.
    Refused,
    /// Reading failed, or the call took nothing for too long.
    Failed(Error),
}

impl Upload {
    /// Feeds the call until it answers.
    async fn run<R, T>(
        &self,
        call: impl Future<Output = Result<Response<R>, Status>>,
        feeding: impl Future<Output = Result<T, Stopped>>,
    ) -> Result<(R, T)> {
        let mut call = pin!(call);
        let answer = |result: Result<Response<R>, Status>| {
            result.map(Response::into_inner).map_err(|status| RpcError::new(self.call, &self.object, &status).into())
        };
        let early = || Error::contract(self.call, "answered before everything was sent");
        let fed = tokio::select! {
            fed = feeding => fed,
            result = &mut call => return Err(answer(result).err().unwrap_or_else(early)),
        };
        let fed = match fed {
            Err(Stopped::Failed(error)) => return Err(error),
            Err(Stopped::Refused) => None,
            Ok(fed) => Some(fed),
        };
        let waited = tokio::time::timeout(self.silence, call).await;
        let response = answer(waited.map_err(|_| self.timed_out())?)?;
        fed.map(|fed| (response, fed)).ok_or_else(early)
    }

    fn timed_out(&self) -> Error {
        RpcError::timed_out(self.call, &self.object, self.silence).into()
    }
}

/// The sending end of an upload.
struct Feed<'a, M> {
    upload: &'a Upload,
    tx: Sender<Option<M>>,
    progress: OnProgress<'a>,
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a, M> Feed<'a, M> {
    fn new(upload: &'a Upload, tx: Sender<Option<M>>, progress: OnProgress<'a>, total_bytes: u64) -> Self {
        Self { upload, tx, progress, done_bytes: 0, total_bytes }
    }

    async fn send(&mut self, message: M) -> Result<(), Stopped> {
        self.put(Some(message)).await
    }

    /// Everything has been sent.
    async fn end(&mut self) -> Result<(), Stopped> {
        self.put(None).await
    }

    async fn put(&mut self, message: Option<M>) -> Result<(), Stopped> {
        match tokio::time::timeout(self.upload.silence, self.tx.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Stopped::Refused),
            Err(_) => Err(Stopped::Failed(self.upload.timed_out())),
        }
    }

    async fn file(&mut self, file: &LocalFile, message: impl Fn(bytes::Bytes) -> M) -> Result<Sent, Stopped> {
        let unreadable = |error| Stopped::Failed(Error::file("read", &file.path, error));
        let mut reader = tokio::fs::File::open(&file.path).await.map_err(unreadable)?;
        let mut tally = Tally::default();
        loop {
            let chunk = next_chunk(&mut reader).await.map_err(unreadable)?;
            if chunk.is_empty() {
                let (size_bytes, sha256) = tally.finish();
                return Ok(Sent { size_bytes, sha256 });
            }
            tally.add(&chunk);
            self.done_bytes += chunk.len() as u64;
            self.send(message(chunk.freeze())).await?;
            (self.progress)(Progress { file: &file.name, done_bytes: self.done_bytes, total_bytes: self.total_bytes });
        }
    }
}

/// Up to a full chunk; an empty one at the end of the file.
async fn next_chunk(reader: &mut tokio::fs::File) -> std::io::Result<BytesMut> {
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
    while chunk.len() < CHUNK_BYTES {
        let room = (CHUNK_BYTES - chunk.len()) as u64;
        if reader.take(room).read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok(chunk)
}

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
