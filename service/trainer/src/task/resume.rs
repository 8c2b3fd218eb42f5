//! What a checkpoint holds of a run, written and read back: what is trained, moments, progress.
//!
//! An adapter is in PEFT's files, a whole model in those of a Hugging Face folder, in the number format that it computes in;
//! where that is not float32, the weights that the optimizer moves are beside its moments.
//! Moments in float32 are stored by the names of the parameters they belong to, those in 8-bit blocks as their codes and
//! scales.
//! A resumed run takes the very steps that the unbroken one would have taken, to the bit where arithmetic is deterministic.

use bytes::Bytes;
use hone_job::checkpoint::id_of_step;
use hone_job::event::{Event, Resumed, Warning};
use hone_job::spec;
use safetensors::SafeTensors;
use tch::{Kind, Tensor};

use super::Observer;
use super::progress::{Progress, TRAINER_STATE, VERSION};
use crate::checkpoint::{self, Folder, Opened};
use crate::error::Error;
use crate::link::Welcome;
use crate::model::{Adapter, Decoder, FullWeights, Trained};
use crate::optim::{Moment, Optimizer};
use crate::workspace::Workspace;
use crate::{peft, pretrained, tensors};

/// Name of the file with the optimizer's moments.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";

/// The files of a run as it stands, all in host memory.
pub(super) fn files(
    trained: &Trained,
    kind: Kind,
    optimizer: &Optimizer,
    progress: &Progress,
    base_model: &str,
) -> Vec<(String, Bytes)> {
    let weights = match trained {
        Trained::Adapter(adapter) => peft::files(adapter, base_model),
        Trained::Full(full) => pretrained::weight_files(&full.named(full.flat()), kind),
    };
    let mut files: Vec<(String, Bytes)> = weights.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    files.push((OPTIMIZER.to_string(), tensors::serialize(&state_tensors(trained, kind, optimizer)).into()));
    let state = serde_json::to_vec_pretty(progress).expect("progress is plain numbers");
    files.push((TRAINER_STATE.to_string(), state.into()));
    files
}

/// All of an optimizer's tensors by the names they have in a file, as views.
fn state_tensors(trained: &Trained, kind: Kind, optimizer: &Optimizer) -> Vec<(String, Tensor)> {
    let by_name = |prefix: &str, flat: &Tensor| -> Vec<(String, Tensor)> {
        trained.named(flat).into_iter().map(|(name, part)| (format!("{prefix}.{name}"), part)).collect()
    };
    let mut tensors = Vec::new();
    if is_rounded(trained, kind) {
        tensors.extend(by_name("master", trained.flat()));
    }
    for (moment, values) in optimizer.moments() {
        match values {
            Moment::Float32(flat) => tensors.extend(by_name(moment, flat)),
            Moment::Block8(blocks) => {
                tensors.extend(blocks.parts().map(|(name, part)| (format!("{moment}.{name}"), part.shallow_clone())));
            }
        }
    }
    tensors
}

/// Whether the file of the weights has less of them than the optimizer moves.
fn is_rounded(trained: &Trained, kind: Kind) -> bool {
    matches!(trained, Trained::Full(_)) && kind != Kind::Float
}

/// A checkpoint to go on from, verified.
pub(super) struct Found {
    opened: Opened,
}

/// The checkpoint to go on from, none for a start: the one that the server names or, where that is damaged or gone, the newest
/// one before it that is whole. Each that is not is warned of.
pub(super) fn find(
    welcome: &Welcome,
    folder: &Folder,
    workspace: &Workspace,
    base_model_fingerprint: &str,
    observer: &dyn Observer,
) -> Result<Option<Found>, Error> {
    let Some(uri) = &welcome.resume_from else { return Ok(None) };
    let mut refused = match open(uri, workspace, base_model_fingerprint) {
        Err(error) if is_not_whole(&error) => error,
        opened => return opened.map(Some),
    };
    let first = refused.to_string();
    let manifests = workspace.runtime().block_on(folder.manifests())?;
    let named = step_in(uri);
    let older = manifests.iter().rev().filter(|manifest| manifest.step < named);
    for older in older.map(|manifest| folder.uri_of(manifest.step)) {
        let message = format!("{refused}; the run goes on from the checkpoint before it");
        observer.report(Event::Warning(Warning { code: "checkpoint_damaged".into(), message }));
        refused = match open(&older, workspace, base_model_fingerprint) {
            Err(error) if is_not_whole(&error) => error,
            opened => return opened.map(Some),
        };
    }
    tracing::error!(first, "no checkpoint is whole");
    Err(refused)
}

/// The step that a checkpoint's folder is named by.
fn step_in(uri: &str) -> u64 {
    let name = uri.trim_end_matches('/').rsplit('/').next();
    name.and_then(|name| name.strip_prefix("step-")?.parse().ok()).unwrap_or(u64::MAX)
}

fn is_not_whole(error: &Error) -> bool {
    use hone_data::storage::Error as Storage;
    matches!(
        error,
        Error::Checkpoint(checkpoint::Error::Damaged { .. } | checkpoint::Error::Storage(Storage::NotFound { .. }))
    )
}

/// Reads and verifies a checkpoint of this run's base model.
fn open(uri: &str, workspace: &Workspace, base_model_fingerprint: &str) -> Result<Found, Error> {
    let opened = workspace.runtime().block_on(checkpoint::open(&workspace.open(uri)?))?;
    opened.belongs_to(base_model_fingerprint)?;
    Ok(Found { opened })
}

impl Found {
    /// What to tell of it once `progress` has been restored from it.
    pub(super) fn told(&self, progress: &Progress, epoch_len: usize) -> Resumed {
        Resumed {
            checkpoint_id: id_of_step(progress.step),
            uri: self.opened.uri.clone(),
            step: progress.step,
            epoch: progress.epoch(epoch_len),
            optimizer: progress.optimizer.clone(),
        }
    }

    /// What is trained of the model, as it was.
    pub(super) fn trained(&self, model: &Decoder, adapter: &spec::Adapter) -> Result<Trained, Error> {
        Ok(match adapter {
            spec::Adapter::Lora(lora) => Trained::Adapter(self.adapter(model, lora)?),
            spec::Adapter::Full => {
                let full = FullWeights::new(model);
                self.load_weights(&full)?;
                Trained::Full(full)
            }
        })
    }

    fn adapter(&self, model: &Decoder, lora: &spec::Lora) -> Result<Adapter, Error> {
        // PEFT's reader takes a folder.
        let folder = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
        for name in [peft::CONFIG, peft::WEIGHTS] {
            let path = folder.path().join(name);
            std::fs::write(&path, self.opened.file(name)?).map_err(|source| Error::Io { path, source })?;
        }
        Ok(match self.progress()?.converted_from {
            Some(init) => peft::load_converted(folder.path(), model, lora.dropout, init)?,
            None => peft::load(folder.path(), model, lora.dropout)?,
        })
    }

    fn load_weights(&self, full: &FullWeights) -> Result<(), Error> {
        let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
        let files = self.opened.files().filter(|(name, _)| is_weights(name)).map(|(_, bytes)| bytes.as_ref());
        pretrained::read_weights(files, &full.named(full.flat()))
            .map_err(|what| self.unusable("model.safetensors", what))
    }

    /// Puts the moments back, and gives how far the run was. `num_examples` must be what it was.
    pub(super) fn restore(
        &self,
        trained: &Trained,
        kind: Kind,
        optimizer: &mut Optimizer,
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
        if progress.optimizer != optimizer.kind() {
            let (uri, found, expected) = (self.opened.uri.clone(), progress.optimizer, optimizer.kind());
            return Err(checkpoint::Error::OtherOptimizer { uri, found, expected }.into());
        }
        let bytes = self.opened.file(OPTIMIZER)?;
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(tensors::Error::from)
            .and_then(|file| tensors::read_as_stored(&file))
            .map_err(|error| self.unusable(OPTIMIZER, error.to_string()))?;
        for (wanted, part) in state_tensors(trained, kind, optimizer) {
            let fits = |tensor: &Tensor| tensor.size() == part.size() && tensor.kind() == part.kind();
            let found = tensors.iter().find(|(name, tensor)| *name == wanted && fits(tensor));
            let (_, tensor) = found.ok_or_else(|| {
                self.unusable(OPTIMIZER, format!("tensor {wanted} is missing or has another shape or type"))
            })?;
            part.shallow_clone().copy_(tensor);
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
