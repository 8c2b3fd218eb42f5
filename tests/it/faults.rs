//! A store that misbehaves: what passes is tried again, what is changed on the way is found, and a run over it ends as if
//! there had been nothing.

use std::time::Duration;

use hone_client::v1::{self, JobState, job_event::Event};
use hone_data::storage::{Location, Storage, StorageOptions};
use hone_tests::{
    Bucket, FaultyStore, SeaweedFs, Setup, StoreFault, events_of, fixture_model, kind, next_event, preloaded,
    repository, sft, uri, weights,
};
use hyper::Method;

/// The bucket behind a proxy that does `fault` to the first request that `is_hit`.
async fn behind(
    bucket: &Bucket,
    fault: StoreFault,
    is_hit: impl Fn(&Method, &str) -> bool + Send + 'static,
) -> (FaultyStore, Location) {
    let mut faults = vec![fault];
    let store =
        FaultyStore::before(bucket.endpoint(), move |method, place| is_hit(method, place).then(|| faults.pop())?).await;
    let options = StorageOptions {
        s3_endpoint: Some(store.endpoint()),
        // As the default of half a minute, but sooner.
        read_timeout: Duration::from_millis(500),
        ..bucket.options()
    };
    let root = Storage::open(bucket.uri(), &options).unwrap();
    (store, root)
}

/// Everything but changed bytes, which only whoever knows the digest can see.
fn passing() -> impl Iterator<Item = StoreFault> {
    StoreFault::ALL.into_iter().filter(|fault| *fault != StoreFault::WrongBytes)
}

#[tokio::test]
async fn every_call_survives_a_fault_that_passes() {
    let bucket = SeaweedFs::bucket("passing").await;
    let content = "b".repeat(100_000);
    for fault in passing() {
        for method in [Method::PUT, Method::GET, Method::DELETE] {
            let what = format!("{fault:?} at {method}");
            let hit = method.clone();
            let (_store, root) = behind(&bucket, fault, move |method, _| *method == hit).await;
            let object = root.join("a/object");
            object.put(content.clone()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(object.get().await.unwrap_or_else(|error| panic!("{what}: {error}")), content, "{what}");
            let listed = root.join("a").list().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(listed.len(), 1, "{what}");
            object.delete().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(!object.exists().await.unwrap(), "{what}");
        }
    }
}

#[tokio::test]
async fn a_transfer_in_parts_survives_a_fault_in_any_of_its_calls() {
    let bucket = SeaweedFs::bucket("parts-faults").await;
    let folder = tempfile::tempdir().unwrap();
    let (here, back) = (folder.path().join("here"), folder.path().join("back"));
    let content = weights((17 << 20) + 5);
    std::fs::write(&here, &content).unwrap();
    type Hit = fn(&Method, &str) -> bool;
    let calls: [(&str, Hit); 4] = [
        ("begin", |method, place| method == Method::POST && place.contains("?uploads")),
        ("part", |method, place| method == Method::PUT && place.contains("partNumber=2")),
        ("complete", |method, place| method == Method::POST && place.contains("uploadId=")),
        ("read", |method, _| method == Method::GET),
    ];
    for fault in passing() {
        for (name, is_hit) in calls {
            let what = format!("{fault:?} at {name}");
            let (_store, root) = behind(&bucket, fault, is_hit).await;
            let object = root.join("large");
            let sent = object.put_file(&here).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(
                object.get_to_file(&back).await.unwrap_or_else(|error| panic!("{what}: {error}")),
                sent,
                "{what}"
            );
            assert!(std::fs::read(&back).unwrap() == content, "{what}");
            object.delete().await.unwrap();
        }
    }
}

/// A run with a checkpoint every other step.
fn run(steps: u64) -> v1::JobSpec {
    let mut spec = sft(uri(fixture_model("llama")), uri(repository().join("tests/fixtures/sft/rows.jsonl")));
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.batch = Some(v1::BatchSpec { examples_per_step: Some(8), ..Default::default() });
    task.length = Some(v1::sft_task::Length::MaxSteps(steps));
    task.checkpoints = Some(v1::CheckpointSpec { every_steps: Some(2), ..Default::default() });
    spec
}

/// Digests of the final checkpoint of a run on a storage root that is reached as `environment` says.
async fn final_files(root: &str, environment: Vec<(String, String)>) -> (Vec<(String, String)>, Vec<String>) {
    let setup = Setup::default().with_real_trainer().flag("--storage-root", root).environment(environment);
    let server = setup.start().await;
    let job = server.client().await.create_job(run(12)).await.unwrap();
    let told: Vec<_> = events_of(&job).await.iter().map(kind).collect();
    let ended = job.get().await.unwrap();
    assert_eq!((ended.state(), ended.attempt), (JobState::Succeeded, 1), "{:?}", ended.failure);
    let checkpoints = job.checkpoints().await.unwrap();
    let steps: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, [12, 10, 8, 6, 4, 2], "none is lost");
    // A download is held to the manifest.
    for checkpoint in &checkpoints {
        let folder = server.setup().path(&checkpoint.checkpoint_id);
        job.download(&checkpoint.checkpoint_id, &folder).await.unwrap();
    }
    let wanted = |name: &str| name.ends_with(".safetensors");
    let files = checkpoints[0].files.iter().filter(|file| wanted(&file.name));
    (files.map(|file| (file.name.clone(), file.sha256.clone())).collect(), told)
}

#[tokio::test]
async fn a_run_over_a_store_that_misbehaves_all_the_time_ends_as_any_other() {
    let bucket = SeaweedFs::bucket("misbehaving").await;
    let root = |name: &str| format!("{}/{name}", bucket.uri());
    let (expected, _) = final_files(&root("well"), bucket.environment()).await;
    // Every fifth write suffers the next of the faults that a reply shows at once; a stall would take half a minute.
    let mut faults = StoreFault::ALL.into_iter().filter(|fault| *fault != StoreFault::Stall).cycle();
    let mut writes = 0;
    let plan = move |method: &Method, place: &str| {
        let is_hit = *method == Method::PUT && place.contains("/checkpoints/") && {
            writes += 1;
            writes % 5 == 0
        };
        is_hit.then(|| faults.next()).flatten()
    };
    let store = FaultyStore::before(bucket.endpoint(), plan).await;
    let (found, told) = final_files(&root("badly"), bucket.environment_through(&store.endpoint())).await;
    assert_eq!(found, expected);
    assert!(told.iter().any(|kind| kind == "warning"), "a file that was changed on its way is written again: {told:?}");
}

fn phase(event: &v1::JobEvent) -> &str {
    let Some(Event::Phase(phase)) = &event.event else { panic!("{event:?}") };
    &phase.name
}

fn saved_step(event: &v1::JobEvent) -> u64 {
    let Some(Event::CheckpointSaved(saved)) = &event.event else { panic!("{event:?}") };
    saved.step
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_holds_the_run_up_and_costs_no_checkpoint() {
    let setup = Setup::default().with_real_trainer();
    let is_full = setup.path("full");
    let library = preloaded("full_disk", setup.path(".").as_path()).await;
    let jobs = setup.data_dir().join("storage/jobs");
    let variables = [("LD_PRELOAD", library), ("FULL_DISK_FOLDER", jobs), ("FULL_DISK_WHILE", is_full.clone())];
    let names = variables.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",");
    let variables = variables.map(|(name, path)| (name.to_owned(), path.display().to_string()));
    let server = setup.flag("--trainer-env", names).environment(variables).start().await;
    let job = server.client().await.create_job(run(1_000_000)).await.unwrap();
    let mut events = job.watch();
    next_event(&mut events, "checkpoint_saved").await;
    std::fs::write(&is_full, "").unwrap();
    let Some(Event::Warning(warning)) = next_event(&mut events, "warning").await.event else { panic!() };
    assert_eq!(warning.code, "checkpoint_not_saved");
    assert!(warning.message.contains("No space left on device"), "{}", warning.message);
    while phase(&next_event(&mut events, "phase").await) != "waiting_for_storage" {}
    let step = job.get().await.unwrap().step;
    std::fs::remove_file(&is_full).unwrap();
    while saved_step(&next_event(&mut events, "checkpoint_saved").await) <= step {}
    job.cancel().await.unwrap();
    events_of(&job).await;
    let checkpoints = job.checkpoints().await.unwrap();
    let steps: Vec<_> = checkpoints.iter().rev().map(|checkpoint| checkpoint.step).collect();
    let last = *steps.last().unwrap();
    assert!(last > step && steps.iter().copied().filter(|step| step % 2 == 0).eq((1..=last / 2).map(|half| 2 * half)));
    assert_eq!(job.get().await.unwrap().attempt, 1);
}
