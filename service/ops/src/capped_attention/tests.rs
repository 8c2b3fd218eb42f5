//! Bounded scores beside the plain formula: values, gradients, whatever the tile.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::random::Random;

const HEADS: i64 = 6;
const KEY_HEADS: i64 = 2;
const DIM: i64 = 4;
/// Products here go up to about 8, so the cap bends them well.
const SOFT_CAP: SoftCap = SoftCap { scale: 0.7, cap: 2.0 };

/// Queries `[2, len, H, D]`, and keys and values `[2, past + len, K, D]`.
fn case(len: i64, past: i64, kind: Kind) -> [Tensor; 3] {
    let mut random = Random::new(11);
    [(len, HEADS), (past + len, KEY_HEADS), (past + len, KEY_HEADS)]
        .map(|(len, heads)| random.values(&[2, len, heads, DIM]).to_kind(kind).set_requires_grad(true))
}

/// The formula, with whole matrices of scores.
fn plain(q: &Tensor, k: &Tensor, v: &Tensor, window: Option<i64>) -> Tensor {
    let of = |x: &Tensor| x.transpose(1, 2).repeat_interleave_self_int(HEADS / x.size()[2], Some(1), None);
    let (len, total) = (q.size()[1], k.size()[1]);
    let places = |from: i64, to: i64| Tensor::arange_start(from, to, (Kind::Int64, Device::Cpu));
    let distance = places(total - len, total).unsqueeze(1) - places(0, total).unsqueeze(0);
    let unseen = distance.lt(0).logical_or(&distance.ge(window.unwrap_or(total)));
    let scores = of(q).matmul(&of(k).transpose(2, 3)) * SOFT_CAP.scale;
    let scores = ((scores / SOFT_CAP.cap).tanh() * SOFT_CAP.cap).masked_fill(&unseen, f64::NEG_INFINITY);
    scores.softmax(-1, q.kind()).matmul(&of(v)).transpose(1, 2)
}

fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!((got.size(), got.kind()), (want.size(), want.kind()));
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error <= tolerance, "off by {error}");
}

#[test]
fn equals_the_formula_with_all_gradients_whatever_the_tile() {
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        for (len, past) in [(9, 0), (5, 4), (1, 8)] {
            for window in [None, Some(1), Some(3), Some(20)] {
                let [q, k, v] = case(len, past, kind);
                let want = plain(&q, &k, &v, window);
                let slope = Tensor::arange(want.numel() as i64, (kind, Device::Cpu)).sin().view_as(&want);
                let gradients =
                    |y: &Tensor| Tensor::run_backward(&[(y * &slope).sum(kind)], &[&q, &k, &v], false, false);
                let want_gradients = gradients(&want);
                for tile in [1, 2, 4, 100] {
                    let got = capped_attention(&q, &k, &v, SOFT_CAP, window, tile);
                    close(&got, &want, tolerance);
                    for (got, want) in gradients(&got).iter().zip(&want_gradients) {
                        close(got, want, tolerance);
                    }
                }
            }
        }
    }
}

#[test]
fn bfloat16_stays_near_float32() {
    let [q, k, v] = case(9, 0, Kind::BFloat16);
    let got = capped_attention(&q, &k, &v, SOFT_CAP, None, 4);
    let [q, k, v] = [q, k, v].map(|x| x.detach().to_kind(Kind::Float));
    close(&got.to_kind(Kind::Float), &plain(&q, &k, &v, None), 0.03);
}

#[test]
#[should_panic(expected = "do not fit together")]
fn sizes_that_do_not_fit_are_told() {
    let [q, k, _] = case(3, 0, Kind::Float);
    let _ = capped_attention(&q, &k, &q, SOFT_CAP, None, 4);
}
