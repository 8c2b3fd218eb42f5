//! Processes: run one to its end, send one a signal, find those that carry an environment variable.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::{repository, soon};

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote for programs.
    pub stdout: String,
    /// What it wrote for people.
    pub stderr: String,
}

impl Ended {
    /// Its exit code; a signal fails the test.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// Its standard output, when it exited with 0.
    pub fn success(&self) -> &str {
        assert!(self.status.success(), "{self:#?}");
        &self.stdout
    }
}

/// Runs a command to its end without a terminal.
pub async fn run(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = soon("a command to end", output).await.expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A library in `folder`, compiled from a source beside this one, that changes what the system does for the process that is
/// started with it as `LD_PRELOAD`.
pub async fn preloaded(name: &str, folder: &Path) -> PathBuf {
    let library = folder.join(format!("{name}.so"));
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    let source = repository().join("tests/src").join(name).with_extension("c");
    run(compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl")).await.success();
    library
}

/// Sends a signal, such as `TERM`, and says whether there was such a process.
pub fn signal(pid: u32, name: &str) -> bool {
    // The shell's own `kill`: every machine has it, and it needs no unsafe code.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "kill -s \"$0\" \"$1\" 2>/dev/null", name]);
    shell.arg(pid.to_string()).status().expect("there is a shell").success()
}

/// Live processes of this user whose environment holds `NAME=value`.
pub fn with_environment(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}");
    let holds = |folder: &Path| {
        let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    pids.filter(|(_, folder)| holds(folder)).map(|(pid, _)| pid).collect()
}
