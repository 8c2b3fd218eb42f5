//! A model on this machine that answers a list of prompts, without a server.

use std::path::Path;

use hone_data::tokenizer::Tokenizer;
use hone_job::spec::Sampling;
use serde::{Deserialize, Serialize};

use super::answers::AT_ONCE;
use super::{AnswerFile, Beginning, Generator, Prompt, Prompter, answer_all};
use crate::device::Compute;
use crate::error::Error;
use crate::model::{Adapter, Decoder};
use crate::peft;

/// A prompt and what the model says to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenAnswer {
    /// The question as a person reads it.
    pub prompt: String,
    /// The answer, without special tokens.
    pub answer: String,
    /// The answer's token ids, without the stop token.
    pub tokens: Vec<u32>,
}

/// A model that answers.
#[derive(Debug)]
pub struct Writer {
    model: Decoder,
    adapter: Option<Adapter>,
    tokenizer: Tokenizer,
}

impl Writer {
    /// Loads a model with its tokenizer, and an adapter where one is given.
    pub fn load(path: &Path, adapter: Option<&Path>, compute: Compute) -> Result<Writer, Error> {
        let tokenizer = Tokenizer::open(path)?;
        let model = Decoder::load(path, compute.kind, compute.device, &mut |_, _| {})?;
        tokenizer.check_fits(model.config().vocab_size as u64)?;
        let adapter = adapter.map(|folder| peft::load_frozen(folder, &model)).transpose()?;
        Ok(Writer { model, adapter, tokenizer })
    }

    /// Answers every prompt with at most `max_new_tokens` tokens, the likeliest each time; each is a line of JSON in `out` once
    /// it and those before it are there.
    pub fn answer_all(&self, prompts: &[Prompt], max_new_tokens: u32, out: &Path) -> Result<(), Error> {
        let prompter = Prompter::new(&self.tokenizer)?;
        let encode =
            |(number, prompt): (usize, &Prompt)| prompter.encode(prompt).map_err(|error| of_prompt(error, number));
        let tokens = prompts.iter().enumerate().map(encode).collect::<Result<Vec<_>, _>>()?;
        let sampling = Sampling::greedy(max_new_tokens);
        let adapter = self.adapter.as_ref();
        let beginnings = tokens.iter().map(|prompt| Beginning { prompt, adapter, sampling: &sampling, number: 0 });
        let mut file = AnswerFile::create(out)?;
        let mut told = |number: u64, answer: Result<super::Answer, Error>| {
            let answer = answer.map_err(|error| of_prompt(error, number as usize))?;
            let prompt = prompts[number as usize].question();
            file.add(number, &WrittenAnswer { prompt, answer: answer.text, tokens: answer.tokens })
        };
        let mut generator = Generator::new(&self.model, &self.tokenizer);
        answer_all(&mut generator, beginnings, AT_ONCE, &mut || true, &mut told)?;
        Ok(())
    }
}

/// Says which prompt an error is about.
fn of_prompt(error: Error, number: usize) -> Error {
    Error::Input { place: format!("prompt {number}"), what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tch::{Device, Kind};

    use super::*;
    use crate::task::testing::fixtures;

    const CPU: Compute = Compute { device: Device::Cpu, kind: Kind::Float };

    fn answers(path: &Path, prompts: serde_json::Value) -> Result<Vec<WrittenAnswer>, Error> {
        let writer = Writer::load(path, None, CPU).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("answers.jsonl");
        writer.answer_all(&serde_json::from_value::<Vec<Prompt>>(prompts).unwrap(), 6, &out)?;
        let text = std::fs::read_to_string(&out).unwrap();
        let answers: Vec<WrittenAnswer> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for answer in &answers {
            assert!(answer.tokens.len() <= 6, "{answer:?}");
            assert_eq!(writer.tokenizer.decode(&answer.tokens, true).unwrap(), answer.answer);
        }
        Ok(answers)
    }

    #[test]
    fn a_folder_and_a_gguf_file_answer_conversations_and_texts() {
        for path in ["models/llama", "gguf/llama.gguf", "models/mistral"] {
            let prompts = json!([
                {"messages": [{"role": "user", "content": "What is 2 + 2?"}]},
                {"prompt": "Once upon"},
            ]);
            let answers = answers(&fixtures().join(path), prompts).unwrap();
            assert_eq!(
                answers.iter().map(|answer| &answer.prompt[..]).collect::<Vec<_>>(),
                ["What is 2 + 2?", "Once upon"]
            );
        }
    }

    #[test]
    fn a_folder_with_one_gguf_file_answers_as_the_file_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = fixtures().join("gguf/qwen2.gguf");
        std::fs::copy(&file, folder.path().join("any name.gguf")).unwrap();
        let prompts = json!([{"prompt": "Once upon"}]);
        assert_eq!(answers(folder.path(), prompts.clone()).unwrap(), answers(&file, prompts).unwrap());
    }

    #[test]
    fn a_prompt_that_cannot_be_answered_is_told_by_its_number() {
        // The template of this model refuses two turns of one role.
        let turn = json!({"role": "user", "content": "a"});
        let prompts = json!([{"prompt": "a"}, {"messages": [turn, turn]}]);
        let error = answers(&fixtures().join("models/mistral"), prompts).unwrap_err().to_string();
        assert!(error.starts_with("prompt 1: the chat template refuses"), "{error}");
    }
}
