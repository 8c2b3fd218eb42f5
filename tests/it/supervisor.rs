//! What the server makes of a trainer in every mood. Whatever the trainer does, the server serves on and runs the next job.

use hone_client::v1::{self, FailureReason, JobState, job_event::Event};
use hone_client::{JobHandle, Outcome};
use hone_job::event::Warning;
use hone_job::failure::{Failure, Reason};
use hone_tests::{Act, Gate, Hello, Script, Server, Setup, events_of, kind, soon};

/// Plays a script and gives the job as it ended; then sees the server run another job to its end.
async fn play(server: &Server, script: Script) -> JobHandle {
    server.play(script);
    let job = server.job().await;
    events_of(&job).await;
    server.play(Script::normal(1));
    let next = server.job().await;
    events_of(&next).await;
    // A trainer leaves once its result is recorded, and the next one starts when it has left.
    assert!(server.trainers_of(job.id()).is_empty(), "no trainer is left");
    assert_eq!(next.get().await.unwrap().state(), JobState::Succeeded, "the next job runs");
    job
}

async fn failure_of(job: &JobHandle) -> v1::Failure {
    match job.wait().await.unwrap().outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn say_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} should say {part:?}");
    }
}

/// A script whose trainer is in the middle of its work when it comes to `act`.
fn amid(act: Act) -> Script {
    Script::of([Act::Running, Act::Steps(2), Act::Say("last words".into()), act])
}

#[tokio::test]
async fn a_normal_run_is_told_in_order_and_ends_with_its_result() {
    let server = Setup::default().start().await;
    let job = server.job().await;
    let events = events_of(&job).await;
    let told: Vec<_> = events.iter().map(kind).collect();
    let expected = [
        "PREPARING",
        "phase",
        "phase",
        "dataset_report",
        "plan",
        "RUNNING",
        "train_step",
        "train_step",
        "train_step",
        "checkpoint_saved",
        "result",
        "SUCCEEDED",
    ];
    let from = told.iter().position(|kind| kind == "PREPARING").unwrap();
    assert_eq!(told[from..], expected);
    assert!(events[from..].iter().all(|event| event.attempt == 1));

    let finished = job.get().await.unwrap();
    assert_eq!(
        (finished.state(), finished.attempt, finished.step, finished.total_steps),
        (JobState::Succeeded, 1, 3, 100)
    );
    assert_eq!(finished.last_sequence, events.len() as u64);
    assert_eq!(finished.result.unwrap().final_checkpoint_id, "step-000003");
    assert!(finished.start_time.is_some() && finished.end_time.is_some() && finished.failure.is_none());

    let folder = server.setup().path("download");
    let checkpoint = job.download("step-000003", &folder).await.unwrap();
    assert_eq!((checkpoint.step, checkpoint.attempt), (3, 1));
    assert!(folder.join("manifest.json").is_file());
    assert_eq!(
        std::fs::read(folder.join("adapter_model.safetensors")).unwrap(),
        hone_tests::weights(hone_tests::SMALL_WEIGHTS)
    );
}

#[tokio::test]
async fn a_signal_fails_the_job_by_its_name() {
    let server = Setup::default().start().await;
    let deaths =
        [(Act::Kill("KILL".into()), "SIGKILL"), (Act::Kill("SEGV".into()), "SIGSEGV"), (Act::Abort, "SIGABRT")];
    for (death, name) in deaths {
        let job = play(&server, amid(death)).await;
        let failure = failure_of(&job).await;
        assert_eq!(failure.reason(), FailureReason::TrainerCrashed, "{failure:?}");
        assert!(failure.retryable);
        say_all(&failure.message, &[name]);
        assert!(!failure.remedy.is_empty(), "{name}: {failure:?}");
    }
}

#[tokio::test]
async fn an_exit_or_a_panic_fails_the_job_with_its_last_words() {
    let server = Setup::default().start().await;
    let panic = Act::Panic("shapes [3, 4] and [5] do not fit".into());
    let deaths = [
        (Act::Exit(7), vec!["7", "last words"]),
        (Act::Exit(0), vec!["0", "last words"]),
        (panic, vec!["shapes [3, 4] and [5] do not fit"]),
    ];
    for (death, words) in deaths {
        let job = play(&server, amid(death)).await;
        let failure = failure_of(&job).await;
        assert_eq!(failure.reason(), FailureReason::TrainerCrashed, "{failure:?}");
        say_all(&failure.message, &words);
    }
}

#[tokio::test]
async fn every_reason_arrives_with_place_and_remedy() {
    let server = Setup::default().start().await;
    let reasons = [
        (Reason::InvalidData, FailureReason::InvalidData),
        (Reason::ModelUnsupported, FailureReason::ModelUnsupported),
        (Reason::OutOfMemory, FailureReason::OutOfMemory),
        (Reason::NonFinite, FailureReason::NonFinite),
        (Reason::Storage, FailureReason::Storage),
        (Reason::Internal, FailureReason::Internal),
    ];
    for (told, expected) in reasons {
        let failure = Failure::new(told, "it broke").at("rows.jsonl:7").try_this("mend it");
        server.play(Script::of([Act::Fail(failure)]));
        let job = server.job().await;
        let events = events_of(&job).await;
        let failure = failure_of(&job).await;
        assert_eq!(failure.reason(), expected);
        assert_eq!((&*failure.message, &*failure.location, &*failure.remedy), ("it broke", "rows.jsonl:7", "mend it"));
        assert_eq!(failure.retryable, told.retryable());
        let told: Vec<_> = events.iter().rev().take(2).map(kind).collect();
        assert_eq!(told, ["FAILED", "failure"]);
    }
}

#[tokio::test]
async fn a_trainer_that_never_dials_is_stopped() {
    let server = Setup::default().flag("--attach-timeout", "1s").start().await;
    let job = play(&server, Script::greeting(Hello { never: true, ..Hello::default() })).await;
    let failure = failure_of(&job).await;
    assert_eq!(failure.reason(), FailureReason::TrainerCrashed, "{failure:?}");
    say_all(&failure.message, &["did not dial", "1s"]);
}

#[tokio::test]
async fn a_trainer_that_cannot_prove_itself_is_refused() {
    let server = Setup::default().start().await;
    let greetings = [
        (Hello { secret: Some("0".repeat(64)), ..Hello::default() }, "secret"),
        (Hello { secret: Some(String::new()), ..Hello::default() }, "secret"),
        (Hello { protocol_version: Some(0), ..Hello::default() }, "version 0"),
        (Hello { protocol_version: Some(2), ..Hello::default() }, "version 2"),
        (Hello { attempt: Some(0), ..Hello::default() }, "attempt"),
        (Hello { attempt: Some(2), ..Hello::default() }, "attempt"),
        (Hello { heartbeat_first: true, ..Hello::default() }, "hello"),
    ];
    for (hello, word) in greetings {
        let job = play(&server, Script::greeting(hello)).await;
        let failure = failure_of(&job).await;
        assert_eq!(failure.reason(), FailureReason::TrainerCrashed, "{failure:?}");
        say_all(&failure.message.to_lowercase(), &["could not attach", word]);
        assert_eq!(job.get().await.unwrap().step, 0);
    }
}

#[tokio::test]
async fn a_report_sent_again_is_recorded_once() {
    let server = Setup::default().start().await;
    let acts = [
        Act::Running,
        Act::Steps(2),
        Act::Repeat,
        Act::Steps(1),
        Act::Redial,
        Act::Repeat,
        Act::Steps(1),
        Act::Redial,
        Act::Redial,
        Act::Repeat,
        Act::Succeed,
    ];
    let job = play(&server, Script::of(acts)).await;
    let steps: Vec<_> = events_of(&job).await.into_iter().filter_map(step_of).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
    assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);
}

fn step_of(event: v1::JobEvent) -> Option<u64> {
    match event.event {
        Some(Event::TrainStep(step)) => Some(step.step),
        _ => None,
    }
}

#[tokio::test]
async fn a_trainer_that_talks_nonsense_fails_its_job_alone() {
    let server = Setup::default().start().await;
    let huge = hone_job::event::Event::Warning(Warning { code: "huge".into(), message: "x".repeat(80 << 20) });
    let nonsense = [
        vec![Act::SkipNumber, Act::Steps(1)],
        vec![Act::RawEvent("{".into())],
        vec![Act::RawEvent(r#"{"train_step": {"step": "one"}}"#.into())],
        vec![Act::Event(huge)],
    ];
    for acts in nonsense {
        let script = Script::of([Act::Running, Act::Steps(1)].into_iter().chain(acts).chain([Act::Succeed]));
        let job = play(&server, script).await;
        let failure = failure_of(&job).await;
        assert!(matches!(failure.reason(), FailureReason::TrainerCrashed | FailureReason::Internal), "{failure:?}");
        assert_eq!(job.get().await.unwrap().step, 1, "what came before is kept");
    }
}

#[tokio::test]
async fn cancelling_saves_at_a_step_boundary_and_names_the_checkpoint() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::Steps(3), Act::WaitAt(gate.address()), Act::Steps(1000)]));
    let job = server.job().await;
    let trainer = gate.reached().await;
    assert_eq!(job.cancel().await.unwrap().state(), JobState::Cancelling);
    assert_eq!(job.cancel().await.unwrap().state(), JobState::Cancelling, "cancelling twice is no error");
    trainer.open().await;
    let events = events_of(&job).await;
    let told: Vec<_> = events.iter().rev().take(3).map(kind).collect();
    assert_eq!(told[0], "CANCELLED");
    assert!(told.contains(&"checkpoint_saved".to_owned()), "{told:?}");
    let checkpoint = job.last_checkpoint().await.unwrap();
    let Some(Event::StateChanged(last)) = &events.last().unwrap().event else { panic!() };
    assert!(last.detail.contains(&checkpoint.checkpoint_id), "{last:?}");
    assert_eq!(job.get().await.unwrap().state(), JobState::Cancelled);
    job.cancel().await.expect("a cancelled job stays so");
}

#[tokio::test]
async fn a_trainer_that_ignores_cancelling_is_killed() {
    let server = Setup::default().flag("--stop-grace", "1s").start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::Steps(1), Act::WaitAt(gate.address())]).deaf());
    let job = server.job().await;
    let trainer = gate.reached().await;
    job.cancel().await.unwrap();
    trainer.gone().await;
    events_of(&job).await;
    assert_eq!(job.get().await.unwrap().state(), JobState::Cancelled);
}

#[tokio::test]
async fn cancelling_a_queued_job_never_starts_a_trainer() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::WaitAt(gate.address()), Act::Succeed]));
    let running = server.job().await;
    let trainer = gate.reached().await;
    let queued = server.job().await;
    let waiting = queued.get().await.unwrap();
    assert_eq!(waiting.state(), JobState::Queued);
    assert!(!waiting.state_detail.is_empty(), "a job that waits says why");
    assert_eq!(queued.cancel().await.unwrap().state(), JobState::Cancelled);
    let told: Vec<_> = events_of(&queued).await.iter().map(kind).collect();
    assert!(!told.contains(&"PREPARING".to_owned()), "{told:?}");
    trainer.open().await;
    events_of(&running).await;
    assert_eq!(queued.get().await.unwrap().attempt, 0);
}

#[tokio::test]
async fn jobs_run_in_the_order_they_came_and_not_more_at_once_than_allowed() {
    let server = Setup::default().flag("--max-running-jobs", 2).start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::WaitAt(gate.address()), Act::Succeed]));
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(server.job().await);
    }
    let (first, second) = (gate.reached().await, gate.reached().await);
    let mut states = Vec::new();
    for job in &jobs {
        states.push(job.get().await.unwrap().state());
    }
    assert_eq!(states, [JobState::Running, JobState::Running, JobState::Queued, JobState::Queued]);
    first.open().await;
    let third = gate.reached().await;
    assert_eq!(jobs[3].get().await.unwrap().state(), JobState::Queued);
    for trainer in [second, third] {
        trainer.open().await;
    }
    gate.reached().await.open().await;
    for job in &jobs {
        soon("the job to end", job.wait()).await.unwrap();
        assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);
    }
}
