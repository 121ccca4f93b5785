//! See `busline_transports::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| busline_transports::fuzz::run("file_meta", data));
