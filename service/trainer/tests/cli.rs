//! The binary as scripts and servers call it: exit status, what lands on stdout, on stderr and in files.

// Helpers of a test are tests too, which the lints cannot see.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hone_proto::trainer::v1 as pb;
use pb::trainer_service_server::{TrainerService, TrainerServiceServer};
use serde_json::{Value, json};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

fn trainer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone-trainer"));
    command.env_remove("RUST_LOG").env("HONE_DEVICE", "cpu");
    command
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn doctor_prints_json_for_programs_and_text_for_people() {
    let output = succeed(trainer().args(["doctor", "--json", "--quick"]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["gemm"], json!([]));
    let output = succeed(trainer().args(["doctor", "--quick"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(report["libtorch_version"].as_str().unwrap()) && text.contains("cpu flash"), "{text}");
}

#[test]
fn score_writes_what_the_live_checks_read() {
    let folder = tempfile::tempdir().unwrap();
    let (ids, out) = (folder.path().join("ids.json"), folder.path().join("out.json"));
    std::fs::write(&ids, r#"{"documents": [[1, 2, 3], [4], [5, 6]]}"#).unwrap();
    let (model, adapter) = (fixture("models/llama"), fixture("adapters/llama_qv"));
    let mut nll = Vec::new();
    for extra in [vec![], vec![Path::new("--adapter"), &adapter]] {
        succeed(
            trainer().arg("score").arg("--model").arg(&model).args(extra).arg("--ids").arg(&ids).arg("--out").arg(&out),
        );
        let scores: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        let lens: Vec<_> =
            scores["logprobs"].as_array().unwrap().iter().map(|row| row.as_array().unwrap().len()).collect();
        assert_eq!(lens, [2, 0, 1]);
        nll.push(scores["nll"].as_f64().unwrap());
    }
    assert_ne!(nll[0], nll[1]);
}

#[test]
fn generate_writes_an_answer_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, out) = (folder.path().join("prompts.json"), folder.path().join("out.jsonl"));
    std::fs::write(&prompts, r#"[{"messages": [{"role": "user", "content": "Hello"}]}, {"prompt": "One"}]"#).unwrap();
    let mut generate = trainer();
    generate.args(["generate", "--max-new-tokens", "3", "--model"]).arg(fixture("gguf/llama.gguf"));
    succeed(generate.arg("--prompts").arg(&prompts).arg("--out").arg(&out));
    let text = std::fs::read_to_string(&out).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!((&answers[0]["prompt"], &answers[1]["prompt"]), (&json!("Hello"), &json!("One")));
    assert!(answers.iter().all(|answer| answer["answer"].is_string() && answer["tokens"].is_array()), "{text}");
}

#[test]
fn what_cannot_be_used_is_one_line_on_stderr() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids.json");
    std::fs::write(&ids, r#"{"documents": [[1, 2]]}"#).unwrap();
    let mut score = trainer();
    score.arg("score").arg("--model").arg(folder.path().join("absent")).arg("--ids").arg(&ids);
    let output = score.arg("--out").arg(folder.path().join("out")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: ") && stderr.contains("absent") && stderr.lines().count() == 1, "{stderr}");
}

/// A server that knows no attempt.
struct Stranger;

#[tonic::async_trait]
impl TrainerService for Stranger {
    type AttachStream = tokio_stream::Empty<Result<pb::AttachResponse, Status>>;

    async fn attach(&self, _: Request<Streaming<pb::AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::permission_denied("attempt 3 is not the one"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_is_refused_leaves_with_status_2() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let service = TrainerServiceServer::new(Stranger);
    let serve = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(serve.serve_with_incoming(TcpListenerStream::new(listener)));
    let run = move || {
        let mut run = trainer();
        run.arg("run").env("HONE_SERVER", server).env("HONE_JOB_ID", "job-1").env("HONE_ATTEMPT", "3");
        run.env("HONE_SECRET", "a-secret").output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("attempt 3 is not the one") && !stderr.contains("a-secret"), "{stderr}");
}

#[test]
fn a_trainer_without_a_secret_leaves_with_status_2() {
    let mut run = trainer();
    run.args(["run", "--server", "http://127.0.0.1:1", "--job-id", "job-1", "--attempt", "1"]);
    let output = run.env_remove("HONE_SECRET").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("HONE_SECRET"));
}
