//! What tests of tasks share: a job with a folder of its own, and an observer that keeps what it is told.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hone_data::cache::Cache;
use hone_job::event::Event;
use hone_job::spec::{JobSpec, Resources, Task};

use super::Observer;
use crate::link::{Command, Welcome};
use crate::workspace::Workspace;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

pub(crate) fn uri(path: &Path) -> String {
    format!("file://{}", std::path::absolute(path).unwrap().display())
}

/// Keeps what it is told, and gives a command once a step is reached.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) events: Mutex<Vec<Event>>,
    step: AtomicU64,
    command: Option<(u64, Command)>,
}

impl Recorder {
    pub(super) fn new(command: Option<(u64, Command)>) -> Recorder {
        Recorder { command, ..Recorder::default() }
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }
}

impl Observer for Recorder {
    fn report(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    fn running(&self) {}

    fn step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    fn command(&self) -> Option<Command> {
        let step = self.step.load(Ordering::Relaxed);
        self.command.filter(|(from, _)| step >= *from).map(|(_, command)| command)
    }
}

/// A job with a folder of its own.
pub(super) struct Case {
    pub(super) folder: tempfile::TempDir,
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) welcome: Welcome,
}

impl Case {
    /// A job on one of the fixtures' models.
    pub(super) fn of(model: &str, task: Task) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let spec = JobSpec {
            display_name: String::new(),
            labels: Default::default(),
            base_model: uri(&fixtures().join("models").join(model)),
            task,
            resources: Resources::default(),
            max_retries: JobSpec::DEFAULT_MAX_RETRIES,
        };
        let welcome = Welcome {
            job_id: "job-1".into(),
            attempt: 1,
            spec,
            job_uri: uri(&folder.path().join("job")),
            resume_from: None,
            reference_uri: uri(&folder.path().join("reference")),
            traceparent: String::new(),
        };
        Case { folder, runtime: tokio::runtime::Runtime::new().unwrap(), welcome }
    }

    pub(super) fn workspace(&self) -> Workspace {
        Workspace::new(Cache::new(self.folder.path().join("cache"), None), self.runtime.handle().clone())
    }

    pub(super) fn checkpoint(&self, id: &str) -> PathBuf {
        self.folder.path().join("job/checkpoints").join(id)
    }

    /// A checkpoint, found whole.
    pub(super) fn opened(&self, id: &str) -> crate::checkpoint::Opened {
        let location = hone_data::storage::Storage::open_path(&self.checkpoint(id)).unwrap();
        self.runtime.block_on(crate::checkpoint::open(&location)).unwrap()
    }
}
