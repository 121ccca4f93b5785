//! The records of the demo: earthquakes, one JSON object a line, and the keys they get.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;

use busline::{Key, Patterns};
use serde::Deserialize;

use crate::exit::{Failure, Outcome};
use crate::input::of_json;

/// What the demo runs on unless told otherwise.
const BUILT_IN: &str = include_str!("../../../../examples/data/earthquakes.ndjson");

/// A longer line is no record.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What the demo looks at in a record; the message carries the whole line.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Quake {
    #[serde(default)]
    net: Option<String>,
    #[serde(default)]
    magnitude: Option<f64>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Quake {
    /// The record in a line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// `quake.<net>.<band>`.
    pub(super) fn key(&self) -> busline::Result<Key> {
        let net = self.net.as_deref().filter(|net| !net.is_empty()).unwrap_or("unknown");
        // A dot would make two words of it.
        Key::new(format!("quake.{}.{}", net.replace('.', "-"), self.band()))
    }

    fn band(&self) -> &'static str {
        match self.magnitude {
            None => "unknown",
            Some(magnitude) if magnitude < 1.0 => "micro",
            Some(magnitude) if magnitude < 2.5 => "minor",
            Some(magnitude) if magnitude < 4.5 => "light",
            Some(_) => "strong",
        }
    }

    /// Why it is rejected; `None` for an earthquake.
    pub(super) fn rejection(&self) -> Option<String> {
        match self.kind.as_deref() {
            Some("earthquake") => None,
            Some(other) => Some(format!("not an earthquake: {other}")),
            None => Some("not an earthquake: no type".to_owned()),
        }
    }
}

/// How many records there are, and how many of them the patterns select.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) records: u64,
    pub(super) selected: u64,
}

/// Reads all records once, so that a bad one is named before anything starts.
pub(super) fn survey(path: Option<&Path>, patterns: &Patterns) -> Outcome<Survey> {
    let mut survey = Survey { records: 0, selected: 0 };
    let mut records = Records::open(path)?;
    while let Some((quake, _)) = records.next()? {
        survey.records += 1;
        let key = quake.key().map_err(|error| records.wrong(&error))?;
        survey.selected += u64::from(patterns.matches(key.as_str()));
    }
    match survey.records {
        0 => Err(Failure::usage(format!("there is no record in {}", records.name))),
        _ => Ok(survey),
    }
}

/// The records, read one at a time.
pub(super) struct Records {
    name: String,
    input: Box<dyn BufRead + Send>,
    number: u64,
}

impl Records {
    pub(super) fn open(path: Option<&Path>) -> Outcome<Self> {
        let input: Box<dyn BufRead + Send> = match path {
            None => Box::new(Cursor::new(BUILT_IN)),
            Some(path) => {
                let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
                Box::new(BufReader::new(file))
            }
        };
        let name = path.map_or("the data".to_owned(), |path| path.display().to_string());
        Ok(Self { name, input, number: 0 })
    }

    /// The next record and its line; blank lines are passed over.
    pub(super) fn next(&mut self) -> Outcome<Option<(Quake, Vec<u8>)>> {
        loop {
            let mut line = Vec::new();
            let input = &mut self.input;
            let read = std::io::Read::take(input, LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
            if read.map_err(|error| Failure::file(Path::new(&self.name), &error))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if line.len() as u64 > LINE_BYTES_MAX {
                return Err(self.wrong(&format!("it is longer than {LINE_BYTES_MAX} bytes")));
            }
            let record = line.trim_ascii();
            if record.is_empty() {
                continue;
            }
            let quake = Quake::parse(record).map_err(|error| self.wrong(&of_json(&error)))?;
            return Ok(Some((quake, record.to_vec())));
        }
    }

    /// What is wrong with the line that was read last.
    fn wrong(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::usage(format!("{} line {} is no record: {why}", self.name, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(record: &str) -> String {
        Quake::parse(record.as_bytes()).unwrap().key().unwrap().to_string()
    }

    #[test]
    fn bands() {
        for (magnitude, band) in [
            ("-0.5", "micro"),
            ("0.99", "micro"),
            ("1.0", "minor"),
            ("2.5", "light"),
            ("4.49", "light"),
            ("4.5", "strong"),
            ("null", "unknown"),
        ] {
            let record = format!(r#"{{"net":"us","magnitude":{magnitude}}}"#);
            assert_eq!(key(&record), format!("quake.us.{band}"));
        }
        assert_eq!(key(r#"{"net":"a.b"}"#), "quake.a-b.unknown");
        assert_eq!(key("{}"), "quake.unknown.unknown");
    }

    #[test]
    fn the_built_in_records() {
        let patterns = ["quake.*.strong".parse().unwrap()].into_iter().collect();
        let found = survey(None, &patterns).unwrap();
        assert_eq!(found, Survey { records: 1707, selected: 85 });
        let mut records = Records::open(None).unwrap();
        let mut rejected = 0;
        while let Some((quake, _)) = records.next().unwrap() {
            rejected += u64::from(quake.rejection().is_some());
        }
        assert_eq!(rejected, 28);
    }

    #[test]
    fn a_bad_line_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}\n\n{\"magnitude\": \"big\"}\n").unwrap();
        let failure = survey(Some(file.path()), &Patterns::all()).unwrap_err();
        assert!(format!("{failure:?}").contains("line 3 is no record: column 19"), "{failure:?}");
        let long = format!("{{}}\n{{\"net\":\"{}\"}}\n", "n".repeat(300));
        std::fs::write(file.path(), long).unwrap();
        let failure = survey(Some(file.path()), &Patterns::all()).unwrap_err();
        assert!(format!("{failure:?}").contains("line 2 is no record: key has"), "{failure:?}");
        let directory = tempfile::tempdir().unwrap();
        let failure =
            format!("{:?}", survey(Some(directory.path()), &Patterns::all()).unwrap_err());
        assert!(!failure.contains("line"), "{failure}");
    }
}
