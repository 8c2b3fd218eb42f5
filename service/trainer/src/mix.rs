//! Seeds from seeds: a state and a word in, an unrelated number out.

/// SplitMix64's finaliser (Steele et al. 2014, doi:10.1145/2660193.2660195): neighbouring words of neighbouring states give
/// unrelated numbers.
pub(crate) fn mix(state: u64, word: u64) -> u64 {
    let mut z = state.wrapping_add(word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
