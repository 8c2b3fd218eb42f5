//! Evaluations of a run: when they are due, what hangs on them, what they are worth to a checkpoint.

use std::collections::BTreeMap;
use std::time::Instant;

use hone_data::tokenize::Example;
use hone_job::event::{Evaluation, Event, Warning};
use hone_job::insight::{HardExample, HardExamples};
use hone_job::spec::{AnswerHardExamples, JobSpec, Metric, ScheduleKind, Training};

use super::Run;
use crate::error::Error;
use crate::optim::{Schedule, acting_evaluations};
use crate::task::Observer;
use crate::task::evaluate::{RowFigure, evaluate, evaluate_pairs};
use crate::task::hard_examples::Look;
use crate::task::objective::Objective;
use crate::task::progress::Measured;
use crate::trace;

/// Evaluations of a run whose spec does not say how often.
const DEFAULT_EVALUATIONS: u64 = 10;

/// What an evaluation found.
pub(super) struct Evaluated {
    /// Averages.
    result: Evaluation,
    /// Each row.
    rows: Vec<RowFigure>,
    /// The hardest rows.
    hardest: Vec<HardExample>,
}

impl Run {
    /// Evaluates when it is time, or puts it off while it would take more than its share of the run's time; but never where
    /// an evaluation decides on the rate or the end, which would then depend on the clock.
    pub(super) fn evaluate_if_due(&mut self) {
        if self.eval_every_steps == 0 || self.eval.is_empty() {
            return;
        }
        let is_due = self.progress.step.is_multiple_of(self.eval_every_steps) || self.progress.evaluation_put_off;
        if !is_due {
            return;
        }
        let expected = self.progress.last_evaluation.map_or(0.0, |last| last.seconds);
        let spent = self.progress.eval_seconds_between + expected;
        let share = spent / (self.progress.train_seconds + spent);
        let is_over = share > self.training().evaluation.max_time_fraction;
        self.progress.evaluation_put_off = is_over && !self.evaluations_decide();
        if !self.progress.evaluation_put_off {
            let before = self.progress.eval_seconds;
            self.evaluate();
            self.progress.eval_seconds_between += self.progress.eval_seconds - before;
            self.phase("training");
        }
    }

    /// Whether the rate or the end of the run hangs on evaluations.
    pub(super) fn evaluations_decide(&self) -> bool {
        let training = self.training();
        matches!(training.schedule.kind, ScheduleKind::Plateau(_)) || training.evaluation.early_stopping.is_some()
    }

    pub(super) fn evaluate(&mut self) {
        if self.eval.is_empty() {
            return;
        }
        self.phase("evaluating");
        let _span = trace::part(tracing::info_span!("evaluation", step = self.progress.step)).entered();
        let Some(Evaluated { mut result, rows, hardest }) = self.evaluation_within_memory() else { return };
        let step = self.progress.step;
        self.row_figures = rows;
        self.progress.eval_seconds += result.seconds;
        if let Some(loss) = result.loss {
            let measured = Measured { step, loss, seconds: result.seconds, preference: result.preference };
            result.best = self.progress.best_evaluation.is_none_or(|best| loss < best.loss);
            if result.best {
                self.progress.best_evaluation = Some(measured);
            }
            self.progress.first_evaluation.get_or_insert(measured);
            self.progress.last_evaluation = Some(measured);
        }
        self.observe_plateau(result.loss);
        let is_to_be_kept = self.observe_early_stopping(&result);
        self.observer.report(Event::Evaluation(result));
        self.observe_turn();
        if !hardest.is_empty() {
            self.observer.report(Event::HardExamples(HardExamples { step, examples: hardest }));
        }
        self.idle_since = Instant::now();
        if is_to_be_kept && step > 0 && step < self.total_steps {
            self.save();
        }
    }

    /// What the held-out rows say now.
    pub(super) fn evaluation(&self) -> Result<Evaluated, Error> {
        let start = Instant::now();
        let max_tokens = self.tokens_per_micro_batch() as usize;
        let (model, adapter, step) = (&self.model, self.trained.adapter(), self.progress.step);
        let (mut result, rows) = match &self.objective {
            Objective::Likelihood { .. } => evaluate(model, adapter, &self.eval, max_tokens, step),
            Objective::Preference(pairs) => evaluate_pairs(model, adapter, pairs, &self.eval, max_tokens, step),
        };
        let look = Look {
            model,
            adapter,
            tokenizer: &self.tokenizer,
            examples: &self.eval,
            before: &self.row_figures,
            answers: match self.training().evaluation.answer_hard_examples {
                AnswerHardExamples::Last => step >= self.total_steps || self.would_stop_early(&result),
                AnswerHardExamples::Every => true,
                AnswerHardExamples::Never => false,
            },
        };
        let hardest = look.hardest(&rows, self.training().evaluation.hard_examples as usize)?;
        result.seconds = start.elapsed().as_secs_f64();
        Ok(Evaluated { result, rows, hardest })
    }

    /// Lets early stopping see an evaluation. Says whether it is the best so far.
    fn observe_early_stopping(&mut self, evaluation: &Evaluation) -> bool {
        let options = self.training().evaluation.early_stopping;
        options.is_some_and(|options| self.progress.early_stopping.observe(evaluation, &options))
    }

    /// Whether an evaluation that early stopping has not seen yet would end the run.
    fn would_stop_early(&self, evaluation: &Evaluation) -> bool {
        let mut stopping = self.progress.early_stopping;
        self.training().evaluation.early_stopping.is_some_and(|options| {
            stopping.observe(evaluation, &options);
            stopping.verdict(evaluation.step, &options).is_some()
        })
    }

    pub(super) fn stops_early(&self) -> bool {
        let options = self.training().evaluation.early_stopping;
        let step = self.progress.step;
        let verdict = options.and_then(|options| self.progress.early_stopping.verdict(step, &options));
        let stops = verdict.is_some();
        verdict.into_iter().for_each(|verdict| self.observer.report(Event::EarlyStopped(verdict)));
        stops
    }

    /// Lets a plateau schedule see a held-out loss.
    fn observe_plateau(&mut self, loss: Option<f64>) {
        let schedule = self.training().schedule.clone();
        if let ScheduleKind::Plateau(options) = &schedule.kind {
            let during_warmup = self.progress.step < self.schedule.warmup_steps();
            self.progress.plateau.observe(loss, during_warmup, options, schedule.min_learning_rate_ratio);
        }
    }
}

/// Warns of early stopping that has too few evaluations in this run to act.
pub(super) fn check_early_stopping(
    training: &Training,
    eval_every_steps: u64,
    total_steps: u64,
    observer: &dyn Observer,
) {
    let Some(stopping) = training.evaluation.early_stopping else { return };
    // The one before the first step is the first best one.
    let evaluations = acting_evaluations(eval_every_steps, 0, total_steps);
    if evaluations < stopping.patience.into() {
        let message = format!(
            "early stopping cannot end this run of {total_steps} steps early: {evaluations} evaluations come before its end, \
             and evaluation.early_stopping.patience, {}, of them would have to be no better; lower that or \
             evaluation.every_steps, now {eval_every_steps}",
            stopping.patience
        );
        observer.report(Event::Warning(Warning { code: "early_stopping_cannot_act".into(), message }));
    }
}

/// The held-out figures that a checkpoint's manifest has.
pub(super) fn metrics(measured: Measured) -> BTreeMap<String, f64> {
    let pairs = measured.preference.map(|pairs| [(Metric::Accuracy, pairs.accuracy), (Metric::Margin, pairs.margin)]);
    let all = [(Metric::Loss, measured.loss)].into_iter().chain(pairs.into_iter().flatten());
    all.map(|(metric, value)| (metric.key().to_string(), value)).collect()
}

/// What the best checkpoint is the best by.
pub(super) fn metric(training: &Training) -> Metric {
    training.evaluation.early_stopping.map_or(Metric::Loss, |stopping| stopping.metric)
}

pub(super) fn eval_every_steps(training: &Training, eval: &[Example], total_steps: u64) -> u64 {
    if eval.is_empty() {
        return 0;
    }
    training.evaluation.every_steps.unwrap_or_else(|| (total_steps / DEFAULT_EVALUATIONS).max(1))
}

/// Refuses a plateau schedule that has nothing to watch, and warns of one that cannot act within this run.
pub(super) fn check_plateau(
    spec: &JobSpec,
    schedule: &Schedule,
    eval_every_steps: u64,
    total_steps: u64,
    observer: &dyn Observer,
) -> Result<(), Error> {
    let Some(ScheduleKind::Plateau(plateau)) = spec.task.training().map(|training| training.schedule.kind) else {
        return Ok(());
    };
    if eval_every_steps == 0 {
        let place = format!("spec.{}.schedule.type", spec.task.name());
        let what = "plateau watches the held-out loss, and no row is held out; give data.eval more rows, raise \
                    data.eval_fraction, or choose another schedule";
        return Err(Error::Input { place, what: what.into() });
    }
    let warmup_steps = schedule.warmup_steps();
    let evaluations = acting_evaluations(eval_every_steps, warmup_steps, total_steps);
    if evaluations <= plateau.patience.into() {
        let message = format!(
            "the plateau schedule cannot lower the rate in this run: of its {total_steps} steps, {warmup_steps} of them \
             warmup, {evaluations} end in an evaluation that counts, and more than schedule.plateau.patience, {}, are \
             needed; lower that or evaluation.every_steps, now {eval_every_steps}",
            plateau.patience
        );
        observer.report(Event::Warning(Warning { code: "plateau_cannot_act".into(), message }));
    }
    Ok(())
}
