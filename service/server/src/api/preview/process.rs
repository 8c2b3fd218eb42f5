//! The process that makes one preview: an order in, an answer out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::dataset::{Options, Sources};
use hone_data::gguf::Gguf;
use hone_data::preview::{Preview, preview};
use hone_data::storage::{Location, Storage, StorageOptions};
use hone_data::template;
use hone_data::tokenizer::Tokenizer;
use hone_job::spec::JobSpec;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{Error, local};
use crate::api::status::Problem;

/// What the process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The model on this machine.
    pub(super) model: PathBuf,
    /// What it is called in messages.
    pub(super) model_uri: String,
    /// The rows and how they become examples.
    pub(super) spec: JobSpec,
    /// Whether the model's own limit bounds the longest length.
    pub(super) max_length_is_default: bool,
    /// Rows to render.
    pub(super) num_rows: usize,
}

/// What it found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Preview(Preview),
    Problem(Problem),
}

/// Reads an order from standard input and writes the answer to standard output, within so much memory.
///
/// # Errors
/// When there is no order, or nobody who reads the answer; that a preview is not to be had is an answer.
pub async fn answer(max_memory_bytes: u64, storage: StorageOptions) -> io::Result<()> {
    let order: Order = serde_json::from_reader(io::stdin())?;
    limit_memory(max_memory_bytes)?;
    let answer = match work(order, &storage).await {
        Ok(preview) => Answer::Preview(preview),
        Err(error) => Answer::Problem(error.into()),
    };
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &answer)?;
    stdout.flush()
}

/// Bounds what this process may allocate. The stacks of the threads that render templates count as allocated, however
/// little of them is used, and come on top.
fn limit_memory(max_memory_bytes: u64) -> io::Result<()> {
    let threads = std::thread::available_parallelism()?.get() as u64;
    let limit = Some(max_memory_bytes + threads * template::STACK_BYTES as u64);
    Ok(setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit })?)
}

async fn work(order: Order, storage: &StorageOptions) -> Result<Preview, Error> {
    let (tokenizer, model_limit) = load(&order.model, &order.model_uri)?;
    let no_rows = || Error::Interrupted("the task has no rows".into());
    let data = &order.spec.task.training().ok_or_else(no_rows)?.data;
    let mut options = Options::of(&order.spec.task).ok_or_else(no_rows)?;
    if let Some(limit) = model_limit.filter(|_| order.max_length_is_default) {
        options.max_length = options.max_length.min(usize::try_from(limit).unwrap_or(usize::MAX)).max(1);
    }
    let open =
        |uris: &[String]| uris.iter().map(|uri| Storage::open(uri, storage)).collect::<Result<Vec<Location>, _>>();
    let sources = Sources { train: open(&data.train)?, eval: open(&data.eval)? };
    Ok(preview(sources, Arc::new(tokenizer), options, order.num_rows, Arc::new(|_| {})).await?)
}

/// A tokenizer, and the longest input its model was made for.
type Found = (Tokenizer, Option<u64>);

fn load(path: &Path, uri: &str) -> Result<Found, Error> {
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
