//! Every metric there is: name, unit, kind, labels and help. What goes out over OTLP and what Prometheus reads are made from
//! it, docs/metrics.md is written from it, and the alerts and the dashboard in k8s/ are held to it.
//!
//! Names and units are OpenTelemetry's (units by UCUM); those of its semantic conventions where it has some. No label takes a
//! value that grows with use: no job, project, model or host is named.

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its unit: `s`, `By`, `1` for a ratio, or what is counted in braces.
    pub unit: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// A sum that grows and shrinks.
    UpDown,
    /// A value at a time.
    Gauge,
    /// Values in buckets, whose upper bounds these are.
    Histogram(&'static [f64]),
}

/// Bounds that OpenTelemetry's conventions give for calls, in seconds, and a minute for uploads.
const CALLS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 60.0];
/// What a trainer does: from a tiny step to an hour.
const WORK: &[f64] = &[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Waits in a queue, from a second to a week.
const WAITS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 604800.0];
/// From a tiny adapter to a large model with its moments, in bytes.
const SIZES: &[f64] = &[1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11];

macro_rules! metrics {
    ($($constant:ident = $name:literal, $unit:literal, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, unit: $unit, kind: $kind, labels: &[$($label),*], help: $help };
        )*
        /// All of them.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

#[rustfmt::skip]
metrics! {
    JOBS = "hone.jobs", "{job}", Kind::Gauge, ["state"], "Jobs in the store, by state.";
    JOBS_CREATED = "hone.jobs.created", "{job}", Kind::Counter, ["task"], "Jobs created.";
    JOBS_ENDED = "hone.jobs.ended", "{job}", Kind::Counter, ["task", "state"], "Jobs that have reached a final state.";
    QUEUE_AGE = "hone.queue.age", "s", Kind::Gauge, [], "Age of the oldest job that waits for its first attempt; 0 when none does.";
    QUEUE_WAIT = "hone.queue.wait", "s", Kind::Histogram(WAITS), [], "Time from a job's creation to its first attempt.";
    ATTEMPTS_RUNNING = "hone.attempts.running", "{attempt}", Kind::Gauge, [], "Attempts that run now.";
    ATTEMPTS_STARTED = "hone.attempts.started", "{attempt}", Kind::Counter, ["task"], "Attempts started.";
    ATTEMPTS_FAILED = "hone.attempts.failed", "{attempt}", Kind::Counter, ["reason"], "Attempts that failed, by the reason of the failure; another one may have followed.";
    EVENTS = "hone.events", "{event}", Kind::Counter, [], "Events stored.";
    WATCHES = "hone.watches", "{watch}", Kind::UpDown, [], "Streams of events that are open.";
    STEP_DURATION = "hone.step.duration", "s", Kind::Histogram(WORK), ["task"], "Wall time of an optimizer step.";
    STEP_TOKENS = "hone.step.tokens", "{token}", Kind::Counter, ["task"], "Tokens that went through models in training.";
    STEPS_SKIPPED = "hone.steps.skipped", "{step}", Kind::Counter, [], "Updates skipped since loss or gradient was not finite.";
    EVALUATION_DURATION = "hone.evaluation.duration", "s", Kind::Histogram(WORK), ["task"], "Wall time of an evaluation of held-out rows.";
    WARNINGS = "hone.warnings", "{warning}", Kind::Counter, ["code"], "Warnings in events, by their code.";
    CHECKPOINT_DURATION = "hone.checkpoint.duration", "s", Kind::Histogram(WORK), [], "Time from a checkpoint's snapshot until it was verified in storage.";
    CHECKPOINT_SIZE = "hone.checkpoint.size", "By", Kind::Histogram(SIZES), [], "Bytes of a checkpoint.";
    TRAINER_MEMORY = "hone.trainer.memory", "By", Kind::Gauge, [], "Resident memory of all trainers, as they last told.";
    TRAINER_CPU = "hone.trainer.cpu", "{cpu}", Kind::Gauge, [], "Processors that all trainers use, as they last told.";
    TRAINER_STORAGE_READ = "hone.trainer.storage.read", "By/s", Kind::Gauge, [], "What all trainers fetch from storage, as they last told.";
    TRAINER_STORAGE_WRITE = "hone.trainer.storage.write", "By/s", Kind::Gauge, [], "What all trainers write to storage, as they last told.";
    DEVICE_MEMORY = "hone.device.memory", "By", Kind::Gauge, [], "Memory of devices that all trainers use, as they last told.";
    DEVICE_UTILIZATION = "hone.device.utilization", "1", Kind::Gauge, [], "Share of time that the trainers' devices were busy, their mean, as they last told.";
    STORAGE_DURATION = "hone.storage.request.duration", "s", Kind::Histogram(CALLS), ["http.request.method", "http.response.status_code"], "Time until the object store answered a request of this server; each try counts, and one without an answer has the status 0.";
    STORAGE_ERRORS = "hone.storage.errors", "{error}", Kind::Counter, ["step"], "Failures of storage that this server met, after all tries; objects that are not there are none.";
    CALL_DURATION = "rpc.server.call.duration", "s", Kind::Histogram(CALLS), ["rpc.method", "rpc.response.status_code", "rpc.system.name"], "Duration of incoming calls; a stream counts when it ends.";
    CPU_TIME = "process.cpu.time", "s", Kind::Counter, ["cpu.mode"], "Processor time of the server, without its trainers.";
    MEMORY = "process.memory.usage", "By", Kind::UpDown, [], "Resident memory of the server, without its trainers.";
    OPEN_FILES = "process.unix.file_descriptor.count", "{file_descriptor}", Kind::UpDown, [], "Files and connections that the server has open.";
    UPTIME = "process.uptime", "s", Kind::Gauge, [], "Time since the server started.";
}

/// The name of a metric in Prometheus: what the rules of OpenTelemetry's specification make of its own, unless Prometheus's
/// rules forbid that. `_count` is the end of histograms alone, and of open files Prometheus has a name of its own.
pub fn renamed(by_rule: String) -> String {
    match by_rule.as_str() {
        "process_unix_file_descriptor_count" => "process_open_fds".into(),
        _ => by_rule,
    }
}

impl Metric {
    /// Its name as Prometheus has it, by the rules of OpenTelemetry's specification for that, or [`renamed`]; a histogram's ends
    /// in `_bucket`, `_sum` and `_count` as well.
    pub fn prometheus_name(&self) -> String {
        let name = self.name.replace('.', "_");
        let unit = match (self.unit, self.kind) {
            ("s", _) => "_seconds",
            ("By", _) => "_bytes",
            ("By/s", _) => "_bytes_per_second",
            ("1", Kind::Gauge) => "_ratio",
            _ => "",
        };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        renamed(format!("{name}{unit}{total}"))
    }

    /// Its kind in one word.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::UpDown | Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}
