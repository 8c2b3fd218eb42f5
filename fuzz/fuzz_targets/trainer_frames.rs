//! Fuzzes `hone_fuzz::trainer_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hone_fuzz::trainer_frames(data));
