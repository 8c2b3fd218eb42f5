//! Watching: history, then live, whatever happens meanwhile.

use hone_job::event::{Event, TrainStep};
use hone_proto::trainer::v1 as tp;
use hone_proto::v1 as pb;
use tokio::task::JoinSet;
use tonic::Code;

use super::assert_refused;
use crate::executor::Status as End;
use crate::testing::{Harness, Trainer, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_who_come_at_any_time_see_every_event_once_and_in_order() {
    let mut server = Harness::start().await;
    let (job_id, _launched, mut trainer) = server.running_job().await;
    let mut watchers = JoinSet::new();
    let watch = |mut stream: tonic::Streaming<pb::WatchJobResponse>| async move {
        let mut seen = Vec::new();
        while let Some(response) = soon(stream.message()).await.unwrap() {
            seen.extend(response.event.map(|event| event.sequence));
        }
        seen
    };
    const STEPS: u64 = 400;
    for number in 1..=STEPS {
        trainer.event(Event::TrainStep(TrainStep { step: number, ..TrainStep::default() })).await;
        if number % 50 == 1 {
            watchers.spawn(watch(server.watch(&job_id, 0).await));
        }
    }
    // One who reads nothing holds up nobody.
    let lazy = server.watch(&job_id, 0).await;
    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    let expected: Vec<u64> = (1..=STEPS + 4).collect();
    while let Some(seen) = watchers.join_next().await {
        assert_eq!(seen.unwrap(), expected);
    }
    assert_eq!(watch(lazy).await, expected);
}

#[tokio::test]
async fn a_long_history_is_told_to_its_end_without_any_news() {
    let mut server = Harness::start().await;
    let (job_id, _launched, mut trainer) = server.running_job().await;
    let steps = 3 * crate::store::MAX_EVENTS as u64;
    for number in 1..=steps {
        trainer.event(Event::TrainStep(TrainStep { step: number, ..TrainStep::default() })).await;
    }
    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    let seen: Vec<u64> = server.events(&job_id).await.into_iter().map(|event| event.sequence).collect();
    assert_eq!(seen, (1..=steps + 4).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watch_goes_on_after_the_number_it_is_given() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    let mut stream = server.watch(&job_id, 2).await;
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.running().await;
    let event = soon(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert_eq!(event.sequence, 3);
}

#[tokio::test]
async fn past_the_end_of_a_living_job_a_watch_waits_and_past_that_of_an_ended_one_it_is_refused() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    let mut waiting = server.watch(&job_id, 4).await;
    let mut too_far = server.watch(&job_id, 900).await;
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.running().await;
    launched.exit(End::Signal(11));
    drop(trainer);
    // 3: running, 4: failure, 5: failed.
    assert_eq!(soon(waiting.message()).await.unwrap().unwrap().event.unwrap().sequence, 5);
    assert_eq!(soon(waiting.message()).await.unwrap(), None);
    let mut late = server.watch(&job_id, 6).await;
    assert_refused(soon(late.message()).await, Code::OutOfRange, "PAST_THE_END");
    assert_refused(soon(too_far.message()).await, Code::OutOfRange, "PAST_THE_END");
    let mut exact = server.watch(&job_id, 5).await;
    assert_eq!(soon(exact.message()).await.unwrap(), None);
}

#[tokio::test]
async fn an_unknown_job_cannot_be_watched() {
    let server = Harness::start().await;
    let unknown = pb::WatchJobRequest { job_id: hone_job::id::Kind::Job.fresh(), after_sequence: 0 };
    let refused = soon(server.jobs().watch_job(unknown)).await.map(|_| ());
    assert_refused(refused, Code::NotFound, "NOT_FOUND");
}
