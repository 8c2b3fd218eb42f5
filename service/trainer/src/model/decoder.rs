//! The decoder of the Llama-like families: packed documents in, hidden states out.
//!
//! Tensor shapes: T tokens of all documents, E hidden size, V vocabulary. There is no batch dimension, and no row is padded to
//! another.
//! Families differ in values ([`super::Family`]), not in code. One block is
//! `h + attention(norm(h))`, then `h + mlp(norm(h))`, as in Llama (arXiv:2302.13971); where outputs have norms,
//! `h + norm(attention(norm(h)))`, then `h + norm(mlp(norm(h)))`, as in Gemma 2 (arXiv:2408.00118).

use std::borrow::Cow;
use std::path::Path;

use hone_data::pack::Prefixes;
use hone_job::spec::AttentionKernel;
use tch::{Device, Kind, Tensor};

use super::attention::{Attention, Kernel, Sight};
use super::batch::Batch;
use super::cache::{Cache, Continuation};
use super::config::Config;
use super::error::Error;
use super::linear::{Linear, LinearInfo, Pass};
use super::lora::Adapter;
use super::mlp::Mlp;
use super::noise;
use super::norm::RmsNorm;
use super::rope::{Rotary, Tables};
use super::softcap;
use super::weights::Weights;
use crate::pulse;

/// Path of the embedding.
pub(super) const EMBEDDING: &str = "model.embed_tokens";
/// Path of the head.
pub(super) const HEAD: &str = "lm_head";

/// A decoder. Its weights are frozen unless [`super::FullWeights`] makes them leaves.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    /// Type of activations; that of the weights, but for trained ones, which are float32.
    kind: Kind,
    /// `[V, E]`
    embed_tokens: Tensor,
    /// What embeddings are multiplied by, in families that do.
    embed_scale: Option<f64>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: RmsNorm,
    /// `[V, E]`; the embedding itself when the two are tied.
    lm_head: Tensor,
    rotary: Rotary,
    kernel: Kernel,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_layernorm: RmsNorm,
    pub(super) self_attn: Attention,
    /// Of what attention gives; most families have none.
    pub(super) attention_output_norm: Option<RmsNorm>,
    /// `post_attention_layernorm` in a file of two norms a layer, `pre_feedforward_layernorm` in one of four.
    pub(super) pre_feedforward_layernorm: RmsNorm,
    pub(super) mlp: Mlp,
    /// Of what the feed-forward block gives; most families have none.
    pub(super) feedforward_output_norm: Option<RmsNorm>,
}

impl Decoder {
    /// Reads a model: a folder with config.json and safetensors, a folder with one GGUF file, or a GGUF file.
    ///
    /// Weights become `kind` (float32, bfloat16 or float16) on `device`, tensor by tensor. `progress` is told the bytes read
    /// so far, and in all.
    pub fn load(path: &Path, kind: Kind, device: Device, progress: &mut dyn FnMut(u64, u64)) -> Result<Decoder, Error> {
        Decoder::load_stored_as(path, kind, kind, device, progress)
    }

    /// The same with weights in float32 that are rounded to `kind` in each pass: what [`super::FullWeights`] trains.
    pub fn load_to_train(
        path: &Path,
        kind: Kind,
        device: Device,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Decoder, Error> {
        Decoder::load_stored_as(path, Kind::Float, kind, device, progress)
    }

    fn load_stored_as(
        path: &Path,
        stored: Kind,
        kind: Kind,
        device: Device,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Decoder, Error> {
        let (config, mut weights) = Weights::open(path, stored, device)?;
        weights.report_to(progress);
        let decoder = Builder { config, weights, kind, num_stacks: 0 }.decoder()?;
        // What the weights were made of.
        hone_ops::give_memory_back();
        Ok(decoder)
    }

    /// The shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// Type of activations.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Which attention kernel a pass over packed documents takes, for reports.
    pub fn attention_kernel(&self) -> &'static str {
        self.kernel.name()
    }

    /// Takes another attention kernel from now on. Says whether the device has it for this model; where not, all stays as it is.
    pub fn set_attention(&mut self, asked: AttentionKernel) -> bool {
        let soft_cap = softcap::of(&self.config);
        let found = Kernel::of(asked, self.device(), self.config.head_dim, soft_cap, self.kind);
        self.kernel = found.unwrap_or(self.kernel);
        found.is_some()
    }

    /// Whether the prompt of a pair may go through the model once: not where the rotation follows from a text's length, since
    /// the two texts differ in it.
    pub fn prefixes(&self) -> Prefixes {
        if self.config.rope.depends_on_length() { Prefixes::Repeated } else { Prefixes::Shared }
    }

    /// Weights in all; tied ones once.
    pub fn num_parameters(&self) -> i64 {
        let c = &self.config;
        let ends = c.vocab_size * c.hidden_size * if c.tie_word_embeddings { 1 } else { 2 };
        let linears: i64 = self.linears().map(|linear| linear.in_features * linear.out_features).sum();
        let biases: i64 = self.stacks().filter_map(|stack| stack.bias.as_ref().map(|bias| bias.numel() as i64)).sum();
        let head_norms = if c.family.qk_norm { 2 * c.head_dim } else { 0 };
        let norms = if c.family.output_norms { 4 } else { 2 } * c.hidden_size + head_norms;
        ends + linears + biases + c.hidden_size + c.num_hidden_layers * norms
    }

    /// Every linear layer that can have an adapter: all but the head.
    pub fn linears(&self) -> impl Iterator<Item = &LinearInfo> {
        self.stacks().flat_map(|stack| &stack.parts)
    }

    /// Hidden states after the last norm, `[T, E]`; with the adapter where one is given, else of the base model.
    ///
    /// `dropout_seed` decides the adapter's dropout masks; none means no dropout. In training it is to be different for
    /// every micro-batch and the same when a step is repeated.
    pub fn forward(&self, batch: &Batch, adapter: Option<&Adapter>, dropout_seed: Option<u64>) -> Tensor {
        self.forward_with_noise(batch, adapter, dropout_seed, 0.0)
    }

    /// The same with uniform noise of up to `noise_alpha / √(tokens · E)` on the embeddings of each document (NEFTune), which
    /// the seed decides too; 0 is none.
    pub fn forward_with_noise(
        &self,
        batch: &Batch,
        adapter: Option<&Adapter>,
        dropout_seed: Option<u64>,
        noise_alpha: f64,
    ) -> Tensor {
        pulse::beat();
        let pass = Pass { adapter, dropout_seed };
        let (sight, tables) = self.surroundings(batch);
        let embedded = self.embed_with_noise(batch, pass, noise_alpha);
        let last = self.layers.iter().fold(embedded, |hidden, layer| layer.forward(&hidden, pass, &tables, &sight));
        self.norm.forward(&last)
    }

    /// What all layers are given: who sees whom, and by how much heads are turned.
    pub(super) fn surroundings<'a>(&self, batch: &'a Batch) -> (Sight<'a>, Tables) {
        let sight = Sight::new(batch, self.kernel);
        (sight, self.rotary.tables(&batch.position_ids, batch.lengths()))
    }

    /// What the first layer is given. `[T, E]`
    pub(super) fn embed_with_noise(&self, batch: &Batch, pass: Pass<'_>, noise_alpha: f64) -> Tensor {
        let embedded = self.embed(&batch.input_ids, pass.adapter);
        let Some(seed) = pass.dropout_seed.filter(|_| noise_alpha > 0.0) else { return embedded };
        let noise = noise::uniform(batch, self.config.hidden_size, noise_alpha, seed) * self.embed_scale.unwrap_or(1.0);
        &embedded + noise.to_kind(embedded.kind())
    }

    /// Hidden states of tokens that follow those in the cache of their text, text after text, `[tokens, E]`, without gradient;
    /// the caches then hold them. The texts go through the model together.
    pub fn forward_cached(&self, texts: &mut [(&[i64], &mut Cache)], adapter: Option<&Adapter>) -> Tensor {
        let wanted: Vec<i64> = texts.iter().map(|(input_ids, _)| input_ids.len() as i64).collect();
        let mut longer: Vec<Continuation<'_>> = texts.iter_mut().map(|(ids, cache)| self.goes_on(ids, cache)).collect();
        let seen: Vec<i64> = longer.iter().map(|text| text.input_ids.len() as i64).collect();
        let hidden = tch::no_grad(|| self.extend(&mut longer, adapter));
        if seen == wanted {
            return hidden;
        }
        let texts = hidden.split_with_sizes(&seen, 0);
        let new =
            texts.iter().zip(seen.iter().zip(&wanted)).map(|(text, (seen, new))| text.narrow(0, seen - new, *new));
        Tensor::cat(&new.collect::<Vec<_>>(), 0)
    }

    /// What of a text goes through the model: its new tokens, or all of it where in the longer text everything is turned in
    /// another way, so that what was seen is to be seen anew.
    fn goes_on<'a>(&self, input_ids: &'a [i64], cache: &'a mut Cache) -> Continuation<'a> {
        let past = cache.len();
        let total = past + input_ids.len() as i64;
        assert!(total <= cache.max_tokens, "the cache holds {} tokens, asked for {total}", cache.max_tokens);
        let rope = &self.config.rope;
        let is_turned =
            past > 0 && rope.depends_on_length() && rope.inverse_frequencies(past) != rope.inverse_frequencies(total);
        let input_ids = match is_turned {
            true => Cow::Owned([&cache.input_ids, input_ids].concat()),
            false => Cow::Borrowed(input_ids),
        };
        if is_turned {
            cache.truncate(0);
        }
        Continuation { input_ids, cache }
    }

    fn extend(&self, texts: &mut [Continuation<'_>], adapter: Option<&Adapter>) -> Tensor {
        let pass = Pass { adapter, dropout_seed: None };
        let places: Vec<i64> = texts.iter().flat_map(Continuation::places).collect();
        let lengths: Vec<_> = texts.iter().map(|text| (text.input_ids.len() as i64, text.places().end)).collect();
        let tables = self.rotary.tables(&Tensor::from_slice(&places).to_device(self.device()), lengths);
        let input_ids: Vec<i64> = texts.iter().flat_map(|text| text.input_ids.iter().copied()).collect();
        let mut hidden = self.embed(&Tensor::from_slice(&input_ids).to_device(self.device()), adapter);
        for (index, layer) in self.layers.iter().enumerate() {
            let attention = |x: &Tensor| layer.self_attn.forward_cached(x, pass, &tables, index, texts);
            hidden = layer.with(&hidden, attention, |x| layer.mlp.forward(x, pass));
        }
        for text in texts {
            text.cache.input_ids.extend(&*text.input_ids);
        }
        self.norm.forward(&hidden)
    }

    /// The head's weight `[V, E]`: what the loss multiplies the hidden states with. Of an adapter that trains the head it is
    /// the trained one, float32, a leaf.
    pub fn lm_head_weight<'a>(&'a self, adapter: Option<&'a Adapter>) -> &'a Tensor {
        adapter.and_then(Adapter::head).unwrap_or(&self.lm_head)
    }

    /// `hidden [N, E]` -> logits `[N, V]`, for few positions: training takes its loss in tiles.
    pub fn logits(&self, hidden: &Tensor, adapter: Option<&Adapter>) -> Tensor {
        let logits = hidden.matmul(&self.lm_head_weight(adapter).to_kind(hidden.kind()).tr());
        match self.config.final_logit_softcapping {
            Some(cap) => ((logits.to_kind(Kind::Float) / cap).tanh() * cap).to_kind(logits.kind()),
            None => logits,
        }
    }

    /// Whether a tensor is this model's embedding, as far as the type of the weights tells.
    pub fn has_embedding(&self, copy: &Tensor) -> bool {
        let own = &self.embed_tokens;
        copy.size() == own.size() && copy.to_device(own.device()).to_kind(own.kind()).equal(own)
    }

    /// The embedding's weight `[V, E]`.
    pub(super) fn embed_tokens(&self) -> &Tensor {
        &self.embed_tokens
    }

    pub(super) fn stacks(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| {
            [&layer.self_attn.qkv_proj, &layer.self_attn.o_proj, &layer.mlp.gate_up_proj, &layer.mlp.down_proj]
        })
    }

    fn embed(&self, input_ids: &Tensor, adapter: Option<&Adapter>) -> Tensor {
        let embedded = match adapter {
            Some(adapter) => adapter.embed(&self.embed_tokens, input_ids),
            None => self.embed_tokens.index_select(0, input_ids).to_kind(self.kind),
        };
        self.embed_scale.map_or_else(|| embedded.shallow_clone(), |scale| &embedded * scale)
    }
}

impl Layer {
    pub(super) fn forward(&self, hidden: &Tensor, pass: Pass<'_>, tables: &Tables, sight: &Sight<'_>) -> Tensor {
        self.with(hidden, |x| self.self_attn.forward(x, pass, tables, sight), |x| self.mlp.forward(x, pass))
    }

    fn with(
        &self,
        hidden: &Tensor,
        attention: impl FnOnce(&Tensor) -> Tensor,
        mlp: impl FnOnce(&Tensor) -> Tensor,
    ) -> Tensor {
        let normed = |x: Tensor, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward(&x),
            None => x,
        };
        let hidden = hidden + normed(attention(&self.input_layernorm.forward(hidden)), &self.attention_output_norm);
        &hidden + normed(mlp(&self.pre_feedforward_layernorm.forward(&hidden)), &self.feedforward_output_norm)
    }
}

/// Puts a decoder together from its tensors, in the order of the layers.
struct Builder<'a> {
    config: Config,
    weights: Weights<'a>,
    kind: Kind,
    num_stacks: usize,
}

impl Builder<'_> {
    fn decoder(mut self) -> Result<Decoder, Error> {
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let embed_tokens = self.weights.tensor("model.embed_tokens.weight", &[vocab, hidden])?;
        let layers = (0..self.config.num_hidden_layers).map(|layer| self.layer(layer)).collect::<Result<_, _>>()?;
        let norm = self.norm("model.norm", hidden)?;
        // Where a file has both although the configuration ties them, the head's own weight counts, as in transformers 5.
        let tied = self.config.tie_word_embeddings && !self.weights.has("lm_head.weight");
        let lm_head = match tied {
            true => embed_tokens.shallow_clone(),
            false => self.weights.tensor("lm_head.weight", &[vocab, hidden])?,
        };
        self.config.tie_word_embeddings = tied;
        let rotary = Rotary::new(&self.config.rope, self.kind, embed_tokens.device());
        let embed_scale = self.config.family.scaled_embeddings.then(|| rounded((hidden as f64).sqrt(), self.kind));
        let (soft_cap, asked) = (softcap::of(&self.config), AttentionKernel::Auto);
        let kernel = Kernel::of(asked, embed_tokens.device(), self.config.head_dim, soft_cap, self.kind);
        Ok(Decoder {
            kernel: kernel.unwrap_or(Kernel::Chosen),
            config: self.config,
            kind: self.kind,
            embed_tokens,
            embed_scale,
            layers,
            norm,
            lm_head,
            rotary,
        })
    }

    fn layer(&mut self, layer: i64) -> Result<Layer, Error> {
        let prefix = format!("model.layers.{layer}");
        let Config { family, hidden_size, .. } = self.config;
        let mut norm = |name: &str| self.norm(&format!("{prefix}.{name}"), hidden_size);
        let input_layernorm = norm("input_layernorm")?;
        let (attention_output_norm, pre_feedforward_layernorm, feedforward_output_norm) = match family.output_norms {
            true => (
                Some(norm("post_attention_layernorm")?),
                norm("pre_feedforward_layernorm")?,
                Some(norm("post_feedforward_layernorm")?),
            ),
            false => (None, norm("post_attention_layernorm")?, None),
        };
        Ok(Layer {
            input_layernorm,
            self_attn: self.attention(&format!("{prefix}.self_attn"), layer as usize)?,
            attention_output_norm,
            pre_feedforward_layernorm,
            mlp: self.mlp(&format!("{prefix}.mlp"))?,
            feedforward_output_norm,
        })
    }

    fn attention(&mut self, prefix: &str, layer: usize) -> Result<Attention, Error> {
        let Config { family, hidden_size, head_dim, num_attention_heads, num_key_value_heads, .. } = self.config;
        let (query, key_value) = (self.config.query_size(), self.config.key_value_size());
        let apart = [("q_proj", query), ("k_proj", key_value), ("v_proj", key_value)];
        let fused = [("qkv_proj", query + 2 * key_value)];
        let qkv: &[_] = if family.fused_projections { &fused } else { &apart };
        let qkv_proj = self.linear(prefix, qkv, hidden_size, family.qkv_bias)?;
        let o_proj = self.linear(prefix, &[("o_proj", hidden_size)], query, family.o_bias)?;
        let mut head_norm =
            |name: &str| family.qk_norm.then(|| self.norm(&format!("{prefix}.{name}"), head_dim)).transpose();
        let (q_norm, k_norm) = (head_norm("q_norm")?, head_norm("k_norm")?);
        let soft_cap = softcap::of(&self.config);
        let (width, scalar) = (head_dim as f64, self.config.query_pre_attn_scalar);
        Ok(Attention {
            qkv_proj,
            o_proj,
            q_norm,
            k_norm,
            num_heads: num_attention_heads,
            num_key_value_heads,
            head_dim,
            window: self.config.windows[layer],
            uses_rope: self.config.uses_rope[layer],
            query_scale: (scalar != width && soft_cap.is_none()).then(|| (width / scalar).sqrt()),
            soft_cap,
        })
    }

    fn mlp(&mut self, prefix: &str) -> Result<Mlp, Error> {
        let Config { family, hidden_size, intermediate_size, .. } = self.config;
        let apart = [("gate_proj", intermediate_size), ("up_proj", intermediate_size)];
        let fused = [("gate_up_proj", 2 * intermediate_size)];
        let gate_up: &[_] = if family.fused_projections { &fused } else { &apart };
        Ok(Mlp {
            gate_up_proj: self.linear(prefix, gate_up, hidden_size, family.mlp_bias)?,
            down_proj: self.linear(prefix, &[("down_proj", hidden_size)], intermediate_size, family.mlp_bias)?,
            activation: family.activation,
        })
    }

    /// Stacks projections that read the same input.
    fn linear(&mut self, prefix: &str, parts: &[(&str, i64)], inputs: i64, bias: bool) -> Result<Linear, Error> {
        let named = |suffix: &str| -> Vec<(String, i64)> {
            parts.iter().map(|(name, rows)| (format!("{prefix}.{name}.{suffix}"), *rows)).collect()
        };
        let weight = self.weights.stacked(&named("weight"), &[inputs])?;
        let bias = if bias { Some(self.weights.stacked(&named("bias"), &[])?) } else { None };
        let index = self.num_stacks;
        self.num_stacks += 1;
        let info = |(name, rows): &(&str, i64)| LinearInfo {
            path: format!("{prefix}.{name}"),
            in_features: inputs,
            out_features: *rows,
        };
        Ok(Linear { index, parts: parts.iter().map(info).collect(), weight, bias })
    }

    fn norm(&mut self, path: &str, size: i64) -> Result<RmsNorm, Error> {
        let weight = self.weights.tensor(&format!("{path}.weight"), &[size])?;
        Ok(RmsNorm { weight, eps: self.config.rms_norm_eps, plus_one: self.config.family.norm_plus_one })
    }
}

/// The number that is left of `value` in a type.
fn rounded(value: f64, kind: Kind) -> f64 {
    Tensor::from(value as f32).to_kind(kind).double_value(&[])
}

#[cfg(test)]
mod tests;
