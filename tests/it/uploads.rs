//! Uploads that are too large, broken off, misnamed or damaged: refused with a reason, and nothing of them stays.

use bytes::Bytes;
use futures::{StreamExt, stream};
use hone_client::v1::upload_dataset_request::Part as DatasetPart;
use hone_client::v1::upload_model_request::Part as ModelPart;
use hone_client::{Client, v1};
use hone_tests::{Server, Setup, fixture_model, soon, write_lines};
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use v1::dataset_service_client::DatasetServiceClient;
use v1::model_service_client::ModelServiceClient;

const ROW: &[u8] = b"{\"text\": \"one row\"}\n";

fn header(file_name: &str, sha256: &str) -> DatasetPart {
    DatasetPart::Header(v1::UploadDatasetHeader {
        file_name: file_name.into(),
        sha256: sha256.into(),
        ..Default::default()
    })
}

fn chunk(bytes: impl Into<Bytes>) -> DatasetPart {
    DatasetPart::Chunk(bytes.into())
}

async fn upload(server: &Server, parts: Vec<DatasetPart>) -> Result<v1::Dataset, Status> {
    let mut stub = DatasetServiceClient::connect(server.url()).await.unwrap();
    let messages = parts.into_iter().map(|part| v1::UploadDatasetRequest { part: Some(part) });
    let response = soon("an answer", stub.upload_dataset(stream::iter(messages))).await?;
    Ok(response.into_inner().dataset.unwrap())
}

fn model_file(name: &str, sha256: &str) -> ModelPart {
    ModelPart::File(v1::ModelFile { name: name.into(), size_bytes: 0, sha256: sha256.into() })
}

async fn upload_model(server: &Server, parts: Vec<ModelPart>) -> Result<v1::Model, Status> {
    let mut stub = ModelServiceClient::connect(server.url()).await.unwrap();
    let messages = parts.into_iter().map(|part| v1::UploadModelRequest { part: Some(part) });
    let response = soon("an answer", stub.upload_model(stream::iter(messages))).await?;
    Ok(response.into_inner().model.unwrap())
}

/// Neither in a list nor on the disk.
async fn nothing_is_left(server: &Server) {
    let client = server.client().await;
    assert_eq!(client.list_datasets(v1::ListDatasetsRequest::default()).await.unwrap().datasets, []);
    assert_eq!(client.list_models(v1::ListModelsRequest::default()).await.unwrap().models, []);
    let files = files_below(&server.setup().data_dir().join("storage"));
    assert!(files.is_empty(), "{files:?}");
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// The call ended with this code, and its message or details say the word.
fn says(status: &tonic::Status, code: Code, word: &str, what: &str) {
    assert_eq!(status.code(), code, "{what}: {status:?}");
    let text = format!("{} {:?}", status.message(), tonic_types::StatusExt::get_error_details(status)).to_lowercase();
    assert!(text.contains(word), "{what}: {text:?} should say {word:?}");
}

#[tokio::test]
async fn a_dataset_goes_up_and_is_what_was_sent() {
    let server = Setup::default().start().await;
    let digest = hex::encode(Sha256::digest([ROW, ROW].concat()));
    let parts = vec![header("rows.jsonl", &digest), chunk(ROW), chunk(&b""[..]), chunk(ROW)];
    let dataset = upload(&server, parts).await.unwrap();
    assert_eq!(
        (&*dataset.file_name, dataset.size_bytes, &dataset.sha256),
        ("rows.jsonl", 2 * ROW.len() as u64, &digest)
    );
    let path = dataset.uri.strip_prefix("file://").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), [ROW, ROW].concat());
    let client = server.client().await;
    assert_eq!(client.get_dataset(&dataset.dataset_id).await.unwrap(), dataset);
    client.delete_dataset(&dataset.dataset_id).await.unwrap();
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn bad_dataset_uploads_are_refused_and_leave_nothing() {
    let server = Setup::default().flag("--max-dataset-bytes", 100).start().await;
    let wrong = "0".repeat(64);
    let right = header("rows.jsonl", "");
    let cases: Vec<(Vec<DatasetPart>, Code, &str)> = vec![
        (vec![], Code::InvalidArgument, "header"),
        (vec![chunk(ROW)], Code::InvalidArgument, "header"),
        (vec![right.clone(), right.clone(), chunk(ROW)], Code::InvalidArgument, "header"),
        (vec![right.clone()], Code::InvalidArgument, "empty"),
        (vec![header("", ""), chunk(ROW)], Code::InvalidArgument, "name"),
        (vec![header("../rows.jsonl", ""), chunk(ROW)], Code::InvalidArgument, "name"),
        (vec![header("a/rows.jsonl", ""), chunk(ROW)], Code::InvalidArgument, "name"),
        (vec![header(".jsonl", ""), chunk(ROW)], Code::InvalidArgument, "name"),
        (vec![header("rows.csv", ""), chunk(ROW)], Code::InvalidArgument, ".jsonl"),
        (vec![header("rows.jsonl", "abc"), chunk(ROW)], Code::InvalidArgument, "sha256"),
        (vec![header("rows.jsonl", &wrong), chunk(ROW)], Code::DataLoss, &wrong),
        (vec![right.clone(), chunk(ROW.repeat(6))], Code::ResourceExhausted, "100"),
        (vec![right.clone(), chunk(ROW), chunk(ROW.repeat(5))], Code::ResourceExhausted, "100"),
    ];
    for (parts, code, word) in cases {
        let what = format!("{parts:?}");
        let status = upload(&server, parts).await.expect_err(&what);
        says(&status, code, word, &what);
    }
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn an_upload_that_a_crash_cut_short_is_removed_at_the_next_start() {
    let server = Setup::default().start().await;
    let mut stub = DatasetServiceClient::connect(server.url()).await.unwrap();
    let (parts, messages) = tokio::sync::mpsc::channel(1);
    let call = tokio::spawn(async move {
        let messages = ReceiverStream::new(messages).map(|part| v1::UploadDatasetRequest { part: Some(part) });
        stub.upload_dataset(messages).await
    });
    parts.send(header("rows.jsonl", "")).await.unwrap();
    // More than fits between here and there, so that some of it has been written when the last is taken.
    for _ in 0..40 {
        soon("a chunk to be taken", parts.send(chunk(vec![b'x'; 1 << 20]))).await.unwrap();
    }
    let setup = server.kill().await;
    drop((parts, call));
    let storage = setup.data_dir().join("storage");
    assert!(!files_below(&storage).is_empty(), "the crash leaves something");
    let server = setup.start().await;
    nothing_is_left(&server).await;
    assert_eq!(files_below(&server.setup().data_dir().join("uploads")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_chunk_larger_than_allowed_is_refused() {
    let server = Setup::default().start().await;
    let large = vec![b'x'; (1 << 20) + 1];
    let status = upload(&server, vec![header("rows.jsonl", ""), chunk(large)]).await.unwrap_err();
    assert!(matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = Setup::default().start().await;
    let mut stub = DatasetServiceClient::connect(server.url()).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let call = tokio::spawn(async move {
        stub.upload_dataset(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.map(drop)
    });
    for part in [header("rows.jsonl", ""), chunk(ROW), chunk(ROW)] {
        sender.send(v1::UploadDatasetRequest { part: Some(part) }).await.unwrap();
    }
    // The caller dies in the middle: its connection goes, no end of the stream comes.
    call.abort();
    drop(call.await);
    // A call made afterwards is answered while the broken one is cleaned away; stopping waits for it.
    let setup = server.setup().clone();
    assert!(server.stop().await.success());
    let server = setup.start().await;
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn bad_model_uploads_are_refused_and_leave_nothing() {
    let server = Setup::default().flag("--max-model-bytes", 100).start().await;
    let header = || ModelPart::Header(v1::UploadModelHeader { display_name: "tiny".into(), ..Default::default() });
    let chunk = |bytes: &[u8]| ModelPart::Chunk(Bytes::copy_from_slice(bytes));
    let wrong = "0".repeat(64);
    let long_name = ModelPart::Header(v1::UploadModelHeader { display_name: "x".repeat(257), ..Default::default() });
    let cases: Vec<(Vec<ModelPart>, Code, &str)> = vec![
        (vec![], Code::InvalidArgument, "header"),
        (vec![model_file("config.json", ""), chunk(b"{}")], Code::InvalidArgument, "header"),
        (vec![header(), chunk(b"{}")], Code::InvalidArgument, "file"),
        (vec![header()], Code::InvalidArgument, "file"),
        (vec![long_name, model_file("config.json", ""), chunk(b"{}")], Code::InvalidArgument, "256"),
        (vec![header(), model_file("../config.json", ""), chunk(b"{}")], Code::InvalidArgument, "name"),
        (vec![header(), model_file("a/config.json", ""), chunk(b"{}")], Code::InvalidArgument, "name"),
        (
            vec![header(), model_file("a.json", ""), chunk(b"{}"), model_file("a.json", ""), chunk(b"{}")],
            Code::InvalidArgument,
            "a.json",
        ),
        (vec![header(), model_file("config.json", &wrong), chunk(b"{}")], Code::DataLoss, &wrong),
        (vec![header(), model_file("config.json", ""), chunk(&[b' '; 101])], Code::ResourceExhausted, "100"),
        (
            vec![header(), model_file("a.json", ""), chunk(&[b' '; 60]), model_file("b.json", ""), chunk(&[b' '; 60])],
            Code::ResourceExhausted,
            "100",
        ),
    ];
    for (parts, code, word) in cases {
        let what = format!("{parts:?}");
        let status = upload_model(&server, parts).await.expect_err(&what);
        says(&status, code, word, &what);
    }
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn models_and_datasets_are_listed_newest_first_in_pages_and_deleted() {
    let server = Setup::default().start().await;
    let client = server.client().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let rows = write_lines(server.setup().path(&format!("rows-{number}.jsonl")), [r#"{"text": "a"}"#]);
        ids.push(client.upload_dataset(&rows).await.unwrap().dataset_id);
    }
    ids.reverse();
    assert_eq!(pages(&client).await, ids);
    client.delete_dataset(&ids[2]).await.unwrap();
    let gone = client.get_dataset(&ids.remove(2)).await.unwrap_err();
    assert_eq!(gone.code(), Some(Code::NotFound));
    assert_eq!(pages(&client).await, ids);

    let model = client.upload_model(fixture_model("llama"), "three shards").await.unwrap();
    assert_eq!(model.display_name, "three shards");
    assert_eq!(model.size_bytes, model.files.iter().map(|file| file.size_bytes).sum::<u64>());
    assert!(model.files.iter().any(|file| file.name == "model-00002-of-00003.safetensors"));
    let listed = client.list_models(v1::ListModelsRequest::default()).await.unwrap().models;
    assert_eq!(listed, std::slice::from_ref(&model));
    client.delete_model(&model.model_id).await.unwrap();
    assert_eq!(client.get_model(&model.model_id).await.unwrap_err().code(), Some(Code::NotFound));
}

/// Ids of all datasets, read two at a time.
async fn pages(client: &Client) -> Vec<String> {
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListDatasetsRequest { page_size: 2, page_token };
        let page = client.list_datasets(request).await.unwrap();
        assert!(page.datasets.len() <= 2);
        ids.extend(page.datasets.into_iter().map(|dataset| dataset.dataset_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        page_token = page.next_page_token;
    }
}
