//! The picture as bytes: its size, and that what it should show is in it.

use hone_proto::v1;
use v1::job_event::Event;

use super::pen::{HELD_OUT, TRAIN};
use super::*;
use crate::run::tests::{evaluation, event, step};

/// A run as they look: falling fast, then slowly, with noise that is the same each time.
fn run_of(steps: u64) -> Run {
    let mut events = vec![evaluation(0, 3.9)];
    for at in 1..=steps {
        let noise = ((at as f64 * 12.9898).sin() * 43758.5453).fract();
        let loss = 1.6 + 2.2 * (-(at as f64) / 18.0).exp() + 0.22 * noise;
        events.push(event(Event::TrainStep(v1::TrainStep {
            step: at,
            loss: Some(loss),
            grad_norm: Some(0.4 + 0.1 * noise),
            learning_rate: 2e-4 * (1.0 - at as f64 / (steps + 1) as f64),
            tokens_per_second: 5000.0 + 300.0 * noise,
            peak_memory_bytes: 3 << 30,
            ..Default::default()
        })));
        if at % 10 == 0 {
            events.push(evaluation(at, 1.85 + 2.05 * (-(at as f64) / 22.0).exp()));
        }
    }
    Run::of(&events)
}

fn subject(name: &str, run: Run) -> Subject {
    Subject { name: name.into(), run }
}

/// The picture's size and its pixels.
fn drawn(jobs: &[Subject], topics: &[Topic]) -> ((u32, u32), Vec<u8>) {
    let bytes = Picture::of("Training of demo", "job-1", jobs, topics).expect("something to draw").png().unwrap();
    let mut reader = png::Decoder::new(bytes.as_slice()).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut pixels).unwrap();
    ((info.width, info.height), pixels)
}

fn has(pixels: &[u8], colour: RGBColor) -> bool {
    pixels.chunks_exact(3).any(|pixel| pixel == [colour.0, colour.1, colour.2])
}

#[test]
fn one_run_has_a_large_panel_and_small_ones_for_what_it_has() {
    let job = [subject("demo", run_of(100))];
    let (size, pixels) = drawn(&job, &[]);
    // Loss, and in two rows learning rate, gradient norm, throughput, memory; no pairs.
    assert_eq!(size, (1200, (HEAD + LARGE + 2 * SMALL + FOOT) as u32));
    assert!(has(&pixels, TRAIN) && has(&pixels, HELD_OUT));
    let (size, _) = drawn(&job, &[Topic::Loss]);
    assert_eq!(size, (1200, (HEAD + LARGE + FOOT) as u32));
}

#[test]
fn pairs_have_panels_of_their_own() {
    let pairs = |accuracy| v1::PreferenceMetrics { accuracy, margin: accuracy - 0.5, ..Default::default() };
    let events = (1..9).map(|at| {
        let preference = Some(pairs(at as f64 / 10.0));
        event(Event::TrainStep(v1::TrainStep { step: at, loss: Some(0.7), preference, ..Default::default() }))
    });
    let events: Vec<_> = events.collect();
    let jobs = [subject("dpo", Run::of(&events))];
    let topics: Vec<_> = panels(&jobs, &[]).iter().map(|panel| panel.title).collect();
    assert!(topics[1].starts_with("Reward accuracy") && topics[2].starts_with("Reward margin"), "{topics:?}");
    drawn(&jobs, &[]);
}

#[test]
fn a_job_without_held_out_rows_has_one_curve_and_a_single_evaluation_is_enough() {
    let events: Vec<_> = (1..20).map(|at| step(at, Some(2.0 / at as f64))).collect();
    let (_, pixels) = drawn(&[subject("", Run::of(&events))], &[Topic::Loss]);
    assert!(has(&pixels, TRAIN) && !has(&pixels, HELD_OUT));
    let (_, pixels) = drawn(&[subject("", Run::of(&[evaluation(0, 3.0)]))], &[]);
    assert!(has(&pixels, HELD_OUT));
    assert!(Picture::of("", "", &[subject("", Run::default())], &[]).is_none());
}

#[test]
fn several_runs_have_a_colour_each_and_their_names() {
    let jobs = ["one", "two", "three", "four"].map(|name| subject(name, run_of(30)));
    let (size, pixels) = drawn(&jobs, &[]);
    assert_eq!(size.1, (HEAD + 2 * NAMES_LINE + LARGE + 2 * SMALL + FOOT) as u32);
    assert!((0..4).all(|place| has(&pixels, colour(place))));
}

#[test]
fn svg_has_the_texts() {
    let svg = Picture::of("A <title>", "job-1", &[subject("demo", run_of(100))], &[]).unwrap().svg().unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("A &lt;title&gt;") && svg.contains("optimizer steps"), "{svg}");
    assert!(svg.contains("held out ± standard error"));
}

#[test]
fn numbers_on_axes_are_as_long_as_their_span_wants() {
    let said = |value, span, is_tiny| chart::number(value, span, is_tiny);
    assert_eq!(said(2e-4, 2e-4, true), "2e-4");
    assert_eq!(said(1.5e-4, 2e-4, true), "1.5e-4");
    assert_eq!(said(0.1234, 0.05, false), "0.123");
    assert_eq!(said(1.5, 3.0, false), "1.50");
    assert_eq!(said(12345.0, 20000.0, false), "12,345");
    assert_eq!(said(-1200.0, 20000.0, false), "-1,200");
    assert_eq!(said(0.0, 1.0, false), "0");
}
