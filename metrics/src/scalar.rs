//! The numbers of a run, each with its name and the step that it belongs to.

use hone_proto::v1;
use v1::job_event::Event;

/// A number of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// What it is, such as `train/loss`.
    pub tag: String,
    /// Steps taken.
    pub step: u64,
    /// When, in seconds since 1970.
    pub wall_time: f64,
    /// The number.
    pub value: f64,
}

/// Takes the numbers out of the events of one job, in their order.
#[derive(Debug, Default)]
pub struct Scalars {
    last_step: u64,
}

impl Scalars {
    /// For events that come after a step.
    pub fn after(step: u64) -> Self {
        Self { last_step: step }
    }

    /// What of an event is a number over steps. Use of the machine has no step of its own: it has the one before it.
    pub fn of(&mut self, event: &v1::JobEvent) -> Vec<Scalar> {
        let (step, values) = match &event.event {
            Some(Event::TrainStep(step)) => {
                self.last_step = step.step;
                let groups = step.gradient_groups.iter().map(|group| Scalar {
                    tag: format!("gradient/{}", group.name),
                    step: step.step,
                    wall_time: wall_time(event),
                    value: group.norm,
                });
                return scalars(event, step.step, of_step(step)).chain(groups).collect();
            }
            Some(Event::Evaluation(found)) => (found.step, of_evaluation(found)),
            Some(Event::GradientNoise(found)) => (found.step, vec![("train/gradient_noise_scale", found.noise_scale)]),
            Some(Event::ResourceUsage(usage)) => (self.last_step, of_usage(usage)),
            _ => return Vec::new(),
        };
        scalars(event, step, values).collect()
    }
}

fn scalars(event: &v1::JobEvent, step: u64, values: Values) -> impl Iterator<Item = Scalar> {
    let wall_time = wall_time(event);
    let scalar =
        move |(tag, value): (&str, Option<f64>)| Some(Scalar { tag: tag.to_owned(), step, wall_time, value: value? });
    values.into_iter().filter_map(scalar)
}

/// When an event happened, in seconds since 1970.
pub fn wall_time(event: &v1::JobEvent) -> f64 {
    let time = event.time.unwrap_or_default();
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

type Values = Vec<(&'static str, Option<f64>)>;

fn of_step(step: &v1::TrainStep) -> Values {
    let mut values = vec![
        ("train/loss", step.loss),
        ("train/grad_norm", step.grad_norm),
        ("train/learning_rate", Some(step.learning_rate)),
        ("train/epoch", Some(step.epoch)),
        ("train/token_accuracy", Some(step.token_accuracy)),
        ("train/tokens_per_second", Some(step.tokens_per_second)),
        ("train/step_seconds", Some(step.step_seconds)),
    ];
    if let Some(pairs) = &step.preference {
        values.extend([("train/accuracy", Some(pairs.accuracy)), ("train/margin", Some(pairs.margin))]);
    }
    if let Some(time) = &step.time {
        values.extend([
            ("time/data_seconds", Some(time.data_seconds)),
            ("time/forward_seconds", Some(time.forward_seconds)),
            ("time/backward_seconds", Some(time.backward_seconds)),
            ("time/update_seconds", Some(time.update_seconds)),
            ("time/wait_seconds", Some(time.wait_seconds)),
        ]);
    }
    values
}

fn of_evaluation(found: &v1::EvaluationResult) -> Values {
    let mut values = vec![
        ("eval/loss", found.loss),
        ("eval/loss_standard_error", Some(found.loss_standard_error)),
        ("eval/perplexity", found.perplexity),
        ("eval/token_accuracy", Some(found.token_accuracy)),
    ];
    if let Some(pairs) = &found.preference {
        values.extend([("eval/accuracy", Some(pairs.accuracy)), ("eval/margin", Some(pairs.margin))]);
    }
    values
}

fn of_usage(usage: &v1::ResourceUsage) -> Values {
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
    vec![
        ("machine/memory_bytes", bytes(Some(usage.host_memory_bytes))),
        ("machine/cpu_cores", Some(usage.cpu_cores)),
        ("machine/disk_read_bytes_per_second", usage.disk_read_bytes_per_second),
        ("machine/disk_write_bytes_per_second", usage.disk_write_bytes_per_second),
        ("machine/storage_read_bytes_per_second", usage.storage_read_bytes_per_second),
        ("machine/storage_write_bytes_per_second", usage.storage_write_bytes_per_second),
        ("device/memory_bytes", bytes(usage.device_memory_bytes)),
        ("device/allocated_bytes", bytes(usage.device_allocated_bytes)),
        ("device/reserved_bytes", bytes(usage.device_reserved_bytes)),
        ("device/utilization", usage.device_utilization),
        ("device/power_watts", usage.device_power_watts),
        ("device/temperature_celsius", usage.device_temperature_celsius),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::event;

    #[test]
    fn numbers_have_the_step_that_they_belong_to_and_what_is_absent_has_none() {
        let step = v1::TrainStep { step: 3, loss: Some(1.5), learning_rate: 0.5, ..Default::default() };
        let usage = v1::ResourceUsage { host_memory_bytes: 7, ..Default::default() };
        let evaluation = v1::EvaluationResult { step: 2, loss: None, token_accuracy: 0.25, ..Default::default() };
        let mut scalars = Scalars::default();
        let mut told = |one: Event| {
            let found = scalars.of(&event(one)).into_iter();
            found.map(|one| (one.tag, one.step, one.value)).collect::<Vec<_>>()
        };
        let named = |tag: &str, step, value| (tag.to_owned(), step, value);
        let train = told(Event::TrainStep(step));
        assert_eq!(train[..2], [named("train/loss", 3, 1.5), named("train/learning_rate", 3, 0.5)], "no gradient norm");
        assert_eq!(told(Event::ResourceUsage(usage))[0], named("machine/memory_bytes", 3, 7.0));
        let eval = told(Event::Evaluation(evaluation));
        assert!(eval.iter().all(|(tag, step, _)| *step == 2 && *tag != "eval/loss"), "{eval:?}");
        assert!(told(Event::Phase(v1::Phase::default())).is_empty());
    }
}
