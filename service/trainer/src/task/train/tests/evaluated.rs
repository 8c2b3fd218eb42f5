//! What hangs on evaluations: their share of the time, a plateau's rate, an early end.

use hone_job::insight::HardExamples;
use hone_job::spec::AnswerHardExamples;

use super::*;

#[test]
fn a_plateau_lowers_the_rate_after_its_warmup_however_long_evaluations_take() {
    let case = Case::new("llama", |training| {
        training.length = Length::MaxSteps(8);
        training.data.eval_fraction = 0.1;
        training.evaluation =
            spec::Evaluation { every_steps: Some(1), max_time_fraction: 0.0, ..spec::Evaluation::default() };
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

#[test]
fn evaluations_keep_to_their_share_of_the_time_but_for_the_first_and_the_last() {
    let case = Case::new("llama", |training| {
        training.data.eval_fraction = 0.2;
        training.evaluation =
            spec::Evaluation { every_steps: Some(1), max_time_fraction: 0.0, ..spec::Evaluation::default() };
    });
    let (_, events) = case.run(None);
    assert_eq!(evaluations(&events).iter().map(|one| one.step).collect::<Vec<_>>(), [0, 6]);
}

#[test]
fn early_stopping_ends_a_run_that_gets_no_better_and_keeps_the_best() {
    let watched = |patience: u32, threshold: f64| {
        Case::new("llama", move |training| {
            training.length = Length::MaxSteps(200);
            training.data.eval_fraction = 0.2;
            // It learns at first, and then only by heart.
            training.optimizer.learning_rate = 0.03;
            training.schedule =
                spec::Schedule { kind: ScheduleKind::Constant, warmup: Warmup::Steps(0), min_learning_rate_ratio: 0.0 };
            training.checkpoints = spec::Checkpoints { every_steps: 0, every_minutes: 0.0, keep_last: 1 };
            training.evaluation = spec::Evaluation {
                every_steps: Some(2),
                // Evaluations that decide are not put off.
                max_time_fraction: 0.0,
                early_stopping: Some(spec::EarlyStopping { patience, threshold, ..Default::default() }),
                ..spec::Evaluation::default()
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
    let answered: Vec<_> = shown(&events).iter().map(|one| (one.step, is_answered(one))).collect();
    assert_eq!(
        answered,
        [(0, false), (2, false), (4, false), (6, true)],
        "the last evaluation, though not the last step"
    );

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

fn shown(events: &[Event]) -> Vec<HardExamples> {
    let found = events.iter().filter_map(|event| match event {
        Event::HardExamples(found) => Some(found.clone()),
        _ => None,
    });
    found.collect()
}

fn is_answered(one: &HardExamples) -> bool {
    one.examples.iter().any(|example| !example.answer.is_empty())
}

/// The rows shown are the hardest, with their least likely tokens; what was found before stands beside it, and answers come
/// at the end.
#[test]
fn every_evaluation_shows_the_rows_that_the_model_finds_hardest() {
    let case = |count: u32| {
        Case::new("llama", |training| {
            training.data.eval_fraction = 0.2;
            training.evaluation.every_steps = Some(3);
            training.evaluation.max_time_fraction = 1.0;
            training.evaluation.hard_examples = count;
        })
    };
    let (_, events) = case(50).run(None);
    let found = shown(&events);
    assert_eq!(found.iter().map(|one| one.step).collect::<Vec<_>>(), [0, 3, 6]);
    for (number, (one, evaluation)) in found.iter().zip(evaluations(&events)).enumerate() {
        assert_eq!(one.examples.len() as u64, evaluation.examples, "there are less than fifty rows");
        let losses: Vec<f64> = one.examples.iter().map(|example| example.loss.unwrap()).collect();
        assert!(losses.is_sorted_by(|one, other| one >= other), "{losses:?}");
        for example in &one.examples {
            let surprises: Vec<f64> = example.surprises.iter().map(|one| one.nll).collect();
            assert!(surprises.is_sorted_by(|one, other| one >= other) && surprises[0] + 1e-4 >= example.loss.unwrap());
            assert!(example.surprises.iter().all(|one| one.nll < 0.7 || one.expected != one.preferred));
            assert!(!example.prompt.is_empty() && !example.expected.is_empty() && example.rejected.is_none());
            assert_eq!(example.before.is_some(), number > 0);
        }
    }
    let loss_of = |one: &HardExamples, row: u64| {
        one.examples.iter().find(|example| example.row == row).and_then(|example| example.loss)
    };
    for example in &found[2].examples {
        assert_eq!(example.before, loss_of(&found[1], example.row));
    }
    assert_eq!(found.iter().map(is_answered).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(shown(&case(0).run(None).1), []);
}

#[test]
fn the_hardest_rows_are_answered_when_it_is_asked_for_and_by_a_resumed_run_alike() {
    let case = |when: AnswerHardExamples| {
        Case::new("llama", |training| {
            training.data.eval_fraction = 0.2;
            training.evaluation.every_steps = Some(3);
            training.evaluation.max_time_fraction = 1.0;
            training.evaluation.answer_hard_examples = when;
        })
    };
    let answers = |events: &[Event]| {
        let texts = |one: HardExamples| one.examples.into_iter().map(|example| example.answer).collect::<Vec<_>>();
        shown(events).into_iter().map(|one| (one.step, texts(one))).collect::<Vec<_>>()
    };
    let never = case(AnswerHardExamples::Never).run(None).1;
    assert_eq!(shown(&never).iter().map(is_answered).collect::<Vec<_>>(), [false; 3]);
    let every = case(AnswerHardExamples::Every).run(None).1;
    assert_eq!(shown(&every).iter().map(is_answered).collect::<Vec<_>>(), [true; 3]);
    assert_eq!(losses(&every), losses(&never), "answers change nothing");

    let mut cut = case(AnswerHardExamples::Every);
    cut.run(Some((2, Command::Stop)));
    cut.welcome.resume_from = Some(uri(&cut.checkpoint("step-000002")));
    assert_eq!(answers(&cut.run(None).1), answers(&every)[1..]);
}

fn told<T>(events: &[Event], of: impl Fn(&Event) -> Option<&T>) -> Vec<&T> {
    events.iter().filter_map(of).collect()
}

#[test]
fn a_run_tells_how_noisy_its_gradients_are() {
    let case = Case::new("llama", |training| {
        training.length = Length::MaxSteps(40);
        training.optimizer.learning_rate = 3e-3;
        training.batch.examples_per_step = 16;
        training.batch.tokens_per_micro_batch = 128;
    });
    let (_, events) = case.run(None);
    let noise = told(&events, |event| if let Event::GradientNoise(found) = event { Some(found) } else { None });
    let first = noise.first().expect("it is clear after some steps");
    assert!(first.step >= 16 && first.examples_per_step == 16 && !first.advice.is_empty(), "{first:?}");
    let scale = first.noise_scale.unwrap();
    assert!(scale > 1.0 && first.standard_error <= 0.25 * scale, "{first:?}");
    assert!((first.signal_share.unwrap() - 16.0 / (16.0 + scale)).abs() < 1e-12, "{first:?}");
}

/// Few rows and a high rate: they are soon learnt by heart. The losses are the same however often the held-out rows are looked
/// at.
#[test]
fn a_run_that_learns_by_heart_says_where_it_turned() {
    let case = |num_evaluations: u64| {
        Case::new("llama", |training| {
            training.length = Length::MaxSteps(60);
            training.data.eval_fraction = 0.7;
            training.optimizer.learning_rate = 1e-2;
            training.evaluation.every_steps = Some(60 / num_evaluations);
            training.evaluation.max_time_fraction = 1.0;
        })
    };
    let (_, events) = case(12).run(None);
    let turns = told(&events, |event| if let Event::Overfitting(found) = event { Some(found) } else { None });
    let losses: Vec<_> = evaluations(&events).iter().map(|one| (one.step, one.loss.unwrap())).collect();
    let [turn] = turns[..] else { panic!("one turn: {turns:?} {losses:?}") };
    assert!(losses.iter().any(|(step, _)| *step == turn.turned_at_step) && turn.turned_at_step < turn.step);
    assert!(turn.held_out_change > 2.0 * turn.standard_error && turn.training_loss_now < turn.training_loss_then);
    let curve = |events: &[Event]| steps(events).iter().map(|step| step.loss).collect::<Vec<_>>();
    assert_eq!(curve(&case(1).run(None).1), curve(&events));
}
