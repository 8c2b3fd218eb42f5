//! Preference optimisation through the front door: SFT, then DPO from its checkpoint, with the real trainer.

use hone_client::v1::{self, job_event::Event};
use hone_tests::{Server, Setup, events_of, fixture_model, kind, repository, sft, uri};
use serde_json::{Value, json};

fn pairs() -> String {
    uri(repository().join("tests/fixtures/dpo/pairs.jsonl"))
}

async fn server() -> Server {
    Setup::default().with_real_trainer().start().await
}

fn dpo(model: &str, init_from: Option<String>) -> v1::JobSpec {
    let data = v1::DataSpec { train: vec![pairs()], eval_fraction: Some(0.25), ..Default::default() };
    let task = v1::DpoTask {
        data: Some(data),
        init_from,
        length: Some(v1::dpo_task::Length::Epochs(3.0)),
        optimizer: Some(v1::OptimizerSpec { learning_rate: Some(3e-3), ..Default::default() }),
        batch: Some(v1::BatchSpec { examples_per_step: Some(8), ..Default::default() }),
        ..Default::default()
    };
    v1::JobSpec {
        base_model: Some(v1::BaseModel { uri: uri(fixture_model(model)) }),
        task: Some(v1::job_spec::Task::Dpo(task)),
        ..Default::default()
    }
}

/// How pairs were told apart at each step.
fn told_apart(events: &[v1::JobEvent]) -> Vec<v1::PreferenceMetrics> {
    let steps = events.iter().filter_map(|event| match &event.event {
        Some(Event::TrainStep(step)) => Some(step.preference.expect("a step of pairs says how they were told apart")),
        _ => None,
    });
    steps.collect()
}

fn reference_phases(events: &[v1::JobEvent]) -> Vec<String> {
    let phases = events.iter().filter_map(|event| match &event.event {
        Some(Event::Phase(phase)) if phase.name == "scoring_reference" => Some(phase.detail.clone()),
        _ => None,
    });
    phases.collect()
}

#[tokio::test]
async fn dpo_goes_on_from_an_sft_checkpoint_and_is_compared_with_it() {
    let server = server().await;
    let client = server.client().await;
    let mut spec = sft(uri(fixture_model("llama")), uri(repository().join("tests/fixtures/sft/rows.jsonl")));
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.optimizer = Some(v1::OptimizerSpec { learning_rate: Some(1e-2), ..Default::default() });
    let first = client.create_job(spec).await.unwrap();
    events_of(&first).await;
    let start = first.get().await.unwrap().result.unwrap().final_checkpoint_uri;

    let job = client.create_job(dpo("llama", Some(start.clone()))).await.unwrap();
    let events = events_of(&job).await;
    let told: Vec<_> = events.iter().map(kind).collect();
    assert_eq!(told.last().unwrap(), "SUCCEEDED", "{told:?}");
    assert!(!reference_phases(&events).is_empty());
    let steps = told_apart(&events);
    assert_eq!((steps[0].ties, steps[0].margin), (1.0, 0.0), "at first the policy is its own reference");
    let result = job.get().await.unwrap().result.unwrap();
    let (before, after) = (result.preference_before.unwrap(), result.preference_after.unwrap());
    assert_eq!((before.ties, before.accuracy), (1.0, 0.0));
    assert!(after.accuracy > 0.5 && after.margin > 0.0, "{after:?}");

    // The same rows against the same reference: what it says is read, not computed, and the run is the same.
    let again = client.create_job(dpo("llama", Some(start.clone()))).await.unwrap();
    let events = events_of(&again).await;
    assert!(reference_phases(&events).iter().all(|detail| detail.contains("read from")), "{events:?}");
    assert_eq!(told_apart(&events), steps);

    // Against the bare base model it begins apart.
    let mut spec = dpo("llama", Some(start));
    let Some(v1::job_spec::Task::Dpo(task)) = &mut spec.task else { panic!("a dpo job") };
    let base = v1::reference_policy::Policy::Base(v1::BasePolicy {});
    task.reference = Some(v1::ReferencePolicy { policy: Some(base) });
    task.length = Some(v1::dpo_task::Length::MaxSteps(1));
    let job = client.create_job(spec).await.unwrap();
    assert!(told_apart(&events_of(&job).await)[0].ties < 1.0);
}

#[tokio::test]
async fn pairs_can_be_looked_at_before_training() {
    let server = server().await;
    let request = v1::PreviewDatasetRequest {
        base_model: Some(v1::BaseModel { uri: uri(fixture_model("llama")) }),
        data: Some(v1::DataSpec { train: vec![pairs()], ..Default::default() }),
        preference: true,
        rows: Some(2),
        ..Default::default()
    };
    let found = server.client().await.preview_dataset(request).await.unwrap();
    assert_eq!((found.reports[0].rows_read, found.reports[0].examples), (96, 96));
    let rows = std::fs::read_to_string(repository().join("tests/fixtures/dpo/pairs.jsonl")).unwrap();
    for (shown, row) in found.rows.iter().zip(rows.lines()) {
        let row: Value = serde_json::from_str(row).unwrap();
        for (pieces, answer) in [(&shown.pieces, "chosen"), (&shown.rejected, "rejected")] {
            let text = |trained| -> String {
                pieces.iter().filter(|piece| piece.trained == trained).map(|piece| piece.text.as_str()).collect()
            };
            assert!(text(true).contains(row[answer].as_str().unwrap().trim()), "{pieces:?}");
            assert!(text(false).contains(row["prompt"].as_str().unwrap().trim()), "{pieces:?}");
        }
    }
}

#[tokio::test]
async fn a_reference_that_is_no_place_and_settings_that_clash_are_refused_by_field() {
    let server = server().await;
    let mut spec = dpo("llama", None);
    let Some(v1::job_spec::Task::Dpo(task)) = &mut spec.task else { panic!("a dpo job") };
    let checkpoint = v1::reference_policy::Policy::Checkpoint("an-adapter".into());
    task.reference = Some(v1::ReferencePolicy { policy: Some(checkpoint) });
    task.losses = vec![v1::PreferenceLoss { r#type: v1::PreferenceLossType::ExoPair.into(), weight: None }];
    task.beta = Some(0.0);
    let error = server.client().await.create_job(spec).await.unwrap_err();
    let text = json!(format!("{error:?}")).to_string();
    for field in ["spec.dpo.reference.checkpoint", "spec.dpo.label_smoothing", "spec.dpo.beta"] {
        assert!(text.contains(field), "{text} should name {field}");
    }
}
