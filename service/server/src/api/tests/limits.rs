//! How much a token may do.

use hone_proto::v1 as pb;
use tonic::Code;

use super::assert_refused;
use crate::caller::Role;
use crate::testing::{Harness, bearing, request_spec, soon};

fn create() -> pb::CreateJobRequest {
    pb::CreateJobRequest { spec: Some(request_spec()), ..Default::default() }
}

fn rows(bytes: usize) -> impl tokio_stream::Stream<Item = pb::UploadDatasetRequest> {
    use pb::upload_dataset_request::Part;
    let header = pb::UploadDatasetHeader { file_name: "rows.jsonl".into(), ..Default::default() };
    let parts = [Part::Header(header), Part::Chunk(vec![b'x'; bytes].into())];
    tokio_stream::iter(parts.map(|part| pb::UploadDatasetRequest { part: Some(part) }))
}

#[tokio::test]
async fn jobs_that_have_not_ended_are_limited() {
    let lines = [("a", "p", Role::Submit, "max_jobs=1"), ("b", "q", Role::Submit, "max_jobs=1")];
    let (server, [first, second]) = Harness::with_tokens(lines, |_| {}).await;
    let job = soon(server.jobs().create_job(bearing(&first, create()))).await.unwrap().into_inner().job.unwrap();
    let refused = soon(server.jobs().create_job(bearing(&first, create()))).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "TOO_MANY_JOBS");
    assert!(status.message().contains("project p has 1 jobs"), "{status}");
    soon(server.jobs().create_job(bearing(&second, create()))).await.unwrap();
    assert_eq!(job.project, "p");
}

#[tokio::test]
async fn uploaded_bytes_are_limited_and_come_back_with_a_deletion() {
    let lines = [("a", "p", Role::Submit, "max_bytes=1000"), ("b", "q", Role::Submit, "max_bytes=1000")];
    let (server, [first, second]) = Harness::with_tokens(lines, |_| {}).await;
    let upload = async |token: &str, bytes| soon(server.datasets().upload_dataset(bearing(token, rows(bytes)))).await;
    let kept = upload(&first, 600).await.unwrap().into_inner().dataset.unwrap();
    let refused = upload(&first, 401).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "TOO_MANY_BYTES");
    assert!(status.message().contains("project p") && status.message().contains("1000 bytes"), "{status}");
    upload(&second, 401).await.unwrap();
    upload(&first, 400).await.unwrap();
    let delete = pb::DeleteDatasetRequest { dataset_id: kept.dataset_id };
    soon(server.datasets().delete_dataset(bearing(&first, delete))).await.unwrap();
    upload(&first, 600).await.unwrap();
}

#[tokio::test]
async fn a_message_larger_than_its_token_may_send_is_refused() {
    let lines = [("a", "p", Role::Submit, "max_message_bytes=4KiB"), ("b", "p", Role::Submit, "")];
    let (server, [first, second]) = Harness::with_tokens(lines, |_| {}).await;
    let large = || pb::CreateJobRequest { request_id: "x".repeat(5000), ..create() };
    soon(server.jobs().create_job(bearing(&first, create()))).await.unwrap();
    let refused = soon(server.jobs().create_job(bearing(&first, large()))).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert!(status.message().contains("the token may send 4096"), "{status}");
    let refused = soon(server.jobs().create_job(bearing(&second, large()))).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_FIELDS");
}

#[tokio::test]
async fn open_calls_are_limited_and_a_call_that_is_over_makes_room() {
    let lines = [("a", "p", Role::Submit, "max_calls=1"), ("b", "p", Role::Submit, "")];
    let (server, [first, second]) = Harness::with_tokens(lines, |_| {}).await;
    let job = soon(server.jobs().create_job(bearing(&first, create()))).await.unwrap().into_inner().job.unwrap();
    let watch = pb::WatchJobRequest { job_id: job.job_id.clone(), after_sequence: 0 };
    let watch = soon(server.jobs().watch_job(bearing(&first, watch))).await.unwrap().into_inner();
    let get = async |token: &str| {
        let get = pb::GetJobRequest { job_id: job.job_id.clone() };
        soon(server.jobs().get_job(bearing(token, get))).await
    };
    let status = assert_refused(get(&first).await, Code::ResourceExhausted, "TOO_MANY_CALLS");
    assert!(status.message().contains("1 calls"), "{status}");
    get(&second).await.unwrap();
    drop(watch);
    soon(async {
        while get(&first).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
