//! Filter expressions over the fields of a JSON line.
//!
//! ```text
//! expression = term { "or" term }
//! term       = factor { "and" factor }
//! factor     = "not" factor | "(" expression ")" | comparison
//! comparison = path ("==" | "!=" | "<" | "<=" | ">" | ">=" | "~") literal
//! path       = name { "." name }          name = letters, digits, _ and -, or a quoted text
//! literal    = 'text' | "text" | number | true | false | null
//! ```

mod eval;
mod parse;
mod token;

use std::str::FromStr;

use busline::KeyPattern;
use serde_json::Value;

/// A filter, parsed once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter(Node);

impl Filter {
    /// Whether it holds for a JSON line.
    pub(crate) fn holds(&self, line: &Value) -> bool {
        eval::holds(&self.0, line)
    }
}

impl FromStr for Filter {
    type Err = String;

    /// The error names the place, counted in characters from 1, and what was expected there.
    fn from_str(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self)
    }
}

/// A node of the expression.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Compare { path: Vec<String>, operator: Operator, literal: Value },
    Matches { path: Vec<String>, pattern: KeyPattern },
}

/// How a field and a literal are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The fields that a path may start with: those of a dead letter's line, and of what a
/// monitor shows.
const FIELDS: &[&str] = &[
    "topic",
    "offset",
    "time",
    "key",
    "headers",
    "content_type",
    "message_id",
    "conversation_id",
    "correlation_id",
    "reply_to",
    "payload",
    "payload_encoding",
    "reason",
    "origin_topic",
    "origin_group",
    "origin_offset",
    "attempt",
    "redrives",
    "rejected_at",
    "payload_bytes",
    "kind",
    "status",
    "meta",
    "invalid",
];
