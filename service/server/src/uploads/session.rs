//! Uploads that may go on: what came of a stream that broke off is kept for a while, under the text that its caller chose.
//!
//! One stream at a time writes. Another one takes its place: a caller whose connection broke comes back before this side knows
//! of it. Parts of an upload do not: they are here together, and each waits for its turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hone_job::id::Kind;
use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, Incoming};
use crate::store::Upload;

/// How long what came is kept, and a finished upload is remembered.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(300);

/// Most uploads that are kept unfinished: each may hold the part of a file in memory.
pub(super) const MAX_PARKED: usize = 16;

/// What a session is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) project: String,
    pub(crate) is_model: bool,
    pub(crate) request_id: String,
}

impl Key {
    pub(crate) fn new(kind: Kind, project: &str, request_id: &str) -> Self {
        Self { project: project.to_owned(), is_model: kind == Kind::Model, request_id: request_id.to_owned() }
    }
}

/// How far an upload is.
#[derive(Default)]
pub(crate) enum State {
    /// Nothing of it is here.
    #[default]
    Fresh,
    /// Some of it has come.
    Parked(Box<Incoming>),
    /// It exists.
    Kept(Upload),
}

impl State {
    /// Bytes that have come.
    pub(crate) fn num_bytes(&self) -> u64 {
        match self {
            State::Fresh => 0,
            State::Parked(incoming) => incoming.num_bytes,
            State::Kept(upload) => upload.size_bytes(),
        }
    }
}

/// All sessions.
pub(crate) struct Sessions {
    open: Mutex<HashMap<Key, Arc<Session>>>,
    parking: Arc<Semaphore>,
}

#[derive(Default)]
struct Session {
    streams: Mutex<Streams>,
    state: Arc<tokio::sync::Mutex<State>>,
    /// Bytes that have come, without those of the stream that writes; marked as changed whenever any stream brings something.
    settled: watch::Sender<u64>,
}

#[derive(Default)]
struct Streams {
    /// Those that are here.
    open: usize,
    /// Those that have ever been.
    count: u64,
    /// Ends all of them that came since it was made.
    cut: CancellationToken,
}

/// A session that a stream belongs to. Once its last stream has gone it is forgotten: at once when there is nothing in it, else
/// after a while.
pub(crate) struct Hold {
    sessions: Arc<Sessions>,
    key: Key,
    session: Arc<Session>,
    /// Cancelled when another stream takes the place of this one.
    pub(crate) cut: CancellationToken,
}

/// A session in the hands of the stream that writes.
pub(crate) struct Claim {
    pub(crate) state: OwnedMutexGuard<State>,
    hold: Hold,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { open: Mutex::default(), parking: Arc::new(Semaphore::new(MAX_PARKED)) }
    }
}

impl Sessions {
    /// The session of a key, for one more stream.
    pub(crate) fn hold(self: &Arc<Self>, key: Key) -> Hold {
        let mut open = lock(&self.open);
        let session = open.entry(key.clone()).or_default().clone();
        let cut = {
            let mut streams = lock(&session.streams);
            streams.open += 1;
            streams.count += 1;
            streams.cut.clone()
        };
        Hold { sessions: self.clone(), key, session, cut }
    }

    /// Forgets a session, unless there has been another stream.
    fn forget(&self, key: &Key, session: &Session, number: u64) -> bool {
        let mut open = lock(&self.open);
        let untouched = lock(&session.streams).count == number;
        if untouched {
            open.remove(key);
        }
        untouched
    }
}

impl Hold {
    /// Bytes that have come, without those of the stream that writes.
    pub(crate) fn settled(&self) -> watch::Receiver<u64> {
        self.session.settled.subscribe()
    }

    /// Whoever waits for the upload to go on may be told here that something came.
    pub(crate) fn alive(&self) -> watch::Sender<u64> {
        self.session.settled.clone()
    }

    /// Takes the place of all streams before this one.
    pub(crate) fn take_over(&mut self) {
        self.cut = CancellationToken::new();
        std::mem::replace(&mut lock(&self.session.streams).cut, self.cut.clone()).cancel();
    }

    /// Takes the session, once the stream that writes has let go of it.
    pub(crate) async fn claim(self) -> Result<Claim, Error> {
        let state = self.session.state.clone().lock_owned().await;
        match self.cut.is_cancelled() {
            true => Err(Error::replaced()),
            false => Ok(Claim { state, hold: self }),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut open = lock(&self.sessions.open);
        let number = {
            let mut streams = lock(&self.session.streams);
            streams.open -= 1;
            if streams.open > 0 {
                return;
            }
            streams.count
        };
        let kept_for = match self.session.state.try_lock().as_deref_mut() {
            Ok(State::Kept(_)) => KEPT_FOR,
            Ok(State::Parked(incoming)) => match incoming.waits(&self.sessions.parking) {
                true => KEPT_FOR,
                false => Duration::ZERO,
            },
            Ok(State::Fresh) | Err(_) => {
                open.remove(&self.key);
                return;
            }
        };
        drop(open);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let until = Instant::now() + kept_for;
        runtime.spawn(expire(self.sessions.clone(), self.key.clone(), self.session.clone(), number, until));
    }
}

/// Forgets a session in time, and removes what it holds, unless another stream comes.
async fn expire(sessions: Arc<Sessions>, key: Key, session: Arc<Session>, number: u64, until: Instant) {
    tokio::time::sleep_until(until).await;
    if sessions.forget(&key, &session, number)
        && let State::Parked(incoming) = std::mem::take(&mut *session.state.lock().await)
    {
        incoming.discard().await;
    }
}

impl Claim {
    /// The id of the upload that this became.
    pub(crate) fn upload_id(&self) -> Option<String> {
        match &*self.state {
            State::Kept(upload) => Some(upload.id.clone()),
            State::Fresh | State::Parked(_) => None,
        }
    }

    /// What came so far, for the stream that goes on with it.
    pub(super) fn take(&mut self) -> State {
        std::mem::take(&mut *self.state)
    }

    /// It begins anew; gives what came so far.
    pub(crate) fn clear(&mut self) -> State {
        self.put(State::Fresh)
    }

    /// The stream has ended: an upload is remembered, one that is not whole is parked, what cannot become one is removed.
    pub(crate) async fn end(mut self, incoming: Incoming, received: &Result<Option<Upload>, Error>) {
        let state = match received {
            Ok(Some(upload)) => State::Kept(upload.clone()),
            Ok(None) | Err(Error::Broken(_) | Error::Silent) => State::Parked(Box::new(incoming)),
            Err(_) => {
                incoming.discard().await;
                State::Fresh
            }
        };
        self.put(state);
    }

    fn put(&mut self, state: State) -> State {
        let num_bytes = state.num_bytes();
        let before = std::mem::replace(&mut *self.state, state);
        self.hold.session.settled.send_replace(num_bytes);
        before
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
