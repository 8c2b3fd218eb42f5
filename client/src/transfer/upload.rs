//! Local files to the server: a dataset file, or the files of a model. A file's digest is computed on the way and must be the
//! one that the server found. When the stream breaks off, the server is asked how far it is, and the next stream goes on there.

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
use tonic::{Code, Request, Response, Status};

use super::stored::digest;
use super::tries::Tries;
use super::{CHUNK_BYTES, OnProgress, Progress, Tally, is_plain_name};
use crate::client::Client;
use crate::error::{Error, Result, RpcError};

/// Endings of the files that make a model folder; others, such as weights in another format, stay at home.
const MODEL_ENDINGS: [&str; 6] = ["safetensors", "json", "jinja", "model", "txt", "tiktoken"];

impl Client {
    /// Uploads a file of rows: .jsonl or .parquet, plain, .gz or .zst. An upload that is cut goes on from where it was.
    pub async fn upload_dataset(&self, path: impl AsRef<Path>) -> Result<pb::Dataset> {
        self.upload_dataset_with(path, &mut |_| {}).await
    }

    /// As [`upload_dataset`](Self::upload_dataset), telling how far it is.
    pub async fn upload_dataset_with(&self, path: impl AsRef<Path>, progress: OnProgress<'_>) -> Result<pb::Dataset> {
        let file = LocalFile::open(path.as_ref())?;
        let upload = Upload::new("UploadDataset", file.name.clone(), self.options().transfer_timeout);
        let mut tries = Tries::new(&self.options().retry);
        let mut place = Place::default();
        loop {
            match self.send_dataset(&upload, &file, place, &mut *progress).await {
                Ok(dataset) => return Ok(dataset),
                Err(error) => tries.after(error).await?,
            }
            place = match self.asked_dataset(&upload, &file).await? {
                Far::Whole(dataset) => {
                    let sha256 = digest(&file).await?;
                    let sent = Sent { size_bytes: file.size_bytes, sha256 };
                    return sent.agrees(&file.name, dataset.size_bytes, &dataset.sha256).map(|()| dataset);
                }
                Far::Part(place) => place,
            };
            tries.reached(place.bytes);
        }
    }

    /// One stream of an upload, from where the one before it ended.
    async fn send_dataset(
        &self,
        upload: &Upload,
        file: &LocalFile,
        place: Place,
        progress: OnProgress<'_>,
    ) -> Result<pb::Dataset> {
        let request = |part| pb::UploadDatasetRequest { part: Some(part) };
        let header = upload.dataset_header(file, place.bytes);
        let (tx, rx) = channel(2);
        let feeding = async {
            let mut feed = Feed::new(upload, tx, progress, file.size_bytes);
            feed.send(request(DatasetPart::Header(header))).await?;
            let sent = feed.file(file, place.bytes, |chunk| request(DatasetPart::Chunk(chunk))).await?;
            feed.end().await.map(|()| sent)
        };
        let mut stub = self.dataset_stub();
        let (response, sent) = upload.run(stub.upload_dataset(messages(rx)), feeding).await?;
        let dataset = response.dataset.ok_or_else(|| Error::contract(upload.call, "no dataset in the answer"))?;
        sent.agrees(&file.name, dataset.size_bytes, &dataset.sha256)?;
        Ok(dataset)
    }

    /// How far an upload is: a header alone asks.
    async fn asked_dataset(&self, upload: &Upload, file: &LocalFile) -> Result<Far<pb::Dataset>> {
        let header = DatasetPart::Header(upload.dataset_header(file, 0));
        let request = pb::UploadDatasetRequest { part: Some(header) };
        let asked = self.asked(upload, request, |request| {
            let mut stub = self.dataset_stub();
            async move { stub.upload_dataset(stream::iter([request])).await }
        });
        Ok(match asked.await? {
            Some(pb::UploadDatasetResponse { dataset: Some(dataset), .. }) => Far::Whole(dataset),
            Some(response) => Far::Part(Place { files: 1, bytes: response.received_bytes }),
            None => Far::Part(Place::default()),
        })
    }

    /// Uploads a model: a folder as Hugging Face lays it out, or one GGUF file. The name is for people; it may be empty.
    /// An upload that is cut goes on from where it was.
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
        let upload = Upload::new("UploadModel", path.as_ref().display().to_string(), self.options().transfer_timeout);
        let mut tries = Tries::new(&self.options().retry);
        let mut place = Place::default();
        loop {
            let header = upload.model_header(display_name, place.bytes);
            match self.send_model(&upload, &files, header, place, &mut *progress).await {
                Ok(model) => return Ok(model),
                Err(error) => tries.after(error).await?,
            }
            place = match self.asked_model(&upload, display_name).await? {
                Far::Whole(model) => {
                    let mut sent = Vec::new();
                    for file in &files {
                        sent.push(Sent { size_bytes: file.size_bytes, sha256: digest(file).await? });
                    }
                    return all_agree(&files, &sent, &model).map(|()| model);
                }
                Far::Part(place) => place,
            };
            tries.reached(place.bytes);
        }
    }

    async fn send_model(
        &self,
        upload: &Upload,
        files: &[LocalFile],
        header: pb::UploadModelHeader,
        place: Place,
        progress: OnProgress<'_>,
    ) -> Result<pb::Model> {
        let request = |part| pb::UploadModelRequest { part: Some(part) };
        let (tx, rx) = channel(2);
        let feeding = async {
            let total = files.iter().map(|file| file.size_bytes).sum();
            let mut feed = Feed::new(upload, tx, progress, total);
            feed.send(request(ModelPart::Header(header))).await?;
            let mut there = place.bytes;
            let mut sent = Vec::new();
            for (number, file) in files.iter().enumerate() {
                if place.bytes == 0 || number >= place.files {
                    let begin =
                        pb::ModelFile { name: file.name.clone(), size_bytes: file.size_bytes, sha256: String::new() };
                    feed.send(request(ModelPart::File(begin))).await?;
                }
                let skipped = there.min(file.size_bytes);
                there -= skipped;
                sent.push(feed.file(file, skipped, |chunk| request(ModelPart::Chunk(chunk))).await?);
            }
            feed.end().await.map(|()| sent)
        };
        let mut stub = self.model_stub();
        let (response, sent) = upload.run(stub.upload_model(messages(rx)), feeding).await?;
        let model = response.model.ok_or_else(|| Error::contract(upload.call, "no model in the answer"))?;
        all_agree(files, &sent, &model)?;
        Ok(model)
    }

    async fn asked_model(&self, upload: &Upload, display_name: &str) -> Result<Far<pb::Model>> {
        let request = pb::UploadModelRequest { part: Some(ModelPart::Header(upload.model_header(display_name, 0))) };
        let asked = self.asked(upload, request, |request| {
            let mut stub = self.model_stub();
            async move { stub.upload_model(stream::iter([request])).await }
        });
        Ok(match asked.await? {
            Some(pb::UploadModelResponse { model: Some(model), .. }) => Far::Whole(model),
            Some(response) => {
                let bytes = response.received.iter().map(|file| file.size_bytes).sum();
                Far::Part(Place { files: response.received.len(), bytes })
            }
            None => Far::Part(Place::default()),
        })
    }

    /// Asks how far an upload is; no answer from a server that takes the question for an empty upload.
    async fn asked<Req, Res, F, Fut>(&self, upload: &Upload, header: Req, send: F) -> Result<Option<Res>>
    where
        Req: Clone,
        F: Fn(Req) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let limit = self.options().call_timeout;
        let send = |request: Request<Req>| send(request.into_inner());
        match self.bounded(upload.call, &upload.object, limit, header, send).await {
            Ok(response) => Ok(Some(response)),
            Err(error) if error.code() == Some(Code::InvalidArgument) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How far the server says that an upload is.
enum Far<T> {
    /// It exists.
    Whole(T),
    /// So much of it has come.
    Part(Place),
}

/// A place in an upload: the files that have begun, and the bytes of all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    files: usize,
    bytes: u64,
}

/// Whether a model is what was sent.
fn all_agree(files: &[LocalFile], sent: &[Sent], model: &pb::Model) -> Result<()> {
    for (file, sent) in files.iter().zip(sent) {
        let stored = model.files.iter().find(|stored| stored.name == file.name);
        let stored = stored.ok_or_else(|| Error::damaged(&file.name, "the server did not store it"))?;
        sent.agrees(&file.name, stored.size_bytes, &stored.sha256)?;
    }
    Ok(())
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
    /// What the server knows it by, whatever the number of streams.
    request_id: String,
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
    fn new(call: &'static str, object: String, silence: Duration) -> Self {
        Self { call, object, request_id: uuid::Uuid::new_v4().to_string(), silence }
    }

    fn dataset_header(&self, file: &LocalFile, offset: u64) -> pb::UploadDatasetHeader {
        let (file_name, request_id) = (file.name.clone(), self.request_id.clone());
        pb::UploadDatasetHeader { file_name, sha256: String::new(), request_id, offset }
    }

    fn model_header(&self, display_name: &str, offset: u64) -> pb::UploadModelHeader {
        pb::UploadModelHeader { display_name: display_name.to_owned(), request_id: self.request_id.clone(), offset }
    }

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

    /// Sends a file from the byte `skipped` on. What the server has is read as well, since the digest is of all.
    async fn file(
        &mut self,
        file: &LocalFile,
        skipped: u64,
        message: impl Fn(bytes::Bytes) -> M,
    ) -> Result<Sent, Stopped> {
        let unreadable = |error| Stopped::Failed(Error::file("read", &file.path, error));
        let mut reader = tokio::fs::File::open(&file.path).await.map_err(unreadable)?;
        let mut tally = Tally::default();
        loop {
            let mut chunk = next_chunk(&mut reader).await.map_err(unreadable)?;
            if chunk.is_empty() {
                let (size_bytes, sha256) = tally.finish();
                return Ok(Sent { size_bytes, sha256 });
            }
            let there = skipped.saturating_sub(tally.size_bytes).min(chunk.len() as u64);
            tally.add(&chunk);
            self.done_bytes += chunk.len() as u64;
            let missing = chunk.split_off(there as usize);
            if !missing.is_empty() {
                self.send(message(missing.freeze())).await?;
                (self.progress)(Progress {
                    file: &file.name,
                    done_bytes: self.done_bytes,
                    total_bytes: self.total_bytes,
                });
            }
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
