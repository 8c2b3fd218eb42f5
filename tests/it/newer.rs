//! An older client before a newer server: one whose protos have a field, a value of an enum and a kind of event that the client
//! has never heard of. All of them pass through; none of them stops anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use hone_client::{Client, v1};
use hone_tests::{binary, repository, run};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};

const JOB: &str = "job-0123456789abcdef0123456789abcdef";

/// The protos of a server to come.
fn newer_protos() -> DescriptorPool {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("hone/v1").join(name);
    std::fs::create_dir_all(folder.path().join("hone/v1")).unwrap();
    for entry in std::fs::read_dir(repository().join("proto/hone/v1")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, at(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let insert = |file: &str, after: &str, text: &str| {
        let source = std::fs::read_to_string(at(file)).unwrap();
        assert_eq!(source.matches(after).count(), 1, "{file}: {after}");
        std::fs::write(at(file), source.replace(after, &format!("{after}\n{text}"))).unwrap();
    };
    insert("job.proto", "message Job {", "  string mood = 900;");
    insert("event.proto", "  JOB_STATE_UNSPECIFIED = 0;", "  JOB_STATE_HIBERNATING = 900;");
    insert("event.proto", "  oneof event {", "    Dream dream = 900;");
    let source = std::fs::read_to_string(at("event.proto")).unwrap();
    std::fs::write(at("event.proto"), source + "\nmessage Dream {\n  string about = 1;\n}\n").unwrap();
    let files = protox::compile(["hone/v1/job.proto"], [folder.path()]).unwrap();
    DescriptorPool::decode(&*files.encode_to_vec()).unwrap()
}

/// A message of the newer protos on the wire.
fn message(protos: &DescriptorPool, name: &str, content: &Value) -> Bytes {
    let descriptor = protos.get_message_by_name(&format!("hone.v1.{name}")).unwrap();
    DynamicMessage::deserialize(descriptor, content).unwrap().encode_to_vec().into()
}

/// What the server answers, call by call.
#[derive(Clone)]
struct Newer {
    job: Bytes,
    events: Arc<Vec<Bytes>>,
}

impl Newer {
    /// A server with one job in this state, whose events say that it has succeeded.
    fn with_job(protos: &DescriptorPool, state: &str) -> Self {
        let change = |to: &str| json!({"state_changed": {"from": "JOB_STATE_RUNNING", "to": to}});
        let story = [
            change("JOB_STATE_HIBERNATING"),
            json!({"dream": {"about": "electric sheep"}}),
            json!({"train_step": {"step": "1", "loss": 2.5}}),
            change("JOB_STATE_SUCCEEDED"),
        ];
        let numbered = story.iter().zip(1..).map(|(event, sequence)| {
            let mut event = event.clone();
            event["sequence"] = json!(sequence.to_string());
            message(protos, "WatchJobResponse", &json!({ "event": event }))
        });
        let job = json!({"job_id": JOB, "state": state, "mood": "sleepy", "last_sequence": "4"});
        Self { job: message(protos, "GetJobResponse", &json!({ "job": job })), events: Arc::new(numbered.collect()) }
    }

    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(self).serve_with_incoming(incoming));
        url
    }
}

impl NamedService for Newer {
    const NAME: &'static str = "hone.v1.JobService";
}

impl tonic::codegen::Service<http::Request<Body>> for Newer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let newer = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/hone.v1.JobService/GetJob" => Grpc::new(Raw).unary(newer, request).await,
                "/hone.v1.JobService/WatchJob" => Grpc::new(Raw).server_streaming(newer, request).await,
                _ => Status::unimplemented("not in this play").into_http(),
            })
        })
    }
}

impl UnaryService<Bytes> for Newer {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let job = self.job.clone();
        Box::pin(async { Ok(Response::new(job)) })
    }
}

impl ServerStreamingService<Bytes> for Newer {
    type Response = Bytes;
    type ResponseStream = stream::BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let asked = v1::WatchJobRequest::decode(request.into_inner()).unwrap();
        let events = self.events.iter().skip(asked.after_sequence as usize).cloned().map(Ok).collect::<Vec<_>>();
        Box::pin(async { Ok(Response::new(stream::iter(events).boxed())) })
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[tokio::test]
async fn an_older_client_reads_a_newer_server() {
    let protos = newer_protos();
    let url = Newer::with_job(&protos, "JOB_STATE_HIBERNATING").serve().await;
    let job = Client::connect(&*url).await.unwrap().job(JOB);
    let found = job.get().await.unwrap();
    assert_eq!((found.job_id.as_str(), found.state), (JOB, 900), "the number of a state that nobody knows");
    assert!(!hone_client::is_final(found.state()), "which ends nothing");
    let events: Vec<_> = job.watch().map(|event| event.unwrap()).collect().await;
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4], "each event counts");
    assert!(events[1].event.is_none(), "an unknown event is an event without content");
    let Some(v1::job_event::Event::StateChanged(change)) = &events[0].event else { panic!("a change") };
    assert_eq!(change.to, 900);
    let Some(v1::job_event::Event::TrainStep(step)) = &events[2].event else { panic!("what follows is read") };
    assert_eq!(step.loss, Some(2.5));
}

#[tokio::test]
async fn an_older_command_line_follows_a_newer_server() {
    let protos = newer_protos();
    let asleep = Newer::with_job(&protos, "JOB_STATE_HIBERNATING").serve().await;
    let over = Newer::with_job(&protos, "JOB_STATE_SUCCEEDED").serve().await;
    let hone = |url: &str, arguments: &[&str]| {
        let mut command = Command::new(binary("hone"));
        command.env("HONE_SERVER", url).args(arguments);
        command
    };
    let found = run(&mut hone(&asleep, &["--json", "jobs", "get", JOB])).await;
    let found: Value = serde_json::from_str(found.success()).unwrap();
    assert_eq!(found["state"], 900, "{found}");
    let told = run(&mut hone(&asleep, &["jobs", "get", JOB])).await;
    assert!(told.success().contains("900"), "{told:#?}");
    let told = run(&mut hone(&over, &["jobs", "watch", JOB, "--json"])).await;
    let lines: Vec<Value> = told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1], json!({"sequence": "2"}), "an unknown event has its number: {told:#?}");
    assert_eq!(lines.len(), 4);
    let told = run(&mut hone(&over, &["jobs", "watch", JOB])).await;
    assert!(told.success().contains("2.5") && told.stdout.contains("STATE 900"), "{told:#?}");
}

/// That the play is what it says: the newer protos do have what the client lacks.
#[test]
fn the_newer_protos_are_newer() {
    let protos = newer_protos();
    let descriptor = protos.get_message_by_name("hone.v1.GetJobResponse").unwrap();
    let job = DynamicMessage::decode(descriptor, Newer::with_job(&protos, "JOB_STATE_HIBERNATING").job).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true);
    let job = job.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
    assert_eq!((&job["job"]["mood"], &job["job"]["state"]), (&json!("sleepy"), &json!("JOB_STATE_HIBERNATING")));
    let older = DescriptorPool::decode(hone_proto::FILE_DESCRIPTOR_SET).unwrap();
    assert!(older.get_message_by_name("hone.v1.Dream").is_none());
}
