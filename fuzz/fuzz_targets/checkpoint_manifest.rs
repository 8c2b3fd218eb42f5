//! Fuzzes `hone_fuzz::checkpoint_manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hone_fuzz::checkpoint_manifest(data));
