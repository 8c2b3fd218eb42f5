//! One attempt from its process's start to its end: waits, kills when it must, and judges an end that the trainer did not
//! report itself. An attempt comes in; a settled job goes out.

use std::sync::Arc;
use std::time::Duration;

use hone_job::failure::{Failure, Reason};
use tokio::time::{Instant, sleep_until};

use crate::attempts::{Attempt, Pulse, Running, Wish};
use crate::executor::{Exit, Process};
use crate::jobs::Jobs;
use crate::record::{Change, JobRecord, Refusal, preempted};
use crate::store::{self, Error};

mod verdict;

use verdict::verdict;

/// How long the reports of a trainer that has ended may still be on their way.
const LAST_REPORTS: Duration = Duration::from_secs(10);

/// Waits between tries of a store that fails, so that no job stays without its end.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Patience with trainers.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a trainer may take to dial.
    pub attach_timeout: Duration,
    /// How long a trainer may take to leave once it was asked to.
    pub stop_grace: Duration,
    /// How long a trainer may get nothing done; longer where its steps are long.
    pub stall_timeout: Duration,
}

/// A trainer has stalled when it got nothing done for as long as so many of its median steps, but not before the
/// stall timeout.
const STALLED_STEPS: f64 = 20.0;

/// Why the supervisor killed a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// It never dialled.
    Silent,
    /// It did not leave when asked.
    Slow,
    /// It got nothing done.
    Stalled,
}

/// Watches attempts.
#[derive(Clone)]
pub struct Supervisor {
    /// The jobs whose attempts these are.
    pub jobs: Arc<Jobs>,
    /// Patience with them.
    pub patience: Patience,
}

impl Supervisor {
    /// Stays with an attempt until its process has ended and its job says so.
    pub async fn attend(&self, running: Running, mut process: Box<dyn Process>) {
        let (exit, killed) = self.wait(&running, process.as_mut()).await;
        let (job_id, attempt) = (running.job_id.as_str(), running.number);
        tracing::info!(job_id, attempt, status = ?exit.status, "the trainer ended");
        // Whatever it said before its end is heard first: it may well have been that it succeeded.
        if tokio::time::timeout(LAST_REPORTS, running.disconnected()).await.is_err() {
            tracing::warn!(job_id, attempt, "the trainer has ended, its connection has not");
        }
        self.settle(&running, &exit, killed).await;
    }

    async fn wait(&self, attempt: &Attempt, process: &mut dyn Process) -> (Exit, Option<Killed>) {
        let mut wishes = attempt.wishes();
        let mut pulses = attempt.pulses();
        let mut killed = None;
        let mut dialling = true;
        let mut leaving = false;
        let mut deadline = Some((Instant::now() + self.patience.attach_timeout, Killed::Silent));
        loop {
            let until = deadline.map_or_else(Instant::now, |(until, _)| until);
            tokio::select! {
                exit = process.ended() => return (exit, killed),
                () = attempt.connected(), if dialling => {
                    dialling = false;
                    if matches!(deadline, Some((_, Killed::Silent))) {
                        deadline = Some((Instant::now() + self.patience.stall_timeout, Killed::Stalled));
                    }
                }
                // Its sender is in the attempt, which outlives this wait.
                Ok(()) = pulses.changed() => {
                    let pulse = pulses.borrow_and_update().clone();
                    if matches!(deadline, Some((_, Killed::Stalled))) {
                        deadline = Some((Instant::now() + self.stall_after(&pulse), Killed::Stalled));
                    }
                }
                () = told_to_leave(&mut wishes), if !leaving => {
                    leaving = true;
                    deadline = Some((Instant::now() + self.patience.stop_grace, Killed::Slow));
                }
                () = sleep_until(until), if deadline.is_some() => {
                    killed = deadline.take().map(|(_, why)| why);
                    tracing::warn!(job_id = attempt.job_id, attempt = attempt.number, why = ?killed, "killing the trainer");
                    process.kill();
                }
            }
        }
    }

    fn stall_after(&self, pulse: &Pulse) -> Duration {
        let steps = Duration::try_from_secs_f64(STALLED_STEPS * pulse.median_step_seconds()).unwrap_or_default();
        self.patience.stall_timeout.max(steps)
    }

    /// Tells the job how its attempt ended, unless the trainer has done so.
    async fn settle(&self, attempt: &Attempt, exit: &Exit, killed: Option<Killed>) {
        loop {
            match self.try_settle(attempt, exit, killed).await {
                Err(Error::Failed(error)) => {
                    tracing::error!(
                        job_id = attempt.job_id,
                        error,
                        "cannot record the end of an attempt; trying again"
                    );
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                // The job was deleted, or the trainer's own word came first.
                Err(
                    Error::NotFound { .. }
                    | Error::Refused { refusal: Refusal::AttemptOver { .. } | Refusal::Superseded { .. }, .. },
                ) => return,
                Err(error) => return tracing::error!(job_id = attempt.job_id, %error, "an attempt ended out of turn"),
                Ok(()) => return,
            }
        }
    }

    async fn try_settle(&self, attempt: &Attempt, exit: &Exit, killed: Option<Killed>) -> store::Result<()> {
        let job = self.jobs.get(&attempt.job_id).await?;
        if job.attempt != attempt.number || job.attempt_over {
            return Ok(());
        }
        let change = self.end(attempt, &job, exit, killed);
        self.jobs.change(&attempt.job_id, change).await.map(drop)
    }

    fn end(&self, attempt: &Attempt, job: &JobRecord, exit: &Exit, killed: Option<Killed>) -> Change {
        let number = attempt.number;
        let stopping = *attempt.wishes().borrow() == Wish::Stop;
        match killed {
            Some(Killed::Slow) if stopping => {
                let grace = self.patience.stop_grace;
                let message = format!("the server stopped and the trainer had not saved within {grace:?}");
                Change::AttemptFailed { attempt: number, failure: preempted(&message, job.step) }
            }
            Some(Killed::Silent) => {
                let message = format!("the trainer did not dial within {:?}", self.patience.attach_timeout);
                let failure = Failure::new(Reason::TrainerCrashed, with_words(message, exit)).try_this(format!(
                    "look at {}; `hone-trainer doctor` tells what is wrong with the set-up",
                    exit.log
                ));
                Change::AttemptFailed { attempt: number, failure }
            }
            Some(Killed::Slow) => {
                let grace = self.patience.stop_grace;
                let message = format!("the trainer had not saved {grace:?} after it was asked to stop, and was killed");
                let failure = Failure::new(Reason::TrainerCrashed, with_words(message, exit))
                    .try_this("allow more time with --stop-grace");
                Change::AttemptFailed { attempt: number, failure }
            }
            Some(Killed::Stalled) => {
                let waited = self.stall_after(&attempt.pulses().borrow());
                let message = format!("the trainer got nothing done for {waited:?}, and was killed");
                let failure = Failure::new(Reason::TrainerStalled, with_words(message, exit))
                    .at(format!("after step {}", job.step))
                    .try_this("look at the device and the storage; allow more time with --stall-timeout");
                Change::AttemptFailed { attempt: number, failure }
            }
            None => {
                let failure = verdict(exit, attempt.was_told_to_leave(), job.step);
                Change::AttemptFailed { attempt: number, failure }
            }
        }
    }
}

/// A message with the last lines of the log below it.
fn with_words(message: String, exit: &Exit) -> String {
    if exit.last_words.is_empty() { message } else { format!("{message}; its last words:\n{}", exit.last_words) }
}

async fn told_to_leave(wishes: &mut tokio::sync::watch::Receiver<Wish>) {
    // The sender is in the attempt, which outlives this wait.
    let _ = wishes.wait_for(|wish| *wish != Wish::Work).await;
}
