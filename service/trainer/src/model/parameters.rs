//! A model's weights by the names they have in a checkpoint.

use tch::Tensor;

use super::decoder::{Decoder, EMBEDDING, HEAD, Layer};
use super::linear::Linear;
use super::norm::RmsNorm;

/// A tensor of the model. Projections that read the same input lie in one, rows under rows.
#[derive(Debug)]
pub(super) struct Parameter {
    /// Name in a checkpoint and rows of each part.
    pub(super) parts: Vec<(String, i64)>,
    /// The tensor itself, not a copy.
    pub(super) tensor: Tensor,
}

impl Parameter {
    fn new(name: String, tensor: &Tensor) -> Parameter {
        Parameter { parts: vec![(name, tensor.size()[0])], tensor: tensor.shallow_clone() }
    }

    /// Each part by its name, as a view of a tensor of this one's shape.
    pub(super) fn views_of(&self, tensor: &Tensor) -> Vec<(String, Tensor)> {
        let mut first = 0;
        let view = |(name, rows): &(String, i64)| {
            let view = tensor.narrow(0, first, *rows);
            first += rows;
            (name.clone(), view)
        };
        self.parts.iter().map(view).collect()
    }
}

impl Decoder {
    /// All weights by their names in a checkpoint, as views; a tied head is not among them.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        self.parameters().iter().flat_map(|parameter| parameter.views_of(&parameter.tensor)).collect()
    }

    /// All weights as they lie in memory, in the order of a pass; a tied head is not among them.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        let mut found = vec![Parameter::new(format!("{EMBEDDING}.weight"), self.embed_tokens())];
        for (number, layer) in self.layers.iter().enumerate() {
            layer.parameters(&format!("model.layers.{number}"), &mut found);
        }
        found.push(Parameter::new("model.norm.weight".into(), &self.norm.weight));
        if !self.config().tie_word_embeddings {
            found.push(Parameter::new(format!("{HEAD}.weight"), self.lm_head_weight(None)));
        }
        found
    }
}

impl Layer {
    fn parameters(&self, prefix: &str, found: &mut Vec<Parameter>) {
        let has_output_norms = self.attention_output_norm.is_some();
        let before_mlp = if has_output_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let norm = |found: &mut Vec<Parameter>, name: &str, norm: Option<&RmsNorm>| {
            found.extend(norm.map(|norm| Parameter::new(format!("{prefix}.{name}.weight"), &norm.weight)));
        };
        norm(found, "input_layernorm", Some(&self.input_layernorm));
        linear(&self.self_attn.qkv_proj, found);
        norm(found, "self_attn.q_norm", self.self_attn.q_norm.as_ref());
        norm(found, "self_attn.k_norm", self.self_attn.k_norm.as_ref());
        linear(&self.self_attn.o_proj, found);
        norm(found, "post_attention_layernorm", self.attention_output_norm.as_ref());
        norm(found, before_mlp, Some(&self.pre_feedforward_layernorm));
        linear(&self.mlp.gate_up_proj, found);
        linear(&self.mlp.down_proj, found);
        norm(found, "post_feedforward_layernorm", self.feedforward_output_norm.as_ref());
    }
}

fn linear(linear: &Linear, found: &mut Vec<Parameter>) {
    let parts = |suffix: &str| {
        linear.parts.iter().map(|part| (format!("{}.{suffix}", part.path), part.out_features)).collect::<Vec<_>>()
    };
    found.push(Parameter { parts: parts("weight"), tensor: linear.weight.shallow_clone() });
    if let Some(bias) = &linear.bias {
        found.push(Parameter { parts: parts("bias"), tensor: bias.shallow_clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Architecture, tiny};

    #[test]
    fn every_tensor_of_a_file_comes_back_by_its_name() {
        for architecture in Architecture::ALL {
            let config = tiny::config(architecture);
            let mut expected = tiny::tensors(&config, 1);
            let folder = tempfile::tempdir().unwrap();
            tiny::write(folder.path(), &config, &expected);
            let mut found = tiny::load(folder.path()).named_tensors();
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            found.sort_by(|one, other| one.0.cmp(&other.0));
            assert_eq!(found, expected, "{architecture:?}");
        }
    }
}
