//! Updates beside torch's, PEFT's and the formulas; moments in fewer bits; state that survives.

use std::path::Path;

use hone_job::spec::MomentFormat;
use safetensors::SafeTensors;
use serde_json::Value;
use tch::Kind;

use super::*;
use crate::tensors;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/optim").join(name)).unwrap()
}

/// One group over `len` values.
fn whole(options: &spec::Optimizer, len: i64) -> Optimizer {
    Optimizer::new(options, Group::lora_plus(0, len, len, 1.0), Device::Cpu)
}

/// Gradients whose sizes lie decades apart, as those of different modules do.
fn gradient(len: i64, step: i64) -> Tensor {
    let place = Tensor::arange(len, (Kind::Float, Device::Cpu));
    let size = (&place * 0.37).sin().exp() * 1e-2;
    size * ((&place * 1.7 + step) * 0.9).sin()
}

/// The weights after some steps towards where each of them is its own index's sine: `g = p - sin i`, plus noise.
fn descend(optimizer: &mut Optimizer, weights: &Tensor, steps: Range<i64>, learning_rate: f64) {
    let len = weights.numel() as i64;
    let target = Tensor::arange(len, (Kind::Float, Device::Cpu)).sin();
    for step in steps {
        let gradient = weights - &target + gradient(len, step);
        optimizer.update(weights, &gradient, learning_rate);
    }
}

const RULES: [UpdateRule; 5] = [
    UpdateRule::adamw(),
    UpdateRule::lion(),
    UpdateRule::sgd(),
    UpdateRule::Sgd { momentum: 0.9, nesterov: true },
    UpdateRule::Sgd { momentum: 0.0, nesterov: false },
];

#[test]
fn fifty_updates_are_those_of_torch_and_of_peft() {
    let file: Value = serde_json::from_slice(&read("trajectories.json")).unwrap();
    let bytes = read("trajectories.safetensors");
    let tensors = tensors::read(&SafeTensors::deserialize(&bytes).unwrap()).unwrap();
    let tensor = |name: &str| &tensors.iter().find(|(other, _)| other == name).unwrap().1;
    let step_rates: Vec<f64> = serde_json::from_value(file["step_rates"].clone()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!((step_rates.len(), cases.len()), (50, 12));
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let options: spec::Optimizer = serde_json::from_value(case["optimizer"].clone()).unwrap();
        let weights = tensor("weights").copy();
        let (num_a, len) = (file["num_a"].as_i64().unwrap(), weights.numel() as i64);
        let groups = Group::lora_plus(num_a, len - num_a, len, options.lora_plus_ratio);
        let mut optimizer = Optimizer::new(&options, groups, Device::Cpu);
        for (step, rate) in step_rates.iter().enumerate() {
            let gradient = tensor("gradients").get(step as i64);
            optimizer.update(&weights, &gradient, options.learning_rate * rate);
            let want = tensor(name).get(step as i64);
            assert!(weights.allclose(&want, 1e-5, 1e-6, false), "{name} at {step}: {weights:?} against {want:?}");
        }
    }
}

#[test]
fn lora_plus_is_for_b_and_not_for_what_is_trained_whole() {
    let options = spec::Optimizer::of(UpdateRule::Sgd { momentum: 0.0, nesterov: false });
    let mut optimizer = Optimizer::new(&options, Group::lora_plus(2, 3, 6, 16.0), Device::Cpu);
    let weights = Tensor::zeros([6], (Kind::Float, Device::Cpu));
    optimizer.update(&weights, &Tensor::ones([6], (Kind::Float, Device::Cpu)), 1.0);
    assert_eq!(weights, Tensor::from_slice(&[-1f32, -1.0, -16.0, -16.0, -16.0, -1.0]));
}

#[test]
fn adamw_equals_its_formulas_written_out_for_single_numbers() {
    let (beta1, beta2, epsilon) = (0.9f64, 0.99f64, 1e-3);
    let rule = UpdateRule::AdamW { beta1, beta2, epsilon };
    let options = spec::Optimizer { weight_decay: 0.1, ..spec::Optimizer::of(rule) };
    let gradients = [[0.5f32, -2.0, 0.0], [0.1, 1.0, -1e-4], [-0.3, 0.7, 5.0]];
    let rates = [0.1, 0.05, 0.01];
    let weights = Tensor::from_slice(&[1f32, -1.0, 0.5]);
    let mut adamw = whole(&options, 3);
    let (mut want, mut m, mut v) = ([1f64, -1.0, 0.5], [0f64; 3], [0f64; 3]);
    for (t, (gradient, rate)) in gradients.iter().zip(rates).enumerate() {
        adamw.update(&weights, &Tensor::from_slice(gradient), rate);
        let t = t as i32 + 1;
        for i in 0..3 {
            let g = f64::from(gradient[i]);
            want[i] -= rate * options.weight_decay * want[i];
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = (m[i] / (1.0 - beta1.powi(t)), v[i] / (1.0 - beta2.powi(t)));
            want[i] -= rate * m_hat / (v_hat.sqrt() + epsilon);
        }
        for (i, want) in want.iter().enumerate() {
            let got = weights.double_value(&[i as i64]);
            assert!((got - want).abs() < 1e-6, "weight {i} after {t}: {got} against {want}");
        }
    }
}

#[test]
fn lion_equals_its_formulas_written_out_for_single_numbers() {
    let (beta1, beta2) = (0.9f64, 0.99f64);
    let options = spec::Optimizer { weight_decay: 0.1, ..spec::Optimizer::of(UpdateRule::Lion { beta1, beta2 }) };
    let gradients = [[0.5f32, -2.0, 0.0], [-0.02, 1.0, -1e-4], [-0.3, 0.7, 5.0]];
    let weights = Tensor::from_slice(&[1f32, -1.0, 0.5]);
    let mut lion = whole(&options, 3);
    let (mut want, mut m) = ([1f64, -1.0, 0.5], [0f64; 3]);
    let sign = |value: f64| if value == 0.0 { 0.0 } else { value.signum() };
    for gradient in gradients {
        lion.update(&weights, &Tensor::from_slice(&gradient), 0.1);
        for i in 0..3 {
            let g = f64::from(gradient[i]);
            want[i] -= 0.1 * (sign(beta1 * m[i] + (1.0 - beta1) * g) + options.weight_decay * want[i]);
            m[i] = beta2 * m[i] + (1.0 - beta2) * g;
            let got = weights.double_value(&[i as i64]);
            assert!((got - want[i]).abs() < 1e-6, "weight {i}: {got} against {}", want[i]);
        }
    }
}

#[test]
fn a_restored_one_goes_on_to_the_bit() {
    for rule in RULES {
        for moments in [MomentFormat::Float32, MomentFormat::Block8] {
            let options = spec::Optimizer { moments, ..spec::Optimizer::of(rule) };
            let ones = || Tensor::ones([600], (Kind::Float, Device::Cpu));
            let unbroken = ones();
            descend(&mut whole(&options, 600), &unbroken, 0..6, 1e-2);

            let weights = ones();
            let (mut first, mut second) = (whole(&options, 600), whole(&options, 600));
            descend(&mut first, &weights, 0..3, 1e-2);
            for ((_, from), (_, to)) in first.moments().zip(second.moments()) {
                match (from, to) {
                    (Moment::Float32(from), Moment::Float32(to)) => to.shallow_clone().copy_(from),
                    (Moment::Block8(from), Moment::Block8(to)) => {
                        for ((_, from), (_, to)) in from.parts().into_iter().zip(to.parts()) {
                            to.shallow_clone().copy_(from);
                        }
                    }
                    _ => unreachable!("both are of one format"),
                }
            }
            second.set_num_updates(first.num_updates());
            descend(&mut second, &weights, 3..6, 1e-2);
            assert_eq!(weights, unbroken, "{rule:?} {moments:?}");
        }
    }
}

#[test]
fn eight_bits_lead_to_where_thirty_two_do_in_a_quarter_of_the_memory() {
    let len = 20 * 256;
    for rule in [UpdateRule::adamw(), UpdateRule::lion(), UpdateRule::sgd()] {
        let run = |moments| {
            let options = spec::Optimizer { moments, ..spec::Optimizer::of(rule) };
            let mut optimizer = whole(&options, len);
            let weights = Tensor::zeros([len], (Kind::Float, Device::Cpu));
            descend(&mut optimizer, &weights, 0..100, 1e-2);
            (weights, optimizer.moments().map(|(_, moment)| moment.num_bytes()).sum::<usize>())
        };
        let ((exact, bytes), (near, fewer)) = (run(MomentFormat::Float32), run(MomentFormat::Block8));
        let moved = exact.abs().mean(Kind::Double).double_value(&[]);
        let apart = (&exact - &near).abs().mean(Kind::Double).double_value(&[]);
        assert!(moved > 0.3 && apart < 0.02 * moved, "{rule:?}: {apart} apart after {moved}");
        assert!(apart > 0.0, "{rule:?}: the same to the bit, so nothing was quantised");
        assert!((fewer as f64) < 0.26 * bytes as f64, "{rule:?}: {fewer} bytes of {bytes}");
    }
}

/// A group's border in the middle of a block, and pieces: neither is seen in the result.
#[test]
fn how_the_vector_is_cut_does_not_change_the_result() {
    for moments in [MomentFormat::Float32, MomentFormat::Block8] {
        let options = spec::Optimizer { weight_decay: 0.1, moments, ..spec::Optimizer::default() };
        let run = |groups: &[i64], piece: i64| {
            let borders: Vec<i64> = [&[0], groups, &[1000]].concat();
            let groups =
                borders.windows(2).map(|pair| Group { values: pair[0]..pair[1], rate: 1.0, decays: true }).collect();
            let mut optimizer = Optimizer::new(&options, groups, Device::Cpu);
            optimizer.pieces = (0..1000).step_by(piece as usize).map(|at| at..(at + piece).min(1000)).collect();
            let weights = Tensor::ones([1000], (Kind::Float, Device::Cpu));
            descend(&mut optimizer, &weights, 0..5, 1e-2);
            weights
        };
        let at_once = run(&[], 1000);
        assert_eq!(run(&[300, 301], 1000), at_once, "{moments:?}");
        assert_eq!(run(&[300], 256), at_once, "{moments:?}");
    }
}

/// As with transformers' Trainer: matrices shrink, norms and biases do not.
#[test]
fn norms_and_biases_of_a_whole_model_are_not_decayed() {
    let options = spec::Optimizer { weight_decay: 0.5, ..spec::Optimizer::of(UpdateRule::adamw()) };
    let mut optimizer = Optimizer::new(&options, Group::full(3, 5), Device::Cpu);
    let weights = Tensor::ones([5], (Kind::Float, Device::Cpu));
    optimizer.update(&weights, &Tensor::zeros([5], (Kind::Float, Device::Cpu)), 0.1);
    assert_eq!(Vec::<f32>::try_from(&weights).unwrap(), [0.95, 0.95, 0.95, 1.0, 1.0]);
}
