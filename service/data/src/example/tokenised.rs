//! Rows that are tokens already: `input_ids`, and what is trained on as `labels`, `completion_mask` or `assistant_masks`.

use hone_job::spec::LossOn;
use serde_json::{Map, Value};

use super::{Content, kind};
use crate::tokenize::IGNORE_INDEX;

/// The columns that make such a row what it is.
pub(super) const COLUMNS: [&str; 4] = ["input_ids", "labels", "completion_mask", "assistant_masks"];

/// A row of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenised {
    /// Tokens. At least one.
    pub input_ids: Vec<u32>,
    /// For each token whether `labels` asks for it. Goes before the masks, whatever `loss_on` is.
    pub labelled: Option<Vec<bool>>,
    /// For each token whether it belongs to the completion.
    pub completion_mask: Option<Vec<bool>>,
    /// For each token whether the assistant wrote it.
    pub assistant_masks: Option<Vec<bool>>,
}

impl Tokenised {
    /// For each token whether it is trained on: as `labels` say; without them, as the masks say that `loss_on` looks at.
    /// None when `loss_on` asks for turns that the row does not tell.
    pub fn trained(&self, loss_on: LossOn) -> Option<Vec<bool>> {
        if let Some(labelled) = &self.labelled {
            return Some(labelled.clone());
        }
        let masks = match loss_on {
            LossOn::All => [&None, &None],
            LossOn::Assistant if self.assistant_masks.is_none() => return None,
            LossOn::Assistant => [&None, &self.assistant_masks],
            LossOn::Completion => [&self.completion_mask, &self.assistant_masks],
        };
        let told = |index: usize| masks.iter().all(|mask| mask.as_ref().is_none_or(|mask| mask[index]));
        Some((0..self.input_ids.len()).map(told).collect())
    }

    /// Whether the row says nothing of what is trained on, as a text does not.
    pub fn is_text(&self) -> bool {
        self.labelled.is_none() && self.completion_mask.is_none() && self.assistant_masks.is_none()
    }
}

/// Understands a row of tokens. Whether its ids are in the vocabulary is for the tokenizer to say.
pub(super) fn understand(ids: &Value, row: &Map<String, Value>) -> Result<Content, String> {
    let input_ids = list("input_ids", ids)?
        .iter()
        .enumerate()
        .map(|(index, id)| {
            let small = id.as_u64().and_then(|id| u32::try_from(id).ok());
            small.ok_or_else(|| format!("input_ids[{index}] is {id}; expected an id of a token"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if input_ids.is_empty() {
        return Err("input_ids is an empty list; expected at least one token".into());
    }
    if let Some(mask) = mask(row, "attention_mask", input_ids.len())?
        && let Some(index) = mask.iter().position(|attended| !attended)
    {
        return Err(format!("attention_mask[{index}] is 0; take padding out, rows are not padded here"));
    }
    Ok(Content::Tokens(Tokenised {
        labelled: labels(row, &input_ids)?,
        completion_mask: mask(row, "completion_mask", input_ids.len())?,
        assistant_masks: mask(row, "assistant_masks", input_ids.len())?,
        input_ids,
    }))
}

fn list<'a>(column: &str, value: &'a Value) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{column} is {}; expected a list of numbers", kind(value)))
}

/// A column as long as the ids, if it is there.
fn column<'a>(row: &'a Map<String, Value>, name: &str, len: usize) -> Result<Option<&'a Vec<Value>>, String> {
    let Some(value) = row.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let list = list(name, value)?;
    match list.len() == len {
        true => Ok(Some(list)),
        false => Err(format!("{name} has {} entries and input_ids {len}; expected as many", list.len())),
    }
}

fn mask(row: &Map<String, Value>, name: &str, len: usize) -> Result<Option<Vec<bool>>, String> {
    let Some(list) = column(row, name, len)? else { return Ok(None) };
    let bit = |(index, value): (usize, &Value)| match (value.as_u64(), value.as_bool()) {
        (Some(0), _) | (_, Some(false)) => Ok(false),
        (Some(1), _) | (_, Some(true)) => Ok(true),
        _ => Err(format!("{name}[{index}] is {value}; expected 0 or 1")),
    };
    list.iter().enumerate().map(bit).collect::<Result<_, _>>().map(Some)
}

/// Labels as transformers has them: at each token its own id or -100, not shifted.
fn labels(row: &Map<String, Value>, input_ids: &[u32]) -> Result<Option<Vec<bool>>, String> {
    let Some(list) = column(row, "labels", input_ids.len())? else { return Ok(None) };
    let label = |(index, (value, &id)): (usize, (&Value, &u32))| match value.as_i64() {
        Some(IGNORE_INDEX) => Ok(false),
        Some(label) if label == i64::from(id) => Ok(true),
        _ => Err(format!(
            "labels[{index}] is {value}; expected -100 or input_ids[{index}], which is {id} (labels are not shifted)"
        )),
    };
    list.iter().zip(input_ids).enumerate().map(label).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::understand;
    use super::*;

    fn tokens(row: Value) -> Tokenised {
        match understand(&row).unwrap() {
            Content::Tokens(tokens) => tokens,
            other => panic!("{other:?}"),
        }
    }

    fn trained(row: Value, loss_on: LossOn) -> Option<Vec<u8>> {
        let trained = tokens(row).trained(loss_on)?;
        Some(trained.into_iter().map(u8::from).collect())
    }

    #[test]
    fn labels_decide_and_masks_where_there_are_none() {
        let check = |row: Value, loss_on, expected: Option<&[u8]>| {
            assert_eq!(trained(row.clone(), loss_on).as_deref(), expected, "{row} {loss_on:?}");
        };
        let labelled = json!({"input_ids": [5, 6, 7], "labels": [-100, 6, -100], "completion_mask": [1, 1, 1]});
        for loss_on in [LossOn::Completion, LossOn::Assistant, LossOn::All] {
            check(labelled.clone(), loss_on, Some(&[0, 1, 0]));
        }
        let plain = json!({"input_ids": [5, 6, 7], "text": "ignored", "attention_mask": [1, 1, 1]});
        check(plain.clone(), LossOn::Completion, Some(&[1, 1, 1]));
        check(plain.clone(), LossOn::Assistant, None);
        let completion = json!({"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1]});
        check(completion.clone(), LossOn::Completion, Some(&[0, 1, 1]));
        check(completion.clone(), LossOn::All, Some(&[1, 1, 1]));
        let both =
            json!({"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1], "assistant_masks": [true, true, false]});
        check(both.clone(), LossOn::Completion, Some(&[0, 1, 0]));
        check(both, LossOn::Assistant, Some(&[1, 1, 0]));
        assert!(tokens(plain).is_text() && !tokens(completion).is_text());
    }

    #[test]
    fn wrong_shapes_are_named() {
        let check = |row: Value, expected: &str| {
            let error = understand(&row).unwrap_err();
            assert!(error.contains(expected), "{row}: {error:?} should say {expected:?}");
        };
        check(json!({"input_ids": "a"}), "input_ids is a text; expected a list of numbers");
        check(json!({"input_ids": []}), "input_ids is an empty list");
        check(json!({"input_ids": [1, -2]}), "input_ids[1] is -2; expected an id");
        check(json!({"input_ids": [1.5]}), "input_ids[0] is 1.5");
        check(json!({"input_ids": [1, 2], "labels": [1]}), "labels has 1 entries and input_ids 2");
        check(
            json!({"input_ids": [1, 2], "labels": [2, -100]}),
            "labels[0] is 2; expected -100 or input_ids[0], which is 1",
        );
        check(json!({"input_ids": [1, 2], "completion_mask": [0, 2]}), "completion_mask[1] is 2; expected 0 or 1");
        check(json!({"input_ids": [1, 2], "assistant_masks": 1}), "assistant_masks is a number");
        check(json!({"input_ids": [1, 0], "attention_mask": [1, 0]}), "attention_mask[1] is 0; take padding out");
    }
}
