//! An adapter's weights put into those of its base model: what an export writes.

use tch::{Kind, Tensor};

use super::super::decoder::{EMBEDDING, HEAD};
use super::Adapter;
use super::dora::Magnitude;

impl Adapter {
    /// The weight of a module with what the adapter adds to it, in float32; none where it adds nothing.
    ///
    /// `W + s B A`; with DoRA `(m / n) ⊙ (W + s B A)`; what is trained whole stands in its place. `weight [out, in]` is the
    /// base model's, of an embedding `[V, E]`.
    pub fn merged(&self, path: &str, weight: &Tensor) -> Option<Tensor> {
        let saved = match path {
            EMBEDDING => self.saved_embedding.as_ref(),
            HEAD => self.saved_head.as_ref(),
            _ => None,
        };
        if let Some(saved) = saved {
            return Some(saved.detach());
        }
        tch::no_grad(|| {
            let weight = weight.to_kind(Kind::Float);
            if let Some(embedding) = self.embedding.as_ref().filter(|embedding| embedding.module.path == path) {
                let (a, b, scale) = (&embedding.a, &embedding.b, embedding.module.scale);
                return Some(sum(&weight.tr(), a, b, scale, embedding.magnitude.as_ref()).tr());
            }
            let stacks = self.stacks.iter().flatten();
            let mut parts =
                stacks.flat_map(|stack| stack.parts.iter().enumerate().map(move |(index, part)| (stack, index, part)));
            let (stack, index, part) = parts.find(|(_, _, part)| part.module.path == path)?;
            let (a, b) = stack.matrices(index);
            Some(sum(&weight, &a, &b, part.module.scale, part.magnitude.as_ref()))
        })
    }

    /// Whether embedding and head are not what they are in the base model: where that ties the two, they differ then.
    pub fn changes_ends(&self) -> bool {
        self.embedding.is_some() || self.saved_embedding.is_some() || self.saved_head.is_some()
    }
}

/// `weight [out, in]`, `a [rank, in]`, `b [out, rank]`
fn sum(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64, magnitude: Option<&Magnitude>) -> Tensor {
    let sum = weight + b.matmul(a) * scale;
    match magnitude {
        Some(magnitude) => sum * magnitude.gain(weight, a, b, scale).unsqueeze(1),
        None => sum,
    }
}
