//! The server under test: its real binary over a folder of its own, killed when the test is over.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hone_client::{Client, JobHandle, v1};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::script::SCRIPTS_VARIABLE;
use crate::{Ended, Script, binary, run, signal, soon, uri, with_environment};

/// How a server is to be started. Cheap to clone; clones share the folder, so that one server can follow another.
#[derive(Clone)]
pub struct Setup {
    home: Arc<Home>,
    listen: String,
    trainer: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

/// The test's folder.
struct Home(TempDir);

/// A running server.
pub struct Server {
    setup: Setup,
    child: Child,
    address: String,
}

impl Default for Setup {
    /// A server of defaults on a free port, whose trainers are fake and make a normal run of three steps.
    fn default() -> Self {
        let home = tempfile::Builder::new().prefix("hone-test-").tempdir().expect("a folder");
        let setup = Self {
            home: Arc::new(Home(home)),
            listen: "127.0.0.1:0".into(),
            trainer: binary("fake_trainer"),
            flags: Vec::new(),
            environment: Vec::new(),
        };
        setup.play([Script::normal(3)]);
        setup
    }
}

impl Setup {
    /// The trainer that trains.
    pub fn with_real_trainer(mut self) -> Self {
        self.trainer = binary("hone-trainer");
        self
    }

    /// Another program as trainer.
    pub fn with_trainer(mut self, path: impl Into<PathBuf>) -> Self {
        self.trainer = path.into();
        self
    }

    /// Another address to listen on.
    pub fn listening_on(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// A flag and its value.
    pub fn flag(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.flags.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// Environment variables of the server, and so of its trainers.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// What fake trainers started from now on do: one script an attempt, the last one repeated.
    pub fn play(&self, scripts: impl IntoIterator<Item = Script>) {
        Script::write_all(&scripts.into_iter().collect::<Vec<_>>(), &self.path("scripts.json"));
    }

    /// A path in the test's folder, beside the server's data.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.0.path().join(name)
    }

    /// The server's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// Starts the server, and waits until it listens.
    pub async fn start(&self) -> Server {
        let port_file = self.path("port");
        let _ = std::fs::remove_file(&port_file);
        let log = std::fs::File::options().create(true).append(true).open(self.path("server.log")).expect("a log");
        let mut command = self.command();
        command.arg("--port-file").arg(&port_file).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().expect("the server can be started");
        let mut server = Server { setup: self.clone(), child, address: String::new() };
        server.address = soon("the server to listen", server.listens(&port_file)).await;
        server
    }

    /// Runs a server that is to end by itself.
    pub async fn run(&self) -> Ended {
        run(&mut self.command()).await
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary("hone-server"));
        // What is set on this machine must not decide how a test ends.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| ["HONE_", "AWS_", "OTEL_"].iter().any(|start| name.starts_with(start)))
            {
                command.env_remove(name);
            }
        }
        command.args(["--listen", &self.listen]).arg("--data-dir").arg(self.data_dir());
        command.arg("--trainer").arg(&self.trainer).args(["--trainer-env", SCRIPTS_VARIABLE]).args(&self.flags);
        // Of a tiny model's threads most of the time goes into waiting for each other, the more so beside other tests.
        command.env("OMP_NUM_THREADS", "1");
        command.env(SCRIPTS_VARIABLE, self.path("scripts.json")).envs(self.environment.iter().cloned());
        command
    }
}

impl Server {
    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Where it listens, `ip:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        Client::connect(self.url()).await.expect("the server listens")
    }

    /// Creates a job on rows and a model that fake trainers do not read.
    pub async fn job(&self) -> JobHandle {
        self.client().await.create_job(self.spec()).await.expect("the job is accepted")
    }

    /// The spec of such a job: a tiny model, one row.
    pub fn spec(&self) -> v1::JobSpec {
        let rows = self.setup.path("rows.jsonl");
        crate::write_lines(&rows, [crate::conversation("What is hone?", "A service.")]);
        crate::sft(uri(crate::fixture_model("llama_tied")), uri(rows))
    }

    /// What fake trainers started from now on do.
    pub fn play(&self, script: Script) {
        self.setup.play([script]);
    }

    /// Processes of trainers that work on a job, in any attempt.
    pub fn trainers_of(&self, job_id: &str) -> Vec<u32> {
        with_environment("HONE_JOB_ID", job_id)
    }

    /// Asks it to leave and waits until it has. To be asked twice means to hurry, so [`signal`](Self::signal) goes with
    /// [`ended`](Self::ended).
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.pid(), name), "the server is gone");
    }

    /// Waits until it says something in its log.
    pub async fn says(&self, words: &str) {
        let said = async {
            while !std::fs::read_to_string(self.setup.path("server.log")).expect("a log").contains(words) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon(words, said).await;
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        soon("the server to end", self.child.wait()).await.expect("the server is ours to wait for")
    }

    /// Kills it without a word; its trainers live on.
    pub async fn kill(mut self) -> Setup {
        self.child.kill().await.expect("the server is ours to kill");
        self.setup.clone()
    }

    async fn listens(&mut self, port_file: &Path) -> String {
        loop {
            // The file appears whole, by a rename.
            if let Ok(address) = std::fs::read_to_string(port_file) {
                return address.trim().to_owned();
            }
            if let Some(status) = self.child.try_wait().expect("the server is ours to wait for") {
                panic!("the server ended at once: {status}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn print_logs(&self) {
        let trainers = std::fs::read_dir(self.setup.data_dir().join("logs")).into_iter().flatten().flatten();
        let logs = std::iter::once(self.setup.path("server.log")).chain(trainers.map(|entry| entry.path()));
        for log in logs {
            eprintln!("--- {}\n{}", log.display(), std::fs::read_to_string(&log).unwrap_or_default());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        let _ = self.child.start_kill();
    }
}

impl Drop for Home {
    /// No trainer outlives its test, whatever became of its server.
    fn drop(&mut self) {
        for pid in with_environment(SCRIPTS_VARIABLE, &self.0.path().join("scripts.json").display().to_string()) {
            signal(pid, "KILL");
        }
    }
}
