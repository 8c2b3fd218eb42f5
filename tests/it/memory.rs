//! Memory that runs out in the real trainer, whose allocator is told that there is none.

use hone_client::v1::{self, job_event::Event};
use hone_client::{JobHandle, Outcome};
use hone_tests::{Server, Setup, events_of, fixture_model, preloaded, repository, sft, uri};

/// A server whose trainers get no tensor of more than so many bytes.
async fn server(most_bytes: u64) -> Server {
    let setup = Setup::default().with_real_trainer();
    let library = preloaded("little_memory", setup.path(".").as_path()).await;
    let variables = [("LD_PRELOAD", library.display().to_string()), ("LITTLE_MEMORY_BYTES", most_bytes.to_string())];
    let names = variables.each_ref().map(|(name, _)| *name).join(",");
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    setup.flag("--trainer-env", names).environment(variables).start().await
}

fn run(tokens_per_micro_batch: u32) -> v1::JobSpec {
    let rows = uri(repository().join("tests/fixtures/sft/rows.jsonl"));
    let mut spec = sft(uri(fixture_model("llama")), rows);
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.batch = Some(v1::BatchSpec {
        examples_per_step: Some(80),
        tokens_per_micro_batch: Some(tokens_per_micro_batch),
        ..Default::default()
    });
    task.length = Some(v1::sft_task::Length::MaxSteps(4));
    task.data.as_mut().unwrap().eval_fraction = Some(0.2);
    spec
}

async fn warnings(job: &JobHandle) -> Vec<v1::Warning> {
    let events = events_of(job).await.into_iter();
    events
        .filter_map(|event| if let Some(Event::Warning(warning)) = event.event { Some(warning) } else { None })
        .collect()
}

async fn final_loss(job: &JobHandle) -> f64 {
    job.get().await.unwrap().result.unwrap().eval_loss_after.unwrap()
}

#[tokio::test]
async fn a_run_that_runs_out_of_memory_goes_on_with_smaller_micro_batches() {
    let roomy = Setup::default().with_real_trainer().start().await;
    let unbroken = roomy.client().await.create_job(run(100_000)).await.unwrap();
    assert_eq!(warnings(&unbroken).await, []);
    let server = server(400_000).await;
    let job = server.client().await.create_job(run(100_000)).await.unwrap();
    let warnings = warnings(&job).await;
    assert!(warnings.iter().all(|warning| warning.code == "out_of_memory"), "{warnings:?}");
    let told = |what: &str| warnings.iter().filter(|warning| warning.message.contains(what)).count();
    assert!(told("micro-batches hold 50000 tokens in place of 100000") == 1, "{warnings:?}");
    assert!(told("activations are made again") == 1, "{warnings:?}");
    let (loss, expected) = (final_loss(&job).await, final_loss(&unbroken).await);
    assert!((loss - expected).abs() < 1e-4, "{loss}, unbroken {expected}");
}

#[tokio::test]
async fn a_run_whose_longest_row_does_not_fit_fails_and_says_what_to_try() {
    let server = server(40_000).await;
    let mut spec = run(64);
    spec.max_retries = Some(0);
    let job = server.client().await.create_job(spec).await.unwrap();
    events_of(&job).await;
    let Outcome::Failed(failure) = job.wait().await.unwrap().outcome else { panic!("it failed") };
    assert_eq!(failure.reason(), v1::FailureReason::OutOfMemory, "{failure:?}");
    assert!(failure.remedy.contains("max_length"), "{failure:?}");
}
