//! The binary `hone` against a scripted server in this process: what it prints where, and its exit codes.

use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use hone_proto::encoded::WatchJobResponse;
use hone_proto::v1 as pb;
use pb::dataset_service_server::{DatasetService, DatasetServiceServer};
use pb::job_event::Event;
use pb::job_service_server::{JobService, JobServiceServer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

const JOB_ID: &str = "job-0123456789abcdef0123456789abcdef";
const STEPS: u64 = 5;

/// One job with a fixed history. The first watch of it breaks off in the middle.
#[derive(Clone)]
struct Script {
    job: pb::Job,
    events: Arc<Vec<pb::JobEvent>>,
    /// after_sequence of each watch so far.
    watches: Arc<Mutex<Vec<u64>>>,
    created: Arc<Mutex<Vec<pb::JobSpec>>>,
    datasets: Arc<Mutex<Vec<pb::Dataset>>>,
}

impl Script {
    /// A job that has taken its steps and ended in `state`.
    fn ending_in(state: pb::JobState) -> Self {
        let change = |from: pb::JobState, to: pb::JobState| {
            Event::StateChanged(pb::StateChanged { from: from.into(), to: to.into(), detail: String::new() })
        };
        let mut story = vec![
            change(pb::JobState::Unspecified, pb::JobState::Queued),
            change(pb::JobState::Queued, pb::JobState::Running),
            Event::Plan(pb::Plan { total_steps: STEPS, ..Default::default() }),
        ];
        let step = |step| {
            let loss = Some(4.0 - step as f64 / 2.0);
            Event::TrainStep(pb::TrainStep { step, loss, ..Default::default() })
        };
        story.extend((1..=STEPS).map(step));
        let mut job = pb::Job {
            job_id: JOB_ID.into(),
            state: state.into(),
            step: STEPS,
            total_steps: STEPS,
            ..Default::default()
        };
        match state {
            pb::JobState::Succeeded => {
                let result = pb::JobResult {
                    steps: STEPS,
                    eval_loss_before: Some(4.0),
                    eval_loss_after: Some(1.5),
                    ..Default::default()
                };
                story.push(Event::Result(result.clone()));
                job.result = Some(result);
            }
            pb::JobState::Failed => {
                let reason = pb::FailureReason::NonFinite.into();
                let failure = pb::Failure { reason, message: "losses stayed NaN".into(), ..Default::default() };
                story.push(Event::Failure(failure.clone()));
                job.failure = Some(failure);
            }
            _ => {}
        }
        story.push(change(pb::JobState::Running, state));
        let numbered = story.into_iter().zip(1..).map(|(event, sequence)| pb::JobEvent {
            sequence,
            // Two seconds apart, so that no line is thinned out.
            time: Some(prost_types::Timestamp { seconds: 2 * sequence as i64, nanos: 0 }),
            attempt: 1,
            trace_id: String::new(),
            event: Some(event),
        });
        let events: Vec<_> = numbered.collect();
        job.last_sequence = events.len() as u64;
        Self {
            job,
            events: Arc::new(events),
            watches: Arc::default(),
            created: Arc::default(),
            datasets: Arc::default(),
        }
    }

    /// Serves on a port of its own until the test's runtime ends.
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = tonic::transport::Server::builder()
            .add_service(JobServiceServer::new(self.clone()))
            .add_service(DatasetServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        url
    }

    /// Runs `hone` against this server.
    async fn hone(&self, arguments: &[&str]) -> Output {
        let url = self.serve().await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
        command.args(arguments).env("HONE_SERVER", url).env_remove("NO_COLOR").stdin(Stdio::null());
        command.output().await.expect("hone runs")
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn not_in_the_script<T>() -> Answer<T> {
    Err(Status::unimplemented("not in the script"))
}

#[tonic::async_trait]
impl JobService for Script {
    type WatchJobStream = BoxStream<'static, Result<WatchJobResponse, Status>>;
    type DownloadCheckpointStream = BoxStream<'static, Result<pb::DownloadCheckpointResponse, Status>>;

    async fn create_job(&self, request: Request<pb::CreateJobRequest>) -> Answer<pb::CreateJobResponse> {
        let spec = request.into_inner().spec.unwrap_or_default();
        if spec.base_model.as_ref().is_some_and(|model| model.uri == "model-bad") {
            let mut details = ErrorDetails::new();
            details.set_error_info("SPEC_INVALID", "hone", std::collections::HashMap::new());
            details.add_bad_request_violation("spec.base_model.uri", "there is no such model");
            details.add_bad_request_violation("spec.sft.adapter.lora.rank", "must be 1 to 1024, not 0");
            return Err(Status::with_error_details(Code::InvalidArgument, "2 fields are invalid", details));
        }
        self.created.lock().expect("unpoisoned").push(spec);
        Ok(Response::new(pb::CreateJobResponse { job: Some(self.job.clone()) }))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Answer<pb::GetJobResponse> {
        match request.into_inner().job_id == JOB_ID {
            true => Ok(Response::new(pb::GetJobResponse { job: Some(self.job.clone()) })),
            false => Err(Status::not_found("there is no such job")),
        }
    }

    async fn list_jobs(&self, _: Request<pb::ListJobsRequest>) -> Answer<pb::ListJobsResponse> {
        Ok(Response::new(pb::ListJobsResponse { jobs: vec![self.job.clone()], next_page_token: String::new() }))
    }

    async fn watch_job(&self, request: Request<pb::WatchJobRequest>) -> Answer<Self::WatchJobStream> {
        let after = request.into_inner().after_sequence;
        let first = {
            let mut watches = self.watches.lock().expect("unpoisoned");
            watches.push(after);
            watches.len() == 1
        };
        let events = self.events.iter().filter(move |event| event.sequence > after).cloned();
        let responses: Vec<_> = events.map(|event| Ok(event.into())).collect();
        let broken = Err(Status::unavailable("the server went away"));
        Ok(Response::new(match first {
            true => stream::iter(responses).take(4).chain(stream::iter([broken])).boxed(),
            false => stream::iter(responses).boxed(),
        }))
    }

    async fn pause_job(&self, _: Request<pb::PauseJobRequest>) -> Answer<pb::PauseJobResponse> {
        not_in_the_script()
    }

    async fn resume_job(&self, _: Request<pb::ResumeJobRequest>) -> Answer<pb::ResumeJobResponse> {
        not_in_the_script()
    }

    async fn checkpoint_job(&self, _: Request<pb::CheckpointJobRequest>) -> Answer<pb::CheckpointJobResponse> {
        not_in_the_script()
    }

    async fn cancel_job(&self, _: Request<pb::CancelJobRequest>) -> Answer<pb::CancelJobResponse> {
        not_in_the_script()
    }

    async fn delete_job(&self, _: Request<pb::DeleteJobRequest>) -> Answer<pb::DeleteJobResponse> {
        not_in_the_script()
    }

    async fn list_checkpoints(&self, _: Request<pb::ListCheckpointsRequest>) -> Answer<pb::ListCheckpointsResponse> {
        Ok(Response::new(pb::ListCheckpointsResponse::default()))
    }

    async fn get_checkpoint(&self, _: Request<pb::GetCheckpointRequest>) -> Answer<pb::GetCheckpointResponse> {
        not_in_the_script()
    }

    async fn delete_checkpoint(&self, _: Request<pb::DeleteCheckpointRequest>) -> Answer<pb::DeleteCheckpointResponse> {
        not_in_the_script()
    }

    async fn get_report(&self, _: Request<pb::GetReportRequest>) -> Answer<pb::GetReportResponse> {
        let file = |name: &str, data: &'static [u8]| pb::ReportFile {
            name: name.into(),
            uri: format!("file:///s/jobs/{JOB_ID}/report/{name}"),
            data: data.into(),
        };
        let files = vec![file("loss.png", b"picture"), file("../summary.json", b"{}")];
        Ok(Response::new(pb::GetReportResponse { files }))
    }

    async fn download_checkpoint(
        &self,
        _: Request<pb::DownloadCheckpointRequest>,
    ) -> Answer<Self::DownloadCheckpointStream> {
        not_in_the_script()
    }
}

#[tonic::async_trait]
impl DatasetService for Script {
    async fn upload_dataset(
        &self,
        request: Request<Streaming<pb::UploadDatasetRequest>>,
    ) -> Answer<pb::UploadDatasetResponse> {
        use pb::upload_dataset_request::Part;
        let mut parts = request.into_inner();
        let (mut dataset, mut hash) = (pb::Dataset::default(), Sha256::new());
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Header(header)) => dataset.file_name = header.file_name,
                Some(Part::Chunk(chunk)) => {
                    dataset.size_bytes += chunk.len() as u64;
                    hash.update(&chunk);
                }
                None => return Err(Status::cancelled("the upload broke off")),
            }
        }
        dataset.sha256 = hex::encode(hash.finalize());
        let mut datasets = self.datasets.lock().expect("unpoisoned");
        dataset.dataset_id = format!("ds-{:032x}", datasets.len() + 1);
        datasets.push(dataset.clone());
        Ok(Response::new(pb::UploadDatasetResponse { dataset: Some(dataset), ..Default::default() }))
    }

    async fn list_datasets(&self, _: Request<pb::ListDatasetsRequest>) -> Answer<pb::ListDatasetsResponse> {
        let datasets = self.datasets.lock().expect("unpoisoned").clone();
        Ok(Response::new(pb::ListDatasetsResponse { datasets, next_page_token: String::new() }))
    }

    async fn get_dataset(&self, _: Request<pb::GetDatasetRequest>) -> Answer<pb::GetDatasetResponse> {
        not_in_the_script()
    }

    async fn delete_dataset(&self, _: Request<pb::DeleteDatasetRequest>) -> Answer<pb::DeleteDatasetResponse> {
        not_in_the_script()
    }

    async fn preview_dataset(&self, _: Request<pb::PreviewDatasetRequest>) -> Answer<pb::PreviewDatasetResponse> {
        not_in_the_script()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn json_lines(bytes: &[u8]) -> Vec<Value> {
    text(bytes).lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[tokio::test]
async fn a_watch_that_loses_its_stream_prints_every_event_once_and_in_order() {
    let script = Script::ending_in(pb::JobState::Succeeded);
    let done = script.hone(&["--json", "jobs", "watch", JOB_ID]).await;
    let events = json_lines(&done.stdout);
    let sequences: Vec<_> = events.iter().map(|event| event["sequence"].as_str().expect("a number")).collect();
    let due: Vec<_> = (1..=script.events.len()).map(|number| number.to_string()).collect();
    assert_eq!(sequences, due);
    assert_eq!(*script.watches.lock().expect("unpoisoned"), [0, 4]);
    let notes = json_lines(&done.stderr);
    assert_eq!(notes.len(), 1);
    assert!(notes[0]["note"].as_str().is_some_and(|note| note.contains("the server went away")), "{notes:?}");
    assert_eq!(done.status.code(), Some(0));
}

#[tokio::test]
async fn a_piped_watch_prints_plain_lines_and_how_it_ended() {
    let script = Script::ending_in(pb::JobState::Succeeded);
    let done = script.hone(&["jobs", "watch", JOB_ID]).await;
    let out = text(&done.stdout);
    assert!(!out.contains('\x1b'), "{out}");
    assert_eq!(out.lines().filter(|line| line.contains("  step ")).count() as u64, STEPS, "{out}");
    assert!(out.contains("step 5/5  loss 1.5000"), "{out}");
    assert!(out.contains("held-out loss 4.0000 before, 1.5000 after"), "{out}");
    assert!(out.contains(&format!("{JOB_ID} SUCCEEDED\ntake it home  hone checkpoints download {JOB_ID}")), "{out}");
    assert!(text(&done.stderr).contains("connection lost"), "{done:?}");
}

#[tokio::test]
async fn a_watch_begins_after_the_event_it_is_told() {
    let script = Script::ending_in(pb::JobState::Succeeded);
    let done = script.hone(&["--json", "jobs", "watch", JOB_ID, "--after", "8"]).await;
    assert_eq!(json_lines(&done.stdout)[0]["sequence"], "9");
}

#[tokio::test]
async fn the_exit_code_tells_how_the_job_ended() {
    for (state, code) in [(pb::JobState::Succeeded, 0), (pb::JobState::Failed, 3), (pb::JobState::Cancelled, 4)] {
        for verb in ["watch", "wait"] {
            let done = Script::ending_in(state).hone(&["jobs", verb, JOB_ID]).await;
            assert_eq!(done.status.code(), Some(code), "{verb} {state:?}: {done:?}");
        }
    }
}

#[tokio::test]
async fn a_failed_job_is_told_with_its_reason_once() {
    let done = Script::ending_in(pb::JobState::Failed).hone(&["jobs", "watch", JOB_ID]).await;
    assert_eq!(text(&done.stdout).matches("NON_FINITE: losses stayed NaN").count(), 1, "{done:?}");
}

#[tokio::test]
async fn a_refused_spec_shows_every_violation() {
    let arguments = ["train", "sft", "--model", "model-bad", "--train", "ds-1", "--rank", "8"];
    let done = Script::ending_in(pb::JobState::Succeeded).hone(&arguments).await;
    let expected = "\
error: CreateJob: 2 fields are wrong
  spec.base_model.uri         there is no such model
  spec.sft.adapter.lora.rank  must be 1 to 1024, not 0
";
    assert_eq!((text(&done.stdout), text(&done.stderr)), ("", expected));
    assert_eq!(done.status.code(), Some(1));
}

#[tokio::test]
async fn programs_get_errors_as_json() {
    let done = Script::ending_in(pb::JobState::Succeeded).hone(&["--json", "jobs", "get", "job-none"]).await;
    let expected = json!({"error": {
        "message": "GetJob job-none: there is no such job",
        "code": "NOT_FOUND",
        "call": "GetJob",
        "object": "job-none",
        "hint": "list what exists and check the id",
    }});
    assert_eq!(json_lines(&done.stderr), [expected]);
    assert_eq!(done.status.code(), Some(1));
}

#[tokio::test]
async fn training_uploads_local_rows_once_and_writes_the_jobs_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let (rows, id_file) = (folder.path().join("rows.jsonl"), folder.path().join("job"));
    std::fs::write(&rows, "{\"text\": \"a\"}\n").expect("rows");
    let rows = rows.to_str().expect("a path");
    let id_file = id_file.to_str().expect("a path");
    let script = Script::ending_in(pb::JobState::Succeeded);
    let arguments = ["train", "sft", "--model", "model-1", "--train", rows, "--epochs", "2", "--job-file", id_file];
    for _ in 0..2 {
        let done = script.hone(&arguments).await;
        assert_eq!(done.status.code(), Some(0), "{done:?}");
    }
    assert_eq!(std::fs::read_to_string(id_file).expect("the id"), format!("{JOB_ID}\n"));
    assert_eq!(script.datasets.lock().expect("unpoisoned").len(), 1, "the second run finds what the first one sent");
    let created = script.created.lock().expect("unpoisoned");
    let trained_on = |spec: &pb::JobSpec| match &spec.task {
        Some(pb::job_spec::Task::Sft(sft)) => sft.data.clone().unwrap_or_default().train,
        _ => Vec::new(),
    };
    let ids: Vec<_> = created.iter().flat_map(trained_on).collect();
    assert_eq!(ids, [format!("ds-{:032x}", 1), format!("ds-{:032x}", 1)]);
}

#[tokio::test]
async fn a_plot_is_made_of_a_jobs_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let (picture, csv) = (folder.path().join("loss.png"), folder.path().join("loss.csv"));
    let script = Script::ending_in(pb::JobState::Succeeded);
    let flags = ["-o", picture.to_str().expect("a path"), "--csv", csv.to_str().expect("a path")];
    let done = script.hone(&[&["plot", JOB_ID][..], &flags].concat()).await;
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(std::fs::read(&picture).expect("a picture").starts_with(b"\x89PNG"));
    assert_eq!(std::fs::read_to_string(&csv).expect("numbers").lines().count() as u64, 1 + STEPS);
}

#[tokio::test]
async fn jobs_are_drawn_over_one_another_and_as_svg() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("runs.svg");
    let path = picture.to_str().expect("a path");
    let script = Script::ending_in(pb::JobState::Succeeded);
    let done = script.hone(&["plot", JOB_ID, JOB_ID, "-o", path, "--only", "loss,learning-rate"]).await;
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let svg = std::fs::read_to_string(&picture).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.contains("2 training runs") && !svg.contains("Gradient norm"), "{svg}");
    let refused = script.hone(&["plot", JOB_ID, JOB_ID, "-o", path, "--csv", "numbers.csv"]).await;
    assert!(text(&refused.stderr).contains("--csv takes the numbers of one job"), "{refused:?}");
}

#[tokio::test]
async fn a_report_is_fetched_into_a_folder_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("deep/report");
    let script = Script::ending_in(pb::JobState::Succeeded);
    let done = script.hone(&["jobs", "report", JOB_ID, "--to", to.to_str().expect("a path")]).await;
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(std::fs::read(to.join("loss.png")).expect("a picture"), b"picture");
    assert_eq!(std::fs::read(to.join("summary.json")).expect("a summary"), b"{}");
    assert!(!folder.path().join("deep/summary.json").exists(), "a name is no path");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_with_a_hint() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    // Port 1 is reserved; nothing listens there.
    let done = command.args(["--server", "http://127.0.0.1:1", "info"]).output().await.expect("hone runs");
    let told = text(&done.stderr);
    assert!(told.starts_with("error: cannot reach the server at http://127.0.0.1:1: "), "{told}");
    assert!(told.contains("hint: check that hone-server runs"), "{told}");
    assert_eq!(done.status.code(), Some(1));
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_error() {
    let script = Script::ending_in(pb::JobState::Succeeded);
    let url = script.serve().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    command.args(["jobs", "list"]).env("HONE_SERVER", url).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("hone runs");
    drop(child.stdout.take());
    let done = child.wait_with_output().await.expect("hone ends");
    assert_eq!((text(&done.stderr), done.status.code()), ("", Some(0)));
}

#[tokio::test]
async fn numbers_go_to_files_for_other_tools() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().to_str().expect("a path");
    let script = Script::ending_in(pb::JobState::Succeeded);
    let done = script.hone(&["export-metrics", JOB_ID, "--csv", to, "--tensorboard", to, "--follow"]).await;
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let csv = std::fs::read_to_string(folder.path().join(format!("{JOB_ID}.csv"))).expect("numbers");
    assert_eq!(csv.lines().filter(|line| line.contains(",train/loss,")).count() as u64, STEPS);
    let mut files = std::fs::read_dir(folder.path().join(JOB_ID)).expect("a folder for the job");
    let file = files.next().expect("a file").expect("a file").file_name().into_string().expect("a name");
    assert!(file.starts_with("events.out.tfevents."), "{file}");
    let refused = script.hone(&["export-metrics", JOB_ID]).await;
    assert_eq!(refused.status.code(), Some(2), "it is to be said where to");
}

#[tokio::test]
async fn shells_and_manuals_are_served_without_a_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let hone = |arguments: Vec<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
        command.args(arguments).env("HONE_SERVER", "http://127.0.0.1:1").output()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = hone(vec!["completions".into(), shell.into()]).await.expect("hone runs");
        assert!(done.status.success() && text(&done.stdout).contains("export-metrics"), "{shell}: {done:?}");
    }
    let done = hone(vec!["man".into(), folder.path().display().to_string()]).await.expect("hone runs");
    assert!(done.status.success(), "{done:?}");
    for page in ["hone.1", "hone-train-sft.1", "hone-export-metrics.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
}

#[tokio::test]
async fn colours_are_for_terminals_and_no_color_turns_them_off() {
    let script = Script::ending_in(pb::JobState::Succeeded);
    let url = script.serve().await;
    let shown = |no_color: &'static str| {
        // util-linux's `script` gives the command a terminal.
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &format!("{} jobs get {JOB_ID}", env!("CARGO_BIN_EXE_hone")), "/dev/null"]);
        terminal.env("HONE_SERVER", &url).env("TERM", "xterm").env("NO_COLOR", no_color).stdin(Stdio::null()).output()
    };
    let coloured = shown("").await.expect("script runs");
    assert!(text(&coloured.stdout).contains("\x1b["), "{coloured:?}");
    let plain = shown("1").await.expect("script runs");
    assert!(text(&plain.stdout).contains("SUCCEEDED") && !text(&plain.stdout).contains('\x1b'), "{plain:?}");
    let piped = script.hone(&["jobs", "get", JOB_ID]).await;
    assert!(!text(&piped.stdout).contains('\x1b'), "{piped:?}");
}
