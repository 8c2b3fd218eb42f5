//! Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): `W x` becomes `W x + s · B A x`, with A and B trained.
//!
//! An [`Adapter`] is a value beside the model, not a part of it: a pass takes it or not. Weights and gradients of all
//! modules lie in one flat float32 buffer each, so that norm, clipping and the optimizer are single operations; all A come
//! first, then all B, so that the two may have learning rates of their own. Names and rules are PEFT's.

use hone_ops::{Dropout, LoraPart};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::decoder::Decoder;
use super::error::Error;
use super::linear::{Linear, LinearInfo};
use crate::mix::mix;

/// What an adapter is like.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOptions {
    /// Rank r of the update.
    pub rank: i64,
    /// The update is multiplied by alpha / r.
    pub alpha: f64,
    /// Dropout on the input of A in training. Projections that share their input (q, k, v; gate, up) share its mask, where
    /// PEFT draws one for each.
    pub dropout: f64,
    /// Which linear layers.
    pub target_modules: TargetModules,
    /// alpha / √r in place of alpha / r (arXiv:2312.03732).
    pub use_rslora: bool,
}

/// Which linear layers get an adapter; PEFT's three ways to say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// All but the head.
    AllLinear,
    /// Those whose path is an entry, or ends with a dot and an entry.
    Named(Vec<String>),
    /// Those whose whole path matches a regular expression.
    Pattern(String),
}

impl LoraOptions {
    /// The factor s of the update.
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        if self.use_rslora { self.alpha / rank.sqrt() } else { self.alpha / rank }
    }
}

impl From<&hone_job::spec::Lora> for LoraOptions {
    fn from(lora: &hone_job::spec::Lora) -> LoraOptions {
        let all = matches!(lora.target_modules.as_slice(), [only] if only.eq_ignore_ascii_case("all-linear"));
        let named = || TargetModules::Named(lora.target_modules.clone());
        LoraOptions {
            rank: lora.rank.into(),
            alpha: lora.alpha,
            dropout: lora.dropout,
            target_modules: if all { TargetModules::AllLinear } else { named() },
            use_rslora: lora.use_rslora,
        }
    }
}

impl TargetModules {
    /// The layers that are meant, in the model's order.
    fn choose<'a>(&self, linears: &[&'a LinearInfo]) -> Result<Vec<&'a LinearInfo>, Error> {
        let pattern = match self {
            TargetModules::Pattern(pattern) => Some(whole_path(pattern)?),
            _ => None,
        };
        if let TargetModules::Named(entries) = self
            && let Some(entry) = entries.iter().find(|entry| is_end(entry))
        {
            return Err(Error::Adapter(format!(
                "target module `{entry}` cannot have an adapter: the loss reads its weight directly"
            )));
        }
        let is_target = |path: &str| match self {
            TargetModules::AllLinear => true,
            TargetModules::Named(entries) => entries.iter().any(|entry| names(entry, path)),
            TargetModules::Pattern(_) => pattern.as_ref().is_some_and(|regex| regex.is_match(path).unwrap_or(false)),
        };
        let chosen: Vec<_> = linears.iter().copied().filter(|linear| is_target(&linear.path)).collect();
        if chosen.is_empty() {
            return Err(Error::Adapter(format!("no module matches {}; there are {}", self, kinds(linears))));
        }
        Ok(chosen)
    }
}

impl std::fmt::Display for TargetModules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetModules::AllLinear => write!(f, "all-linear"),
            TargetModules::Named(entries) => write!(f, "{entries:?}"),
            TargetModules::Pattern(pattern) => write!(f, "the pattern `{pattern}`"),
        }
    }
}

/// Whether an entry means the embedding or the head.
fn is_end(entry: &str) -> bool {
    ["lm_head", "embed_tokens"].contains(&entry.rsplit('.').next().unwrap_or_default())
}

/// `path == entry`, or `path` ends with `.entry`.
fn names(entry: &str, path: &str) -> bool {
    path.strip_suffix(entry).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn whole_path(pattern: &str) -> Result<fancy_regex::Regex, Error> {
    fancy_regex::Regex::new(&format!(r"\A(?:{pattern})\z"))
        .map_err(|error| Error::Adapter(format!("target_modules `{pattern}` is no regular expression: {error}")))
}

/// The last names of paths, each once.
fn kinds(linears: &[&LinearInfo]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for name in linears.iter().filter_map(|linear| linear.path.rsplit('.').next()) {
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    format!(
        "{} (in {} layers' paths such as {})",
        kinds.join(", "),
        linears.len() / kinds.len().max(1),
        linears.first().map_or("none", |linear| linear.path.as_str())
    )
}

/// Trainable low-rank matrices for some linear layers of one model.
#[derive(Debug)]
pub struct Adapter {
    options: LoraOptions,
    /// All weights; float32.
    flat: Tensor,
    /// Their gradients, added up by backward passes.
    flat_grad: Tensor,
    /// How many of the values are A's; the B's follow.
    num_a: i64,
    slots: Vec<Slot>,
    num_layers: usize,
    /// By the place of the stacked layer in the model.
    stacks: Vec<Option<Stack>>,
}

/// One named tensor in the flat buffer.
#[derive(Debug)]
struct Slot {
    /// As PEFT names it in a file.
    name: String,
    offset: i64,
    shape: [i64; 2],
}

/// The adapters of one stacked linear layer.
#[derive(Debug)]
pub(super) struct Stack {
    /// `[sum of ranks, in]`, a leaf.
    a: Tensor,
    parts: Vec<Part>,
    scale: f64,
    dropout: f64,
}

#[derive(Debug)]
struct Part {
    /// Its first row in the stacked weight.
    first_row: i64,
    /// `[out, rank]`, a leaf.
    b: Tensor,
}

impl Adapter {
    /// A new adapter: A uniform in ±1/√in, B zero, so that it changes nothing yet. Equal seeds give equal weights, module
    /// by module, whatever else is adapted and whatever else draws random numbers.
    pub fn new(model: &Decoder, options: &LoraOptions, seed: u64) -> Result<Adapter, Error> {
        let linears: Vec<&LinearInfo> = model.linears().collect();
        let chosen = options.target_modules.choose(&linears)?;
        let narrowest = chosen.iter().map(|linear| linear.in_features.min(linear.out_features)).min().unwrap_or(0);
        if !(1..=narrowest).contains(&options.rank) {
            let rank = options.rank;
            return Err(Error::Adapter(format!(
                "rank {rank} must lie in 1 to {narrowest}, the narrowest module's size"
            )));
        }
        let slots = slots(&chosen, options.rank);
        let num_a: i64 = chosen.iter().map(|linear| options.rank * linear.in_features).sum();
        let total = slots.iter().map(Slot::len).sum::<i64>();
        let zeros = || Tensor::zeros([total], (Kind::Float, model.device()));
        let (flat, flat_grad) = (zeros(), zeros());
        let mut adapter = Adapter {
            options: options.clone(),
            flat,
            flat_grad,
            num_a,
            slots,
            num_layers: model.config().num_hidden_layers as usize,
            stacks: Vec::new(),
        };
        adapter.stacks = model.stacks().map(|linear| adapter.stack_of(linear, &chosen)).collect();
        adapter.initialise(seed);
        Ok(adapter)
    }

    /// What it was made with.
    pub fn options(&self) -> &LoraOptions {
        &self.options
    }

    /// The paths of the adapted modules, in the model's order.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().filter_map(|slot| slot.name.strip_prefix("base_model.model.")?.strip_suffix(".lora_A.weight"))
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

    /// Values of the flat vectors that belong to A's; the B's follow.
    pub fn num_a(&self) -> i64 {
        self.num_a
    }

    /// Trained values.
    pub fn num_parameters(&self) -> i64 {
        self.flat.numel() as i64
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
        self.slots.iter().map(|slot| (slot.name.clone(), slot.of(flat))).collect()
    }

    /// Takes weights over; each of the adapter's tensors must be there, and nothing else.
    pub fn load<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<(), Error> {
        let given: std::collections::BTreeMap<&str, &Tensor> = tensors.into_iter().collect();
        if let Some(name) = given.keys().find(|name| !self.slots.iter().any(|slot| slot.name == **name)) {
            return Err(Error::Adapter(format!("tensor {name} belongs to no adapted module of this model")));
        }
        for slot in &self.slots {
            let tensor = given
                .get(slot.name.as_str())
                .ok_or_else(|| Error::Adapter(format!("tensor {} is missing", slot.name)))?;
            if tensor.size() != slot.shape {
                let (name, found, expected) = (&slot.name, tensor.size(), slot.shape);
                return Err(Error::Adapter(format!("tensor {name} has shape {found:?}, expected {expected:?}")));
            }
        }
        for slot in &self.slots {
            slot.of(&self.flat).copy_(given[slot.name.as_str()]);
        }
        Ok(())
    }

    pub(super) fn stack(&self, index: usize) -> Option<&Stack> {
        self.stacks.get(index).and_then(Option::as_ref)
    }

    /// The leaves of one stacked layer: views of the flat vector, whose gradients are views of the flat gradient.
    fn stack_of(&self, linear: &Linear, chosen: &[&LinearInfo]) -> Option<Stack> {
        let mut first_row = 0;
        let mut parts = Vec::new();
        let mut a_slots = Vec::new();
        for part in &linear.parts {
            if chosen.iter().any(|linear| linear.path == part.path) {
                a_slots.push(self.slot(&part.path, "A"));
                parts.push(Part { first_row, b: self.leaf(self.slot(&part.path, "B")) });
            }
            first_row += part.out_features;
        }
        // The A's of one stack are neighbours, so one view spans them.
        let first = a_slots.first()?;
        let rows = a_slots.iter().map(|slot| slot.shape[0]).sum();
        let a = Slot { name: String::new(), offset: first.offset, shape: [rows, first.shape[1]] };
        Some(Stack { a: self.leaf(&a), parts, scale: self.options.scaling(), dropout: self.options.dropout })
    }

    fn slot(&self, path: &str, matrix: &str) -> &Slot {
        let name = peft_name(path, matrix);
        self.slots.iter().find(|slot| slot.name == name).expect("every chosen module has its slots")
    }

    fn leaf(&self, slot: &Slot) -> Tensor {
        let leaf = slot.of(&self.flat).detach().set_requires_grad(true);
        hone_ops::set_grad(&leaf, &slot.of(&self.flat_grad));
        leaf
    }

    fn initialise(&self, seed: u64) {
        for slot in self.slots.iter().filter(|slot| slot.name.ends_with(".lora_A.weight")) {
            let bound = 1.0 / (slot.shape[1] as f32).sqrt();
            slot.of(&self.flat).copy_(&uniform(seed, &slot.name, slot.len(), bound).view(slot.shape));
        }
    }
}

impl Slot {
    fn len(&self) -> i64 {
        self.shape[0] * self.shape[1]
    }

    fn of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.offset, self.len()).view(self.shape)
    }
}

impl Stack {
    /// The layer with its adapters, as one node of the graph.
    pub(super) fn forward(&self, linear: &Linear, x: &Tensor, dropout_seed: Option<u64>) -> Tensor {
        let parts: Vec<_> = self.parts.iter().map(|part| LoraPart { first_row: part.first_row, b: &part.b }).collect();
        let dropout = dropout_seed
            .filter(|_| self.dropout > 0.0)
            .map(|seed| Dropout { probability: self.dropout, seed: mix(seed, linear.index as u64) as i64 });
        hone_ops::lora_linear(x, &linear.weight, linear.bias.as_ref(), &self.a, &parts, self.scale, dropout)
    }
}

/// The place of every tensor: all A in the model's order, then all B.
fn slots(chosen: &[&LinearInfo], rank: i64) -> Vec<Slot> {
    let a = chosen.iter().map(|linear| (peft_name(&linear.path, "A"), [rank, linear.in_features]));
    let b = chosen.iter().map(|linear| (peft_name(&linear.path, "B"), [linear.out_features, rank]));
    let mut offset = 0;
    a.chain(b)
        .map(|(name, shape)| {
            let slot = Slot { name, offset, shape };
            offset += slot.len();
            slot
        })
        .collect()
}

fn peft_name(path: &str, matrix: &str) -> String {
    format!("base_model.model.{path}.lora_{matrix}.weight")
}

/// Values in ±bound from a generator of the tensor's own.
fn uniform(seed: u64, name: &str, len: i64, bound: f32) -> Tensor {
    let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
    let mut random = ChaCha8Rng::from_seed(key.into());
    let unit = |bits: u32| (bits >> 8) as f32 / (1u32 << 24) as f32;
    let values: Vec<f32> = (0..len).map(|_| bound * (2.0 * unit(random.next_u32()) - 1.0)).collect();
    Tensor::from_slice(&values).to_device(Device::Cpu)
}

#[cfg(test)]
mod tests;
