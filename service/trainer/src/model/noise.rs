//! Noise on the embeddings in training (NEFTune, Jain et al. 2023, arXiv:2310.05914): a batch in, uniform noise out.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tch::{Kind, Tensor};

use super::batch::Batch;

/// Uniform in ±alpha / √(L E) for each token of a document of L tokens: `[T, E]`, float32. Equal seeds give equal noise on
/// every device. The reference takes the padded length for L, so that its noise depends on the neighbours.
pub(super) fn uniform(batch: &Batch, hidden_size: i64, alpha: f64, seed: u64) -> Tensor {
    let bounds: Vec<f32> = batch
        .lengths()
        .flat_map(|(tokens, len)| {
            let bound = alpha / ((len * hidden_size) as f64).sqrt();
            std::iter::repeat_n(bound as f32, tokens as usize)
        })
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let unit = |bits: u32| 2.0 * ((bits >> 8) as f32 / (1u32 << 24) as f32) - 1.0;
    let count = batch.num_tokens() * hidden_size;
    let values: Vec<f32> = (0..count).map(|_| unit(random.next_u32())).collect();
    let noise = Tensor::from_slice(&values).view([-1, hidden_size]) * Tensor::from_slice(&bounds).unsqueeze(1);
    noise.to_kind(Kind::Float).to_device(batch.input_ids.device())
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn each_document_has_the_bound_of_its_own_length_and_each_seed_its_own_noise() {
        let batch = Batch::new(&[1; 30], &[0; 30], &[25, 4, 1], Device::Cpu);
        let noise = uniform(&batch, 64, 5.0, 7);
        assert_eq!(noise.size(), [30, 64]);
        for (start, len) in [(0, 25), (25, 4), (29, 1)] {
            let bound = 5.0 / ((len * 64) as f64).sqrt();
            let rows = noise.narrow(0, start, len);
            let most = rows.abs().max().double_value(&[]);
            assert!(most <= bound && most > 0.9 * bound, "{most} of {bound}");
            assert!(rows.mean(Kind::Float).double_value(&[]).abs() < 0.3 * bound);
        }
        assert_eq!(noise, uniform(&batch, 64, 5.0, 7));
        assert_ne!(noise, uniform(&batch, 64, 5.0, 8));
    }
}
