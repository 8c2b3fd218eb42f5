//! Rows of objects on their way through understanding and tokenising: one thread reads, several tokenise.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use hone_job::event::RowNote;
use tokio::runtime::Handle;

use super::{Error, Progress};
use crate::ends::is_endless;
use crate::example::understand_for;
use crate::order::RowHash;
use crate::source::{self, Row, RowResult};
use crate::storage::Location;
use crate::template;
use crate::tokenize::{Example, RowTokenizer};

/// Rows that go to a tokenising thread at once.
const CHUNK_ROWS: usize = 64;
/// Rows between two calls of the progress callback.
const PROGRESS_ROWS: u64 = 1024;

/// What became of a row before the length policy.
pub(super) type Outcome = Result<Understood, RowNote>;

/// A row with what must be known of it beside its tokens.
pub(super) struct Understood {
    pub(super) example: Example,
    pub(super) hash: RowHash,
    /// Name of its kind.
    pub(super) kind: &'static str,
    /// Whether a trained stretch of it ends without an end token.
    pub(super) is_endless: bool,
}

/// Reads rows and has them tokenised.
pub(super) struct Reading<'a> {
    pub(super) rows: &'a RowTokenizer,
    pub(super) end_ids: &'a [u32],
    pub(super) runtime: &'a Handle,
    pub(super) threads: usize,
    pub(super) progress: Progress,
    /// Rows so far, of all objects.
    pub(super) rows_read: u64,
}

/// Rows that were tokenised, by the place of their chunk, until those before them are there.
type Done = Mutex<BTreeMap<usize, Vec<Outcome>>>;

impl Reading<'_> {
    /// Reads and tokenises the rows of some objects, and hands on what became of each, in reading order. What waits is
    /// bounded, however many rows there are.
    pub(super) fn each(
        &mut self,
        objects: &[Location],
        take: &mut dyn FnMut(Outcome) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let done = Done::default();
        let threads = self.threads.max(1);
        let (send, receive) = mpsc::sync_channel::<(usize, Vec<RowResult>)>(2 * threads);
        let receive = Mutex::new(receive);
        let (rows, end_ids) = (self.rows, self.end_ids);
        let mut next = 0;
        thread::scope(|scope| {
            for _ in 0..threads {
                let worker = thread::Builder::new().stack_size(template::STACK_BYTES);
                let spawned = worker.spawn_scoped(scope, || {
                    loop {
                        // In a statement of its own, so that the lock is open while rows are tokenised.
                        let chunk = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok((number, chunk)) = chunk else { break };
                        let outcomes = chunk.into_iter().map(|row| outcome(rows, end_ids, row?)).collect();
                        done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, outcomes);
                    }
                });
                spawned.expect("the system has room for a thread");
            }
            self.send_chunks(objects, send, &mut || hand_on(&done, &mut next, take))
        })?;
        hand_on(&done, &mut next, take)
    }

    /// Sends rows to be tokenised, and after each chunk has what is done handed on.
    fn send_chunks(
        &mut self,
        objects: &[Location],
        send: mpsc::SyncSender<(usize, Vec<RowResult>)>,
        hand_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut chunk = Vec::with_capacity(CHUNK_ROWS);
        let mut number = 0;
        for object in objects {
            for row in source::read(object, self.runtime)? {
                chunk.push(row?);
                self.rows_read += 1;
                if self.rows_read.is_multiple_of(PROGRESS_ROWS) {
                    (self.progress)(self.rows_read);
                }
                if chunk.len() == CHUNK_ROWS {
                    // No receiver is left only when all workers panicked, which the scope reports.
                    let _ = send.send((number, std::mem::take(&mut chunk)));
                    number += 1;
                    hand_on()?;
                }
            }
        }
        let _ = send.send((number, chunk));
        (self.progress)(self.rows_read);
        Ok(())
    }
}

/// Hands on the chunks from `next` on, as far as they follow one another.
fn hand_on(done: &Done, next: &mut usize, take: &mut dyn FnMut(Outcome) -> Result<(), Error>) -> Result<(), Error> {
    loop {
        let chunk = done.lock().unwrap_or_else(PoisonError::into_inner).remove(next);
        let Some(chunk) = chunk else { return Ok(()) };
        *next += 1;
        chunk.into_iter().try_for_each(&mut *take)?;
    }
}

fn outcome(rows: &RowTokenizer, end_ids: &[u32], row: Row) -> Outcome {
    let content = understand_for(&row.value, rows.wanted()).map_err(|what| row.note(what))?;
    let example = rows.example(&content, row.object.clone(), row.number);
    let hash = RowHash::of(&row.value);
    let example = example.map_err(|error| row.note(error.to_string()))?;
    let is_endless = example.documents.iter().any(|document| is_endless(&document.labels, end_ids));
    Ok(Understood { is_endless, example, hash, kind: content.kind() })
}
