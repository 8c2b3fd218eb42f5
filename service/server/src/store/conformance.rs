//! What every store must do. A store is done when it passes.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use hone_job::checkpoint::File;
use hone_job::event::{CheckpointSaved, Event, Plan, StateChanged, TrainStep, Warning};
use hone_job::failure::{Failure, Reason};
use hone_job::id::Kind;
use hone_job::state::State;

use super::memory::Memory;
use super::sqlite::Sqlite;
use super::{Error, JobLimits, JobQuery, MAX_EVENTS, NewJob, Request, Store, Upload, UploadQuery};
use crate::record::{Body, Change, End, JobRecord, Refusal, Report};
use crate::testing::spec;

#[tokio::test]
async fn memory_conforms() {
    conforms(|| (Arc::new(Memory::default()) as Arc<dyn Store>, ())).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    conforms(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("hone.db")).unwrap();
        (Arc::new(store) as Arc<dyn Store>, folder)
    })
    .await;
}

/// Runs every check on a store of its own; the second value keeps alive what the store needs.
async fn conforms<K>(make: impl Fn() -> (Arc<dyn Store>, K)) {
    let (store, _kept) = make();
    a_created_job_is_there_with_its_first_event(&*store).await;
    let (store, _kept) = make();
    a_request_id_makes_one_job(&*store).await;
    let (store, _kept) = make();
    the_queue_is_limited_and_first_come_first_served(&*store).await;
    let (store, _kept) = make();
    a_job_that_waits_for_its_retry_lets_others_go_first(&*store).await;
    let (store, _kept) = make();
    a_paused_job_goes_on_with_another_length(&*store).await;
    let (store, _kept) = make();
    events_are_numbered_without_gaps_and_change_the_job(&*store).await;
    let (store, _kept) = make();
    a_refused_change_leaves_nothing(&*store).await;
    let (store, _kept) = make();
    reports_are_recorded_once(&*store).await;
    let (store, _kept) = make();
    many_events_come_in_pieces(&*store).await;
    let (store, _kept) = make();
    jobs_are_counted_by_state(&*store).await;
    let (store, _kept) = make();
    lists_are_filtered_and_continued(&*store).await;
    let (store, _kept) = make();
    only_ended_jobs_are_deleted_and_with_everything(&*store).await;
    let (store, _kept) = make();
    uploads_stay_while_a_living_job_reads_them(&*store).await;
    let (store, _kept) = make();
    projects_have_things_and_request_ids_of_their_own(&*store).await;
    let (store, _kept) = make();
    what_a_project_holds_is_limited(&*store).await;
    let (store, _kept) = make();
    concurrent_changes_leave_no_gap(store).await;
}

/// Where a call stands in a trace.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap()
}

fn limits(max_queued: u32) -> JobLimits {
    JobLimits { max_queued, max_of_project: None }
}

fn new_job() -> NewJob {
    let (record, events) = JobRecord::new(Kind::Job.fresh(), "default".into(), spec(), TRACE.into(), now());
    NewJob { record, events, request: None, inputs: Vec::new(), limits: limits(10) }
}

async fn created(store: &dyn Store) -> String {
    store.create_job(new_job()).await.unwrap().job_id
}

fn started() -> Change {
    Change::AttemptStarted { secret_sha256: "abc".into(), trace: TRACE.into() }
}

fn reported(first: u64, bodies: Vec<Body>) -> Change {
    let reports = (first..).zip(bodies).map(|(number, body)| Report { number, time: now(), body }).collect();
    Change::Reported { attempt: 1, reports }
}

fn step(step: u64) -> Body {
    Body::Event(Event::TrainStep(TrainStep { step, loss: Some(0.5), ..TrainStep::default() }))
}

async fn change(store: &dyn Store, job_id: &str, change: Change) -> JobRecord {
    store.change_job(job_id, change, now()).await.unwrap().job
}

async fn a_created_job_is_there_with_its_first_event(store: &dyn Store) {
    let job = new_job();
    let made = store.create_job(job.clone()).await.unwrap();
    let expected = JobRecord { ordinal: made.ordinal, queue_position: 1, ..job.record };
    assert_eq!(made, expected);
    assert_eq!(store.job(&made.job_id).await.unwrap(), expected);
    assert_eq!(store.events(&made.job_id, 0).await.unwrap(), job.events);
    let unknown = Kind::Job.fresh();
    assert!(matches!(store.job(&unknown).await, Err(Error::NotFound { kind: Kind::Job, id }) if id == unknown));
    assert!(matches!(store.events(&unknown, 0).await, Err(Error::NotFound { .. })));
}

async fn a_request_id_makes_one_job(store: &dyn Store) {
    let request = |body: &str| Request { project: "default".into(), id: "once".into(), body_sha256: body.into() };
    assert_eq!(store.job_of_request(&request("a")).await.unwrap(), None);
    let job = |body: &str| NewJob { request: Some(request(body)), ..new_job() };
    let first = store.create_job(job("a")).await.unwrap();
    assert_eq!(store.create_job(job("a")).await.unwrap().job_id, first.job_id);
    assert_eq!(store.job_of_request(&request("a")).await.unwrap().unwrap().job_id, first.job_id);
    for refused in [store.create_job(job("b")).await.map(drop), store.job_of_request(&request("b")).await.map(drop)] {
        assert!(matches!(refused, Err(Error::RequestReused { job_id, .. }) if job_id == first.job_id));
    }
    assert_eq!(store.jobs(JobQuery { limit: 9, ..JobQuery::default() }).await.unwrap().len(), 1);
}

async fn the_queue_is_limited_and_first_come_first_served(store: &dyn Store) {
    let limited = || NewJob { limits: limits(2), ..new_job() };
    let first = store.create_job(limited()).await.unwrap();
    let second = store.create_job(limited()).await.unwrap();
    assert_eq!((first.queue_position, second.queue_position), (1, 2));
    assert!(matches!(store.create_job(limited()).await, Err(Error::QueueFull { max_queued: 2 })));
    assert_eq!(store.next_queued(Utc::now()).await.unwrap().unwrap().job_id, first.job_id);
    change(store, &first.job_id, started()).await;
    assert_eq!(store.job(&second.job_id).await.unwrap().queue_position, 1);
    // One that comes back keeps its place in the order of creation.
    let preempted = Change::AttemptFailed { attempt: 1, failure: Failure::new(Reason::Preempted, "gone") };
    assert_eq!(change(store, &first.job_id, preempted).await.queue_position, 1);
    let later = Utc::now() + chrono::TimeDelta::minutes(1);
    assert_eq!(store.next_queued(later).await.unwrap().unwrap().job_id, first.job_id);
    for job in [&first, &second] {
        change(store, &job.job_id, Change::CancelRequested).await;
    }
    assert_eq!(store.next_queued(Utc::now()).await.unwrap(), None);
}

/// A failure that may pass is followed by another attempt, after a while, in which others come first.
async fn a_job_that_waits_for_its_retry_lets_others_go_first(store: &dyn Store) {
    let mut job = new_job();
    job.record.spec.max_retries = 1;
    let failing = store.create_job(job).await.unwrap().job_id;
    let other = created(store).await;
    change(store, &failing, started()).await;
    let failure = Failure::new(Reason::TrainerCrashed, "killed");
    let now = Utc::now();
    let failed = Change::AttemptFailed { attempt: 1, failure: failure.clone() };
    let record = store.change_job(&failing, failed, now).await.unwrap().job;
    assert_eq!((record.state, record.retries), (State::Queued, 1));
    let due = record.retry_time.unwrap();
    assert!(due > now);
    assert_eq!(store.job(&failing).await.unwrap(), record);
    let next = async |now| store.next_queued(now).await.unwrap().map(|job| job.job_id);
    assert_eq!(next(now).await.as_ref(), Some(&other), "one that may start now");
    assert_eq!(next(due).await.as_ref(), Some(&failing), "the older one, once it is due");
    change(store, &other, Change::CancelRequested).await;
    assert_eq!(next(now).await.as_ref(), Some(&failing), "the one that is due first, when none is due");
    assert_eq!(change(store, &failing, started()).await.retry_time, None);
}

/// A paused job keeps its place in history, and goes on with the spec that it is given.
async fn a_paused_job_goes_on_with_another_length(store: &dyn Store) {
    let job_id = created(store).await;
    assert_eq!(change(store, &job_id, Change::PauseRequested).await.state, State::Paused);
    assert_eq!(change(store, &job_id, Change::PauseRequested).await.state, State::Paused);
    assert_eq!(store.next_queued(Utc::now()).await.unwrap(), None);
    let mut spec = store.job(&job_id).await.unwrap().spec;
    spec.task.training_mut().unwrap().length = hone_job::spec::Length::MaxSteps(7);
    let resumed = change(store, &job_id, Change::ResumeRequested { spec: Some(Box::new(spec.clone())) }).await;
    assert_eq!((resumed.state, &resumed.spec), (State::Queued, &spec));
    assert_eq!(store.job(&job_id).await.unwrap().spec, spec);
    let again = store.change_job(&job_id, Change::ResumeRequested { spec: None }, Utc::now()).await;
    assert!(matches!(again, Err(Error::Refused { .. })), "it is not paused");
}

async fn events_are_numbered_without_gaps_and_change_the_job(store: &dyn Store) {
    let job_id = created(store).await;
    change(store, &job_id, started()).await;
    let process = Change::ProcessStarted { attempt: 1, process: "7@now".into() };
    assert_eq!(change(store, &job_id, process).await.process, "7@now");
    let plan = Body::Event(Event::Plan(Plan { total_steps: 20, ..Plan::default() }));
    let saved = CheckpointSaved { uri: "file:///c/step-000001".into(), step: 1, ..CheckpointSaved::default() };
    let saved = Body::Event(Event::CheckpointSaved(saved));
    let running = change(store, &job_id, reported(1, vec![Body::Running, plan, step(1), saved])).await;
    assert_eq!((running.state, running.step, running.total_steps, running.last_report), (State::Running, 1, 20, 4));
    assert_eq!(running.last_checkpoint, "file:///c/step-000001");
    let failure = Failure::new(Reason::Storage, "gone").at("s3://b/x").try_this("look");
    let failed = reported(5, vec![Body::Finished(End::Failed(failure.clone()))]);
    let failed = change(store, &job_id, failed).await;
    assert_eq!((failed.state, failed.failure.as_ref(), failed.end_time), (State::Failed, Some(&failure), Some(now())));
    assert_eq!(store.job(&job_id).await.unwrap(), failed);
    let events = store.events(&job_id, 0).await.unwrap();
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert_eq!(failed.last_sequence, 8);
    let expected = StateChanged { from: State::Running, to: State::Failed, detail: "gone".into() };
    assert_eq!(events[7].event, Event::StateChanged(expected));
    assert_eq!(events[6].event, Event::Failure(failure));
    assert_eq!(store.events(&job_id, 6).await.unwrap(), events[6..]);
}

async fn a_refused_change_leaves_nothing(store: &dyn Store) {
    let job_id = created(store).await;
    change(store, &job_id, started()).await;
    let before = store.job(&job_id).await.unwrap();
    // The first two would do; the third comes too early.
    let gap = vec![
        Report { number: 1, time: now(), body: Body::Running },
        Report { number: 2, time: now(), body: step(1) },
        Report { number: 4, time: now(), body: step(2) },
    ];
    let refused = store.change_job(&job_id, Change::Reported { attempt: 1, reports: gap }, now()).await;
    let expected = Refusal::Gap { expected: 3, found: 4 };
    assert!(matches!(refused, Err(Error::Refused { refusal, .. }) if refusal == expected));
    assert_eq!(store.job(&job_id).await.unwrap(), before);
    assert_eq!(store.events(&job_id, 0).await.unwrap().len(), 2);
}

async fn reports_are_recorded_once(store: &dyn Store) {
    let job_id = created(store).await;
    change(store, &job_id, started()).await;
    change(store, &job_id, reported(1, vec![Body::Running, step(1)])).await;
    let again = change(store, &job_id, reported(1, vec![Body::Running, step(1), step(2)])).await;
    assert_eq!((again.step, again.last_report, again.last_sequence), (2, 3, 5));
    let older = Change::Reported { attempt: 0, reports: Vec::new() };
    let refused = store.change_job(&job_id, older, now()).await;
    assert!(matches!(refused, Err(Error::Refused { refusal: Refusal::Superseded { .. }, .. })));
}

async fn many_events_come_in_pieces(store: &dyn Store) {
    let job_id = created(store).await;
    change(store, &job_id, started()).await;
    let count = MAX_EVENTS as u64 + 10;
    change(store, &job_id, reported(1, (1..=count).map(step).collect())).await;
    let mut seen = 0;
    loop {
        let events = store.events(&job_id, seen).await.unwrap();
        let Some(last) = events.last() else { break };
        assert!(events.len() <= MAX_EVENTS);
        assert_eq!(events[0].sequence, seen + 1);
        seen = last.sequence;
    }
    assert_eq!(seen, count + 2);
}

async fn jobs_are_counted_by_state(store: &dyn Store) {
    assert_eq!(store.tally().await.unwrap().waiting_since, None);
    let [first, second] = [created(store).await, created(store).await];
    let younger = NewJob {
        record: JobRecord { create_time: now() + chrono::TimeDelta::hours(1), ..new_job().record },
        ..new_job()
    };
    store.create_job(younger).await.unwrap();
    change(store, &first, started()).await;
    let tally = store.tally().await.unwrap();
    let count = |state| tally.states.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
    assert_eq!([State::Queued, State::Preparing, State::Failed].map(count), [2, 1, 0]);
    assert_eq!(tally.waiting_since, Some(now()), "the older one of those that wait");
    change(store, &second, Change::CancelRequested).await;
    assert_eq!(store.tally().await.unwrap().waiting_since, Some(now() + chrono::TimeDelta::hours(1)));
}

async fn lists_are_filtered_and_continued(store: &dyn Store) {
    let mut made = Vec::new();
    for team in ["a", "b", "a", "a"] {
        let mut job = new_job();
        job.record.spec.labels.insert("team".into(), team.into());
        job.record.spec.labels.insert("all".into(), "x".into());
        made.push(store.create_job(job).await.unwrap());
    }
    change(store, &made[3].job_id, Change::CancelRequested).await;
    let list = async |query: JobQuery| -> Vec<usize> {
        let found = store.jobs(query).await.unwrap();
        let place = |job: &JobRecord| made.iter().position(|made| made.job_id == job.job_id).unwrap();
        found.iter().map(place).collect()
    };
    let query = JobQuery { limit: 10, ..JobQuery::default() };
    assert_eq!(list(query.clone()).await, [3, 2, 1, 0]);
    let labels = vec![("team".to_string(), "a".to_string()), ("all".to_string(), "x".to_string())];
    assert_eq!(list(JobQuery { labels: labels.clone(), ..query.clone() }).await, [3, 2, 0]);
    let queued = JobQuery { labels, states: vec![State::Queued, State::Running], ..query.clone() };
    assert_eq!(list(queued.clone()).await, [2, 0]);
    assert_eq!(list(JobQuery { limit: 1, ..queued.clone() }).await, [2]);
    assert_eq!(list(JobQuery { before: Some(made[2].ordinal), ..queued }).await, [0]);
    assert_eq!(list(JobQuery { labels: vec![("team".into(), "c".into())], ..query }).await, [0; 0]);
}

async fn only_ended_jobs_are_deleted_and_with_everything(store: &dyn Store) {
    let request = Request { project: "default".into(), id: "again".into(), body_sha256: "a".into() };
    let job = NewJob { request: Some(request.clone()), ..new_job() };
    let job_id = store.create_job(job).await.unwrap().job_id;
    assert!(matches!(store.delete_job(&job_id).await, Err(Error::NotFinal { state: State::Queued, .. })));
    change(store, &job_id, Change::CancelRequested).await;
    store.delete_job(&job_id).await.unwrap();
    assert!(matches!(store.job(&job_id).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.events(&job_id, 0).await, Err(Error::NotFound { .. })));
    assert_eq!(store.job_of_request(&request).await.unwrap(), None);
    assert!(matches!(store.delete_job(&job_id).await, Err(Error::NotFound { .. })));
    // Its ordinal is not used again: a page token stays true.
    let next = store.create_job(new_job()).await.unwrap();
    assert!(next.ordinal > 1);
}

fn upload(kind: Kind) -> Upload {
    let files = vec![File { name: "rows.jsonl".into(), size_bytes: 7, sha256: "00".into() }];
    let id = kind.fresh();
    Upload {
        uri: format!("file:///{id}"),
        id,
        ordinal: 0,
        project: "default".into(),
        display_name: "rows".into(),
        files,
        create_time: now(),
    }
}

fn query(kind: Kind, before: Option<u64>, limit: usize) -> UploadQuery {
    UploadQuery { kind, project: None, before, limit }
}

async fn uploads_stay_while_a_living_job_reads_them(store: &dyn Store) {
    let rows = store.create_upload(upload(Kind::Dataset), None).await.unwrap();
    let model = store.create_upload(upload(Kind::Model), None).await.unwrap();
    let more = store.create_upload(upload(Kind::Dataset), None).await.unwrap();
    assert_eq!(store.upload(&rows.id).await.unwrap(), rows);
    assert_eq!(store.uploads(query(Kind::Dataset, None, 9)).await.unwrap(), [more.clone(), rows.clone()]);
    assert_eq!(store.uploads(query(Kind::Dataset, Some(more.ordinal), 9)).await.unwrap(), std::slice::from_ref(&rows));
    assert_eq!(store.uploads(query(Kind::Model, None, 1)).await.unwrap(), std::slice::from_ref(&model));
    let job = NewJob { inputs: vec![rows.id.clone(), model.id.clone(), rows.id.clone()], ..new_job() };
    let job_id = store.create_job(job).await.unwrap().job_id;
    for id in [&rows.id, &model.id] {
        assert!(matches!(store.delete_upload(id).await, Err(Error::InUse { job_id: user, .. }) if user == job_id));
    }
    change(store, &job_id, Change::CancelRequested).await;
    assert_eq!(store.delete_upload(&rows.id).await.unwrap(), rows);
    assert!(matches!(store.upload(&rows.id).await, Err(Error::NotFound { kind: Kind::Dataset, .. })));
    let late = NewJob { inputs: vec![rows.id.clone()], ..new_job() };
    assert!(matches!(store.create_job(late).await, Err(Error::NotFound { kind: Kind::Dataset, id }) if id == rows.id));
}

async fn projects_have_things_and_request_ids_of_their_own(store: &dyn Store) {
    let job_of = |project: &str| {
        let request = Request { project: project.into(), id: "once".into(), body_sha256: project.into() };
        let mut job = NewJob { request: Some(request), ..new_job() };
        job.record.project = project.into();
        job
    };
    let red = store.create_job(job_of("red")).await.unwrap();
    let blue = store.create_job(job_of("blue")).await.unwrap();
    assert_ne!(red.job_id, blue.job_id, "a request id of another project is another one");
    assert_eq!(store.job(&red.job_id).await.unwrap().project, "red");
    let listed = async |project: Option<&str>| -> Vec<String> {
        let query = JobQuery { project: project.map(str::to_string), limit: 9, ..JobQuery::default() };
        store.jobs(query).await.unwrap().into_iter().map(|job| job.job_id).collect()
    };
    assert_eq!(listed(Some("red")).await, std::slice::from_ref(&red.job_id));
    assert_eq!(listed(Some("green")).await, [""; 0]);
    assert_eq!(listed(None).await, [blue.job_id, red.job_id]);
    let rows = store.create_upload(Upload { project: "red".into(), ..upload(Kind::Dataset) }, None).await.unwrap();
    assert_eq!(store.upload(&rows.id).await.unwrap(), rows);
    for (project, expected) in [(Some("red"), 1), (Some("blue"), 0), (None, 1)] {
        let query = UploadQuery { project: project.map(str::to_string), ..query(Kind::Dataset, None, 9) };
        assert_eq!(store.uploads(query).await.unwrap().len(), expected, "{project:?}");
    }
}

async fn what_a_project_holds_is_limited(store: &dyn Store) {
    let limited = || NewJob { limits: JobLimits { max_queued: 10, max_of_project: Some(1) }, ..new_job() };
    let mut other = limited();
    other.record.project = "other".into();
    store.create_job(other).await.unwrap();
    let first = store.create_job(limited()).await.unwrap();
    let refused = store.create_job(limited()).await;
    assert!(matches!(refused, Err(Error::TooManyJobs { max_jobs: 1, project }) if project == "default"));
    change(store, &first.job_id, Change::CancelRequested).await;
    store.create_job(limited()).await.unwrap();

    let (seven, limit) = (|| upload(Kind::Dataset), Some(14));
    store.create_upload(Upload { project: "other".into(), ..seven() }, limit).await.unwrap();
    let kept = store.create_upload(seven(), limit).await.unwrap();
    store.create_upload(seven(), limit).await.unwrap();
    assert_eq!(store.uploaded_bytes("default").await.unwrap(), 14);
    let refused = store.create_upload(seven(), limit).await;
    assert!(matches!(refused, Err(Error::TooManyBytes { max_bytes: 14, project }) if project == "default"));
    store.delete_upload(&kept.id).await.unwrap();
    assert_eq!((store.uploaded_bytes("default").await.unwrap(), store.uploaded_bytes("none").await.unwrap()), (7, 0));
    store.create_upload(seven(), limit).await.unwrap();
}

async fn concurrent_changes_leave_no_gap(store: Arc<dyn Store>) {
    let job_id = created(&*store).await;
    change(&*store, &job_id, started()).await;
    let warn = |text: String| Body::Event(Event::Warning(Warning { code: "x".into(), message: text }));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=40 {
        let (store, job_id) = (store.clone(), job_id.clone());
        tasks.spawn(async move {
            // Out of turn it is refused; then it is tried again, as a trainer would.
            loop {
                let change = reported(number, vec![warn(number.to_string())]);
                match store.change_job(&job_id, change, now()).await {
                    Ok(_) => return,
                    Err(Error::Refused { refusal: Refusal::Gap { .. }, .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let events = store.events(&job_id, 0).await.unwrap();
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), (1..=42).collect::<Vec<_>>());
}
