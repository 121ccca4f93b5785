//! See `busline_core::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| busline_core::fuzz::run("core_positions", data));
