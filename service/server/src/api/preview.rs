//! Previews: the very steps that a job takes with its rows, run beside the server's own work.
//!
//! Only the tokenizer of the model is needed. A model on this machine is read where it lies; of one in an object store the
//! small files are fetched, or the GGUF file that holds them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::dataset::{self, Options, Sources};
use hone_data::gguf::{self, Gguf};
use hone_data::preview::{Preview, preview};
use hone_data::storage::{self, Location};
use hone_data::tokenizer::{self, Tokenizer};
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Semaphore};

/// Previews at a time; each holds all its rows in memory and keeps the processors busy.
const AT_A_TIME: usize = 2;

/// A file of a model that is larger than this is none of its tokenizer's.
const MAX_TOKENIZER_FILE_BYTES: u64 = 256 << 20;

/// Endings of the files a tokenizer and its settings are in.
const ENDINGS: [&str; 4] = [".json", ".jinja", ".txt", ".model"];

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
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
    /// It ended without an answer.
    #[error("the preview broke off: {0}")]
    Interrupted(String),
}

/// What to preview.
pub(crate) struct Wanted {
    /// The model whose tokenizer and template are used.
    pub(crate) model: Location,
    /// The rows.
    pub(crate) sources: Sources,
    /// How rows become examples.
    pub(crate) options: Options,
    /// Whether the caller left the longest length to us; then the model's own limit counts if it is shorter.
    pub(crate) max_length_is_default: bool,
    /// Rows to render.
    pub(crate) num_rows: usize,
}

/// Makes previews.
#[derive(Clone)]
pub(crate) struct Previewer {
    cache: PathBuf,
    room: Arc<Semaphore>,
    fetching: Arc<Mutex<()>>,
}

/// A tokenizer, and the longest input its model was made for.
type Found = (Tokenizer, Option<u64>);

impl Previewer {
    /// One that fetches into the folder `cache`.
    pub(crate) fn new(cache: PathBuf) -> Self {
        Self { cache, room: Arc::new(Semaphore::new(AT_A_TIME)), fetching: Arc::default() }
    }

    /// What a job would see.
    pub(crate) async fn preview(&self, wanted: Wanted) -> Result<Preview, Error> {
        let interrupted = |error: &dyn std::fmt::Display| Error::Interrupted(error.to_string());
        let permit = self.room.clone().acquire_owned().await.map_err(|error| interrupted(&error))?;
        let previewer = self.clone();
        // On a task of its own: the work cannot be broken off, so the room stays taken when the caller goes away.
        let work = tokio::spawn(async move {
            let _permit = permit;
            previewer.work(wanted).await
        });
        work.await.map_err(|error| interrupted(&error))?
    }

    async fn work(&self, wanted: Wanted) -> Result<Preview, Error> {
        let Wanted { model, sources, mut options, max_length_is_default, num_rows } = wanted;
        let (tokenizer, model_limit) = self.tokenizer(&model).await?;
        if let Some(limit) = model_limit.filter(|_| max_length_is_default) {
            options.max_length = options.max_length.min(usize::try_from(limit).unwrap_or(usize::MAX)).max(1);
        }
        Ok(preview(sources, Arc::new(tokenizer), options, num_rows, Arc::new(|_| {})).await?)
    }

    async fn tokenizer(&self, model: &Location) -> Result<Found, Error> {
        if let Some(path) = model.local_path() {
            return load(path.to_path_buf(), model.uri.clone()).await;
        }
        if model.file_name().ends_with(".gguf") {
            return load(self.fetch_gguf(model).await?, model.uri.clone()).await;
        }
        let entries = model.list().await?;
        let files: Vec<_> = entries.iter().filter(|entry| !entry.name.contains('/')).collect();
        if files.is_empty() {
            return Err(Error::Missing { uri: model.uri.clone() });
        }
        let gguf: Vec<_> = files.iter().filter(|entry| entry.name.ends_with(".gguf")).collect();
        let is_folder = files.iter().any(|entry| entry.name == "config.json");
        if let ([only], false) = (gguf.as_slice(), is_folder) {
            return load(self.fetch_gguf(&only.location).await?, model.uri.clone()).await;
        }
        std::fs::create_dir_all(&self.cache).map_err(|source| local(&self.cache, source))?;
        let folder = tempfile::tempdir_in(&self.cache).map_err(|source| local(&self.cache, source))?;
        for entry in files {
            let wanted = ENDINGS.iter().any(|ending| entry.name.ends_with(ending));
            if wanted && entry.num_bytes <= MAX_TOKENIZER_FILE_BYTES {
                entry.location.get_to_file(&folder.path().join(&entry.name)).await?;
            }
        }
        // The folder is removed at the end: what it held is in memory by then.
        load(folder.path().to_path_buf(), model.uri.clone()).await
    }

    /// The file on this machine, under a name that changes with the object.
    async fn fetch_gguf(&self, object: &Location) -> Result<PathBuf, Error> {
        let failed = |error| object.failure(storage::Step::Get, error);
        let meta = object.store.head(&object.path).await.map_err(failed)?;
        let version = format!("{} {} {:?} {}", object.uri, meta.size, meta.e_tag, meta.last_modified);
        let path = self.cache.join(format!("{}.gguf", hex::encode(Sha256::digest(version))));
        let _one_at_a_time = self.fetching.lock().await;
        if !path.exists() {
            std::fs::create_dir_all(&self.cache).map_err(|source| local(&self.cache, source))?;
            object.get_to_file(&path).await?;
        }
        Ok(path)
    }
}

fn local(path: &Path, source: std::io::Error) -> Error {
    Error::Local { path: path.to_path_buf(), source }
}

/// The tokenizer of a model on this machine, read on a thread where that may take its time.
async fn load(path: PathBuf, uri: String) -> Result<Found, Error> {
    let loading = tokio::task::spawn_blocking(move || load_blocking(&path, &uri));
    loading.await.map_err(|error| Error::Interrupted(error.to_string()))?
}

fn load_blocking(path: &Path, uri: &str) -> Result<Found, Error> {
    let nothing = |what: &str| Error::Model { uri: uri.to_string(), what: what.to_string() };
    if !path.is_dir() {
        return if path.exists() { from_gguf(path) } else { Err(Error::Missing { uri: uri.to_string() }) };
    }
    if !path.join("config.json").exists() {
        let entries = std::fs::read_dir(path).map_err(|source| local(path, source))?;
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let gguf: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|end| end == "gguf")).collect();
        match gguf.as_slice() {
            [only] => return from_gguf(only),
            [] => {}
            _ => return Err(nothing("there are several .gguf files; name one of them")),
        }
    }
    Ok((Tokenizer::from_folder(path)?, limit_of_folder(path)))
}

fn from_gguf(path: &Path) -> Result<Found, Error> {
    let gguf = Gguf::open(path)?;
    let limit = gguf.str("general.architecture").and_then(|family| gguf.u64(&format!("{family}.context_length")));
    Ok((Tokenizer::from_gguf(&gguf)?, limit))
}

/// What config.json says of the longest input; a folder without it may still have a tokenizer.
fn limit_of_folder(folder: &Path) -> Option<u64> {
    let config = std::fs::read(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
    config.get("max_position_embeddings")?.as_u64()
}
