//! Jobs as the rest of the server sees them: every change goes to the store first and is then shown to watchers and to
//! the scheduler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use hone_job::event::JobEvent;
use hone_job::spec::JobSpec;
use hone_job::state::State;
use tokio::sync::{Notify, watch};

use crate::metrics::Metrics;
use crate::record::{Change, JobRecord};
use crate::store::{self, Changed, JobLimits, JobQuery, NewJob, Request, Store, Tally};

/// Tells the time; an argument, so that tests need not wait.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The jobs of this server.
pub struct Jobs {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Metrics,
    /// Per watched job the sequence number of the last event that was made visible. A std mutex: held for moments only.
    visible: Mutex<HashMap<String, watch::Sender<u64>>>,
    queue: Notify,
}

impl Jobs {
    /// The jobs in a store.
    pub fn new(store: Arc<dyn Store>, clock: Clock, metrics: Metrics) -> Self {
        Self { store, clock, metrics, visible: Mutex::default(), queue: Notify::new() }
    }

    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    /// Creates a job, or returns the one made before under the same request id. `trace` is where its call stands in a trace, as
    /// W3C's traceparent.
    pub async fn create(
        &self,
        project: String,
        spec: JobSpec,
        request: Option<Request>,
        inputs: Vec<String>,
        limits: JobLimits,
        trace: String,
    ) -> store::Result<JobRecord> {
        let (record, events) = JobRecord::new(hone_job::id::Kind::Job.fresh(), project, spec, trace, self.now());
        let (fresh, num_events) = (record.job_id.clone(), events.len() as u64);
        let job = self.store.create_job(NewJob { record, events, request, inputs, limits }).await?;
        if job.job_id == fresh {
            tracing::info!(
                job_id = job.job_id,
                project = job.project,
                queue_position = job.queue_position,
                "job created"
            );
            self.metrics.created(&job, num_events);
            self.queue.notify_one();
        }
        Ok(job)
    }

    /// The job made under a request id with this content, if there is one.
    pub async fn of_request(&self, request: &Request) -> store::Result<Option<JobRecord>> {
        self.store.job_of_request(request).await
    }

    /// One job.
    pub async fn get(&self, job_id: &str) -> store::Result<JobRecord> {
        self.store.job(job_id).await
    }

    /// Jobs, newest first.
    pub async fn list(&self, query: JobQuery) -> store::Result<Vec<JobRecord>> {
        self.store.jobs(query).await
    }

    /// How many jobs there are.
    pub async fn tally(&self) -> store::Result<Tally> {
        self.store.tally().await
    }

    /// The job that is to start next, which may be to wait for its time.
    pub async fn next_queued(&self) -> store::Result<Option<JobRecord>> {
        self.store.next_queued(self.now()).await
    }

    /// Changes a job: in the store, then for everybody.
    pub async fn change(&self, job_id: &str, change: Change) -> store::Result<JobRecord> {
        let moves = change.moves();
        let now = self.now();
        let Changed { job, events } = self.store.change_job(job_id, change, now).await?;
        self.metrics.stored(&job, &events, now);
        if moves {
            let (state, detail, trace_id) = (job.state, &job.state_detail, job.trace_id());
            tracing::info!(job_id, %state, attempt = job.attempt, step = job.step, detail, trace_id, "job changed");
        }
        self.show(job_id, job.last_sequence);
        if job.state == State::Queued {
            self.queue.notify_one();
        }
        Ok(job)
    }

    /// Events after a sequence number, oldest first; not all where there are many.
    pub async fn events(&self, job_id: &str, after: u64) -> store::Result<Vec<JobEvent>> {
        self.store.events(job_id, after).await
    }

    /// Removes a job that has ended.
    pub async fn delete(&self, job_id: &str) -> store::Result<()> {
        self.store.delete_job(job_id).await?;
        tracing::info!(job_id, "job deleted");
        // Whoever still watches looks again and finds nothing.
        self.show(job_id, u64::MAX);
        Ok(())
    }

    /// Word of new events: the sequence number of the last one. Subscribe first, then read what there is already.
    pub fn subscribe(&self, job_id: &str) -> watch::Receiver<u64> {
        let mut visible = self.visible();
        visible.retain(|_, sender| sender.receiver_count() > 0);
        visible.entry(job_id.to_string()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    fn show(&self, job_id: &str, sequence: u64) {
        if let Some(sender) = self.visible().get(job_id) {
            // Changes of a job may arrive here out of order; the number only grows.
            sender.send_if_modified(|last| std::mem::replace(last, sequence.max(*last)) < sequence);
        }
    }

    fn visible(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<u64>>> {
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the queue or the number of running attempts may have changed.
    pub async fn queue_changed(&self) {
        self.queue.notified().await;
    }

    /// An attempt has ended: there may be room for another one.
    pub fn attempt_ended(&self) {
        self.queue.notify_one();
    }
}
