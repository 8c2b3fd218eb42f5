//! A remote control for one job: follow it, wait for it, stop it, take its checkpoints home.

use std::path::Path;

use futures::StreamExt;
use hone_proto::v1 as pb;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::transfer::{self, Progress};
use crate::watch::{self, JobEvents, JobUpdates};

/// A job of a server. Cheap to clone; dropping it leaves the job alone.
///
/// ```no_run
/// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
/// use hone_client::Outcome;
///
/// let job = client.job("job-0123456789abcdef0123456789abcdef");
/// match job.wait().await?.outcome {
///     Outcome::Succeeded(result) => println!("trained {} steps", result.steps),
///     Outcome::Failed(failure) => println!("failed: {}; try: {}", failure.message, failure.remedy),
///     Outcome::Cancelled => println!("cancelled"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct JobHandle {
    client: Client,
    job_id: String,
}

/// How a job ended.
///
/// ```no_run
/// use hone_client::Outcome;
///
/// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
/// match job.wait().await?.outcome {
///     Outcome::Succeeded(result) => println!("trained: {}", result.final_checkpoint_id),
///     Outcome::Failed(failure) => println!("{}; try: {}", failure.message, failure.remedy),
///     Outcome::Cancelled => println!("cancelled"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done, and the last upload verified.
    Succeeded(Box<pb::JobResult>),
    /// Ended by a failure.
    Failed(pb::Failure),
    /// Stopped by request.
    Cancelled,
}

/// A job that has ended.
///
/// ```no_run
/// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
/// let finished = job.wait().await?;
/// println!("{} ended: {:?}", finished.job.job_id, finished.outcome);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The job as it stands.
    pub job: pb::Job,
    /// How it ended.
    pub outcome: Outcome,
}

/// Whether a job in this state stays in it.
///
/// ```
/// use hone_client::{is_final, v1::JobState};
///
/// assert!(is_final(JobState::Succeeded) && !is_final(JobState::Paused));
/// ```
pub fn is_final(state: pb::JobState) -> bool {
    matches!(state, pb::JobState::Cancelled | pb::JobState::Succeeded | pb::JobState::Failed)
}

impl JobHandle {
    pub(crate) fn new(client: Client, job_id: String) -> Self {
        Self { client, job_id }
    }

    /// Its id.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// println!("hone jobs watch {}", job.id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn id(&self) -> &str {
        &self.job_id
    }

    /// The job as it stands.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let now = job.get().await?;
    /// println!("{:?}, {} events so far", now.state(), now.last_sequence);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self) -> Result<pb::Job> {
        self.client.get_job(&self.job_id).await
    }

    /// Every event so far and to come, each once and in order; reconnects by itself and ends with the job.
    ///
    /// ```no_run
    /// use futures::StreamExt;
    ///
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let mut events = job.watch();
    /// while let Some(event) = events.next().await {
    ///     println!("{:?}", event?.event);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self) -> JobEvents {
        self.watch_after(0)
    }

    /// As [`watch`](Self::watch), from the event after `sequence` on.
    ///
    /// ```no_run
    /// use futures::StreamExt;
    ///
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// // What this program saw of the job the last time.
    /// let seen = 17;
    /// let mut events = job.watch_after(seen);
    /// while let Some(event) = events.next().await {
    ///     println!("{}", event?.sequence);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_after(&self, sequence: u64) -> JobEvents {
        watch::events(self.updates_after(sequence))
    }

    /// As [`watch_after`](Self::watch_after), with word of every interruption.
    ///
    /// ```no_run
    /// use futures::StreamExt;
    /// use hone_client::Update;
    ///
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let mut updates = job.updates_after(0);
    /// while let Some(update) = updates.next().await {
    ///     match update? {
    ///         Update::Event(event) => println!("{:?}", event.event),
    ///         Update::Reconnecting { error, delay } => println!("{error}; trying again in {delay:?}"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn updates_after(&self, sequence: u64) -> JobUpdates {
        watch::updates(self.client.clone(), self.job_id.clone(), sequence)
    }

    /// The events after `sequence` that there are by now. Unlike a watch it waits for nothing that is still to happen.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let events = job.events_so_far(0).await?;
    /// println!("{} events", events.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn events_so_far(&self, sequence: u64) -> Result<Vec<pb::JobEvent>> {
        let last_sequence = self.get().await?.last_sequence;
        let mut so_far = Vec::new();
        if last_sequence <= sequence {
            return Ok(so_far);
        }
        let mut events = self.watch_after(sequence);
        while let Some(event) = events.next().await {
            let event = event?;
            let last = event.sequence >= last_sequence;
            so_far.push(event);
            if last {
                break;
            }
        }
        Ok(so_far)
    }

    /// Waits until the job has ended. An error means that the server could not be asked;
    /// a job that failed is an [`Outcome`].
    ///
    /// ```no_run
    /// use hone_client::Outcome;
    ///
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let finished = job.wait().await?;
    /// if let Outcome::Failed(failure) = finished.outcome {
    ///     println!("{}: {}", finished.job.job_id, failure.message);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(&self) -> Result<Finished> {
        loop {
            let job = self.get().await?;
            if let Some(outcome) = outcome(&job) {
                return Ok(Finished { job, outcome });
            }
            let mut events = self.watch_after(job.last_sequence);
            while let Some(event) = events.next().await {
                event?;
            }
        }
    }

    /// Asks the job to stop for good; a running one finishes its step and saves first.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// job.cancel().await?;
    /// // What it had learned by then is saved.
    /// job.wait().await?;
    /// let checkpoint = job.last_checkpoint().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel(&self) -> Result<pb::Job> {
        self.client.cancel_job(&self.job_id).await
    }

    /// Asks the job to make room; a running one finishes its step, saves and leaves.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// job.pause().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pause(&self) -> Result<pb::Job> {
        self.client.pause_job(&self.job_id).await
    }

    /// Lets the paused job go on from its last checkpoint.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// job.resume().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resume(&self) -> Result<pb::Job> {
        self.client.resume_job(&self.job_id, None).await
    }

    /// As [`resume`](Self::resume), with another length: `spec` is the job's own, but for epochs or max_steps.
    ///
    /// ```no_run
    /// use hone_client::spec::{Job, Sft};
    /// use hone_client::v1;
    ///
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let mut spec = job.get().await?.spec.unwrap_or_default();
    /// if let Some(v1::job_spec::Task::Sft(task)) = spec.task.take() {
    ///     spec.task = Some(Sft::from(task).max_steps(500).into());
    ///     job.resume_with(Job::from(spec).build()?).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resume_with(&self, spec: pb::JobSpec) -> Result<pb::Job> {
        self.client.resume_job(&self.job_id, Some(spec)).await
    }

    /// Has the running job save at its next step boundary; gives the checkpoint once it is verified.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// println!("saved {}", job.save_now().await?.checkpoint_id);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn save_now(&self) -> Result<pb::Checkpoint> {
        self.client.checkpoint_job(&self.job_id).await
    }

    /// What a training job that succeeded left to look at: loss.png, summary.json and, where rows were held out,
    /// hard_examples.jsonl.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let files = job.report().await?;
    /// let picture = files.iter().find(|file| file.name == "loss.png");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn report(&self) -> Result<Vec<pb::ReportFile>> {
        self.client.get_report(&self.job_id).await
    }

    /// Removes the job, its events and its checkpoints. It must have ended.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// job.cancel().await?;
    /// job.wait().await?;
    /// job.delete().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete(&self) -> Result<()> {
        self.client.delete_job(&self.job_id).await
    }

    /// All its checkpoints, newest first.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// for checkpoint in job.checkpoints().await? {
    ///     println!("{} {:?}", checkpoint.checkpoint_id, checkpoint.eval_loss);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn checkpoints(&self) -> Result<Vec<pb::Checkpoint>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListCheckpointsRequest { job_id: self.job_id.clone(), page_size: 0, page_token };
            let page = self.client.list_checkpoints(request).await?;
            all.extend(page.checkpoints);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }

    /// The checkpoint with the lowest held-out loss, or the newest when none was measured.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// if let Some(best) = job.best_checkpoint().await? {
    ///     job.download(&best.checkpoint_id, "adapter").await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn best_checkpoint(&self) -> Result<Option<pb::Checkpoint>> {
        let checkpoints = self.checkpoints().await?;
        let measured = checkpoints.iter().filter_map(|one| Some((one.eval_loss?, one)));
        let best = measured.min_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, checkpoint)| checkpoint.clone());
        Ok(best.or_else(|| checkpoints.into_iter().next()))
    }

    /// Fetches a checkpoint into the folder `target`, which must not exist or be empty: in parts, several at once, which go on
    /// from where they were when they are cut. The folder appears only when every file has been verified against the manifest.
    ///
    /// What a download that failed had fetched stays beside the target, in `.NAME.partial-…`, and the next one goes on with it.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let checkpoint = job.last_checkpoint().await?;
    /// job.download(&checkpoint.checkpoint_id, "adapter").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn download(&self, checkpoint_id: &str, target: impl AsRef<Path>) -> Result<pb::Checkpoint> {
        self.download_with(checkpoint_id, target, &mut |_| {}).await
    }

    /// As [`download`](Self::download), telling how far it is.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let mut tell = |now: hone_client::Progress<'_>| println!("{} of {} bytes", now.done_bytes, now.total_bytes);
    /// job.download_with("step-000200", "adapter", &mut tell).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn download_with(
        &self,
        checkpoint_id: &str,
        target: impl AsRef<Path>,
        progress: &mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Result<pb::Checkpoint> {
        let checkpoint = self.client.get_checkpoint(&self.job_id, checkpoint_id).await?;
        transfer::download(&self.client, &self.job_id, &checkpoint, target.as_ref(), progress).await?;
        Ok(checkpoint)
    }

    /// The newest checkpoint; a job that has saved none is an error that says so.
    ///
    /// ```no_run
    /// # async fn example(job: hone_client::JobHandle) -> hone_client::Result<()> {
    /// let checkpoint = job.last_checkpoint().await?;
    /// println!("{} of step {}", checkpoint.checkpoint_id, checkpoint.step);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn last_checkpoint(&self) -> Result<pb::Checkpoint> {
        let request =
            pb::ListCheckpointsRequest { job_id: self.job_id.clone(), page_size: 1, page_token: String::new() };
        let page = self.client.list_checkpoints(request).await?;
        page.checkpoints.into_iter().next().ok_or_else(|| Error::NoCheckpoint { job_id: self.job_id.clone() })
    }
}

/// How a job ended, if it has. What the server left out of a final job counts as empty.
///
/// ```
/// use hone_client::{Outcome, outcome, v1};
///
/// let job = v1::Job { state: v1::JobState::Cancelled.into(), ..Default::default() };
/// assert_eq!(outcome(&job), Some(Outcome::Cancelled));
/// assert_eq!(outcome(&v1::Job::default()), None);
/// ```
pub fn outcome(job: &pb::Job) -> Option<Outcome> {
    match job.state() {
        pb::JobState::Succeeded => Some(Outcome::Succeeded(Box::new(job.result.clone().unwrap_or_default()))),
        pb::JobState::Failed => Some(Outcome::Failed(job.failure.clone().unwrap_or_default())),
        pb::JobState::Cancelled => Some(Outcome::Cancelled),
        _ => None,
    }
}
