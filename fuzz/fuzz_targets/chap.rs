//! libFuzzer's way into `sanctum_fuzz::chap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sanctum_fuzz::chap(data));
