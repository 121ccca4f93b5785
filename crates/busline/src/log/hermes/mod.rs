//! Events of Hermes (1.0.9), as its servers write them and its clients read them.
//!
//! An [`Event`] becomes a message whose key is its category; [`Event::to_json`] is byte for byte what Hermes
//! writes for the same values, and [`Event::from_json`] takes what Hermes takes. Nothing here sends, waits or
//! reads a clock, and no input makes it panic or recurse without a bound.
//!
//! ```
//! use busline::log::hermes::{Event, Map};
//!
//! let attributes = Map::new().with("id", 1).with("login", "alice");
//! let event = Event::added("SRVUsers", 1, attributes);
//! let text = event.to_json()?;
//! assert!(text.starts_with("{\n    \"evcategory\": \"base\",\n"));
//! assert_eq!(Event::from_json(&text)?, event);
//! # Ok::<(), busline::Error>(())
//! ```

mod date;
mod event;
mod integer;
mod marker;
mod read;
mod schema;
mod show;
mod text;
mod typed;
mod value;
mod write;

pub use date::DateTime;
pub use event::{Changes, Event, EventType};
pub use integer::Integer;
pub use marker::Binary;
pub use schema::{DataSchema, ObjectSchema};
pub use text::Text;
pub use value::{Map, Value};

/// The category of what happens all the time.
pub const BASE: &str = "base";
/// The category of the sequence that a new client starts from.
pub const INITSYNC: &str = "initsync";

#[cfg(test)]
mod tests;
