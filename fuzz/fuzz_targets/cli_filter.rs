//! Filter expressions of the command line, which is no library: its module is compiled in.
#![no_main]

// A binary keeps what it does not use, and its tests are its own.
#[allow(dead_code, reason = "the module is of another program")]
#[path = "../../crates/busline-cli/src/filter/mod.rs"]
mod filter;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (expression, line) = text.split_once('\n').unwrap_or((&text, "{}"));
    let Ok(filter) = expression.parse::<filter::Filter>() else { return };
    let line = serde_json::from_str(line).unwrap_or(serde_json::Value::Null);
    let _ = filter.holds(&line);
});
