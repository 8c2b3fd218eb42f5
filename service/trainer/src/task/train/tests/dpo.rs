//! Runs on pairs: beside TRL, cut and resumed, against each kind of reference, with what the reference says kept.

use hone_job::spec::{DpoTask, Preference, PreferenceLoss, Reference, WeightedLoss};

use super::*;

const START: &str = "llama_all_linear";

fn case(change: impl FnOnce(&mut Training, &mut Preference)) -> Case {
    let mut case = Case::new("llama", |_| {});
    let training = case.welcome.spec.task.training_mut().unwrap();
    training.data.train = vec![uri(&fixtures().join("dpo/pairs.jsonl"))];
    training.init_from = Some(uri(&fixtures().join("adapters").join(START)));
    let mut preference = Preference { beta: 0.5, ..Preference::default() };
    change(training, &mut preference);
    case.welcome.spec.task = Task::Dpo(DpoTask { training: training.clone(), preference });
    case
}

fn phases(events: &[Event], name: &str) -> Vec<String> {
    let details = events.iter().filter_map(|event| match event {
        Event::Phase(phase) if phase.name == name => Some(phase.detail.clone()),
        _ => None,
    });
    details.collect()
}

fn warnings(events: &[Event]) -> Vec<String> {
    let codes = events.iter().filter_map(|event| match event {
        Event::Warning(warning) => Some(warning.code.clone()),
        _ => None,
    });
    codes.collect()
}

fn stored(case: &Case) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(case.folder.path().join("reference")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn follows_trl_step_by_step_with_every_metric() {
    let theirs: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join(format!("dpo/{START}.json"))).unwrap()).unwrap();
    let settings = &theirs["settings"];
    let number = |key: &str| settings[key].as_f64().unwrap();
    // One micro-batch a step, and several.
    for tokens_per_micro_batch in [2048, 150] {
        let case = case(|training, preference| {
            training.order = Order::Sequential;
            training.data.max_length = number("max_length") as u32;
            training.length = Length::MaxSteps(number("max_steps") as u64);
            training.schedule.kind = ScheduleKind::Cosine;
            training.schedule.warmup = Warmup::Steps(number("warmup_steps") as u64);
            training.optimizer.learning_rate = number("learning_rate");
            training.optimizer.weight_decay = number("weight_decay");
            training.batch.tokens_per_micro_batch = tokens_per_micro_batch;
            preference.beta = number("beta");
        });
        let (end, events) = case.run(None);
        assert_eq!(end, End::Succeeded);
        let ours = steps(&events);
        assert_eq!(ours.iter().any(|step| step.micro_batches > 1), tokens_per_micro_batch < 2048);
        assert_eq!(ours.len(), theirs["steps"].as_array().unwrap().len());
        for (ours, theirs) in ours.iter().zip(theirs["steps"].as_array().unwrap()) {
            let step = ours.step;
            let close = |ours: f64, key: &str, tolerance: f64| {
                let theirs = theirs[key].as_f64().unwrap();
                assert!((ours - theirs).abs() <= tolerance, "step {step}: {key} {ours} against {theirs}");
            };
            let preference = ours.preference.unwrap();
            close(ours.loss.unwrap(), "loss", 1e-3);
            close(ours.grad_norm.unwrap(), "grad_norm", 1e-2);
            close(ours.learning_rate, "learning_rate", 1e-9);
            close(preference.reward_chosen, "rewards/chosen", 5e-3);
            close(preference.reward_rejected, "rewards/rejected", 5e-3);
            close(preference.margin, "rewards/margins", 5e-3);
            close(preference.accuracy, "rewards/accuracies", 1e-9);
            close(preference.logps_chosen, "logps/chosen", 1e-2);
            close(preference.logps_rejected, "logps/rejected", 1e-2);
        }
    }
}

#[test]
fn the_policy_is_compared_with_what_it_was_unless_told_otherwise() {
    let first = |reference: Reference, from_adapter: bool| {
        let case = case(|training, preference| {
            preference.reference = reference;
            training.length = Length::MaxSteps(1);
            if !from_adapter {
                training.init_from = None;
            }
        });
        steps(&case.run(None).1)[0].preference.unwrap()
    };
    let same = |metrics: PreferenceMetrics| assert_eq!((metrics.ties, metrics.margin), (1.0, 0.0));
    same(first(Reference::Initial, true));
    same(first(Reference::Initial, false));
    same(first(Reference::Base, false));
    let start = uri(&fixtures().join("adapters").join(START));
    same(first(Reference::Checkpoint(start.clone()), true));
    for other in [first(Reference::Base, true), first(Reference::Checkpoint(start), false)] {
        assert!(other.ties < 1.0 && other.margin != 0.0, "{other:?}");
    }
}

/// Before the first step policy and reference are one, so without dropout every pair would be a tie.
#[test]
fn dropout_is_for_the_policy_and_not_for_its_reference() {
    let first = |dropout| {
        let case = case(|training, _| {
            training.length = Length::MaxSteps(1);
            training.adapter = spec::Adapter::Lora(spec::Lora { dropout, ..spec::Lora::default() });
        });
        steps(&case.run(None).1)[0].preference.unwrap().ties
    };
    assert_eq!((first(0.0), first(0.5)), (1.0, 0.0));
}

#[test]
fn what_the_reference_says_is_computed_once_for_all_runs_on_the_same_rows() {
    let case = case(|training, _| training.data.eval_fraction = 0.2);
    let (_, first) = case.run(None);
    assert_eq!(stored(&case).len(), 2, "one file for each split");
    let computed = phases(&first, "scoring_reference");
    assert!(computed.iter().all(|detail| !detail.contains("read from")), "{computed:?}");
    let (_, second) = case.run(None);
    let read = phases(&second, "scoring_reference");
    assert!(read.len() == 2 && read.iter().all(|detail| detail.contains("read from")), "{read:?}");
    assert_eq!(losses(&first), losses(&second));

    let damaged = &stored(&case)[0];
    let mut bytes = std::fs::read(damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 0xff;
    std::fs::write(damaged, &bytes).unwrap();
    let (_, third) = case.run(None);
    assert_eq!(warnings(&third), ["reference_damaged"]);
    assert_eq!(losses(&first), losses(&third));
    assert_ne!(std::fs::read(damaged).unwrap(), bytes, "it is put right");
}

#[test]
fn a_run_that_was_cut_goes_on_as_if_it_had_not_been() {
    let change = |training: &mut Training, _: &mut Preference| {
        training.adapter = spec::Adapter::Lora(spec::Lora { dropout: 0.1, ..spec::Lora::default() });
        training.data.eval_fraction = 0.1;
        training.batch.tokens_per_micro_batch = 200;
        training.length = Length::MaxSteps(14);
    };
    let whole = case(change);
    let (_, events) = whole.run(None);
    let mut cut = case(change);
    let (end, before) = cut.run(Some((5, Command::Stop)));
    assert_eq!(end, End::Stopped { checkpoint_id: Some("step-000005".into()) });
    cut.welcome.resume_from = Some(uri(&cut.checkpoint("step-000005")));
    let (end, after) = cut.run(None);
    assert_eq!(end, End::Succeeded);
    assert_eq!([losses(&before), losses(&after)].concat(), losses(&events));
    assert_eq!(cut.weights("step-000014"), whole.weights("step-000014"));
}

#[test]
fn held_out_pairs_are_told_apart_better_after_than_before() {
    let case = case(|training, preference| {
        training.init_from = None;
        training.data.eval_fraction = 0.3;
        training.length = Length::Epochs(4.0);
        preference.losses.push(WeightedLoss { kind: PreferenceLoss::Sft, weight: 0.1 });
    });
    let (_, events) = case.run(None);
    let outcome = outcome(&events);
    let (before, after) = (outcome.preference_before.unwrap(), outcome.preference_after.unwrap());
    assert_eq!((before.accuracy, before.ties, before.margin), (0.0, 1.0, 0.0));
    assert!(after.accuracy > 0.5 && after.margin > 0.0 && after.ties < 0.1, "{after:?}");
    assert!(after.accuracy_standard_error > 0.0 && after.margin_standard_error > 0.0);
    assert!(outcome.eval_loss_after.unwrap() < outcome.eval_loss_before.unwrap());
    let last = evaluations(&events).pop().unwrap();
    assert_eq!(last.perplexity, None);
    let in_buckets: u64 = last.buckets.iter().map(|bucket| bucket.preference.unwrap().pairs).sum();
    assert_eq!(in_buckets, after.pairs);
    let margin: f64 = last.buckets.iter().map(|b| b.preference.unwrap().margin * b.examples as f64).sum();
    assert!((margin / after.pairs as f64 - after.margin).abs() < 1e-9);
}

#[test]
fn losses_without_a_reference_ask_none() {
    for kind in [PreferenceLoss::Orpo, PreferenceLoss::Simpo] {
        let case = case(|training, preference| {
            training.init_from = None;
            training.optimizer.learning_rate = 1e-2;
            training.length = Length::Epochs(2.0);
            *preference = Preference::with(vec![WeightedLoss { kind, weight: 1.0 }]);
        });
        let (end, events) = case.run(None);
        assert_eq!(end, End::Succeeded);
        assert!(phases(&events, "scoring_reference").is_empty() && stored(&case).is_empty());
        let losses = losses(&events);
        assert!(losses.last() < losses.first(), "{kind:?}: {losses:?}");
    }
}

#[test]
fn rows_for_another_task_are_refused_by_name() {
    let case = case(|training, _| training.data.train = vec![uri(&fixtures().join("sft/rows.jsonl"))]);
    let error = case.try_run(None).0.unwrap_err().to_string();
    assert!(error.contains("it is prompt and completion; dpo needs pairs"), "{error}");
}
