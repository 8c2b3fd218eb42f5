//! What the reference policy says about every answer, computed once and kept for other runs.
//!
//! The reference never moves, so its log-probabilities are a function of the rows: they are computed before the first step, in
//! an order that depends on the rows alone, and stored under a fingerprint of all that changes them. Epochs, evaluations,
//! resumed attempts and other jobs with the same reference and rows read the same numbers, to the bit.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use hone_data::examples::Examples;
use hone_data::pack::pack;
use hone_data::storage::Location;
use hone_data::tokenize::Example;
use hone_job::event::{Event, Phase, Warning};
use hone_job::spec::{self, DpoTask, Preference, Reference, Training};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::Observer;
use super::objective::ReferenceLogps;
use super::setup::Prepared;
use crate::device::Compute;
use crate::error::Error;
use crate::fingerprint::fingerprint_of;
use crate::loss::pairs::{AnswerScores, places};
use crate::model::{Adapter, Decoder};
use crate::workspace::Workspace;
use crate::{peft, pretrained};

/// Layout of the stored file, and the way of computing: a change of either makes other names.
const VERSION: u32 = 1;
/// Name of the tensor in the file, and of the digest in its metadata.
const LOGPS: &str = "logps";
const DIGEST: &str = "sha256";
/// Pairs that are packed together: a fixed number, so that the numbers do not depend on who asks.
const PAIRS_AT_ONCE: usize = 64;
/// Tokens that go through the model at once, fixed for the same reason.
const TOKENS_AT_ONCE: usize = 2048;

/// The policy that answers are compared with.
pub(super) struct ReferencePolicy<'a> {
    model: ReferenceModel<'a>,
    /// None is the model by itself.
    adapter: Option<Adapter>,
    preference: &'a Preference,
    /// Digest of the policy and of how it is asked.
    fingerprint: Sha256,
}

/// The weights beneath the reference.
enum ReferenceModel<'a> {
    /// Those of the run, before its first step.
    OfTheRun(&'a Decoder),
    /// Others, in memory while they are asked.
    Other(Box<Decoder>),
}

impl ReferenceModel<'_> {
    fn get(&self) -> &Decoder {
        match self {
            ReferenceModel::OfTheRun(model) => model,
            ReferenceModel::Other(model) => model,
        }
    }
}

/// Where the reference is.
enum Place<'a> {
    /// The model of the run as it was loaded.
    Loaded,
    /// The base model.
    Base,
    /// A checkpoint: an adapter of the base model, or a model.
    At(&'a str),
}

impl<'a> Place<'a> {
    fn of(preference: &'a Preference, training: &'a Training) -> Place<'a> {
        match (&preference.reference, &training.adapter) {
            // What all weights start from is loaded; a fresh adapter changes nothing.
            (Reference::Initial, spec::Adapter::Full) => Place::Loaded,
            (Reference::Initial, spec::Adapter::Lora(_)) => {
                training.init_from.as_deref().map_or(Place::Base, Place::At)
            }
            (Reference::Base, _) => Place::Base,
            (Reference::Checkpoint(uri), _) => Place::At(uri),
        }
    }
}

impl<'a> ReferencePolicy<'a> {
    /// Gets the reference that a spec asks for, with the model of the run where it serves.
    pub(super) fn open(
        task: &'a DpoTask,
        prepared: &'a Prepared,
        base_model_fingerprint: &str,
        workspace: &Workspace,
        compute: Compute,
    ) -> Result<ReferencePolicy<'a>, Error> {
        let load = |path: &Path| -> Result<ReferenceModel<'a>, Error> {
            let model = Decoder::load(path, compute.kind, compute.device, &mut |_, _| {})?;
            Ok(ReferenceModel::Other(Box::new(model)))
        };
        let of_the_run = || Ok(ReferenceModel::OfTheRun(&prepared.model));
        let base =
            || if prepared.weights_path == prepared.model_path { of_the_run() } else { load(&prepared.model_path) };
        let of_base = base_model_fingerprint.to_string();
        let (model, model_fingerprint, adapter) = match Place::of(&task.preference, &task.training) {
            Place::Loaded => (of_the_run()?, fingerprint_of(&prepared.weights_path)?, None),
            Place::Base => (base()?, of_base, None),
            Place::At(uri) => {
                let folder = workspace.local(uri, &|_, _| {})?;
                super::setup::verify_checkpoint(uri, &folder, workspace)?;
                if pretrained::is_model(&folder) {
                    (load(&folder)?, fingerprint_of(&folder)?, None)
                } else {
                    let model = base()?;
                    let adapter = peft::load(&folder, model.get(), 0.0)?;
                    (model, of_base, Some(adapter))
                }
            }
        };
        let mut fingerprint = Sha256::new();
        fingerprint.update(format!(
            "{VERSION} {model_fingerprint} {:?} {:?} {}\n",
            compute.kind, compute.device, task.preference.length_alpha
        ));
        for (name, tensor) in adapter.iter().flat_map(Adapter::named_tensors) {
            let values = Vec::<f32>::try_from(tensor.flatten(0, -1)).expect("an adapter is float32");
            fingerprint.update(format!("{name} {:?}\n", tensor.size()));
            values.iter().for_each(|value| fingerprint.update(value.to_le_bytes()));
        }
        if let Some(adapter) = &adapter {
            fingerprint.update(format!("{:?}\n", adapter.options()));
        }
        Ok(ReferencePolicy { model, adapter, preference: &task.preference, fingerprint })
    }

    /// Its log-probabilities of these answers: those stored, or computed and stored. A store that fails costs a warning.
    pub(super) fn logps(
        &self,
        examples: &Examples,
        store: &Location,
        workspace: &Workspace,
        observer: &dyn Observer,
    ) -> Result<ReferenceLogps, Error> {
        let object = store.join(&format!("{}.safetensors", self.name(examples)?));
        let phase = |detail: String| {
            observer.report(Event::Phase(Phase { name: "scoring_reference".into(), detail }));
        };
        match workspace.runtime().block_on(object.get()).map(|bytes| read(&bytes, examples.len())) {
            Ok(Ok(logps)) => {
                phase(format!("{} pairs, read from {}", examples.len(), object.uri));
                return Ok(ReferenceLogps(logps));
            }
            Ok(Err(what)) => {
                let message = format!("{} is damaged ({what}) and computed anew", object.uri);
                observer.report(Event::Warning(Warning { code: "reference_damaged".into(), message }));
            }
            // Most often it is not there yet. What else is wrong with the store shows when it is written to.
            Err(_) => {}
        }
        let logps = self.compute(examples, &|done| phase(format!("{done} of {} pairs", examples.len())))?;
        if let Err(error) = workspace.runtime().block_on(object.put(write(&logps))) {
            let message = format!("what the reference says is not kept for other runs: {error}");
            observer.report(Event::Warning(Warning { code: "reference_not_stored".into(), message }));
        }
        Ok(ReferenceLogps(logps))
    }

    /// Digest of the policy and of the answers.
    fn name(&self, examples: &Examples) -> Result<String, Error> {
        let mut digest = self.fingerprint.clone();
        for index in 0..examples.len() {
            for document in &examples.get(index)?.documents {
                digest.update((document.len() as u64).to_le_bytes());
                document.input_ids.iter().for_each(|id| digest.update(id.to_le_bytes()));
                document.labels.iter().for_each(|label| digest.update(label.to_le_bytes()));
            }
        }
        Ok(hex::encode(digest.finalize()))
    }

    fn compute(&self, examples: &Examples, progress: &dyn Fn(usize)) -> Result<Tensor, Error> {
        let logps = Tensor::zeros([examples.len() as i64, 2], (Kind::Float, tch::Device::Cpu));
        for first in (0..examples.len()).step_by(PAIRS_AT_ONCE) {
            progress(first);
            let chunk = (first..examples.len().min(first + PAIRS_AT_ONCE)).collect::<Vec<_>>();
            let chunk = examples.of(&chunk)?;
            let chunk: Vec<&Example> = chunk.iter().collect();
            for micro_batch in pack(&chunk, TOKENS_AT_ONCE, self.model.get().prefixes()) {
                let scores = tch::no_grad(|| {
                    AnswerScores::new(self.model.get(), self.adapter.as_ref(), &micro_batch, None, self.preference)
                });
                let rows = Tensor::stack(&scores.logps, 1).to_device(tch::Device::Cpu);
                let _ = logps.shallow_clone().index_copy_(0, &(places(&micro_batch) + first as i64), &rows);
            }
        }
        Ok(logps)
    }
}

fn write(logps: &Tensor) -> Bytes {
    let values = Vec::<f32>::try_from(logps.flatten(0, -1)).expect("a flat vector of float32");
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = logps.size().iter().map(|&dim| dim as usize).collect();
    let metadata = HashMap::from([(DIGEST.to_string(), hex::encode(Sha256::digest(&data)))]);
    let view = TensorView::new(Dtype::F32, shape, &data).expect("four bytes for each value");
    safetensors::serialize([(LOGPS, view)], Some(metadata)).expect("name and shape are sound").into()
}

/// The numbers of a file, or what is wrong with it.
fn read(bytes: &[u8], num_pairs: usize) -> Result<Tensor, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let view = file.tensor(LOGPS).map_err(|error| error.to_string())?;
    if view.dtype() != Dtype::F32 || view.shape() != [num_pairs, 2] {
        return Err(format!("{:?} {:?}, expected F32 [{num_pairs}, 2]", view.dtype(), view.shape()));
    }
    let digest = header.metadata().as_ref().and_then(|metadata| metadata.get(DIGEST));
    if digest != Some(&hex::encode(Sha256::digest(view.data()))) {
        return Err("its digest is another".into());
    }
    Ok(Tensor::from_data_size(view.data(), &[num_pairs as i64, 2], Kind::Float))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back_and_damage_is_seen() {
        let logps = Tensor::from_slice(&[-1.5f32, -2.0, -0.25, f32::MIN_POSITIVE]).view([2, 2]);
        let bytes = write(&logps);
        assert_eq!(read(&bytes, 2).unwrap(), logps);
        assert!(read(&bytes, 3).unwrap_err().contains("expected F32 [3, 2]"));
        let mut damaged = bytes.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(read(&damaged, 2).unwrap_err().contains("digest"));
        assert!(read(&bytes[..20], 2).is_err());
    }
}
