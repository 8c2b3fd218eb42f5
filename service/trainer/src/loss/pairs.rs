//! What a policy says about pairs: log-probabilities of the answers of a micro-batch, summed document by document.
//!
//! Tensor shapes: N targets, D documents, P pairs; the documents of pair p are 2p, the chosen, and 2p + 1.

use hone_data::pack::MicroBatch;
use hone_job::spec::Preference;
use tch::{Kind, Tensor};

use super::{Targets, TokenLosses, tile_of, token_losses};
use crate::model::{Adapter, Batch, Decoder};

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
        let device = model.device();
        let hidden = model.forward(&Batch::of(batch, device), adapter, dropout_seed);
        let targets = Targets::new(batch, device);
        let losses = token_losses(model, &hidden, &targets);
        let log_sum_sq = preference.use_weighting.then(|| tch::no_grad(|| log_sum_sq_probs(model, &hidden, &targets)));
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
fn log_sum_sq_probs(model: &Decoder, hidden: &Tensor, targets: &Targets) -> Tensor {
    let hidden = hidden.detach().index_select(0, &targets.positions);
    let parts: Vec<Tensor> = hidden
        .split(tile_of(model), 0)
        .iter()
        .map(|tile| {
            let logps = model.logits(tile).log_softmax(-1, Kind::Float);
            (logps * 2.0).logsumexp([-1i64], false)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_past_the_shorter_answer_weigh_alpha() {
        // Pair 0: answers of 1 and 3 tokens; pair 1: of 2 and 1.
        let documents = [0, 1, 1, 1, 2, 2, 3];
        assert_eq!(length_weights(&documents, 0.5), [1.0, 1.0, 0.5, 0.5, 1.0, 0.5, 1.0]);
        assert_eq!(length_weights(&[], 0.5), [0.0; 0]);
    }
}
