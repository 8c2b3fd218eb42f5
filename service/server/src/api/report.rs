//! What a training job leaves to look at: `report/loss.png`, `report/summary.json`, `report/hard_examples.jsonl` beside its
//! checkpoints. They are there before the job is told to have succeeded; where that fails, the job does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hone_data::storage;
use hone_job::event::{Event, JobEvent};
use hone_metrics::picture::{Picture, Subject};
use hone_metrics::run::Run;
use hone_metrics::summary::summary;
use hone_proto::v1 as pb;
use tokio::sync::Semaphore;

use super::convert;
use super::status::Problem;
use crate::jobs::Jobs;
use crate::layout::Layout;
use crate::record::JobRecord;

/// Files of a report, in the order in which they are written.
const SUMMARY: &str = "summary.json";
const HARD_EXAMPLES: &str = "hard_examples.jsonl";
const PICTURE: &str = "loss.png";

/// How long a job that is done may wait for its report.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A report may be so large; a call carries all of it.
const MAX_BYTES: u64 = 3 << 20;

/// Reports of jobs.
#[derive(Clone)]
pub(super) struct Reports {
    jobs: Arc<Jobs>,
    layout: Layout,
    /// Pictures take memory while they are drawn: one at a time.
    drawing: Arc<Semaphore>,
}

impl Reports {
    pub(super) fn new(jobs: Arc<Jobs>, layout: Layout) -> Self {
        Self { jobs, layout, drawing: Arc::new(Semaphore::new(1)) }
    }

    /// Leaves the report of a training job that is done. Says what kept it from being whole.
    pub(super) async fn leave(&self, job: &JobRecord) -> Result<(), String> {
        let start = Instant::now();
        let written = tokio::time::timeout(TIMEOUT, self.write(job)).await;
        let num_bytes = written.unwrap_or_else(|_| Err(format!("it took longer than {} s", TIMEOUT.as_secs())))?;
        tracing::info!(job_id = job.job_id, num_bytes, seconds = start.elapsed().as_secs_f64(), "report written");
        Ok(())
    }

    async fn write(&self, job: &JobRecord) -> Result<u64, String> {
        let _turn = self.drawing.acquire().await.map_err(|error| error.to_string())?;
        let events = self.events(&job.job_id).await?;
        let message = convert::job(job.clone());
        let making = tokio::task::spawn_blocking(move || files(&message, events));
        let (files, picture) = making.await.map_err(|error| error.to_string())?;
        let folder = self.layout.report(&job.job_id);
        let mut num_bytes = 0;
        for (name, content) in files {
            num_bytes += content.len() as u64;
            folder.join(name).put(content).await.map_err(|error| error.to_string())?;
        }
        picture.map(|()| num_bytes)
    }

    async fn events(&self, job_id: &str) -> Result<Vec<JobEvent>, String> {
        let mut all: Vec<JobEvent> = Vec::new();
        loop {
            let after = all.last().map_or(0, |event| event.sequence);
            let more = self.jobs.events(job_id, after).await.map_err(|error| error.to_string())?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// The files that a job has left.
    pub(super) async fn get(&self, job_id: &str) -> Result<Vec<pb::ReportFile>, Problem> {
        let folder = self.layout.report(job_id);
        let failed = |error: storage::Error| Problem::from(crate::checkpoints::Error::Storage(error));
        let mut files = Vec::new();
        let mut room = MAX_BYTES;
        for name in [PICTURE, SUMMARY, HARD_EXAMPLES] {
            let object = folder.join(name);
            let Some(size) = object.num_bytes().await.map_err(failed)? else { continue };
            // Somebody else wrote what is larger.
            let Some(left) = room.checked_sub(size) else { continue };
            room = left;
            let data = object.get().await.map_err(failed)?;
            files.push(pb::ReportFile { name: name.into(), uri: object.uri, data });
        }
        if files.is_empty() { Err(Problem::not_found("report", job_id)) } else { Ok(files) }
    }
}

/// The files, and whether the picture is among them.
fn files(job: &pb::Job, events: Vec<JobEvent>) -> (Vec<(&'static str, Bytes)>, Result<(), String>) {
    let hardest = events.iter().rev().find_map(|event| match &event.event {
        Event::HardExamples(found) => Some(found),
        _ => None,
    });
    let lines = hardest.map(|found| {
        let lines = found.examples.iter().filter_map(|example| serde_json::to_string(example).ok());
        lines.map(|line| line + "\n").collect::<String>()
    });
    let events: Vec<pb::JobEvent> = events.into_iter().map(convert::event).collect();
    let mut files = vec![(SUMMARY, format!("{:#}\n", summary(job, &events)).into())];
    files.extend(lines.map(|lines| (HARD_EXAMPLES, lines.into())));
    let picture = drawn(job, Run::of(&events)).map(|bytes| files.extend(bytes.map(|bytes| (PICTURE, bytes.into()))));
    (files, picture)
}

/// The picture; none of a run that took no step.
fn drawn(job: &pb::Job, run: Run) -> Result<Option<Vec<u8>>, String> {
    let name = job.spec.as_ref().map(|spec| spec.display_name.clone()).filter(|name| !name.is_empty());
    let title = name.clone().map_or("Training".into(), |name| format!("Training of {name}"));
    let subtitle = run.said(&job.job_id);
    let subject = Subject { name: name.unwrap_or_else(|| job.job_id.clone()), run };
    let picture = Picture::of(&title, &subtitle, &[subject], &[]);
    picture.map(|picture| picture.png()).transpose().map_err(|error| error.to_string())
}
