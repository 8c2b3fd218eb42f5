//! Events as people read them, one check each.

use super::*;
use crate::human::Timestamp;

/// 16:08:03 UTC.
const NOW: i64 = 1_764_000_483;

fn narrator() -> Narrator {
    Narrator::new(Paint::plain(), FixedOffset::east_opt(0).expect("UTC"), 0)
}

fn at(seconds: f64, event: Event) -> v1::JobEvent {
    let time = Timestamp { seconds: NOW + seconds.floor() as i64, nanos: (seconds.fract() * 1e9) as i32 };
    v1::JobEvent { sequence: 17, time: Some(time), attempt: 1, event: Some(event), ..Default::default() }
}

fn check(event: Event, expected: &str) {
    assert_eq!(narrator().plain(&at(0.0, event)).as_deref(), Some(expected));
}

fn plan(total_steps: u64) -> Event {
    Event::Plan(v1::Plan {
        total_steps,
        steps_per_epoch: 35,
        warmup_steps: 3,
        eval_every_steps: 7,
        trainable_parameters: 4_884_480,
        base_parameters: 134_515_008,
        device: "cpu".into(),
        precision: "float32".into(),
        attention: "flash".into(),
    })
}

fn step(step: u64) -> Event {
    Event::TrainStep(v1::TrainStep {
        step,
        loss: Some(2.345_67),
        grad_norm: Some(1.25),
        learning_rate: 1.5e-4,
        tokens_per_second: 1234.4,
        remaining_seconds: 75.0,
        ..Default::default()
    })
}

#[test]
fn states_are_told_with_their_reason() {
    let change = |from: v1::JobState, to: v1::JobState, detail: &str| {
        Event::StateChanged(v1::StateChanged { from: from.into(), to: to.into(), detail: detail.into() })
    };
    check(change(v1::JobState::Unspecified, v1::JobState::Queued, ""), "16:08:03  QUEUED");
    check(
        change(v1::JobState::Queued, v1::JobState::Preparing, "attempt 1"),
        "16:08:03  QUEUED -> PREPARING: attempt 1",
    );
}

#[test]
fn phases_are_told_in_words() {
    let phase = v1::Phase { name: "loading_model".into(), detail: "SmolLM2".into() };
    check(Event::Phase(phase), "16:08:03  loading model: SmolLM2");
}

#[test]
fn a_plan_says_what_will_be_done_and_with_what() {
    let expected = "\
16:08:03  plan: 70 steps, 35 an epoch, 3 of warmup, evaluated every 7 steps
          4.9 M parameters trained beside 134.5 M (3.63%); cpu, float32, flash attention";
    check(plan(70), expected);
}

#[test]
fn a_step_has_its_place_in_the_plan() {
    let mut narrator = narrator();
    narrator.plain(&at(0.0, plan(70)));
    let expected = "16:08:03  step  7/70  loss 2.3457  lr 1.50e-4  grad 1.250  1,234 tokens/s  1m 15s left";
    assert_eq!(narrator.plain(&at(0.0, step(7))).as_deref(), Some(expected));
}

#[test]
fn a_step_of_an_unknown_plan_has_its_number() {
    let told = narrator().plain(&at(0.0, step(7))).expect("told");
    assert!(told.starts_with("16:08:03  step 7  loss 2.3457"), "{told}");
}

#[test]
fn a_skipped_step_says_so() {
    let Event::TrainStep(step) = step(7) else { panic!("a step") };
    let skipped = v1::TrainStep { loss: None, grad_norm: None, skipped: true, ..step };
    let told = narrator().plain(&at(0.0, Event::TrainStep(skipped))).expect("told");
    assert!(told.contains("loss not finite"), "{told}");
    assert!(told.ends_with("update skipped: not finite"), "{told}");
}

#[test]
fn quick_steps_are_thinned_by_their_own_time_but_the_first_and_the_last_are_told() {
    let mut narrator = narrator();
    narrator.plain(&at(0.0, plan(100)));
    let told = (1..=100).filter(|&number| narrator.plain(&at(number as f64 * 0.3, step(number))).is_some());
    let expected: Vec<_> = (0..25).map(|number| 1 + 4 * number).chain([100]).collect();
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn slow_steps_are_all_told() {
    let mut narrator = narrator();
    narrator.plain(&at(0.0, plan(100)));
    assert!((1..=100).all(|number| narrator.plain(&at(number as f64 * 1.5, step(number))).is_some()));
}

#[test]
fn an_evaluation_has_its_uncertainty() {
    let result = v1::EvaluationResult {
        step: 14,
        loss: Some(2.5),
        loss_standard_error: 0.041,
        perplexity: Some(12.1825),
        token_accuracy: 0.481,
        examples: 63,
        seconds: 2.04,
        best: true,
        ..Default::default()
    };
    let expected = "16:08:03  evaluation step 14  held-out loss 2.5000 ± 0.0410  perplexity 12.18  accuracy 48.1%  \
                    63 examples, 2.0 s  best so far";
    check(Event::Evaluation(result), expected);
}

#[test]
fn a_checkpoint_says_where_it_lies() {
    let saved = v1::CheckpointSaved {
        checkpoint_id: "step-000070".into(),
        uri: "s3://b/j/step-000070".into(),
        size_bytes: 19_400_000,
        seconds: 0.5,
        ..Default::default()
    };
    let expected = "16:08:03  checkpoint step-000070  19.4 MB, verified after 0.5 s  s3://b/j/step-000070";
    check(Event::CheckpointSaved(saved), expected);
}

#[test]
fn dropped_rows_are_named() {
    let report = report::tests::example();
    let told = narrator().told(&at(0.0, Event::DatasetReport(report))).expect("told");
    assert!(told.contains("\n            over_length_dropped  25 rows: 3, 1,017 of rows.jsonl, …"), "{told}");
}

#[test]
fn a_failure_says_why_where_and_what_to_try() {
    let failure = v1::Failure {
        reason: v1::FailureReason::InvalidData.into(),
        message: "no row can be trained on".into(),
        location: "rows.jsonl:3".into(),
        remedy: "look at hone data preview".into(),
        retryable: false,
    };
    let expected = "\
16:08:03  INVALID_DATA: no row can be trained on
          where: rows.jsonl:3
          try:   look at hone data preview";
    check(Event::Failure(failure), expected);
}

fn told_apart(accuracy: f64, ties: f64, margin: f64) -> v1::PreferenceMetrics {
    v1::PreferenceMetrics { pairs: 20, accuracy, ties, margin, ..Default::default() }
}

#[test]
fn steps_and_evaluations_of_pairs_say_how_they_are_told_apart() {
    let Event::TrainStep(plain) = step(3) else { panic!("a step") };
    let of_pairs = v1::TrainStep { preference: Some(told_apart(0.75, 0.0, 0.125)), ..plain };
    let told = narrator().plain(&at(0.0, Event::TrainStep(of_pairs))).expect("told");
    assert!(told.contains("loss 2.3457  pairs told apart: 75.0%, margin 0.1250  lr"), "{told}");
    let result = v1::EvaluationResult {
        loss: Some(0.5),
        preference: Some(v1::PreferenceMetrics {
            accuracy_standard_error: 0.05,
            margin_standard_error: 0.025,
            ..told_apart(0.75, 0.25, 0.125)
        }),
        ..Default::default()
    };
    let told = narrator().plain(&at(0.0, Event::Evaluation(result))).expect("told");
    assert!(told.contains("pairs told apart: 75.0% ± 5.0% (25.0% ties), margin 0.1250 ± 0.0250"), "{told}");
}

#[test]
fn a_result_compares_before_and_after() {
    let result = v1::JobResult {
        steps: 70,
        tokens: 41_230,
        trained_tokens: 9_120,
        eval_loss_before: Some(3.5),
        eval_loss_after: Some(2.25),
        final_checkpoint_id: "step-000070".into(),
        final_checkpoint_uri: "file:///s/step-000070".into(),
        best_checkpoint_id: "step-000063".into(),
        train_seconds: 151.0,
        eval_seconds: 12.0,
        skipped_steps: 1,
        preference_before: Some(told_apart(0.0, 1.0, 0.0)),
        preference_after: Some(told_apart(0.85, 0.0, 1.25)),
    };
    let expected = "\
16:08:03  70 steps, 41,230 tokens (9,120 trained on), 2m 31s of training, 12 s of evaluation, 1 update skipped
          held-out loss 3.5000 before, 2.2500 after
          pairs told apart: 0.0% (100.0% ties), margin 0.0000 before; 85.0%, margin 1.2500 after
          last checkpoint step-000070 in file:///s/step-000070
          best checkpoint step-000063";
    check(Event::Result(result), expected);
}

#[test]
fn warnings_carry_their_code_and_cannot_steer_the_terminal() {
    let warning = v1::Warning { code: "end_token_not_trained".into(), message: "look\x1b[2J".into() };
    check(Event::Warning(warning), "16:08:03  warning end_token_not_trained: look\\u{1b}[2J");
}

#[test]
fn an_event_of_a_later_version_is_mentioned() {
    let event = v1::JobEvent { event: None, ..at(0.0, step(1)) };
    let expected = "16:08:03  event 17 is of a kind that this client does not know";
    assert_eq!(narrator().told(&event).as_deref(), Some(expected));
}

#[test]
fn above_a_bar_steps_and_phases_need_no_lines() {
    assert_eq!(narrator().told(&at(0.0, step(7))), None);
    let phase = v1::Phase { name: "training".into(), detail: String::new() };
    assert_eq!(narrator().told(&at(0.0, Event::Phase(phase))), None);
}

#[test]
fn an_export_says_what_rounding_took() {
    let report = v1::ExportReport {
        format: "hugging_face".into(),
        weight_type: "bfloat16".into(),
        parameters: 134_515_008,
        merged_tensors: 210,
        update_lost: Some(0.0421),
        unchanged_fraction: Some(0.5),
        worst_tensor: "model.layers.0.mlp.up_proj.weight".into(),
        worst_update_lost: Some(0.093),
        untied: true,
    };
    let expected = "\
16:08:03  exported hugging_face in bfloat16, 134.5 M parameters
          210 tensors changed; rounding took 4.2% of the update away, 50.0% of their weights came out as in the base model
          most of it in model.layers.0.mlp.up_proj.weight: 9.3%
          embedding and head are tied no more";
    check(Event::ExportReport(report), expected);
}
