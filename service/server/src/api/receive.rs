//! Streams of uploads: messages in, pieces of files out, whatever the kind of upload. Runs on a task of its own, so that
//! a caller who goes away leaves nothing behind.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hone_job::id::Kind;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};

use super::CHUNK_BYTES;
use super::intact::Broken;
use super::status::Problem;
use crate::caller::Caller;
use crate::store::Upload;
use crate::uploads::{Error, Hold, Incoming, Key, State, Uploads};

/// Longest silence of an upload.
const SILENCE: Duration = Duration::from_secs(120);

/// Bytes of a part that wait in memory for its turn.
pub(super) const PART_BYTES: usize = 8 * CHUNK_BYTES;

/// What a message costs in memory at least.
const LEAST_BYTES: usize = 1 << 10;

/// The messages of an upload.
pub(super) struct Messages<M> {
    stream: Streaming<M>,
    broken: Broken,
    /// What was read before it was wanted, in order; an end or a failure is the last.
    ahead: VecDeque<Result<Option<M>, Error>>,
    /// Room for that.
    room: Option<OwnedSemaphorePermit>,
    /// Told of every message, where other streams bring the same upload.
    alive: Option<watch::Sender<u64>>,
    /// Another stream has taken the place of this one.
    cut: CancellationToken,
}

impl<M: Message> Messages<M> {
    pub(super) fn of(request: Request<Streaming<M>>) -> Self {
        let broken = request.extensions().get().cloned().unwrap_or_default();
        let (stream, ahead, cut) = (request.into_inner(), VecDeque::new(), CancellationToken::new());
        Self { stream, broken, ahead, room: None, alive: None, cut }
    }

    /// Waits until all before `offset` has come, and reads the part meanwhile: what no one reads would hold up the other streams
    /// of its connection.
    async fn turn(&mut self, hold: &Hold, early: &Arc<Semaphore>, offset: u64) -> Result<(), Error> {
        let mut settled = hold.settled();
        let mut num_bytes = 0;
        while *settled.borrow_and_update() < offset {
            if self.room.is_none() {
                self.room = Some(early.clone().try_acquire_owned().map_err(|_| Error::Crowded)?);
            }
            let is_over = matches!(self.ahead.back(), Some(Err(_) | Ok(None)));
            tokio::select! {
                changed = tokio::time::timeout(SILENCE, settled.changed()) => {
                    changed.map_err(|_| Error::Silent)?.map_err(|_| Error::replaced())?;
                }
                () = hold.cut.cancelled() => return Err(Error::replaced()),
                next = self.read(), if !is_over => {
                    let sizes = next.iter().flatten().map(|message| message.encoded_len().max(LEAST_BYTES));
                    num_bytes += sizes.sum::<usize>();
                    if num_bytes > PART_BYTES + CHUNK_BYTES {
                        return Err(Error::invalid("chunk", format!("a part that comes early has at most {PART_BYTES} bytes")));
                    }
                    self.ahead.push_back(next);
                }
            }
        }
        Ok(())
    }

    /// Whether nothing more comes.
    async fn are_over(&mut self) -> Result<bool, Error> {
        let next = self.next().await?;
        let are_over = next.is_none();
        self.ahead.push_front(Ok(next));
        Ok(are_over)
    }

    /// The next message, or none at the end of a stream that came whole.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Error> {
        if let Some(next) = self.ahead.pop_front() {
            return next;
        }
        let cut = self.cut.clone();
        tokio::select! {
            next = self.read() => next,
            () = cut.cancelled() => Err(Error::replaced()),
        }
    }

    async fn read(&mut self) -> Result<Option<M>, Error> {
        let next = tokio::time::timeout(SILENCE, self.stream.message()).await.map_err(|_| Error::Silent)?;
        if let Some(alive) = &self.alive {
            alive.send_modify(|_| {});
        }
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
    /// Bytes of all its parts; 0 where it comes in one.
    pub(super) total_bytes: u64,
}

impl Asked {
    fn check(&self) -> Result<(), Problem> {
        let Self { request_id, offset, total_bytes, .. } = self;
        if request_id.len() > MAX_REQUEST_ID_BYTES {
            let most = format!("must be at most {MAX_REQUEST_ID_BYTES} bytes");
            return Err(Problem::field("header.request_id", most));
        }
        for (field, number) in [("header.offset", *offset), ("header.total_bytes", *total_bytes)] {
            if number > 0 && request_id.is_empty() {
                return Err(Problem::field(field, "is for an upload with a request_id"));
            }
        }
        if *total_bytes > 0 && offset >= total_bytes {
            let what = format!("is {offset}; an upload of {total_bytes} bytes has no part there");
            return Err(Problem::field("header.offset", what));
        }
        Ok(())
    }
}

/// How far an upload is.
pub(super) enum Answer {
    /// It exists.
    Whole(Upload),
    /// Names and bytes of the files that have come, when it is not whole.
    Received(Vec<(String, u64)>),
}

impl Answer {
    fn received(incoming: &Incoming) -> Self {
        Self::Received(incoming.received().map(|(name, size)| (name.to_owned(), size)).collect())
    }
}

/// What is known of an upload that has come whole, or that is only asked after.
fn so_far(state: &State, asks_only: bool) -> Option<Answer> {
    match state {
        State::Kept(upload) => Some(Answer::Whole(upload.clone())),
        State::Parked(incoming) => asks_only.then(|| Answer::received(incoming)),
        State::Fresh => asks_only.then(|| Answer::Received(Vec::new())),
    }
}

/// Runs a stream of an upload to its end. What a failed upload wrote is removed, or kept where the caller may go on with it.
pub(super) async fn run<M, F, Fut>(
    uploads: &Uploads,
    asked: Asked,
    caller: &Caller,
    mut messages: Messages<M>,
    receive: F,
) -> Result<Answer, Problem>
where
    M: Message,
    F: FnOnce(Uploads, Incoming, Messages<M>) -> Fut,
    Fut: Future<Output = (Incoming, Result<Option<Upload>, Error>)> + Send + 'static,
{
    asked.check()?;
    let Asked { kind, limit, request_id, offset, total_bytes } = asked;
    let total_bytes = Some(total_bytes).filter(|total| *total > 0);
    let mut claim = None;
    let mut incoming = None;
    if !request_id.is_empty() {
        let mut hold = uploads.hold(Key::new(kind, &caller.project, &request_id));
        messages.alive = Some(hold.alive());
        match total_bytes {
            Some(_) => messages.turn(&hold, uploads.early(), offset).await?,
            None => hold.take_over(),
        }
        messages.cut = hold.cut.clone();
        let mut taken = hold.claim().await?;
        let asks_only = messages.are_over().await?;
        // What was deleted since is no answer.
        if let Some(id) = taken.upload_id()
            && uploads.get(&id, caller).await.is_err()
        {
            taken.clear();
        }
        if let Some(answer) = so_far(&taken.state, asks_only) {
            return Ok(answer);
        }
        let received = taken.state.num_bytes();
        if total_bytes.is_some() && offset != received {
            return Err(Error::Moved { asked: offset, received }.into());
        }
        incoming = uploads.resume(&mut taken, offset, total_bytes).await?;
        claim = Some(taken);
    }
    let incoming = match incoming {
        Some(incoming) => incoming,
        None => uploads.begin(kind, limit, total_bytes, caller).await?,
    };
    let receiving = receive(uploads.clone(), incoming, messages);
    let task = uploads.tasks().spawn(async move {
        let (incoming, received) = receiving.await;
        let so_far = Answer::received(&incoming);
        match claim {
            Some(claim) => claim.end(incoming, &received).await,
            None if received.is_err() => incoming.discard().await,
            None => {}
        }
        received.map(|upload| upload.map_or(so_far, Answer::Whole))
    });
    let received = task.await.map_err(|error| Problem::internal(format!("an upload ended badly: {error}")))?;
    Ok(received?)
}
