//! Streams of uploads: messages in, pieces of files out, whatever the kind of upload. Runs on a task of its own, so that
//! a caller who goes away leaves nothing behind.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Request, Status, Streaming};

use super::CHUNK_BYTES;
use super::intact::Broken;
use super::status::Problem;
use crate::store::Upload;
use crate::uploads::{Error, Incoming, Uploads};

/// Longest silence of an upload.
const SILENCE: Duration = Duration::from_secs(120);

/// The messages of an upload.
pub(super) struct Messages<M> {
    stream: Streaming<M>,
    broken: Broken,
}

impl<M> Messages<M> {
    pub(super) fn of(request: Request<Streaming<M>>) -> Self {
        let broken = request.extensions().get().cloned().unwrap_or_default();
        Self { stream: request.into_inner(), broken }
    }

    /// The next message, or none at the end of a stream that came whole.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Error> {
        let next = tokio::time::timeout(SILENCE, self.stream.message()).await.map_err(|_| Error::Silent)?;
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

/// Runs an upload to its end and removes what a failed one wrote.
pub(super) async fn run<F, Fut>(uploads: &Uploads, incoming: Incoming, receive: F) -> Result<Upload, Status>
where
    F: FnOnce(Uploads, Incoming) -> Fut,
    Fut: Future<Output = (Incoming, Result<Upload, Error>)> + Send + 'static,
{
    let receiving = receive(uploads.clone(), incoming);
    let task = uploads.tasks().spawn(async move {
        let (incoming, received) = receiving.await;
        if received.is_err() {
            incoming.discard().await;
        }
        received
    });
    let received = task.await.map_err(|error| Problem::internal(format!("an upload ended badly: {error}")))?;
    Ok(received.map_err(Problem::from)?)
}
