//! Documents end to end in flat tensors, without padding, and where each begins.

use hone_data::pack::MicroBatch;
use tch::{Device, Tensor};

/// What goes through the model at once. T tokens in all.
#[derive(Debug)]
pub struct Batch {
    /// `[T]`, int64.
    pub(super) input_ids: Tensor,
    /// Position of each token in its document. `[T]`, int64.
    pub(super) position_ids: Tensor,
    /// Neighbouring documents of one length.
    pub(super) runs: Vec<Run>,
    /// Where each document begins, and T: int32 `[documents + 1]`.
    pub(super) starts: Tensor,
    /// Tokens of the longest document.
    pub(super) longest: i64,
}

/// `count` neighbouring documents of `len` tokens, from token `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: i64,
    pub(super) count: i64,
    pub(super) len: i64,
}

impl Batch {
    /// Puts the vectors of a micro-batch on the device, and prepares once what attention needs in every layer.
    ///
    /// Documents of no tokens are left out. Panics when the lengths do not add up, which is a mistake of the caller.
    pub fn new(input_ids: &[i64], position_ids: &[i64], seq_lens: &[i64], device: Device) -> Batch {
        assert_eq!(input_ids.len(), position_ids.len(), "each token has a position");
        assert_eq!(seq_lens.iter().sum::<i64>(), input_ids.len() as i64, "seq_lens add up to the tokens");
        let mut starts = vec![0i32];
        let mut runs: Vec<Run> = Vec::new();
        let mut start = 0;
        for &len in seq_lens.iter().filter(|len| **len > 0) {
            match runs.last_mut() {
                Some(run) if run.len == len => run.count += 1,
                _ => runs.push(Run { start, count: 1, len }),
            }
            start += len;
            starts.push(i32::try_from(start).expect("a micro-batch has fewer than 2^31 tokens"));
        }
        Batch {
            input_ids: Tensor::from_slice(input_ids).to_device(device),
            position_ids: Tensor::from_slice(position_ids).to_device(device),
            longest: runs.iter().map(|run| run.len).max().unwrap_or(0),
            runs,
            starts: Tensor::from_slice(&starts).to_device(device),
        }
    }

    /// A packed micro-batch.
    pub fn of(batch: &MicroBatch, device: Device) -> Batch {
        Batch::new(&batch.input_ids, &batch.position_ids, &batch.seq_lens, device)
    }

    /// One document.
    pub fn single(input_ids: &[i64], device: Device) -> Batch {
        let len = input_ids.len() as i64;
        Batch::new(input_ids, &(0..len).collect::<Vec<_>>(), &[len], device)
    }

    /// Tokens in all.
    pub fn num_tokens(&self) -> i64 {
        self.input_ids.size()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_length_are_one_run() {
        let batch = Batch::new(&[1; 12], &[0; 12], &[4, 2, 2, 0, 2, 1, 1], Device::Cpu);
        let runs: Vec<_> = batch.runs.iter().map(|run| (run.start, run.count, run.len)).collect();
        assert_eq!(runs, [(0, 1, 4), (4, 3, 2), (10, 2, 1)]);
        assert_eq!(Vec::<i32>::try_from(&batch.starts).unwrap(), [0, 4, 6, 8, 10, 11, 12]);
        assert_eq!((batch.longest, batch.num_tokens()), (4, 12));
    }
}
