//! The wire against what the Python side wrote and took.

mod bodies;
mod invalid;
mod vectors;

/// Bytes as two hexadecimal digits each.
fn bytes(hex: &str) -> bytes::Bytes {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect::<Vec<_>>().into()
}
