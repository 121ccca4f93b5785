//! The registry: which transport opens which URL.

use std::sync::Arc;

use busline_core::memory::MemoryTransport;
use busline_core::store::{MemoryStore, StoreBackend};
use busline_core::transport::Transport;
use busline_core::{Capabilities, Clock, Error, ErrorKind, Result};

use crate::url::BusUrl;

/// One row of the registry.
struct Row {
    scheme: &'static str,
    example: &'static str,
    /// A URL for each profile that it shows in the matrix.
    profiles: &'static [&'static str],
    open: fn(BusUrl) -> Result<Arc<dyn Transport>>,
}

const ROWS: &[Row] = &[
    Row {
        scheme: "memory",
        example: "memory:name",
        profiles: &["memory:matrix"],
        open: open_memory,
    },
    #[cfg(all(feature = "file", unix))]
    Row {
        scheme: "file",
        example: "file:./bus",
        profiles: &["file:./bus"],
        open: crate::file::open,
    },
    #[cfg(feature = "amqp")]
    Row {
        scheme: "amqp",
        example: "amqp://localhost",
        profiles: &[
            "amqp://localhost",
            "amqp://localhost?queue=quorum",
            "amqp://localhost?replay=true",
            "amqp://localhost?dialect=eventail",
        ],
        open: crate::amqp::open,
    },
    #[cfg(feature = "amqp")]
    Row { scheme: "amqps", example: "amqps://localhost", profiles: &[], open: crate::amqp::open },
    #[cfg(feature = "kafka")]
    Row {
        scheme: "kafka",
        example: "kafka://localhost",
        profiles: &[
            "kafka://localhost",
            "kafka://localhost?partitions=4",
            "kafka://localhost?dialect=hermes",
        ],
        open: crate::kafka::open,
    },
    #[cfg(feature = "kafka-tls")]
    Row {
        scheme: "kafkas",
        example: "kafkas://localhost",
        profiles: &[],
        open: crate::kafka::open,
    },
    #[cfg(feature = "sqlite")]
    Row {
        scheme: "sqlite",
        example: "sqlite:./bus.db",
        profiles: &["sqlite:./bus.db", "sqlite:./bus.db?layout=hermes"],
        open: crate::sqlite::open,
    },
];

type OpenStore = fn(BusUrl, Arc<dyn Clock>) -> Result<Arc<dyn StoreBackend>>;

/// One row of what keeps temporary values.
struct StoreRow {
    scheme: &'static str,
    example: &'static str,
    open: OpenStore,
}

const STORES: &[StoreRow] = &[
    StoreRow { scheme: "memory", example: "memory:name", open: open_memory_store },
    #[cfg(all(feature = "file", unix))]
    StoreRow { scheme: "file", example: "file:./bus", open: crate::file::temporary::open },
    #[cfg(feature = "redis")]
    StoreRow { scheme: "redis", example: "redis://localhost/0", open: crate::redis::open },
    #[cfg(feature = "redis")]
    StoreRow { scheme: "rediss", example: "rediss://localhost/0", open: crate::redis::open },
    #[cfg(feature = "redis")]
    StoreRow {
        scheme: "redis+sentinel",
        example: "redis+sentinel://localhost:26379/service/0",
        open: crate::redis::open,
    },
];

/// Transports and stores that this build does not have, and why.
const ABSENT: &[(&str, &str)] = &[
    #[cfg(not(feature = "file"))]
    ("file", "this build lacks the feature 'file': build with it"),
    #[cfg(all(feature = "file", not(unix)))]
    ("file", "the embedded log needs a Unix system: use a broker, or memory:"),
    #[cfg(not(feature = "amqp"))]
    ("amqp", "this build lacks the feature 'amqp': build with it"),
    #[cfg(not(feature = "amqp"))]
    ("amqps", "this build lacks the feature 'amqp': build with it"),
    #[cfg(not(feature = "kafka"))]
    ("kafka", "this build lacks the feature 'kafka': build with it"),
    #[cfg(not(feature = "kafka-tls"))]
    ("kafkas", "this build lacks the feature 'kafka-tls': build with it"),
    #[cfg(not(feature = "sqlite"))]
    ("sqlite", "this build lacks the feature 'sqlite': build with it"),
    #[cfg(not(feature = "redis"))]
    ("redis", "this build lacks the feature 'redis': build with it"),
    #[cfg(not(feature = "redis"))]
    ("rediss", "this build lacks the feature 'redis': build with it"),
    #[cfg(not(feature = "redis"))]
    ("redis+sentinel", "this build lacks the feature 'redis': build with it"),
];

/// The transport of a URL. Opens nothing yet; unknown schemes and options are `Limit`.
pub fn open(url: &str) -> Result<Arc<dyn Transport>> {
    open_url(BusUrl::parse(url)?)
}

/// As [`open`], of a URL that was parsed.
pub(crate) fn open_url(url: BusUrl) -> Result<Arc<dyn Transport>> {
    if let Some(row) = ROWS.iter().find(|row| row.scheme == url.scheme) {
        return (row.open)(url);
    }
    Err(unknown("transport", &url, ROWS.iter().map(|row| row.example)))
}

/// The temporary store of a URL. Opens nothing yet; unknown schemes and options are `Limit`.
pub fn store(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn StoreBackend>> {
    let url = BusUrl::parse(url)?;
    match STORES.iter().find(|row| row.scheme == url.scheme) {
        Some(row) => (row.open)(url, clock),
        None => Err(unknown("store", &url, STORES.iter().map(|row| row.example))),
    }
}

fn unknown<'a>(what: &str, url: &BusUrl, examples: impl Iterator<Item = &'a str>) -> Error {
    let error = format!("no {what} for the scheme '{}:'", url.scheme);
    let known = || format!("this build knows {}", examples.collect::<Vec<_>>().join(", "));
    let absent = ABSENT.iter().find(|(scheme, _)| *scheme == url.scheme);
    let hint = absent.map_or_else(known, |(_, why)| (*why).to_owned());
    Error::new(ErrorKind::Limit, error).hint(hint)
}

/// The schemes that this build knows.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.scheme)
}

/// What each transport of this build promises at most, a column of the matrix each.
pub fn profiles() -> Vec<Capabilities> {
    let of = |url: &str| open(url).ok().map(|transport| transport.capabilities());
    ROWS.iter().flat_map(|row| row.profiles).filter_map(|url| of(url)).collect()
}

fn open_memory_store(url: BusUrl, clock: Arc<dyn Clock>) -> Result<Arc<dyn StoreBackend>> {
    let store = match url.address.as_str() {
        "" => MemoryStore::new(clock),
        name => MemoryStore::named(name, clock),
    };
    url.finish("none")?;
    Ok(Arc::new(store))
}

fn open_memory(mut url: BusUrl) -> Result<Arc<dyn Transport>> {
    let transport = match url.address.as_str() {
        "" => MemoryTransport::new(),
        name => MemoryTransport::named(name),
    };
    let dialect = url.take_dialect()?;
    url.finish("dialect")?;
    Ok(Arc::new(match dialect {
        Some(dialect) => transport.in_dialect(dialect),
        None => transport,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use busline_core::transport::Dialect;

    #[test]
    fn an_unknown_scheme_names_the_known_ones() {
        let error = open("carrier-pigeon:coop").unwrap_err().to_string();
        assert!(error.contains("no transport for the scheme 'carrier-pigeon:'"), "{error}");
        assert!(error.contains("memory:"), "{error}");
        assert!(open("memory:?x=1").unwrap_err().to_string().contains("has no option 'x'"));
        let error = open("memory:?dialect=klingon").unwrap_err().to_string();
        assert!(error.contains("dialect='klingon' is not busline, eventail"), "{error}");
        let spoken = |url: &str| open(url).unwrap().dialect();
        assert_eq!(spoken("memory:?dialect=eventail"), Some(Dialect::Eventail));
        assert_eq!(spoken("memory:"), None);
        let shown: usize = ROWS.iter().map(|row| row.profiles.len()).sum();
        assert_eq!(profiles().len(), shown);
    }
}
