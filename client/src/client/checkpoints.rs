//! Calls about checkpoints.

use std::time::Duration;

use hone_proto::v1 as pb;

use super::Client;
use crate::error::{Error, Result};

/// Longest time that a running job may take to save when it is asked to: its step and its upload come first.
const SAVE_TIMEOUT: Duration = Duration::from_secs(600);

impl Client {
    /// Has a running job save now, and gives the checkpoint once it is verified, which may take 10 minutes. Not repeated by itself
    /// when the answer is lost.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let checkpoint = client.checkpoint_job("job-0123456789abcdef0123456789abcdef").await?;
    /// println!("{} lies at {}", checkpoint.checkpoint_id, checkpoint.uri);
    /// # Ok(())
    /// # }
    /// ```
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

    /// A page of the checkpoints of a job, newest first.
    ///
    /// ```no_run
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let job_id = "job-0123456789abcdef0123456789abcdef".to_owned();
    /// let request = v1::ListCheckpointsRequest { job_id, page_size: 10, ..Default::default() };
    /// for checkpoint in client.list_checkpoints(request).await?.checkpoints {
    ///     println!("{} {:?}", checkpoint.checkpoint_id, checkpoint.eval_loss);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_checkpoints(&self, request: pb::ListCheckpointsRequest) -> Result<pb::ListCheckpointsResponse> {
        let job_id = request.job_id.clone();
        self.unary("ListCheckpoints", &job_id, request, |request| {
            let mut stub = self.job_stub();
            async move { stub.list_checkpoints(request).await }
        })
        .await
    }

    /// One checkpoint with its files.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let checkpoint = client.get_checkpoint("job-0123456789abcdef0123456789abcdef", "step-000200").await?;
    /// for file in checkpoint.files {
    ///     println!("{} {} bytes, SHA-256 {}", file.name, file.size_bytes, file.sha256);
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// client.delete_checkpoint("job-0123456789abcdef0123456789abcdef", "step-000200").await?;
    /// # Ok(())
    /// # }
    /// ```
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
}
