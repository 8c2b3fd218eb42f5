//! A run's numbers for TensorBoard, in storage as the run goes: `tensorboard/events.out.tfevents.…` beside its checkpoints.
//!
//! Objects cannot be appended to, so what is new becomes a file of its own, the first ones soon, later ones when the run has
//! become a twentieth longer: a run of a day leaves about 150. A name ends with the number of the last event that is
//! in the file, from which whoever goes on begins. What could not be written is written with what comes next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hone_job::event::JobEvent;
use hone_metrics::scalar::{Scalars, wall_time};
use hone_metrics::tensorboard::Writer;
use hone_proto::v1 as pb;
use pb::job_event::Event;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::convert;
use crate::jobs::Jobs;
use crate::layout::Layout;
use crate::record::JobRecord;

/// Least time between two files.
const EVERY: Duration = Duration::from_secs(10);

/// How long the end of an attempt waits for the last file.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What comes between a file's time and its last event's number.
const NAME: &str = "events.out.tfevents.";
const ENDING: &str = ".hone";

/// The numbers of an attempt on their way.
pub(super) struct Exporting {
    over: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Exporting {
    /// Begins; of a job that takes no steps there is nothing.
    pub(super) fn start(job: &JobRecord, jobs: &Arc<Jobs>, layout: &Layout) -> Self {
        let over = CancellationToken::new();
        let exporter = Exporter { jobs: jobs.clone(), layout: layout.clone(), job_id: job.job_id.clone() };
        let is_due = job.spec.task.training().is_some() && !job.attempt_over;
        let task = is_due.then(|| tokio::spawn(exporter.follow(job.step, over.clone())));
        Self { over, task: Mutex::new(task) }
    }

    /// Ends, after what there is by now has been written.
    pub(super) async fn end(&self) {
        self.over.cancel();
        if let Some(task) = self.task.lock().await.take()
            && tokio::time::timeout(TIMEOUT, task).await.is_err()
        {
            tracing::warn!("numbers for TensorBoard are late: storage is slow");
        }
    }
}

struct Exporter {
    jobs: Arc<Jobs>,
    layout: Layout,
    job_id: String,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

impl Exporter {
    /// Until it is over.
    async fn follow(self, step: u64, over: CancellationToken) {
        let start = Instant::now();
        let mut scalars = Scalars::after(step);
        let mut written = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY.max(start.elapsed() / 20)) => {}
                () = over.cancelled() => {}
            }
            let is_last = over.is_cancelled();
            match self.write(written, &mut scalars).await {
                Ok(last) => written = Some(last),
                Err(error) => tracing::warn!(job_id = self.job_id, %error, "numbers for TensorBoard were not written"),
            }
            if is_last {
                return;
            }
        }
    }

    /// Writes what came after an event, the last one that an earlier file has where none is named. Gives the last one now.
    async fn write(&self, written: Option<u64>, scalars: &mut Scalars) -> Result<u64> {
        let mut last = match written {
            Some(written) => written,
            None => self.last_written().await?,
        };
        let mut writer = Writer::new(Vec::new())?;
        let mut has_numbers = false;
        loop {
            let events = self.jobs.events(&self.job_id, last).await?;
            if events.is_empty() {
                break;
            }
            for event in events {
                last = event.sequence;
                has_numbers |= add(&mut writer, event, scalars)?;
            }
        }
        if has_numbers {
            let seconds = self.jobs.now().timestamp();
            let name = format!("{NAME}{seconds:010}.{last:012}{ENDING}");
            self.layout.tensorboard(&self.job_id).join(&name).put(writer.into_inner()).await?;
        }
        Ok(last)
    }

    /// Number of the last event that is in a file.
    async fn last_written(&self) -> Result<u64> {
        let entries = self.layout.tensorboard(&self.job_id).list().await?;
        let number = |name: &str| name.strip_prefix(NAME)?.strip_suffix(ENDING)?.split_once('.')?.1.parse().ok();
        Ok(entries.iter().filter_map(|entry| number(&entry.name)).max().unwrap_or_default())
    }
}

/// Adds the numbers of an event, and says whether there were any.
fn add(writer: &mut Writer<Vec<u8>>, event: JobEvent, scalars: &mut Scalars) -> Result<bool> {
    let event: pb::JobEvent = convert::event(event);
    if let Some(Event::Resumed(resumed)) = &event.event {
        writer.restart_at(resumed.step + 1, wall_time(&event))?;
        return Ok(true);
    }
    let numbers = scalars.of(&event);
    for number in &numbers {
        writer.write(number)?;
    }
    Ok(!numbers.is_empty())
}
