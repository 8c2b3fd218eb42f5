//! Export: a base model and what was trained on it in, files that other tools load out.
//!
//! Every weight is merged in float32 and rounded once, and one file is in memory at a time. The report says how much of the
//! update the rounding took away.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use hone_data::tokenizer::Tokenizer;
use hone_job::event::{Event, ExportReport, Outcome, Phase, Warning};
use hone_job::spec::{ExportFormat, ExportTask, WeightType};
use tch::{Device, Kind, Tensor};

use super::setup::verify_checkpoint;
use super::{Observer, checkpoints, is_stopped, tell_only_checkpoint};
use crate::checkpoint::step_of;
use crate::error::Error;
use crate::fingerprint::fingerprint_of;
use crate::link::{End, Welcome};
use crate::model::{Adapter, Decoder, GgufExport, GgufType, Stored, stored};
use crate::pretrained::{self, MAX_SHARD_BYTES, Shards};
use crate::workspace::Workspace;
use crate::{peft, tensors};

mod loss;
mod sink;

use loss::Rounding;
use sink::CheckpointSink;
pub use sink::{FolderSink, Sink};

/// Name of the one file of a GGUF export.
const GGUF: &str = "model.gguf";

/// What to write, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Layout of the files.
    pub format: ExportFormat,
    /// Number format of the weights.
    pub weight_type: WeightType,
    /// Export although the weights are quantised.
    pub dequantize_base: bool,
}

/// Exports as the spec says: the files become the job's checkpoint, of the step that they were trained for.
pub(super) fn export(
    welcome: &Welcome,
    task: &ExportTask,
    workspace: &Workspace,
    observer: &dyn Observer,
) -> Result<End, Error> {
    let start = std::time::Instant::now();
    let phase = |name: &str, detail: &str| {
        observer.report(Event::Phase(Phase { name: name.into(), detail: detail.into() }));
    };
    phase("loading_model", &welcome.spec.base_model);
    let base = workspace.local(&welcome.spec.base_model, &|_, _| {})?;
    let (checkpoint, step) = match &task.checkpoint {
        Some(uri) => {
            let folder = workspace.local(uri, &|_, _| {})?;
            verify_checkpoint(uri, &folder, workspace)?;
            let step = step_of(&folder);
            (Some(folder), step)
        }
        None => (None, 0),
    };
    let options = Options { format: task.format, weight_type: task.weight_type, dequantize_base: task.dequantize_base };
    let source = Source::open(&base, checkpoint.as_deref(), &options)?;
    for message in source.caveats()? {
        observer.report(Event::Warning(Warning { code: "llama_cpp_differs".into(), message }));
    }
    observer.running();
    let folder = checkpoints(workspace, welcome, fingerprint_of(&base)?)?;
    let runtime = workspace.runtime();
    let writing = runtime.block_on(folder.begin(step))?;
    let is_cancelled = || is_stopped(observer);
    let scratch = workspace.scratch()?;
    let mut sink = CheckpointSink {
        runtime,
        writing,
        scratch: scratch.path(),
        on_file: &|name| phase("merging", name),
        is_cancelled: &is_cancelled,
    };
    let Some(report) = source.write(&mut sink)? else {
        // Without a manifest nothing is there; what was written of it goes.
        runtime.block_on(sink.writing.abandon())?;
        return Ok(End::Stopped { checkpoint_id: None });
    };
    let saved = runtime.block_on(sink.writing.finish(Default::default()))?;
    observer.report(Event::ExportReport(report));
    tell_only_checkpoint(saved, start, Outcome::default(), observer);
    Ok(End::Succeeded)
}

/// The weights to export, with what was trained beside them.
pub struct Source {
    model: Decoder,
    adapter: Option<Adapter>,
    tokenizer: Tokenizer,
    /// The base model's name, for people.
    name: String,
    /// Where the weights are from.
    origin: PathBuf,
    format: ExportFormat,
    kind: Kind,
}

impl Source {
    /// Opens the model at `base`, and what was trained on it: an adapter's folder, or a whole model in its place.
    pub fn open(base: &Path, trained: Option<&Path>, options: &Options) -> Result<Source, Error> {
        let whole = trained.filter(|path| pretrained::is_model(path));
        let origin = whole.unwrap_or(base);
        let stored = stored(origin)?;
        let kind =
            weight_kind(options, &stored).map_err(|what| Error::Input { place: origin.display().to_string(), what })?;
        // Whatever the file holds is kept exactly; what is merged is widened weight by weight.
        let loaded = if let Stored::Float(kind) = stored { kind } else { Kind::Float };
        let model = Decoder::load(origin, loaded, Device::Cpu, &mut |_, _| {})?;
        let adapter = trained.filter(|_| whole.is_none()).map(|folder| peft::load(folder, &model, 0.0)).transpose()?;
        let tokenizer = Tokenizer::open(base)?;
        let name = base.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Source { model, adapter, tokenizer, name, origin: origin.to_path_buf(), format: options.format, kind })
    }

    /// Writes all files; none when the sink wants no more.
    pub fn write(&self, sink: &mut dyn Sink) -> Result<Option<ExportReport>, Error> {
        let weights = self.weights();
        let mut rounding = Rounding::default();
        let is_whole = match self.format {
            ExportFormat::HuggingFace => self.write_folder(&weights, &mut rounding, sink)?,
            ExportFormat::Gguf => self.write_gguf(&weights, &mut rounding, sink)?,
        };
        Ok(is_whole.then(|| ExportReport {
            format: self.format.name().into(),
            weight_type: pretrained::dtype(self.kind).into(),
            parameters: weights.iter().map(|(_, weight)| weight.numel() as u64).sum(),
            untied: self.model.config().tie_word_embeddings && !self.is_tied(),
            ..rounding.report()
        }))
    }

    fn is_tied(&self) -> bool {
        let changes_ends = self.adapter.as_ref().is_some_and(Adapter::changes_ends);
        self.model.config().tie_word_embeddings && !changes_ends
    }

    /// The base model's weights by name; a tied head that is to differ from the embedding is among them.
    fn weights(&self) -> Vec<(String, Tensor)> {
        let mut weights = self.model.named_tensors();
        if self.model.config().tie_word_embeddings && !self.is_tied() {
            weights.push(("lm_head.weight".into(), self.model.lm_head_weight(None).shallow_clone()));
        }
        weights
    }

    /// A weight as it is written: merged in float32, rounded once. `kind` is what it is rounded to.
    fn finished(&self, name: &str, weight: &Tensor, kind: Kind, rounding: &mut Rounding) -> Result<Tensor, Error> {
        crate::pulse::beat();
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let merged = self.adapter.as_ref().and_then(|adapter| adapter.merged(path, weight));
        let rounded = merged.as_ref().unwrap_or(weight).to_kind(kind);
        if !rounded.isfinite().all().double_value(&[]).eq(&1.0) {
            return Err(Error::Overflow { tensor: name.into(), weight_type: pretrained::dtype(kind) });
        }
        if let Some(merged) = merged {
            rounding.add(name, weight, &merged, &rounded);
        }
        Ok(rounded)
    }

    fn write_folder(
        &self,
        weights: &[(String, Tensor)],
        rounding: &mut Rounding,
        sink: &mut dyn Sink,
    ) -> Result<bool, Error> {
        let shapes: Vec<_> = weights.iter().map(|(name, weight)| (name.clone(), weight.size())).collect();
        let shards = Shards::of(&shapes, self.kind, MAX_SHARD_BYTES);
        for (file, range) in shards.files() {
            if !sink.wants(&file) {
                return Ok(false);
            }
            let finished = |(name, weight): &(String, Tensor)| {
                Ok((name.clone(), self.finished(name, weight, self.kind, rounding)?))
            };
            let finished = weights[range].iter().map(finished).collect::<Result<Vec<_>, Error>>()?;
            sink.put(&file, tensors::serialize_as(self.kind, &finished).into())?;
        }
        let config = pretrained::config_files(&self.origin, self.kind, self.is_tied())?;
        let tokenizer = self.tokenizer.files().to_vec();
        for (name, bytes) in shards.index().into_iter().chain(config).chain(tokenizer) {
            sink.put(&name, Bytes::from(bytes))?;
        }
        Ok(true)
    }

    fn gguf(&self) -> Result<GgufExport<'_>, Error> {
        let config = self.model.config();
        let weights = match self.kind {
            Kind::Half => GgufType::F16,
            Kind::BFloat16 => GgufType::Bf16,
            _ => GgufType::F32,
        };
        let tokenizer = hone_data::tokenizer::gguf_metadata(&self.origin, config.vocab_size as u64)?;
        Ok(GgufExport { name: &self.name, config, tokenizer, weights })
    }

    /// What is to be known about how others compute with the files, if anything.
    pub fn caveats(&self) -> Result<Vec<String>, Error> {
        match self.format {
            ExportFormat::HuggingFace => Ok(Vec::new()),
            ExportFormat::Gguf => Ok(self.gguf()?.caveats()),
        }
    }

    fn write_gguf(
        &self,
        weights: &[(String, Tensor)],
        rounding: &mut Rounding,
        sink: &mut dyn Sink,
    ) -> Result<bool, Error> {
        if !sink.wants(GGUF) {
            return Ok(false);
        }
        let export = self.gguf()?;
        let kind = export.weights;
        let shapes: Vec<_> = weights.iter().map(|(name, weight)| (name.clone(), weight.size())).collect();
        let scratch = sink.scratch().to_path_buf();
        let folder = tempfile::tempdir_in(&scratch).map_err(|source| Error::Io { path: scratch, source })?;
        let path = folder.path().join(GGUF);
        export.write(&path, &shapes, |wanted| {
            let (name, weight) = weights.iter().find(|(name, _)| name == wanted).expect("it is among the shapes");
            self.finished(name, weight, kind.rounds_to(&weight.size()), rounding)
        })?;
        sink.put_file(GGUF, &path)?;
        Ok(true)
    }
}

/// The number format to write, or why there is none.
fn weight_kind(options: &Options, stored: &Stored) -> Result<Kind, String> {
    if let (Stored::Quantised(name), false) = (stored, options.dequantize_base) {
        return Err(format!(
            "its weights are quantised ({name}); an export is not, and merges best into the unquantised base model: name that \
             as base_model, or set dequantize_base to export what these weights come to"
        ));
    }
    Ok(match (options.weight_type, stored) {
        (WeightType::Float32, _) => Kind::Float,
        (WeightType::Bfloat16, _) => Kind::BFloat16,
        (WeightType::Float16, _) => Kind::Half,
        (WeightType::Auto, Stored::Float(kind)) => *kind,
        // What quantised weights stand for fits no 16-bit format: bfloat16 took away more than SFT and DPO had moved them by.
        (WeightType::Auto, Stored::Quantised(_)) => Kind::Float,
    })
}

#[cfg(test)]
mod tests;
