//! A data folder that an earlier hone left (tests/upgrade/make.py had it made by the programs of that time), taken over by this
//! one: every job is there with what was told of it, and those that had not ended go on.

use std::path::Path;

use hone_client::v1::{JobState, job_event::Event};
use hone_tests::{Server, Setup, binary, events_of, fixture_model, kind, repository, run, soon};
use serde_json::Value;
use tokio::process::Command;

/// Where the data folder was made, which paths in it begin with.
const MADE_AT: &str = "/tmp/hone-upgrade";

/// A job as it stood, and the events that were told of it so far.
struct Told {
    job: Value,
    events: Vec<Value>,
}

impl Told {
    fn id(&self) -> &str {
        self.job["job_id"].as_str().unwrap()
    }
}

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// Lays the earlier version's files out in the test's folder, and gives what was told of its jobs.
fn lay_out(setup: &Setup) -> Vec<Told> {
    let home = setup.path("").display().to_string();
    let home = home.trim_end_matches('/');
    let kept = repository().join("tests/fixtures/upgrade");
    let moved = |path: &Path| std::fs::read_to_string(path).unwrap().replace(MADE_AT, home);
    copy(&kept.join("storage"), &setup.data_dir().join("storage"));
    copy(&fixture_model("llama_tied"), &setup.path("model"));
    for rows in ["sft/rows.jsonl", "dpo/pairs.jsonl"] {
        let from = repository().join("tests/fixtures").join(rows);
        std::fs::copy(&from, setup.path(from.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let store = rusqlite::Connection::open(setup.data_dir().join("hone.db")).unwrap();
    store.execute_batch(&moved(&kept.join("hone.sql"))).unwrap();
    let told = moved(&kept.join("jobs.jsonl"));
    let told =
        lines(&told).map(|mut one| Told { job: one["job"].take(), events: one["events"].as_array().unwrap().clone() });
    told.collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The objects that a command tells.
async fn objects(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(binary("hone"));
    let ended = run(command.env("HONE_SERVER", server.url()).arg("--json").args(arguments)).await;
    lines(&ended.stdout).collect()
}

/// All that was said before is said now; more may be.
fn holds(now: &Value, before: &Value) -> bool {
    match (now, before) {
        (Value::Object(now), Value::Object(before)) => {
            before.iter().all(|(name, before)| now.get(name).is_some_and(|now| holds(now, before)))
        }
        (Value::Array(now), Value::Array(before)) => {
            now.len() == before.len() && now.iter().zip(before).all(|(now, before)| holds(now, before))
        }
        _ => now == before,
    }
}

#[tokio::test]
async fn jobs_of_an_earlier_version_are_all_there_and_go_on_from_where_they_stood() {
    let setup = Setup::default().with_real_trainer();
    let told = lay_out(&setup);
    let server = setup.start().await;
    let client = server.client().await;
    let [done, failed, paused, cut, waiting] = &told[..] else { panic!("five jobs") };

    for ended in [done, failed, paused] {
        let now = objects(&server, &["jobs", "get", ended.id()]).await.remove(0);
        assert!(holds(&now, &ended.job), "{now}\nwas\n{}", ended.job);
    }
    assert_eq!(client.job(paused.id()).resume().await.unwrap().state(), JobState::Queued);
    for one in [cut, waiting, paused] {
        let end = soon("the job to end", client.job(one.id()).wait()).await.unwrap();
        assert_eq!(end.job.state(), JobState::Succeeded, "{end:?}");
    }
    for one in &told {
        let now = objects(&server, &["jobs", "watch", one.id()]).await;
        for (number, before) in one.events.iter().enumerate() {
            assert!(holds(&now[number], before), "{}\nwas\n{before}", now[number]);
        }
    }
    for half_way in [paused, cut] {
        let events = events_of(&client.job(half_way.id())).await;
        let steps = events.iter().filter_map(|event| match &event.event {
            Some(Event::TrainStep(step)) => Some(step.step),
            _ => None,
        });
        assert_eq!(steps.collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>(), "none is taken twice");
        assert_eq!(events.iter().filter(|event| kind(event) == "resumed").count(), 1);
    }
    let uploads = objects(&server, &["data", "list"]).await;
    assert_eq!(uploads.len(), 1, "{uploads:?}");
}
