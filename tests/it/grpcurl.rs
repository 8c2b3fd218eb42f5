//! The service in the hands of someone with nothing but grpcurl.

use hone_tests::{
    Act, Ended, Gate, Script, Server, Setup, conversation, events_of, fetched, fixture_model, run, uri, write_lines,
};
use serde_json::{Value, json};
use tokio::process::Command;

/// Runs grpcurl against the server; the request is JSON.
async fn grpcurl(server: &Server, request: Option<Value>, what: &[&str]) -> Ended {
    let mut command = Command::new(fetched("grpcurl", "grpcurl"));
    command.arg("-plaintext");
    if let Some(request) = request {
        command.args(["-d", &request.to_string()]);
    }
    let (target, symbols) = (server.address(), what);
    run(command.arg(target).args(symbols)).await
}

/// A call that succeeds, and its answers.
async fn call(server: &Server, method: &str, request: Value) -> Vec<Value> {
    let ended = grpcurl(server, Some(request), &[method]).await;
    serde_json::Deserializer::from_str(ended.success()).into_iter::<Value>().map(|value| value.unwrap()).collect()
}

/// A unary call that succeeds, and its answer.
async fn ask(server: &Server, method: &str, request: Value) -> Value {
    let mut answers = call(server, method, request).await;
    assert_eq!(answers.len(), 1, "{method}");
    answers.remove(0)
}

#[tokio::test]
async fn services_can_be_listed_and_described_with_their_comments() {
    let server = Setup::default().start().await;
    let listed = grpcurl(&server, None, &["list"]).await;
    let listed: Vec<_> = listed.success().lines().collect();
    for service in ["JobService", "DatasetService", "ModelService", "SystemService"] {
        assert!(listed.contains(&format!("hone.v1.{service}").as_str()), "{listed:?}");
    }
    assert!(listed.contains(&"grpc.health.v1.Health"), "{listed:?}");
    assert!(!listed.iter().any(|name| name.contains("trainer")), "trainers' protocol is no public API: {listed:?}");
    let described = grpcurl(&server, None, &["describe", "hone.v1.JobSpec"]).await;
    assert!(described.success().contains("The base model. Required."), "{}", described.stdout);
    let described = grpcurl(&server, None, &["describe", "hone.v1.JobService"]).await;
    assert!(described.success().contains("rpc WatchJob"), "{}", described.stdout);
}

#[tokio::test]
async fn every_unary_call_and_a_watch_work_from_the_command_line() {
    let server = Setup::default().start().await;
    let rows = write_lines(server.setup().path("rows.jsonl"), [conversation("a?", "b.")]);
    let client = server.client().await;
    let dataset = client.upload_dataset(&rows).await.unwrap().dataset_id;
    let model = client.upload_model(fixture_model("llama_tied"), "tiny").await.unwrap().model_id;

    let info = ask(&server, "hone.v1.SystemService/GetServerInfo", json!({})).await;
    assert!(info["storageRoot"].as_str().unwrap().starts_with("file://"), "{info}");
    for (method, id) in [
        ("DatasetService/GetDataset", json!({"dataset_id": dataset})),
        ("ModelService/GetModel", json!({"model_id": model})),
    ] {
        ask(&server, &format!("hone.v1.{method}"), id).await;
    }
    assert_eq!(
        ask(&server, "hone.v1.DatasetService/ListDatasets", json!({})).await["datasets"][0]["datasetId"],
        *dataset
    );
    assert_eq!(ask(&server, "hone.v1.ModelService/ListModels", json!({})).await["models"][0]["modelId"], *model);
    let preview = json!({"base_model": {"uri": model}, "data": {"train": [dataset]}});
    assert_eq!(ask(&server, "hone.v1.DatasetService/PreviewDataset", preview).await["reports"][0]["examples"], "1");

    let spec = json!({"display_name": "by hand", "base_model": {"uri": model}, "sft": {"data": {"train": [dataset]}}});
    let checked = ask(&server, "hone.v1.JobService/CreateJob", json!({"spec": spec, "validate_only": true})).await;
    assert_eq!(checked["job"]["spec"]["sft"]["adapter"]["lora"]["rank"], 16, "defaults are shown: {checked}");
    let request = json!({"spec": spec, "request_id": "by hand"});
    let created = ask(&server, "hone.v1.JobService/CreateJob", request.clone()).await;
    let id = json!({"job_id": created["job"]["jobId"]});
    assert_eq!(ask(&server, "hone.v1.JobService/CreateJob", request).await["job"]["jobId"], id["job_id"]);

    let events = call(&server, "hone.v1.JobService/WatchJob", id.clone()).await;
    let events: Vec<_> = events.iter().filter_map(|answer| answer.get("event")).collect();
    for (event, number) in events.iter().zip(1..) {
        assert_eq!(event["sequence"], number.to_string());
    }
    assert_eq!(events.last().unwrap()["stateChanged"]["to"], "JOB_STATE_SUCCEEDED");
    assert!(events.iter().any(|event| event["trainStep"]["loss"].is_number()));

    assert_eq!(ask(&server, "hone.v1.JobService/GetJob", id.clone()).await["job"]["state"], "JOB_STATE_SUCCEEDED");
    assert_eq!(ask(&server, "hone.v1.JobService/ListJobs", json!({})).await["jobs"].as_array().unwrap().len(), 1);
    let listed = ask(&server, "hone.v1.JobService/ListCheckpoints", id.clone()).await;
    let checkpoint = json!({"job_id": id["job_id"], "checkpoint_id": listed["checkpoints"][0]["checkpointId"]});
    let found = ask(&server, "hone.v1.JobService/GetCheckpoint", checkpoint.clone()).await;
    assert_eq!(found["checkpoint"]["step"], "3");
    let chunks = call(&server, "hone.v1.JobService/DownloadCheckpoint", checkpoint.clone()).await;
    assert_eq!(chunks.last().unwrap()["file"]["name"], "manifest.json", "the manifest comes last");
    ask(&server, "hone.v1.JobService/DeleteCheckpoint", checkpoint).await;
    ask(&server, "hone.v1.JobService/DeleteJob", id.clone()).await;
    let gone = grpcurl(&server, Some(id), &["hone.v1.JobService/GetJob"]).await;
    assert_eq!(gone.code(), 64 + tonic::Code::NotFound as i32, "{}", gone.stderr);

    ask(&server, "hone.v1.DatasetService/DeleteDataset", json!({"dataset_id": dataset})).await;
    ask(&server, "hone.v1.ModelService/DeleteModel", json!({"model_id": model})).await;
}

#[tokio::test]
async fn cancelling_from_the_command_line_cancels() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::Steps(1), Act::WaitAt(gate.address()), Act::Obey]));
    let job = server.job().await;
    let trainer = gate.reached().await;
    let answer = ask(&server, "hone.v1.JobService/CancelJob", json!({"job_id": job.id()})).await;
    assert_eq!(answer["job"]["state"], "JOB_STATE_CANCELLING");
    trainer.open().await;
    events_of(&job).await;
    let job = ask(&server, "hone.v1.JobService/GetJob", json!({"job_id": job.id()})).await;
    assert_eq!(job["job"]["state"], "JOB_STATE_CANCELLED");
}

#[tokio::test]
async fn uploads_stream_from_standard_input() {
    let server = Setup::default().start().await;
    // Bytes are base64 in JSON: {"text": "a"} and a line break.
    let messages = [json!({"header": {"file_name": "rows.jsonl"}}), json!({"chunk": "eyJ0ZXh0IjogImEifQo="})];
    let mut command = Command::new("sh");
    let program = fetched("grpcurl", "grpcurl");
    command.args(["-c", "printf '%s' \"$3\" | \"$0\" -plaintext -d @ \"$1\" \"$2\""]).arg(program);
    command.args([server.address(), "hone.v1.DatasetService/UploadDataset"]);
    command.arg(messages.map(|message| message.to_string()).join("\n"));
    let answer: Value = serde_json::from_str(run(&mut command).await.success()).unwrap();
    assert_eq!(answer["dataset"]["sizeBytes"], "14");
}

#[tokio::test]
async fn error_details_are_readable() {
    let server = Setup::default().start().await;
    let spec = json!({"sft": {"data": {"max_length": 1}, "optimizer": {"learning_rate": 7}}});
    let refused = grpcurl(&server, Some(json!({"spec": spec})), &["hone.v1.JobService/CreateJob"]).await;
    assert_eq!(refused.code(), 64 + tonic::Code::InvalidArgument as i32);
    let text = &refused.stderr;
    for word in [
        "google.rpc.BadRequest",
        "google.rpc.ErrorInfo",
        "spec.base_model.uri",
        "spec.sft.data.train",
        "spec.sft.data.max_length",
        "spec.sft.optimizer.learning_rate",
    ] {
        assert!(text.contains(word), "{text} should say {word:?}");
    }
}

#[tokio::test]
async fn health_answers_for_the_whole_and_for_each_service() {
    let server = Setup::default().start().await;
    for service in ["", "hone.v1.JobService", "hone.v1.DatasetService", "hone.v1.ModelService", "hone.v1.SystemService"]
    {
        let answer = ask(&server, "grpc.health.v1.Health/Check", json!({"service": service})).await;
        assert_eq!(answer["status"], "SERVING", "{service:?}");
    }
    let stranger = grpcurl(&server, Some(json!({"service": "nobody"})), &["grpc.health.v1.Health/Check"]).await;
    assert_eq!(stranger.code(), 64 + tonic::Code::NotFound as i32);
}

#[tokio::test]
async fn what_does_not_work_yet_is_unimplemented_and_unknown_fields_are_refused() {
    let server = Setup::default().start().await;
    let spec = json!({"base_model": {"uri": uri(fixture_model("llama"))}, "dpo": {}});
    let refused = grpcurl(&server, Some(json!({"spec": spec})), &["hone.v1.JobService/CreateJob"]).await;
    assert!(!refused.status.success() && refused.stderr.contains("dpo"), "{}", refused.stderr);
}
