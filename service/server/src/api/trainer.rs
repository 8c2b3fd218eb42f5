//! TrainerService: where the trainers dial in. Reports come in and are recorded once; acknowledgements and commands go
//! back. A connection may break at any time: the trainer dials again and goes on after the last report recorded.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt};
use hone_job::event::{Event, Warning};
use hone_proto::trainer::v1 as pb;
use hone_proto::trainer::v1::PROTOCOL_VERSION;
use hone_proto::trainer::v1::trainer_service_server::TrainerService;
use pb::attach_request::Message as Said;
use pb::attach_response::Message as Answer;
use pb::finished::End as EndOneof;
use pb::report::Body as BodyOneof;
use prost::Message;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};

use super::convert;
use super::inputs::Inputs;
use super::report::Reports;
use super::status::Problem;
use super::tensorboard::Exporting;
use crate::attempts::{Attempts, Link, Wish};
use crate::jobs::Jobs;
use crate::layout::Layout;
use crate::record::{Body, Change, End, JobRecord, Report};
use crate::scheduler::sha256;

/// How long a caller may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Most reports, and bytes of them, that are recorded in one go.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Answers on their way to a trainer.
const ANSWERS: usize = 16;

pub(super) struct TrainerApi {
    pub(super) jobs: Arc<Jobs>,
    pub(super) attempts: Arc<Attempts>,
    pub(super) inputs: Inputs,
    pub(super) layout: Layout,
    pub(super) reports: Reports,
    pub(super) stop_grace: Duration,
    pub(super) stopped: CancellationToken,
    pub(super) tasks: TaskTracker,
}

type Answers = mpsc::Sender<Result<pb::AttachResponse, Status>>;

#[tonic::async_trait]
impl TrainerService for TrainerApi {
    type AttachStream = ReceiverStream<Result<pb::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut said = request.into_inner();
        let hello = hello(&mut said).await?;
        self.admit(&hello).await?;
        let attempt = self.attempts.get(&hello.job_id).filter(|attempt| attempt.number == hello.attempt);
        // An earlier connection ends with this; the job is read after it, so that the welcome is up to date.
        let link = attempt.map(|attempt| attempt.connect());
        let job = self.jobs.get(&hello.job_id).await.map_err(Problem::from)?;
        let welcome = self.welcome(&job).await?;
        tracing::info!(
            job_id = job.job_id,
            attempt = job.attempt,
            last_report = job.last_report,
            trainer_version = hello.version,
            "the trainer attached"
        );
        let (answers, answering) = mpsc::channel(ANSWERS);
        // There is room for the first answer.
        let _ = answers.try_send(Ok(answer(Answer::Welcome(welcome))));
        let connection = Connection {
            jobs: self.jobs.clone(),
            job_id: hello.job_id,
            attempt: hello.attempt,
            stop_grace: self.stop_grace,
            stopped: self.stopped.clone(),
            reports: self.reports.clone(),
            exporting: Exporting::start(&job, &self.jobs, &self.layout),
            link,
        };
        self.tasks.spawn(connection.serve(said, answers));
        Ok(Response::new(ReceiverStream::new(answering)))
    }
}

/// The first message; it tells the version before anything else is looked at.
async fn hello(said: &mut Streaming<pb::AttachRequest>) -> Result<pb::Hello, Status> {
    let late = |_| Problem::new(Code::DeadlineExceeded, "NO_HELLO", "no hello came in time");
    let first = tokio::time::timeout(HELLO_TIMEOUT, said.message()).await.map_err(late)??;
    let Some(Said::Hello(hello)) = first.and_then(|first| first.message) else {
        return Err(Problem::new(Code::InvalidArgument, "NO_HELLO", "the first message must be a hello").into());
    };
    if hello.protocol_version != PROTOCOL_VERSION {
        let message = format!(
            "the trainer (hone {}) speaks version {} of the protocol, this server {PROTOCOL_VERSION}",
            hello.version, hello.protocol_version
        );
        let problem = Problem::new(Code::FailedPrecondition, "PROTOCOL_VERSION", message);
        return Err(problem.try_this("use the trainer that came with this server").into());
    }
    Ok(hello)
}

impl TrainerApi {
    /// Whether the caller is the attempt it says it is, and that attempt is the job's.
    async fn admit(&self, hello: &pb::Hello) -> Result<(), Problem> {
        let job = self.jobs.get(&hello.job_id).await?;
        if hello.attempt != job.attempt {
            let message =
                format!("attempt {} of {} is not its attempt, which is {}", hello.attempt, job.job_id, job.attempt);
            let problem = Problem::new(Code::FailedPrecondition, "ATTEMPT_SUPERSEDED", message);
            return Err(problem.about("attempt", job.attempt.to_string()));
        }
        let known = job.secret_sha256.as_bytes();
        if !bool::from(sha256(&hello.secret).as_bytes().ct_eq(known)) {
            tracing::warn!(job_id = job.job_id, attempt = job.attempt, "a trainer came with a wrong secret");
            return Err(Problem::new(Code::Unauthenticated, "WRONG_SECRET", "the secret is not that of the attempt"));
        }
        Ok(())
    }

    async fn welcome(&self, job: &JobRecord) -> Result<pb::Welcome, Problem> {
        // An attempt that is over needs no work, only to hear that it was heard; its inputs may be gone.
        let spec = if job.attempt_over { job.spec.clone() } else { self.inputs.resolve(&job.spec).await? };
        let resume_from = if job.attempt > 1 { job.last_checkpoint.clone() } else { String::new() };
        Ok(pb::Welcome {
            last_number: job.last_report,
            spec_json: serde_json::to_string(&spec).map_err(|error| Problem::internal(error.to_string()))?,
            job_uri: self.layout.job(&job.job_id).uri,
            resume_from,
            reference_uri: self.layout.reference().uri,
            traceparent: job.attempt_trace.clone(),
        })
    }
}

fn answer(message: Answer) -> pb::AttachResponse {
    pb::AttachResponse { message: Some(message) }
}

/// A trainer's connection after its welcome.
struct Connection {
    jobs: Arc<Jobs>,
    job_id: String,
    attempt: u32,
    stop_grace: Duration,
    stopped: CancellationToken,
    reports: Reports,
    exporting: Exporting,
    /// Absent when the attempt is over: then there is nothing to wish for.
    link: Option<Link>,
}

impl Connection {
    async fn serve(self, said: Streaming<pb::AttachRequest>, answers: Answers) {
        let (job_id, attempt) = (&self.job_id, self.attempt);
        match self.talk(said, &answers).await {
            Ok(()) => tracing::info!(job_id, attempt, "the trainer detached"),
            // What the transport says, as against what we say, has a cause.
            Err(status) if std::error::Error::source(&status).is_some() => {
                tracing::info!(job_id, attempt, "the trainer's connection broke: {}", status.message());
            }
            Err(status) => {
                tracing::warn!(job_id, attempt, code = ?status.code(), "the trainer was sent away: {}", status.message());
                let _ = answers.send(Err(status)).await;
            }
        }
        let Self { exporting, link, .. } = self;
        drop(link);
        exporting.end().await;
    }

    /// Until the trainer goes, or is sent away with a status.
    async fn talk(&self, mut said: Streaming<pb::AttachRequest>, answers: &Answers) -> Result<(), Status> {
        let mut wishes = self.link.as_ref().map(|link| link.attempt().wishes());
        if let Some(wishes) = &mut wishes {
            wishes.mark_changed();
        }
        let mut checkpoints = self.link.as_ref().map(|link| link.attempt().wanted_checkpoints());
        loop {
            tokio::select! {
                first = said.next() => {
                    let Some(first) = first else { return Ok(()) };
                    let heard = hear(first, &mut said);
                    if let Some(number) = self.record(heard.requests).await? {
                        let acknowledged = answer(Answer::Acknowledged(pb::Acknowledged { number }));
                        if answers.send(Ok(acknowledged)).await.is_err() {
                            return Ok(());
                        }
                    }
                    heard.end?;
                }
                wish = next(&mut wishes) => {
                    if let Some(command) = command(wish)
                        && answers.send(Ok(control(command))).await.is_err()
                    {
                        return Ok(());
                    }
                }
                _ = next(&mut checkpoints) => {
                    if answers.send(Ok(control(pb::Command::Checkpoint))).await.is_err() {
                        return Ok(());
                    }
                }
                () = superseded(&self.link) => {
                    let message = "the same attempt has dialled again";
                    return Err(Problem::new(Code::Aborted, "CONNECTION_SUPERSEDED", message).into());
                }
                () = self.stopped.cancelled() => return Err(Problem::stopping().into()),
            }
        }
    }

    /// Records what was said. Returns the last number recorded, if there was a report. One that makes no sense is refused
    /// alone: what came before it is kept.
    async fn record(&self, requests: Vec<pb::AttachRequest>) -> Result<Option<u64>, Problem> {
        let (reports, nonsense) = self.reports(requests);
        let mut last = None;
        // As a rule one transaction for all: only where a number is missing, and before a last word, the next one begins.
        for run in reports.chunk_by(|one, next| {
            next.number <= one.number.saturating_add(1) && !is_last_word(one) && !is_last_word(next)
        }) {
            if let [Report { number, body: Body::Finished(end), .. }] = run {
                self.leave_pictures(*number, end).await?;
            }
            let change = Change::Reported { attempt: self.attempt, reports: run.to_vec() };
            self.note(run);
            last = Some(self.jobs.change(&self.job_id, change).await?.last_report);
        }
        nonsense.map_or(Ok(last), Err)
    }

    /// What is to be there when the attempt is over: its numbers for TensorBoard, and the report of a job that succeeded. That
    /// the report is not there is told and stops nobody.
    async fn leave_pictures(&self, number: u64, end: &End) -> Result<(), Problem> {
        self.exporting.end().await;
        let job = self.jobs.get(&self.job_id).await?;
        let is_due = job.attempt == self.attempt && !job.attempt_over && number == job.last_report + 1;
        if !is_due || *end != End::Succeeded || job.spec.task.training().is_none() {
            return Ok(());
        }
        if let Err(detail) = self.reports.leave(&job).await {
            let message = format!("{detail}; the job is done all the same, and hone plot draws its picture");
            let warning = Warning { code: "report_not_written".into(), message };
            self.jobs.change(&self.job_id, Change::Warned { attempt: self.attempt, warning }).await?;
        }
        Ok(())
    }

    /// What helps to judge the end of the attempt: how long steps take says when a trainer has been silent for too long.
    fn note(&self, reports: &[Report]) {
        let Some(link) = &self.link else { return };
        for report in reports {
            match &report.body {
                Body::Event(Event::TrainStep(step)) => link.attempt().note_step(step.step_seconds),
                Body::Event(Event::CheckpointSaved(saved)) => link.attempt().note_save(saved.seconds, self.stop_grace),
                Body::Event(Event::ResourceUsage(usage)) => link.attempt().note_usage(usage),
                Body::Event(Event::Warning(warning)) if warning.code == Warning::TOLD_TO_LEAVE => {
                    link.attempt().note_told_to_leave();
                }
                _ => {}
            }
        }
    }

    /// The reports among some messages, up to the first that makes no sense.
    fn reports(&self, requests: Vec<pb::AttachRequest>) -> (Vec<Report>, Option<Problem>) {
        let mut reports = Vec::new();
        for request in requests {
            match request.message {
                Some(Said::Report(report)) => match recorded(report, self.jobs.now()) {
                    Ok(report) => reports.push(report),
                    Err(nonsense) => return (reports, Some(nonsense)),
                },
                Some(Said::Heartbeat(heartbeat)) => {
                    if let Some(link) = &self.link {
                        link.attempt().note_progress(heartbeat.progress);
                    }
                }
                Some(Said::Hello(_)) | None => {
                    let what = "a report or a heartbeat was due";
                    let problem = Problem::new(Code::InvalidArgument, "UNEXPECTED_MESSAGE", what);
                    return (reports, Some(problem));
                }
            }
        }
        (reports, None)
    }
}

/// A report as it is recorded; one that does not say when it happened happened `now`.
pub(super) fn recorded(report: pb::Report, now: DateTime<Utc>) -> Result<Report, Problem> {
    let number = report.number;
    let body = match report.body {
        Some(BodyOneof::EventJson(json)) => Body::Event(parse(number, &json)?),
        Some(BodyOneof::Running(_)) => Body::Running,
        Some(BodyOneof::Finished(finished)) => Body::Finished(match finished.end {
            Some(EndOneof::Succeeded(_)) => End::Succeeded,
            Some(EndOneof::Stopped(stopped)) => End::Stopped(stopped.checkpoint_id),
            Some(EndOneof::FailureJson(json)) => End::Failed(parse(number, &json)?),
            None => return Err(invalid(number, "it does not say how the attempt ended")),
        }),
        None => return Err(invalid(number, "it says nothing")),
    };
    let time = report.time.as_ref().and_then(convert::time).unwrap_or(now);
    Ok(Report { number, time, body })
}

/// What a trainer said in one go, and how its stream stands after that.
struct Heard {
    requests: Vec<pb::AttachRequest>,
    end: Result<(), Status>,
}

/// A message and those that are here already: many are recorded at the price of one.
fn hear(first: Result<pb::AttachRequest, Status>, said: &mut Streaming<pb::AttachRequest>) -> Heard {
    let mut heard = Heard { requests: Vec::new(), end: Ok(()) };
    let mut num_bytes = 0;
    let mut next = Some(first);
    while let Some(request) = next.take() {
        match request {
            Ok(request) => {
                num_bytes += request.encoded_len();
                heard.requests.push(request);
            }
            // The connection broke, or what came is no message; the trainer hears of it if it still can.
            Err(status) => heard.end = Err(status),
        }
        if heard.end.is_ok() && heard.requests.len() < MAX_BATCH && num_bytes < MAX_BATCH_BYTES {
            // A stream that has ended says so again.
            next = said.next().now_or_never().flatten();
        }
    }
    heard
}

fn is_last_word(report: &Report) -> bool {
    matches!(report.body, Body::Finished(_))
}

fn parse<T: DeserializeOwned>(number: u64, json: &str) -> Result<T, Problem> {
    serde_json::from_str(json).map_err(|error| invalid(number, error))
}

fn invalid(number: u64, what: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidArgument, "REPORT_INVALID", format!("report {number} makes no sense: {what}"))
}

/// The next value, where there is somebody who sends values.
async fn next<T: Copy>(values: &mut Option<watch::Receiver<T>>) -> T {
    if let Some(values) = values
        && values.changed().await.is_ok()
    {
        return *values.borrow_and_update();
    }
    std::future::pending().await
}

fn control(command: pb::Command) -> pb::AttachResponse {
    answer(Answer::Control(pb::Control { command: command.into() }))
}

async fn superseded(link: &Option<Link>) {
    match link {
        Some(link) => link.superseded().await,
        None => std::future::pending().await,
    }
}

fn command(wish: Wish) -> Option<pb::Command> {
    match wish {
        Wish::Work => None,
        Wish::Pause | Wish::Stop => Some(pb::Command::Stop),
        Wish::Cancel => Some(pb::Command::Cancel),
    }
}
