//! Tokens that were added to a vocabulary: where they stand in a text, before anything else is looked at.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::AddedToken;

/// Added tokens that are looked for together.
#[derive(Debug)]
pub(super) struct AddedTokens {
    find: Option<AhoCorasick>,
    /// Id of each pattern, unless its token takes spaces with it or is one only between words.
    ids: Vec<Option<u32>>,
}

impl AddedTokens {
    /// Of tokens with their ids and what of the text each stands for.
    pub(super) fn new(tokens: Vec<(u32, String, &AddedToken)>) -> Option<Self> {
        let ids = tokens.iter().map(|(id, _, token)| is_plain(token).then_some(*id)).collect();
        let patterns = tokens.iter().map(|(_, pattern, _)| pattern);
        // As in the library: the first in the text, and of those that begin there the longest.
        let build = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).ok();
        let find = if tokens.is_empty() { None } else { Some(build()?) };
        Some(Self { find, ids })
    }

    /// Where tokens stand, from left to right, with their ids; what comes after one without id is not what the library finds.
    pub(super) fn find_iter(&self, text: &str) -> impl Iterator<Item = (Range<usize>, Option<u32>)> {
        let found = self.find.iter().flat_map(move |find| find.find_iter(text));
        found.map(|found| (found.range(), self.ids[found.pattern()]))
    }
}

fn is_plain(token: &AddedToken) -> bool {
    !token.lstrip && !token.rstrip && !token.single_word
}
