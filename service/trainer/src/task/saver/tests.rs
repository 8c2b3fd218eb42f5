//! Saving while storage fails: nothing in the line is lost, the line is bounded, and whoever waits can leave.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hone_data::storage::Storage;
use hone_job::checkpoint::id_of_step;
use tokio::runtime::Runtime;

use super::*;
use crate::checkpoint::Origin;

/// Keeps what it is told, repairs storage when it hears that a save failed, and asks to leave: once the task waits for
/// storage, or all the time.
#[derive(Default)]
struct Listener {
    told: Mutex<Vec<String>>,
    repairs: Option<PathBuf>,
    leaves: bool,
    always_leaves: bool,
}

impl Listener {
    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl Observer for Listener {
    fn report(&self, event: Event) {
        if let (Event::Warning(_), Some(obstacle)) = (&event, &self.repairs) {
            std::fs::remove_file(obstacle).unwrap();
        }
        self.told.lock().unwrap().push(match event {
            Event::CheckpointSaved(saved) => saved.checkpoint_id,
            Event::Warning(warning) => warning.code,
            Event::Phase(phase) => phase.name,
            other => panic!("{other:?}"),
        });
    }

    fn running(&self) {}

    fn step(&self, _: u64) {}

    fn command(&self) -> Option<Command> {
        let waits = || self.told().iter().any(|told| told == WAITING);
        (self.always_leaves || self.leaves && waits()).then_some(Command::Stop)
    }
}

fn saver(folder: &Path, runtime: &Runtime, listener: Listener) -> (Saver, Arc<Listener>) {
    let origin = Origin {
        job_id: "job-1".into(),
        attempt: 1,
        spec_sha256: String::new(),
        base_model_fingerprint: String::new(),
    };
    let folder = Folder::new(Storage::open_path(folder).unwrap(), origin);
    let listener = Arc::new(listener);
    (Saver::new(folder, 0, Metric::Loss, runtime.handle().clone(), listener.clone()).unwrap(), listener)
}

fn snapshot(step: u64) -> Snapshot {
    Snapshot { step, files: vec![("weights".into(), format!("of step {step}").into())], metrics: Default::default() }
}

/// Makes the checkpoint of a step impossible: a file stands where its folder should be.
fn obstacle(folder: &Path, step: u64) -> PathBuf {
    let path = folder.join(id_of_step(step));
    std::fs::write(&path, "in the way").unwrap();
    path
}

#[test]
fn a_save_that_fails_is_tried_again_and_those_behind_it_come_after() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let repairs = Some(obstacle(folder.path(), 2));
    let (saver, listener) = saver(folder.path(), &runtime, Listener { repairs, ..Listener::default() });
    (1..=3).for_each(|step| saver.start(snapshot(step)));
    let last = saver.finish(snapshot(4)).unwrap();
    assert_eq!((last.manifest.step, saver.best_step()), (4, Some(4)));
    let saved: Vec<_> = listener.told().into_iter().filter(|told| told != WAITING).collect();
    assert_eq!(saved, ["step-000001", "checkpoint_not_saved", "step-000002", "step-000003", "step-000004"]);
}

#[test]
fn whoever_waits_for_storage_says_so_and_can_leave() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    obstacle(folder.path(), 2);
    let (saver, listener) = saver(folder.path(), &runtime, Listener { leaves: true, ..Listener::default() });
    saver.start(snapshot(1));
    // The one with no room waits, and is given up.
    (2..=2 + MAX_WAITING as u64).for_each(|step| saver.start(snapshot(step)));
    assert_eq!(saver.line.borrow().waiting, MAX_WAITING);
    assert_eq!(listener.told(), ["step-000001", "checkpoint_not_saved", "waiting_for_storage"]);
    assert_eq!(saver.finish(snapshot(20)), None);
    saver.stop(snapshot(20));
    assert_eq!(saver.newest().unwrap().manifest.step, 1);
}

#[test]
fn storage_that_answers_is_waited_for_whatever_is_asked() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let (saver, listener) = saver(folder.path(), &runtime, Listener { always_leaves: true, ..Listener::default() });
    saver.start(snapshot(1));
    assert_eq!(saver.finish(snapshot(2)).unwrap().manifest.step, 2);
    assert_eq!(listener.told(), ["step-000001", "step-000002"]);
}

#[test]
fn the_line_has_room_for_one_of_any_size_and_for_few_bytes_in_all() {
    let line = |waiting, waiting_bytes| Line { waiting, waiting_bytes, ..Line::default() };
    assert!(line(0, 0).has_room_for(u64::MAX));
    assert!(line(MAX_WAITING - 1, 10).has_room_for(10));
    assert!(!line(MAX_WAITING, 10).has_room_for(10));
    assert!(!line(1, MAX_WAITING_BYTES - 10).has_room_for(11));
}
