//! The events of a job as a stream: those in the store after a number, then those to come, without gap or repeat.
//!
//! A watcher pulls at its own pace and is only told that there is more, so a slow one holds up nobody. It holds its place
//! and no events: these are in [`Pages`], encoded, for all who watch. While nothing happens it gets an empty message now and
//! then.

use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_stream::try_stream;
use bytes::Bytes;
use futures::Stream;
use hone_proto::encoded::WatchJobResponse;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::status::Problem;
use crate::jobs::Jobs;
use crate::metrics::Metrics;

mod pages;

use pages::{Page, Pages};

/// Longest silence of a watch.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<WatchJobResponse, Status>> + Send>>;

/// What watchers are served from.
pub(super) struct Watches {
    jobs: Arc<Jobs>,
    pages: Pages,
    metrics: Metrics,
    stopping: CancellationToken,
}

impl Watches {
    /// Watches of these jobs, until the server stops.
    pub(super) fn new(jobs: Arc<Jobs>, metrics: Metrics, stopping: CancellationToken) -> Arc<Self> {
        Arc::new(Self { jobs, pages: Pages::default(), metrics, stopping })
    }

    /// Events after number `after`; ends with the job.
    pub(super) fn events(self: Arc<Self>, job_id: String, after: u64) -> Events {
        let watching = self.metrics.watch();
        Box::pin(try_stream! {
            let _watching = watching;
            // Subscribed before the first read, so that nothing falls between the two.
            let mut news = self.jobs.subscribe(&job_id);
            let mut place = Place { after, page: Weak::new() };
            let mut last = self.jobs.get(&job_id).await.map_err(Problem::from)?.last_sequence;
            if after >= last && self.ends(&job_id, after).await? {
                return;
            }
            // Both are set up once: with many watchers, doing it for each event is most of what an event costs.
            let mut stopping = pin!(self.stopping.cancelled());
            let mut silence = pin!(sleep(HEARTBEAT));
            let mut spoken = Instant::now();
            loop {
                while place.after < last {
                    let Some((event, is_last)) = self.next(&job_id, &mut place).await? else { break };
                    yield WatchJobResponse { event: Some(event) };
                    if is_last {
                        return;
                    }
                    spoken = Instant::now();
                }
                let word = tokio::select! {
                    biased;
                    // The sender stays while there is a receiver, so this is news.
                    _ = news.changed() => Word::News,
                    () = &mut stopping => Word::Stop,
                    () = &mut silence => Word::None,
                };
                match word {
                    Word::News => {
                        last = last.max(*news.borrow_and_update());
                        // One who asked for more than there is never gets it when the job has ended meanwhile.
                        if last <= place.after && self.ends(&job_id, place.after).await? {
                            return;
                        }
                    }
                    Word::Stop => Err(Problem::stopping())?,
                    Word::None => {
                        if spoken.elapsed() >= HEARTBEAT {
                            yield WatchJobResponse::default();
                            spoken = Instant::now();
                        }
                        silence.as_mut().reset(spoken + HEARTBEAT);
                    }
                }
            }
        })
    }

    /// The next event, and whether nothing comes after it. Nothing is held of its page, which may be gone when the watcher
    /// comes back.
    async fn next(&self, job_id: &str, place: &mut Place) -> Result<Option<(Bytes, bool)>, Problem> {
        let sequence = place.after + 1;
        let page = match place.page.upgrade() {
            Some(page) if page.event(sequence).is_some() => page,
            _ => self.pages.get(job_id, place.after, self.jobs.events(job_id, place.after)).await?,
        };
        let found = page.event(sequence);
        if found.is_some() {
            *place = Place { after: sequence, page: Arc::downgrade(&page) };
        }
        Ok(found)
    }

    /// Whether a watch that has seen everything up to `cursor` is at the end of a job that has ended.
    async fn ends(&self, job_id: &str, cursor: u64) -> Result<bool, Problem> {
        let job = self.jobs.get(job_id).await?;
        if job.state.is_final() && cursor > job.last_sequence {
            let message = format!("{job_id} has ended with event {}; there is none after {cursor}", job.last_sequence);
            return Err(Problem::new(Code::OutOfRange, "PAST_THE_END", message)
                .about("last_sequence", job.last_sequence.to_string()));
        }
        Ok(job.state.is_final() && cursor == job.last_sequence)
    }
}

/// What a watcher that has seen everything waits for.
enum Word {
    /// There may be more.
    News,
    /// The server stops.
    Stop,
    /// It has waited for long.
    None,
}

/// Where a watcher stands.
struct Place {
    /// Number of the last event it was given.
    after: u64,
    /// The page that held it, while that is kept.
    page: Weak<Page>,
}

#[cfg(test)]
mod tests;
