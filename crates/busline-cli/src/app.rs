//! What every verb has at hand: the global options, the output, the bus.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use busline::{Bus, BusConfig, Clock, SystemClock};

use crate::args::Global;
use crate::exit::{Failure, Outcome};
use crate::output::Output;
use crate::signal::Stop;

/// Where the bus is when nobody says.
pub(crate) const DEFAULT_URL: &str = "file:./busline-data";

/// How long closing may take: what was accepted and settled is flushed by then.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(10);

/// What every verb has at hand.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) global: Global,
    pub(crate) out: Output,
    pub(crate) stop: Stop,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Whether opening may make a bus where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is made.
    Create,
    /// It is an error: looking leaves nothing behind.
    Fail,
}

impl App {
    pub(crate) fn new(global: Global, stop: Stop) -> Self {
        let out = Output::new(global.json);
        Self { global, out, stop, clock: SystemClock::shared() }
    }

    /// Whether a bus was named, rather than left to the default.
    pub(crate) fn names_bus(&self) -> bool {
        !self.global.bus.is_empty()
            || self.global.config.is_some()
            || url_of_environment().is_some()
    }

    /// How the bus is opened: `--bus`, then `--config`, then `BUSLINE_URL`, then the default.
    pub(crate) fn config(&self, missing: Missing) -> Outcome<BusConfig> {
        let named = if self.global.bus.is_empty() { None } else { Some(self.global.bus.join(",")) };
        let mut config = match &self.global.config {
            Some(path) => read_config(path, named.as_deref())?,
            None => {
                let url = named.or_else(url_of_environment);
                BusConfig::new(url.as_deref().unwrap_or(DEFAULT_URL))
            }
        };
        if config.client_name.is_empty() {
            "busline-cli".clone_into(&mut config.client_name);
        }
        if missing == Missing::Fail {
            config.urls.iter_mut().for_each(|url| *url = without_creating(url));
        }
        Ok(config)
    }

    /// Opens the bus. A signal ends the wait for one that cannot be reached.
    pub(crate) async fn open(&self, missing: Missing) -> Outcome<Bus> {
        self.connect(self.config(missing)?, missing).await
    }

    /// Opens another bus than the one of the global options.
    pub(crate) async fn open_at(&self, url: &str, missing: Missing) -> Outcome<Bus> {
        let mut config = match missing {
            Missing::Create => BusConfig::new(url),
            Missing::Fail => BusConfig::new(&without_creating(url)),
        };
        "busline-cli".clone_into(&mut config.client_name);
        self.connect(config, missing).await
    }

    async fn connect(&self, config: BusConfig, missing: Missing) -> Outcome<Bus> {
        let mut stop = self.stop.clone();
        let opened = tokio::select! {
            opened = Bus::connect(config) => opened,
            () = stop.requested() => return Err(Failure::Stopped),
        };
        let opened = opened.map_err(|error| match missing {
            // Nobody typed the option that the error would advise against.
            Missing::Fail if error.message().starts_with("there is no bus") => {
                error.hint("check --bus; publishing, or consuming, makes a bus")
            }
            _ => error,
        });
        Ok(opened?)
    }

    /// Flushes what was accepted, settled and printed.
    pub(crate) async fn close(&mut self, bus: &Bus) -> Outcome {
        let flushed = self.out.flush();
        bus.close(CLOSE_MAX).await?;
        Ok(flushed?)
    }
}

/// The directory of an embedded bus.
pub(crate) fn directory_of(url: &str) -> Option<PathBuf> {
    let (scheme, rest) = url.split_once(':')?;
    let path = rest.split('?').next()?;
    let path = path.strip_prefix("//").unwrap_or(path);
    scheme.eq_ignore_ascii_case("file").then(|| PathBuf::from(path))
}

/// The URL of an embedded bus in a directory; `None` when its name is not UTF-8.
pub(crate) fn url_of(directory: &Path) -> Option<String> {
    let mut url = "file:".to_owned();
    for c in directory.to_str()?.chars() {
        match c {
            // What has a meaning of its own in a URL, or in a list of them.
            '%' | '?' | ',' | '#' => url.push_str(&format!("%{:02X}", u32::from(c))),
            c => url.push(c),
        }
    }
    Some(url)
}

fn url_of_environment() -> Option<String> {
    std::env::var("BUSLINE_URL").ok().filter(|url| !url.is_empty())
}

/// The TOML file with the fields of `BusConfig`; URLs on the command line win.
fn read_config(path: &Path, urls: Option<&str>) -> Outcome<BusConfig> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    let wrong = |error: toml::de::Error| {
        let line = error.span().and_then(|span| text.get(..span.start));
        let line = line.map(|before| 1 + before.matches('\n').count());
        let line = line.map_or(String::new(), |line| format!(" line {line}"));
        Failure::usage(format!("{}{line}: {}", path.display(), error.message()))
    };
    let mut table: toml::Table = toml::from_str(&text).map_err(wrong)?;
    if let Some(urls) = urls {
        table.remove("url");
        table.insert("urls".to_owned(), urls.into());
    } else if !table.contains_key("urls") && !table.contains_key("url") {
        let url = url_of_environment().unwrap_or_else(|| DEFAULT_URL.to_owned());
        table.insert("urls".to_owned(), url.into());
    }
    table.try_into().map_err(wrong)
}

/// The URL with the option that an embedded bus must be there already.
fn without_creating(url: &str) -> String {
    let makes = |scheme: &str| {
        url.get(..scheme.len()).is_some_and(|found| found.eq_ignore_ascii_case(scheme))
    };
    let (_, options) = url.split_once('?').unwrap_or((url, ""));
    if !(makes("file:") || makes("sqlite:"))
        || options.split('&').any(|option| option.starts_with("create="))
    {
        return url.to_owned();
    }
    format!("{url}{}create=false", if url.contains('?') { "&" } else { "?" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_creates_nothing() {
        assert_eq!(without_creating("file:./bus"), "file:./bus?create=false");
        assert_eq!(without_creating("sqlite:./bus.db"), "sqlite:./bus.db?create=false");
        assert_eq!(without_creating("file:b?sync=os"), "file:b?sync=os&create=false");
        assert_eq!(without_creating("file:b?create=true"), "file:b?create=true");
        assert_eq!(without_creating("memory:x"), "memory:x");
    }

    #[test]
    fn directories_and_urls() {
        assert_eq!(directory_of("file:///a/b?sync=os"), Some(PathBuf::from("/a/b")));
        assert_eq!(directory_of("File:./b"), Some(PathBuf::from("./b")));
        assert_eq!(directory_of("memory:b"), None);
        assert_eq!(url_of("a b/50%?,".as_ref()).as_deref(), Some("file:a b/50%25%3F%2C"));
    }
}
