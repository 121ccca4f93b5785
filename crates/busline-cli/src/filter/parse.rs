//! From words to an expression, by recursive descent of bounded depth.

use busline::KeyPattern;
use serde_json::Value;

use super::token::{Placed, Token, tokens, wrong};
use super::{FIELDS, Node, Operator};

/// Parentheses and `not` nest no deeper.
const DEPTH_MAX: usize = 64;

/// The longest expression.
const BYTES_MAX: usize = 64 << 10;

const COMPARISON: &str = "a comparison: == != < <= > >= or ~";

/// Parses the whole text.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("the filter is longer than {BYTES_MAX} bytes"));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: 0 };
    let node = parser.any()?;
    match parser.take() {
        Placed { token: Token::End, .. } => Ok(node),
        found => Err(expected("and, or, or the end", &found)),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Placed>>,
    depth: usize,
}

fn expected(what: &str, found: &Placed) -> String {
    wrong(found.at, &format!("expected {what}, found {}", found.token))
}

impl Parser {
    fn take(&mut self) -> Placed {
        // The end is last and is never gone beyond.
        self.tokens.next().unwrap_or(Placed { token: Token::End, at: 1 })
    }

    fn take_if(&mut self, token: &Token) -> bool {
        self.tokens.next_if(|placed| placed.token == *token).is_some()
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is = |placed: &Placed| matches!(&placed.token, Token::Name(name) if name == word);
        self.tokens.next_if(is).is_some()
    }

    fn any(&mut self) -> Result<Node, String> {
        let mut nodes = vec![self.all()?];
        while self.take_word("or") {
            nodes.push(self.all()?);
        }
        Ok(single(nodes, Node::Any))
    }

    fn all(&mut self) -> Result<Node, String> {
        let mut nodes = vec![self.factor()?];
        while self.take_word("and") {
            nodes.push(self.factor()?);
        }
        Ok(single(nodes, Node::All))
    }

    fn factor(&mut self) -> Result<Node, String> {
        let at = self.tokens.peek().map_or(1, |placed| placed.at);
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(wrong(at, &format!("nested deeper than {DEPTH_MAX}")));
        }
        let node = if self.take_word("not") {
            Node::Not(Box::new(self.factor()?))
        } else if self.take_if(&Token::Sign("(")) {
            let node = self.any()?;
            let closing = self.take();
            if closing.token != Token::Sign(")") {
                return Err(expected("')'", &closing));
            }
            node
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn comparison(&mut self) -> Result<Node, String> {
        let path = self.path()?;
        let sign = self.take();
        let operator = match sign.token {
            Token::Sign("~") => return self.matches(path),
            Token::Sign("==") => Operator::Equal,
            Token::Sign("!=") => Operator::NotEqual,
            Token::Sign("<") => Operator::Less,
            Token::Sign("<=") => Operator::LessOrEqual,
            Token::Sign(">") => Operator::Greater,
            Token::Sign(">=") => Operator::GreaterOrEqual,
            _ => return Err(expected(COMPARISON, &sign)),
        };
        let found = self.take();
        let literal = match &found.token {
            Token::Text(text) => Value::String(text.clone()),
            Token::Number(number) => Value::Number(number.clone()),
            Token::Name(name) if name == "true" => Value::Bool(true),
            Token::Name(name) if name == "false" => Value::Bool(false),
            Token::Name(name) if name == "null" => Value::Null,
            Token::Name(name) => {
                let why = format!("expected a value, found '{name}': quote a text as '{name}'");
                return Err(wrong(found.at, &why));
            }
            _ => return Err(expected("a value: 'text', a number, true, false or null", &found)),
        };
        Ok(Node::Compare { path, operator, literal })
    }

    fn matches(&mut self, path: Vec<String>) -> Result<Node, String> {
        let found = self.take();
        let Token::Text(text) = &found.token else {
            return Err(expected("a key pattern in quotes", &found));
        };
        let pattern = KeyPattern::new(text.as_str());
        let pattern = pattern.map_err(|error| wrong(found.at, &error.to_string()))?;
        Ok(Node::Matches { path, pattern })
    }

    fn path(&mut self) -> Result<Vec<String>, String> {
        let first = self.take();
        let Token::Name(name) = &first.token else {
            return Err(expected("a field", &first));
        };
        if !FIELDS.contains(&name.as_str()) {
            let known = FIELDS.join(", ");
            return Err(wrong(first.at, &format!("there is no field '{name}', there are {known}")));
        }
        let mut path = vec![name.clone()];
        while self.take_if(&Token::Sign(".")) {
            let next = self.take();
            match next.token {
                Token::Name(name) | Token::Text(name) => path.push(name),
                Token::Number(index) => path.push(index.to_string()),
                _ => return Err(expected("a name after the dot", &next)),
            }
        }
        Ok(path)
    }
}

fn single(mut nodes: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => only,
        Some(last) => {
            nodes.push(last);
            join(nodes)
        }
        None => join(nodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fails(text: &str, at: usize, words: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("at character {at}: ")), "{text}: {error}");
        assert!(error.contains(words), "{text}: {error}");
    }

    #[test]
    fn errors_name_the_place_and_what_was_expected() {
        fails("", 1, "expected a field, found the end");
        fails("key", 4, "expected a comparison: == != < <= > >= or ~, found the end");
        fails("key = 'a'", 5, "write == to compare");
        fails("key == a", 8, "quote a text as 'a'");
        fails("key == 'a", 8, "has no end");
        fails("key == 'a' attempt > 1", 12, "expected and, or, or the end, found 'attempt'");
        fails("(key == 'a'", 12, "expected ')', found the end");
        fails("key == 'ü' && attempt > 1", 12, "write and, or, not");
        fails("attmpt > 2", 1, "there is no field 'attmpt', there are topic,");
        fails("key ~ 'a*'", 7, "mixes a wildcard");
        fails("key ~ 5", 7, "expected a key pattern in quotes");
        fails("attempt > 1x", 11, "'1x' is no number");
        fails("headers. == 1", 10, "expected a name after the dot");
        fails("key == ", 8, "expected a value");
        fails("€ == 1", 1, "has no meaning");
        fails(&"(".repeat(100), 65, "nested deeper than 64");
        assert!(parse(&"x".repeat(70_000)).unwrap_err().contains("longer than"));
    }

    #[test]
    fn and_binds_stronger_than_or() {
        let Node::Any(nodes) = parse("key == 'a' or key == 'b' and key == 'c'").unwrap() else {
            panic!("the outermost is or");
        };
        assert!(matches!(nodes.as_slice(), [Node::Compare { .. }, Node::All(_)]));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_is_answered(text in "[a-z'\"()~=<>!.0-9 \\\\é-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
