//! Why the trainer cannot go on: errors of its parts in, a failure of the job out.

use std::any::Any;
use std::path::PathBuf;

use hone_data::{cache, dataset, examples, source, storage, template, tokenizer};
use hone_job::failure::{Failure, Reason};

use crate::{checkpoint, model, peft};

/// Why the trainer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base model cannot be used.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The model's tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// The chat template cannot be used, or refuses a conversation.
    #[error(transparent)]
    Template(#[from] template::Error),
    /// The rows cannot be trained on.
    #[error(transparent)]
    Data(#[from] dataset::Error),
    /// An example cannot be fetched.
    #[error(transparent)]
    Examples(#[from] examples::Error),
    /// Object storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// An adapter's files cannot be used.
    #[error(transparent)]
    Peft(#[from] peft::Error),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A file that was given to a command makes no sense.
    #[error("{place}: {what}")]
    Input {
        /// The file, with the entry it is about.
        place: String,
        /// What is wrong and what was expected.
        what: String,
    },
    /// A file of this machine failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The device that was asked for cannot be used.
    #[error("device: {0}")]
    Device(String),
    /// Losses or gradients stayed NaN or infinite.
    #[error("loss or gradient was not finite in {skipped} updates, the last of them step {step}, of {rows}")]
    NonFinite {
        /// The step at which it was given up.
        step: u64,
        /// Updates that were skipped.
        skipped: u64,
        /// Rows of the last one.
        rows: String,
    },
    /// A weight to export is not a number, or too large for its number format.
    #[error("{tensor}: a weight is not finite in {weight_type}")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The number format.
        weight_type: &'static str,
    },
    /// The computing thread could not be started.
    #[error("cannot start the computing thread: {0}")]
    Thread(std::io::Error),
    /// The computing thread panicked; LibTorch's operators do on sizes that do not fit and when memory runs out.
    #[error("{0}")]
    Panic(String),
}

impl From<cache::Error> for Error {
    fn from(cache::Error { path, source }: cache::Error) -> Self {
        Error::Io { path, source }
    }
}

impl Error {
    /// The error of a panic, from what it left behind.
    pub fn from_panic(payload: &(dyn Any + Send)) -> Error {
        Error::Panic(first_line(panic_message(payload)))
    }

    /// The failure of the job that this error is: its class, where it happened, what to try.
    pub fn failure(&self) -> Failure {
        let mut failure = Failure::new(self.reason(), self.to_string());
        // Storage that fails may be there again soon; what is not in it is not.
        failure.retryable &= !self.is_about_something_missing();
        let located = match self.location() {
            Some(location) => failure.at(location),
            None => failure,
        };
        match self.remedy() {
            Some(remedy) => located.try_this(remedy),
            None => located,
        }
    }

    fn is_about_something_missing(&self) -> bool {
        matches!(self, Error::Storage(error) if error.is_not_found())
    }

    fn reason(&self) -> Reason {
        match self {
            Error::Model(_) | Error::Tokenizer(_) | Error::Peft(_) => Reason::ModelUnsupported,
            Error::Checkpoint(checkpoint::Error::OtherBaseModel { .. } | checkpoint::Error::OtherOptimizer { .. }) => {
                Reason::ModelUnsupported
            }
            Error::Data(dataset::Error::Source(source::Error::Storage(_)))
            | Error::Storage(_)
            | Error::Checkpoint(_) => Reason::Storage,
            Error::Data(dataset::Error::Interrupted(_) | dataset::Error::Examples(_)) | Error::Examples(_) => {
                Reason::Internal
            }
            Error::Data(_) | Error::Template(_) | Error::Input { .. } => Reason::InvalidData,
            // The trainer reads nothing of this machine but what it has fetched, and writes nothing but what it will upload.
            Error::Io { .. } => Reason::Storage,
            Error::NonFinite { .. } | Error::Overflow { .. } => Reason::NonFinite,
            Error::Device(_) | Error::Thread(_) => Reason::Internal,
            Error::Panic(message) => reason_of_panic(message),
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            Error::Model(error) => model_location(error),
            Error::Tokenizer(error) => tokenizer_location(error),
            Error::Data(error) => data_location(error),
            Error::Storage(error) => Some(storage_location(error)),
            Error::Peft(error) => Some(peft_location(error)),
            Error::Checkpoint(error) => Some(checkpoint_location(error)),
            Error::Input { place, .. } => Some(place.clone()),
            Error::Io { path, .. } => Some(path.display().to_string()),
            Error::NonFinite { step, .. } => Some(format!("step {step}")),
            Error::Overflow { tensor, .. } => Some(tensor.clone()),
            Error::Template(_) | Error::Examples(_) | Error::Device(_) | Error::Thread(_) | Error::Panic(_) => None,
        }
    }

    fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Error::Model(model::Error::Truncated { .. }) => "upload the model again; its copy is not whole",
            Error::Model(model::Error::Adapter(_)) => "set target_modules and rank to what the model has",
            Error::Model(model::Error::NotForGguf { .. }) => "write a Hugging Face folder instead",
            Error::Model(_) => {
                "use a base model of a supported architecture, whole, as Hugging Face folder or GGUF file"
            }
            Error::Tokenizer(tokenizer::Error::DoesNotFit { .. }) => "use the tokenizer that belongs to the model",
            Error::Tokenizer(_) => "put the model's tokenizer.json beside its weights",
            Error::Template(_) => "set data.chat_template, or use rows with prompt and completion",
            Error::Data(dataset::Error::Source(source::Error::Storage(_)))
            | Error::Storage(_)
            | Error::Checkpoint(checkpoint::Error::Storage(_)) => {
                "check the URI, the credentials of the trainer and the network"
            }
            Error::Checkpoint(checkpoint::Error::Damaged { .. }) => "start from another checkpoint of the job",
            Error::Checkpoint(checkpoint::Error::OtherOptimizer { .. }) => {
                "set the optimizer that the checkpoint was made with, or start from its weights with init_from"
            }
            Error::Data(dataset::Error::OverLength { .. }) => {
                "raise max_length, or set over_length to drop or truncate"
            }
            Error::Examples(_) | Error::Data(dataset::Error::Examples(_)) => {
                "free space in the trainer's folder for temporary files, or let TMPDIR name another"
            }
            Error::Data(_) => "preview the dataset: it names every row that cannot be used",
            Error::Peft(_) | Error::Checkpoint(checkpoint::Error::OtherBaseModel { .. }) => {
                "start from an adapter that was made for this base model"
            }
            Error::Io { .. } => "check free space and permissions of the trainer's cache folder",
            Error::Device(_) => "run `hone-trainer doctor` on the machine, or set HONE_DEVICE",
            Error::Overflow { .. } => {
                "export as bfloat16 or float32, which hold larger numbers, or look at the run's losses"
            }
            Error::NonFinite { .. } => "lower the learning rate, lengthen the warmup, or train in float32",
            Error::Panic(message) => match reason_of_panic(message) {
                Reason::OutOfMemory => "lower tokens_per_micro_batch or max_length, or use a machine with more memory",
                Reason::TrainerCrashed => {
                    "look at the trainer's log and the health of the device, then run the job again"
                }
                _ => "report this with the trainer's log; it is a fault of hone",
            },
            Error::Input { .. } | Error::Thread(_) => return None,
        })
    }
}

fn model_location(error: &model::Error) -> Option<String> {
    use model::Error as E;
    let path = match error {
        E::MissingTensor { path, tensor }
        | E::WrongShape { path, tensor, .. }
        | E::NotFinite { path, tensor }
        | E::UnsupportedDtype { path, tensor, .. } => return Some(format!("{}: {tensor}", path.display())),
        E::Io { path, .. }
        | E::NotAModel { path, .. }
        | E::Config { path, .. }
        | E::UnsupportedArchitecture { path, .. }
        | E::NotForGguf { path, .. }
        | E::Malformed { path, .. }
        | E::Truncated { path, .. } => path,
        E::Gguf(_) | E::Adapter(_) => return None,
    };
    Some(path.display().to_string())
}

fn tokenizer_location(error: &tokenizer::Error) -> Option<String> {
    use tokenizer::Error as E;
    match error {
        E::Io { path, .. } | E::Missing { path, .. } => Some(path.display().to_string()),
        E::Malformed { origin, .. } | E::NotForGguf { origin, .. } | E::DoesNotFit { origin, .. } => {
            Some(origin.clone())
        }
        E::Unsupported { .. } | E::Gguf(_) | E::Failed(_) => None,
    }
}

fn data_location(error: &dataset::Error) -> Option<String> {
    use dataset::Error as E;
    match error {
        E::Malformed { notes, .. } | E::OverLength { notes, .. } => {
            notes.first().map(|note| format!("{}:{}", note.object, note.row))
        }
        E::NoUsableRows { reasons, .. } => {
            reasons.iter().flat_map(|reason| &reason.rows).next().map(|note| format!("{}:{}", note.object, note.row))
        }
        E::Source(source::Error::Storage(error)) => Some(storage_location(error)),
        E::Source(source::Error::NoObjects { uri, .. }) => Some(uri.clone()),
        E::Source(source::Error::Read { object, row, .. } | source::Error::Parquet { object, row, .. }) => {
            Some(format!("{object}:{row}"))
        }
        E::Mix(_) => Some("data.mix".into()),
        E::Template(_) | E::Interrupted(_) | E::Examples(_) => None,
    }
}

fn peft_location(error: &peft::Error) -> String {
    use peft::Error as E;
    let (E::Io { path, .. } | E::Config { path, .. } | E::Weights { path, .. } | E::DoesNotFit { path, .. }) = error;
    path.display().to_string()
}

fn checkpoint_location(error: &checkpoint::Error) -> String {
    use checkpoint::Error as E;
    match error {
        E::Storage(error) => storage_location(error),
        E::Damaged { uri, .. } | E::OtherBaseModel { uri, .. } | E::OtherOptimizer { uri, .. } => uri.clone(),
    }
}

fn storage_location(error: &storage::Error) -> String {
    use storage::Error as E;
    match error {
        E::Unusable { uri, .. }
        | E::NotFound { uri, .. }
        | E::Refused { uri, .. }
        | E::Unreachable { uri, .. }
        | E::Store { uri, .. }
        | E::Local { uri, .. } => uri.clone(),
    }
}

/// What a panic said.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// The first line of what LibTorch says. Behind it stands a C++ backtrace; around it, when it comes through tch's unwrap,
/// Rust's rendering of the error, in which a line break is a backslash and an n.
pub fn first_line(message: &str) -> String {
    let inner = message
        .strip_prefix("called `Result::unwrap()` on an `Err` value: Torch(\"")
        .map_or(message, |rest| rest.strip_suffix("\")").unwrap_or(rest));
    let line = inner.split('\n').next().unwrap_or(inner);
    match inner.len() < message.len() {
        true => line.split("\\n").next().unwrap_or(line).replace("\\\"", "\"").replace("\\'", "'"),
        false => line.to_string(),
    }
}

/// What LibTorch, its CUDA libraries and C++ say when memory runs out, in lower case.
const OUT_OF_MEMORY: [&str; 6] = [
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "cublas_status_alloc_failed",
];

/// What they say when the device or its driver fails, which another attempt may survive.
const DEVICE_FAILED: [&str; 4] = ["cuda error", "cublas_status", "cudnn_status", "nccl"];

fn reason_of_panic(message: &str) -> Reason {
    let message = message.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    if says(&OUT_OF_MEMORY) {
        Reason::OutOfMemory
    } else if says(&DEVICE_FAILED) {
        Reason::TrainerCrashed
    } else {
        Reason::Internal
    }
}

#[cfg(test)]
mod tests;
