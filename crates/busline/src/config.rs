//! How a bus is opened: the long form of a URL.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Dialect, Options, TopologyMode, Transport};
use busline_core::{Error, ErrorKind, Result};
use busline_transports::{BusUrl, Registry};
use serde::Deserialize;

/// What a program says about the bus it opens; a URL is its short form.
///
/// Read from TOML or any other format through serde. `Debug` shows no secret.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BusConfig {
    /// The brokers, tried in turn; all must lead to the same bus.
    #[serde(alias = "url", deserialize_with = "one_or_many")]
    pub urls: Vec<String>,
    /// The name by which operators recognise this program.
    #[serde(default)]
    pub client_name: String,
    /// Whether missing topics and groups are created, missed, or not looked for.
    #[serde(default, deserialize_with = "topology")]
    pub topology: TopologyMode,
    /// The wire conventions, where the URLs do not say: `dialect = "eventail"`.
    #[serde(default, deserialize_with = "dialect")]
    pub dialect: Dialect,
    /// The most messages accepted and not receipted yet, where the session can be lost and they are
    /// kept to be sent again; `file:` has a `window` of its own in its URL.
    #[serde(default = "window")]
    pub window: usize,
    /// Settings of the transports that do not stand in the URLs: `options.queue = "quorum"`. Each URL gets
    /// all of them.
    #[serde(default, deserialize_with = "options")]
    pub options: Options,
    /// How long the first connect may take, in milliseconds.
    #[serde(default = "first_connect_ms_max")]
    pub first_connect_ms_max: u64,
}

fn window() -> usize {
    4096
}

fn first_connect_ms_max() -> u64 {
    10_000
}

impl BusConfig {
    /// The defaults for a URL; a comma separates several.
    pub fn new(urls: &str) -> Self {
        Self {
            urls: urls.split(',').map(|url| url.trim().to_owned()).collect(),
            client_name: String::new(),
            topology: TopologyMode::default(),
            dialect: Dialect::default(),
            window: window(),
            options: Options::new(),
            first_connect_ms_max: first_connect_ms_max(),
        }
    }

    /// How long the first connect may take.
    pub fn first_connect_max(&self) -> Duration {
        Duration::from_millis(self.first_connect_ms_max)
    }

    /// Checks what can be checked without connecting.
    pub fn check(&self) -> Result<()> {
        if self.urls.is_empty() {
            return Err(Error::new(ErrorKind::Limit, "the configuration names no URL")
                .hint("set urls = [\"file:./bus\"]"));
        }
        self.urls.iter().try_for_each(|url| BusUrl::parse(url).map(drop))
    }

    /// The transports that it names.
    pub(crate) fn transports(&self, registry: &Registry) -> Result<Vec<Arc<dyn Transport>>> {
        self.check()?;
        self.urls.iter().map(|url| registry.open_with(url, &self.options)).collect()
    }
}

impl fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self
            .urls
            .iter()
            .map(|url| {
                BusUrl::parse(url).map_or_else(|_| "not a URL".to_owned(), |u| u.to_string())
            })
            .collect();
        f.debug_struct("BusConfig")
            .field("urls", &urls)
            .field("client_name", &self.client_name)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

impl From<&str> for BusConfig {
    fn from(urls: &str) -> Self {
        Self::new(urls)
    }
}

impl From<String> for BusConfig {
    fn from(urls: String) -> Self {
        Self::new(&urls)
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Urls {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Urls::deserialize(deserializer)? {
        Urls::One(url) => BusConfig::new(&url).urls,
        Urls::Many(urls) => urls,
    })
}

/// Texts, numbers and truth values, as text.
fn options<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Options, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Bool(bool),
        Int(i64),
        Float(f64),
        Text(String),
    }
    let given = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
    let text = |value| match value {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Float(value) => value.to_string(),
        Scalar::Text(value) => value,
    };
    Ok(given.into_iter().map(|(name, value)| (name, text(value))).collect())
}

fn dialect<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Dialect, D::Error> {
    let name = String::deserialize(deserializer)?;
    Dialect::parse(&name)
        .ok_or_else(|| serde::de::Error::custom(format!("there is no dialect '{name}'")))
}

fn topology<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<TopologyMode, D::Error> {
    let mode = String::deserialize(deserializer)?;
    match mode.as_str() {
        "create" => Ok(TopologyMode::Create),
        "verify" => Ok(TopologyMode::Verify),
        "assume" => Ok(TopologyMode::Assume),
        _ => Err(serde::de::Error::unknown_variant(&mode, &["create", "verify", "assume"])),
    }
}
