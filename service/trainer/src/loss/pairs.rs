//! What a policy says about pairs: log-probabilities of the answers of a micro-batch, summed document by document.
//!
//! Tensor shapes: N targets, D documents, P pairs; the documents of pair p are 2p, the chosen, and 2p + 1.

use hone_data::pack::MicroBatch;
use hone_job::spec::Preference;
use tch::{Kind, Tensor};

use super::{Targets, TokenLosses, tile_of, token_losses};
use crate::model::{Adapter, Batch, Decoder, TrainingOptions, TrainingPass};

/// Sums over the answers of P pairs. Each pair of tensors is the chosen side, then the rejected.
#[derive(Debug)]
pub struct AnswerScores {
    /// Log-probability of the answer, tokens past the length of the shorter one weighted with length_alpha. float32 `[P]`, with
    /// a gradient to the adapter.
    pub logps: [Tensor; 2],
    /// Negative log-likelihood of the chosen answer, all tokens alike, with gradient. float32 `[P]`
    pub chosen_nll: Tensor,
    /// Tokens of each answer. float32 `[P]`
    pub tokens: [Tensor; 2],
    /// Tokens of the chosen answer that the policy ranks first. float32 `[P]`
    pub chosen_correct: Tensor,
    /// Weight of each pair with use_weighting, else none: how likely the policy is to write such answers (WPO,
    /// arXiv 2406.11827, equation 2). float32 `[P]`
    pub weights: Option<Tensor>,
}

impl AnswerScores {
    /// Passes a micro-batch of pairs through the policy.
    pub fn new(
        model: &Decoder,
        adapter: Option<&Adapter>,
        batch: &MicroBatch,
        dropout_seed: Option<u64>,
        preference: &Preference,
    ) -> AnswerScores {
        let hidden = model.forward(&Batch::of(batch, model.device()), adapter, dropout_seed);
        Self::of_hidden(model, adapter, &hidden, batch, preference)
    }

    /// The same with the way back: after the loss's own backward pass comes that of the pass.
    pub fn to_train<'a>(
        model: &'a Decoder,
        options: TrainingOptions<'a>,
        batch: &MicroBatch,
        preference: &Preference,
    ) -> (AnswerScores, TrainingPass<'a>) {
        let pass = model.forward_to_train(Batch::of(batch, model.device()), options);
        (Self::of_hidden(model, options.adapter, pass.hidden(), batch, preference), pass)
    }

    fn of_hidden(
        model: &Decoder,
        adapter: Option<&Adapter>,
        hidden: &Tensor,
        batch: &MicroBatch,
        preference: &Preference,
    ) -> AnswerScores {
        let targets = Targets::new(batch, model.device());
        let losses = token_losses(model, adapter, hidden, &targets);
        let log_sum_sq =
            preference.use_weighting.then(|| tch::no_grad(|| log_sum_sq_probs(model, adapter, hidden, &targets)));
        Self::of_tokens(&losses, targets.documents(), batch.examples.len(), log_sum_sq.as_ref(), preference)
    }

    /// The sums over the targets, of which each belongs to one of `num_documents`. `log_sum_sq` is `log Σ p²` at each target,
    /// there with use_weighting.
    pub(super) fn of_tokens(
        losses: &TokenLosses,
        documents: &[usize],
        num_documents: usize,
        log_sum_sq: Option<&Tensor>,
        preference: &Preference,
    ) -> AnswerScores {
        let device = losses.nll.device();
        let places: Vec<i64> = documents.iter().map(|&document| document as i64).collect();
        let index = Tensor::from_slice(&places).to_device(device);
        let sides = |per_token: &Tensor| {
            let zeros = Tensor::zeros([num_documents as i64], (Kind::Float, device));
            let pairs = zeros.index_add(0, &index, &per_token.to_kind(Kind::Float)).view([-1, 2]);
            [0, 1].map(|side| pairs.select(1, side))
        };
        let tokens = sides(&losses.nll.detach().ones_like());
        let nll = sides(&losses.nll);
        let logps = match preference.length_alpha {
            1.0 => nll.each_ref().map(Tensor::neg),
            alpha => {
                let weights = Tensor::from_slice(&length_weights(documents, alpha as f32)).to_device(device);
                sides(&(&losses.nll * weights)).map(|sum| sum.neg())
            }
        };
        let weights = log_sum_sq.map(|log_sum_sq| {
            let aligned = sides(&(losses.nll.detach().neg() - log_sum_sq));
            let mean = |side: usize| &aligned[side] / tokens[side].clamp_min(1.0);
            (mean(0) + mean(1)).exp()
        });
        let [chosen_correct, _] = sides(&losses.correct);
        let [chosen_nll, _] = nll;
        AnswerScores { logps, chosen_nll, tokens, chosen_correct, weights }
    }

    /// The scores of several micro-batches in one, in the order of the packed examples.
    pub fn joined(parts: &[AnswerScores], micro_batches: &[MicroBatch]) -> AnswerScores {
        let order = Tensor::cat(&micro_batches.iter().map(places).collect::<Vec<_>>(), 0).argsort(0, false);
        let join = |of: &dyn Fn(&AnswerScores) -> &Tensor| {
            let whole = Tensor::cat(&parts.iter().map(of).collect::<Vec<_>>(), 0);
            whole.index_select(0, &order.to_device(whole.device()))
        };
        let sides = |of: fn(&AnswerScores) -> &[Tensor; 2]| [0, 1].map(|side| join(&|scores| &of(scores)[side]));
        let are_weighted = parts.iter().all(|scores| scores.weights.is_some());
        AnswerScores {
            logps: sides(|scores| &scores.logps),
            chosen_nll: join(&|scores| &scores.chosen_nll),
            tokens: sides(|scores| &scores.tokens),
            chosen_correct: join(&|scores| &scores.chosen_correct),
            weights: are_weighted.then(|| join(&|scores| scores.weights.as_ref().expect("all have weights"))),
        }
    }
}

/// For each pair of a micro-batch its place among the packed examples. int64 `[P]`, on the CPU
pub fn places(micro_batch: &MicroBatch) -> Tensor {
    let places: Vec<i64> = micro_batch.examples.iter().step_by(2).map(|&example| example as i64).collect();
    Tensor::from_slice(&places)
}

/// For each target 1, or `alpha` when the other answer of its pair is shorter than the answer up to it.
fn length_weights(documents: &[usize], alpha: f32) -> Vec<f32> {
    let mut lens = vec![0usize; documents.last().map_or(0, |last| (last | 1) + 1)];
    let ordinals: Vec<usize> = documents
        .iter()
        .map(|&document| {
            lens[document] += 1;
            lens[document] - 1
        })
        .collect();
    let shared = |document: usize| lens[document & !1].min(lens[document | 1]);
    let weigh = |(&document, ordinal): (&usize, usize)| if ordinal < shared(document) { 1.0 } else { alpha };
    documents.iter().zip(ordinals).map(weigh).collect()
}

/// `log Σ p²` over the vocabulary at each target: the log-probability that two draws agree. float32 `[N]`
fn log_sum_sq_probs(model: &Decoder, adapter: Option<&Adapter>, hidden: &Tensor, targets: &Targets) -> Tensor {
    let hidden = hidden.detach().index_select(0, &targets.positions);
    let parts: Vec<Tensor> = hidden
        .split(tile_of(model), 0)
        .iter()
        .map(|tile| {
            let logps = model.logits(tile, adapter).log_softmax(-1, Kind::Float);
            (logps * 2.0).logsumexp([-1i64], false)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, LoraOptions, TargetModules, tiny};
    use hone_data::pack::{Prefixes, pack};
    use hone_data::tokenize::{Document, Example, IGNORE_INDEX};

    /// A pair of answers after a prompt.
    fn pair(prompt: usize, answers: [usize; 2], seed: usize) -> Example {
        let documents = answers.map(|answer| {
            let id = |n: usize| if n < prompt { (n * 7 + seed) % 53 } else { (n * 11 + answer + seed) % 53 };
            let input_ids: Vec<u32> = (0..prompt + answer).map(|n| id(n) as u32).collect();
            let label = |n: usize| if n + 1 < prompt { IGNORE_INDEX } else { i64::from(input_ids[n + 1]) };
            let labels = (0..prompt + answer - 1).map(label).chain([IGNORE_INDEX]).collect();
            Document { input_ids, labels }
        });
        Example { documents: documents.into(), object: "rows".into(), row: 1, is_text: false }
    }

    #[test]
    fn a_prompt_computed_once_gives_the_same_scores_and_gradients_as_twice_in_every_family() {
        let examples = [pair(20, [5, 9], 1), pair(12, [1, 4], 2), pair(3, [6, 2], 3), pair(20, [5, 5], 4)];
        for architecture in Architecture::ALL {
            let model = tiny::model(architecture);
            let options = LoraOptions::from(&hone_job::spec::Lora { rank: 3, ..hone_job::spec::Lora::default() });
            assert_eq!(options.target_modules, TargetModules::AllLinear);
            let adapter = Adapter::new(&model, &options, 7).unwrap();
            adapter.flat().shallow_clone().copy_(&(tiny::random(&adapter.flat().size(), 3) * 0.15));
            let run = |prefixes| {
                let batches = pack(&examples.each_ref(), 1000, prefixes);
                let [batch] = &batches[..] else { panic!("one micro-batch") };
                adapter.zero_grad();
                let scores = AnswerScores::new(&model, Some(&adapter), batch, None, &Preference::default());
                (&scores.logps[0] * 0.7 - &scores.logps[1]).square().mean(Kind::Float).sqrt().backward();
                let places: Vec<usize> = batch.examples.iter().step_by(2).copied().collect();
                let of = |pair: usize| places.iter().position(|&place| place == pair).unwrap() as i64;
                let logps: Vec<f64> =
                    (0..4).flat_map(|p| [0, 1].map(|side| scores.logps[side].double_value(&[of(p)]))).collect();
                (batch.len(), logps, adapter.flat_grad().copy())
            };
            let (few, shared, shared_grad) = run(Prefixes::Shared);
            let (many, repeated, repeated_grad) = run(Prefixes::Repeated);
            assert!(few < many, "{few} tokens in place of {many}");
            for (a, b) in shared.iter().zip(&repeated) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{architecture:?}: {a} against {b}");
            }
            let error = (&shared_grad - &repeated_grad).abs().max().double_value(&[]);
            let scale = repeated_grad.abs().max().double_value(&[]);
            assert!(error <= 1e-5 * scale, "{architecture:?}: gradient off by {error} of {scale}");
        }
    }

    #[test]
    fn tokens_past_the_shorter_answer_weigh_alpha() {
        // Pair 0: answers of 1 and 3 tokens; pair 1: of 2 and 1.
        let documents = [0, 1, 1, 1, 2, 2, 3];
        assert_eq!(length_weights(&documents, 0.5), [1.0, 1.0, 0.5, 0.5, 1.0, 0.5, 1.0]);
        assert_eq!(length_weights(&[], 0.5), [0.0; 0]);
    }
}
