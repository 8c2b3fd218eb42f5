//! What the page of metrics shows of jobs and calls.

use std::collections::BTreeSet;

use hone_job::event::{CheckpointSaved, Evaluation, Event, TrainStep, Warning};
use hone_job::machine::ResourceUsage;
use hone_proto::trainer::v1 as tp;
use hone_proto::v1 as pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::executor::Status;
use crate::metrics::Listen;
use crate::metrics::table::ALL;
use crate::testing::{Harness, Trainer, soon};

/// The page's text, as a scraper gets it.
async fn scrape(server: &Harness) -> String {
    let address = std::fs::read_to_string(server.folder.path().join("metrics-port")).unwrap();
    let mut stream = TcpStream::connect(address.trim()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

async fn server() -> Harness {
    let server = Harness::start_with(|options| {
        let port_file = options.data_dir.join("metrics-port");
        // A folder that is empty goes with the object that the server writes and deletes at start.
        std::fs::write(&port_file, "").unwrap();
        options.metrics = Some(Listen { listen: ([127, 0, 0, 1], 0).into(), port_file: Some(port_file) });
    })
    .await;
    // The first answer comes when everything listens.
    soon(server.jobs().list_jobs(pb::ListJobsRequest::default())).await.unwrap();
    server
}

/// Whether a line of the page says this.
fn says(page: &str, line: &str) -> bool {
    page.lines().any(|one| one == line)
}

#[tokio::test]
async fn what_happens_is_counted_once() {
    let mut server = server().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    let mut watch = server.watch(&job_id, 0).await;
    soon(watch.message()).await.unwrap();
    let mut trainer = Trainer::attach(&server, &launched.launch).await.unwrap();
    trainer.running().await;
    for step in 1..=3 {
        let step = TrainStep { step, tokens: 100, step_seconds: 0.5, skipped: step == 2, ..TrainStep::default() };
        trainer.event(Event::TrainStep(step)).await;
    }
    trainer.event(Event::Evaluation(Evaluation { seconds: 2.0, ..Evaluation::default() })).await;
    let usage = ResourceUsage {
        host_memory_bytes: 4096,
        cpu_cores: 1.5,
        device_memory_bytes: Some(512),
        device_utilization: Some(0.25),
        storage_read_bytes_per_second: Some(10.0),
        storage_write_bytes_per_second: Some(2000.5),
        ..ResourceUsage::default()
    };
    trainer.event(Event::ResourceUsage(usage)).await;
    for code in ["checkpoint_not_saved", "Nobody's <code>"] {
        trainer.event(Event::Warning(Warning { code: code.into(), message: "canary".into() })).await;
    }
    let saved =
        CheckpointSaved { checkpoint_id: "step-000003".into(), size_bytes: 5000, seconds: 7.0, ..Default::default() };
    let number = trainer.event(Event::CheckpointSaved(saved)).await;
    trainer.acknowledged(number).await.unwrap();
    // What is sent again is not counted again.
    trainer.report_as(number, tp::report::Body::Running(tp::Running {})).await;
    trainer.acknowledged(number).await.unwrap();

    let page = scrape(&server).await;
    for line in [
        r#"hone_jobs{state="RUNNING"} 1"#,
        r#"hone_jobs{state="FAILED"} 0"#,
        r#"hone_jobs_created_total{task="sft"} 1"#,
        "hone_queue_age_seconds 0",
        "hone_queue_wait_seconds_count 1",
        "hone_attempts_running 1",
        r#"hone_attempts_started_total{task="sft"} 1"#,
        "hone_watches 1",
        r#"hone_step_duration_seconds_sum{task="sft"} 1.5"#,
        r#"hone_step_duration_seconds_count{task="sft"} 3"#,
        r#"hone_step_tokens_total{task="sft"} 300"#,
        "hone_steps_skipped_total 1",
        r#"hone_evaluation_duration_seconds_sum{task="sft"} 2"#,
        r#"hone_warnings_total{code="checkpoint_not_saved"} 1"#,
        r#"hone_warnings_total{code="other"} 1"#,
        "hone_checkpoint_duration_seconds_sum 7",
        "hone_checkpoint_size_bytes_sum 5000",
        "hone_trainer_memory_bytes 4096",
        "hone_trainer_cpu 1.5",
        "hone_trainer_storage_read_bytes_per_second 10",
        "hone_trainer_storage_write_bytes_per_second 2000.5",
        "hone_device_memory_bytes 512",
        "hone_device_utilization_ratio 0.25",
    ] {
        assert!(says(&page, line), "{line} is not in\n{page}");
    }
    // Of the events one is the spec, two are changes of state.
    assert!(says(&page, "hone_events_total 11"), "{page}");
    for secret in [job_id.as_str(), "canary", "/models/a", "rows.jsonl", "default", "step-000003"] {
        assert!(!page.contains(secret), "{secret} is in\n{page}");
    }

    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    launched.exit(Status::Code(0));
    while soon(watch.message()).await.unwrap().is_some() {}
    drop(watch);
    let page = scrape(&server).await;
    for line in [r#"hone_jobs_ended_total{state="SUCCEEDED",task="sft"} 1"#, "hone_watches 0"] {
        assert!(says(&page, line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn calls_and_failures_are_counted_by_how_they_end() {
    let mut server = server().await;
    let job_id = server.create().await;
    let launched = server.launch().await;
    launched.exit(Status::Signal(9));
    server.events(&job_id).await;
    server.jobs().get_job(pb::GetJobRequest { job_id: "job-none".into() }).await.unwrap_err();
    let page = scrape(&server).await;
    for line in [
        r#"hone_attempts_failed_total{reason="TRAINER_CRASHED"} 1"#,
        r#"hone_jobs_ended_total{state="FAILED",task="sft"} 1"#,
        r#"rpc_server_call_duration_seconds_count{rpc_method="hone.v1.JobService/GetJob",rpc_response_status_code="NOT_FOUND",rpc_system_name="grpc"} 1"#,
        r#"rpc_server_call_duration_seconds_count{rpc_method="hone.v1.JobService/CreateJob",rpc_response_status_code="OK",rpc_system_name="grpc"} 1"#,
        r#"rpc_server_call_duration_seconds_count{rpc_method="hone.v1.JobService/WatchJob",rpc_response_status_code="OK",rpc_system_name="grpc"} 1"#,
    ] {
        assert!(says(&page, line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn the_page_shows_what_the_table_defines_and_nothing_else() {
    let server = server().await;
    let page = scrape(&server).await;
    let defined: BTreeSet<String> =
        ALL.iter().map(|metric| format!("{} {}", metric.prometheus_name(), metric.kind_name())).collect();
    let shown =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter(|line| *line != "target_info gauge");
    for line in shown {
        assert!(defined.contains(line), "{line} is in no table");
    }
    for metric in ALL {
        let help = format!("# HELP {} {}", metric.prometheus_name(), metric.help);
        let is_shown = page.contains(&format!("# TYPE {} ", metric.prometheus_name()));
        assert!(!is_shown || says(&page, &help), "{help}");
    }
    for name in ["process_cpu_time_seconds_total counter", "process_open_fds gauge"] {
        assert!(says(&page, &format!("# TYPE {name}")), "{name} is not in\n{page}");
    }
}
