//! The words of a filter expression, each with its place.

use serde_json::Number;

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name, or one of the words `and`, `or`, `not`, `true`, `false`, `null`.
    Name(String),
    /// A text in quotes.
    Text(String),
    Number(Number),
    /// An operator, a parenthesis or a dot.
    Sign(&'static str),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "'{name}'"),
            Self::Text(text) => write!(f, "the text '{text}'"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Sign(sign) => write!(f, "'{sign}'"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// A word and where it starts, in characters from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) at: usize,
}

/// Longer signs first.
const SIGNS: [&str; 10] = ["==", "!=", "<=", ">=", "<", ">", "~", "(", ")", "."];

/// Splits the text; the last word is always the end.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = 1 + text.chars().count() - rest.chars().count();
        let Some(first) = rest.chars().next() else {
            tokens.push(Placed { token: Token::End, at });
            return Ok(tokens);
        };
        let (token, after) = next(first, rest).map_err(|why| wrong(at, &why))?;
        tokens.push(Placed { token, at });
        rest = after;
    }
}

/// An error at a place.
pub(super) fn wrong(at: usize, why: &str) -> String {
    format!("at character {at}: {why}")
}

fn next(first: char, rest: &str) -> Result<(Token, &str), String> {
    if matches!(first, '\'' | '"') {
        return quoted(first, rest);
    }
    if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
        return Ok((Token::Sign(sign), rest.get(sign.len()..).unwrap_or_default()));
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let number = first.is_ascii_digit() || first == '-';
    let in_number = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let end = rest.find(|c| if number { !in_number(c) } else { !is_word(c) });
    let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
    match (number, word.is_empty()) {
        (true, _) => {
            let value = word.parse().map_err(|_| format!("'{word}' is no number"))?;
            Ok((Token::Number(value), after))
        }
        (false, false) => Ok((Token::Name(word.to_owned()), after)),
        (false, true) if first == '=' => Err("write == to compare".to_owned()),
        (false, true) if "&|!".contains(first) => {
            Err(format!("'{first}' is no operator: write and, or, not"))
        }
        (false, true) => Err(format!("'{first}' has no meaning here")),
    }
}

/// A quoted text; a backslash takes the next character as it is.
fn quoted(quote: char, rest: &str) -> Result<(Token, &str), String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((index, c)) = chars.next() {
        match c {
            c if c == quote => {
                let after = rest.get(index + c.len_utf8()..).unwrap_or_default();
                return Ok((Token::Text(text), after));
            }
            '\\' => text.extend(chars.next().map(|(_, c)| c)),
            c => text.push(c),
        }
    }
    Err(format!("the text that starts with {quote} has no end"))
}
