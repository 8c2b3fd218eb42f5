//! A benchmark through the front door: every choice measured, and a training that takes what is recommended.

use hone_client::v1::{self, JobState, benchmark_task::Training, job_event::Event, job_spec::Task};
use hone_tests::{Setup, events_of, fixture_model, repository, sft, uri};

#[tokio::test]
async fn a_training_runs_with_the_settings_that_a_benchmark_recommends() {
    let server = Setup::default().with_real_trainer().start().await;
    let client = server.client().await;
    let spec = sft(uri(fixture_model("llama")), uri(repository().join("tests/fixtures/sft/rows.jsonl")));
    let Some(Task::Sft(mut training)) = spec.task.clone() else { panic!("an sft job") };
    let task = v1::BenchmarkTask {
        training: Some(Training::Sft(training.clone())),
        steps: Some(1),
        tokens_per_micro_batch: vec![128],
        ..Default::default()
    };
    let measured = v1::JobSpec { task: Some(Task::Benchmark(task)), ..spec.clone() };
    let job = client.create_job(measured).await.unwrap();
    let events = events_of(&job).await;
    assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);
    let report = events.into_iter().find_map(|event| match event.event {
        Some(Event::Benchmark(report)) => Some(report),
        _ => None,
    });
    let report = report.unwrap();
    assert!(report.runs.len() >= 8, "two precisions, each with its own, a size, a way and a kernel: {report:?}");
    assert!(report.runs.iter().all(|run| run.tokens_per_second > 0.0), "{report:?}");

    let recommended = report.recommended.unwrap();
    (training.precision, training.attention) = (recommended.precision, recommended.attention);
    training.batch = Some(v1::BatchSpec {
        examples_per_step: Some(4),
        tokens_per_micro_batch: Some(recommended.tokens_per_micro_batch),
        activation_checkpointing: recommended.activation_checkpointing,
    });
    training.length = Some(v1::sft_task::Length::MaxSteps(1));
    let job = client.create_job(v1::JobSpec { task: Some(Task::Sft(training)), ..spec }).await.unwrap();
    let events = events_of(&job).await;
    assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);
    let kernel = events.iter().find_map(|event| match &event.event {
        Some(Event::Plan(plan)) => Some(plan.attention.clone()),
        _ => None,
    });
    let expected = if recommended.attention() == v1::AttentionKernel::Math { "math" } else { "flash_cpu" };
    assert_eq!(kernel.as_deref(), Some(expected));
}
