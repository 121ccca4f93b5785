//! Rules for Rust files, one by one.

use super::Finding;
use super::source::has_word;
use super::tree::{File, Tree};

/// A file opens with the sentence that says what it is.
pub(crate) fn first_line_says_what(tree: &Tree) -> Vec<Finding> {
    let says = |file: &File| {
        let first = file.lines().next().map(|(_, line)| line).unwrap_or_default();
        first.strip_prefix("//! ").is_some_and(|sentence| !sentence.trim().is_empty())
    };
    let silent = tree.rust().filter(|(file, _)| !says(file));
    let message = "does not start with a `//!` sentence that says what the file is";
    silent.map(|(file, _)| Finding::new(&file.path, 1, message)).collect()
}

const LINES_MAX: usize = 500;

/// Longer files, the lines they may have, and why. They may only shrink.
const LONG_FILES: &[(&str, usize, &str)] = &[(
    "crates/busline-core/src/transport.rs",
    600,
    "the port is read as one file, and most of it is documentation",
)];

/// The tail is bounded: lines outside of tests, comments included.
pub(crate) fn short_files(tree: &Tree) -> Vec<Finding> {
    check_lengths(tree, LONG_FILES)
}

fn check_lengths(tree: &Tree, exceptions: &[(&str, usize, &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, source) in tree.production() {
        let lines = source.production(&source.bare).count();
        let exception = exceptions.iter().find(|(path, ..)| *path == file.path);
        let lines_max = exception.map_or(LINES_MAX, |(_, lines_max, _)| *lines_max);
        if lines > lines_max {
            let message =
                format!("has {lines} lines outside of tests, at most {lines_max} are allowed");
            found.push(Finding::new(&file.path, 0, message));
        } else if exception.is_some() && lines <= LINES_MAX {
            let message = "is short now: take it out of the list of long files in tidy";
            found.push(Finding::new(&file.path, 0, message));
        }
    }
    let gone = exceptions.iter().filter(|(path, ..)| tree.file(path).is_none());
    found.extend(gone.map(|(path, ..)| Finding::new(path, 0, "is listed as long but not there")));
    found
}

/// `lib.rs` says what there is; the logic is elsewhere.
pub(crate) fn lib_is_a_table_of_contents(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, source) in tree.production().filter(|(file, _)| file.name() == "lib.rs") {
        for (number, line) in source.production(&source.bare) {
            if ["fn", "impl", "struct", "enum", "trait"].iter().any(|word| has_word(line, word)) {
                let message =
                    "holds logic: lib.rs has the crate's document, modules and re-exports";
                found.push(Finding::new(&file.path, number, message));
            }
        }
    }
    found
}

/// A feature decides which module exists, and nothing inside of it.
pub(crate) fn features_stay_at_the_door(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, source) in tree.rust().filter(|(file, _)| file.name() != "registry.rs") {
        for (at, line) in source.code.iter().enumerate() {
            let asks = line.contains("feature")
                && (line.contains("cfg(") || line.contains("cfg!(") || line.contains("cfg_attr("));
            if asks && source.bare[at].contains("cfg") && !stands_before_a_module(&source.code, at)
            {
                let message = "asks for a feature: only `pub mod` lines and registry.rs may";
                found.push(Finding::new(&file.path, at + 1, message));
            }
        }
    }
    found
}

fn stands_before_a_module(code: &[String], at: usize) -> bool {
    if !code[at].trim_start().starts_with("#[cfg(") {
        return false;
    }
    let mut next = code.iter().skip(at + 1).map(|line| line.trim());
    let item = next.find(|line| !line.is_empty() && !line.starts_with("#["));
    item.is_some_and(|item| {
        item.starts_with("pub mod ")
            || item.starts_with("mod ")
            || item.starts_with("pub(crate) mod ")
    })
}

/// Files that may hold `unsafe`, and what for.
const UNSAFE_FILES: &[(&str, &str)] = &[
    (
        "crates/busline-log/src/storage/fs/map.rs",
        "the memory maps of the control page and of the room ahead of a tail",
    ),
    ("crates/busline-log/src/storage/fs/unshared.rs", "keeping locks from forked children"),
    ("crates/busline-log/src/storage/words.rs", "half of a shared 64-bit word, for the futex"),
    ("crates/busline-log/tests/it/clone.rs", "children past the C library, for a test"),
    ("xtask/peers/src/lmdb.rs", "LMDB maps a file, for the benchmarks only"),
];

/// Unsafe code is where it can be read in one sitting.
pub(crate) fn unsafe_stays_in_its_modules(tree: &Tree) -> Vec<Finding> {
    check_unsafe(tree, UNSAFE_FILES)
}

fn check_unsafe(tree: &Tree, allowed: &[(&str, &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, source) in tree.rust() {
        let mut uses = source.bare.iter().enumerate().filter(|(_, line)| has_word(line, "unsafe"));
        let is_allowed = allowed.iter().any(|(path, _)| *path == file.path);
        match (uses.next(), is_allowed) {
            (Some((at, _)), false) => {
                let message = "is unsafe: only the files that tidy lists may be";
                found.push(Finding::new(&file.path, at + 1, message));
            }
            (None, true) => {
                let message = "is safe now: take it out of the list of unsafe files in tidy";
                found.push(Finding::new(&file.path, 0, message));
            }
            _ => {}
        }
    }
    let gone = allowed.iter().filter(|(path, _)| tree.file(path).is_none());
    found.extend(gone.map(|(path, _)| Finding::new(path, 0, "is listed as unsafe but not there")));
    found
}

/// Crates that print, exit and read arguments.
const TALKING: &[&str] = &["crates/busline-cli/", "xtask/"];

/// A library never decides what a terminal shows or when a process ends.
pub(crate) fn only_the_tools_talk(tree: &Tree) -> Vec<Finding> {
    let words = [
        "println!",
        "eprintln!",
        "print!",
        "eprint!",
        "dbg!",
        "process::exit",
        "env::args",
        "env::args_os",
        "clap",
    ];
    let mut found = Vec::new();
    for (file, source) in tree.production() {
        if TALKING.iter().any(|folder| file.path.starts_with(folder)) || file.name() == "build.rs" {
            continue;
        }
        for (number, line) in source.production(&source.bare) {
            for word in words.iter().filter(|word| has_word(line, word)) {
                let message = format!("uses {word}: only the command line tool and xtask may");
                found.push(Finding::new(&file.path, number, message));
            }
        }
    }
    found
}

/// Tests that have to sleep, and why no event can be waited for.
const SLEEPING_TESTS: &[(&str, &str)] = &[];

/// A test that sleeps is slow when it is long and flaky when it is short.
pub(crate) fn tests_never_sleep(tree: &Tree) -> Vec<Finding> {
    check_sleeps(tree, SLEEPING_TESTS)
}

fn check_sleeps(tree: &Tree, allowed: &[(&str, &str)]) -> Vec<Finding> {
    let sleeps = |line: &str| {
        let calls = line.match_indices("sleep(").map(|(at, _)| &line[..at]);
        let mut calls =
            calls.filter(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        // A method of a clock can be paused, a definition is no call.
        calls.any(|before| !before.ends_with('.') && !before.ends_with("fn "))
    };
    let mut found = Vec::new();
    for (file, source) in tree.rust() {
        if allowed.iter().any(|(path, _)| *path == file.path) {
            continue;
        }
        let lines = source.bare.iter().zip(&source.is_test).enumerate();
        for (at, (line, is_test)) in lines {
            if (file.is_test || *is_test) && sleeps(line) {
                let message = "sleeps in a test: wait for an event, or pause the clock";
                found.push(Finding::new(&file.path, at + 1, message));
            }
        }
    }
    found
}

/// `#[ignore = "reason"]`, or it runs.
pub(crate) fn ignored_tests_say_why(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, source) in tree.rust() {
        for (at, line) in source.bare.iter().enumerate() {
            if line.replace(' ', "").contains("#[ignore]") {
                let message = "ignores a test without a reason: write `#[ignore = \"why\"]`";
                found.push(Finding::new(&file.path, at + 1, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let bytes = |(path, text): &(&str, &str)| ((*path).to_owned(), text.as_bytes().to_vec());
        Tree::of(files.iter().map(bytes).collect())
    }

    fn texts(found: &[Finding]) -> String {
        found.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn first_lines() {
        let files =
            &[("a.rs", "//! Is.\n"), ("b.rs", "use x;\n"), ("c.rs", "//! \n"), ("d.rs", "")];
        let message = "does not start with a `//!` sentence that says what the file is";
        assert_eq!(
            findings(first_line_says_what, files),
            format!("b.rs:1: {message}\nc.rs:1: {message}\nd.rs:1: {message}")
        );
    }

    #[test]
    fn long_files() {
        let long = "fn f() {}\n".repeat(501);
        let with_tests =
            format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "// why\n".repeat(500));
        let files =
            &[("a/src/a.rs", long.as_str()), ("a/src/b.rs", &with_tests), ("a/tests/c.rs", &long)];
        let found = texts(&check_lengths(&tree(files), &[]));
        assert_eq!(found, "a/src/a.rs: has 501 lines outside of tests, at most 500 are allowed");
    }

    #[test]
    fn exceptions_only_shrink() {
        let long = "fn f() {}\n".repeat(600);
        let tree = tree(&[("a.rs", &long), ("b.rs", "fn f() {}\n"), ("c.rs", &long)]);
        let list =
            &[("a.rs", 599, "x"), ("b.rs", 700, "x"), ("c.rs", 600, "x"), ("d.rs", 600, "x")];
        assert_eq!(
            texts(&check_lengths(&tree, list)),
            "a.rs: has 600 lines outside of tests, at most 599 are allowed\n\
             b.rs: is short now: take it out of the list of long files in tidy\n\
             d.rs: is listed as long but not there"
        );
    }

    #[test]
    fn lib_with_logic() {
        let text = "//! Is.\n//! fn in a document.\nmod a;\npub use a::f;\nfn g() {}\n";
        let found =
            findings(lib_is_a_table_of_contents, &[("a/src/lib.rs", text), ("a/src/a.rs", text)]);
        let message = "holds logic: lib.rs has the crate's document, modules and re-exports";
        assert_eq!(found, format!("a/src/lib.rs:5: {message}"));
    }

    #[test]
    fn features_inside() {
        let good = "#[cfg(feature = \"file\")]\n#[doc(hidden)]\npub mod file;\n// cfg(feature)\n";
        let bad = "#[cfg(feature = \"file\")]\nuse x;\nif cfg!(feature = \"file\") {}\n";
        let files = &[("a.rs", good), ("b.rs", bad), ("registry.rs", bad)];
        let message = "asks for a feature: only `pub mod` lines and registry.rs may";
        let found = findings(features_stay_at_the_door, files);
        assert_eq!(found, format!("b.rs:1: {message}\nb.rs:3: {message}"));
    }

    #[test]
    fn unsafe_elsewhere() {
        let tree = tree(&[
            ("a.rs", "// unsafe\nunsafe { x() }\n"),
            ("b.rs", "\n"),
            ("c.rs", "unsafe {}\n"),
        ]);
        assert_eq!(
            texts(&check_unsafe(&tree, &[("b.rs", "x"), ("c.rs", "x"), ("d.rs", "x")])),
            "a.rs:2: is unsafe: only the files that tidy lists may be\n\
             b.rs: is safe now: take it out of the list of unsafe files in tidy\n\
             d.rs: is listed as unsafe but not there"
        );
    }

    #[test]
    fn talking_libraries() {
        let text = "fn f() {\n    println!(\"x\");\n    std::process::exit(1)\n}\n#[cfg(test)]\nmod tests { fn g() { println!(); } }\n";
        let files = &[
            ("crates/busline/src/a.rs", text),
            ("crates/busline-cli/src/a.rs", text),
            ("crates/busline/examples/a.rs", text),
        ];
        assert_eq!(
            findings(only_the_tools_talk, files),
            "crates/busline/src/a.rs:2: uses println!: only the command line tool and xtask may\n\
             crates/busline/src/a.rs:3: uses process::exit: only the command line tool and xtask may"
        );
    }

    #[test]
    fn sleeping_tests() {
        let call = "thread::sleep(x);\nclock.sleep(x);\nfn sleep(x: u8) {}\n";
        let inside = format!("{call}#[cfg(test)]\nmod tests {{\n  sleep(x).await;\n}}\n");
        let tree = tree(&[("a/tests/a.rs", call), ("a/src/b.rs", &inside), ("a/tests/c.rs", call)]);
        let message = "sleeps in a test: wait for an event, or pause the clock";
        assert_eq!(
            texts(&check_sleeps(&tree, &[("a/tests/c.rs", "x")])),
            format!("a/src/b.rs:6: {message}\na/tests/a.rs:1: {message}")
        );
    }

    #[test]
    fn ignored_tests() {
        let text =
            "#[test]\n#[ignore]\nfn a() {}\n#[test]\n#[ignore = \"needs a tape\"]\nfn b() {}\n";
        let found = findings(ignored_tests_say_why, &[("a.rs", text)]);
        assert_eq!(found, "a.rs:2: ignores a test without a reason: write `#[ignore = \"why\"]`");
    }
}
