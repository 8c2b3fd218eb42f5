//! Fuzzes `hone_fuzz::job_spec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hone_fuzz::job_spec(data));
