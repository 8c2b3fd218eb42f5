//! Runs that train all weights: what they learn, what their checkpoints are, what they may start from.

use hone_job::spec::{DpoTask, Preference, Reference};

use super::*;
use crate::pretrained;

fn full(training: &mut Training) {
    training.adapter = spec::Adapter::Full;
    training.optimizer.learning_rate = 2e-3;
}

fn run_in(case: &Case, kind: Kind, command: Option<(u64, Command)>) -> (End, Vec<Event>) {
    let observer = Arc::new(Recorder::new(command));
    let workspace = case.workspace();
    let end = train(&case.welcome, &workspace, Compute { device: Device::Cpu, kind }, observer.clone()).unwrap();
    let events = observer.events.lock().unwrap().clone();
    (end, events)
}

fn file(case: &Case, id: &str, name: &str) -> Vec<u8> {
    std::fs::read(case.checkpoint(id).join(name)).unwrap()
}

#[test]
fn the_checkpoint_is_a_model_that_scores_as_the_run_said() {
    for model in ["llama_tied", "qwen2", "phi3"] {
        let case = Case::new(model, |training| {
            full(training);
            training.data.eval_fraction = 0.2;
            training.schedule.warmup = Warmup::Steps(0);
        });
        let (end, events) = case.run(None);
        assert_eq!(end, End::Succeeded);
        let plan = events.iter().find_map(|event| if let Event::Plan(plan) = event { Some(plan) } else { None });
        let plan = plan.unwrap();
        assert_eq!(plan.trainable_parameters, plan.base_parameters, "{model}");
        let outcome = outcome(&events);
        let (before, after) = (outcome.eval_loss_before.unwrap(), outcome.eval_loss_after.unwrap());
        assert!(after < before - 0.1, "{model}: {before} {after}");
        // As the base model of another run, it begins where this one ended.
        let mut next = Case::new(model, |training| {
            full(training);
            training.data.eval_fraction = 0.2;
        });
        next.welcome.spec.base_model = uri(&case.checkpoint("step-000006"));
        let begins = evaluations(&next.run(None).1)[0].loss.unwrap();
        assert!((begins - after).abs() < 1e-6, "{model}: {begins} {after}");
    }
}

/// Also in bfloat16, where the file of the weights has less of them than the optimizer.
#[test]
fn a_resumed_run_ends_with_the_weights_of_the_unbroken_one_to_the_bit() {
    for (kind, moments) in [(Kind::Float, MomentFormat::Float32), (Kind::BFloat16, MomentFormat::Block8)] {
        let change = |training: &mut Training| {
            full(training);
            training.optimizer.moments = moments;
            training.optimizer.weight_decay = 0.1;
            training.length = Length::MaxSteps(8);
        };
        let whole = Case::new("qwen3", change);
        let (_, expected) = run_in(&whole, kind, None);
        let mut broken = Case::new("qwen3", change);
        let (end, mut events) = run_in(&broken, kind, Some((5, Command::Stop)));
        assert_eq!(end, End::Stopped { checkpoint_id: Some("step-000005".into()) });
        broken.welcome.resume_from = Some(uri(&broken.checkpoint("step-000005")));
        events.extend(run_in(&broken, kind, None).1);
        assert_eq!(losses(&events), losses(&expected), "{kind:?}");
        for name in [pretrained::WEIGHTS, resume::OPTIMIZER] {
            assert_eq!(file(&broken, "step-000008", name), file(&whole, "step-000008", name), "{kind:?} {name}");
        }
    }
}

#[test]
fn a_run_starts_from_a_whole_checkpoint_and_from_no_other() {
    let first = Case::new("llama", full);
    first.run(None);
    let checkpoint = uri(&first.checkpoint("step-000006"));
    let from = |start: String, change: fn(&mut Training)| {
        Case::new("llama", |training| {
            change(training);
            training.data.eval_fraction = 0.2;
            training.init_from = Some(start);
        })
    };
    let (_, events) = from(checkpoint.clone(), full).run(None);
    let mut as_base = from(checkpoint.clone(), full);
    as_base.welcome.spec.base_model = checkpoint.clone();
    as_base.welcome.spec.task.training_mut().unwrap().init_from = None;
    assert_eq!(losses(&events), losses(&as_base.run(None).1));

    let refused = |case: Case, what: &str| {
        let error = case.try_run(None).0.unwrap_err().to_string();
        assert!(error.contains("spec.sft.init_from") && error.contains(what), "{error}");
    };
    let adapter = uri(&fixtures().join("adapters/llama_all_linear"));
    refused(from(adapter, full), "export an adapter first");
    refused(from(checkpoint, |_| {}), "name it as base_model");
    refused(from(uri(&fixtures().join("models/qwen2")), full), "another shape");
}

/// What all weights started from is what they are compared with; the base model is loaded beside them where it is asked for.
#[test]
fn pairs_are_compared_with_the_weights_before_the_first_step() {
    let sft = Case::new("llama", full);
    sft.run(None);
    let checkpoint = uri(&sft.checkpoint("step-000006"));
    let first = |reference: Reference, start: Option<String>, adapter: spec::Adapter| {
        let mut case = Case::new("llama", |training| {
            training.adapter = adapter;
            training.data.train = vec![uri(&fixtures().join("dpo/pairs.jsonl"))];
            training.init_from = start;
            training.length = Length::MaxSteps(2);
            training.schedule.warmup = Warmup::Steps(0);
        });
        let training = case.welcome.spec.task.training().unwrap().clone();
        let preference = Preference { reference, ..Preference::default() };
        case.welcome.spec.task = Task::Dpo(DpoTask { training, preference });
        let steps = steps(&case.run(None).1);
        (steps[0].preference.unwrap(), steps[1].preference.unwrap())
    };
    let same = |(first, second): (PreferenceMetrics, PreferenceMetrics)| {
        assert!(first.margin.abs() < 1e-5 && second.margin.abs() > 1e-5, "{first:?} {second:?}");
    };
    same(first(Reference::Initial, Some(checkpoint.clone()), spec::Adapter::Full));
    same(first(Reference::Initial, None, spec::Adapter::Full));
    same(first(Reference::Checkpoint(checkpoint.clone()), Some(checkpoint.clone()), spec::Adapter::Full));
    let other = |(first, _): (PreferenceMetrics, PreferenceMetrics)| assert!(first.margin.abs() > 1e-5, "{first:?}");
    other(first(Reference::Base, Some(checkpoint.clone()), spec::Adapter::Full));
    other(first(Reference::Checkpoint(checkpoint), None, spec::Adapter::Lora(spec::Lora::default())));
}
