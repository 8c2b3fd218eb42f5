//! The spec of a job, there and back: from the message that a caller sends to the domain's type, and out again. What is absent
//! takes the default written in the proto and in `hone_job::spec`.
//!
//! The server reads requests with it, and the client SDK checks specs with it before they are sent, so that both say the same of
//! the same spec.

#![deny(missing_docs)]

use hone_job::spec::limits::MAX_VIOLATIONS;
use hone_job::spec::{
    ActivationCheckpointing, Adapter, AttentionKernel, Batch, Checkpoints, Data, DpoTask, JobSpec, Length, LossOn, Mix,
    MixUntil, Order, OverLength, Precision, Resources, SftTask, Task, Training, Violation,
};
use hone_proto::v1 as pb;
use pb::adapter_spec::Kind as AdapterKind;
use pb::job_spec::Task as TaskOneof;

mod benchmark;
mod evaluation;
mod export;
mod generate;
mod lora;
mod optim;
mod preference;
mod score;

pub use benchmark::report as benchmark_report;
pub use generate::sampling;

/// What sft's default learning rates are multiplied by for dpo: its losses' gradients are larger.
const DPO_RATE_SCALE: f64 = 0.05;

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

/// What the messages of the training tasks have in common.
struct Parts {
    data: Option<pb::DataSpec>,
    adapter: Option<pb::AdapterSpec>,
    init_from: Option<String>,
    optimizer: Option<pb::OptimizerSpec>,
    schedule: Option<pb::ScheduleSpec>,
    batch: Option<pb::BatchSpec>,
    length: Option<Length>,
    evaluation: Option<pb::EvaluationSpec>,
    checkpoints: Option<pb::CheckpointSpec>,
    precision: i32,
    seed: Option<u64>,
    order: i32,
    attention: i32,
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

    fn sft(&mut self, path: &str, task: pb::SftTask) -> SftTask {
        let loss_on = self.choice(format!("{path}.loss_on"), task.loss_on, loss_on);
        let neftune_noise_alpha = task.neftune_noise_alpha.unwrap_or(0.0);
        let length = task.length.map(|length| match length {
            pb::sft_task::Length::Epochs(epochs) => Length::Epochs(epochs),
            pb::sft_task::Length::MaxSteps(steps) => Length::MaxSteps(steps),
        });
        let parts = Parts {
            data: task.data,
            adapter: task.adapter,
            init_from: task.init_from,
            optimizer: task.optimizer,
            schedule: task.schedule,
            batch: task.batch,
            length,
            evaluation: task.evaluation,
            checkpoints: task.checkpoints,
            precision: task.precision,
            seed: task.seed,
            order: task.order,
            attention: task.attention,
        };
        SftTask { training: self.training(path, parts, 1.0), loss_on, neftune_noise_alpha }
    }

    fn dpo(&mut self, path: &str, task: pb::DpoTask) -> DpoTask {
        let preference = self.preference(path, &task);
        let length = task.length.map(|length| match length {
            pb::dpo_task::Length::Epochs(epochs) => Length::Epochs(epochs),
            pb::dpo_task::Length::MaxSteps(steps) => Length::MaxSteps(steps),
        });
        let parts = Parts {
            data: task.data,
            adapter: task.adapter,
            init_from: task.init_from,
            optimizer: task.optimizer,
            schedule: task.schedule,
            batch: task.batch,
            length,
            evaluation: task.evaluation,
            checkpoints: task.checkpoints,
            precision: task.precision,
            seed: task.seed,
            order: task.order,
            attention: task.attention,
        };
        DpoTask { training: self.training(path, parts, DPO_RATE_SCALE), preference }
    }

    /// `rate_scale` is what default learning rates are multiplied by for this task.
    fn training(&mut self, path: &str, parts: Parts, rate_scale: f64) -> Training {
        let defaults = Training::on(Vec::new());
        let data = self.data(&format!("{path}.data"), parts.data.unwrap_or_default());
        let adapter = self.adapter(&format!("{path}.adapter"), parts.adapter.unwrap_or_default());
        let rate_scale = rate_scale * adapter.default_rate_scale();
        let optimizer = parts.optimizer.unwrap_or_default();
        Training {
            data,
            adapter,
            init_from: parts.init_from,
            optimizer: self.optimizer(&format!("{path}.optimizer"), optimizer, rate_scale),
            schedule: self.schedule(&format!("{path}.schedule"), parts.schedule.unwrap_or_default()),
            batch: self.batch(&format!("{path}.batch"), parts.batch.unwrap_or_default()),
            length: parts.length.unwrap_or(defaults.length),
            evaluation: self.evaluation(&format!("{path}.evaluation"), parts.evaluation.unwrap_or_default()),
            checkpoints: checkpoints(parts.checkpoints.unwrap_or_default()),
            precision: self.choice(format!("{path}.precision"), parts.precision, precision),
            seed: parts.seed.unwrap_or(defaults.seed),
            order: self.choice(format!("{path}.order"), parts.order, order),
            attention: self.choice(format!("{path}.attention"), parts.attention, attention),
        }
    }

    fn adapter(&mut self, path: &str, adapter: pb::AdapterSpec) -> Adapter {
        match adapter.kind.unwrap_or_else(|| AdapterKind::Lora(pb::LoraSpec::default())) {
            AdapterKind::Lora(lora) => Adapter::Lora(self.lora(&format!("{path}.lora"), lora)),
            AdapterKind::Full(pb::FullSpec {}) => Adapter::Full,
        }
    }

    fn data(&mut self, path: &str, data: pb::DataSpec) -> Data {
        let defaults = Data::of(Vec::new());
        Data {
            train: data.train,
            eval: data.eval,
            eval_fraction: data.eval_fraction.unwrap_or(defaults.eval_fraction),
            max_length: data.max_length.unwrap_or(defaults.max_length),
            over_length: self.choice(format!("{path}.over_length"), data.over_length, over_length),
            chat_template: data.chat_template,
            max_train_examples: data.max_train_examples,
            max_eval_examples: data.max_eval_examples,
            mix: data.mix.map(|mix| Mix {
                until: self.choice(format!("{path}.mix.until"), mix.until, mix_until),
                weights: mix.weights,
            }),
            drop_duplicates: data.drop_duplicates,
            leakage_similarity: data.leakage_similarity.unwrap_or(defaults.leakage_similarity),
        }
    }

    fn batch(&mut self, path: &str, batch: pb::BatchSpec) -> Batch {
        let defaults = Batch::default();
        let checkpointing = batch.activation_checkpointing;
        Batch {
            examples_per_step: batch.examples_per_step.unwrap_or(defaults.examples_per_step),
            tokens_per_micro_batch: batch.tokens_per_micro_batch.unwrap_or(defaults.tokens_per_micro_batch),
            activation_checkpointing: self.choice(
                format!("{path}.activation_checkpointing"),
                checkpointing,
                activation_checkpointing,
            ),
        }
    }
}

fn activation_checkpointing(value: pb::ActivationCheckpointing) -> ActivationCheckpointing {
    match value {
        pb::ActivationCheckpointing::Unspecified | pb::ActivationCheckpointing::Auto => ActivationCheckpointing::Auto,
        pb::ActivationCheckpointing::On => ActivationCheckpointing::On,
        pb::ActivationCheckpointing::Off => ActivationCheckpointing::Off,
    }
}

fn activation_checkpointing_message(value: ActivationCheckpointing) -> pb::ActivationCheckpointing {
    match value {
        ActivationCheckpointing::Auto => pb::ActivationCheckpointing::Auto,
        ActivationCheckpointing::On => pb::ActivationCheckpointing::On,
        ActivationCheckpointing::Off => pb::ActivationCheckpointing::Off,
    }
}

fn attention(value: pb::AttentionKernel) -> AttentionKernel {
    match value {
        pb::AttentionKernel::Unspecified => AttentionKernel::Auto,
        pb::AttentionKernel::Flash => AttentionKernel::Flash,
        pb::AttentionKernel::Math => AttentionKernel::Math,
        pb::AttentionKernel::Efficient => AttentionKernel::Efficient,
    }
}

/// Which one `Auto` is depends on the device; a training job's plan says it.
fn attention_message(value: AttentionKernel) -> pb::AttentionKernel {
    match value {
        AttentionKernel::Auto => pb::AttentionKernel::Unspecified,
        AttentionKernel::Flash => pb::AttentionKernel::Flash,
        AttentionKernel::Math => pb::AttentionKernel::Math,
        AttentionKernel::Efficient => pb::AttentionKernel::Efficient,
    }
}

fn checkpoints(checkpoints: pb::CheckpointSpec) -> Checkpoints {
    let defaults = Checkpoints::default();
    Checkpoints {
        every_steps: checkpoints.every_steps.unwrap_or(defaults.every_steps),
        every_minutes: checkpoints.every_minutes.unwrap_or(defaults.every_minutes),
        keep_last: checkpoints.keep_last.unwrap_or(defaults.keep_last),
    }
}

fn loss_on(value: pb::LossOn) -> LossOn {
    match value {
        pb::LossOn::Unspecified => LossOn::default(),
        pb::LossOn::Completion => LossOn::Completion,
        pb::LossOn::Assistant => LossOn::Assistant,
        pb::LossOn::All => LossOn::All,
    }
}

fn loss_on_message(value: LossOn) -> pb::LossOn {
    match value {
        LossOn::Completion => pb::LossOn::Completion,
        LossOn::Assistant => pb::LossOn::Assistant,
        LossOn::All => pb::LossOn::All,
    }
}

fn over_length(value: pb::OverLength) -> OverLength {
    match value {
        pb::OverLength::Unspecified => OverLength::default(),
        pb::OverLength::Drop => OverLength::Drop,
        pb::OverLength::Truncate => OverLength::Truncate,
        pb::OverLength::Split => OverLength::Split,
        pb::OverLength::Fail => OverLength::Fail,
    }
}

fn mix_until(value: pb::MixUntil) -> MixUntil {
    match value {
        pb::MixUntil::Unspecified => MixUntil::default(),
        pb::MixUntil::FirstExhausted => MixUntil::FirstExhausted,
        pb::MixUntil::AllExhausted => MixUntil::AllExhausted,
    }
}

fn precision(value: pb::Precision) -> Precision {
    match value {
        pb::Precision::Unspecified => Precision::default(),
        pb::Precision::Float32 => Precision::Float32,
        pb::Precision::Bfloat16 => Precision::Bfloat16,
    }
}

/// Which one `Auto` is depends on the device; a training job's plan says it.
fn precision_message(value: Precision) -> pb::Precision {
    match value {
        Precision::Auto => pb::Precision::Unspecified,
        Precision::Float32 => pb::Precision::Float32,
        Precision::Bfloat16 => pb::Precision::Bfloat16,
    }
}

fn order(value: pb::Order) -> Order {
    match value {
        pb::Order::Unspecified => Order::default(),
        pb::Order::Shuffled => Order::Shuffled,
        pb::Order::Sequential => Order::Sequential,
    }
}

/// The spec in force as a message: every field set but those whose absence is the value.
pub fn message(spec: JobSpec) -> pb::JobSpec {
    let task = match spec.task {
        Task::Sft(task) => TaskOneof::Sft(sft_message(task)),
        Task::Dpo(task) => TaskOneof::Dpo(dpo_message(task)),
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

fn sft_message(task: SftTask) -> pb::SftTask {
    let parts = parts(task.training);
    pb::SftTask {
        data: parts.data,
        adapter: parts.adapter,
        init_from: parts.init_from,
        optimizer: parts.optimizer,
        schedule: parts.schedule,
        batch: parts.batch,
        length: parts.length.map(|length| match length {
            Length::Epochs(epochs) => pb::sft_task::Length::Epochs(epochs),
            Length::MaxSteps(steps) => pb::sft_task::Length::MaxSteps(steps),
        }),
        evaluation: parts.evaluation,
        checkpoints: parts.checkpoints,
        precision: parts.precision,
        seed: parts.seed,
        order: parts.order,
        attention: parts.attention,
        neftune_noise_alpha: Some(task.neftune_noise_alpha),
        loss_on: loss_on_message(task.loss_on).into(),
    }
}

fn dpo_message(task: DpoTask) -> pb::DpoTask {
    let parts = parts(task.training);
    pb::DpoTask {
        data: parts.data,
        adapter: parts.adapter,
        init_from: parts.init_from,
        optimizer: parts.optimizer,
        schedule: parts.schedule,
        batch: parts.batch,
        length: parts.length.map(|length| match length {
            Length::Epochs(epochs) => pb::dpo_task::Length::Epochs(epochs),
            Length::MaxSteps(steps) => pb::dpo_task::Length::MaxSteps(steps),
        }),
        evaluation: parts.evaluation,
        checkpoints: parts.checkpoints,
        precision: parts.precision,
        seed: parts.seed,
        order: parts.order,
        attention: parts.attention,
        ..preference::message(task.preference)
    }
}

fn parts(training: Training) -> Parts {
    Parts {
        data: Some(data_message(training.data)),
        adapter: Some(adapter_message(training.adapter)),
        init_from: training.init_from,
        optimizer: Some(optim::optimizer_message(training.optimizer)),
        schedule: Some(optim::schedule_message(training.schedule)),
        batch: Some(pb::BatchSpec {
            examples_per_step: Some(training.batch.examples_per_step),
            tokens_per_micro_batch: Some(training.batch.tokens_per_micro_batch),
            activation_checkpointing: activation_checkpointing_message(training.batch.activation_checkpointing).into(),
        }),
        length: Some(training.length),
        evaluation: Some(evaluation::message(training.evaluation)),
        checkpoints: Some(pb::CheckpointSpec {
            every_steps: Some(training.checkpoints.every_steps),
            every_minutes: Some(training.checkpoints.every_minutes),
            keep_last: Some(training.checkpoints.keep_last),
        }),
        precision: precision_message(training.precision).into(),
        seed: Some(training.seed),
        order: match training.order {
            Order::Shuffled => pb::Order::Shuffled,
            Order::Sequential => pb::Order::Sequential,
        }
        .into(),
        attention: attention_message(training.attention).into(),
    }
}

fn data_message(data: Data) -> pb::DataSpec {
    pb::DataSpec {
        train: data.train,
        eval: data.eval,
        eval_fraction: Some(data.eval_fraction),
        max_length: Some(data.max_length),
        over_length: match data.over_length {
            OverLength::Drop => pb::OverLength::Drop,
            OverLength::Truncate => pb::OverLength::Truncate,
            OverLength::Split => pb::OverLength::Split,
            OverLength::Fail => pb::OverLength::Fail,
        }
        .into(),
        chat_template: data.chat_template,
        max_train_examples: data.max_train_examples,
        max_eval_examples: data.max_eval_examples,
        mix: data.mix.map(mix_message),
        drop_duplicates: data.drop_duplicates,
        leakage_similarity: Some(data.leakage_similarity),
    }
}

fn mix_message(mix: Mix) -> pb::MixSpec {
    let until = match mix.until {
        MixUntil::FirstExhausted => pb::MixUntil::FirstExhausted,
        MixUntil::AllExhausted => pb::MixUntil::AllExhausted,
    };
    pb::MixSpec { weights: mix.weights, until: until.into() }
}

fn adapter_message(adapter: Adapter) -> pb::AdapterSpec {
    let kind = match adapter {
        Adapter::Lora(lora) => AdapterKind::Lora(lora::message(lora)),
        Adapter::Full => AdapterKind::Full(pb::FullSpec {}),
    };
    pb::AdapterSpec { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
