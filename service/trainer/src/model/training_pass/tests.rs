//! Checkpointing changes what is kept, and not a bit of what is computed.

use hone_job::spec::Lora;
use tch::{Device, Kind};

use super::*;
use crate::model::{Architecture, FullWeights, LoraOptions, tiny};

fn batch() -> Batch {
    Batch::new(&[3, 1, 4, 1, 5, 9, 2, 6], &[0, 1, 2, 3, 0, 1, 2, 3], &[4, 4], Device::Cpu)
}

/// The loss, whose gradients are then where the model or the adapter has them.
fn loss(model: &Decoder, adapter: Option<&Adapter>, recomputes: bool) -> Tensor {
    let options = TrainingOptions { adapter, seed: 11, noise_alpha: 5.0, recomputes };
    let pass = model.forward_to_train(batch(), options);
    let loss = pass.hidden().square().sum(Kind::Float);
    loss.backward();
    pass.backward();
    loss.detach()
}

#[test]
fn an_adapter_gets_the_same_gradients_to_the_bit_in_every_family() {
    for architecture in Architecture::ALL {
        let model = tiny::model(architecture);
        let lora = Lora {
            dropout: 0.3,
            target_modules: ["q_proj", "qkv_proj", "v_proj", "o_proj", "down_proj"].map(String::from).into(),
            ..Lora::default()
        };
        let known: Vec<String> = lora
            .target_modules
            .iter()
            .filter(|name| model.linears().any(|linear| linear.path.ends_with(name.as_str())))
            .cloned()
            .collect();
        let adapter = Adapter::new(&model, &LoraOptions::from(&Lora { target_modules: known, ..lora }), 5).unwrap();
        adapter.flat().shallow_clone().copy_(&(tiny::random(&adapter.flat().size(), 3) * 0.3));
        let run = |recomputes| {
            adapter.zero_grad();
            (loss(&model, Some(&adapter), recomputes), adapter.flat_grad().copy())
        };
        let ((kept, kept_gradient), (made, made_gradient)) = (run(false), run(true));
        assert!(kept_gradient.abs().max().double_value(&[]) > 0.0);
        assert!(kept.equal(&made) && kept_gradient.equal(&made_gradient), "{architecture:?}");
    }
}

#[test]
fn a_whole_model_gets_the_same_gradients_to_the_bit() {
    for architecture in Architecture::ALL {
        let run = |recomputes| {
            let model = tiny::model(architecture);
            let full = FullWeights::new(&model);
            let loss = loss(&model, None, recomputes);
            (loss, full.flat_grad().copy())
        };
        let ((kept, kept_gradient), (made, made_gradient)) = (run(false), run(true));
        assert!(kept.equal(&made) && kept_gradient.equal(&made_gradient), "{architecture:?}");
    }
}
