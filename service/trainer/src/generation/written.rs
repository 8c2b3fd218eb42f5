//! What was written, as text: a token may be half a character, and the beginning of a text that ends it.

use hone_data::tokenizer::{Error, Tokenizer};

/// A character that is not whole yet.
const REPLACEMENT: char = '\u{fffd}';

/// The text of tokens that come one by one.
#[derive(Debug, Default)]
pub(super) struct Written {
    tokens: Vec<u32>,
    /// The tokens before this one are told.
    told: usize,
    /// Those from here to `told` are decoded with what follows, since some tokenizers write a token differently at the
    /// beginning of a text.
    context: usize,
    stops: Vec<String>,
    /// Text that may become one that ends.
    held: String,
}

impl Written {
    pub(super) fn new(stops: &[String]) -> Written {
        Written { stops: stops.to_vec(), ..Written::default() }
    }

    /// The tokens so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Text that is certain now, and whether it has ended.
    pub(super) fn add(&mut self, token: u32, tokenizer: &Tokenizer) -> Result<(String, bool), Error> {
        self.tokens.push(token);
        let text = tokenizer.decode(&self.tokens[self.context..], true)?;
        if text.ends_with(REPLACEMENT) {
            return Ok((String::new(), false));
        }
        let piece = self.after_context(&text, tokenizer)?;
        (self.context, self.told) = (self.told, self.tokens.len());
        Ok(self.certain(&piece))
    }

    /// What was held back, now that nothing follows.
    pub(super) fn end(&mut self, tokenizer: &Tokenizer) -> Result<String, Error> {
        let text = tokenizer.decode(&self.tokens[self.context..], true)?;
        let piece = self.after_context(&text, tokenizer)?;
        self.told = self.tokens.len();
        let (certain, stopped) = self.certain(&piece);
        let held = std::mem::take(&mut self.held);
        Ok(if stopped { certain } else { certain + &held })
    }

    fn after_context(&self, text: &str, tokenizer: &Tokenizer) -> Result<String, Error> {
        let before = tokenizer.decode(&self.tokens[self.context..self.told], true)?;
        match text.strip_prefix(&before) {
            Some(piece) => Ok(piece.to_string()),
            None => tokenizer.decode(&self.tokens[self.told..], true),
        }
    }

    /// Text before the first that ends it, or before what may become one.
    fn certain(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let end = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        if let Some(end) = end {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let may_end = |from: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*from..]));
        let places = self.held.char_indices().map(|(place, _)| place);
        let first = places.into_iter().find(may_end).unwrap_or(self.held.len());
        let held = self.held.split_off(first);
        (std::mem::replace(&mut self.held, held), false)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tokenizer(name: &str) -> Tokenizer {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        Tokenizer::open(&fixtures.join("models").join(name)).unwrap()
    }

    fn pieces(text: &str, stops: &[&str], tokenizer: &Tokenizer) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut written = Written::new(&stops);
        let mut pieces = Vec::new();
        for token in tokenizer.encode(text, false).unwrap() {
            let (piece, stopped) = written.add(token, tokenizer).unwrap();
            pieces.push(piece);
            if stopped {
                return (pieces, true);
            }
        }
        pieces.push(written.end(tokenizer).unwrap());
        (pieces, false)
    }

    #[test]
    fn pieces_make_the_text_and_no_piece_ends_within_a_character() {
        let text = "Größe: 12 µm — 日本語 🙂👍🏽, done.\n\n  indented";
        for name in ["llama", "mistral", "gemma2"] {
            let tokenizer = tokenizer(name);
            let (pieces, _) = pieces(text, &[], &tokenizer);
            let whole = tokenizer.decode(&tokenizer.encode(text, false).unwrap(), true).unwrap();
            assert_eq!(pieces.concat(), whole, "{name}");
            assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)), "{name}: {pieces:?}");
            assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 10, "{name}: it comes bit by bit");
        }
    }

    #[test]
    fn a_text_ends_before_the_first_stop_even_one_that_spans_tokens() {
        let tokenizer = tokenizer("llama");
        let told = |text: &str, stops: &[&str]| {
            let (pieces, stopped) = pieces(text, stops, &tokenizer);
            (pieces.concat(), stopped)
        };
        let text = "one two\n\nUser: three User four";
        assert_eq!(told(text, &["\n\nUser:"]), ("one two".into(), true));
        assert_eq!(told(text, &["four", "three"]), ("one two\n\nUser: ".into(), true));
        assert_eq!(told(text, &["fourteen"]), (text.into(), false), "what was held back is told at the end");
        assert_eq!(told("abc", &["abc"]), (String::new(), true));
    }

    #[test]
    fn half_a_character_at_the_end_is_told_as_it_is() {
        let tokenizer = tokenizer("llama");
        let tokens = tokenizer.encode("🙂", false).unwrap();
        assert!(tokens.len() > 1, "the test needs a character of several tokens");
        let mut written = Written::new(&[]);
        assert_eq!(written.add(tokens[0], &tokenizer).unwrap(), (String::new(), false));
        assert_eq!(written.end(&tokenizer).unwrap(), tokenizer.decode(&tokens[..1], true).unwrap());
    }
}
