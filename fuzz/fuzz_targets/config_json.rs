//! Fuzzes `hone_fuzz::config_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hone_fuzz::config_json(data));
