//! The trace of a call is where it can be found again: in jobs, events, errors, and with the trainer.

use hone_proto::v1 as pb;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::testing::{Create, Harness, Trainer, request_spec, soon};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// A call that is part of that trace.
fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE_ID}-b7ad6b7169203331-01").parse().unwrap());
    request
}

/// The trace that an error names.
fn named(status: &Status) -> String {
    let details = status.get_error_details();
    assert!(details.error_info().is_some(), "what it said before is still there: {details:?}");
    details.request_info().unwrap().request_id.clone()
}

#[tokio::test]
async fn an_error_names_the_trace_of_its_call_wherever_it_comes_from() {
    let mut server = Harness::start().await;
    let mut jobs = server.jobs();
    let missing = pb::GetJobRequest { job_id: format!("job-{}", "0".repeat(32)) };
    let error = soon(jobs.get_job(within(missing.clone()))).await.unwrap_err();
    assert_eq!((error.code(), named(&error).as_str()), (Code::NotFound, TRACE_ID));
    // One that nobody began.
    let error = soon(jobs.get_job(missing.clone())).await.unwrap_err();
    let own = named(&error);
    assert!(own.len() == 32 && own != TRACE_ID);
    // A traceparent that is none.
    let mut odd = Request::new(missing);
    odd.metadata_mut().insert("traceparent", "00-canary".parse().unwrap());
    let error = soon(jobs.get_job(odd)).await.unwrap_err();
    assert!(named(&error).len() == 32 && !named(&error).contains("canary"));
    // An error in the middle of a stream.
    let job_id = server.create().await;
    let launched = server.launch().await;
    let watch = pb::WatchJobRequest { job_id, after_sequence: 0 };
    let mut stream = soon(jobs.watch_job(within(watch))).await.unwrap().into_inner();
    server.stop();
    let error = loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream should have broken off"),
            Err(error) => break error,
        }
    };
    assert_eq!((error.code(), named(&error).as_str()), (Code::Unavailable, TRACE_ID));
    launched.exit(crate::executor::Status::Code(0));
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn a_job_belongs_to_the_trace_of_its_call_and_each_attempt_has_one_of_its_own() {
    let mut server = Harness::start().await;
    let create = Create { spec: Some(request_spec()), ..Default::default() };
    let job = soon(server.jobs().create_job(within(create))).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.trace_id, TRACE_ID);
    let launched = server.launch().await;
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.running().await;
    let of_attempt = trainer.welcome.traceparent.split('-').nth(1).unwrap().to_owned();
    assert!(of_attempt.len() == 32 && of_attempt != TRACE_ID, "{}", trainer.welcome.traceparent);
    launched.exit(crate::executor::Status::Signal(9));
    drop(trainer);
    for event in server.events(&job.job_id).await {
        let expected = if event.attempt == 0 { TRACE_ID } else { &of_attempt };
        assert_eq!(event.trace_id, expected, "{event:?}");
    }
}
