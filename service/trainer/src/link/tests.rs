//! The link against a server of many moods: each report arrives once, in order.

use hone_job::event::TrainStep;
use hone_job::failure::Reason;

use super::*;

mod server;

use server::{Acks, Mood, Server};

fn options(server: &Server) -> Options {
    Options {
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(5),
        welcome_within: Duration::from_millis(500),
        heartbeat_every: Duration::from_millis(5),
        ..Options::new(server.url(), "job-1", 2, Secret::new("secret"))
    }
}

fn step(step: u64) -> Event {
    Event::TrainStep(TrainStep { step, ..TrainStep::default() })
}

/// Runs code of the computing thread, which may wait.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// What a run of `steps` steps tells, in order.
fn story(steps: u64) -> Vec<String> {
    let steps = (1..=steps).map(|step| format!("step {step}"));
    std::iter::once("running".to_string()).chain(steps).chain(["succeeded".to_string()]).collect()
}

/// Attaches, tells a story of 40 steps, and finishes.
async fn run_against(server: &Server) {
    let (link, welcome) = Link::attach(options(server)).await.unwrap();
    assert_eq!((welcome.job_id.as_str(), welcome.attempt), ("job-1", 2));
    assert_eq!(welcome.resume_from.as_deref(), Some("file:///jobs/1/checkpoints/step-000004"));
    let finished = compute(move || {
        link.running();
        (1..=40).for_each(|number| link.report(step(number)));
        link.finish(End::Succeeded)
    });
    assert_eq!(finished.await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_report_arrives_once_in_order_however_the_connection_fares() {
    let good = Mood::default();
    for moods in [
        vec![],
        vec![Mood { acks: Acks::Twice, ..good.clone() }],
        vec![Mood { acks: Acks::EveryNth(7), ..good.clone() }],
        // Recorded, and the connection is gone before the acknowledgement: must not be recorded twice.
        vec![Mood { drop_after: Some(3), acks: Acks::None, ..good.clone() }],
        vec![Mood { drop_after: Some(5), acks: Acks::EveryNth(2), ..good.clone() }; 6],
        vec![Mood { drop_after: Some(1), ..good.clone() }; 30],
        // The end itself is recorded, but its acknowledgement is lost.
        vec![Mood { drop_after: Some(42), acks: Acks::None, ..good.clone() }],
        vec![
            Mood { drop_after: Some(9), ..good.clone() },
            Mood { refuse: Some(tonic::Code::Unavailable), ..good.clone() },
            Mood { never_welcome: true, ..good.clone() },
            Mood { close_after_welcome: true, ..good.clone() },
            Mood { drop_after: Some(2), acks: Acks::Twice, ..good.clone() },
        ],
    ] {
        let server = Server::start(moods.clone());
        run_against(&server).await;
        assert_eq!(server.desk().told(), story(40), "{moods:?}");
        assert_eq!(server.desk().out_of_order(), 0, "{moods:?}");
        assert_eq!(server.desk().moods_left(), 0, "each connection was made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_and_comes_back_gets_what_happened_in_between() {
    let server = Server::start(vec![]);
    let desk = server.desk();
    let (link, _) = Link::attach(options(&server)).await.unwrap();
    link.running();
    link.report(step(1));
    desk.wait_until(|desk| desk.told().len() == 2).await;

    let address = server.kill();
    (2..=40).for_each(|number| link.report(step(number)));
    let _again = Server::start_at(address, desk.clone());
    assert_eq!(compute(move || link.finish(End::Succeeded)).await, Ok(()));
    assert_eq!(desk.told(), story(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_when_attaching_is_told_at_once() {
    for code in [tonic::Code::PermissionDenied, tonic::Code::NotFound, tonic::Code::FailedPrecondition] {
        let server = Server::start(vec![Mood { refuse: Some(code), ..Mood::default() }]);
        let error = Link::attach(options(&server)).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert_eq!(server.desk().attached(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_refused_while_training_is_told_to_stop() {
    let server = Server::start(vec![
        Mood { drop_after: Some(1), ..Mood::default() },
        Mood { refuse: Some(tonic::Code::FailedPrecondition), ..Mood::default() },
    ]);
    let (link, _) = Link::attach(Options { buffer_bytes: 0, ..options(&server) }).await.unwrap();
    let told = compute(move || {
        // Reports go on until the trainer hears of it at a step boundary; none of them waits for ever.
        let steps = (1..).take_while(|number| {
            link.report(step(*number));
            link.command().is_none()
        });
        let taken = steps.count();
        (taken, link.command(), link.finish(End::Stopped { checkpoint_id: None }))
    });
    let (_, command, finished) = told.await;
    assert_eq!(command, Some(Command::Stop));
    assert!(matches!(finished, Err(Error::Refused { .. })), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told_with_address_and_cause() {
    let server = Server::start(vec![]);
    let options = Options { attach_within: Duration::ZERO, ..options(&server) };
    let address = server.kill();
    let error = Link::attach(options).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn what_is_no_url_is_said_so() {
    for url in ["", "localhost:7400", "ftp://x", "http://"] {
        let error = Link::attach(Options::new(url, "job-1", 1, Secret::new("s"))).await.unwrap_err();
        assert!(matches!(error, Error::Url { .. }), "{url}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_heartbeats_cross() {
    let server = Server::start(vec![]);
    let desk = server.desk();
    let (link, _) = Link::attach(options(&server)).await.unwrap();
    link.step(7);
    desk.wait_until(|desk| desk.last_step() == Some(7)).await;
    assert_eq!(link.command(), None);
    desk.command(pb::Command::Checkpoint);
    let seen = compute(move || {
        let first = std::iter::repeat_with(|| link.command()).flatten().next();
        (first, link.command(), link)
    });
    let (first, second, link) = seen.await;
    assert_eq!((first, second), (Some(Command::Checkpoint), None));
    desk.command(pb::Command::Cancel);
    let seen = compute(move || (std::iter::repeat_with(|| link.command()).flatten().next(), link.command()));
    assert_eq!(seen.await, (Some(Command::Cancel), Some(Command::Cancel)));
}

#[test]
fn the_gravest_command_comes_first() {
    let queue = Queue::new(0);
    queue.request(Command::Checkpoint);
    queue.request(Command::Stop);
    assert_eq!(queue.command(), Some(Command::Stop));
    queue.request(Command::Cancel);
    assert_eq!(queue.command(), Some(Command::Cancel));
    assert_eq!(queue.command(), Some(Command::Cancel));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_whole_and_a_stop_names_its_checkpoint() {
    let failure = Failure::new(Reason::NonFinite, "the loss is NaN").at("step 3").try_this("a lower learning rate");
    let json = serde_json::to_string(&failure).unwrap();
    let stopped = || End::Stopped { checkpoint_id: Some("step-000003".into()) };
    for (end, told) in [
        (End::Failed(failure), json.as_str()),
        (stopped(), "stopped step-000003"),
        (End::Stopped { checkpoint_id: None }, "stopped "),
    ] {
        let server = Server::start(vec![]);
        let (link, _) = Link::attach(options(&server)).await.unwrap();
        assert_eq!(compute(move || link.finish(end)).await, Ok(()));
        assert_eq!(server.desk().told(), [told]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_acknowledges_is_given_up() {
    let server = Server::start(vec![Mood { acks: Acks::None, ..Mood::default() }]);
    let patience = Duration::from_millis(20);
    let (link, _) =
        Link::attach(Options { finish_within: patience, buffer_bytes: 0, ..options(&server) }).await.unwrap();
    link.running();
    let finished = compute(move || link.finish(End::Succeeded)).await;
    assert!(matches!(finished, Err(Error::Unacknowledged { unacknowledged: 2, .. })), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_started_anew_numbers_on_from_what_the_server_has() {
    let server = Server::start(vec![Mood { drop_after: Some(2), ..Mood::default() }]);
    let desk = server.desk();
    let (first, _) = Link::attach(options(&server)).await.unwrap();
    first.running();
    first.report(step(1));
    desk.wait_until(|desk| desk.attached() == 2).await;
    let (second, _) = Link::attach(options(&server)).await.unwrap();
    second.report(step(2));
    assert_eq!(compute(move || second.finish(End::Succeeded)).await, Ok(()));
    assert_eq!(desk.told(), story(2));
    assert_eq!(desk.out_of_order(), 0);
}

#[test]
fn a_server_that_cannot_be_talking_of_this_process_is_not_believed() {
    let queue = Queue::new(usize::MAX);
    queue.welcome(0).unwrap();
    (0..5).for_each(|_| queue.push(pb::report::Body::Running(pb::Running {})));
    assert!(queue.welcome(6).is_err(), "has a report that was never made");
    queue.acknowledge(9);
    assert!(queue.has_after(4), "nothing was forgotten for it");
    queue.acknowledge(3);
    assert!(queue.welcome(2).is_err(), "lost reports that it had acknowledged");
    queue.welcome(4).unwrap();
    assert_eq!(queue.after(4).map(|report| report.number), Some(5));
    assert_eq!(queue.after(5), None);
}

#[test]
fn a_full_buffer_makes_reports_wait_until_some_are_acknowledged() {
    let queue = Queue::new(0);
    let acknowledged = std::sync::atomic::AtomicBool::new(false);
    let push = || queue.push(pb::report::Body::Running(pb::Running {}));
    push();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            push();
            assert!(acknowledged.load(std::sync::atomic::Ordering::SeqCst), "did not wait");
        });
        // Plenty of chances to go wrong.
        (0..1000).for_each(|_| std::thread::yield_now());
        acknowledged.store(true, std::sync::atomic::Ordering::SeqCst);
        queue.acknowledge(1);
    });
    // The last report never waits for room.
    queue.push(pb::report::Body::Finished(pb::Finished::default()));
    assert!(queue.has_after(2));
}
