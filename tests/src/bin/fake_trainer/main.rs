//! A trainer that computes nothing and does as its script says: the supervisor's partner in the tests.
//!
//! It takes the place of `hone-trainer` (`hone-server --trainer`), is started the same way, speaks the same protocol and
//! writes real checkpoints. Its script is a file that an environment variable names; see [`hone_tests::Script`].

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use hone_job::event::{CheckpointSaved, DatasetReport, Event, Outcome, Phase, Plan, TrainStep};
use hone_job::failure::Failure;
use hone_proto::trainer::v1::{self as pb, finished::End, report::Body};
use hone_tests::{Act, Gate, Script};

mod answer;
mod checkpoint;
mod link;

use link::{Link, Lost, Start};

/// Exit status of a trainer that the server does not take.
const COULD_NOT_ATTACH: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("run") => play().await,
        Some("doctor") => Ok(doctor()),
        Some("answer") => answer::serve().map(|()| ExitCode::SUCCESS),
        other => bail!("the fake trainer knows `run`, `doctor` and `answer`, not {other:?}"),
    }
}

/// What the server asks once to fill in its own information.
#[allow(clippy::print_stdout, reason = "the answer is for a program")]
fn doctor() -> ExitCode {
    let device = serde_json::json!({ "name": "cpu", "description": "imaginary", "memory_bytes": 1_u64 << 30 });
    println!(
        "{}",
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"), "libtorch_version": "0.0.0-fake", "libraries": [], "cuda": false,
            "devices": [device], "attention_kernels": ["imaginary"], "gemm": [],
        })
    );
    ExitCode::SUCCESS
}

async fn play() -> anyhow::Result<ExitCode> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let attempt = variable("HONE_ATTEMPT")?.parse().context("HONE_ATTEMPT is not a number")?;
    let script = Script::read(Path::new(&variable(hone_tests::SCRIPTS_VARIABLE)?), attempt);
    eprintln!("fake trainer of {} attempt {attempt}", variable("HONE_JOB_ID")?);
    if script.hello.never {
        std::future::pending::<()>().await;
    }
    let start = Start {
        server: variable("HONE_SERVER")?,
        job_id: variable("HONE_JOB_ID")?,
        attempt,
        secret: variable("HONE_SECRET")?,
        hello: script.hello.clone(),
    };
    let (link, welcome) = match Link::attach(start).await {
        Ok(attached) => attached,
        Err(Lost(why)) => {
            eprintln!("could not attach: {why}");
            return Ok(ExitCode::from(COULD_NOT_ATTACH));
        }
    };
    let mut player = Player { link, welcome, attempt, deaf: script.deaf, progress: Progress::default() };
    match player.play_all(script.acts).await {
        Ok(Left) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("leaving: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The trainer has said its last word, and the server has recorded it.
struct Left;

/// How far the attempt is.
#[derive(Default)]
struct Progress {
    steps: u64,
    last_checkpoint: Option<CheckpointSaved>,
}

struct Player {
    link: Link,
    welcome: pb::Welcome,
    attempt: u32,
    deaf: bool,
    progress: Progress,
}

impl Player {
    /// Plays the acts; at the end waits for a command.
    async fn play_all(&mut self, acts: Vec<Act>) -> anyhow::Result<Left> {
        for act in acts {
            if let Some(left) = self.play(act).await? {
                return Ok(left);
            }
        }
        self.obey().await
    }

    /// Plays one act; says when the attempt is over.
    async fn play(&mut self, act: Act) -> anyhow::Result<Option<Left>> {
        match act {
            Act::Event(event) => self.event(&event)?,
            Act::RawEvent(text) => self.link.report(Body::EventJson(text))?,
            Act::Running => self.begin()?,
            Act::Steps(count) => return self.steps(count).await,
            Act::Checkpoint { weights_bytes } => drop(self.checkpoint(weights_bytes).await?),
            Act::WaitAt(gate) => {
                // Whoever sees it there finds everything recorded that it did before.
                self.link.flushed().await?;
                anyhow::ensure!(Gate::pass(&gate).await, "the test is over");
            }
            Act::Obey => return self.obey().await.map(Some),
            Act::Repeat => self.link.repeat()?,
            Act::SkipNumber => self.link.skip_number(),
            Act::Redial => self.link.redial()?,
            Act::Succeed => return self.succeed().await.map(Some),
            Act::Fail(failure) => return self.fail(&failure).await.map(Some),
            Act::Say(line) => eprintln!("{line}"),
            Act::Exit(code) => {
                self.link.flushed().await?;
                std::process::exit(code)
            }
            Act::Kill(signal) => {
                self.link.flushed().await?;
                // Rust's own handler of SIGSEGV swallows the first one.
                while hone_tests::signal(std::process::id(), &signal) {}
                std::future::pending().await
            }
            Act::Abort => std::process::abort(),
            Act::Panic(message) => panic!("{message}"),
        }
        Ok(None)
    }

    fn event(&self, event: &Event) -> anyhow::Result<()> {
        self.link.report(Body::EventJson(serde_json::to_string(event)?))
    }

    /// What a trainer tells before its first step.
    fn begin(&self) -> anyhow::Result<()> {
        let from = &self.welcome.resume_from;
        let phase = |name: &str, detail: &str| Event::Phase(Phase { name: name.into(), detail: detail.into() });
        let report = DatasetReport { split: "train".into(), rows_read: 1, examples: 1, ..DatasetReport::default() };
        self.event(&phase("loading_model", from))?;
        self.event(&phase("reading_data", ""))?;
        self.event(&Event::DatasetReport(report))?;
        self.event(&Event::Plan(Plan { total_steps: 100, device: "cpu".into(), ..Plan::default() }))?;
        self.link.report(Body::Running(pb::Running {}))
    }

    async fn steps(&mut self, count: u64) -> anyhow::Result<Option<Left>> {
        for _ in 0..count {
            // A step takes a while, in which the link does its work.
            tokio::task::yield_now().await;
            if !self.deaf && self.link.command().is_some() {
                return self.stop().await.map(Some);
            }
            self.progress.steps += 1;
            let step = self.progress.steps;
            let loss = Some(4.0 / (1.0 + step as f64));
            self.event(&Event::TrainStep(TrainStep { step, loss, tokens: 10, ..TrainStep::default() }))?;
        }
        Ok(None)
    }

    async fn checkpoint(&mut self, weights_bytes: u64) -> anyhow::Result<CheckpointSaved> {
        let saved = checkpoint::write(&self.welcome, self.attempt, self.progress.steps, weights_bytes).await?;
        self.event(&Event::CheckpointSaved(saved.clone()))?;
        self.progress.last_checkpoint = Some(saved.clone());
        Ok(saved)
    }

    /// Waits for a command and does as it says. A deaf trainer waits for ever.
    async fn obey(&mut self) -> anyhow::Result<Left> {
        self.link.told().await?;
        if self.deaf {
            // As long as there is a server to be deaf to.
            self.link.lost().await?;
        }
        self.stop().await
    }

    /// Saves and leaves.
    async fn stop(&mut self) -> anyhow::Result<Left> {
        let checkpoint_id = match self.progress.steps {
            0 => String::new(),
            _ => self.checkpoint(hone_tests::SMALL_WEIGHTS).await?.checkpoint_id,
        };
        self.finish(End::Stopped(pb::Stopped { checkpoint_id })).await
    }

    async fn succeed(&mut self) -> anyhow::Result<Left> {
        let last = self.progress.last_checkpoint.clone().unwrap_or_default();
        self.event(&Event::Result(Outcome {
            steps: self.progress.steps,
            final_checkpoint_id: last.checkpoint_id.clone(),
            final_checkpoint_uri: last.uri,
            best_checkpoint_id: last.checkpoint_id,
            ..Outcome::default()
        }))?;
        self.finish(End::Succeeded(pb::Succeeded {})).await
    }

    async fn fail(&mut self, failure: &Failure) -> anyhow::Result<Left> {
        self.finish(End::FailureJson(serde_json::to_string(failure)?)).await
    }

    async fn finish(&mut self, end: End) -> anyhow::Result<Left> {
        self.link.report(Body::Finished(pb::Finished { end: Some(end) }))?;
        self.link.flushed().await?;
        Ok(Left)
    }
}
