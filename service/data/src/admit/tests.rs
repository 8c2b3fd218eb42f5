//! Each choice on the same long row, and the count of all of them.

use proptest::prelude::*;

use super::*;
use crate::tokenize::{IGNORE_INDEX, Tokens};

const END: u32 = 99;

fn example(ids: Vec<u32>, prompt: usize, is_text: bool) -> Example {
    let trained = (0..ids.len()).map(|index| index >= prompt).collect();
    Tokens { ids, trained }.into_example("o".into(), 7, is_text)
}

fn admit(over_length: OverLength, max_length: usize, example: Example) -> (Vec<Example>, Tally) {
    let (mut tally, mut admitted) = (Tally::default(), Vec::new());
    LengthPolicy { max_length, over_length, end_ids: vec![END] }.admit(example, &mut tally, &mut admitted);
    (admitted, tally)
}

fn long() -> Example {
    example(vec![1, 2, 3, 4, 5, 6, 7, 8, END, 10], 2, true)
}

#[test]
fn a_row_that_fits_is_left_alone_whatever_the_choice() {
    for choice in [OverLength::Drop, OverLength::Truncate, OverLength::Split, OverLength::Fail] {
        let (admitted, tally) = admit(choice, 10, long());
        assert_eq!(admitted, [long()]);
        assert!(tally.reasons.is_empty());
    }
}

#[test]
fn a_cut_row_keeps_its_end_token_and_what_follows() {
    let (admitted, tally) = admit(OverLength::Truncate, 6, long());
    assert_eq!(admitted[0].documents[0].input_ids, [1, 2, 3, 4, END, 10]);
    assert_eq!(admitted[0].documents[0].labels, [IGNORE_INDEX, 3, 4, i64::from(END), 10, IGNORE_INDEX]);
    assert_eq!(tally.reason(reason::OVER_LENGTH_TRUNCATED).unwrap().count, 1);
    let (admitted, _) = admit(OverLength::Truncate, 4, example((1..=9).collect(), 0, true));
    assert_eq!(admitted[0].documents[0].labels, [2, 3, 4, IGNORE_INDEX], "a row without an end token is just cut");
}

#[test]
fn a_cut_that_leaves_no_target_is_counted_as_such() {
    let (admitted, tally) = admit(OverLength::Truncate, 4, example((1..=9).collect(), 6, false));
    assert!(admitted.is_empty());
    assert_eq!(tally.reason(reason::NO_TRAINABLE_TOKEN).unwrap().count, 1);
}

#[test]
fn the_parts_of_a_split_keep_every_token_and_every_target() {
    for max_length in 2..10 {
        let (admitted, _) = admit(OverLength::Split, max_length, long());
        assert!(admitted.iter().all(|part| part.len() <= max_length));
        let targets: Vec<i64> = admitted
            .iter()
            .flat_map(|part| part.documents[0].labels.clone())
            .filter(|label| *label != IGNORE_INDEX)
            .collect();
        assert_eq!(targets, [3, 4, 5, 6, 7, 8, i64::from(END), 10], "max_length {max_length}");
    }
    let (admitted, tally) = admit(OverLength::Split, 4, example((1..=9).collect(), 2, false));
    assert!(admitted.is_empty(), "a conversation is not split");
    assert_eq!(tally.reason(reason::OVER_LENGTH_DROPPED).unwrap().rows[0].row, 7);
}

#[test]
fn all_rows_are_counted_and_the_first_listed() {
    let (mut tally, mut admitted) = (Tally::default(), Vec::new());
    let policy = LengthPolicy { max_length: 4, over_length: OverLength::Drop, end_ids: vec![] };
    for _ in 0..50 {
        tally.measure(&long());
        policy.admit(long(), &mut tally, &mut admitted);
    }
    let found = tally.reason(reason::OVER_LENGTH_DROPPED).unwrap();
    assert_eq!((found.count, found.rows.len()), (50, MAX_LISTED));
    assert!(found.rows[0].note.contains("10 tokens; max_length is 4"), "{:?}", found.rows[0]);
    assert!(admitted.is_empty());
    let report = tally.report("train", &Examples::default());
    assert_eq!((report.examples, report.longest_tokens), (0, 10));
    assert_eq!(report.length_histogram, [LengthBucket { up_to_tokens: 16, rows: 50 }]);
}

#[test]
fn buckets_rise_by_halves_of_a_doubling() {
    let ends: Vec<u64> = [0, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65, 96, 97].into_iter().map(bucket).collect();
    assert_eq!(ends, [16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96, 96, 128]);
}

#[test]
fn of_a_pair_the_longer_text_counts_and_each_is_cut_by_itself() {
    let pair = |chosen: Vec<u32>, rejected: Vec<u32>| Example {
        documents: [chosen, rejected].map(|ids| example(ids, 2, false).documents[0].clone()).into(),
        ..example(vec![], 0, false)
    };
    let long = pair(vec![1, 2, 3, END], vec![1, 2, 4, 5, 6, END]);
    assert_eq!((long.len(), long.num_tokens(), long.num_targets()), (6, 10, 6));
    assert!(admit(OverLength::Drop, 5, long.clone()).0.is_empty());
    let (admitted, _) = admit(OverLength::Truncate, 4, long.clone());
    let ids: Vec<_> = admitted[0].documents.iter().map(|document| document.input_ids.clone()).collect();
    assert_eq!(ids, [vec![1, 2, 3, END], vec![1, 2, 4, END]]);
    let (admitted, tally) = admit(OverLength::Drop, 5, pair(vec![1, 2, 3], vec![1, 2, 3]));
    assert!(admitted.is_empty());
    assert_eq!(tally.reason(reason::IDENTICAL_ANSWERS).unwrap().count, 1);
    let (admitted, tally) = admit(OverLength::Drop, 5, pair(vec![1, 2, 3], vec![1, 2]));
    assert!(admitted.is_empty(), "an answer without tokens is no answer");
    assert_eq!(tally.reason(reason::NO_TRAINABLE_TOKEN).unwrap().count, 1);
}

fn row() -> impl Strategy<Value = (Example, usize)> {
    let ids = prop::collection::vec(prop_oneof![9 => 1u32..50, 1 => Just(END)], 1..60);
    (ids, 0usize..20, 2usize..40).prop_map(|(ids, prompt, max_length)| (example(ids, prompt, true), max_length))
}

fn ids(example: &Example) -> &[u32] {
    &example.documents[0].input_ids
}

fn targets(example: &Example) -> Vec<i64> {
    example.documents[0].labels.iter().copied().filter(|label| *label != IGNORE_INDEX).collect()
}

/// Whether every target is the token that follows.
fn is_shifted(example: &Example) -> bool {
    let next = example.documents[0].labels.iter().zip(ids(example).iter().skip(1));
    next.into_iter().all(|(label, next)| *label == IGNORE_INDEX || *label == i64::from(*next))
}

proptest! {
    #[test]
    fn a_split_loses_no_token_and_no_target((row, max_length) in row()) {
        prop_assume!(row.num_targets() > 0 && row.len() > max_length);
        // Parts without a target are left out and counted; all tokens of a text are targets.
        let row = example(ids(&row).to_vec(), 0, true);
        let (admitted, tally) = admit(OverLength::Split, max_length, row.clone());
        prop_assert!(admitted.iter().all(|part| part.len() <= max_length));
        let kept: Vec<u32> = admitted.iter().flat_map(|part| ids(part).to_vec()).collect();
        prop_assert!(ids(&row).starts_with(&kept) && kept.len() + 1 >= row.len(), "a last token alone is a target already");
        prop_assert_eq!(admitted.iter().flat_map(targets).collect::<Vec<_>>(), targets(&row));
        prop_assert_eq!(tally.reason(reason::OVER_LENGTH_SPLIT).unwrap().count, 1);
        prop_assert!(tally.reason(reason::NO_TRAINABLE_TOKEN).is_none());
    }

    #[test]
    fn a_cut_row_keeps_its_end((row, max_length) in row()) {
        prop_assume!(row.len() > max_length);
        let (admitted, tally) = admit(OverLength::Truncate, max_length, row.clone());
        prop_assert_eq!(tally.reason(reason::OVER_LENGTH_TRUNCATED).unwrap().count, 1);
        for cut in admitted {
            prop_assert_eq!(cut.len(), max_length);
            prop_assert!(is_shifted(&cut));
            let end = ids(&row).iter().rev().take(END_WITHIN).position(|id| *id == END);
            if let Some(behind) = end.filter(|behind| *behind < max_length - 1) {
                prop_assert_eq!(&ids(&cut)[max_length - behind - 1..], &ids(&row)[row.len() - behind - 1..]);
            }
        }
    }

    #[test]
    fn a_row_is_an_example_or_counted_once((row, max_length) in row(), choice in 0usize..3) {
        let choice = [OverLength::Drop, OverLength::Truncate, OverLength::Fail][choice];
        let (admitted, tally) = admit(choice, max_length, row);
        let removed: u64 = tally.reasons.values().filter(|one| reason::removes(&one.reason)).map(|one| one.count).sum();
        prop_assert_eq!(admitted.len() as u64 + removed, 1);
    }
}

#[test]
fn rows_that_fail_are_named() {
    let (admitted, tally) = admit(OverLength::Fail, 4, long());
    let found = &tally.reason(reason::OVER_LENGTH).unwrap().rows[0];
    assert!(admitted.is_empty());
    assert_eq!((found.object.as_str(), found.row, found.note.as_str()), ("o", 7, "10 tokens; max_length is 4"));
}
