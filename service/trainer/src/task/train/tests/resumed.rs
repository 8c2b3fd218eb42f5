//! Runs that were cut and go on: the same steps, weights and state as the unbroken one's.

use super::*;

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
            serde_json::from_slice::<Progress>(&read(case, crate::task::progress::TRAINER_STATE)).unwrap().plateau
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
