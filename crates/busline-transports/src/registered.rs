//! Transports of others: registered under a scheme, beside those of this build.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use busline_core::transport::{Options, Transport};
use busline_core::{Error, ErrorKind, Result};

use crate::registry;
use crate::settings::{Schema, Settings};
use crate::url::BusUrl;

/// Opens the transports of a scheme.
pub trait TransportFactory: fmt::Debug + Send + Sync + 'static {
    /// The scheme of its URLs, in lower case, as `pigeon` for `pigeon:loft`.
    fn scheme(&self) -> &str;

    /// What its URLs and configurations may set.
    fn schema(&self) -> Schema;

    /// A transport; it connects to nothing yet. The settings keep to the schema, the URL has its address.
    fn open(&self, url: &BusUrl, settings: &Settings) -> Result<Arc<dyn Transport>>;
}

/// Which transport opens which URL: those of this build, and those that were registered. There is none that all
/// share: who opens a bus says by which it is opened.
#[derive(Debug, Clone, Default)]
pub struct Registry(BTreeMap<String, (Schema, Arc<dyn TransportFactory>)>);

impl Registry {
    /// Only those of this build.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more. `Conflict` when its scheme is taken or its schema cannot be kept, `Limit` when the scheme
    /// is none.
    pub fn with(mut self, factory: impl TransportFactory) -> Result<Self> {
        let scheme = factory.scheme().to_owned();
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.chars().all(is_word) {
            let why = format!("'{}' is no scheme", scheme.escape_debug());
            return Err(Error::new(ErrorKind::Limit, why)
                .hint("a scheme is lower-case letters, digits, '+', '-' and '.'"));
        }
        if registry::schemes().any(|known| known == scheme) || self.0.contains_key(&scheme) {
            let why = format!("there is a transport for the scheme '{scheme}:' already");
            return Err(Error::new(ErrorKind::Conflict, why).hint("choose another scheme"));
        }
        let schema = factory.schema();
        schema.check_itself(&scheme)?;
        self.0.insert(scheme, (schema, Arc::new(factory)));
        Ok(self)
    }

    /// The schemes that can be opened.
    pub fn schemes(&self) -> Vec<&str> {
        let mut schemes: Vec<&str> = registry::schemes().collect();
        schemes.extend(self.0.keys().map(String::as_str));
        schemes
    }

    /// The transport of a URL. Opens nothing yet; `Limit` names what is wrong with scheme or settings.
    pub fn open(&self, url: &str) -> Result<Arc<dyn Transport>> {
        self.open_with(url, &Options::new())
    }

    /// As [`Registry::open`], with settings that do not stand in the URL; what stands in both is refused.
    pub fn open_with(&self, url: &str, more: &Options) -> Result<Arc<dyn Transport>> {
        let mut url = BusUrl::parse(url)?;
        for (name, value) in more {
            if url.options.insert(name.clone(), value.clone()).is_some() {
                let why = format!("the setting '{name}' is given twice");
                return Err(Error::new(ErrorKind::Limit, why)
                    .context("url", &url)
                    .hint("set it in the URL or beside it"));
            }
        }
        match self.0.get(&url.scheme) {
            Some((schema, factory)) => {
                let settings = schema.check(&url.scheme, &url.options)?;
                factory.open(&url, &settings)
            }
            None => registry::open_url(url).map_err(|error| match self.0.is_empty() {
                true => error,
                false => error.context("registered", self.names()),
            }),
        }
    }

    fn names(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}
