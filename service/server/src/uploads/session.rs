//! Uploads that may go on: what came of a stream that broke off is kept for a while, under the text that its caller chose.
//!
//! One stream at a time holds a session. Another one takes its place: a caller whose connection broke comes back before this
//! side knows of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hone_job::id::Kind;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::{Error, Incoming};
use crate::store::Upload;

/// How long what came is kept, and a finished upload is remembered.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// Most uploads that are kept unfinished: each may hold the part of a file in memory.
const MAX_PARKED: usize = 16;

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
    /// Its stream broke off.
    Parked(Box<Incoming>),
    /// It exists.
    Kept(Upload),
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<Key, Arc<Session>>>,
    parked: AtomicUsize,
}

#[derive(Default)]
struct Session {
    claims: Mutex<Claims>,
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Default)]
struct Claims {
    /// How often it has been claimed.
    count: u64,
    /// Ends the stream that holds it.
    cut: CancellationToken,
}

/// A session in the hands of a stream.
pub(crate) struct Claim {
    sessions: Arc<Sessions>,
    key: Key,
    session: Arc<Session>,
    number: u64,
    /// Cancelled when another stream wants it.
    pub(crate) cut: CancellationToken,
    pub(crate) state: OwnedMutexGuard<State>,
}

impl Sessions {
    /// Takes a session from whoever holds it; there is one for every key.
    pub(crate) async fn claim(self: &Arc<Self>, key: Key) -> Claim {
        let cut = CancellationToken::new();
        let (session, number) = {
            let mut open = lock(&self.open);
            let session = open.entry(key.clone()).or_default().clone();
            let mut claims = lock(&session.claims);
            claims.count += 1;
            std::mem::replace(&mut claims.cut, cut.clone()).cancel();
            let number = claims.count;
            drop(claims);
            (session, number)
        };
        let state = session.state.clone().lock_owned().await;
        Claim { sessions: self.clone(), key, session, number, cut, state }
    }

    /// Forgets a session, unless it has been claimed again.
    fn forget(&self, key: &Key, session: &Session, number: u64) -> bool {
        let mut open = lock(&self.open);
        let untouched = lock(&session.claims).count == number;
        if untouched {
            open.remove(key);
        }
        untouched
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

    /// What came so far, which is no longer parked.
    pub(crate) fn take(&mut self) -> State {
        if matches!(*self.state, State::Parked(_)) {
            self.sessions.parked.fetch_sub(1, Ordering::Relaxed);
        }
        std::mem::take(&mut *self.state)
    }

    /// The stream has ended: an upload is remembered, one that broke off is parked, what cannot become one is removed.
    pub(crate) async fn end(mut self, mut incoming: Incoming, received: &Result<Upload, Error>) {
        *self.state = match received {
            Ok(upload) => State::Kept(upload.clone()),
            Err(Error::Broken(_) | Error::Silent) if self.has_room() => {
                incoming.leave_room();
                State::Parked(Box::new(incoming))
            }
            Err(_) => {
                incoming.discard().await;
                State::Fresh
            }
        };
    }

    fn has_room(&self) -> bool {
        let one_more = |parked: usize| (parked < MAX_PARKED).then_some(parked + 1);
        self.sessions.parked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

/// A session that is let go of is forgotten at once when there is nothing in it, else after a while.
impl Drop for Claim {
    fn drop(&mut self) {
        let (sessions, session, key, number) =
            (self.sessions.clone(), self.session.clone(), self.key.clone(), self.number);
        if matches!(*self.state, State::Fresh) {
            sessions.forget(&key, &session, number);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            if !sessions.forget(&key, &session, number) {
                return;
            }
            if let State::Parked(incoming) = std::mem::take(&mut *session.state.lock().await) {
                sessions.parked.fetch_sub(1, Ordering::Relaxed);
                incoming.discard().await;
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
