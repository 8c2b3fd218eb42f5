//! Attention over packed documents beside the plain formula: values, gradients, and who sees whom.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::random::Random;

const HEADS: i64 = 6;
const KEY_HEADS: i64 = 2;
const DIM: i64 = 4;

fn case(tokens: i64, kind: Kind) -> [Tensor; 3] {
    case_of([HEADS, KEY_HEADS, DIM], tokens, kind)
}

fn case_of([heads, key_heads, dim]: [i64; 3], tokens: i64, kind: Kind) -> [Tensor; 3] {
    let mut random = Random::new(7);
    [heads, key_heads, key_heads]
        .map(|heads| random.values(&[tokens, heads, dim]).to_kind(kind).set_requires_grad(true))
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
    let (heads, dim) = (q.size()[1], q.size()[2]);
    let parts: Vec<Tensor> = lens
        .iter()
        .map(|&len| {
            let of = |x: &Tensor| {
                x.narrow(0, start, len).transpose(0, 1).repeat_interleave_self_int(heads / x.size()[1], Some(0), None)
            };
            let (q, k, v) = (of(q), of(k), of(v));
            start += len;
            let scores = q.matmul(&k.transpose(1, 2)) / (dim as f64).sqrt() + visible(len, window, q.kind());
            scores.softmax(-1, q.kind()).matmul(&v).transpose(0, 1)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

/// Documents of these lengths, end to end.
fn documents(lens: &[i64]) -> Vec<Document> {
    let starts = lens.iter().scan(0, |end, len| {
        *end += len;
        Some(*end - len)
    });
    starts.zip(lens).map(|(start, &len)| Document { start, len, prefix: None }).collect()
}

fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!((got.size(), got.kind()), (want.size(), want.kind()));
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error <= tolerance, "off by {error}");
}

/// The kernel beside the formula: values, and gradients under a slope that differs everywhere.
fn check(sizes: [i64; 3], lens: &[i64], window: Option<i64>, kind: Kind, tolerance: f64) {
    let inputs = case_of(sizes, lens.iter().sum(), kind);
    let wide = inputs.each_ref().map(|x| x.detach().to_kind(Kind::Double).set_requires_grad(true));
    let got = document_attention(&inputs[0], &inputs[1], &inputs[2], &documents(lens), window);
    let want = plain(&wide[0], &wide[1], &wide[2], lens, window);
    let slope = Tensor::arange(want.numel() as i64, (Kind::Double, Device::Cpu)).sin().view_as(&want).to_kind(kind);
    let gradients = |y: &Tensor, inputs: &[Tensor; 3]| {
        Tensor::run_backward(&[(y * &slope.to_kind(y.kind())).sum(y.kind())], inputs, false, false)
    };
    let (got_gradients, want_gradients) = (gradients(&got, &inputs), gradients(&want, &wide));
    for (got, want) in [&got].into_iter().chain(&got_gradients).zip([&want].into_iter().chain(&want_gradients)) {
        assert_eq!((got.size(), got.kind()), (want.size(), kind));
        let error = (got.to_kind(Kind::Double) - want).abs().max().double_value(&[]);
        let size = want.abs().max().double_value(&[]);
        assert!(
            error <= tolerance * size.max(1.0),
            "{sizes:?}, {lens:?}, {window:?}, {kind:?}: off by {error} of {size}"
        );
    }
}

#[test]
fn equals_the_formula_document_by_document_with_all_gradients() {
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::BFloat16, 0.02)] {
        for window in [None, Some(1), Some(3), Some(6), Some(7)] {
            check([HEADS, KEY_HEADS, DIM], &[7, 5, 5, 5, 1], window, kind, tolerance);
        }
    }
}

#[test]
fn tiles_of_any_size_equal_the_formula() {
    // Lengths beside the borders of strips, tiles of queries and tiles of keys; heads that fill no vector, and several.
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        for window in [None, Some(5), Some(70), Some(300)] {
            check([2, 1, 20], &[8, 16, 17, 63, 64, 65, 255, 256, 257, 390], window, kind, tolerance);
            check([1, 1, 128], &[130, 31], window, kind, tolerance);
            check([3, 3, 80], &[33, 100], window, kind, tolerance);
        }
    }
}

#[test]
fn long_documents_whose_heads_are_tasks_of_their_own_equal_the_formula() {
    for window in [None, Some(600)] {
        check([4, 2, 16], &[1030, 3], window, Kind::Float, 1e-5);
        check([2, 1, 8], &[1100], window, Kind::Double, 1e-12);
    }
}

#[test]
fn a_document_gets_the_same_to_the_bit_whatever_is_beside_it() {
    let lens = [40, 300, 9];
    let inputs = case_of([4, 2, 32], lens.iter().sum(), Kind::Float);
    let run = |inputs: &[Tensor; 3], lens: &[i64]| {
        let out = document_attention(&inputs[0], &inputs[1], &inputs[2], &documents(lens), None);
        let gradients = Tensor::run_backward(&[out.square().sum(Kind::Float)], inputs, false, false);
        std::iter::once(out).chain(gradients).collect::<Vec<_>>()
    };
    let whole = run(&inputs, &lens);
    for document in documents(&lens) {
        let cut = |x: &Tensor| x.detach().narrow(0, document.start, document.len);
        let alone = run(&inputs.each_ref().map(|x| cut(x).set_requires_grad(true)), &[document.len]);
        for (whole, alone) in whole.iter().zip(&alone) {
            assert_eq!(&cut(whole), alone);
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let inputs = case(5, Kind::Float).map(|x| x.detach());
    let _ = inputs[0].get(3).fill_(f64::NAN);
    let out = document_attention(&inputs[0], &inputs[1], &inputs[2], &documents(&[5]), None);
    let is_nan: Vec<bool> = (0..5).map(|token| out.get(token).isnan().all().int64_value(&[]) == 1).collect();
    assert_eq!(is_nan, [false, false, false, true, false]);
}

#[test]
fn reads_views_of_one_stacked_projection() {
    let [q, k, v] = case(9, Kind::Float).map(|x| x.detach());
    let flat = Tensor::cat(&[&q, &k, &v].map(|x| x.flatten(1, 2)), 1);
    let cut = |start, heads: i64| flat.narrow(1, start, heads * DIM).view([9, heads, DIM]);
    let views = [cut(0, HEADS), cut(HEADS * DIM, KEY_HEADS), cut((HEADS + KEY_HEADS) * DIM, KEY_HEADS)];
    let documents = documents(&[5, 2, 2]);
    let got = document_attention(&views[0], &views[1], &views[2], &documents, None);
    assert_eq!(got, document_attention(&q, &k, &v, &documents, None));
}

#[test]
#[should_panic(expected = "documents hold 5 tokens, the batch 6")]
fn documents_that_do_not_cover_the_batch_are_told() {
    let [q, k, v] = case(6, Kind::Float);
    let _ = document_attention(&q, &k, &v, &documents(&[5]), None);
}

#[test]
fn a_prefix_counts_as_the_beginning_of_each_document_that_continues_it() {
    // A prompt of 5, two answers of 3 and 4, a document of 2; beside it the same with the prompt in each answer.
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        for window in [None, Some(4)] {
            let shared = case(14, kind);
            let index = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13]);
            let repeated = [0, 1, 2].map(|i| shared[i].index_select(0, &index));
            let of = |start, len, prefix| Document { start, len, prefix };
            let documents = [of(0, 5, None), of(5, 3, Some((0, 5))), of(8, 4, Some((0, 5))), of(12, 2, None)];
            let got = document_attention(&shared[0], &shared[1], &shared[2], &documents, window);
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
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
        for half in [1, 2] {
            let qkv = Tensor::cat(&case(tokens, kind).map(|x| x.detach().flatten(1, 2)), 1).set_requires_grad(true);
            let angles = Tensor::arange(tokens * half, (Kind::Double, Device::Cpu)).view([tokens, half]);
            let (cos, sin) = (angles.cos().to_kind(kind), angles.sin().to_kind(kind));
            let got = rotary_attention(&qkv, (&cos, &sin), (HEADS, KEY_HEADS), &documents(&lens), None);
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
