//! A moment of the optimizer: one value for each weight, kept in float32 or in 8-bit blocks.

use std::ops::Range;

use hone_job::spec::MomentFormat;
use tch::{Device, Kind, Tensor};

use super::block8::Block8;

/// Values updated at once: bounds the memory that the update takes beside weights, gradient and moments.
const CHUNK: i64 = 1 << 22;

/// What the values of a moment can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Of either sign.
    Signed,
    /// Never negative.
    Unsigned,
}

/// A flat vector of moments.
#[derive(Debug)]
pub enum Moment {
    /// Float32 values, as long as the weights.
    Float32(Tensor),
    /// Codes and scales.
    Block8(Block8),
}

impl Moment {
    /// `len` zeros.
    pub fn new(format: MomentFormat, sign: Sign, len: i64, device: Device) -> Moment {
        match format {
            MomentFormat::Float32 => Moment::Float32(Tensor::zeros([len], (Kind::Float, device))),
            MomentFormat::Block8 => Moment::Block8(Block8::new(sign, len, device)),
        }
    }

    /// The pieces that a vector of `len` values is updated in.
    pub(super) fn chunks(len: i64) -> Vec<Range<i64>> {
        (0..len).step_by(CHUNK as usize).map(|start| start..(start + CHUNK).min(len)).collect()
    }

    /// Values of a piece, float32: a view of them, or a copy that [`Moment::close`] takes back.
    pub(super) fn open(&self, piece: &Range<i64>) -> Tensor {
        match self {
            Moment::Float32(values) => values.narrow(0, piece.start, piece.end - piece.start),
            Moment::Block8(blocks) => blocks.read(piece),
        }
    }

    /// Keeps what became of an opened piece.
    pub(super) fn close(&self, piece: &Range<i64>, values: &Tensor) {
        if let Moment::Block8(blocks) = self {
            blocks.write(piece, values);
        }
    }

    /// Memory that it takes, in bytes.
    pub fn num_bytes(&self) -> usize {
        match self {
            Moment::Float32(values) => values.numel() * size_of::<f32>(),
            Moment::Block8(blocks) => blocks.num_bytes(),
        }
    }
}
