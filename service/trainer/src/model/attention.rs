//! Self-attention with shared key heads, rotation and, in some families, norms of queries and keys.
//!
//! Tensor shapes: T tokens of all documents, L tokens of one, H query heads, K key/value heads, D head dim, E hidden size.
//! A document never sees another. What depends on the documents alone is prepared once a pass, in [`Sight`].

use hone_job::spec::AttentionKernel;
use hone_ops::{Document, SoftCap};
use tch::{Device, Kind, Tensor};

use super::batch::{Batch, Run};
use super::cache::Continuation;
use super::linear::{Linear, Pass};
use super::norm::RmsNorm;
use super::rope::Tables;
use super::softcap;

#[derive(Debug)]
pub(super) struct Attention {
    /// Query, key and value projection, stacked: `[(H + 2 K) D, E]`.
    pub(super) qkv_proj: Linear,
    pub(super) o_proj: Linear,
    pub(super) q_norm: Option<RmsNorm>,
    pub(super) k_norm: Option<RmsNorm>,
    pub(super) num_heads: i64,
    pub(super) num_key_value_heads: i64,
    pub(super) head_dim: i64,
    /// Token i sees j only when `j > i - window`.
    pub(super) window: Option<i64>,
    /// Whether queries and keys are rotated.
    pub(super) uses_rope: bool,
    /// What queries are multiplied by where scores are not scaled by 1/√D, as kernels do; none under a soft cap.
    pub(super) query_scale: Option<f64>,
    pub(super) soft_cap: Option<SoftCap>,
}

impl Attention {
    /// `x [T, E]` -> `[T, E]`
    pub(super) fn forward(&self, x: &Tensor, pass: Pass<'_>, tables: &Tables, sight: &Sight<'_>) -> Tensor {
        let qkv = self.qkv_proj.forward(x, pass);
        let out = match sight.documents().filter(|_| self.is_plain()) {
            Some(documents) => {
                let (angles, heads) = ((&tables.cos, &tables.sin), (self.num_heads, self.num_key_value_heads));
                hone_ops::rotary_attention(&qkv, angles, heads, documents, self.window)
            }
            None => {
                let (q, k, v) = self.heads(&qkv, tables);
                sight.attend(&q, &k, &v, self.window)
            }
        };
        self.o_proj.forward(&out.flatten(1, 2), pass)
    }

    /// The same for texts that continue after the tokens in their caches, without gradient; `layer` is this one's number.
    pub(super) fn forward_cached(
        &self,
        x: &Tensor,
        pass: Pass<'_>,
        tables: &Tables,
        layer: usize,
        texts: &mut [Continuation<'_>],
    ) -> Tensor {
        let (q, k, v) = self.heads(&self.qkv_proj.forward(x, pass), tables);
        let mut start = 0;
        let attend = |text: &mut Continuation<'_>| {
            let places = text.places();
            let tokens = places.end - places.start;
            let [q, k, v] = [&q, &k, &v].map(|heads| heads.narrow(0, start, tokens));
            start += tokens;
            let (keys, values) = text.cache.layers[layer].extend(&k, &v, places.start);
            self.attend_cached(&q, &keys, &values, places.start)
        };
        let out = Tensor::cat(&texts.iter_mut().map(attend).collect::<Vec<_>>(), 0);
        self.o_proj.forward(&out.flatten(1, 2), pass)
    }

    /// Whether queries and keys are rotated, and nothing else happens to them before they meet.
    fn is_plain(&self) -> bool {
        self.uses_rope && self.q_norm.is_none() && self.k_norm.is_none() && self.query_scale.is_none()
    }

    /// Queries `[T, H, D]` and keys, rotated where the layer rotates, and values `[T, K, D]`.
    fn heads(&self, qkv: &Tensor, tables: &Tables) -> (Tensor, Tensor, Tensor) {
        let (q_size, kv_size) = (self.num_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let qkv = qkv.split_with_sizes([q_size, kv_size, kv_size], 1);
        let head = |x: &Tensor| x.view([x.size()[0], -1, self.head_dim]);
        let norm = |x: Tensor, norm: &Option<RmsNorm>| norm.as_ref().map_or(x.shallow_clone(), |norm| norm.forward(&x));
        let rotate = |x: Tensor| if self.uses_rope { tables.rotate(&x) } else { x };
        let q = rotate(norm(head(&qkv[0]), &self.q_norm));
        let q = self.query_scale.map_or(q.shallow_clone(), |scale| &q * scale);
        (q, rotate(norm(head(&qkv[1]), &self.k_norm)), head(&qkv[2]))
    }

    /// `q [T, H, D]` of the newest tokens over `k`, `v [past + T, K, D]`.
    fn attend_cached(&self, q: &Tensor, k: &Tensor, v: &Tensor, past: i64) -> Tensor {
        if let Some(cap) = self.soft_cap {
            return softcap::attend_cached(cap, q, k, v, self.window);
        }
        let (tokens, total) = (q.size()[0], k.size()[0]);
        // A single token sees everything in its window: no mask, and keys before the window are not read.
        let first = match self.window {
            Some(window) if tokens == 1 => (total - window).max(0),
            _ => 0,
        };
        let (k, v) = (k.narrow(0, first, total - first), v.narrow(0, first, total - first));
        let mask = (tokens > 1).then(|| visible(tokens, past, self.window, q.kind(), q.device()));
        // Query heads that share a key head become rows of one query.
        let repeats = self.num_heads / self.num_key_value_heads;
        let rows = q.view([tokens, self.num_key_value_heads, repeats, self.head_dim]).permute([1, 2, 0, 3]);
        let rows = rows.reshape([1, self.num_key_value_heads, repeats * tokens, self.head_dim]);
        let mask = mask.map(|mask| mask.repeat([repeats, 1]));
        let (k, v) = (k.transpose(0, 1).unsqueeze(0), v.transpose(0, 1).unsqueeze(0));
        let out = Tensor::scaled_dot_product_attention(&rows, &k, &v, mask.as_ref(), 0.0, false, None, false);
        out.view([self.num_key_value_heads, repeats, tokens, self.head_dim]).permute([2, 0, 1, 3]).reshape([
            tokens,
            self.num_heads,
            self.head_dim,
        ])
    }
}

/// How scores become an output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kernel {
    /// One variable-length flash call: CUDA, half precision.
    VarlenFlash,
    /// Our own flash kernel, document by document: CPU, but for float16.
    CpuFlash,
    /// LibTorch's memory-efficient kernel, run by run: CUDA.
    Efficient,
    /// LibTorch's own choice of kernel, run by run: CUDA in float32, and float16 on the CPU.
    Chosen,
    /// The plain formula, run by run.
    Math,
    /// Bounded scores, in tiles.
    SoftCapped(SoftCap),
}

/// The flash kernel of CUDA takes no wider heads.
const FLASH_MAX_HEAD_DIM: i64 = 256;

impl Kernel {
    /// What is asked for, where the device has it. A model that bounds its scores takes its own kernel whatever is asked.
    pub(super) fn of(
        asked: AttentionKernel,
        device: Device,
        head_dim: i64,
        soft_cap: Option<SoftCap>,
        kind: Kind,
    ) -> Option<Kernel> {
        let is_half = matches!(kind, Kind::Half | Kind::BFloat16);
        let has_varlen_flash = is_half && head_dim % 8 == 0 && head_dim <= FLASH_MAX_HEAD_DIM;
        let flash = match device {
            Device::Cpu => hone_ops::has_loops(device, kind).then_some(Kernel::CpuFlash),
            _ => has_varlen_flash.then_some(Kernel::VarlenFlash),
        };
        match (soft_cap, asked) {
            (Some(cap), _) => Some(Kernel::SoftCapped(cap)),
            (None, AttentionKernel::Auto) => flash.or(Some(Kernel::Chosen)),
            (None, AttentionKernel::Flash) => flash,
            (None, AttentionKernel::Efficient) => device.is_cuda().then_some(Kernel::Efficient),
            (None, AttentionKernel::Math) => Some(Kernel::Math),
        }
    }

    /// Its name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kernel::VarlenFlash => "flash_varlen",
            Kernel::CpuFlash => "flash_cpu",
            Kernel::Efficient => "efficient",
            Kernel::Chosen => "sdpa",
            Kernel::Math => "math",
            Kernel::SoftCapped(_) => "soft_capped",
        }
    }
}

/// Who sees whom in a batch, in the form that the kernel wants.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    batch: &'a Batch,
    kernel: Kernel,
    /// What the flash kernel of the CPU takes.
    documents: Vec<Document>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(batch: &'a Batch, kernel: Kernel) -> Sight<'a> {
        let documents = match kernel {
            Kernel::CpuFlash => batch.documents().collect(),
            _ => Vec::new(),
        };
        Sight { batch, kernel, documents }
    }

    /// What the flash kernel of the CPU takes, where that is the way.
    fn documents(&self) -> Option<&[Document]> {
        (self.kernel == Kernel::CpuFlash).then_some(&self.documents)
    }

    /// `q [T, H, D]`, `k` and `v [T, K, D]` -> `[T, H, D]`
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<i64>) -> Tensor {
        match self.kernel {
            Kernel::VarlenFlash => flash(self.batch, q, k, v, window),
            Kernel::CpuFlash => hone_ops::document_attention(q, k, v, &self.documents, window),
            Kernel::Efficient => run_by_run(self.batch, q, k, v, window, |q, k, v, mask, is_causal| {
                let repeated = |x: &Tensor| x.repeat_interleave_self_int(q.size()[1] / x.size()[1], Some(1), None);
                hone_ops::efficient_attention(q, &repeated(k), &repeated(v), mask, is_causal)
            }),
            Kernel::Chosen => run_by_run(self.batch, q, k, v, window, |q, k, v, mask, is_causal| {
                Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, None, true)
            }),
            Kernel::Math => run_by_run(self.batch, q, k, v, window, |q, k, v, mask, is_causal| {
                let none = None::<&Tensor>;
                Tensor::internal_scaled_dot_product_attention_math(q, k, v, mask, 0.0, is_causal, none, None, true).0
            }),
            Kernel::SoftCapped(cap) => softcap::attend(cap, &self.batch.runs, q, k, v, window),
        }
    }
}

/// The mask of a run that causality alone does not tell: of a segment after a prefix, or of one longer than the window.
fn mask(run: &Run, window: Option<i64>, kind: Kind, device: Device) -> Option<Tensor> {
    let past = run.prefix.map_or(0, |(_, len)| len);
    let is_plain = past == 0 && window.is_none_or(|window| window >= run.len);
    (!is_plain).then(|| visible(run.len, past, window, kind, device))
}

/// One call of the flash kernel of CUDA over all segments.
fn flash(batch: &Batch, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<i64>) -> Tensor {
    let queries = (&batch.starts, batch.longest);
    match &batch.keys {
        None => hone_ops::varlen_flash(q, k, v, queries, queries, window),
        // The keys of a prefix are gathered for each segment that continues it; their gradients add up again.
        Some(keys) => {
            let (k, v) = (k.index_select(0, &keys.index), v.index_select(0, &keys.index));
            hone_ops::varlen_flash(q, &k, &v, queries, (&keys.starts, keys.longest), window)
        }
    }
}

/// What each of `tokens` tokens after `past` others adds to its scores: 0 where it sees, minus infinity elsewhere.
/// `[tokens, past + tokens]`
fn visible(tokens: i64, past: i64, window: Option<i64>, kind: Kind, device: Device) -> Tensor {
    let places = |from: i64, to: i64| Tensor::arange_start(from, to, (Kind::Int64, device));
    let distance = places(past, past + tokens).unsqueeze(1) - places(0, past + tokens).unsqueeze(0);
    let unseen = distance.lt(0).logical_or(&distance.ge(window.unwrap_or(past + tokens)));
    Tensor::zeros([tokens, past + tokens], (kind, device)).masked_fill(&unseen, f64::NEG_INFINITY)
}

/// Attention of each run of documents by itself: `attend` is given `[N, H, L, D]` and what to add to the scores, or else that
/// they are causal.
fn run_by_run(
    batch: &Batch,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    window: Option<i64>,
    attend: impl Fn(&Tensor, &Tensor, &Tensor, Option<&Tensor>, bool) -> Tensor,
) -> Tensor {
    let sizes: Vec<i64> = batch.runs.iter().map(|run| run.count * run.len).collect();
    // Splitting all at once has one backward step; a slice for each run would have one as wide as the batch each.
    let queries = q.split_with_sizes(&sizes, 0);
    let [keys, values] = [k, v].map(|x| x.split_with_sizes(&sizes, 0));
    let parts: Vec<Tensor> = batch
        .runs
        .iter()
        .enumerate()
        .map(|(i, run)| {
            let heads = |x: &Tensor| x.view([run.count, -1, x.size()[1], x.size()[2]]).transpose(1, 2);
            let seen = |all: &Tensor, own: &Tensor| match run.prefix {
                Some((start, len)) => heads(&Tensor::cat(&[&all.narrow(0, start, len), own], 0)),
                None => heads(own),
            };
            let (q, k, v) = (heads(&queries[i]), seen(k, &keys[i]), seen(v, &values[i]));
            let mask = mask(run, window, q.kind(), q.device());
            let causal = mask.is_none();
            attend(&q, &k, &v, mask.as_ref(), causal).transpose(1, 2).flatten(0, 1)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_gives_the_same() {
        let batch = Batch::new(&[0; 10], &[0; 10], &[4, 2, 2, 2], Device::Cpu);
        let rand = |heads: i64, seed| crate::model::tiny::random(&[10, heads, 8], seed) * 3.0;
        let (q, k, v) = (rand(4, 1), rand(2, 2), rand(2, 3));
        for window in [None, Some(3)] {
            let [flash, chosen, math] = [Kernel::CpuFlash, Kernel::Chosen, Kernel::Math]
                .map(|kernel| Sight::new(&batch, kernel).attend(&q, &k, &v, window));
            assert!(flash.allclose(&math, 1e-5, 1e-6, false) && chosen.allclose(&math, 1e-5, 1e-6, false));
        }
    }

    #[test]
    fn a_kernel_is_taken_where_the_device_has_it() {
        let of = |asked, device, head_dim, kind| {
            Kernel::of(asked, device, head_dim, None, kind).map_or("none", Kernel::name)
        };
        let gpu = Device::Cuda(0);
        assert_eq!(of(AttentionKernel::Auto, Device::Cpu, 64, Kind::Float), "flash_cpu");
        assert_eq!(of(AttentionKernel::Auto, Device::Cpu, 64, Kind::Half), "sdpa");
        assert_eq!(of(AttentionKernel::Math, Device::Cpu, 64, Kind::Float), "math");
        assert_eq!(of(AttentionKernel::Efficient, Device::Cpu, 64, Kind::Float), "none");
        assert_eq!(of(AttentionKernel::Efficient, gpu, 64, Kind::Float), "efficient");
        assert_eq!(of(AttentionKernel::Auto, gpu, 64, Kind::BFloat16), "flash_varlen");
        assert_eq!(of(AttentionKernel::Auto, gpu, 64, Kind::Float), "sdpa");
        assert_eq!(of(AttentionKernel::Flash, gpu, 64, Kind::Float), "none");
        assert_eq!(of(AttentionKernel::Flash, gpu, 264, Kind::BFloat16), "none");
        let cap = Some(SoftCap { scale: 0.1, cap: 50.0 });
        let capped = Kernel::of(AttentionKernel::Math, Device::Cpu, 64, cap, Kind::Float);
        assert_eq!(capped.map_or("none", Kernel::name), "soft_capped");
    }
}
