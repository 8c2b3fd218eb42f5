//! Attention over packed documents beside the plain formula: values, gradients, and who sees whom.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::random::Random;

const HEADS: i64 = 6;
const KEY_HEADS: i64 = 2;
const DIM: i64 = 4;

fn case(tokens: i64, kind: Kind) -> [Tensor; 3] {
    let mut random = Random::new(7);
    [HEADS, KEY_HEADS, KEY_HEADS]
        .map(|heads| random.values(&[tokens, heads, DIM]).to_kind(kind).set_requires_grad(true))
}

/// 0 where i may see j, else minus infinity.
fn visible(len: i64, window: Option<i64>, kind: Kind) -> Tensor {
    let i = Tensor::arange(len, (Kind::Int64, Device::Cpu));
    let distance = i.unsqueeze(1) - i.unsqueeze(0);
    let hidden = distance.lt(0).logical_or(&distance.ge(window.unwrap_or(len)));
    Tensor::zeros([len, len], (kind, Device::Cpu)).masked_fill(&hidden, f64::NEG_INFINITY)
}

/// The formula, one document at a time.
fn plain(q: &Tensor, k: &Tensor, v: &Tensor, lens: &[i64], window: Option<i64>) -> Tensor {
    let mut start = 0;
    let parts: Vec<Tensor> = lens
        .iter()
        .map(|&len| {
            let of = |x: &Tensor| {
                x.narrow(0, start, len).transpose(0, 1).repeat_interleave_self_int(HEADS / x.size()[1], Some(0), None)
            };
            let (q, k, v) = (of(q), of(k), of(v));
            start += len;
            let scores = q.matmul(&k.transpose(1, 2)) / (DIM as f64).sqrt() + visible(len, window, q.kind());
            scores.softmax(-1, q.kind()).matmul(&v).transpose(0, 1)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

fn groups(parts: &[(i64, i64)], window: Option<i64>, kind: Kind) -> Vec<Group> {
    let mut start = 0;
    parts
        .iter()
        .map(|&(count, len)| {
            let mask = window.filter(|window| *window < len).map(|window| visible(len, Some(window), kind));
            let group = Group { start, count, len, prefix: None, mask };
            start += count * len;
            group
        })
        .collect()
}

fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!((got.size(), got.kind()), (want.size(), want.kind()));
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error <= tolerance, "off by {error}");
}

#[test]
fn equals_the_formula_document_by_document_with_all_gradients() {
    let lens = [7, 5, 5, 5, 1];
    let parts = [(1, 7), (3, 5), (1, 1)];
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        for window in [None, Some(3), Some(6), Some(7)] {
            let [q, k, v] = case(lens.iter().sum(), kind);
            let got = document_attention(&q, &k, &v, &groups(&parts, window, kind));
            let want = plain(&q, &k, &v, &lens, window);
            close(&got, &want, tolerance);
            let slope = Tensor::arange(got.numel() as i64, (kind, Device::Cpu)).sin().view_as(&got);
            let gradients = |y: &Tensor| Tensor::run_backward(&[(y * &slope).sum(kind)], &[&q, &k, &v], false, false);
            for (got, want) in gradients(&got).iter().zip(gradients(&want)) {
                close(got, &want, tolerance);
            }
        }
    }
}

#[test]
fn reads_views_of_one_stacked_projection() {
    let [q, k, v] = case(9, Kind::Float).map(|x| x.detach());
    let flat = Tensor::cat(&[&q, &k, &v].map(|x| x.flatten(1, 2)), 1);
    let cut = |start, heads: i64| flat.narrow(1, start, heads * DIM).view([9, heads, DIM]);
    let views = [cut(0, HEADS), cut(HEADS * DIM, KEY_HEADS), cut((HEADS + KEY_HEADS) * DIM, KEY_HEADS)];
    let groups = groups(&[(1, 5), (2, 2)], None, Kind::Float);
    let got = document_attention(&views[0], &views[1], &views[2], &groups);
    assert_eq!(got, document_attention(&q, &k, &v, &groups));
}

#[test]
#[should_panic(expected = "documents hold 5 tokens, the batch 6")]
fn documents_that_do_not_cover_the_batch_are_told() {
    let [q, k, v] = case(6, Kind::Float);
    let _ = document_attention(&q, &k, &v, &groups(&[(1, 5)], None, Kind::Float));
}

#[test]
fn a_prefix_counts_as_the_beginning_of_each_document_that_continues_it() {
    // A prompt of 5, two answers of 3 and 4, a document of 2; beside it the same with the prompt in each answer.
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        for window in [None, Some(4)] {
            let shared = case(14, kind);
            let index = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13]);
            let repeated = [0, 1, 2].map(|i| shared[i].index_select(0, &index));
            let of = |start, len, prefix_len| {
                let all = visible(prefix_len + len, window, kind).narrow(0, prefix_len, len);
                let is_plain = prefix_len == 0 && window.is_none_or(|window| window >= len);
                let prefix = (prefix_len > 0).then_some((0, prefix_len));
                Group { start, count: 1, len, prefix, mask: (!is_plain).then_some(all) }
            };
            let groups = [of(0, 5, 0), of(5, 3, 5), of(8, 4, 5), of(12, 2, 0)];
            let got = document_attention(&shared[0], &shared[1], &shared[2], &groups);
            let want = plain(&repeated[0], &repeated[1], &repeated[2], &[8, 9, 2], window);
            let rows = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 7, 13, 14, 15, 16, 17, 18]);
            let want = want.index_select(0, &rows);
            close(&got, &want, tolerance);
            let slope = Tensor::arange(got.numel() as i64, (kind, Device::Cpu)).sin().view_as(&got);
            let gradients = |y: &Tensor| Tensor::run_backward(&[(y * &slope).sum(kind)], &shared, false, false);
            for (got, want) in gradients(&got).iter().zip(gradients(&want)) {
                close(got, &want, tolerance);
            }
        }
    }
}

/// The first R of D dimensions turned, halves against each other.
fn turned(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let half = cos.size()[1];
    let parts = x.split_with_sizes([half, half, DIM - 2 * half], -1);
    let (cos, sin) = (cos.unsqueeze(1), sin.unsqueeze(1));
    Tensor::cat(&[&parts[0] * &cos - &parts[1] * &sin, &parts[1] * &cos + &parts[0] * &sin, parts[2].copy()], -1)
}

#[test]
fn from_the_stacked_projection_on_it_is_rotation_then_attention() {
    let lens = [3, 2, 2, 5];
    let tokens = lens.iter().sum();
    let groups = [(0, 1, 3), (3, 2, 2), (7, 1, 5)];
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
        for half in [1, 2] {
            let qkv = Tensor::cat(&case(tokens, kind).map(|x| x.detach().flatten(1, 2)), 1).set_requires_grad(true);
            let angles = Tensor::arange(tokens * half, (Kind::Double, Device::Cpu)).view([tokens, half]);
            let (cos, sin) = (angles.cos().to_kind(kind), angles.sin().to_kind(kind));
            let groups = groups.map(|(start, count, len)| Group { start, count, len, prefix: None, mask: None });
            let got = rotary_attention(&qkv, (&cos, &sin), HEADS, KEY_HEADS, &groups);
            let parts = qkv.split_with_sizes([HEADS * DIM, KEY_HEADS * DIM, KEY_HEADS * DIM], 1);
            let heads = |x: &Tensor| x.view([tokens, -1, DIM]);
            let (q, k) = (turned(&heads(&parts[0]), &cos, &sin), turned(&heads(&parts[1]), &cos, &sin));
            let want = plain(&q, &k, &heads(&parts[2]), &lens, None);
            let slope = Tensor::arange(want.numel() as i64, (Kind::Double, Device::Cpu)).sin().view_as(&want);
            let gradient = |y: &Tensor| Tensor::run_backward(&[(y * &slope).sum(Kind::Double)], &[&qkv], true, false);
            for (got, want) in [(&got, &want), (&gradient(&got)[0], &gradient(&want)[0])] {
                let error = (got - want).abs().max().double_value(&[]);
                let size = want.abs().max().double_value(&[]);
                assert!(error <= tolerance * size, "{kind:?}, {half} pairs: off by {error} of {size}");
            }
        }
    }
}
