//! The watch against sources that drop, lag, repeat, fall silent and lie; time is paused, so nothing waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;

const SILENCE: Duration = Duration::from_secs(45);
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// What a stream does next; after the last it ends in good order.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// The event of this number.
    Event(u64),
    /// The event of this number, which brings the job to its end.
    Last(u64),
    Heartbeat,
    Fail(Code),
    /// Says nothing more, ever.
    Hang,
}
use Item::*;

/// What opening does.
type Opening = Result<Vec<Item>, Code>;

/// A source that plays its openings in turn and is unreachable after the last one.
#[derive(Clone)]
struct Played {
    openings: Arc<Mutex<VecDeque<Opening>>>,
    /// Number after which each stream was opened.
    opened_after: Arc<Mutex<Vec<u64>>>,
    job: pb::Job,
}

impl Played {
    fn new(openings: impl IntoIterator<Item = Opening>) -> Self {
        let job = pb::Job { state: pb::JobState::Running.into(), ..Default::default() };
        let openings = openings.into_iter().collect();
        Self { openings: Arc::new(Mutex::new(openings)), opened_after: Arc::default(), job }
    }

    fn of_a_job_that_ended_with(mut self, last_sequence: u64) -> Self {
        self.job = pb::Job { state: pb::JobState::Succeeded.into(), last_sequence, ..Default::default() };
        self
    }

    fn opened_after(&self) -> Vec<u64> {
        self.opened_after.lock().expect("unpoisoned").clone()
    }

    /// Everything that a watch from the start says.
    async fn watched(&self) -> Vec<Result<Update>> {
        self.watched_after(0).await
    }

    async fn watched_after(&self, after: u64) -> Vec<Result<Update>> {
        let watcher = Watcher::new(self.clone(), after, SILENCE);
        with_backoff(watcher.into_stream(), RetryPolicy::default(), GIVE_UP_AFTER).collect().await
    }
}

impl EventSource for Played {
    fn open(&mut self, after_sequence: u64) -> BoxFuture<'_, Result<EventStream>> {
        self.opened_after.lock().expect("unpoisoned").push(after_sequence);
        let opening = self.openings.lock().expect("unpoisoned").pop_front();
        Box::pin(async move {
            let items = opening.unwrap_or(Err(Code::Unavailable)).map_err(failure)?;
            Ok(stream::iter(items).then(played).boxed())
        })
    }

    fn job(&mut self) -> BoxFuture<'_, Result<pb::Job>> {
        let job = self.job.clone();
        Box::pin(async move { Ok(job) })
    }
}

async fn played(item: Item) -> Result<Option<pb::JobEvent>> {
    match item {
        Event(sequence) => Ok(Some(pb::JobEvent { sequence, ..Default::default() })),
        Last(sequence) => {
            let change = pb::StateChanged { to: pb::JobState::Succeeded.into(), ..Default::default() };
            let event = Some(pb::job_event::Event::StateChanged(change));
            Ok(Some(pb::JobEvent { sequence, event, ..Default::default() }))
        }
        Heartbeat => Ok(None),
        Fail(code) => Err(failure(code)),
        Hang => std::future::pending().await,
    }
}

fn failure(code: Code) -> Error {
    RpcError::new("WatchJob", "", &Status::new(code, "as played")).into()
}

/// The numbers of the events, in the order they came.
fn sequences(said: &[Result<Update>]) -> Vec<u64> {
    let number = |update: &Result<Update>| match update {
        Ok(Update::Event(event)) => Some(event.sequence),
        _ => None,
    };
    said.iter().filter_map(number).collect()
}

fn interruptions(said: &[Result<Update>]) -> usize {
    said.iter().filter(|update| matches!(update, Ok(Update::Reconnecting { .. }))).count()
}

fn ends_well(said: &[Result<Update>]) -> bool {
    said.iter().all(Result::is_ok)
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_through_is_told_once_and_ends_the_watch() {
    let source = Played::new([Ok(vec![Event(1), Heartbeat, Event(2), Last(3)])]);
    let said = source.watched().await;
    assert_eq!(sequences(&said), [1, 2, 3]);
    assert!(ends_well(&said) && interruptions(&said) == 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_taken_up_after_the_last_event() {
    for lost in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded] {
        let source = Played::new([Ok(vec![Event(1), Event(2), Fail(lost)]), Err(lost), Ok(vec![Event(3), Last(4)])]);
        let said = source.watched().await;
        assert_eq!(sequences(&said), [1, 2, 3, 4], "{lost:?}");
        assert_eq!(source.opened_after(), [0, 2, 2], "{lost:?}");
        assert_eq!(interruptions(&said), 2, "{lost:?}");
        assert!(ends_well(&said), "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_seen_before_are_skipped() {
    let source = Played::new([
        Ok(vec![Event(1), Event(2), Fail(Code::Unavailable)]),
        Ok(vec![Event(1), Event(2), Event(3), Last(4)]),
    ]);
    assert_eq!(sequences(&source.watched().await), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_after_the_number_it_is_given() {
    let source = Played::new([Ok(vec![Event(8), Last(9)])]);
    assert_eq!(sequences(&source.watched_after(7).await), [8, 9]);
    assert_eq!(source.opened_after(), [7]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_event_is_asked_for_again() {
    let source = Played::new([Ok(vec![Event(1), Event(3)]), Ok(vec![Event(2), Event(3), Last(4)])]);
    let said = source.watched().await;
    assert_eq!(sequences(&said), [1, 2, 3, 4]);
    assert_eq!(source.opened_after(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_stays_missing_is_an_error_and_no_silent_gap() {
    let source = Played::new([Ok(vec![Event(1), Event(3)]), Ok(vec![Event(3)]), Ok(vec![Event(3)])]);
    let said = source.watched().await;
    assert_eq!(sequences(&said), [1]);
    let last = said.last().expect("an end").as_ref().expect_err("an error").to_string();
    assert!(last.contains("event 2 is missing"), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_silent_is_given_up_and_reopened() {
    let source = Played::new([Ok(vec![Event(1), Hang]), Ok(vec![Last(2)])]);
    let start = Instant::now();
    let said = source.watched().await;
    assert_eq!(sequences(&said), [1, 2]);
    assert!(start.elapsed() >= SILENCE && start.elapsed() < SILENCE + Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_before_its_job_is_reopened() {
    let source = Played::new([Ok(vec![Event(1)]), Ok(vec![Last(2)])]);
    let said = source.watched().await;
    assert_eq!((sequences(&said), interruptions(&said)), (vec![1, 2], 1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_the_last_event_of_an_ended_job_ends_at_once() {
    let source = Played::new([Ok(Vec::new())]).of_a_job_that_ended_with(9);
    let said = source.watched_after(9).await;
    assert!(said.is_empty(), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waiting_cannot_heal_ends_the_watch() {
    for code in [Code::NotFound, Code::PermissionDenied, Code::InvalidArgument, Code::Unimplemented, Code::OutOfRange] {
        let said = Played::new([Err(code), Ok(vec![Last(1)])]).watched().await;
        assert_eq!(said.len(), 1, "{code:?}: {said:?}");
        assert_eq!(said[0].as_ref().expect_err("an error").code(), Some(code));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_away_is_given_up_in_the_end() {
    let source = Played::new([Ok(vec![Event(1)])]);
    let start = Instant::now();
    let said = source.watched().await;
    assert!(said.last().expect("an end").as_ref().expect_err("an error").is_unreachable());
    assert!(start.elapsed() >= GIVE_UP_AFTER && start.elapsed() < GIVE_UP_AFTER * 2, "{:?}", start.elapsed());
    let delays: Vec<_> = said
        .iter()
        .filter_map(|update| match update {
            Ok(Update::Reconnecting { delay, .. }) => Some(*delay),
            _ => None,
        })
        .collect();
    assert!(
        delays[0] <= Duration::from_millis(200) && delays.iter().max() > Some(&Duration::from_secs(2)),
        "{delays:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_longer_wait_than_is_taken_ends_the_watch() {
    let delays = RetryPolicy::default();
    let asks = |wait| {
        let details = ErrorDetails::with_retry_info(Some(wait));
        Err(RpcError::new("WatchJob", "", &Status::with_error_details(Code::Unavailable, "later", details)).into())
    };
    let signals = stream::iter([asks(delays.longest_wait), asks(delays.longest_wait * 60), Ok(Signal::Alive)]);
    let start = Instant::now();
    let said: Vec<_> = with_backoff(signals, delays.clone(), GIVE_UP_AFTER).collect().await;
    assert!(matches!(said[..], [Ok(Update::Reconnecting { .. }), Err(_)]), "{said:?}");
    assert_eq!(start.elapsed(), delays.longest_wait);
}

#[tokio::test(start_paused = true)]
async fn a_word_of_the_server_starts_the_delays_afresh() {
    let mut openings: Vec<Opening> = vec![Err(Code::Unavailable); 8];
    openings.push(Ok(vec![Heartbeat, Fail(Code::Unavailable)]));
    openings.push(Ok(vec![Last(1)]));
    let said = Played::new(openings).watched().await;
    let delay = |update: &Result<Update>| match update {
        Ok(Update::Reconnecting { delay, .. }) => *delay,
        other => panic!("no interruption: {other:?}"),
    };
    assert!(delay(&said[7]) > Duration::from_secs(2), "{said:?}");
    assert!(delay(&said[8]) <= Duration::from_millis(200), "{said:?}");
}
