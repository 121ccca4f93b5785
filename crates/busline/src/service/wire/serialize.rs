//! One serializer for both formats: what it visits, a sink writes.

use std::fmt;

use serde::ser::{self, Serialize};

/// Why a value cannot be written.
#[derive(Debug)]
pub(super) struct Unwritable(pub(super) String);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unwritable {}

impl ser::Error for Unwritable {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self(why.to_string())
    }
}

pub(super) type Written<T = ()> = Result<T, Unwritable>;

/// A list or map that is being written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    pub(super) is_map: bool,
    /// As it was announced.
    pub(super) len: Option<usize>,
    /// Where it starts.
    pub(super) at: usize,
}

/// What a format makes of what the serializer visits.
pub(super) trait Sink {
    const IS_HUMAN_READABLE: bool;

    fn null(&mut self);
    fn bool(&mut self, value: bool);
    /// Any integer of 128 bits, as its sign and its magnitude.
    fn int(&mut self, is_negative: bool, magnitude: u128);
    fn float(&mut self, value: f64);
    fn text(&mut self, value: &str);
    fn bytes(&mut self, value: &[u8]) -> Written;
    /// The next value has this tag.
    fn tag(&mut self, tag: u64) -> Written;
    /// After the value that has a tag.
    fn tag_end(&mut self) -> Written {
        Ok(())
    }
    fn simple(&mut self, value: u8) -> Written;
    fn open(&mut self, is_map: bool, len: Option<usize>) -> Open;
    /// Before each item of a list, and each key of a map.
    fn item(&mut self, index: usize);
    /// After a key that starts there.
    fn key_end(&mut self, at: usize) -> Written;
    fn close(&mut self, open: Open, count: usize) -> Written;
    /// How much is written.
    fn at(&self) -> usize;
    fn into_bytes(self) -> Vec<u8>;
}

/// How the CBOR library's values smuggle what serde has no word for.
const TAG: &str = "@@TAG@@";
const TAGGED: &str = "@@TAGGED@@";
const SIMPLE: &str = "@@SIMPLE@@";

pub(super) struct Writer<'a, S>(pub(super) &'a mut S);

macro_rules! integers {
    ($($name:ident($type:ty) => |$v:ident| $negative:expr, $magnitude:expr;)*) => {$(
        fn $name(self, $v: $type) -> Written {
            self.0.int($negative, $magnitude);
            Ok(())
        }
    )*};
}

impl<'a, S: Sink> ser::Serializer for Writer<'a, S> {
    type Ok = ();
    type Error = Unwritable;
    type SerializeSeq = Compound<'a, S>;
    type SerializeTuple = Compound<'a, S>;
    type SerializeTupleStruct = Compound<'a, S>;
    type SerializeTupleVariant = Compound<'a, S>;
    type SerializeMap = Compound<'a, S>;
    type SerializeStruct = Compound<'a, S>;
    type SerializeStructVariant = Compound<'a, S>;

    integers! {
        serialize_i8(i8) => |v| v < 0, v.unsigned_abs().into();
        serialize_i16(i16) => |v| v < 0, v.unsigned_abs().into();
        serialize_i32(i32) => |v| v < 0, v.unsigned_abs().into();
        serialize_i64(i64) => |v| v < 0, v.unsigned_abs().into();
        serialize_i128(i128) => |v| v < 0, v.unsigned_abs();
        serialize_u8(u8) => |v| false, v.into();
        serialize_u16(u16) => |v| false, v.into();
        serialize_u32(u32) => |v| false, v.into();
        serialize_u64(u64) => |v| false, v.into();
        serialize_u128(u128) => |v| false, v;
    }

    fn serialize_bool(self, v: bool) -> Written {
        self.0.bool(v);
        Ok(())
    }

    fn serialize_f32(self, v: f32) -> Written {
        self.serialize_f64(v.into())
    }

    fn serialize_f64(self, v: f64) -> Written {
        self.0.float(v);
        Ok(())
    }

    fn serialize_char(self, v: char) -> Written {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, v: &str) -> Written {
        self.0.text(v);
        Ok(())
    }

    fn serialize_bytes(self, v: &[u8]) -> Written {
        self.0.bytes(v)
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Written {
        self.0.null();
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Written {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        if name == TAG {
            return value.serialize(self);
        }
        if name == SIMPLE {
            let simple = u8::try_from(number(value)?);
            return self.0.simple(simple.map_err(|_| Unwritable("no simple value".to_owned()))?);
        }
        let mut map = self.compound(true, Some(1));
        map.entry(variant, value)?;
        map.finish()
    }

    fn serialize_seq(self, len: Option<usize>) -> Written<Compound<'a, S>> {
        Ok(self.compound(false, len))
    }

    fn serialize_tuple(self, len: usize) -> Written<Compound<'a, S>> {
        Ok(self.compound(false, Some(len)))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Written<Compound<'a, S>> {
        Ok(self.compound(false, Some(len)))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Written<Compound<'a, S>> {
        if name == TAG && variant == TAGGED {
            let open = Open { is_map: false, len: Some(2), at: self.0.at() };
            return Ok(Compound { sink: self.0, open, count: 0, outer: Outer::Tag });
        }
        self.variant(variant, false, len)
    }

    fn serialize_map(self, len: Option<usize>) -> Written<Compound<'a, S>> {
        Ok(self.compound(true, len))
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Written<Compound<'a, S>> {
        Ok(self.compound(true, Some(len)))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Written<Compound<'a, S>> {
        self.variant(variant, true, len)
    }

    fn is_human_readable(&self) -> bool {
        S::IS_HUMAN_READABLE
    }
}

impl<'a, S: Sink> Writer<'a, S> {
    fn compound(self, is_map: bool, len: Option<usize>) -> Compound<'a, S> {
        let open = self.0.open(is_map, len);
        Compound { sink: self.0, open, count: 0, outer: Outer::None }
    }

    /// A map of one entry: the variant, and the list or map that is opened.
    fn variant(self, variant: &str, is_map: bool, len: usize) -> Written<Compound<'a, S>> {
        let outer = self.0.open(true, Some(1));
        self.0.item(0);
        let at = self.0.at();
        self.0.text(variant);
        self.0.key_end(at)?;
        let open = self.0.open(is_map, Some(len));
        Ok(Compound { sink: self.0, open, count: 0, outer: Outer::Variant(outer) })
    }
}

/// What a list or map stands in.
enum Outer {
    None,
    /// It is no list: the first item is the tag of the second.
    Tag,
    Variant(Open),
}

/// A list or map that is being written.
pub(super) struct Compound<'a, S> {
    sink: &'a mut S,
    open: Open,
    count: usize,
    outer: Outer,
}

impl<S: Sink> Compound<'_, S> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        match self.outer {
            Outer::Tag if self.count == 0 => self.sink.tag(number(value)?)?,
            Outer::Tag => {
                value.serialize(Writer(self.sink))?;
                self.sink.tag_end()?;
            }
            _ => {
                self.sink.item(self.count);
                value.serialize(Writer(self.sink))?;
            }
        }
        self.count += 1;
        Ok(())
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        self.sink.item(self.count);
        self.count += 1;
        let at = self.sink.at();
        key.serialize(Writer(self.sink))?;
        self.sink.key_end(at)
    }

    fn entry<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Written {
        self.key(key)?;
        value.serialize(Writer(self.sink))
    }

    fn finish(self) -> Written {
        if matches!(self.outer, Outer::Tag) {
            return Ok(());
        }
        self.sink.close(self.open, self.count)?;
        match self.outer {
            Outer::Variant(outer) => self.sink.close(outer, 1),
            _ => Ok(()),
        }
    }
}

macro_rules! lists {
    ($($trait:ident::$item:ident)*) => {$(
        impl<S: Sink> ser::$trait for Compound<'_, S> {
            type Ok = ();
            type Error = Unwritable;

            fn $item<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
                self.item(value)
            }

            fn end(self) -> Written {
                self.finish()
            }
        }
    )*};
}

lists! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! structs {
    ($($trait:ident)*) => {$(
        impl<S: Sink> ser::$trait for Compound<'_, S> {
            type Ok = ();
            type Error = Unwritable;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Written {
                self.entry(key, value)
            }

            fn end(self) -> Written {
                self.finish()
            }
        }
    )*};
}

structs! { SerializeStruct SerializeStructVariant }

impl<S: Sink> ser::SerializeMap for Compound<'_, S> {
    type Ok = ();
    type Error = Unwritable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        value.serialize(Writer(self.sink))
    }

    fn end(self) -> Written {
        self.finish()
    }
}

/// The number that a tag or a simple value is.
fn number<T: Serialize + ?Sized>(value: &T) -> Written<u64> {
    let mut sink = super::json::JsonSink::default();
    value.serialize(Writer(&mut sink))?;
    let text = String::from_utf8(sink.into_bytes()).unwrap_or_default();
    text.parse().map_err(|_| Unwritable(format!("{text} is no number of a tag")))
}
