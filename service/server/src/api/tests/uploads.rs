//! Files that come in pieces: whole ones are kept, others leave nothing behind.

use std::path::Path;

use hone_proto::v1 as pb;
use pb::upload_dataset_request::Part as DatasetPart;
use pb::upload_model_request::Part as ModelPart;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{assert_refused, told};
use crate::store::UploadQuery;
use crate::testing::{Harness, request_spec, soon};

fn header(file_name: &str) -> DatasetPart {
    DatasetPart::Header(pb::UploadDatasetHeader {
        file_name: file_name.into(),
        sha256: String::new(),
        ..Default::default()
    })
}

fn chunk(bytes: &[u8]) -> DatasetPart {
    DatasetPart::Chunk(bytes.to_vec().into())
}

async fn upload(server: &Harness, parts: Vec<DatasetPart>) -> Result<pb::Dataset, Status> {
    let messages: Vec<_> = parts.into_iter().map(|part| pb::UploadDatasetRequest { part: Some(part) }).collect();
    let response = soon(server.datasets().upload_dataset(tokio_stream::iter(messages))).await?;
    Ok(response.into_inner().dataset.unwrap())
}

async fn upload_model(server: &Harness, parts: Vec<ModelPart>) -> Result<pb::Model, Status> {
    let messages: Vec<_> = parts.into_iter().map(|part| pb::UploadModelRequest { part: Some(part) }).collect();
    let response = soon(server.models().upload_model(tokio_stream::iter(messages))).await?;
    Ok(response.into_inner().model.unwrap())
}

/// Every file below a folder of the storage root.
fn files(server: &Harness, folder: &str) -> Vec<String> {
    files_below(&server.folder.path().join("storage").join(folder))
}

fn files_below(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<String> = entries
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path.file_name().unwrap().to_string_lossy().into_owned()],
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_dataset_is_stored_hashed_and_found_again() {
    let server = Harness::start().await;
    let rows = b"{\"text\":\"a\"}\n".repeat(20_000);
    let parts = std::iter::once(header("rows.jsonl")).chain(rows.chunks(1 << 16).map(chunk)).collect();
    let dataset = upload(&server, parts).await.unwrap();
    assert_eq!((dataset.size_bytes, dataset.file_name.as_str()), (rows.len() as u64, "rows.jsonl"));
    assert_eq!(dataset.sha256, hex::encode(Sha256::digest(&rows)));
    assert_eq!(files(&server, "datasets"), ["manifest.json", "rows.jsonl"]);
    let path = dataset.uri.strip_prefix("file://").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), rows);
    let folder = Path::new(path).parent().unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["files"][0]["sha256"], dataset.sha256.as_str());
    assert_eq!(manifest["files"][0]["size_bytes"], rows.len());
    let get = pb::GetDatasetRequest { dataset_id: dataset.dataset_id.clone() };
    assert_eq!(soon(server.datasets().get_dataset(get)).await.unwrap().into_inner().dataset, Some(dataset.clone()));
    let listed = soon(server.datasets().list_datasets(pb::ListDatasetsRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.datasets, std::slice::from_ref(&dataset));
    let delete = pb::DeleteDatasetRequest { dataset_id: dataset.dataset_id };
    soon(server.datasets().delete_dataset(delete.clone())).await.unwrap();
    assert_refused(soon(server.datasets().delete_dataset(delete)).await, Code::NotFound, "NOT_FOUND");
    assert_eq!(files(&server, "datasets"), [""; 0]);
}

#[tokio::test]
async fn what_is_no_dataset_is_refused_and_leaves_nothing() {
    let server = Harness::start().await;
    for name in ["../rows.jsonl", "rows.csv", "a/b.jsonl", ".jsonl", "rows.jsonl.bz2", ""] {
        let refused = upload(&server, vec![header(name), chunk(b"x")]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
    }
    let no_header = upload(&server, vec![chunk(b"x")]).await.unwrap_err();
    assert_eq!(told(&no_header).2, ["header"]);
    let empty = upload(&server, vec![header("rows.jsonl")]).await.unwrap_err();
    assert!(empty.message().contains("rows.jsonl is empty"), "{empty}");
    let large_chunk = upload(&server, vec![header("rows.jsonl"), chunk(&vec![0; (1 << 20) + 1])]).await.unwrap_err();
    assert_eq!(told(&large_chunk).2, ["chunk"]);
    let announced = |sha256: &str| {
        let (file_name, sha256) = ("rows.jsonl".into(), sha256.into());
        vec![DatasetPart::Header(pb::UploadDatasetHeader { file_name, sha256, ..Default::default() }), chunk(b"x")]
    };
    assert_refused(upload(&server, announced(&"0".repeat(64))).await, Code::DataLoss, "DIGEST_MISMATCH");
    assert_eq!(told(&upload(&server, announced("00")).await.unwrap_err()).2, ["sha256"]);
    assert_eq!(files(&server, "datasets"), [""; 0]);
    let listed = soon(server.datasets().list_datasets(pb::ListDatasetsRequest::default())).await.unwrap();
    assert_eq!(listed.into_inner().datasets, []);
}

#[tokio::test]
async fn an_upload_over_the_limit_is_cut_off_and_leaves_nothing() {
    let server = Harness::start_with(|options| options.limits.max_dataset_bytes = 1000).await;
    let parts = vec![header("rows.jsonl"), chunk(&[b'x'; 600]), chunk(&[b'x'; 600])];
    assert_refused(upload(&server, parts).await, Code::ResourceExhausted, "UPLOAD_TOO_LARGE");
    assert_eq!(files(&server, "datasets"), [""; 0]);
}

#[tokio::test]
async fn an_upload_that_says_nothing_at_its_end_is_no_upload() {
    let server = Harness::start().await;
    let message = |part| pb::UploadDatasetRequest { part };
    let messages = vec![message(Some(header("rows.jsonl"))), message(Some(chunk(b"half"))), message(None)];
    let refused = soon(server.datasets().upload_dataset(tokio_stream::iter(messages))).await.map(drop);
    assert_refused(refused, Code::Aborted, "UPLOAD_BROKEN");
    assert_eq!(files(&server, "datasets"), [""; 0]);
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing() {
    let mut server = Harness::start().await;
    let (say, said) = mpsc::channel(4);
    let mut client = server.models();
    let call = tokio::spawn(async move { client.upload_model(ReceiverStream::new(said)).await });
    let file = |name: &str| ModelPart::File(pb::ModelFile { name: name.into(), ..Default::default() });
    let header = ModelPart::Header(pb::UploadModelHeader::default());
    let bytes = ModelPart::Chunk(b"{}".to_vec().into());
    for part in [header, file("config.json"), bytes, file("model.safetensors")] {
        say.send(pb::UploadModelRequest { part: Some(part) }).await.unwrap();
    }
    // The first file is whole and in its place when the second has begun.
    soon(async {
        while files(&server, "models").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    call.abort();
    drop(say);
    server.stop();
    let kept = std::mem::replace(&mut server.folder, tempfile::tempdir().unwrap());
    server.stopped().await.unwrap();
    assert_eq!(files_below(&kept.path().join("storage")), [""; 0]);
}

#[tokio::test]
async fn an_upload_whose_caller_cancels_is_not_taken_for_whole() {
    let mut server = Harness::start().await;
    let (say, said) = mpsc::channel(4);
    let mut client = server.datasets();
    let call = tokio::spawn(async move { client.upload_dataset(ReceiverStream::new(said)).await });
    for part in [header("rows.jsonl"), chunk(b"{\"text\":\"a\"}\n")] {
        say.send(pb::UploadDatasetRequest { part: Some(part) }).await.unwrap();
    }
    // Both messages are on their way when the sender has room for four again.
    soon(async {
        while say.capacity() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let store = server.store.clone();
    let kept = std::mem::replace(&mut server.folder, tempfile::tempdir().unwrap());
    server.stop();
    server.stopped().await.unwrap();
    let query = UploadQuery { kind: hone_job::id::Kind::Dataset, project: None, before: None, limit: 9 };
    assert_eq!(store.uploads(query).await.unwrap(), []);
    assert_eq!(files_below(&kept.path().join("storage")), [""; 0]);
}

#[tokio::test]
async fn a_model_is_a_folder_or_one_gguf_file() {
    let server = Harness::start().await;
    let header = || ModelPart::Header(pb::UploadModelHeader { display_name: "tiny".into(), ..Default::default() });
    let file = |name: &str| ModelPart::File(pb::ModelFile { name: name.into(), ..Default::default() });
    let bytes = || ModelPart::Chunk(b"content".to_vec().into());
    let folder = vec![header(), file("config.json"), bytes(), file("model.safetensors"), bytes(), bytes()];
    let model = upload_model(&server, folder).await.unwrap();
    assert_eq!((model.size_bytes, model.display_name.as_str(), model.files.len()), (21, "tiny", 2));
    assert!(model.uri.ends_with(&format!("/models/{}", model.model_id)));
    assert_eq!(files(&server, "models"), ["config.json", "model.safetensors"]);
    upload_model(&server, vec![header(), file("a.gguf"), bytes()]).await.unwrap();
    for bad in [
        vec![header()],
        vec![header(), file("config.json"), bytes()],
        vec![header(), file("a.gguf"), bytes(), file("b.gguf"), bytes()],
        vec![header(), file("a.gguf"), bytes(), file("a.gguf"), bytes()],
        vec![header(), file("../a.gguf"), bytes()],
        vec![header(), bytes()],
    ] {
        let refused = upload_model(&server, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert_eq!(files(&server, "models"), ["a.gguf", "config.json", "model.safetensors"]);
}

#[tokio::test]
async fn what_a_living_job_reads_is_not_deleted() {
    let mut server = Harness::start().await;
    let dataset = upload(&server, vec![header("rows.jsonl"), chunk(b"{\"text\":\"a\"}\n")]).await.unwrap();
    let mut spec = request_spec();
    let Some(pb::job_spec::Task::Sft(sft)) = &mut spec.task else { unreachable!() };
    sft.data.get_or_insert_default().train = vec![dataset.dataset_id.clone()];
    let request = pb::CreateJobRequest { spec: Some(spec), ..Default::default() };
    let job = soon(server.jobs().create_job(request)).await.unwrap().into_inner().job.unwrap();
    let launched = server.launch().await;
    let trainer = crate::testing::Trainer::attach(&server, &launched.launch).await.unwrap();
    assert!(trainer.welcome.spec_json.contains(&dataset.uri), "{}", trainer.welcome.spec_json);
    drop(trainer);
    let delete = pb::DeleteDatasetRequest { dataset_id: dataset.dataset_id };
    assert_refused(soon(server.datasets().delete_dataset(delete.clone())).await, Code::FailedPrecondition, "IN_USE");
    launched.exit(crate::executor::Status::Code(1));
    server.events(&job.job_id).await;
    soon(server.datasets().delete_dataset(delete)).await.unwrap();
}

/// A stream under a request id, from `offset` on. `whole` says whether it ends in good order.
async fn stream(
    server: &Harness,
    offset: u64,
    parts: Vec<DatasetPart>,
    whole: bool,
) -> Result<pb::UploadDatasetResponse, Status> {
    let (file_name, request_id) = ("rows.jsonl".into(), "mine".into());
    let header = pb::UploadDatasetHeader { file_name, request_id, offset, ..Default::default() };
    let message = |part| pb::UploadDatasetRequest { part };
    let mut messages = vec![message(Some(DatasetPart::Header(header)))];
    messages.extend(parts.into_iter().map(|part| message(Some(part))));
    if !whole {
        messages.push(message(None));
    }
    soon(server.datasets().upload_dataset(tokio_stream::iter(messages))).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_under_its_request_id() {
    let server = Harness::start().await;
    let asked = |expected: u64| {
        let server = &server;
        async move {
            let answer = stream(server, 0, Vec::new(), true).await.unwrap();
            assert_eq!((answer.received_bytes, answer.dataset), (expected, None));
        }
    };
    asked(0).await;
    assert_refused(stream(&server, 0, vec![chunk(b"{\"te")], false).await, Code::Aborted, "UPLOAD_BROKEN");
    asked(4).await;
    assert_refused(stream(&server, 3, vec![chunk(b"xt\"")], true).await, Code::Aborted, "UPLOAD_MOVED");
    assert_refused(stream(&server, 4, vec![chunk(b"xt\":\"")], false).await, Code::Aborted, "UPLOAD_BROKEN");
    asked(9).await;
    let dataset = stream(&server, 9, vec![chunk(b"a\"}\n")], true).await.unwrap().dataset.unwrap();
    let rows = b"{\"text\":\"a\"}\n";
    assert_eq!((dataset.size_bytes, &dataset.sha256), (rows.len() as u64, &hex::encode(Sha256::digest(rows))));
    assert_eq!(std::fs::read(dataset.uri.strip_prefix("file://").unwrap()).unwrap(), rows);
    // An answer that was lost is given again, and nothing is made twice.
    let again = stream(&server, 0, Vec::new(), true).await.unwrap();
    assert_eq!(again.dataset.as_ref(), Some(&dataset));
    let listed = soon(server.datasets().list_datasets(pb::ListDatasetsRequest::default())).await.unwrap();
    assert_eq!(listed.into_inner().datasets, std::slice::from_ref(&dataset));
    let delete = pb::DeleteDatasetRequest { dataset_id: dataset.dataset_id };
    soon(server.datasets().delete_dataset(delete)).await.unwrap();
    asked(0).await;
}

#[tokio::test]
async fn an_upload_begins_anew_with_offset_zero_and_leaves_nothing_of_what_was() {
    let server = Harness::start().await;
    assert_refused(stream(&server, 0, vec![chunk(b"half")], false).await, Code::Aborted, "UPLOAD_BROKEN");
    let dataset = stream(&server, 0, vec![chunk(b"{}\n")], true).await.unwrap().dataset.unwrap();
    assert_eq!(dataset.size_bytes, 3);
    assert_eq!(files(&server, "datasets"), ["manifest.json", "rows.jsonl"]);
    let header = pb::UploadDatasetHeader { file_name: "rows.jsonl".into(), offset: 3, ..Default::default() };
    let refused = upload(&server, vec![DatasetPart::Header(header), chunk(b"x")]).await.unwrap_err();
    assert_eq!(told(&refused).2, ["header.offset"]);
    let header =
        pb::UploadDatasetHeader { file_name: "rows.jsonl".into(), request_id: "x".repeat(129), ..Default::default() };
    let refused = upload(&server, vec![DatasetPart::Header(header), chunk(b"x")]).await.unwrap_err();
    assert_eq!(told(&refused).2, ["header.request_id"]);
}

#[tokio::test]
async fn what_is_refused_is_not_kept_to_go_on_with() {
    let server = Harness::start_with(|options| options.limits.max_dataset_bytes = 10).await;
    let refused = stream(&server, 0, vec![chunk(b"more than ten bytes")], true).await;
    assert_refused(refused, Code::ResourceExhausted, "UPLOAD_TOO_LARGE");
    assert_eq!(stream(&server, 0, Vec::new(), true).await.unwrap().received_bytes, 0);
    assert_eq!(files(&server, "datasets"), [""; 0]);
}

/// A caller whose connection broke comes back before the server knows of it.
#[tokio::test]
async fn another_stream_takes_the_place_of_one_that_is_still_open() {
    let server = Harness::start().await;
    let (say, said) = mpsc::channel(4);
    let mut client = server.datasets();
    let silent = tokio::spawn(async move { client.upload_dataset(ReceiverStream::new(said)).await });
    let (file_name, request_id) = ("rows.jsonl".into(), "mine".into());
    let header = DatasetPart::Header(pb::UploadDatasetHeader { file_name, request_id, ..Default::default() });
    for part in [header, chunk(b"{}")] {
        say.send(pb::UploadDatasetRequest { part: Some(part) }).await.unwrap();
    }
    // The first stream may not have been heard yet; once it has, the second is told of its bytes.
    soon(async {
        while say.capacity() < 4 || files(&server, "datasets").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let received = stream(&server, 0, Vec::new(), true).await.unwrap().received_bytes;
    assert!(received <= 2);
    assert_refused(silent.await.unwrap(), Code::Aborted, "UPLOAD_BROKEN");
    let rest = [chunk(b"{}\n")];
    let rest = if received == 2 { vec![chunk(b"\n")] } else { rest.to_vec() };
    let dataset = stream(&server, received, rest, true).await.unwrap().dataset.unwrap();
    assert_eq!(dataset.size_bytes, 3);
}
