//! The command line `hone` as people and scripts use it, with a trainer that costs nothing.

use std::path::Path;

use hone_job::failure::{Failure, Reason};
use hone_tests::{Act, Gate, Script, Server, Setup, binary, conversation, fixture_model, run, uri, write_lines};
use serde_json::{Value, json};
use tokio::process::Command;

fn hone(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("hone"));
    command.env("HONE_SERVER", server.url()).args(arguments);
    command
}

async fn text(server: &Server, arguments: &[&str]) -> String {
    run(&mut hone(server, arguments)).await.success().to_owned()
}

/// What `--json` prints: one object a line.
async fn objects(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let printed = text(server, &[&["--json"], arguments].concat()).await;
    printed.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

async fn object(server: &Server, arguments: &[&str]) -> Value {
    let mut found = objects(server, arguments).await;
    assert_eq!(found.len(), 1, "{arguments:?}: {found:?}");
    found.remove(0)
}

/// A model folder and a file of rows, as a user has them.
fn at_home(server: &Server) -> (String, String) {
    let rows = write_lines(server.setup().path("rows.jsonl"), (0..4).map(|_| conversation("a?", "b.")));
    (fixture_model("llama_tied").display().to_string(), rows.display().to_string())
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn training_from_local_files_uploads_follows_and_ends_with_zero() {
    let server = Setup::default().start().await;
    let (model, rows) = at_home(&server);
    let job_file = server.setup().path("job");
    let arguments =
        ["train", "sft", "--model", &model, "--train", &rows, "--name", "first", "--job-file", path_text(&job_file)];
    let told = text(&server, &arguments).await;
    for words in ["RUNNING", "step", "checkpoint", "SUCCEEDED"] {
        assert!(told.contains(words), "{told}\nshould say {words:?}");
    }
    assert!(!told.contains('\x1b') && !told.contains('\r'), "piped output is plain: {told:?}");
    let job = std::fs::read_to_string(&job_file).unwrap();
    let found = object(&server, &["jobs", "get", job.trim()]).await;
    assert_eq!((&found["state"], &found["spec"]["display_name"]), (&json!("JOB_STATE_SUCCEEDED"), &json!("first")));
    let adapter = server.setup().path("adapter");
    text(&server, &["checkpoints", "download", job.trim(), "--to", path_text(&adapter)]).await;
    assert!(adapter.join("adapter_model.safetensors").is_file());
    let plot = server.setup().path("loss.png");
    text(&server, &["plot", job.trim(), "-o", path_text(&plot)]).await;
    assert!(std::fs::read(plot).unwrap().starts_with(b"\x89PNG"));
}

#[tokio::test]
async fn json_has_the_protos_names_and_one_object_a_line() {
    let server = Setup::default().start().await;
    let (model, rows) = at_home(&server);
    let info = object(&server, &["info"]).await;
    assert_eq!(info["max_running_jobs"], 1);
    let model = object(&server, &["model", "upload", &model]).await["model_id"].as_str().unwrap().to_owned();
    let rows = object(&server, &["data", "upload", &rows]).await["dataset_id"].as_str().unwrap().to_owned();
    let preview = object(&server, &["data", "preview", "--model", &model, &rows]).await;
    assert_eq!(preview["reports"][0]["rows_read"], "4", "64-bit numbers are texts, as in protobuf JSON");
    let spec = server.setup().path("spec.json");
    let asked = json!({"base_model": {"uri": model}, "sft": {"data": {"train": [rows]}, "max_steps": "3"}});
    std::fs::write(&spec, asked.to_string()).unwrap();
    let checked = object(&server, &["jobs", "create", "--validate-only", "--spec", path_text(&spec)]).await;
    assert_eq!(checked["spec"]["sft"]["seed"].as_str(), Some("42"), "{checked}");
    let job = object(&server, &["jobs", "create", "--spec", path_text(&spec), "--request-id", "x"]).await;
    let id = job["job_id"].as_str().unwrap();
    let again = object(&server, &["jobs", "create", "--spec", path_text(&spec), "--request-id", "x"]).await;
    assert_eq!(again["job_id"], id);
    let events = objects(&server, &["jobs", "watch", id]).await;
    let numbers: Vec<_> =
        events.iter().map(|event| event["sequence"].as_str().unwrap().parse::<usize>().unwrap()).collect();
    assert_eq!(numbers, (1..=events.len()).collect::<Vec<_>>());
    assert_eq!(objects(&server, &["jobs", "watch", id, "--after", "3"]).await, events[3..]);
    assert_eq!(object(&server, &["jobs", "wait", id]).await["state"], "JOB_STATE_SUCCEEDED");
    assert_eq!(objects(&server, &["jobs", "list", "--state", "succeeded"]).await.len(), 1);
    assert_eq!(objects(&server, &["jobs", "list", "--state", "failed"]).await.len(), 0);
    let checkpoint = object(&server, &["checkpoints", "list", id]).await;
    assert_eq!(checkpoint["checkpoint_id"], "step-000003");
    text(&server, &["checkpoints", "delete", id, "step-000003"]).await;
    text(&server, &["jobs", "delete", id]).await;
    text(&server, &["data", "delete", &rows]).await;
    text(&server, &["model", "delete", &model]).await;
    for what in ["jobs", "data", "model"] {
        assert_eq!(objects(&server, &[what, "list"]).await.len(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_job_that_fails_is_explained_and_ends_with_three() {
    let server = Setup::default().start().await;
    let failure = Failure::new(Reason::InvalidData, "row 7 has no answer").at("rows.jsonl:7").try_this("add an answer");
    server.play(Script::of([Act::Running, Act::Fail(failure)]));
    let (model, rows) = at_home(&server);
    let ended = run(&mut hone(&server, &["train", "sft", "--model", &model, "--train", &rows])).await;
    assert_eq!(ended.code(), 3, "{ended:#?}");
    for words in ["FAILED", "INVALID_DATA", "row 7 has no answer", "rows.jsonl:7", "add an answer"] {
        assert!(ended.stdout.contains(words), "{} should say {words:?}", ended.stdout);
    }
}

#[tokio::test]
async fn cancelling_ends_the_follower_with_four() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::Steps(2), Act::WaitAt(gate.address()), Act::Obey]));
    let (model, rows) = at_home(&server);
    let arguments = ["--json", "train", "sft", "--model", &model, "--train", &rows];
    let mut following = hone(&server, &arguments);
    let following = tokio::spawn(async move { run(&mut following).await });
    let trainer = gate.reached().await;
    let jobs = objects(&server, &["jobs", "list", "--state", "running"]).await;
    let id = jobs[0]["job_id"].as_str().unwrap().to_owned();
    let cancelled = object(&server, &["jobs", "cancel", &id]).await;
    assert_eq!(cancelled["state"], "JOB_STATE_CANCELLING");
    trainer.open().await;
    let ended = following.await.unwrap();
    assert_eq!(ended.code(), 4, "{ended:#?}");
    let waited = run(&mut hone(&server, &["jobs", "wait", &id])).await;
    assert_eq!(waited.code(), 4, "{waited:#?}");
}

#[tokio::test]
async fn detached_training_leaves_at_once() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::WaitAt(gate.address()), Act::Steps(1), Act::Succeed]));
    let (model, rows) = at_home(&server);
    let job = object(&server, &["train", "sft", "--model", &model, "--train", &rows, "--detach"]).await;
    let trainer = gate.reached().await;
    trainer.open().await;
    assert_eq!(
        object(&server, &["jobs", "wait", job["job_id"].as_str().unwrap()]).await["state"],
        "JOB_STATE_SUCCEEDED"
    );
}

#[tokio::test]
async fn interrupting_a_follower_leaves_the_job_and_says_how_to_come_back() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::WaitAt(gate.address()), Act::Steps(1), Act::Succeed]));
    let job = server.job().await;
    let trainer = gate.reached().await;
    let mut watching = hone(&server, &["jobs", "watch", job.id()]);
    watching.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = watching.spawn().unwrap();
    // Its first line shows that it follows.
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    hone_tests::soon("a line", tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut first)).await.unwrap();
    assert!(hone_tests::signal(child.id().unwrap(), "INT"));
    let ended = hone_tests::soon("the follower to leave", child.wait_with_output()).await.unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains(&format!("hone jobs watch {}", job.id())));
    trainer.open().await;
    text(&server, &["jobs", "wait", job.id()]).await;
}

#[tokio::test]
async fn every_violation_is_shown_and_the_code_is_one() {
    let server = Setup::default().start().await;
    let spec = server.setup().path("spec.json");
    let wrong =
        json!({"base_model": {"uri": uri(fixture_model("llama"))}, "sft": {"data": {"max_length": 1}, "epochs": -1.0}});
    std::fs::write(&spec, wrong.to_string()).unwrap();
    let ended = run(&mut hone(&server, &["jobs", "create", "--spec", path_text(&spec)])).await;
    assert_eq!(ended.code(), 1, "{ended:#?}");
    for field in ["spec.sft.data.train", "spec.sft.data.max_length", "spec.sft.epochs"] {
        assert!(ended.stderr.contains(field), "{} should name {field}", ended.stderr);
    }
    let ended = run(&mut hone(&server, &["--json", "jobs", "create", "--spec", path_text(&spec)])).await;
    let error: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["violations"].as_array().unwrap().len(), 3, "{error}");
    let unknown = run(&mut hone(&server, &["jobs", "get", &format!("job-{}", "0".repeat(32))])).await;
    assert_eq!(unknown.code(), 1);
    let nonsense = run(&mut hone(&server, &["jobs", "frobnicate"])).await;
    assert_eq!(nonsense.code(), 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(binary("hone"));
    let ended = run(command.args(["--server", &format!("http://{free}"), "info"])).await;
    assert_eq!(ended.code(), 1);
    assert!(ended.stderr.contains(&free.to_string()) && ended.stderr.contains("hint:"), "{}", ended.stderr);
}

#[tokio::test]
async fn what_init_writes_passes_a_dry_run_and_flags_go_before_it() {
    let server = Setup::default().start().await;
    let (model, rows) = at_home(&server);
    for task in ["sft", "dpo"] {
        let file = server.setup().path(&format!("{task}.{}", if task == "sft" { "yaml" } else { "toml" }));
        let told = text(&server, &["init", task, path_text(&file), "--model", &model, "--rows", &rows]).await;
        assert!(told.contains(&format!("hone train {task} --spec {}", file.display())), "{told}");
        let again = run(&mut hone(&server, &["init", task, path_text(&file)])).await;
        assert!(again.code() == 1 && again.stderr.contains("is there already"), "{again:#?}");
        let shown = object(&server, &["train", task, "--spec", path_text(&file), "--dry-run", "--seed", "7"]).await;
        let asked = &shown["spec"][task];
        assert_eq!((&asked["seed"], &asked["adapter"]["lora"]["rank"]), (&json!("7"), &json!(16)), "{shown}");
        assert!(asked["data"]["train"][0].as_str().unwrap().starts_with("ds-"), "local rows were uploaded: {shown}");
    }
    let schema = std::fs::read_to_string(server.setup().path("job-spec.schema.json")).unwrap();
    assert!(schema.contains("hone.v1.JobSpec"), "{schema}");
    for (task, ending) in [("evaluate", "toml"), ("compare", "yaml"), ("generate", "json"), ("export", "yaml")] {
        let file = server.setup().path(&format!("{task}.{ending}"));
        text(&server, &["init", task, path_text(&file), "--model", &model, "--rows", &rows]).await;
        // The job of a comparison is the user's to name.
        let written = std::fs::read_to_string(&file).unwrap().replace(",\"checkpoint\":\"job-…\"", "");
        std::fs::write(&file, written).unwrap();
        let shown = object(&server, &["jobs", "create", "--validate-only", "--spec", path_text(&file)]).await;
        assert!(shown["spec"][task].is_object(), "{shown}");
    }
}

#[tokio::test]
async fn a_spec_file_of_another_task_and_a_spec_that_cannot_run_are_refused_before_anything_is_uploaded() {
    let server = Setup::default().start().await;
    let (model, rows) = at_home(&server);
    let file = server.setup().path("spec.toml");
    let spec = format!("base_model.uri = {model:?}\n[sft]\ndata.train = [{rows:?}]\nadapter.lora.rank = 0\n");
    std::fs::write(&file, &spec).unwrap();
    let refused = run(&mut hone(&server, &["train", "sft", "--spec", path_text(&file), "--learning-rate", "7"])).await;
    assert_eq!(refused.code(), 1, "{refused:#?}");
    for field in ["spec.sft.adapter.lora.rank", "spec.sft.optimizer.learning_rate"] {
        assert!(refused.stderr.contains(field), "{} should name {field}", refused.stderr);
    }
    assert_eq!(objects(&server, &["data", "list"]).await.len(), 0, "nothing was uploaded");
    let other = run(&mut hone(&server, &["train", "dpo", "--spec", path_text(&file)])).await;
    assert!(other.code() == 1 && other.stderr.contains("is a spec for sft"), "{other:#?}");
    std::fs::write(&file, spec.replace("rank = 0", "rank = 4")).unwrap();
    let done = text(&server, &["train", "sft", "--spec", path_text(&file)]).await;
    assert!(done.contains("SUCCEEDED"), "{done}");
}
