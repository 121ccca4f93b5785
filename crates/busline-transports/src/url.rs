//! Bus URLs: a scheme, what it names, and options; secrets never come out again.

use std::fmt;

use busline_core::transport::{Dialect, Options};
use busline_core::{Error, ErrorKind, Result};

/// A parsed bus URL: `scheme:address?option=value&…`.
///
/// Only what all transports share is parsed here; the address is the transport's own matter. Its
/// `Display` and `Debug` hide user, password and option values that look like secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct BusUrl {
    /// The scheme, in lower case.
    pub scheme: String,
    /// What stands between the scheme and the options, still encoded.
    pub address: String,
    /// The options, decoded.
    pub options: Options,
}

impl BusUrl {
    /// Parses a URL; `Limit` says what is wrong without repeating what may be a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::new(ErrorKind::Limit, format!("the bus URL {why}"))
                .hint("a bus URL is scheme:address?option=value, as file:./bus?sync=os")
        };
        let (scheme, rest) = text.split_once(':').ok_or_else(|| wrong("has no scheme"))?;
        let word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if scheme.is_empty() || !scheme.chars().all(word) {
            return Err(wrong("has no valid scheme"));
        }
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.contains('@') && !address.contains('@') && address.starts_with("//") {
            // What stands before is the half of a password then, and would be shown as a host.
            return Err(wrong("has a '?' before the '@': write it as %3F in user and password"));
        }
        let mut options = Options::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if options.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(wrong(&format!("gives the option '{name}' twice")));
            }
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), address: address.to_owned(), options })
    }

    /// The address as a path: `//` and an empty or local host are taken off, escapes decoded.
    pub fn path(&self) -> Result<std::path::PathBuf> {
        let path = match self.address.strip_prefix("//") {
            None => self.address.as_str(),
            Some(rest) if rest.starts_with('/') => rest,
            Some(rest) => {
                rest.strip_prefix("localhost").filter(|p| p.starts_with('/')).ok_or_else(|| {
                    Error::new(ErrorKind::Limit, format!("'{self}' names a host")).hint(
                        "a file bus is on this machine: write file:./bus or file:/var/lib/bus",
                    )
                })?
            }
        };
        let decoded = percent_encoding::percent_decode_str(path).collect::<Vec<u8>>();
        let decoded = String::from_utf8(decoded).map_err(|cause| {
            Error::new(ErrorKind::Limit, "the path of the bus URL is not UTF-8").source(cause)
        })?;
        if decoded.is_empty() || decoded.contains('\0') {
            return Err(Error::new(ErrorKind::Limit, format!("'{self}' names no directory"))
                .hint("write file:./bus or file:/var/lib/bus"));
        }
        Ok(decoded.into())
    }

    /// Takes an option out and parses it; `Limit` names option, value and what is expected.
    pub fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.options.remove(name) else { return Ok(None) };
        match parse(&value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(Error::new(
                ErrorKind::Limit,
                format!("option {name}='{}' is not {expected}", shown(name, &value).escape_debug()),
            )
            .context("url", self)),
        }
    }

    /// Takes the option `dialect`, which every transport has.
    pub fn take_dialect(&mut self) -> Result<Option<Dialect>> {
        let known: Vec<_> = Dialect::ALL.iter().map(|dialect| dialect.as_str()).collect();
        self.take("dialect", &known.join(", "), Dialect::parse)
    }

    /// Fails when an option was not taken: a misspelt option is an error, never ignored.
    pub fn finish(self, known: &str) -> Result<()> {
        match self.options.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::new(
                ErrorKind::Limit,
                format!("{}: has no option '{name}'", self.scheme),
            )
            .hint(format!("its options are {known}"))),
        }
    }
}

/// The value of an option, unless it looks like a secret.
fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    if hides(name) { "***" } else { value }
}

pub(crate) fn hides(name: &str) -> bool {
    ["pass", "pwd", "secret", "token", "key", "credentials"].iter().any(|word| name.contains(word))
}

impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        match self.address.rsplit_once('@') {
            Some((_, host)) if self.address.starts_with("//") => write!(f, "//***@{host}")?,
            _ => f.write_str(&self.address)?,
        }
        for (index, (name, value)) in self.options.iter().enumerate() {
            let value = shown(name, value);
            write!(f, "{}{name}={value}", if index == 0 { "?" } else { "&" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A duration as `250ms`, `2s`, `5m`, `1h` or `1d`; `None` when it is none, or too long.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(ms).map(std::time::Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> String {
        BusUrl::parse(text).unwrap().path().unwrap().display().to_string()
    }

    #[test]
    fn paths_stay_what_they_are() {
        assert_eq!(path("file:./bus"), "./bus");
        assert_eq!(path("file:/var/bus"), "/var/bus");
        assert_eq!(path("file:///var/bus?sync=os"), "/var/bus");
        assert_eq!(path("FILE://localhost/var/bus"), "/var/bus");
        assert_eq!(path("file:my%20bus"), "my bus");
        for bad in ["file:", "file://host/bus", "file:a%00b", "file:%ff"] {
            assert!(BusUrl::parse(bad).unwrap().path().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_stay_in() {
        let url = BusUrl::parse("amqp://me:pass@host/v?password=p&heartbeat=5").unwrap();
        assert_eq!(url.to_string(), "amqp://***@host/v?heartbeat=5&password=***");
        assert!(!format!("{url:?}").contains("pass@"));
        for bad in ["bus", ":x", "a b:c", "file:x?a=1&a=2"] {
            assert!(BusUrl::parse(bad).is_err(), "{bad}");
        }
        let half = BusUrl::parse("amqp://me:half?rest@host/v").unwrap_err().to_string();
        assert!(half.contains("%3F") && !half.contains("half") && !half.contains("rest"), "{half}");
        let mut url = BusUrl::parse("amqp://host?pwd=hush").unwrap();
        let error = url.take("pwd", "a file", |_| None::<()>).unwrap_err().to_string();
        assert!(error.contains("pwd='***'") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn options_are_taken_or_refused_by_name() {
        let mut url = BusUrl::parse("file:x?n=5&oops=1").unwrap();
        assert_eq!(url.take("n", "a number", |text| text.parse::<u8>().ok()).unwrap(), Some(5));
        let error = url.finish("n").unwrap_err().to_string();
        assert_eq!(error, "file: has no option 'oops'; its options are n");
        assert_eq!(duration("250ms"), Some(std::time::Duration::from_millis(250)));
        assert_eq!(duration("5m").map(|d| d.as_secs()), Some(300));
        for bad in ["", "5", "s", "1.5s", "99999999999999999999s", "-1s", "1 s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
