//! The shapes of JSON that programs rely on, and specs that are not.

use serde_json::json;
use v1::job_event::Event;

use super::*;

fn parsed(name: &str, message: &impl Message) -> Value {
    let line = line(name, message);
    assert!(!line.contains('\n'), "{line}");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn ids_stand_under_the_names_that_scripts_read() {
    let model = v1::Model { model_id: "model-1".into(), size_bytes: 1 << 40, ..Default::default() };
    assert_eq!(parsed("Model", &model), json!({"model_id": "model-1", "size_bytes": "1099511627776"}));
    let dataset = v1::Dataset { dataset_id: "ds-1".into(), ..Default::default() };
    assert_eq!(parsed("Dataset", &dataset)["dataset_id"], "ds-1");
}

#[test]
fn a_job_has_its_result_as_numbers_and_its_state_as_a_name() {
    let result = v1::JobResult { eval_loss_before: Some(3.25), eval_loss_after: Some(0.0), ..Default::default() };
    let job = v1::Job {
        job_id: "job-1".into(),
        state: v1::JobState::Succeeded.into(),
        create_time: Some(prost_types::Timestamp { seconds: 1_764_000_483, nanos: 500_000_000 }),
        result: Some(result),
        ..Default::default()
    };
    let expected = json!({
        "job_id": "job-1",
        "state": "JOB_STATE_SUCCEEDED",
        "create_time": "2025-11-24T16:08:03.500Z",
        "result": {"eval_loss_before": 3.25, "eval_loss_after": 0.0},
    });
    assert_eq!(parsed("Job", &job), expected);
}

#[test]
fn an_event_is_named_by_its_kind() {
    let step = v1::TrainStep { step: 3, loss: Some(2.5), ..Default::default() };
    let event = v1::JobEvent { sequence: 9, event: Some(Event::TrainStep(step)), ..Default::default() };
    let expected = json!({"sequence": "9", "train_step": {"step": "3", "loss": 2.5}});
    assert_eq!(parsed("JobEvent", &event), expected);
    let failure = v1::Failure { reason: v1::FailureReason::OutOfMemory.into(), ..Default::default() };
    let event = v1::JobEvent { event: Some(Event::Failure(failure)), ..Default::default() };
    assert_eq!(parsed("JobEvent", &event), json!({"failure": {"reason": "FAILURE_REASON_OUT_OF_MEMORY"}}));
}

#[test]
fn specs_are_read_in_both_spellings_of_names_and_numbers() {
    for text in [
        r#"{"base_model": {"uri": "m"}, "sft": {"max_steps": "3", "seed": 7, "data": {"max_length": 64}}}"#,
        r#"{"baseModel": {"uri": "m"}, "sft": {"maxSteps": 3, "seed": "7", "data": {"maxLength": 64}}}"#,
    ] {
        let spec = job_spec(text, "spec.json").expect(text);
        let Some(v1::job_spec::Task::Sft(sft)) = spec.task else { panic!("no task in {text}") };
        assert_eq!(sft.length, Some(v1::sft_task::Length::MaxSteps(3)));
        assert_eq!(sft.seed, Some(7));
        assert_eq!(sft.data.and_then(|data| data.max_length), Some(64));
    }
}

#[test]
fn a_spec_survives_being_written_and_read() {
    let text = r#"{"display_name":"d","labels":{"any_key":"v"},"sft":{"adapter":{"lora":{"rank":4}},"order":"ORDER_SEQUENTIAL"}}"#;
    let spec = job_spec(text, "spec.json").expect("a spec");
    assert_eq!(line("JobSpec", &spec), text);
    assert_eq!(job_spec(&pretty("JobSpec", &spec), "again").expect("a spec"), spec);
}

#[test]
fn every_unknown_field_is_named_with_what_may_be_meant() {
    let text = r#"{"base_model": {"url": "m"}, "labels": {"free": "word"},
        "sft": {"adapter": {"lora": {"ranks": 4}}, "gradient_accumulation_steps": 2}}"#;
    let failure = job_spec(text, "spec.json").expect_err("unknown fields");
    let told = failure.json();
    assert_eq!(told["error"]["message"], "spec.json: not a spec: 3 fields are unknown");
    let violations = told["error"]["violations"].as_array().expect("violations");
    let described: Vec<_> = violations
        .iter()
        .map(|one| (one["field"].as_str().unwrap_or_default(), one["description"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(described[0], ("base_model.url", "unknown; did you mean uri?"));
    assert_eq!(described[1], ("sft.adapter.lora.ranks", "unknown; did you mean rank?"));
    assert_eq!(described[2].0, "sft.gradient_accumulation_steps");
    assert!(described[2].1.starts_with("unknown; known are data, adapter, init_from"), "{}", described[2].1);
}

#[test]
fn what_is_no_spec_is_told_with_its_place() {
    for (text, part) in [
        ("{\"sft\": ", "spec.json: not JSON"),
        ("{\"sft\": {\"max_steps\": \"many\"}}", "line 1 column"),
        ("{\"sft\": {\"precision\": \"PRECISION_FLOAT64\"}}", "PRECISION_FLOAT64"),
        ("{\"sft\": {\"epochs\": 1, \"max_steps\": 1}}", "length"),
        ("[]", "spec.json: not a spec"),
    ] {
        let failure = job_spec(text, "spec.json").expect_err(text);
        assert!(failure.to_string().contains(part), "{text}: {failure}");
    }
}
