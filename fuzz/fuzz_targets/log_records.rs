//! See `busline_log::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| busline_log::fuzz::run("log_records", data));
