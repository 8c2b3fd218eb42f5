//! Blocks of every type beside the values of ggml.

use safetensors::SafeTensors;

use super::*;

/// Blocks as they lie in a file and the values that ggml's own Python package gives for them.
#[test]
fn every_type_equals_the_reference_to_the_bit() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf/blocks.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let blocks = SafeTensors::deserialize(&bytes).unwrap();
    for (name, number) in
        [("Q4_0", 2), ("Q4_1", 3), ("Q8_0", 8), ("Q4_K", 12), ("Q5_K", 13), ("Q6_K", 14), ("BF16", 30)]
    {
        let stored = blocks.tensor(&format!("{name}.bytes")).unwrap();
        let values = blocks.tensor(&format!("{name}.values")).unwrap();
        let want: Vec<f32> =
            values.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let got = dequantize(number, stored.data());
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{name} value {i}: {got} against {want}");
        }
    }
}

#[test]
fn plain_floats_are_read_as_they_are() {
    assert_eq!(dequantize(0, &1.5f32.to_le_bytes()), [1.5]);
    assert_eq!(dequantize(1, &f16::from_f32(-0.25).to_le_bytes()), [-0.25]);
}

/// Five-bit types have no fixture: their formulas, `d (q - 16)` and `d q + m`, on a block made by hand.
#[test]
fn five_bit_blocks_put_the_fifth_bit_on_top() {
    let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
    block.extend(0x0001_0002u32.to_le_bytes()); // the fifth bits of values 1 and 16
    block.extend((0..16u8).map(|j| j | (15 - j) << 4));
    let values = dequantize(6, &block);
    assert_eq!(values[0], 0.5 * (0.0 - 16.0));
    assert_eq!(values[1], 0.5 * (17.0 - 16.0));
    assert_eq!(values[16], 0.5 * (31.0 - 16.0));
    assert_eq!(values[17], 0.5 * (14.0 - 16.0));
    block.splice(2..2, f16::from_f32(2.0).to_le_bytes());
    let values = dequantize(7, &block);
    assert_eq!((values[0], values[1], values[16]), (2.0, 0.5 * 17.0 + 2.0, 0.5 * 31.0 + 2.0));
}

#[test]
fn many_blocks_are_shared_among_threads_in_order() {
    let bytes: Vec<u8> = (0..40_000u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    assert!(dequantize(0, &bytes).iter().enumerate().all(|(i, &value)| value == i as f32));
}
