//! Everything that the server's job store is asked for in the life of two jobs, in steps that are the same every time; and
//! what is in a store, as a text.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use hone_job::checkpoint::File;
use hone_job::event::{CheckpointSaved, Event, TrainStep};
use hone_job::id::Kind;
use hone_job::spec::{JobSpec, LossOn, Resources, SftTask, Task, Training};
use hone_server::record::{Body, Change, End, JobRecord, Report};
use hone_server::store::{JobLimits, JobQuery, NewJob, Request, Store, Upload, UploadQuery};

/// Steps of the script.
pub const STEPS: usize = 14;

const JOB: &str = "job-00000000000000000000000000000001";
const OTHER_JOB: &str = "job-00000000000000000000000000000002";
const ROWS: &str = "ds-00000000000000000000000000000001";

/// Takes one step, from 0 on.
pub async fn take(store: &dyn Store, step: usize) {
    let change = |change| store.change_job(JOB, change, now());
    match step {
        0 => drop(store.create_upload(upload(), None).await.expect("kept")),
        1 => drop(store.create_job(job(JOB)).await.expect("kept")),
        2 => drop(
            change(Change::AttemptStarted { secret_sha256: "s".into(), trace: String::new() }).await.expect("kept"),
        ),
        3 => drop(change(Change::ProcessStarted { attempt: 1, process: "17".into() }).await.expect("kept")),
        4 => drop(change(reports(1, vec![Body::Running])).await.expect("kept")),
        5 => drop(change(reports(2, (1..=40).map(trained).collect())).await.expect("kept")),
        6 => drop(change(reports(42, vec![trained(41), saved(41)])).await.expect("kept")),
        7 => drop(store.create_job(job(OTHER_JOB)).await.expect("kept")),
        8 => drop(change(Change::PauseRequested).await.expect("kept")),
        9 => drop(change(reports(44, vec![Body::Finished(End::Stopped("step-000041".into()))])).await.expect("kept")),
        10 => drop(change(Change::ResumeRequested { spec: Some(Box::new(spec("longer"))) }).await.expect("kept")),
        11 => drop(change(Change::CancelRequested).await.expect("kept")),
        12 => store.delete_job(JOB).await.expect("deleted"),
        13 => drop(store.change_job(OTHER_JOB, Change::CancelRequested, now()).await.expect("kept")),
        _ => unreachable!("the script has {STEPS} steps"),
    }
}

/// All that a store tells.
pub async fn content(store: &dyn Store) -> String {
    let mut text = String::new();
    let jobs = store.jobs(JobQuery { limit: 10, ..JobQuery::default() }).await.expect("listed");
    for job in jobs {
        writeln!(text, "{job:?}").expect("a text");
        let events = store.events(&job.job_id, 0).await.expect("listed");
        let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
        let gapless: Vec<_> = (1..=job.last_sequence).collect();
        assert_eq!(numbers, gapless, "events of {}", job.job_id);
        writeln!(text, "{events:?}").expect("a text");
    }
    for id in [JOB, OTHER_JOB] {
        let made = store.job_of_request(&request(id)).await.expect("looked up");
        writeln!(text, "{:?}", made.map(|job| job.job_id)).expect("a text");
    }
    let uploads = UploadQuery { kind: Kind::Dataset, project: None, before: None, limit: 10 };
    writeln!(text, "{:?}", store.uploads(uploads).await.expect("listed")).expect("a text");
    text
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

fn spec(display_name: &str) -> JobSpec {
    JobSpec {
        display_name: display_name.into(),
        labels: [("team".into(), "search".into())].into(),
        base_model: "file:///model".into(),
        task: Task::Sft(SftTask::new(Training::on(vec![ROWS.into()]), LossOn::default())),
        resources: Resources::default(),
        max_retries: 0,
    }
}

fn job(id: &str) -> NewJob {
    let (record, events) = JobRecord::new(id.into(), "default".into(), spec("as asked"), String::new(), now());
    let limits = JobLimits { max_queued: 9, max_of_project: None };
    NewJob { record, events, request: Some(request(id)), inputs: vec![ROWS.into()], limits }
}

fn request(job_id: &str) -> Request {
    Request { project: "default".into(), id: format!("makes {job_id}"), body_sha256: "b".into() }
}

fn upload() -> Upload {
    Upload {
        id: ROWS.into(),
        ordinal: 0,
        project: "default".into(),
        display_name: "rows.jsonl".into(),
        files: vec![File { name: "rows.jsonl".into(), size_bytes: 7, sha256: "c".into() }],
        uri: "file:///rows.jsonl".into(),
        create_time: now(),
    }
}

fn reports(first: u64, bodies: Vec<Body>) -> Change {
    let reports = (first..).zip(bodies).map(|(number, body)| Report { number, time: now(), body }).collect();
    Change::Reported { attempt: 1, reports }
}

fn trained(step: u64) -> Body {
    Body::Event(Event::TrainStep(TrainStep { step, loss: Some(0.5), ..TrainStep::default() }))
}

fn saved(step: u64) -> Body {
    Body::Event(Event::CheckpointSaved(CheckpointSaved {
        checkpoint_id: format!("step-{step:06}"),
        step,
        uri: format!("file:///checkpoints/step-{step:06}"),
        size_bytes: 1,
        eval_loss: None,
        seconds: 0.0,
    }))
}
