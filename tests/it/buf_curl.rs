//! A second client without stubs: what `buf curl` is answered is what grpcurl is answered.

use hone_tests::{Ended, Script, Server, Setup, conversation, events_of, fetched, fixture_model, run, write_lines};
use serde_json::{Value, json};
use tokio::process::Command;

async fn buf(server: &Server, call: &str, request: &str) -> Ended {
    let mut command = Command::new(fetched("buf", "buf"));
    command.args(["curl", "--http2-prior-knowledge", "--protocol", "grpc", "-d", request]);
    run(command.arg(format!("{}/{call}", server.url()))).await
}

async fn grpcurl(server: &Server, call: &str, request: &str) -> Ended {
    let mut command = Command::new(fetched("grpcurl", "grpcurl"));
    run(command.args(["-plaintext", "-d", request, server.address(), call])).await
}

/// The answers of a call that succeeds: one, or those of a stream.
fn answers(ended: &Ended) -> Vec<Value> {
    serde_json::Deserializer::from_str(ended.success()).into_iter().map(|value| value.unwrap()).collect()
}

/// What both are answered.
async fn same(server: &Server, call: &str, request: Value) -> Vec<Value> {
    let request = request.to_string();
    let (one, other) = (answers(&grpcurl(server, call, &request).await), answers(&buf(server, call, &request).await));
    assert_eq!(one, other, "{call}");
    assert!(!one.is_empty(), "{call}");
    one
}

#[tokio::test]
async fn two_clients_without_stubs_are_answered_the_same() {
    let server = Setup::default().start().await;
    server.play(Script::normal(3));
    let client = server.client().await;
    let model = client.upload_model(fixture_model("llama_tied"), "tiny").await.unwrap().model_id;
    let rows = write_lines(server.setup().path("rows.jsonl"), (0..4).map(|_| conversation("a?", "b.")));
    let rows = client.upload_dataset(&rows).await.unwrap().dataset_id;

    same(&server, "grpc.health.v1.Health/Check", json!({})).await;
    same(&server, "hone.v1.ModelService/GetModel", json!({"model_id": model})).await;
    same(&server, "hone.v1.ModelService/ListModels", json!({"page_size": 3})).await;
    same(&server, "hone.v1.DatasetService/GetDataset", json!({"dataset_id": rows})).await;
    same(&server, "hone.v1.DatasetService/ListDatasets", json!({})).await;
    let preview = json!({"base_model": {"uri": model}, "data": {"train": [rows]}, "rows": 2});
    same(&server, "hone.v1.DatasetService/PreviewDataset", preview).await;

    let spec = json!({"base_model": {"uri": model}, "sft": {"data": {"train": [rows]}}, "labels": {"a": "b"}});
    same(&server, "hone.v1.JobService/CreateJob", json!({"spec": spec, "validate_only": true})).await;
    let create = json!({"spec": spec, "request_id": "once"});
    let created = answers(&buf(&server, "hone.v1.JobService/CreateJob", &create.to_string()).await).remove(0);
    let job = created["job"]["jobId"].as_str().unwrap();
    events_of(&client.job(job)).await;
    let again = same(&server, "hone.v1.JobService/CreateJob", create).await;
    assert_eq!(again[0]["job"]["jobId"], job, "a repeat gives the same job, whoever asks");
    let events = same(&server, "hone.v1.JobService/WatchJob", json!({"job_id": job})).await;
    assert!(events.len() > 5, "{events:?}");
    same(&server, "hone.v1.JobService/WatchJob", json!({"job_id": job, "after_sequence": 3})).await;
    same(&server, "hone.v1.JobService/GetJob", json!({"job_id": job})).await;
    same(&server, "hone.v1.JobService/ListJobs", json!({"states": ["JOB_STATE_SUCCEEDED"]})).await;
    let listed = same(&server, "hone.v1.JobService/ListCheckpoints", json!({"job_id": job})).await;
    let checkpoint = json!({"job_id": job, "checkpoint_id": listed[0]["checkpoints"][0]["checkpointId"]});
    same(&server, "hone.v1.JobService/GetCheckpoint", checkpoint.clone()).await;
    same(&server, "hone.v1.JobService/DownloadCheckpoint", checkpoint.clone()).await;

    // What changes something is asked once, by the second client.
    for (call, request) in [
        ("hone.v1.JobService/DeleteCheckpoint", checkpoint),
        ("hone.v1.JobService/DeleteJob", json!({"job_id": job})),
        ("hone.v1.DatasetService/DeleteDataset", json!({"dataset_id": rows})),
        ("hone.v1.ModelService/DeleteModel", json!({"model_id": model})),
    ] {
        assert_eq!(answers(&buf(&server, call, &request.to_string()).await), [json!({})], "{call}");
    }
    same(&server, "hone.v1.JobService/ListJobs", json!({})).await;
}

#[tokio::test]
async fn an_upload_by_the_second_client_is_whole_and_its_errors_are_typed() {
    let server = Setup::default().start().await;
    // {"text": "a"} and a line break.
    let messages = r#"{"header": {"file_name": "rows.jsonl"}} {"chunk": "eyJ0ZXh0IjogImEifQo="}"#;
    let uploaded = answers(&buf(&server, "hone.v1.DatasetService/UploadDataset", messages).await).remove(0);
    assert_eq!(uploaded["dataset"]["sizeBytes"], "14");
    same(&server, "hone.v1.DatasetService/GetDataset", json!({"dataset_id": uploaded["dataset"]["datasetId"]})).await;

    let wrong = json!({"spec": {"sft": {"optimizer": {"learning_rate": 7}}}}).to_string();
    let refused = buf(&server, "hone.v1.JobService/CreateJob", &wrong).await;
    assert!(!refused.status.success());
    for words in
        ["invalid_argument", "google.rpc.BadRequest", "google.rpc.ErrorInfo", "spec.sft.optimizer.learning_rate"]
    {
        assert!(refused.stderr.contains(words), "{} should say {words}", refused.stderr);
    }
}
