//! Forward passes that a backward pass follows, with or without activation checkpointing (Chen et al. 2016,
//! arXiv:1604.06174): between the two only what goes into each layer is kept, and the rest is made again layer by layer.
//! Losses and gradients are the same to the bit either way.

use tch::Tensor;

use super::batch::Batch;
use super::decoder::Decoder;
use super::linear::Pass;
use super::lora::Adapter;
use super::mlp::Activation;

/// How a model is passed in training.
#[derive(Debug, Clone, Copy)]
pub struct TrainingOptions<'a> {
    /// The adapter that takes part.
    pub adapter: Option<&'a Adapter>,
    /// Decides the adapter's dropout masks and the noise; different for every micro-batch, the same when a step is repeated.
    pub seed: u64,
    /// Noise on the embeddings (NEFTune); 0 is none.
    pub noise_alpha: f64,
    /// Whether what happens inside layers is made again in the backward pass rather than kept.
    pub recomputes: bool,
}

/// A forward pass whose backward pass is still to come.
#[derive(Debug)]
pub struct TrainingPass<'a> {
    hidden: Tensor,
    kept: Option<Kept<'a>>,
}

/// What the second forward pass begins with.
#[derive(Debug)]
struct Kept<'a> {
    model: &'a Decoder,
    pass: Pass<'a>,
    batch: Batch,
    embedded: Tensor,
    /// What went into each layer. `[T, E]`
    inputs: Vec<Tensor>,
    /// What came out of the last one, a leaf that takes the gradient of the loss.
    last: Tensor,
}

impl TrainingPass<'_> {
    /// Hidden states after the last norm, `[T, E]`. Call `backward` on a loss made of them, then [`TrainingPass::backward`].
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Takes the gradient from where the loss's own backward pass left it to everything that is trained.
    pub fn backward(self) {
        if let Some(kept) = self.kept {
            kept.backward();
        }
    }
}

impl Kept<'_> {
    fn backward(self) {
        let (sight, tables) = self.model.surroundings(&self.batch);
        let mut gradient = self.last.grad();
        let layers = self.model.layers.iter().zip(self.inputs).enumerate();
        for (index, (layer, input)) in layers.rev() {
            let is_wanted = index > 0 || self.embedded.requires_grad();
            let input = input.detach().set_requires_grad(is_wanted);
            let output = layer.forward(&input, self.pass, &tables, &sight);
            if output.requires_grad() {
                hone_ops::backward(&output, &gradient);
            }
            gradient = input.grad();
        }
        if self.embedded.requires_grad() {
            hone_ops::backward(&self.embedded, &gradient);
        }
    }
}

impl Decoder {
    /// Hidden states that a loss is made of, and the way back from them.
    pub fn forward_to_train<'a>(&'a self, batch: Batch, options: TrainingOptions<'a>) -> TrainingPass<'a> {
        let TrainingOptions { adapter, seed, noise_alpha, recomputes } = options;
        if !recomputes {
            let hidden = self.forward_with_noise(&batch, adapter, Some(seed), noise_alpha);
            return TrainingPass { hidden, kept: None };
        }
        let pass = Pass { adapter, dropout_seed: Some(seed) };
        let embedded = self.embed_with_noise(&batch, pass, noise_alpha);
        let mut inputs = Vec::with_capacity(self.layers.len());
        let last = tch::no_grad(|| {
            let (sight, tables) = self.surroundings(&batch);
            self.layers.iter().fold(embedded.detach(), |hidden, layer| {
                let next = layer.forward(&hidden, pass, &tables, &sight);
                inputs.push(hidden);
                next
            })
        });
        let last = last.set_requires_grad(true);
        let hidden = self.norm.forward(&last);
        TrainingPass { hidden, kept: Some(Kept { model: self, pass, batch, embedded, inputs, last }) }
    }

    /// About how many bytes a forward pass over so many tokens keeps for its backward pass without checkpointing: what goes
    /// into norms, projections and attention, and what comes out of the stacked projections. What norms and gated units give
    /// is made again where they are nodes of their own.
    pub fn activation_bytes(&self, tokens: u64) -> u64 {
        let c = self.config();
        let made = match hone_ops::has_loops(self.device(), self.kind()) {
            true if c.family.activation == Activation::Silu => 0,
            true => c.intermediate_size,
            false => 2 * c.hidden_size + c.intermediate_size,
        };
        let per_layer =
            2 * c.hidden_size + 2 * c.query_size() + 2 * c.key_value_size() + 2 * c.intermediate_size + made;
        tokens * (c.num_hidden_layers * per_layer) as u64 * self.kind().elt_size_in_bytes() as u64
    }
}

#[cfg(test)]
mod tests;
