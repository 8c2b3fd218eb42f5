//! Fuzzes `hone_fuzz::tokenizer_json`.
#![no_main]

// Panics of libraries are caught and become errors, so a panic alone is no crash; one that gets this far still is.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |data: &[u8]| hone_fuzz::tokenizer_json(data));
