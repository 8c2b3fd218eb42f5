//! Every example once, the bound kept, the parts in step with each other.

use Prefixes::{Repeated, Shared};
use proptest::prelude::*;

use super::*;
use crate::tokenize::Tokens;

fn example(len: usize, prompt: usize, first: u32) -> Example {
    let ids: Vec<u32> = (0..len as u32).map(|n| first + n).collect();
    let trained = (0..len).map(|index| index >= prompt).collect();
    Tokens { ids, trained }.into_example("o".into(), 1, false)
}

fn lengths(batch: &MicroBatch) -> Vec<i64> {
    batch.segments.iter().map(|segment| segment.len).collect()
}

/// A pair with a prompt of `prompt` tokens.
fn pair(prompt: usize, chosen: usize, rejected: usize, first: u32) -> Example {
    let document = |answer: usize, offset: u32| {
        let ids = (0..prompt as u32).map(|n| first + n).chain((0..answer as u32).map(|n| offset + n)).collect();
        let trained = (0..prompt + answer).map(|index| index >= prompt).collect();
        Tokens { ids, trained }.into_document()
    };
    Example { documents: vec![document(chosen, 1000), document(rejected, 2000)], ..example(0, 0, 0) }
}

#[test]
fn the_prompt_of_a_pair_goes_once_and_its_last_token_with_each_answer() {
    let examples = [pair(10, 2, 3, 1), pair(3, 1, 1, 50)];
    let batches = pack(&examples.each_ref(), 100, Shared);
    let [batch] = &batches[..] else { panic!("one micro-batch") };
    let segment = |len, prefix, document| Segment { len, prefix, document };
    assert_eq!(
        batch.segments,
        [
            segment(9, None, 0),
            segment(3, Some(0), 0),
            segment(4, Some(0), 1),
            // Too short a prompt to be worth it.
            segment(4, None, 2),
            segment(4, None, 3),
        ]
    );
    assert_eq!(batch.input_ids[..16], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000, 1001, 10, 2000, 2001, 2002]);
    assert_eq!(batch.position_ids[..16], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 9, 10, 11, 12]);
    assert_eq!(batch.targets[9..16], [1000, 1001, IGNORE_INDEX, 2000, 2001, 2002, IGNORE_INDEX]);
    assert_eq!((batch.num_targets, &batch.examples[..]), (7, &[0, 0, 1, 1][..]));
    let repeated = pack(&examples.each_ref(), 100, Repeated);
    assert_eq!(lengths(&repeated[0]), [12, 13, 4, 4]);
    assert_eq!(repeated[0].num_targets, 7);
}

#[test]
fn documents_lie_end_to_end() {
    let examples = [example(2, 0, 10), example(3, 2, 20), example(2, 1, 30)];
    let batches = pack(&examples.each_ref(), 5, Shared);
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0].input_ids, [20, 21, 22, 10, 11]);
    assert_eq!(batches[0].position_ids, [0, 1, 2, 0, 1]);
    assert_eq!(lengths(&batches[0]), [3, 2]);
    assert_eq!(batches[0].targets, [IGNORE_INDEX, 22, IGNORE_INDEX, 11, IGNORE_INDEX]);
    assert_eq!((batches[0].num_targets, batches[0].examples.as_slice()), (2, &[1, 0][..]));
    assert_eq!(batches[1].input_ids, [30, 31]);
}

#[test]
fn a_row_longer_than_the_bound_goes_alone() {
    let examples = [example(1, 0, 1), example(9, 0, 1), example(1, 0, 1)];
    let batches = pack(&examples.each_ref(), 4, Shared);
    assert_eq!(batches.iter().map(lengths).collect::<Vec<_>>(), [vec![9], vec![1, 1]]);
    assert!(pack(&[&example(0, 0, 0)], 4, Shared).is_empty());
}

proptest! {
    #[test]
    fn every_example_is_packed_once_within_the_bound(lens in prop::collection::vec(1usize..40, 0..60), max_tokens in 1usize..100) {
        let examples: Vec<Example> = lens.iter().enumerate().map(|(n, &len)| example(len, n % 3, n as u32 * 100)).collect();
        let refs: Vec<&Example> = examples.iter().collect();
        let batches = pack(&refs, max_tokens, Shared);
        prop_assert_eq!(&batches, &pack(&refs, max_tokens, Shared));
        let mut seen = Vec::new();
        for batch in &batches {
            prop_assert!(batch.len() <= max_tokens || batch.segments.len() == 1);
            prop_assert!(lengths(batch).is_sorted_by(|a, b| a >= b));
            prop_assert_eq!(lengths(batch).iter().sum::<i64>(), batch.len() as i64);
            let mut start = 0;
            for (&len, &index) in lengths(batch).iter().zip(&batch.examples) {
                let range = start..start + len as usize;
                let ids: Vec<u32> = batch.input_ids[range.clone()].iter().map(|&id| id as u32).collect();
                prop_assert_eq!(&ids, &examples[index].documents[0].input_ids);
                prop_assert_eq!(&batch.targets[range.clone()], examples[index].documents[0].labels.as_slice());
                prop_assert_eq!(&batch.position_ids[range], (0..len).collect::<Vec<_>>());
                start += len as usize;
                seen.push(index);
            }
            let targets = batch.targets.iter().filter(|target| **target != IGNORE_INDEX).count();
            prop_assert_eq!(batch.num_targets, targets as u64);
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..examples.len()).collect::<Vec<_>>());
    }
}
