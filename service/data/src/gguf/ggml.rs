//! Storage types of ggml: how many values make how many bytes.

/// A ggml storage type: its name and how many values make how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// Name as llama.cpp writes it.
    pub name: &'static str,
    /// Values in a block.
    pub block_len: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

impl GgmlType {
    /// Bytes of a tensor of these sizes, the fastest-moving first; none when its rows are not whole blocks or a number
    /// overflows.
    pub fn num_bytes(&self, dims: &[u64]) -> Option<u64> {
        let row = dims.first().copied().unwrap_or(1);
        let values = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        (row % self.block_len == 0).then_some(values / self.block_len)?.checked_mul(self.block_bytes)
    }
}

/// The type of a number, if it is one that hone reads.
pub fn ggml_type(number: u32) -> Option<GgmlType> {
    let (name, block_len, block_bytes) = match number {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        30 => ("BF16", 1, 2),
        _ => return None,
    };
    Some(GgmlType { name, block_len, block_bytes })
}

/// Names of types that are refused, for the message.
pub(super) fn refused_type_name(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("type number {other}"),
    };
    name.to_string()
}
