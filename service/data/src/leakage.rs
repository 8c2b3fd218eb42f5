//! Held-out rows that say the same as training rows, or nearly: the examples of both sides in, the most similar pairs out.
//!
//! Two rows are as similar as the share of their pieces of five tokens that both have (Broder 1997). Pieces of the held-out
//! rows are indexed, and the training rows pass by once. Where the held-out rows have more pieces than fit, only those whose
//! hash is small are looked at, on both sides: the share among them is that among all, on average (FracMinHash, Irber 2022).
//! Pieces that many held-out rows have, such as those of a system prompt, say nothing and count for none.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::thread;
use std::time::Instant;

use hone_job::event::RowNote;
use hone_job::insight::{Leakage, LeakedRow};

use crate::admit::{Tally, reason};
use crate::examples::{Error, Examples};
use crate::tokenize::Example;
use crate::tokenizer::Tokenizer;

/// Tokens of a piece.
const PIECE: usize = 5;
/// Most pieces of held-out rows that are looked at: 64 MiB of them.
const MAX_PIECES: usize = 4 << 20;
/// A piece is common when at least so many held-out rows have it, and at least one in so many of them.
const COMMON_ROWS: usize = 10;
const COMMON_ONE_IN: usize = 5;
/// Most pairs that are shown, and most characters of their texts.
const MAX_SHOWN: usize = 20;
const MAX_TEXT: usize = 500;

/// Looks for held-out rows that are at least so similar to a training row, and notes the near ones in their report. None when
/// there is no such row.
pub(crate) fn find(
    train: &Examples,
    held_out: &[Example],
    tally: &mut Tally,
    similarity: f64,
    threads: usize,
    tokenizer: &Tokenizer,
) -> Result<Option<Leakage>, Error> {
    let start = Instant::now();
    let matches = best_matches(train, held_out, threads, MAX_PIECES)?;
    let mut pairs: Vec<(usize, Match)> = matches
        .into_iter()
        .enumerate()
        .filter_map(|(row, best)| Some((row, best?)))
        .filter(|(_, best)| best.is_exact || best.similarity >= similarity)
        .collect();
    if pairs.is_empty() {
        return Ok(None);
    }
    for (row, best) in pairs.iter().filter(|(_, best)| !best.is_exact) {
        let (object, number) = train.place(best.train);
        let note = format!("{:.0}% like {object} row {number}", 100.0 * best.similarity);
        let example = &held_out[*row];
        tally.note(reason::LIKE_TRAINING_ROW, RowNote { object: example.object.to_string(), row: example.row, note });
    }
    let exact_rows = pairs.iter().filter(|(_, best)| best.is_exact).count() as u64;
    let near_rows = pairs.len() as u64 - exact_rows;
    pairs.sort_by(|(row, best), (other_row, other)| other.cmp(best).then(row.cmp(other_row)));
    let shown =
        |(row, best): &(usize, Match)| Ok(shown_pair(&held_out[*row], &train.get(best.train)?, best, tokenizer));
    Ok(Some(Leakage {
        held_out_rows: held_out.len() as u64,
        train_rows: train.len() as u64,
        exact_rows,
        near_rows,
        similarity,
        rows: pairs.iter().take(MAX_SHOWN).map(shown).collect::<Result<_, Error>>()?,
        seconds: start.elapsed().as_secs_f64(),
    }))
}

fn shown_pair(held_out: &Example, train: &Example, found: &Match, tokenizer: &Tokenizer) -> LeakedRow {
    LeakedRow {
        object: held_out.object.to_string(),
        row: held_out.row,
        text: text(held_out, tokenizer),
        train_object: train.object.to_string(),
        train_row: train.row,
        train_text: text(train, tokenizer),
        similarity: found.similarity,
    }
}

fn text(example: &Example, tokenizer: &Tokenizer) -> String {
    let ids = example.documents.first().map_or(&[][..], |document| &document.input_ids);
    // More than enough tokens for the text that is shown.
    let ids = &ids[..ids.len().min(MAX_TEXT)];
    tokenizer.decode(ids, true).unwrap_or_default().chars().take(MAX_TEXT).collect()
}

/// The training row that a held-out row is most like.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Match {
    is_exact: bool,
    similarity: f64,
    train: usize,
}

impl Match {
    /// The closer one is greater; of equals the one that was read first.
    fn cmp(&self, other: &Match) -> std::cmp::Ordering {
        self.is_exact
            .cmp(&other.is_exact)
            .then(self.similarity.total_cmp(&other.similarity))
            .then(other.train.cmp(&self.train))
    }
}

type Matches = Vec<Option<Match>>;

/// For each held-out row the training row that it is most like, where they have a piece in common.
fn best_matches(train: &Examples, held_out: &[Example], threads: usize, max_pieces: usize) -> Result<Matches, Error> {
    let index = Index::new(held_out, max_pieces);
    let chunk_len = train.len().div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        let index = &index;
        let chunk = |start: usize| start..train.len().min(start + chunk_len);
        let chunks: Vec<_> = (0..train.len())
            .step_by(chunk_len)
            .map(|start| scope.spawn(move || index.matches_of(held_out, train, chunk(start))))
            .collect();
        let mut best: Matches = vec![None; held_out.len()];
        for chunk in chunks {
            // A worker that panicked has shown why.
            for (best, found) in best.iter_mut().zip(chunk.join().unwrap_or_else(|_| Ok(Matches::new()))?) {
                *best = closer(*best, found);
            }
        }
        Ok(best)
    })
}

fn closer(one: Option<Match>, other: Option<Match>) -> Option<Match> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.cmp(&one).is_gt() { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// The pieces of held-out rows.
struct Index {
    /// Each piece with a row that has it, sorted; without those that are common.
    pieces: Vec<(u64, u32)>,
    /// Pieces that are common.
    common: HashSet<u64>,
    /// Pieces of each row that are not common.
    sizes: Vec<u32>,
    /// Rows by the hash of all their tokens.
    whole: HashMap<u64, Vec<u32>>,
    /// Only pieces up to this hash are looked at.
    limit: u64,
}

impl Index {
    fn new(held_out: &[Example], max_pieces: usize) -> Index {
        let num_pieces: usize = held_out.iter().map(|example| example.num_tokens() as usize).sum();
        let limit = u64::MAX / num_pieces.div_ceil(max_pieces).max(1) as u64;
        let mut pieces: Vec<(u64, u32)> = Vec::new();
        let mut whole: HashMap<u64, Vec<u32>> = HashMap::new();
        for (row, example) in held_out.iter().enumerate() {
            pieces.extend(pieces_of(example, limit).into_iter().map(|piece| (piece, row as u32)));
            whole.entry(hash_of_whole(example)).or_default().push(row as u32);
        }
        pieces.sort_unstable();
        let most = COMMON_ROWS.max(held_out.len().div_ceil(COMMON_ONE_IN));
        let runs = pieces.chunk_by(|one, next| one.0 == next.0);
        let common: HashSet<u64> = runs.filter(|run| run.len() >= most).map(|run| run[0].0).collect();
        pieces.retain(|(piece, _)| !common.contains(piece));
        let mut sizes = vec![0; held_out.len()];
        for (_, row) in &pieces {
            sizes[*row as usize] += 1;
        }
        Index { pieces, common, sizes, whole, limit }
    }

    /// The held-out rows that have a piece.
    fn rows_of(&self, piece: u64) -> impl Iterator<Item = usize> {
        let start = self.pieces.partition_point(|(other, _)| *other < piece);
        self.pieces[start..].iter().take_while(move |(other, _)| *other == piece).map(|(_, row)| *row as usize)
    }

    /// What held-out rows are most like among some training rows.
    fn matches_of(&self, held_out: &[Example], train: &Examples, rows: Range<usize>) -> Result<Matches, Error> {
        let mut best: Matches = vec![None; held_out.len()];
        let mut shared = vec![0u32; held_out.len()];
        for number in rows {
            let example = &train.get(number)?;
            let mut take = |row: usize, is_exact: bool, similarity: f64| {
                let found = Some(Match { is_exact, similarity, train: number });
                best[row] = closer(best[row], found);
            };
            let (mut size, mut touched) = (0, Vec::new());
            for piece in pieces_of(example, self.limit).into_iter().filter(|piece| !self.common.contains(piece)) {
                size += 1;
                for row in self.rows_of(piece) {
                    if shared[row] == 0 {
                        touched.push(row);
                    }
                    shared[row] += 1;
                }
            }
            for row in touched {
                let common = std::mem::take(&mut shared[row]);
                let all: u32 = size + self.sizes[row] - common;
                take(row, false, f64::from(common) / f64::from(all));
            }
            for row in self.whole.get(&hash_of_whole(example)).into_iter().flatten() {
                if says_the_same(&held_out[*row as usize], example) {
                    take(*row as usize, true, 1.0);
                }
            }
        }
        Ok(best)
    }
}

/// Hashes of an example's pieces, sorted, each once. A row shorter than a piece is one.
fn pieces_of(example: &Example, limit: u64) -> Vec<u64> {
    let mut found = Vec::new();
    for document in &example.documents {
        let ids = &document.input_ids[..];
        let windows = ids.windows(PIECE.min(ids.len()).max(1));
        found.extend(windows.map(hash_of).filter(|hash| *hash <= limit));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn hash_of(ids: &[u32]) -> u64 {
    ids.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, id| scrambled(hash ^ u64::from(*id)))
}

fn hash_of_whole(example: &Example) -> u64 {
    let hashes = example.documents.iter().map(|document| hash_of(&document.input_ids));
    hashes.fold(0, |hash, document| scrambled(hash ^ document))
}

fn says_the_same(one: &Example, other: &Example) -> bool {
    let documents = || one.documents.iter().zip(&other.documents);
    one.documents.len() == other.documents.len() && documents().all(|(one, other)| one.input_ids == other.input_ids)
}

/// The last step of SplitMix64: every bit of the input moves every bit of the output.
fn scrambled(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests;
