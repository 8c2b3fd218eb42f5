//! Full-parameter training: all weights of a model as leaves.
//!
//! Weights and gradients lie in one flat float32 vector each, as an adapter's do. What goes through the model is rounded to
//! its type on the way, within the graph, so that gradients of all micro-batches add up in float32.

use tch::{Kind, Tensor};

use super::decoder::Decoder;

/// All weights of one model, trained.
#[derive(Debug)]
pub struct FullWeights {
    flat: Tensor,
    flat_grad: Tensor,
    slots: Vec<Slot>,
    num_matrix_values: i64,
}

/// A named tensor in the flat vectors.
#[derive(Debug)]
struct Slot {
    name: String,
    offset: i64,
    shape: Vec<i64>,
}

impl FullWeights {
    /// Makes the weights of `model` leaves that this vector holds: what is written to it is what the model computes with.
    pub fn new(model: &Decoder) -> FullWeights {
        let mut parameters = model.parameters();
        // Norms and biases last: they are not decayed.
        parameters.sort_by_key(|parameter| parameter.tensor.dim() == 1);
        let len = parameters.iter().map(|parameter| parameter.tensor.numel() as i64).sum();
        let zeros = || Tensor::zeros([len], (Kind::Float, model.device()));
        let mut full = FullWeights { flat: zeros(), flat_grad: zeros(), slots: Vec::new(), num_matrix_values: 0 };
        let mut offset = 0;
        for mut parameter in parameters {
            let (shape, numel) = (parameter.tensor.size(), parameter.tensor.numel() as i64);
            let place = |flat: &Tensor| flat.narrow(0, offset, numel).view(shape.as_slice());
            let mut first = offset;
            for (name, part) in parameter.views_of(&parameter.tensor) {
                full.slots.push(Slot { name, offset: first, shape: part.size() });
                first += part.numel() as i64;
            }
            tch::no_grad(|| place(&full.flat).copy_(&parameter.tensor));
            parameter.tensor.set_data(&place(&full.flat));
            let leaf = parameter.tensor.set_requires_grad(true);
            hone_ops::set_grad(&leaf, &place(&full.flat_grad));
            offset += numel;
            if shape.len() > 1 {
                full.num_matrix_values = offset;
            }
        }
        full
    }

    /// All weights in one vector, float32: matrices first, then norms and biases.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Their gradients, added up by backward passes.
    pub fn flat_grad(&self) -> &Tensor {
        &self.flat_grad
    }

    /// Values of the matrices, which come first.
    pub fn num_matrix_values(&self) -> i64 {
        self.num_matrix_values
    }

    /// Cuts a vector like [`FullWeights::flat`] into views by the names of a checkpoint.
    pub fn named(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        assert_eq!(flat.size(), self.flat.size(), "a vector with a value for each parameter");
        let view = |slot: &Slot| {
            let len = slot.shape.iter().product();
            (slot.name.clone(), flat.narrow(0, slot.offset, len).view(slot.shape.as_slice()))
        };
        self.slots.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests;
