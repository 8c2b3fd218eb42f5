//! Events that were read and encoded for one watcher, for those who stand at the same place: a thousand of them cost one
//! reading.
//!
//! What is stored does not change, so that a page that was read is true for good; that there is more by now, the next
//! reading finds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hone_job::event::{Event, JobEvent};
use prost::Message;
use tokio::sync::OnceCell;

use crate::api::convert;
use crate::store::Result;

/// Pages that are kept. Those who follow a job live are all at its end; a reader of old events passes through.
const MAX_PAGES: usize = 16;

/// Events in a row.
#[derive(Debug)]
pub(super) struct Page {
    /// Number of the first.
    first: u64,
    /// Each as its message.
    events: Vec<Bytes>,
    /// Whether nothing comes after the last.
    ends: bool,
}

impl Page {
    fn new(events: Vec<JobEvent>) -> Self {
        let first = events.first().map_or(0, |event| event.sequence);
        let ends =
            matches!(events.last().map(|last| &last.event), Some(Event::StateChanged(last)) if last.to.is_final());
        let events = events.into_iter().map(|event| convert::event(event).encode_to_vec().into()).collect();
        Self { first, events, ends }
    }

    /// An event by its number, and whether nothing comes after it.
    pub(super) fn event(&self, sequence: u64) -> Option<(Bytes, bool)> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let event = self.events.get(index)?.clone();
        Some((event, self.ends && index + 1 == self.events.len()))
    }
}

type Cell = Arc<OnceCell<Arc<Page>>>;

/// The pages read last.
#[derive(Default)]
pub(super) struct Pages {
    pages: Mutex<VecDeque<(String, u64, Cell)>>,
}

impl Pages {
    /// The events of a job after a number, read by `read` unless somebody else has read or is reading them.
    pub(super) async fn get(
        &self,
        job_id: &str,
        after: u64,
        read: impl Future<Output = Result<Vec<JobEvent>>>,
    ) -> Result<Arc<Page>> {
        let cell = self.cell(job_id, after);
        let page = cell.get_or_try_init(async || read.await.map(Page::new).map(Arc::new)).await?.clone();
        if page.events.is_empty() {
            self.pages().retain(|(_, _, kept)| !Arc::ptr_eq(kept, &cell));
        }
        Ok(page)
    }

    fn cell(&self, job_id: &str, after: u64) -> Cell {
        let mut pages = self.pages();
        if let Some((_, _, cell)) = pages.iter().find(|(id, place, _)| (id.as_str(), *place) == (job_id, after)) {
            return cell.clone();
        }
        pages.truncate(MAX_PAGES - 1);
        let cell = Cell::default();
        pages.push_front((job_id.to_string(), after, cell.clone()));
        cell
    }

    fn pages(&self) -> MutexGuard<'_, VecDeque<(String, u64, Cell)>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use chrono::Utc;
    use futures::future::join_all;
    use hone_job::event::Phase;

    use super::*;

    fn event(sequence: u64) -> JobEvent {
        let event = Event::Phase(Phase { name: "training".into(), detail: String::new() });
        JobEvent { sequence, time: Utc::now(), attempt: 1, trace_id: String::new(), event }
    }

    #[tokio::test]
    async fn those_at_the_same_place_share_one_reading() {
        let (pages, readings) = (Pages::default(), AtomicUsize::new(0));
        let read = async || {
            readings.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(vec![event(8), event(9)])
        };
        let all = join_all((0..100).map(|_| pages.get("job", 7, read()))).await;
        assert!(all.into_iter().all(|page| page.unwrap().events.len() == 2));
        assert_eq!(readings.load(Ordering::Relaxed), 1);
        pages.get("job", 9, read()).await.unwrap();
        pages.get("other", 7, read()).await.unwrap();
        assert_eq!(readings.load(Ordering::Relaxed), 3, "another place, another job");
    }

    #[tokio::test]
    async fn that_there_was_nothing_or_that_reading_failed_is_not_kept() {
        let pages = Pages::default();
        assert!(pages.get("job", 7, async { Ok(Vec::new()) }).await.unwrap().events.is_empty());
        let failure = async { Err(crate::store::Error::Failed("full".into())) };
        pages.get("job", 7, failure).await.unwrap_err();
        assert_eq!(pages.get("job", 7, async { Ok(vec![event(8)]) }).await.unwrap().events.len(), 1);
    }

    #[tokio::test]
    async fn few_pages_are_kept() {
        let pages = Pages::default();
        for after in 0..100 {
            pages.get("job", after, async { Ok(vec![event(after + 1)]) }).await.unwrap();
        }
        assert_eq!(pages.pages.lock().unwrap().len(), MAX_PAGES);
    }
}
