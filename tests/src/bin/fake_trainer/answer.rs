//! Answers without a model: the first word of a prompt says what happens, if it is one of these.

use std::io::BufRead;

use anyhow::Context;
use hone_job::ask::{Ended, Order, Prompt, Said};
use hone_job::failure::{Failure, Reason};

/// Answers until nobody can ask.
pub(crate) fn serve() -> anyhow::Result<()> {
    say(&Said::Waiting { detail: "loading".into() });
    for line in std::io::stdin().lock().lines() {
        let Order::Ask(ask) = serde_json::from_str(&line?).context("an order")? else { continue };
        let id = ask.id;
        let Prompt::Text { prompt } = ask.prompt else { anyhow::bail!("the fake trainer has no template") };
        let (act, words) = prompt.split_once(' ').unwrap_or((&prompt, ""));
        let tell = |text: &str| say(&Said::Piece { id, text: text.into(), end: None });
        let end = || {
            let end = Ended { reached_length: true, prompt_tokens: 1, answer_tokens: 2 };
            say(&Said::Piece { id, text: String::new(), end: Some(end) });
        };
        match act {
            "echo" => {
                words.split_inclusive(' ').for_each(tell);
                end();
            }
            "pid" => {
                tell(&std::process::id().to_string());
                end();
            }
            // Begins, and never ends.
            "begin" => tell("on my way"),
            "refuse" => {
                let failure = Failure::new(Reason::InvalidData, "it makes no sense").try_this("another prompt");
                say(&Said::Failed { id: Some(id), failure });
            }
            "crash" => {
                eprintln!("these are the last words");
                std::process::exit(7);
            }
            _ => {
                tell("and so on");
                end();
            }
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the answer is for a program")]
fn say(said: &Said) {
    println!("{}", serde_json::to_string(said).expect("what is said has a text"));
}
