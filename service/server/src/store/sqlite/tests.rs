//! What only a file can do: outlive the process, and be of another version.

use hone_job::id::Kind;

use super::*;
use crate::record::JobRecord;
use crate::store::JobLimits;
use crate::testing::spec;

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hone.db");
    let (record, events) = JobRecord::new(Kind::Job.fresh(), "default".into(), spec(), String::new(), Utc::now());
    let job = NewJob {
        record,
        events,
        request: None,
        inputs: Vec::new(),
        limits: JobLimits { max_queued: 1, max_of_project: None },
    };
    let store = Sqlite::open(&path).unwrap();
    let made = store.create_job(job).await.unwrap();
    let started = Change::AttemptStarted { secret_sha256: "s".into(), trace: String::new() };
    let changed = store.change_job(&made.job_id, started, Utc::now()).await.unwrap().job;
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

#[tokio::test]
async fn a_damaged_file_is_found_at_start_and_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hone.db");
    let store = Sqlite::open(&path).unwrap();
    for _ in 0..50 {
        let (record, events) = JobRecord::new(Kind::Job.fresh(), "default".into(), spec(), String::new(), Utc::now());
        let limits = JobLimits { max_queued: 50, max_of_project: None };
        store.create_job(NewJob { record, events, request: None, inputs: Vec::new(), limits }).await.unwrap();
    }
    drop(store);
    // What is in the log goes into the file, so that the file is what is read.
    Connection::open(&path).unwrap().pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let len = bytes.len();
    bytes[len / 2..len / 2 + 4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = Sqlite::open(&path).unwrap_err().to_string();
    assert!(error.contains("hone.db: the job store is damaged") && error.contains("storage root"), "{error}");
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

/// A file of version 2, with a job, its request id and two uploads.
fn old_file(path: &Path) {
    let connection = Connection::open(path).unwrap();
    for migration in &MIGRATIONS[..2] {
        connection.execute_batch(migration).unwrap();
    }
    let spec = serde_json::to_string(&spec()).unwrap();
    let insert = "INSERT INTO jobs VALUES (1, 'job-old', ?1, 'QUEUED', '', '2026-01-01T00:00:00Z', NULL, NULL,
        0, 1, '', '', 0, 0, 0, 0, '', NULL, NULL, 0, NULL)";
    connection.execute(insert, [spec]).unwrap();
    connection.execute("INSERT INTO requests VALUES ('once', 'body', 'job-old')", []).unwrap();
    let record = r#"{"id": "ds-old", "display_name": "rows", "uri": "file:///rows", "create_time": "2026-01-01T00:00:00Z",
        "files": [{"name": "a", "size_bytes": 3, "sha256": ""}, {"name": "b", "size_bytes": 4, "sha256": ""}]}"#;
    connection.execute("INSERT INTO uploads VALUES (1, 'ds-old', 'ds', ?1)", [record]).unwrap();
    connection.pragma_update(None, "user_version", 2).unwrap();
}

#[tokio::test]
async fn what_an_older_version_stored_belongs_to_the_default_project() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hone.db");
    old_file(&path);
    let store = Sqlite::open(&path).unwrap();
    assert_eq!(store.job("job-old").await.unwrap().project, "default");
    assert_eq!(store.upload("ds-old").await.unwrap().project, "default");
    assert_eq!(store.uploaded_bytes("default").await.unwrap(), 7);
    let request = Request { project: "default".into(), id: "once".into(), body_sha256: "body".into() };
    assert_eq!(store.job_of_request(&request).await.unwrap().unwrap().job_id, "job-old");
}
