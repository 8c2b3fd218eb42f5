//! The adapted layer beside the plain formula: values, gradients, dropout.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::random::Random;

struct Case {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    a: Tensor,
    b: Vec<Tensor>,
}

const ROWS: [i64; 2] = [0, 8];

/// A stack of three parts (6 + 2 + 4 rows); the first and the last have adapters of rank 2 and 3.
fn case(kind: Kind, master: Kind) -> Case {
    let mut random = Random::new(3);
    let mut rand = |size: &[i64], kind| random.values(size).to_kind(kind);
    Case {
        x: rand(&[5, 7], kind).set_requires_grad(true),
        weight: rand(&[12, 7], kind),
        bias: rand(&[12], kind),
        a: rand(&[5, 7], master).set_requires_grad(true),
        b: vec![rand(&[6, 2], master).set_requires_grad(true), rand(&[4, 3], master).set_requires_grad(true)],
    }
}

fn fused(case: &Case, dropout: Option<Dropout>) -> Tensor {
    scaled(case, [0.5, 0.5], dropout)
}

fn scaled(case: &Case, scales: [f64; 2], dropout: Option<Dropout>) -> Tensor {
    let part = |i: usize| LoraPart { first_row: ROWS[i], b: &case.b[i], scale: scales[i] };
    lora_linear(&case.x, &case.weight, Some(&case.bias), &case.a, &[part(0), part(1)], dropout)
}

/// The formula as PEFT computes it: every part on its own, scale on the full result.
fn plain(case: &Case, input: &Tensor) -> Tensor {
    plain_scaled(case, input, [0.5, 0.5])
}

fn plain_scaled(case: &Case, input: &Tensor, scales: [f64; 2]) -> Tensor {
    let kind = case.x.kind();
    let base = case.x.matmul(&case.weight.tr()) + &case.bias;
    let h = input.matmul(&case.a.to_kind(kind).tr());
    let first = h.narrow(1, 0, 2).matmul(&case.b[0].to_kind(kind).tr()) * scales[0];
    let last = h.narrow(1, 2, 3).matmul(&case.b[1].to_kind(kind).tr()) * scales[1];
    let middle = Tensor::zeros([5, 2], (kind, Device::Cpu));
    base + Tensor::cat(&[first, middle, last], 1)
}

fn gradients(case: &Case, y: &Tensor) -> Vec<Tensor> {
    let slope = Tensor::arange(y.numel() as i64, (Kind::Float, Device::Cpu)).sin().view_as(y).to_kind(y.kind());
    let inputs = [&case.x, &case.a, &case.b[0], &case.b[1]];
    Tensor::run_backward(&[(y * slope).sum(y.kind())], &inputs, true, false)
}

fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!((got.size(), got.kind()), (want.size(), want.kind()));
    let error = (got - want).abs().max().double_value(&[]);
    let size = want.abs().max().double_value(&[]);
    assert!(error <= tolerance * size.max(1.0), "off by {error} of {size}");
}

fn check(case: &Case, got: &Tensor, want: &Tensor, tolerance: f64) {
    close(got, want, tolerance);
    for (got, want) in gradients(case, got).iter().zip(gradients(case, want)) {
        close(got, &want, tolerance);
    }
}

#[test]
fn equals_the_plain_formula_with_all_gradients() {
    // In float64 the two differ by rounding alone; bfloat16 keeps 8 bits, and the two round at different places.
    for (kind, master, tolerance) in
        [(Kind::Double, Kind::Double, 1e-13), (Kind::Float, Kind::Float, 1e-5), (Kind::BFloat16, Kind::Float, 0.05)]
    {
        let case = case(kind, master);
        check(&case, &fused(&case, None), &plain(&case, &case.x), tolerance);
    }
}

#[test]
fn parts_may_have_scales_of_their_own() {
    let case = case(Kind::Double, Kind::Double);
    let scales = [0.5, -2.0];
    check(&case, &scaled(&case, scales, None), &plain_scaled(&case, &case.x, scales), 1e-13);
    let drop = Dropout { probability: 0.3, seed: 8 };
    let got = scaled(&case, scales, Some(drop));
    check(&case, &got, &plain_scaled(&case, &dropout(&case.x, drop), scales), 1e-13);
}

#[test]
fn a_frozen_part_takes_part_without_a_gradient() {
    let mut case = case(Kind::Double, Kind::Double);
    let want = Tensor::run_backward(&[plain(&case, &case.x).sum(Kind::Double)], &[&case.x, &case.b[0]], false, false);
    case.b[1] = case.b[1].detach();
    let got = Tensor::run_backward(&[fused(&case, None).sum(Kind::Double)], &[&case.x, &case.b[0]], false, false);
    for (got, want) in got.iter().zip(&want) {
        close(got, want, 1e-13);
    }
}

#[test]
fn dropout_scales_what_it_keeps_and_depends_on_the_seed_alone() {
    let case = case(Kind::Double, Kind::Double);
    let drop = |seed| Some(Dropout { probability: 0.4, seed });
    tch::manual_seed(1);
    let first = fused(&case, drop(5));
    tch::manual_seed(2);
    assert_eq!(first, fused(&case, drop(5)));
    assert_ne!(first, fused(&case, drop(6)));

    // The mask shows with W = 0, A = 1 and B = 1: h is then the dropped input.
    let ones = |size: &[i64]| Tensor::ones(size, (Kind::Double, Device::Cpu));
    let x = ones(&[50, 40]);
    let (a, b) = (Tensor::eye(40, (Kind::Double, Device::Cpu)), Tensor::eye(40, (Kind::Double, Device::Cpu)));
    let zero = Tensor::zeros([40, 40], (Kind::Double, Device::Cpu));
    let kept = lora_linear(&x, &zero, None, &a, &[LoraPart { first_row: 0, b: &b, scale: 1.0 }], drop(5));
    let (mean, most) = (kept.mean(Kind::Double).double_value(&[]), kept.max().double_value(&[]));
    assert!((mean - 1.0).abs() < 0.06, "{mean}");
    assert!((most - 1.0 / 0.6).abs() < 1e-12, "{most}");

    // The same seed and shape give the same mask to the operator of its own.
    check(&case, &first, &plain(&case, &dropout(&case.x, Dropout { probability: 0.4, seed: 5 })), 1e-13);
}

#[test]
fn gives_no_gradient_to_an_input_that_wants_none() {
    let mut case = case(Kind::Float, Kind::Float);
    case.x = case.x.detach();
    fused(&case, None).sum(Kind::Float).backward();
    assert!(!case.x.grad().defined());
    assert!(case.a.grad().defined() && !case.weight.grad().defined());
}

#[test]
#[should_panic(expected = "ranks of B add up to 2")]
fn ranks_that_do_not_fit_are_told() {
    let case = case(Kind::Float, Kind::Float);
    let part = LoraPart { first_row: 0, b: &case.b[0], scale: 1.0 };
    let _ = lora_linear(&case.x, &case.weight, None, &case.a, &[part], None);
}

#[test]
fn a_plain_layer_equals_its_formula_and_an_adapter_of_zeros_changes_no_bit_of_it() {
    // Large and small enough for both ways of multiplication.
    for size in [5, 400] {
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
            let mut random = Random::new(4);
            let mut rand = |size: &[i64]| random.values(size).to_kind(kind);
            let inputs = [rand(&[size, size]), rand(&[2 * size, size]), rand(&[2 * size])];
            let [x, weight, bias] = inputs.map(|input| input.set_requires_grad(true));
            let (got, want) = (linear(&x, &weight, Some(&bias)), x.linear(&weight, Some(&bias)));
            close(&got, &want, tolerance * size as f64);
            let gradients =
                |y: &Tensor| Tensor::run_backward(&[y.square().sum(Kind::Float)], &[&x, &weight, &bias], true, false);
            for (got, want) in gradients(&got).iter().zip(gradients(&want)) {
                close(got, &want, tolerance * want.abs().max().double_value(&[]));
            }
            let (a, b) =
                (rand(&[3, size]).to_kind(Kind::Float), Tensor::zeros([2 * size, 3], (Kind::Float, Device::Cpu)));
            let part = LoraPart { first_row: 0, b: &b, scale: 2.0 };
            let adapted = tch::no_grad(|| lora_linear(&x, &weight, Some(&bias), &a, &[part], None));
            assert!(adapted.equal(&got), "{kind:?} of {size}");
        }
    }
}

/// What is trained, and what is done to an input with it.
type Layer<'a> = (&'a [&'a Tensor], &'a dyn Fn(&Tensor) -> Tensor);

#[test]
fn what_a_norm_or_a_gated_unit_gave_is_made_again_rather_than_kept() {
    for (kind, master) in [(Kind::Double, Kind::Double), (Kind::Float, Kind::Float), (Kind::BFloat16, Kind::Float)] {
        let case = case(kind, master);
        let weight = case.weight.copy().set_requires_grad(true);
        let dropout = Dropout { probability: 0.3, seed: 8 };
        let part = |i: usize| LoraPart { first_row: ROWS[i], b: &case.b[i], scale: 0.5 };
        let adapted = |x: &Tensor, dropout| lora_linear(x, &case.weight, None, &case.a, &[part(0), part(1)], dropout);
        let layers: [Layer<'_>; 3] = [
            (&[&case.a, &case.b[0], &case.b[1]], &|x| adapted(x, None)),
            (&[&case.a, &case.b[0], &case.b[1]], &|x| adapted(x, Some(dropout))),
            (&[&weight], &|x| linear(x, &weight, None)),
        ];
        let norm_weight = Random::new(6).values(&[7]).to_kind(kind);
        let norm =
            |x: &Tensor, plus_one| crate::rms_norm(&x.narrow(1, 0, 7).contiguous(), &norm_weight, 1e-3, plus_one);
        let makers: [&dyn Fn(&Tensor) -> Tensor; 3] = [&|x| norm(x, false), &|x| norm(x, true), &crate::swiglu];
        for make in makers {
            for (trained, layer) in layers {
                let input = Random::new(7).values(&[5, 14]).to_kind(kind).set_requires_grad(true);
                let given = make(&input);
                let inputs = [&[&input], trained].concat();
                let gradients = |y: &Tensor| Tensor::run_backward(&[y.square().sum(kind)], &inputs, true, false);
                // A view is no node's own result: it is kept.
                let want = gradients(&layer(&given.view_as(&given)));
                let y = layer(&given);
                // Whoever kept it would refuse its gradient now.
                let _ = tch::no_grad(|| given.shallow_clone().fill_(f64::NAN));
                assert!(gradients(&y).iter().zip(&want).all(|(got, want)| got.equal(want)), "{kind:?}");
            }
        }
    }
}
