//! A whole server in this process for tests: a real listener on a free port, a store in memory, and trainers that the
//! test plays itself over the real protocol.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hone_data::storage::StorageOptions;
use hone_job::event::Event;
use hone_job::spec::{JobSpec, LossOn, Resources, SftTask, Task, Training};
use hone_proto::trainer::v1 as tp;
use hone_proto::trainer::v1::trainer_service_client::TrainerServiceClient;
use hone_proto::v1 as pb;
use hone_proto::v1::dataset_service_client::DatasetServiceClient;
use hone_proto::v1::generation_service_client::GenerationServiceClient;
use hone_proto::v1::job_service_client::JobServiceClient;
use hone_proto::v1::model_service_client::ModelServiceClient;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::access::Access;
use crate::caller::Role;
use crate::config::{Limits, Options};
use crate::executor::{Error, Executor, Exit, Launch, Process, Status as End};
use crate::store::Store;
use crate::store::memory::Memory;
use crate::{Parts, serve, tokens};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A spec with every default, but that what a test makes fail fails at once.
pub(crate) fn spec() -> JobSpec {
    JobSpec {
        display_name: String::new(),
        labels: Default::default(),
        base_model: "file:///models/a".into(),
        task: Task::Sft(SftTask::new(Training::on(vec!["file:///rows.jsonl".into()]), LossOn::default())),
        resources: Resources::default(),
        max_retries: 0,
    }
}

/// The smallest spec that a request may carry.
pub(crate) fn request_spec() -> pb::JobSpec {
    let data = pb::DataSpec { train: vec!["file:///rows.jsonl".into()], ..Default::default() };
    pb::JobSpec {
        base_model: Some(pb::BaseModel { uri: "file:///models/a".into() }),
        task: Some(pb::job_spec::Task::Sft(pb::SftTask { data: Some(data), ..Default::default() })),
        max_retries: Some(0),
        ..Default::default()
    }
}

/// What asks for a job.
pub(crate) type Create = pb::CreateJobRequest;

/// A message that is sent with a token.
pub(crate) fn bearing<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Waits for something, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it should have happened by now")
}

/// Settings of a test's server, all in `folder`.
pub(crate) fn options(folder: &Path) -> Options {
    let storage_root = format!("file://{}", folder.join("storage").display());
    Options {
        port_file: None,
        http: None,
        metrics: None,
        collector: None,
        data_dir: folder.to_path_buf(),
        access: Access::new(&storage_root, &["file://".into(), "s3://".into()]).unwrap(),
        token_file: None,
        tls: None,
        trainer_env: Vec::new(),
        storage_root,
        storage: StorageOptions::default(),
        trainer: "/bin/false".into(),
        limits: Limits {
            max_running_jobs: 1,
            max_queued_jobs: 8,
            max_dataset_bytes: 1 << 20,
            max_model_bytes: 4 << 20,
            max_preview_memory_bytes: 1 << 30,
            max_model_cache_bytes: None,
            max_loaded_models: 1,
        },
        keep_model: PATIENCE,
        attach_timeout: PATIENCE,
        stop_grace: PATIENCE,
        stall_timeout: PATIENCE,
    }
}

/// A server that runs.
pub(crate) struct Harness {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: Arc<dyn Store>,
    launches: mpsc::UnboundedReceiver<Launched>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), crate::Error>>,
    channel: Channel,
}

impl Harness {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        Self::start_on(Arc::new(Memory::default()), change).await
    }

    /// A server that takes the tokens of these lines only: name, project, role and limits. Gives the tokens too.
    pub(crate) async fn with_tokens<const N: usize>(
        lines: [(&str, &str, Role, &str); N],
        change: impl FnOnce(&mut Options),
    ) -> (Self, [String; N]) {
        let made = lines.map(|(name, project, role, limits)| {
            let (token, line) = tokens::fresh(name, project, role);
            (token, format!("{line} {limits}\n"))
        });
        let text: String = made.iter().map(|(_, line)| line.as_str()).collect();
        let server = Self::start_with(|options| {
            let file = options.data_dir.join("tokens");
            std::fs::write(&file, text).unwrap();
            options.token_file = Some(file);
            change(options);
        });
        (server.await, made.map(|(token, _)| token))
    }

    pub(crate) async fn start_on(store: Arc<dyn Store>, change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        change(&mut options);
        let (launched, launches) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parts = Parts {
            store: store.clone(),
            executor: Arc::new(Scripted { launched }),
            clock: Arc::new(chrono::Utc::now),
        };
        let served = tokio::spawn(serve(listener, options, parts, async move {
            let _ = stopped.await;
        }));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { folder, store, launches, stop: Some(stop), served, channel }
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub(crate) fn datasets(&self) -> DatasetServiceClient<Channel> {
        DatasetServiceClient::new(self.channel.clone())
    }

    pub(crate) fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel.clone())
    }

    pub(crate) fn generations(&self) -> GenerationServiceClient<Channel> {
        GenerationServiceClient::new(self.channel.clone())
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Creates a job of the smallest spec.
    pub(crate) async fn create(&self) -> String {
        let request = pb::CreateJobRequest { spec: Some(request_spec()), ..Default::default() };
        let response = soon(self.jobs().create_job(request)).await.unwrap();
        response.into_inner().job.unwrap().job_id
    }

    pub(crate) async fn get(&self, job_id: &str) -> pb::Job {
        let request = pb::GetJobRequest { job_id: job_id.into() };
        soon(self.jobs().get_job(request)).await.unwrap().into_inner().job.unwrap()
    }

    pub(crate) async fn watch(&self, job_id: &str, after_sequence: u64) -> Streaming<pb::WatchJobResponse> {
        let request = pb::WatchJobRequest { job_id: job_id.into(), after_sequence };
        soon(self.jobs().watch_job(request)).await.unwrap().into_inner()
    }

    /// Every event up to the end of the job.
    pub(crate) async fn events(&self, job_id: &str) -> Vec<pb::JobEvent> {
        let mut stream = self.watch(job_id, 0).await;
        let mut events = Vec::new();
        while let Some(response) = soon(stream.message()).await.unwrap() {
            events.extend(response.event);
        }
        events
    }

    /// The next attempt that the server starts.
    pub(crate) async fn launch(&mut self) -> Launched {
        soon(self.launches.recv()).await.unwrap()
    }

    /// A job of the smallest spec that is RUNNING, with its attempt and trainer.
    pub(crate) async fn running_job(&mut self) -> (String, Launched, Trainer) {
        let job_id = self.create().await;
        let launched = self.launch().await;
        let mut trainer = Trainer::attach(self, &launched.launch).await.unwrap();
        trainer.running().await;
        (job_id, launched, trainer)
    }

    /// Whether an attempt was started that nobody took yet.
    pub(crate) fn has_launched(&self) -> bool {
        !self.launches.is_empty()
    }

    /// Asks the server to stop; [`Self::stopped`] waits for it.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub(crate) async fn stopped(self) -> Result<(), crate::Error> {
        soon(self.served).await.unwrap()
    }
}

/// Starts nothing, and tells the test.
struct Scripted {
    launched: mpsc::UnboundedSender<Launched>,
}

/// An attempt that the test is to play, and the end of its process.
pub(crate) struct Launched {
    pub(crate) launch: Launch,
    exit: watch::Sender<Option<Exit>>,
    killed: watch::Receiver<bool>,
}

impl Launched {
    /// The process ends.
    pub(crate) fn exit(&self, status: End) {
        let exit = Exit { status, oom_killed: false, last_words: "last words".into(), log: "/logs/x.log".into() };
        self.exit.send_replace(Some(exit));
    }

    /// Waits until the supervisor has killed the process.
    pub(crate) async fn killed(&mut self) {
        soon(self.killed.wait_for(|killed| *killed)).await.unwrap();
    }
}

struct Played {
    exit: watch::Receiver<Option<Exit>>,
    ending: watch::Sender<Option<Exit>>,
    killed: watch::Sender<bool>,
}

fn played(launch: Launch) -> (Played, Launched) {
    let (ending, exit) = watch::channel(None);
    let (killed, seen) = watch::channel(false);
    (Played { exit, ending: ending.clone(), killed }, Launched { launch, exit: ending, killed: seen })
}

#[async_trait]
impl Executor for Scripted {
    async fn start(&self, launch: &Launch) -> Result<Box<dyn Process>, Error> {
        let (process, launched) = played(launch.clone());
        self.launched.send(launched).ok();
        Ok(Box::new(process))
    }

    async fn find(&self, job_id: &str, attempt: u32, _handle: &str) -> Box<dyn Process> {
        let secret = hone_data::storage::Secret::new("");
        let (process, launched) = played(Launch { job_id: job_id.into(), attempt, secret });
        self.launched.send(launched).ok();
        Box::new(process)
    }
}

#[async_trait]
impl Process for Played {
    fn handle(&self) -> String {
        "played".into()
    }

    async fn ended(&mut self) -> Exit {
        let exit = self.exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        match exit {
            Some(exit) => exit,
            None => std::future::pending().await,
        }
    }

    fn kill(&mut self) {
        self.killed.send_replace(true);
        let words = String::new();
        let exit = Exit { status: End::Signal(9), oom_killed: false, last_words: words, log: "/logs/x.log".into() };
        self.ending.send_replace(Some(exit));
    }
}

/// A trainer, as the test plays it.
pub(crate) struct Trainer {
    pub(crate) welcome: tp::Welcome,
    say: mpsc::Sender<tp::AttachRequest>,
    answers: Streaming<tp::AttachResponse>,
    number: u64,
}

/// What a trainer says first.
pub(crate) fn hello(launch: &Launch) -> tp::Hello {
    tp::Hello {
        protocol_version: tp::PROTOCOL_VERSION,
        job_id: launch.job_id.clone(),
        attempt: launch.attempt,
        secret: launch.secret.expose().into(),
        version: "test".into(),
    }
}

impl Trainer {
    pub(crate) async fn attach(harness: &Harness, launch: &Launch) -> Result<Self, Status> {
        Self::attach_as(harness, hello(launch)).await
    }

    pub(crate) async fn attach_as(harness: &Harness, hello: tp::Hello) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(1024);
        let message = tp::attach_request::Message::Hello(hello);
        say.send(tp::AttachRequest { message: Some(message) }).await.unwrap();
        let mut client = TrainerServiceClient::new(harness.channel());
        let mut answers = soon(client.attach(ReceiverStream::new(said))).await?.into_inner();
        match soon(answers.message()).await?.and_then(|answer| answer.message) {
            Some(tp::attach_response::Message::Welcome(welcome)) => {
                Ok(Self { number: welcome.last_number, welcome, say, answers })
            }
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Sends a report with the next number.
    pub(crate) async fn report(&mut self, body: tp::report::Body) -> u64 {
        self.number += 1;
        self.report_as(self.number, body).await;
        self.number
    }

    pub(crate) async fn report_as(&self, number: u64, body: tp::report::Body) {
        let report = tp::Report { number, time: None, body: Some(body) };
        let message = Some(tp::attach_request::Message::Report(report));
        self.say.send(tp::AttachRequest { message }).await.unwrap();
    }

    pub(crate) async fn event(&mut self, event: Event) -> u64 {
        self.report(tp::report::Body::EventJson(serde_json::to_string(&event).unwrap())).await
    }

    pub(crate) async fn running(&mut self) {
        let number = self.report(tp::report::Body::Running(tp::Running {})).await;
        self.acknowledged(number).await.unwrap();
    }

    pub(crate) async fn finish(&mut self, end: tp::finished::End) {
        let number = self.report(tp::report::Body::Finished(tp::Finished { end: Some(end) })).await;
        self.acknowledged(number).await.unwrap();
    }

    /// Waits until a report is acknowledged; commands that come meanwhile are an error of the test.
    pub(crate) async fn acknowledged(&mut self, number: u64) -> Result<(), Status> {
        loop {
            match self.answer().await? {
                tp::attach_response::Message::Acknowledged(done) if done.number >= number => return Ok(()),
                tp::attach_response::Message::Acknowledged(_) => {}
                other => panic!("not an acknowledgement: {other:?}"),
            }
        }
    }

    /// Waits for a command.
    pub(crate) async fn command(&mut self) -> tp::Command {
        match self.answer().await.unwrap() {
            tp::attach_response::Message::Control(control) => control.command(),
            other => panic!("not a command: {other:?}"),
        }
    }

    /// The next answer, or the status the server sent this trainer away with.
    pub(crate) async fn answer(&mut self) -> Result<tp::attach_response::Message, Status> {
        let answer = soon(self.answers.message()).await?;
        Ok(answer.and_then(|answer| answer.message).expect("the server ended the stream"))
    }
}
