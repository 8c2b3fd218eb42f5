//! Ids of a text by a byte-level BPE tokenizer (GPT-2, Llama 3, Qwen, SmolLM2 and most that came after), without what the
//! library keeps to say where in the text each token lies: text in, the very ids of the library out, or word that the
//! library must be asked.
//!
//! The library copies a text and the place of each of its bytes at every step, which takes most of its time. Here the steps
//! are the same, on the text itself: added tokens are cut out, the rest is split into words by the library's own regular
//! expressions, and each word is put into tokens by the library's own model unless it is remembered from before.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::Split;
use tokenizers::utils::SysRegex;
use tokenizers::{Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, SplitDelimiterBehavior};

mod added;
mod memory;

use added::AddedTokens;
use memory::Memory;

/// How GPT-2 splits texts into words: what the library's byte-level rule does where it is told to, word for word.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Most rules of a pre-tokenizer. Real ones have up to four; each takes room on the stack while a word goes through it.
const MAX_RULES: usize = 16;

/// Most special tokens around a text. Where they stand is found by trying each place, and a file of strangers may name many.
const MAX_AROUND: usize = 16;

/// Texts on which library and quick way must agree before the quick way is taken.
const PROBES: [&str; 3] = ["", "Hello, wörld! It's 12:30", " x\n\n\ty = 日本語"];

/// What is prepared once to encode with a byte-level BPE tokenizer.
#[derive(Debug)]
pub(super) struct ByteLevel {
    /// Added tokens that are looked for in the text as it comes.
    added: AddedTokens,
    /// Those that are looked for once it is normalised.
    added_to_normalized: AddedTokens,
    gpt2_words: SysRegex,
    /// The character that stands for each byte.
    alphabet: [char; 256],
    /// Ids that special tokens put before a text, and after it.
    around: (Vec<u32>, Vec<u32>),
    /// Words that were met, one memory for each thread that encodes at the same time as others.
    memories: Mutex<Vec<Memory>>,
}

impl ByteLevel {
    /// What encodes like a tokenizer, or nothing if there is a rule in it that is not known here. The same tokenizer is to be
    /// given to [`Self::encode`].
    pub(super) fn of(library: &tokenizers::Tokenizer) -> Option<Self> {
        if !is_known(library) {
            return None;
        }
        let (mut added, mut added_to_normalized) = (Vec::new(), Vec::new());
        for (&id, token) in library.get_added_vocabulary().get_added_tokens_decoder() {
            if token.normalized {
                added_to_normalized.push((id, normalized(library, &token.content)?.into_owned(), token));
            } else {
                added.push((id, token.content.clone(), token));
            }
        }
        let plain = Self {
            added: AddedTokens::new(added)?,
            added_to_normalized: AddedTokens::new(added_to_normalized)?,
            gpt2_words: SysRegex::new(GPT2_WORDS).ok()?,
            alphabet: alphabet(),
            around: Default::default(),
            memories: Mutex::default(),
        };
        let around = plain.around(library)?;
        Some(Self { around, ..plain })
    }

    /// Ids of a text as the library has them, or nothing where it must be asked: at an added token that swallows spaces or
    /// is a token only between words, and for every error, which is its own to word.
    pub(super) fn encode(
        &self,
        library: &tokenizers::Tokenizer,
        text: &str,
        add_special_tokens: bool,
    ) -> Option<Vec<u32>> {
        let (bpe, rules) = (bpe(library)?, rules(library)?);
        let remembered = self.memories.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut writing = Writing {
            quick: self,
            library,
            bpe,
            rules,
            memory: remembered.unwrap_or_default(),
            spelled: String::new(),
            ids: Vec::new(),
        };
        let (before, after) = &self.around;
        if add_special_tokens {
            writing.ids.extend(before);
        }
        let written = writing.text(text);
        if add_special_tokens {
            writing.ids.extend(after);
        }
        let Writing { memory, mut ids, .. } = writing;
        // Held-out rows stay in memory as they are.
        ids.shrink_to_fit();
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        written.map(|()| ids)
    }

    /// What special tokens put before and after every text, learned from the library on the probes. It is nothing if the
    /// library has other ids for one of them, or does something else than to put ids around them.
    fn around(&self, library: &tokenizers::Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
        let ids = |text, special| Some(library.encode_fast(text, special).ok()?.get_ids().to_vec());
        let both = ids("", true).filter(|both| both.len() <= MAX_AROUND)?;
        let mut middles: Vec<usize> = (0..=both.len()).collect();
        for probe in PROBES {
            let plain = ids(probe, false)?;
            if self.encode(library, probe, false)? != plain {
                return None;
            }
            let special = ids(probe, true)?;
            middles.retain(|&middle| [&both[..middle], &plain, &both[middle..]].concat() == special);
        }
        let [middle] = middles[..] else { return None };
        Some((both[..middle].to_vec(), both[middle..].to_vec()))
    }
}

/// A text on its way to ids.
struct Writing<'a> {
    quick: &'a ByteLevel,
    library: &'a tokenizers::Tokenizer,
    bpe: &'a BPE,
    rules: &'a [PreTokenizerWrapper],
    memory: Memory,
    /// A word in the characters that stand for its bytes.
    spelled: String,
    ids: Vec<u32>,
}

impl Writing<'_> {
    fn text(&mut self, text: &str) -> Option<()> {
        self.around_added(&self.quick.added, text, Self::normalize)
    }

    fn normalize(&mut self, piece: &str) -> Option<()> {
        let piece = normalized(self.library, piece)?;
        self.around_added(&self.quick.added_to_normalized, &piece, |writing, piece| writing.split(writing.rules, piece))
    }

    /// Writes the ids of added tokens, and has written what lies between them.
    fn around_added(
        &mut self,
        added: &AddedTokens,
        text: &str,
        write: impl Fn(&mut Self, &str) -> Option<()>,
    ) -> Option<()> {
        let mut start = 0;
        for (range, id) in added.find_iter(text) {
            write(self, text.get(start..range.start)?)?;
            self.ids.push(id?);
            start = range.end;
        }
        write(self, text.get(start..)?)
    }

    /// Splits by the first of some rules, and each part by those after it; what no rule is left for is a word.
    fn split(&mut self, rules: &[PreTokenizerWrapper], piece: &str) -> Option<()> {
        if piece.is_empty() {
            return Some(());
        }
        match rules {
            [] => self.word(piece),
            [PreTokenizerWrapper::Split(Split { regex, .. }), rest @ ..] => self.split_at(regex, rest, piece),
            [PreTokenizerWrapper::Digits(_), rest @ ..] => self.split_digits(rest, piece),
            [PreTokenizerWrapper::ByteLevel(rule), rest @ ..] if rule.use_regex => {
                self.split_at(&self.quick.gpt2_words, rest, piece)
            }
            [_, rest @ ..] => self.split(rest, piece),
        }
    }

    fn split_at(&mut self, regex: &SysRegex, rest: &[PreTokenizerWrapper], piece: &str) -> Option<()> {
        let mut start = 0;
        for (from, to) in regex.find_iter(piece) {
            self.split(rest, piece.get(start..from)?)?;
            self.split(rest, piece.get(from..to)?)?;
            start = to;
        }
        self.split(rest, piece.get(start..)?)
    }

    fn split_digits(&mut self, rest: &[PreTokenizerWrapper], piece: &str) -> Option<()> {
        let mut start = 0;
        for (from, digit) in piece.match_indices(char::is_numeric) {
            self.split(rest, piece.get(start..from)?)?;
            self.split(rest, digit)?;
            start = from + digit.len();
        }
        self.split(rest, piece.get(start..)?)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        if let Some(ids) = self.memory.recall(word) {
            self.ids.extend_from_slice(ids);
            return Some(());
        }
        self.spelled.clear();
        self.spelled.extend(word.bytes().map(|byte| self.quick.alphabet[usize::from(byte)]));
        let start = self.ids.len();
        self.ids.extend(self.bpe.tokenize(&self.spelled).ok()?.iter().map(|token| token.id));
        self.memory.keep(word, &self.ids[start..]);
        Some(())
    }
}

fn bpe(library: &tokenizers::Tokenizer) -> Option<&BPE> {
    match library.get_model() {
        ModelWrapper::BPE(bpe) => Some(bpe),
        _ => None,
    }
}

/// The rules that split a text into words, one after the other.
fn rules(library: &tokenizers::Tokenizer) -> Option<&[PreTokenizerWrapper]> {
    library.get_pre_tokenizer().map(|rule| match rule {
        PreTokenizerWrapper::Sequence(rules) => rules.as_ref(),
        rule => std::slice::from_ref(rule),
    })
}

/// Whether every part of a tokenizer, but for what its special tokens put around a text, is such as is done here.
fn is_known(library: &tokenizers::Tokenizer) -> bool {
    bpe(library).is_some_and(|bpe| bpe.dropout.is_none_or(|dropout| dropout == 0.0))
        && library.get_normalizer().is_none_or(is_nfc)
        && rules(library).is_some_and(are_known)
        && library.get_truncation().is_none()
        && library.get_padding().is_none()
        && !library.get_encode_special_tokens()
}

/// Whether a normaliser does nothing but NFC; DeepSeek's do nothing at all.
fn is_nfc(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::NFC(_) => true,
        NormalizerWrapper::Sequence(normalizers) => normalizers.as_ref().iter().all(is_nfc),
        _ => false,
    }
}

/// Whether rules are such as [`Writing::split`] follows: bytes become characters in the last of them, so that those before
/// it see the text.
fn are_known(rules: &[PreTokenizerWrapper]) -> bool {
    let [before @ .., PreTokenizerWrapper::ByteLevel(last)] = rules else { return false };
    let splits = |rule: &PreTokenizerWrapper| match rule {
        PreTokenizerWrapper::Split(split) => split.behavior == SplitDelimiterBehavior::Isolated && !split.invert,
        PreTokenizerWrapper::Digits(digits) => digits.individual_digits,
        _ => false,
    };
    !last.add_prefix_space && rules.len() <= MAX_RULES && before.iter().all(splits)
}

/// A text as the tokenizer normalises it.
fn normalized<'t>(library: &tokenizers::Tokenizer, text: &'t str) -> Option<Cow<'t, str>> {
    match library.get_normalizer() {
        // No character before U+0300, whose first byte is CC, is changed by NFC or joins what stands before it.
        Some(normalizer) if !text.bytes().all(|byte| byte < 0xcc) => {
            let mut normalized = NormalizedString::from(text);
            normalizer.normalize(&mut normalized).ok()?;
            Some(Cow::Owned(normalized.get().to_string()))
        }
        _ => Some(Cow::Borrowed(text)),
    }
}

/// The characters that stand for bytes, which are those of GPT-2: itself where it can be printed, else the next one from
/// U+0100 on.
fn alphabet() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => others.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
