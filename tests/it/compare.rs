//! What was trained, side by side: an SFT run, a DPO run from it and the base model on the same rows, by the client and by the
//! command line.

use std::process::Command;

use hone_client::v1::{self, JobState, job_event::Event};
use hone_client::{JobHandle, Outcome};
use hone_tests::{Server, Setup, binary, events_of, fixture_model, kind, repository, sft, uri};

async fn run(server: &Server, spec: v1::JobSpec) -> JobHandle {
    let job = server.client().await.create_job(spec).await.unwrap();
    events_of(&job).await;
    assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);
    job
}

fn rows(name: &str) -> String {
    uri(repository().join("tests/fixtures").join(name))
}

/// A short run that learns the fixture's rows by heart.
fn training() -> v1::JobSpec {
    let mut spec = sft(uri(fixture_model("llama")), rows("sft/rows.jsonl"));
    spec.display_name = "sft".into();
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.length = Some(v1::sft_task::Length::MaxSteps(6));
    task.optimizer = Some(v1::OptimizerSpec { learning_rate: Some(5e-3), ..Default::default() });
    spec
}

fn comparison(data: &str, candidates: &[(&str, Option<&str>)]) -> v1::JobSpec {
    let candidate = |&(name, checkpoint): &(&str, Option<&str>)| v1::Candidate {
        name: name.into(),
        checkpoint: checkpoint.map(str::to_owned),
    };
    let task = v1::CompareTask {
        candidates: candidates.iter().map(candidate).collect(),
        data: Some(v1::ScoredRows { rows: vec![rows(data)], ..Default::default() }),
        scoring: Some(v1::ScoringSpec { max_new_tokens: Some(4), ..Default::default() }),
        seed: None,
    };
    v1::JobSpec {
        base_model: Some(v1::BaseModel { uri: uri(fixture_model("llama")) }),
        task: Some(v1::job_spec::Task::Compare(task)),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_was_trained_is_compared_with_what_it_was_trained_from() {
    let server = Setup::default().with_real_trainer().start().await;
    let trained = run(&server, training()).await;
    let result = trained.get().await.unwrap().result.unwrap();
    let spec = comparison("sft/rows.jsonl", &[("base", None), ("sft", Some(&result.final_checkpoint_uri))]);
    let job = run(&server, spec).await;
    let events = events_of(&job).await;
    let told: Vec<_> = events.iter().map(kind).collect();
    for expected in ["phase", "dataset_report", "RUNNING", "scores", "checkpoint_saved", "result", "SUCCEEDED"] {
        assert!(told.iter().any(|kind| kind == expected), "{expected} in {told:?}");
    }
    let report = events.into_iter().find_map(|event| match event.event {
        Some(Event::Scores(report)) => Some(report),
        _ => None,
    });
    let report = report.unwrap();
    let steps: Vec<u64> = report.models.iter().map(|model| model.evaluation.as_ref().unwrap().step).collect();
    assert_eq!(steps, [0, 6], "the base model and a checkpoint of six steps");
    let difference = &report.differences[0];
    let loss = difference.loss.unwrap();
    assert!(loss.high < -0.1 && difference.wins > 90, "{difference:?}");
    assert_eq!((report.rows.len(), report.rows[0].scores.len()), (5, 2));

    let folder = server.setup().path("scores");
    job.download(&job.last_checkpoint().await.unwrap().checkpoint_id, &folder).await.unwrap();
    let rows = std::fs::read_to_string(folder.join("rows.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 96);
    assert!(folder.join("scores.json").is_file());

    let hone = |arguments: &[&str]| {
        let out = Command::new(binary("hone")).env("HONE_SERVER", server.url()).args(arguments).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        text
    };
    let pairs = repository().join("tests/fixtures/dpo/pairs.jsonl");
    let told = hone(&["compare", "base", trained.id(), "--data", pairs.to_str().unwrap(), "--show", "1"]);
    for expected in ["scored 96 pairs", "sft against base: loss", "margin", "better on", "rejected"] {
        assert!(told.contains(expected), "{expected} in\n{told}");
    }
    let told = hone(&["evaluate", trained.id(), "--data", pairs.to_str().unwrap(), "--max-examples", "10"]);
    assert!(told.contains("scored 10 pairs") && !told.contains("against"), "{told}");
}

#[tokio::test]
async fn a_comparison_that_cannot_be_says_why() {
    let server = Setup::default().with_real_trainer().start().await;
    let client = server.client().await;
    let twice = comparison("sft/rows.jsonl", &[("a", None), ("a", Some("nowhere"))]);
    let refused = client.create_job(twice).await.unwrap_err().to_string();
    for field in ["spec.compare.candidates[1].name", "spec.compare.candidates[1].checkpoint"] {
        assert!(refused.contains(field), "{field} in {refused}");
    }
    let other = uri(repository().join("tests/fixtures/adapters/phi3_qkv"));
    let job = client.create_job(comparison("sft/rows.jsonl", &[("a", None), ("b", Some(&other))])).await.unwrap();
    events_of(&job).await;
    let Outcome::Failed(failure) = job.wait().await.unwrap().outcome else { panic!("it failed") };
    assert!(failure.message.contains("phi3_qkv") || failure.location.contains("phi3_qkv"), "{failure:?}");
}
