//! Reports that the server has not acknowledged, and what it asked for: between the computing thread and the connection.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hone_proto::trainer::v1 as pb;
use prost::Message;
use tokio::sync::Notify;

use super::{Command, Error};

/// Shared by all handles and the task that keeps the connection.
///
/// A plain mutex: it is never held over an await, and the computing thread has no runtime.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Tells waiting threads that reports were acknowledged, or that nobody will.
    drained: Condvar,
    /// Tells the connection that there is something to send, or nothing more to do.
    filled: Notify,
    buffer_bytes: usize,
}

#[derive(Default)]
struct State {
    /// In the order of their numbers, without gaps.
    pending: VecDeque<pb::Report>,
    pending_bytes: usize,
    /// Number of the newest report.
    last_number: u64,
    /// Everything up to here is recorded by the server.
    acknowledged: u64,
    step: u64,
    cancel: bool,
    stop: bool,
    checkpoint: bool,
    /// Why no server will hear of this attempt again.
    lost: Option<Error>,
    /// The last report is acknowledged.
    finished: bool,
}

/// Why a number from the server cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// It has reports that this process never made.
    Ahead { server: u64, ours: u64 },
    /// It lacks reports that it had acknowledged, and which are gone here.
    Behind { server: u64, acknowledged: u64 },
}

impl Queue {
    pub(super) fn new(buffer_bytes: usize) -> Queue {
        Queue { state: Mutex::default(), drained: Condvar::new(), filled: Notify::new(), buffer_bytes }
    }

    // Every change below is whole before the guard is dropped, so a panic elsewhere leaves the state usable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a report and keeps it until it is acknowledged. Waits while the buffer is full, but for the last report;
    /// one that nobody will hear is dropped.
    pub(super) fn push(&self, body: pb::report::Body) {
        let is_last = matches!(body, pb::report::Body::Finished(_));
        let report = pb::Report { number: 0, time: Some(SystemTime::now().into()), body: Some(body) };
        let is_full = |state: &mut State| !is_last && state.pending_bytes > self.buffer_bytes && state.lost.is_none();
        let mut state = self.drained.wait_while(self.state(), is_full).unwrap_or_else(PoisonError::into_inner);
        if state.lost.is_some() {
            return;
        }
        state.last_number += 1;
        let report = pb::Report { number: state.last_number, ..report };
        state.pending_bytes += report.encoded_len();
        state.pending.push_back(report);
        drop(state);
        self.filled.notify_one();
    }

    /// The report after `number`, if there is one.
    pub(super) fn after(&self, number: u64) -> Option<pb::Report> {
        let state = self.state();
        let first = state.pending.front()?.number;
        state.pending.get(usize::try_from((number + 1).checked_sub(first)?).ok()?).cloned()
    }

    pub(super) fn has_after(&self, number: u64) -> bool {
        self.state().last_number > number
    }

    /// Waits until something was pushed, or the queue closed, since the last call.
    pub(super) async fn changed(&self) {
        self.filled.notified().await;
    }

    /// Takes the server's word on what it has, at the start of a connection. On the very first one, a server that has
    /// reports of this attempt already (the process was started anew) decides where numbers go on.
    pub(super) fn welcome(&self, server: u64) -> Result<(), Mismatch> {
        let mut state = self.state();
        if state.last_number == 0 {
            (state.last_number, state.acknowledged) = (server, server);
        } else if server > state.last_number {
            return Err(Mismatch::Ahead { server, ours: state.last_number });
        } else if server < state.acknowledged {
            return Err(Mismatch::Behind { server, acknowledged: state.acknowledged });
        }
        drop(state);
        self.acknowledge(server);
        Ok(())
    }

    /// Forgets reports up to `number`. A number seen before changes nothing, nor does one of the future.
    pub(super) fn acknowledge(&self, number: u64) {
        let mut state = self.state();
        if number > state.last_number {
            tracing::warn!(number, last = state.last_number, "the server acknowledges a report that was never made");
            return;
        }
        while state.pending.front().is_some_and(|report| report.number <= number) {
            let Some(report) = state.pending.pop_front() else { break };
            state.pending_bytes -= report.encoded_len();
            state.finished |= matches!(report.body, Some(pb::report::Body::Finished(_)));
        }
        state.acknowledged = state.acknowledged.max(number);
        drop(state);
        self.drained.notify_all();
    }

    /// Nobody will hear of this attempt again.
    pub(super) fn lose(&self, error: Error) {
        self.state().lost.get_or_insert(error);
        self.drained.notify_all();
    }

    /// Whether the last report is acknowledged.
    pub(super) fn is_finished(&self) -> bool {
        self.state().finished
    }

    pub(super) fn request(&self, command: Command) {
        let mut state = self.state();
        match command {
            Command::Cancel => state.cancel = true,
            Command::Stop => state.stop = true,
            Command::Checkpoint => state.checkpoint = true,
        }
    }

    pub(super) fn command(&self) -> Option<Command> {
        let mut state = self.state();
        if state.cancel {
            Some(Command::Cancel)
        } else if state.stop || state.lost.is_some() {
            Some(Command::Stop)
        } else {
            std::mem::take(&mut state.checkpoint).then_some(Command::Checkpoint)
        }
    }

    pub(super) fn set_step(&self, step: u64) {
        self.state().step = step;
    }

    /// Steps taken, and reports made.
    pub(super) fn progress(&self) -> (u64, u64) {
        let state = self.state();
        (state.step, state.last_number)
    }

    /// Waits until every report is acknowledged.
    pub(super) fn wait_until_empty(&self, patience: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let waits = |state: &mut State| !state.pending.is_empty() && state.lost.is_none();
        let waited = self.drained.wait_timeout_while(self.state(), patience, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.lost {
            Some(error) => Err(error.clone()),
            None if state.pending.is_empty() => Ok(()),
            None => Err(Error::Unacknowledged { unacknowledged: state.pending.len(), waited: start.elapsed() }),
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Queue")
            .field("pending", &state.pending.len())
            .field("last_number", &state.last_number)
            .field("acknowledged", &state.acknowledged)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Ahead { server, ours } => write!(
                f,
                "it has report {server} of this attempt, this process made {ours}: another process works on the attempt"
            ),
            Mismatch::Behind { server, acknowledged } => {
                write!(f, "it has reports up to {server}, but had acknowledged {acknowledged}: its records are older")
            }
        }
    }
}
