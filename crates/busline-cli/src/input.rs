//! Payloads from files and standard input; lines in bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use tokio::sync::mpsc;

use crate::exit::{Failure, Outcome};

/// A chunk is handed on when it has this many bytes, or when no whole line is there to add.
const CHUNK_BYTES: usize = 256 << 10;

/// The most lines in a chunk.
const CHUNK_LINES: usize = 512;

/// Where input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Standard input.
    Stdin,
    /// A file.
    File(std::path::PathBuf),
}

impl Source {
    /// A payload argument: a path, or `-`.
    pub(crate) fn of(path: Option<&Path>) -> Self {
        match path {
            None => Self::Stdin,
            Some(path) if path == Path::new("-") => Self::Stdin,
            Some(path) => Self::File(path.to_owned()),
        }
    }

    /// The media type that the name of the file tells.
    pub(crate) fn content_type(&self) -> Option<&'static str> {
        let Self::File(path) = self else { return None };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(json) if json.eq_ignore_ascii_case("json") => Some("application/json"),
            Some(cbor) if cbor.eq_ignore_ascii_case("cbor") => Some("application/cbor"),
            _ => None,
        }
    }

    fn open(&self) -> Outcome<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Stdin => Box::new(io::stdin()),
            Self::File(path) => {
                Box::new(File::open(path).map_err(|error| Failure::file(path, &error))?)
            }
        })
    }

    fn failed(&self, error: &io::Error) -> Failure {
        match self {
            Self::Stdin => Failure::usage(format!("standard input: {error}")),
            Self::File(path) => Failure::file(path, error),
        }
    }

    /// All of it; `Limit` as soon as it is longer than this.
    pub(crate) fn read(&self, bytes_max: usize) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut input = self.open()?.take(bytes_max as u64 + 1);
        input.read_to_end(&mut bytes).map_err(|error| self.failed(&error))?;
        if bytes.len() > bytes_max {
            return Err(Failure::usage(format!(
                "the payload is longer than {bytes_max} bytes; publish it in parts, or its place"
            )));
        }
        Ok(bytes)
    }

    /// Its lines, read ahead by a thread of their own, a few chunks at most.
    ///
    /// The thread ends with the input, or when the receiver is gone and a line comes.
    pub(crate) fn lines(self, line_bytes_max: usize) -> Outcome<mpsc::Receiver<Outcome<Chunk>>> {
        let input = BufReader::with_capacity(64 << 10, self.open()?);
        let (sender, receiver) = mpsc::channel(4);
        let reader =
            Lines { source: self, input, line_bytes_max, number: 0, ended: false, failure: None };
        std::thread::Builder::new()
            .name("busline-input".to_owned())
            .spawn(move || {
                let mut reader = reader;
                while let Some(chunk) = reader.next() {
                    if sender.blocking_send(chunk).is_err() {
                        break;
                    }
                }
            })
            .map_err(|error| Failure::new(crate::exit::PROBLEM, format!("a thread: {error}")))?;
        Ok(receiver)
    }
}

/// What is wrong with a JSON text, and where: of a text on one line the column says it.
pub(crate) fn of_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (line, column) = (error.line(), error.column());
    match text.strip_suffix(&format!(" at line {line} column {column}")) {
        Some(what) if line == 1 => format!("column {column}: {what}"),
        Some(what) => format!("line {line} column {column}: {what}"),
        None => text,
    }
}

/// Some lines, without their ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The number of the first line, from 1.
    pub(crate) first: u64,
    /// The lines.
    pub(crate) lines: Vec<Vec<u8>>,
}

struct Lines<R> {
    source: Source,
    input: BufReader<R>,
    line_bytes_max: usize,
    number: u64,
    ended: bool,
    failure: Option<Failure>,
}

impl<R: Read> Lines<R> {
    /// What is there: waits for the first line only, so that a slow writer is not kept waiting.
    fn next(&mut self) -> Option<Outcome<Chunk>> {
        let mut chunk = Chunk { first: self.number + 1, lines: Vec::new() };
        let mut bytes = 0;
        while !self.ended && chunk.lines.len() < CHUNK_LINES && bytes < CHUNK_BYTES {
            if !chunk.lines.is_empty() && !self.input.buffer().contains(&b'\n') {
                break;
            }
            match self.line() {
                Ok(Some(line)) => {
                    bytes += line.len();
                    chunk.lines.push(line);
                }
                Ok(None) => self.ended = true,
                Err(failure) => {
                    self.ended = true;
                    self.failure = Some(failure);
                }
            }
        }
        // What was read before an error goes first.
        if chunk.lines.is_empty() { self.failure.take().map(Err) } else { Some(Ok(chunk)) }
    }

    fn line(&mut self) -> Outcome<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let max = self.line_bytes_max as u64 + 2;
        let read = self.input.by_ref().take(max).read_until(b'\n', &mut line);
        let number = self.number + 1;
        if read.map_err(|error| self.source.failed(&error))? == 0 {
            return Ok(None);
        }
        let ended = line.pop_if(|byte| *byte == b'\n').is_some();
        if ended {
            line.pop_if(|byte| *byte == b'\r');
        }
        if line.len() > self.line_bytes_max {
            return Err(Failure::usage(format!(
                "line {number} is longer than {} bytes",
                self.line_bytes_max
            )));
        }
        self.number = number;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], line_bytes_max: usize) -> Lines<&[u8]> {
        let input = BufReader::new(input);
        Lines {
            source: Source::Stdin,
            input,
            line_bytes_max,
            number: 0,
            ended: false,
            failure: None,
        }
    }

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let mut lines_of = lines(b"a\r\n\nb \nlast", 10);
        let whole = lines_of.next().unwrap().unwrap();
        assert_eq!((whole.first, whole.lines), (1, vec![b"a".to_vec(), vec![], b"b ".to_vec()]));
        // Whether the last line is whole is known only at the end.
        let last = lines_of.next().unwrap().unwrap();
        assert_eq!((last.first, last.lines), (4, vec![b"last".to_vec()]));
        assert!(lines_of.next().is_none());
        assert!(lines(b"", 10).next().is_none());
    }

    #[test]
    fn many_lines_come_in_chunks() {
        let input = b"x\n".repeat(CHUNK_LINES + 1);
        let mut lines = lines(&input, 10);
        assert_eq!(lines.next().unwrap().unwrap().lines.len(), CHUNK_LINES);
        let last = lines.next().unwrap().unwrap();
        assert_eq!((last.first, last.lines.len()), (CHUNK_LINES as u64 + 1, 1));
        assert!(lines.next().is_none());
    }

    #[test]
    fn a_line_too_long_is_named_and_ends_it() {
        let mut lines = lines(b"1234\n12345\n1\n", 4);
        assert_eq!(lines.next().unwrap().unwrap().lines, [b"1234"]);
        let failure = lines.next().unwrap().unwrap_err();
        assert!(format!("{failure:?}").contains("line 2 is longer than 4 bytes"), "{failure:?}");
        assert!(lines.next().is_none());
    }
}
