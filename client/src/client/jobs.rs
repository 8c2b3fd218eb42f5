//! Calls about jobs.

use hone_proto::v1 as pb;

use super::Client;
use crate::error::{Error, Result};
use crate::job::JobHandle;

impl Client {
    /// Creates a job. Safe against lost answers: every attempt carries the same request id.
    ///
    /// ```no_run
    /// use hone_client::spec::{Data, Job, Sft};
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let spec = Job::new("model-…", Sft::new(Data::new(["ds-…"]))).build()?;
    /// let job = client.create_job(spec).await?;
    /// println!("{}", job.id());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_job(&self, spec: pb::JobSpec) -> Result<JobHandle> {
        let request_id = uuid::Uuid::new_v4().to_string();
        let job = self.send_create(pb::CreateJobRequest { spec: Some(spec), request_id, validate_only: false }).await?;
        Ok(self.job(job.job_id))
    }

    /// Creates a job under a request id of the caller, so that a restarted pipeline finds the job it made before.
    ///
    /// ```no_run
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// # let spec = v1::JobSpec::default();
    /// // However often the pipeline is started today, there is one job.
    /// let job = client.create_job_once("nightly-2026-11-28", spec).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_job_once(&self, request_id: impl Into<String>, spec: pb::JobSpec) -> Result<JobHandle> {
        let request_id = request_id.into();
        let job = self.send_create(pb::CreateJobRequest { spec: Some(spec), request_id, validate_only: false }).await?;
        Ok(self.job(job.job_id))
    }

    /// Checks a spec as creation would and gives it back with every default filled in. Creates nothing.
    ///
    /// ```no_run
    /// use hone_client::spec::{Data, Job, Sft};
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let spec = Job::new("model-…", Sft::new(Data::new(["ds-…"]))).build()?;
    /// println!("{:#?}", client.validate_job(spec).await?);
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let job = client.get_job("job-0123456789abcdef0123456789abcdef").await?;
    /// println!("{:?}: {}", job.state(), job.state_detail);
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let running = v1::ListJobsRequest { states: vec![v1::JobState::Running.into()], ..Default::default() };
    /// for job in client.list_jobs(running).await?.jobs {
    ///     println!("{}", job.job_id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_jobs(&self, request: pb::ListJobsRequest) -> Result<pb::ListJobsResponse> {
        self.unary("ListJobs", "", request, |request| {
            let mut stub = self.job_stub();
            async move { stub.list_jobs(request).await }
        })
        .await
    }

    /// Asks a job to stop for good; a running one finishes its step and saves first. Cancelling twice is no error.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let job = client.cancel_job("job-0123456789abcdef0123456789abcdef").await?;
    /// println!("{:?}", job.state());
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let job_id = "job-0123456789abcdef0123456789abcdef";
    /// client.pause_job(job_id).await?;
    /// client.resume_job(job_id, None).await?;
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// use hone_client::spec::{Job, Sft};
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// // The same job, but longer.
    /// let job = client.get_job("job-0123456789abcdef0123456789abcdef").await?;
    /// let mut spec = job.spec.unwrap_or_default();
    /// if let Some(v1::job_spec::Task::Sft(task)) = spec.task.take() {
    ///     spec.task = Some(Sft::from(task).epochs(3.0).into());
    ///     client.resume_job(&job.job_id, Some(Job::from(spec).build()?)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
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

    /// What a training job that succeeded left to look at.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// for file in client.get_report("job-0123456789abcdef0123456789abcdef").await? {
    ///     std::fs::write(&file.name, &file.data).expect("this folder can be written");
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// client.delete_job("job-0123456789abcdef0123456789abcdef").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_job(&self, job_id: &str) -> Result<()> {
        let request = pb::DeleteJobRequest { job_id: job_id.to_owned() };
        self.removal("DeleteJob", job_id, request, |request| {
            let mut stub = self.job_stub();
            async move { stub.delete_job(request).await.map(drop) }
        })
        .await
    }
}
