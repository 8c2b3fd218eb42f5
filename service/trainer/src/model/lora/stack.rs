//! The adapters of one stacked linear layer.

use hone_job::spec::LoraInit;
use hone_ops::{Dropout, LoraPart};
use tch::{Kind, Tensor};

use super::dora::Magnitude;
use super::init;
use super::layout::{Module, Part};
use crate::mix::mix;
use crate::model::linear::Linear;

/// The adapters of one stacked linear layer. T tokens, R the sum of its ranks.
#[derive(Debug)]
pub(in crate::model) struct Stack {
    /// `[R, in]`, a leaf.
    pub(super) a: Tensor,
    pub(super) parts: Vec<StackPart>,
    pub(super) dropout: f64,
    /// What the adapters began with, where that is taken off the base.
    pub(super) start: Option<Start>,
    /// [`Stack::gain`] of an adapter that is not trained any more.
    pub(super) frozen_gain: Option<Tensor>,
}

#[derive(Debug)]
pub(super) struct StackPart {
    pub(super) module: Module,
    /// Its first row in the stacked weight.
    pub(super) first_row: i64,
    /// Its first row in A.
    pub(super) first_rank: i64,
    /// `[out, rank]`, a leaf.
    pub(super) b: Tensor,
    /// Of DoRA.
    pub(super) magnitude: Option<Magnitude>,
}

/// A₀ and B₀, frozen. `W + s (B A - B₀ A₀)` is what PiSSA and OLoRA call `W_res + s B A`; this way the base model stays as
/// it is, for whoever else looks at it, and no rounding of W_res comes in.
#[derive(Debug)]
pub(super) struct Start {
    /// `[R, in]`
    pub(super) a: Tensor,
    /// By part, `[out, rank]`.
    pub(super) b: Vec<Tensor>,
}

impl Stack {
    /// `x [T, in]` -> `[T, out]`: the layer with its adapters.
    pub(in crate::model) fn forward(&self, linear: &Linear, x: &Tensor, dropout_seed: Option<u64>) -> Tensor {
        let dropout = dropout_seed
            .filter(|_| self.dropout > 0.0)
            .map(|seed| Dropout { probability: self.dropout, seed: mix(seed, linear.index as u64) as i64 });
        if !self.is_dora() {
            return self.low_rank(linear, x, linear.bias.as_ref(), dropout);
        }
        let gain = self.frozen_gain.as_ref().map_or_else(|| self.gain(linear), Tensor::shallow_clone);
        let scaled = |x: &Tensor| (self.low_rank(linear, x, None, None) * &gain).to_kind(x.kind());
        match (dropout, &linear.bias) {
            (None, None) => scaled(x),
            (None, Some(bias)) => scaled(x) + bias,
            // As PEFT does: what m / n - 1 multiplies is made of the dropped input too, the base's own result is not.
            (Some(dropout), bias) => {
                let kept = hone_ops::dropout(x, dropout);
                scaled(&kept) + (x - kept).linear(&linear.weight, bias.as_ref())
            }
        }
    }

    fn is_dora(&self) -> bool {
        self.parts.iter().any(|part| part.magnitude.is_some())
    }

    pub(super) fn freeze(&mut self, linear: &Linear) {
        self.frozen_gain = self.is_dora().then(|| self.gain(linear).detach());
    }

    /// `x Wᵀ + bias + s (dropout(x) Aᵀ) Bᵀ`, as one node of the graph.
    fn low_rank(&self, linear: &Linear, x: &Tensor, bias: Option<&Tensor>, dropout: Option<Dropout>) -> Tensor {
        let part = |part: &StackPart| (part.first_row, part.module.scale);
        let with = |(first_row, scale), b| LoraPart { first_row, b, scale };
        let mut parts: Vec<_> = self.parts.iter().map(|one| with(part(one), &one.b)).collect();
        let Some(start) = &self.start else {
            return hone_ops::lora_linear(x, &linear.weight, bias, &self.a, &parts, dropout);
        };
        let minus = |(first_row, scale): (i64, f64)| (first_row, -scale);
        parts.extend(self.parts.iter().zip(&start.b).map(|(one, b)| with(minus(part(one)), b)));
        let a = Tensor::cat(&[&self.a, &start.a], 0);
        hone_ops::lora_linear(x, &linear.weight, bias, &a, &parts, dropout)
    }

    /// What DoRA multiplies each row's result with, 1 for rows without an adapter; float32. `[out]`
    fn gain(&self, linear: &Linear) -> Tensor {
        let ones = |rows: i64| Tensor::ones([rows], (Kind::Float, linear.weight.device()));
        let mut pieces = Vec::new();
        let mut row = 0;
        for (index, part) in self.parts.iter().enumerate() {
            pieces.push(ones(part.first_row - row));
            let (a, b) = self.matrices(index);
            let rows = part.module.outputs;
            pieces.push(match &part.magnitude {
                Some(magnitude) => magnitude.gain(&part.weight(linear), &a, &b, part.module.scale),
                None => ones(rows),
            });
            row = part.first_row + rows;
        }
        pieces.push(ones(linear.weight.size()[0] - row));
        Tensor::cat(&pieces, 0)
    }

    /// A and B of one part, detached; where the start is taken off, of twice the rank.
    pub(super) fn matrices(&self, index: usize) -> (Tensor, Tensor) {
        let part = &self.parts[index];
        let (a, b) = (part.rows_of(&self.a).detach(), part.b.detach());
        match &self.start {
            Some(start) => (Tensor::cat(&[a, part.rows_of(&start.a)], 0), Tensor::cat(&[&b, &start.b[index].neg()], 1)),
            None => (a, b),
        }
    }

    /// Reads the start back out of matrices of twice the rank, found by path and part.
    pub(super) fn load_start<'a>(&self, find: impl Fn(&str, Part) -> &'a Tensor) {
        let Some(start) = &self.start else { return };
        for (part, b) in self.parts.iter().zip(&start.b) {
            let Module { path, rank, .. } = &part.module;
            part.rows_of(&start.a).copy_(&find(path, Part::A).narrow(0, *rank, *rank));
            b.shallow_clone().copy_(&find(path, Part::B).narrow(1, *rank, *rank).neg());
        }
    }

    /// Fills fresh matrices, and takes their product off where the initialisation says so.
    pub(super) fn initialise(&self, linear: &Linear, how: LoraInit, seed: u64) {
        tch::no_grad(|| {
            for (index, part) in self.parts.iter().enumerate() {
                let (a, b) = init::linear(how, &part.module, &part.weight(linear), seed);
                part.rows_of(&self.a).copy_(&a);
                part.b.shallow_clone().copy_(&b);
                if let Some(start) = &self.start {
                    part.rows_of(&start.a).copy_(&a);
                    start.b[index].shallow_clone().copy_(&b);
                }
                if let Some(magnitude) = &part.magnitude {
                    let (a, b) = self.matrices(index);
                    magnitude.initialise(&part.weight(linear), &a, &b, part.module.scale);
                }
            }
        });
    }
}

impl StackPart {
    /// Its rows of a matrix like A. `[rank, in]`
    pub(super) fn rows_of(&self, a: &Tensor) -> Tensor {
        a.narrow(0, self.first_rank, self.module.rank)
    }

    /// Its rows of the stacked weight. `[out, in]`
    fn weight(&self, linear: &Linear) -> Tensor {
        linear.weight.narrow(0, self.first_row, self.module.outputs)
    }
}
