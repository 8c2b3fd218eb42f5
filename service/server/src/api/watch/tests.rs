//! Watchers that keep up, and those that do not.

use std::sync::atomic::{AtomicUsize, Ordering};

use tonic_types::StatusExt;

use super::*;

/// Events without end, and a count of those that were made.
fn endless(made: Arc<AtomicUsize>) -> Events {
    Box::pin(futures::stream::iter(1..).map(move |sequence| {
        made.fetch_add(1, Ordering::Relaxed);
        Ok(pb::WatchJobResponse { event: Some(pb::JobEvent { sequence, ..Default::default() }) })
    }))
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_takes_nothing_is_sent_away_with_the_number_to_go_on_from() {
    let made = Arc::new(AtomicUsize::new(0));
    let mut watcher = taken_in_time(endless(made.clone()), 0);
    let first = watcher.recv().await.unwrap().unwrap();
    assert_eq!(first.event.unwrap().sequence, 1);
    tokio::time::sleep(PATIENCE * 2).await;
    let waiting = watcher.recv().await.unwrap().unwrap();
    assert_eq!(waiting.event.unwrap().sequence, 2, "what was handed on is not lost");
    let status = watcher.recv().await.unwrap().unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "WATCHER_TOO_SLOW"));
    assert_eq!(info.metadata["last_sequence"], "2");
    assert!(watcher.recv().await.is_none());
    assert_eq!(made.load(Ordering::Relaxed), 3, "no more was read than it took and one");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_is_slow_but_takes_something_stays() {
    let mut watcher = taken_in_time(endless(Arc::default()), 0);
    for sequence in 1..20 {
        tokio::time::sleep(PATIENCE / 2).await;
        assert_eq!(watcher.recv().await.unwrap().unwrap().event.unwrap().sequence, sequence);
    }
}
