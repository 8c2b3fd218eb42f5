//! The attempts that run now: where a wish of the API or of the scheduler meets the trainer's connection and the one who
//! watches its process.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hone_job::machine::ResourceUsage;
use tokio::sync::watch;
use tracing::Span;

/// What an attempt is to do. A later one replaces an earlier one, never the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Train.
    Work,
    /// Save and leave, to make room.
    Pause,
    /// Save and leave, since the server is going away.
    Stop,
    /// Save and leave for good.
    Cancel,
}

/// Share of the time to leave in from which on it is near.
const NEAR: f64 = 0.8;

/// Step times that the median is taken of.
const RECENT_STEPS: usize = 31;

/// What a trainer has got done.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    progress: u64,
    recent_steps: VecDeque<f64>,
}

impl Pulse {
    /// Whether anything was done since the last word.
    fn take(&mut self, progress: u64) -> bool {
        std::mem::replace(&mut self.progress, progress) != progress
    }

    fn step(&mut self, seconds: f64) {
        if self.recent_steps.len() == RECENT_STEPS {
            self.recent_steps.pop_front();
        }
        self.recent_steps.push_back(seconds);
    }

    /// The longest time of a recent step, in seconds; 0 before the first.
    fn longest_step_seconds(&self) -> f64 {
        self.recent_steps.iter().copied().fold(0.0, f64::max)
    }

    /// The median time of a recent step, in seconds; 0 before the first.
    pub fn median_step_seconds(&self) -> f64 {
        let mut sorted: Vec<f64> = self.recent_steps.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }
}

/// The connection of a trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Connection {
    /// How many there were; the last one counts.
    number: u64,
    open: bool,
}

/// An attempt that runs.
#[derive(Debug)]
pub struct Attempt {
    /// The job.
    pub job_id: String,
    /// Number of the attempt within the job.
    pub number: u32,
    wish: watch::Sender<Wish>,
    /// Checkpoints asked for so far.
    checkpoints: watch::Sender<u64>,
    connection: watch::Sender<Connection>,
    pulse: watch::Sender<Pulse>,
    told_to_leave: AtomicBool,
    warned_of_grace: AtomicBool,
    usage: Mutex<Option<ResourceUsage>>,
    /// The span of its start, until its trainer has dialled.
    start: Mutex<Option<Span>>,
}

impl Attempt {
    fn new(job_id: &str, number: u32) -> Self {
        Self {
            job_id: job_id.to_string(),
            number,
            wish: watch::Sender::new(Wish::Work),
            checkpoints: watch::Sender::new(0),
            pulse: watch::Sender::new(Pulse::default()),
            told_to_leave: AtomicBool::new(false),
            warned_of_grace: AtomicBool::new(false),
            usage: Mutex::default(),
            start: Mutex::default(),
            connection: watch::Sender::new(Connection::default()),
        }
    }

    /// Asks for something.
    pub fn wish(&self, wish: Wish) {
        self.wish.send_if_modified(|now| std::mem::replace(now, wish.max(*now)) < wish);
    }

    /// Asks for a checkpoint at the next step boundary.
    pub fn want_checkpoint(&self) {
        self.checkpoints.send_modify(|count| *count += 1);
    }

    /// How many checkpoints were asked for, now and later.
    pub fn wanted_checkpoints(&self) -> watch::Receiver<u64> {
        self.checkpoints.subscribe()
    }

    /// The trainer's computing thread has got so far.
    pub fn note_progress(&self, progress: u64) {
        self.pulse.send_if_modified(|pulse| pulse.take(progress));
    }

    /// The trainer took a step in so many seconds.
    pub fn note_step(&self, seconds: f64) {
        self.pulse.send_modify(|pulse| pulse.step(seconds));
    }

    /// The trainer uses so much of its machine.
    pub fn note_usage(&self, usage: &ResourceUsage) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage.clone());
    }

    /// The trainer took so long to save. Says, once, when a step and two saves (the one that may be under way, and the last) come
    /// near what it has to leave in.
    pub fn note_save(&self, seconds: f64, stop_grace: Duration) {
        let needed = self.pulse.borrow().longest_step_seconds() + 2.0 * seconds;
        let is_near = needed > NEAR * stop_grace.as_secs_f64();
        if is_near && !self.warned_of_grace.swap(true, Ordering::Relaxed) {
            let (job_id, attempt, save_seconds) = (&self.job_id, self.number, seconds);
            tracing::warn!(
                job_id,
                attempt,
                save_seconds,
                needed_seconds = needed,
                ?stop_grace,
                "a trainer that is told to leave may be killed before it has saved; allow more time with --stop-grace"
            );
        }
    }

    /// The trainer was told to leave, by somebody else than this server.
    pub fn note_told_to_leave(&self) {
        self.told_to_leave.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn was_told_to_leave(&self) -> bool {
        self.told_to_leave.load(Ordering::Relaxed)
    }

    /// Signs of what the trainer gets done, now and later.
    pub fn pulses(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// What is asked for, now and later.
    pub fn wishes(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    /// Keeps the span of the start until the trainer has dialled.
    pub fn keep_start(&self, span: Span) {
        *self.start.lock().unwrap_or_else(PoisonError::into_inner) = Some(span);
    }

    /// The trainer has dialled; a connection it had before is void.
    pub fn connect(self: &Arc<Self>) -> Link {
        drop(self.start.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut number = 0;
        self.connection.send_modify(|connection| {
            connection.number += 1;
            connection.open = true;
            number = connection.number;
        });
        Link { attempt: self.clone(), number }
    }

    /// Waits until the trainer is connected.
    pub async fn connected(&self) {
        self.wait_for(|connection| connection.open).await;
    }

    /// Waits until the trainer is not connected, so that all it said has been heard.
    pub async fn disconnected(&self) {
        self.wait_for(|connection| !connection.open).await;
    }

    async fn wait_for(&self, condition: impl FnMut(&Connection) -> bool) {
        // The sender is in `self`, so the wait never ends without the condition.
        let _ = self.connection.subscribe().wait_for(condition).await;
    }
}

/// A trainer's connection; dropping it tells that it is closed.
#[derive(Debug)]
pub struct Link {
    attempt: Arc<Attempt>,
    number: u64,
}

impl Link {
    /// The attempt.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// Waits until the same attempt has dialled again.
    pub async fn superseded(&self) {
        let number = self.number;
        self.attempt.wait_for(|connection| connection.number > number).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.attempt.connection.send_if_modified(|connection| {
            let last = connection.number == self.number;
            connection.open &= !last;
            last
        });
    }
}

/// The attempts that run now, by job.
#[derive(Debug, Default)]
pub struct Attempts {
    running: Mutex<HashMap<String, Arc<Attempt>>>,
}

impl Attempts {
    /// An attempt begins; it counts as running until the guard is dropped.
    pub fn begin(self: &Arc<Self>, job_id: &str, number: u32) -> Running {
        let attempt = Arc::new(Attempt::new(job_id, number));
        self.running().insert(job_id.to_string(), attempt.clone());
        Running { attempts: self.clone(), attempt }
    }

    /// The attempt of a job that runs now.
    pub fn get(&self, job_id: &str) -> Option<Arc<Attempt>> {
        self.running().get(job_id).cloned()
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.running().len()
    }

    /// What the trainers use of their machine, as they last told.
    pub fn usage(&self) -> impl Iterator<Item = ResourceUsage> {
        let running = self.running();
        let usage =
            running.values().filter_map(|attempt| attempt.usage.lock().unwrap_or_else(PoisonError::into_inner).clone());
        usage.collect::<Vec<_>>().into_iter()
    }

    /// Asks all to save and leave.
    pub fn stop_all(&self) {
        for attempt in self.running().values() {
            attempt.wish(Wish::Stop);
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Attempt>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an attempt among those that run.
#[derive(Debug)]
pub struct Running {
    attempts: Arc<Attempts>,
    attempt: Arc<Attempt>,
}

impl std::ops::Deref for Running {
    type Target = Arc<Attempt>;

    fn deref(&self) -> &Arc<Attempt> {
        &self.attempt
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.attempts.running();
        if running.get(&self.attempt.job_id).is_some_and(|attempt| Arc::ptr_eq(attempt, &self.attempt)) {
            running.remove(&self.attempt.job_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_not_taken_back_by_a_stop() {
        let attempts = Arc::new(Attempts::default());
        let running = attempts.begin("job-1", 1);
        let wishes = running.wishes();
        running.wish(Wish::Cancel);
        attempts.stop_all();
        assert_eq!(*wishes.borrow(), Wish::Cancel);
        drop(running);
        assert_eq!(attempts.count(), 0);
    }

    #[test]
    fn a_save_that_takes_nearly_all_the_time_there_is_to_leave_is_warned_of_once() {
        let attempts = Arc::new(Attempts::default());
        let running = attempts.begin("job-1", 1);
        let grace = Duration::from_secs(100);
        running.note_step(20.0);
        let is_warned = |running: &Running| running.warned_of_grace.load(Ordering::Relaxed);
        running.note_save(29.0, grace);
        assert!(!is_warned(&running), "78 of 100 s");
        running.note_save(31.0, grace);
        assert!(is_warned(&running), "82 of 100 s");
    }

    #[tokio::test]
    async fn closing_a_connection_that_was_replaced_leaves_the_new_one_open() {
        let attempts = Arc::new(Attempts::default());
        let running = attempts.begin("job-1", 1);
        let first = running.connect();
        let second = running.connect();
        first.superseded().await;
        drop(first);
        running.connected().await;
        drop(second);
        running.disconnected().await;
    }
}
