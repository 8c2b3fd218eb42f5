//! Orders are whole, repeatable and resumable; what is held out depends on the row alone.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn an_order_never_changes() {
    // Checkpoints refer to it: if this fails, old runs no longer resume where they stopped.
    assert_eq!(permutation(Order::Shuffled, 42, 0, 10), [6, 5, 2, 0, 8, 9, 1, 4, 3, 7]);
    assert_eq!(permutation(Order::Sequential, 42, 5, 4), [0, 1, 2, 3]);
    assert_ne!(permutation(Order::Shuffled, 42, 0, 100), permutation(Order::Shuffled, 42, 1, 100));
    assert_ne!(permutation(Order::Shuffled, 42, 0, 100), permutation(Order::Shuffled, 43, 0, 100));
}

#[test]
fn places_are_taken_evenly() {
    let mut counts = [[0u32; 4]; 4];
    for seed in 0..4000 {
        for (place, index) in permutation(Order::Shuffled, seed, 0, 4).into_iter().enumerate() {
            counts[place][index as usize] += 1;
        }
    }
    assert!(counts.iter().flatten().all(|count| (900..1100).contains(count)), "{counts:?}");
}

proptest! {
    #[test]
    fn every_epoch_takes_every_example_once(seed: u64, count in 1usize..200, step in 1usize..50) {
        let mut sequence = Sequence::new(Order::Shuffled, seed, count, Cursor::default());
        for epoch in 0..3 {
            let mut taken = Vec::new();
            while taken.len() < count {
                taken.extend(sequence.next_step(step));
                prop_assert_eq!(sequence.cursor().epoch, epoch);
            }
            taken.sort_unstable();
            prop_assert_eq!(taken, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_resumed_run_takes_what_the_unbroken_one_takes(seed: u64, count in 1usize..50, step in 1usize..20, stop in 0usize..20) {
        let mut unbroken = Sequence::new(Order::Shuffled, seed, count, Cursor::default());
        for _ in 0..stop {
            unbroken.next_step(step);
        }
        let text = serde_json::to_string(&unbroken.cursor()).unwrap();
        let mut resumed = Sequence::new(Order::Shuffled, seed, count, serde_json::from_str(&text).unwrap());
        for _ in 0..10 {
            prop_assert_eq!(unbroken.next_step(step), resumed.next_step(step));
        }
    }

    #[test]
    fn a_sample_has_its_size_and_grows_by_keeping(ranks in prop::collection::vec(0u64..20, 0..50), count in 0usize..60) {
        let small = sample(&ranks, count);
        let large = sample(&ranks, count + 1);
        prop_assert_eq!(small.iter().filter(|taken| **taken).count(), count.min(ranks.len()));
        prop_assert!(small.iter().zip(&large).all(|(small, large)| large >= small));
    }
}

#[test]
fn rows_that_say_the_same_hash_alike() {
    let row = json!({"messages": [{"role": "user", "content": "a"}], "id": 1});
    let same = json!({"id": 2, "messages": [{"content": "a", "role": "user", "name": null}], "text": null});
    assert_eq!(RowHash::of(&row), RowHash::of(&same));
    let other = json!({"messages": [{"role": "user", "content": "b"}]});
    assert_ne!(RowHash::of(&row), RowHash::of(&other));
    assert_ne!(RowHash::of(&json!({"prompt": "a", "completion": "b"})), RowHash::of(&json!({"prompt": "ab"})));
}

#[test]
fn the_held_out_share_is_near_what_was_asked_and_only_grows() {
    let hashes: Vec<RowHash> = (0..10_000).map(|n| RowHash::of(&json!({"text": n.to_string()}))).collect();
    let held_out = |fraction| hashes.iter().filter(|hash| hash.is_held_out(fraction)).count();
    assert_eq!((held_out(0.0), held_out(1.0)), (0, 10_000));
    assert!((900..1100).contains(&held_out(0.1)), "{}", held_out(0.1));
    assert!(hashes.iter().all(|hash| !hash.is_held_out(0.1) || hash.is_held_out(0.2)));
}
