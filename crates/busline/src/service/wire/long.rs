//! Integers of more than 128 bits: as decimal digits, and as the bytes that CBOR has for them.

use super::serialize::{Unwritable, Written};

/// Python refuses to turn longer integers into text, and text into them.
pub(super) const DIGITS_MAX: usize = 4300;

/// An integer as whether it is negative, and as bytes, the highest first; a negative one is -1 - n.
pub(super) fn from_decimal(digits: &str) -> (bool, Vec<u8>) {
    let Some(magnitude) = digits.strip_prefix('-') else { return (false, binary(digits)) };
    let mut bytes = binary(magnitude);
    decrement(&mut bytes);
    (true, bytes)
}

/// A long integer as decimal digits; a negative one is written as -1 - n.
pub(super) fn to_decimal(bytes: &[u8], is_negative: bool) -> Written<String> {
    const CHUNK: u64 = 1_000_000_000;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[zeros..];
    if bytes.len() > DIGITS_MAX / 2 {
        return Err(too_long());
    }
    // Limbs of nine digits, the lowest first.
    let mut limbs = vec![u64::from(is_negative)];
    for (index, byte) in bytes.iter().enumerate() {
        // One more for what is negative is added once, at the lowest byte.
        let is_last = index + 1 == bytes.len();
        let mut carry = u64::from(*byte) + u64::from(is_negative && is_last);
        if index == 0 {
            limbs[0] = 0;
        }
        for limb in &mut limbs {
            let next = *limb * 256 + carry;
            *limb = next % CHUNK;
            carry = next / CHUNK;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let mut text = String::from(if is_negative { "-" } else { "" });
    let mut limbs = limbs.iter().rev();
    if let Some(first) = limbs.next() {
        text.push_str(&first.to_string());
    }
    for limb in limbs {
        text.push_str(&format!("{limb:09}"));
    }
    if text.len() > DIGITS_MAX + usize::from(is_negative) {
        return Err(too_long());
    }
    Ok(text)
}

fn too_long() -> Unwritable {
    Unwritable(format!("an integer has more than {DIGITS_MAX} digits"))
}

/// Decimal digits as bytes, the highest first.
fn binary(digits: &str) -> Vec<u8> {
    // Limbs of 32 bits, the lowest first.
    let mut limbs: Vec<u32> = Vec::new();
    for chunk in digits.as_bytes().chunks(9) {
        let mut carry = chunk.iter().fold(0, |all, digit| all * 10 + u64::from(digit - b'0'));
        let factor = 10_u64.pow(chunk.len() as u32);
        for limb in &mut limbs {
            let next = u64::from(*limb) * factor + carry;
            *limb = next as u32;
            carry = next >> 32;
        }
        if carry > 0 {
            limbs.push(carry as u32);
        }
    }
    let bytes: Vec<u8> = limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_vec()
}

fn decrement(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().rev() {
        let (less, is_borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !is_borrowed {
            return;
        }
    }
}
