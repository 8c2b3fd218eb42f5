//! Models scored on the same rows: one alone, or several against the first. Files with the figures of every row are the job's
//! only checkpoint.

use std::sync::Arc;
use std::time::Instant;

use hone_data::dataset::HeldOut;
use hone_data::tokenize::Example;
use hone_data::tokenizer::Tokenizer;
use hone_job::event::{Event, Outcome, Phase};
use hone_job::score::ScoreReport;
use hone_job::spec::{Candidate, CompareTask, EvaluateTask, RowKind, ScoredRows, Scoring};

use super::evaluate::{DocumentScore, score_documents};
use super::models::{self, Models};
use super::teller::{Teller, reading_rows};
use super::{Observer, checkpoints, is_stopped, row_text, save_only_checkpoint, tell_only_checkpoint};
use crate::checkpoint::Saved;
use crate::device::Compute;
use crate::error::Error;
use crate::fingerprint::fingerprint_of;
use crate::generation::greedy_answers;
use crate::link::{End, Welcome};
use crate::workspace::Workspace;

mod bootstrap;
mod files;
mod graded;
mod report;
mod shown;

use bootstrap::Bootstrap;
use graded::Grades;
use report::{Scored, report};

/// Name of the one model of an evaluation.
const MODEL: &str = "model";

/// Scores one model.
pub(super) fn evaluate(
    welcome: &Welcome,
    task: &EvaluateTask,
    workspace: &Workspace,
    observer: Arc<dyn Observer>,
) -> Result<End, Error> {
    let candidates = [Candidate { name: MODEL.into(), checkpoint: task.checkpoint.clone() }];
    let work = Work { candidates: &candidates, data: &task.data, scoring: &task.scoring, seed: 0 };
    work.run(welcome, workspace, observer)
}

/// Scores several models and compares them.
pub(super) fn compare(
    welcome: &Welcome,
    task: &CompareTask,
    workspace: &Workspace,
    observer: Arc<dyn Observer>,
) -> Result<End, Error> {
    let work = Work { candidates: &task.candidates, data: &task.data, scoring: &task.scoring, seed: task.seed };
    work.run(welcome, workspace, observer)
}

/// What is scored, and how.
struct Work<'a> {
    candidates: &'a [Candidate],
    data: &'a ScoredRows,
    scoring: &'a Scoring,
    seed: u64,
}

impl<'a> Work<'a> {
    fn run(&self, welcome: &Welcome, workspace: &Workspace, observer: Arc<dyn Observer>) -> Result<End, Error> {
        let start = Instant::now();
        let compute = Compute::choose(self.scoring.precision)?;
        let teller = Teller::new(observer.clone(), "loading_model");
        let base = models::local(&welcome.spec.base_model, workspace, &teller)?;
        let tokenizer = Arc::new(Tokenizer::open(&base)?);
        let sources = workspace.open_all(&self.data.rows)?;
        let held_out = HeldOut::load(sources, self.data, tokenizer.clone(), reading_rows(&observer));
        let held_out = workspace.runtime().block_on(held_out)?;
        observer.report(Event::DatasetReport(held_out.report.clone()));
        let models = Models::open(&base, self.candidates, compute, workspace, &teller)?;
        models.check(&tokenizer)?;
        observer.running();
        let HeldOut { examples, are_pairs, .. } = held_out;
        let Some(mut scored) = self.score_all(&models, &examples, &observer)? else {
            return Ok(End::Stopped { checkpoint_id: None });
        };
        let is_graded = self.data.kind == RowKind::Questions;
        if is_graded && !self.grade(&models, &examples, &tokenizer, &mut scored, &observer)? {
            return Ok(End::Stopped { checkpoint_id: None });
        }
        let mut found = report(&examples, &scored, are_pairs, Bootstrap::new(self.seed));
        let chosen = shown::choose(&scored, are_pairs, self.scoring.shown_rows as usize);
        found.rows = shown::rows(&chosen, &examples, &scored, are_pairs, &tokenizer)?;
        if !is_graded && !self.answer(&models, &chosen, &examples, &tokenizer, &mut found, &observer)? {
            return Ok(End::Stopped { checkpoint_id: None });
        }
        observer.report(Event::Phase(Phase { name: "saving".into(), detail: String::new() }));
        let files = files::of(&found, &examples, &scored);
        let folder = checkpoints(workspace, welcome, fingerprint_of(&base)?)?;
        let saved = save_only_checkpoint(files, &folder, workspace)?;
        tell(found, saved, start, &*observer);
        Ok(End::Succeeded)
    }

    /// Scores every row with every model; nothing when it is told to stop.
    fn score_all(
        &self,
        models: &Models,
        examples: &[Example],
        observer: &Arc<dyn Observer>,
    ) -> Result<Option<Vec<Scored<'a>>>, Error> {
        let score = |(number, candidate)| self.score(models, number, candidate, examples, observer);
        self.candidates.iter().enumerate().map(score).collect()
    }

    fn score(
        &self,
        models: &Models,
        number: usize,
        candidate: &'a Candidate,
        examples: &[Example],
        observer: &Arc<dyn Observer>,
    ) -> Result<Option<Scored<'a>>, Error> {
        let teller = Teller::new(observer.clone(), "scoring");
        teller.tell(&candidate.name);
        let mut go_on = |done| {
            teller.tell_sometimes(|| format!("{}: {done} of {} rows", candidate.name, examples.len()));
            !is_stopped(&**observer)
        };
        let max_tokens = self.scoring.tokens_per_micro_batch as usize;
        let start = Instant::now();
        let score = |model: &_, adapter: Option<&_>| score_documents(model, adapter, examples, max_tokens, &mut go_on);
        let rows = models.with(number, score)?;
        let (step, seconds) = (models.step(number), start.elapsed().as_secs_f64());
        Ok(rows.map(|rows| Scored { candidate, step, rows, grades: None, seconds }))
    }

    /// Has every model answer every row, and grades what it writes. Says whether it came to its end.
    fn grade(
        &self,
        models: &Models,
        examples: &[Example],
        tokenizer: &Tokenizer,
        scored: &mut [Scored<'_>],
        observer: &Arc<dyn Observer>,
    ) -> Result<bool, Error> {
        let documents = || examples.iter().map(|example| &example.documents[0]);
        let prompts: Vec<_> = documents().map(row_text::prompt).collect();
        let expected = documents().map(|document| tokenizer.decode(row_text::answer_of(document), true));
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        for (number, one) in scored.iter_mut().enumerate() {
            let start = Instant::now();
            let Some(answers) = self.answers(models, number, &prompts, tokenizer, observer)? else { return Ok(false) };
            one.grades = Some(Grades::of(answers, &expected));
            one.seconds += start.elapsed().as_secs_f64();
        }
        Ok(true)
    }

    /// What one of the models writes to prompts; nothing when it is told to stop.
    fn answers(
        &self,
        models: &Models,
        number: usize,
        prompts: &[&[u32]],
        tokenizer: &Tokenizer,
        observer: &Arc<dyn Observer>,
    ) -> Result<Option<Vec<String>>, Error> {
        Teller::new(observer.clone(), "answering").tell(&self.candidates[number].name);
        let max_new_tokens = self.scoring.max_new_tokens;
        let mut goes_on = || !is_stopped(&**observer);
        models.with(number, |model, adapter| {
            greedy_answers(model, adapter, tokenizer, prompts, max_new_tokens, &mut goes_on)
        })?
    }

    /// Has every model answer the rows that are shown. Says whether it came to its end.
    fn answer(
        &self,
        models: &Models,
        chosen: &[usize],
        examples: &[Example],
        tokenizer: &Tokenizer,
        report: &mut ScoreReport,
        observer: &Arc<dyn Observer>,
    ) -> Result<bool, Error> {
        let prompts: Vec<_> = chosen.iter().map(|&index| row_text::prompt(&examples[index].documents[0])).collect();
        if self.scoring.max_new_tokens == 0 || prompts.iter().all(|prompt| prompt.is_empty()) {
            return Ok(true);
        }
        for number in 0..self.candidates.len() {
            let Some(answers) = self.answers(models, number, &prompts, tokenizer, observer)? else { return Ok(false) };
            for (row, answer) in report.rows.iter_mut().zip(answers) {
                row.scores[number].answer = row_text::head(answer);
            }
        }
        Ok(true)
    }
}

/// Tells what was found, now that it is durable.
fn tell(found: ScoreReport, saved: Saved, start: Instant, observer: &dyn Observer) {
    let figures: Vec<_> = found.models.iter().map(|model| &model.evaluation).collect();
    let eval_seconds = figures.iter().map(|evaluation| evaluation.seconds).sum();
    let eval_loss_after = if let [only] = figures[..] { only.loss } else { None };
    observer.report(Event::Scores(found));
    tell_only_checkpoint(saved, start, Outcome { eval_loss_after, eval_seconds, ..Outcome::default() }, observer);
}

impl Scored<'_> {
    /// What it says about the document of each row that counts: the text, of a pair the chosen answer.
    fn first(&self) -> Vec<DocumentScore> {
        self.rows.iter().map(|documents| documents[0]).collect()
    }
}

#[cfg(test)]
mod tests;
