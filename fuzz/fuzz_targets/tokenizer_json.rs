//! Fuzzes `hone_fuzz::tokenizer_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hone_fuzz::tokenizer_json(data));
