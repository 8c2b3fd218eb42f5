//! What runs under fire: specs with all that has a state.

use std::fmt;

use hone_client::v1;

use crate::{fixture_model, repository, sft, uri};

/// A kind of run. Its rate does not depend on its length, which is decided at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// SFT with a constant rate.
    Sft,
    /// DPO with a rate that falls where the held-out loss stands still, and with early stopping that counts and never stops.
    Dpo,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Workload::Sft => "sft",
            Workload::Dpo => "dpo",
        })
    }
}

impl std::str::FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Workload::Sft, Workload::Dpo];
        all.into_iter()
            .find(|workload| workload.to_string() == text)
            .ok_or_else(|| format!("{text:?} is not sft or dpo"))
    }
}

impl Workload {
    /// A run of so many steps: dropout, shuffled epochs, steps of several micro-batches, a checkpoint every five steps.
    pub(super) fn spec(self, steps: u64) -> v1::JobSpec {
        let mut spec = sft(uri(fixture_model("llama")), fixture("sft/rows.jsonl"));
        spec.max_retries = Some(100);
        let batch = Some(v1::BatchSpec {
            examples_per_step: Some(24),
            tokens_per_micro_batch: Some(200),
            ..Default::default()
        });
        let checkpoints = Some(v1::CheckpointSpec { every_steps: Some(5), keep_last: Some(3), ..Default::default() });
        let lora = v1::LoraSpec { rank: Some(4), dropout: Some(0.1), ..Default::default() };
        let adapter = Some(v1::AdapterSpec { kind: Some(v1::adapter_spec::Kind::Lora(lora)) });
        spec.task = Some(match self {
            Workload::Sft => {
                let data = Some(v1::DataSpec { train: vec![fixture("sft/rows.jsonl")], ..Default::default() });
                let schedule = Some(schedule(v1::ScheduleType::Constant));
                let task = v1::SftTask { data, batch, checkpoints, adapter, schedule, ..Default::default() };
                v1::job_spec::Task::Sft(task)
            }
            Workload::Dpo => {
                let train = vec![fixture("dpo/pairs.jsonl")];
                let data = Some(v1::DataSpec { train, eval_fraction: Some(0.25), ..Default::default() });
                let plateau = Some(v1::PlateauSpec { patience: Some(1), ..Default::default() });
                let schedule = Some(v1::ScheduleSpec { plateau, ..schedule(v1::ScheduleType::Plateau) });
                let early_stopping = Some(v1::EarlyStoppingSpec { patience: Some(1000), ..Default::default() });
                let evaluation =
                    Some(v1::EvaluationSpec { every_steps: Some(4), early_stopping, ..Default::default() });
                let task =
                    v1::DpoTask { data, batch, checkpoints, adapter, schedule, evaluation, ..Default::default() };
                v1::job_spec::Task::Dpo(task)
            }
        });
        set_steps(&mut spec, steps);
        spec
    }
}

/// Gives a run another length.
pub(super) fn set_steps(spec: &mut v1::JobSpec, steps: u64) {
    match &mut spec.task {
        Some(v1::job_spec::Task::Sft(task)) => task.length = Some(v1::sft_task::Length::MaxSteps(steps)),
        Some(v1::job_spec::Task::Dpo(task)) => task.length = Some(v1::dpo_task::Length::MaxSteps(steps)),
        other => panic!("no task that trains: {other:?}"),
    }
}

fn schedule(kind: v1::ScheduleType) -> v1::ScheduleSpec {
    let warmup = Some(v1::schedule_spec::Warmup::WarmupSteps(2));
    v1::ScheduleSpec { r#type: kind.into(), warmup, ..Default::default() }
}

fn fixture(path: &str) -> String {
    uri(repository().join("tests/fixtures").join(path))
}
