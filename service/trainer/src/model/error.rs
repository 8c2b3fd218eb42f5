//! Why a model or an adapter cannot be used.

use std::path::PathBuf;

use crate::model::family::Architecture;

/// Why a model or an adapter cannot be used; every message names the file, and the tensor or field it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The place holds no model that hone reads.
    #[error("{path}: {what}; a model is a folder with config.json and safetensors, or a GGUF file")]
    NotAModel {
        /// The folder or file.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// The configuration is broken or has impossible values.
    #[error("{path}: {what}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, and what is wrong with it.
        what: String,
    },
    /// The architecture is not among the supported ones.
    #[error("{path}: architecture {name} is not supported; supported are {}", Architecture::names())]
    UnsupportedArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A GGUF file has no place for something that the model has.
    #[error("{path}: a GGUF file cannot hold this model: {what}; write a Hugging Face folder instead")]
    NotForGguf {
        /// The file that was to be written.
        path: PathBuf,
        /// What has no place.
        what: String,
    },
    /// The GGUF container is broken, or could not be written.
    #[error(transparent)]
    Gguf(#[from] hone_data::gguf::Error),
    /// A safetensors file breaks its format.
    #[error("{path}: not a usable safetensors file: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file ends before the data it announces.
    #[error("{path}: truncated: {what} needs the bytes up to {needed}, the file has {size}; fetch it again")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor or header that is cut.
        what: String,
        /// Where it would end.
        needed: u64,
        /// Size of the file.
        size: u64,
    },
    /// A tensor that the model needs is not there.
    #[error("{path}: tensor {tensor} is missing")]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has other sizes than the configuration says.
    #[error("{path}: tensor {tensor} has shape {found:?}, the configuration asks for {expected:?}")]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Sizes in the file.
        found: Vec<i64>,
        /// Sizes that were asked for.
        expected: Vec<i64>,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{path}: tensor {tensor} is stored as {dtype}; supported are F32, F16 and BF16")]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Name of the type.
        dtype: String,
    },
    /// A weight is no number.
    #[error(
        "{path}: tensor {tensor} has weights that are NaN or infinite; the file is damaged, or its training diverged"
    )]
    NotFinite {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The adapter's options do not fit the model.
    #[error("adapter: {0}")]
    Adapter(String),
}
