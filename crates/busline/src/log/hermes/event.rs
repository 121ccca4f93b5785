//! The event: seven fields on the wire, and where it was read.

use std::fmt;

use busline_core::{Error, ErrorKind, Key, Message, Offset, Record, Result, Timestamp, Topic};

use super::schema::DataSchema;
use super::show;
use super::value::{Map, Value};
use super::{BASE, INITSYNC, read, write};

/// The newest version whose texts are known.
const VERSION: (u32, u32, u32) = (1, 0, 9);
const WRAPPER: [&str; 2] = ["__HERMES_VERSION__", "content"];

/// An event of Hermes.
///
/// Hermes validates nothing, so each field may hold anything; the methods give what it nearly always is.
/// `Debug` and `Display` show no attributes, which may be secret.
#[derive(Clone, PartialEq, Default)]
pub struct Event {
    /// `evcategory`: [`BASE`] or [`INITSYNC`]; the key of its message. May be null.
    pub category: Value,
    /// `eventtype`: what kind of event it is, see [`EventType`].
    pub event_type: Value,
    /// `objtype`: the name of the type of the object; null where an event is of none.
    pub object_type: Value,
    /// `objpkey`: the primary key of the object, a list for a composite one; null where an event is of none.
    pub key: Value,
    /// `objattrs`: what the event carries.
    pub attributes: Value,
    /// `step`: where a client was when it failed; always 0 on a bus.
    pub step: Value,
    /// `isPartiallyProcessed`: whether a client failed within it; always false on a bus.
    pub is_partially_processed: Value,
    /// Where it was read; not on the wire.
    pub offset: Option<Offset>,
    /// When the bus took it, where it was read; not on the wire.
    pub timestamp: Option<Timestamp>,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventType {
    /// `added`: an object is new.
    Added,
    /// `modified`: attributes of an object changed.
    Modified,
    /// `removed`: an object is gone.
    Removed,
    /// `dataschema`: from here on objects have these types.
    DataSchema,
    /// `init-start`: the sequence for new clients begins.
    InitStart,
    /// `init-stop`: it ends.
    InitStop,
}

impl EventType {
    const ALL: [Self; 6] = [
        Self::Added,
        Self::Modified,
        Self::Removed,
        Self::DataSchema,
        Self::InitStart,
        Self::InitStop,
    ];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Removed => "removed",
            Self::DataSchema => "dataschema",
            Self::InitStart => "init-start",
            Self::InitStop => "init-stop",
        }
    }
}

/// What changed of an object: the payload of a `modified` event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// New attributes with their values.
    pub added: Map,
    /// Changed attributes with their new values.
    pub modified: Map,
    /// Attributes that are gone, each with null.
    pub removed: Map,
}

impl Event {
    /// Of category `base`, with these fields.
    fn new(event_type: EventType, object_type: Value, key: Value, attributes: Map) -> Self {
        Self {
            category: BASE.into(),
            event_type: event_type.as_str().into(),
            object_type,
            key,
            attributes: attributes.into(),
            step: 0.into(),
            is_partially_processed: false.into(),
            offset: None,
            timestamp: None,
        }
    }

    /// An object is new. Its attributes hold its key under its own name too; clients read it there.
    pub fn added(object_type: &str, key: impl Into<Value>, attributes: Map) -> Self {
        Self::new(EventType::Added, object_type.into(), key.into(), attributes)
    }

    /// An object changed. The names within each part are sorted, as Hermes does.
    pub fn modified(object_type: &str, key: impl Into<Value>, changes: Changes) -> Self {
        let attributes = Map::new()
            .with("added", changes.added.sorted())
            .with("modified", changes.modified.sorted())
            .with("removed", changes.removed.sorted());
        Self::new(EventType::Modified, object_type.into(), key.into(), attributes)
    }

    /// An object is gone.
    pub fn removed(object_type: &str, key: impl Into<Value>) -> Self {
        Self::new(EventType::Removed, object_type.into(), key.into(), Map::new())
    }

    /// From here on objects have these types.
    pub fn data_schema(schema: &DataSchema) -> Self {
        Self::new(EventType::DataSchema, Value::Null, Value::Null, schema.to_map())
    }

    /// The sequence for new clients begins; behind it come `added` events, then [`Event::init_stop`].
    pub fn init_start(schema: &DataSchema) -> Self {
        let event = Self::new(EventType::InitStart, Value::Null, Value::Null, schema.to_map());
        event.in_initsync()
    }

    /// The sequence for new clients ends.
    pub fn init_stop() -> Self {
        Self::new(EventType::InitStop, Value::Null, Value::Null, Map::new()).in_initsync()
    }

    /// The same event as part of the sequence for new clients.
    #[must_use]
    pub fn in_initsync(mut self) -> Self {
        self.category = INITSYNC.into();
        self
    }

    /// The category, when it is text.
    pub fn category(&self) -> Option<&str> {
        self.category.as_str()
    }

    /// The kind of event, when it is a known one.
    pub fn event_type(&self) -> Option<EventType> {
        let name = self.event_type.as_str()?;
        EventType::ALL.into_iter().find(|known| known.as_str() == name)
    }

    /// The name of the type of its object, when there is one.
    pub fn object_type(&self) -> Option<&str> {
        self.object_type.as_str()
    }

    /// What it carries, when it is an object.
    pub fn attributes(&self) -> Option<&Map> {
        self.attributes.as_map()
    }

    /// What changed, of a `modified` event; `Limit` when one of its three parts is missing.
    pub fn changes(&self) -> Result<Changes> {
        let part = |name: &str| {
            let found = self.attributes().and_then(|all| all.get(name)).and_then(Value::as_map);
            found.cloned().ok_or_else(|| wrong(format!("{self} has no object '{name}'")))
        };
        Ok(Changes {
            added: part("added")?,
            modified: part("modified")?,
            removed: part("removed")?,
        })
    }

    /// The text that travels, byte for byte as Hermes writes it; `Limit` when it nests too deeply.
    pub fn to_json(&self) -> Result<String> {
        let members = [
            ("evcategory", &self.category),
            ("eventtype", &self.event_type),
            ("objtype", &self.object_type),
            ("objpkey", &self.key),
            ("objattrs", &self.attributes),
            ("step", &self.step),
            ("isPartiallyProcessed", &self.is_partially_processed),
        ];
        write::members(&members).map_err(wrong)
    }

    /// Reads a text, as Hermes does: any layout and order, unknown names ignored, the last of a name
    /// taken, long integers, `NaN` and `Infinity` kept, markers of dates and bytes replaced wherever they stand as
    /// values, versioned wrappers taken off.
    ///
    /// `Limit` says why it is no event: no JSON, no object, no `objpkey`, a version that nobody knows. Other
    /// fields that are missing are null, as nobody has seen them; `step` is 0 then, and without
    /// `isPartiallyProcessed` that is whether `step` is something else than 0.
    pub fn from_json(text: &str) -> Result<Self> {
        match read::value(text).map_err(|why| wrong(format!("the text is no JSON: {why}")))? {
            Value::Map(map) => Self::from_map(unwrapped(map)?),
            other => Err(wrong(format!("the text is {}, not an object", other.kind()))),
        }
    }

    /// As [`Event::from_json`], from an object that was read already; markers in it stay texts.
    pub fn from_map(mut map: Map) -> Result<Self> {
        let key = map.remove("objpkey").ok_or_else(|| wrong("the object has no 'objpkey'"))?;
        let given_step = map.remove("step");
        let failed = given_step.as_ref().is_some_and(|step| !step.is_zero());
        let mut take = |name: &str| map.remove(name).unwrap_or_default();
        let event = Self {
            category: take("evcategory"),
            event_type: take("eventtype"),
            object_type: take("objtype"),
            key,
            attributes: take("objattrs"),
            step: given_step.unwrap_or_else(|| 0.into()),
            is_partially_processed: Value::Null,
            offset: None,
            timestamp: None,
        };
        let is_partially_processed = map.remove("isPartiallyProcessed");
        Ok(Self {
            is_partially_processed: is_partially_processed.unwrap_or_else(|| failed.into()),
            ..event
        })
    }

    /// A message to a topic: the category is the key, null is none, and there is nothing beside, as a bus of Hermes
    /// has no place for it. `Limit` when the category is no text or
    /// too long for a key.
    pub fn to_message(&self, topic: Topic) -> Result<Message> {
        let key = match &self.category {
            Value::Null => Key::empty(),
            category => {
                let text = category.as_str();
                let text = text.ok_or_else(|| wrong("its category is no text and no null"))?;
                Key::new(text)?
            }
        };
        Ok(Message::new(topic, key, self.to_json()?))
    }

    /// Reads a record of a log; the event knows where it stands there. The text counts, not the key.
    pub fn from_record(record: &Record) -> Result<Self> {
        let text = std::str::from_utf8(&record.message.payload);
        let text = text.map_err(|cause| wrong("the payload is no UTF-8").source(cause))?;
        let event = Self::from_json(text)?;
        Ok(Self { offset: Some(record.offset.clone()), timestamp: Some(record.time), ..event })
    }
}

impl fmt::Display for Event {
    /// As Hermes shows it in its logs, as `<Event(SRVUsers_modified[1])>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Event(")?;
        if self.category != Value::from(BASE) {
            write!(f, "{}_", show::plain(&self.category))?;
        }
        if !self.object_type.is_null() {
            write!(f, "{}_", show::plain(&self.object_type))?;
        }
        f.write_str(&show::plain(&self.event_type))?;
        if !self.object_type.is_null() {
            write!(f, "[{}]", show::key(&self.key))?;
        }
        f.write_str(")>")
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} with {}", show::size(&self.attributes))?;
        match &self.offset {
            Some(offset) => write!(f, " at {offset}"),
            None => Ok(()),
        }
    }
}

/// Takes a versioned wrapper off: exactly two members make one.
fn unwrapped(mut map: Map) -> Result<Map> {
    if map.len() != 2 || WRAPPER.iter().any(|name| map.get(name).is_none()) {
        return Ok(map);
    }
    let [version, content] = WRAPPER.map(|name| map.remove(name).unwrap_or_default());
    if !version.as_str().is_some_and(is_known) {
        let said = show::plain(&version);
        return Err(wrong(format!("the text is of version '{said}', which is not known"))
            .hint("versions up to 1.0.9 are"));
    }
    match content {
        Value::Map(content) => Ok(content),
        other => Err(wrong(format!("the content is {}, not an object", other.kind()))),
    }
}

/// Whether it is a version up to the newest known, or a first one that came before 1.0.0.
fn is_known(version: &str) -> bool {
    let number = |text: &str| match text.starts_with('0') && text.len() > 1 {
        true => None,
        false if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse::<u32>().ok(),
        false => None,
    };
    let (release, stage) = version.split_once('-').unwrap_or((version, ""));
    let parts: Vec<_> = release.split('.').map(number).collect();
    let [Some(major), Some(minor), Some(patch)] = parts[..] else { return false };
    let release = (major, minor, patch);
    match stage.split_once('.') {
        None => stage.is_empty() && ((1, 0, 0)..=VERSION).contains(&release),
        Some((stage, count)) => {
            release == (1, 0, 0)
                && matches!(stage, "alpha" | "beta" | "rc")
                && number(count).is_some_and(|count| count > 0)
        }
    }
}

fn wrong(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Limit, why).during("hermes event")
}
