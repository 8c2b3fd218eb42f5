//! Names that may become files, and digests.

use super::*;

#[test]
fn only_names_that_stay_in_their_folder_become_files() {
    for good in ["adapter_model.safetensors", "a", "SmolLM2-135M.Q4_1.gguf", "tokenizer..json"] {
        assert!(is_plain_name(good), "{good}");
    }
    let long = "a".repeat(256);
    for bad in ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "C:a", "a b", "ü", "a\n", "a\0", long.as_str()] {
        assert!(!is_plain_name(bad), "{bad:?}");
    }
}

#[test]
fn a_tally_is_the_same_whatever_the_pieces() {
    let mut whole = Tally::default();
    whole.add(b"abc");
    let mut pieces = Tally::default();
    for piece in [&b"a"[..], b"", b"bc"] {
        pieces.add(piece);
    }
    // SHA-256 of "abc", FIPS 180-2 appendix B.1.
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(whole.finish(), (3, known.to_owned()));
    assert_eq!(pieces.finish(), (3, known.to_owned()));
}
