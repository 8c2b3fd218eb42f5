//! The examples of the SDK, run as their own comments say.

use hone_client::v1::{JobState, ListJobsRequest};
use hone_tests::{
    Act, Ended, Gate, Script, Server, Setup, binary, conversation, fixture_model, repository, run, write_lines,
};
use tokio::process::Command;

fn example(server: &Server, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary(&format!("examples/{name}")));
    command.env("HONE_SERVER", server.url()).args(arguments);
    command
}

async fn ended(server: &Server, name: &str, arguments: &[&str]) -> Ended {
    run(&mut example(server, name, arguments)).await
}

fn fixture(name: &str) -> String {
    repository().join("tests/fixtures").join(name).display().to_string()
}

/// A small model and a file of rows.
fn at_home(server: &Server) -> (String, String) {
    let rows = write_lines(server.setup().path("rows.jsonl"), (0..40).map(|n| conversation(&format!("{n}?"), "b.")));
    (fixture_model("llama_tied").display().to_string(), rows.display().to_string())
}

async fn states(server: &Server) -> Vec<JobState> {
    let found = server.client().await.list_jobs(ListJobsRequest::default()).await.unwrap();
    found.jobs.iter().map(|job| job.state()).collect()
}

#[tokio::test]
async fn quickstart_ends_with_an_adapter() {
    let server = Setup::default().start().await;
    let (model, rows) = at_home(&server);
    let adapter = server.setup().path("adapter");
    let told = ended(&server, "quickstart", &[&model, &rows, adapter.to_str().unwrap()]).await;
    for words in ["rows take part", "step 3: loss", "ready for PEFT"] {
        assert!(told.success().contains(words), "{told:#?} should say {words}");
    }
    assert!(adapter.join("adapter_config.json").is_file());
}

#[tokio::test]
async fn sft_then_dpo_ends_with_a_comparison() {
    let server = Setup::default().with_real_trainer().start().await;
    let (model, rows, pairs) = (fixture("models/llama"), fixture("sft/rows.jsonl"), fixture("dpo/pairs.jsonl"));
    let told = ended(&server, "sft_then_dpo", &[&model, &rows, &pairs, &pairs]).await;
    for words in ["base: tells", "sft: tells", "dpo: tells", "dpo against base: margin"] {
        assert!(told.success().contains(words), "{told:#?} should say {words}");
    }
    assert_eq!(states(&server).await, [JobState::Succeeded; 3]);
}

#[tokio::test]
async fn a_sweep_gives_up_on_what_lags_and_names_the_best() {
    let server = Setup::default().with_real_trainer().start().await;
    let (model, rows) = (fixture("models/llama"), fixture("sft/rows.jsonl"));
    let told = ended(&server, "sweep", &[&model, &rows, "1e-2", "1e-8"]).await;
    assert!(told.success().contains("1e-8: given up at step"), "{told:#?}");
    assert!(told.stdout.contains("best: 1e-2 with a held-out loss of"), "{told:#?}");
}

#[tokio::test]
async fn a_pipeline_that_is_killed_goes_on_with_its_job() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    let rest = [Act::Steps(2), Act::Checkpoint { weights_bytes: 2048 }, Act::Succeed];
    server.play(Script::of([Act::Running, Act::Steps(2), Act::WaitAt(gate.address())].into_iter().chain(rest)));
    let (model, rows) = at_home(&server);
    let folder = server.setup().path("pipeline");
    let arguments = [&model, &rows, folder.to_str().unwrap()];
    let mut first = example(&server, "resume", &arguments.map(|argument| argument as &str));
    let mut killed = first.kill_on_drop(true).spawn().unwrap();
    let trainer = gate.reached().await;
    killed.kill().await.unwrap();
    trainer.open().await;
    let told = ended(&server, "resume", &arguments.map(|argument| argument as &str)).await;
    assert!(told.success().contains("step 4, loss"), "{told:#?}");
    assert!(folder.join("adapter/manifest.json").is_file());
    assert_eq!(states(&server).await, [JobState::Succeeded], "one job, however often it was asked for");
    let client = server.client().await;
    assert_eq!(client.list_datasets(Default::default()).await.unwrap().datasets.len(), 1, "and one upload");
    // What is done is done: a third start changes nothing.
    assert!(!ended(&server, "resume", &arguments.map(|argument| argument as &str)).await.success().contains("step"));
}

#[tokio::test]
async fn nightly_jobs_are_made_once_a_date_and_the_last_are_kept() {
    let server = Setup::default().start().await;
    let (model, rows) = at_home(&server);
    for date in ["2026-11-26", "2026-11-27", "2026-11-27"] {
        ended(&server, "nightly", &[&model, &rows, date, "2"]).await.success();
    }
    assert_eq!(states(&server).await, [JobState::Succeeded; 2]);
    let told = ended(&server, "nightly", &[&model, &rows, "2026-11-28", "2"]).await;
    assert!(told.success().contains("nightly 2026-11-26 deleted"), "{told:#?}");
    assert_eq!(states(&server).await, [JobState::Succeeded; 2]);
}
