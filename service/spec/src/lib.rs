//! The spec of a job, there and back: from the message that a caller sends to the domain's type, and out again. What is absent
//! takes the default written in the proto and in `hone_job::spec`.
//!
//! The server reads requests with it, and the client SDK checks specs with it before they are sent, so that both say the same of
//! the same spec.

#![deny(missing_docs)]

use hone_job::spec::limits::MAX_VIOLATIONS;
use hone_job::spec::{JobSpec, Resources, Task, Violation};
use hone_proto::v1 as pb;
use pb::job_spec::Task as TaskOneof;

mod benchmark;
mod choices;
mod data;
mod evaluation;
mod export;
mod generate;
mod lora;
mod optim;
mod parts;
mod preference;
mod score;
mod training;

pub use benchmark::report as benchmark_report;
pub use generate::sampling;
pub use hone_job::spec::Length;
pub use parts::TrainingParts;

/// The effective spec of a request, and everything that is wrong with it by itself.
pub fn job_spec(spec: Option<pb::JobSpec>) -> (JobSpec, Vec<Violation>) {
    let spec = spec.unwrap_or_default();
    let mut reader = Reader { violations: Vec::new() };
    let has_task = spec.task.is_some();
    if !has_task {
        reader.wrong("spec.task", "is required: one task, sft, dpo, evaluate, compare, generate, export or benchmark");
    }
    let task = match spec.task.unwrap_or_else(|| TaskOneof::Sft(pb::SftTask::default())) {
        TaskOneof::Sft(sft) => Task::Sft(reader.sft("spec.sft", sft)),
        TaskOneof::Dpo(dpo) => Task::Dpo(reader.dpo("spec.dpo", dpo)),
        TaskOneof::Evaluate(evaluate) => Task::Evaluate(reader.evaluate("spec.evaluate", evaluate)),
        TaskOneof::Compare(compare) => Task::Compare(reader.compare("spec.compare", compare)),
        TaskOneof::Generate(generate) => Task::Generate(reader.generate("spec.generate", generate)),
        TaskOneof::Export(export) => Task::Export(reader.export("spec.export", export)),
        TaskOneof::Benchmark(benchmark) => Task::Benchmark(reader.benchmark("spec.benchmark", benchmark)),
    };
    let converted = JobSpec {
        display_name: spec.display_name,
        labels: spec.labels.into_iter().collect(),
        base_model: spec.base_model.unwrap_or_default().uri,
        task,
        resources: Resources {
            devices: spec.resources.and_then(|resources| resources.devices).unwrap_or(Resources::default().devices),
        },
        max_retries: spec.max_retries.unwrap_or(JobSpec::DEFAULT_MAX_RETRIES),
    };
    let mut violations = converted.validate();
    // What a missing task lacks is no news.
    violations.retain(|violation| has_task || !violation.field.starts_with("spec.sft"));
    violations.extend(reader.violations);
    violations.truncate(MAX_VIOLATIONS);
    (converted, violations)
}

/// Collects what the domain's types cannot hold: numbers of enums that nobody knows.
struct Reader {
    violations: Vec<Violation>,
}

impl Reader {
    fn wrong(&mut self, field: impl Into<String>, what: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation::new(field, what));
        }
    }

    /// An enum's value by its number; `known` gives none for a number that is unknown.
    fn choice<P: TryFrom<i32>, T: Default>(&mut self, field: String, number: i32, convert: impl Fn(P) -> T) -> T {
        match P::try_from(number) {
            Ok(value) => convert(value),
            Err(_) => {
                self.wrong(field, format!("{number} is no value of this enum"));
                T::default()
            }
        }
    }
}

/// The spec in force as a message: every field set but those whose absence is the value.
pub fn message(spec: JobSpec) -> pb::JobSpec {
    let task = match spec.task {
        Task::Sft(task) => TaskOneof::Sft(training::sft_message(task)),
        Task::Dpo(task) => TaskOneof::Dpo(training::dpo_message(task)),
        Task::Evaluate(task) => TaskOneof::Evaluate(score::evaluate_message(task)),
        Task::Compare(task) => TaskOneof::Compare(score::compare_message(task)),
        Task::Generate(task) => TaskOneof::Generate(generate::generate_message(task)),
        Task::Export(task) => TaskOneof::Export(export::message(task)),
        Task::Benchmark(task) => TaskOneof::Benchmark(benchmark::message(task)),
    };
    pb::JobSpec {
        display_name: spec.display_name,
        labels: spec.labels.into_iter().collect(),
        base_model: Some(pb::BaseModel { uri: spec.base_model }),
        task: Some(task),
        resources: Some(pb::Resources { devices: Some(spec.resources.devices) }),
        max_retries: Some(spec.max_retries),
    }
}

#[cfg(test)]
mod tests;
