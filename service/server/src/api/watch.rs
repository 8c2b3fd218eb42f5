//! The events of a job as a stream: those in the store after a number, then those to come, without gap or repeat.
//!
//! A watcher pulls from the store at its own pace and is only told that there is more, so a slow one holds up nobody and
//! costs no memory. While nothing happens it gets an empty message now and then.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use futures::Stream;
use hone_job::event::{Event, JobEvent};
use hone_proto::v1 as pb;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::convert;
use super::status::Problem;
use crate::jobs::Jobs;

/// Longest silence of a watch.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<pb::WatchJobResponse, Status>> + Send>>;

/// Events after number `after`; ends with the job.
pub(super) fn events(jobs: Arc<Jobs>, job_id: String, after: u64, stopping: CancellationToken) -> Events {
    Box::pin(try_stream! {
        // Subscribed before the first read, so that nothing falls between the two.
        let mut news = jobs.subscribe(&job_id);
        let mut cursor = after;
        let mut last = jobs.get(&job_id).await.map_err(Problem::from)?.last_sequence;
        if cursor >= last && ends(&jobs, &job_id, cursor).await? {
            return;
        }
        loop {
            while cursor < last {
                let found = jobs.events(&job_id, cursor).await.map_err(Problem::from)?;
                for event in found {
                    cursor = event.sequence;
                    let over = is_last(&event);
                    yield pb::WatchJobResponse { event: Some(convert::event(event)) };
                    if over {
                        return;
                    }
                }
            }
            match stopping.run_until_cancelled(tokio::time::timeout(HEARTBEAT, news.changed())).await {
                None => Err(Problem::stopping())?,
                Some(Err(_silence)) => yield pb::WatchJobResponse { event: None },
                // The sender stays while there is a receiver, so this is news.
                Some(Ok(_)) => {
                    last = last.max(*news.borrow_and_update());
                    // One who asked for more than there is never gets it when the job has ended meanwhile.
                    if last <= cursor && ends(&jobs, &job_id, cursor).await? {
                        return;
                    }
                }
            }
        }
    })
}

/// Whether nothing comes after this event.
fn is_last(event: &JobEvent) -> bool {
    matches!(&event.event, Event::StateChanged(change) if change.to.is_final())
}

/// Whether a watch that has seen everything up to `cursor` is at the end of a job that has ended.
async fn ends(jobs: &Jobs, job_id: &str, cursor: u64) -> Result<bool, Problem> {
    let job = jobs.get(job_id).await?;
    if job.state.is_final() && cursor > job.last_sequence {
        let message = format!("{job_id} has ended with event {}; there is none after {cursor}", job.last_sequence);
        return Err(Problem::new(Code::OutOfRange, "PAST_THE_END", message)
            .about("last_sequence", job.last_sequence.to_string()));
    }
    Ok(job.state.is_final() && cursor == job.last_sequence)
}
