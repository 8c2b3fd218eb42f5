//! Streams of uploads: messages in, pieces of files out, whatever the kind of upload. Runs on a task of its own, so that
//! a caller who goes away leaves nothing behind.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use hone_job::id::Kind;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};

use super::CHUNK_BYTES;
use super::intact::Broken;
use super::status::Problem;
use crate::caller::Caller;
use crate::store::Upload;
use crate::uploads::{Error, Incoming, Key, State, Uploads};

/// Longest silence of an upload.
const SILENCE: Duration = Duration::from_secs(120);

/// The messages of an upload.
pub(super) struct Messages<M> {
    stream: Streaming<M>,
    broken: Broken,
    /// A message that was looked at.
    seen: Option<M>,
    /// Another stream has taken the place of this one.
    cut: CancellationToken,
}

impl<M> Messages<M> {
    pub(super) fn of(request: Request<Streaming<M>>) -> Self {
        let broken = request.extensions().get().cloned().unwrap_or_default();
        Self { stream: request.into_inner(), broken, seen: None, cut: CancellationToken::new() }
    }

    /// Whether nothing more comes.
    async fn are_over(&mut self) -> Result<bool, Error> {
        self.seen = self.next().await?;
        Ok(self.seen.is_none())
    }

    /// The next message, or none at the end of a stream that came whole.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Error> {
        if let Some(seen) = self.seen.take() {
            return Ok(Some(seen));
        }
        let next = tokio::select! {
            next = tokio::time::timeout(SILENCE, self.stream.message()) => next.map_err(|_| Error::Silent)?,
            () = self.cut.cancelled() => return Err(Error::Broken("another stream took its place".into())),
        };
        match next {
            Ok(None) if self.broken.is_set() => Err(Error::Broken("the caller went away".into())),
            next => next.map_err(|status| Error::Broken(status.message().to_string())),
        }
    }
}

/// A message that says nothing: what a client sends whose source failed.
pub(super) fn empty() -> Error {
    Error::Broken("a message came without a part".into())
}

/// A piece of a file, of a size that is allowed.
pub(super) async fn write(incoming: &mut Incoming, chunk: Bytes) -> Result<(), Error> {
    if chunk.len() > CHUNK_BYTES {
        return Err(Error::invalid("chunk", format!("has {} bytes; at most {CHUNK_BYTES} go into one", chunk.len())));
    }
    incoming.write(chunk).await
}

/// Longest text that an upload is known by, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What an upload's header says of it.
pub(super) struct Asked {
    pub(super) kind: Kind,
    /// Most bytes.
    pub(super) limit: u64,
    /// Empty for an upload that cannot go on.
    pub(super) request_id: String,
    /// Where its stream goes on.
    pub(super) offset: u64,
}

/// How far an upload is.
pub(super) enum Answer {
    /// It exists.
    Whole(Upload),
    /// Names and bytes of the files that have come, when nothing but that was asked.
    Received(Vec<(String, u64)>),
}

/// What is known of an upload that has come whole, or that is only asked after.
fn so_far(state: &State, asks_only: bool) -> Option<Answer> {
    let received = match state {
        State::Kept(upload) => return Some(Answer::Whole(upload.clone())),
        State::Parked(incoming) => incoming.received().map(|(name, size)| (name.to_owned(), size)).collect(),
        State::Fresh => Vec::new(),
    };
    asks_only.then_some(Answer::Received(received))
}

/// Runs an upload to its end. What a failed one wrote is removed, or kept where the caller may go on with it.
pub(super) async fn run<M, F, Fut>(
    uploads: &Uploads,
    asked: Asked,
    caller: &Caller,
    mut messages: Messages<M>,
    receive: F,
) -> Result<Answer, Problem>
where
    F: FnOnce(Uploads, Incoming, Messages<M>) -> Fut,
    Fut: Future<Output = (Incoming, Result<Upload, Error>)> + Send + 'static,
{
    let Asked { kind, limit, request_id, offset } = asked;
    if request_id.len() > MAX_REQUEST_ID_BYTES {
        let most = format!("must be at most {MAX_REQUEST_ID_BYTES} bytes");
        return Err(Problem::field("header.request_id", most));
    }
    let mut claim = None;
    let mut incoming = None;
    if request_id.is_empty() {
        if offset > 0 {
            return Err(Problem::field("header.offset", "is for an upload with a request_id"));
        }
    } else {
        let mut taken = uploads.claim(Key::new(kind, &caller.project, &request_id)).await;
        messages.cut = taken.cut.clone();
        let asks_only = messages.are_over().await?;
        // What was deleted since is no answer.
        if let Some(id) = taken.upload_id()
            && uploads.get(&id, caller).await.is_err()
        {
            taken.take();
        }
        if let Some(answer) = so_far(&taken.state, asks_only) {
            return Ok(answer);
        }
        incoming = uploads.resume(&mut taken, offset).await?;
        claim = Some(taken);
    }
    let incoming = match incoming {
        Some(incoming) => incoming,
        None => uploads.begin(kind, limit, caller).await?,
    };
    let receiving = receive(uploads.clone(), incoming, messages);
    let task = uploads.tasks().spawn(async move {
        let (incoming, received) = receiving.await;
        match claim {
            Some(claim) => claim.end(incoming, &received).await,
            None if received.is_err() => incoming.discard().await,
            None => {}
        }
        received
    });
    let received = task.await.map_err(|error| Problem::internal(format!("an upload ended badly: {error}")))?;
    Ok(Answer::Whole(received?))
}
