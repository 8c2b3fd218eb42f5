//! The process of a model that answers: lines of JSON in and out. It ends with its input, and so with the server.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;

use hone_job::ask::{Order, Said};
use hone_job::failure::{Failure, Reason};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Inner, Model, Program, lock};
use crate::executor::environment;
use crate::logs;

/// Lines of its last words that are told.
const LAST_LINES: usize = 20;

/// Runs the process of a model until nobody has asked it for long, it is to make room, or the server stops.
pub(super) async fn run(all: Arc<Inner>, model: Arc<Model>, orders: mpsc::UnboundedReceiver<Order>) {
    let failure = match Process::start(&all.program, &model.uri) {
        Ok(process) => process.serve(&all, &model, orders).await,
        Err(error) => Some(Failure::new(Reason::Internal, error)),
    };
    model.ended.cancel();
    model.fail(&failure.unwrap_or_else(gone));
    lock(&all.models).retain(|other| !Arc::ptr_eq(other, &model));
    all.room.notify_waiters();
}

/// Said of a process that ended while somebody asked it.
pub(super) fn gone() -> Failure {
    Failure::new(Reason::Preempted, "the model was unloaded before it answered").try_this("ask again")
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Process {
    fn start(program: &Program, uri: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start {}: {error}", program.trainer.display());
        std::fs::create_dir_all(&program.cache).map_err(|error| format!("{}: {error}", program.cache.display()))?;
        let mut command = Command::new(&program.trainer);
        environment::clean(&mut command, &program.handed_on);
        command.args(["answer", "--model", uri]).env("HONE_CACHE_DIR", &program.cache);
        command.envs(program.max_cache_bytes.map(|bytes| ("HONE_MAX_CACHE_BYTES", bytes.to_string())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(failed)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err("the process has no standard input or output".into());
        };
        tracing::info!(model = uri, pid = child.id(), "loading a model that answers");
        Ok(Self { child, stdin, stdout, stderr })
    }

    /// Hands orders in and takes what is said out. Why it ended, if not as it should.
    async fn serve(self, all: &Inner, model: &Model, mut orders: mpsc::UnboundedReceiver<Order>) -> Option<Failure> {
        let Self { mut child, mut stdin, stdout, stderr } = self;
        let words = all.tasks.spawn(last_words(stderr));
        let mut lines = BufReader::new(stdout).lines();
        let mut idle_since = Instant::now();
        let is_busy = || !lock(&model.answers).is_empty();
        loop {
            let leaves = sleep_until(idle_since + all.program.idle);
            tokio::select! {
                () = model.ended.cancelled() => return None,
                () = all.stopping.cancelled() => return None,
                line = lines.next_line() => match line {
                    Ok(Some(line)) => hear(model, &line),
                    _ => break,
                },
                Some(order) = orders.recv() => {
                    let mut line = serde_json::to_vec(&order).expect("orders have a text");
                    line.push(b'\n');
                    if stdin.write_all(&line).await.is_err() {
                        break;
                    }
                }
                () = model.changed.notified() => {}
                () = leaves, if !is_busy() => {
                    tracing::info!(model = model.uri, "a model that nobody asked was unloaded");
                    return None;
                }
            }
            if is_busy() {
                idle_since = Instant::now();
            }
        }
        let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        let words = logs::without_secrets(words.await.unwrap_or_default(), &all.program.secrets);
        tracing::warn!(model = model.uri, %status, words, "the process of a model ended");
        let message = format!("the process of the model ended: {status}\n{words}");
        Some(Failure::new(Reason::TrainerCrashed, message.trim_end()).at(&model.uri))
    }
}

fn hear(model: &Model, line: &str) {
    match serde_json::from_str::<Said>(line) {
        Ok(said) => model.hear(said),
        Err(error) => tracing::warn!(model = model.uri, %error, "a model said what nobody understands"),
    }
}

/// The last lines of what it writes for people.
async fn last_words(stderr: ChildStderr) -> String {
    let mut lines = BufReader::new(stderr).lines();
    let mut last = VecDeque::new();
    while let Ok(Some(line)) = lines.next_line().await {
        last.push_back(line);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}
