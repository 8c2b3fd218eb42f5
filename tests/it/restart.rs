//! A server that leaves, or is killed, with jobs in every place: what was recorded stays, and work goes on.

use futures::TryStreamExt;
use hone_client::v1::{FailureReason, JobState, job_event::Event};
use hone_client::{Client, JobHandle, Outcome, v1};
use hone_tests::{Act, Gate, Script, Setup, events_of, kind, signal, soon};

async fn outcome_of(job: &JobHandle) -> Outcome {
    soon("the job to end", job.wait()).await.unwrap().outcome
}

/// The same job, asked of another server.
fn again(client: &Client, job: &JobHandle) -> JobHandle {
    client.job(job.id())
}

#[tokio::test]
async fn sigterm_saves_running_work_and_the_next_server_goes_on_from_it() {
    let setup = Setup::default();
    let gate = Gate::new().await;
    let first = Script::of([Act::Running, Act::Steps(3), Act::WaitAt(gate.address()), Act::Steps(1000)]);
    setup.play([first]);
    let mut server = setup.start().await;
    let running = server.job().await;
    let trainer = gate.reached().await;
    let queued = server.job().await;
    server.signal("TERM");
    trainer.open().await;
    let status = server.ended().await;
    assert!(status.success(), "{status}");

    setup.play([Script::normal(2)]);
    let server = setup.start().await;
    let client = server.client().await;
    let job = again(&client, &running);
    assert!(matches!(outcome_of(&job).await, Outcome::Succeeded(_)));
    let events = events_of(&job).await;
    let told: Vec<_> = events.iter().map(kind).filter(|kind| kind.chars().all(|c| c.is_ascii_uppercase())).collect();
    assert!(
        told.ends_with(&["PREPARING", "RUNNING", "QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"].map(str::to_owned)),
        "{told:?}"
    );
    let saved = events.iter().find_map(|event| match &event.event {
        Some(Event::CheckpointSaved(saved)) => Some(saved),
        _ => None,
    });
    assert_eq!(
        resumed_from(&events, 2),
        [saved.unwrap().uri.clone()],
        "the second attempt goes on from the first's work"
    );
    assert_eq!(job.get().await.unwrap().attempt, 2);
    assert!(matches!(outcome_of(&again(&client, &queued)).await, Outcome::Succeeded(_)), "the queued job has its turn");
}

/// Where the trainers of an attempt went on from, as they told it.
fn resumed_from(events: &[v1::JobEvent], attempt: u32) -> Vec<String> {
    let loading = events.iter().filter(|event| event.attempt == attempt).filter_map(|event| match &event.event {
        Some(Event::Phase(phase)) if phase.name == "loading_model" => Some(phase.detail.clone()),
        _ => None,
    });
    loading.collect()
}

#[tokio::test]
async fn sigterm_with_nothing_to_do_ends_at_once_and_twice_too() {
    for _ in 0..2 {
        let server = Setup::default().start().await;
        let status = server.stop().await;
        assert!(status.success(), "{status}");
    }
}

#[tokio::test]
async fn sigterm_ends_streams_with_unavailable() {
    let setup = Setup::default();
    let gate = Gate::new().await;
    setup.play([Script::of([Act::Running, Act::WaitAt(gate.address())])]);
    let mut server = setup.start().await;
    let job = server.job().await;
    let mut stub = v1::job_service_client::JobServiceClient::connect(server.url()).await.unwrap();
    let request = v1::WatchJobRequest { job_id: job.id().into(), after_sequence: 0 };
    let stream = stub.watch_job(request).await.unwrap().into_inner();
    let trainer = gate.reached().await;
    server.signal("TERM");
    trainer.open().await;
    let end = soon("the stream to end", stream.try_collect::<Vec<_>>()).await;
    assert_eq!(end.expect_err("the job is not over").code(), tonic::Code::Unavailable);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_killed_server_finds_its_trainer_still_at_work() {
    let setup = Setup::default();
    let gate = Gate::new().await;
    setup.play([Script::of([
        Act::Running,
        Act::Steps(3),
        Act::WaitAt(gate.address()),
        Act::Steps(3),
        Act::Checkpoint { weights_bytes: 1000 },
        Act::Succeed,
    ])]);
    let server = setup.start().await;
    let running = server.job().await;
    let trainer = gate.reached().await;
    let queued = server.job().await;
    let address = server.address().to_owned();
    server.kill().await;
    // The trainer takes its last steps alone; the next server hears of them.
    trainer.open().await;
    setup.play([Script::normal(1)]);
    let server = setup.clone().listening_on(address).start().await;
    let client = server.client().await;
    let job = again(&client, &running);
    assert!(matches!(outcome_of(&job).await, Outcome::Succeeded(_)));
    let events = events_of(&job).await;
    let steps: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::TrainStep(step)) => Some(step.step),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6], "nothing lost, nothing doubled");
    assert_eq!(job.get().await.unwrap().attempt, 1, "the same attempt");
    assert_eq!(job.last_checkpoint().await.unwrap().step, 6);
    assert!(matches!(outcome_of(&again(&client, &queued)).await, Outcome::Succeeded(_)));
}

#[tokio::test]
async fn a_killed_server_whose_trainer_died_too_says_so() {
    let setup = Setup::default().flag("--attach-timeout", "1s");
    let gate = Gate::new().await;
    setup.play([Script::of([Act::Running, Act::Steps(1), Act::WaitAt(gate.address())])]);
    let server = setup.start().await;
    let running = server.job().await;
    let trainer = gate.reached().await;
    let pids = server.trainers_of(running.id());
    assert_eq!(pids.len(), 1);
    server.kill().await;
    assert!(signal(pids[0], "KILL"));
    trainer.gone().await;
    setup.play([Script::normal(1)]);
    let server = setup.start().await;
    let client = server.client().await;
    let Outcome::Failed(failure) = outcome_of(&again(&client, &running)).await else { panic!("it cannot succeed") };
    assert_eq!(failure.reason(), FailureReason::TrainerCrashed, "{failure:?}");
    assert!(failure.message.contains("server"), "{failure:?}");
    assert!(matches!(outcome_of(&server.job().await).await, Outcome::Succeeded(_)), "and serves on");
}

#[tokio::test]
async fn everything_recorded_is_there_after_a_kill() {
    let setup = Setup::default();
    let server = setup.start().await;
    let client = server.client().await;
    let rows = hone_tests::write_lines(setup.path("upload.jsonl"), [hone_tests::conversation("a", "b")]);
    let dataset = client.upload_dataset(&rows).await.unwrap();
    let model = client.upload_model(hone_tests::fixture_model("llama_tied"), "tiny").await.unwrap();
    let done = client.create_job_once("once", server.spec()).await.unwrap();
    let events = events_of(&done).await;
    let before = done.get().await.unwrap();
    server.kill().await;

    let server = setup.start().await;
    let client = server.client().await;
    assert_eq!(client.get_dataset(&dataset.dataset_id).await.unwrap(), dataset);
    assert_eq!(client.get_model(&model.model_id).await.unwrap(), model);
    let job = again(&client, &done);
    assert_eq!(job.get().await.unwrap(), before);
    assert_eq!(events_of(&job).await, events);
    assert_eq!(client.create_job_once("once", server.spec()).await.unwrap().id(), done.id());
    assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);
}
