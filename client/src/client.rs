//! The connection to a server: every call typed, bounded in time, and tried again where that is safe.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hone_proto::v1 as pb;
use pb::dataset_service_client::DatasetServiceClient;
use pb::generation_service_client::GenerationServiceClient;
use pb::job_service_client::JobServiceClient;
use pb::model_service_client::ModelServiceClient;
use pb::system_service_client::SystemServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::error::{Error, Result, RpcError};
use crate::job::JobHandle;
use crate::options::ConnectOptions;
use crate::retry::with_retry;
use crate::token::Bearer;

/// Longest time that a running job may take to save when it is asked to: its step and its upload come first.
const SAVE_TIMEOUT: Duration = Duration::from_secs(600);

/// A connection that carries the caller's token.
pub(crate) type Wire = InterceptedService<Channel, Bearer>;

/// A connection to a hone server. Cheap to clone; clones share the connection, which heals by itself.
///
/// ```no_run
/// # async fn example() -> hone_client::Result<()> {
/// let client = hone_client::Client::connect("http://127.0.0.1:7400").await?;
/// println!("hone {}", client.server_info().await?.version);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    wire: Wire,
    options: Arc<ConnectOptions>,
}

impl Client {
    /// Connects, or says that there is no server at the endpoint.
    pub async fn connect(options: impl Into<ConnectOptions>) -> Result<Self> {
        let options = options.into();
        let (connecting, bearer) = (options.to_endpoint()?, options.bearer()?);
        let channel = connecting.connect().await.map_err(|error| Error::connect(&options.endpoint, error))?;
        Ok(Self { wire: InterceptedService::new(channel, bearer), options: Arc::new(options) })
    }

    /// The options in force.
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Version, devices, limits and where things are stored.
    pub async fn server_info(&self) -> Result<pb::GetServerInfoResponse> {
        let request = pb::GetServerInfoRequest {};
        self.unary("GetServerInfo", "", request, |request| {
            let mut stub = self.system_stub();
            async move { stub.get_server_info(request).await }
        })
        .await
    }

    /// A handle on a job that exists. Nothing is asked yet.
    pub fn job(&self, job_id: impl Into<String>) -> JobHandle {
        JobHandle::new(self.clone(), job_id.into())
    }

    /// Creates a job. Safe against lost answers: every attempt carries the same request id.
    pub async fn create_job(&self, spec: pb::JobSpec) -> Result<JobHandle> {
        let request_id = uuid::Uuid::new_v4().to_string();
        let job = self.send_create(pb::CreateJobRequest { spec: Some(spec), request_id, validate_only: false }).await?;
        Ok(self.job(job.job_id))
    }

    /// Creates a job under a request id of the caller, so that a restarted pipeline finds the job it made before.
    pub async fn create_job_once(&self, request_id: impl Into<String>, spec: pb::JobSpec) -> Result<JobHandle> {
        let request_id = request_id.into();
        let job = self.send_create(pb::CreateJobRequest { spec: Some(spec), request_id, validate_only: false }).await?;
        Ok(self.job(job.job_id))
    }

    /// Checks a spec as creation would and gives it back with every default filled in. Creates nothing.
    pub async fn validate_job(&self, spec: pb::JobSpec) -> Result<pb::JobSpec> {
        let request = pb::CreateJobRequest { spec: Some(spec), request_id: String::new(), validate_only: true };
        let job = self.send_create(request).await?;
        job.spec.ok_or_else(|| Error::contract("CreateJob", "no spec in the job"))
    }

    async fn send_create(&self, request: pb::CreateJobRequest) -> Result<pb::Job> {
        let limit = self.options.slow_call_timeout;
        // A spec is large, and each layer of a call holds a copy: on the heap, so that callers' futures stay small.
        let response = Box::pin(self.bounded("CreateJob", "", limit, request, |request| {
            let mut stub = self.job_stub();
            async move { stub.create_job(request).await }
        }))
        .await?;
        response.job.ok_or_else(|| Error::contract("CreateJob", "no job in it"))
    }

    /// One job as it stands.
    pub async fn get_job(&self, job_id: &str) -> Result<pb::Job> {
        let request = pb::GetJobRequest { job_id: job_id.to_owned() };
        let response = self
            .unary("GetJob", job_id, request, |request| {
                let mut stub = self.job_stub();
                async move { stub.get_job(request).await }
            })
            .await?;
        response.job.ok_or_else(|| Error::contract("GetJob", "no job in it"))
    }

    /// A page of jobs, newest first.
    pub async fn list_jobs(&self, request: pb::ListJobsRequest) -> Result<pb::ListJobsResponse> {
        self.unary("ListJobs", "", request, |request| {
            let mut stub = self.job_stub();
            async move { stub.list_jobs(request).await }
        })
        .await
    }

    /// Asks a job to stop for good; a running one finishes its step and saves first. Cancelling twice is no error.
    pub async fn cancel_job(&self, job_id: &str) -> Result<pb::Job> {
        let request = pb::CancelJobRequest { job_id: job_id.to_owned() };
        let response = self
            .unary("CancelJob", job_id, request, |request| {
                let mut stub = self.job_stub();
                async move { stub.cancel_job(request).await }
            })
            .await?;
        response.job.ok_or_else(|| Error::contract("CancelJob", "no job in it"))
    }

    /// Asks a job to make room: a running one finishes its step, saves and leaves. Pausing twice is no error.
    pub async fn pause_job(&self, job_id: &str) -> Result<pb::Job> {
        let request = pb::PauseJobRequest { job_id: job_id.to_owned() };
        let response = self
            .unary("PauseJob", job_id, request, |request| {
                let mut stub = self.job_stub();
                async move { stub.pause_job(request).await }
            })
            .await?;
        response.job.ok_or_else(|| Error::contract("PauseJob", "no job in it"))
    }

    /// Queues a paused job again, which goes on from its last checkpoint; with a `spec`, that is the job's own with another
    /// length. Not repeated by itself when the answer is lost: the job may have been paused again since.
    pub async fn resume_job(&self, job_id: &str, spec: Option<pb::JobSpec>) -> Result<pb::Job> {
        let request = pb::ResumeJobRequest { job_id: job_id.to_owned(), spec };
        let response = self
            .once("ResumeJob", job_id, self.options.call_timeout, request, |request| {
                let mut stub = self.job_stub();
                // A spec makes the call's state large.
                Box::pin(async move { stub.resume_job(request).await })
            })
            .await?;
        response.job.ok_or_else(|| Error::contract("ResumeJob", "no job in it"))
    }

    /// Has a running job save now, and gives the checkpoint once it is verified.
    pub async fn checkpoint_job(&self, job_id: &str) -> Result<pb::Checkpoint> {
        let request = pb::CheckpointJobRequest { job_id: job_id.to_owned() };
        let response = self
            .once("CheckpointJob", job_id, SAVE_TIMEOUT, request, |request| {
                let mut stub = self.job_stub();
                async move { stub.checkpoint_job(request).await }
            })
            .await?;
        response.checkpoint.ok_or_else(|| Error::contract("CheckpointJob", "no checkpoint in it"))
    }

    /// What a training job that succeeded left to look at.
    pub async fn get_report(&self, job_id: &str) -> Result<Vec<pb::ReportFile>> {
        let request = pb::GetReportRequest { job_id: job_id.to_owned() };
        let response = self
            .unary("GetReport", job_id, request, |request| {
                let mut stub = self.job_stub();
                async move { stub.get_report(request).await }
            })
            .await?;
        Ok(response.files)
    }

    /// Removes a job that has ended, its events and its checkpoints.
    pub async fn delete_job(&self, job_id: &str) -> Result<()> {
        let request = pb::DeleteJobRequest { job_id: job_id.to_owned() };
        self.removal("DeleteJob", job_id, request, |request| {
            let mut stub = self.job_stub();
            async move { stub.delete_job(request).await.map(drop) }
        })
        .await
    }

    /// A page of the checkpoints of a job, newest first.
    pub async fn list_checkpoints(&self, request: pb::ListCheckpointsRequest) -> Result<pb::ListCheckpointsResponse> {
        let job_id = request.job_id.clone();
        self.unary("ListCheckpoints", &job_id, request, |request| {
            let mut stub = self.job_stub();
            async move { stub.list_checkpoints(request).await }
        })
        .await
    }

    /// One checkpoint with its files.
    pub async fn get_checkpoint(&self, job_id: &str, checkpoint_id: &str) -> Result<pb::Checkpoint> {
        let object = format!("{job_id}/{checkpoint_id}");
        let request = pb::GetCheckpointRequest { job_id: job_id.to_owned(), checkpoint_id: checkpoint_id.to_owned() };
        let response = self
            .unary("GetCheckpoint", &object, request, |request| {
                let mut stub = self.job_stub();
                async move { stub.get_checkpoint(request).await }
            })
            .await?;
        response.checkpoint.ok_or_else(|| Error::contract("GetCheckpoint", "no checkpoint in it"))
    }

    /// Removes a checkpoint.
    pub async fn delete_checkpoint(&self, job_id: &str, checkpoint_id: &str) -> Result<()> {
        let object = format!("{job_id}/{checkpoint_id}");
        let request =
            pb::DeleteCheckpointRequest { job_id: job_id.to_owned(), checkpoint_id: checkpoint_id.to_owned() };
        self.removal("DeleteCheckpoint", &object, request, |request| {
            let mut stub = self.job_stub();
            async move { stub.delete_checkpoint(request).await.map(drop) }
        })
        .await
    }

    /// One dataset.
    pub async fn get_dataset(&self, dataset_id: &str) -> Result<pb::Dataset> {
        let request = pb::GetDatasetRequest { dataset_id: dataset_id.to_owned() };
        let response = self
            .unary("GetDataset", dataset_id, request, |request| {
                let mut stub = self.dataset_stub();
                async move { stub.get_dataset(request).await }
            })
            .await?;
        response.dataset.ok_or_else(|| Error::contract("GetDataset", "no dataset in it"))
    }

    /// A page of datasets, newest first.
    pub async fn list_datasets(&self, request: pb::ListDatasetsRequest) -> Result<pb::ListDatasetsResponse> {
        self.unary("ListDatasets", "", request, |request| {
            let mut stub = self.dataset_stub();
            async move { stub.list_datasets(request).await }
        })
        .await
    }

    /// Removes a dataset.
    pub async fn delete_dataset(&self, dataset_id: &str) -> Result<()> {
        let request = pb::DeleteDatasetRequest { dataset_id: dataset_id.to_owned() };
        self.removal("DeleteDataset", dataset_id, request, |request| {
            let mut stub = self.dataset_stub();
            async move { stub.delete_dataset(request).await.map(drop) }
        })
        .await
    }

    /// What a job would see of its data: counts per reason with row numbers, lengths, the first rows as trained on.
    pub async fn preview_dataset(&self, request: pb::PreviewDatasetRequest) -> Result<pb::PreviewDatasetResponse> {
        let limit = self.options.slow_call_timeout;
        self.bounded("PreviewDataset", "", limit, request, |request| {
            let mut stub = self.dataset_stub();
            async move { stub.preview_dataset(request).await }
        })
        .await
    }

    /// One model.
    pub async fn get_model(&self, model_id: &str) -> Result<pb::Model> {
        let request = pb::GetModelRequest { model_id: model_id.to_owned() };
        let response = self
            .unary("GetModel", model_id, request, |request| {
                let mut stub = self.model_stub();
                async move { stub.get_model(request).await }
            })
            .await?;
        response.model.ok_or_else(|| Error::contract("GetModel", "no model in it"))
    }

    /// A page of models, newest first.
    pub async fn list_models(&self, request: pb::ListModelsRequest) -> Result<pb::ListModelsResponse> {
        self.unary("ListModels", "", request, |request| {
            let mut stub = self.model_stub();
            async move { stub.list_models(request).await }
        })
        .await
    }

    /// Removes a model.
    pub async fn delete_model(&self, model_id: &str) -> Result<()> {
        let request = pb::DeleteModelRequest { model_id: model_id.to_owned() };
        self.removal("DeleteModel", model_id, request, |request| {
            let mut stub = self.model_stub();
            async move { stub.delete_model(request).await.map(drop) }
        })
        .await
    }
}

/// How calls are made.
impl Client {
    pub(crate) fn job_stub(&self) -> JobServiceClient<Wire> {
        JobServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    pub(crate) fn dataset_stub(&self) -> DatasetServiceClient<Wire> {
        DatasetServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    pub(crate) fn model_stub(&self) -> ModelServiceClient<Wire> {
        ModelServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    pub(crate) fn generation_stub(&self) -> GenerationServiceClient<Wire> {
        GenerationServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    fn system_stub(&self) -> SystemServiceClient<Wire> {
        SystemServiceClient::new(self.wire.clone()).max_decoding_message_size(self.options.max_receive_bytes)
    }

    async fn unary<Req, Res, F, Fut>(&self, call: &'static str, object: &str, request: Req, send: F) -> Result<Res>
    where
        Req: Clone,
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        self.bounded(call, object, self.options.call_timeout, request, send).await
    }

    /// A call that is not repeated: a second one may mean something else by then.
    async fn once<Req, Res, F, Fut>(
        &self,
        call: &'static str,
        object: &str,
        limit: Duration,
        request: Req,
        send: F,
    ) -> Result<Res>
    where
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        attempt(call, object, limit, request, &send).await
    }

    pub(crate) async fn bounded<Req, Res, F, Fut>(
        &self,
        call: &'static str,
        object: &str,
        limit: Duration,
        request: Req,
        send: F,
    ) -> Result<Res>
    where
        Req: Clone,
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        with_retry(&self.options.retry, |_| attempt(call, object, limit, request.clone(), &send)).await
    }

    /// A removal whose first answer was lost finds nothing the second time; that is what was asked for.
    async fn removal<Req, F, Fut>(&self, call: &'static str, object: &str, request: Req, send: F) -> Result<()>
    where
        Req: Clone,
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<(), Status>>,
    {
        let limit = self.options.call_timeout;
        let send = |request| {
            let sent = send(request);
            async move { sent.await.map(Response::new) }
        };
        with_retry(&self.options.retry, |number| {
            let removing = attempt(call, object, limit, request.clone(), &send);
            async move {
                match removing.await {
                    Err(error) if number > 1 && error.code() == Some(Code::NotFound) => Ok(()),
                    other => other,
                }
            }
        })
        .await
    }
}

/// One attempt of a unary call. The deadline goes with the request, and is kept here whether the server keeps it or not.
async fn attempt<Req, Res, F, Fut>(
    call: &'static str,
    object: &str,
    limit: Duration,
    request: Req,
    send: &F,
) -> Result<Res>
where
    F: Fn(Request<Req>) -> Fut,
    Fut: Future<Output = Result<Response<Res>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(limit);
    match tokio::time::timeout(limit, send(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(RpcError::new(call, object, &status).into()),
        Err(_) => Err(RpcError::timed_out(call, object, limit).into()),
    }
}
