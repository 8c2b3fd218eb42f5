//! The held-out rows that the model finds hardest, with the tokens that surprised it most.

use hone_data::pack::{Prefixes, pack};
use hone_data::tokenize::{Document, Example, IGNORE_INDEX};
use hone_data::tokenizer::Tokenizer;
use hone_job::insight::{HardExample, Surprise};
use tch::Kind;

use super::evaluate::{RowFigure, finite};
use super::row_text::{RowText, head, prompt};
use crate::error::Error;
use crate::generation::greedy_answers;
use crate::loss::{Targets, token_losses};
use crate::model::{Adapter, Batch, Decoder};

/// Tokens that are told of a row.
const MAX_SURPRISES: usize = 5;
/// Longest answer of the model, in tokens.
const MAX_NEW_TOKENS: u32 = 64;

/// Looks at the hardest rows of an evaluation.
pub(super) struct Look<'a> {
    pub(super) model: &'a Decoder,
    pub(super) adapter: Option<&'a Adapter>,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) examples: &'a [Example],
    /// What was found of each row at the evaluation before.
    pub(super) before: &'a [RowFigure],
    /// Whether the model is to answer.
    pub(super) answers: bool,
}

impl Look<'_> {
    /// The `count` hardest rows, the hardest first.
    pub(super) fn hardest(&self, figures: &[RowFigure], count: usize) -> Result<Vec<HardExample>, Error> {
        let mut rows: Vec<usize> = (0..figures.len()).collect();
        rows.sort_by(|&one, &other| figures[other].hardness().total_cmp(&figures[one].hardness()));
        rows.truncate(count);
        let found = rows.iter().map(|&row| self.hard_example(row, figures[row]));
        let mut found = found.collect::<Result<Vec<_>, _>>()?;
        if self.answers {
            let prompts: Vec<&[u32]> = rows.iter().map(|&row| prompt(&self.examples[row].documents[0])).collect();
            let answers =
                greedy_answers(self.model, self.adapter, self.tokenizer, &prompts, MAX_NEW_TOKENS, &mut || true)?;
            for (example, answer) in found.iter_mut().zip(answers.unwrap_or_default()) {
                example.answer = head(answer);
            }
        }
        Ok(found)
    }

    fn hard_example(&self, row: usize, figure: RowFigure) -> Result<HardExample, Error> {
        let example = &self.examples[row];
        let text = RowText::of(example, self.tokenizer)?;
        let before = self.before.get(row).map(|before| before.margin.unwrap_or(before.loss));
        Ok(HardExample {
            object: example.object.to_string(),
            row: example.row,
            prompt: text.prompt,
            expected: text.expected,
            rejected: text.rejected,
            loss: finite(figure.loss),
            margin: figure.margin.and_then(finite),
            before: before.and_then(finite),
            surprises: self.surprises(&example.documents[0])?,
            answer: String::new(),
        })
    }

    /// The tokens of a text, or of a chosen answer, that the model found least likely; the least likely first.
    fn surprises(&self, document: &Document) -> Result<Vec<Surprise>, Error> {
        let alone = Example { documents: vec![document.clone()], object: "".into(), row: 0, is_text: false };
        let micro_batch = pack(&[&alone], usize::MAX, Prefixes::default()).remove(0);
        let (model, adapter) = (self.model, self.adapter);
        let (nll, places, preferred) = tch::no_grad(|| {
            let targets = Targets::new(&micro_batch, model.device());
            let hidden = model.forward(&Batch::of(&micro_batch, model.device()), adapter, None);
            let nll = token_losses(model, adapter, &hidden, &targets).nll;
            let count = (targets.len()).min(MAX_SURPRISES) as i64;
            let (nll, places) = nll.topk(count, 0, true, true);
            let places = Vec::<i64>::try_from(places).expect("a flat vector");
            let labelled = labelled(document);
            let positions: Vec<i64> = places.iter().map(|&place| labelled[place as usize] as i64).collect();
            let hidden = hidden.index_select(0, &tch::Tensor::from_slice(&positions).to_device(model.device()));
            let preferred = model.logits(&hidden, adapter).argmax(-1, false);
            let nll = Vec::<f64>::try_from(nll.to_kind(Kind::Double)).expect("a flat vector");
            (nll, positions, Vec::<i64>::try_from(preferred).expect("a flat vector"))
        });
        let first = labelled(document).first().copied().unwrap_or_default() as i64;
        let word = |id: u32| self.tokenizer.decode(&[id], false);
        let surprise = |((nll, position), preferred): ((f64, i64), i64)| {
            Ok(Surprise {
                token: (position - first) as u64 + 1,
                expected: word(document.input_ids[position as usize + 1])?,
                preferred: word(u32::try_from(preferred).expect("a place in the vocabulary"))?,
                nll: finite(nll).unwrap_or_default(),
            })
        };
        nll.into_iter().zip(places).zip(preferred).map(surprise).collect()
    }
}

/// Where the targets of a document are.
fn labelled(document: &Document) -> Vec<usize> {
    let has_target = |(position, label): (usize, &i64)| (*label != IGNORE_INDEX).then_some(position);
    document.labels.iter().enumerate().filter_map(has_target).collect()
}
