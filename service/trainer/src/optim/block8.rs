//! Vectors in blocks of 8-bit codes (Dettmers et al. 2021, arXiv:2110.02861): 256 values share the largest magnitude among
//! them, and each is the nearest of 256 numbers in -1 to 1 (0 to 1 for what is never negative) times it.
//!
//! Those numbers follow the paper's dynamic tree: some decades of a logarithm, ever finer towards the top. With e in 0..7,
//! decade 10^(e-6) holds 2^e numbers of either sign (2^(e+1) without a sign), the middles of equal parts of 0.1 to 1; 0
//! and 1 come on top. They are the numbers of bitsandbytes.
//!
//! A value that is not 0 never becomes 0: it takes the smallest number of its sign. So a second moment never vanishes from
//! the denominator under a first one that has not.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::moment::Sign;

/// Values that share a scale.
const BLOCK: i64 = 256;
/// Decades of the dynamic tree.
const DECADES: u32 = 7;

/// A flat vector in blocks.
#[derive(Debug)]
pub struct Block8 {
    /// Places in the table, uint8, `[blocks, 256]`; what fills up the last block stands for 0.
    codes: Tensor,
    /// Largest magnitude of each block, float32, `[blocks]`.
    absmax: Tensor,
    /// The numbers that the codes mean, float32, `[256]`, rising.
    table: Tensor,
    /// The largest value that is still the n-th number, float32, `[255]`.
    borders: Tensor,
}

impl Block8 {
    /// `len` zeros.
    pub fn new(sign: Sign, len: i64, device: Device) -> Block8 {
        let (table, borders) = dynamic_tree(sign);
        let zero = table.iter().position(|number| *number == 0.0).expect("the table has a 0") as i64;
        let (_, blocks) = blocks_of(&(0..len));
        Block8 {
            codes: Tensor::full([blocks, BLOCK], zero, (Kind::Uint8, device)),
            absmax: Tensor::zeros([blocks], (Kind::Float, device)),
            table: Tensor::from_slice(&table).to_device(device),
            borders: Tensor::from_slice(&borders).to_device(device),
        }
    }

    /// The codes and the scales. Views: a checkpoint copies from them, a resumed run into them.
    pub fn parts(&self) -> [(&'static str, &Tensor); 2] {
        [("codes", &self.codes), ("absmax", &self.absmax)]
    }

    /// The values of a piece that starts with a block, float32.
    pub(super) fn read(&self, piece: &Range<i64>) -> Tensor {
        let (first, blocks) = blocks_of(piece);
        let codes = self.codes.narrow(0, first, blocks).to_kind(Kind::Int).view(-1);
        let numbers = self.table.index_select(0, &codes).view([blocks, BLOCK]);
        let values = numbers * self.absmax.narrow(0, first, blocks).unsqueeze(1);
        values.view(-1).narrow(0, 0, piece.end - piece.start)
    }

    /// Takes over the values of a piece that starts with a block and ends with one, or with the vector.
    pub(super) fn write(&self, piece: &Range<i64>, values: &Tensor) {
        let (first, blocks) = blocks_of(piece);
        let values = values.constant_pad_nd([0, blocks * BLOCK - (piece.end - piece.start)]).view([blocks, BLOCK]);
        let absmax = values.abs().amax([1], false);
        let numbers = values / absmax.clamp_min(f64::from(f32::MIN_POSITIVE)).unsqueeze(1);
        let codes = numbers.bucketize(&self.borders, true, false).to_kind(Kind::Uint8);
        self.codes.narrow(0, first, blocks).copy_(&codes);
        self.absmax.narrow(0, first, blocks).copy_(&absmax);
    }

    /// Memory that it takes, in bytes; the tables are left out.
    pub fn num_bytes(&self) -> usize {
        self.codes.numel() + self.absmax.numel() * size_of::<f32>()
    }
}

/// The first block of a piece, and how many there are.
fn blocks_of(piece: &Range<i64>) -> (i64, i64) {
    debug_assert_eq!(piece.start % BLOCK, 0);
    (piece.start / BLOCK, (piece.end - piece.start + BLOCK - 1) / BLOCK)
}

/// The 256 numbers, rising, and what lies between them: the largest value that is still the n-th number.
fn dynamic_tree(sign: Sign) -> (Vec<f32>, Vec<f32>) {
    let mut table = vec![0.0, 1.0];
    for decade in 0..DECADES {
        let parts = 1 << (decade + u32::from(sign == Sign::Unsigned));
        let scale = 10f64.powi(decade as i32 - DECADES as i32 + 1);
        for part in 0..parts {
            let number = scale * (0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts));
            table.push(number as f32);
            if sign == Sign::Signed {
                table.push(-number as f32);
            }
        }
    }
    table.sort_by(f32::total_cmp);
    let border = |pair: &[f32]| match (pair[0], pair[1]) {
        // What is not 0 stays so.
        (_, 0.0) => -f32::MIN_POSITIVE,
        (0.0, _) => 0.0,
        (low, high) => (low + high) / 2.0,
    };
    let borders = table.windows(2).map(border).collect();
    (table, borders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(sign: Sign, values: &Tensor) -> Tensor {
        let len = values.numel() as i64;
        let blocks = Block8::new(sign, len, Device::Cpu);
        blocks.write(&(0..len), values);
        blocks.read(&(0..len))
    }

    /// What its `create_dynamic_map` returns; the file names the version.
    #[test]
    fn the_tables_are_those_of_bitsandbytes() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dynamic_map.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for (sign, name) in [(Sign::Signed, "signed"), (Sign::Unsigned, "unsigned")] {
            let theirs: Vec<f32> = serde_json::from_value(golden[name].clone()).unwrap();
            let (ours, borders) = dynamic_tree(sign);
            assert_eq!((ours.len(), theirs.len(), borders.len()), (256, 256, 255));
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                // Theirs are rounded to float32 at each of three operations, ours once.
                assert!((ours - theirs).abs() <= 2e-7 * theirs.abs(), "{name}: {ours} against {theirs}");
            }
        }
    }

    #[test]
    fn a_value_comes_back_within_half_a_step_of_its_decade() {
        // 3 blocks and a part of one, over five decades.
        let exponent = Tensor::linspace(-5.0, 0.0, 900, (Kind::Float, Device::Cpu));
        for sign in [Sign::Signed, Sign::Unsigned] {
            let magnitude = Tensor::from(10f32).pow(&exponent);
            let turn = Tensor::arange(900, (Kind::Float, Device::Cpu)).remainder(2.0) * 2.0 - 1.0;
            let values = if sign == Sign::Signed { &magnitude * turn } else { magnitude.shallow_clone() };
            let back = round_trip(sign, &values);
            // Half the distance of neighbours, over the value, is worst at the bottom of a decade. Each block spans 1.4
            // decades, so the sixth decade with 32 parts (64 without a sign) is the coarsest that is reached.
            let parts = if sign == Sign::Signed { 32.0 } else { 64.0 };
            let worst = ((&back - &values).abs() / &magnitude).max().double_value(&[]);
            assert!(worst < 1.1 * 0.5 * 0.9 / parts / 0.1, "{sign:?}: {worst}");
            let mean = ((&back - &values).abs() / &magnitude).mean(Kind::Double).double_value(&[]);
            assert!(mean < 0.02, "{sign:?}: {mean}");
        }
    }

    #[test]
    fn the_largest_of_a_block_is_exact_and_zero_is_zero() {
        let values = Tensor::from_slice(&[0f32, 3.5, -1e-9, 1e-9]);
        let back = Vec::<f32>::try_from(round_trip(Sign::Signed, &values)).unwrap();
        assert_eq!(back[..2], [0.0, 3.5]);
        // Far below the smallest number of the table, and yet of their sign.
        assert!(back[2] < 0.0 && back[3] > 0.0, "{back:?}");
        assert_eq!(
            round_trip(Sign::Unsigned, &Tensor::zeros([300], (Kind::Float, Device::Cpu))).abs().max(),
            Tensor::from(0f32)
        );
    }

    /// Where the largest magnitude is positive; there is no -1 in the table, so a negative one shrinks.
    #[test]
    fn what_is_written_again_does_not_move() {
        let values = (Tensor::arange(700, (Kind::Float, Device::Cpu)) * 0.37).sin() + 0.5;
        let once = round_trip(Sign::Signed, &values);
        assert_eq!(round_trip(Sign::Signed, &once), once);
    }
}
