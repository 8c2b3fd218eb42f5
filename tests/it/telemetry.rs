//! Traces and metrics of the whole system, as a collector gets them; and that nobody waits for a collector.

use std::time::Duration;

use hone_client::v1::{self, job_event::Event};
use hone_client::{Client, Outcome};
use hone_telemetry::{TraceContext, Traces, resource};
use hone_tests::{
    Collector, NoCollector, SeaweedFs, Sent, Setup, events_of, fixture_model, repository, sft, soon, uri,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

/// Few steps on a tiny model, a checkpoint on the way, held-out rows.
fn run(model: String, rows: String) -> v1::JobSpec {
    let mut spec = sft(model, rows);
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.batch = Some(v1::BatchSpec { examples_per_step: Some(8), ..Default::default() });
    task.length = Some(v1::sft_task::Length::MaxSteps(6));
    task.checkpoints = Some(v1::CheckpointSpec { every_steps: Some(3), ..Default::default() });
    if let Some(data) = &mut task.data {
        data.eval_fraction = Some(0.2);
    }
    spec
}

fn short_run() -> v1::JobSpec {
    run(uri(fixture_model("llama_tied")), uri(repository().join("tests/fixtures/sft/rows.jsonl")))
}

/// A server with a real trainer, which send what they have to tell at once.
fn setup(url: &str) -> Setup {
    let often = [
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
    ];
    let setup = Setup::default().with_real_trainer().flag("--otlp-endpoint", url);
    setup.environment(often.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

fn find<'a>(spans: &'a [Sent], service: &str, name: &str) -> &'a Sent {
    let found = spans.iter().find(|sent| sent.service == service && sent.span.name == name);
    found.unwrap_or_else(|| panic!("no span {name} of {service}"))
}

fn has(spans: &[Sent], service: &str, name: &str) -> bool {
    spans.iter().any(|sent| sent.service == service && sent.span.name == name)
}

#[tokio::test]
async fn a_job_leads_from_its_call_to_the_requests_of_its_store() {
    let bucket = SeaweedFs::bucket("traces").await;
    let collector = Collector::start().await;
    let server = setup(&collector.url()).environment(bucket.environment()).flag("--storage-root", bucket.uri());
    let server = server.flag("--allow-uri", "file:///").start().await;
    let client = server.client().await;

    // A pipeline with spans of its own.
    let own = hone_telemetry::Collector::find(Some(collector.url()), |_| None);
    let traces = Traces::open(own.as_ref(), resource("pipeline", "1")).unwrap();
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    let _guard = tracing::subscriber::set_default(subscriber);
    let nightly = tracing::info_span!(target: "hone_pipeline", "nightly");
    let place = TraceContext::of(&nightly).unwrap();
    let job = client.create_job(short_run()).instrument(nightly).await.unwrap();
    let events = events_of(&job).await;
    tokio::task::spawn_blocking(move || traces.end(Duration::from_secs(10))).await.unwrap();

    let made = job.get().await.unwrap();
    assert_eq!(made.trace_id, place.trace_id(), "the job knows the trace of the call");
    let of_attempt = events.last().unwrap().trace_id.clone();
    assert!(of_attempt.len() == 32 && of_attempt != made.trace_id, "an attempt has a trace of its own");
    for event in &events {
        let expected = if event.attempt == 0 { &made.trace_id } else { &of_attempt };
        assert_eq!(&event.trace_id, expected, "{event:?}");
    }

    let is_all = |spans: &[Sent]| {
        let requests = spans.iter().filter(|sent| sent.service == "hone-trainer" && sent.span.name == "PUT").count();
        has(spans, "pipeline", "nightly")
            && has(spans, "hone-server", "attempt")
            && has(spans, "hone-server", "hone.v1.JobService/CreateJob")
            && ["prepare", "step", "evaluation", "snapshot"].iter().all(|name| has(spans, "hone-trainer", name))
            && spans.iter().filter(|sent| sent.span.name == "checkpoint").count() == 2
            && requests >= 8
    };
    let spans = collector.spans("all spans", is_all).await;
    let nightly = find(&spans, "pipeline", "nightly");
    let call = find(&spans, "hone-server", "hone.v1.JobService/CreateJob");
    assert_eq!((call.trace_id(), &call.span.parent_span_id), (made.trace_id.clone(), &nightly.span.span_id));
    assert_eq!(call.text("rpc.response.status_code"), Some("OK"));

    let attempt = find(&spans, "hone-server", "attempt");
    assert_eq!((attempt.trace_id(), attempt.span.parent_span_id.len()), (of_attempt.clone(), 0));
    let [link] = &attempt.span.links[..] else { panic!("{:?}", attempt.span.links) };
    assert_eq!((&link.trace_id, &link.span_id), (&call.span.trace_id, &call.span.span_id), "it leads to the call");
    for name in ["prepare", "step", "evaluation", "snapshot", "checkpoint"] {
        let part = find(&spans, "hone-trainer", name);
        assert_eq!((part.trace_id(), &part.span.parent_span_id), (of_attempt.clone(), &attempt.span.span_id), "{name}");
    }
    let steps = spans.iter().filter(|sent| sent.span.name == "step").count();
    assert_eq!(steps, 3, "the first ones; further ones in a while");
    let uploads: Vec<_> = spans.iter().filter(|sent| sent.span.name == "upload").collect();
    let checkpoints: Vec<_> = spans.iter().filter(|sent| sent.span.name == "checkpoint").collect();
    for upload in &uploads {
        assert!(checkpoints.iter().any(|one| one.span.span_id == upload.span.parent_span_id));
    }
    let put = spans.iter().find(|sent| sent.service == "hone-trainer" && sent.span.name == "PUT").unwrap();
    assert!(uploads.iter().any(|upload| upload.span.span_id == put.span.parent_span_id), "{put:?}");
    let nobody = spans.iter().find(|sent| sent.service == "hone-server" && sent.span.parent_span_id.is_empty());
    assert!(nobody.is_some_and(|root| root.span.name == "attempt"), "{nobody:?}");
    drop(server);
    bucket.clear().await;
}

#[tokio::test]
async fn metrics_go_to_the_collector_under_the_names_of_the_table() {
    let collector = Collector::start().await;
    let key = ("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), "api-key=known-to-us".to_owned());
    let server = setup(&collector.url()).environment([key]).start().await;
    events_of(&server.client().await.create_job(short_run()).await.unwrap()).await;
    for name in ["hone.jobs", "hone.jobs.ended", "hone.step.duration", "rpc.server.call.duration", "process.cpu.time"] {
        let defined = hone_server::metrics::table::ALL.iter().find(|metric| metric.name == name).unwrap();
        let metric = collector.metric("hone-server", name).await;
        assert_eq!((metric.unit.as_str(), metric.description.as_str()), (defined.unit, defined.help));
        let kind = match metric.data.unwrap() {
            Data::Gauge(_) => "gauge",
            Data::Sum(_) => "counter",
            Data::Histogram(_) => "histogram",
            other => panic!("{other:?}"),
        };
        assert_eq!(kind, defined.kind_name(), "{name}");
    }
    let keys = collector.keys();
    assert!(!keys.is_empty() && keys.iter().all(|key| key == "known-to-us"), "{keys:?}");
}

#[tokio::test]
async fn an_error_names_the_trace_of_its_call() {
    let server = Setup::default().environment([("HONE_LOG_FORMAT".into(), "json".into())]).start().await;
    let client = server.client().await;
    let error = client.get_job(&format!("job-{}", "0".repeat(32))).await.unwrap_err();
    let rpc = error.rpc().unwrap();
    assert_eq!((rpc.reason.as_str(), rpc.trace_id.len()), ("NOT_FOUND", 32), "{rpc:?}");
    // Refused before anybody looked at it.
    let stream = client.job("nothing").get().await.unwrap_err();
    assert_eq!(stream.rpc().unwrap().trace_id.len(), 32);
    // Without a collector, too: log lines, events and errors can be found by it.
    let job = server.job().await;
    let made = job.get().await.unwrap();
    server.says(&format!(r#""trace_id":"{}""#, made.trace_id)).await;
    let events = events_of(&job).await;
    assert!(events.iter().all(|event| event.trace_id.len() == 32));
}

/// The losses of a job's steps and the digests of its last checkpoint.
async fn outcome(client: &Client) -> (Vec<f64>, Vec<String>) {
    let job = client.create_job(short_run()).await.unwrap();
    let events = events_of(&job).await;
    let losses = events.iter().filter_map(|event| match &event.event {
        Some(Event::TrainStep(step)) => step.loss,
        _ => None,
    });
    let losses = losses.collect();
    let Outcome::Succeeded(result) = job.wait().await.unwrap().outcome else { panic!("{events:?}") };
    let checkpoint = client.get_checkpoint(job.id(), &result.final_checkpoint_id).await.unwrap();
    let weights = checkpoint.files.into_iter().filter(|file| file.name.ends_with(".safetensors"));
    (losses, weights.map(|file| file.sha256).collect())
}

#[tokio::test]
async fn training_ends_the_same_whatever_the_collector_does() {
    let plain = Setup::default().with_real_trainer().start().await;
    let expected = outcome(&plain.client().await).await;
    assert!(expected.0.len() == 6 && !expected.1.is_empty(), "{expected:?}");
    plain.stop().await;
    let (silent, lying) = (NoCollector::silent().await, NoCollector::lying().await);
    for url in ["http://127.0.0.1:9".to_owned(), silent.url(), lying.url()] {
        let server = setup(&url).start().await;
        assert_eq!(outcome(&server.client().await).await, expected, "{url}");
        server.says("the collector takes no").await;
        assert!(server.stop().await.success(), "{url}: the server leaves in good order");
    }
}

#[tokio::test]
async fn a_collector_that_makes_no_sense_is_told_at_start() {
    let ended = Setup::default().flag("--otlp-endpoint", "not a url").run().await;
    assert_eq!(ended.code(), 1);
    assert!(ended.stderr.contains("--otlp-endpoint"), "{}", ended.stderr);
    let waited =
        soon("a page", async { hone_tests::Setup::default().flag("--metrics-listen", "127.0.0.1:0").start().await });
    waited.await.says("/metrics").await;
}
