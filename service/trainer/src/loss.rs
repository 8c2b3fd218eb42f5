//! The loss over labelled positions: hidden states and targets in, a negative log-likelihood for each target out.
//!
//! Positions without a target never reach the head, and logits exist for one tile of positions at a time. Sums and counts
//! are kept apart until the step is whole, so an average never depends on how a step was cut into micro-batches.
//!
//! Tensor shapes: T tokens, N labelled positions, E hidden size, V vocabulary.

use hone_data::pack::MicroBatch;
use hone_data::tokenize::IGNORE_INDEX;
use tch::{Device, Tensor};

use crate::model::{Adapter, Decoder, GRAIN};

pub mod pairs;
pub mod preference;

/// Most bytes of one tile of float32 logits; but [`GRAIN`] positions are one in any vocabulary.
const TILE_BYTES: i64 = 128 << 20;

/// The positions of a micro-batch that have a target.
#[derive(Debug)]
pub struct Targets {
    /// Where they are, and then the first position until there is a multiple of [`GRAIN`]. `[≥ N]`, int64
    positions: Tensor,
    /// The token to predict, and then token 0. `[≥ N]`, int64
    labels: Tensor,
    /// Which document of the micro-batch each belongs to. N of them
    documents: Vec<usize>,
}

impl Targets {
    /// Takes the targets out of a micro-batch.
    pub fn new(batch: &MicroBatch, device: Device) -> Targets {
        let segments = batch.segments.iter();
        let document_of = segments.flat_map(|segment| std::iter::repeat_n(segment.document, segment.len as usize));
        let labelled =
            batch.targets.iter().zip(document_of).enumerate().filter(|(_, (label, _))| **label != IGNORE_INDEX);
        let (mut positions, mut labels, mut documents) = (Vec::new(), Vec::new(), Vec::new());
        for (position, (&label, document)) in labelled {
            positions.push(position as i64);
            labels.push(label);
            documents.push(document);
        }
        positions.resize(documents.len().next_multiple_of(GRAIN), 0);
        labels.resize(positions.len(), 0);
        Targets {
            positions: Tensor::from_slice(&positions).to_device(device),
            labels: Tensor::from_slice(&labels).to_device(device),
            documents,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// For each target the document of the micro-batch that it belongs to.
    pub fn documents(&self) -> &[usize] {
        &self.documents
    }
}

/// What the model says about each target.
#[derive(Debug)]
pub struct TokenLosses {
    /// Negative log-likelihood in nats, float32, with a gradient to the hidden states. `[N]`
    pub nll: Tensor,
    /// Whether the target is the likeliest token. `[N]`, bool
    pub correct: Tensor,
}

/// Scores the targets: `hidden [T, E]` -> `-log softmax(hidden W^T)[label]` at each of the N labelled positions. The adapter
/// is the one that `hidden` was made with: where it trains the head, W is its copy.
pub fn token_losses(model: &Decoder, adapter: Option<&Adapter>, hidden: &Tensor, targets: &Targets) -> TokenLosses {
    let hidden = hidden.index_select(0, &targets.positions);
    let soft_cap = model.config().final_logit_softcapping;
    let (nll, correct) =
        hone_ops::head_nll(&hidden, model.lm_head_weight(adapter), &targets.labels, soft_cap, tile_of(model));
    let count = targets.len() as i64;
    TokenLosses { nll: nll.narrow(0, 0, count), correct: correct.narrow(0, 0, count) }
}

/// Positions whose logits are in memory at once.
fn tile_of(model: &Decoder) -> i64 {
    let grain = GRAIN as i64;
    (TILE_BYTES / (4 * model.config().vocab_size) / grain * grain).max(grain)
}

#[cfg(test)]
mod tests {
    use hone_data::pack::Segment;
    use tch::Kind;

    use super::*;
    use crate::model::{Architecture, Batch, tiny};

    fn micro_batch() -> MicroBatch {
        MicroBatch {
            input_ids: vec![3, 1, 4, 1, 5, 9, 2],
            position_ids: vec![0, 1, 2, 3, 0, 1, 2],
            segments: vec![
                Segment { len: 4, prefix: None, document: 0 },
                Segment { len: 3, prefix: None, document: 1 },
            ],
            targets: vec![IGNORE_INDEX, 4, 1, IGNORE_INDEX, 9, IGNORE_INDEX, IGNORE_INDEX],
            num_targets: 3,
            examples: vec![0, 1],
        }
    }

    #[test]
    fn targets_know_their_documents() {
        let targets = Targets::new(&micro_batch(), Device::Cpu);
        assert_eq!(targets.len(), 3);
        assert_eq!(targets.documents(), [0, 0, 1]);
        assert_eq!(targets.positions.size(), [GRAIN as i64]);
        assert_eq!(targets.positions.narrow(0, 0, 5), Tensor::from_slice(&[1i64, 2, 4, 0, 0]));
        assert_eq!(targets.labels.narrow(0, 0, 4), Tensor::from_slice(&[4i64, 1, 9, 0]));
    }

    #[test]
    fn equals_the_log_softmax_of_whole_logits() {
        // Gemma 2 bounds its logits.
        for architecture in [Architecture::Llama, Architecture::Gemma2] {
            let model = tiny::model(architecture);
            let batch = micro_batch();
            let hidden = model.forward(&Batch::of(&batch, Device::Cpu), None, None);
            let losses = token_losses(&model, None, &hidden, &Targets::new(&batch, Device::Cpu));
            let logps = model.logits(&hidden, None).log_softmax(-1, Kind::Float);
            for (i, (position, label)) in [(1, 4), (2, 1), (4, 9)].into_iter().enumerate() {
                let (got, want) = (losses.nll.double_value(&[i as i64]), -logps.double_value(&[position, label]));
                assert!((got - want).abs() < 1e-5, "{got} against {want}");
                let likeliest = logps.get(position).argmax(0, false).int64_value(&[]);
                assert_eq!(losses.correct.int64_value(&[i as i64]) == 1, likeliest == label);
            }
        }
    }
}
