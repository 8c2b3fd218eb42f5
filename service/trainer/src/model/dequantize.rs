//! ggml's storage types: bytes of a tensor in, float32 values out, on all cores.
//!
//! Formulas and the order of operations are those of ggml's reference code (`ggml-quants.c`), so values are equal to the
//! bit. A block shares a scale; `d`, `m` are float16, quants are small integers.

use half::{bf16, f16};
use hone_data::gguf::ggml_type;

/// The values of a tensor whose bytes are whole blocks of a known type.
pub(super) fn dequantize(ggml_type_number: u32, bytes: &[u8]) -> Vec<f32> {
    let kind = ggml_type(ggml_type_number).expect("the container's reader refuses unknown types");
    let (block_len, block_bytes) = (kind.block_len as usize, kind.block_bytes as usize);
    let block = block_of(ggml_type_number);
    let num_blocks = bytes.len() / block_bytes;
    let mut values = vec![0.0; num_blocks * block_len];
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(num_blocks / MIN_BLOCKS + 1);
    let share = num_blocks.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (bytes, values) in bytes.chunks(share * block_bytes).zip(values.chunks_mut(share * block_len)) {
            scope.spawn(move || {
                for (bytes, values) in bytes.chunks_exact(block_bytes).zip(values.chunks_exact_mut(block_len)) {
                    block(bytes, values);
                }
            });
        }
    });
    values
}

/// A thread is not worth starting for less.
const MIN_BLOCKS: usize = 4096;

/// Turns one block.
type Block = fn(&[u8], &mut [f32]);

fn block_of(ggml_type_number: u32) -> Block {
    match ggml_type_number {
        0 => |b, y| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        1 => |b, y| y[0] = half_at(b, 0),
        2 => q4_0,
        3 => q4_1,
        6 => q5_0,
        7 => q5_1,
        8 => q8_0,
        12 => q4_k,
        13 => q5_k,
        14 => q6_k,
        30 => |b, y| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        other => unreachable!("type {other} is refused by the container's reader"),
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Low and high four bits: values j and j + 16 of a block of 32.
fn nibbles(quants: &[u8]) -> impl Iterator<Item = (usize, i32, i32)> {
    quants.iter().enumerate().map(|(j, &byte)| (j, i32::from(byte & 0xf), i32::from(byte >> 4)))
}

/// d (2), quants (16): (q - 8) d
fn q4_0(block: &[u8], y: &mut [f32]) {
    let d = half_at(block, 0);
    for (j, low, high) in nibbles(&block[2..18]) {
        y[j] = (low - 8) as f32 * d;
        y[j + 16] = (high - 8) as f32 * d;
    }
}

/// d (2), m (2), quants (16): q d + m
fn q4_1(block: &[u8], y: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, low, high) in nibbles(&block[4..20]) {
        y[j] = low as f32 * d + m;
        y[j + 16] = high as f32 * d + m;
    }
}

/// The fifth bits of values j and j + 16, as 16 or 0.
fn fifth_bits(bits: u32, j: usize) -> (i32, i32) {
    ((bits >> j << 4 & 0x10) as i32, (bits >> (j + 12) & 0x10) as i32)
}

/// d (2), fifth bits (4), quants (16): (q - 16) d
fn q5_0(block: &[u8], y: &mut [f32]) {
    let d = half_at(block, 0);
    let bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (j, low, high) in nibbles(&block[6..22]) {
        let (low_bit, high_bit) = fifth_bits(bits, j);
        y[j] = ((low | low_bit) - 16) as f32 * d;
        y[j + 16] = ((high | high_bit) - 16) as f32 * d;
    }
}

/// d (2), m (2), fifth bits (4), quants (16): q d + m
fn q5_1(block: &[u8], y: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let bits = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (j, low, high) in nibbles(&block[8..24]) {
        let (low_bit, high_bit) = fifth_bits(bits, j);
        y[j] = (low | low_bit) as f32 * d + m;
        y[j + 16] = (high | high_bit) as f32 * d + m;
    }
}

/// d (2), quants (32, signed): q d
fn q8_0(block: &[u8], y: &mut [f32]) {
    let d = half_at(block, 0);
    for (y, &quant) in y.iter_mut().zip(&block[2..34]) {
        *y = f32::from(quant as i8) * d;
    }
}

/// Scale and minimum of the j-th of eight groups of 32: six bits each, packed into twelve bytes.
fn scale_and_min(j: usize, packed: &[u8]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 0xf | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d (2), dmin (2), scales (12), quants (128): d scale q - dmin min
fn q4_k(block: &[u8], y: &mut [f32]) {
    let (d, dmin, scales) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for (pair, (y, quants)) in y.chunks_exact_mut(64).zip(block[16..144].chunks_exact(32)).enumerate() {
        let (scale, min) = scale_and_min(2 * pair, scales);
        let (d1, m1) = (d * scale, dmin * min);
        let (scale, min) = scale_and_min(2 * pair + 1, scales);
        let (d2, m2) = (d * scale, dmin * min);
        let (first, second) = y.split_at_mut(32);
        for ((first, second), quant) in first.iter_mut().zip(second).zip(quants) {
            *first = d1 * f32::from(quant & 0xf) - m1;
            *second = d2 * f32::from(quant >> 4) - m2;
        }
    }
}

/// d (2), dmin (2), scales (12), fifth bits (32), quants (128): d scale q - dmin min
fn q5_k(block: &[u8], y: &mut [f32]) {
    let (d, dmin, scales, bits) = (half_at(block, 0), half_at(block, 2), &block[4..16], &block[16..48]);
    for (pair, (y, quants)) in y.chunks_exact_mut(64).zip(block[48..176].chunks_exact(32)).enumerate() {
        let (scale, min) = scale_and_min(2 * pair, scales);
        let (d1, m1) = (d * scale, dmin * min);
        let (scale, min) = scale_and_min(2 * pair + 1, scales);
        let (d2, m2) = (d * scale, dmin * min);
        let (first, second) = y.split_at_mut(32);
        for (l, quant) in quants.iter().enumerate() {
            let fifth = |bit: usize| (bits[l] >> bit & 1) << 4;
            first[l] = d1 * f32::from(quant & 0xf | fifth(2 * pair)) - m1;
            second[l] = d2 * f32::from(quant >> 4 | fifth(2 * pair + 1)) - m2;
        }
    }
}

/// low bits (128), high bits (64), scales (16, signed), d (2): d scale (q - 32)
fn q6_k(block: &[u8], y: &mut [f32]) {
    let d = half_at(block, 208);
    for (half, y) in y.chunks_exact_mut(128).enumerate() {
        let low = &block[64 * half..64 * half + 64];
        let high = &block[128 + 32 * half..128 + 32 * half + 32];
        let scales = &block[192 + 8 * half..192 + 8 * half + 8];
        for l in 0..32 {
            let quants = [low[l] & 0xf, low[l + 32] & 0xf, low[l] >> 4, low[l + 32] >> 4];
            for (quarter, quant) in quants.into_iter().enumerate() {
                let quant = i32::from(quant | (high[l] >> (2 * quarter) & 3) << 4) - 32;
                let scale = f32::from(scales[l / 16 + 2 * quarter] as i8);
                y[l + 32 * quarter] = d * scale * quant as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests;
