//! Rust source as the checks see it: comments and strings told from code, tests from production.

/// A Rust file, line by line.
#[derive(Debug)]
pub(crate) struct Source {
    /// Comments blanked.
    pub(crate) code: Vec<String>,
    /// Comments, and what stands in strings and characters, blanked.
    pub(crate) bare: Vec<String>,
    /// Whether the line is part of an item under `#[cfg(test)]`.
    pub(crate) is_test: Vec<bool>,
}

impl Source {
    /// Reads a file's text; never fails, odd text is code.
    pub(crate) fn parse(text: &str) -> Self {
        let masks = Masks::of(text);
        let bare = lines(&masks.bare);
        let is_test = test_lines(&bare);
        Self { code: lines(&masks.code), bare, is_test }
    }

    /// Lines outside of tests, with their numbers counted from 1.
    pub(crate) fn production<'a>(
        &'a self,
        lines: &'a [String],
    ) -> impl Iterator<Item = (usize, &'a str)> {
        let numbered = lines.iter().enumerate().map(|(at, line)| (at + 1, line.as_str()));
        numbered.zip(&self.is_test).filter(|(_, is_test)| !**is_test).map(|(line, _)| line)
    }

    /// The modules declared in files of their own: name, line from 1, and whether it is a test.
    pub(crate) fn modules(&self) -> Vec<(&str, usize, bool)> {
        let declared = |(at, line): (usize, &'_ String)| {
            let line: &str = self.bare[at].as_str().get(..line.len()).unwrap_or_default();
            let line = line.trim().strip_suffix(';')?;
            let (visibility, name) =
                line.split_once("mod ").or_else(|| line.split_once("mod\t"))?;
            let visible = visibility.trim();
            let is_visibility = visible.is_empty() || visible.starts_with("pub");
            (is_visibility && is_identifier(name.trim()))
                .then(|| (name.trim(), at + 1, self.is_test[at]))
        };
        self.bare.iter().enumerate().filter_map(declared).collect()
    }
}

/// Whether `word` stands in `line` as a whole word.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let starts = word.chars().next().is_some_and(is_part);
        let ends = word.chars().next_back().is_some_and(is_part);
        !(starts && before.is_some_and(is_part) || ends && after.is_some_and(is_part))
    })
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Marks the lines of every item that a `#[cfg(test)]` stands before.
fn test_lines(bare: &[String]) -> Vec<bool> {
    let mut is_test = vec![false; bare.len()];
    let mut at = 0;
    while at < bare.len() {
        let line = bare[at].trim_start();
        if line.starts_with("#![cfg(test)]") {
            is_test.fill(true);
            return is_test;
        }
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            let end = item_end(bare, at);
            is_test[at..=end].fill(true);
            at = end;
        }
        at += 1;
    }
    is_test
}

/// The last line of the item whose attributes start on line `start`.
fn item_end(bare: &[String], start: usize) -> usize {
    let mut braces = 0_u32;
    let mut others = 0_u32;
    for (at, line) in bare.iter().enumerate().skip(start) {
        for c in line.chars() {
            match c {
                '{' => braces += 1,
                '}' => {
                    braces = braces.saturating_sub(1);
                    if braces == 0 && others == 0 {
                        return at;
                    }
                }
                '(' | '[' => others += 1,
                ')' | ']' => others = others.saturating_sub(1),
                ';' if braces == 0 && others == 0 => return at,
                _ => {}
            }
        }
    }
    bare.len() - 1
}

/// The text twice, with blanks for what does not count.
#[derive(Debug, Default)]
struct Masks {
    code: String,
    bare: String,
}

impl Masks {
    fn of(text: &str) -> Self {
        let mut masks = Self::default();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let previous = masks.code.chars().next_back();
            let (kind, len) = token(rest, c, previous);
            let (token, after) = rest.split_at(len);
            masks.push(kind, token);
            rest = after;
        }
        masks
    }

    fn push(&mut self, kind: Kind, token: &str) {
        match kind {
            Kind::Code => {
                self.code += token;
                self.bare += token;
            }
            Kind::Comment => {
                blank(&mut self.code, token);
                blank(&mut self.bare, token);
            }
            Kind::Literal => {
                self.code += token;
                blank(&mut self.bare, token);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

fn blank(to: &mut String, token: &str) {
    to.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
}

/// What starts here and how many bytes it has.
fn token(rest: &str, first: char, previous: Option<char>) -> (Kind, usize) {
    let in_word = previous.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment_len(rest));
    }
    match first {
        '"' => (Kind::Literal, quoted_len(rest, 0)),
        '\'' => char_len(rest).map_or((Kind::Code, 1), |len| (Kind::Literal, len)),
        'r' | 'b' | 'c' if !in_word => {
            prefixed(rest).map_or((Kind::Code, 1), |len| (Kind::Literal, len))
        }
        _ => (Kind::Code, first.len_utf8()),
    }
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a string whose opening quote stands at `open`.
fn quoted_len(rest: &str, open: usize) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().filter(|(at, _)| *at > open) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character; `None` for a lifetime or a label.
fn char_len(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (_, _) = chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 1)
}

/// The length of a raw, byte or C string, or a byte; `None` when a word starts here.
fn prefixed(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c: char| !matches!(c, 'r' | 'b' | 'c'))?;
    if prefix > 2 {
        return None;
    }
    let (letters, tail) = rest.split_at(prefix);
    if letters.ends_with('r') {
        let hashes = tail.find(|c| c != '#')?;
        if !tail[hashes..].starts_with('"') {
            return None;
        }
        let close = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 1;
        return Some(rest[start..].find(&close).map_or(rest.len(), |at| start + at + close.len()));
    }
    match tail.chars().next() {
        Some('"') => Some(quoted_len(rest, prefix)),
        Some('\'') if letters == "b" => char_len(tail).map(|len| prefix + len),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(text: &str) -> String {
        Masks::of(text).bare
    }

    #[test]
    fn comments_and_literals_are_blank() {
        assert_eq!(bare("a // b\nc"), "a     \nc");
        assert_eq!(bare("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(bare(r#"f("x\"y", 'z', '\'', '\u{1F}')"#), "f(      ,    ,     ,         )");
        for literal in ["r#\"a\"b\"#", "b\"x\"", "br\"\\\"", "b'z'", "c\"y\"", "r\"\""] {
            assert_eq!(
                bare(&format!("a {literal} c")),
                format!("a {} c", " ".repeat(literal.len()))
            );
        }
    }

    #[test]
    fn lifetimes_words_and_strings_in_code_stay() {
        assert_eq!(bare("fn f<'a>(x: &'a str) -> bar"), "fn f<'a>(x: &'a str) -> bar");
        assert_eq!(Masks::of("a(\"// no\") // yes").code, "a(\"// no\")       ");
        assert_eq!(bare("r#type crate b"), "r#type crate b");
    }

    #[test]
    fn test_items_are_told_from_production() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { \"}\"; }\n}\nfn c() {}\n\
                    #[cfg(test)]\nmod more;\nfn d() {}\n#[cfg(all(test, unix))]\nfn e(x: [u8; 2]) {\n}\n";
        let source = Source::parse(text);
        let lines: Vec<_> = source.production(&source.bare).map(|(number, _)| number).collect();
        assert_eq!(lines, [1, 6, 9]);
        assert_eq!(source.modules(), [("more", 8, true)]);
    }

    #[test]
    fn modules_in_files_of_their_own_are_found() {
        let source = Source::parse("mod a;\npub mod b;\npub(crate) mod c;\nmod d { }\n// mod e;\n");
        assert_eq!(source.modules(), [("a", 1, false), ("b", 2, false), ("c", 3, false)]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("x.sleep(1)", "sleep"));
        assert!(!has_word("asleep(1)", "sleep"));
        assert!(has_word("println!(", "println!"));
        assert!(!has_word("eprintln!(", "println!"));
    }
}
