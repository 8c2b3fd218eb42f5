//! What only a file can do: outlive the process, and be of another version.

use hone_job::id::Kind;

use super::*;
use crate::record::JobRecord;
use crate::testing::spec;

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hone.db");
    let (record, events) = JobRecord::new(Kind::Job.fresh(), spec(), Utc::now());
    let job = NewJob { record, events, request: None, inputs: Vec::new(), max_queued: 1 };
    let store = Sqlite::open(&path).unwrap();
    let made = store.create_job(job).await.unwrap();
    let started = Change::AttemptStarted { secret_sha256: "s".into() };
    let changed = store.change_job(&made.job_id, started, Utc::now()).await.unwrap();
    drop(store);
    let store = Sqlite::open(&path).unwrap();
    assert_eq!(store.job(&made.job_id).await.unwrap(), changed);
    assert_eq!(store.events(&made.job_id, 0).await.unwrap().len(), 2);
}

#[test]
fn another_schema_version_is_refused_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hone.db");
    drop(Sqlite::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let error = Sqlite::open(&path).unwrap_err().to_string();
    assert!(error.contains("hone.db") && error.contains("schema version 7"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hone.db");
    std::fs::write(&path, "this is a text and no database at all").unwrap();
    let error = Sqlite::open(&path).unwrap_err().to_string();
    assert!(error.contains("hone.db"), "{error}");
}

/// A file that the first version wrote, with a job in it: it is brought up to date, and the job is there.
#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hone.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    let mut spec = serde_json::to_value(crate::testing::spec()).unwrap();
    spec.as_object_mut().unwrap().remove("max_retries");
    let insert =
        "INSERT INTO jobs (job_id, spec, state, state_detail, create_time, attempt, attempt_over, secret_sha256,
        process, last_report, last_sequence, step, total_steps, last_checkpoint)
        VALUES ('job-1', ?1, 'RUNNING', 'training', '2026-11-24T22:00:00Z', 1, 0, 's', '', 3, 4, 5, 6, 'file:///c')";
    old.execute(insert, [spec.to_string()]).unwrap();
    drop(old);
    let store = Sqlite::open(&path).unwrap();
    let job = store.job("job-1").await.unwrap();
    assert_eq!((job.step, job.retries, job.retry_time), (5, 0, None));
    assert_eq!(job.spec.max_retries, hone_job::spec::JobSpec::DEFAULT_MAX_RETRIES);
    drop(store);
    assert_eq!(Sqlite::open(&path).unwrap().job("job-1").await.unwrap(), job, "and stays so");
}
