//! Log-probabilities of documents under a model: token ids in, `log p(token t+1 | tokens ..t)` out.

use std::path::Path;

use hone_data::pack::{Prefixes, pack};
use hone_data::tokenize::{Document, Example, IGNORE_INDEX};
use serde::{Deserialize, Serialize};

use crate::device::Compute;
use crate::error::Error;
use crate::loss::{self, Targets};
use crate::model::{Adapter, Batch, Decoder};
use crate::peft;

/// Tokens that go through the model at once; a longer document goes alone.
const TOKENS_PER_BATCH: usize = 4096;

/// Documents as token ids.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Documents {
    /// One list of ids a document.
    pub documents: Vec<Vec<u32>>,
}

/// What a model makes of documents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// For each document, the log-probability of every token after its first, in nats.
    pub logprobs: Vec<Vec<f32>>,
    /// Their negative mean over all tokens of all documents.
    pub nll: f64,
}

impl Scores {
    /// Writes them as JSON.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string(self).expect("scores are finite numbers");
        std::fs::write(path, text).map_err(|source| Error::Io { path: path.to_path_buf(), source })
    }
}

/// Reads `{"documents": [[ids]]}`.
pub fn read_documents(path: &Path) -> Result<Documents, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    serde_json::from_slice(&text).map_err(|error| Error::Input {
        place: path.display().to_string(),
        what: format!("expected {{\"documents\": [[token ids]]}}: {error}"),
    })
}

/// Loads a model, with an adapter where one is given, and scores documents.
pub fn score(model: &Path, adapter: Option<&Path>, documents: &Documents, compute: Compute) -> Result<Scores, Error> {
    let model = Decoder::load(model, compute.kind, compute.device, &mut |_, _| {})?;
    let adapter = adapter.map(|folder| peft::load_frozen(folder, &model)).transpose()?;
    score_documents(&model, adapter.as_ref(), documents)
}

/// Scores documents with a loaded model.
pub fn score_documents(model: &Decoder, adapter: Option<&Adapter>, documents: &Documents) -> Result<Scores, Error> {
    let documents = &documents.documents;
    check(documents, model.config().vocab_size)?;
    let logprobs = tch::no_grad(|| rows(model, adapter, documents));
    let all = || logprobs.iter().flatten();
    if let Some(document) = logprobs.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
        let what = "the model gives log-probabilities that are not finite".to_string();
        return Err(Error::Input { place: format!("document {document}"), what });
    }
    let nll = -all().map(|value| f64::from(*value)).sum::<f64>() / all().count() as f64;
    Ok(Scores { logprobs, nll })
}

fn check(documents: &[Vec<u32>], vocab_size: i64) -> Result<(), Error> {
    for (document, ids) in documents.iter().enumerate() {
        if let Some(position) = ids.iter().position(|id| i64::from(*id) >= vocab_size) {
            let what = format!("token id {} is outside the model's vocabulary of {vocab_size}", ids[position]);
            return Err(Error::Input { place: format!("document {document}, token {position}"), what });
        }
    }
    if documents.iter().all(|ids| ids.len() < 2) {
        let what = "no document has two tokens, so there is nothing to score".to_string();
        return Err(Error::Input { place: "documents".into(), what });
    }
    Ok(())
}

/// A row of log-probabilities for each document: the way of training, with every token a target.
fn rows(model: &Decoder, adapter: Option<&Adapter>, documents: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let examples: Vec<Example> = documents.iter().map(|ids| example(ids)).collect();
    let mut rows = vec![Vec::new(); documents.len()];
    for batch in pack(&examples.iter().collect::<Vec<_>>(), TOKENS_PER_BATCH, Prefixes::default()) {
        let targets = Targets::new(&batch, model.device());
        if targets.is_empty() {
            continue;
        }
        let hidden = model.forward(&Batch::of(&batch, model.device()), adapter, None);
        let nll = loss::token_losses(model, adapter, &hidden, &targets).nll;
        let nll = Vec::<f32>::try_from(nll).expect("a vector of float32");
        for (nll, document) in nll.into_iter().zip(targets.documents()) {
            rows[batch.examples[*document]].push(-nll);
        }
    }
    rows
}

/// The label of each token is the next one; the last has none.
fn example(ids: &[u32]) -> Example {
    let labels = ids.iter().skip(1).map(|id| i64::from(*id)).chain([IGNORE_INDEX]).take(ids.len()).collect();
    let document = Document { input_ids: ids.to_vec(), labels };
    Example { documents: vec![document], object: "".into(), row: 0, is_text: false }
}

#[cfg(test)]
mod tests;
