//! Each node beside the plain formula, in float64, float32 and bfloat16: values and gradients.

use super::*;
use crate::random::Random;

/// In float64 the two differ by rounding alone; bfloat16 keeps 8 bits, and the two round at different places.
const KINDS: [(Kind, f64); 3] = [(Kind::Double, 1e-13), (Kind::Float, 2e-6), (Kind::BFloat16, 0.02)];

/// Sizes that fill vectors and that do not.
const WIDTHS: [i64; 4] = [1, 31, 64, 100];

fn random(size: &[i64], kind: Kind) -> Tensor {
    (Random::new(size.len() as u32).values(size) * 3.0).to_kind(kind)
}

fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!((got.size(), got.kind()), (want.size(), want.kind()), "{what}");
    let (got, want) = (got.to_kind(Kind::Double), want.to_kind(Kind::Double));
    let error = (&got - &want).abs().max().double_value(&[]);
    let size = want.abs().max().double_value(&[]);
    assert!(error <= tolerance * size.max(1.0), "{what}: off by {error} of {size}");
}

/// Compares two functions of `x`, and their gradients under a slope that differs by place.
fn check(what: &str, x: &Tensor, tolerance: f64, node: impl Fn(&Tensor) -> Tensor, plain: impl Fn(&Tensor) -> Tensor) {
    let x = x.shallow_clone().detach().set_requires_grad(true);
    let [got, want] = [node(&x), plain(&x)];
    close(what, &got, &want, tolerance);
    let slope = Tensor::arange(got.numel() as i64, (Kind::Double, Device::Cpu)).sin().view_as(&got).to_kind(got.kind());
    let gradient = |y: Tensor| Tensor::run_backward(&[(y * &slope).sum(Kind::Double)], &[&x], false, false).remove(0);
    close(&format!("gradient of {what}"), &gradient(got), &gradient(want), 4.0 * tolerance);
}

fn plain_norm(x: &Tensor, weight: &Tensor, eps: f64, plus_one: bool) -> Tensor {
    let kind = if x.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let wide = x.to_kind(kind);
    let normed = &wide * (wide.square().mean_dim(-1, true, kind) + eps).rsqrt();
    match plus_one {
        true => (normed * (weight.to_kind(kind) + 1.0)).to_kind(x.kind()),
        false => normed.to_kind(x.kind()) * weight,
    }
}

#[test]
fn norms_equal_their_formula() {
    for ((kind, tolerance), width) in KINDS.into_iter().flat_map(|kind| WIDTHS.map(|width| (kind, width))) {
        for plus_one in [false, true] {
            let (x, weight) = (random(&[5, 2, width], kind), random(&[width], kind));
            let what = format!("norm of {width} {kind:?}, plus one: {plus_one}");
            check(
                &what,
                &x,
                tolerance,
                |x| rms_norm(x, &weight, 1e-5, plus_one),
                |x| plain_norm(x, &weight, 1e-5, plus_one),
            );
        }
    }
}

#[test]
fn gated_units_equal_their_formula() {
    for ((kind, tolerance), width) in KINDS.into_iter().flat_map(|kind| WIDTHS.map(|width| (kind, width))) {
        let plain = |x: &Tensor| {
            let parts = x.chunk(2, -1);
            parts[0].silu() * &parts[1]
        };
        check(&format!("swiglu of {width} {kind:?}"), &random(&[7, 2 * width], kind), tolerance, swiglu, plain);
    }
}

#[test]
fn what_is_no_number_stays_none_and_what_is_large_saturates() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let ups = [1.0; 5];
        let gates = [f64::NAN, f64::INFINITY, -1000.0, 1000.0, 0.0];
        let x = Tensor::from_slice(&[gates, ups].concat()).view([1, 10]).to_kind(kind);
        let found = Vec::<f64>::try_from(swiglu(&x).to_kind(Kind::Double).view(-1)).unwrap();
        assert!(found[0].is_nan() && found[1] == f64::INFINITY, "{found:?}");
        assert!((found[2], found[3], found[4]) == (0.0, 1000.0, 0.0) || kind == Kind::BFloat16, "{found:?}");
        let normed = rms_norm(&x, &Tensor::ones([10], (kind, Device::Cpu)), 1e-5, false);
        assert!(normed.isnan().any().int64_value(&[]) == 1, "a row with NaN has no norm");
    }
}

#[test]
fn a_trained_weight_of_a_norm_gets_its_gradient() {
    for (kind, tolerance) in KINDS {
        for plus_one in [false, true] {
            let x = random(&[5, 2, 31], kind);
            let what = format!("norm {kind:?} by its weight, plus one: {plus_one}");
            check(
                &what,
                &random(&[31], kind),
                4.0 * tolerance,
                |weight| rms_norm(&x, weight, 1e-5, plus_one),
                |weight| plain_norm(&x, weight, 1e-5, plus_one),
            );
        }
    }
}

#[test]
fn a_weight_that_does_not_fit_is_refused() {
    let (x, weight) = (random(&[2, 4], Kind::Float), random(&[3], Kind::Float));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rms_norm(&x, &weight, 1e-5, false))).is_err());
}
