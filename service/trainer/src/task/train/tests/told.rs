//! What a step tells beside its loss: what its time went to, and the gradient's norm by layer.

use super::*;
use crate::model::FullWeights;
use crate::task::train::groups::gradient_groups;

#[test]
fn the_parts_of_a_step_make_up_its_time() {
    let case = Case::new("llama", |training| training.data.eval_fraction = 0.2);
    let (_, events) = case.run(None);
    for step in steps(&events) {
        let time = step.time.expect("a processor is always told");
        let parts = [time.data_seconds, time.forward_seconds, time.backward_seconds, time.update_seconds];
        assert!(parts.iter().all(|seconds| *seconds > 0.0) && time.wait_seconds >= 0.0, "{time:?}");
        let sum: f64 = parts.iter().sum();
        assert!(sum <= step.step_seconds && sum > 0.5 * step.step_seconds, "{time:?} of {} s", step.step_seconds);
    }
}

#[test]
fn gradient_groups_come_when_they_are_asked_for_and_add_up_to_the_norm() {
    for adapter in [spec::Adapter::Full, spec::Adapter::Lora(spec::Lora { rank: 4, ..spec::Lora::default() })] {
        let case = Case::new("llama", |training| {
            training.adapter = adapter.clone();
            training.optimizer.gradient_groups_every_steps = 3;
        });
        for step in steps(&case.run(None).1) {
            let groups = &step.gradient_groups;
            assert_eq!(groups.is_empty(), step.step % 3 != 0, "step {}: {groups:?}", step.step);
            let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
            let layers = names.iter().filter(|name| name.starts_with("layers.")).count();
            assert_eq!(names.contains(&"embed_tokens"), layers > 0 && adapter == spec::Adapter::Full, "{names:?}");
            let norm = groups.iter().map(|group| group.norm.powi(2)).sum::<f64>().sqrt();
            let whole = step.grad_norm.expect("finite");
            assert!(groups.is_empty() || (norm - whole).abs() < 1e-5 * whole, "{norm} and {whole}");
        }
    }
}

#[test]
fn the_norm_of_a_group_is_that_of_its_values_one_by_one() {
    let path = fixtures().join("models/llama");
    let model = Decoder::load(&path, Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap();
    let trained = Trained::Full(FullWeights::new(&model));
    let values = tch::Tensor::arange(trained.num_parameters(), (Kind::Float, Device::Cpu)).sin();
    trained.flat_grad().shallow_clone().copy_(&values);
    let groups = gradient_groups(&trained);
    let mut seen = 0.0;
    for group in &groups {
        let is_layer = group.name.starts_with("layers.");
        let belongs = |name: &str| match is_layer {
            true => name.contains(&format!("{}.", group.name)),
            false => !name.contains("layers.") && name.contains(&group.name),
        };
        let mut sum = 0.0;
        for (_, gradient) in trained.named(trained.flat_grad()).iter().filter(|(name, _)| belongs(name)) {
            let values = Vec::<f32>::try_from(gradient.reshape([-1])).unwrap();
            sum += values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        }
        assert!((group.norm - sum.sqrt()).abs() < 1e-6 * group.norm, "{group:?} and {}", sum.sqrt());
        seen += sum;
    }
    let all = Vec::<f32>::try_from(values).unwrap().iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    assert!((seen - all).abs() < 1e-6 * all, "every value belongs to one group: {seen} and {all}");
}
