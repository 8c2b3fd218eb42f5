//! The picture as bytes: its size, and that what it should show is in it.

use super::*;
use crate::curve::tests::{evaluation, step};

/// A run as they look: falling fast, then slowly, with noise that is the same each time.
fn run_of(steps: u64) -> Curve {
    let loss = |at: u64| {
        let noise = ((at as f64 * 12.9898).sin() * 43758.5453).fract();
        1.6 + 2.2 * (-(at as f64) / 18.0).exp() + 0.22 * noise
    };
    let mut events = vec![evaluation(0, 3.9)];
    for at in 1..=steps {
        events.push(step(at, Some(loss(at))));
        if at % 10 == 0 {
            events.push(evaluation(at, 1.85 + 2.05 * (-(at as f64) / 22.0).exp()));
        }
    }
    Curve::of(&events)
}

fn has(picture: &[u8], colour: RGBColor) -> bool {
    picture.chunks_exact(3).any(|pixel| pixel == [colour.0, colour.1, colour.2])
}

#[test]
fn both_curves_are_in_the_picture() {
    let picture = picture(&run_of(100), "Loss of demo", "job-1").expect("a picture");
    assert_eq!(picture.len(), (SIZE.0 * SIZE.1 * 3) as usize);
    assert!(has(&picture, TRAIN) && has(&picture, HELD_OUT));
}

#[test]
fn a_job_without_held_out_rows_has_one_curve() {
    let events: Vec<_> = (1..20).map(|at| step(at, Some(2.0 / at as f64))).collect();
    let picture = picture(&Curve::of(&events), "Loss", "job-1").expect("a picture");
    assert!(has(&picture, TRAIN) && !has(&picture, HELD_OUT));
}

#[test]
fn a_single_evaluation_is_enough() {
    let picture = picture(&Curve::of(&[evaluation(0, 3.0)]), "Loss", "job-1").expect("a picture");
    assert!(has(&picture, HELD_OUT));
}

#[test]
fn the_file_is_a_png_of_the_stated_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("loss.png");
    write_picture(&vec![200; (SIZE.0 * SIZE.1 * 3) as usize], &path).expect("written");
    let bytes = std::fs::read(&path).expect("a file");
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let size = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((size(16), size(20)), SIZE);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let failure = write_picture(&[], Path::new("no/such/folder/loss.png")).expect_err("no folder");
    assert!(failure.to_string().contains("no/such/folder"), "{failure}");
}
