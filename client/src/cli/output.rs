//! Where words go: results to standard output, notes and errors to standard error, as text for people or JSON for programs.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::follow::Ending;
use crate::json;

/// How to speak to whoever started this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON for programs.
    pub(crate) json: bool,
    /// The server ends with this command.
    pub(crate) local: bool,
    /// Somebody watches: both outputs are a terminal, so that a progress bar makes sense.
    pub(crate) live: bool,
    /// Colours of standard output.
    pub(crate) paint: Paint,
    /// Colours of standard error.
    error_paint: Paint,
    /// Standard error is a terminal.
    error_terminal: bool,
}

impl Output {
    /// What this process was given.
    pub(crate) fn of_this_process(json: bool, local: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let error_terminal = std::io::stderr().is_terminal();
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = named("TERM").is_some_and(|term| term == "dumb");
        let coloured = named("NO_COLOR").is_none() && !dumb && !json;
        Self {
            json,
            local,
            live: terminal && error_terminal && !dumb && !json,
            paint: Paint { on: coloured && terminal },
            error_paint: Paint { on: coloured && error_terminal },
            error_terminal,
        }
    }

    /// Whether transfers show a bar.
    pub(crate) fn shows_bars(&self) -> bool {
        self.error_terminal && !self.json
    }

    /// A line, or several, of the result.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::file("write", "standard output", error),
        })
    }

    /// A message of `hone.v1` as JSON, or what `text` makes of it.
    pub(crate) fn show<M: prost::Message>(
        &self,
        name: &str,
        message: &M,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.json {
            true => self.print(&json::line(name, message)),
            false => self.print(&text()),
        }
    }

    /// A list of messages: JSON, one a line, or what `text` makes of all.
    pub(crate) fn show_all<M: prost::Message>(
        &self,
        name: &str,
        messages: &[M],
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.json {
            true => messages.iter().try_for_each(|message| self.print(&json::line(name, message))),
            false => self.print(&text()),
        }
    }

    /// Word of something that has been removed.
    pub(crate) fn deleted(&self, id: &str) -> Result<(), Failure> {
        match self.json {
            true => self.print(&json!({ "deleted": id }).to_string()),
            false => self.print(&format!("deleted {id}")),
        }
    }

    /// Something a person may want to know that is not the result.
    pub(crate) fn note(&self, text: &str) {
        self.note_with(text, json!({}));
    }

    /// As [`note`](Self::note), with members for programs.
    pub(crate) fn note_with(&self, text: &str, members: Value) {
        if !self.json {
            return self.complain(&self.error_paint.dim(text));
        }
        let mut note = json!({ "note": text });
        if let (Value::Object(note), Value::Object(members)) = (&mut note, members) {
            note.extend(members);
        }
        self.complain(&note.to_string());
    }

    /// Ends the process: says what went wrong, if anything did, and gives the exit code.
    pub(crate) fn end(&self, ended: Result<Ending, Failure>) -> ExitCode {
        match ended {
            Ok(ending) => ExitCode::from(ending.code()),
            Err(Failure::OutputClosed) => ExitCode::SUCCESS,
            Err(failure) => {
                self.complain(&match self.json {
                    true => failure.json().to_string(),
                    false => failure.text(self.error_paint),
                });
                ExitCode::FAILURE
            }
        }
    }

    /// A line to standard error. Nobody is left to tell when that fails.
    fn complain(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    /// Whether colours are used.
    pub(crate) on: bool,
}

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { on: false }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31;1", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self.on && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}
