//! A spec in a few lines: what a person wants to know of it first.

use hone_client::v1;
use v1::adapter_spec::Kind;
use v1::benchmark_task::Training;
use v1::job_spec::Task;
use v1::reference_policy::Policy;
use v1::schedule_spec::Warmup;
use v1::sft_task::Length;

use crate::human::{count, percent, printable, setting};

/// A heading and what stands beside it. Settings that the spec leaves out are left out.
pub(crate) fn of(spec: &v1::JobSpec) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(model) = &spec.base_model {
        lines.push(("model", printable(&model.uri)));
    }
    let shared = match &spec.task {
        Some(Task::Sft(sft)) => Some(("sft", sft.clone(), Vec::new())),
        Some(Task::Dpo(dpo)) => Some(("dpo", shared_with_sft(dpo), preference(dpo))),
        Some(Task::Evaluate(task)) => {
            lines.push(("task", "evaluate".to_owned()));
            lines.extend(task.checkpoint.as_ref().map(|uri| ("trained", printable(uri))));
            lines.extend(scored(task.data.as_ref()));
            None
        }
        Some(Task::Compare(task)) => {
            let names: Vec<_> = task.candidates.iter().map(|candidate| candidate.name.as_str()).collect();
            lines.push(("task", printable(&format!("compare {}", names.join(", ")))));
            lines.extend(scored(task.data.as_ref()));
            None
        }
        Some(Task::Generate(task)) => {
            lines.push(("task", "generate".to_owned()));
            lines.extend(task.checkpoint.as_ref().map(|uri| ("trained", printable(uri))));
            lines.extend(task.data.as_ref().map(|data| ("rows", printable(&data.rows.join(", ")))));
            None
        }
        Some(Task::Benchmark(task)) => match &task.training {
            Some(Training::Sft(sft)) => Some(("benchmark sft", sft.clone(), Vec::new())),
            Some(Training::Dpo(dpo)) => Some(("benchmark dpo", shared_with_sft(dpo), preference(dpo))),
            None => None,
        },
        Some(Task::Export(task)) => {
            lines.extend(task.checkpoint.as_ref().map(|uri| ("trained", printable(uri))));
            lines.push(("task", export(task)));
            None
        }
        None => None,
    };
    if let Some((name, sft, extra)) = shared {
        lines.extend(rows(sft.data.as_ref()));
        lines.push(("task", task(name, &sft, extra)));
        lines.extend(sft.adapter.as_ref().and_then(adapter).map(|text| ("adapter", text)));
        lines.push(("optimizer", optimizer(&sft)));
    }
    if !spec.labels.is_empty() {
        let mut labels: Vec<_> = spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort();
        lines.push(("labels", printable(&labels.join(", "))));
    }
    lines
}

fn rows(data: Option<&v1::DataSpec>) -> Vec<(&'static str, String)> {
    let Some(data) = data else { return Vec::new() };
    let mut lines = vec![("train", printable(&data.train.join(", ")))];
    if !data.eval.is_empty() {
        lines.push(("held out", printable(&data.eval.join(", "))));
    }
    if let Some(share) = data.eval_fraction.filter(|share| *share > 0.0) {
        lines.push(("held out", format!("{} of the training rows", percent(share))));
    }
    lines
}

fn scored(data: Option<&v1::ScoredRows>) -> Option<(&'static str, String)> {
    data.map(|data| ("rows", printable(&data.rows.join(", "))))
}

/// What dpo has in common with sft, as an sft task: one text for both.
fn shared_with_sft(dpo: &v1::DpoTask) -> v1::SftTask {
    use v1::dpo_task::Length as DpoLength;
    v1::SftTask {
        data: dpo.data.clone(),
        adapter: dpo.adapter.clone(),
        optimizer: dpo.optimizer,
        schedule: dpo.schedule,
        batch: dpo.batch,
        length: dpo.length.map(|length| match length {
            DpoLength::Epochs(epochs) => Length::Epochs(epochs),
            DpoLength::MaxSteps(steps) => Length::MaxSteps(steps),
        }),
        precision: dpo.precision,
        seed: dpo.seed,
        ..Default::default()
    }
}

fn preference(dpo: &v1::DpoTask) -> Vec<String> {
    let name = |loss: &v1::PreferenceLoss| {
        let name = loss.r#type().as_str_name().trim_start_matches("PREFERENCE_LOSS_TYPE_").to_lowercase();
        match loss.weight {
            Some(weight) if weight != 1.0 => format!("{} x {name}", setting(weight)),
            _ => name,
        }
    };
    let mut parts = Vec::new();
    if !dpo.losses.is_empty() {
        parts.push(format!("loss {}", dpo.losses.iter().map(name).collect::<Vec<_>>().join(" + ")));
    }
    parts.extend(dpo.beta.map(|beta| format!("beta {}", setting(beta))));
    parts.extend(dpo.label_smoothing.filter(|share| *share > 0.0).map(|share| format!("smoothed {}", setting(share))));
    parts.extend(dpo.reference.as_ref().and_then(|reference| reference.policy.as_ref()).map(|policy| match policy {
        Policy::Initial(_) => "against the initial policy".to_owned(),
        Policy::Base(_) => "against the base model".to_owned(),
        Policy::Checkpoint(uri) => format!("against {}", printable(uri)),
    }));
    parts
}

fn export(task: &v1::ExportTask) -> String {
    let format = match task.format() {
        v1::ExportFormat::Gguf => "a GGUF file",
        v1::ExportFormat::Unspecified | v1::ExportFormat::HuggingFace => "a Hugging Face folder",
    };
    let mut parts = vec![format!("export as {format}")];
    if task.weight_type() != v1::WeightType::Unspecified {
        parts.push(word(task.weight_type().as_str_name()));
    }
    if task.dequantize_base {
        parts.push("of dequantised weights".to_owned());
    }
    parts.join(", ")
}

fn task(name: &str, sft: &v1::SftTask, extra: Vec<String>) -> String {
    let mut parts = vec![name.to_owned()];
    parts.extend(extra);
    match sft.length {
        Some(Length::Epochs(1.0)) => parts.push("1 epoch".to_owned()),
        Some(Length::Epochs(epochs)) => parts.push(format!("{} epochs", setting(epochs))),
        Some(Length::MaxSteps(steps)) => parts.push(format!("{} steps", count(steps))),
        None => {}
    }
    if let Some(examples) = sft.batch.as_ref().and_then(|batch| batch.examples_per_step) {
        parts.push(format!("{examples} examples a step"));
    }
    if let Some(data) = &sft.data {
        parts.extend(data.max_length.map(|tokens| {
            format!("rows up to {} tokens ({})", count(tokens.into()), word(data.over_length().as_str_name()))
        }));
    }
    if sft.loss_on() != v1::LossOn::Unspecified {
        parts.push(format!("loss on {}", word(sft.loss_on().as_str_name())));
    }
    if sft.precision() != v1::Precision::Unspecified {
        parts.push(word(sft.precision().as_str_name()));
    }
    parts.extend(sft.seed.map(|seed| format!("seed {seed}")));
    parts.join(", ")
}

fn adapter(adapter: &v1::AdapterSpec) -> Option<String> {
    let lora = match &adapter.kind {
        Some(Kind::Lora(lora)) => lora,
        Some(Kind::Full(_)) => return Some("none: all weights are trained".to_owned()),
        None => return None,
    };
    let mut parts = vec![match lora.rank {
        Some(rank) => format!("LoRA rank {rank}"),
        None => "LoRA".to_owned(),
    }];
    parts.extend(lora.alpha.map(|alpha| format!("alpha {}", setting(alpha))));
    parts.extend(lora.dropout.map(|dropout| format!("dropout {}", setting(dropout))));
    if lora.use_rslora == Some(true) {
        parts.push("rank-stabilised".to_owned());
    }
    if !lora.target_modules.is_empty() {
        parts.push(printable(&lora.target_modules.join(" ")));
    }
    Some(parts.join(", "))
}

fn optimizer(sft: &v1::SftTask) -> String {
    let rule = sft.optimizer.as_ref().map(v1::OptimizerSpec::r#type).unwrap_or_default();
    let mut parts = vec![
        match rule {
            v1::OptimizerType::Unspecified | v1::OptimizerType::Adamw => "AdamW",
            v1::OptimizerType::Lion => "Lion",
            v1::OptimizerType::Sgd => "SGD",
        }
        .to_owned(),
    ];
    if let Some(optimizer) = &sft.optimizer {
        parts.extend(optimizer.learning_rate.map(|rate| format!("learning rate {}", setting(rate))));
        parts.extend(optimizer.weight_decay.map(|decay| format!("weight decay {}", setting(decay))));
        parts.extend(optimizer.max_grad_norm.map(|norm| format!("clipped at {}", setting(norm))));
        let ratio = optimizer.lora_plus_ratio.filter(|ratio| *ratio != 1.0);
        parts.extend(ratio.map(|ratio| format!("LoRA+ ratio {}", setting(ratio))));
        if optimizer.moments() == v1::MomentFormat::Block8 {
            parts.push("8-bit moments".to_owned());
        }
    }
    if let Some(schedule) = &sft.schedule {
        if schedule.r#type() != v1::ScheduleType::Unspecified {
            let name = schedule.r#type().as_str_name();
            parts.push(name.trim_start_matches("SCHEDULE_TYPE_").to_lowercase().replace('_', " "));
        }
        parts.extend(schedule.warmup.map(|warmup| match warmup {
            Warmup::WarmupSteps(steps) => format!("warmup {} steps", count(steps)),
            Warmup::WarmupRatio(share) => format!("warmup {}", percent(share)),
        }));
    }
    parts.join(", ")
}

/// The last word of an enum value's name: OVER_LENGTH_DROP as `drop`.
fn word(name: &str) -> String {
    name.rsplit('_').next().unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::spec_file::{Format, parse};

    fn job_spec(text: &str, source: &str) -> Result<v1::JobSpec, Failure> {
        parse(text, Format::Json, source)
    }

    #[test]
    fn a_dpo_spec_says_its_losses_and_what_it_is_compared_with() {
        let spec = job_spec(
            r#"{"base_model": {"uri": "m"}, "dpo": {"data": {"train": ["d"]}, "epochs": 2, "beta": 0.1,
                "losses": [{"type": "PREFERENCE_LOSS_TYPE_SIGMOID", "weight": 1}, {"type": "PREFERENCE_LOSS_TYPE_SFT", "weight": 0.5}],
                "reference": {"initial": {}}}}"#,
            "test",
        );
        let lines = of(&spec.expect("a spec"));
        let task = &lines.iter().find(|(heading, _)| *heading == "task").expect("a task").1;
        assert_eq!(task, "dpo, loss sigmoid + 0.5 x sft, beta 0.1, against the initial policy, 2 epochs");
    }

    #[test]
    fn an_effective_spec_is_told_in_six_lines() {
        let spec = job_spec(
            r#"{
                "labels": {"team": "nlp", "a": "b"}, "base_model": {"uri": "model-1"},
                "sft": {
                    "data": {"train": ["ds-1", "ds-2"], "eval_fraction": 0.1, "max_length": 1024, "over_length": "OVER_LENGTH_DROP"},
                    "adapter": {"lora": {"rank": 16, "alpha": 32, "dropout": 0, "target_modules": ["all-linear"]}},
                    "optimizer": {"learning_rate": 0.0002, "weight_decay": 0, "max_grad_norm": 1},
                    "schedule": {"type": "SCHEDULE_TYPE_COSINE", "warmup_ratio": 0.03},
                    "batch": {"examples_per_step": 16}, "epochs": 2, "seed": "42",
                    "precision": "PRECISION_BFLOAT16", "loss_on": "LOSS_ON_COMPLETION"
                }
            }"#,
            "test",
        );
        let expected = [
            ("model", "model-1"),
            ("train", "ds-1, ds-2"),
            ("held out", "10.0% of the training rows"),
            (
                "task",
                "sft, 2 epochs, 16 examples a step, rows up to 1,024 tokens (drop), loss on completion, bfloat16, seed 42",
            ),
            ("adapter", "LoRA rank 16, alpha 32, dropout 0, all-linear"),
            ("optimizer", "AdamW, learning rate 2e-4, weight decay 0, clipped at 1, cosine, warmup 3.0%"),
            ("labels", "a=b, team=nlp"),
        ];
        let told = of(&spec.expect("a spec"));
        assert_eq!(told, expected.map(|(heading, text)| (heading, text.to_owned())));
    }

    #[test]
    fn another_optimizer_and_schedule_are_named() {
        let spec = job_spec(
            r#"{"base_model": {"uri": "m"}, "sft": {
                "optimizer": {"type": "OPTIMIZER_TYPE_LION", "lora_plus_ratio": 16, "moments": "MOMENT_FORMAT_BLOCK8"},
                "schedule": {"type": "SCHEDULE_TYPE_WARMUP_STABLE_DECAY", "warmup_steps": 5}
            }}"#,
            "test",
        );
        let told = of(&spec.expect("a spec"));
        let expected = "Lion, LoRA+ ratio 16, 8-bit moments, warmup stable decay, warmup 5 steps";
        assert_eq!(told.last(), Some(&("optimizer", expected.to_owned())));
    }

    #[test]
    fn an_export_says_what_becomes_of_what() {
        let spec = job_spec(
            r#"{"base_model": {"uri": "m"}, "export": {"checkpoint": "s3://b/step-000010",
                "format": "EXPORT_FORMAT_GGUF", "weight_type": "WEIGHT_TYPE_FLOAT16"}}"#,
            "test",
        );
        let expected = [("model", "m"), ("trained", "s3://b/step-000010"), ("task", "export as a GGUF file, float16")];
        assert_eq!(of(&spec.expect("a spec")), expected.map(|(heading, text)| (heading, text.to_owned())));
    }

    #[test]
    fn what_a_bare_spec_leaves_out_is_left_out() {
        let spec = job_spec(r#"{"base_model": {"uri": "m"}, "sft": {"data": {"train": ["d"]}}}"#, "test");
        let told = of(&spec.expect("a spec"));
        assert_eq!(
            told.iter().map(|(heading, _)| *heading).collect::<Vec<_>>(),
            ["model", "train", "task", "optimizer"]
        );
    }
}
