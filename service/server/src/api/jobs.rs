//! JobService.

use std::sync::Arc;

use hone_job::event::{Event, Warning};
use hone_job::id::Kind;
use hone_job::spec::Violation;
use hone_job::state::State;
use hone_proto::v1 as pb;
use hone_proto::v1::job_service_server::JobService;
use hone_telemetry::TraceContext;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::download::{self, Stretch};
use super::gate::caller;
use super::inputs::Inputs;
use super::page::Page;
use super::report::Reports;
use super::status::Problem;
use super::watch::{self, Watches};
use super::{convert, traced};
use crate::attempts::{Attempts, Wish};
use crate::caller::Caller;
use crate::checkpoints::{Checkpoint, Checkpoints};
use crate::jobs::Jobs;
use crate::logs::Logs;
use crate::record::{Change, JobRecord};
use crate::scheduler::sha256;
use crate::store::{self, JobLimits, JobQuery};

/// Longest request id, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

pub(super) struct JobApi {
    pub(super) jobs: Arc<Jobs>,
    pub(super) attempts: Arc<Attempts>,
    pub(super) checkpoints: Checkpoints,
    pub(super) watches: Arc<Watches>,
    pub(super) logs: Logs,
    pub(super) inputs: Inputs,
    pub(super) reports: Reports,
    pub(super) max_queued_jobs: u32,
    pub(super) stopping: CancellationToken,
}

#[tonic::async_trait]
impl JobService for JobApi {
    async fn create_job(
        &self,
        request: Request<pb::CreateJobRequest>,
    ) -> Result<Response<pb::CreateJobResponse>, Status> {
        let (caller, trace) = (caller(&request)?, traced::of(&request));
        let job = self.create(caller, trace, request.into_inner()).await?;
        Ok(Response::new(pb::CreateJobResponse { job: Some(job) }))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::GetJobResponse>, Status> {
        let job = self.job(&caller(&request)?, &request.into_inner().job_id).await?;
        Ok(Response::new(pb::GetJobResponse { job: Some(convert::job(job)) }))
    }

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }

    type WatchJobStream = watch::Events;

    async fn watch_job(&self, request: Request<pb::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let caller = caller(&request)?;
        let pb::WatchJobRequest { job_id, after_sequence } = request.into_inner();
        self.job(&caller, &job_id).await?;
        Ok(Response::new(self.watches.clone().events(job_id, after_sequence)))
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let caller = caller(&request)?;
        let job_id = request.into_inner().job_id;
        self.job(&caller, &job_id).await?;
        let job = self.jobs.change(&job_id, Change::CancelRequested).await.map_err(Problem::from)?;
        if let Some(attempt) = self.attempts.get(&job_id) {
            attempt.wish(Wish::Cancel);
        }
        Ok(Response::new(pb::CancelJobResponse { job: Some(convert::job(job)) }))
    }

    async fn pause_job(&self, request: Request<pb::PauseJobRequest>) -> Result<Response<pb::PauseJobResponse>, Status> {
        let caller = caller(&request)?;
        let job_id = request.into_inner().job_id;
        self.job(&caller, &job_id).await?;
        let job = self.jobs.change(&job_id, Change::PauseRequested).await.map_err(Problem::from)?;
        if let Some(attempt) = self.attempts.get(&job_id) {
            attempt.wish(Wish::Pause);
        }
        Ok(Response::new(pb::PauseJobResponse { job: Some(convert::job(job)) }))
    }

    async fn resume_job(
        &self,
        request: Request<pb::ResumeJobRequest>,
    ) -> Result<Response<pb::ResumeJobResponse>, Status> {
        let caller = caller(&request)?;
        let job = self.resume(&caller, request.into_inner()).await?;
        Ok(Response::new(pb::ResumeJobResponse { job: Some(convert::job(job)) }))
    }

    async fn checkpoint_job(
        &self,
        request: Request<pb::CheckpointJobRequest>,
    ) -> Result<Response<pb::CheckpointJobResponse>, Status> {
        let caller = caller(&request)?;
        let job_id = request.into_inner().job_id;
        let checkpoint_id = self.save_now(&caller, &job_id).await?;
        let found = self.checkpoints.get(&job_id, &checkpoint_id).await.map_err(Problem::from)?;
        Ok(Response::new(pb::CheckpointJobResponse { checkpoint: Some(checkpoint(found)) }))
    }

    async fn delete_job(
        &self,
        request: Request<pb::DeleteJobRequest>,
    ) -> Result<Response<pb::DeleteJobResponse>, Status> {
        let caller = caller(&request)?;
        self.delete(&caller, &request.into_inner().job_id).await?;
        Ok(Response::new(pb::DeleteJobResponse {}))
    }

    async fn list_checkpoints(
        &self,
        request: Request<pb::ListCheckpointsRequest>,
    ) -> Result<Response<pb::ListCheckpointsResponse>, Status> {
        let caller = caller(&request)?;
        let pb::ListCheckpointsRequest { job_id, page_size, page_token } = request.into_inner();
        let page = Page::new(page_size, &page_token, &job_id)?;
        self.job(&caller, &job_id).await?;
        let found = self.checkpoints.list(&job_id, page.before, page.limit()).await.map_err(Problem::from)?;
        let (found, next_page_token) = page.cut(found, |found| found.step, |found| 200 * found.manifest.files.len());
        let checkpoints = found.into_iter().map(checkpoint).collect();
        Ok(Response::new(pb::ListCheckpointsResponse { checkpoints, next_page_token }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<pb::GetCheckpointResponse>, Status> {
        let caller = caller(&request)?;
        let pb::GetCheckpointRequest { job_id, checkpoint_id } = request.into_inner();
        self.job(&caller, &job_id).await?;
        let found = self.checkpoints.get(&job_id, &checkpoint_id).await.map_err(Problem::from)?;
        Ok(Response::new(pb::GetCheckpointResponse { checkpoint: Some(checkpoint(found)) }))
    }

    async fn delete_checkpoint(
        &self,
        request: Request<pb::DeleteCheckpointRequest>,
    ) -> Result<Response<pb::DeleteCheckpointResponse>, Status> {
        let caller = caller(&request)?;
        let pb::DeleteCheckpointRequest { job_id, checkpoint_id } = request.into_inner();
        let job = self.job(&caller, &job_id).await?;
        // Another attempt would go on from it.
        if !job.state.is_final() && job.last_checkpoint.trim_end_matches('/').ends_with(&format!("/{checkpoint_id}")) {
            let message = format!("{checkpoint_id} is the last checkpoint of {job_id}, which has not ended");
            return Err(Problem::new(Code::FailedPrecondition, "IN_USE", message).into());
        }
        self.checkpoints.delete(&job_id, &checkpoint_id).await.map_err(Problem::from)?;
        Ok(Response::new(pb::DeleteCheckpointResponse {}))
    }

    type DownloadCheckpointStream = download::Chunks;

    async fn download_checkpoint(
        &self,
        request: Request<pb::DownloadCheckpointRequest>,
    ) -> Result<Response<Self::DownloadCheckpointStream>, Status> {
        let caller = caller(&request)?;
        let pb::DownloadCheckpointRequest { job_id, checkpoint_id, file_name, offset, length } = request.into_inner();
        self.job(&caller, &job_id).await?;
        let found = match checkpoint_id.as_str() {
            "" => self.checkpoints.last(&job_id).await,
            id => self.checkpoints.get(&job_id, id).await,
        };
        let found = found.map_err(Problem::from)?;
        let stretch = Stretch { file_name, offset, length };
        Ok(Response::new(download::chunks(found, stretch)?))
    }

    async fn get_report(
        &self,
        request: Request<pb::GetReportRequest>,
    ) -> Result<Response<pb::GetReportResponse>, Status> {
        let caller = caller(&request)?;
        let job = self.job(&caller, &request.into_inner().job_id).await?;
        Ok(Response::new(pb::GetReportResponse { files: self.reports.get(&job.job_id).await? }))
    }
}

impl JobApi {
    /// One job, if the caller may see it; one that he may not see does not exist for him.
    async fn job(&self, caller: &Caller, job_id: &str) -> Result<JobRecord, Problem> {
        check_id(job_id)?;
        let job = self.jobs.get(job_id).await?;
        if caller.sees(&job.project) { Ok(job) } else { Err(Problem::not_found("job", job_id)) }
    }

    async fn create(
        &self,
        caller: Caller,
        trace: TraceContext,
        request: pb::CreateJobRequest,
    ) -> Result<pb::Job, Problem> {
        let (spec, mut violations) = convert::job_spec(request.spec);
        if request.request_id.len() > MAX_REQUEST_ID_BYTES {
            violations.push(Violation::new("request_id", format!("must be at most {MAX_REQUEST_ID_BYTES} bytes")));
        }
        // The effective spec: it is the same for the same request, and its JSON is in one order.
        let body = serde_json::to_string(&spec).map_err(|error| Problem::internal(error.to_string()))?;
        let request_id = Some(request.request_id).filter(|id| !id.is_empty());
        let repeated =
            request_id.map(|id| store::Request { project: caller.project.clone(), id, body_sha256: sha256(&body) });
        // Looked up before the inputs are: a repeat is answered even when what it names is gone by now.
        if let Some(repeated) = repeated.as_ref().filter(|_| violations.is_empty())
            && let Some(made) = self.jobs.of_request(repeated).await?
        {
            return Ok(convert::job(made));
        }
        let prefix = format!("{}.", spec.task.path());
        let inputs = self
            .inputs
            .check(&caller, &spec, "spec.base_model.uri", &prefix, violations, Code::InvalidArgument)
            .await?;
        if request.validate_only {
            let (record, _) = JobRecord::new(String::new(), caller.project, spec, String::new(), self.jobs.now());
            return Ok(pb::Job { create_time: None, last_sequence: 0, ..convert::job(record) });
        }
        let limits = JobLimits { max_queued: self.max_queued_jobs, max_of_project: caller.limits.max_jobs };
        let job = self.jobs.create(caller.project, spec, repeated, inputs, limits, trace.to_string()).await?;
        Ok(convert::job(job))
    }

    async fn resume(&self, caller: &Caller, request: pb::ResumeJobRequest) -> Result<JobRecord, Problem> {
        let job = self.job(caller, &request.job_id).await?;
        let spec = match request.spec {
            None => None,
            Some(spec) => {
                let (spec, mut violations) = convert::job_spec(Some(spec));
                violations.extend(job.spec.refused_on_resume(&spec));
                if !violations.is_empty() {
                    return Err(Problem::invalid(violations));
                }
                Some(Box::new(spec))
            }
        };
        Ok(self.jobs.change(&job.job_id, Change::ResumeRequested { spec }).await?)
    }

    /// Has the trainer save, and waits for the word that it has. Gives the checkpoint's id.
    async fn save_now(&self, caller: &Caller, job_id: &str) -> Result<String, Problem> {
        check_id(job_id)?;
        let mut news = self.jobs.subscribe(job_id);
        let job = self.job(caller, job_id).await?;
        let attempt = self.attempts.get(job_id).filter(|_| job.state == State::Running);
        let Some(attempt) = attempt else {
            let message = format!("{job_id} is {}; only a running job can save", job.state);
            return Err(Problem::new(Code::FailedPrecondition, "WRONG_STATE", message));
        };
        attempt.want_checkpoint();
        let mut after = job.last_sequence;
        loop {
            for event in self.jobs.events(job_id, after).await? {
                after = event.sequence;
                if let Some(answer) = answer_to_save(job_id, &job, &event.event) {
                    return answer;
                }
            }
            tokio::select! {
                changed = news.changed() => changed.map_err(|_| Problem::not_found("job", job_id))?,
                () = self.stopping.cancelled() => return Err(Problem::stopping()),
            }
        }
    }

    async fn list(&self, caller: &Caller, request: pb::ListJobsRequest) -> Result<pb::ListJobsResponse, Problem> {
        let mut states = convert::states(&request.states).map_err(|violation| Problem::invalid(vec![violation]))?;
        states.sort_by_key(|state| state.to_string());
        states.dedup();
        let mut labels: Vec<(String, String)> = request.labels.into_iter().collect();
        labels.sort();
        let page = Page::new(request.page_size, &request.page_token, &format!("{states:?} {labels:?}"))?;
        let query =
            JobQuery { project: caller.only_project(), states, labels, before: page.before, limit: page.limit() };
        let found = self.jobs.list(query).await?;
        let found: Vec<(u64, pb::Job)> = found.into_iter().map(|job| (job.ordinal, convert::job(job))).collect();
        let (found, next_page_token) = page.cut(found, |(ordinal, _)| *ordinal, |(_, job)| job.encoded_len());
        Ok(pb::ListJobsResponse { jobs: found.into_iter().map(|(_, job)| job).collect(), next_page_token })
    }

    /// The checkpoints first: should that fail halfway, the job is still there to be deleted again.
    async fn delete(&self, caller: &Caller, job_id: &str) -> Result<(), Problem> {
        let job = self.job(caller, job_id).await?;
        if !job.state.is_final() {
            return Err(store::Error::NotFinal { job_id: job.job_id, state: job.state }.into());
        }
        self.checkpoints.delete_job(job_id).await?;
        self.jobs.delete(job_id).await?;
        self.logs.remove(job_id);
        Ok(())
    }
}

/// What an event means to someone who waits for a checkpoint of a job that stood as `job` says.
fn answer_to_save(job_id: &str, job: &JobRecord, event: &Event) -> Option<Result<String, Problem>> {
    let lost = |message: String| Some(Err(Problem::new(Code::Aborted, "CHECKPOINT_NOT_SAVED", message)));
    match event {
        Event::CheckpointSaved(saved) if saved.step >= job.step => Some(Ok(saved.checkpoint_id.clone())),
        Event::Warning(warning) if warning.code == Warning::CHECKPOINT_NOT_SAVED => lost(warning.message.clone()),
        Event::StateChanged(change) if !change.to.has_attempt() => {
            lost(format!("{job_id} is {} before it has saved: {}", change.to, change.detail))
        }
        _ => None,
    }
}

/// An id of another shape names no job; it is never looked for.
fn check_id(job_id: &str) -> Result<(), Problem> {
    match job_id {
        "" => Err(Problem::field("job_id", "is required")),
        id if Kind::Job.matches(id) => Ok(()),
        id => Err(Problem::not_found("job", id)),
    }
}

fn checkpoint(found: Checkpoint) -> pb::Checkpoint {
    convert::checkpoint(found.checkpoint_id, found.folder.uri, found.manifest)
}
