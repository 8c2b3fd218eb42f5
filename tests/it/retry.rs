//! Work that goes on: after a crash, a stall and a pause, from the last checkpoint, to the very weights of an unbroken run.

use std::path::PathBuf;

use hone_client::v1::{self, FailureReason, JobState, job_event::Event};
use hone_client::{JobHandle, Outcome};
use hone_tests::{
    Act, Gate, SMALL_WEIGHTS, Script, Server, Setup, events_of, fixture_model, kind, next_event, repository, sft,
    signal, soon, uri,
};

const SAVE: Act = Act::Checkpoint { weights_bytes: SMALL_WEIGHTS };

fn death() -> Act {
    Act::Kill("KILL".into())
}

async fn job(server: &Server, max_retries: u32) -> JobHandle {
    let spec = v1::JobSpec { max_retries: Some(max_retries), ..server.spec() };
    server.client().await.create_job(spec).await.unwrap()
}

async fn outcome_of(job: &JobHandle) -> Outcome {
    soon("the job to end", job.wait()).await.unwrap().outcome
}

fn details(events: &[v1::JobEvent], state: JobState) -> Vec<String> {
    let details = events.iter().filter_map(|event| match &event.event {
        Some(Event::StateChanged(change)) if change.to() == state => Some(change.detail.clone()),
        _ => None,
    });
    details.collect()
}

#[tokio::test]
async fn an_attempt_that_crashed_is_followed_by_another_from_the_last_checkpoint() {
    let setup = Setup::default();
    setup.play([Script::of([Act::Running, Act::Steps(2), SAVE, death()]), Script::normal(3)]);
    let server = setup.start().await;
    let job = job(&server, 1).await;
    assert!(matches!(outcome_of(&job).await, Outcome::Succeeded(_)));
    let events = events_of(&job).await;
    let finished = job.get().await.unwrap();
    assert_eq!((finished.attempt, finished.failure), (2, None), "a failure that was made good is history");
    let failures = events.iter().filter(|event| kind(event) == "failure").count();
    assert_eq!(failures, 1, "and told");
    let [detail] = &details(&events, JobState::Queued)[..] else { panic!("queued once: {events:?}") };
    for part in ["SIGKILL", "retry 1 of 1", "from step-000002", "in 1 s"] {
        assert!(detail.contains(part), "{detail:?} should say {part:?}");
    }
}

#[tokio::test]
async fn retries_run_out_unless_a_checkpoint_shows_progress() {
    let setup = Setup::default();
    let crash = || Script::of([Act::Running, Act::Steps(1), death()]);
    let progress = || Script::of([Act::Running, Act::Steps(1), SAVE, death()]);
    setup.play([crash(), progress(), crash()]);
    let server = setup.start().await;
    let job = job(&server, 1).await;
    let Outcome::Failed(failure) = outcome_of(&job).await else { panic!("it failed") };
    assert_eq!(failure.reason(), FailureReason::TrainerCrashed);
    assert_eq!(job.get().await.unwrap().attempt, 3, "the second attempt saved, so that its crash is the first again");
}

#[tokio::test]
async fn a_failure_that_cannot_pass_is_not_tried_again() {
    let setup = Setup::default();
    let failure = hone_job::failure::Failure::new(hone_job::failure::Reason::InvalidData, "no row is any good");
    setup.play([Script::of([Act::Fail(failure)])]);
    let server = setup.start().await;
    let job = job(&server, 5).await;
    assert!(matches!(outcome_of(&job).await, Outcome::Failed(_)));
    assert_eq!(job.get().await.unwrap().attempt, 1);
}

#[tokio::test]
async fn a_trainer_that_gets_nothing_done_is_killed_and_started_anew() {
    let setup = Setup::default().flag("--stall-timeout", "1s");
    // Nobody opens it, so that the trainer waits for good.
    let gate = Gate::new().await;
    setup.play([Script::of([Act::Running, Act::Steps(1), Act::WaitAt(gate.address())]), Script::normal(1)]);
    let server = setup.start().await;
    let job = job(&server, 1).await;
    assert!(matches!(outcome_of(&job).await, Outcome::Succeeded(_)));
    let events = events_of(&job).await;
    let failure = events.iter().find_map(|event| match &event.event {
        Some(Event::Failure(failure)) => Some(failure.clone()),
        _ => None,
    });
    let failure = failure.unwrap();
    assert_eq!((failure.reason(), failure.location.as_str()), (FailureReason::TrainerStalled, "after step 1"));
}

/// A run on a tiny model with dropout, packed micro-batches, several epochs and a checkpoint every 5 steps.
fn real_run(steps: u64) -> v1::JobSpec {
    let rows: PathBuf = repository().join("tests/fixtures/sft/rows.jsonl");
    let mut spec = sft(uri(fixture_model("llama")), uri(rows));
    spec.max_retries = Some(3);
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.batch =
        Some(v1::BatchSpec { examples_per_step: Some(10), tokens_per_micro_batch: Some(256), ..Default::default() });
    task.length = Some(v1::sft_task::Length::MaxSteps(steps));
    task.checkpoints = Some(v1::CheckpointSpec { every_steps: Some(5), ..Default::default() });
    task.schedule = Some(constant());
    let lora = v1::LoraSpec { rank: Some(4), dropout: Some(0.1), ..Default::default() };
    task.adapter = Some(v1::AdapterSpec { kind: Some(v1::adapter_spec::Kind::Lora(lora)) });
    spec
}

/// A rate that does not depend on the length of the run.
fn constant() -> v1::ScheduleSpec {
    let warmup = v1::schedule_spec::Warmup::WarmupSteps(2);
    v1::ScheduleSpec { r#type: v1::ScheduleType::Constant.into(), warmup: Some(warmup), ..Default::default() }
}

/// Digests of what a job ended with: adapter and optimizer.
async fn end_of(job: &JobHandle) -> Vec<(String, String)> {
    let checkpoint = job.last_checkpoint().await.unwrap();
    let wanted = |name: &str| name.ends_with(".safetensors");
    checkpoint.files.into_iter().filter(|file| wanted(&file.name)).map(|file| (file.name, file.sha256)).collect()
}

/// Losses by step; of a step that was taken twice both must be the same number.
fn losses(events: &[v1::JobEvent]) -> Vec<f64> {
    let mut losses = Vec::new();
    for event in events {
        if let Some(Event::TrainStep(step)) = &event.event {
            let (place, loss) = (step.step as usize - 1, step.loss.unwrap());
            match losses.get(place) {
                Some(before) => assert_eq!(*before, loss, "step {}", step.step),
                None => losses.push(loss),
            }
        }
    }
    losses
}

#[tokio::test]
async fn killed_paused_and_lengthened_a_run_ends_as_the_unbroken_one_to_the_bit() {
    let server = Setup::default().with_real_trainer().start().await;
    let client = server.client().await;
    let whole = client.create_job(real_run(40)).await.unwrap();
    assert!(matches!(outcome_of(&whole).await, Outcome::Succeeded(_)));

    let broken = client.create_job(real_run(30)).await.unwrap();
    let mut events = broken.watch();
    // There is one to go on from, and steps after it are lost and taken again.
    next_event(&mut events, "checkpoint_saved").await;
    next_event(&mut events, "train_step").await;
    for trainer in server.trainers_of(broken.id()) {
        signal(trainer, "KILL");
    }
    let Some(Event::Resumed(resumed)) = next_event(&mut events, "resumed").await.event else { panic!("it goes on") };
    assert!(resumed.step >= 5 && resumed.step.is_multiple_of(5), "{resumed:?}");
    assert_eq!(resumed.optimizer, "adamw with float32 moments");

    assert_eq!(broken.pause().await.unwrap().state(), JobState::Pausing);
    next_event(&mut events, "PAUSED").await;
    let paused = broken.get().await.unwrap();
    assert_eq!(paused.state(), JobState::Paused);
    let saved = broken.last_checkpoint().await.unwrap();
    assert!(paused.state_detail.contains(&saved.checkpoint_id), "{}", paused.state_detail);

    let mut other = real_run(40);
    other.max_retries = Some(1);
    let refused = broken.resume_with(other).await.unwrap_err().to_string();
    assert!(refused.contains("spec.max_retries"), "{refused}");
    assert_eq!(broken.resume_with(real_run(40)).await.unwrap().state(), JobState::Queued);
    let Some(Event::Resumed(resumed)) = next_event(&mut events, "resumed").await.event else { panic!("it goes on") };
    assert_eq!(resumed.checkpoint_id, saved.checkpoint_id);

    assert!(matches!(outcome_of(&broken).await, Outcome::Succeeded(_)));
    assert_eq!(losses(&events_of(&broken).await), losses(&events_of(&whole).await));
    assert_eq!(end_of(&broken).await, end_of(&whole).await);
}

#[tokio::test]
async fn a_running_job_saves_when_it_is_told_to_and_one_that_does_not_run_cannot() {
    let server = Setup::default().with_real_trainer().start().await;
    let mut spec = real_run(1_000_000);
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.checkpoints = None;
    let job = server.client().await.create_job(spec).await.unwrap();
    let mut events = job.watch();
    next_event(&mut events, "train_step").await;
    let saved = soon("the checkpoint", job.save_now()).await.unwrap();
    assert!(saved.step >= 1 && saved.checkpoint_id == format!("step-{:06}", saved.step), "{saved:?}");
    assert_eq!(job.last_checkpoint().await.unwrap(), saved);
    job.cancel().await.unwrap();
    outcome_of(&job).await;
    let refused = job.save_now().await.unwrap_err().to_string();
    assert!(refused.contains("only a running job can save"), "{refused}");
}

#[tokio::test]
async fn a_trainer_that_is_told_to_terminate_saves_and_another_goes_on_at_the_price_of_no_retry() {
    let server = Setup::default().with_real_trainer().start().await;
    let job = server.client().await.create_job(v1::JobSpec { max_retries: Some(0), ..real_run(60) }).await.unwrap();
    let mut events = job.watch();
    next_event(&mut events, "train_step").await;
    for trainer in server.trainers_of(job.id()) {
        signal(trainer, "TERM");
    }
    let Some(Event::CheckpointSaved(saved)) = next_event(&mut events, "checkpoint_saved").await.event else { panic!() };
    let Some(Event::Failure(failure)) = next_event(&mut events, "failure").await.event else { panic!() };
    assert_eq!(failure.reason(), FailureReason::Preempted);
    assert!(failure.retryable && failure.message.contains("it saved step-"), "{failure:?}");
    let Some(Event::Resumed(resumed)) = next_event(&mut events, "resumed").await.event else { panic!("it goes on") };
    assert!(resumed.step >= saved.step, "{resumed:?}");
    assert!(matches!(outcome_of(&job).await, Outcome::Succeeded(_)));
    assert!(events_of(&job).await.iter().any(|event| kind(event) == "warning"), "SIGTERM is told as it comes");
}

#[tokio::test]
async fn a_trainer_that_is_not_given_the_time_to_save_costs_no_retry_either() {
    let setup = Setup::default();
    let code = hone_job::event::Warning::TOLD_TO_LEAVE;
    let told = Act::Event(hone_job::event::Event::Warning(hone_job::event::Warning {
        code: code.into(),
        message: "SIGTERM".into(),
    }));
    let too_slow = Script::of([Act::Running, Act::Steps(2), SAVE, Act::Steps(1), told, death()]);
    let before_it_listens = Script::of([Act::Kill("TERM".into())]);
    setup.play([too_slow, before_it_listens, Script::normal(3)]);
    let server = setup.start().await;
    let job = job(&server, 0).await;
    assert!(matches!(outcome_of(&job).await, Outcome::Succeeded(_)));
    let details = details(&events_of(&job).await, JobState::Queued);
    for (detail, signal) in details.iter().zip(["SIGKILL", "SIGTERM"]) {
        for part in [signal, "another attempt from step-000002"] {
            assert!(detail.contains(part), "{detail:?} should say {part:?}");
        }
    }
    assert_eq!((details.len(), job.get().await.unwrap().attempt), (2, 3));
}
