//! A server for the link's tests: records what it is told, and behaves as its moods say, one mood a connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use hone_job::event::Event;
use hone_job::spec::{JobSpec, Resources, SftTask, Task, Training};
use hone_proto::trainer::v1 as pb;
use pb::attach_request::Message as Say;
use pb::attach_response::Message as Hear;
use pb::trainer_service_server::{TrainerService, TrainerServiceServer};
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

/// How one connection goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Mood {
    /// Ends the stream after so many reports, recorded or seen before.
    pub(super) drop_after: Option<usize>,
    pub(super) acks: Acks,
    /// Answers the hello with this.
    pub(super) refuse: Option<Code>,
    /// Takes the stream and says nothing.
    pub(super) never_welcome: bool,
    pub(super) close_after_welcome: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Acks {
    #[default]
    Each,
    Twice,
    /// Each nth number, and the last report.
    EveryNth(u64),
    None,
}

/// What the server knows; outlives it.
pub(super) struct Desk {
    book: Mutex<Book>,
    changed: watch::Sender<()>,
    commands: broadcast::Sender<pb::Command>,
}

#[derive(Default)]
struct Book {
    moods: VecDeque<Mood>,
    recorded: Vec<pb::Report>,
    out_of_order: usize,
    attached: usize,
    last_step: Option<u64>,
}

impl Desk {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Every recorded report in short.
    pub(super) fn told(&self) -> Vec<String> {
        self.book().recorded.iter().map(in_short).collect()
    }

    /// Reports that came before their predecessor.
    pub(super) fn out_of_order(&self) -> usize {
        self.book().out_of_order
    }

    pub(super) fn attached(&self) -> usize {
        self.book().attached
    }

    pub(super) fn moods_left(&self) -> usize {
        self.book().moods.len()
    }

    pub(super) fn last_step(&self) -> Option<u64> {
        self.book().last_step
    }

    pub(super) fn command(&self, command: pb::Command) {
        self.commands.send(command).unwrap();
    }

    pub(super) async fn wait_until(&self, condition: impl Fn(&Desk) -> bool) {
        let mut changes = self.changed.subscribe();
        while !condition(self) {
            changes.changed().await.unwrap();
        }
    }

    /// Records a report that is the next one; gives the last number.
    fn record(&self, report: pb::Report) -> u64 {
        let mut book = self.book();
        let last = book.recorded.last().map_or(0, |report| report.number);
        match report.number {
            number if number == last + 1 => book.recorded.push(report),
            number if number > last + 1 => book.out_of_order += 1,
            _ => {}
        }
        let last = book.recorded.last().map_or(0, |report| report.number);
        drop(book);
        self.changed.send_replace(());
        last
    }

    async fn converse(
        self: Arc<Self>,
        mood: Mood,
        mut inbound: Streaming<pb::AttachRequest>,
        outbound: mpsc::Sender<Result<pb::AttachResponse, Status>>,
    ) -> Option<()> {
        let mut commands = self.commands.subscribe();
        let say = |message| outbound.send(Ok(pb::AttachResponse { message: Some(message) }));
        if mood.never_welcome {
            while inbound.message().await.ok()?.is_some() {}
            return None;
        }
        let last_number = self.book().recorded.last().map_or(0, |report| report.number);
        say(Hear::Welcome(welcome(last_number))).await.ok()?;
        if mood.close_after_welcome {
            return None;
        }
        let mut reports = 0;
        loop {
            let message = tokio::select! {
                message = inbound.message() => message.ok()??.message?,
                command = commands.recv() => {
                    let command = i32::from(command.ok()?);
                    say(Hear::Control(pb::Control { command })).await.ok()?;
                    continue;
                }
            };
            match message {
                Say::Report(report) => {
                    let is_end = matches!(report.body, Some(pb::report::Body::Finished(_)));
                    let number = self.record(report);
                    let times = match mood.acks {
                        Acks::Each => 1,
                        Acks::Twice => 2,
                        Acks::EveryNth(n) => usize::from(is_end || number.is_multiple_of(n)),
                        Acks::None => 0,
                    };
                    for _ in 0..times {
                        say(Hear::Acknowledged(pb::Acknowledged { number })).await.ok()?;
                    }
                    reports += 1;
                    if mood.drop_after == Some(reports) {
                        return None;
                    }
                }
                Say::Heartbeat(heartbeat) => {
                    self.book().last_step = Some(heartbeat.step);
                    self.changed.send_replace(());
                }
                Say::Hello(_) => return None,
            }
        }
    }
}

fn in_short(report: &pb::Report) -> String {
    use pb::finished::End;
    match report.body.as_ref().unwrap() {
        pb::report::Body::Running(_) => "running".into(),
        pb::report::Body::EventJson(json) => match serde_json::from_str(json).unwrap() {
            Event::TrainStep(step) => format!("step {}", step.step),
            other => format!("{other:?}"),
        },
        pb::report::Body::Finished(finished) => match finished.end.as_ref().unwrap() {
            End::Succeeded(_) => "succeeded".into(),
            End::Stopped(stopped) => format!("stopped {}", stopped.checkpoint_id),
            End::FailureJson(json) => json.clone(),
        },
    }
}

fn welcome(last_number: u64) -> pb::Welcome {
    let training = Training::on(vec!["file:///rows.jsonl".into()]);
    let spec = JobSpec {
        display_name: String::new(),
        labels: Default::default(),
        base_model: "file:///model".into(),
        task: Task::Sft(SftTask::new(training, Default::default())),
        resources: Resources::default(),
        max_retries: JobSpec::DEFAULT_MAX_RETRIES,
    };
    pb::Welcome {
        last_number,
        spec_json: serde_json::to_string(&spec).unwrap(),
        job_uri: "file:///jobs/1".into(),
        resume_from: "file:///jobs/1/checkpoints/step-000004".into(),
        reference_uri: "file:///reference".into(),
        traceparent: String::new(),
    }
}

struct Service(Arc<Desk>);

#[tonic::async_trait]
impl TrainerService for Service {
    type AttachStream = ReceiverStream<Result<pb::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inbound = request.into_inner();
        let mood = {
            let mut book = self.0.book();
            book.attached += 1;
            book.moods.pop_front().unwrap_or_default()
        };
        self.0.changed.send_replace(());
        let hello = match inbound.message().await?.and_then(|request| request.message) {
            Some(Say::Hello(hello)) => hello,
            other => return Err(Status::invalid_argument(format!("{other:?} is no hello"))),
        };
        assert_eq!((hello.protocol_version, hello.job_id.as_str(), hello.attempt), (pb::PROTOCOL_VERSION, "job-1", 2));
        assert_eq!(hello.secret, "secret");
        if let Some(code) = mood.refuse {
            return Err(Status::new(code, "no"));
        }
        let (outbound, stream) = mpsc::channel(4);
        tokio::spawn(self.0.clone().converse(mood, inbound, outbound));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A server with a runtime of its own, so that it can die as a whole.
pub(super) struct Server {
    runtime: Option<Runtime>,
    address: SocketAddr,
    desk: Arc<Desk>,
}

impl Server {
    pub(super) fn start(moods: Vec<Mood>) -> Server {
        let book = Mutex::new(Book { moods: moods.into(), ..Book::default() });
        let desk = Desk { book, changed: watch::Sender::new(()), commands: broadcast::Sender::new(8) };
        Server::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(desk))
    }

    pub(super) fn start_at(address: SocketAddr, desk: Arc<Desk>) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let service = TrainerServiceServer::new(Service(desk.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        Server { runtime: Some(runtime), address: told.recv().unwrap(), desk }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// Ends it without a word, connections and all; gives its address.
    pub(super) fn kill(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On a thread of its own, since a runtime may not end inside another; joined, so that its sockets are closed after.
        let runtime = self.runtime.take();
        let _ = std::thread::spawn(move || drop(runtime)).join();
    }
}
