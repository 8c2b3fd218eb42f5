//! Tokens of a pair: the prompt with the chosen answer, and with the rejected one. The rules are TRL's (DPOTrainer), save that
//! either side keeps a token of its own where the two begin alike.

use serde_json::Value;

use super::{Error, RowTokenizer, Tokens, common_prefix};
use crate::example::Content;

impl RowTokenizer {
    /// Chosen, then rejected; both with the same prompt, whose tokens are not trained on. The prompt ends where its tokens and
    /// those of either whole part, since the last characters of a prompt may share a token with the first of an answer.
    pub(super) fn pair(&self, content: &Content) -> Result<[Tokens; 2], Error> {
        match content {
            Content::Preference { prompt, chosen, rejected } => self.text_pair(prompt.as_deref(), chosen, rejected),
            Content::ChatPreference { prompt, chosen, rejected, context } => {
                let side = |answer: &[Value]| {
                    let messages = [prompt, answer].concat();
                    self.last_part(&messages, prompt.len(), messages.len(), context)
                };
                let pair = [side(chosen)?, side(rejected)?];
                let start = pair.iter().filter_map(|side| side.trained.iter().position(|trained| *trained)).min();
                Ok(answers_from(start.unwrap_or(usize::MAX), pair.map(|side| side.ids)))
            }
            _ => {
                let expected = "pairs: {\"chosen\", \"rejected\"}, with or without \"prompt\"";
                Err(Error::WrongKind { kind: content.kind(), task: "dpo", expected })
            }
        }
    }

    fn text_pair(&self, prompt: Option<&str>, chosen: &str, rejected: &str) -> Result<[Tokens; 2], Error> {
        let start = prompt.unwrap_or_default();
        let ids = |answer: &str| self.tokenizer.encode(&format!("{start}{}", self.with_eos(answer)), true);
        let pair = [ids(chosen)?, ids(rejected)?];
        let common = match prompt {
            Some(prompt) => {
                let prompt = self.tokenizer.encode(prompt, true)?;
                common_prefix(&prompt, &pair[0]).min(common_prefix(&prompt, &pair[1]))
            }
            None => common_prefix(&pair[0], &pair[1]),
        };
        Ok(answers_from(common, pair))
    }
}

/// Both texts with what follows the first `start` tokens trained on; either keeps a token.
fn answers_from(start: usize, pair: [Vec<u32>; 2]) -> [Tokens; 2] {
    let shortest = pair[0].len().min(pair[1].len());
    let start = start.min(shortest.saturating_sub(1));
    pair.map(|ids| {
        let end = ids.len();
        Tokens::within(ids, start..end)
    })
}

#[cfg(test)]
mod tests {
    use hone_job::spec::LossOn;
    use serde_json::{Value, json};

    use super::super::tests::with;
    use super::super::{Form, IGNORE_INDEX};
    use crate::example::understand;

    /// Both texts, a bar where the answer begins.
    fn texts(row: Value) -> [String; 2] {
        let tokenizer = with(None, Form::Preference);
        tokenizer.pair(&understand(&row).unwrap()).unwrap().map(|tokens| {
            let start = tokens.trained.iter().position(|trained| *trained).unwrap();
            let text = |ids: &[u32]| tokenizer.tokenizer().decode(ids, false).unwrap();
            assert!(tokens.trained[start..].iter().all(|trained| *trained));
            format!("{}|{}", text(&tokens.ids[..start]), text(&tokens.ids[start..]))
        })
    }

    #[test]
    fn answers_follow_their_prompt_and_end() {
        assert_eq!(
            texts(json!({"prompt": "ab", "chosen": "cd", "rejected": "ce<|im_end|>"})),
            ["<|im_start|>ab|cd<|im_end|>", "<|im_start|>ab|ce<|im_end|>"]
        );
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        let row = json!({"prompt": [turn("user", "q")], "chosen": [turn("assistant", "a")],
                         "rejected": [turn("assistant", "b")]});
        let asked = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(texts(row), [format!("{asked}|a<|im_end|>\n"), format!("{asked}|b<|im_end|>\n")]);
    }

    #[test]
    fn a_prompt_that_is_not_given_is_what_both_begin_with() {
        assert_eq!(
            texts(json!({"chosen": "so yes", "rejected": "so no"})),
            ["<|im_start|>so |yes<|im_end|>", "<|im_start|>so |no<|im_end|>"]
        );
        // One the beginning of the other, nothing in common, nothing at all, and no difference.
        assert_eq!(
            texts(json!({"chosen": "ab", "rejected": "abc"})),
            ["<|im_start|>ab|<|im_end|>", "<|im_start|>ab|c<|im_end|>"]
        );
        assert_eq!(texts(json!({"chosen": "x", "rejected": ""}))[1], "<|im_start|>|<|im_end|>");
        assert_eq!(
            texts(json!({"chosen": "x", "rejected": "x"})),
            ["<|im_start|>x|<|im_end|>", "<|im_start|>x|<|im_end|>"]
        );
    }

    #[test]
    fn rows_of_another_task_are_told_apart() {
        let error = |form: Form, row: Value| {
            let tokenizer = with(None, form);
            tokenizer.example(&understand(&row).unwrap(), "o".into(), 1).unwrap_err().to_string()
        };
        let pair = json!({"chosen": "a", "rejected": "b"});
        assert!(error(LossOn::All.into(), pair).starts_with("it is a pair of answers; sft needs texts"));
        assert!(error(Form::Preference, json!({"text": "a"})).starts_with("it is text; dpo needs pairs"));
    }

    #[test]
    fn an_example_of_a_pair_has_two_documents() {
        let content = understand(&json!({"prompt": "ab", "chosen": "c", "rejected": "de"})).unwrap();
        let example = with(None, Form::Preference).example(&content, "o".into(), 4).unwrap();
        assert_eq!(example.documents.iter().map(|document| document.num_targets()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(example.documents[0].labels[..2], [IGNORE_INDEX; 2]);
        assert_eq!((example.row, example.is_text), (4, false));
    }
}
