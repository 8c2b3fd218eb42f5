//! Trainers as child processes on this machine.
//!
//! Each has a process group of its own, so that a signal to the server's terminal does not reach it and a kill reaches
//! all it started. Its output goes to a file, since a pipe would break when the server dies.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use hone_data::storage::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::oom::OomCounter;
use super::{Error, Executor, Exit, Launch, Process, Status, environment};
use crate::config::Options;
use crate::logs::{self, Logs};
use crate::tls::Tls;

/// How often the process of an earlier run of the server is looked for; it is nobody's child any more.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How often the size of a log is looked at.
const LOOK_AT_LOG: Duration = Duration::from_secs(1);

/// How much of the end of a log is read, and how many lines of it are kept.
const LAST_BYTES: u64 = 64 << 10;
const LAST_LINES: usize = 20;

/// Starts trainers on this machine.
#[derive(Debug, Clone)]
pub struct Local {
    trainer: PathBuf,
    dial: Dial,
    handed_on: Vec<String>,
    secrets: Vec<Secret>,
    logs: Logs,
    cache: PathBuf,
    max_cache_bytes: Option<u64>,
    otlp_endpoint: Option<String>,
}

/// How a trainer on this machine reaches the server.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Address of the server.
    pub server: SocketAddr,
    /// Whether the server speaks TLS, and how.
    pub tls: Option<Tls>,
}

impl Dial {
    fn variables(&self) -> Vec<(&'static str, OsString)> {
        let Some(tls) = &self.tls else { return vec![("HONE_SERVER", format!("http://{}", self.server).into())] };
        let mut variables = vec![
            ("HONE_SERVER", format!("https://{}", self.server).into()),
            ("HONE_SERVER_CA", tls.trainer_ca.clone().into()),
        ];
        variables.extend(tls.trainer_name.as_ref().map(|name| ("HONE_SERVER_NAME", name.into())));
        variables
    }
}

impl Local {
    /// The trainer of the options is started and dials; logs and caches lie in the data folder.
    pub fn new(options: &Options, dial: Dial) -> Self {
        Self {
            trainer: options.trainer.clone(),
            dial,
            handed_on: options.trainer_env.clone(),
            secrets: options.storage.secrets().cloned().chain(collector_keys()).collect(),
            logs: Logs::new(&options.data_dir),
            cache: options.data_dir.join("cache"),
            max_cache_bytes: options.limits.max_model_cache_bytes,
            otlp_endpoint: options.collector.as_ref().and_then(|one| one.endpoint().map(str::to_owned)),
        }
    }
}

#[async_trait]
impl Executor for Local {
    async fn start(&self, launch: &Launch) -> Result<Box<dyn Process>, Error> {
        let failed = |path: &Path| {
            let what = path.display().to_string();
            move |source| Error { what, source }
        };
        std::fs::create_dir_all(&self.cache).map_err(failed(&self.cache))?;
        let log = self.logs.path(&launch.job_id, launch.attempt);
        let output = self.logs.create(&log).map_err(failed(&log))?;
        let errors = output.try_clone().map_err(failed(&log))?;
        let oom = OomCounter::of_this_process();
        let mut command = Command::new(&self.trainer);
        environment::clean(&mut command, &self.handed_on);
        let child = command
            .arg("run")
            .envs(self.dial.variables())
            .env("HONE_JOB_ID", &launch.job_id)
            .env("HONE_ATTEMPT", launch.attempt.to_string())
            .env("HONE_SECRET", launch.secret.expose())
            .env("HONE_CACHE_DIR", &self.cache)
            .envs(self.otlp_endpoint.as_ref().map(|url| ("HONE_OTLP_ENDPOINT", url)))
            .envs(self.max_cache_bytes.map(|bytes| ("HONE_MAX_CACHE_BYTES", bytes.to_string())))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(failed(&self.trainer))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let secrets = self.secrets.iter().chain([&launch.secret]).cloned().collect();
        Ok(Box::new(Started { child, identity: Identity::of(pid), log: Log { path: log, secrets }, oom }))
    }

    async fn find(&self, job_id: &str, attempt: u32, handle: &str) -> Box<dyn Process> {
        let identity = (!handle.is_empty()).then(|| Identity::parse(handle));
        // The secret of the attempt is known to nobody any more but the trainer.
        let log = Log { path: self.logs.path(job_id, attempt), secrets: self.secrets.clone() };
        Box::new(Found { identity, given_up: false, log })
    }
}

/// What collectors know us by: the values of the headers that exporters send, unless they are too short to be a secret.
fn collector_keys() -> impl Iterator<Item = Secret> {
    let is_header =
        |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("OTEL_") && name.ends_with("_HEADERS"));
    let values =
        std::env::vars_os().filter(move |(name, _)| is_header(name)).filter_map(|(_, value)| value.into_string().ok());
    values.flat_map(|headers| {
        let values =
            headers.split(',').filter_map(|header| header.split_once('=')).map(|(_, value)| value.trim().to_owned());
        values.filter(|value| value.len() >= 8).map(Secret::new).collect::<Vec<_>>()
    })
}

/// A child of this server.
struct Started {
    child: Child,
    identity: Identity,
    log: Log,
    oom: OomCounter,
}

#[async_trait]
impl Process for Started {
    fn handle(&self) -> String {
        self.identity.to_string()
    }

    async fn ended(&mut self) -> Exit {
        let ended = tokio::select! {
            ended = self.child.wait() => ended,
            never = self.log.kept_short() => match never {},
        };
        let status = match ended {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Status::Code(code),
                (None, Some(signal)) => Status::Signal(signal),
                (None, None) => Status::Gone,
            },
            Err(error) => {
                tracing::warn!(%error, "the end of a trainer could not be seen");
                Status::Gone
            }
        };
        // What it started itself must not go on without it.
        self.identity.kill_group();
        exit(status, self.oom.has_risen(), &self.log)
    }

    fn kill(&mut self) {
        self.identity.kill_group();
    }
}

/// A trainer that an earlier run of the server started. One whose process was not recorded may live or not: it counts as
/// living until it is given up.
struct Found {
    identity: Option<Identity>,
    given_up: bool,
    log: Log,
}

#[async_trait]
impl Process for Found {
    fn handle(&self) -> String {
        self.identity.as_ref().map(Identity::to_string).unwrap_or_default()
    }

    async fn ended(&mut self) -> Exit {
        let lives = || match &self.identity {
            Some(identity) => identity.lives(),
            None => !self.given_up,
        };
        let ended = async {
            while lives() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            () = ended => {}
            never = self.log.kept_short() => match never {},
        }
        let rebooted = self.identity.as_ref().is_some_and(Identity::is_of_another_boot);
        exit(if rebooted { Status::Rebooted } else { Status::Gone }, false, &self.log)
    }

    fn kill(&mut self) {
        self.given_up = true;
        if let Some(identity) = self.identity.as_ref().filter(|identity| identity.lives()) {
            identity.kill_group();
        }
    }
}

/// A process that is told apart from a later one with the same number by the time of its start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    pid: i32,
    start: String,
}

impl Identity {
    fn of(pid: i32) -> Self {
        Self { pid, start: start_of(pid).unwrap_or_default() }
    }

    fn parse(handle: &str) -> Self {
        let (pid, start) = handle.split_once('@').unwrap_or_default();
        Self { pid: pid.parse().unwrap_or_default(), start: start.to_string() }
    }

    fn lives(&self) -> bool {
        start_of(self.pid).is_some_and(|start| start == self.start)
    }

    fn is_of_another_boot(&self) -> bool {
        self.start.rsplit_once('@').is_some_and(|(_, then)| then != boot())
    }

    fn kill_group(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // That there is nobody left to kill is what was wanted.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.pid, self.start)
    }
}

/// When a living process started: ticks since boot, and which boot. A zombie does not live.
fn start_of(pid: i32) -> Option<String> {
    if pid <= 0 {
        return None;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; what follows it is state, parent, group, …, and the start as the 20th.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    let ticks = fields.nth(18)?;
    Some(format!("{ticks}@{}", boot()))
}

/// The present boot of this machine.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn exit(status: Status, oom_killed: bool, log: &Log) -> Exit {
    Exit { status, oom_killed, last_words: log.last_words(), log: log.path.display().to_string() }
}

/// What a trainer wrote, and what must not be quoted of it: its last words become part of an event.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    secrets: Vec<Secret>,
}

impl Log {
    /// Keeps the log from growing too large, as long as it is waited for.
    async fn kept_short(&self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_AT_LOG).await;
            // One that is gone is short enough; what else fails, fails again in a second.
            if let Err(error) = logs::cut(&self.path) {
                tracing::debug!(log = %self.path.display(), %error, "cannot cut a log");
            }
        }
    }

    fn last_words(&self) -> String {
        logs::without_secrets(last_words(&self.path), &self.secrets)
    }
}

/// The last lines of a log. A log that cannot be read says nothing.
fn last_words(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(LAST_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !is_frame(line)).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// Whether a line is a frame of a Rust backtrace, or its place. They would push out the message of the panic, and whoever
/// wants them opens the log.
fn is_frame(line: &str) -> bool {
    let text = line.trim_start();
    let number = text.split_once(": ").map_or("", |(number, _)| number);
    let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    text.len() < line.len() && (numbered || text.starts_with("at "))
}

#[cfg(test)]
mod tests;
