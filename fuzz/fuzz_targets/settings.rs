//! libFuzzer's way into `sanctum_fuzz::settings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sanctum_fuzz::settings(data));
