//! Ids of words that were met before, in a table that stays as large as it is.

use std::fmt;

/// Places for words, of 64 bytes: 1 MiB in all.
const NUM_PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 14;
/// Longest word that is kept, in bytes.
const MAX_WORD: usize = 30;
/// Most ids of a word that is kept.
const MAX_IDS: usize = 8;

/// Words with their ids. A word has one place, where it takes that of the word before it; so what is asked for again and
/// again stays, and no choice of words makes it slower than to have no memory.
pub(super) struct Memory {
    places: Vec<Place>,
}

/// A word; as large as what the processor fetches at once.
#[derive(Clone, Copy)]
struct Place {
    /// 0 where there is none.
    word_len: u8,
    num_ids: u8,
    word: [u8; MAX_WORD],
    ids: [u32; MAX_IDS],
}

impl Memory {
    /// Ids of a word, if it is remembered.
    pub(super) fn recall(&self, word: &str) -> Option<&[u32]> {
        let word = word.as_bytes();
        let place = &self.places[index(word)];
        let is_it = usize::from(place.word_len) == word.len() && place.word.get(..word.len()) == Some(word);
        if is_it { place.ids.get(..usize::from(place.num_ids)) } else { None }
    }

    /// Remembers a word, which is not empty, if there is room for such a one.
    pub(super) fn keep(&mut self, word: &str, ids: &[u32]) {
        if word.len() > MAX_WORD || ids.len() > MAX_IDS {
            return;
        }
        let place = &mut self.places[index(word.as_bytes())];
        place.word[..word.len()].copy_from_slice(word.as_bytes());
        place.ids[..ids.len()].copy_from_slice(ids);
        (place.word_len, place.num_ids) = (word.len() as u8, ids.len() as u8);
    }
}

impl Default for Memory {
    fn default() -> Self {
        let free = Place { word_len: 0, num_ids: 0, word: [0; MAX_WORD], ids: [0; MAX_IDS] };
        Self { places: vec![free; NUM_PLACES] }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

/// The place of a word: its bytes, eight at a time, multiplied into the upper bits.
fn index(word: &[u8]) -> usize {
    let (eights, rest) = word.as_chunks::<8>();
    let mut mixed = word.len() as u64;
    for eight in eights {
        mixed = mix(mixed, *eight);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    (mix(mixed, last) >> (u64::BITS - PLACE_BITS)) as usize
}

fn mix(mixed: u64, eight: [u8; 8]) -> u64 {
    // An odd number near the golden ratio of 2^64, by which multiplying spreads what is close together.
    (mixed.rotate_left(5) ^ u64::from_le_bytes(eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_remembered_until_another_takes_its_place() {
        let mut memory = Memory::default();
        assert_eq!(memory.recall("word"), None);
        memory.keep("word", &[1, 2]);
        memory.keep("nothing", &[]);
        assert_eq!((memory.recall("word"), memory.recall("nothing")), (Some(&[1, 2][..]), Some(&[][..])));
        let same_place = |word: &String| index(word.as_bytes()) == index(b"word");
        let other = (0..).map(|n| format!("word {n}")).find(same_place).unwrap();
        assert_eq!(memory.recall(&other), None);
        memory.keep(&other, &[3]);
        assert_eq!((memory.recall("word"), memory.recall(&other)), (None, Some(&[3][..])));
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let mut memory = Memory::default();
        let longest = "x".repeat(MAX_WORD);
        let longer = "x".repeat(MAX_WORD + 1);
        memory.keep(&longest, &[7; MAX_IDS]);
        memory.keep(&longer, &[7]);
        memory.keep("many", &[7; MAX_IDS + 1]);
        assert_eq!(memory.recall(&longest), Some(&[7; MAX_IDS][..]));
        assert_eq!((memory.recall(&longer), memory.recall("many")), (None, None));
    }

    #[test]
    fn words_are_spread_over_the_places() {
        let used: std::collections::BTreeSet<usize> =
            (0..NUM_PLACES).map(|n| index(format!(" word{n}").as_bytes())).collect();
        // As many as chance would use: all but one in e.
        assert!(used.len() > NUM_PLACES * 6 / 10, "{} of {NUM_PLACES}", used.len());
        assert_eq!(size_of::<Place>(), 64);
    }
}
