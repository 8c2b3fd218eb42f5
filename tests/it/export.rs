//! What was trained leaves the service as files that others load: full-parameter runs and exports through the front door.

use hone_client::v1::{self, JobState, job_event::Event};
use hone_client::{JobHandle, Outcome};
use hone_tests::{Server, Setup, events_of, fixture_model, kind, repository, sft, uri};
use serde_json::Value;

async fn run(server: &Server, spec: v1::JobSpec) -> JobHandle {
    let job = server.client().await.create_job(spec).await.unwrap();
    events_of(&job).await;
    assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);
    job
}

/// A short run on the fixture's rows that trains what `adapter` says.
fn training(model: &str, adapter: Option<v1::AdapterSpec>) -> v1::JobSpec {
    let mut spec = sft(uri(fixture_model(model)), uri(repository().join("tests/fixtures/sft/rows.jsonl")));
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.adapter = adapter;
    task.batch = Some(v1::BatchSpec { examples_per_step: Some(8), ..Default::default() });
    task.length = Some(v1::sft_task::Length::MaxSteps(6));
    task.optimizer = Some(v1::OptimizerSpec { learning_rate: Some(5e-3), ..Default::default() });
    task.data.as_mut().unwrap().eval_fraction = Some(0.2);
    spec
}

fn export(model: &str, task: v1::ExportTask) -> v1::JobSpec {
    v1::JobSpec {
        base_model: Some(v1::BaseModel { uri: model.to_owned() }),
        task: Some(v1::job_spec::Task::Export(task)),
        ..Default::default()
    }
}

/// The held-out loss that a run on this model begins with, on the rows of [`training`].
async fn begins_with(server: &Server, model: String) -> f64 {
    let mut spec = training("llama_tied", None);
    spec.base_model = Some(v1::BaseModel { uri: model });
    let job = run(server, spec).await;
    job.get().await.unwrap().result.unwrap().eval_loss_before.unwrap()
}

#[tokio::test]
async fn an_exported_adapter_is_a_model_that_scores_as_the_run_ended() {
    let server = Setup::default().with_real_trainer().start().await;
    let trained = run(&server, training("llama_tied", None)).await;
    let result = trained.get().await.unwrap().result.unwrap();
    let task = v1::ExportTask {
        checkpoint: Some(result.final_checkpoint_uri.clone()),
        weight_type: v1::WeightType::Float32.into(),
        ..Default::default()
    };
    let job = run(&server, export(&uri(fixture_model("llama_tied")), task)).await;
    let events = events_of(&job).await;
    let told: Vec<_> = events.iter().map(kind).collect();
    for expected in ["phase", "RUNNING", "export_report", "checkpoint_saved", "result", "SUCCEEDED"] {
        assert!(told.iter().any(|kind| kind == expected), "{expected} in {told:?}");
    }
    let report = events.iter().find_map(|event| match &event.event {
        Some(Event::ExportReport(report)) => Some(report.clone()),
        _ => None,
    });
    let report = report.unwrap();
    assert_eq!((report.format.as_str(), report.weight_type.as_str()), ("hugging_face", "float32"));
    assert_eq!((report.merged_tensors, report.update_lost), (14, Some(0.0)), "2 layers of 7 projections");

    let exported = job.get().await.unwrap().result.unwrap();
    assert_eq!(exported.final_checkpoint_id, result.final_checkpoint_id, "named by the step it was trained to");
    let folder = server.setup().path("merged");
    job.download(&exported.final_checkpoint_id, &folder).await.unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    for name in ["model.safetensors", "tokenizer.json", "generation_config.json"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let begins = begins_with(&server, exported.final_checkpoint_uri).await;
    let ended = result.eval_loss_after.unwrap();
    assert!((begins - ended).abs() < 1e-4, "{begins} {ended}");
}

#[tokio::test]
async fn a_run_that_trained_all_weights_leaves_a_model() {
    let server = Setup::default().with_real_trainer().start().await;
    let full = v1::adapter_spec::Kind::Full(v1::FullSpec {});
    let job = run(&server, training("llama_tied", Some(v1::AdapterSpec { kind: Some(full) }))).await;
    let result = job.get().await.unwrap().result.unwrap();
    assert!(result.eval_loss_after.unwrap() < result.eval_loss_before.unwrap() - 0.1, "{result:?}");
    let checkpoint = job.last_checkpoint().await.unwrap();
    let names: Vec<_> = checkpoint.files.iter().map(|file| file.name.as_str()).collect();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "optimizer.safetensors", "trainer_state.json"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let begins = begins_with(&server, result.final_checkpoint_uri).await;
    assert!((begins - result.eval_loss_after.unwrap()).abs() < 1e-4, "{begins}");
}

#[tokio::test]
async fn an_export_that_cannot_be_says_why() {
    let server = Setup::default().with_real_trainer().start().await;
    let client = server.client().await;
    let gguf = uri(repository().join("tests/fixtures/gguf/llama.gguf"));
    let job = client.create_job(export(&gguf, v1::ExportTask::default())).await.unwrap();
    events_of(&job).await;
    let Outcome::Failed(failure) = job.wait().await.unwrap().outcome else { panic!("it failed") };
    assert!(failure.message.contains("quantised") && failure.message.contains("dequantize_base"), "{failure:?}");

    let nowhere = v1::ExportTask { checkpoint: Some("nowhere".into()), ..Default::default() };
    let refused = client.create_job(export(&gguf, nowhere)).await.unwrap_err().to_string();
    assert!(refused.contains("spec.export.checkpoint"), "{refused}");
}
