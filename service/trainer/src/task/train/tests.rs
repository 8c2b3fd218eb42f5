//! Whole runs: beside TRL, cut and resumed, stopped, starved of good numbers.

use std::path::PathBuf;

use hone_job::event::{Evaluation, PreferenceMetrics};
use hone_job::spec::{
    self, Length, LossOn, MomentFormat, Order, Plateau, Precision, ScheduleKind, SftTask, UpdateRule, Warmup,
};
use serde_json::Value;
use tch::{Device, Kind};

use super::*;
use crate::peft;
use crate::task::testing::{Case, Recorder, fixtures, uri};

mod dpo;
mod evaluated;
mod full;
mod resumed;
mod told;

impl Case {
    fn new(model: &str, change: impl FnOnce(&mut Training)) -> Case {
        let mut training = Training::on(vec![uri(&fixtures().join("sft/rows.jsonl"))]);
        training.batch.examples_per_step = 8;
        training.length = Length::MaxSteps(6);
        training.optimizer.learning_rate = 3e-3;
        training.adapter = spec::Adapter::Lora(spec::Lora { rank: 4, alpha: 8.0, ..spec::Lora::default() });
        change(&mut training);
        Case::of(model, spec::Task::Sft(SftTask::new(training, LossOn::Completion)))
    }

    fn run(&self, command: Option<(u64, Command)>) -> (End, Vec<Event>) {
        let (end, events) = self.try_run(command);
        (end.unwrap(), events)
    }

    fn try_run(&self, command: Option<(u64, Command)>) -> (Result<End, Error>, Vec<Event>) {
        let observer = Arc::new(Recorder::new(command));
        let compute = Compute { device: Device::Cpu, kind: Kind::Float };
        let end = train(&self.welcome, &self.workspace(), compute, observer.clone());
        (end, observer.events())
    }

    fn weights(&self, id: &str) -> Vec<u8> {
        std::fs::read(self.checkpoint(id).join(peft::WEIGHTS)).unwrap()
    }
}

fn steps(events: &[Event]) -> Vec<TrainStep> {
    let steps =
        events.iter().filter_map(|event| if let Event::TrainStep(step) = event { Some(step.clone()) } else { None });
    steps.collect()
}

fn evaluations(events: &[Event]) -> Vec<Evaluation> {
    let all =
        events.iter().filter_map(|event| if let Event::Evaluation(one) = event { Some(one.clone()) } else { None });
    all.collect()
}

fn losses(events: &[Event]) -> Vec<f64> {
    steps(events).iter().map(|step| step.loss.unwrap()).collect()
}

fn outcome(events: &[Event]) -> Outcome {
    let outcome =
        events.iter().find_map(|event| if let Event::Result(outcome) = event { Some(outcome.clone()) } else { None });
    outcome.expect("a run that succeeded tells its result")
}

/// A run of TRL over the same rows from the same adapter: loss, gradient norm and rate of every step, and the weights it
/// ends with.
#[test]
fn follows_trl_step_by_step_from_the_same_adapter() {
    for name in ["llama_all_linear", "qwen2_rslora"] {
        let theirs: Value =
            serde_json::from_slice(&std::fs::read(fixtures().join(format!("sft/{name}.json"))).unwrap()).unwrap();
        let settings = &theirs["settings"];
        let number = |key: &str| settings[key].as_f64().unwrap();
        let case = Case::new(theirs["model"].as_str().unwrap(), |training| {
            training.init_from = Some(uri(&fixtures().join("adapters").join(name)));
            training.order = Order::Sequential;
            training.data.max_length = number("max_length") as u32;
            training.length = Length::MaxSteps(number("max_steps") as u64);
            training.schedule = spec::Schedule {
                kind: ScheduleKind::Cosine,
                warmup: Warmup::Steps(number("warmup_steps") as u64),
                min_learning_rate_ratio: 0.0,
            };
            training.optimizer = spec::Optimizer {
                learning_rate: number("learning_rate"),
                weight_decay: number("weight_decay"),
                ..spec::Optimizer::default()
            };
            training.adapter = spec::Adapter::Lora(spec::Lora {
                rank: 4,
                alpha: 8.0,
                use_rslora: name.contains("rslora"),
                ..spec::Lora::default()
            });
            // As many tokens as make several micro-batches of a step.
            training.batch.tokens_per_micro_batch = 150;
        });
        let (end, events) = case.run(None);
        assert_eq!(end, End::Succeeded);
        let ours = steps(&events);
        assert!(ours.iter().any(|step| step.micro_batches > 1));
        assert_eq!(ours.len(), theirs["steps"].as_array().unwrap().len());
        for (ours, theirs) in ours.iter().zip(theirs["steps"].as_array().unwrap()) {
            let step = ours.step;
            let close = |ours: f64, key: &str, tolerance: f64| {
                let theirs = theirs[key].as_f64().unwrap();
                assert!((ours - theirs).abs() <= tolerance, "{name} step {step}: {key} {ours} against {theirs}");
            };
            close(ours.loss.unwrap(), "loss", 1e-3);
            close(ours.grad_norm.unwrap(), "grad_norm", 5e-3);
            close(ours.learning_rate, "learning_rate", 1e-9);
        }
        let read = |bytes: &[u8]| crate::tensors::read(&safetensors::SafeTensors::deserialize(bytes).unwrap()).unwrap();
        let ours = read(&case.weights("step-000012"));
        let theirs = read(&std::fs::read(fixtures().join(format!("sft/{name}.safetensors"))).unwrap());
        assert_eq!(ours.len(), theirs.len());
        for (name, theirs) in &theirs {
            let ours = &ours.iter().find(|(other, _)| other == name).unwrap().1;
            let error: f64 = (ours - theirs).abs().max().double_value(&[]);
            assert!(error < 2e-3, "{name} is off by {error}");
        }
    }
}

#[test]
fn a_run_learns_reports_and_saves() {
    let case = Case::new("qwen3", |training| {
        training.data.eval_fraction = 0.2;
        training.evaluation =
            spec::Evaluation { every_steps: Some(2), max_time_fraction: 1.0, ..spec::Evaluation::default() };
        training.optimizer.learning_rate = 2e-2;
    });
    let (end, events) = case.run(None);
    assert_eq!(end, End::Succeeded);
    let steps = steps(&events);
    assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(steps.iter().all(|step| step.examples == 8 && !step.skipped && step.tokens > step.trained_tokens));
    let evaluations = evaluations(&events);
    assert_eq!(evaluations.iter().map(|one| one.step).collect::<Vec<_>>(), [0, 2, 4, 6]);
    assert!(evaluations[3].loss.unwrap() < evaluations[0].loss.unwrap() - 0.1, "{evaluations:?}");
    let outcome = outcome(&events);
    assert_eq!(outcome.steps, 6);
    assert_eq!(outcome.eval_loss_before, evaluations[0].loss);
    assert_eq!(outcome.eval_loss_after, evaluations[3].loss);
    assert_eq!(outcome.tokens, steps.iter().map(|step| step.tokens).sum::<u64>());
    assert_eq!(outcome.final_checkpoint_id, "step-000006");
    // The checkpoint is announced before the result, verifies, and scores as the run said.
    let saved = events.iter().position(|event| matches!(event, Event::CheckpointSaved(saved) if saved.step == 6));
    let result = events.iter().position(|event| matches!(event, Event::Result(_)));
    assert!(saved.unwrap() < result.unwrap());
    let model = Decoder::load(&fixtures().join("models/qwen3"), Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap();
    let adapter = peft::load(&case.checkpoint("step-000006"), &model, 0.0).unwrap();
    assert_eq!(adapter.options().rank, 4);
    assert!(case.checkpoint("step-000006").join("tokenizer.json").is_file());
}

#[test]
fn the_cut_into_micro_batches_does_not_change_the_result() {
    let run = |tokens_per_micro_batch| {
        let case = Case::new("llama", |training| training.batch.tokens_per_micro_batch = tokens_per_micro_batch);
        let (_, events) = case.run(None);
        (losses(&events), steps(&events)[0].micro_batches)
    };
    let (whole, one) = run(4096);
    let (cut, many) = run(16);
    assert_eq!((one, many), (1, 8));
    for (whole, cut) in whole.iter().zip(&cut) {
        assert!((whole - cut).abs() < 1e-4, "{whole} against {cut}");
    }
}

/// An adapter of PiSSA that PEFT saved without converting it belongs to another base; it is converted at the first save.
#[test]
fn a_run_starts_from_adapters_with_every_feature_and_learns() {
    for (model, adapter) in
        [("mistral", "mistral_pissa"), ("qwen2", "qwen2_dora"), ("llama_rope_llama3", "llama3_saved")]
    {
        let case = Case::new(model, |training| {
            training.init_from = Some(uri(&fixtures().join("adapters").join(adapter)));
            training.data.eval_fraction = 0.2;
            training.schedule.warmup = Warmup::Steps(0);
        });
        let (_, events) = case.run(None);
        let losses: Vec<f64> = evaluations(&events).iter().map(|one| one.loss.unwrap()).collect();
        assert!(losses[losses.len() - 1] < losses[0] - 0.05, "{adapter}: {losses:?}");
        let code = |event: &Event| if let Event::Warning(one) = event { Some(one.code.clone()) } else { None };
        let codes: Vec<String> = events.iter().filter_map(code).collect();
        let warns = |code: &str| codes.iter().any(|other| other == code);
        assert_eq!(warns("adapter_shape_from_init"), adapter != "mistral_pissa", "{adapter}: {codes:?}");
        assert_eq!(warns("adapter_not_for_vllm"), adapter != "mistral_pissa", "{adapter}: {codes:?}");
        let model =
            Decoder::load(&fixtures().join("models").join(model), Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap();
        let trained = peft::load(&case.checkpoint("step-000006"), &model, 0.0).unwrap();
        assert_eq!(trained.options().rank, if adapter == "mistral_pissa" { 8 } else { 4 });
    }
}

/// A plateau that finds nothing good enough, so that every evaluation after the first lowers the rate.
fn falling_plateau() -> spec::Schedule {
    let plateau = Plateau { factor: 0.5, patience: 0, threshold: 0.9, cooldown: 0 };
    spec::Schedule { kind: ScheduleKind::Plateau(plateau), warmup: Warmup::Steps(2), min_learning_rate_ratio: 0.2 }
}

fn warnings(events: &[Event]) -> Vec<String> {
    let codes =
        events.iter().filter_map(|event| if let Event::Warning(one) = event { Some(one.code.clone()) } else { None });
    codes.collect()
}

#[test]
fn a_run_with_moments_in_eight_bits_follows_one_in_thirty_two() {
    let run = |moments| {
        let case = Case::new("llama", |training| {
            training.length = Length::MaxSteps(20);
            training.optimizer.moments = moments;
        });
        let losses = losses(&case.run(None).1);
        let state = std::fs::metadata(case.checkpoint("step-000020").join(resume::OPTIMIZER)).unwrap().len();
        (losses, state)
    };
    let ((exact, whole), (near, fewer)) = (run(MomentFormat::Float32), run(MomentFormat::Block8));
    assert!(exact[19] < exact[0] - 0.3, "{exact:?}");
    for (exact, near) in exact.iter().zip(&near) {
        assert!((exact - near).abs() < 0.02, "{exact} against {near}");
    }
    assert_ne!(exact, near);
    // The file's header with a name for each tensor is the rest.
    assert!(fewer * 3 < whole, "{fewer} bytes of {whole}");
}

#[test]
fn noise_on_the_embeddings_changes_the_run_and_comes_again_when_it_is_resumed() {
    let case = |alpha: f64| {
        let mut case = Case::new("llama", |_| {});
        let spec::Task::Sft(task) = &mut case.welcome.spec.task else { panic!("an sft task") };
        task.neftune_noise_alpha = alpha;
        case
    };
    let (plain, noisy) = (losses(&case(0.0).run(None).1), case(20.0));
    let (_, events) = noisy.run(None);
    assert!(losses(&events).iter().zip(&plain).all(|(noisy, plain)| noisy != plain && (noisy - plain).abs() < 1.0));
    let mut broken = case(20.0);
    broken.run(Some((3, Command::Stop)));
    broken.welcome.resume_from = Some(uri(&broken.checkpoint("step-000003")));
    broken.run(None);
    assert_eq!(broken.weights("step-000006"), noisy.weights("step-000006"));
}

#[test]
fn cancel_acts_at_a_step_boundary_and_names_the_checkpoint() {
    let case = Case::new("llama", |_| {});
    let (end, events) = case.run(Some((2, Command::Cancel)));
    assert_eq!(end, End::Stopped { checkpoint_id: Some("step-000002".into()) });
    assert_eq!(steps(&events).len(), 2);
    assert!(case.checkpoint("step-000002").join("manifest.json").is_file());
    let (end, events) = Case::new("llama", |_| {}).run(Some((0, Command::Cancel)));
    assert_eq!(end, End::Stopped { checkpoint_id: None });
    assert!(steps(&events).is_empty());
}

#[test]
fn what_need_not_be_kept_is_removed() {
    let case = Case::new("llama", |training| {
        training.checkpoints = spec::Checkpoints { every_steps: 1, every_minutes: 0.0, keep_last: 2 };
    });
    case.run(None);
    let mut left: Vec<_> = std::fs::read_dir(case.folder.path().join("job/checkpoints")).unwrap().collect();
    left.retain(|entry| entry.as_ref().unwrap().path().join("manifest.json").is_file());
    assert_eq!(left.len(), 2);
}

#[test]
fn losses_that_are_not_finite_are_skipped_counted_and_fail_past_the_budget() {
    let case = Case::new("llama", |training| {
        training.optimizer.learning_rate = 1.0;
        training.optimizer.max_grad_norm = 0.0;
        training.schedule =
            spec::Schedule { kind: ScheduleKind::Constant, warmup: Warmup::Steps(0), min_learning_rate_ratio: 0.0 };
        training.length = Length::MaxSteps(40);
        training.init_from = Some(String::new());
    });
    // An adapter so large that the first pass overflows.
    let folder = case.folder.path().join("huge");
    std::fs::create_dir(&folder).unwrap();
    let model = Decoder::load(&fixtures().join("models/llama"), Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap();
    let adapter = peft::load(&fixtures().join("adapters/llama_all_linear"), &model, 0.0).unwrap();
    let _ = adapter.flat().shallow_clone().g_mul_scalar_(1e30);
    for (name, bytes) in peft::files(&adapter, "base") {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let mut case = case;
    case.welcome.spec.task.training_mut().unwrap().init_from = Some(uri(&folder));
    let (end, events) = case.try_run(None);
    let Err(Error::NonFinite { step: 5, skipped: 5, rows }) = end else { panic!("{end:?}") };
    assert!(steps(&events).iter().all(|step| step.skipped && step.loss.is_none()));
    // Each says which rows were in its batch: eight of the one file.
    let skipped = |event: &Event| match event {
        Event::Warning(warning) if warning.code == "update_skipped" => Some(warning.message.clone()),
        _ => None,
    };
    let told: Vec<_> = events.iter().filter_map(skipped).chain([rows]).collect();
    assert_eq!(told.len(), 5);
    for message in told {
        let (_, numbers) = message.split_once("sft/rows.jsonl rows ").unwrap();
        assert_eq!(numbers.split(", ").filter(|number| number.parse::<u64>().is_ok()).count(), 8, "{message}");
    }
}

#[test]
fn bad_input_is_told_by_its_place() {
    let message = |case: Case| case.try_run(None).0.unwrap_err().failure();
    let mut case = Case::new("llama", |_| {});
    case.welcome.spec.base_model = uri(&case.folder.path().join("nowhere"));
    assert!(message(case).message.contains("nowhere"));

    let case = Case::new("llama", |training| training.data.max_length = 2);
    let failure = message(case);
    assert_eq!(failure.reason, hone_job::failure::Reason::InvalidData);
    assert!(failure.message.contains("96 over_length_dropped"), "{failure}");

    let case = Case::new("llama", |training| {
        training.adapter =
            spec::Adapter::Lora(spec::Lora { target_modules: vec!["nothing".into()], ..spec::Lora::default() });
    });
    let failure = message(case);
    assert!(failure.message.contains("no module matches"), "{failure}");
}

#[test]
fn bfloat16_follows_float32_from_afar() {
    let case = Case::new("llama", |training| training.precision = Precision::Bfloat16);
    let (_, plain) = case.run(None);
    let observer = Arc::new(Recorder::default());
    let workspace = case.workspace();
    train(&case.welcome, &workspace, Compute { device: Device::Cpu, kind: Kind::BFloat16 }, observer.clone()).unwrap();
    let half = observer.events.lock().unwrap().clone();
    for (plain, half) in losses(&plain).iter().zip(losses(&half)) {
        assert!((plain - half).abs() < 0.05, "{plain} against {half}");
    }
}
