//! libFuzzer's way into `sanctum_fuzz::text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sanctum_fuzz::text(data));
