//! Starts waiting jobs, in the order of their creation, while there is room.

use std::sync::Arc;
use std::time::Duration;

use hone_data::storage::Secret;
use hone_job::failure::{Failure, Reason};
use hone_job::state::State;
use hone_telemetry::TraceContext;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempts::{Attempts, Running, Wish};
use crate::executor::{Executor, Launch};
use crate::jobs::Jobs;
use crate::record::{Change, JobRecord};
use crate::store::{self, Error};
use crate::supervisor::Supervisor;

/// Wait after a store that failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Starts attempts.
#[derive(Clone)]
pub struct Scheduler {
    /// The jobs.
    pub jobs: Arc<Jobs>,
    /// The attempts that run.
    pub attempts: Arc<Attempts>,
    /// Where trainers run.
    pub executor: Arc<dyn Executor>,
    /// Who watches them.
    pub supervisor: Supervisor,
    /// Jobs that run at once.
    pub max_running_jobs: u32,
    /// Who waits for the tasks.
    pub tasks: TaskTracker,
    /// Ends the starting of attempts; those that were started go on.
    pub stopping: CancellationToken,
}

impl Scheduler {
    /// Works until it is stopped.
    pub async fn run(self) {
        loop {
            // Not cut short: an attempt that is recorded as started must get its process.
            let started = self.start_what_fits().await;
            let next = async {
                match started {
                    Ok(None) => self.jobs.queue_changed().await,
                    // A clock that was set back makes the wait longer, but not longer than the longest retry's.
                    Ok(Some(wait)) => drop(tokio::time::timeout(wait, self.jobs.queue_changed()).await),
                    Err(error) => {
                        tracing::error!(%error, "cannot start the next job; trying again");
                        tokio::time::sleep(STORE_PAUSE).await;
                    }
                }
            };
            if self.stopping.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    /// Starts jobs while there is room. Gives the time until the next one may start, where one waits for its retry.
    async fn start_what_fits(&self) -> store::Result<Option<Duration>> {
        while self.attempts.count() < self.max_running_jobs as usize && !self.stopping.is_cancelled() {
            let Some(job) = self.jobs.next_queued().await? else { return Ok(None) };
            let wait = job.retry_time.and_then(|time| (time - self.jobs.now()).to_std().ok());
            if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
                return Ok(Some(wait));
            }
            self.start(job).await?;
        }
        Ok(None)
    }

    async fn start(&self, job: JobRecord) -> store::Result<()> {
        let secret = hone_job::id::fresh_secret();
        let running = self.attempts.begin(&job.job_id, job.attempt + 1);
        let trace = begin_trace(&job, &running);
        let trace_id = trace.trace_id();
        let change = Change::AttemptStarted { secret_sha256: sha256(&secret), trace: trace.to_string() };
        match self.jobs.change(&job.job_id, change).await {
            Ok(_) => {}
            // It was cancelled, or deleted after that, since it was looked up.
            Err(Error::Refused { .. } | Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        tracing::info!(job_id = job.job_id, attempt = running.number, trace_id, "starting the trainer");
        let launch = Launch { job_id: job.job_id, attempt: running.number, secret: Secret::new(secret) };
        self.tasks.spawn(self.clone().attempt(running, launch));
        Ok(())
    }

    /// The life of an attempt.
    async fn attempt(self, running: Running, launch: Launch) {
        let job_id = launch.job_id.clone();
        match self.executor.start(&launch).await {
            Ok(process) => {
                let started = Change::ProcessStarted { attempt: launch.attempt, process: process.handle() };
                if let Err(error) = self.jobs.change(&job_id, started).await {
                    tracing::warn!(job_id, %error, "the trainer's process was not recorded: a restart will not find it");
                }
                self.wish_what_was_missed(&running).await;
                self.supervisor.attend(running, process).await;
            }
            Err(error) => {
                let failure = Failure::new(Reason::Internal, error.to_string())
                    .try_this("check the trainer's program and the server's data folder");
                let failed = Change::AttemptFailed { attempt: launch.attempt, failure };
                if let Err(error) = self.jobs.change(&job_id, failed).await {
                    tracing::error!(job_id, %error, "cannot record that the trainer did not start");
                }
                drop(running);
            }
        }
        self.jobs.attempt_ended();
    }

    /// What was wished before the attempt could be told.
    async fn wish_what_was_missed(&self, running: &Running) {
        if self.stopping.is_cancelled() {
            running.wish(Wish::Stop);
        }
        if let Ok(job) = self.jobs.get(&running.job_id).await {
            running.wish(wish_of(job.state));
        }
    }

    /// Takes over the attempts that an earlier run of the server left: their trainers may still be training. Those that
    /// dial in time go on, the others have failed.
    pub async fn adopt(&self) -> store::Result<()> {
        let living = [State::Preparing, State::Running, State::Pausing, State::Cancelling];
        let query = store::JobQuery { states: living.to_vec(), limit: usize::MAX >> 1, ..Default::default() };
        for job in self.jobs.list(query).await? {
            let running = self.attempts.begin(&job.job_id, job.attempt);
            running.wish(wish_of(job.state));
            tracing::info!(job_id = job.job_id, attempt = job.attempt, "waiting for the trainer to dial again");
            let process = self.executor.find(&job.job_id, job.attempt, &job.process).await;
            let scheduler = self.clone();
            self.tasks.spawn(async move {
                scheduler.supervisor.attend(running, process).await;
                scheduler.jobs.attempt_ended();
            });
        }
        Ok(())
    }
}

/// Begins the trace of an attempt: its first span is the start, up to the moment that the trainer has dialled, and leads to the
/// call that created the job. A long attempt is many short spans below it.
fn begin_trace(job: &JobRecord, running: &Running) -> TraceContext {
    let (job_id, attempt) = (&job.job_id, running.number);
    let span = tracing::info_span!(parent: None, "attempt", job_id, attempt, task = job.spec.task.name());
    if let Ok(call) = job.trace.parse::<TraceContext>() {
        call.link(&span);
    }
    let trace = TraceContext::of(&span).unwrap_or_else(TraceContext::fresh);
    running.keep_start(span);
    trace
}

/// What an attempt of a job in this state is to do.
fn wish_of(state: State) -> Wish {
    match state {
        State::Cancelling => Wish::Cancel,
        State::Pausing => Wish::Pause,
        _ => Wish::Work,
    }
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
