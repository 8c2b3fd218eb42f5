//! A row as a person reads it: what is given, and what is expected.

use hone_data::tokenize::{Document, Example, IGNORE_INDEX};
use hone_data::tokenizer::Tokenizer;

use crate::error::Error;

/// Longest text that is shown, in characters.
const MAX_CHARS: usize = 2000;

/// The texts of a row, without special tokens.
pub(super) struct RowText {
    /// What is given to the model; empty where every token is scored.
    pub(super) prompt: String,
    /// What is scored; of a pair the chosen answer.
    pub(super) expected: String,
    /// Of a pair the rejected answer.
    pub(super) rejected: Option<String>,
}

impl RowText {
    pub(super) fn of(example: &Example, tokenizer: &Tokenizer) -> Result<RowText, Error> {
        let text = |ids: &[u32]| tokenizer.decode(ids, true);
        let first = &example.documents[0];
        let rejected = match &example.documents[..] {
            [_, rejected] => Some(head(text(answer_of(rejected))?)),
            _ => None,
        };
        Ok(RowText { prompt: tail(text(prompt(first))?), expected: head(text(answer_of(first))?), rejected })
    }
}

/// What is given of a document: its tokens before the first target. Nothing where the first token is all that is given.
pub(super) fn prompt(document: &Document) -> &[u32] {
    &document.input_ids[..prompt_len(document)]
}

/// What is expected of a document: its tokens from the first target on.
pub(super) fn answer_of(document: &Document) -> &[u32] {
    &document.input_ids[prompt_len(document)..]
}

/// The label of a token is the next one, so the first that is trained on stands behind the prompt's last.
fn prompt_len(document: &Document) -> usize {
    match document.labels.iter().position(|label| *label != IGNORE_INDEX) {
        Some(0) | None => 0,
        Some(place) => place + 1,
    }
}

/// The beginning of a long text.
pub(super) fn head(mut text: String) -> String {
    if let Some((place, _)) = text.char_indices().nth(MAX_CHARS) {
        text.truncate(place);
        text.push('…');
    }
    text
}

/// The end of a long text, where a question stands.
pub(super) fn tail(text: String) -> String {
    match text.char_indices().rev().nth(MAX_CHARS - 1) {
        Some((place, _)) if place > 0 => format!("…{}", &text[place..]),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_where_they_matter_least() {
        let text = format!("a{}z", "ü".repeat(MAX_CHARS - 1));
        assert_eq!(head(text.clone()), format!("a{}…", "ü".repeat(MAX_CHARS - 1)));
        assert_eq!(tail(text.clone()), format!("…{}z", "ü".repeat(MAX_CHARS - 1)));
        let short = "ü".repeat(MAX_CHARS);
        assert_eq!((head(short.clone()), tail(short.clone())), (short.clone(), short));
    }

    #[test]
    fn a_prompt_ends_before_the_first_target() {
        let document = |labels: &[i64]| Document { input_ids: vec![5, 6, 7, 8], labels: labels.to_vec() };
        let given = document(&[IGNORE_INDEX, 7, 8, IGNORE_INDEX]);
        assert_eq!((prompt(&given), answer_of(&given)), (&[5, 6][..], &[7, 8][..]));
        assert_eq!(prompt(&document(&[6, 7, 8, IGNORE_INDEX])), &[0u32; 0]);
    }
}
