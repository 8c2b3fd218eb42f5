//! What tests train on and ask for: tiny models, rows, specs, and events read back.

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use hone_client::{JobEvents, JobHandle, v1};
use hone_data::storage::Storage;
use v1::job_event::Event;

use crate::{repository, soon};

/// The folder of a tiny model, such as `llama`; `tests/fixtures/README.md` lists them.
pub fn fixture_model(name: &str) -> PathBuf {
    repository().join("tests/fixtures/models").join(name)
}

/// The `file://` URI of a path.
pub fn uri(path: impl AsRef<Path>) -> String {
    Storage::open_path(path.as_ref()).expect("a local path").uri
}

/// A conversation of one question and one answer, as a row.
pub fn conversation(question: &str, answer: &str) -> String {
    let turn = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
    serde_json::json!({ "messages": [turn("user", question), turn("assistant", answer)] }).to_string()
}

/// Writes lines to a file and gives its path back.
pub fn write_lines<L: AsRef<str>>(path: impl Into<PathBuf>, lines: impl IntoIterator<Item = L>) -> PathBuf {
    let path = path.into();
    let text: String = lines.into_iter().map(|line| line.as_ref().to_owned() + "\n").collect();
    std::fs::write(&path, text).expect("the test's folder is writable");
    path
}

/// Supervised fine-tuning of `model` on `rows`, ids or URIs, with every default.
pub fn sft(model: impl Into<String>, rows: impl Into<String>) -> v1::JobSpec {
    let data = v1::DataSpec { train: vec![rows.into()], ..Default::default() };
    v1::JobSpec {
        base_model: Some(v1::BaseModel { uri: model.into() }),
        task: Some(v1::job_spec::Task::Sft(v1::SftTask { data: Some(data), ..Default::default() })),
        // What a test makes fail fails at once; those on retries say how many they want.
        max_retries: Some(0),
        ..Default::default()
    }
}

/// Every event of a job, up to its end.
pub async fn events_of(job: &JobHandle) -> Vec<v1::JobEvent> {
    let events: Vec<_> = soon("the job to end", job.watch().try_collect()).await.expect("the job can be watched");
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>(), "events are numbered without gaps");
    events
}

/// The next event of a kind, as [`kind`] names it.
pub async fn next_event(events: &mut JobEvents, wanted: &str) -> v1::JobEvent {
    loop {
        let event = soon(wanted, events.next()).await.expect("the job goes on").expect("the server answers");
        if kind(&event) == wanted {
            return event;
        }
    }
}

/// The name of what an event tells, as in the proto; of a change of state also the state.
pub fn kind(event: &v1::JobEvent) -> String {
    let name = match event.event.as_ref().expect("an event this client knows") {
        Event::StateChanged(change) => change.to().as_str_name().trim_start_matches("JOB_STATE_"),
        Event::Phase(_) => "phase",
        Event::DatasetReport(_) => "dataset_report",
        Event::EffectiveSpec(_) => "effective_spec",
        Event::Plan(_) => "plan",
        Event::TrainStep(_) => "train_step",
        Event::Evaluation(_) => "evaluation",
        Event::CheckpointSaved(_) => "checkpoint_saved",
        Event::ResourceUsage(_) => "resource_usage",
        Event::Warning(_) => "warning",
        Event::ExportReport(_) => "export_report",
        Event::HardExamples(_) => "hard_examples",
        Event::Scores(_) => "scores",
        Event::Answers(_) => "answers",
        Event::Benchmark(_) => "benchmark",
        Event::GradientNoise(_) => "gradient_noise",
        Event::Overfitting(_) => "overfitting",
        Event::Leakage(_) => "leakage",
        Event::Resumed(_) => "resumed",
        Event::EarlyStopped(_) => "early_stopped",
        Event::Failure(_) => "failure",
        Event::Result(_) => "result",
    };
    name.to_owned()
}
