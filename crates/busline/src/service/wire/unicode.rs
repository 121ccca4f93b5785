//! The encodings of text that JSON may come in.

use std::borrow::Cow;

use serde::de::Error as _;

use super::json_read::{Read, Unreadable};

/// A body as text; its encoding is told by a byte order mark, or by where its zeros are.
pub(super) fn text(body: &[u8]) -> Read<Cow<'_, str>> {
    let wide = |width: usize, is_big: bool, skip: usize| decode_wide(&body[skip..], width, is_big);
    let zero = |at: usize| body.get(at) == Some(&0);
    match body {
        [0, 0, 0xfe, 0xff, ..] => wide(4, true, 4),
        [0xff, 0xfe, 0, 0, ..] => wide(4, false, 4),
        [0xfe, 0xff, ..] => wide(2, true, 2),
        [0xff, 0xfe, ..] => wide(2, false, 2),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf_8(rest),
        [_, _, _, _, ..] if zero(0) => wide(if zero(1) { 4 } else { 2 }, true, 0),
        [_, _, _, _, ..] if zero(1) => wide(if zero(2) && zero(3) { 4 } else { 2 }, false, 0),
        [_, _] if zero(0) => wide(2, true, 0),
        [_, _] if zero(1) => wide(2, false, 0),
        _ => utf_8(body),
    }
}

fn utf_8(body: &[u8]) -> Read<Cow<'_, str>> {
    std::str::from_utf8(body).map(Cow::Borrowed).map_err(Unreadable::custom)
}

fn decode_wide(body: &[u8], width: usize, is_big: bool) -> Read<Cow<'static, str>> {
    let units = body.chunks_exact(width).map(|unit| {
        let byte = |all: u32, byte: &u8| all << 8 | u32::from(*byte);
        if is_big { unit.iter().fold(0, byte) } else { unit.iter().rev().fold(0, byte) }
    });
    if !body.len().is_multiple_of(width) {
        return Err(Unreadable(format!("the text ends within a UTF-{} unit", width * 8)));
    }
    let text: Option<String> = if width == 4 {
        units.map(scalar).collect()
    } else {
        // Two bytes fit.
        let units = units.map(|unit| unit as u16);
        Some(char::decode_utf16(units).map(|unit| unit.unwrap_or(REPLACEMENT)).collect())
    };
    match text {
        Some(text) => Ok(Cow::Owned(text)),
        None => Err(Unreadable("the text is no UTF-32".to_owned())),
    }
}

pub(super) const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// A code point as a character; half a surrogate is replaced.
pub(super) fn scalar(unit: u32) -> Option<char> {
    if (0xd800..0xe000).contains(&unit) { Some(REPLACEMENT) } else { char::from_u32(unit) }
}
