//! Creating, listing, cancelling and deleting.

use std::collections::HashMap;

use hone_proto::trainer::v1 as tp;
use hone_proto::v1 as pb;
use tonic::Code;
use tonic_types::StatusExt;

use super::{assert_refused, told};
use crate::testing::{Harness, Trainer, request_spec, soon};

fn create(request_id: &str, spec: pb::JobSpec) -> pb::CreateJobRequest {
    pb::CreateJobRequest { spec: Some(spec), request_id: request_id.into(), validate_only: false }
}

fn named(name: &str) -> pb::JobSpec {
    pb::JobSpec { display_name: name.into(), ..request_spec() }
}

#[tokio::test]
async fn a_job_runs_from_its_creation_to_its_end() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    assert_eq!(launched.launch.job_id, job_id);
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.running().await;
    assert_eq!(server.get(&job_id).await.state(), pb::JobState::Running);
    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    drop(trainer);
    launched.exit(crate::executor::Status::Code(0));
    let events = server.events(&job_id).await;
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(matches!(events[0].event, Some(pb::job_event::Event::EffectiveSpec(_))));
    let job = server.get(&job_id).await;
    assert_eq!((job.state(), job.attempt, job.last_sequence), (pb::JobState::Succeeded, 1, 4));
    assert!(job.start_time.is_some() && job.end_time.is_some());
}

#[tokio::test]
async fn everything_wrong_with_a_request_comes_back_at_once() {
    let server = Harness::start_with(|options| {
        options.access = crate::access::Access::new("file:///root", &["s3://rows".into()]).unwrap();
    })
    .await;
    let mut spec = request_spec();
    spec.base_model = Some(pb::BaseModel { uri: hone_job::id::Kind::Model.fresh() });
    let Some(pb::job_spec::Task::Sft(sft)) = &mut spec.task else { unreachable!() };
    let data = sft.data.get_or_insert_default();
    data.train = vec!["s3://rows/a.jsonl".into(), "file:///etc/passwd".into(), "rows.jsonl".into(), "ftp://x/y".into()];
    data.eval = vec![hone_job::id::Kind::Dataset.fresh()];
    data.over_length = 99;
    sft.optimizer = Some(pb::OptimizerSpec { learning_rate: Some(-1.0), ..Default::default() });
    sft.init_from = Some("file:///etc/adapter".into());
    let request = pb::CreateJobRequest { request_id: "x".repeat(200), ..create("", spec) };
    let status = soon(server.jobs().create_job(request)).await.unwrap_err();
    let (code, reason, mut fields) = told(&status);
    fields.sort();
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
    assert_eq!(
        fields,
        [
            "request_id",
            "spec.base_model.uri",
            "spec.sft.data.eval[0]",
            "spec.sft.data.over_length",
            "spec.sft.data.train[1]",
            "spec.sft.data.train[2]",
            "spec.sft.data.train[3]",
            "spec.sft.init_from",
            "spec.sft.optimizer.learning_rate",
        ]
    );
}

#[tokio::test]
async fn a_request_without_spec_or_task_says_what_is_required() {
    let server = Harness::start().await;
    let empty = soon(server.jobs().create_job(pb::CreateJobRequest::default())).await.unwrap_err();
    assert_eq!(told(&empty).2, ["spec.base_model.uri", "spec.task"]);
    let no_task = pb::JobSpec { task: None, ..request_spec() };
    let no_task = soon(server.jobs().create_job(create("", no_task))).await.unwrap_err();
    assert_eq!(told(&no_task).2, ["spec.task"]);
}

#[tokio::test]
async fn a_request_id_gives_the_same_job_and_refuses_another_body() {
    let server = Harness::start().await;
    let labels = HashMap::from([("a".to_string(), "1".to_string()), ("b".to_string(), "2".to_string())]);
    let spec = pb::JobSpec { labels, ..request_spec() };
    let first = soon(server.jobs().create_job(create("once", spec.clone()))).await.unwrap().into_inner().job.unwrap();
    let again = soon(server.jobs().create_job(create("once", spec))).await.unwrap().into_inner().job.unwrap();
    assert_eq!(first.job_id, again.job_id);
    let other = soon(server.jobs().create_job(create("once", named("other")))).await;
    let status = assert_refused(other, Code::AlreadyExists, "REQUEST_ID_REUSED");
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["job_id"], first.job_id);
}

#[tokio::test]
async fn validate_only_shows_the_effective_spec_and_creates_nothing() {
    let server = Harness::start().await;
    let request = pb::CreateJobRequest { validate_only: true, ..create("", request_spec()) };
    let job = soon(server.jobs().create_job(request)).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.job_id, "");
    let Some(pb::job_spec::Task::Sft(sft)) = job.spec.unwrap().task else { unreachable!() };
    assert_eq!(sft.seed, Some(42));
    let listed = soon(server.jobs().list_jobs(pb::ListJobsRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed, pb::ListJobsResponse::default());
}

#[tokio::test]
async fn a_full_queue_asks_to_come_back_later() {
    let mut server = Harness::start_with(|options| options.limits.max_queued_jobs = 1).await;
    server.create().await;
    server.launch().await;
    let waiting = server.create().await;
    assert_eq!(server.get(&waiting).await.state_detail, "place 1 in the queue");
    let refused = soon(server.jobs().create_job(create("", request_spec()))).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "QUEUE_FULL");
    assert!(status.get_error_details().retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
}

#[tokio::test]
async fn jobs_start_in_the_order_they_came() {
    let mut server = Harness::start().await;
    let (first, second, third) = (server.create().await, server.create().await, server.create().await);
    for expected in [first, second, third] {
        let launched = server.launch().await;
        assert_eq!(launched.launch.job_id, expected);
        assert!(!server.has_launched());
        launched.exit(crate::executor::Status::Code(1));
    }
}

#[tokio::test]
async fn cancel_while_queued_never_spawns() {
    let mut server = Harness::start().await;
    server.create().await;
    let first = server.launch().await;
    let waiting = server.create().await;
    let cancel = pb::CancelJobRequest { job_id: waiting.clone() };
    let job = soon(server.jobs().cancel_job(cancel)).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.state(), pb::JobState::Cancelled);
    let last = server.create().await;
    first.exit(crate::executor::Status::Code(1));
    assert_eq!(server.launch().await.launch.job_id, last);
}

#[tokio::test]
async fn a_running_job_is_told_to_cancel_and_ends_cancelled() {
    let mut server = Harness::start().await;
    let (job_id, launched, mut trainer) = server.running_job().await;
    let cancel = || pb::CancelJobRequest { job_id: job_id.clone() };
    for _ in 0..2 {
        let job = soon(server.jobs().cancel_job(cancel())).await.unwrap().into_inner().job.unwrap();
        assert_eq!(job.state(), pb::JobState::Cancelling);
    }
    assert_eq!(trainer.command().await, tp::Command::Cancel);
    trainer.finish(tp::finished::End::Stopped(tp::Stopped { checkpoint_id: "step-000003".into() })).await;
    launched.exit(crate::executor::Status::Code(0));
    assert_eq!(server.events(&job_id).await.len(), 5);
    let job = soon(server.jobs().cancel_job(cancel())).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.state(), pb::JobState::Cancelled);
}

#[tokio::test]
async fn only_ended_jobs_are_deleted() {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    let delete = || pb::DeleteJobRequest { job_id: job_id.clone() };
    assert_refused(soon(server.jobs().delete_job(delete())).await, Code::FailedPrecondition, "JOB_NOT_FINAL");
    launched.exit(crate::executor::Status::Signal(9));
    server.events(&job_id).await;
    let logs = server.folder.path().join("logs");
    std::fs::create_dir_all(&logs).unwrap();
    let log = logs.join(format!("{job_id}-1.log"));
    std::fs::write(&log, "a line").unwrap();
    soon(server.jobs().delete_job(delete())).await.unwrap();
    assert!(!log.exists(), "its logs go with it");
    let get = pb::GetJobRequest { job_id: job_id.clone() };
    assert_refused(soon(server.jobs().get_job(get)).await, Code::NotFound, "NOT_FOUND");
    assert_refused(soon(server.jobs().delete_job(delete())).await, Code::NotFound, "NOT_FOUND");
}

#[tokio::test]
async fn ids_of_another_shape_are_never_looked_for() {
    let server = Harness::start().await;
    for bad in ["../../etc", "job-1", "ds-0123456789abcdef0123456789abcdef"] {
        let get = pb::GetJobRequest { job_id: bad.into() };
        assert_refused(soon(server.jobs().get_job(get)).await, Code::NotFound, "NOT_FOUND");
    }
    let empty = soon(server.jobs().get_job(pb::GetJobRequest::default())).await.unwrap_err();
    assert_eq!(told(&empty).2, ["job_id"]);
}

#[tokio::test]
async fn pages_follow_each_other_under_the_same_filters() {
    let mut server = Harness::start().await;
    let mut made = Vec::new();
    for index in 0..5 {
        let labels = HashMap::from([("even".to_string(), (index % 2 == 0).to_string())]);
        let spec = pb::JobSpec { labels, ..request_spec() };
        let job = soon(server.jobs().create_job(create("", spec))).await.unwrap().into_inner().job.unwrap();
        made.push(job.job_id);
    }
    server.launch().await;
    let labels = HashMap::from([("even".to_string(), "true".to_string())]);
    let mut request = pb::ListJobsRequest { page_size: 2, labels, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = soon(server.jobs().list_jobs(request.clone())).await.unwrap().into_inner();
        seen.extend(page.jobs.into_iter().map(|job| job.job_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, [made[4].clone(), made[2].clone(), made[0].clone()]);
    let other = pb::ListJobsRequest { labels: HashMap::new(), ..request.clone() };
    assert_eq!(told(&soon(server.jobs().list_jobs(other)).await.unwrap_err()).2, ["page_token"]);
    let negative = pb::ListJobsRequest { page_size: -1, ..Default::default() };
    assert_eq!(told(&soon(server.jobs().list_jobs(negative)).await.unwrap_err()).2, ["page_size"]);
    let unknown = pb::ListJobsRequest { states: vec![77], ..Default::default() };
    assert_eq!(told(&soon(server.jobs().list_jobs(unknown)).await.unwrap_err()).2, ["states"]);
    let preparing = pb::ListJobsRequest { states: vec![pb::JobState::Preparing.into()], ..Default::default() };
    let preparing = soon(server.jobs().list_jobs(preparing)).await.unwrap().into_inner();
    assert_eq!(preparing.jobs.len(), 1);
}
