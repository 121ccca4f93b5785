//! Rules for where things are, and for what is absent from where.

use std::collections::BTreeSet;

use super::Finding;
use super::source::has_word;
use super::tree::{File, Tree, resolve};

/// A file that no `mod` names is not compiled, and nobody notices.
pub(crate) fn every_module_is_reached(tree: &Tree) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    for (file, source) in tree.rust() {
        let folder = file.module_folder();
        for (name, _, _) in source.modules() {
            reached.insert(format!("{folder}/{name}.rs"));
            reached.insert(format!("{folder}/{name}/mod.rs"));
        }
        // The root of an integration test or example has its modules beside it.
        if let Some((beside, _)) = file.path.rsplit_once('/').filter(|_| is_root(tree, file)) {
            for (name, _, _) in source.modules() {
                reached.insert(format!("{beside}/{name}.rs"));
                reached.insert(format!("{beside}/{name}/mod.rs"));
            }
        }
    }
    let lost =
        tree.rust().filter(|(file, _)| !reached.contains(&file.path) && !is_root(tree, file));
    let message = "is not part of any crate: no `mod` names it";
    lost.map(|(file, _)| Finding::new(&file.path, 0, message)).collect()
}

/// Whether cargo compiles it without being told by a `mod`.
fn is_root(tree: &Tree, file: &File) -> bool {
    let folders: Vec<_> = file.path.split('/').collect();
    let by_place = match folders.as_slice() {
        [.., "src", "lib.rs" | "main.rs"] | [.., "build.rs"] => true,
        [.., "tests" | "benches" | "examples", folder, "main.rs"] => *folder != "src",
        [.., "tests" | "benches" | "examples" | "bin" | "fuzz_targets", name] => {
            name.ends_with(".rs") && !folders.contains(&"src") || folders.contains(&"bin")
        }
        // Files that a compile-fail test reads.
        [.., "ui", _] | [.., "ui", _, _] => true,
        _ => false,
    };
    by_place || is_named_by_a_manifest(tree, file)
}

fn is_named_by_a_manifest(tree: &Tree, file: &File) -> bool {
    let manifests = tree.files.iter().filter(|other| other.name() == "Cargo.toml");
    let mut lines = manifests.flat_map(|manifest| {
        let folder = manifest.path.strip_suffix("Cargo.toml").unwrap_or_default();
        manifest.lines().map(move |(_, line)| (folder, line))
    });
    lines.any(|(folder, line)| {
        let path = line.strip_prefix("path = \"").and_then(|path| path.strip_suffix('"'));
        path.is_some_and(|path| resolve(folder, path) == file.path)
    })
}

const TRANSPORTS: &str = "crates/busline-transports/src/";

/// The folders of transports: those with a session.
fn transports(tree: &Tree) -> Vec<&str> {
    let folders = tree.files.iter().filter_map(|file| {
        let path = file.path.strip_prefix(TRANSPORTS)?;
        path.strip_suffix("/session.rs").or_else(|| path.strip_suffix("/session/mod.rs"))
    });
    folders.collect()
}

/// Who knows one transport knows them all.
pub(crate) fn transports_look_alike(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for transport in transports(tree) {
        for name in ["mod", "config", "session", "mapping"] {
            let path = format!("{TRANSPORTS}{transport}/{name}");
            if tree.file(&format!("{path}.rs")).is_none() && !tree.has(&path) {
                let message = "is missing: every transport has mod, config, session and mapping";
                found.push(Finding::new(&format!("{path}.rs"), 0, message));
            }
        }
    }
    found
}

/// A transport can be moved to a crate of its own with one `git mv`.
pub(crate) fn siblings_do_not_know_each_other(tree: &Tree) -> Vec<Finding> {
    let transports = transports(tree);
    let mut found = Vec::new();
    for (file, source) in tree.rust() {
        let Some(path) = file.path.strip_prefix(TRANSPORTS) else { continue };
        let Some((own, _)) = path.split_once('/') else { continue };
        let siblings: Vec<_> = transports.iter().filter(|name| **name != own).collect();
        for (at, line) in source.bare.iter().enumerate() {
            let imports = |name: &&&&str| {
                has_word(line, &format!("crate::{name}"))
                    || has_word(line, &format!("super::super::{name}"))
            };
            if let Some(sibling) = siblings.iter().find(imports) {
                let message =
                    format!("imports {sibling}: a transport knows core and its client only");
                found.push(Finding::new(&file.path, at + 1, message));
            }
        }
    }
    found
}

/// A crate, what its production code never says, and the invariant behind.
const ABSENCES: &[(&str, &[&str], &str)] = &[
    (
        "crates/busline-log/src/",
        &["tokio", "async fn", "await", "Topic", "topic", "broker", "KeyPattern"],
        "the log knows no async and no messaging",
    ),
    (
        "crates/busline-log/src/",
        &["thread::spawn", "thread::Builder", "Instant::now", "SystemTime::now"],
        "the log starts no thread and reads no clock",
    ),
    (
        "crates/busline-core/src/",
        &["std::fs", "std::net", "std::process", "tokio::fs", "tokio::net", "tokio::process"],
        "the port opens no socket and no file",
    ),
    (
        "crates/busline-transports/src/",
        &["backon", ".waits("],
        "a transport never reconnects and never retries",
    ),
    (
        "crates/busline/src/",
        &["amqp", "kafka", "nats", "rabbitmq", "redis", "sqlite", "stomp", "lapin", "rdkafka"],
        "no broker is named here",
    ),
];

/// Invariants are mostly about what is not there.
pub(crate) fn absences(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (folder, words, invariant) in ABSENCES {
        for (file, source) in tree.production().filter(|(file, _)| file.path.starts_with(folder)) {
            for (number, line) in source.production(&source.bare) {
                for word in words.iter().filter(|word| has_word(line, word)) {
                    let message = format!("says {word}, but {invariant}");
                    found.push(Finding::new(&file.path, number, message));
                }
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
    fn lost_modules() {
        let files = &[
            (
                "a/Cargo.toml",
                "[[bin]]\npath = \"src/tool/main_of_tool.rs\"\n[[example]]\npath = \"../ex/e.rs\"\n",
            ),
            ("a/src/lib.rs", "pub mod b;\n"),
            ("a/src/b.rs", "mod c;\n"),
            ("a/src/b/c.rs", ""),
            ("a/src/d.rs", ""),
            ("a/src/tool/main_of_tool.rs", ""),
            ("a/tests/it/main.rs", "mod one;"),
            ("a/tests/it/one.rs", ""),
            ("a/tests/it/two.rs", ""),
            ("a/examples/e.rs", ""),
            ("ex/e.rs", ""),
        ];
        let message = "is not part of any crate: no `mod` names it";
        assert_eq!(
            findings(every_module_is_reached, files),
            format!("a/src/d.rs: {message}\na/tests/it/two.rs: {message}")
        );
    }

    #[test]
    fn odd_transports() {
        let files = &[
            ("crates/busline-transports/src/file/session.rs", ""),
            ("crates/busline-transports/src/file/mod.rs", ""),
            ("crates/busline-transports/src/file/mapping/mod.rs", ""),
        ];
        assert_eq!(
            findings(transports_look_alike, files),
            "crates/busline-transports/src/file/config.rs: is missing: every transport has mod, \
             config, session and mapping"
        );
    }

    #[test]
    fn nosy_transports() {
        let files = &[
            (
                "crates/busline-transports/src/file/session.rs",
                "use crate::nats::X;\nuse crate::file::Y;\n",
            ),
            ("crates/busline-transports/src/nats/session.rs", "use crate::options::Z;\n"),
            ("crates/busline-transports/src/registry.rs", "use crate::nats::X;\n"),
        ];
        assert_eq!(
            findings(siblings_do_not_know_each_other, files),
            "crates/busline-transports/src/file/session.rs:1: imports nats: a transport knows core \
             and its client only"
        );
    }

    #[test]
    fn present_absences() {
        let files = &[
            ("crates/busline-log/src/a.rs", "//! No topic.\nasync fn f() {}\nthread::spawn(f);\n"),
            (
                "crates/busline-core/src/a.rs",
                "use std::fs;\n#[cfg(test)]\nmod tests { use std::net; }\n",
            ),
            ("crates/busline-transports/src/a.rs", "backoff.waits();\n"),
            ("crates/busline/src/a.rs", "fn kafka() {}\n"),
        ];
        assert_eq!(
            findings(absences, files),
            "crates/busline-log/src/a.rs:2: says async fn, but the log knows no async and no messaging\n\
             crates/busline-log/src/a.rs:3: says thread::spawn, but the log starts no thread and reads no clock\n\
             crates/busline-core/src/a.rs:1: says std::fs, but the port opens no socket and no file\n\
             crates/busline-transports/src/a.rs:1: says .waits(, but a transport never reconnects and never retries\n\
             crates/busline/src/a.rs:1: says kafka, but no broker is named here"
        );
    }
}
