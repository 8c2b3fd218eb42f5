//! Documents end to end in flat tensors, and where each begins.

use hone_data::pack::{MicroBatch, Segment};
use hone_ops::Document;
use tch::{Device, Tensor};

/// Tokens of a micro-batch, and those of them that have a target, come in multiples of it. Matrix products compile code for
/// every size that they meet, which takes longer than a small product and stays in memory (docs/performance.md).
pub const GRAIN: usize = 64;

/// What goes through the model at once. T tokens in all.
#[derive(Debug)]
pub struct Batch {
    /// `[T]`, int64.
    pub(super) input_ids: Tensor,
    /// Position of each token in its document. `[T]`, int64.
    pub(super) position_ids: Tensor,
    /// Neighbouring segments of one length without a prefix, or one that has a prefix.
    pub(super) runs: Vec<Run>,
    /// Where each segment begins, and T: int32 `[segments + 1]`.
    pub(super) starts: Tensor,
    /// Tokens of the longest segment.
    pub(super) longest: i64,
    /// What segments with a prefix see, when there are any.
    pub(super) keys: Option<Keys>,
}

/// `count` neighbouring segments of `len` tokens, from token `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: i64,
    pub(super) count: i64,
    pub(super) len: i64,
    /// First token and length of what the one segment continues.
    pub(super) prefix: Option<(i64, i64)>,
}

/// For each segment the tokens that it sees: its prefix, then itself.
#[derive(Debug)]
pub(super) struct Keys {
    /// Their places, segment after segment. int64 `[keys]`
    pub(super) index: Tensor,
    /// Where those of each segment begin, and the end. int32 `[segments + 1]`
    pub(super) starts: Tensor,
    /// Most keys of a segment.
    pub(super) longest: i64,
}

impl Batch {
    /// Documents of these lengths, end to end; those of no tokens are left out.
    pub fn new(input_ids: &[i64], position_ids: &[i64], seq_lens: &[i64], device: Device) -> Batch {
        let lens = seq_lens.iter().copied().filter(|len| *len > 0);
        let segments: Vec<Segment> = lens.map(|len| Segment { len, prefix: None, document: 0 }).collect();
        Batch::of_segments(input_ids, position_ids, &segments, device)
    }

    /// A packed micro-batch, filled up to a multiple of [`GRAIN`] tokens by a segment that nothing sees and that has no
    /// target: what comes out for it is to be left alone.
    pub fn of(batch: &MicroBatch, device: Device) -> Batch {
        let filling = batch.len().next_multiple_of(GRAIN) - batch.len();
        let input_ids = [&batch.input_ids[..], &vec![0; filling]].concat();
        let position_ids = [&batch.position_ids[..], &Vec::from_iter(0..filling as i64)].concat();
        let filling = (filling > 0).then_some(Segment { len: filling as i64, prefix: None, document: 0 });
        let segments: Vec<Segment> = batch.segments.iter().copied().chain(filling).collect();
        Batch::of_segments(&input_ids, &position_ids, &segments, device)
    }

    /// Puts the vectors of a micro-batch on the device, and prepares once what attention needs in every layer.
    ///
    /// Panics when the lengths do not add up, which is a mistake of the caller.
    fn of_segments(input_ids: &[i64], position_ids: &[i64], segments: &[Segment], device: Device) -> Batch {
        assert_eq!(input_ids.len(), position_ids.len(), "each token has a position");
        let starts = ends(segments.iter().map(|segment| segment.len));
        assert_eq!(starts.last(), Some(&(input_ids.len() as i64)), "segments add up to the tokens");
        let prefix_of = |segment: &Segment| segment.prefix.map(|prefix| (starts[prefix], segments[prefix].len));
        let mut runs: Vec<Run> = Vec::new();
        for (segment, &start) in segments.iter().zip(&starts) {
            let prefix = prefix_of(segment);
            match runs.last_mut() {
                Some(run) if run.len == segment.len && prefix.is_none() && run.prefix.is_none() => run.count += 1,
                _ => runs.push(Run { start, count: 1, len: segment.len, prefix }),
            }
        }
        let has_prefix = segments.iter().any(|segment| segment.prefix.is_some());
        Batch {
            input_ids: Tensor::from_slice(input_ids).to_device(device),
            position_ids: Tensor::from_slice(position_ids).to_device(device),
            longest: segments.iter().map(|segment| segment.len).max().unwrap_or(0),
            runs,
            keys: has_prefix.then(|| Keys::new(segments, &starts, prefix_of, device)),
            starts: int32(&starts, device),
        }
    }

    /// One document.
    pub fn single(input_ids: &[i64], device: Device) -> Batch {
        let len = input_ids.len() as i64;
        Batch::new(input_ids, &(0..len).collect::<Vec<_>>(), &[len], device)
    }

    /// Tokens in a row, and the length of the texts that they belong to: what a rotation that depends on it wants. A prefix
    /// belongs to texts of several lengths and counts as one of its own, so models that rotate so are given none
    /// ([`super::Decoder::prefixes`]).
    pub(super) fn lengths(&self) -> impl Iterator<Item = (i64, i64)> {
        let text = |run: &Run| run.prefix.map_or(0, |(_, len)| len) + run.len;
        self.runs.iter().map(move |run| (run.count * run.len, text(run)))
    }

    /// The segments one by one.
    pub(super) fn documents(&self) -> impl Iterator<Item = Document> {
        self.runs.iter().flat_map(|run| {
            let starts = (0..run.count).map(|i| run.start + i * run.len);
            starts.map(|start| Document { start, len: run.len, prefix: run.prefix })
        })
    }

    /// Tokens in all.
    pub fn num_tokens(&self) -> i64 {
        self.input_ids.size()[0]
    }
}

impl Keys {
    fn new(
        segments: &[Segment],
        starts: &[i64],
        prefix_of: impl Fn(&Segment) -> Option<(i64, i64)>,
        device: Device,
    ) -> Keys {
        let mut index: Vec<i64> = Vec::new();
        let mut lens = Vec::new();
        for (segment, &start) in segments.iter().zip(starts) {
            let (prefix_start, prefix_len) = prefix_of(segment).unwrap_or((0, 0));
            index.extend((prefix_start..prefix_start + prefix_len).chain(start..start + segment.len));
            lens.push(prefix_len + segment.len);
        }
        Keys {
            index: Tensor::from_slice(&index).to_device(device),
            longest: lens.iter().copied().max().unwrap_or(0),
            starts: int32(&ends(lens), device),
        }
    }
}

/// 0, then the sum of the lengths so far after each.
fn ends(lens: impl IntoIterator<Item = i64>) -> Vec<i64> {
    let mut sum = 0;
    std::iter::once(0)
        .chain(lens.into_iter().map(|len| {
            sum += len;
            sum
        }))
        .collect()
}

fn int32(values: &[i64], device: Device) -> Tensor {
    let values: Vec<i32> =
        values.iter().map(|&value| i32::try_from(value).expect("a micro-batch has fewer than 2^31 tokens")).collect();
    Tensor::from_slice(&values).to_device(device)
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
        assert!(batch.keys.is_none());
    }

    #[test]
    fn a_micro_batch_is_filled_up_by_a_segment_of_its_own() {
        let of = |len: i64| {
            let segments = vec![Segment { len, prefix: None, document: 0 }];
            let micro_batch = MicroBatch {
                input_ids: vec![5; len as usize],
                position_ids: (0..len).collect(),
                segments,
                ..MicroBatch::default()
            };
            Batch::of(&micro_batch, Device::Cpu)
        };
        let filled = of(70);
        assert_eq!(filled.num_tokens(), 2 * GRAIN as i64);
        assert_eq!(Vec::<i32>::try_from(&filled.starts).unwrap(), [0, 70, 128]);
        assert_eq!(filled.input_ids.narrow(0, 69, 2), Tensor::from_slice(&[5i64, 0]));
        assert_eq!(filled.position_ids.narrow(0, 69, 3), Tensor::from_slice(&[69i64, 0, 1]));
        assert_eq!(Vec::<i32>::try_from(&of(128).starts).unwrap(), [0, 128]);
    }

    #[test]
    fn a_segment_with_a_prefix_is_a_run_of_its_own_and_sees_the_prefix_first() {
        let segment = |len, prefix| Segment { len, prefix, document: 0 };
        let segments = [segment(3, None), segment(2, Some(0)), segment(2, Some(0)), segment(2, None)];
        let batch = Batch::of_segments(&[1; 9], &[0; 9], &segments, Device::Cpu);
        let runs: Vec<_> = batch.runs.iter().map(|run| (run.start, run.count, run.len, run.prefix)).collect();
        assert_eq!(runs, [(0, 1, 3, None), (3, 1, 2, Some((0, 3))), (5, 1, 2, Some((0, 3))), (7, 1, 2, None)]);
        let keys = batch.keys.unwrap();
        assert_eq!(Vec::<i64>::try_from(&keys.index).unwrap(), [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8]);
        assert_eq!(Vec::<i32>::try_from(&keys.starts).unwrap(), [0, 3, 8, 13, 15]);
        assert_eq!(keys.longest, 5);
    }
}
