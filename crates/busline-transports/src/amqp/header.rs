//! Header values as entries of AMQP tables, and back.

use busline_core::{HeaderValue, Headers, Timestamp};
use bytes::Bytes;
use bytestring::ByteString;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// As an entry of the table, for whoever reads it there.
pub(super) fn native(value: &HeaderValue) -> busline_core::Result<AMQPValue> {
    Ok(match value {
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::Int(value) => AMQPValue::LongLongInt(*value),
        // The broker cannot read any other, and ends the connection.
        HeaderValue::Float(value) if value.is_finite() => AMQPValue::Double(*value),
        HeaderValue::Str(value) => AMQPValue::LongString(value.as_bytes().to_vec().into()),
        HeaderValue::Bytes(value) => AMQPValue::ByteArray(value.to_vec().into()),
        HeaderValue::Time(value) => match u64::try_from(value.unix_us() / 1_000_000) {
            Ok(seconds) => AMQPValue::Timestamp(seconds),
            Err(_) => AMQPValue::LongLongInt(value.unix_us() / 1_000_000),
        },
        HeaderValue::List(items) => {
            let items: busline_core::Result<Vec<_>> = items.iter().map(native).collect();
            AMQPValue::FieldArray(items?.into())
        }
        HeaderValue::Map(items) => {
            let mut table = FieldTable::default();
            for (name, value) in items {
                table.insert(super::names::short(name)?, native(value)?);
            }
            AMQPValue::FieldTable(table)
        }
        // Null, numbers that are none, and what later versions of the port may add.
        _ => AMQPValue::Void,
    })
}

/// The entries of a table as headers.
pub(super) fn plain<'a>(
    table: impl Iterator<Item = (&'a ShortString, &'a AMQPValue)>,
    wanted: impl Fn(&str) -> bool,
) -> Headers {
    let wanted = table.filter(|(name, _)| wanted(name.as_str()));
    wanted.map(|(name, value)| (ByteString::from(name.as_str()), header(value, 0))).collect()
}

/// Deeper is what no sender of ours may send; it arrives without its depths.
const DEPTH_MAX: usize = 32;

fn header(value: &AMQPValue, depth: usize) -> HeaderValue {
    if let Some(int) = integer(value) {
        return HeaderValue::Int(int);
    }
    match value {
        AMQPValue::Boolean(value) => HeaderValue::Bool(*value),
        AMQPValue::Float(value) => HeaderValue::Float((*value).into()),
        AMQPValue::Double(value) => HeaderValue::Float(*value),
        AMQPValue::DecimalValue(value) => {
            HeaderValue::Float(f64::from(value.value) / 10_f64.powi(value.scale.into()))
        }
        AMQPValue::ShortString(text) => HeaderValue::Str(text.as_str().into()),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => HeaderValue::Str(text.into()),
            Err(_) => HeaderValue::Bytes(Bytes::copy_from_slice(text.as_bytes())),
        },
        AMQPValue::ByteArray(bytes) => HeaderValue::Bytes(Bytes::copy_from_slice(bytes.as_slice())),
        AMQPValue::Timestamp(seconds) => {
            let seconds = i64::try_from(*seconds).unwrap_or(i64::MAX);
            HeaderValue::Time(Timestamp::from_unix_us(seconds.saturating_mul(1_000_000)))
        }
        AMQPValue::FieldArray(items) if depth < DEPTH_MAX => {
            HeaderValue::List(items.as_slice().iter().map(|item| header(item, depth + 1)).collect())
        }
        AMQPValue::FieldTable(table) if depth < DEPTH_MAX => {
            let entry = |(name, value): (&ShortString, &AMQPValue)| {
                (ByteString::from(name.as_str()), header(value, depth + 1))
            };
            HeaderValue::Map(table.inner().iter().map(entry).collect())
        }
        _ => HeaderValue::Null,
    }
}

/// Any integer of AMQP's.
pub(super) fn integer(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => *value,
        _ => return None,
    })
}
