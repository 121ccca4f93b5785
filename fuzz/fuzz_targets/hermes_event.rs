//! See `busline::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| busline::fuzz::run("hermes_event", data));
