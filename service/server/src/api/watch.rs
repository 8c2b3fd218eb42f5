//! The events of a job as a stream: those in the store after a number, then those to come, without gap or repeat.
//!
//! A watcher pulls from the store at its own pace and is only told that there is more, so a slow one holds up nobody. One that
//! takes nothing for long is sent away, so that it holds no memory either. While nothing happens it gets an empty message now
//! and then.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use futures::{Stream, StreamExt};
use hone_job::event::{Event, JobEvent};
use hone_proto::v1 as pb;
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::convert;
use super::status::Problem;
use crate::jobs::Jobs;

/// Longest silence of a watch.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long a watcher may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<pb::WatchJobResponse, Status>> + Send>>;

/// Events after number `after`; ends with the job, or with a watcher that does not keep up.
pub(super) fn events(jobs: Arc<Jobs>, job_id: String, after: u64, stopping: CancellationToken) -> Events {
    let events = all_events(jobs, job_id, after, stopping);
    Box::pin(ReceiverStream::new(taken_in_time(events, after)))
}

/// Hands events on while they are taken, and then says why there are no more. `last` is the number of the event before the
/// first.
fn taken_in_time(mut events: Events, mut last: u64) -> mpsc::Receiver<Result<pb::WatchJobResponse, Status>> {
    let (sender, receiver) = mpsc::channel(2);
    let last_word = sender.clone().try_reserve_owned().expect("a new channel has room");
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            let Some(event) = event else { return };
            let sequence = event.as_ref().ok().and_then(|event| Some(event.event.as_ref()?.sequence));
            match sender.send_timeout(event, PATIENCE).await {
                Ok(()) => last = sequence.unwrap_or(last),
                Err(SendTimeoutError::Timeout(_)) => return drop(last_word.send(Err(too_slow(last).into()))),
                Err(SendTimeoutError::Closed(_)) => return,
            }
        }
    });
    receiver
}

fn too_slow(last: u64) -> Problem {
    let message = format!("nothing was taken for {PATIENCE:?}; watch again after event {last}");
    Problem::new(Code::Unavailable, "WATCHER_TOO_SLOW", message).about("last_sequence", last.to_string())
}

fn all_events(jobs: Arc<Jobs>, job_id: String, after: u64, stopping: CancellationToken) -> Events {
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
                for event in found.iter().cloned() {
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

#[cfg(test)]
mod tests;
