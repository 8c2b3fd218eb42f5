//! Whole runs: beside TRL, cut and resumed, stopped, starved of good numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hone_job::event::{Evaluation, PreferenceMetrics};
use hone_job::spec::{
    self, Length, LossOn, MomentFormat, Order, Plateau, Precision, Resources, ScheduleKind, SftTask, UpdateRule, Warmup,
};
use serde_json::Value;
use tch::{Device, Kind};

use super::*;
use crate::peft;

mod dpo;
mod full;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn uri(path: &Path) -> String {
    format!("file://{}", std::path::absolute(path).unwrap().display())
}

/// Keeps what it is told, and gives a command once a step is reached.
#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<Event>>,
    step: std::sync::atomic::AtomicU64,
    command: Option<(u64, Command)>,
}

impl Observer for Recorder {
    fn report(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    fn running(&self) {}

    fn step(&self, step: u64) {
        self.step.store(step, std::sync::atomic::Ordering::Relaxed);
    }

    fn command(&self) -> Option<Command> {
        let step = self.step.load(std::sync::atomic::Ordering::Relaxed);
        self.command.filter(|(from, _)| step >= *from).map(|(_, command)| command)
    }
}

/// A run in a folder of its own.
struct Case {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    welcome: Welcome,
}

impl Case {
    fn new(model: &str, change: impl FnOnce(&mut Training)) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let mut training = Training::on(vec![uri(&fixtures().join("sft/rows.jsonl"))]);
        training.batch.examples_per_step = 8;
        training.length = Length::MaxSteps(6);
        training.optimizer.learning_rate = 3e-3;
        training.adapter = spec::Adapter::Lora(spec::Lora { rank: 4, alpha: 8.0, ..spec::Lora::default() });
        change(&mut training);
        let spec = JobSpec {
            display_name: String::new(),
            labels: BTreeMap::new(),
            base_model: uri(&fixtures().join("models").join(model)),
            task: spec::Task::Sft(SftTask::new(training, LossOn::Completion)),
            resources: Resources::default(),
            max_retries: JobSpec::DEFAULT_MAX_RETRIES,
        };
        let welcome = Welcome {
            job_id: "job-1".into(),
            attempt: 1,
            spec,
            job_uri: uri(&folder.path().join("job")),
            resume_from: None,
            reference_uri: uri(&folder.path().join("reference")),
        };
        Case { folder, runtime: tokio::runtime::Runtime::new().unwrap(), welcome }
    }

    fn run(&self, command: Option<(u64, Command)>) -> (End, Vec<Event>) {
        let (end, events) = self.try_run(command);
        (end.unwrap(), events)
    }

    fn try_run(&self, command: Option<(u64, Command)>) -> (Result<End, Error>, Vec<Event>) {
        let observer = Arc::new(Recorder { command, ..Recorder::default() });
        let workspace = Workspace::new(self.folder.path().join("cache"), self.runtime.handle().clone());
        let compute = Compute { device: Device::Cpu, kind: Kind::Float };
        let end = train(&self.welcome, &workspace, compute, observer.clone());
        let events = observer.events.lock().unwrap().clone();
        (end, events)
    }

    fn checkpoint(&self, id: &str) -> PathBuf {
        self.folder.path().join("job/checkpoints").join(id)
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
        training.evaluation = spec::Evaluation { every_steps: Some(2), max_time_fraction: 1.0, early_stopping: None };
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

/// Dropout, shuffling over two epochs with a short last step, and a schedule: all of it must go on where it was.
#[test]
fn a_resumed_run_ends_with_the_weights_of_the_unbroken_one_to_the_bit() {
    ends_as_the_unbroken_one(spec::Lora { rank: 4, alpha: 8.0, dropout: 0.2, ..spec::Lora::default() });
}

/// Its checkpoints hold the adapter converted to twice the rank.
#[test]
fn a_resumed_run_of_pissa_goes_on_with_the_rank_it_had() {
    ends_as_the_unbroken_one(spec::Lora { rank: 4, alpha: 8.0, init: spec::LoraInit::Pissa, ..spec::Lora::default() });
}

#[test]
fn a_resumed_run_keeps_lengths_embedding_and_head() {
    ends_as_the_unbroken_one(spec::Lora {
        rank: 4,
        alpha: 8.0,
        dropout: 0.1,
        target_modules: vec!["q_proj".into(), "up_proj".into(), "embed_tokens".into()],
        rank_pattern: vec![spec::RankPattern { pattern: "q_proj".into(), rank: 2 }],
        modules_to_save: vec!["lm_head".into()],
        use_dora: true,
        ..spec::Lora::default()
    });
}

fn ends_as_the_unbroken_one(lora: spec::Lora) {
    let change = |training: &mut Training| {
        training.length = Length::MaxSteps(16);
        training.batch.examples_per_step = 10;
        training.data.eval_fraction = 0.1;
        training.adapter = spec::Adapter::Lora(lora.clone());
    };
    let whole = Case::new("llama", change);
    let (_, expected) = whole.run(None);

    let mut broken = Case::new("llama", change);
    let (end, mut events) = broken.run(Some((11, Command::Stop)));
    assert_eq!(end, End::Stopped { checkpoint_id: Some("step-000011".into()) });
    broken.welcome.attempt = 2;
    broken.welcome.resume_from = Some(uri(&broken.checkpoint("step-000011")));
    let (end, rest) = broken.run(None);
    assert_eq!(end, End::Succeeded);
    events.extend(rest);
    assert_eq!(losses(&events), losses(&expected));
    assert_eq!(broken.weights("step-000016"), whole.weights("step-000016"));
    let moments = |case: &Case| std::fs::read(case.checkpoint("step-000016").join(resume::OPTIMIZER)).unwrap();
    assert_eq!(moments(&broken), moments(&whole));
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

#[test]
fn every_optimizer_and_a_plateau_resume_to_the_bit() {
    for (rule, moments, lora_plus_ratio) in [
        (UpdateRule::adamw(), MomentFormat::Block8, 4.0),
        (UpdateRule::lion(), MomentFormat::Float32, 1.0),
        (UpdateRule::Sgd { momentum: 0.9, nesterov: true }, MomentFormat::Block8, 1.0),
    ] {
        let change = |training: &mut Training| {
            training.length = Length::MaxSteps(12);
            training.data.eval_fraction = 0.1;
            training.evaluation.every_steps = Some(2);
            training.schedule = falling_plateau();
            let optimizer = spec::Optimizer::of(rule);
            training.optimizer = spec::Optimizer { moments, lora_plus_ratio, learning_rate: 1e-3, ..optimizer };
        };
        let whole = Case::new("llama", change);
        let (_, expected) = whole.run(None);

        let mut broken = Case::new("llama", change);
        let (_, mut events) = broken.run(Some((7, Command::Stop)));
        broken.welcome.resume_from = Some(uri(&broken.checkpoint("step-000007")));
        events.extend(broken.run(None).1);
        let rates = |events: &[Event]| steps(events).iter().map(|step| step.learning_rate).collect::<Vec<_>>();
        assert_eq!(rates(&events), rates(&expected));
        assert_eq!(losses(&events), losses(&expected));
        let read = |case: &Case, file: &str| std::fs::read(case.checkpoint("step-000012").join(file)).unwrap();
        assert_eq!(read(&broken, peft::WEIGHTS), read(&whole, peft::WEIGHTS), "{rule:?}");
        assert_eq!(read(&broken, resume::OPTIMIZER), read(&whole, resume::OPTIMIZER), "{rule:?}");
        let plateau = |case: &Case| {
            serde_json::from_slice::<Progress>(&read(case, super::super::progress::TRAINER_STATE)).unwrap().plateau
        };
        assert_eq!(plateau(&broken), plateau(&whole));
    }
}

#[test]
fn another_optimizers_state_is_refused_by_name() {
    let mut case = Case::new("llama", |_| {});
    case.run(Some((2, Command::Stop)));
    case.welcome.resume_from = Some(uri(&case.checkpoint("step-000002")));
    case.welcome.spec.task.training_mut().unwrap().optimizer = spec::Optimizer::of(UpdateRule::lion());
    let failure = case.try_run(None).0.unwrap_err().failure();
    let expected = "holds the state of adamw with float32 moments, this run's optimizer is lion with float32 moments";
    assert!(failure.message.contains(expected), "{failure}");
}

#[test]
fn a_plateau_lowers_the_rate_after_its_warmup_however_long_evaluations_take() {
    let case = Case::new("llama", |training| {
        training.length = Length::MaxSteps(8);
        training.data.eval_fraction = 0.1;
        training.evaluation = spec::Evaluation { every_steps: Some(1), max_time_fraction: 0.0, early_stopping: None };
        training.optimizer.learning_rate = 1e-3;
        training.schedule = falling_plateau();
    });
    let (_, events) = case.run(None);
    assert_eq!(evaluations(&events).len(), 9);
    // Two steps of warmup; the evaluation before the third step is the first that counts.
    let rates = steps(&events).iter().map(|step| step.learning_rate / 1e-3).collect::<Vec<_>>();
    assert_eq!(rates, [0.0, 0.5, 0.5, 0.25, 0.2, 0.2, 0.2, 0.2]);
    assert_eq!(warnings(&events), [""; 0]);
}

#[test]
fn a_plateau_that_cannot_act_is_told_when_the_run_is_planned() {
    let case = |eval_fraction: f64, every_steps: u64| {
        Case::new("llama", |training| {
            training.data.eval_fraction = eval_fraction;
            training.evaluation.every_steps = Some(every_steps);
            let plateau = Plateau { patience: 2, ..Plateau::default() };
            training.schedule.kind = ScheduleKind::Plateau(plateau);
            training.schedule.warmup = Warmup::Steps(0);
        })
    };
    // Six steps: evaluations that count end steps 2 and 4, or 1 to 5.
    let (_, events) = case(0.2, 2).run(None);
    assert_eq!(warnings(&events), ["plateau_cannot_act"]);
    let warned = events.iter().position(|event| matches!(event, Event::Warning(_)));
    let planned = events.iter().position(|event| matches!(event, Event::Plan(_)));
    assert!(warned < planned);
    assert_eq!(warnings(&case(0.2, 1).run(None).1), [""; 0]);

    let failure = case(1e-9, 1).try_run(None).0.unwrap_err().failure();
    assert_eq!(failure.reason, hone_job::failure::Reason::InvalidData);
    assert!(failure.message.starts_with("spec.sft.schedule.type: plateau watches"), "{failure}");
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
fn a_resumed_run_over_mixed_sources_goes_on_where_it_stopped() {
    let change = |training: &mut Training| {
        training.length = Length::MaxSteps(7);
        training.batch.examples_per_step = 40;
        training.data.train.push(training.data.train[0].clone());
        training.data.mix = Some(spec::Mix { weights: vec![1.0, 3.0], until: spec::MixUntil::FirstExhausted });
    };
    let whole = Case::new("llama", change);
    let (_, expected) = whole.run(None);
    // 96 rows of the second source and a third as many of the first: 128, four steps, the last of 8.
    let plan = expected.iter().find_map(|event| if let Event::Plan(plan) = event { Some(plan) } else { None });
    assert_eq!(plan.unwrap().steps_per_epoch, 4);
    let examples: Vec<u64> = steps(&expected).iter().map(|step| step.examples).collect();
    assert_eq!(examples[..5], [40, 40, 40, examples[3], 40]);
    assert!((8..=9).contains(&examples[3]), "{examples:?}");
    let reports =
        expected.iter().find_map(|event| if let Event::DatasetReport(one) = event { Some(one) } else { None });
    let taken: Vec<u64> = reports.unwrap().sources.iter().map(|share| share.examples_per_epoch).collect();
    assert_eq!(taken, [120 + examples[3] - 96, 96]);

    let mut broken = Case::new("llama", change);
    let (_, mut events) = broken.run(Some((5, Command::Stop)));
    broken.welcome.attempt = 2;
    broken.welcome.resume_from = Some(uri(&broken.checkpoint("step-000005")));
    events.extend(broken.run(None).1);
    assert_eq!(losses(&events), losses(&expected));
    assert_eq!(broken.weights("step-000007"), whole.weights("step-000007"));
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
fn evaluations_keep_to_their_share_of_the_time_but_for_the_first_and_the_last() {
    let case = Case::new("llama", |training| {
        training.data.eval_fraction = 0.2;
        training.evaluation = spec::Evaluation { every_steps: Some(1), max_time_fraction: 0.0, early_stopping: None };
    });
    let (_, events) = case.run(None);
    assert_eq!(evaluations(&events).iter().map(|one| one.step).collect::<Vec<_>>(), [0, 6]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before_it() {
    let change = |training: &mut Training| {
        training.checkpoints = spec::Checkpoints { every_steps: 2, every_minutes: 0.0, keep_last: 0 };
    };
    let whole = Case::new("llama", change);
    whole.run(None);
    let mut broken = Case::new("llama", change);
    broken.run(Some((5, Command::Stop)));
    broken.welcome.resume_from = Some(uri(&broken.checkpoint("step-000005")));
    let resumed = |events: &[Event]| {
        let warnings =
            events.iter().filter(|event| matches!(event, Event::Warning(one) if one.code == "checkpoint_damaged"));
        let step = events.iter().find_map(|event| if let Event::Resumed(one) = event { Some(one.step) } else { None });
        (warnings.count(), step)
    };
    let damage = |id: &str| {
        let path = broken.checkpoint(id).join(peft::WEIGHTS);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    damage("step-000005");
    assert_eq!(resumed(&broken.run(Some((4, Command::Stop))).1), (1, Some(4)));
    // That stop has written step 4 anew; the damaged one has no manifest any more, the next one loses its weights.
    std::fs::remove_file(broken.checkpoint("step-000005").join("manifest.json")).unwrap();
    std::fs::remove_file(broken.checkpoint("step-000004").join(peft::WEIGHTS)).unwrap();
    let (end, events) = broken.run(None);
    assert_eq!((end, resumed(&events)), (End::Succeeded, (2, Some(2))));
    assert_eq!(broken.weights("step-000006"), whole.weights("step-000006"));
    damage("step-000002");
    broken.welcome.resume_from = Some(uri(&broken.checkpoint("step-000002")));
    let error = broken.try_run(None).0.unwrap_err().to_string();
    assert!(error.contains("step-000002") && error.contains("SHA-256"), "{error}");
}

#[test]
fn early_stopping_ends_a_run_that_gets_no_better_and_keeps_the_best() {
    let watched = |patience: u32, threshold: f64| {
        Case::new("llama", move |training| {
            training.length = Length::MaxSteps(40);
            training.data.eval_fraction = 0.2;
            // It learns at first, and then only by heart.
            training.optimizer.learning_rate = 1.0;
            training.schedule =
                spec::Schedule { kind: ScheduleKind::Constant, warmup: Warmup::Steps(0), min_learning_rate_ratio: 0.0 };
            training.checkpoints = spec::Checkpoints { every_steps: 0, every_minutes: 0.0, keep_last: 1 };
            training.evaluation = spec::Evaluation {
                every_steps: Some(2),
                // Evaluations that decide are not put off.
                max_time_fraction: 0.0,
                early_stopping: Some(spec::EarlyStopping { patience, threshold, ..Default::default() }),
            };
        })
    };
    let stopped = |events: &[Event]| {
        let found = events.iter().find_map(|event| if let Event::EarlyStopped(one) = event { Some(one) } else { None });
        found.cloned()
    };
    // Nothing is better by a hundred nats.
    let case = watched(3, 100.0);
    let (end, events) = case.run(None);
    assert_eq!(end, End::Succeeded);
    let verdict = stopped(&events).unwrap();
    assert_eq!((verdict.step, verdict.best_step, verdict.evaluations), (6, 0, 3));
    assert_eq!((steps(&events).len(), outcome(&events).final_checkpoint_id.as_str()), (6, "step-000006"));

    // One that learns first: what it was best at is kept, though only the last one was asked for.
    let case = watched(3, 0.0);
    let (_, events) = case.run(None);
    let verdict = stopped(&events).unwrap();
    assert!(verdict.best_step > 0 && verdict.step == verdict.best_step + 6, "{verdict:?}");
    assert_eq!(outcome(&events).best_checkpoint_id, id_of_step(verdict.best_step));
    assert!(case.checkpoint(&id_of_step(verdict.best_step)).join("manifest.json").is_file());

    // Cut and resumed, it stops where the unbroken one does.
    let mut cut = watched(3, 0.0);
    cut.run(Some((verdict.best_step + 1, Command::Stop)));
    cut.welcome.resume_from = Some(uri(&cut.checkpoint(&id_of_step(verdict.best_step + 1))));
    assert_eq!(stopped(&cut.run(None).1), Some(verdict));
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
    let workspace = Workspace::new(case.folder.path().join("cache"), case.runtime.handle().clone());
    train(&case.welcome, &workspace, Compute { device: Device::Cpu, kind: Kind::BFloat16 }, observer.clone()).unwrap();
    let half = observer.events.lock().unwrap().clone();
    for (plain, half) in losses(&plain).iter().zip(losses(&half)) {
        assert!((plain - half).abs() < 0.05, "{plain} against {half}");
    }
}
