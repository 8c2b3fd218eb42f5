//! What a fake trainer does, as data: a test writes the script, the fake trainer plays it.

use std::path::Path;

use hone_job::event::Event;
use hone_job::failure::Failure;
use serde::{Deserialize, Serialize};

/// Environment variable that names the file with the scripts: a JSON list, one script an attempt, the last one repeated.
pub const SCRIPTS_VARIABLE: &str = "HONE_FAKE_SCRIPTS";

/// One attempt.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Script {
    /// How it says hello.
    pub hello: Hello,
    /// What it does then, in order. At the end it waits for ever.
    pub acts: Vec<Act>,
    /// Whether commands of the server are ignored. A trainer that obeys looks for them before every step, and at the end.
    pub deaf: bool,
}

/// How a trainer says hello. Absent fields are what the server gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hello {
    /// Whether it never dials.
    pub never: bool,
    /// Another version of the protocol.
    pub protocol_version: Option<u32>,
    /// Another secret.
    pub secret: Option<String>,
    /// Another attempt.
    pub attempt: Option<u32>,
    /// Another first message: a heartbeat, which nobody can place.
    pub heartbeat_first: bool,
}

/// Something a fake trainer does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "few are alive at a time")]
pub enum Act {
    /// Reports an event.
    Event(Event),
    /// Reports this text where the JSON of an event belongs.
    RawEvent(String),
    /// Reports that the task has begun.
    Running,
    /// Takes so many steps and reports each; the loss of step n is 4 / (1 + n).
    Steps(u64),
    /// Writes a checkpoint whose weights have so many bytes, and reports it.
    Checkpoint {
        /// Bytes of `adapter_model.safetensors`.
        weights_bytes: u64,
    },
    /// Waits at a gate until the test opens it.
    WaitAt(String),
    /// Waits for a command of the server, then saves and leaves.
    Obey,
    /// Reports the last event again under its old number.
    Repeat,
    /// Leaves a number out.
    SkipNumber,
    /// Drops the connection, and dials again at once.
    Redial,
    /// Reports that all is done, with the outcome of the steps so far, and leaves.
    Succeed,
    /// Reports a failure and leaves.
    Fail(Failure),
    /// Writes a line to standard error.
    Say(String),
    /// Exits at once.
    Exit(i32),
    /// Sends itself a signal, such as `KILL` or `SEGV`.
    Kill(String),
    /// Calls abort.
    Abort,
    /// Panics.
    Panic(String),
}

/// Bytes of the weights that a fake trainer saves when the script does not say.
pub const SMALL_WEIGHTS: u64 = 2048;

/// The bytes of a fake trainer's weights: they differ from place to place, so that parts cannot be mixed up unseen.
pub fn weights(num_bytes: u64) -> Vec<u8> {
    (0..num_bytes).map(|place| (place ^ (place >> 8) ^ (place >> 16)) as u8).collect()
}

impl Script {
    /// Plays `acts`.
    pub fn of(acts: impl IntoIterator<Item = Act>) -> Self {
        Self { acts: acts.into_iter().collect(), ..Self::default() }
    }

    /// A run of `steps` steps as a trainer should make it.
    pub fn normal(steps: u64) -> Self {
        Self::of([Act::Running, Act::Steps(steps), Act::Checkpoint { weights_bytes: SMALL_WEIGHTS }, Act::Succeed])
    }

    /// Says hello in another way.
    pub fn greeting(hello: Hello) -> Self {
        Self { hello, ..Self::normal(2) }
    }

    /// Ignores commands.
    pub fn deaf(mut self) -> Self {
        self.deaf = true;
        self
    }

    /// Writes scripts where fake trainers started with `file` in their environment read them.
    pub(crate) fn write_all(scripts: &[Script], file: &Path) {
        let text = serde_json::to_string(scripts).expect("scripts are plain data");
        std::fs::write(file, text).expect("the test's folder can be written");
    }

    /// The script of attempt number `attempt`, from 1.
    pub fn read(file: &Path, attempt: u32) -> Script {
        let text = std::fs::read(file).expect("the scripts are there before a trainer is");
        let mut scripts: Vec<Script> = serde_json::from_slice(&text).expect("the harness wrote the scripts");
        let index = (attempt.max(1) as usize - 1).min(scripts.len() - 1);
        scripts.swap_remove(index)
    }
}
