//! Fuzzes `hone_fuzz::jsonl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hone_fuzz::jsonl(data));
