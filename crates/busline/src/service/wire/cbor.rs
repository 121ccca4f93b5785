//! CBOR as Python's `cbor2` writes it by default.
//!
//! Lengths are definite, integers the shortest (tags 2 and 3 over 64 bits), maps in the order given;
//! finite floats have 64 bits, infinities and NaN 16.

use super::serialize::{Open, Sink, Unwritable, Written};

const UNSIGNED: u8 = 0 << 5;
const NEGATIVE: u8 = 1 << 5;
const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const MAP: u8 = 5 << 5;
const TAG: u8 = 6 << 5;
const SIMPLE: u8 = 7 << 5;

const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const FLOAT_16: u8 = 0xf9;
const FLOAT_64: u8 = 0xfb;
const SIMPLE_8: u8 = 0xf8;

const BIGNUM: u64 = 2;
const BIGNUM_NEGATIVE: u64 = 3;

#[derive(Debug, Default)]
pub(super) struct CborSink(Vec<u8>);

impl Sink for CborSink {
    const IS_HUMAN_READABLE: bool = false;

    fn null(&mut self) {
        self.0.push(NULL);
    }

    fn bool(&mut self, value: bool) {
        self.0.push(if value { TRUE } else { FALSE });
    }

    fn int(&mut self, is_negative: bool, magnitude: u128) {
        // CBOR writes -1 - n.
        let n = if is_negative { magnitude - 1 } else { magnitude };
        if let Ok(n) = u64::try_from(n) {
            self.head(if is_negative { NEGATIVE } else { UNSIGNED }, n);
            return;
        }
        self.head(TAG, if is_negative { BIGNUM_NEGATIVE } else { BIGNUM });
        let bytes = n.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        self.run(BYTES, &bytes[zeros..]);
    }

    fn float(&mut self, value: f64) {
        let half = match value {
            f64::INFINITY => [0x7c, 0x00],
            f64::NEG_INFINITY => [0xfc, 0x00],
            value if value.is_nan() => [0x7e, 0x00],
            value => {
                self.0.push(FLOAT_64);
                return self.0.extend_from_slice(&value.to_be_bytes());
            }
        };
        self.0.push(FLOAT_16);
        self.0.extend_from_slice(&half);
    }

    fn text(&mut self, value: &str) {
        self.run(TEXT, value.as_bytes());
    }

    fn bytes(&mut self, value: &[u8]) -> Written {
        self.run(BYTES, value);
        Ok(())
    }

    fn tag(&mut self, tag: u64) -> Written {
        self.head(TAG, tag);
        Ok(())
    }

    fn simple(&mut self, value: u8) -> Written {
        match value {
            0..=23 => self.0.push(SIMPLE | value),
            24..=31 => return Err(Unwritable(format!("{value} is no simple value"))),
            32.. => self.0.extend_from_slice(&[SIMPLE_8, value]),
        }
        Ok(())
    }

    fn open(&mut self, is_map: bool, len: Option<usize>) -> Open {
        let open = Open { is_map, len, at: self.0.len() };
        if let Some(len) = len {
            self.head(major(is_map), len as u64);
        }
        open
    }

    fn item(&mut self, _: usize) {}

    fn key_end(&mut self, _: usize) -> Written {
        Ok(())
    }

    fn close(&mut self, open: Open, count: usize) -> Written {
        match open.len {
            Some(len) if len == count => {}
            Some(len) => {
                let why = format!("a list or map of {len} items was given {count}");
                return Err(Unwritable(why));
            }
            // Only now is it known how many there are.
            None => {
                let mut head = Self::default();
                head.head(major(open.is_map), count as u64);
                self.0.splice(open.at..open.at, head.0);
            }
        }
        Ok(())
    }

    fn at(&self) -> usize {
        self.0.len()
    }

    fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl CborSink {
    fn run(&mut self, major: u8, bytes: &[u8]) {
        self.head(major, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// The shortest head for this number.
    fn head(&mut self, major: u8, number: u64) {
        let bytes = number.to_be_bytes();
        let (info, width) = match number {
            0..=23 => return self.0.push(major | bytes[7]),
            24..=0xff => (24, 1),
            0x100..=0xffff => (25, 2),
            0x1_0000..=0xffff_ffff => (26, 4),
            _ => (27, 8),
        };
        self.0.push(major | info);
        self.0.extend_from_slice(&bytes[8 - width..]);
    }
}

fn major(is_map: bool) -> u8 {
    if is_map { MAP } else { ARRAY }
}
