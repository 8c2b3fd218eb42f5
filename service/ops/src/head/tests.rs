//! The tiled loss beside whole logits: values, gradients, whatever the tile.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::random::Random;

fn case(kind: Kind) -> (Tensor, Tensor, Tensor) {
    let mut random = Random::new(5);
    let mut rand = |size: &[i64]| random.values(size).to_kind(kind);
    let targets = (Tensor::arange(11, (Kind::Int64, Device::Cpu)) * 7).remainder(17);
    (rand(&[11, 6]).set_requires_grad(true), rand(&[17, 6]), targets)
}

/// Logits held whole, loss in the wide type.
fn plain(hidden: &Tensor, weight: &Tensor, targets: &Tensor, soft_cap: Option<f64>) -> (Tensor, Tensor) {
    let wide = if hidden.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let logits = hidden.matmul(&weight.tr()).to_kind(wide);
    let logits = soft_cap.map_or_else(|| logits.shallow_clone(), |cap| (&logits / cap).tanh() * cap);
    let nll = -logits.log_softmax(1, wide).gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
    (nll, logits.argmax(1, false).eq_tensor(targets))
}

fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!((got.size(), got.kind()), (want.size(), want.kind()));
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error <= tolerance, "off by {error}");
}

#[test]
fn equals_the_loss_of_whole_logits_with_its_gradient_whatever_the_tile() {
    // bfloat16: probabilities are rounded to 8 bits before they meet the weight.
    for (kind, tolerance) in [(Kind::Double, 1e-13), (Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
        let (hidden, weight, targets) = case(kind);
        // Logits here go up to about 7: a cap of 3 bends them well.
        for soft_cap in [None, Some(3.0)] {
            let (want, want_correct) = plain(&hidden, &weight, &targets, soft_cap);
            // Unequal weights of positions: what DPO and length buckets need.
            let slope = Tensor::arange(11, (Kind::Float, Device::Cpu)).sin().to_kind(want.kind());
            let want_grad = Tensor::run_backward(&[(&want * &slope).sum(want.kind())], &[&hidden], false, false);
            for tile in [1, 4, 11, 100] {
                let (nll, correct) = head_nll(&hidden, &weight, &targets, soft_cap, tile);
                close(&nll, &want, tolerance);
                assert_eq!(correct, want_correct);
                let grad = Tensor::run_backward(&[(&nll * &slope).sum(nll.kind())], &[&hidden], false, false);
                close(&grad[0], &want_grad[0], tolerance);
            }
        }
    }
}

#[test]
fn a_trained_head_gets_its_gradient_whatever_the_tile() {
    for (kind, master, tolerance) in
        [(Kind::Double, Kind::Double, 1e-13), (Kind::Float, Kind::Float, 1e-5), (Kind::BFloat16, Kind::Float, 0.05)]
    {
        let (hidden, weight, targets) = case(kind);
        let weight = weight.to_kind(master).set_requires_grad(true);
        let slope = Tensor::arange(11, (Kind::Float, Device::Cpu)).sin();
        for cap in [None, Some(2.0)] {
            let (want, want_correct) = plain(&hidden, &weight.to_kind(kind), &targets, cap);
            let slope = slope.to_kind(want.kind());
            let gradients = |nll: &Tensor| {
                Tensor::run_backward(&[(nll * &slope).sum(nll.kind())], &[&hidden, &weight], false, false)
            };
            let want_grad = gradients(&want);
            for tile in [1, 4, 100] {
                let (nll, correct) = head_nll(&hidden, &weight, &targets, cap, tile);
                close(&nll, &want, tolerance);
                assert_eq!(correct, want_correct);
                let grad = gradients(&nll);
                close(&grad[0], &want_grad[0], tolerance);
                close(&grad[1], &want_grad[1], tolerance);
            }
        }
        // Without a gradient asked for, the same loss.
        let (want, _) = plain(&hidden, &weight.to_kind(kind), &targets, None);
        close(&head_logprobs(&hidden, &weight, &targets, 4), &-want, tolerance);
    }
}

#[test]
fn sums_and_counts() {
    let (hidden, weight, targets) = case(Kind::Float);
    let (want, want_correct) = plain(&hidden, &weight, &targets, None);
    let (sum, correct) = head_cross_entropy(&hidden, &weight, &targets, 3);
    close(&sum, &want.sum(Kind::Float), 1e-5);
    assert_eq!(correct.int64_value(&[]), want_correct.sum(Kind::Int64).int64_value(&[]));
    let logps = head_logprobs(&hidden, &weight, &targets, 3);
    assert!(!logps.requires_grad());
    close(&logps, &-want, 1e-5);
}

#[test]
fn no_position_is_no_loss() {
    let (hidden, weight, targets) = case(Kind::Float);
    let (sum, correct) = head_cross_entropy(&hidden.narrow(0, 0, 0), &weight, &targets.narrow(0, 0, 0), 3);
    assert_eq!((sum.double_value(&[]), correct.int64_value(&[])), (0.0, 0));
}

#[test]
#[should_panic(expected = "the vocabulary has 17")]
fn a_target_outside_the_vocabulary_is_told() {
    let (hidden, weight, targets) = case(Kind::Float);
    let _ = head_nll(&hidden, &weight, &(targets + 17), None, 4);
}
