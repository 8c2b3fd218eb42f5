//! The training loop: examples in, trained weights in verified checkpoints out.
//!
//! A step takes `examples_per_step` examples, cuts them into micro-batches, and adds up gradients of a loss that is an average
//! over the whole step; so the result does not depend on the cut. Commands act between steps.

use std::sync::Arc;
use std::time::Instant;

use hone_data::examples::Examples;
use hone_data::order::Sequence;
use hone_data::tokenize::Example;
use hone_data::tokenizer::Tokenizer;
use hone_job::checkpoint::id_of_step;
use hone_job::event::{Event, Outcome, Phase, Plan, TrainStep};
use hone_job::insight::GradientGroup;
use hone_job::machine::StepTime;
use hone_job::spec::{JobSpec, Task, Training};

use super::activations::Activations;
use super::evaluate::{RowFigure, finite};
use super::objective::{Gradients, Objective, PairObjective, Passed, ReferenceLogps, Step};
use super::progress::{Progress, VERSION};
use super::reference::ReferencePolicy;
use super::saver::Saver;
use super::setup::{Prepared, initial, prepare};
use super::step_clock::{Part, StepClock};
use super::usage::{Usage, peak_memory_bytes};
use super::{Observer, checkpoints, resume};
use crate::checkpoint::Snapshot;
use crate::device::Compute;
use crate::error::Error;
use crate::fingerprint::fingerprint_of;
use crate::link::{Command, End, Welcome};
use crate::model::{Decoder, Trained};
use crate::optim::{Group, NoiseProbe, NoiseSample, Optimizer, Schedule, clip};
use crate::pretrained;
use crate::trace::{self, Sample};
use crate::workspace::Workspace;

mod evaluation;
mod forecast;
mod groups;
mod insight;
mod memory;
mod unsound;

use evaluation::{Evaluated, check_early_stopping, check_plateau, eval_every_steps, metric, metrics};

/// Trains as the spec says, until it is done or told to stop.
pub fn train(
    welcome: &Welcome,
    workspace: &Workspace,
    compute: Compute,
    observer: Arc<dyn Observer>,
) -> Result<End, Error> {
    let preparing = trace::part(tracing::info_span!("prepare")).entered();
    let training = welcome.spec.task.training().expect("a training task");
    let prepared = prepare(training, &welcome.spec.task, &welcome.spec.base_model, workspace, compute, &observer)?;
    if let Some(Command::Cancel | Command::Stop) = observer.command() {
        return Ok(End::Stopped {
            checkpoint_id: welcome.resume_from.as_deref().and_then(last_part).map(str::to_string),
        });
    }
    let mut run = Run::new(welcome, prepared, workspace, compute, observer)?;
    drop(preparing);
    run.announce();
    // What a run saved before it failed is to be there.
    run.go().inspect_err(|_| run.saver.settle())
}

fn last_part(uri: &str) -> Option<&str> {
    uri.trim_end_matches('/').rsplit('/').next()
}

/// A run that can take steps.
struct Run {
    spec: JobSpec,
    model: Decoder,
    trained: Trained,
    objective: Objective,
    optimizer: Optimizer,
    schedule: Schedule,
    train: Examples,
    eval: Vec<Example>,
    rows: Sequence,
    progress: Progress,
    total_steps: u64,
    eval_every_steps: u64,
    saver: Saver,
    /// Checkpoint that this attempt went on from.
    resumed_from: Option<String>,
    /// Files that every checkpoint has alike: the tokenizer's and, of a whole model, its configuration.
    constant_files: Vec<(String, bytes::Bytes)>,
    saved: (u64, Instant),
    activations: Activations,
    tokenizer: Arc<Tokenizer>,
    /// What the newest evaluation found of each held-out row.
    row_figures: Vec<RowFigure>,
    noise: insight::Noise,
    turn: insight::Turn,
    usage: Usage,
    spans: Sample,
    /// When the last step or evaluation ended.
    idle_since: Instant,
    compute: Compute,
    observer: Arc<dyn Observer>,
}

impl Run {
    fn new(
        welcome: &Welcome,
        prepared: Prepared,
        workspace: &Workspace,
        compute: Compute,
        observer: Arc<dyn Observer>,
    ) -> Result<Run, Error> {
        let spec = welcome.spec.clone();
        let training = spec.task.training().expect("a training task");
        let base_model_fingerprint = fingerprint_of(&prepared.model_path)?;
        let objective = objective(welcome, &prepared, &base_model_fingerprint, workspace, compute, observer.as_ref())?;
        let Prepared { model, weights_path, model_path: _, tokenizer, dataset } = prepared;
        let num_examples = dataset.train.len() as u64;
        let total_steps = training.length.total_steps(dataset.epoch_len() as u64, training.batch.examples_per_step);
        let folder = checkpoints(workspace, welcome, base_model_fingerprint.clone())?;
        let resumed = resume::find(welcome, &folder, workspace, &base_model_fingerprint, observer.as_ref())?;
        let trained = match &resumed {
            Some(resumed) => resumed.trained(&model, &training.adapter)?,
            None => initial(training, &spec.task, &model, workspace, observer.as_ref())?,
        };
        let mut constant_files = tokenizer.files().to_vec();
        if let Trained::Full(_) = trained {
            let is_tied = model.config().tie_word_embeddings;
            constant_files.extend(pretrained::config_files(&weights_path, compute.kind, is_tied)?);
        }
        let mut optimizer = Optimizer::new(&training.optimizer, groups(&trained, training), compute.device);
        let progress = match &resumed {
            Some(resumed) => resumed.restore(&trained, compute.kind, &mut optimizer, num_examples)?,
            None => {
                let init = trained.adapter().map(|adapter| adapter.options().init);
                let converted_from = init.filter(|init| init.is_taken_off());
                let optimizer = optimizer.kind();
                Progress { version: VERSION, num_examples, converted_from, optimizer, ..Progress::default() }
            }
        };
        let schedule = Schedule::new(&training.schedule, training.optimizer.learning_rate, total_steps);
        let eval = dataset.eval.all()?;
        let eval_every_steps = eval_every_steps(training, &eval, total_steps);
        check_plateau(&spec, &schedule, eval_every_steps, total_steps, observer.as_ref())?;
        check_early_stopping(training, eval_every_steps, total_steps, observer.as_ref());
        let saver = Saver::new(
            folder,
            training.checkpoints.keep_last,
            metric(training),
            workspace.runtime().clone(),
            observer.clone(),
        )?;
        let rows = dataset.sequence(training.order, training.seed, progress.cursor);
        if let Some(resumed) = &resumed {
            observer.report(Event::Resumed(resumed.told(&progress, rows.epoch_len())));
        }
        let activations = Activations::new(training.batch.activation_checkpointing, compute.device);
        Ok(Run {
            schedule,
            eval_every_steps,
            constant_files: constant_files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect(),
            saved: (progress.step, Instant::now()),
            resumed_from: resumed.map(|_| id_of_step(progress.step)),
            train: dataset.train,
            eval,
            activations,
            tokenizer,
            row_figures: Vec::new(),
            noise: insight::Noise::default(),
            turn: insight::Turn::default(),
            usage: Usage::new(compute.device),
            idle_since: Instant::now(),
            spans: Sample::default(),
            spec,
            model,
            trained,
            objective,
            optimizer,
            rows,
            progress,
            total_steps,
            saver,
            compute,
            observer,
        })
    }

    fn announce(&self) {
        let training = self.training();
        self.observer.report(Event::Plan(Plan {
            total_steps: self.total_steps,
            steps_per_epoch: (self.rows.epoch_len() as u64).div_ceil(training.batch.examples_per_step.into()),
            warmup_steps: self.schedule.warmup_steps(),
            eval_every_steps: self.eval_every_steps,
            trainable_parameters: self.trained.num_parameters() as u64,
            base_parameters: self.model.num_parameters() as u64,
            device: self.compute.device_name(),
            precision: self.compute.precision_name().to_string(),
            attention: self.model.attention_kernel().to_string(),
        }));
        self.observer.running();
    }

    fn go(&mut self) -> Result<End, Error> {
        if self.progress.step == 0 {
            self.evaluate();
        }
        self.phase("training");
        while self.progress.step < self.total_steps {
            match self.observer.command() {
                Some(Command::Cancel | Command::Stop) => return Ok(self.stop()),
                Some(Command::Checkpoint) => self.save(),
                None => {}
            }
            self.step()?;
            if self.progress.step < self.total_steps {
                self.evaluate_if_due();
                self.save_if_due();
            }
            if self.stops_early() {
                break;
            }
        }
        self.finish()
    }

    /// One optimizer step.
    fn step(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        let waited = start - self.idle_since;
        let step = self.progress.step + 1;
        let _span = self.spans.takes(start).then(|| trace::part(tracing::info_span!("step", step)).entered());
        let mut clock = StepClock::start(step, self.compute.device);
        let indices = self.rows.next_step(self.training().batch.examples_per_step as usize);
        let examples = self.train.of(&indices)?;
        let (gradients, noise) = self.gradients_within_memory(&indices, &examples, &mut clock);
        let learning_rate = self.schedule.learning_rate(self.progress.step) * self.progress.plateau.scale();
        let groups = self.gradient_groups_if_due();
        let grad_norm = clip(self.trained.flat_grad(), self.training().optimizer.max_grad_norm);
        let is_sound = gradients.loss.is_finite() && grad_norm.is_finite();
        if is_sound {
            self.optimizer.update(self.trained.flat(), self.trained.flat_grad(), learning_rate);
        }
        self.trained.zero_grad();
        clock.lap(Part::Update);
        self.advance(&gradients, is_sound, start.elapsed().as_secs_f64());
        let told = Told { grad_norm: finite(grad_norm), groups, learning_rate, time: clock.told(waited) };
        self.report_step(&gradients, told, start.elapsed().as_secs_f64());
        self.observe_loss(gradients.loss);
        self.observe_noise(noise);
        self.idle_since = Instant::now();
        match is_sound {
            true => Ok(()),
            false => self.tell_skipped(&examples),
        }
    }

    /// Adds up the gradients of a step's loss. Of an adapter, whose values are few, it is measured how noisy they are.
    fn gradients(
        &self,
        indices: &[usize],
        examples: &[Example],
        clock: &mut StepClock,
    ) -> (Gradients, Option<NoiseSample>) {
        let step = Step {
            indices,
            examples: examples.iter().collect(),
            tokens_per_micro_batch: self.tokens_per_micro_batch() as usize,
            activations: self.activations,
            seed: self.training().seed,
            number: self.progress.step,
        };
        let gradient = self.trained.flat_grad();
        let mut probe = self.trained.adapter().map(|_| NoiseProbe::new(gradient));
        let mut passed = |passed: Passed| match passed {
            Passed::Packed => clock.lap(Part::Data),
            Passed::Forward => clock.lap(Part::Forward),
            Passed::Backward { weight } => {
                if let Some(probe) = &mut probe {
                    probe.add(gradient, weight);
                }
                clock.lap(Part::Backward);
            }
        };
        let gradients = self.objective.gradients(&self.model, self.trained.adapter(), &step, &mut passed);
        let noise = probe.and_then(|probe| probe.end(gradient, gradients.examples));
        clock.lap(Part::Backward);
        (gradients, noise)
    }

    fn advance(&mut self, gradients: &Gradients, is_sound: bool, seconds: f64) {
        let progress = &mut self.progress;
        progress.step += 1;
        progress.cursor = self.rows.cursor();
        progress.num_updates = self.optimizer.num_updates();
        progress.tokens += gradients.tokens;
        progress.trained_tokens += gradients.num_targets;
        progress.train_seconds += seconds;
        progress.skipped_steps += u64::from(!is_sound);
        progress.skipped_in_a_row = if is_sound { 0 } else { progress.skipped_in_a_row + 1 };
        self.observer.step(progress.step);
    }

    fn report_step(&mut self, gradients: &Gradients, told: Told, seconds: f64) {
        let progress = &self.progress;
        let Told { grad_norm, groups, learning_rate, time } = told;
        self.observer.report(Event::TrainStep(TrainStep {
            step: progress.step,
            epoch: progress.epoch(self.rows.epoch_len()),
            loss: finite(gradients.loss),
            grad_norm,
            learning_rate,
            examples: gradients.examples,
            tokens: gradients.tokens,
            trained_tokens: gradients.num_targets,
            micro_batches: gradients.micro_batches,
            token_accuracy: gradients.accuracy,
            step_seconds: seconds,
            tokens_per_second: gradients.tokens as f64 / seconds,
            skipped: progress.skipped_in_a_row > 0,
            remaining_seconds: self.seconds_left(),
            peak_memory_bytes: peak_memory_bytes(),
            preference: gradients.preference,
            time,
            gradient_groups: groups,
        }));
        if let Some(usage) = self.usage.sample_if_due() {
            self.observer.report(Event::ResourceUsage(usage));
        }
    }

    fn save_if_due(&mut self) {
        let checkpoints = &self.training().checkpoints;
        let by_steps = checkpoints.every_steps > 0 && self.progress.step.is_multiple_of(checkpoints.every_steps);
        let minutes = self.saved.1.elapsed().as_secs_f64() / 60.0;
        let by_time = checkpoints.every_minutes > 0.0 && minutes >= checkpoints.every_minutes;
        if by_steps || by_time {
            self.save();
        }
    }

    fn save(&mut self) {
        let _span = trace::part(tracing::info_span!("snapshot", step = self.progress.step)).entered();
        let snapshot = self.snapshot();
        self.saver.start(snapshot);
        self.saved = (self.progress.step, Instant::now());
    }

    /// Saves what was done and leaves, as asked.
    fn stop(&mut self) -> End {
        if self.progress.step == 0 {
            return End::Stopped { checkpoint_id: None };
        }
        self.phase("saving");
        self.saver.stop(self.snapshot());
        self.stopped()
    }

    /// The end of a run that was asked to leave, with the newest checkpoint that there is: where storage does not answer, the
    /// steps since then are taken again by whoever goes on.
    fn stopped(&self) -> End {
        let newest = self.saver.newest().map(|saved| saved.checkpoint_id);
        End::Stopped { checkpoint_id: newest.or_else(|| self.resumed_from.clone()) }
    }

    fn finish(&mut self) -> Result<End, Error> {
        if self.progress.last_evaluation.is_none_or(|last| last.step < self.progress.step) {
            self.evaluate();
        }
        self.phase("saving");
        let snapshot = self.snapshot();
        let Some(saved) = self.saver.finish(snapshot) else {
            return Ok(self.stopped());
        };
        let progress = &self.progress;
        self.observer.report(Event::Result(Outcome {
            steps: progress.step,
            tokens: progress.tokens,
            trained_tokens: progress.trained_tokens,
            eval_loss_before: progress.first_evaluation.map(|first| first.loss),
            eval_loss_after: progress.last_evaluation.map(|last| last.loss),
            final_checkpoint_id: saved.checkpoint_id.clone(),
            final_checkpoint_uri: saved.uri,
            best_checkpoint_id: self.saver.best_step().map_or(saved.checkpoint_id, id_of_step),
            train_seconds: progress.train_seconds,
            eval_seconds: progress.eval_seconds,
            skipped_steps: progress.skipped_steps,
            preference_before: progress.first_evaluation.and_then(|first| first.preference),
            preference_after: progress.last_evaluation.and_then(|last| last.preference),
        }));
        Ok(End::Succeeded)
    }

    /// Copies everything a checkpoint holds to host memory: all that a step waits for.
    fn snapshot(&self) -> Snapshot {
        let measured = self.progress.last_evaluation.filter(|last| last.step == self.progress.step);
        let mut files = self.constant_files.clone();
        let kind = self.compute.kind;
        files.extend(resume::files(&self.trained, kind, &self.optimizer, &self.progress, &self.spec.base_model));
        Snapshot { step: self.progress.step, files, metrics: measured.map(metrics).unwrap_or_default() }
    }

    fn training(&self) -> &Training {
        self.spec.task.training().expect("a training task")
    }

    fn phase(&self, name: &str) {
        self.observer.report(Event::Phase(Phase { name: name.into(), detail: String::new() }));
    }
}

/// What is told of a step beside its gradients' own figures.
struct Told {
    grad_norm: Option<f64>,
    groups: Vec<GradientGroup>,
    learning_rate: f64,
    time: Option<StepTime>,
}

/// What of the trained values has which rate and decay.
pub(super) fn groups(trained: &Trained, training: &Training) -> Vec<Group> {
    let len = trained.num_parameters();
    match trained {
        Trained::Adapter(adapter) => {
            Group::lora_plus(adapter.num_a(), adapter.num_b(), len, training.optimizer.lora_plus_ratio)
        }
        Trained::Full(full) => Group::full(full.num_matrix_values(), len),
    }
}

/// What the run makes small. For pairs the reference is asked about all of them first.
fn objective(
    welcome: &Welcome,
    prepared: &Prepared,
    base_model_fingerprint: &str,
    workspace: &Workspace,
    compute: Compute,
    observer: &dyn Observer,
) -> Result<Objective, Error> {
    let task = match &welcome.spec.task {
        Task::Sft(task) => return Ok(Objective::Likelihood { noise_alpha: task.neftune_noise_alpha }),
        Task::Dpo(task) => task,
        Task::Evaluate(_) | Task::Compare(_) | Task::Generate(_) | Task::Export(_) | Task::Benchmark(_) => {
            unreachable!("this task makes nothing small")
        }
    };
    let preference = task.preference.clone();
    let Prepared { dataset, .. } = prepared;
    let [train, eval] = if preference.needs_reference() {
        let policy = ReferencePolicy::open(task, prepared, base_model_fingerprint, workspace, compute)?;
        let store = workspace.open(&welcome.reference_uri)?;
        let logps = |examples| policy.logps(examples, &store, workspace, observer);
        [logps(&dataset.train)?, logps(&dataset.eval)?]
    } else {
        [&dataset.train, &dataset.eval].map(|examples| ReferenceLogps::none(examples.len()))
    };
    Ok(Objective::Preference(PairObjective { preference, train, eval }))
}

#[cfg(test)]
mod tests;
