//! What changes do to a job that no store is needed for.

use chrono::DateTime;
use hone_job::event::Phase;

use super::*;
use crate::testing::spec;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

/// A job after some changes, and the events of the last one.
fn after(changes: Vec<Change>) -> (JobRecord, Vec<JobEvent>) {
    let (mut record, mut events) = JobRecord::new("job-1".into(), "default".into(), spec(), String::new(), now());
    for change in changes {
        events = record.apply(change, now()).unwrap();
    }
    (record, events)
}

fn started() -> Change {
    Change::AttemptStarted { secret_sha256: "s".into(), trace: String::new() }
}

fn reported(first: u64, bodies: Vec<Body>) -> Change {
    let reports = (first..).zip(bodies).map(|(number, body)| Report { number, time: now(), body }).collect();
    Change::Reported { attempt: 1, reports }
}

fn moves(events: &[JobEvent]) -> Vec<(State, State)> {
    let change = |event: &JobEvent| match &event.event {
        Event::StateChanged(change) => Some((change.from, change.to)),
        _ => None,
    };
    events.iter().filter_map(change).collect()
}

#[test]
fn a_trainer_that_stops_unasked_puts_its_job_back_into_the_queue() {
    let stopped = reported(1, vec![Body::Running, Body::Finished(End::Stopped("step-000004".into()))]);
    let (record, events) = after(vec![started(), stopped]);
    assert_eq!(record.state, State::Queued);
    assert!(record.attempt_over && record.end_time.is_none());
    assert_eq!((record.retries, record.failure), (0, None), "it may have none, and has used none");
    let Event::Failure(failure) = &events[1].event else { panic!("{events:?}") };
    assert_eq!(failure.reason, Reason::Preempted);
    assert!(failure.message.contains("saved step-000004"), "{failure}");
    assert_eq!(moves(&events), [(State::Preparing, State::Running), (State::Running, State::Queued)]);
}

#[test]
fn a_trainer_that_stops_on_cancel_ends_its_job() {
    let stopped = reported(2, vec![Body::Finished(End::Stopped(String::new()))]);
    let (record, _) = after(vec![started(), reported(1, vec![Body::Running]), Change::CancelRequested, stopped]);
    assert_eq!((record.state, record.end_time), (State::Cancelled, Some(now())));
}

#[test]
fn a_failure_of_a_job_being_cancelled_is_an_event_but_no_failure_of_the_job() {
    let failure = Failure::new(Reason::TrainerCrashed, "boom\nmore");
    let failed = Change::AttemptFailed { attempt: 1, failure: failure.clone() };
    let (record, events) = after(vec![started(), Change::CancelRequested, failed]);
    assert_eq!((record.state, record.failure), (State::Cancelled, None));
    assert_eq!(events[0].event, Event::Failure(failure));
    assert_eq!(moves(&events), [(State::Cancelling, State::Cancelled)]);
}

#[test]
fn a_failure_at_the_end_of_time_is_followed_by_another_attempt_all_the_same() {
    let (mut record, _) = after(vec![started()]);
    record.spec.max_retries = 1;
    let body = Body::Finished(End::Failed(Failure::new(Reason::Storage, "gone")));
    let report = Report { number: 1, time: DateTime::<Utc>::MAX_UTC, body };
    record.apply(Change::Reported { attempt: 1, reports: vec![report] }, now()).unwrap();
    assert_eq!((record.state, record.retry_time), (State::Queued, Some(DateTime::<Utc>::MAX_UTC)));
}

#[test]
fn cancelling_twice_is_cancelling_once() {
    let (record, events) = after(vec![started(), Change::CancelRequested, Change::CancelRequested]);
    assert_eq!(record.state, State::Cancelling);
    assert_eq!(events, []);
    let (record, events) = after(vec![Change::CancelRequested, Change::CancelRequested]);
    assert_eq!((record.state, events.len()), (State::Cancelled, 0));
}

#[test]
fn an_ended_job_refuses_a_cancel() {
    let (mut record, _) = after(vec![started(), reported(1, vec![Body::Running, Body::Finished(End::Succeeded)])]);
    let refused = record.apply(Change::CancelRequested, now()).unwrap_err();
    assert_eq!(refused, Refusal::State { state: State::Succeeded, trigger: Trigger::CancelRequested });
}

#[test]
fn the_last_report_may_come_again_but_nothing_after_it() {
    let (mut record, _) = after(vec![started(), reported(1, vec![Body::Running, Body::Finished(End::Succeeded)])]);
    assert_eq!(record.apply(reported(2, vec![Body::Finished(End::Succeeded)]), now()), Ok(Vec::new()));
    let late = record.apply(reported(3, vec![Body::Running]), now()).unwrap_err();
    assert_eq!(late, Refusal::AttemptOver { attempt: 1 });
}

#[test]
fn an_attempt_that_was_judged_is_not_judged_again() {
    let failure = Failure::new(Reason::TrainerCrashed, "boom");
    let failed = || Change::AttemptFailed { attempt: 1, failure: failure.clone() };
    let (mut record, _) = after(vec![started(), failed()]);
    assert_eq!(record.apply(failed(), now()).unwrap_err(), Refusal::AttemptOver { attempt: 1 });
    let (mut record, _) = after(vec![started()]);
    let other = Change::AttemptFailed { attempt: 2, failure };
    assert_eq!(record.apply(other, now()).unwrap_err(), Refusal::Superseded { attempt: 2, current: 1 });
}

#[test]
fn phases_say_what_a_job_does() {
    let phase = |detail: &str| Body::Event(Event::Phase(Phase { name: "loading_model".into(), detail: detail.into() }));
    let (record, _) = after(vec![started(), reported(1, vec![phase("3 of 9 MB")])]);
    assert_eq!(record.state_detail, "loading_model: 3 of 9 MB");
    let (record, _) = after(vec![started(), reported(1, vec![phase("")])]);
    assert_eq!(record.state_detail, "loading_model");
}

#[test]
fn a_new_attempt_counts_its_reports_afresh_and_keeps_the_first_start() {
    let stopped = reported(1, vec![Body::Running, Body::Finished(End::Stopped(String::new()))]);
    let (mut record, _) = after(vec![started(), stopped]);
    let later = now() + chrono::Duration::seconds(9);
    let events = record.apply(started(), later).unwrap();
    assert_eq!((record.attempt, record.last_report, record.start_time), (2, 0, Some(now())));
    assert_eq!((events[0].attempt, events[0].sequence), (2, record.last_sequence));
}

#[test]
fn what_a_person_should_know_about_a_spec_follows_it_at_once() {
    let (record, events) = JobRecord::new("job-1".into(), "default".into(), spec(), String::new(), now());
    assert_eq!((record.last_sequence, events.len()), (1, 1));
    let mut dora = spec();
    let task = dora.task.training_mut().unwrap();
    let hone_job::spec::Adapter::Lora(lora) = &mut task.adapter else { panic!("an adapter") };
    (lora.use_dora, lora.modules_to_save) = (true, vec!["lm_head".into()]);
    let (record, events) = JobRecord::new("job-1".into(), "default".into(), dora, String::new(), now());
    assert_eq!((record.last_sequence, events[1].sequence), (2, 2));
    let Event::Warning(warning) = &events[1].event else { panic!("{events:?}") };
    assert_eq!(warning.code, "adapter_not_for_vllm");
    assert!(warning.message.contains("use_dora, modules_to_save; export the merged model"), "{}", warning.message);
}
