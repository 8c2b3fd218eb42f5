//! Rows that models are scored on or asked, and never trained on: none is left out or cut for its length.

use std::sync::Arc;

use hone_job::event::DatasetReport;
use hone_job::spec::{Data, LossOn, PromptRows, RowKind, ScoredRows};
use tokio::runtime::Handle;

use super::{Error, Options, Progress, Sources, examine, refuse_malformed};
use crate::example::is_pair;
use crate::source;
use crate::storage::Location;
use crate::tokenize::{Example, Form};
use crate::tokenizer::Tokenizer;

/// Name of the rows in reports and errors.
const SPLIT: &str = "eval";

/// Rows to score, and what became of every one of them.
#[derive(Debug, Clone)]
pub struct HeldOut {
    /// The examples, in reading order: of one document, or of a chosen and a rejected one, or of a right one and wrong ones.
    pub examples: Vec<Example>,
    /// What became of the rows.
    pub report: DatasetReport,
    /// Whether the examples have answers to tell apart.
    pub are_pairs: bool,
}

impl HeldOut {
    /// Reads everything. A malformed row fails the whole, after all rows were read, so that the error lists them all.
    pub async fn load(
        sources: Vec<Location>,
        data: &ScoredRows,
        tokenizer: Arc<Tokenizer>,
        progress: Progress,
    ) -> Result<Self, Error> {
        let form = match data.kind {
            RowKind::Texts => Form::Sft(data.loss_on),
            RowKind::Questions => Form::Sft(LossOn::Completion),
            RowKind::Pairs => Form::Preference,
            RowKind::Choices => Form::Choices,
            RowKind::Auto => match begins_with_pair(&sources).await? {
                true => Form::Preference,
                false => Form::Sft(data.loss_on),
            },
        };
        let are_pairs = matches!(form, Form::Preference | Form::Choices);
        let template = data.chat_template.clone();
        let (examples, report) = all(sources, form, template, data.max_examples, tokenizer, progress).await?;
        Ok(HeldOut { examples, report, are_pairs })
    }
}

/// Prompts to answer, and what became of every row.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// The prompts, in reading order: the first document is what is asked, a second one what is expected.
    pub examples: Vec<Example>,
    /// What became of the rows.
    pub report: DatasetReport,
}

impl Prompts {
    /// Reads everything, as [`HeldOut::load`] does.
    pub async fn load(
        sources: Vec<Location>,
        data: &PromptRows,
        tokenizer: Arc<Tokenizer>,
        progress: Progress,
    ) -> Result<Self, Error> {
        let template = data.chat_template.clone();
        let (examples, report) = all(sources, Form::Prompt, template, data.max_examples, tokenizer, progress).await?;
        Ok(Prompts { examples, report })
    }
}

/// All rows that are left of a sample.
async fn all(
    sources: Vec<Location>,
    form: Form,
    chat_template: Option<String>,
    max_examples: Option<u64>,
    tokenizer: Arc<Tokenizer>,
    progress: Progress,
) -> Result<(Vec<Example>, DatasetReport), Error> {
    let rows = Data { chat_template, max_eval_examples: max_examples, ..Data::of(Vec::new()) };
    let sources = Sources { train: Vec::new(), eval: sources };
    let found = examine(sources, tokenizer, Options::new(&rows, form), progress).await?;
    let split = found.eval.unwrap_or_default();
    refuse_malformed(&split.tally)?;
    let report = split.report(SPLIT);
    if report.examples == 0 {
        return Err(Error::NoUsableRows { split: SPLIT, rows_read: report.rows_read, reasons: report.reasons });
    }
    Ok((split.examples.all()?, report))
}

/// Whether the first row that can be read has answers to choose from.
async fn begins_with_pair(sources: &[Location]) -> Result<bool, Error> {
    let mut objects = Vec::new();
    for source in sources {
        objects.extend(source::objects(source).await?);
    }
    let runtime = Handle::current();
    let look = move || {
        for object in &objects {
            for row in source::read(object, &runtime)? {
                if let Ok(row) = row? {
                    return Ok(is_pair(&row.value));
                }
            }
        }
        Ok(false)
    };
    tokio::task::spawn_blocking(look).await.map_err(|error| Error::Interrupted(error.to_string()))?
}
