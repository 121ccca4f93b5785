//! Settings of a transport: declared once, checked before it is opened, with errors that say what is allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use busline_core::transport::Options;
use busline_core::{Error, ErrorKind, Result};

use crate::url::{duration, hides};

/// A value of a setting.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum SettingValue {
    /// Text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A time span, written as `250ms`, `2s`, `5m`, `1h` or `1d`.
    Duration(Duration),
}

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Int,
    Float,
    Bool,
    Duration,
}

/// One setting: its name and type, its default or that it must be given, its bounds, its allowed values.
#[derive(Debug, Clone)]
pub struct Setting {
    name: String,
    kind: Kind,
    about: String,
    required: bool,
    default: Option<SettingValue>,
    bounds: Option<(SettingValue, SettingValue)>,
    allowed: Vec<String>,
}

/// What a transport may be told.
#[derive(Debug, Clone, Default)]
pub struct Schema(Vec<Setting>);

/// Settings that were checked, defaults filled in.
#[derive(Clone, Default)]
pub struct Settings(BTreeMap<String, SettingValue>);

impl Setting {
    fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            about: String::new(),
            required: false,
            default: None,
            bounds: None,
            allowed: Vec::new(),
        }
    }

    /// A text.
    pub fn text(name: &str) -> Self {
        Self::new(name, Kind::Text)
    }

    /// A whole number.
    pub fn int(name: &str) -> Self {
        Self::new(name, Kind::Int)
    }

    /// A number.
    pub fn float(name: &str) -> Self {
        Self::new(name, Kind::Float)
    }

    /// `true` or `false`.
    pub fn bool(name: &str) -> Self {
        Self::new(name, Kind::Bool)
    }

    /// A time span.
    pub fn duration(name: &str) -> Self {
        Self::new(name, Kind::Duration)
    }

    /// What it is for, in a few words, for errors.
    #[must_use]
    pub fn about(mut self, about: &str) -> Self {
        about.clone_into(&mut self.about);
        self
    }

    /// It must be given.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// What it is when it is not given.
    #[must_use]
    pub fn default(mut self, value: impl Into<SettingValue>) -> Self {
        self.default = Some(value.into());
        self
    }

    /// The least and the greatest value; of a text, the fewest and the most characters.
    #[must_use]
    pub fn between(
        mut self,
        least: impl Into<SettingValue>,
        most: impl Into<SettingValue>,
    ) -> Self {
        self.bounds = Some((least.into(), most.into()));
        self
    }

    /// The only values, of a text.
    #[must_use]
    pub fn one_of<'a>(mut self, allowed: impl IntoIterator<Item = &'a str>) -> Self {
        self.allowed = allowed.into_iter().map(str::to_owned).collect();
        self
    }

    /// What is allowed, in words.
    fn expected(&self) -> String {
        let kind = match self.kind {
            Kind::Text if !self.allowed.is_empty() => {
                return format!("one of {}", self.allowed.join(", "));
            }
            Kind::Bool => return "true or false".to_owned(),
            Kind::Text => "a text",
            Kind::Int => "a whole number",
            Kind::Float => "a number",
            Kind::Duration => "a time as 250ms, 2s, 5m, 1h or 1d",
        };
        match (&self.bounds, self.kind) {
            (None, _) => kind.to_owned(),
            (Some((least, most)), Kind::Text) => format!("{kind} of {least} to {most} characters"),
            (Some((least, most)), _) => format!("{kind} from {least} to {most}"),
        }
    }

    fn parse(&self, text: &str) -> Option<SettingValue> {
        let value = match self.kind {
            Kind::Text => SettingValue::Text(text.to_owned()),
            Kind::Int => SettingValue::Int(text.parse().ok()?),
            // A number that is none would pass all bounds.
            Kind::Float => SettingValue::Float(text.parse().ok().filter(|f: &f64| f.is_finite())?),
            Kind::Bool => SettingValue::Bool(text.parse().ok()?),
            Kind::Duration => SettingValue::Duration(duration(text)?),
        };
        self.admits(&value).then_some(value)
    }

    fn admits(&self, value: &SettingValue) -> bool {
        let measured = match value {
            SettingValue::Text(text) => {
                if !self.allowed.is_empty() && !self.allowed.contains(text) {
                    return false;
                }
                SettingValue::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX))
            }
            other => other.clone(),
        };
        let is_within = |(least, most): &(SettingValue, SettingValue)| {
            least.partial_cmp(&measured).is_some_and(std::cmp::Ordering::is_le)
                && measured.partial_cmp(most).is_some_and(std::cmp::Ordering::is_le)
        };
        let is_of_kind = matches!(
            (self.kind, value),
            (Kind::Text, SettingValue::Text(_))
                | (Kind::Int, SettingValue::Int(_))
                | (Kind::Float, SettingValue::Float(_))
                | (Kind::Bool, SettingValue::Bool(_))
                | (Kind::Duration, SettingValue::Duration(_))
        );
        is_of_kind && self.bounds.as_ref().is_none_or(is_within)
    }
}

impl Schema {
    /// Without settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more setting.
    #[must_use]
    pub fn with(mut self, setting: Setting) -> Self {
        self.0.push(setting);
        self
    }

    /// Checks what was given; `Limit` names the setting, what was found and what is allowed. All errors of
    /// one kind are not collected: the first is told.
    pub fn check(&self, scheme: &str, given: &Options) -> Result<Settings> {
        let wrong = |why: String| Error::new(ErrorKind::Limit, format!("{scheme}: {why}"));
        for name in given.keys() {
            if !self.0.iter().any(|setting| setting.name == *name) {
                let error = wrong(format!("there is no setting '{}'", name.escape_debug()));
                return Err(error.hint(self.instead_of(name)));
            }
        }
        let mut checked = BTreeMap::new();
        for setting in &self.0 {
            let Setting { name, about, .. } = setting;
            let expected = setting.expected();
            let value = match given.get(name) {
                Some(text) => {
                    let shown = if hides(name) { "***" } else { text };
                    let why = format!("{name}='{}' is not {expected}", shown.escape_debug());
                    Some(setting.parse(text).ok_or_else(|| with_about(wrong(why), about))?)
                }
                None if setting.required => {
                    let why = format!("the setting '{name}' is missing, {expected}");
                    return Err(with_about(wrong(why), about));
                }
                None => setting.default.clone(),
            };
            checked.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(Settings(checked))
    }

    /// Whether it can be kept: each name stands there once, and what it presets is allowed. For who registers it.
    pub(crate) fn check_itself(&self, scheme: &str) -> Result<()> {
        let wrong = |name: &str, why: &str| {
            let why = format!("the schema of {scheme}: {why} '{name}'");
            Err(Error::new(ErrorKind::Conflict, why))
        };
        for (at, setting) in self.0.iter().enumerate() {
            let name = &setting.name;
            if self.0.iter().take(at).any(|other| other.name == *name) {
                return wrong(name, "names twice");
            }
            if setting.required && setting.default.is_some() {
                return wrong(name, "requires and presets");
            }
            if setting.default.as_ref().is_some_and(|value| !setting.admits(value)) {
                return wrong(name, "presets what is not allowed for");
            }
        }
        Ok(())
    }

    /// What may have been meant by a name that is none.
    fn instead_of(&self, name: &str) -> String {
        let names: Vec<_> = self.0.iter().map(|setting| setting.name.as_str()).collect();
        if names.is_empty() {
            return "it has no settings".to_owned();
        }
        let nearest = names.iter().map(|known| (distance(name, known), known)).min();
        match nearest {
            // Half of it may be wrong, no more.
            Some((distance, known)) if distance <= known.chars().count().div_ceil(2) => {
                format!("did you mean '{known}'? its settings are {}", names.join(", "))
            }
            _ => format!("its settings are {}", names.join(", ")),
        }
    }
}

fn with_about(error: Error, about: &str) -> Error {
    if about.is_empty() { error } else { error.hint(format!("it is {about}")) }
}

/// How many characters have to be put in, taken out or changed.
fn distance(one: &str, other: &str) -> usize {
    // What is that long is misspelt in another way.
    const CHARS_MAX: usize = 64;
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, c) in one.chars().take(CHARS_MAX).enumerate() {
        let mut diagonal = at;
        row[0] = at + 1;
        for (place, known) in other.iter().enumerate() {
            let changed = diagonal + usize::from(c != *known);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

macro_rules! getters {
    ($($(#[doc = $doc:literal])+ $name:ident -> $type:ty, $variant:ident, $copy:ident;)*) => {$(
        $(#[doc = $doc])+
        pub fn $name(&self, name: &str) -> Option<$type> {
            match self.0.get(name) {
                Some(SettingValue::$variant(value)) => Some(value.$copy()),
                _ => None,
            }
        }
    )*};
}

impl Settings {
    getters! {
        /// A text; `None` when it was not given and has no default, or is of another type.
        text -> &str, Text, as_str;
        /// A whole number; as [`Settings::text`].
        int -> i64, Int, clone;
        /// A number; as [`Settings::text`].
        float -> f64, Float, clone;
        /// Yes or no; as [`Settings::text`].
        bool -> bool, Bool, clone;
        /// A time span; as [`Settings::text`].
        duration -> Duration, Duration, clone;
    }
}

impl fmt::Debug for Settings {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in &self.0 {
            match hides(name) {
                true => map.entry(name, &"***"),
                false => map.entry(name, value),
            };
        }
        map.finish()
    }
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Int(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Duration(duration) => write!(f, "{duration:?}"),
        }
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $make:expr;)*) => {$(
        impl From<$type> for SettingValue {
            fn from($value: $type) -> Self {
                $make
            }
        }
    )*};
}

from! {
    &str => |value| Self::Text(value.to_owned());
    i64 => |value| Self::Int(value);
    i32 => |value| Self::Int(value.into());
    u32 => |value| Self::Int(value.into());
    f64 => |value| Self::Float(value);
    bool => |value| Self::Bool(value);
    Duration => |value| Self::Duration(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::new()
            .with(Setting::text("uri").required().between(1, 10).about("where it is"))
            .with(Setting::int("retention_in_days").between(1, 999_999).default(7))
            .with(Setting::float("share").between(0.0, 1.0))
            .with(Setting::bool("fast").default(false))
            .with(
                Setting::duration("poll")
                    .between(Duration::from_millis(1), Duration::from_secs(60))
                    .default(Duration::from_secs(1)),
            )
            .with(Setting::text("mode").one_of(["ro", "rw"]).default("ro"))
            .with(Setting::text("password").between(8, 20))
    }

    fn check(given: &[(&str, &str)]) -> Result<Settings> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        schema().check("pigeon", &given.iter().map(own).collect())
    }

    #[test]
    fn what_is_right_is_there_with_its_type_and_the_rest_by_default() {
        let settings = check(&[("uri", "x"), ("share", "0.5"), ("poll", "250ms")]).unwrap();
        assert_eq!((settings.text("uri"), settings.text("mode")), (Some("x"), Some("ro")));
        assert_eq!((settings.int("retention_in_days"), settings.int("uri")), (Some(7), None));
        assert_eq!((settings.float("share"), settings.bool("fast")), (Some(0.5), Some(false)));
        assert_eq!(settings.duration("poll"), Some(Duration::from_millis(250)));
        assert_eq!(settings.text("password"), None);
        let settings = check(&[("uri", "x"), ("password", "0123456789")]).unwrap();
        assert!(!format!("{settings:?}").contains("0123"), "{settings:?}");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_found_and_what_is_allowed() {
        for (given, expected) in [
            (
                &[][..],
                "pigeon: the setting 'uri' is missing, a text of 1 to 10 characters; it is where it is",
            ),
            (
                &[("uri", "")],
                "pigeon: uri='' is not a text of 1 to 10 characters; it is where it is",
            ),
            (
                &[("uri", "x"), ("retention_in_days", "0")],
                "pigeon: retention_in_days='0' is not a whole number from 1 to 999999",
            ),
            (
                &[("uri", "x"), ("retention_in_days", "1e3")],
                "pigeon: retention_in_days='1e3' is not a whole number from 1 to 999999",
            ),
            (&[("uri", "x"), ("share", "NaN")], "pigeon: share='NaN' is not a number from 0 to 1"),
            (&[("uri", "x"), ("fast", "yes")], "pigeon: fast='yes' is not true or false"),
            (
                &[("uri", "x"), ("poll", "2m")],
                "pigeon: poll='2m' is not a time as 250ms, 2s, 5m, 1h or 1d from 1ms to 60s",
            ),
            (&[("uri", "x"), ("mode", "RO")], "pigeon: mode='RO' is not one of ro, rw"),
            (
                &[("uri", "x"), ("password", "hush")],
                "pigeon: password='***' is not a text of 8 to 20 characters",
            ),
            (
                &[("uri", "x"), ("retention_days", "1")],
                "pigeon: there is no setting 'retention_days'; did you mean 'retention_in_days'? its settings are",
            ),
            (&[("url", "x")], "pigeon: there is no setting 'url'; did you mean 'uri'?"),
            (
                &[("completely", "x")],
                "pigeon: there is no setting 'completely'; its settings are uri, retention_in_days",
            ),
        ] {
            let error = check(given).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        let none = Schema::new().check("x", &Options::from([("a".to_owned(), String::new())]));
        assert!(none.unwrap_err().to_string().contains("it has no settings"));
    }

    #[test]
    fn a_schema_that_cannot_be_kept_is_found_out() {
        for (schema, words) in [
            (schema().with(Setting::int("uri")), "names twice 'uri'"),
            (Schema::new().with(Setting::int("n").required().default(1)), "requires and presets"),
            (Schema::new().with(Setting::int("n").between(1, 5).default(9)), "not allowed for 'n'"),
            (Schema::new().with(Setting::int("n").default("text")), "not allowed for 'n'"),
            (Schema::new().with(Setting::int("n").between(1.0, 2.0).default(1)), "not allowed"),
        ] {
            let error = schema.check_itself("x").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(schema().check_itself("x").is_ok());
        assert_eq!(
            (distance("kitten", "sitting"), distance("", "abc"), distance("a", "a")),
            (3, 3, 0)
        );
    }
}
