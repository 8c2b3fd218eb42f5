//! What is around the calls: health, reflection, limits of messages, what the server says of itself.

use hone_proto::v1 as pb;
use hone_proto::v1::system_service_client::SystemServiceClient;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::testing::{Harness, request_spec, soon};

async fn health(server: &Harness, service: &str) -> Result<HealthCheckResponse, tonic::Status> {
    let request = HealthCheckRequest { service: service.into() };
    Ok(soon(HealthClient::new(server.channel()).check(request)).await?.into_inner())
}

#[tokio::test]
async fn health_is_told_per_service_and_changes_when_the_server_stops() {
    let mut server = Harness::start().await;
    for service in ["", "hone.v1.JobService", "hone.v1.DatasetService", "hone.v1.ModelService", "hone.v1.SystemService"]
    {
        assert_eq!(health(&server, service).await.unwrap().status(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(health(&server, "hone.v1.Nothing").await.unwrap_err().code(), Code::NotFound);
    let request = HealthCheckRequest { service: "hone.v1.JobService".into() };
    let mut watch = soon(HealthClient::new(server.channel()).watch(request)).await.unwrap().into_inner();
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.stop();
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

async fn reflect(server: &Harness, question: MessageRequest) -> Result<MessageResponse, tonic::Status> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(server.channel());
    let mut answers = soon(client.server_reflection_info(tokio_stream::iter([request]))).await.unwrap().into_inner();
    let answer: ServerReflectionResponse = soon(answers.message()).await?.unwrap();
    Ok(answer.message_response.unwrap())
}

#[tokio::test]
async fn reflection_shows_the_public_api_and_error_details_but_not_the_trainers() {
    let server = Harness::start().await;
    let listed = reflect(&server, MessageRequest::ListServices(String::new())).await.unwrap();
    let MessageResponse::ListServicesResponse(list) = listed else { panic!("no list") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for expected in ["hone.v1.JobService", "hone.v1.SystemService", "grpc.health.v1.Health"] {
        assert!(names.contains(&expected), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("trainer")), "{names:?}");
    for (symbol, known) in [("google.rpc.BadRequest", true), ("hone.trainer.v1.TrainerService", false)] {
        let answer = reflect(&server, MessageRequest::FileContainingSymbol(symbol.into())).await;
        assert_eq!(matches!(answer, Ok(MessageResponse::FileDescriptorResponse(_))), known, "{symbol}");
    }
}

#[tokio::test]
async fn the_server_tells_its_limits_and_refuses_larger_messages() {
    let server = Harness::start().await;
    let info = soon(SystemServiceClient::new(server.channel()).get_server_info(pb::GetServerInfoRequest {})).await;
    let info = info.unwrap().into_inner();
    assert_eq!((info.version.as_str(), info.max_running_jobs), (env!("CARGO_PKG_VERSION"), 1));
    let limit = info.limits.unwrap().max_message_bytes as usize;
    let spec = pb::JobSpec { display_name: "x".repeat(limit), ..request_spec() };
    let request = pb::CreateJobRequest { spec: Some(spec), ..Default::default() };
    assert_eq!(soon(server.jobs().create_job(request)).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_storage_root_that_cannot_be_written_is_named_at_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("storage"), "a file where the folder should be").unwrap();
    let options = crate::testing::options(folder.path());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = soon(crate::run(listener, options, std::future::pending())).await.unwrap_err().to_string();
    assert!(error.contains("storage root") && error.contains("cannot put"), "{error}");
}

#[tokio::test]
async fn a_second_server_on_the_same_data_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
    let port_file = folder.path().join("port");
    let options = crate::testing::options(folder.path());
    let first = crate::config::Options { port_file: Some(port_file.clone()), ..options.clone() };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let first = tokio::spawn(crate::run(bind().await.unwrap(), first, async move {
        let _ = stopped.await;
    }));
    soon(async {
        while !port_file.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let error = soon(crate::run(bind().await.unwrap(), options.clone(), std::future::pending())).await.unwrap_err();
    assert!(matches!(error, crate::Error::Locked { .. }), "{error}");
    stop.send(()).unwrap();
    soon(first).await.unwrap().unwrap();
    // The lock went with the first one. A child that another test has just forked may hold a copy of it until it execs.
    soon(Box::pin(async {
        while let Err(error) = crate::run(bind().await.unwrap(), options.clone(), async {}).await {
            assert!(matches!(error, crate::Error::Locked { .. }), "{error}");
        }
    }))
    .await;
}
