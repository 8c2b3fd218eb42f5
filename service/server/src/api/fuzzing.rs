//! Doors for the fuzzers of `fuzz/`, since the conversions behind them are nobody else's: bytes as a stranger may send them
//! in, nothing out. What is looked for are panics, hangs, and answers that do not fit together.

use chrono::DateTime;
use hone_job::event::JobEvent;
use hone_job::spec::limits::MAX_VIOLATIONS;
use hone_job::spec::{JobSpec, LossOn, SftTask, Task, Training};
use hone_proto::trainer::v1 as trainer;
use hone_proto::v1 as pb;
use prost::Message;
use tonic::Status;
use trainer::attach_request::Message as Said;

use super::convert;
use super::status::Problem;
use super::trainer::recorded;
use crate::record::{Change, JobRecord, Report};

/// A job spec, as a message or as JSON as it is stored. One that is refused is refused briefly; one that is not comes back
/// from a message and from JSON as it was.
pub fn job_spec(bytes: &[u8]) {
    let (spec, violations) = if bytes.starts_with(b"{") {
        let Ok(spec) = serde_json::from_slice::<JobSpec>(bytes) else { return };
        let violations = spec.validate();
        (spec, violations)
    } else {
        let Ok(message) = pb::JobSpec::decode(bytes) else { return };
        convert::job_spec(Some(message))
    };
    if !violations.is_empty() {
        assert!(violations.len() <= MAX_VIOLATIONS, "{} violations", violations.len());
        let status = Status::from(Problem::invalid(violations));
        assert!(status.details().len() < 16 << 10, "{} bytes of details", status.details().len());
        return;
    }
    let _ = spec.warnings();
    let json = serde_json::to_vec(&spec).expect("a spec has JSON");
    assert_eq!(serde_json::from_slice::<JobSpec>(&json).expect("a stored spec is read"), spec);
    let (again, violations) = convert::job_spec(convert::job(record(spec.clone())).spec);
    assert_eq!((again, violations), (spec, Vec::new()));
}

/// What a trainer sends after its hello, each message behind its length: recorded as far as it makes sense, and shown to
/// watchers.
pub fn trainer_frames(mut bytes: &[u8]) {
    let mut job = record(JobSpec {
        display_name: String::new(),
        labels: Default::default(),
        base_model: "model".into(),
        task: Task::Sft(SftTask::new(Training::on(vec!["rows".into()]), LossOn::default())),
        resources: Default::default(),
        max_retries: 1,
    });
    let started = Change::AttemptStarted { secret_sha256: String::new(), trace: String::new() };
    job.apply(started, DateTime::UNIX_EPOCH).expect("a queued job may start");
    while let Ok(said) = trainer::AttachRequest::decode_length_delimited(&mut bytes) {
        let Some(Said::Report(report)) = said.message else { continue };
        let Ok(report) = recorded(report, DateTime::UNIX_EPOCH) else { continue };
        // As if it came in its turn: a gap is refused before anything else is looked at.
        let report = Report { number: job.last_report + 1, ..report };
        let mut next = job.clone();
        let change = Change::Reported { attempt: 1, reports: vec![report] };
        let Ok(events) = next.apply(change, DateTime::UNIX_EPOCH) else { continue };
        for event in events {
            let json = serde_json::to_vec(&event).expect("an event has JSON");
            let stored: JobEvent = serde_json::from_slice(&json).expect("a stored event is read");
            assert_eq!(stored, event);
            let _ = convert::event(event).encode_to_vec();
        }
        let _ = convert::job(next.clone()).encode_to_vec();
        job = next;
    }
}

fn record(spec: JobSpec) -> JobRecord {
    JobRecord::new("job".into(), "default".into(), spec, String::new(), DateTime::UNIX_EPOCH).0
}
