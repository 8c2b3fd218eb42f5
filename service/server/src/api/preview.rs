//! Previews: the very steps that a job takes with its rows, in a process of their own.
//!
//! Rows, tokenizers and templates are strangers': a template may take all the memory there is before its budget is looked
//! at. What that ends is then a process that does nothing else. It is this program, with other arguments; it gets its
//! order on standard input, answers on standard output and ends with the call that asked.
//!
//! Only the tokenizer of the model is needed. A model on this machine is read where it lies; of one in an object store the
//! small files are fetched, or the GGUF file that holds them.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use hone_data::cache::{self, Cache, Cached, Partial};
use hone_data::preview::Preview;
use hone_data::storage::{self, Location};
use hone_data::{dataset, gguf, tokenizer};
use hone_job::spec::JobSpec;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{Mutex, Semaphore};

use super::status::Problem;
use crate::executor::environment;

mod process;

pub use process::answer;
use process::{Answer, Order};

/// Previews at a time; each holds all its rows in memory and keeps the processors busy.
const AT_A_TIME: usize = 2;

/// A file of a model that is larger than this is none of its tokenizer's.
const MAX_TOKENIZER_FILE_BYTES: u64 = 256 << 20;

/// Longest answer of a process: more than what may be sent of it.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// Endings of the files a tokenizer and its settings are in.
const ENDINGS: [&str; 4] = [".json", ".jinja", ".txt", ".model"];

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nothing is where the model should be.
    #[error("{uri}: there is no model here")]
    Missing { uri: String },
    /// What the model's URI names is no model.
    #[error("{uri}: no model: {what}")]
    Model { uri: String, what: String },
    /// Its GGUF file cannot be read.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// Its tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// Rows cannot be read.
    #[error(transparent)]
    Data(#[from] dataset::Error),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A file on this machine failed.
    #[error("{}: {source}", path.display())]
    Local { path: PathBuf, source: std::io::Error },
    /// It takes more memory than a preview may.
    #[error(
        "the preview takes more memory than the {limit_bytes} bytes that a preview may have, or broke off: {status}"
    )]
    TooLarge { limit_bytes: u64, status: ExitStatus },
    /// It ended without an answer.
    #[error("the preview broke off: {0}")]
    Interrupted(String),
}

/// What to preview.
pub(super) struct Wanted {
    /// The model whose tokenizer and template are used.
    pub(super) model: Location,
    /// The rows and how they become examples, ids resolved.
    pub(super) spec: JobSpec,
    /// Whether the caller left the longest length to us; then the model's own limit counts if it is shorter.
    pub(super) max_length_is_default: bool,
    /// Rows to render.
    pub(super) num_rows: usize,
}

/// Makes previews.
#[derive(Clone)]
pub(super) struct Previewer {
    cache: Cache,
    max_memory_bytes: u64,
    handed_on: Vec<String>,
    room: Arc<Semaphore>,
    fetching: Arc<Mutex<()>>,
}

/// A model, or as much of it as is needed, on this machine.
enum Fetched {
    /// It was here.
    Here(PathBuf),
    /// A file of this name in a copy.
    Copy(Cached, String),
    /// The small files of a folder, which go with this.
    Files(Partial),
}

impl Fetched {
    fn path(&self) -> PathBuf {
        match self {
            Fetched::Here(path) => path.clone(),
            Fetched::Copy(copy, name) => copy.path().join(name),
            Fetched::Files(files) => files.path().to_path_buf(),
        }
    }
}

impl Previewer {
    /// One that fetches into `cache`. Its processes may have so much memory each, and get the variables
    /// `handed_on` beside those that trainers get.
    pub(super) fn new(cache: Cache, max_memory_bytes: u64, handed_on: Vec<String>) -> Self {
        Self { cache, max_memory_bytes, handed_on, room: Arc::new(Semaphore::new(AT_A_TIME)), fetching: Arc::default() }
    }

    /// What a job would see.
    pub(super) async fn preview(&self, wanted: Wanted) -> Result<Preview, Problem> {
        let _room = self.room.acquire().await.map_err(|error| Error::Interrupted(error.to_string()))?;
        let Wanted { model, spec, max_length_is_default, num_rows } = wanted;
        let fetched = self.fetch(&model).await?;
        let order = Order { model: fetched.path(), model_uri: model.uri, spec, max_length_is_default, num_rows };
        match self.ask(&order).await? {
            Answer::Preview(preview) => Ok(preview),
            Answer::Problem(problem) => Err(problem),
        }
    }

    /// Has a process do it, which is killed when the caller goes away.
    async fn ask(&self, order: &Order) -> Result<Answer, Error> {
        let broke_off = |error: &dyn std::fmt::Display| Error::Interrupted(error.to_string());
        let order = serde_json::to_vec(order).map_err(|error| broke_off(&error))?;
        // The program that runs, even when another has taken its place on the disk since.
        let mut command = Command::new("/proc/self/exe");
        environment::clean(&mut command, &self.handed_on);
        command.arg0("hone-server").arg("preview").arg("--max-memory-bytes").arg(self.max_memory_bytes.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| broke_off(&error))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(broke_off(&"it has no standard input or output"));
        };
        // A child that ends before it has read its order tells more by its status.
        let _ = stdin.write_all(&order).await;
        drop(stdin);
        let mut answer = Vec::new();
        stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await.map_err(|error| broke_off(&error))?;
        let status = child.wait().await.map_err(|error| broke_off(&error))?;
        match status.signal() {
            // Rust aborts when there is no memory; the kernel kills.
            Some(_) => Err(Error::TooLarge { limit_bytes: self.max_memory_bytes, status }),
            None if status.success() => serde_json::from_slice(&answer).map_err(|error| broke_off(&error)),
            None => Err(broke_off(&status)),
        }
    }

    /// The files of the tokenizer on this machine.
    async fn fetch(&self, model: &Location) -> Result<Fetched, Error> {
        if let Some(path) = model.local_path() {
            return Ok(Fetched::Here(path.to_path_buf()));
        }
        if model.file_name().ends_with(".gguf") {
            return self.fetch_gguf(model).await;
        }
        let entries = model.list().await?;
        let files: Vec<_> = entries.iter().filter(|entry| !entry.name.contains('/')).collect();
        if files.is_empty() {
            return Err(Error::Missing { uri: model.uri.clone() });
        }
        let gguf: Vec<_> = files.iter().filter(|entry| entry.name.ends_with(".gguf")).collect();
        let is_folder = files.iter().any(|entry| entry.name == "config.json");
        if let ([only], false) = (gguf.as_slice(), is_folder) {
            return self.fetch_gguf(&only.location).await;
        }
        let folder = self.begin(0).await?;
        for entry in files {
            let wanted = ENDINGS.iter().any(|ending| entry.name.ends_with(ending));
            if wanted && entry.num_bytes <= MAX_TOKENIZER_FILE_BYTES {
                entry.location.get_to_file(&folder.path().join(&entry.name)).await?;
            }
        }
        Ok(Fetched::Files(folder))
    }

    /// The file on this machine, under a name that changes with the object.
    async fn fetch_gguf(&self, object: &Location) -> Result<Fetched, Error> {
        let failed = |error| object.failure(storage::Step::Get, error);
        let meta = object.store.head(&object.path).await.map_err(failed)?;
        let version = format!("{} {} {:?} {}", object.uri, meta.size, meta.e_tag, meta.last_modified);
        let (copy, file) = (hex::encode(Sha256::digest(version)), object.file_name().to_string());
        let _one_at_a_time = self.fetching.lock().await;
        if let Some(found) = self.cache.get(&copy)? {
            return Ok(Fetched::Copy(found, file));
        }
        let partial = self.begin(meta.size).await?;
        object.get_to_file(&partial.path().join(&file)).await?;
        Ok(Fetched::Copy(partial.finish(&copy)?, file))
    }

    /// Begins a copy, and waits while room is made for it.
    async fn begin(&self, num_bytes: u64) -> Result<Partial, Error> {
        let cache = self.cache.clone();
        let begun = tokio::task::spawn_blocking(move || cache.begin(num_bytes)).await;
        Ok(begun.map_err(|error| Error::Interrupted(error.to_string()))??)
    }
}

impl From<cache::Error> for Error {
    fn from(cache::Error { path, source }: cache::Error) -> Self {
        Error::Local { path, source }
    }
}

fn local(path: &Path, source: std::io::Error) -> Error {
    Error::Local { path: path.to_path_buf(), source }
}
