//! What a checkpoint holds of a run, written and read back: adapter, moments, progress.
//!
//! A resumed run takes the very steps that the unbroken one would have taken, to the bit where arithmetic is deterministic.

use bytes::Bytes;
use hone_job::spec::{self, Training};
use safetensors::SafeTensors;
use tch::Tensor;

use super::progress::{Progress, TRAINER_STATE, VERSION};
use crate::checkpoint::{self, Opened};
use crate::error::Error;
use crate::model::{Adapter, Decoder};
use crate::optim::AdamW;
use crate::workspace::Workspace;
use crate::{peft, tensors};

/// Name of the file with the optimizer's moments.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
/// What stands before a parameter's name in it, for either moment.
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];

/// The files of a run as it stands, all in host memory.
pub(super) fn files(
    adapter: &Adapter,
    optimizer: &AdamW,
    progress: &Progress,
    base_model: &str,
) -> Vec<(String, Bytes)> {
    let mut files: Vec<(String, Bytes)> =
        peft::files(adapter, base_model).into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    let moments: Vec<(String, Tensor)> = MOMENTS
        .iter()
        .zip(optimizer.moments())
        .flat_map(|(prefix, moment)| {
            adapter.named(moment).into_iter().map(move |(name, part)| (format!("{prefix}{name}"), part))
        })
        .collect();
    files.push((OPTIMIZER.to_string(), tensors::serialize(&moments).into()));
    let state = serde_json::to_vec_pretty(progress).expect("progress is plain numbers");
    files.push((TRAINER_STATE.to_string(), state.into()));
    files
}

/// A checkpoint to go on from, verified.
pub(super) struct Resumed {
    opened: Opened,
    folder: tempfile::TempDir,
}

/// Reads and verifies a checkpoint of this run's base model.
pub(super) fn open(uri: &str, workspace: &Workspace, base_model_fingerprint: &str) -> Result<Resumed, Error> {
    let opened = workspace.runtime().block_on(checkpoint::open(&workspace.open(uri)?))?;
    opened.belongs_to(base_model_fingerprint)?;
    // PEFT's reader takes a folder.
    let folder = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
    for name in [peft::CONFIG, peft::WEIGHTS] {
        let path = folder.path().join(name);
        std::fs::write(&path, opened.file(name)?).map_err(|source| Error::Io { path, source })?;
    }
    Ok(Resumed { opened, folder })
}

impl Resumed {
    /// The adapter as it was.
    pub(super) fn adapter(&self, model: &Decoder, training: &Training) -> Result<Adapter, Error> {
        let spec::Adapter::Lora(lora) = &training.adapter;
        let folder = self.folder.path();
        Ok(match self.progress()?.converted_from {
            Some(init) => peft::load_converted(folder, model, lora.dropout, init)?,
            None => peft::load(folder, model, lora.dropout)?,
        })
    }

    /// Puts the moments back, and gives how far the run was. `num_examples` must be what it was.
    pub(super) fn restore(
        &self,
        adapter: &Adapter,
        optimizer: &mut AdamW,
        num_examples: u64,
    ) -> Result<Progress, Error> {
        let progress = self.progress()?;
        if progress.version != VERSION {
            let what = format!("layout version {}; this hone reads {VERSION}", progress.version);
            return Err(self.unusable(TRAINER_STATE, what));
        }
        if progress.num_examples != num_examples {
            let what =
                format!("it was made with {} training examples, there are {num_examples} now", progress.num_examples);
            return Err(self.unusable(TRAINER_STATE, what));
        }
        let bytes = self.opened.file(OPTIMIZER)?;
        let tensors =
            SafeTensors::deserialize(bytes).map_err(tensors::Error::from).and_then(|file| tensors::read(&file));
        let tensors = tensors.map_err(|error| self.unusable(OPTIMIZER, error.to_string()))?;
        for (prefix, moment) in MOMENTS.iter().zip(optimizer.moments()) {
            for (name, part) in adapter.named(moment) {
                let wanted = format!("{prefix}{name}");
                let found = tensors.iter().find(|(name, tensor)| *name == wanted && tensor.size() == part.size());
                let (_, tensor) = found.ok_or_else(|| {
                    self.unusable(OPTIMIZER, format!("tensor {wanted} is missing or has another shape"))
                })?;
                part.shallow_clone().copy_(tensor);
            }
        }
        optimizer.set_num_updates(progress.num_updates);
        Ok(progress)
    }

    fn progress(&self) -> Result<Progress, Error> {
        serde_json::from_slice(self.opened.file(TRAINER_STATE)?)
            .map_err(|error| self.unusable(TRAINER_STATE, error.to_string()))
    }

    fn unusable(&self, file: &str, what: String) -> Error {
        checkpoint::Error::Damaged { uri: format!("{}/{file}", self.opened.uri), what }.into()
    }
}
