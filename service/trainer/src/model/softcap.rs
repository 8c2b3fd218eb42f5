//! Attention with bounded scores (Gemma 2, arXiv:2408.00118) over packed documents, run by run.
//!
//! Flash kernels do not bound scores, so this way is beside theirs. Shapes as in `attention`.

use hone_ops::SoftCap;
use tch::Tensor;

use super::batch::Run;
use super::config::Config;

/// Most bytes of the scores that exist at once; a few tensors of this size live side by side.
const TILE_BYTES: i64 = 64 << 20;

/// The bound of a model's scores, if they have one.
pub(super) fn of(config: &Config) -> Option<SoftCap> {
    config.attn_logit_softcapping.map(|cap| SoftCap { scale: config.score_scale(), cap })
}

/// `q [T, H, D]`, `k` and `v [T, K, D]` -> `[T, H, D]`
pub(super) fn attend(cap: SoftCap, runs: &[Run], q: &Tensor, k: &Tensor, v: &Tensor, window: Option<i64>) -> Tensor {
    let sizes: Vec<i64> = runs.iter().map(|run| run.count * run.len).collect();
    // Splitting all at once has one backward step; a slice for each run would have one as wide as the batch each.
    let [queries, keys, values] = [q, k, v].map(|x| x.split_with_sizes(&sizes, 0));
    let parts: Vec<Tensor> = runs
        .iter()
        .enumerate()
        .map(|(i, run)| {
            let of = |x: &Tensor| x.view([run.count, -1, x.size()[1], x.size()[2]]);
            let seen = |all: &Tensor, own: &Tensor| match run.prefix {
                Some((start, len)) => of(&Tensor::cat(&[&all.narrow(0, start, len), own], 0)),
                None => of(own),
            };
            documents(cap, &of(&queries[i]), &seen(k, &keys[i]), &seen(v, &values[i]), window).flatten(0, 1)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

/// `q [T, H, D]` of a text's newest tokens over `k` and `v [past + T, K, D]` of all -> `[T, H, D]`
pub(super) fn attend_cached(cap: SoftCap, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<i64>) -> Tensor {
    documents(cap, &q.unsqueeze(0), &k.unsqueeze(0), &v.unsqueeze(0), window).squeeze_dim(0)
}

/// `q [N, L, H, D]` over `k` and `v [N, past + L, K, D]`
fn documents(cap: SoftCap, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<i64>) -> Tensor {
    let (size, keys) = (q.size(), k.size()[1]);
    let tile = (TILE_BYTES / (4 * size[0] * size[2] * keys)).clamp(1, size[1]);
    hone_ops::capped_attention(q, k, v, cap, window, tile)
}
