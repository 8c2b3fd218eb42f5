//! Between the public API and the domain, and nowhere else. Jobs, events, checkpoints and uploads become messages; specs
//! are read and shown by `hone_spec`, which clients use as well.

use chrono::{DateTime, Utc};
use hone_job::checkpoint::Manifest;
use hone_job::id::Kind;
use hone_job::spec::Violation;
use hone_job::state::State;
use hone_proto::v1 as pb;
use prost_types::Timestamp;

use crate::record::{JobRecord, trace_id};
use crate::store::Upload;

mod event;
mod machine;
mod preview;
mod score;

pub(super) use event::{event, report};
pub(super) use hone_spec::{job_spec, sampling};
pub(super) use preview::preview_spec;

/// A job as its callers see it.
pub(super) fn job(record: JobRecord) -> pb::Job {
    let state_detail = match record.queue_position {
        0 => record.state_detail,
        place => format!("place {place} in the queue"),
    };
    pb::Job {
        job_id: record.job_id,
        spec: Some(hone_spec::message(record.spec)),
        state: state(record.state).into(),
        state_detail,
        create_time: Some(timestamp(record.create_time)),
        start_time: record.start_time.map(timestamp),
        end_time: record.end_time.map(timestamp),
        attempt: record.attempt,
        last_sequence: record.last_sequence,
        step: record.step,
        total_steps: record.total_steps,
        failure: record.failure.map(event::failure),
        result: record.result.filter(|_| record.state == State::Succeeded).map(event::outcome),
        project: record.project,
        trace_id: trace_id(&record.trace),
    }
}

/// A checkpoint as its callers see it.
pub(super) fn checkpoint(checkpoint_id: String, uri: String, manifest: Manifest) -> pb::Checkpoint {
    pb::Checkpoint {
        checkpoint_id,
        step: manifest.step,
        create_time: manifest.created_at.parse().ok().map(timestamp),
        uri,
        size_bytes: manifest.size_bytes(),
        eval_loss: manifest.metrics.get("eval_loss").copied(),
        attempt: manifest.attempt,
        job_id: manifest.job_id,
        files: manifest
            .files
            .into_iter()
            .map(|file| pb::CheckpointFile { name: file.name, size_bytes: file.size_bytes, sha256: file.sha256 })
            .collect(),
    }
}

/// A dataset as its callers see it.
pub(super) fn dataset(upload: Upload) -> pb::Dataset {
    debug_assert_eq!(upload.kind(), Kind::Dataset);
    let size_bytes = upload.size_bytes();
    let file = upload.files.into_iter().next();
    pb::Dataset {
        dataset_id: upload.id,
        file_name: upload.display_name,
        size_bytes,
        sha256: file.map(|file| file.sha256).unwrap_or_default(),
        create_time: Some(timestamp(upload.create_time)),
        uri: upload.uri,
        project: upload.project,
    }
}

/// A model as its callers see it.
pub(super) fn model(upload: Upload) -> pb::Model {
    debug_assert_eq!(upload.kind(), Kind::Model);
    pb::Model {
        size_bytes: upload.size_bytes(),
        model_id: upload.id,
        display_name: upload.display_name,
        create_time: Some(timestamp(upload.create_time)),
        uri: upload.uri,
        project: upload.project,
        files: upload
            .files
            .into_iter()
            .map(|file| pb::ModelFile { name: file.name, size_bytes: file.size_bytes, sha256: file.sha256 })
            .collect(),
    }
}

/// The states that a list is filtered by.
pub(super) fn states(states: &[i32]) -> Result<Vec<State>, Violation> {
    let known = |number: &i32| State::ALL.into_iter().find(|known| i32::from(state(*known)) == *number);
    let unknown = |number: &i32| Violation::new("states", format!("{number} is no state of a job"));
    states.iter().map(|number| known(number).ok_or_else(|| unknown(number))).collect()
}

fn state(state: State) -> pb::JobState {
    match state {
        State::Queued => pb::JobState::Queued,
        State::Preparing => pb::JobState::Preparing,
        State::Running => pb::JobState::Running,
        State::Pausing => pb::JobState::Pausing,
        State::Paused => pb::JobState::Paused,
        State::Cancelling => pb::JobState::Cancelling,
        State::Cancelled => pb::JobState::Cancelled,
        State::Succeeded => pb::JobState::Succeeded,
        State::Failed => pb::JobState::Failed,
    }
}

/// A time as a message.
pub(super) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos() as i32 }
}

/// A message as a time, if it is one.
pub(super) fn time(timestamp: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(timestamp.seconds, u32::try_from(timestamp.nanos).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_message_and_times_come_back() {
        let numbers: Vec<i32> = State::ALL.into_iter().map(|one| state(one).into()).collect();
        assert_eq!(states(&numbers).unwrap(), State::ALL);
        assert!(states(&[0]).is_err());
        let now = Utc::now();
        assert_eq!(time(&timestamp(now)), Some(now));
        let before = DateTime::from_timestamp(-5, 7).unwrap();
        assert_eq!(time(&timestamp(before)), Some(before));
    }
}
