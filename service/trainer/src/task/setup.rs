//! From a spec to a run that can take its first step: the model, the examples, the adapter.
//!
//! Rows are read and tokenised on other threads while the weights are loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::admit::reason;
use hone_data::dataset::{self, Dataset, Sources};
use hone_data::ends::Count;
use hone_data::tokenizer::Tokenizer;
use hone_job::event::{Event, Phase, Warning};
use hone_job::spec::{self, Task, Training};
use tch::{Device, Kind};
use tokio::task::JoinHandle;

use super::Observer;
use super::teller::{Teller, reading_rows};
use crate::device::Compute;
use crate::error::Error;
use crate::model::{Adapter, Config, Decoder, FullWeights, LoraOptions, Trained};
use crate::workspace::Workspace;
use crate::{peft, pretrained};

/// What training starts from.
pub(super) struct Prepared {
    /// The model. Its weights are the base model's, unless all weights are trained from a checkpoint on.
    pub(super) model: Decoder,
    /// Where the files of these weights are on this machine.
    pub(super) weights_path: PathBuf,
    /// Where the base model's are.
    pub(super) model_path: PathBuf,
    /// Its tokenizer, whose files go into every checkpoint.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// The examples, and what became of the rows.
    pub(super) dataset: Dataset,
}

/// Gets model and data. Everything worth knowing about them is reported.
pub(super) fn prepare(
    training: &Training,
    task: &Task,
    base_model: &str,
    workspace: &Workspace,
    compute: Compute,
    observer: &Arc<dyn Observer>,
) -> Result<Prepared, Error> {
    let teller = Teller::new(observer.clone(), "loading_model");
    teller.tell(base_model);
    let get = |uri: &str| workspace.local(uri, &|done, total| teller.fetched(done, total));
    let model_path = get(base_model)?;
    let weights_path = match &training.init_from {
        Some(uri) if training.adapter == spec::Adapter::Full => {
            whole_model(task, uri, get(uri)?, &model_path, workspace)?
        }
        _ => model_path.clone(),
    };
    let config = Config::open(&weights_path)?;
    let tokenizer = Arc::new(Tokenizer::open(&model_path)?);
    tokenizer.check_fits(config.vocab_size as u64)?;
    let data = Reading::start(training, task, &config, tokenizer.clone(), workspace, observer)?;
    let mut model = load(&training.adapter, &weights_path, compute.kind, compute.device, &teller)?;
    if !model.set_attention(training.attention) {
        let what = "the device has no such kernel: flash is there on a CPU, and on a GPU for bfloat16, efficient on a GPU; \
                    leave the field out, or set precision";
        return Err(Error::Input { place: format!("{}.attention", task.path()), what: what.into() });
    }
    let dataset = data.finish(workspace)?;
    report_dataset(&dataset, observer.as_ref());
    Ok(Prepared { model, weights_path, model_path, tokenizer, dataset })
}

/// The model at a path, in the number format that it computes in, for a training of `adapter`.
pub(super) fn load(
    adapter: &spec::Adapter,
    path: &Path,
    kind: Kind,
    device: Device,
    teller: &Teller,
) -> Result<Decoder, Error> {
    let load = match adapter {
        spec::Adapter::Lora(_) => Decoder::load,
        spec::Adapter::Full => Decoder::load_to_train,
    };
    Ok(load(path, kind, device, &mut |done, total| teller.read(done, total))?)
}

/// The checkpoint that a full-parameter run starts from, found whole and of the base model's shape.
fn whole_model(task: &Task, uri: &str, path: PathBuf, base: &Path, workspace: &Workspace) -> Result<PathBuf, Error> {
    let place = || format!("{}.init_from", task.path());
    if !pretrained::is_model(&path) {
        let what = format!(
            "{uri} is no whole model, which is what a run with adapter.full starts from; export an adapter first"
        );
        return Err(Error::Input { place: place(), what });
    }
    verify_checkpoint(uri, &path, workspace)?;
    let (found, expected) = (Config::open(&path)?, Config::open(base)?);
    if found.sizes() != expected.sizes() {
        let what = format!(
            "{uri} has another shape than the base model: {:?}, expected {:?}",
            found.sizes(),
            expected.sizes()
        );
        return Err(Error::Input { place: place(), what });
    }
    Ok(path)
}

/// What a run trains of a model, as it is before the first step.
pub(super) fn initial(
    training: &Training,
    task: &Task,
    model: &Decoder,
    workspace: &Workspace,
    observer: &dyn Observer,
) -> Result<Trained, Error> {
    Ok(match &training.adapter {
        spec::Adapter::Lora(lora) => {
            Trained::Adapter(initial_adapter(training, lora, task, model, workspace, observer)?)
        }
        // Where they start from a checkpoint, it was loaded in the place of the base model.
        spec::Adapter::Full => Trained::Full(FullWeights::new(model)),
    })
}

/// The adapter that a run starts with: fresh, or an earlier one's weights.
fn initial_adapter(
    training: &Training,
    lora: &spec::Lora,
    task: &Task,
    model: &Decoder,
    workspace: &Workspace,
    observer: &dyn Observer,
) -> Result<Adapter, Error> {
    let asked = LoraOptions::from(lora);
    let Some(uri) = &training.init_from else {
        if asked.init.is_taken_off() {
            // Decomposing every weight of a large model takes minutes.
            observer.report(Event::Phase(Phase { name: "initialising".into(), detail: String::new() }));
        }
        return Ok(Adapter::new(model, &asked, training.seed)?);
    };
    let folder = workspace.local(uri, &|_, _| {})?;
    if pretrained::is_model(&folder) {
        let place = format!("{}.init_from", task.path());
        let what = format!("{uri} is a whole model, not an adapter; name it as base_model");
        return Err(Error::Input { place, what });
    }
    verify_checkpoint(uri, &folder, workspace)?;
    let adapter = peft::load(&folder, model, lora.dropout)?;
    let (found, asked) = (shape(adapter.options()), shape(&asked));
    if found != asked {
        let message =
            format!("the run starts from {uri}, whose shape counts: {found}, in place of {asked} of the spec");
        observer.report(Event::Warning(Warning { code: "adapter_shape_from_init".into(), message }));
    }
    warn_of_vllm(adapter.options(), lora, observer);
    Ok(adapter)
}

/// What an adapter brings along when a run starts from it, in words.
fn shape(options: &LoraOptions) -> String {
    let LoraOptions { rank, alpha, use_rslora, use_dora, rank_pattern, alpha_pattern, modules_to_save, .. } = options;
    let mut text = format!("rank {rank}, alpha {alpha}, use_rslora {use_rslora}, use_dora {use_dora}");
    if !rank_pattern.is_empty() {
        text += &format!(", rank_pattern {rank_pattern:?}");
    }
    if !alpha_pattern.is_empty() {
        text += &format!(", alpha_pattern {alpha_pattern:?}");
    }
    if !modules_to_save.is_empty() {
        text += &format!(", modules_to_save {modules_to_save:?}");
    }
    text
}

/// Tells what the adapter that a run starts from has beyond the spec, of which the server told when the job was made.
fn warn_of_vllm(found: &LoraOptions, asked: &spec::Lora, observer: &dyn Observer) {
    let told = asked.not_for_vllm();
    let found: Vec<_> = found.not_for_vllm().into_iter().filter(|setting| !told.contains(setting)).collect();
    if !found.is_empty() {
        observer.report(Event::Warning(Warning::not_for_vllm(&found)));
    }
}

/// A folder with a manifest is a checkpoint of hone, and is used only when it is whole.
pub(super) fn verify_checkpoint(uri: &str, folder: &Path, workspace: &Workspace) -> Result<(), Error> {
    if folder.join(hone_job::checkpoint::MANIFEST).is_file() {
        workspace.runtime().block_on(crate::checkpoint::open(&workspace.open(uri)?))?;
    }
    Ok(())
}

/// Rows on their way to examples.
struct Reading(JoinHandle<Result<Dataset, dataset::Error>>);

impl Reading {
    fn start(
        training: &Training,
        task: &Task,
        config: &Config,
        tokenizer: Arc<Tokenizer>,
        workspace: &Workspace,
        observer: &Arc<dyn Observer>,
    ) -> Result<Reading, Error> {
        let mut options = dataset::Options::of(task).expect("a training task has rows");
        options.max_length = options.max_length.min(config.max_position_embeddings as usize);
        let data = &training.data;
        let sources = Sources { train: workspace.open_all(&data.train)?, eval: workspace.open_all(&data.eval)? };
        let progress = reading_rows(observer);
        Ok(Reading(workspace.runtime().spawn(Dataset::load(sources, tokenizer, options, progress))))
    }

    fn finish(self, workspace: &Workspace) -> Result<Dataset, Error> {
        let joined = workspace.runtime().block_on(self.0);
        let dataset = joined.map_err(|error| dataset::Error::Interrupted(error.to_string()))?;
        Ok(dataset?)
    }
}

fn report_dataset(dataset: &Dataset, observer: &dyn Observer) {
    observer.report(Event::DatasetReport(dataset.train_report.clone()));
    if let Some(report) = &dataset.eval_report {
        observer.report(Event::DatasetReport(report.clone()));
        if dataset.eval.is_empty() {
            let message =
                "no row is held out: eval_fraction of so few rows is none; the run goes on without evaluation";
            observer.report(Event::Warning(Warning { code: "no_evaluation_rows".into(), message: message.into() }));
        }
    }
    if let Some(leakage) = &dataset.leakage {
        observer.report(Event::Leakage(leakage.clone()));
    }
    for warning in warnings(dataset) {
        observer.report(Event::Warning(warning));
    }
}

/// What of the rows may spoil the run without stopping it.
fn warnings(dataset: &Dataset) -> Vec<Warning> {
    let mut found = Vec::new();
    let of_kind = |(kind, count): (&str, Count)| format!("{} of {} ({kind})", count.endless, count.rows);
    let endless: Vec<String> = dataset.ends.endless().map(of_kind).collect();
    if !endless.is_empty() {
        let message = format!(
            "rows teach no end: what is trained on ends without a token that ends an answer in {}, so the model may not learn \
             to stop; let the chat template's generation span include its end token, end completions with it, or name it in \
             generation_config.json",
            endless.join(", ")
        );
        found.push(Warning { code: "end_token_not_trained".into(), message });
    }
    let trained_on = dataset.eval_report.iter().flat_map(|report| &report.reasons);
    if let Some(seen) = trained_on.into_iter().find(|reason| reason.reason == reason::IN_TRAINING_ROWS) {
        let message = format!(
            "evaluation rows that say the same as training rows: {}; the held-out loss flatters the run",
            seen.count
        );
        found.push(Warning { code: "evaluation_rows_in_training".into(), message });
    }
    found
}

#[cfg(test)]
mod tests {
    use hone_job::event::{DatasetReport, ReasonCount};

    use super::*;

    #[test]
    fn rows_that_may_spoil_a_run_are_warned_of_with_their_number() {
        assert_eq!(warnings(&Dataset::default()), []);
        let mut dataset = Dataset::default();
        for is_endless in [true, false, true] {
            dataset.ends.count("messages", is_endless);
        }
        let seen = ReasonCount { reason: reason::IN_TRAINING_ROWS.into(), count: 4, rows: Vec::new() };
        dataset.eval_report = Some(DatasetReport { reasons: vec![seen], ..DatasetReport::default() });
        let [end, leak] = &warnings(&dataset)[..] else { panic!("two warnings") };
        assert_eq!((end.code.as_str(), leak.code.as_str()), ("end_token_not_trained", "evaluation_rows_in_training"));
        assert!(end.message.contains("2 of 3 (messages)"), "{end:?}");
        assert!(leak.message.contains("training rows: 4;"), "{leak:?}");
    }
}
