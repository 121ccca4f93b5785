//! Rules for every file, whatever is in it.

use super::Finding;
use super::source::has_word;
use super::tree::{File, Tree};

const EXTENSIONS: &[&str] = &["json", "lock", "md", "ndjson", "py", "rs", "snap", "stderr", "toml"];

/// Files whose names say enough without an extension.
const NAMES: &[&str] = &[".gitattributes", ".gitignore", "LICENSE-APACHE", "LICENSE-MIT"];

/// What else may be there, and why.
const ALLOWED_FILES: &[(&str, &str)] = &[
    (".ci/run", "what the build machine starts"),
    ("docs/bench/log.svg", "figures as a picture, written by `cargo xtask bench log --write`"),
    ("examples/tour.sh", "the command line as a shell sees it, run by its tests"),
];

/// Folders of bytes that tests read.
const DATA_FOLDERS: &[&str] = &[
    "crates/busline-log/tests/fixtures/",
    "crates/busline-transports/tests/fixtures/",
    "fuzz/seeds/",
];

/// The files are of kinds that we know how to review.
pub(crate) fn allowed_extensions(tree: &Tree) -> Vec<Finding> {
    let is_allowed = |file: &&File| {
        let extension = file.name().rsplit_once('.').map(|(_, extension)| extension);
        NAMES.contains(&file.name())
            || extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
            || ALLOWED_FILES.iter().any(|(path, _)| *path == file.path)
            || is_data(file)
    };
    let message = "is of a kind that the project does not keep: remove it, or list it in tidy";
    let files = tree.files.iter().filter(|file| !is_allowed(file));
    files.map(|file| Finding::new(&file.path, 0, message)).collect()
}

const BYTES_MAX: usize = 1 << 20;

/// History never forgets a large file.
pub(crate) fn small_files(tree: &Tree) -> Vec<Finding> {
    let large = tree.files.iter().filter(|file| file.bytes_len > BYTES_MAX);
    let message =
        |file: &File| format!("has {} bytes, at most {BYTES_MAX} are kept", file.bytes_len);
    large.map(|file| Finding::new(&file.path, 0, message(file))).collect()
}

fn is_data(file: &File) -> bool {
    DATA_FOLDERS.iter().any(|folder| file.path.starts_with(folder))
}

/// Recorded output and data stay as they came.
fn is_recorded(file: &File) -> bool {
    ["ndjson", "json", "snap", "stderr", "lock"].iter().any(|end| file.name().ends_with(end))
        || file.name().starts_with("LICENSE")
        || is_data(file)
}

/// Text that diffs well: UTF-8, line feeds, no blanks at the end of a line, one newline at the end.
pub(crate) fn clean_lines(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| !is_recorded(file)) {
        let Some(text) = &file.text else {
            found.push(Finding::new(&file.path, 0, "is not UTF-8"));
            continue;
        };
        for (number, line) in text.split('\n').enumerate().map(|(at, line)| (at + 1, line)) {
            if line.ends_with([' ', '\t', '\r']) {
                found.push(Finding::new(&file.path, number, "ends with blanks"));
            }
            if line.contains('\t') && file.source.is_some() {
                found.push(Finding::new(&file.path, number, "has a tab"));
            }
        }
        if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
            found.push(Finding::new(&file.path, 0, "does not end with exactly one newline"));
        }
    }
    found
}

/// Spelt in parts, or this file would find itself.
const LEFTOVERS: &[&str] = &[concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];

/// What is not done is an issue, not a comment.
pub(crate) fn no_leftovers(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| !file.name().ends_with("ndjson")) {
        for (number, line) in file.lines() {
            for word in LEFTOVERS.iter().filter(|word| has_word(line, word)) {
                let message = format!("leaves a {word}: do it, or open an issue");
                found.push(Finding::new(&file.path, number, message));
            }
        }
        for (number, line) in file.source.iter().flat_map(|source| source.production(&source.bare))
        {
            if ["todo!", "unimplemented!"].iter().any(|name| has_word(line, name)) {
                found.push(Finding::new(&file.path, number, "is not written yet"));
            }
        }
    }
    found
}

/// Spelt in parts, or this file would find itself.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/tmp", "/wt"),
    concat!("../sha", "red/"),
];

/// A path of one machine means nothing on another.
pub(crate) fn no_machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.files {
        for (number, line) in file.lines() {
            for path in MACHINE_PATHS.iter().filter(|path| line.contains(**path)) {
                let message = format!("names {path}, which is a path of some machine");
                found.push(Finding::new(&file.path, number, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn kinds_of_files() {
        let files = &[(".ci/run", ""), ("a.rs", ""), ("LICENSE-MIT", ""), ("x.exe", ""), ("y", "")];
        assert_eq!(
            findings(allowed_extensions, files),
            "x.exe: is of a kind that the project does not keep: remove it, or list it in tidy\n\
             y: is of a kind that the project does not keep: remove it, or list it in tidy"
        );
    }

    #[test]
    fn large_files() {
        let large = "x".repeat(BYTES_MAX + 1);
        let found = findings(small_files, &[("a.md", &large), ("b.md", &large[1..])]);
        assert_eq!(found, "a.md: has 1048577 bytes, at most 1048576 are kept");
    }

    #[test]
    fn lines() {
        let files = &[
            ("a.rs", "a \n\tb\n"),
            ("b.md", "a"),
            ("c.md", "a\n\n"),
            ("d.json", "{} "),
            ("e.md", "a\n"),
        ];
        assert_eq!(
            findings(clean_lines, files),
            "a.rs:1: ends with blanks\na.rs:2: has a tab\n\
             b.md: does not end with exactly one newline\n\
             c.md: does not end with exactly one newline"
        );
    }

    #[test]
    fn leftovers() {
        let [fix, to, cross] = LEFTOVERS else { panic!("three words") };
        let text = format!("// {fix}: a\n{to}\n{cross}S\nfn f() {{ todo!() }}\n");
        assert_eq!(
            findings(no_leftovers, &[("a.rs", &text)]),
            format!(
                "a.rs:1: leaves a {fix}: do it, or open an issue\n\
                 a.rs:2: leaves a {to}: do it, or open an issue\n\
                 a.rs:4: is not written yet"
            )
        );
    }

    #[test]
    fn machine_paths() {
        for path in MACHINE_PATHS {
            let found = findings(no_machine_paths, &[("a.md", &format!("see {path}x\n"))]);
            assert_eq!(found, format!("a.md:1: names {path}, which is a path of some machine"));
        }
        assert_eq!(findings(no_machine_paths, &[("a.md", "/tmp/x and homes/\n")]), "");
    }
}
