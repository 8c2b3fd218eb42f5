//! A job as the store keeps it, and the one function that changes it: a [`Change`] in, numbered events out.
//!
//! It is pure. A store calls [`JobRecord::apply`] within the transaction that keeps the row and the events, so every
//! store numbers events and moves states alike, and neither can be kept without the other.

use chrono::{DateTime, TimeDelta, Utc};
use hone_job::event::{Event, JobEvent, Outcome, StateChanged, Warning};
use hone_job::failure::{Failure, Reason};
use hone_job::spec::JobSpec;
use hone_job::state::{State, Trigger};

/// A job as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its id.
    pub job_id: String,
    /// The project it belongs to.
    pub project: String,
    /// Place in the order of creation; the store gives it.
    pub ordinal: u64,
    /// The effective spec, ids as they were given.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: State,
    /// What it does or why it waits, for people. Empty while it is queued: the place in the queue says it then.
    pub state_detail: String,
    /// Place in the queue, from 1; 0 unless the job is queued. Found out on reading, not kept.
    pub queue_position: u64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When its first attempt started.
    pub start_time: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub end_time: Option<DateTime<Utc>>,
    /// Attempts so far.
    pub attempt: u32,
    /// Whether the attempt named above is over.
    pub attempt_over: bool,
    /// SHA-256 of the attempt's secret, hexadecimal. The secret itself is kept nowhere.
    pub secret_sha256: String,
    /// Where the call that created it stands in a trace, as W3C's traceparent. Empty for none.
    pub trace: String,
    /// The same of the attempt named above, which has a trace of its own.
    pub attempt_trace: String,
    /// What the executor knows the attempt's process by, to find it again after a restart. Empty before it started.
    pub process: String,
    /// Attempts in a row that failed and were followed by another, without a new checkpoint in between.
    pub retries: u32,
    /// When the next attempt may start, where it is to wait.
    pub retry_time: Option<DateTime<Utc>>,
    /// Number of the last report recorded of this attempt.
    pub last_report: u64,
    /// Sequence number of its last event.
    pub last_sequence: u64,
    /// Optimizer steps taken.
    pub step: u64,
    /// Optimizer steps in all; 0 until the plan is known.
    pub total_steps: u64,
    /// URI of the last checkpoint, from which another attempt goes on. Empty before the first.
    pub last_checkpoint: String,
    /// Why it failed; set in state FAILED.
    pub failure: Option<Failure>,
    /// What came out, as the trainer reported it.
    pub result: Option<Outcome>,
}

/// Something that changes a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The scheduler starts the next attempt.
    AttemptStarted {
        /// SHA-256 of the attempt's secret, hexadecimal.
        secret_sha256: String,
        /// Where it stands in its trace, as W3C's traceparent.
        trace: String,
    },
    /// The attempt's process runs.
    ProcessStarted {
        /// The attempt.
        attempt: u32,
        /// What the executor knows the process by.
        process: String,
    },
    /// The trainer of an attempt reported.
    Reported {
        /// The attempt.
        attempt: u32,
        /// Its reports, in the order of their numbers.
        reports: Vec<Report>,
    },
    /// The server has something to say of a running attempt, beside what its trainer says.
    Warned {
        /// The attempt.
        attempt: u32,
        /// What.
        warning: Warning,
    },
    /// A user wants the job to make room.
    PauseRequested,
    /// A user wants a paused job to go on, with another length where a spec is given.
    ResumeRequested {
        /// The spec from now on.
        spec: Option<Box<JobSpec>>,
    },
    /// A user wants the job to stop for good.
    CancelRequested,
    /// An attempt ended without having done its work.
    AttemptFailed {
        /// The attempt.
        attempt: u32,
        /// Why.
        failure: Failure,
    },
}

impl Change {
    /// Whether it is more than news of an attempt that goes on.
    pub fn moves(&self) -> bool {
        match self {
            Change::Reported { reports, .. } => reports.iter().any(|report| !matches!(report.body, Body::Event(_))),
            Change::ProcessStarted { .. } | Change::Warned { .. } => false,
            _ => true,
        }
    }
}

/// What a trainer said, numbered within its attempt from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Its number.
    pub number: u64,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// What happened.
    pub body: Body,
}

/// What a report is about.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "few are alive at a time, and most are events")]
pub enum Body {
    /// Something for the watchers.
    Event(Event),
    /// The trainer began its task.
    Running,
    /// The attempt is over.
    Finished(End),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The task is done and its last upload is verified.
    Succeeded,
    /// Stopped as asked; names the checkpoint that holds the work, or is empty.
    Stopped(String),
    /// Failed.
    Failed(Failure),
}

/// Why a change was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state does not allow it.
    #[error("a job in state {state} cannot {trigger}")]
    State {
        /// State of the job.
        state: State,
        /// What was to move it.
        trigger: Trigger,
    },
    /// Another attempt is in charge.
    #[error("attempt {attempt} is not the job's attempt, which is {current}")]
    Superseded {
        /// The attempt that spoke.
        attempt: u32,
        /// The job's attempt.
        current: u32,
    },
    /// The attempt has ended.
    #[error("attempt {attempt} is over")]
    AttemptOver {
        /// The attempt that spoke.
        attempt: u32,
    },
    /// A report is missing.
    #[error("report {found} came where {expected} was due")]
    Gap {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
}

impl JobRecord {
    /// A job that has just been asked for, and its first events: the spec, and what a person should know about it.
    pub fn new(
        job_id: String,
        project: String,
        spec: JobSpec,
        trace: String,
        now: DateTime<Utc>,
    ) -> (Self, Vec<JobEvent>) {
        let warnings = spec.warnings().into_iter().map(Event::Warning);
        let events = [Event::EffectiveSpec(Box::new(spec.clone()))].into_iter().chain(warnings);
        let trace_id = trace_id(&trace);
        let event = |(sequence, event)| JobEvent { sequence, time: now, attempt: 0, trace_id: trace_id.clone(), event };
        let events: Vec<JobEvent> = (1..).zip(events).map(event).collect();
        let record = Self {
            job_id,
            project,
            ordinal: 0,
            spec,
            state: State::Queued,
            state_detail: String::new(),
            queue_position: 0,
            create_time: now,
            start_time: None,
            end_time: None,
            attempt: 0,
            attempt_over: true,
            secret_sha256: String::new(),
            trace,
            attempt_trace: String::new(),
            process: String::new(),
            retries: 0,
            retry_time: None,
            last_report: 0,
            last_sequence: events.len() as u64,
            step: 0,
            total_steps: 0,
            last_checkpoint: String::new(),
            failure: None,
            result: None,
        };
        (record, events)
    }

    /// Applies a change and returns the events it made. A refused change leaves a record that must be thrown away.
    pub fn apply(&mut self, change: Change, now: DateTime<Utc>) -> Result<Vec<JobEvent>, Refusal> {
        let mut events = Vec::new();
        match change {
            Change::AttemptStarted { secret_sha256, trace } => {
                self.attempt += 1;
                self.attempt_over = false;
                self.last_report = 0;
                self.process.clear();
                self.secret_sha256 = secret_sha256;
                self.attempt_trace = trace;
                self.retry_time = None;
                self.start_time.get_or_insert(now);
                let detail = format!("attempt {} started", self.attempt);
                self.advance(Trigger::AttemptStarted, detail, now, &mut events)?;
            }
            Change::ProcessStarted { attempt, process } => {
                self.check_attempt(attempt)?;
                self.process = process;
            }
            Change::Reported { attempt, reports } => {
                self.check_attempt(attempt)?;
                for report in reports {
                    self.take(report, &mut events)?;
                }
            }
            Change::Warned { attempt, warning } => {
                self.check_running(attempt)?;
                self.push(Event::Warning(warning), now, &mut events);
            }
            // Asking twice is asking once.
            Change::PauseRequested if matches!(self.state, State::Pausing | State::Paused) => {}
            Change::PauseRequested => {
                self.retry_time = None;
                self.advance(Trigger::PauseRequested, "asked to pause".into(), now, &mut events)?;
            }
            Change::ResumeRequested { spec } => {
                self.retries = 0;
                self.advance(Trigger::ResumeRequested, "asked to go on".into(), now, &mut events)?;
                if let Some(spec) = spec {
                    self.spec = *spec;
                    self.push(Event::EffectiveSpec(Box::new(self.spec.clone())), now, &mut events);
                }
            }
            Change::CancelRequested if matches!(self.state, State::Cancelling | State::Cancelled) => {}
            Change::CancelRequested => {
                self.advance(Trigger::CancelRequested, "asked to cancel".into(), now, &mut events)?;
            }
            Change::AttemptFailed { attempt, failure } => {
                self.check_running(attempt)?;
                self.fail(failure, now, &mut events)?;
            }
        }
        Ok(events)
    }

    fn check_attempt(&self, attempt: u32) -> Result<(), Refusal> {
        match attempt == self.attempt {
            true => Ok(()),
            false => Err(Refusal::Superseded { attempt, current: self.attempt }),
        }
    }

    fn check_running(&self, attempt: u32) -> Result<(), Refusal> {
        self.check_attempt(attempt)?;
        if self.attempt_over { Err(Refusal::AttemptOver { attempt }) } else { Ok(()) }
    }

    /// Records a report, once: one that is known already changes nothing, one that is too early is refused.
    fn take(&mut self, report: Report, events: &mut Vec<JobEvent>) -> Result<(), Refusal> {
        let expected = self.last_report + 1;
        if report.number < expected {
            return Ok(());
        }
        if report.number > expected {
            return Err(Refusal::Gap { expected, found: report.number });
        }
        if self.attempt_over {
            return Err(Refusal::AttemptOver { attempt: self.attempt });
        }
        self.last_report = report.number;
        let time = report.time;
        match report.body {
            Body::Event(event) => {
                self.note(&event);
                self.push(event, time, events);
            }
            Body::Running => self.advance(Trigger::TrainerRunning, "the trainer began".into(), time, events)?,
            Body::Finished(End::Failed(failure)) => self.fail(failure, time, events)?,
            Body::Finished(End::Succeeded) => {
                self.attempt_over = true;
                self.advance(Trigger::TrainerSucceeded, "done".into(), time, events)?;
            }
            // Nobody asked the job itself to stop: the machine or the server is going away.
            Body::Finished(End::Stopped(checkpoint_id)) if matches!(self.state, State::Preparing | State::Running) => {
                let saved = match checkpoint_id.as_str() {
                    "" => "it had taken no step".into(),
                    id => format!("it saved {id}"),
                };
                self.fail(preempted(&format!("the trainer was told to leave; {saved}"), self.step), time, events)?;
            }
            Body::Finished(End::Stopped(checkpoint_id)) => {
                self.attempt_over = true;
                let detail = match checkpoint_id.as_str() {
                    "" => "stopped before the first step".into(),
                    id => format!("stopped; the work is in {id}"),
                };
                self.advance(Trigger::TrainerStopped, detail, time, events)?;
            }
        }
        Ok(())
    }

    /// What an event says of the job as a whole.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Plan(plan) => self.total_steps = plan.total_steps,
            Event::TrainStep(step) => self.step = step.step,
            Event::CheckpointSaved(saved) => {
                self.last_checkpoint = saved.uri.clone();
                self.retries = 0;
            }
            Event::Result(outcome) => self.result = Some(outcome.clone()),
            Event::Phase(phase) if !matches!(self.state, State::Cancelling | State::Pausing) => {
                self.state_detail = match phase.detail.as_str() {
                    "" => phase.name.clone(),
                    detail => format!("{}: {detail}", phase.name),
                };
            }
            _ => {}
        }
    }

    fn fail(&mut self, failure: Failure, now: DateTime<Utc>, events: &mut Vec<JobEvent>) -> Result<(), Refusal> {
        self.attempt_over = true;
        let detail = failure.message.lines().next().unwrap_or_default().to_string();
        self.push(Event::Failure(failure.clone()), now, events);
        // That the machine was taken away is no fault of the job: it costs none of its retries.
        let has_retry = failure.reason == Reason::Preempted || self.retries < self.spec.max_retries;
        if failure.retryable && has_retry && self.state != State::Cancelling {
            return self.retry(failure.reason, &detail, now, events);
        }
        self.advance(Trigger::AttemptFailed, detail, now, events)?;
        // A job that was to be cancelled is cancelled, however its attempt ends.
        self.failure = (self.state == State::Failed).then_some(failure);
        Ok(())
    }

    /// Another attempt is to follow a failed one, after a while.
    fn retry(
        &mut self,
        reason: Reason,
        failed: &str,
        now: DateTime<Utc>,
        events: &mut Vec<JobEvent>,
    ) -> Result<(), Refusal> {
        self.retries += u32::from(reason != Reason::Preempted);
        let delay = retry_delay(self.retries);
        // A trainer's clock may say anything; where no time is left after it, the retry comes at once.
        self.retry_time = Some(now.checked_add_signed(delay).unwrap_or(now));
        let from = match self.last_checkpoint.rsplit('/').next().unwrap_or_default() {
            "" => "the start",
            checkpoint_id => checkpoint_id,
        };
        let seconds = delay.num_seconds();
        let retry = match reason {
            Reason::Preempted => "another attempt".into(),
            _ => format!("retry {} of {}", self.retries, self.spec.max_retries),
        };
        let detail = format!("{failed}; {retry} from {from}, in {seconds} s");
        self.advance(Trigger::AttemptRetried, detail.clone(), now, events)?;
        if self.state == State::Queued {
            self.state_detail = detail;
        }
        Ok(())
    }

    /// Moves the job as the table of states says; a move to where it stands is no event.
    fn advance(
        &mut self,
        trigger: Trigger,
        detail: String,
        now: DateTime<Utc>,
        events: &mut Vec<JobEvent>,
    ) -> Result<(), Refusal> {
        let from = self.state;
        let to = from.after(trigger).ok_or(Refusal::State { state: from, trigger })?;
        if from == to {
            return Ok(());
        }
        self.state = to;
        self.state_detail = match to {
            State::Queued => String::new(),
            State::Cancelling | State::Pausing => "finishing the step and saving".into(),
            _ => detail.clone(),
        };
        if to.is_final() {
            self.end_time = Some(now);
        }
        self.push(Event::StateChanged(StateChanged { from, to, detail }), now, events);
        Ok(())
    }

    fn push(&mut self, event: Event, time: DateTime<Utc>, events: &mut Vec<JobEvent>) {
        self.last_sequence += 1;
        let (sequence, attempt, trace_id) = (self.last_sequence, self.attempt, self.trace_id());
        events.push(JobEvent { sequence, time, attempt, trace_id, event });
    }

    /// The trace that its events belong to now: that of the attempt, before the first that of the call that created it. Empty
    /// for none.
    pub fn trace_id(&self) -> String {
        trace_id(if self.attempt == 0 { &self.trace } else { &self.attempt_trace })
    }
}

/// The trace of a traceparent; empty where there is none.
pub(crate) fn trace_id(traceparent: &str) -> String {
    traceparent.split('-').nth(1).unwrap_or_default().to_owned()
}

/// The attempt ended since its machine or its server goes away.
pub(crate) fn preempted(message: &str, step: u64) -> Failure {
    let failure =
        Failure::new(Reason::Preempted, message).try_this("nothing: another attempt goes on from the last checkpoint");
    if step > 0 { failure.at(format!("after step {step}")) } else { failure }
}

/// The wait before a retry: 1 s before the first, twice as long before each further one, at most 5 minutes.
fn retry_delay(retry: u32) -> TimeDelta {
    const LONGEST_SECONDS: i64 = 300;
    TimeDelta::seconds(1i64.checked_shl(retry.saturating_sub(1)).unwrap_or(LONGEST_SECONDS).clamp(1, LONGEST_SECONDS))
}

#[cfg(test)]
mod tests;
