//! A run in a page of JSON, for programs that want how it went and not every step.

use hone_proto::v1;
use serde_json::{Value, json};
use v1::job_event::Event;

/// What events tell of a job.
pub fn summary<'a>(job: &v1::Job, events: impl IntoIterator<Item = &'a v1::JobEvent>) -> Value {
    let mut found = Found::default();
    for event in events {
        found.take(event);
    }
    let spec = job.spec.as_ref();
    let result = found.result.as_ref();
    let seconds = result.map(|result| result.train_seconds);
    let per_second = result.and_then(|result| ratio(result.tokens as f64, result.train_seconds));
    json!({
        "version": 1,
        "job_id": job.job_id,
        "display_name": spec.map(|spec| spec.display_name.as_str()),
        "task": spec.and_then(task),
        "base_model": spec.and_then(|spec| spec.base_model.as_ref()).map(|model| model.uri.as_str()),
        "attempts": job.attempt,
        "steps": result.map(|result| result.steps),
        "skipped_steps": result.map(|result| result.skipped_steps),
        "tokens": result.map(|result| result.tokens),
        "trained_tokens": result.map(|result| result.trained_tokens),
        "train_seconds": seconds,
        "eval_seconds": result.map(|result| result.eval_seconds),
        "tokens_per_second": per_second,
        "peak_memory_bytes": found.peak_memory_bytes,
        "device": found.plan.as_ref().map(|plan| plan.device.as_str()),
        "precision": found.plan.as_ref().map(|plan| plan.precision.as_str()),
        "train_loss": { "first": found.first_loss, "last": found.last_loss },
        "held_out": found.evaluations,
        "best_step": found.best_step,
        "stopped_early_at_step": found.stopped_early,
        "overfits_since_step": found.turned_at,
        "gradient_noise_scale": found.noise_scale,
        "warnings": found.warnings,
        "final_checkpoint": result.map(|result| result.final_checkpoint_uri.as_str()),
        "best_checkpoint_id": result.map(|result| result.best_checkpoint_id.as_str()),
    })
}

#[derive(Default)]
struct Found {
    plan: Option<v1::Plan>,
    result: Option<v1::JobResult>,
    first_loss: Option<f64>,
    last_loss: Option<f64>,
    peak_memory_bytes: u64,
    evaluations: Vec<Value>,
    best_step: Option<u64>,
    stopped_early: Option<u64>,
    turned_at: Option<u64>,
    noise_scale: Option<f64>,
    warnings: Vec<Value>,
}

impl Found {
    fn take(&mut self, event: &v1::JobEvent) {
        match &event.event {
            Some(Event::Plan(plan)) => self.plan = Some(plan.clone()),
            Some(Event::TrainStep(step)) => {
                if step.step == 1 {
                    self.first_loss = step.loss;
                }
                self.last_loss = step.loss.or(self.last_loss);
                self.peak_memory_bytes = self.peak_memory_bytes.max(step.peak_memory_bytes);
            }
            Some(Event::Evaluation(found)) => self.evaluation(found),
            Some(Event::EarlyStopped(stopped)) => self.stopped_early = Some(stopped.step),
            Some(Event::Overfitting(turn)) => self.turned_at = Some(turn.turned_at_step),
            Some(Event::GradientNoise(noise)) => self.noise_scale = noise.noise_scale,
            Some(Event::Warning(warning)) => {
                self.warnings.push(json!({ "code": warning.code, "message": warning.message }));
            }
            Some(Event::Result(result)) => self.result = Some(result.clone()),
            _ => {}
        }
    }

    /// An attempt that goes on from a checkpoint evaluates again what came after it.
    fn evaluation(&mut self, found: &v1::EvaluationResult) {
        self.evaluations.retain(|one| one["step"].as_u64().is_some_and(|step| step < found.step));
        if found.best {
            self.best_step = Some(found.step);
        }
        let pairs = found.preference.as_ref();
        self.evaluations.push(json!({
            "step": found.step,
            "loss": found.loss,
            "loss_standard_error": found.loss_standard_error,
            "perplexity": found.perplexity,
            "token_accuracy": found.token_accuracy,
            "examples": found.examples,
            "accuracy": pairs.map(|pairs| pairs.accuracy),
            "accuracy_standard_error": pairs.map(|pairs| pairs.accuracy_standard_error),
            "margin": pairs.map(|pairs| pairs.margin),
            "margin_standard_error": pairs.map(|pairs| pairs.margin_standard_error),
        }));
    }
}

fn task(spec: &v1::JobSpec) -> Option<&'static str> {
    use v1::job_spec::Task;
    match spec.task.as_ref()? {
        Task::Sft(_) => Some("sft"),
        Task::Dpo(_) => Some("dpo"),
        _ => None,
    }
}

fn ratio(amount: f64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| amount / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::{evaluation, event, step};

    #[test]
    fn a_run_that_was_resumed_is_summed_up_once() {
        let result = v1::JobResult { steps: 2, tokens: 50, train_seconds: 4.0, ..Default::default() };
        let events = [
            evaluation(0, 5.0),
            step(1, Some(4.5)),
            step(2, Some(4.0)),
            evaluation(2, 3.5),
            step(2, Some(3.9)),
            evaluation(2, 3.4),
            event(Event::Warning(v1::Warning { code: "w".into(), message: "m".into() })),
            event(Event::Result(result)),
        ];
        let job = v1::Job { job_id: "job-1".into(), attempt: 2, ..Default::default() };
        let found = summary(&job, &events);
        assert_eq!((&found["job_id"], &found["attempts"], &found["steps"]), (&json!("job-1"), &json!(2), &json!(2)));
        assert_eq!(found["train_loss"], json!({ "first": 4.5, "last": 3.9 }));
        let held_out: Vec<_> = found["held_out"].as_array().unwrap().iter().map(|one| one["loss"].clone()).collect();
        assert_eq!(held_out, [json!(5.0), json!(3.4)]);
        assert_eq!(found["tokens_per_second"], json!(12.5));
        assert_eq!(found["warnings"][0]["code"], "w");
        assert_eq!(found["best_step"], Value::Null);
    }
}
