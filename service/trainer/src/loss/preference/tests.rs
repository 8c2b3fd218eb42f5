//! Every loss beside TRL's own code on the same log-probabilities (tests/fixtures/dpo/losses.json), with gradients; and what
//! differs there, or has a trainer of its own, beside its formula.

use hone_job::spec::{Reference, WeightedLoss};
use serde_json::Value;
use tch::Device;

use super::*;
use crate::loss::TokenLosses;

/// float32 sums of a few numbers, then steep functions.
const TOLERANCE: f64 = 2e-5;

struct Golden {
    documents: Vec<usize>,
    logps: Tensor,
    log_sum_sq: Tensor,
    reference: [Tensor; 2],
    cases: Vec<Value>,
}

fn golden() -> Golden {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dpo/losses.json");
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = |name: &str| -> Vec<Vec<f32>> { serde_json::from_value(json[name].clone()).unwrap() };
    let flat = |name: &str| Tensor::from_slice(&rows(name).concat());
    let side = |side: usize| column(rows("reference").iter().map(|pair| pair[side]), Device::Cpu);
    let lens = rows("logps");
    Golden {
        documents: lens.iter().enumerate().flat_map(|(document, row)| vec![document; row.len()]).collect(),
        logps: flat("logps"),
        log_sum_sq: flat("log_sum_sq"),
        reference: [side(0), side(1)],
        cases: json["cases"].as_array().unwrap().clone(),
    }
}

fn kind(name: &str) -> PreferenceLoss {
    PreferenceLoss::ALL.into_iter().find(|kind| kind.name() == name).unwrap()
}

fn preference(case: &Value) -> Preference {
    let names = case["losses"].as_array().unwrap().iter();
    let weight = |index: usize| case["weights"][index].as_f64().unwrap_or(1.0);
    let losses = names
        .enumerate()
        .map(|(index, name)| WeightedLoss { kind: kind(name.as_str().unwrap()), weight: weight(index) })
        .collect();
    Preference {
        beta: case["beta"].as_f64().unwrap(),
        label_smoothing: case["label_smoothing"].as_f64().unwrap(),
        divergence: match case["divergence"].as_str() {
            None => Divergence::ReverseKl,
            Some("forward_kl") => Divergence::ForwardKl,
            Some("js_divergence") => Divergence::JensenShannon,
            Some("alpha_divergence") => Divergence::Alpha(0.5),
            Some(other) => panic!("{other}"),
        },
        length_alpha: case["ld_alpha"].as_f64().unwrap_or(1.0),
        use_weighting: case["use_weighting"].as_bool().unwrap_or(false),
        simpo_gamma: case["simpo_gamma"].as_f64().unwrap_or(0.5),
        reference: Reference::Initial,
        ..Preference::with(losses)
    }
}

impl Golden {
    fn scores(&self, logps: &Tensor, preference: &Preference) -> AnswerScores {
        let losses = TokenLosses { nll: logps.neg(), correct: logps.detach().ge(0.0) };
        let log_sum_sq = preference.use_weighting.then_some(&self.log_sum_sq);
        let num_documents = self.documents.last().unwrap() + 1;
        AnswerScores::of_tokens(&losses, &self.documents, num_documents, log_sum_sq, preference)
    }

    fn pairs<'a>(&self, scores: &'a AnswerScores) -> Pairs<'a> {
        Pairs { scores, reference: self.reference.each_ref().map(Tensor::shallow_clone), matching: None }
    }
}

/// The loss of a step of these pairs.
fn whole(preference: &Preference, pairs: &Pairs<'_>) -> Tensor {
    let nll = pairs.scores.chosen_nll.sum(Kind::Float) / pairs.scores.tokens[0].sum(Kind::Float);
    pair_losses(preference, pairs).mean(Kind::Float) + nll * nll_weight(preference)
}

fn close(what: &str, got: f64, want: f64) {
    assert!((got - want).abs() <= TOLERANCE * (1.0 + want.abs()), "{what}: {got}, expected {want}");
}

#[test]
fn every_loss_and_its_gradient_equal_trl() {
    let golden = golden();
    let mut seen = std::collections::BTreeSet::new();
    for case in &golden.cases {
        let name = format!("{}", case["losses"]);
        let preference = preference(case);
        let logps = golden.logps.copy().set_requires_grad(true);
        let scores = golden.scores(&logps, &preference);
        let pairs = golden.pairs(&scores);
        let loss = whole(&preference, &pairs);
        close(&name, loss.double_value(&[]), case["loss"].as_f64().unwrap());
        let gradient = Tensor::run_backward(&[&loss], &[&logps], false, false).remove(0);
        let want: Vec<Vec<f64>> = serde_json::from_value(case["gradient"].clone()).unwrap();
        for (index, want) in want.concat().into_iter().enumerate() {
            close(&format!("{case}: gradient {index}"), gradient.double_value(&[index as i64]), want);
        }
        let [chosen, rejected] = rewards(&preference, &pairs);
        close(&name, chosen.mean(Kind::Float).double_value(&[]), case["rewards"]["rewards/chosen"].as_f64().unwrap());
        close(
            &name,
            rejected.mean(Kind::Float).double_value(&[]),
            case["rewards"]["rewards/rejected"].as_f64().unwrap(),
        );
        seen.extend(preference.losses.iter().map(|loss| loss.kind.name()));
    }
    assert_eq!(seen.len(), PreferenceLoss::ALL.len());
}

fn only(kind: PreferenceLoss) -> Preference {
    Preference::with(vec![WeightedLoss { kind, weight: 1.0 }])
}

#[test]
fn cdpo_orpo_and_simpo_equal_their_formulas() {
    let golden = golden();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let check = |preference: Preference, formula: &dyn Fn([f64; 2], [f64; 2], [f64; 2]) -> f64| {
        let scores = golden.scores(&golden.logps, &preference);
        let losses = pair_losses(&preference, &golden.pairs(&scores));
        for pair in 0..4 {
            let at = |sides: &[Tensor; 2]| sides.each_ref().map(|side| side.double_value(&[pair]));
            let want = formula(at(&scores.logps), at(&golden.reference), at(&scores.tokens));
            close(preference.losses[0].kind.name(), losses.double_value(&[pair]), want);
        }
    };
    check(Preference { label_smoothing: 0.2, ..only(PreferenceLoss::Sigmoid) }, &|logps, reference, _| {
        let margin = 0.1 * (logps[0] - reference[0] - logps[1] + reference[1]);
        -0.8 * sigmoid(margin).ln() - 0.2 * sigmoid(-margin).ln()
    });
    check(only(PreferenceLoss::Simpo), &|logps, _, tokens| {
        -sigmoid(2.0 * (logps[0] / tokens[0] - logps[1] / tokens[1]) - 0.5).ln()
    });
    check(only(PreferenceLoss::Orpo), &|logps, _, tokens| {
        let odds = |side: usize| {
            let p = (logps[side] / tokens[side]).exp();
            p / (1.0 - p)
        };
        -0.1 * sigmoid((odds(0) / odds(1)).ln()).ln()
    });
    assert_eq!(nll_weight(&only(PreferenceLoss::Orpo)), 1.0);
}

/// TRL 1.16 fails there: it writes into a tensor that it has expanded.
#[test]
fn weights_of_pairs_leave_the_likelihood_alone() {
    let golden = golden();
    let loss = |use_weighting| {
        let preference = Preference { use_weighting, ..only(PreferenceLoss::Sft) };
        let scores = golden.scores(&golden.logps, &preference);
        assert_eq!(scores.weights.is_some(), use_weighting);
        whole(&preference, &golden.pairs(&scores)).double_value(&[])
    };
    assert_eq!(loss(true), loss(false));
}

#[test]
fn the_odds_ratio_is_finite_at_both_ends() {
    let x = Tensor::from_slice(&[-0.0f32, -1e-8, -1e-3, -0.5, -0.7, -5.0, -100.0]).set_requires_grad(true);
    let got = log1m_exp(&x);
    let gradient = Tensor::run_backward(&[got.sum(Kind::Float)], &[&x], false, false).remove(0);
    assert!(got.isfinite().all().int64_value(&[]) == 1 && gradient.isfinite().all().int64_value(&[]) == 1);
    for (index, x) in [(2, -1e-3f64), (3, -0.5), (4, -0.7), (5, -5.0)] {
        close("log1m_exp", got.double_value(&[index]), (1.0 - x.exp()).ln());
    }
}

#[test]
fn sorted_losses_do_not_depend_on_how_pairs_are_cut_into_micro_batches() {
    let golden = golden();
    for kind in [PreferenceLoss::Aot, PreferenceLoss::AotUnpaired] {
        let preference = only(kind);
        let logps = golden.logps.copy().set_requires_grad(true);
        let scores = golden.scores(&logps, &preference);
        let together = pair_losses(&preference, &golden.pairs(&scores)).sum(Kind::Float);
        let gradient = |loss: &Tensor| Tensor::run_backward(&[loss], &[&logps], true, false).remove(0);
        let want = gradient(&together);
        let matching = Matching::new(&scores.logps, &golden.reference);
        let mut sum = Tensor::zeros([], (Kind::Float, Device::Cpu));
        for part in [[0i64, 2], [3, 1]] {
            let index = Tensor::from_slice(&part);
            let of = |x: &Tensor| x.index_select(0, &index);
            let some = AnswerScores {
                logps: scores.logps.each_ref().map(of),
                chosen_nll: of(&scores.chosen_nll),
                tokens: scores.tokens.each_ref().map(of),
                chosen_correct: of(&scores.chosen_correct),
                weights: None,
            };
            let matching = Some(matching.select(&index));
            let pairs = Pairs { scores: &some, reference: golden.reference.each_ref().map(of), matching };
            sum += pair_losses(&preference, &pairs).sum(Kind::Float);
        }
        close(kind.name(), sum.double_value(&[]), together.double_value(&[]));
        assert!(gradient(&sum).allclose(&want, 1e-5, 1e-6, false), "{kind:?}");
    }
}
