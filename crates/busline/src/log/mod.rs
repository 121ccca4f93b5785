//! The log style: producers and consumers of a replayable log, whose places the reader keeps himself.
//!
//! A [`Producer`] sends messages of a category, which is their key. A [`Consumer`] reads the log of a topic from any place, on any
//! bus that has one, settles nothing and disturbs nobody: it seeks, waits as long as it is told, and finds the next message
//! of a category without looking into the others. Where it stands is an [`Offset`](crate::Offset), which is text
//! when it is kept.
//!
//! ```
//! use std::time::Duration;
//! use busline::log::{Consumer, Producer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> busline::Result<()> {
//! let bus = busline::Bus::open("memory:").await?;
//! let producer = Producer::on(&bus, "people").await?;
//! producer.send("base", "hello").await?; // resolves when it is stored
//! producer.send("rare", "there").await?;
//!
//! let mut consumer = Consumer::on(&bus, "people")?.timeout(Duration::ZERO);
//! let found = consumer.find_next("rare").await?.expect("it is there");
//! let kept = found.offset.next().to_string(); // where to go on, some other day
//! assert!(consumer.next().await?.is_none());
//! consumer.seek_to_beginning().await?;
//! assert_eq!(consumer.next().await?.expect("the first").message.payload, "hello");
//! consumer.seek(&kept.parse()?).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Code without async has [`blocking`]. Events of Hermes are [`hermes`].

pub mod blocking;
mod consumer;
pub mod hermes;
mod place;
mod producer;

pub use consumer::{Consumer, OnUnreadable};
pub use producer::Producer;
