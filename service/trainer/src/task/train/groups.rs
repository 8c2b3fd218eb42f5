//! The gradient's norm by layer.

use hone_job::insight::GradientGroup;
use tch::{Kind, Tensor};

use super::Run;
use crate::model::Trained;

impl Run {
    /// The norms of the gradient as it is now, in steps that are to report them.
    pub(super) fn gradient_groups_if_due(&self) -> Vec<GradientGroup> {
        let every = u64::from(self.training().optimizer.gradient_groups_every_steps);
        match every > 0 && (self.progress.step + 1).is_multiple_of(every) {
            true => gradient_groups(&self.trained),
            false => Vec::new(),
        }
    }
}

/// The norm of each group's gradient, in the order in which the model has them.
pub(super) fn gradient_groups(trained: &Trained) -> Vec<GradientGroup> {
    let named = trained.named(trained.flat_grad());
    let squares: Vec<Tensor> = named.iter().map(|(_, gradient)| gradient.square().sum(Kind::Double)).collect();
    // Read in one go, since reading waits for the device.
    let squares = Vec::<f64>::try_from(Tensor::stack(&squares, 0)).expect("a flat vector");
    let mut groups: Vec<(Place, f64)> = Vec::new();
    for ((name, _), square) in named.iter().zip(squares) {
        let place = Place::of(name);
        match groups.iter_mut().find(|(other, _)| *other == place) {
            Some((_, sum)) => *sum += square,
            None => groups.push((place, square)),
        }
    }
    groups.sort_by(|one, other| one.0.cmp(&other.0));
    groups.into_iter().map(|(place, square)| GradientGroup { name: place.name(), norm: square.sqrt() }).collect()
}

/// What part of a model a tensor belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Embedding,
    Layer(u64),
    Other(String),
}

impl Place {
    /// By its name in a checkpoint, of an adapter or of a model.
    fn of(name: &str) -> Place {
        let parts: Vec<&str> = name.split('.').collect();
        let layer = parts.windows(2).find(|pair| pair[0] == "layers").and_then(|pair| pair[1].parse().ok());
        if let Some(layer) = layer {
            return Place::Layer(layer);
        }
        if parts.contains(&"embed_tokens") {
            return Place::Embedding;
        }
        let own = parts.iter().find(|part| !matches!(**part, "base_model" | "model"));
        Place::Other(own.map_or(name, |part| part).to_string())
    }

    fn name(&self) -> String {
        match self {
            Place::Embedding => "embed_tokens".into(),
            Place::Layer(number) => format!("layers.{number}"),
            Place::Other(name) => name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_belongs_to_its_layer_or_to_what_it_is() {
        let named = |name: &str| Place::of(name).name();
        assert_eq!(named("base_model.model.model.layers.11.self_attn.q_proj.lora_A.weight"), "layers.11");
        assert_eq!(named("model.layers.0.input_layernorm.weight"), "layers.0");
        assert_eq!(named("base_model.model.model.embed_tokens.lora_embedding_A"), "embed_tokens");
        assert_eq!(named("model.norm.weight"), "norm");
        assert_eq!(named("base_model.model.lm_head.weight"), "lm_head");
    }

    #[test]
    fn layers_stand_in_the_models_order() {
        let mut places =
            ["lm_head.weight", "model.layers.10.x", "model.layers.9.x", "model.embed_tokens.weight"].map(Place::of);
        places.sort();
        assert_eq!(places.map(|place| place.name()), ["embed_tokens", "layers.9", "layers.10", "lm_head"]);
    }
}
