//! What jobs' events come to: each is counted once, when it is stored.

use chrono::{DateTime, Utc};
use hone_job::event::{Event, JobEvent, Warning};
use hone_job::state::State;
use opentelemetry::KeyValue;

use super::Metrics;
use crate::record::JobRecord;

/// Longest code of a warning that is a label; trainers choose codes, and theirs are short.
const MAX_CODE_BYTES: usize = 40;

impl Metrics {
    /// A job was created.
    pub(crate) fn created(&self, job: &JobRecord, num_events: u64) {
        self.0.jobs_created.add(1, &[task(job)]);
        self.0.events.add(num_events, &[]);
    }

    /// Events of a job were stored; it stands as `job` says by now.
    pub(crate) fn stored(&self, job: &JobRecord, events: &[JobEvent], now: DateTime<Utc>) {
        let counted = &self.0;
        counted.events.add(events.len() as u64, &[]);
        for event in events {
            match &event.event {
                Event::StateChanged(change) => self.moved(job, change.to, now),
                Event::Failure(failure) => counted.attempts_failed.add(1, &[label("reason", &failure.reason)]),
                Event::TrainStep(step) => {
                    counted.step_duration.record(step.step_seconds, &[task(job)]);
                    counted.step_tokens.add(step.tokens, &[task(job)]);
                    counted.steps_skipped.add(step.skipped.into(), &[]);
                }
                Event::Evaluation(evaluation) => {
                    counted.evaluation_duration.record(evaluation.seconds, &[task(job)]);
                }
                Event::CheckpointSaved(saved) => {
                    counted.checkpoint_duration.record(saved.seconds, &[]);
                    counted.checkpoint_size.record(saved.size_bytes, &[]);
                }
                Event::Warning(warning) => counted.warnings.add(1, &[code(warning)]),
                _ => {}
            }
        }
    }

    fn moved(&self, job: &JobRecord, to: State, now: DateTime<Utc>) {
        if to == State::Preparing {
            self.0.attempts_started.add(1, &[task(job)]);
            if job.attempt == 1 {
                let waited = (now - job.create_time).to_std().unwrap_or_default();
                self.0.queue_wait.record(waited.as_secs_f64(), &[]);
            }
        }
        if to.is_final() {
            self.0.jobs_ended.add(1, &[task(job), KeyValue::new("state", to.to_string())]);
        }
    }
}

fn task(job: &JobRecord) -> KeyValue {
    KeyValue::new("task", job.spec.task.name())
}

/// A value by its name in JSON.
fn label(name: &'static str, value: &impl serde::Serialize) -> KeyValue {
    let value = serde_json::to_value(value).ok();
    KeyValue::new(name, value.as_ref().and_then(|value| value.as_str()).unwrap_or_default().to_owned())
}

fn code(warning: &Warning) -> KeyValue {
    let is_code = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_known = warning.code.len() <= MAX_CODE_BYTES && warning.code.bytes().all(is_code);
    KeyValue::new("code", if is_known { warning.code.clone() } else { "other".into() })
}
