//! The real trainer under the real server, on tiny models: what a run leaves, and how a run that cannot be says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use hone_client::v1::{self, FailureReason, JobState, job_event::Event};
use hone_client::{JobHandle, Outcome};
use hone_job::checkpoint::Manifest;
use hone_tests::{
    Proxy, SeaweedFs, Server, Setup, conversation, events_of, fixture_model, kind, next_event, repository, sft, signal,
    soon, uri, write_lines,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// 96 rows of prompt and completion.
fn rows() -> PathBuf {
    repository().join("tests/fixtures/sft/rows.jsonl")
}

async fn server() -> Server {
    Setup::default().with_real_trainer().start().await
}

fn task(spec: &mut v1::JobSpec) -> &mut v1::SftTask {
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task
}

/// A run of `steps` steps on a model and the fixture's rows.
fn short_run(model: impl Into<String>, steps: u64) -> v1::JobSpec {
    let mut spec = sft(model, uri(rows()));
    let task = task(&mut spec);
    task.batch = Some(v1::BatchSpec { examples_per_step: Some(8), ..Default::default() });
    task.length = Some(v1::sft_task::Length::MaxSteps(steps));
    task.optimizer = Some(v1::OptimizerSpec { learning_rate: Some(1e-2), ..Default::default() });
    spec
}

async fn run(server: &Server, spec: v1::JobSpec) -> JobHandle {
    let job = server.client().await.create_job(spec).await.unwrap();
    events_of(&job).await;
    job
}

async fn failure_of(job: &JobHandle) -> v1::Failure {
    match job.wait().await.unwrap().outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn losses(events: &[v1::JobEvent]) -> Vec<f64> {
    let steps = events.iter().filter_map(|event| match &event.event {
        Some(Event::TrainStep(step)) => Some(step.loss.expect("finite")),
        _ => None,
    });
    steps.collect()
}

#[tokio::test]
async fn a_run_learns_tells_everything_in_order_and_leaves_a_verified_adapter() {
    let server = server().await;
    let mut spec = short_run(uri(fixture_model("llama_tied")), 24);
    let data = task(&mut spec).data.as_mut().unwrap();
    data.eval_fraction = Some(0.2);
    let job = run(&server, spec).await;
    let events = events_of(&job).await;
    let told: Vec<_> = events.iter().map(kind).collect();
    let first =
        |name: &str| told.iter().position(|kind| kind == name).unwrap_or_else(|| panic!("no {name} in {told:?}"));
    let order = [
        "PREPARING",
        "phase",
        "dataset_report",
        "plan",
        "RUNNING",
        "train_step",
        "checkpoint_saved",
        "result",
        "SUCCEEDED",
    ];
    let places: Vec<_> = order.iter().map(|name| first(name)).collect();
    assert!(places.is_sorted(), "{told:?}");
    assert_eq!(told.last().unwrap(), "SUCCEEDED");

    let losses = losses(&events);
    assert_eq!(losses.len(), 24);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[20..]) < mean(&losses[..4]) - 0.5, "{losses:?}");
    let result = job.get().await.unwrap().result.unwrap();
    assert_eq!(result.steps, 24);
    assert!(result.eval_loss_after.unwrap() < result.eval_loss_before.unwrap(), "{result:?}");

    let reports: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::DatasetReport(report)) => Some(report),
            _ => None,
        })
        .collect();
    let [train, eval] = reports[..] else { panic!("{reports:?}") };
    assert_eq!((&*train.split, &*eval.split, train.rows_read), ("train", "eval", 96));
    assert_eq!(train.examples + eval.examples, 96, "nothing vanishes");

    let folder = server.setup().path("adapter");
    job.download(&result.final_checkpoint_id, &folder).await.unwrap();
    is_a_peft_adapter(&folder, &job, 24);
}

/// The layout that PEFT loads, every file as the manifest says.
fn is_a_peft_adapter(folder: &Path, job: &JobHandle, step: u64) {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let manifest = Manifest::parse(&read("manifest.json")).unwrap();
    assert_eq!((manifest.job_id.as_str(), manifest.step), (job.id(), step));
    for file in &manifest.files {
        assert_eq!(hex::encode(Sha256::digest(read(&file.name))), file.sha256, "{}", file.name);
    }
    let names: BTreeSet<_> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    for name in [
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "optimizer.safetensors",
        "trainer_state.json",
    ] {
        assert!(names.contains(name), "{names:?} should hold {name}");
    }
    let config: Value = serde_json::from_slice(&read("adapter_config.json")).unwrap();
    assert_eq!(
        (&config["peft_type"], &config["task_type"], &config["r"]),
        (&json!("LORA"), &json!("CAUSAL_LM"), &json!(16))
    );
    let header = safetensors_header(&read("adapter_model.safetensors"));
    let tensor = &header["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"];
    assert_eq!((&tensor["dtype"], &tensor["shape"][0]), (&json!("F32"), &json!(16)), "{header}");
}

fn safetensors_header(bytes: &[u8]) -> Value {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    serde_json::from_slice(&bytes[8..8 + length]).unwrap()
}

#[tokio::test]
async fn every_family_and_gguf_train() {
    let server = server().await;
    let gguf = |name: &str| uri(repository().join("tests/fixtures/gguf").join(name));
    let folders = ["llama", "mistral", "qwen2", "qwen3", "llama_rope_linear", "llama_rope_llama3", "llama_rope_yarn"];
    let models =
        folders.map(|name| uri(fixture_model(name))).into_iter().chain([gguf("llama.gguf"), gguf("qwen2.gguf")]);
    for model in models {
        let job = run(&server, short_run(&model, 2)).await;
        let ended = job.get().await.unwrap();
        assert_eq!(ended.state(), JobState::Succeeded, "{model}: {:?}", ended.failure);
    }
}

#[tokio::test]
async fn uploaded_models_and_rows_train_as_well() {
    let server = server().await;
    let client = server.client().await;
    let model = client.upload_model(fixture_model("qwen3"), "").await.unwrap().model_id;
    let dataset = client.upload_dataset(rows()).await.unwrap().dataset_id;
    let mut spec = short_run(model, 2);
    task(&mut spec).data.as_mut().unwrap().train = vec![dataset];
    assert_eq!(run(&server, spec).await.get().await.unwrap().state(), JobState::Succeeded);
}

/// A job that has taken its first step and has many before it.
async fn long_run(server: &Server) -> JobHandle {
    let job = server.client().await.create_job(short_run(uri(fixture_model("llama_tied")), 1_000_000)).await.unwrap();
    first_step(&job, 1).await;
    job
}

async fn first_step(job: &JobHandle, attempt: u32) {
    let mut events = job.watch();
    let is_it = |event: &v1::JobEvent| event.attempt == attempt && kind(event) == "train_step";
    let first = async { while !matches!(events.next().await, Some(Ok(event)) if is_it(&event)) {} };
    soon("the first step", first).await;
}

#[tokio::test]
async fn cancelling_saves_the_steps_taken() {
    let server = server().await;
    let job = long_run(&server).await;
    job.cancel().await.unwrap();
    let events = events_of(&job).await;
    assert_eq!(job.get().await.unwrap().state(), JobState::Cancelled);
    let checkpoint = job.last_checkpoint().await.unwrap();
    assert_eq!(checkpoint.step as usize, losses(&events).len(), "no step is lost");
    let folder = server.setup().path("adapter");
    job.download(&checkpoint.checkpoint_id, &folder).await.unwrap();
    is_a_peft_adapter(&folder, &job, checkpoint.step);
}

#[tokio::test]
async fn a_killed_trainer_fails_its_job_and_the_server_serves_on() {
    let server = server().await;
    let job = long_run(&server).await;
    let pids = server.trainers_of(job.id());
    assert_eq!(pids.len(), 1);
    assert!(signal(pids[0], "KILL"));
    events_of(&job).await;
    let failure = failure_of(&job).await;
    assert_eq!(failure.reason(), FailureReason::TrainerCrashed);
    assert!(failure.message.contains("SIGKILL"), "{failure:?}");
    let next = run(&server, short_run(uri(fixture_model("llama_tied")), 1)).await;
    assert_eq!(next.get().await.unwrap().state(), JobState::Succeeded);
}

#[tokio::test]
async fn a_server_that_leaves_has_its_trainer_save_and_the_next_one_takes_the_job_up_again() {
    let setup = Setup::default().with_real_trainer();
    let mut server = setup.start().await;
    let job = long_run(&server).await;
    server.signal("TERM");
    assert!(server.ended().await.success());

    let server = setup.start().await;
    let job = server.client().await.job(job.id());
    first_step(&job, 2).await;
    job.cancel().await.unwrap();
    let events = events_of(&job).await;
    let ended = job.get().await.unwrap();
    assert_eq!((ended.state(), ended.attempt), (JobState::Cancelled, 2), "{:?}", ended.failure);
    let first: Vec<_> = events.into_iter().filter(|event| event.attempt == 1).collect();
    let mut saved = first.iter().filter_map(|event| match &event.event {
        Some(Event::CheckpointSaved(saved)) => Some(saved.step as usize),
        _ => None,
    });
    assert_eq!(saved.next_back(), Some(losses(&first).len()), "what the first attempt did was saved to its last step");
}

/// A model of its own to damage.
fn copy_of_a_model(server: &Server, name: &str) -> PathBuf {
    let folder = server.setup().path(name);
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(fixture_model("llama_tied")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// The job fails for `reason`, and says all of `words`, a remedy too.
async fn fails(server: &Server, spec: v1::JobSpec, reason: FailureReason, words: &[&str]) {
    let job = run(server, spec).await;
    let failure = failure_of(&job).await;
    assert_eq!(failure.reason(), reason, "{failure:?}");
    let text = format!("{} {}", failure.message, failure.location);
    for word in words {
        assert!(text.contains(word), "{failure:?} should say {word:?}");
    }
    assert!(!failure.remedy.is_empty(), "{failure:?}");
    assert!(!failure.retryable, "{failure:?}");
}

#[tokio::test]
async fn models_that_cannot_be_used_say_what_is_wrong_with_which_file() {
    let server = server().await;
    let unsupported = FailureReason::ModelUnsupported;

    let strange = copy_of_a_model(&server, "strange");
    edit_json(&strange.join("config.json"), |config| {
        config["architectures"] = json!(["GPT2LMHeadModel"]);
        config["model_type"] = json!("gpt2");
    });
    fails(
        &server,
        short_run(uri(&strange), 1),
        unsupported,
        &["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"],
    )
    .await;

    let cut = copy_of_a_model(&server, "cut");
    let weights = cut.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1000]).unwrap();
    fails(&server, short_run(uri(&cut), 1), unsupported, &["model.safetensors"]).await;

    let lacking = copy_of_a_model(&server, "lacking");
    let renamed = replace(&bytes, b"\"model.norm.weight\"", b"\"model.nrom.weight\"");
    std::fs::write(lacking.join("model.safetensors"), renamed).unwrap();
    fails(&server, short_run(uri(&lacking), 1), unsupported, &["model.norm.weight"]).await;

    let large = copy_of_a_model(&server, "large-vocabulary");
    edit_json(&large.join("tokenizer.json"), |tokenizer| {
        let token = json!({"id": 384, "content": "<beyond>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    });
    fails(&server, short_run(uri(&large), 1), unsupported, &["ids go up to 384", "vocab_size is 384"]).await;

    let empty = server.setup().path("empty");
    std::fs::create_dir(&empty).unwrap();
    fails(&server, short_run(uri(&empty), 1), unsupported, &["config.json"]).await;
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let place = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    [&bytes[..place], to, &bytes[place + from.len()..]].concat()
}

#[tokio::test]
async fn rows_that_cannot_be_trained_on_say_which_and_why() {
    let server = server().await;
    let invalid = FailureReason::InvalidData;
    let model = uri(fixture_model("llama_tied"));
    let on = |rows: &Path| {
        let mut spec = short_run(&model, 1);
        task(&mut spec).data.as_mut().unwrap().train = vec![uri(rows)];
        spec
    };

    let mixed = write_lines(server.setup().path("mixed.jsonl"), [conversation("a?", "b."), "{".into(), "[]".into()]);
    fails(
        &server,
        on(&mixed),
        invalid,
        &["2 rows are malformed", "mixed.jsonl row 2", "mixed.jsonl row 3", "expected one JSON object"],
    )
    .await;

    let mut long = short_run(&model, 1);
    task(&mut long).data.as_mut().unwrap().max_length = Some(4);
    fails(&server, long, invalid, &["no usable train rows", "96 over_length_dropped"]).await;

    let blank = write_lines(server.setup().path("blank.jsonl"), [""; 3]);
    fails(&server, on(&blank), invalid, &["the sources hold no rows"]).await;

    let unanswered = r#"{"messages": [{"role": "user", "content": "nobody answers"}]}"#;
    let silent = write_lines(server.setup().path("silent.jsonl"), [unanswered; 3]);
    fails(&server, on(&silent), invalid, &["3 no_trainable_token", "silent.jsonl row 1"]).await;
}

#[tokio::test]
async fn a_run_from_s3_to_s3() {
    let bucket = SeaweedFs::bucket("train").await;
    let setup = Setup::default().with_real_trainer().flag("--storage-root", bucket.uri());
    let server = setup.environment(bucket.environment()).start().await;
    let client = server.client().await;
    let model = client.upload_model(fixture_model("llama"), "three shards").await.unwrap();
    let dataset = client.upload_dataset(rows()).await.unwrap();
    // By URI too: the trainer reads objects as well as ids.
    let mut spec = short_run(&model.uri, 3);
    task(&mut spec).data.as_mut().unwrap().train = vec![dataset.uri];
    task(&mut spec).checkpoints = Some(v1::CheckpointSpec { every_steps: Some(1), ..Default::default() });
    let job = run(&server, spec).await;
    let ended = job.get().await.unwrap();
    assert_eq!(ended.state(), JobState::Succeeded, "{:?}", ended.failure);
    let steps: Vec<_> = job.checkpoints().await.unwrap().into_iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, [3, 2, 1]);
    let folder = server.setup().path("adapter");
    job.download("step-000003", &folder).await.unwrap();
    is_a_peft_adapter(&folder, &job, 3);
}

#[tokio::test]
async fn training_goes_on_while_the_store_is_away_and_saves_again_when_it_is_back() {
    let bucket = SeaweedFs::bucket("away").await;
    let proxy = Proxy::before(bucket.endpoint().trim_start_matches("http://")).await;
    let setup = Setup::default().with_real_trainer().flag("--storage-root", bucket.uri());
    let server = setup.environment(bucket.environment_through(&proxy.url())).start().await;
    // Saved when asked alone: steps that save by themselves wait once many checkpoints do, and these steps take no time.
    let mut spec = short_run(uri(fixture_model("llama")), 1_000_000);
    task(&mut spec).checkpoints = Some(v1::CheckpointSpec { every_steps: Some(1_000_000), ..Default::default() });
    let job = server.client().await.create_job(spec).await.unwrap();
    let mut events = job.watch();
    next_event(&mut events, "train_step").await;
    let first = soon("a first checkpoint", job.save_now()).await.unwrap();

    proxy.refuse(true);
    proxy.cut();
    let refused = soon("the answer", job.save_now()).await.unwrap_err().to_string();
    let Some(Event::Warning(warning)) = next_event(&mut events, "warning").await.event else { panic!("a warning") };
    assert_eq!(warning.code, "checkpoint_not_saved");
    assert!(warning.message.contains(bucket.uri()), "{}", warning.message);
    assert!(refused.contains(&warning.message), "{refused}");
    next_event(&mut events, "train_step").await;

    proxy.refuse(false);
    let Some(Event::CheckpointSaved(saved)) = next_event(&mut events, "checkpoint_saved").await.event else { panic!() };
    assert!(saved.step > first.step, "{} after {}", saved.step, first.step);
    job.cancel().await.unwrap();
    assert!(matches!(job.wait().await.unwrap().outcome, Outcome::Cancelled));
    let kept: Vec<_> = job.checkpoints().await.unwrap().into_iter().map(|checkpoint| checkpoint.step).collect();
    assert!(kept.contains(&saved.step), "{kept:?}");
}
