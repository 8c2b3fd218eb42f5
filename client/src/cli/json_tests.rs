//! The shapes of JSON that programs rely on.

use hone_client::v1;
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
