//! Values as payloads, through the port's codecs and by the libraries below them alone.

use std::hint::black_box;
use std::time::Duration;

use busline_core::codec::Codec;
use busline_core::{Key, Message, Topic};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::log::failed;
use crate::measure::timed;
use crate::report::{Figure, Report};
use crate::{Result, Setup};

const TABLE: &str = "Typed payloads: a value of five fields, some 150 B";

/// Ours and the bare library take turns by this many.
const TURN: u64 = 1000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: String,
    items: Vec<Item>,
    total_cents: u64,
    note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Item {
    sku: String,
    quantity: u32,
}

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let turns = setup.scaled(200, 10);
    let json = Format {
        name: "JSON",
        codec: Codec::Json,
        encode: |order| serde_json::to_vec(order).map_err(failed),
        decode: |bytes| serde_json::from_slice(bytes).map_err(failed),
    };
    let cbor = Format {
        name: "CBOR",
        codec: Codec::Cbor,
        encode: |order| cbor2::to_vec(order).map_err(failed),
        decode: |bytes| cbor2::from_reader(bytes).map_err(failed),
    };
    for format in [json, cbor] {
        let [[ours_in, bare_in], [ours_out, bare_out]] = format.measure(turns)?;
        for (work, ours, bare) in [("encode", ours_in, bare_in), ("decode", ours_out, bare_out)] {
            report.add(Figure {
                table: TABLE,
                work: format!("{work} {}", format.name),
                durability: "",
                unit: "ns/msg",
                busline: ns_each(ours, turns * TURN),
                beside: ("the library by itself", ns_each(bare, turns * TURN)),
            });
        }
    }
    Ok(())
}

/// A payload format, ours and bare.
struct Format {
    name: &'static str,
    codec: Codec,
    encode: fn(&Order) -> Result<Vec<u8>>,
    decode: fn(&[u8]) -> Result<Order>,
}

impl Format {
    /// Encoding and decoding, each ours and bare.
    fn measure(&self, turns: u64) -> Result<[[Duration; 2]; 2]> {
        let order = order();
        let mut message = message()?.encode(self.codec, &order).map_err(failed)?;
        let bytes = (self.encode)(&order)?;
        let back: Order = message.decode().map_err(failed)?;
        if message.payload != bytes || back != order || (self.decode)(&bytes)? != order {
            return Err(format!("{}: the two do not do the same", self.name));
        }
        let mut took = [[Duration::ZERO; 2]; 2];
        for _ in 0..turns {
            took[0][0] += repeat(|| {
                message.payload = self.codec.encode(black_box(&order)).map_err(failed)?;
                Ok(())
            })?;
            took[0][1] +=
                repeat(|| (self.encode)(black_box(&order)).map(|bytes| drop(black_box(bytes))))?;
            took[1][0] += repeat(|| {
                let order: Order = black_box(&message).decode().map_err(failed)?;
                drop(black_box(order));
                Ok(())
            })?;
            took[1][1] +=
                repeat(|| (self.decode)(black_box(&bytes)).map(|order| drop(black_box(order))))?;
        }
        Ok(took)
    }
}

fn repeat(mut operation: impl FnMut() -> Result<()>) -> Result<Duration> {
    let (done, took) = timed(|| (0..TURN).try_for_each(|_| operation()));
    done.map(|()| took)
}

fn message() -> Result<Message> {
    let topic = Topic::new("orders").map_err(failed)?;
    let key = Key::try_from("order.created").map_err(failed)?;
    Ok(Message::new(topic, key, Bytes::new()))
}

fn order() -> Order {
    let item = |number: u32| Item { sku: format!("sku-{number:05}"), quantity: number };
    Order {
        id: 4_711,
        customer: "Grace Hopper".to_owned(),
        items: (1..4).map(item).collect(),
        total_cents: 129_900,
        note: Some("leave it at the door".to_owned()),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn ns_each(took: Duration, messages: u64) -> f64 {
    took.as_secs_f64() * 1e9 / messages as f64
}
