//! Training with several settings: each takes the same steps on the same examples, and what they took is told.
//!
//! One setting at a time differs from those that the training asks for, in each precision; a last run has the best of each.
//! Updates have a learning rate of zero, so every run sees the same weights.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use hone_data::order::Cursor;
use hone_data::pack::{Prefixes, pack};
use hone_data::tokenize::Example;
use hone_job::benchmark::{BenchmarkReport, BenchmarkRun, BenchmarkSettings};
use hone_job::event::{Event, Outcome};
use hone_job::spec::{BenchmarkTask, Precision, Task, Training};
use tch::{Device, Kind};

use super::activations::Activations;
use super::attempt::attempt;
use super::objective::{Objective, PairObjective, ReferenceLogps, Step};
use super::setup::{Prepared, initial, load, prepare};
use super::teller::Teller;
use super::train::groups;
use super::usage::{peak_memory_bytes, reset_peak_memory};
use super::{Observer, checkpoints, is_stopped, save_only_checkpoint, tell_only_checkpoint};
use crate::device::Compute;
use crate::error::Error;
use crate::fingerprint::fingerprint_of;
use crate::link::{End, Welcome};
use crate::model::{Decoder, Trained};
use crate::optim::{Optimizer, clip};
use crate::workspace::Workspace;

mod choices;

use choices::Choices;

/// Name of the file of runs.
const REPORT: &str = "benchmark.json";

/// Measures every choice.
pub(super) fn benchmark(
    welcome: &Welcome,
    task: &BenchmarkTask,
    workspace: &Workspace,
    observer: Arc<dyn Observer>,
) -> Result<End, Error> {
    let start = Instant::now();
    let mut bench = Bench::new(welcome, task, workspace, observer.clone())?;
    observer.running();
    let Some(runs) = bench.measure_all()? else {
        return Ok(End::Stopped { checkpoint_id: None });
    };
    let report = BenchmarkReport { recommended: BenchmarkReport::recommend(&runs), runs };
    let folder = checkpoints(workspace, welcome, fingerprint_of(&bench.model_path)?)?;
    let text = serde_json::to_vec_pretty(&report).expect("a report has a text");
    let saved = save_only_checkpoint([(REPORT, text)], &folder, workspace)?;
    observer.report(Event::Benchmark(report));
    tell_only_checkpoint(saved, start, Outcome::default(), &*observer);
    Ok(End::Succeeded)
}

/// What all runs share.
struct Bench<'a> {
    task: &'a BenchmarkTask,
    training: &'a Training,
    workspace: &'a Workspace,
    observer: Arc<dyn Observer>,
    teller: Teller,
    model_path: PathBuf,
    weights_path: PathBuf,
    device: Device,
    /// Each step's examples with their places; the first is not timed.
    steps: Vec<(Vec<usize>, Vec<Example>)>,
    objective: Objective,
    /// How the model takes prompts of pairs.
    prefixes: Prefixes,
    loaded: Option<Loaded>,
}

/// A model in one precision, and what is trained of it.
struct Loaded {
    kind: Kind,
    model: Decoder,
    trained: Trained,
    optimizer: Optimizer,
}

impl<'a> Bench<'a> {
    fn new(
        welcome: &Welcome,
        task: &'a BenchmarkTask,
        workspace: &'a Workspace,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, Error> {
        let training = task.training.training().expect("a benchmark has a training");
        let compute = Compute::choose(task.precisions.first().copied().unwrap_or(training.precision))?;
        let base_model = &welcome.spec.base_model;
        let prepared = prepare(training, &task.training, base_model, workspace, compute, &observer)?;
        let Prepared { model, weights_path, model_path, tokenizer: _, dataset } = prepared;
        let mut rows = dataset.sequence(training.order, training.seed, Cursor::default());
        let mut step = || {
            let indices = rows.next_step(training.batch.examples_per_step as usize);
            Ok((indices.clone(), dataset.train.of(&indices)?))
        };
        let steps = (0..=task.steps).map(|_| step()).collect::<Result<_, Error>>()?;
        let none = ReferenceLogps::none;
        let objective = match &*task.training {
            Task::Dpo(dpo) => Objective::Preference(PairObjective {
                preference: dpo.preference.clone(),
                train: none(dataset.train.len()),
                eval: none(0),
            }),
            Task::Sft(sft) => Objective::Likelihood { noise_alpha: sft.neftune_noise_alpha },
            _ => unreachable!("what is measured is a training"),
        };
        let mut bench = Bench {
            task,
            training,
            workspace,
            teller: Teller::new(observer.clone(), "measuring"),
            observer,
            model_path,
            weights_path,
            device: compute.device,
            steps,
            objective,
            prefixes: model.prefixes(),
            loaded: None,
        };
        bench.loaded = Some(bench.with_trained(model)?);
        Ok(bench)
    }

    /// Every run; nothing when it is told to stop.
    fn measure_all(&mut self) -> Result<Option<Vec<BenchmarkRun>>, Error> {
        let mut choices = Choices::new(self.task, self.training, &|size| self.micro_batches(size));
        while let Some(settings) = choices.next() {
            self.teller.tell(&format!("{} (run {})", choices::text(&settings), choices.runs().len() + 1));
            match self.measure(settings)? {
                Some(run) => choices.add(run),
                None => return Ok(None),
            }
        }
        Ok(Some(choices.into_runs()))
    }

    /// One run; nothing when it is told to stop.
    fn measure(&mut self, settings: BenchmarkSettings) -> Result<Option<BenchmarkRun>, Error> {
        let mut loaded = self.take_loaded(settings.precision)?;
        let mut run = BenchmarkRun {
            settings,
            tokens_per_second: 0.0,
            step_seconds: Vec::new(),
            micro_batches: self.micro_batches(settings.tokens_per_micro_batch),
            peak_memory_bytes: None,
            attention_kernel: String::new(),
            failure: String::new(),
        };
        if !loaded.model.set_attention(settings.attention) {
            run.failure = "this device has no such kernel for this precision".into();
            self.loaded = Some(loaded);
            return Ok(Some(run));
        }
        run.attention_kernel = loaded.model.attention_kernel().into();
        let counts_memory = self.device == Device::Cpu && reset_peak_memory();
        let activations = Activations::new(settings.activation_checkpointing, self.device);
        for number in 0..self.steps.len() {
            if is_stopped(&*self.observer) {
                return Ok(None);
            }
            let start = Instant::now();
            let taken =
                attempt(|| self.step(&mut loaded, number, settings.tokens_per_micro_batch as usize, activations));
            if let Err(panic) = taken {
                run.failure = Error::from_panic(&*panic).to_string();
                break;
            }
            if number > 0 {
                run.step_seconds.push(start.elapsed().as_secs_f64());
            }
        }
        loaded.trained.zero_grad();
        self.loaded = Some(loaded);
        run.peak_memory_bytes = counts_memory.then(peak_memory_bytes);
        if run.failure.is_empty() {
            let tokens: u64 = self.timed().map(|example| example.num_tokens()).sum();
            run.tokens_per_second = tokens as f64 / run.step_seconds.iter().sum::<f64>();
        }
        Ok(Some(run))
    }

    /// A step as training takes it, whose update changes nothing.
    fn step(&self, loaded: &mut Loaded, number: usize, tokens_per_micro_batch: usize, activations: Activations) {
        let (indices, examples) = &self.steps[number];
        let step = Step {
            indices,
            examples: examples.iter().collect(),
            tokens_per_micro_batch,
            activations,
            seed: self.training.seed,
            number: number as u64,
        };
        let Loaded { model, trained, optimizer, .. } = loaded;
        let gradients = self.objective.gradients(model, trained.adapter(), &step, &mut |_| {});
        let norm = clip(trained.flat_grad(), self.training.optimizer.max_grad_norm);
        if gradients.loss.is_finite() && norm.is_finite() {
            optimizer.update(trained.flat(), trained.flat_grad(), 0.0);
        }
        trained.zero_grad();
    }

    /// Micro-batches of all timed steps at this size.
    fn micro_batches(&self, tokens: u32) -> u32 {
        let of_step = |(_, examples): &(_, Vec<Example>)| {
            pack(&examples.iter().collect::<Vec<_>>(), tokens as usize, self.prefixes).len() as u32
        };
        self.steps.iter().skip(1).map(of_step).sum()
    }

    fn timed(&self) -> impl Iterator<Item = &Example> {
        self.steps.iter().skip(1).flat_map(|(_, examples)| examples)
    }

    /// The model in a precision: the one that is loaded, or read anew.
    fn take_loaded(&mut self, precision: Precision) -> Result<Loaded, Error> {
        let kind = Compute::choose(precision)?.kind;
        if let Some(loaded) = self.loaded.take().filter(|loaded| loaded.kind == kind) {
            return Ok(loaded);
        }
        let model = load(&self.training.adapter, &self.weights_path, kind, self.device, &self.teller)?;
        self.with_trained(model)
    }

    fn with_trained(&self, model: Decoder) -> Result<Loaded, Error> {
        let task = &self.task.training;
        let trained = initial(self.training, task, &model, self.workspace, self.observer.as_ref())?;
        let optimizer = Optimizer::new(&self.training.optimizer, groups(&trained, self.training), self.device);
        Ok(Loaded { kind: model.kind(), model, trained, optimizer })
    }
}

#[cfg(test)]
mod tests;
