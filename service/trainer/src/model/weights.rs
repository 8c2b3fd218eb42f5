//! Weights by their names in Hugging Face checkpoints, from safetensors or GGUF: a name and a shape in, a tensor out.
//!
//! Only tensors that are asked for are read, each cast to the wanted type on its way, so that the model in file and in
//! memory never exist as two whole copies.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::config::Config;
use super::error::Error;
use super::gguf::GgufWeights;
use super::safetensors::SafeTensors;
use crate::tensors;

/// An open model file or folder.
pub(super) struct Weights<'a> {
    path: PathBuf,
    source: Source,
    kind: Kind,
    device: Device,
    bytes_read: u64,
    progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

enum Source {
    SafeTensors(SafeTensors),
    Gguf(GgufWeights),
}

impl<'a> Weights<'a> {
    /// Opens the model and reads its configuration.
    pub(super) fn open(path: &Path, kind: Kind, device: Device) -> Result<(Config, Weights<'a>), Error> {
        let (path, config, source) = if path.join("config.json").is_file() {
            (path.to_path_buf(), Config::from_folder(path)?, Source::SafeTensors(SafeTensors::open(path)?))
        } else {
            let file = gguf_file(path)?;
            let (config, weights) = GgufWeights::open(&file)?;
            (file, config, Source::Gguf(weights))
        };
        Ok((config, Weights { path, source, kind, device, bytes_read: 0, progress: None }))
    }

    /// Tells `progress` after every tensor the bytes read, and the bytes in all.
    pub(super) fn report_to(&mut self, progress: &'a mut dyn FnMut(u64, u64)) {
        self.progress = Some(progress);
    }

    /// Whether the file has the tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::SafeTensors(files) => files.shape(name).is_some(),
            Source::Gguf(file) => file.shape(name).is_some(),
        }
    }

    /// The tensor of a name, which must have this shape.
    pub(super) fn tensor(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, Error> {
        let (tensor, num_bytes) = self.read(name, shape)?;
        self.bytes_read += num_bytes;
        crate::pulse::beat();
        let total = match &self.source {
            Source::SafeTensors(files) => files.num_bytes(),
            Source::Gguf(file) => file.num_bytes(),
        };
        if let Some(progress) = &mut self.progress {
            progress(self.bytes_read.min(total), total);
        }
        let tensor = tensor.to_kind(self.kind).to_device(self.device);
        // Found here, it has a name; in training every loss would be no number, and nobody could say why.
        match tensors::is_finite(&tensor) {
            true => Ok(tensor),
            false => Err(Error::NotFinite { path: self.path.clone(), tensor: name.to_string() }),
        }
    }

    /// Tensors of `rows` rows each, one above the other; `rest` is what a row is like.
    pub(super) fn stacked(&mut self, parts: &[(String, i64)], rest: &[i64]) -> Result<Tensor, Error> {
        let shape = |rows: i64| [&[rows], rest].concat();
        if let [(name, rows)] = parts {
            return self.tensor(name, &shape(*rows));
        }
        let tensors =
            parts.iter().map(|(name, rows)| self.tensor(name, &shape(*rows))).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&tensors, 0))
    }

    fn read(&self, name: &str, shape: &[i64]) -> Result<(Tensor, u64), Error> {
        let found = match &self.source {
            Source::SafeTensors(files) => files.shape(name),
            Source::Gguf(file) => file.shape(name),
        };
        let path = || self.path.clone();
        let found = found.ok_or_else(|| Error::MissingTensor { path: path(), tensor: name.to_string() })?;
        if found != shape {
            let (tensor, expected) = (name.to_string(), shape.to_vec());
            return Err(Error::WrongShape { path: path(), tensor, found, expected });
        }
        match &self.source {
            Source::SafeTensors(files) => files.read(name),
            Source::Gguf(file) => file.read(name),
        }
    }
}

/// How a file holds the matrices of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// In a number format that keeps every weight: float32, bfloat16 or float16; the widest where there are several.
    Float(Kind),
    /// In blocks of a few bits; the type of the first that is.
    Quantised(String),
}

/// How the file of a model holds its matrices. Vectors do not count: norms often have a format of their own.
pub fn stored(path: &Path) -> Result<Stored, Error> {
    let (_, weights) = Weights::open(path, Kind::Float, Device::Cpu)?;
    let types = match &weights.source {
        Source::SafeTensors(files) => files.matrix_types(),
        Source::Gguf(file) => file.matrix_types(),
    };
    let kind = |name: &str| match name {
        "F32" => Some(Kind::Float),
        "F16" => Some(Kind::Half),
        "BF16" => Some(Kind::BFloat16),
        _ => None,
    };
    if let Some(name) = types.iter().find(|name| kind(name).is_none()) {
        return Ok(Stored::Quantised(name.to_string()));
    }
    // Neither of the two short formats holds the other.
    let mut kinds = types.iter().filter_map(|name| kind(name));
    let first = kinds.next().unwrap_or(Kind::Float);
    Ok(Stored::Float(if kinds.all(|kind| kind == first) { first } else { Kind::Float }))
}

/// The configuration of a model.
pub(super) fn read_config(path: &Path) -> Result<Config, Error> {
    match path.join("config.json").is_file() {
        true => Config::from_folder(path),
        false => GgufWeights::open(&gguf_file(path)?).map(|(config, _)| config),
    }
}

/// The file itself, or the one GGUF file of a folder.
fn gguf_file(path: &Path) -> Result<PathBuf, Error> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    let not_a_model = |what: String| Error::NotAModel { path: path.to_path_buf(), what };
    let entries = std::fs::read_dir(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .collect();
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (Some(_), others) => Err(not_a_model(format!("{} GGUF files; name the one to use", others + 1))),
        (None, _) => Err(not_a_model("neither config.json nor a GGUF file".to_string())),
    }
}

#[cfg(test)]
mod tests;
