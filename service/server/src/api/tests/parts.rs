//! Uploads in parts: several streams bring what one would.

use hone_proto::v1 as pb;
use pb::upload_dataset_request::Part as DatasetPart;
use pb::upload_model_request::Part as ModelPart;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::{assert_refused, told};
use crate::testing::{Harness, soon};
use crate::uploads::MAX_EARLY;

const ROWS: &[u8] = b"{\"text\":\"one\"}\n{\"text\":\"two\"}\n{\"text\":\"three\"}\n";

type Answer = Result<pb::UploadDatasetResponse, Status>;

/// A part that is on its way: some messages under a request id, to the end of the stream or broken off.
struct Part {
    offset: usize,
    total: usize,
    bytes: Vec<u8>,
    whole: bool,
}

/// The part of some bytes of [`ROWS`].
fn part(bytes: std::ops::Range<usize>) -> Part {
    Part { offset: bytes.start, total: ROWS.len(), bytes: ROWS[bytes].to_vec(), whole: true }
}

impl Part {
    fn of_total(self, total: usize) -> Self {
        Self { total, ..self }
    }

    fn broken_off(self) -> Self {
        Self { whole: false, ..self }
    }

    fn send(self, server: &Harness) -> JoinHandle<Answer> {
        let header = pb::UploadDatasetHeader {
            file_name: "rows.jsonl".into(),
            request_id: "mine".into(),
            offset: self.offset as u64,
            total_bytes: self.total as u64,
            ..Default::default()
        };
        let chunks = self.bytes.chunks(1 << 20).map(|chunk| DatasetPart::Chunk(chunk.to_vec().into()));
        let parts = std::iter::once(DatasetPart::Header(header)).chain(chunks).map(Some);
        let end = (!self.whole).then_some(None);
        let messages: Vec<_> = parts.chain(end).map(|part| pb::UploadDatasetRequest { part }).collect();
        let mut client = server.datasets();
        tokio::spawn(async move {
            let answer = soon(client.upload_dataset(tokio_stream::iter(messages))).await;
            answer.map(tonic::Response::into_inner)
        })
    }

    async fn sent(self, server: &Harness) -> Answer {
        self.send(server).await.unwrap()
    }
}

/// How far the server says that it is.
async fn received(server: &Harness) -> u64 {
    let answer = Part { offset: 0, total: 0, bytes: Vec::new(), whole: true }.sent(server).await.unwrap();
    assert_eq!(answer.dataset, None);
    assert!(answer.part_bytes > 1 << 20, "it takes parts");
    answer.received_bytes
}

fn is_rows(dataset: pb::Dataset) {
    assert_eq!((dataset.size_bytes, dataset.sha256), (ROWS.len() as u64, hex::encode(Sha256::digest(ROWS))));
    assert_eq!(std::fs::read(dataset.uri.strip_prefix("file://").unwrap()).unwrap(), ROWS);
}

#[tokio::test]
async fn parts_that_come_in_any_order_become_one_file() {
    let server = Harness::start().await;
    let last = part(30..ROWS.len()).send(&server);
    let middle = part(10..30).send(&server);
    assert_eq!(part(0..10).sent(&server).await.unwrap().received_bytes, 10);
    let middle = middle.await.unwrap().unwrap();
    assert_eq!((middle.received_bytes, middle.dataset), (30, None));
    is_rows(last.await.unwrap().unwrap().dataset.unwrap());
    // What has come whole is told to whoever sends it again.
    is_rows(part(10..30).sent(&server).await.unwrap().dataset.unwrap());
    let listed = soon(server.datasets().list_datasets(pb::ListDatasetsRequest::default())).await.unwrap();
    assert_eq!(listed.into_inner().datasets.len(), 1);
}

#[tokio::test]
async fn many_parts_in_reverse_order_get_through() {
    let server = Harness::start().await;
    let parts: Vec<_> = (0..MAX_EARLY).rev().map(|byte| part(byte..byte + 1).send(&server)).collect();
    for part in parts {
        assert_eq!(part.await.unwrap().unwrap().dataset, None);
    }
    is_rows(part(MAX_EARLY..ROWS.len()).sent(&server).await.unwrap().dataset.unwrap());
}

/// More than may wait in memory, and more than may be of one.
#[tokio::test]
async fn parts_that_come_early_are_limited_in_number_and_size() {
    let server = Harness::start_with(|options| options.limits.max_dataset_bytes = 64 << 20).await;
    let early = (0..=MAX_EARLY).map(|byte| part(byte + 1..byte + 2).send(&server));
    let (refused, _, _) = futures::future::select_all(early).await;
    assert_refused(refused.unwrap(), Code::ResourceExhausted, "TOO_MANY_PARTS");
    let server = Harness::start_with(|options| options.limits.max_dataset_bytes = 64 << 20).await;
    let long = Part { offset: 1, total: 10 << 20, bytes: vec![b' '; (10 << 20) - 1], whole: true };
    assert_eq!(told(&long.sent(&server).await.unwrap_err()).2, ["chunk"]);
}

#[tokio::test]
async fn a_part_that_breaks_off_is_gone_on_with_while_others_wait() {
    let server = Harness::start().await;
    let last = part(30..ROWS.len()).send(&server);
    assert_refused(part(0..10).broken_off().sent(&server).await, Code::Aborted, "UPLOAD_BROKEN");
    assert_refused(part(10..12).broken_off().sent(&server).await, Code::Aborted, "UPLOAD_BROKEN");
    part(12..30).sent(&server).await.unwrap();
    is_rows(last.await.unwrap().unwrap().dataset.unwrap());
}

#[tokio::test]
async fn an_early_part_that_breaks_off_spoils_nothing() {
    let server = Harness::start().await;
    let early = part(30..33).broken_off().send(&server);
    part(0..30).sent(&server).await.unwrap();
    assert_refused(early.await.unwrap(), Code::Aborted, "UPLOAD_BROKEN");
    // It came to its turn, so that what it had brought has come.
    let received = received(&server).await as usize;
    assert_eq!(received, 33);
    is_rows(part(received..ROWS.len()).sent(&server).await.unwrap().dataset.unwrap());
}

/// A caller whose connection broke: parts that this side takes for open are not in the way of those to come.
#[tokio::test]
async fn who_asks_how_far_it_is_takes_the_place_of_all_parts() {
    let server = Harness::start().await;
    part(0..10).sent(&server).await.unwrap();
    let waiting = part(30..ROWS.len()).send(&server);
    let told = async {
        // The part may not have been heard yet.
        while !waiting.is_finished() {
            assert_eq!(received(&server).await, 10);
        }
    };
    soon(told).await;
    assert_refused(waiting.await.unwrap(), Code::Aborted, "UPLOAD_BROKEN");
    is_rows(part(10..ROWS.len()).sent(&server).await.unwrap().dataset.unwrap());
}

/// Two callers that share a request id bring the same upload: what comes first counts.
#[tokio::test]
async fn parts_that_overlap_are_refused_and_spoil_nothing() {
    let server = Harness::start().await;
    part(0..20).sent(&server).await.unwrap();
    for overlapping in [0..20, 0..5, 10..30, 19..ROWS.len()] {
        let refused = part(overlapping).sent(&server).await;
        let status = assert_refused(refused, Code::Aborted, "UPLOAD_MOVED");
        assert!(status.message().contains("20 have come"), "{status}");
    }
    is_rows(part(20..ROWS.len()).sent(&server).await.unwrap().dataset.unwrap());
}

#[tokio::test]
async fn parts_that_lie_about_sizes_are_refused() {
    let server = Harness::start().await;
    let fields = |answer: Answer| told(&answer.unwrap_err()).2;
    assert_eq!(fields(part(10..20).of_total(10).sent(&server).await), ["header.offset"]);
    assert_refused(part(0..10).of_total(1 << 30).sent(&server).await, Code::ResourceExhausted, "UPLOAD_TOO_LARGE");
    part(0..10).sent(&server).await.unwrap();
    assert_eq!(fields(part(10..20).of_total(40).sent(&server).await), ["header.total_bytes"]);
    assert_eq!(received(&server).await, 10, "the upload of who tells the truth is left alone");
    // One that ends too soon makes no dataset.
    assert_eq!(part(10..20).sent(&server).await.unwrap().dataset, None);
    // One that brings more than it said ends the upload.
    let mut more = part(20..ROWS.len());
    more.bytes.push(b'\n');
    assert_eq!(fields(more.sent(&server).await), ["chunk"]);
    assert_eq!(received(&server).await, 0);
    let header = pb::UploadDatasetHeader { file_name: "rows.jsonl".into(), total_bytes: 9, ..Default::default() };
    let message = pb::UploadDatasetRequest { part: Some(DatasetPart::Header(header)) };
    let refused = soon(server.datasets().upload_dataset(tokio_stream::iter([message]))).await.unwrap_err();
    assert_eq!(told(&refused).2, ["header.total_bytes"]);
}

#[tokio::test]
async fn one_stream_may_bring_the_rest_of_what_came_in_parts() {
    let server = Harness::start().await;
    part(0..20).sent(&server).await.unwrap();
    is_rows(part(20..ROWS.len()).of_total(0).sent(&server).await.unwrap().dataset.unwrap());
}

#[tokio::test]
async fn files_of_a_model_begin_anywhere_in_its_parts() {
    let server = Harness::start().await;
    let send = |offset: u64, parts: Vec<ModelPart>| {
        let (display_name, request_id) = ("tiny".into(), "mine".into());
        let header = pb::UploadModelHeader { display_name, request_id, offset, total_bytes: 14 };
        let parts = std::iter::once(ModelPart::Header(header)).chain(parts);
        let messages: Vec<_> = parts.map(|part| pb::UploadModelRequest { part: Some(part) }).collect();
        let mut client = server.models();
        tokio::spawn(async move { soon(client.upload_model(tokio_stream::iter(messages))).await })
    };
    let file = |name: &str| ModelPart::File(pb::ModelFile { name: name.into(), ..Default::default() });
    let bytes = |text: &str| ModelPart::Chunk(text.as_bytes().to_vec().into());
    let last = send(9, vec![bytes("ghts"), file("tokenizer.json"), bytes("t")]);
    let first = send(0, vec![file("config.json"), bytes("{}"), file("model.safetensors"), bytes("the wei")]);
    let first = first.await.unwrap().unwrap().into_inner();
    let received: Vec<_> = first.received.iter().map(|file| (file.name.as_str(), file.size_bytes)).collect();
    assert_eq!(received, [("config.json", 2), ("model.safetensors", 7)]);
    let model = last.await.unwrap().unwrap().into_inner().model.unwrap();
    let files: Vec<_> = model.files.iter().map(|file| (file.name.as_str(), file.size_bytes)).collect();
    assert_eq!(files, [("config.json", 2), ("model.safetensors", 11), ("tokenizer.json", 1)]);
    let folder = model.uri.strip_prefix("file://").unwrap();
    assert_eq!(std::fs::read_to_string(format!("{folder}/model.safetensors")).unwrap(), "the weights");
}
