//! The SDK for programs that are not asynchronous: the same types under the same names, whose calls return when they are done.
//!
//! ```no_run
//! use hone_client::blocking::Client;
//! use hone_client::spec::{Data, Job, Sft};
//!
//! # fn example() -> hone_client::Result<()> {
//! let client = Client::connect("http://127.0.0.1:7400")?;
//! let rows = client.upload_dataset("conversations.jsonl")?;
//! let job = client.create_job(Job::new("model-…", Sft::new(Data::new([rows.dataset_id]))).build()?)?;
//! for event in job.watch() {
//!     println!("{:?}", event?.event);
//! }
//! println!("{:?}", job.wait()?.outcome);
//! # Ok(())
//! # }
//! ```
//!
//! A client owns a runtime with one thread, which its clones, jobs and streams share and the last of them ends; between calls it
//! keeps the connection alive.
//!
//! # Panics
//!
//! Within an asynchronous program every call panics, as [`tokio::runtime::Runtime::block_on`] does: use
//! [`hone_client::Client`](crate::Client) there.

use std::path::Path;
use std::sync::Arc;

use futures::stream::{Stream, StreamExt};
use hone_proto::v1 as pb;
use tokio::runtime::Runtime;

use crate::error::{Error, Result};
use crate::job::Finished;
use crate::options::ConnectOptions;
use crate::transfer::Progress;
use crate::watch::Update;

/// Told of every chunk.
type OnProgress<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// A connection to a hone server; see [`hone_client::Client`](crate::Client).
#[derive(Debug, Clone)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// As [`Client::connect`](crate::Client::connect).
    pub fn connect(options: impl Into<ConnectOptions>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Arc::new(runtime.map_err(Error::Runtime)?);
        let client = runtime.block_on(crate::Client::connect(options))?;
        Ok(Self { client, runtime })
    }

    /// As [`Client::options`](crate::Client::options).
    pub fn options(&self) -> &ConnectOptions {
        self.client.options()
    }

    /// As [`Client::job`](crate::Client::job).
    pub fn job(&self, job_id: impl Into<String>) -> JobHandle {
        self.handle(self.client.job(job_id))
    }

    /// As [`Client::create_job`](crate::Client::create_job).
    pub fn create_job(&self, spec: pb::JobSpec) -> Result<JobHandle> {
        self.runtime.block_on(self.client.create_job(spec)).map(|job| self.handle(job))
    }

    /// As [`Client::create_job_once`](crate::Client::create_job_once).
    pub fn create_job_once(&self, request_id: impl Into<String>, spec: pb::JobSpec) -> Result<JobHandle> {
        self.runtime.block_on(self.client.create_job_once(request_id, spec)).map(|job| self.handle(job))
    }

    /// As [`Client::generate`](crate::Client::generate).
    pub fn generate(&self, request: pb::GenerateRequest) -> Result<Generation> {
        let generation = self.runtime.block_on(self.client.generate(request))?;
        Ok(Generation { generation, runtime: self.runtime.clone() })
    }

    /// As [`Client::server_info`](crate::Client::server_info).
    pub fn server_info(&self) -> Result<pb::GetServerInfoResponse> {
        self.runtime.block_on(self.client.server_info())
    }

    /// As [`Client::validate_job`](crate::Client::validate_job).
    pub fn validate_job(&self, spec: pb::JobSpec) -> Result<pb::JobSpec> {
        self.runtime.block_on(self.client.validate_job(spec))
    }

    /// As [`Client::get_job`](crate::Client::get_job).
    pub fn get_job(&self, job_id: &str) -> Result<pb::Job> {
        self.runtime.block_on(self.client.get_job(job_id))
    }

    /// As [`Client::list_jobs`](crate::Client::list_jobs).
    pub fn list_jobs(&self, request: pb::ListJobsRequest) -> Result<pb::ListJobsResponse> {
        self.runtime.block_on(self.client.list_jobs(request))
    }

    /// As [`Client::cancel_job`](crate::Client::cancel_job).
    pub fn cancel_job(&self, job_id: &str) -> Result<pb::Job> {
        self.runtime.block_on(self.client.cancel_job(job_id))
    }

    /// As [`Client::pause_job`](crate::Client::pause_job).
    pub fn pause_job(&self, job_id: &str) -> Result<pb::Job> {
        self.runtime.block_on(self.client.pause_job(job_id))
    }

    /// As [`Client::resume_job`](crate::Client::resume_job).
    pub fn resume_job(&self, job_id: &str, spec: Option<pb::JobSpec>) -> Result<pb::Job> {
        self.runtime.block_on(self.client.resume_job(job_id, spec))
    }

    /// As [`Client::checkpoint_job`](crate::Client::checkpoint_job).
    pub fn checkpoint_job(&self, job_id: &str) -> Result<pb::Checkpoint> {
        self.runtime.block_on(self.client.checkpoint_job(job_id))
    }

    /// As [`Client::get_report`](crate::Client::get_report).
    pub fn get_report(&self, job_id: &str) -> Result<Vec<pb::ReportFile>> {
        self.runtime.block_on(self.client.get_report(job_id))
    }

    /// As [`Client::delete_job`](crate::Client::delete_job).
    pub fn delete_job(&self, job_id: &str) -> Result<()> {
        self.runtime.block_on(self.client.delete_job(job_id))
    }

    /// As [`Client::list_checkpoints`](crate::Client::list_checkpoints).
    pub fn list_checkpoints(&self, request: pb::ListCheckpointsRequest) -> Result<pb::ListCheckpointsResponse> {
        self.runtime.block_on(self.client.list_checkpoints(request))
    }

    /// As [`Client::get_checkpoint`](crate::Client::get_checkpoint).
    pub fn get_checkpoint(&self, job_id: &str, checkpoint_id: &str) -> Result<pb::Checkpoint> {
        self.runtime.block_on(self.client.get_checkpoint(job_id, checkpoint_id))
    }

    /// As [`Client::delete_checkpoint`](crate::Client::delete_checkpoint).
    pub fn delete_checkpoint(&self, job_id: &str, checkpoint_id: &str) -> Result<()> {
        self.runtime.block_on(self.client.delete_checkpoint(job_id, checkpoint_id))
    }

    /// As [`Client::get_dataset`](crate::Client::get_dataset).
    pub fn get_dataset(&self, dataset_id: &str) -> Result<pb::Dataset> {
        self.runtime.block_on(self.client.get_dataset(dataset_id))
    }

    /// As [`Client::list_datasets`](crate::Client::list_datasets).
    pub fn list_datasets(&self, request: pb::ListDatasetsRequest) -> Result<pb::ListDatasetsResponse> {
        self.runtime.block_on(self.client.list_datasets(request))
    }

    /// As [`Client::delete_dataset`](crate::Client::delete_dataset).
    pub fn delete_dataset(&self, dataset_id: &str) -> Result<()> {
        self.runtime.block_on(self.client.delete_dataset(dataset_id))
    }

    /// As [`Client::preview_dataset`](crate::Client::preview_dataset).
    pub fn preview_dataset(&self, request: pb::PreviewDatasetRequest) -> Result<pb::PreviewDatasetResponse> {
        self.runtime.block_on(self.client.preview_dataset(request))
    }

    /// As [`Client::upload_dataset`](crate::Client::upload_dataset).
    pub fn upload_dataset(&self, path: impl AsRef<Path>) -> Result<pb::Dataset> {
        self.runtime.block_on(self.client.upload_dataset(path))
    }

    /// As [`Client::upload_dataset_with`](crate::Client::upload_dataset_with).
    pub fn upload_dataset_with(&self, path: impl AsRef<Path>, progress: OnProgress<'_>) -> Result<pb::Dataset> {
        self.runtime.block_on(self.client.upload_dataset_with(path, progress))
    }

    /// As [`Client::find_dataset`](crate::Client::find_dataset).
    pub fn find_dataset(&self, path: impl AsRef<Path>) -> Result<Option<pb::Dataset>> {
        self.runtime.block_on(self.client.find_dataset(path))
    }

    /// As [`Client::get_model`](crate::Client::get_model).
    pub fn get_model(&self, model_id: &str) -> Result<pb::Model> {
        self.runtime.block_on(self.client.get_model(model_id))
    }

    /// As [`Client::list_models`](crate::Client::list_models).
    pub fn list_models(&self, request: pb::ListModelsRequest) -> Result<pb::ListModelsResponse> {
        self.runtime.block_on(self.client.list_models(request))
    }

    /// As [`Client::delete_model`](crate::Client::delete_model).
    pub fn delete_model(&self, model_id: &str) -> Result<()> {
        self.runtime.block_on(self.client.delete_model(model_id))
    }

    /// As [`Client::upload_model`](crate::Client::upload_model).
    pub fn upload_model(&self, path: impl AsRef<Path>, display_name: &str) -> Result<pb::Model> {
        self.runtime.block_on(self.client.upload_model(path, display_name))
    }

    /// As [`Client::upload_model_with`](crate::Client::upload_model_with).
    pub fn upload_model_with(
        &self,
        path: impl AsRef<Path>,
        display_name: &str,
        progress: OnProgress<'_>,
    ) -> Result<pb::Model> {
        self.runtime.block_on(self.client.upload_model_with(path, display_name, progress))
    }

    /// As [`Client::find_model`](crate::Client::find_model).
    pub fn find_model(&self, path: impl AsRef<Path>) -> Result<Option<pb::Model>> {
        self.runtime.block_on(self.client.find_model(path))
    }

    fn handle(&self, job: crate::JobHandle) -> JobHandle {
        JobHandle { job, runtime: self.runtime.clone() }
    }
}

/// A job of a server; see [`hone_client::JobHandle`](crate::JobHandle).
#[derive(Debug, Clone)]
pub struct JobHandle {
    job: crate::JobHandle,
    runtime: Arc<Runtime>,
}

impl JobHandle {
    /// As [`JobHandle::id`](crate::JobHandle::id).
    pub fn id(&self) -> &str {
        self.job.id()
    }

    /// As [`JobHandle::watch`](crate::JobHandle::watch).
    pub fn watch(&self) -> Items<Result<pb::JobEvent>> {
        self.items(self.job.watch())
    }

    /// As [`JobHandle::watch_after`](crate::JobHandle::watch_after).
    pub fn watch_after(&self, sequence: u64) -> Items<Result<pb::JobEvent>> {
        self.items(self.job.watch_after(sequence))
    }

    /// As [`JobHandle::updates_after`](crate::JobHandle::updates_after).
    pub fn updates_after(&self, sequence: u64) -> Items<Result<Update>> {
        self.items(self.job.updates_after(sequence))
    }

    /// As [`JobHandle::get`](crate::JobHandle::get).
    pub fn get(&self) -> Result<pb::Job> {
        self.runtime.block_on(self.job.get())
    }

    /// As [`JobHandle::events_so_far`](crate::JobHandle::events_so_far).
    pub fn events_so_far(&self, sequence: u64) -> Result<Vec<pb::JobEvent>> {
        self.runtime.block_on(self.job.events_so_far(sequence))
    }

    /// As [`JobHandle::wait`](crate::JobHandle::wait).
    pub fn wait(&self) -> Result<Finished> {
        self.runtime.block_on(self.job.wait())
    }

    /// As [`JobHandle::cancel`](crate::JobHandle::cancel).
    pub fn cancel(&self) -> Result<pb::Job> {
        self.runtime.block_on(self.job.cancel())
    }

    /// As [`JobHandle::pause`](crate::JobHandle::pause).
    pub fn pause(&self) -> Result<pb::Job> {
        self.runtime.block_on(self.job.pause())
    }

    /// As [`JobHandle::resume`](crate::JobHandle::resume).
    pub fn resume(&self) -> Result<pb::Job> {
        self.runtime.block_on(self.job.resume())
    }

    /// As [`JobHandle::resume_with`](crate::JobHandle::resume_with).
    pub fn resume_with(&self, spec: pb::JobSpec) -> Result<pb::Job> {
        self.runtime.block_on(self.job.resume_with(spec))
    }

    /// As [`JobHandle::save_now`](crate::JobHandle::save_now).
    pub fn save_now(&self) -> Result<pb::Checkpoint> {
        self.runtime.block_on(self.job.save_now())
    }

    /// As [`JobHandle::delete`](crate::JobHandle::delete).
    pub fn delete(&self) -> Result<()> {
        self.runtime.block_on(self.job.delete())
    }

    /// As [`JobHandle::report`](crate::JobHandle::report).
    pub fn report(&self) -> Result<Vec<pb::ReportFile>> {
        self.runtime.block_on(self.job.report())
    }

    /// As [`JobHandle::checkpoints`](crate::JobHandle::checkpoints).
    pub fn checkpoints(&self) -> Result<Vec<pb::Checkpoint>> {
        self.runtime.block_on(self.job.checkpoints())
    }

    /// As [`JobHandle::best_checkpoint`](crate::JobHandle::best_checkpoint).
    pub fn best_checkpoint(&self) -> Result<Option<pb::Checkpoint>> {
        self.runtime.block_on(self.job.best_checkpoint())
    }

    /// As [`JobHandle::last_checkpoint`](crate::JobHandle::last_checkpoint).
    pub fn last_checkpoint(&self) -> Result<pb::Checkpoint> {
        self.runtime.block_on(self.job.last_checkpoint())
    }

    /// As [`JobHandle::download`](crate::JobHandle::download).
    pub fn download(&self, checkpoint_id: &str, target: impl AsRef<Path>) -> Result<pb::Checkpoint> {
        self.runtime.block_on(self.job.download(checkpoint_id, target))
    }

    /// As [`JobHandle::download_with`](crate::JobHandle::download_with).
    pub fn download_with(
        &self,
        checkpoint_id: &str,
        target: impl AsRef<Path>,
        progress: OnProgress<'_>,
    ) -> Result<pb::Checkpoint> {
        self.runtime.block_on(self.job.download_with(checkpoint_id, target, progress))
    }

    fn items<T>(&self, stream: impl Stream<Item = T> + Send + 'static) -> Items<T> {
        Items { stream: stream.boxed(), runtime: self.runtime.clone() }
    }
}

/// What a stream gives, one after the other; each waits for the next.
pub struct Items<T> {
    stream: futures::stream::BoxStream<'static, T>,
    runtime: Arc<Runtime>,
}

impl<T> Iterator for Items<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.runtime.block_on(self.stream.next())
    }
}

impl<T> std::fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Items")
    }
}

/// An answer on its way: its pieces, of which the last has `finished`; see [`hone_client::Generation`](crate::Generation).
#[derive(Debug)]
pub struct Generation {
    generation: crate::Generation,
    runtime: Arc<Runtime>,
}

impl Generation {
    /// As [`Generation::text`](crate::Generation::text).
    pub fn text(self) -> Result<String> {
        self.runtime.block_on(self.generation.text())
    }
}

impl Iterator for Generation {
    type Item = Result<pb::GenerateResponse>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.generation.next())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Names of public functions in sources.
    fn functions(sources: &[&str], keyword: &str) -> BTreeSet<String> {
        let lines = sources.iter().flat_map(|source| source.lines());
        let named = lines.filter_map(|line| line.strip_prefix("    pub ")?.strip_prefix(keyword));
        named.filter_map(|rest| rest.split(['(', '<']).next()).map(str::to_owned).collect()
    }

    #[test]
    fn everything_that_waits_has_its_like_here() {
        let asynchronous = [
            include_str!("client.rs"),
            include_str!("client/checkpoints.rs"),
            include_str!("client/datasets.rs"),
            include_str!("client/jobs.rs"),
            include_str!("client/models.rs"),
            include_str!("generation.rs"),
            include_str!("job.rs"),
            include_str!("transfer/stored.rs"),
            include_str!("transfer/upload.rs"),
        ];
        let waiting = functions(&asynchronous, "async fn ");
        let here = functions(&[include_str!("blocking.rs")], "fn ");
        assert!(waiting.len() > 30, "{waiting:?}");
        let missing: Vec<_> = waiting.difference(&here).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
