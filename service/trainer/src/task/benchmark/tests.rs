//! A whole job on a small model.

use hone_job::spec::{ActivationCheckpointing, AttentionKernel, DpoTask, LossOn, Preference, SftTask};

use super::*;
use crate::link::Command;
use crate::task::testing::{Case, Recorder, fixtures, uri};

fn training(rows: &str) -> Training {
    let mut training = Training::on(vec![uri(&fixtures().join(rows))]);
    training.batch.examples_per_step = 4;
    training.batch.tokens_per_micro_batch = 256;
    training
}

fn run(task: BenchmarkTask, command: Option<Command>) -> (Case, End, Vec<Event>) {
    let case = Case::of("llama", Task::Benchmark(task.clone()));
    let observer = Arc::new(Recorder::new(command.map(|command| (0, command))));
    let end = benchmark(&case.welcome, &task, &case.workspace(), observer.clone()).unwrap();
    (case, end, observer.events())
}

fn report(events: &[Event]) -> Option<BenchmarkReport> {
    events.iter().find_map(|event| if let Event::Benchmark(report) = event { Some(report.clone()) } else { None })
}

#[test]
fn every_setting_takes_the_same_steps_and_one_is_recommended() {
    let mut task = BenchmarkTask::of(Task::Sft(SftTask::new(training("sft/rows.jsonl"), LossOn::Completion)));
    task.steps = 2;
    let (case, end, events) = run(task, None);
    assert_eq!(end, End::Succeeded);
    let report = report(&events).unwrap();
    for run in &report.runs {
        assert_eq!((run.failure.as_str(), run.step_seconds.len()), ("", 2), "{run:?}");
        assert!(run.tokens_per_second > 0.0 && run.peak_memory_bytes.is_some_and(|bytes| bytes > 0), "{run:?}");
    }
    let runs_with = |is: fn(&BenchmarkSettings) -> bool| report.runs.iter().filter(|run| is(&run.settings)).count();
    assert!(runs_with(|settings| settings.precision == Precision::Bfloat16) >= 3);
    assert!(runs_with(|settings| settings.precision == Precision::Float32) >= 3);
    assert!(runs_with(|settings| settings.activation_checkpointing == ActivationCheckpointing::On) >= 2);
    let math: Vec<_> = report.runs.iter().filter(|run| run.settings.attention == AttentionKernel::Math).collect();
    assert!(math.len() >= 2 && math.iter().all(|run| run.attention_kernel == "math"), "{math:?}");
    assert!(report.runs.iter().any(|run| run.settings == report.recommended.unwrap()));

    let text = case.opened("step-000000").file(REPORT).unwrap().to_vec();
    assert_eq!(serde_json::from_slice::<BenchmarkReport>(&text).unwrap(), report);
}

#[test]
fn pairs_are_measured_without_asking_the_reference() {
    let preference = Preference::default();
    let task = DpoTask { training: training("dpo/pairs.jsonl"), preference };
    let mut task = BenchmarkTask::of(Task::Dpo(task));
    (task.steps, task.precisions, task.tokens_per_micro_batch) = (1, vec![Precision::Float32], vec![64]);
    let (_, end, events) = run(task, None);
    assert_eq!(end, End::Succeeded);
    let report = report(&events).unwrap();
    assert!(report.runs.len() >= 4 && report.runs.iter().all(|run| run.failure.is_empty()), "{report:?}");
}

#[test]
fn a_kernel_that_the_device_lacks_is_told_and_the_others_go_on() {
    let mut task = BenchmarkTask::of(Task::Sft(SftTask::new(training("sft/rows.jsonl"), LossOn::Completion)));
    (task.steps, task.precisions, task.tokens_per_micro_batch) = (1, vec![Precision::Float32], vec![256]);
    task.activation_checkpointing = vec![ActivationCheckpointing::Auto];
    task.attention = vec![AttentionKernel::Efficient, AttentionKernel::Flash];
    let (_, end, events) = run(task, None);
    assert_eq!(end, End::Succeeded);
    let report = report(&events).unwrap();
    let lacks = |run: &BenchmarkRun| run.failure.contains("no such kernel");
    let (lacking, others): (Vec<_>, Vec<_>) = report.runs.iter().partition(|run| lacks(run));
    assert!(lacking.iter().all(|run| run.settings.attention == AttentionKernel::Efficient) && lacking.len() == 1);
    assert!(others.len() >= 2 && others.iter().all(|run| run.failure.is_empty()), "{others:?}");
}

#[test]
fn a_benchmark_that_is_told_to_stop_leaves_nothing() {
    let task = BenchmarkTask::of(Task::Sft(SftTask::new(training("sft/rows.jsonl"), LossOn::Completion)));
    let (_, end, events) = run(task, Some(Command::Cancel));
    assert_eq!((end, report(&events)), (End::Stopped { checkpoint_id: None }, None));
}
