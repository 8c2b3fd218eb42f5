//! The events of a job as one stream, whatever happens to the connection: each event once, in order, from any number on.
//!
//! # Recovery
//!
//! A watch is a small state machine, stepped by [`Watcher::step`]: it opens a stream after the last event seen, reads it,
//! and on trouble yields the error and goes back to opening. Errors that waiting cannot heal end it. The waiting itself
//! is no part of the machine: [`with_backoff`] wraps it, so that each can be tested alone.
//!
//! ```text
//! Disconnected --opened--> Streaming --ended--> Confirming --job is over--> Done
//!      ^                       |                    |
//!      +----- error, silence, gap, ended early -----+          definite error --> Done
//! ```

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use hone_proto::v1 as pb;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::client::Client;
use crate::error::{Error, Result, RpcError};
use crate::job::is_final;
use crate::retry::RetryPolicy;

/// Longest wait of a watch between two attempts to get its stream back.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(30);

/// How often the same gap may be seen: the first may be a lagging server, the third is a lost event.
const MAX_GAPS: u32 = 3;

/// The events of a job; ends after the last event of a job that is over.
///
/// ```no_run
/// use futures::TryStreamExt;
///
/// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
/// let events: Vec<_> = job.watch().try_collect().await?;
/// println!("{} events, from the first to the last", events.len());
/// # Ok(())
/// # }
/// ```
pub type JobEvents = BoxStream<'static, Result<pb::JobEvent>>;

/// The events of a job, with word of every interruption.
///
/// ```no_run
/// use futures::StreamExt;
///
/// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
/// let mut updates = job.updates_after(0);
/// while let Some(update) = updates.next().await {
///     println!("{:?}", update?);
/// }
/// # Ok(())
/// # }
/// ```
pub type JobUpdates = BoxStream<'static, Result<Update>>;

/// What a watch has to say.
///
/// ```no_run
/// use futures::StreamExt;
/// use hone_client::Update;
///
/// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
/// let mut updates = job.updates_after(0);
/// while let Some(update) = updates.next().await {
///     if let Update::Reconnecting { error, delay } = update? {
///         eprintln!("{error}; trying again in {delay:?}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Update {
    /// The next event. Its `event` is absent when the server sent a kind this client does not know.
    Event(Box<pb::JobEvent>),
    /// The stream was lost; the next attempt to get it back is made after `delay`.
    Reconnecting {
        /// Why it was lost, or not regained.
        error: Error,
        /// The wait before the next attempt.
        delay: Duration,
    },
}

/// Follows `job_id` from the event after `after_sequence`.
pub(crate) fn updates(client: Client, job_id: String, after_sequence: u64) -> JobUpdates {
    let options = client.options().clone();
    let source = ServerEvents { client, job_id };
    let watcher = Watcher::new(source, after_sequence, options.watch_timeout);
    let delays = RetryPolicy { max_delay: MAX_RECONNECT_DELAY, ..options.retry };
    with_backoff(watcher.into_stream(), delays, options.watch_give_up_after).boxed()
}

/// Leaves out the interruptions.
pub(crate) fn events(updates: JobUpdates) -> JobEvents {
    updates
        .filter_map(|update| async {
            match update {
                Ok(Update::Event(event)) => Some(Ok(*event)),
                Ok(Update::Reconnecting { .. }) => None,
                Err(error) => Some(Err(error)),
            }
        })
        .boxed()
}

/// Where events come from: a server, or a script in tests.
pub(crate) trait EventSource: Send + 'static {
    /// Opens a stream of the events after a number; an absent event is a heartbeat.
    fn open(&mut self, after_sequence: u64) -> BoxFuture<'_, Result<EventStream>>;
    /// The job as it stands.
    fn job(&mut self) -> BoxFuture<'_, Result<pb::Job>>;
}

pub(crate) type EventStream = BoxStream<'static, Result<Option<pb::JobEvent>>>;

struct ServerEvents {
    client: Client,
    job_id: String,
}

impl EventSource for ServerEvents {
    fn open(&mut self, after_sequence: u64) -> BoxFuture<'_, Result<EventStream>> {
        Box::pin(async move {
            let job_id = self.job_id.clone();
            let failed = move |status: Status| Error::from(RpcError::new("WatchJob", job_id.clone(), &status));
            let request = pb::WatchJobRequest { job_id: self.job_id.clone(), after_sequence };
            let response = self.client.job_stub().watch_job(request).await.map_err(&failed)?;
            let responses = response.into_inner();
            Ok(responses.map(move |item| item.map(|response| response.event).map_err(&failed)).boxed())
        })
    }

    fn job(&mut self) -> BoxFuture<'_, Result<pb::Job>> {
        Box::pin(async move { self.client.get_job(&self.job_id).await })
    }
}

/// What a step found out.
#[derive(Debug)]
pub(crate) enum Signal {
    /// The next event.
    Event(Box<pb::JobEvent>),
    /// The stream is open and the server has spoken.
    Alive,
}

enum State {
    /// No stream: open one after the last event seen.
    Disconnected,
    /// Reading.
    Streaming(EventStream),
    /// The server ended the stream in good order: is the job over?
    Confirming,
    /// Nothing more will come.
    Done,
}

pub(crate) struct Watcher<S> {
    source: S,
    /// Sequence number of the last event yielded.
    cursor: u64,
    /// Whether an event told of a final state.
    over: bool,
    /// How often events after the cursor were missing, since it last moved.
    gaps: u32,
    /// Longest silence of a stream.
    silence: Duration,
}

impl<S: EventSource> Watcher<S> {
    pub(crate) fn new(source: S, after_sequence: u64, silence: Duration) -> Self {
        Self { source, cursor: after_sequence, over: false, gaps: 0, silence }
    }

    /// The machine at work: steps until there is something to say.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Signal>> + Send {
        stream::unfold((self, State::Disconnected), |(mut watcher, mut state)| async move {
            while !matches!(state, State::Done) {
                let (said, next) = watcher.step(state).await;
                state = next;
                if let Some(said) = said {
                    return Some((said, (watcher, state)));
                }
            }
            None
        })
    }

    async fn step(&mut self, state: State) -> (Option<Result<Signal>>, State) {
        match state {
            State::Disconnected => match timeout(self.silence, self.source.open(self.cursor)).await {
                Ok(Ok(stream)) => (None, State::Streaming(stream)),
                Ok(Err(error)) => failed(error),
                Err(_) => failed(self.silent()),
            },
            State::Streaming(mut stream) => match timeout(self.silence, stream.next()).await {
                Ok(Some(Ok(None))) => (Some(Ok(Signal::Alive)), State::Streaming(stream)),
                Ok(Some(Ok(Some(event)))) => self.take(event, stream),
                Ok(Some(Err(error))) => failed(error),
                Ok(None) if self.over => (None, State::Done),
                Ok(None) => (None, State::Confirming),
                Err(_) => failed(self.silent()),
            },
            State::Confirming => match timeout(self.silence, self.source.job()).await {
                Ok(Ok(job)) if is_final(job.state()) && job.last_sequence <= self.cursor => (None, State::Done),
                Ok(Ok(_)) => failed(interrupted("the stream ended before the job did")),
                Ok(Err(error)) => failed(error),
                Err(_) => failed(self.silent()),
            },
            State::Done => (None, State::Done),
        }
    }

    /// Yields the event that is due, skips one seen before, and goes back for one that is missing.
    fn take(&mut self, event: pb::JobEvent, stream: EventStream) -> (Option<Result<Signal>>, State) {
        let due = self.cursor + 1;
        if event.sequence < due {
            return (None, State::Streaming(stream));
        }
        if event.sequence > due {
            return self.gap(due, event.sequence);
        }
        self.cursor = due;
        self.gaps = 0;
        if let Some(pb::job_event::Event::StateChanged(change)) = &event.event {
            self.over = is_final(change.to());
        }
        (Some(Ok(Signal::Event(Box::new(event)))), State::Streaming(stream))
    }

    fn gap(&mut self, due: u64, found: u64) -> (Option<Result<Signal>>, State) {
        self.gaps += 1;
        if self.gaps < MAX_GAPS {
            return failed(interrupted(&format!("event {found} came where {due} was due")));
        }
        let lost = format!("event {due} is missing: {found} came in its place {MAX_GAPS} times");
        failed(Error::contract("WatchJob", lost))
    }

    fn silent(&self) -> Error {
        interrupted(&format!("nothing heard for {:?}", self.silence))
    }
}

fn interrupted(why: &str) -> Error {
    RpcError::new("WatchJob", "", &Status::unavailable(why)).into()
}

fn failed(error: Error) -> (Option<Result<Signal>>, State) {
    let next = if is_definite(&error) { State::Done } else { State::Disconnected };
    (Some(Err(error)), next)
}

/// Whether asking again would give the same answer. A watch only reads, so everything else is worth another try: a broken
/// connection shows as UNAVAILABLE, UNKNOWN, INTERNAL or CANCELLED, depending on where it broke.
fn is_definite(error: &Error) -> bool {
    match error.code() {
        Some(code) => matches!(
            code,
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::DataLoss
        ),
        None => true,
    }
}

/// Waits after every error that waiting may heal, longer each time, and starts afresh once the server has spoken.
/// After `give_up_after` without a word the last error is final.
pub(crate) fn with_backoff(
    signals: impl Stream<Item = Result<Signal>> + Send + 'static,
    delays: RetryPolicy,
    give_up_after: Duration,
) -> impl Stream<Item = Result<Update>> + Send {
    let backoff =
        Backoff { delays, give_up_after, failures: 0, failing_since: None, pause: Duration::ZERO, over: false };
    stream::unfold((signals.boxed(), backoff), |(mut signals, mut backoff)| async move {
        loop {
            if backoff.over {
                return None;
            }
            tokio::time::sleep(std::mem::take(&mut backoff.pause)).await;
            if let Some(said) = backoff.hear(signals.next().await?) {
                return Some((said, (signals, backoff)));
            }
        }
    })
}

struct Backoff {
    delays: RetryPolicy,
    give_up_after: Duration,
    failures: u32,
    failing_since: Option<Instant>,
    /// The wait before the stream is asked again.
    pause: Duration,
    over: bool,
}

impl Backoff {
    fn hear(&mut self, signal: Result<Signal>) -> Option<Result<Update>> {
        let error = match signal {
            Ok(signal) => {
                (self.failures, self.failing_since) = (0, None);
                return match signal {
                    Signal::Event(event) => Some(Ok(Update::Event(event))),
                    Signal::Alive => None,
                };
            }
            Err(error) => error,
        };
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let asked = error.rpc().and_then(|rpc| rpc.retry_after);
        self.over = is_definite(&error) || since.elapsed() >= self.give_up_after || self.delays.is_too_long(asked);
        if self.over {
            return Some(Err(error));
        }
        self.failures = self.failures.saturating_add(1);
        self.pause = self.delays.delay(self.failures, asked);
        tracing::debug!(%error, delay = ?self.pause, "the watch lost its stream");
        Some(Ok(Update::Reconnecting { error, delay: self.pause }))
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
