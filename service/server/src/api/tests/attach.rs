//! Trainers that dial, break off, lie and die.

use hone_job::event::{Event, TrainStep};
use hone_job::failure::{Failure, Reason};
use hone_proto::trainer::v1 as tp;
use hone_proto::v1 as pb;
use tonic::Code;

use super::assert_refused;
use crate::executor::Status as End;
use crate::testing::{Harness, Trainer, hello, soon};

fn step(step: u64) -> Event {
    Event::TrainStep(TrainStep { step, loss: Some(1.0), ..TrainStep::default() })
}

async fn assert_turned_away(server: &Harness, hello: tp::Hello, code: Code, reason: &str) {
    let attached = Trainer::attach_as(server, hello).await.map(|_| ());
    assert_refused(attached, code, reason);
}

#[tokio::test]
async fn a_caller_must_speak_the_version_be_the_attempt_and_know_the_secret() {
    let mut server = Harness::start().await;
    server.create().await;
    let launch = server.launch().await.launch;
    let version = tp::Hello { protocol_version: 99, job_id: "nonsense".into(), ..hello(&launch) };
    assert_turned_away(&server, version, Code::FailedPrecondition, "PROTOCOL_VERSION").await;
    let stranger = tp::Hello { secret: "guess".into(), ..hello(&launch) };
    assert_turned_away(&server, stranger, Code::Unauthenticated, "WRONG_SECRET").await;
    let older = tp::Hello { attempt: 0, ..hello(&launch) };
    assert_turned_away(&server, older, Code::FailedPrecondition, "ATTEMPT_SUPERSEDED").await;
    let unknown = tp::Hello { job_id: hone_job::id::Kind::Job.fresh(), ..hello(&launch) };
    assert_turned_away(&server, unknown, Code::NotFound, "NOT_FOUND").await;
    Trainer::attach(&server, &launch).await.unwrap();
}

#[tokio::test]
async fn the_welcome_brings_the_work_with_ids_made_into_uris() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    let trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    let spec: hone_job::spec::JobSpec = serde_json::from_str(&trainer.welcome.spec_json).unwrap();
    assert_eq!(spec, crate::testing::spec());
    assert!(trainer.welcome.job_uri.ends_with(&format!("/storage/jobs/{job_id}")), "{}", trainer.welcome.job_uri);
    assert_eq!((trainer.welcome.last_number, trainer.welcome.resume_from.as_str()), (0, ""));
}

#[tokio::test]
async fn a_trainer_that_dials_again_goes_on_and_nothing_is_doubled() {
    let mut server = Harness::start().await;
    let (job_id, launched, mut first) = server.running_job().await;
    let number = first.event(step(1)).await;
    first.acknowledged(number).await.unwrap();
    let mut second = Trainer::attach(&server, &launched.launch).await.unwrap();
    assert_eq!(second.welcome.last_number, 2);
    let sent_away = first.answer().await;
    assert_refused(sent_away, Code::Aborted, "CONNECTION_SUPERSEDED");
    // What was acknowledged to the first is sent again by the second, which cannot know.
    second.report_as(1, tp::report::Body::Running(tp::Running {})).await;
    second.report_as(2, tp::report::Body::EventJson(serde_json::to_string(&step(1)).unwrap())).await;
    let number = second.event(step(2)).await;
    second.acknowledged(number).await.unwrap();
    let job = server.get(&job_id).await;
    assert_eq!((job.step, job.last_sequence), (2, 5));
}

#[tokio::test]
async fn a_gap_in_the_reports_is_refused() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.report_as(1, tp::report::Body::Running(tp::Running {})).await;
    trainer.report_as(3, tp::report::Body::Running(tp::Running {})).await;
    let refused = loop {
        match trainer.answer().await {
            Ok(tp::attach_response::Message::Acknowledged(_)) => {}
            other => break other,
        }
    };
    assert_refused(refused, Code::OutOfRange, "REPORT_GAP");
    assert_eq!(server.get(&job_id).await.state(), pb::JobState::Running, "what came before is kept");
}

#[tokio::test]
async fn a_report_that_makes_no_sense_is_refused_by_number() {
    let mut server = Harness::start().await;
    server.create().await;
    let launched = server.launch().await;
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.report_as(1, tp::report::Body::EventJson("{\"no_such_event\":1}".into())).await;
    let status = assert_refused(trainer.answer().await, Code::InvalidArgument, "REPORT_INVALID");
    assert!(status.message().contains("report 1"), "{status}");
}

#[tokio::test]
async fn the_failure_a_trainer_reports_is_the_jobs() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    let failure = Failure::new(Reason::InvalidData, "row 3 is malformed").at("file:///rows:3").try_this("mend it");
    trainer.finish(tp::finished::End::FailureJson(serde_json::to_string(&failure).unwrap())).await;
    launched.exit(End::Code(0));
    let job = server.get(&job_id).await;
    let found = job.failure.clone().unwrap();
    assert_eq!((job.state(), found.reason()), (pb::JobState::Failed, pb::FailureReason::InvalidData));
    assert_eq!((found.location.as_str(), found.remedy.as_str()), ("file:///rows:3", "mend it"));
    assert_eq!(server.events(&job_id).await.len(), 4);
}

#[tokio::test]
async fn a_trainer_killed_by_a_signal_fails_its_job_and_the_next_one_starts() {
    let mut server = Harness::start().await;
    let (job_id, next) = (server.create().await, server.create().await);
    let launched = server.launch().await;
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.running().await;
    let number = trainer.event(step(5)).await;
    trainer.acknowledged(number).await.unwrap();
    drop(trainer);
    launched.exit(End::Signal(11));
    server.events(&job_id).await;
    let failure = server.get(&job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), pb::FailureReason::TrainerCrashed);
    assert!(failure.message.contains("SIGSEGV") && failure.message.contains("last words"), "{failure:?}");
    assert_eq!(failure.location, "after step 5");
    assert_eq!(server.launch().await.launch.job_id, next);
}

#[tokio::test]
async fn a_trainer_that_never_dials_is_killed_and_its_job_fails() {
    let mut server = Harness::start_with(|options| options.attach_timeout = std::time::Duration::from_millis(50)).await;
    let job_id = server.create().await;
    server.launch().await.killed().await;
    server.events(&job_id).await;
    let failure = server.get(&job_id).await.failure.unwrap();
    assert!(failure.message.contains("did not dial"), "{failure:?}");
}

#[tokio::test]
async fn a_trainer_that_does_not_leave_when_cancelled_is_killed() {
    let mut server = Harness::start_with(|options| options.stop_grace = std::time::Duration::from_millis(50)).await;
    let (job_id, mut launched, mut trainer) = server.running_job().await;
    soon(server.jobs().cancel_job(pb::CancelJobRequest { job_id: job_id.clone() })).await.unwrap();
    assert_eq!(trainer.command().await, tp::Command::Cancel);
    launched.killed().await;
    drop(trainer);
    server.events(&job_id).await;
    let job = server.get(&job_id).await;
    assert_eq!((job.state(), job.failure), (pb::JobState::Cancelled, None));
}

#[tokio::test]
async fn a_server_that_stops_lets_its_trainers_save_and_the_next_one_goes_on() {
    let mut server = Harness::start().await;
    let (job_id, launched, mut trainer) = server.running_job().await;
    let mut watch = server.watch(&job_id, 3).await;
    let store = server.store.clone();
    server.stop();
    assert_eq!(trainer.command().await, tp::Command::Stop);
    let ended = soon(watch.message()).await;
    assert_refused(ended, Code::Unavailable, "SERVER_STOPPING");
    let saved = hone_job::event::CheckpointSaved { uri: "file:///c/step-000003".into(), ..Default::default() };
    let number = trainer.event(Event::CheckpointSaved(saved)).await;
    trainer.acknowledged(number).await.unwrap();
    trainer.finish(tp::finished::End::Stopped(tp::Stopped { checkpoint_id: "step-000003".into() })).await;
    drop(trainer);
    drop(watch);
    launched.exit(End::Code(0));
    server.stopped().await.unwrap();

    let mut server = Harness::start_on(store, |_| {}).await;
    let launched = server.launch().await;
    assert_eq!((launched.launch.job_id.as_str(), launched.launch.attempt), (job_id.as_str(), 2));
    let trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    assert_eq!(trainer.welcome.resume_from, "file:///c/step-000003");
}

#[tokio::test]
async fn a_server_that_died_takes_a_living_trainer_back() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launch = server.launch().await.launch;
    let mut trainer = Trainer::attach(&server, &launch).await.unwrap();
    trainer.running().await;
    let store = server.store.clone();
    // As good as dead: nobody looks at the first server any more, and its supervisor never hears of an end.
    let mut second = Harness::start_on(store, |_| {}).await;
    let found = second.launch().await;
    assert_eq!(found.launch.job_id, job_id);
    let mut trainer = Trainer::attach(&second, &launch).await.unwrap();
    assert_eq!(trainer.welcome.last_number, 1);
    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    assert_eq!(second.get(&job_id).await.state(), pb::JobState::Succeeded);
}

#[tokio::test]
async fn a_trainer_that_does_not_come_back_fails_its_job() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    server.launch().await;
    let second = Harness::start_on(server.store.clone(), |options| {
        options.attach_timeout = std::time::Duration::from_millis(50)
    })
    .await;
    second.events(&job_id).await;
    let failure = second.get(&job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), pb::FailureReason::TrainerCrashed);
}
