//! The store in one SQLite file: two threads of its own, one that writes and one that reads, so that no query ever runs
//! on a thread that serves calls.
//!
//! WAL lets the two work side by side. `synchronous = FULL`, since a report that was acknowledged is forgotten by its
//! trainer and an event that was seen has a number: neither may be taken back by a power cut. Reports come in batches,
//! so the price is one sync for many.

use std::path::{Path, PathBuf};
use std::thread;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hone_job::event::JobEvent;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use tokio::sync::{mpsc, oneshot};

use super::{Changed, Error, JobQuery, NewJob, Request, Result, Store, Tally, Upload, UploadQuery};
use crate::record::{Change, JobRecord};

mod jobs;
mod uploads;

/// What makes the tables of each version from those of the version before, from an empty file on. Only ever added to.
const MIGRATIONS: [&str; 4] = [
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
];

/// Version of the tables that this code reads and writes.
const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Calls waiting for a thread; more wait in line themselves.
const QUEUE: usize = 64;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refused.
    #[error("{path}: cannot open the job store: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file is not what SQLite wrote.
    #[error(
        "{path}: the job store is damaged: {what}; put back a copy of it, or start with another data folder: checkpoints, models and datasets lie in the storage root"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first fault that was found.
        what: String,
    },
    /// Another hone wrote it.
    #[error(
        "{path}: the job store has schema version {found}, this hone-server knows {SCHEMA_VERSION}: use the version that wrote it, or another data folder"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
    },
}

/// The store; dropping it ends its threads after the calls that are under way.
#[derive(Debug)]
pub struct Sqlite {
    writer: Worker,
    reader: Worker,
}

impl Sqlite {
    /// Opens the file, or creates it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Sqlite { path: path.to_path_buf(), source };
        let mut writer = Connection::open(path).map_err(failed)?;
        configure(&writer).map_err(failed)?;
        if let Some(what) = damage(&writer).map_err(failed)? {
            return Err(OpenError::Damaged { path: path.to_path_buf(), what });
        }
        let found = prepare_schema(&mut writer).map_err(failed)?;
        if found != SCHEMA_VERSION {
            return Err(OpenError::Schema { path: path.to_path_buf(), found });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags).map_err(failed)?;
        Ok(Self { writer: Worker::start("store-writer", writer), reader: Worker::start("store-reader", reader) })
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// The first fault of a file, if it has one: pages that do not fit together, or rows of what is not there.
fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let checked: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if checked != "ok" {
        return Ok(Some(checked));
    }
    let orphan = |row: &Row<'_>| Ok(format!("a row of {} belongs to nothing", row.get::<_, String>(0)?));
    connection.query_row("PRAGMA foreign_key_check", [], orphan).optional()
}

/// Brings the tables of a new or an older file up to date, all or nothing; returns the version that the file has.
fn prepare_schema(connection: &mut Connection) -> rusqlite::Result<i64> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let Some(missing) = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..)) else {
        return Ok(found);
    };
    let transaction = connection.transaction()?;
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(SCHEMA_VERSION)
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread that owns a connection.
#[derive(Debug)]
struct Worker {
    work: mpsc::Sender<Work>,
}

impl Worker {
    fn start(name: &str, mut connection: Connection) -> Self {
        let (work, mut incoming) = mpsc::channel::<Work>(QUEUE);
        let run = move || {
            while let Some(work) = incoming.blocking_recv() {
                work(&mut connection);
            }
        };
        thread::Builder::new().name(name.to_string()).spawn(run).expect("a thread can be started");
        Self { work }
    }

    async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    {
        let gone = || Error::Failed("its thread is gone".into());
        let (answer, answered) = oneshot::channel();
        // A caller who went away needs no answer; the work is done all the same.
        let work: Work = Box::new(move |connection| drop(answer.send(work(connection))));
        self.work.send(work).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Error::Failed(error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Failed(format!("a stored record does not parse: {error}"))
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn create_job(&self, job: NewJob) -> Result<JobRecord> {
        self.writer.call(move |connection| jobs::create(connection, job)).await
    }

    async fn job_of_request(&self, request: &Request) -> Result<Option<JobRecord>> {
        let request = request.clone();
        self.reader.call(move |connection| jobs::of_request(connection, &request)).await
    }

    async fn job(&self, job_id: &str) -> Result<JobRecord> {
        let job_id = job_id.to_string();
        self.reader.call(move |connection| jobs::get(connection, &job_id)).await
    }

    async fn jobs(&self, query: JobQuery) -> Result<Vec<JobRecord>> {
        self.reader.call(move |connection| jobs::list(connection, &query)).await
    }

    async fn next_queued(&self, now: DateTime<Utc>) -> Result<Option<JobRecord>> {
        self.reader.call(move |connection| jobs::next_queued(connection, now)).await
    }

    async fn change_job(&self, job_id: &str, change: Change, now: DateTime<Utc>) -> Result<Changed> {
        let job_id = job_id.to_string();
        self.writer.call(move |connection| jobs::change(connection, &job_id, change, now)).await
    }

    async fn tally(&self) -> Result<Tally> {
        self.reader.call(move |connection| jobs::tally(connection)).await
    }

    async fn events(&self, job_id: &str, after: u64) -> Result<Vec<JobEvent>> {
        let job_id = job_id.to_string();
        self.reader.call(move |connection| jobs::events(connection, &job_id, after)).await
    }

    async fn delete_job(&self, job_id: &str) -> Result<()> {
        let job_id = job_id.to_string();
        self.writer.call(move |connection| jobs::delete(connection, &job_id)).await
    }

    async fn create_upload(&self, upload: Upload, max_bytes: Option<u64>) -> Result<Upload> {
        self.writer.call(move |connection| uploads::create(connection, upload, max_bytes)).await
    }

    async fn uploaded_bytes(&self, project: &str) -> Result<u64> {
        let project = project.to_string();
        self.reader.call(move |connection| uploads::bytes_of(connection, &project)).await
    }

    async fn upload(&self, id: &str) -> Result<Upload> {
        let id = id.to_string();
        self.reader.call(move |connection| uploads::get(connection, &id)).await
    }

    async fn uploads(&self, query: UploadQuery) -> Result<Vec<Upload>> {
        self.reader.call(move |connection| uploads::list(connection, &query)).await
    }

    async fn delete_upload(&self, id: &str) -> Result<Upload> {
        let id = id.to_string();
        self.writer.call(move |connection| uploads::delete(connection, &id)).await
    }
}

#[cfg(test)]
mod tests;
