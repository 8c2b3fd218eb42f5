//! Local files to the server: a dataset file, or the files of a model. They are read once and hashed on the way, and the digests
//! must be those that the server found.
//!
//! What is large goes in parts, several at once, where the server takes parts; else in one stream. When the way is cut, the
//! server is asked how far it is, and the upload goes on there.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered, Stream};
use hone_proto::v1 as pb;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedSender, channel, unbounded_channel};
use tonic::{Code, Request, Response, Status};

use super::kind::{Far, Header, Kind, Place};
use super::local::{Chunk, LocalFile, Reader, model_files};
use super::tries::{Tries, is_too_many};
use super::{OnProgress, Progress};
use crate::client::Client;
use crate::error::{Error, Result, RpcError};

/// Uploads up to this size go in one stream: parts would cost a question more than they gain.
const SMALL_BYTES: u64 = 8 << 20;

/// Most bytes of a part, even where the server takes larger ones: each stream holds one in memory.
const MAX_PART_BYTES: u64 = 8 << 20;

impl Client {
    /// Uploads a file of rows: .jsonl or .parquet, plain, .gz or .zst. An upload that is cut goes on from where it was.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let rows = client.upload_dataset("conversations.jsonl").await?;
    /// println!("{} {}", rows.dataset_id, rows.sha256);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upload_dataset(&self, path: impl AsRef<Path>) -> Result<pb::Dataset> {
        self.upload_dataset_with(path, &mut |_| {}).await
    }

    /// As [`upload_dataset`](Self::upload_dataset), telling how far it is.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let mut tell = |now: hone_client::Progress<'_>| println!("{} of {} bytes", now.done_bytes, now.total_bytes);
    /// let rows = client.upload_dataset_with("conversations.jsonl", &mut tell).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upload_dataset_with(&self, path: impl AsRef<Path>, progress: OnProgress<'_>) -> Result<pb::Dataset> {
        let file = LocalFile::open(path.as_ref())?;
        let object = file.name.clone();
        Upload::new(self, vec![file], object, "").run(progress).await
    }

    /// Uploads a model: a folder as Hugging Face lays it out, or one GGUF file. The name is for people; it may be empty.
    /// An upload that is cut goes on from where it was.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let model = client.upload_model("SmolLM2-135M-Instruct", "SmolLM2 135M").await?;
    /// println!("{}", model.model_id);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upload_model(&self, path: impl AsRef<Path>, display_name: &str) -> Result<pb::Model> {
        self.upload_model_with(path, display_name, &mut |_| {}).await
    }

    /// As [`upload_model`](Self::upload_model), telling how far it is.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let mut tell = |now: hone_client::Progress<'_>| println!("{}: {} bytes", now.file, now.done_bytes);
    /// let model = client.upload_model_with("SmolLM2-135M-Instruct", "SmolLM2 135M", &mut tell).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upload_model_with(
        &self,
        path: impl AsRef<Path>,
        display_name: &str,
        progress: OnProgress<'_>,
    ) -> Result<pb::Model> {
        let files = model_files(path.as_ref())?;
        Upload::new(self, files, path.as_ref().display().to_string(), display_name).run(progress).await
    }
}

/// One upload.
struct Upload<'a> {
    client: &'a Client,
    files: Vec<LocalFile>,
    total_bytes: u64,
    /// What errors call it.
    object: String,
    display_name: &'a str,
    /// What the server knows it by, whatever the number of streams.
    request_id: String,
    silence: Duration,
}

/// Messages of a part: each with the file and the number of its bytes.
type Part<M> = Vec<(M, Option<(usize, u64)>)>;

impl<'a> Upload<'a> {
    fn new(client: &'a Client, files: Vec<LocalFile>, object: String, display_name: &'a str) -> Self {
        let total_bytes = files.iter().map(|file| file.size_bytes).sum();
        let (request_id, silence) = (uuid::Uuid::new_v4().to_string(), client.options().transfer_timeout);
        Self { client, files, total_bytes, object, display_name, request_id, silence }
    }

    /// To its end, however often it is cut.
    async fn run<K: Kind>(&self, progress: OnProgress<'_>) -> Result<K> {
        let mut streams = self.client.options().transfer_streams;
        let mut tries = Tries::new(self.client.options());
        let is_large = self.total_bytes > SMALL_BYTES && streams > 1;
        let mut far = match is_large {
            true => self.how_far(&mut tries).await?,
            false => Far::Part(Place::default()),
        };
        loop {
            let place = match far {
                Far::Whole(stored) => return self.checked(stored).await,
                Far::Part(place) => place,
            };
            tries.reached(place.bytes);
            let sent = match place.part_bytes > 0 && streams > 1 && place.bytes < self.total_bytes {
                true => self.in_parts(place, streams, &mut *progress).await,
                false => self.in_one(place, &mut *progress).await,
            };
            match sent {
                Ok(stored) => return Ok(stored),
                Err(error) if streams > 1 && is_too_many(&error) => streams = 1,
                Err(error) => tries.after(error).await?,
            }
            far = self.how_far(&mut tries).await?;
        }
    }

    /// How far it is, asked as often as its tries allow.
    async fn how_far<K: Kind>(&self, tries: &mut Tries<'_>) -> Result<Far<K>> {
        loop {
            match self.asked().await {
                Ok(far) => return Ok(far),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// What was stored without this side having seen all of it go.
    async fn checked<K: Kind>(&self, stored: K) -> Result<K> {
        let mut reader = Reader::of(&self.files);
        reader.skip(u64::MAX).await?;
        self.agree(stored, reader).await
    }

    /// What was stored, if it is what was read. Else it is removed: a file that changed between two streams, say, is stored as what
    /// it never was.
    async fn agree<K: Kind>(&self, stored: K, reader: Reader<'_>) -> Result<K> {
        let Err(error) = self.compare(&stored, reader) else { return Ok(stored) };
        if let Err(remains) = stored.remove(self.client).await {
            tracing::debug!(%remains, "a damaged upload was not removed");
        }
        Err(error)
    }

    fn compare<K: Kind>(&self, stored: &K, reader: Reader<'_>) -> Result<()> {
        for (file, (size_bytes, sha256)) in self.files.iter().zip(reader.digests()) {
            let (stored_bytes, found) =
                stored.file(&file.name).ok_or_else(|| Error::damaged(&file.name, "the server did not store it"))?;
            if stored_bytes != size_bytes || !found.eq_ignore_ascii_case(&sha256) {
                let detail = format!(
                    "sent {size_bytes} bytes with SHA-256 {sha256}, but the server stored {stored_bytes} with {found}"
                );
                return Err(Error::damaged(&file.name, detail));
            }
        }
        Ok(())
    }

    fn header<K: Kind>(&self, offset: u64, total_bytes: u64) -> K::Request {
        let (display_name, request_id) = (self.display_name.to_owned(), self.request_id.clone());
        let file_name = self.files.first().map(|file| file.name.clone()).unwrap_or_default();
        K::header(Header { file_name, display_name, request_id, offset, total_bytes })
    }

    /// The messages of a chunk: that its file begins, unless the server knows, and its bytes.
    fn requests<K: Kind>(&self, place: Place, chunk: Chunk) -> (Option<K::Request>, K::Request) {
        let begins = chunk.begins && (place.bytes == 0 || chunk.file >= place.files);
        let begun = self.files.get(chunk.file).filter(|_| begins).and_then(K::begin);
        (begun, K::chunk(chunk.bytes))
    }

    fn progress<'b>(&'b self, file: usize, done_bytes: u64) -> Progress<'b> {
        let name = self.files.get(file).map_or("", |file| &file.name);
        Progress { file: name, done_bytes, total_bytes: self.total_bytes }
    }

    /// Asks how far it is: a header alone. A server that takes the question for an empty upload knows nothing of it.
    async fn asked<K: Kind>(&self) -> Result<Far<K>> {
        let send = |request: Request<K::Request>| K::send(self.client, stream::iter([request.into_inner()]));
        let limit = self.client.options().call_timeout;
        match self.client.once(K::CALL, &self.object, limit, self.header::<K>(0, 0), send).await {
            Ok(response) => Ok(K::far(response)),
            Err(error) if error.code() == Some(Code::InvalidArgument) => Ok(Far::Part(Place::default())),
            Err(error) => Err(error),
        }
    }

    fn timed_out<K: Kind>(&self) -> Error {
        RpcError::timed_out(K::CALL, &self.object, self.silence).into()
    }

    fn failed<K: Kind>(&self, status: &Status) -> Error {
        RpcError::new(K::CALL, &self.object, status).into()
    }
}

/// In parts.
impl Upload<'_> {
    /// What is missing, in so many streams at once, of which each holds a part in memory.
    async fn in_parts<K: Kind>(&self, place: Place, streams: usize, progress: OnProgress<'_>) -> Result<K> {
        let mut reader = Reader::of(&self.files);
        reader.skip(place.bytes).await?;
        let (tell, mut told) = unbounded_channel();
        let mut calls = FuturesUnordered::new();
        let (mut done_bytes, mut stored) = (place.bytes, None);
        loop {
            while calls.len() < streams
                && let Some(part) = self.next_part::<K>(place, &mut reader).await?
            {
                calls.push(self.part::<K>(part, tell.clone()));
            }
            let step = async {
                tokio::select! {
                    biased;
                    Some(sent) = told.recv() => Step::Sent(sent),
                    answer = calls.next() => Step::Answered(answer),
                }
            };
            // Whatever moves shows that the server lives: a part may wait long for its turn.
            match tokio::time::timeout(self.silence, step).await.map_err(|_| self.timed_out::<K>())? {
                Step::Sent((file, num_bytes)) => {
                    done_bytes += num_bytes;
                    progress(self.progress(file, done_bytes));
                }
                Step::Answered(Some(answer)) => {
                    if let Far::Whole(whole) = answer? {
                        stored = Some(whole);
                    }
                }
                Step::Answered(None) => break,
            }
        }
        drop(calls);
        let stored =
            stored.ok_or_else(|| Error::contract(K::CALL, "every part was taken, and nothing came of them"))?;
        self.agree(stored, reader).await
    }

    /// The next part, or none when all has been read.
    async fn next_part<K: Kind>(&self, place: Place, reader: &mut Reader<'_>) -> Result<Option<Part<K::Request>>> {
        let begin = reader.num_bytes();
        let end = begin + place.part_bytes.min(MAX_PART_BYTES);
        let mut part = vec![(self.header::<K>(begin, self.total_bytes), None)];
        // Where all files should end, too: what has grown meanwhile is noticed before the server has the whole.
        while (reader.num_bytes() < end || reader.num_bytes() == self.total_bytes)
            && let Some(chunk) = reader.next((end - reader.num_bytes()).max(1)).await?
        {
            let sent = Some((chunk.file, chunk.bytes.len() as u64));
            let (begins, bytes) = self.requests::<K>(place, chunk);
            part.extend(begins.map(|request| (request, None)));
            part.push((bytes, sent));
        }
        Ok((reader.num_bytes() > begin).then_some(part))
    }

    /// One part, on a stream of its own.
    async fn part<K: Kind>(&self, part: Part<K::Request>, tell: UnboundedSender<(usize, u64)>) -> Result<Far<K>> {
        let requests = stream::iter(part).map(move |(request, sent)| {
            if let Some(sent) = sent {
                // Nobody listens when the upload has failed.
                let _ = tell.send(sent);
            }
            request
        });
        let answer = K::send(self.client, requests).await;
        answer.map(|answer| K::far(answer.into_inner())).map_err(|status| self.failed::<K>(&status))
    }
}

/// What happens while parts are on their way.
enum Step<K> {
    /// Bytes of a file have gone.
    Sent((usize, u64)),
    /// A part was answered; none is open when there is no answer.
    Answered(Option<Result<Far<K>>>),
}

/// In one stream.
impl Upload<'_> {
    /// What is missing, in one stream.
    async fn in_one<K: Kind>(&self, place: Place, progress: OnProgress<'_>) -> Result<K> {
        let mut reader = Reader::of(&self.files);
        reader.skip(place.bytes).await?;
        let (tx, rx) = channel(2);
        let feeding = async {
            let feed = Feed { silence: self.silence, tx };
            feed.put(Some(self.header::<K>(place.bytes, 0))).await?;
            // What was cut between its last byte and its end lacks the end alone, and a header alone would be a question.
            if place.bytes == self.total_bytes {
                feed.put(Some(K::chunk(Bytes::new()))).await?;
            }
            while let Some(chunk) = reader.next(u64::MAX).await? {
                let (file, done_bytes) = (chunk.file, reader.num_bytes());
                let (begins, bytes) = self.requests::<K>(place, chunk);
                for request in begins.into_iter().chain([bytes]) {
                    feed.put(Some(request)).await?;
                }
                progress(self.progress(file, done_bytes));
            }
            feed.put(None).await
        };
        match K::far(self.fed::<K>(K::send(self.client, messages(rx)), feeding).await?) {
            Far::Whole(stored) => self.agree(stored, reader).await,
            Far::Part(_) => Err(Error::contract(K::CALL, "everything was taken, and nothing came of it")),
        }
    }

    /// Feeds a call until it answers.
    async fn fed<K: Kind>(
        &self,
        call: impl Future<Output = Result<Response<K::Response>, Status>>,
        feeding: impl Future<Output = Result<(), Stopped>>,
    ) -> Result<K::Response> {
        let mut call = pin!(call);
        let answer = |result: Result<Response<K::Response>, Status>| {
            result.map(Response::into_inner).map_err(|status| self.failed::<K>(&status))
        };
        let early = || Error::contract(K::CALL, "answered before everything was sent");
        let fed = tokio::select! {
            fed = feeding => fed,
            result = &mut call => return Err(answer(result).err().unwrap_or_else(early)),
        };
        match fed {
            Err(Stopped::Failed(error)) => return Err(error),
            Err(Stopped::Silent) => return Err(self.timed_out::<K>()),
            Err(Stopped::Refused) | Ok(()) => {}
        }
        let waited = tokio::time::timeout(self.silence, call).await;
        let response = answer(waited.map_err(|_| self.timed_out::<K>())?)?;
        fed.map(|()| response).map_err(|_| early())
    }
}

/// Why feeding stopped.
enum Stopped {
    /// The call no longer takes anything; its own answer says why.
    Refused,
    /// The call took nothing for too long.
    Silent,
    /// Reading failed.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The sending end of a stream.
struct Feed<M> {
    silence: Duration,
    tx: Sender<Option<M>>,
}

impl<M> Feed<M> {
    /// A message, or the mark that all have been sent.
    async fn put(&self, message: Option<M>) -> Result<(), Stopped> {
        match tokio::time::timeout(self.silence, self.tx.send(message)).await {
            Ok(sent) => sent.map_err(|_| Stopped::Refused),
            Err(_) => Err(Stopped::Silent),
        }
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

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
