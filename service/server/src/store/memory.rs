//! The store in memory, for tests: the same behaviour as the suite asks of every store, gone with the process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hone_job::event::JobEvent;
use hone_job::id::Kind;
use hone_job::state::State;

use super::{
    Changed, Error, JobLimits, JobQuery, MAX_EVENTS, NewJob, Request, Result, Store, Tally, Upload, UploadQuery,
    upload_kind,
};
use crate::record::{Change, JobRecord};

/// Everything, under one lock, which makes every call a transaction.
#[derive(Default)]
pub(crate) struct Memory {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    jobs: Vec<Row>,
    requests: HashMap<(String, String), (String, String)>,
    uploads: Vec<Upload>,
    ordinals: u64,
}

struct Row {
    record: JobRecord,
    events: Vec<JobEvent>,
    inputs: Vec<String>,
}

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn index(&self, job_id: &str) -> Result<usize> {
        let found = self.jobs.iter().position(|row| row.record.job_id == job_id);
        found.ok_or_else(|| Error::NotFound { kind: Kind::Job, id: job_id.to_string() })
    }

    fn view(&self, record: &JobRecord) -> JobRecord {
        let waiting = self.jobs.iter().filter(|row| row.record.state == State::Queued);
        let queue_position = match record.state {
            State::Queued => waiting.filter(|row| row.record.ordinal <= record.ordinal).count() as u64,
            _ => 0,
        };
        JobRecord { queue_position, ..record.clone() }
    }

    fn get(&self, job_id: &str) -> Result<JobRecord> {
        Ok(self.view(&self.jobs[self.index(job_id)?].record))
    }

    fn of_request(&self, request: &Request) -> Result<Option<JobRecord>> {
        match self.requests.get(&(request.project.clone(), request.id.clone())) {
            None => Ok(None),
            Some((body, job_id)) if *body == request.body_sha256 => self.get(job_id).map(Some),
            Some((_, job_id)) => Err(Error::RequestReused { request_id: request.id.clone(), job_id: job_id.clone() }),
        }
    }

    fn upload(&self, id: &str) -> Result<&Upload> {
        let found = self.uploads.iter().find(|upload| upload.id == id);
        found.ok_or_else(|| Error::NotFound { kind: upload_kind(id), id: id.to_string() })
    }

    fn uploaded_bytes(&self, project: &str) -> u64 {
        self.uploads.iter().filter(|upload| upload.project == project).map(Upload::size_bytes).sum()
    }

    fn next_ordinal(&mut self) -> u64 {
        self.ordinals += 1;
        self.ordinals
    }
}

#[async_trait]
impl Store for Memory {
    async fn create_job(&self, job: NewJob) -> Result<JobRecord> {
        let mut tables = self.tables();
        if let Some(request) = &job.request
            && let Some(made) = tables.of_request(request)?
        {
            return Ok(made);
        }
        let waiting = tables.jobs.iter().filter(|row| row.record.state == State::Queued).count();
        let JobLimits { max_queued, max_of_project } = job.limits;
        if waiting >= max_queued as usize {
            return Err(Error::QueueFull { max_queued });
        }
        let project = &job.record.project;
        let living = tables.jobs.iter().filter(|row| row.record.project == *project && !row.record.state.is_final());
        let living = living.count();
        if let Some(max_jobs) = max_of_project.filter(|max| living >= *max as usize) {
            return Err(Error::TooManyJobs { project: project.clone(), max_jobs });
        }
        for id in &job.inputs {
            tables.upload(id)?;
        }
        let ordinal = tables.next_ordinal();
        let record = JobRecord { ordinal, ..job.record };
        let job_id = record.job_id.clone();
        if let Some(request) = job.request {
            tables.requests.insert((request.project, request.id), (request.body_sha256, job_id.clone()));
        }
        tables.jobs.push(Row { record, events: job.events, inputs: job.inputs });
        tables.get(&job_id)
    }

    async fn job_of_request(&self, request: &Request) -> Result<Option<JobRecord>> {
        self.tables().of_request(request)
    }

    async fn job(&self, job_id: &str) -> Result<JobRecord> {
        self.tables().get(job_id)
    }

    async fn jobs(&self, query: JobQuery) -> Result<Vec<JobRecord>> {
        let tables = self.tables();
        let matches = |record: &&JobRecord| {
            let labels = &record.spec.labels;
            query.project.as_ref().is_none_or(|project| record.project == *project)
                && query.before.is_none_or(|before| record.ordinal < before)
                && (query.states.is_empty() || query.states.contains(&record.state))
                && query.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let records = tables.jobs.iter().rev().map(|row| &row.record).filter(matches);
        Ok(records.take(query.limit).map(|record| tables.view(record)).collect())
    }

    async fn next_queued(&self, now: DateTime<Utc>) -> Result<Option<JobRecord>> {
        let tables = self.tables();
        let queued = tables.jobs.iter().map(|row| &row.record).filter(|record| record.state == State::Queued);
        let next = queued.min_by_key(|record| (record.retry_time.filter(|time| *time > now), record.ordinal));
        Ok(next.map(|record| tables.view(record)))
    }

    async fn change_job(&self, job_id: &str, change: Change, now: DateTime<Utc>) -> Result<Changed> {
        let mut tables = self.tables();
        let index = tables.index(job_id)?;
        let row = &mut tables.jobs[index];
        let mut record = row.record.clone();
        let events =
            record.apply(change, now).map_err(|refusal| Error::Refused { job_id: job_id.to_string(), refusal })?;
        row.record = record;
        row.events.extend(events.iter().cloned());
        Ok(Changed { job: tables.get(job_id)?, events })
    }

    async fn tally(&self) -> Result<Tally> {
        let tables = self.tables();
        let records = || tables.jobs.iter().map(|row| &row.record);
        let count = |state| records().filter(|record| record.state == state).count() as u64;
        let waiting = records().filter(|record| record.state == State::Queued && record.attempt == 0);
        Ok(Tally {
            states: State::ALL.into_iter().map(|state| (state, count(state))).collect(),
            waiting_since: waiting.map(|record| record.create_time).min(),
        })
    }

    async fn events(&self, job_id: &str, after: u64) -> Result<Vec<JobEvent>> {
        let tables = self.tables();
        let events = tables.jobs[tables.index(job_id)?].events.iter();
        Ok(events.filter(|event| event.sequence > after).take(MAX_EVENTS).cloned().collect())
    }

    async fn delete_job(&self, job_id: &str) -> Result<()> {
        let mut tables = self.tables();
        let index = tables.index(job_id)?;
        let state = tables.jobs[index].record.state;
        if !state.is_final() {
            return Err(Error::NotFinal { job_id: job_id.to_string(), state });
        }
        tables.jobs.remove(index);
        tables.requests.retain(|_, (_, made)| made != job_id);
        Ok(())
    }

    async fn create_upload(&self, upload: Upload, max_bytes: Option<u64>) -> Result<Upload> {
        let mut tables = self.tables();
        let total = tables.uploaded_bytes(&upload.project) + upload.size_bytes();
        if let Some(max_bytes) = max_bytes.filter(|max| total > *max) {
            return Err(Error::TooManyBytes { project: upload.project, max_bytes });
        }
        let ordinal = tables.next_ordinal();
        let upload = Upload { ordinal, ..upload };
        tables.uploads.push(upload.clone());
        Ok(upload)
    }

    async fn upload(&self, id: &str) -> Result<Upload> {
        self.tables().upload(id).cloned()
    }

    async fn uploaded_bytes(&self, project: &str) -> Result<u64> {
        Ok(self.tables().uploaded_bytes(project))
    }

    async fn uploads(&self, query: UploadQuery) -> Result<Vec<Upload>> {
        let tables = self.tables();
        let matches = |upload: &&Upload| {
            upload.kind() == query.kind
                && query.project.as_ref().is_none_or(|project| upload.project == *project)
                && query.before.is_none_or(|before| upload.ordinal < before)
        };
        Ok(tables.uploads.iter().rev().filter(matches).take(query.limit).cloned().collect())
    }

    async fn delete_upload(&self, id: &str) -> Result<Upload> {
        let mut tables = self.tables();
        let upload = tables.upload(id)?.clone();
        let mut readers = tables.jobs.iter().filter(|row| row.inputs.iter().any(|input| input == id));
        if let Some(row) = readers.find(|row| !row.record.state.is_final()) {
            return Err(Error::InUse { id: id.to_string(), job_id: row.record.job_id.clone() });
        }
        tables.uploads.retain(|upload| upload.id != id);
        Ok(upload)
    }
}
