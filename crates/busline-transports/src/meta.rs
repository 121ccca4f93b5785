//! Properties and headers as the meta bytes of a record: compact, strict, bounded.
//!
//! ```text
//! u16 flags, little-endian: bit n says that field n follows; no bytes at all mean no fields
//!   0 message_id  1 correlation_id  2 conversation_id  3 causation_id  4 reply_to  5 content_type
//!   6 content_encoding  7 kind  8 app_id  12 ordering_key        varint length, UTF-8
//!   9 timestamp (i64 us)  10 expiration (u64 us)                  8 bytes, little-endian
//!   11 priority                                                   1 byte
//!   13 headers             varint count, then name (varint length, UTF-8) and value each
//!   14 one of the headers names the only group that the message is for; nothing follows
//! value: u8 tag, then   0 null   1 false   2 true   3 i64   4 f64   5 text   6 bytes   7 time us
//!                       8 list (varint count, values)   9 map (varint count, names and values)
//! ```

use std::time::Duration;

use busline_core::{HeaderValue, Headers, Message, Properties, RareProperties, Timestamp, dead};
use bytes::Bytes;
use bytestring::ByteString;

/// Values nest no deeper than this, whatever the bytes say.
const DEPTH_MAX: usize = 16;
/// The fields of [`RareProperties`].
const RARE: u16 = 0b1111_1101_1110;
const HAS_HEADERS: u16 = 1 << 13;
const HAS_ONLY_GROUP: u16 = 1 << 14;

/// What is wrong with meta bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed message properties: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

type Text = Option<ByteString>;

/// Appends the meta bytes of a message.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let (properties, p) = (&message.properties, &*message.properties);
    let texts = [
        (0, &properties.message_id),
        (1, &p.correlation_id),
        (2, &p.conversation_id),
        (3, &p.causation_id),
        (4, &p.reply_to),
        (5, &properties.content_type),
        (6, &p.content_encoding),
        (7, &p.kind),
        (8, &p.app_id),
        (12, &message.ordering_key),
    ];
    let mut flags =
        texts.iter().filter(|(_, text)| text.is_some()).fold(0, |f, (bit, _)| f | 1 << bit);
    flags |= u16::from(p.timestamp.is_some()) << 9;
    flags |= u16::from(p.expiration.is_some()) << 10;
    flags |= u16::from(p.priority.is_some()) << 11;
    if !message.headers.is_empty() {
        flags |= HAS_HEADERS;
        if message.headers.get(dead::HEADER_ONLY_GROUP).is_some() {
            flags |= HAS_ONLY_GROUP;
        }
    }
    if flags == 0 {
        return;
    }
    out.extend_from_slice(&flags.to_le_bytes());
    for (_, text) in texts {
        if let Some(text) = text {
            put_bytes(out, text.as_bytes());
        }
    }
    if let Some(time) = p.timestamp {
        out.extend_from_slice(&time.unix_us().to_le_bytes());
    }
    if let Some(expiration) = p.expiration {
        let us = u64::try_from(expiration.as_micros()).unwrap_or(u64::MAX);
        out.extend_from_slice(&us.to_le_bytes());
    }
    out.extend(p.priority);
    if flags & HAS_HEADERS != 0 {
        put_varint(out, message.headers.len() as u64);
        for (name, value) in message.headers.iter() {
            put_bytes(out, name.as_bytes());
            put_value(out, value);
        }
    }
}

/// Fills properties, ordering key and headers from meta bytes; slices of them, not copies.
pub fn decode(meta: &Bytes) -> Result<(Properties, Text, Headers), Malformed> {
    let mut properties = Properties::default();
    let mut headers = Headers::new();
    if meta.is_empty() {
        return Ok((properties, None, headers));
    }
    let mut input = Input { bytes: meta, at: 0 };
    let flags = u16::from_le_bytes(input.array()?);
    if flags >> 15 != 0 {
        return Err(Malformed("unknown flags, written by a newer version"));
    }
    properties.message_id = input.text_of(flags, 0)?;
    let ordering_key;
    if flags & RARE == 0 {
        properties.content_type = input.text_of(flags, 5)?;
        ordering_key = input.text_of(flags, 12)?;
    } else {
        // Each use of a rare property looks whether there are any.
        let mut rare = RareProperties {
            correlation_id: input.text_of(flags, 1)?,
            conversation_id: input.text_of(flags, 2)?,
            causation_id: input.text_of(flags, 3)?,
            reply_to: input.text_of(flags, 4)?,
            ..RareProperties::default()
        };
        properties.content_type = input.text_of(flags, 5)?;
        rare.content_encoding = input.text_of(flags, 6)?;
        rare.kind = input.text_of(flags, 7)?;
        rare.app_id = input.text_of(flags, 8)?;
        ordering_key = input.text_of(flags, 12)?;
        if flags & (1 << 9) != 0 {
            rare.timestamp = Some(Timestamp::from_unix_us(i64::from_le_bytes(input.array()?)));
        }
        if flags & (1 << 10) != 0 {
            rare.expiration = Some(Duration::from_micros(u64::from_le_bytes(input.array()?)));
        }
        if flags & (1 << 11) != 0 {
            rare.priority = Some(u8::from_le_bytes(input.array()?));
        }
        *properties = rare;
    }
    if flags & HAS_HEADERS != 0 {
        for _ in 0..input.varint()? {
            let name = input.text()?;
            headers.append(name, input.value(DEPTH_MAX)?);
        }
    }
    if input.at != meta.len() {
        return Err(Malformed("bytes follow the last field"));
    }
    Ok((properties, ordering_key, headers))
}

/// Whether the message is for this group; cheap unless it was redriven.
pub fn is_for_group(meta: &[u8], group: &str) -> bool {
    let redriven = matches!(meta, [low, high, ..]
        if u16::from_le_bytes([*low, *high]) & HAS_ONLY_GROUP != 0);
    if !redriven {
        return true;
    }
    // What cannot be decoded is for everybody: the error must show, not hide.
    let Ok((_, _, headers)) = decode(&Bytes::copy_from_slice(meta)) else { return true };
    let only = headers.get(dead::HEADER_ONLY_GROUP).and_then(HeaderValue::as_str);
    only.is_none_or(|only| only == group)
}

/// The ordering key of a record, or its key where it has none.
pub fn ordering_key(key: &[u8], meta: &[u8]) -> Vec<u8> {
    let has = matches!(meta, [low, high, ..] if u16::from_le_bytes([*low, *high]) & (1 << 12) != 0);
    if has && let Ok((_, Some(ordering_key), _)) = decode(&Bytes::copy_from_slice(meta)) {
        return ordering_key.as_bytes().to_vec();
    }
    key.to_vec()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &HeaderValue) {
    match value {
        HeaderValue::Bool(false) => out.push(1),
        HeaderValue::Bool(true) => out.push(2),
        HeaderValue::Int(int) => {
            out.push(3);
            out.extend_from_slice(&int.to_le_bytes());
        }
        HeaderValue::Float(float) => {
            out.push(4);
            out.extend_from_slice(&float.to_le_bytes());
        }
        HeaderValue::Str(text) => {
            out.push(5);
            put_bytes(out, text.as_bytes());
        }
        HeaderValue::Bytes(bytes) => {
            out.push(6);
            put_bytes(out, bytes);
        }
        HeaderValue::Time(time) => {
            out.push(7);
            out.extend_from_slice(&time.unix_us().to_le_bytes());
        }
        HeaderValue::List(items) => {
            out.push(8);
            put_varint(out, items.len() as u64);
            items.iter().for_each(|item| put_value(out, item));
        }
        HeaderValue::Map(items) => {
            out.push(9);
            put_varint(out, items.len() as u64);
            for (name, item) in items {
                put_bytes(out, name.as_bytes());
                put_value(out, item);
            }
        }
        // `Null`, and kinds added later, which their transport must not send here unseen.
        _ => out.push(0),
    }
}

struct Input<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Input<'_> {
    fn take(&mut self, len: usize) -> Result<Bytes, Malformed> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(Malformed("a field is longer than what is there"))?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk().ok_or(Malformed("a field is longer than what is there"))?;
        self.at += N;
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<usize, Malformed> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| Malformed("a length is too large"));
            }
        }
        Err(Malformed("a length is too large"))
    }

    fn text(&mut self) -> Result<ByteString, Malformed> {
        let len = self.varint()?;
        ByteString::try_from(self.take(len)?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// The text of a field, when the flags say that it is there.
    fn text_of(&mut self, flags: u16, bit: u32) -> Result<Text, Malformed> {
        if flags & (1 << bit) == 0 { Ok(None) } else { self.text().map(Some) }
    }

    fn value(&mut self, depth: usize) -> Result<HeaderValue, Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed("values nest too deeply"))?;
        let [tag] = self.array()?;
        Ok(match tag {
            0 => HeaderValue::Null,
            1 => HeaderValue::Bool(false),
            2 => HeaderValue::Bool(true),
            3 => HeaderValue::Int(i64::from_le_bytes(self.array()?)),
            4 => HeaderValue::Float(f64::from_le_bytes(self.array()?)),
            5 => HeaderValue::Str(self.text()?),
            6 => {
                let len = self.varint()?;
                HeaderValue::Bytes(self.take(len)?)
            }
            7 => HeaderValue::Time(Timestamp::from_unix_us(i64::from_le_bytes(self.array()?))),
            8 => {
                let mut items = Vec::new();
                for _ in 0..self.varint()? {
                    items.push(self.value(depth)?);
                }
                HeaderValue::List(items)
            }
            9 => {
                let mut items = Vec::new();
                for _ in 0..self.varint()? {
                    items.push((self.text()?, self.value(depth)?));
                }
                HeaderValue::Map(items)
            }
            _ => return Err(Malformed("an unknown kind of value, written by a newer version")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busline_core::{Key, Topic};

    fn full() -> Message {
        let map =
            HeaderValue::Map(vec![("a".into(), HeaderValue::List(vec![1.into(), "x".into()]))]);
        let mut message = Message::new(Topic::new("t").unwrap(), Key::empty(), "")
            .header("text", "v")
            .header("text", HeaderValue::Null)
            .header("map", map)
            .header("bytes", Bytes::from_static(&[0, 255]))
            .header("float", 1.5)
            .header("yes", true)
            .header("no", false)
            .header("time", Timestamp::from_unix_us(-5))
            .content_type("application/json")
            .message_id("id-1");
        let p = &mut message.properties;
        let p = &mut **p;
        for text in [
            &mut p.correlation_id,
            &mut p.conversation_id,
            &mut p.causation_id,
            &mut p.reply_to,
            &mut p.content_encoding,
            &mut p.kind,
            &mut p.app_id,
            &mut message.ordering_key,
        ] {
            *text = Some("ünï".into());
        }
        p.timestamp = Some(Timestamp::from_unix_us(7));
        p.expiration = Some(Duration::from_millis(3));
        p.priority = Some(9);
        message
    }

    fn bytes(message: &Message) -> Bytes {
        let mut out = Vec::new();
        encode(message, &mut out);
        out.into()
    }

    #[test]
    fn everything_comes_back() {
        let message = full();
        let (properties, ordering_key, headers) = decode(&bytes(&message)).unwrap();
        assert_eq!(properties, message.properties);
        assert_eq!(ordering_key, message.ordering_key);
        assert_eq!(headers, message.headers);
        let bare = Message::new(Topic::new("t").unwrap(), Key::empty(), "");
        assert!(bytes(&bare).is_empty());
        assert_eq!(decode(&Bytes::new()).unwrap().0, Properties::default());
    }

    #[test]
    fn no_bytes_panic_or_pass_for_more_than_they_are() {
        let good = bytes(&full());
        for cut in 1..good.len() {
            assert!(decode(&good.slice(..cut)).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[at] ^= 1 << bit;
                let _ = decode(&bad.into());
            }
        }
        let deep: Vec<u8> = [&HAS_HEADERS.to_le_bytes()[..], &[1, 1, b'n']].concat();
        let deep = [deep, [8, 1].repeat(10_000)].concat();
        assert_eq!(decode(&deep.into()).unwrap_err(), Malformed("values nest too deeply"));
        let many = [&HAS_HEADERS.to_le_bytes()[..], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        assert!(decode(&many.into()).is_err());
    }

    #[test]
    fn a_redriven_message_is_for_one_group() {
        let message = full().header(dead::HEADER_ONLY_GROUP, "alerts");
        assert!(is_for_group(&bytes(&message), "alerts"));
        assert!(!is_for_group(&bytes(&message), "statistics"));
        assert!(is_for_group(&bytes(&full()), "statistics") && is_for_group(&[], "any"));
        assert_eq!(ordering_key(b"k", &bytes(&full())), "ünï".as_bytes());
        assert_eq!(ordering_key(b"k", &[]), b"k");
    }
}
