//! Fuzzes `hone_fuzz::gguf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hone_fuzz::gguf(data));
