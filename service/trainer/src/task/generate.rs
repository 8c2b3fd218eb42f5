//! Prompts that a model answers. A file with a line for each answer is the job's only checkpoint.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hone_data::dataset::Prompts;
use hone_data::tokenize::Example;
use hone_data::tokenizer::Tokenizer;
use hone_job::answer::{AnswerReport, ShownAnswer};
use hone_job::event::{Event, Outcome, Phase};
use hone_job::spec::{Candidate, GenerateTask};
use serde::Serialize;

use super::models::{self, Models};
use super::row_text::{head, tail};
use super::teller::{Teller, reading_rows};
use super::{Observer, checkpoints, is_stopped, tell_only_checkpoint};
use crate::device::Compute;
use crate::error::Error;
use crate::fingerprint::fingerprint_of;
use crate::generation::{self, Answer, AnswerFile, Beginning, End as TextEnd, Generator};
use crate::link::{End, Welcome};
use crate::model::{Adapter, Decoder};
use crate::workspace::Workspace;

/// Name of the file of answers.
const ANSWERS: &str = "answers.jsonl";
/// Answers that are told with their text.
const SHOWN: u64 = 5;

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    object: &'a str,
    row: u64,
    /// Number of the answer among those to the row, from 0.
    answer_index: u64,
    /// Without special tokens.
    prompt: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    expected: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<TextEnd>,
    prompt_tokens: usize,
    answer_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Answers every row.
pub(super) fn generate(
    welcome: &Welcome,
    task: &GenerateTask,
    workspace: &Workspace,
    observer: Arc<dyn Observer>,
) -> Result<End, Error> {
    let start = Instant::now();
    let compute = Compute::choose(task.precision)?;
    let teller = Teller::new(observer.clone(), "loading_model");
    let base = models::local(&welcome.spec.base_model, workspace, &teller)?;
    let tokenizer = Arc::new(Tokenizer::open(&base)?);
    let sources = workspace.open_all(&task.data.rows)?;
    let prompts = Prompts::load(sources, &task.data, tokenizer.clone(), reading_rows(&observer));
    let prompts = workspace.runtime().block_on(prompts)?;
    observer.report(Event::DatasetReport(prompts.report));
    let candidates = [Candidate { name: String::new(), checkpoint: task.checkpoint.clone() }];
    let models = Models::open(&base, &candidates, compute, workspace, &teller)?;
    models.check(&tokenizer)?;
    observer.running();
    let scratch = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
    let path = scratch.path().join(ANSWERS);
    let asked = Asked { task, examples: &prompts.examples, tokenizer: &tokenizer, observer: observer.clone() };
    let Some(report) = models.with(0, |model, adapter| asked.answer_all(model, adapter, &path))?? else {
        return Ok(End::Stopped { checkpoint_id: None });
    };
    observer.report(Event::Phase(Phase { name: "saving".into(), detail: String::new() }));
    let folder = checkpoints(workspace, welcome, fingerprint_of(&base)?)?;
    let saved = workspace.runtime().block_on(async {
        let mut writing = folder.begin(0).await?;
        writing.put_file(ANSWERS, &path).await?;
        writing.finish(Default::default()).await
    })?;
    observer.report(Event::Answers(report));
    tell_only_checkpoint(saved, start, Outcome::default(), &*observer);
    Ok(End::Succeeded)
}

/// What is asked of one model.
struct Asked<'a> {
    task: &'a GenerateTask,
    examples: &'a [Example],
    tokenizer: &'a Tokenizer,
    observer: Arc<dyn Observer>,
}

impl Asked<'_> {
    /// Writes all answers into a file; nothing when it is told to stop.
    fn answer_all(
        &self,
        model: &Decoder,
        adapter: Option<&Adapter>,
        path: &Path,
    ) -> Result<Option<AnswerReport>, Error> {
        let start = Instant::now();
        let per_row = u64::from(self.task.answers_per_row);
        let all = self.examples.len() as u64 * per_row;
        let teller = Teller::new(self.observer.clone(), "answering");
        teller.tell(&format!("{all} answers to write"));
        let mut record = Record { file: AnswerFile::create(path)?, report: AnswerReport::default() };
        let begin = |number: u64| {
            let prompt = &self.examples[(number / per_row) as usize].documents[0].input_ids[..];
            Beginning { prompt, adapter, sampling: &self.task.sampling, number }
        };
        let mut generator = Generator::new(model, self.tokenizer);
        let at_once = self.task.answers_at_once as usize;
        let mut goes_on = || !is_stopped(&*self.observer);
        let mut told = |number: u64, answer| {
            let example = &self.examples[(number / per_row) as usize];
            record.add(number, number % per_row, example, self.tokenizer, answer)?;
            let AnswerReport { answers, failed_rows, .. } = record.report;
            teller.tell_sometimes(|| format!("{} of {all}", answers + failed_rows));
            Ok(())
        };
        if !generation::answer_all(&mut generator, (0..all).map(begin), at_once, &mut goes_on, &mut told)? {
            return Ok(None);
        }
        let mut report = record.report;
        report.shown.sort_by(|one, other| (&one.object, one.row).cmp(&(&other.object, other.row)));
        Ok(Some(AnswerReport { seconds: start.elapsed().as_secs_f64(), ..report }))
    }
}

/// What was written so far.
struct Record {
    file: AnswerFile,
    report: AnswerReport,
}

impl Record {
    /// Adds the answer of a number to those before it. A row that cannot be answered has its reason in the file.
    fn add(
        &mut self,
        number: u64,
        answer_index: u64,
        example: &Example,
        tokenizer: &Tokenizer,
        answer: Result<Answer, Error>,
    ) -> Result<(), Error> {
        let text = |document: usize| match example.documents.get(document) {
            Some(document) => tokenizer.decode(&document.input_ids, true),
            None => Ok(String::new()),
        };
        let (prompt, expected) = (text(0)?, text(1)?);
        let prompt_tokens = example.documents[0].len();
        let report = &mut self.report;
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error.to_string())),
        };
        match &answer {
            Some(answer) => {
                report.answers += 1;
                report.reached_length += u64::from(answer.end == TextEnd::Length);
                report.prompt_tokens += prompt_tokens as u64;
                report.answer_tokens += answer.tokens.len() as u64;
            }
            None => report.failed_rows += u64::from(answer_index == 0),
        }
        if let Some(answer) = answer.as_ref().filter(|_| number < SHOWN) {
            report.shown.push(ShownAnswer {
                object: example.object.to_string(),
                row: example.row,
                prompt: tail(prompt.clone()),
                expected: head(expected.clone()),
                answer: head(answer.text.clone()),
            });
        }
        let line = Line {
            object: &example.object,
            row: example.row,
            answer_index,
            prompt,
            expected,
            answer: answer.as_ref().map(|answer| &answer.text[..]),
            finish_reason: answer.as_ref().map(|answer| answer.end),
            prompt_tokens,
            answer_tokens: answer.as_ref().map_or(0, |answer| answer.tokens.len()),
            error,
        };
        self.file.add(number, &line)
    }
}

#[cfg(test)]
mod tests;
