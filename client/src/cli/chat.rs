//! `generate` without rows: one answer, or a conversation in the terminal.

use std::io::{IsTerminal, Write};

use futures::StreamExt;
use hone_client::{Client, v1};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::failure::Failure;
use crate::follow::Ending;
use crate::generate::GenerateArgs;
use crate::output::Output;

/// A line that forgets what was said.
const ANEW: &str = "/new";

/// Asks what the flags name: a checkpoint on a base model, or that alone.
pub(crate) async fn run(
    args: GenerateArgs,
    model: String,
    checkpoint: Option<String>,
    client: &Client,
    out: &Output,
) -> Result<Ending, Failure> {
    let is_whole = match args.checkpoint.as_deref().and_then(|given| given.split('/').next()) {
        Some(job_id) if job_id.starts_with("job-") => is_whole_model(&client.get_job(job_id).await?),
        _ => false,
    };
    // A checkpoint of a whole model is a base model.
    let (model, checkpoint) = match checkpoint {
        Some(checkpoint) if is_whole => (checkpoint, None),
        checkpoint => (model, checkpoint),
    };
    let asked = v1::GenerateRequest {
        base_model: Some(v1::BaseModel { uri: model }),
        checkpoint,
        sampling: Some(args.sampling.spec()),
        ..Default::default()
    };
    let system = args.system.as_deref().map(|text| message("system", text));
    let mut chat = Chat { client, out, asked, messages: system.into_iter().collect() };
    match (args.prompt, args.message) {
        (Some(prompt), _) => {
            drop(chat.answer(v1::GenerateRequest { prompt: Some(prompt), ..chat.asked.clone() }).await?)
        }
        (None, Some(text)) => chat.turn(&text).await?,
        (None, None) => chat.converse().await?,
    }
    Ok(Ending::Done)
}

fn message(role: &str, content: &str) -> v1::ChatMessage {
    v1::ChatMessage { role: role.to_owned(), content: content.to_owned() }
}

/// Whether what a job trained is no adapter.
fn is_whole_model(job: &v1::Job) -> bool {
    use v1::adapter_spec::Kind;
    use v1::job_spec::Task;
    let adapter = match job.spec.as_ref().and_then(|spec| spec.task.as_ref()) {
        Some(Task::Sft(task)) => task.adapter.as_ref(),
        Some(Task::Dpo(task)) => task.adapter.as_ref(),
        _ => None,
    };
    matches!(adapter.and_then(|adapter| adapter.kind.as_ref()), Some(Kind::Full(_)))
}

struct Chat<'a> {
    client: &'a Client,
    out: &'a Output,
    /// The request without what is said.
    asked: v1::GenerateRequest,
    messages: Vec<v1::ChatMessage>,
}

impl Chat<'_> {
    /// A turn for each line of standard input.
    async fn converse(&mut self) -> Result<(), Failure> {
        let is_terminal = std::io::stdin().is_terminal() && !self.out.json;
        if is_terminal {
            self.out.note(&format!("A line is a turn; {ANEW} forgets what was said, Ctrl-D ends."));
        }
        let kept = self.messages.len();
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            if is_terminal {
                write("> ")?;
            }
            let line = lines.next_line().await.map_err(|error| Failure::file("read", "standard input", error))?;
            match line.as_deref().map(str::trim) {
                None => return Ok(()),
                Some("") => {}
                Some(ANEW) => self.messages.truncate(kept),
                Some(text) => self.turn(text).await?,
            }
        }
    }

    /// Says something, and keeps what is answered.
    async fn turn(&mut self, text: &str) -> Result<(), Failure> {
        self.messages.push(message("user", text));
        let answer = self.answer(v1::GenerateRequest { messages: self.messages.clone(), ..self.asked.clone() }).await?;
        self.messages.push(message("assistant", &answer));
        Ok(())
    }

    /// Shows an answer as it comes, and gives it.
    async fn answer(&self, request: v1::GenerateRequest) -> Result<String, Failure> {
        let mut answer = self.client.generate(request).await?;
        let mut text = String::new();
        while let Some(piece) = answer.next().await {
            let piece = piece?;
            if self.out.json {
                self.out.show("GenerateResponse", &piece, String::new)?;
            } else if !piece.waiting.is_empty() {
                self.out.note(&piece.waiting);
            } else {
                write(&harmless(&piece.text))?;
            }
            text += &piece.text;
        }
        if !self.out.json {
            write("\n")?;
        }
        Ok(text)
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::file("write", "standard output", error),
    })
}

/// A text without what a terminal would obey.
fn harmless(text: &str) -> String {
    text.chars().map(|sign| if sign.is_control() && !matches!(sign, '\n' | '\t') { '\u{fffd}' } else { sign }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_an_answer() {
        assert_eq!(harmless("a\u{1b}[2J\tb\nc\r"), "a\u{fffd}[2J\tb\nc\u{fffd}");
    }
}
