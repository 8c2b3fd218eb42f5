//! Planted pairs are found, and nothing else.

use std::collections::BTreeSet;

use super::*;
use crate::tokenize::Document;

/// A row of tokens, as if drawn by chance.
fn row(number: u64, len: u64) -> Vec<u32> {
    (0..len).map(|place| (scrambled(number * 1000 + place) % 5000) as u32).collect()
}

fn examples(rows: impl IntoIterator<Item = Vec<u32>>) -> Vec<Example> {
    let example = |(place, input_ids): (usize, Vec<u32>)| Example {
        documents: vec![Document { labels: vec![0; input_ids.len()], input_ids }],
        object: "file:///rows".into(),
        row: place as u64 + 1,
        is_text: false,
    };
    rows.into_iter().enumerate().map(example).collect()
}

fn kept(rows: impl IntoIterator<Item = Vec<u32>>) -> Examples {
    let mut kept = Examples::default();
    examples(rows).iter().for_each(|example| kept.push(example).unwrap());
    kept
}

/// The share of common pieces, counted one by one.
fn plain_similarity(one: &[u32], other: &[u32]) -> f64 {
    let pieces = |ids: &[u32]| ids.windows(PIECE).map(<[u32]>::to_vec).collect::<BTreeSet<_>>();
    let (one, other) = (pieces(one), pieces(other));
    one.intersection(&other).count() as f64 / one.union(&other).count() as f64
}

/// Training rows 0 to 199; held out are the 17th as it is, the 40th with a token changed, the 41st with every second half of
/// it changed, and rows of their own.
fn planted() -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let train: Vec<_> = (0..200).map(|number| row(number, 100)).collect();
    let mut near = train[40].clone();
    near[50] = 9999;
    let mut half = train[41].clone();
    half[50..].copy_from_slice(&row(9000, 50));
    let held_out = [train[17].clone(), near, half].into_iter().chain((500..530).map(|number| row(number, 100)));
    (train, held_out.collect())
}

#[test]
fn planted_rows_are_found_with_their_similarity_and_nothing_else() {
    let (train, held_out) = planted();
    let similarities = [plain_similarity(&train[40], &held_out[1]), plain_similarity(&train[41], &held_out[2])];
    let (train, held_out) = (kept(train), examples(held_out));
    for threads in [1, 3, 500] {
        let found = best_matches(&train, &held_out, threads, MAX_PIECES).unwrap();
        assert_eq!(found[0], Some(Match { is_exact: true, similarity: 1.0, train: 17 }));
        assert_eq!(found[1], Some(Match { is_exact: false, similarity: similarities[0], train: 40 }));
        assert_eq!(found[2], Some(Match { is_exact: false, similarity: similarities[1], train: 41 }));
        assert!(found[3..].iter().flatten().all(|best| best.similarity < 0.05), "{found:?}");
    }
    assert!(similarities[0] > 0.85 && similarities[1] < 0.5, "{similarities:?}");
}

#[test]
fn with_little_memory_a_sample_of_the_pieces_is_near_enough() {
    let (train, held_out) = planted();
    let exactly = plain_similarity(&train[40], &held_out[1]);
    let (train, held_out) = (kept(train), examples(held_out));
    let index = Index::new(&held_out, 1000);
    assert!((500..1500).contains(&index.pieces.len()), "{}", index.pieces.len());
    let found = best_matches(&train, &held_out, 2, 1000).unwrap();
    assert!(found[0].expect("found").is_exact, "what is the same is found whatever the memory");
    let near = found[1].expect("found");
    assert!(near.train == 40 && (near.similarity - exactly).abs() < 0.15, "{near:?} and {exactly}");
}

#[test]
fn what_all_rows_begin_with_makes_no_two_of_them_alike() {
    let system = row(77, 300);
    let rows = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| system.iter().copied().chain(row(number, 20)).collect()).collect::<Vec<_>>()
    };
    let found = best_matches(&kept(rows(0..50)), &examples(rows(100..150)), 2, MAX_PIECES).unwrap();
    assert!(found.iter().flatten().all(|best| best.similarity < 0.3), "{found:?}");
}

#[test]
fn short_and_empty_rows_are_compared_too() {
    let train = kept([vec![1, 2, 3], vec![], vec![4]]);
    let held_out = examples([vec![1, 2, 3], vec![], vec![5], vec![1, 2]]);
    let found = best_matches(&train, &held_out, 1, MAX_PIECES).unwrap();
    assert!(found[0].expect("found").is_exact && found[1].expect("found").is_exact);
    assert_eq!((found[2], found[3]), (None, None));
}
