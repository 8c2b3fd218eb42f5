//! Uploads and downloads that are cut: they go on from where they were, and what comes out is whole.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::select_all;
use futures::stream::{self, StreamExt};
use hone_client::v1::dataset_service_client::DatasetServiceClient;
use hone_client::v1::dataset_service_server::{DatasetService, DatasetServiceServer};
use hone_client::v1::upload_dataset_request::Part;
use hone_client::{Client, ConnectOptions, JobHandle, RetryPolicy, v1};
use hone_tests::{Act, Proxy, Script, Server, Setup, binary, events_of, run, soon, weights};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;

const MIB: u64 = 1 << 20;
/// Weights of two parts and a bit.
const WEIGHTS: u64 = 70 * MIB;

/// A client behind a network that breaks.
async fn behind(proxy: &Proxy, max_attempts: u32) -> Client {
    with_streams(proxy, max_attempts, ConnectOptions::new("").transfer_streams).await
}

/// The same, with so many streams at once.
async fn with_streams(proxy: &Proxy, max_attempts: u32, streams: usize) -> Client {
    let mut retry = RetryPolicy::default();
    retry.max_attempts = max_attempts;
    Client::connect(ConnectOptions::new(proxy.url()).retry(retry).transfer_streams(streams)).await.unwrap()
}

/// A job with a large checkpoint, whose id is the second of the two.
async fn saved(server: &Server) -> (JobHandle, String) {
    let checkpoint = Act::Checkpoint { weights_bytes: WEIGHTS };
    server.play(Script::of([Act::Running, Act::Steps(1), checkpoint, Act::Succeed]));
    let job = server.job().await;
    events_of(&job).await;
    let id = job.last_checkpoint().await.unwrap().checkpoint_id;
    (job, id)
}

fn hidden_in(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0] == b'.').count()
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_and_is_whole() {
    let server = Setup::default().start().await;
    let (job, checkpoint) = saved(&server).await;
    let proxy = Proxy::before(server.address()).await;
    // Between two cuts comes some of the file.
    proxy.cut_after([12 * MIB; 5]);
    let job = behind(&proxy, 3).await.job(job.id());
    let folder = server.setup().path("home");
    std::fs::create_dir(&folder).unwrap();
    let target = folder.join("adapter");
    let told = AtomicU64::new(0);
    let mut rising = |progress: hone_client::Progress<'_>| {
        let before = told.swap(progress.done_bytes, Ordering::Relaxed);
        assert!(before < progress.done_bytes && progress.done_bytes <= progress.total_bytes, "no byte counts twice");
    };
    job.download_with(&checkpoint, &target, &mut rising).await.unwrap();
    assert!(!proxy.has_cuts_left(), "all cuts were made");
    assert!(told.into_inner() >= WEIGHTS);
    assert!(std::fs::read(target.join("adapter_model.safetensors")).unwrap() == weights(WEIGHTS));
    assert!(target.join("manifest.json").is_file());
    assert_eq!((hidden_in(&folder), hidden_in(&target)), (0, 0), "nothing is left beside it or in it");
}

#[tokio::test]
async fn the_next_download_goes_on_with_what_a_failed_one_fetched() {
    let server = Setup::default().start().await;
    let (job, checkpoint) = saved(&server).await;
    let proxy = Proxy::before(server.address()).await;
    proxy.cut_after([20 * MIB]);
    let folder = server.setup().path("home");
    std::fs::create_dir(&folder).unwrap();
    let target = folder.join("adapter");
    let cut = behind(&proxy, 1).await.job(job.id()).download(&checkpoint, &target).await.unwrap_err();
    assert!(cut.is_unreachable(), "{cut}");
    assert!(!target.exists(), "it has no name before it is whole");
    assert_eq!(hidden_in(&folder), 1);

    let first = AtomicU64::new(0);
    let mut note = |progress: hone_client::Progress<'_>| {
        let _ = first.compare_exchange(0, progress.done_bytes, Ordering::Relaxed, Ordering::Relaxed);
    };
    job.download_with(&checkpoint, &target, &mut note).await.unwrap();
    assert!(first.into_inner() > 10 * MIB, "it did not begin anew");
    assert!(std::fs::read(target.join("adapter_model.safetensors")).unwrap() == weights(WEIGHTS));
    assert_eq!(hidden_in(&folder), 0);
}

/// Cuts the network once so many bytes are on their way, and notes where the upload goes on.
struct CutAt<'a> {
    proxy: &'a Proxy,
    at: u64,
    cut: bool,
    went_on_at: Option<u64>,
    before: u64,
}

impl<'a> CutAt<'a> {
    fn new(proxy: &'a Proxy, at: u64) -> Self {
        Self { proxy, at, cut: false, went_on_at: None, before: 0 }
    }

    fn hear(&mut self, done_bytes: u64) {
        if !self.cut && done_bytes >= self.at {
            self.proxy.cut();
            self.cut = true;
        }
        if done_bytes < self.before {
            self.went_on_at = self.went_on_at.or(Some(done_bytes));
        }
        self.before = done_bytes;
    }
}

#[tokio::test]
async fn an_upload_of_rows_that_is_cut_goes_on_and_is_whole() {
    let server = Setup::default().start().await;
    let proxy = Proxy::before(server.address()).await;
    let rows = server.setup().path("rows.jsonl");
    let line = format!("{{\"text\": \"{}\"}}\n", "word ".repeat(200));
    std::fs::write(&rows, line.repeat(64 << 10)).unwrap();
    for streams in [1, 4] {
        let client = with_streams(&proxy, 5, streams).await;
        let mut cut = CutAt::new(&proxy, 48 * MIB);
        let dataset = client.upload_dataset_with(&rows, &mut |progress| cut.hear(progress.done_bytes)).await.unwrap();
        assert!(cut.cut);
        // What was on its way when the network broke comes again, at most four parts of 8 MiB; what had come does not.
        assert!(cut.went_on_at.is_some_and(|bytes| bytes > 16 * MIB), "{:?}", cut.went_on_at);
        assert_eq!(dataset.size_bytes, std::fs::metadata(&rows).unwrap().len());
        let stored = std::fs::read(dataset.uri.strip_prefix("file://").unwrap()).unwrap();
        assert!(stored == std::fs::read(&rows).unwrap());
        assert_eq!(client.list_datasets(Default::default()).await.unwrap().datasets.len(), 1);
        client.delete_dataset(&dataset.dataset_id).await.unwrap();
    }
}

#[tokio::test]
async fn an_upload_of_a_model_that_is_cut_goes_on_in_the_file_where_it_was() {
    let server = Setup::default().start().await;
    let proxy = Proxy::before(server.address()).await;
    let client = behind(&proxy, 5).await;
    let folder = server.setup().path("model");
    std::fs::create_dir(&folder).unwrap();
    for (name, size) in [
        ("config.json", 2),
        ("model-1.safetensors", 20 * MIB),
        ("model-2.safetensors", 30 * MIB),
        ("tokenizer.json", 9),
    ] {
        std::fs::write(folder.join(name), weights(size)).unwrap();
    }
    let mut cut = CutAt::new(&proxy, 40 * MIB);
    let heard = &mut |progress: hone_client::Progress<'_>| cut.hear(progress.done_bytes);
    let model = client.upload_model_with(&folder, "cut", heard).await.unwrap();
    assert!(cut.went_on_at.is_some_and(|bytes| bytes > 8 * MIB), "{:?}", cut.went_on_at);
    let names: Vec<_> = model.files.iter().map(|file| (&*file.name, file.size_bytes)).collect();
    let expected = [
        ("config.json", 2),
        ("model-1.safetensors", 20 * MIB),
        ("model-2.safetensors", 30 * MIB),
        ("tokenizer.json", 9),
    ];
    assert_eq!(names, expected);
    let stored = std::path::Path::new(model.uri.strip_prefix("file://").unwrap()).join("model-2.safetensors");
    assert!(std::fs::read(stored).unwrap() == weights(30 * MIB));
}

/// A server knows nothing of the uploads that it had begun before it started anew; they begin anew, too.
#[tokio::test]
async fn an_upload_outlives_its_server() {
    let server = Setup::default().start().await;
    let proxy = Proxy::before(server.address()).await;
    let rows = server.setup().path("rows.jsonl");
    std::fs::write(&rows, "{\"text\": \"word\"}\n".repeat(4 << 20)).unwrap();
    let client = behind(&proxy, 5).await;
    let is_under_way = Notify::new();
    let mut has_stalled = false;
    let mut stall = |progress: hone_client::Progress<'_>| {
        if progress.done_bytes > 20 * MIB && !std::mem::replace(&mut has_stalled, true) {
            proxy.stall(true);
            is_under_way.notify_one();
        }
    };
    let renewed = async {
        is_under_way.notified().await;
        let server = server.kill().await.start().await;
        proxy.set_target(server.address());
        proxy.cut();
        proxy.stall(false);
        server
    };
    let (dataset, _server) = tokio::join!(client.upload_dataset_with(&rows, &mut stall), renewed);
    let dataset = dataset.unwrap();
    let stored = std::fs::read(dataset.uri.strip_prefix("file://").unwrap()).unwrap();
    assert!(stored == std::fs::read(&rows).unwrap());
    assert_eq!(client.list_datasets(Default::default()).await.unwrap().datasets.len(), 1);
}

/// What was read before a cut and what is read after it make no file that ever was.
#[tokio::test]
async fn an_upload_whose_file_changes_between_two_streams_is_refused_and_leaves_nothing() {
    let server = Setup::default().start().await;
    let proxy = Proxy::before(server.address()).await;
    let rows = server.setup().path("rows.jsonl");
    for streams in [1, 4] {
        std::fs::write(&rows, weights(64 * MIB)).unwrap();
        let client = with_streams(&proxy, 5, streams).await;
        let mut cut = CutAt::new(&proxy, 48 * MIB);
        let mut change = |progress: hone_client::Progress<'_>| {
            let before = cut.cut;
            cut.hear(progress.done_bytes);
            if cut.cut && !before {
                std::fs::File::options().write(true).open(&rows).unwrap().write_all_at(b"other", 9).unwrap();
            }
        };
        let error = client.upload_dataset_with(&rows, &mut change).await.unwrap_err();
        assert!(matches!(error, hone_client::Error::Damaged { .. }), "{error}");
        assert_eq!(client.list_datasets(Default::default()).await.unwrap().datasets, []);
    }
}

/// A server that asks for tokens, and a client of it whose token has a limit.
async fn limited(limit: &str, streams: usize) -> (Server, Client) {
    let setup = Setup::default();
    let mut make = Command::new(binary("hone-server"));
    let made = run(make.args(["token", "busy", "--project", "ops", "--role", "admin"])).await;
    let token = made.success().trim().to_owned();
    let tokens = setup.path("tokens");
    std::fs::write(&tokens, format!("{} {limit}\n", made.stderr.trim_end())).unwrap();
    let server = setup.flag("--token-file", tokens.display()).flag("--allow-uri", "file:///").start().await;
    let options = ConnectOptions::new(server.url()).token(token).transfer_streams(streams);
    let client = Client::connect(options).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn a_token_of_few_calls_uploads_and_downloads_in_one_stream() {
    for (calls, streams) in [(1, 1), (1, 4), (2, 4)] {
        let (server, client) = limited(&format!("max_calls={calls}"), streams).await;
        let rows = server.setup().path("large.jsonl");
        std::fs::write(&rows, weights(40 * MIB)).unwrap();
        let dataset = client.upload_dataset(&rows).await.unwrap();
        let stored = std::fs::read(dataset.uri.strip_prefix("file://").unwrap()).unwrap();
        assert!(stored == weights(40 * MIB), "{calls} calls, {streams} streams");

        let checkpoint = Act::Checkpoint { weights_bytes: WEIGHTS };
        server.play(Script::of([Act::Running, Act::Steps(1), checkpoint, Act::Succeed]));
        let job = client.create_job(server.spec()).await.unwrap();
        events_of(&job).await;
        let target = server.setup().path("adapter");
        // The watch may still be counted.
        let checkpoint = soon("the watch to be over", async {
            loop {
                match job.last_checkpoint().await {
                    Err(error) if error.code() == Some(Code::ResourceExhausted) => tokio::task::yield_now().await,
                    found => break found.unwrap(),
                }
            }
        });
        job.download(&checkpoint.await.checkpoint_id, &target).await.unwrap();
        assert!(std::fs::read(target.join("adapter_model.safetensors")).unwrap() == weights(WEIGHTS));
    }
}

/// A part that comes long before its turn, on a stream that stays open.
async fn early_part(server: &Server, number: u64) -> Status {
    let header = v1::UploadDatasetHeader {
        file_name: "rows.jsonl".into(),
        request_id: "another's".into(),
        offset: number + 1,
        total_bytes: MIB,
        ..Default::default()
    };
    let header = v1::UploadDatasetRequest { part: Some(Part::Header(header)) };
    let mut stub = DatasetServiceClient::connect(server.url()).await.unwrap();
    stub.upload_dataset(stream::iter([header]).chain(stream::pending())).await.unwrap_err()
}

#[tokio::test]
async fn an_upload_that_finds_no_room_for_its_parts_goes_on_in_one_stream() {
    let server = Setup::default().start().await;
    // So many that one is refused: from then on those that wait take all the room there is.
    let early = (0..64).map(|number| Box::pin(early_part(&server, number)));
    let (refused, _, waiting) = soon("a part to be refused", select_all(early)).await;
    let reason = refused.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("TOO_MANY_PARTS"), "{refused}");
    let rows = server.setup().path("rows.jsonl");
    std::fs::write(&rows, weights(64 * MIB)).unwrap();
    let dataset = server.client().await.upload_dataset(&rows).await.unwrap();
    assert!(std::fs::read(dataset.uri.strip_prefix("file://").unwrap()).unwrap() == weights(64 * MIB));
    drop(waiting);
}

/// A way to a server on which the last stream of an upload is cut between its last byte and its end, and which is late once when
/// it is asked what came.
struct CutAtItsEnd {
    server: DatasetServiceClient<Channel>,
    size_bytes: u64,
    cut: AtomicBool,
    late: AtomicBool,
}

impl CutAtItsEnd {
    async fn before(server: &Server, size_bytes: u64) -> String {
        let server = DatasetServiceClient::connect(server.url()).await.unwrap();
        let way = DatasetServiceServer::new(Self {
            server,
            size_bytes,
            cut: AtomicBool::default(),
            late: AtomicBool::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(way).serve_with_incoming(incoming));
        url
    }
}

/// Byte at which some messages of an upload end.
fn end_of(messages: &[v1::UploadDatasetRequest]) -> u64 {
    let bytes = |message: &v1::UploadDatasetRequest| match &message.part {
        Some(Part::Header(header)) => header.offset,
        Some(Part::Chunk(chunk)) => chunk.len() as u64,
        None => 0,
    };
    messages.iter().map(bytes).sum()
}

#[tonic::async_trait]
impl DatasetService for CutAtItsEnd {
    async fn upload_dataset(
        &self,
        request: Request<Streaming<v1::UploadDatasetRequest>>,
    ) -> Result<Response<v1::UploadDatasetResponse>, Status> {
        let mut said = request.into_inner();
        let mut messages = Vec::new();
        while let Some(message) = said.message().await? {
            messages.push(message);
        }
        if end_of(&messages) == self.size_bytes && !self.cut.swap(true, Ordering::Relaxed) {
            messages.push(v1::UploadDatasetRequest { part: None });
        }
        let asks = messages.len() == 1;
        if asks && self.cut.load(Ordering::Relaxed) && !self.late.swap(true, Ordering::Relaxed) {
            return Err(Status::deadline_exceeded("late"));
        }
        self.server.clone().upload_dataset(stream::iter(messages)).await
    }

    async fn get_dataset(
        &self,
        request: Request<v1::GetDatasetRequest>,
    ) -> Result<Response<v1::GetDatasetResponse>, Status> {
        self.server.clone().get_dataset(request).await
    }

    async fn list_datasets(
        &self,
        request: Request<v1::ListDatasetsRequest>,
    ) -> Result<Response<v1::ListDatasetsResponse>, Status> {
        self.server.clone().list_datasets(request).await
    }

    async fn delete_dataset(
        &self,
        request: Request<v1::DeleteDatasetRequest>,
    ) -> Result<Response<v1::DeleteDatasetResponse>, Status> {
        self.server.clone().delete_dataset(request).await
    }

    async fn preview_dataset(
        &self,
        request: Request<v1::PreviewDatasetRequest>,
    ) -> Result<Response<v1::PreviewDatasetResponse>, Status> {
        self.server.clone().preview_dataset(request).await
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_between_its_last_byte_and_its_end_is_whole_after_all() {
    let server = Setup::default().start().await;
    let rows = server.setup().path("rows.jsonl");
    for size_bytes in [3, 20 * MIB] {
        std::fs::write(&rows, weights(size_bytes)).unwrap();
        let client = Client::connect(CutAtItsEnd::before(&server, size_bytes).await).await.unwrap();
        let dataset = client.upload_dataset(&rows).await.unwrap();
        assert_eq!(dataset.size_bytes, size_bytes);
    }
    assert_eq!(server.client().await.list_datasets(Default::default()).await.unwrap().datasets.len(), 2);
}
