//! Many prompts answered, several at a time.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use hone_data::tokenizer::Tokenizer;
use hone_job::spec::Sampling;
use serde::Serialize;

use super::{Beginning, End, Generator};
use crate::error::Error;
use crate::model::{Adapter, Decoder};

/// Answers that are written at once where nobody says.
pub(super) const AT_ONCE: usize = 8;

/// What a model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text, without special tokens.
    pub text: String,
    /// Its tokens, without the one that ends it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub end: End,
}

/// Answers what `beginnings` has, `at_once` at a time, and tells each answer by its number once it is there; a prompt that
/// cannot be answered is told as its error. Before each token it asks whether it `goes_on`; says whether it came to its end.
pub fn answer_all<'p, A: Borrow<Adapter>>(
    generator: &mut Generator<'_, A>,
    beginnings: impl IntoIterator<Item = Beginning<'p, A>>,
    at_once: usize,
    goes_on: &mut dyn FnMut() -> bool,
    told: &mut dyn FnMut(u64, Result<Answer, Error>) -> Result<(), Error>,
) -> Result<bool, Error> {
    let mut waiting = (0..).zip(beginnings);
    let mut texts: BTreeMap<u64, String> = BTreeMap::new();
    loop {
        while generator.len() < at_once.max(1) {
            let Some((number, beginning)) = waiting.next() else { break };
            match generator.begin(number, beginning) {
                Ok(()) => drop(texts.insert(number, String::new())),
                Err(error) => told(number, Err(error))?,
            }
        }
        if generator.is_empty() {
            return Ok(true);
        }
        if !goes_on() {
            return Ok(false);
        }
        for piece in generator.step()? {
            let text = texts.entry(piece.key).or_default();
            text.push_str(&piece.text);
            let Some((end, tokens)) = piece.end else { continue };
            let text = std::mem::take(text);
            texts.remove(&piece.key);
            told(piece.key, Ok(Answer { text, tokens, end }))?;
        }
    }
}

/// What a model writes to each prompt, the likeliest token each time; nothing to one that is empty or leaves no room. None when
/// it is told to stop.
pub fn greedy_answers(
    model: &Decoder,
    adapter: Option<&Adapter>,
    tokenizer: &Tokenizer,
    prompts: &[&[u32]],
    max_new_tokens: u32,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<String>>, Error> {
    let sampling = Sampling::greedy(max_new_tokens);
    let beginnings = prompts.iter().map(|prompt| Beginning { prompt, adapter, sampling: &sampling, number: 0 });
    let mut answers = vec![String::new(); prompts.len()];
    let mut told = |number: u64, answer: Result<Answer, Error>| {
        answers[number as usize] = answer.map(|answer| answer.text).unwrap_or_default();
        Ok(())
    };
    let mut generator = Generator::new(model, tokenizer);
    let ended = answer_all(&mut generator, beginnings, AT_ONCE, goes_on, &mut told)?;
    Ok(ended.then_some(answers))
}

/// A file of JSON lines in the order of their numbers, whatever the order in which they come.
#[derive(Debug)]
pub struct AnswerFile {
    path: PathBuf,
    lines: BufWriter<File>,
    next: u64,
    early: BTreeMap<u64, Vec<u8>>,
}

impl AnswerFile {
    /// A new file.
    pub fn create(path: &Path) -> Result<AnswerFile, Error> {
        let file = File::create(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        Ok(AnswerFile { path: path.to_path_buf(), lines: BufWriter::new(file), next: 0, early: BTreeMap::new() })
    }

    /// Writes a line once those before it are written.
    pub fn add(&mut self, number: u64, line: &impl Serialize) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec(line).expect("a line has a text");
        bytes.push(b'\n');
        self.early.insert(number, bytes);
        while let Some(bytes) = self.early.remove(&self.next) {
            let written = self.lines.write_all(&bytes).and_then(|()| self.lines.flush());
            written.map_err(|source| Error::Io { path: self.path.clone(), source })?;
            self.next += 1;
        }
        Ok(())
    }
}
