//! Jobs, events and request ids as rows. Every function is one transaction.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use hone_job::event::JobEvent;
use hone_job::id::Kind;
use hone_job::state::State;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, named_params, params, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::record::{Change, JobRecord};
use crate::store::{
    Changed, Error, JobLimits, JobQuery, MAX_EVENT_BYTES, MAX_EVENTS, NewJob, Request, Result, Tally, upload_kind,
};

/// A job's columns, in the order in which [`from_row`] reads them by name; the place in the queue is counted.
const SELECT: &str = "SELECT *, CASE state WHEN 'QUEUED' THEN
    (SELECT count(*) FROM jobs AS other WHERE other.state = 'QUEUED' AND other.ordinal <= jobs.ordinal)
    ELSE 0 END AS queue_position FROM jobs";

/// The states of jobs that have ended.
pub(super) const FINAL_STATES: &str = "('CANCELLED', 'SUCCEEDED', 'FAILED')";

pub(super) fn create(connection: &mut Connection, job: NewJob) -> Result<JobRecord> {
    let transaction = connection.transaction()?;
    if let Some(request) = &job.request
        && let Some(made) = of_request(&transaction, request)?
    {
        return Ok(made);
    }
    let waiting: u32 =
        transaction.query_row("SELECT count(*) FROM jobs WHERE state = 'QUEUED'", [], |row| row.get(0))?;
    let JobLimits { max_queued, max_of_project } = job.limits;
    if waiting >= max_queued {
        return Err(Error::QueueFull { max_queued });
    }
    let project = &job.record.project;
    let count = format!("SELECT count(*) FROM jobs WHERE project = ?1 AND state NOT IN {FINAL_STATES}");
    let living: u32 = transaction.query_row(&count, [project], |row| row.get(0))?;
    if let Some(max_jobs) = max_of_project.filter(|max| living >= *max) {
        return Err(Error::TooManyJobs { project: project.clone(), max_jobs });
    }
    for id in &job.inputs {
        let found = transaction.query_row("SELECT 1 FROM uploads WHERE id = ?1", [id], |_| Ok(())).optional()?;
        found.ok_or_else(|| Error::NotFound { kind: upload_kind(id), id: id.clone() })?;
    }
    let job_id = &job.record.job_id;
    insert(&transaction, &job.record)?;
    for event in &job.events {
        insert_event(&transaction, job_id, event)?;
    }
    for (key, value) in &job.record.spec.labels {
        transaction.execute("INSERT INTO labels (job_id, key, value) VALUES (?1, ?2, ?3)", [job_id, key, value])?;
    }
    for id in &job.inputs {
        transaction.execute("INSERT OR IGNORE INTO inputs (job_id, upload_id) VALUES (?1, ?2)", [job_id, id])?;
    }
    if let Some(request) = &job.request {
        let insert = "INSERT INTO requests (project, request_id, body_sha256, job_id) VALUES (?1, ?2, ?3, ?4)";
        transaction.execute(insert, [&request.project, &request.id, &request.body_sha256, job_id])?;
    }
    let made = get(&transaction, job_id)?;
    transaction.commit()?;
    Ok(made)
}

pub(super) fn of_request(connection: &Connection, request: &Request) -> Result<Option<JobRecord>> {
    let select = "SELECT body_sha256, job_id FROM requests WHERE project = ?1 AND request_id = ?2";
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
    match connection.query_row(select, [&request.project, &request.id], read).optional()? {
        None => Ok(None),
        Some((body, job_id)) if body == request.body_sha256 => get(connection, &job_id).map(Some),
        Some((_, job_id)) => Err(Error::RequestReused { request_id: request.id.clone(), job_id }),
    }
}

pub(super) fn get(connection: &Connection, job_id: &str) -> Result<JobRecord> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE job_id = ?1"))?;
    let mut rows = statement.query([job_id])?;
    match rows.next()? {
        Some(row) => from_row(row),
        None => Err(Error::NotFound { kind: Kind::Job, id: job_id.to_string() }),
    }
}

pub(super) fn list(connection: &Connection, query: &JobQuery) -> Result<Vec<JobRecord>> {
    let mut conditions = vec!["ordinal < ?".to_string()];
    let mut values = vec![Value::from(query.before.map_or(i64::MAX, |before| before as i64))];
    if let Some(project) = &query.project {
        conditions.push("project = ?".into());
        values.push(Value::from(project.clone()));
    }
    if !query.states.is_empty() {
        conditions.push(format!("state IN ({})", vec!["?"; query.states.len()].join(", ")));
        values.extend(query.states.iter().map(|state| Value::from(state.to_string())));
    }
    for (key, value) in &query.labels {
        conditions.push("job_id IN (SELECT job_id FROM labels WHERE key = ? AND value = ?)".into());
        values.extend([Value::from(key.clone()), Value::from(value.clone())]);
    }
    values.push(Value::from(query.limit as i64));
    let select = format!("{SELECT} WHERE {} ORDER BY ordinal DESC LIMIT ?", conditions.join(" AND "));
    let mut statement = connection.prepare(&select)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(from_row(row)?);
    }
    Ok(found)
}

pub(super) fn next_queued(connection: &Connection, now: DateTime<Utc>) -> Result<Option<JobRecord>> {
    // Times are written so that their texts are in the order of the times.
    let waits = "CASE WHEN retry_time > ?1 THEN retry_time ELSE '' END";
    let select = format!("{SELECT} WHERE state = 'QUEUED' ORDER BY {waits}, ordinal LIMIT 1");
    let mut statement = connection.prepare_cached(&select)?;
    let mut rows = statement.query([text(now)])?;
    rows.next()?.map(from_row).transpose()
}

pub(super) fn change(connection: &mut Connection, job_id: &str, change: Change, now: DateTime<Utc>) -> Result<Changed> {
    let transaction = connection.transaction()?;
    let mut record = get(&transaction, job_id)?;
    let is_resumed = matches!(change, Change::ResumeRequested { .. });
    let events = record.apply(change, now).map_err(|refusal| Error::Refused { job_id: job_id.to_string(), refusal })?;
    update(&transaction, &record)?;
    if is_resumed {
        let spec = serde_json::to_string(&record.spec)?;
        transaction.execute("UPDATE jobs SET spec = ?1 WHERE job_id = ?2", [&spec, job_id])?;
    }
    for event in &events {
        insert_event(&transaction, job_id, event)?;
    }
    let job = get(&transaction, job_id)?;
    transaction.commit()?;
    Ok(Changed { job, events })
}

pub(super) fn tally(connection: &Connection) -> Result<Tally> {
    let select = "SELECT state, count(*), min(CASE WHEN attempt = 0 THEN create_time END) FROM jobs GROUP BY state";
    let mut statement = connection.prepare_cached(select)?;
    let mut rows = statement.query([])?;
    let mut tally = Tally::default();
    while let Some(row) = rows.next()? {
        let of = state(&row.get::<_, String>(0)?)?;
        tally.states.push((of, row.get::<_, i64>(1)?.max(0) as u64));
        if of == State::Queued {
            tally.waiting_since = row.get::<_, Option<String>>(2)?.as_deref().map(time).transpose()?;
        }
    }
    Ok(tally)
}

pub(super) fn events(connection: &Connection, job_id: &str, after: u64) -> Result<Vec<JobEvent>> {
    let select = "SELECT sequence, time, attempt, trace_id, event FROM events WHERE job_id = ?1 AND sequence > ?2
        ORDER BY sequence LIMIT ?3";
    let mut statement = connection.prepare_cached(select)?;
    let mut rows = statement.query(params![job_id, clamp(after), MAX_EVENTS as i64])?;
    let mut found = Vec::new();
    let mut num_bytes = 0;
    while let Some(row) = rows.next()? {
        let event: String = row.get("event")?;
        num_bytes += event.len();
        if num_bytes > MAX_EVENT_BYTES && !found.is_empty() {
            break;
        }
        found.push(JobEvent {
            sequence: unsigned(row, "sequence")?,
            time: time(&row.get::<_, String>("time")?)?,
            attempt: row.get("attempt")?,
            trace_id: row.get("trace_id")?,
            event: serde_json::from_str(&event)?,
        });
    }
    if found.is_empty() {
        get(connection, job_id)?;
    }
    Ok(found)
}

pub(super) fn delete(connection: &mut Connection, job_id: &str) -> Result<()> {
    let transaction = connection.transaction()?;
    let record = get(&transaction, job_id)?;
    if !record.state.is_final() {
        return Err(Error::NotFinal { job_id: job_id.to_string(), state: record.state });
    }
    transaction.execute("DELETE FROM jobs WHERE job_id = ?1", [job_id])?;
    transaction.commit()?;
    Ok(())
}

fn insert(connection: &Connection, record: &JobRecord) -> Result<()> {
    let insert =
        "INSERT INTO jobs (job_id, project, spec, state, state_detail, create_time, trace, attempt, attempt_over,
        secret_sha256, process, last_report, last_sequence, step, total_steps, last_checkpoint)
        VALUES (?1, ?2, ?3, ?4, '', ?5, ?6, 0, 1, '', '', 0, ?7, 0, 0, '')";
    let spec = serde_json::to_string(&record.spec)?;
    let state = record.state.to_string();
    let (created, sequence) = (text(record.create_time), record.last_sequence as i64);
    let values = params![record.job_id, record.project, spec, state, created, record.trace, sequence];
    connection.execute(insert, values)?;
    Ok(())
}

/// Everything that can change at any time; the spec does so only when a job is resumed.
fn update(connection: &Connection, record: &JobRecord) -> Result<()> {
    let update = "UPDATE jobs SET state = :state, state_detail = :state_detail, start_time = :start_time,
        end_time = :end_time, attempt = :attempt, attempt_over = :attempt_over, secret_sha256 = :secret_sha256,
        attempt_trace = :attempt_trace, process = :process, retries = :retries, retry_time = :retry_time, last_report = :last_report, last_sequence = :last_sequence, step = :step, total_steps = :total_steps,
        last_checkpoint = :last_checkpoint, failure = :failure, result = :result WHERE job_id = :job_id";
    connection.prepare_cached(update)?.execute(named_params! {
        ":job_id": record.job_id,
        ":state": record.state.to_string(),
        ":state_detail": record.state_detail,
        ":start_time": record.start_time.map(text),
        ":end_time": record.end_time.map(text),
        ":attempt": record.attempt,
        ":attempt_over": record.attempt_over,
        ":secret_sha256": record.secret_sha256,
        ":attempt_trace": record.attempt_trace,
        ":process": record.process,
        ":retries": record.retries,
        ":retry_time": record.retry_time.map(text),
        ":last_report": clamp(record.last_report),
        ":last_sequence": clamp(record.last_sequence),
        ":step": clamp(record.step),
        ":total_steps": clamp(record.total_steps),
        ":last_checkpoint": record.last_checkpoint,
        ":failure": json(&record.failure)?,
        ":result": json(&record.result)?,
    })?;
    Ok(())
}

fn insert_event(connection: &Connection, job_id: &str, event: &JobEvent) -> Result<()> {
    let insert =
        "INSERT INTO events (job_id, sequence, time, attempt, trace_id, event) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let body = serde_json::to_string(&event.event)?;
    let (sequence, time) = (clamp(event.sequence), text(event.time));
    let values: [&dyn ToSql; 6] = [&job_id, &sequence, &time, &event.attempt, &event.trace_id, &body];
    connection.prepare_cached(insert)?.execute(values)?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> Result<JobRecord> {
    Ok(JobRecord {
        job_id: row.get("job_id")?,
        project: row.get("project")?,
        ordinal: unsigned(row, "ordinal")?,
        spec: serde_json::from_str(&row.get::<_, String>("spec")?)?,
        state: state(&row.get::<_, String>("state")?)?,
        state_detail: row.get("state_detail")?,
        queue_position: unsigned(row, "queue_position")?,
        create_time: time(&row.get::<_, String>("create_time")?)?,
        start_time: row.get::<_, Option<String>>("start_time")?.as_deref().map(time).transpose()?,
        end_time: row.get::<_, Option<String>>("end_time")?.as_deref().map(time).transpose()?,
        attempt: row.get("attempt")?,
        attempt_over: row.get("attempt_over")?,
        secret_sha256: row.get("secret_sha256")?,
        trace: row.get("trace")?,
        attempt_trace: row.get("attempt_trace")?,
        process: row.get("process")?,
        retries: row.get("retries")?,
        retry_time: row.get::<_, Option<String>>("retry_time")?.as_deref().map(time).transpose()?,
        last_report: unsigned(row, "last_report")?,
        last_sequence: unsigned(row, "last_sequence")?,
        step: unsigned(row, "step")?,
        total_steps: unsigned(row, "total_steps")?,
        last_checkpoint: row.get("last_checkpoint")?,
        failure: parsed(row, "failure")?,
        result: parsed(row, "result")?,
    })
}

/// SQLite's integers are signed; a number past their end is as good as their end.
fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: &str) -> Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}

fn json<T: Serialize>(value: &Option<T>) -> Result<Option<String>> {
    Ok(value.as_ref().map(serde_json::to_string).transpose()?)
}

fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

fn time(text: &str) -> Result<DateTime<Utc>> {
    DateTime::from_str(text).map_err(|error| Error::Failed(format!("{text:?} is no time: {error}")))
}

fn state(text: &str) -> Result<State> {
    let known = State::ALL.into_iter().find(|state| state.to_string() == text);
    known.ok_or_else(|| Error::Failed(format!("{text:?} is no state of a job")))
}
