//! Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): `W x` becomes `W x + s · B A x`, with A and B trained.
//!
//! An [`Adapter`] is a value beside the model, not a part of it: a pass takes it or not, and the model is never changed.
//! Weights and gradients of all modules lie in one flat float32 buffer each, so that norm, clipping and the optimizer are
//! single operations; all A come first, then all B with the lengths of DoRA, so that these may have learning rates of
//! their own, then what belongs to the embedding and what is trained whole. Names and rules are PEFT's.

use std::collections::BTreeMap;

use hone_job::spec::LoraInit;
use tch::{Kind, Tensor};

use super::decoder::{Decoder, EMBEDDING, HEAD};
use super::error::Error;
use super::linear::{Linear, LinearInfo};

mod dora;
mod embedding;
mod init;
mod layout;
mod merge;
mod options;
mod stack;
mod targets;

pub use options::LoraOptions;
pub(super) use stack::Stack;
pub use targets::TargetModules;

use dora::Magnitude;
use embedding::Embedding;
use layout::{Layout, Module, Part, name};
use options::Sizes;
use stack::{StackPart, Start};
use targets::Chosen;

/// What is trained beside the frozen weights of one model.
#[derive(Debug)]
pub struct Adapter {
    options: LoraOptions,
    /// All weights; float32.
    flat: Tensor,
    /// Their gradients, added up by backward passes.
    flat_grad: Tensor,
    layout: Layout,
    num_layers: usize,
    /// By the place of the stacked layer in the model.
    stacks: Vec<Option<Stack>>,
    embedding: Option<Embedding>,
    /// A copy of the embedding that is trained whole, a leaf. `[V, E]`
    saved_embedding: Option<Tensor>,
    /// A copy of the head that is trained whole, a leaf. `[V, E]`
    saved_head: Option<Tensor>,
}

impl Adapter {
    /// A new adapter that changes nothing yet. Equal seeds give equal weights, module by module, whatever else is adapted
    /// and whatever else draws random numbers.
    pub fn new(model: &Decoder, options: &LoraOptions, seed: u64) -> Result<Adapter, Error> {
        let num_layers = model.config().num_hidden_layers;
        if let Some(layer) = options.layers_to_transform.iter().find(|layer| **layer >= num_layers) {
            return Err(Error::Adapter(format!(
                "layers_to_transform {layer}: the model has layers 0 to {}",
                num_layers - 1
            )));
        }
        let adapter = Adapter::empty(model, options)?;
        adapter.check_ranks()?;
        adapter.initialise(model, seed);
        Ok(adapter)
    }

    /// An adapter that [`Adapter::load`] or [`Adapter::load_doubled`] is still to fill.
    pub fn empty(model: &Decoder, options: &LoraOptions) -> Result<Adapter, Error> {
        let linears: Vec<&LinearInfo> = model.linears().collect();
        let chosen = targets::choose(options, &linears)?;
        let (modules, embedding) = modules(model, options, &chosen)?;
        let layout = Layout::new(&modules, embedding.as_ref(), &saved_shapes(model, &chosen), options.use_dora);
        let zeros = || Tensor::zeros([layout.len()], (Kind::Float, model.device()));
        let (flat, flat_grad) = (zeros(), zeros());
        let mut adapter = Adapter {
            options: options.clone(),
            flat,
            flat_grad,
            layout,
            num_layers: model.config().num_hidden_layers as usize,
            stacks: Vec::new(),
            embedding: None,
            saved_embedding: None,
            saved_head: None,
        };
        adapter.stacks = model.stacks().map(|linear| adapter.stack_of(linear, &modules)).collect();
        adapter.embedding = embedding.map(|module| adapter.embedding_of(model, module));
        adapter.saved_embedding = chosen.saves_embedding.then(|| adapter.leaf(EMBEDDING, Part::Whole));
        adapter.saved_head = chosen.saves_head.then(|| adapter.leaf(HEAD, Part::Whole));
        Ok(adapter)
    }

    /// What it was made with.
    pub fn options(&self) -> &LoraOptions {
        &self.options
    }

    /// The paths of the modules with low-rank matrices, in the model's order, the embedding last.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.all_modules().map(|module| module.path.as_str())
    }

    /// The paths of the modules that are trained whole.
    pub fn saved_modules(&self) -> impl Iterator<Item = &'static str> {
        let embedding = self.saved_embedding.as_ref().map(|_| EMBEDDING);
        embedding.into_iter().chain(self.saved_head.as_ref().map(|_| HEAD))
    }

    /// Layers of the model, adapted or not.
    pub fn num_layers(&self) -> usize {
        self.num_layers
    }

    /// All weights in one vector, float32: what an optimizer writes to. A's first, then B's, see [`Adapter::num_a`].
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The gradients of [`Adapter::flat`], value for value; backward passes add to them until [`Adapter::zero_grad`].
    pub fn flat_grad(&self) -> &Tensor {
        &self.flat_grad
    }

    /// Values of the flat vectors that belong to the linear layers' A's.
    pub fn num_a(&self) -> i64 {
        self.layout.num_a
    }

    /// Values that follow and belong to their B's and DoRA's lengths. What comes after are the embedding's matrices and what
    /// is trained whole.
    pub fn num_b(&self) -> i64 {
        self.layout.num_b
    }

    /// Trained values.
    pub fn num_parameters(&self) -> i64 {
        self.flat.numel() as i64
    }

    /// Nothing trains it any more: what DoRA multiplies each row's result with is computed once, and not in every pass.
    pub fn freeze(&mut self, model: &Decoder) {
        for (linear, stack) in model.stacks().zip(&mut self.stacks) {
            if let Some(stack) = stack {
                stack.freeze(linear);
            }
        }
    }

    /// Sets the gradients to zero.
    pub fn zero_grad(&self) {
        let _ = self.flat_grad.shallow_clone().zero_();
    }

    /// The weights by PEFT's names, as views: copy them before the next step changes them.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        self.named(&self.flat)
    }

    /// The gradients by the same names, as views.
    pub fn named_gradients(&self) -> Vec<(String, Tensor)> {
        self.named(&self.flat_grad)
    }

    /// Cuts a vector like [`Adapter::flat`] (the optimizer's moments, say) into views by name.
    pub fn named(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        assert_eq!(flat.size(), self.flat.size(), "a vector with a value for each parameter");
        self.layout.slots.iter().map(|slot| (slot.name.clone(), slot.of(flat))).collect()
    }

    /// The adapter for an untouched base model: its options and its weights by PEFT's names. An adapter whose start is taken
    /// off the base is converted to plain LoRA of twice the rank; any other is as it is.
    pub fn portable(&self) -> (LoraOptions, Vec<(String, Tensor)>) {
        if !self.options.init.is_taken_off() {
            return (self.options.clone(), self.named_tensors());
        }
        let mut doubled = self.doubled();
        let tensors = self.named_tensors().into_iter();
        let tensors = tensors.map(|(name, tensor)| doubled.remove_entry(&name).unwrap_or((name, tensor))).collect();
        (self.options.doubled(), tensors)
    }

    /// Takes weights over; each of the adapter's tensors must be there, and nothing else.
    pub fn load<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<(), Error> {
        let given = tensors.into_iter().collect();
        let expected: Vec<_> = self.layout.slots.iter().map(|slot| (slot.name.as_str(), slot.shape.clone())).collect();
        check(&given, &expected)?;
        for slot in &self.layout.slots {
            slot.of(&self.flat).copy_(given[slot.name.as_str()]);
        }
        Ok(())
    }

    /// Takes over what [`Adapter::portable`] gave of an adapter whose start is taken off the base: weights and start.
    pub fn load_doubled<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<(), Error> {
        let given: BTreeMap<&str, &Tensor> = tensors.into_iter().collect();
        let doubled = self.doubled();
        let shape = |slot: &layout::Slot| doubled.get(&slot.name).map_or(slot.shape.clone(), Tensor::size);
        let expected: Vec<_> = self.layout.slots.iter().map(|slot| (slot.name.as_str(), shape(slot))).collect();
        check(&given, &expected)?;
        for slot in &self.layout.slots {
            let mut part = given[slot.name.as_str()].shallow_clone();
            for (dim, &len) in slot.shape.iter().enumerate() {
                part = part.narrow(dim as i64, 0, len);
            }
            slot.of(&self.flat).copy_(&part);
        }
        for stack in self.stacks.iter().flatten() {
            stack.load_start(|path, part| given[name(path, part).as_str()]);
        }
        Ok(())
    }

    pub(super) fn stack(&self, index: usize) -> Option<&Stack> {
        self.stacks.get(index).and_then(Option::as_ref)
    }

    /// The rows of tokens in the embedding, as the adapter has them. `weight [V, E]`, `ids [T]` -> `[T, E]`
    pub(super) fn embed(&self, weight: &Tensor, ids: &Tensor) -> Tensor {
        match (&self.saved_embedding, &self.embedding) {
            (Some(saved), _) => saved.index_select(0, ids).to_kind(weight.kind()),
            (None, Some(embedding)) => embedding.forward(weight, ids),
            (None, None) => weight.index_select(0, ids),
        }
    }

    /// The head where it is trained, float32. `[V, E]`
    pub(super) fn head(&self) -> Option<&Tensor> {
        self.saved_head.as_ref()
    }

    fn all_modules(&self) -> impl Iterator<Item = &Module> {
        let linears = self.stacks.iter().flatten().flat_map(|stack| &stack.parts).map(|part| &part.module);
        linears.chain(self.embedding.iter().map(|embedding| &embedding.module))
    }

    fn check_ranks(&self) -> Result<(), Error> {
        for Module { path, inputs, outputs, rank, .. } in self.all_modules() {
            let narrowest = inputs.min(outputs);
            if rank > narrowest {
                let what = format!("rank {rank} of {path} must lie in 1 to {narrowest}, its narrower side");
                return Err(Error::Adapter(what));
            }
            if self.options.init == LoraInit::Orthogonal && rank % 2 == 1 {
                return Err(Error::Adapter(format!("rank {rank} of {path}: the orthogonal start needs an even one")));
            }
        }
        Ok(())
    }

    /// The leaves of one stacked layer: views of the flat vector, whose gradients are views of the flat gradient.
    fn stack_of(&self, linear: &Linear, modules: &[Module]) -> Option<Stack> {
        let (mut first_row, mut first_rank) = (0, 0);
        let mut parts = Vec::new();
        for info in &linear.parts {
            if let Some(module) = modules.iter().find(|module| module.path == info.path) {
                let weight = linear.weight.narrow(0, first_row, module.outputs);
                parts.push(StackPart {
                    module: module.clone(),
                    first_row,
                    first_rank,
                    b: self.leaf(&module.path, Part::B),
                    magnitude: self.magnitude(&module.path, &weight),
                });
                first_rank += module.rank;
            }
            first_row += info.out_features;
        }
        if parts.is_empty() {
            return None;
        }
        // The A's of one stack are neighbours, so one view spans them.
        let neighbours: Vec<&Module> = parts.iter().map(|part| &part.module).collect();
        let a = self.leaf_of(&self.layout.neighbours(&neighbours));
        let start = self.options.init.is_taken_off().then(|| {
            let zeros = |like: &Tensor| Tensor::zeros(like.size(), (Kind::Float, like.device()));
            Start { a: zeros(&a), b: parts.iter().map(|part| zeros(&part.b)).collect() }
        });
        Some(Stack { a, parts, dropout: self.options.dropout, start, frozen_gain: None })
    }

    fn embedding_of(&self, model: &Decoder, module: Module) -> Embedding {
        Embedding {
            a: self.leaf(&module.path, Part::EmbeddingA),
            b: self.leaf(&module.path, Part::EmbeddingB),
            magnitude: self.magnitude(&module.path, &model.embed_tokens().tr()),
            module,
        }
    }

    /// `weight [out, in]`
    fn magnitude(&self, path: &str, weight: &Tensor) -> Option<Magnitude> {
        self.options.use_dora.then(|| Magnitude::new(self.leaf(path, Part::Magnitude), weight))
    }

    fn leaf(&self, path: &str, part: Part) -> Tensor {
        self.leaf_of(self.layout.slot(path, part))
    }

    fn leaf_of(&self, slot: &layout::Slot) -> Tensor {
        let leaf = slot.of(&self.flat).detach().set_requires_grad(true);
        hone_ops::set_grad(&leaf, &slot.of(&self.flat_grad));
        leaf
    }

    fn initialise(&self, model: &Decoder, seed: u64) {
        for (linear, stack) in model.stacks().zip(&self.stacks) {
            if let Some(stack) = stack {
                stack.initialise(linear, self.options.init, seed);
            }
        }
        if let Some(embedding) = &self.embedding {
            embedding.initialise(model.embed_tokens(), seed);
        }
        let copies = [(&self.saved_embedding, model.embed_tokens()), (&self.saved_head, model.lm_head_weight(None))];
        for (saved, weight) in copies {
            if let Some(saved) = saved {
                tch::no_grad(|| saved.shallow_clone().copy_(weight));
            }
        }
    }

    /// The matrices that have twice the rank in [`Adapter::portable`], by name.
    fn doubled(&self) -> BTreeMap<String, Tensor> {
        let linears = self.stacks.iter().flatten().flat_map(|stack| {
            let both = |(index, part): (usize, &StackPart)| {
                let (a, b) = stack.matrices(index);
                [(name(&part.module.path, Part::A), a), (name(&part.module.path, Part::B), b)]
            };
            stack.parts.iter().enumerate().flat_map(both).collect::<Vec<_>>()
        });
        let embedding = self.embedding.iter().flat_map(|embedding| {
            let [a, b] = embedding.padded();
            let path = &embedding.module.path;
            [(name(path, Part::EmbeddingA), a), (name(path, Part::EmbeddingB), b)]
        });
        linears.chain(embedding).collect()
    }
}

/// Every expected tensor is there in its shape, and nothing else.
fn check(given: &BTreeMap<&str, &Tensor>, expected: &[(&str, Vec<i64>)]) -> Result<(), Error> {
    if let Some(name) = given.keys().find(|name| !expected.iter().any(|(other, _)| other == *name)) {
        return Err(Error::Adapter(format!("tensor {name} belongs to no adapted module of this model")));
    }
    for (name, shape) in expected {
        let tensor = given.get(name).ok_or_else(|| Error::Adapter(format!("tensor {name} is missing")))?;
        if tensor.size() != *shape {
            let found = tensor.size();
            return Err(Error::Adapter(format!("tensor {name} has shape {found:?}, expected {shape:?}")));
        }
    }
    Ok(())
}

/// The chosen linear layers in the model's order, and the embedding, with their ranks and scales.
fn modules(
    model: &Decoder,
    options: &LoraOptions,
    chosen: &Chosen<'_>,
) -> Result<(Vec<Module>, Option<Module>), Error> {
    let sizes = Sizes::new(options)?;
    let module = |path: &str, inputs: i64, outputs: i64| {
        let rank = sizes.rank(path);
        if rank < 1 {
            return Err(Error::Adapter(format!("rank {rank} of {path} must lie in 1 to {}", inputs.min(outputs))));
        }
        let scale = options.scaling(rank, sizes.alpha(path));
        Ok(Module { path: path.to_string(), inputs, outputs, rank, scale })
    };
    let linear = |info: &&LinearInfo| module(&info.path, info.in_features, info.out_features);
    let linears = chosen.linears.iter().map(linear).collect::<Result<_, _>>()?;
    let config = model.config();
    let embedding = chosen.embedding.then(|| module(EMBEDDING, config.vocab_size, config.hidden_size)).transpose()?;
    Ok((linears, embedding))
}

fn saved_shapes(model: &Decoder, chosen: &Chosen<'_>) -> Vec<(&'static str, Vec<i64>)> {
    let saved = [(EMBEDDING, chosen.saves_embedding), (HEAD, chosen.saves_head)];
    let shape = model.embed_tokens().size();
    saved.into_iter().filter(|(_, is_saved)| *is_saved).map(|(path, _)| (path, shape.clone())).collect()
}

#[cfg(test)]
mod tests;
