//! The files of the repository, read once.

use std::collections::BTreeSet;
use std::path::Path;

use super::source::Source;
use crate::Result;

/// A file that belongs to the project.
#[derive(Debug)]
pub(crate) struct File {
    /// From the root, with `/`.
    pub(crate) path: String,
    /// Its size.
    pub(crate) bytes_len: usize,
    /// Its text, when it is UTF-8.
    pub(crate) text: Option<String>,
    /// Its code, when it is Rust.
    pub(crate) source: Option<Source>,
    /// Whether all of it serves tests, benchmarks or examples.
    pub(crate) is_test: bool,
}

impl File {
    fn new(path: String, bytes: Vec<u8>) -> Self {
        let bytes_len = bytes.len();
        let text = String::from_utf8(bytes).ok();
        let is_rust = path.ends_with(".rs");
        let source = text.as_deref().filter(|_| is_rust).map(Source::parse);
        let is_test = is_test_path(&path);
        Self { path, bytes_len, text, source, is_test }
    }

    /// The text, line by line, numbered from 1; nothing when it is not text.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.as_deref().unwrap_or_default().lines();
        lines.enumerate().map(|(at, line)| (at + 1, line))
    }

    /// The name of the file without folders.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Where the files of its modules are: the folder, without a slash at the end.
    pub(crate) fn module_folder(&self) -> &str {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        match self.name() {
            "mod.rs" | "lib.rs" | "main.rs" => folder,
            _ => self.path.strip_suffix(".rs").unwrap_or(folder),
        }
    }
}

fn is_test_path(path: &str) -> bool {
    let mut folders: Vec<_> = path.split('/').collect();
    let name = folders.pop().unwrap_or_default();
    name == "tests.rs"
        || path.starts_with("fuzz/")
        || folders.iter().any(|f| matches!(*f, "tests" | "benches" | "examples"))
}

/// All files of the project.
#[derive(Debug)]
pub(crate) struct Tree {
    /// In the order of their paths.
    pub(crate) files: Vec<File>,
}

impl Tree {
    /// Reads what is under `root`, without what `.gitignore` names and without git's own folder.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let ignored = std::fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
        let ignored: BTreeSet<&str> =
            ignored.lines().filter_map(|line| line.trim().strip_prefix('/')).collect();
        let mut found = Vec::new();
        walk(root, "", &ignored, &mut found)?;
        Ok(Self::of(found))
    }

    /// Makes a tree of paths and contents.
    pub(crate) fn of(mut found: Vec<(String, Vec<u8>)>) -> Self {
        found.sort();
        let mut files: Vec<_> =
            found.into_iter().map(|(path, bytes)| File::new(path, bytes)).collect();
        mark_test_modules(&mut files);
        Self { files }
    }

    /// The file with this path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Rust files with their source.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.files.iter().filter_map(|file| Some((file, file.source.as_ref()?)))
    }

    /// Rust files that are not wholly for tests.
    pub(crate) fn production(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.rust().filter(|(file, _)| !file.is_test)
    }

    /// Whether a file or a folder has this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let is_under = |file: &File| {
            file.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.files.iter().any(is_under)
    }
}

/// A relative path from a folder, with its `..` resolved.
pub(crate) fn resolve(folder: &str, path: &str) -> String {
    let mut resolved: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            ".." => drop(resolved.pop()),
            "." => {}
            _ => resolved.push(part),
        }
    }
    resolved.join("/")
}

/// A module declared under `#[cfg(test)]` is a test, and what is below it too.
fn mark_test_modules(files: &mut [File]) {
    let mut folders = Vec::new();
    for file in files.iter() {
        let modules = file.source.iter().flat_map(Source::modules);
        let tests = modules.filter(|(_, _, is_test)| *is_test);
        folders.extend(tests.map(|(name, _, _)| format!("{}/{name}", file.module_folder())));
    }
    for file in files {
        let under = |folder: &String| {
            let rest = file.path.strip_prefix(folder.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        file.is_test |= folders.iter().any(under);
    }
}

fn walk(
    root: &Path,
    folder: &str,
    ignored: &BTreeSet<&str>,
    found: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let here = root.join(folder);
    let problem = |error| format!("cannot read {}: {error}", here.display());
    for entry in std::fs::read_dir(&here).map_err(problem)? {
        let entry = entry.map_err(problem)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().map_err(problem)?;
        if ignored.contains(path.as_str()) || is_tool_folder(&name) {
            continue;
        }
        if kind.is_dir() {
            walk(root, &path, ignored, found)?;
        } else {
            let bytes = std::fs::read(entry.path()).map_err(problem)?;
            found.push((path, bytes));
        }
    }
    Ok(())
}

/// Folders (and, in a work tree, the file) that git and editors keep for themselves.
fn is_tool_folder(name: &str) -> bool {
    matches!(name, ".git" | ".idea" | ".vscode" | ".DS_Store")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let bytes = |(path, text): &(&str, &str)| ((*path).to_owned(), text.as_bytes().to_vec());
        Tree::of(files.iter().map(bytes).collect())
    }

    #[test]
    fn modules_under_cfg_test_are_tests_wherever_they_are() {
        let tree = tree(&[
            ("c/src/lib.rs", "mod a;\n#[cfg(test)]\nmod model;\n"),
            ("c/src/a.rs", "#[cfg(test)]\nmod tests;\n"),
            ("c/src/a/tests.rs", ""),
            ("c/src/model.rs", "mod inner;"),
            ("c/src/model/inner.rs", ""),
            ("c/tests/it/main.rs", ""),
        ]);
        let production: Vec<_> = tree.production().map(|(file, _)| file.path.as_str()).collect();
        assert_eq!(production, ["c/src/a.rs", "c/src/lib.rs"]);
    }

    #[test]
    fn folders_are_found_by_their_files() {
        let tree = tree(&[("crates/a/src/lib.rs", "")]);
        assert!(tree.has("crates/a/") && tree.has("crates/a/src/lib.rs"));
        assert!(!tree.has("crates/a/src/li"));
    }
}
