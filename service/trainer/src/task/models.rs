//! The models that are scored or asked: adapters on one loaded base model, or whole models of its shape.

use std::path::{Path, PathBuf};

use hone_data::tokenizer::Tokenizer;
use hone_job::spec::Candidate;

use super::setup::verify_checkpoint;
use super::teller::Teller;
use crate::checkpoint::step_of;
use crate::device::Compute;
use crate::error::Error;
use crate::model::{Adapter, Config, Decoder};
use crate::workspace::Workspace;
use crate::{peft, pretrained};

/// What a candidate is, on this machine.
enum Source {
    /// The base model.
    Base,
    /// An adapter on it.
    Adapter(PathBuf),
    /// A model of its own.
    Whole(PathBuf),
}

/// The models that are scored or asked.
pub(super) struct Models {
    /// The base model, loaded where a candidate needs it.
    base: Option<Decoder>,
    sources: Vec<Source>,
    compute: Compute,
}

/// The path of a model or checkpoint on this machine.
pub(super) fn local(uri: &str, workspace: &Workspace, teller: &Teller) -> Result<PathBuf, Error> {
    teller.tell(uri);
    workspace.local(uri, &|done, total| teller.fetched(done, total))
}

impl Models {
    /// Fetches every candidate and loads the base model at `base`.
    pub(super) fn open(
        base: &Path,
        candidates: &[Candidate],
        compute: Compute,
        workspace: &Workspace,
        teller: &Teller,
    ) -> Result<Models, Error> {
        let source = |candidate: &Candidate| {
            let Some(uri) = &candidate.checkpoint else { return Ok(Source::Base) };
            let folder = local(uri, workspace, teller)?;
            verify_checkpoint(uri, &folder, workspace)?;
            Ok(if pretrained::is_model(&folder) { Source::Whole(folder) } else { Source::Adapter(folder) })
        };
        let sources = candidates.iter().map(source).collect::<Result<Vec<_>, Error>>()?;
        let needs_base = sources.iter().any(|source| !matches!(source, Source::Whole(_)));
        let load = || Decoder::load(base, compute.kind, compute.device, &mut |done, total| teller.read(done, total));
        let base = needs_base.then(load).transpose()?;
        Ok(Models { base, sources, compute })
    }

    /// Checks that every model has the tokens of the base model's tokenizer, in which all rows are written.
    pub(super) fn check(&self, tokenizer: &Tokenizer) -> Result<(), Error> {
        let of_base = self.base.iter().map(|model| Ok(model.config().vocab_size));
        let whole = self.sources.iter().filter_map(|source| match source {
            Source::Whole(path) => Some(Config::open(path).map(|config| config.vocab_size)),
            Source::Base | Source::Adapter(_) => None,
        });
        for vocab_size in of_base.chain(whole) {
            tokenizer.check_fits(vocab_size? as u64)?;
        }
        Ok(())
    }

    /// Optimizer steps of the checkpoint that a candidate is; 0 of what is none.
    pub(super) fn step(&self, number: usize) -> u64 {
        match &self.sources[number] {
            Source::Base => 0,
            Source::Adapter(path) | Source::Whole(path) => step_of(path),
        }
    }

    /// Does something with one of the models. A whole model is loaded for it, so that one of them is in memory at a time.
    pub(super) fn with<R>(&self, number: usize, act: impl FnOnce(&Decoder, Option<&Adapter>) -> R) -> Result<R, Error> {
        let base = || self.base.as_ref().expect("loaded where it is needed");
        Ok(match &self.sources[number] {
            Source::Base => act(base(), None),
            Source::Adapter(path) => act(base(), Some(&peft::load_frozen(path, base())?)),
            Source::Whole(path) => {
                act(&Decoder::load(path, self.compute.kind, self.compute.device, &mut |_, _| {})?, None)
            }
        })
    }
}
