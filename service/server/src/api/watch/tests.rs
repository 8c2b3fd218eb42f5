//! Watchers that keep up, and those that do not.

use chrono::Utc;
use futures::{FutureExt, StreamExt};
use hone_job::event::{Event, TrainStep};
use hone_proto::v1 as pb;
use prost::Message;

use super::*;
use crate::metrics::Metrics;
use crate::record::{Body, Change, Report};
use crate::store::JobLimits;
use crate::store::memory::Memory;
use crate::testing;

/// A job of one attempt that has taken some steps, and watches of it.
async fn watches(num_steps: u64) -> (Arc<Watches>, String) {
    let jobs = Arc::new(Jobs::new(Arc::new(Memory::default()), Arc::new(Utc::now), Metrics::default()));
    let limits = JobLimits { max_queued: 1, max_of_project: None };
    let job = jobs.create("default".into(), testing::spec(), None, Vec::new(), limits, String::new()).await.unwrap();
    jobs.change(&job.job_id, Change::AttemptStarted { secret_sha256: String::new(), trace: String::new() })
        .await
        .unwrap();
    let step = |number| {
        let step = TrainStep { step: number, ..TrainStep::default() };
        Report { number, time: Utc::now(), body: Body::Event(Event::TrainStep(step)) }
    };
    let reports = (1..=num_steps).map(step).collect();
    jobs.change(&job.job_id, Change::Reported { attempt: 1, reports }).await.unwrap();
    (Watches::new(jobs, Metrics::default(), CancellationToken::new()), job.job_id)
}

/// The number of an event; none for a heartbeat.
fn sequence(response: Result<WatchJobResponse, Status>) -> Option<u64> {
    response.unwrap().event.map(|event| pb::JobEvent::decode(event).unwrap().sequence)
}

#[tokio::test]
async fn a_watcher_holds_no_events_and_goes_on_when_its_page_is_gone() {
    let (watches, job_id) = watches(40).await;
    let mut slow = watches.clone().events(job_id.clone(), 0);
    assert_eq!(sequence(slow.next().await.unwrap()), Some(1));
    // Others pass by at enough other places.
    for after in 1..20 {
        watches.clone().events(job_id.clone(), after).next().await.unwrap().unwrap();
    }
    let page = Arc::downgrade(&watches.pages.get(&job_id, 0, watches.jobs.events(&job_id, 0)).await.unwrap());
    for after in 1..20 {
        watches.clone().events(job_id.clone(), after).next().await.unwrap().unwrap();
    }
    assert!(page.upgrade().is_none(), "nobody holds it");
    let rest: Vec<_> = slow.take(41).map(sequence).collect().await;
    assert_eq!(rest, (2..=42).map(Some).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_a_heartbeat_ten_seconds_after_the_last_word() {
    let (watches, job_id) = watches(1).await;
    let mut watcher = watches.events(job_id, 2);
    let start = Instant::now();
    assert_eq!(sequence(watcher.next().await.unwrap()), Some(3));
    assert_eq!(start.elapsed(), Duration::ZERO);
    for beat in 1..4 {
        assert_eq!(sequence(watcher.next().await.unwrap()), None);
        assert_eq!(start.elapsed().as_secs(), 10 * beat);
    }
    assert!(watcher.next().now_or_never().is_none());
}
