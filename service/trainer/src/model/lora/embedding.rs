//! Low-rank matrices of the embedding: token t becomes `W[t] + s B A[:, t]`. PEFT applies no dropout here.

use tch::{Kind, Tensor};

use super::dora::Magnitude;
use super::init;
use super::layout::Module;

/// T tokens, V vocabulary, E hidden size.
#[derive(Debug)]
pub(super) struct Embedding {
    pub(super) module: Module,
    /// `[rank, V]`, a leaf.
    pub(super) a: Tensor,
    /// `[E, rank]`, a leaf.
    pub(super) b: Tensor,
    /// Of DoRA: a length for each of the E columns of W.
    pub(super) magnitude: Option<Magnitude>,
}

impl Embedding {
    /// `weight [V, E]`, `ids [T]` -> `[T, E]`
    pub(super) fn forward(&self, weight: &Tensor, ids: &Tensor) -> Tensor {
        let base = weight.index_select(0, ids);
        let update = self.a.tr().index_select(0, ids).matmul(&self.b.tr()) * self.module.scale;
        let sum = &base + update;
        let sum = match &self.magnitude {
            Some(magnitude) => {
                sum * magnitude.gain(&weight.tr(), &self.a.detach(), &self.b.detach(), self.module.scale)
            }
            None => sum,
        };
        sum.to_kind(base.kind())
    }

    /// A zero, B normal, whatever the linear layers start with.
    pub(super) fn initialise(&self, weight: &Tensor, seed: u64) {
        tch::no_grad(|| {
            let _ = self.a.shallow_clone().zero_();
            self.b.shallow_clone().copy_(&init::embedding(&self.module, seed));
            if let Some(magnitude) = &self.magnitude {
                magnitude.initialise(&weight.tr(), &self.a, &self.b, self.module.scale);
            }
        });
    }

    /// Matrices of twice the rank that mean the same.
    pub(super) fn padded(&self) -> [Tensor; 2] {
        let zeros = |like: &Tensor| Tensor::zeros(like.size(), (Kind::Float, like.device()));
        [(&self.a, 0), (&self.b, 1)].map(|(matrix, dim)| Tensor::cat(&[&matrix.detach(), &zeros(matrix)], dim))
    }
}
