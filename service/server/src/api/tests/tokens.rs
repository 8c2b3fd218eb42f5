//! Who is let in, and by which role.

use hone_proto::v1 as pb;
use hone_proto::v1::system_service_client::SystemServiceClient;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use tower::ServiceExt;

use super::assert_refused;
use crate::caller::Role;
use crate::testing::{Harness, Trainer, bearing, request_spec, soon};
use crate::tokens;

fn create() -> pb::CreateJobRequest {
    pb::CreateJobRequest { spec: Some(request_spec()), ..Default::default() }
}

#[tokio::test]
async fn a_call_without_a_token_is_refused_and_told_how_to_send_one() {
    let (server, _) = Harness::with_tokens([("a", "p", Role::Admin, "")], |_| {}).await;
    let status =
        assert_refused(soon(server.jobs().create_job(create())).await, Code::Unauthenticated, "TOKEN_REQUIRED");
    let details = status.get_error_details();
    assert!(details.help().unwrap().links[0].description.contains("Bearer"), "{details:?}");
    let stream = tokio_stream::iter([pb::UploadDatasetRequest::default()]);
    let upload = soon(server.datasets().upload_dataset(stream)).await;
    assert_refused(upload, Code::Unauthenticated, "TOKEN_REQUIRED");
}

#[tokio::test]
async fn a_token_that_is_not_known_is_refused_and_not_shown() {
    let (server, [token]) = Harness::with_tokens([("a", "p", Role::Admin, "")], |_| {}).await;
    for header in ["Bearer hone_stranger", "Basic hone_stranger", "hone_stranger", "Bearer", "", &token] {
        let mut request = tonic::Request::new(pb::ListJobsRequest::default());
        request.metadata_mut().insert("authorization", header.parse().unwrap());
        let status =
            assert_refused(soon(server.jobs().list_jobs(request)).await, Code::Unauthenticated, "TOKEN_UNKNOWN");
        assert!(!format!("{status:?}").contains("stranger"), "{status:?}");
    }
    let mut request = tonic::Request::new(pb::ListJobsRequest::default());
    request.metadata_mut().insert("authorization", MetadataValue::try_from(format!("bearer {token}")).unwrap());
    soon(server.jobs().list_jobs(request)).await.unwrap();
}

#[tokio::test]
async fn health_is_told_to_everybody_and_trainers_come_with_their_own_secret() {
    let (mut server, [token]) = Harness::with_tokens([("a", "p", Role::Submit, "")], |_| {}).await;
    let request = HealthCheckRequest { service: String::new() };
    soon(HealthClient::new(server.channel()).check(request)).await.unwrap();
    soon(server.jobs().create_job(bearing(&token, create()))).await.unwrap();
    let launched = server.launch().await;
    Trainer::attach(&server, &launched.launch).await.unwrap();
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_not_there_for_anybody() {
    let (server, [token]) = Harness::with_tokens([("a", "p", Role::Admin, "")], |_| {}).await;
    for path in ["/hone.v1.JobService/Nothing", "/hone.v1.JobService/GetJob/", "/hone.v1.jobservice/GetJob", "/"] {
        let request = http::Request::post(format!("http://server{path}"));
        let request =
            request.header("content-type", "application/grpc").header("authorization", format!("Bearer {token}"));
        let answer = soon(server.channel().oneshot(request.body(Body::empty()).unwrap())).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_refused(Err::<(), _>(status), Code::Unimplemented, "UNKNOWN_METHOD");
    }
}

#[tokio::test]
async fn a_role_may_do_what_it_says_and_no_more() {
    let lines = [("r", "p", Role::Read, ""), ("s", "p", Role::Submit, ""), ("a", "p", Role::Admin, "")];
    let (server, [read, submit, admin]) = Harness::with_tokens(lines, |_| {}).await;
    let refused = soon(server.jobs().create_job(bearing(&read, create()))).await;
    let status = assert_refused(refused, Code::PermissionDenied, "ROLE_TOO_LOW");
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["needed"], "submit");
    let job = soon(server.jobs().create_job(bearing(&submit, create()))).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.project, "p");
    let get = || pb::GetJobRequest { job_id: job.job_id.clone() };
    soon(server.jobs().get_job(bearing(&read, get()))).await.unwrap();
    let cancel = || pb::CancelJobRequest { job_id: job.job_id.clone() };
    assert_refused(
        soon(server.jobs().cancel_job(bearing(&read, cancel()))).await,
        Code::PermissionDenied,
        "ROLE_TOO_LOW",
    );
    soon(server.jobs().cancel_job(bearing(&admin, cancel()))).await.unwrap();
    for (token, shown) in [(&read, false), (&submit, false), (&admin, true)] {
        let info = bearing(token, pb::GetServerInfoRequest {});
        let info = soon(SystemServiceClient::new(server.channel()).get_server_info(info)).await.unwrap().into_inner();
        assert_eq!(!info.storage_root.is_empty(), shown);
        assert_eq!(info.max_running_jobs, 1);
    }
}

#[tokio::test]
async fn tokens_come_and_go_while_the_server_runs() {
    let (server, [first]) = Harness::with_tokens([("first", "p", Role::Read, "")], |_| {}).await;
    let (second, line) = tokens::fresh("second", "p", Role::Read);
    let list = async |token: &str| soon(server.jobs().list_jobs(bearing(token, pb::ListJobsRequest::default()))).await;
    // It has read the file once.
    list(&first).await.unwrap();
    std::fs::write(server.folder.path().join("tokens"), line).unwrap();
    soon(async {
        while list(&second).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_refused(list(&first).await, Code::Unauthenticated, "TOKEN_UNKNOWN");
}

/// A watch and an upload that are under way: they end with their token, and nobody else's do.
#[tokio::test]
async fn open_streams_end_with_the_token_they_were_opened_with() {
    let names = [("first", "p", Role::Submit, ""), ("second", "p", Role::Submit, "")];
    let (server, [first, second]) = Harness::with_tokens(names, |_| {}).await;
    let file = server.folder.path().join("tokens");
    let lines = std::fs::read_to_string(&file).unwrap();
    let job_id =
        soon(server.jobs().create_job(bearing(&first, create()))).await.unwrap().into_inner().job.unwrap().job_id;
    let watch = async |token: &str| {
        let request = pb::WatchJobRequest { job_id: job_id.clone(), after_sequence: 0 };
        let mut events = soon(server.jobs().watch_job(bearing(token, request))).await.unwrap().into_inner();
        soon(events.message()).await.unwrap().unwrap();
        events
    };
    let (mut of_first, mut of_second) = (watch(&first).await, watch(&second).await);
    let (parts, messages) = tokio::sync::mpsc::channel(1);
    let upload = bearing(&first, tokio_stream::wrappers::ReceiverStream::new(messages));
    let mut datasets = server.datasets();
    let uploading = tokio::spawn(async move { datasets.upload_dataset(upload).await });
    let header =
        pb::UploadDatasetHeader { file_name: "rows.jsonl".into(), sha256: String::new(), ..Default::default() };
    let part = pb::upload_dataset_request::Part::Header(header);
    parts.send(pb::UploadDatasetRequest { part: Some(part) }).await.unwrap();

    let without_first: Vec<_> = lines.lines().filter(|line| !line.starts_with("first ")).collect();
    std::fs::write(&file, without_first.join("\n")).unwrap();
    let end = soon(async {
        loop {
            if let Err(status) = of_first.message().await {
                return status;
            }
        }
    });
    assert_refused::<()>(Err(end.await), Code::Unauthenticated, "TOKEN_UNKNOWN");
    assert!(soon(uploading).await.unwrap().is_err());
    drop(parts);
    soon(server.jobs().cancel_job(bearing(&second, pb::CancelJobRequest { job_id: job_id.clone() }))).await.unwrap();
    soon(of_second.message()).await.unwrap().expect("word of the cancellation, over a stream that goes on");
}

#[tokio::test]
async fn a_server_does_not_start_with_a_broken_file_of_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = crate::testing::options(folder.path());
    let file = folder.path().join("tokens");
    std::fs::write(&file, "hone_secret\n").unwrap();
    options.token_file = Some(file);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = soon(Box::pin(crate::run(listener, options, std::future::pending()))).await.unwrap_err().to_string();
    assert!(error.contains("tokens line 1") && !error.contains("secret"), "{error}");
}
