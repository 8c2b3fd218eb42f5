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
