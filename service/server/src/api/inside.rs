//! Calls from within this process: what speaks another protocol than gRPC, the web page, comes in here. A call passes the
//! gate and is answered by the services as one from outside is, so that roles, projects and limits are decided in one
//! place; what goes out is JSON by protobuf's own mapping, or the bytes of a file.

use std::sync::LazyLock;

use async_stream::try_stream;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use hone_proto::v1 as pb;
use hone_proto::v1::job_service_client::JobServiceClient;
use hone_proto::v1::system_service_client::SystemServiceClient;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use tonic::codegen::http::{Extensions, HeaderValue};
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tower::Layer;
use tower::util::MapRequest;

use super::gate::{Gate, Gated};
use super::{MAX_MESSAGE_BYTES, intact};

/// All services, behind the gate.
type Service = Gated<MapRequest<Routes, intact::Watch>>;

/// The way in.
#[derive(Clone)]
pub(crate) struct Inside {
    service: Service,
}

/// Who calls: what he showed with his request.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    /// The header `authorization`.
    pub(crate) authorization: Option<HeaderValue>,
    /// What is known of his connection.
    pub(crate) extensions: Extensions,
}

/// Which items of a list are wanted.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Most items.
    pub(crate) page_size: i32,
    /// Token of the page, empty for the first.
    pub(crate) page_token: String,
}

/// A word of a stream of events.
#[derive(Debug)]
pub(crate) enum Word {
    /// An event, by its number.
    Event(u64, Value),
    /// Nothing happens.
    Heartbeat,
}

/// A file on its way.
pub(crate) struct Download {
    /// Its size, in bytes.
    pub(crate) size_bytes: u64,
    /// SHA-256, hexadecimal.
    pub(crate) sha256: String,
    /// Its bytes. The last piece comes when all were found to be those that were written.
    pub(crate) pieces: std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Refusal>> + Send>>,
}

/// Why a call was refused, or broke off.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(Box<Status>);

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.message())
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    pub(crate) fn code(&self) -> Code {
        self.0.code()
    }

    /// What programs and people are told.
    pub(crate) fn json(&self) -> Value {
        let details = self.0.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
        let remedy = details.help().and_then(|help| help.links.first()).map(|link| link.description.as_str());
        json!({"error": {
            "code": format!("{:?}", self.code()),
            "reason": reason,
            "message": self.0.message(),
            "remedy": remedy.unwrap_or_default(),
        }})
    }
}

impl Inside {
    pub(super) fn new(gate: &Gate, routes: Routes) -> Self {
        Self { service: gate.layer(MapRequest::new(routes, intact::watched as intact::Watch)) }
    }

    fn jobs(&self) -> JobServiceClient<Service> {
        // The services bound what they take and send; what they answered has room here.
        JobServiceClient::new(self.service.clone()).max_decoding_message_size(4 * MAX_MESSAGE_BYTES)
    }

    /// What the server is.
    pub(crate) async fn info(&self, who: Credentials) -> Result<Value, Refusal> {
        let mut system = SystemServiceClient::new(self.service.clone());
        let info = system.get_server_info(who.with(pb::GetServerInfoRequest {})).await?;
        Ok(value("GetServerInfoResponse", &info.into_inner()))
    }

    /// Jobs, newest first; only those in `states`, if there are any, named as in the proto.
    pub(crate) async fn list_jobs(&self, who: Credentials, part: Part, states: Vec<String>) -> Result<Value, Refusal> {
        let Part { page_size, page_token } = part;
        // A name that is none becomes the state that no job has, which the API refuses.
        let states = states.iter().map(|name| pb::JobState::from_str_name(name).unwrap_or_default().into()).collect();
        let request = pb::ListJobsRequest { page_size, page_token, states, ..Default::default() };
        Ok(value("ListJobsResponse", &self.jobs().list_jobs(who.with(request)).await?.into_inner()))
    }

    /// One job.
    pub(crate) async fn job(&self, who: Credentials, job_id: String) -> Result<Value, Refusal> {
        let answer = self.jobs().get_job(who.with(pb::GetJobRequest { job_id })).await?;
        Ok(value("GetJobResponse", &answer.into_inner()))
    }

    /// Checkpoints of a job, newest first.
    pub(crate) async fn list_checkpoints(
        &self,
        who: Credentials,
        job_id: String,
        part: Part,
    ) -> Result<Value, Refusal> {
        let Part { page_size, page_token } = part;
        let request = pb::ListCheckpointsRequest { job_id, page_size, page_token };
        Ok(value("ListCheckpointsResponse", &self.jobs().list_checkpoints(who.with(request)).await?.into_inner()))
    }

    /// The events of a job after number `after`, and those to come.
    pub(crate) async fn events(
        &self,
        who: Credentials,
        job_id: String,
        after: u64,
    ) -> Result<impl Stream<Item = Result<Word, Refusal>> + use<>, Refusal> {
        let request = pb::WatchJobRequest { job_id, after_sequence: after };
        let events = self.jobs().watch_job(who.with(request)).await?.into_inner();
        Ok(events.map(|answer| {
            Ok(match answer?.event {
                Some(event) => Word::Event(event.sequence, value("JobEvent", &event)),
                None => Word::Heartbeat,
            })
        }))
    }

    /// One file of a checkpoint.
    pub(crate) async fn file(
        &self,
        who: Credentials,
        job_id: String,
        checkpoint_id: String,
        file_name: String,
    ) -> Result<Download, Refusal> {
        let request = pb::DownloadCheckpointRequest { job_id, checkpoint_id, file_name, offset: 0, length: 0 };
        let mut chunks = self.jobs().download_checkpoint(who.with(request)).await?.into_inner();
        let first = chunks.message().await?;
        let Some((file, data)) = first.and_then(|chunk| Some((chunk.file?, chunk.data))) else {
            return Err(Status::internal("a file came without its name").into());
        };
        let pieces = Box::pin(try_stream! {
            // One piece stays behind until the next, or the end in good order, has come: a file that turns out to be damaged
            // never comes whole.
            let mut held = data;
            while let Some(chunk) = chunks.message().await? {
                yield std::mem::replace(&mut held, chunk.data);
            }
            yield held;
        });
        Ok(Download { size_bytes: file.size_bytes, sha256: file.sha256, pieces })
    }
}

impl Credentials {
    /// A message that is sent with them.
    fn with<M>(self, message: M) -> Request<M> {
        let mut request = Request::from_parts(Default::default(), self.extensions, message);
        if let Some(value) = self.authorization {
            // What is no text is no token either, which the gate says.
            let value = value.to_str().ok().and_then(|text| MetadataValue::try_from(text).ok());
            request.metadata_mut().insert("authorization", value.unwrap_or(MetadataValue::from_static("")));
        }
        request
    }
}

/// A message of `hone.v1` by protobuf's own mapping.
fn value(name: &str, message: &impl Message) -> Value {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(hone_proto::FILE_DESCRIPTOR_SET).expect("the build made the descriptors")
    });
    let descriptor = POOL.get_message_by_name(&format!("hone.v1.{name}")).expect("a message of hone.v1");
    let encoded = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, encoded.as_slice()).expect("encoded by the same protos");
    serde_json::to_value(dynamic).expect("JSON has room for every message")
}
