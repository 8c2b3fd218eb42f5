//! `--local`: a server of this command's own, for one person with one machine. It ends with the command, however that ends,
//! since it stops when its standard input does; what it knows stays in its data folder, and jobs that had not ended go on
//! when the next command starts it again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::failure::Failure;

/// Name of the program, which lies beside this one or on PATH.
const SERVER: &str = "hone-server";
/// How often it is looked whether the server listens.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of its log that are told when it does not.
const LAST_LINES: usize = 5;

/// A server that runs for this command.
pub(crate) struct LocalServer {
    child: Child,
    address: String,
}

impl LocalServer {
    /// Starts a server on a free port of this machine, and waits until it listens.
    pub(crate) async fn start(data_dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(data_dir).map_err(|error| Failure::file("make", data_dir, error))?;
        let log = data_dir.join("server.log");
        let output = File::options().create(true).append(true).open(&log);
        let output = output.map_err(|error| Failure::file("write", &log, error))?;
        let errors = output.try_clone().map_err(|error| Failure::file("write", &log, error))?;
        let port_file = data_dir.join(format!("port-{}", std::process::id()));
        let program = program();
        let mut command = Command::new(&program);
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir).arg("--port-file").arg(&port_file);
        // What this command is told of a server is about another one.
        for name in ["HONE_LISTEN", "HONE_DATA_DIR", "HONE_PORT_FILE", "HONE_TOKEN_FILE", "HONE_HTTP_LISTEN"] {
            command.env_remove(name);
        }
        // Ctrl-C is for this command, which stops the server in good order.
        command.arg("--stop-with-stdin").stdin(Stdio::piped()).stdout(output).stderr(errors).process_group(0);
        let mut child = command.spawn().map_err(|error| Failure::file("start", &program, error))?;
        let address = loop {
            if let Ok(address) = std::fs::read_to_string(&port_file) {
                break address.trim().to_owned();
            }
            if let Ok(Some(status)) = child.try_wait() {
                let message = format!("the server of this command did not start ({status}): {}", last_lines(&log));
                let hint = format!("its log is {}; does another server use that folder?", log.display());
                return Err(Failure::input_with_hint(message, hint));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        // It is read, and nobody else needs it.
        let _ = std::fs::remove_file(&port_file);
        Ok(Self { child, address })
    }

    /// Where it is reached.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it: trainers finish their step, save and leave.
    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait().await;
    }
}

fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(SERVER));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| SERVER.into())
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
