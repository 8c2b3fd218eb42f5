//! What a job would train on: the same steps as a run takes, and the first rows with their trained tokens marked.

use std::sync::Arc;

use hone_job::event::DatasetReport;
use serde::{Deserialize, Serialize};

use crate::dataset::{Error, Options, Progress, Sources, examine};
use crate::tokenize::{Document, Example, IGNORE_INDEX};
use crate::tokenizer::{self, Tokenizer};

/// What a job would see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// One report a split: train, and eval when there are held-out rows. Malformed rows are counted in them.
    pub reports: Vec<DatasetReport>,
    /// The first training rows.
    pub rows: Vec<PreviewRow>,
}

/// A row as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewRow {
    /// URI of the object the row is in.
    pub object: String,
    /// Number of the row in it, from 1.
    pub row: u64,
    /// The text of each document in pieces, special tokens written out.
    pub documents: Vec<Vec<Piece>>,
    /// Tokens of the row.
    pub tokens: u64,
    /// Tokens trained on.
    pub trained_tokens: u64,
}

/// A stretch of text whose tokens are all trained on, or all not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Whether its tokens are targets of the loss.
    pub trained: bool,
}

/// Looks at all rows and shows the first `num_rows` of those that would be trained on.
pub async fn preview(
    sources: Sources,
    tokenizer: Arc<Tokenizer>,
    options: Options,
    num_rows: usize,
    progress: Progress,
) -> Result<Preview, Error> {
    let (mix, uris) = (options.mix.clone(), sources.train.iter().map(|source| source.uri.clone()).collect());
    let found = examine(sources, tokenizer.clone(), options, progress).await?;
    let examples = &found.train.examples;
    let first = (0..examples.len().min(num_rows)).map(|index| examples.get(index)).collect::<Result<Vec<_>, _>>()?;
    let rows = first.iter().map(|example| preview_row(example, &tokenizer)).collect::<Result<_, _>>();
    let mut reports = vec![found.train.report("train")];
    if let Some(mix) = mix {
        found.train.mixture(&mix, uris, &mut reports[0])?;
    }
    reports.extend(found.eval.map(|split| split.report("eval")));
    Ok(Preview { reports, rows: rows.map_err(|error| Error::Interrupted(error.to_string()))? })
}

/// A row with its trained tokens marked.
pub fn preview_row(example: &Example, tokenizer: &Tokenizer) -> Result<PreviewRow, tokenizer::Error> {
    Ok(PreviewRow {
        object: example.object.to_string(),
        row: example.row,
        documents: example.documents.iter().map(|document| pieces(document, tokenizer)).collect::<Result<_, _>>()?,
        tokens: example.num_tokens(),
        trained_tokens: example.num_targets(),
    })
}

/// Cuts the text where trained and untrained tokens meet. The text of a piece is what decoding gains by its tokens, since
/// some tokenizers drop the space before a text that is decoded alone.
fn pieces(document: &Document, tokenizer: &Tokenizer) -> Result<Vec<Piece>, tokenizer::Error> {
    // A token is trained on when it is the target of the one before.
    let trained = |index: usize| index > 0 && document.labels[index - 1] != IGNORE_INDEX;
    let indices: Vec<usize> = (0..document.len()).collect();
    let mut before = String::new();
    let mut pieces = Vec::new();
    for run in indices.chunk_by(|&a, &b| trained(a) == trained(b)) {
        let (start, end) = (run[0], run[run.len() - 1] + 1);
        let through = tokenizer.decode(&document.input_ids[..end], false)?;
        let text = match through.strip_prefix(&before) {
            Some(text) => text.to_string(),
            None => tokenizer.decode(&document.input_ids[start..end], false)?,
        };
        pieces.push(Piece { text, trained: trained(start) });
        before = through;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests;
