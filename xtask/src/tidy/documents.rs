//! Rules for Markdown.

use super::Finding;
use super::tree::{File, Tree, resolve};

fn documents(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.files.iter().filter(|file| file.name().ends_with(".md"))
}

/// Lines outside of fenced code, numbered from 1.
fn prose(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    file.lines().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// A document has one title, on its first line.
pub(crate) fn one_title(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in documents(tree) {
        let titles: Vec<_> = prose(file)
            .filter(|(_, line)| line.starts_with("# "))
            .map(|(number, _)| number)
            .collect();
        match titles.as_slice() {
            [1] => {}
            [] => found.push(Finding::new(&file.path, 1, "has no `# Title` on its first line")),
            [1, second, ..] => found.push(Finding::new(&file.path, *second, "has a second title")),
            [first, ..] => {
                found.push(Finding::new(&file.path, *first, "does not start with its title"));
            }
        }
    }
    found
}

/// Folders that a document can point into.
const ROOTS: &[&str] = &["crates/", "xtask/", "examples/", "docs/", ".ci/", "fuzz/"];

/// A file that a document names is there: in backticks from the root, in a link from the document.
pub(crate) fn paths_exist(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    // What was true of an old version stays in the changelog.
    for file in documents(tree).filter(|file| file.path != "CHANGELOG.md") {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in prose(file) {
            let quoted = line.split('`').skip(1).step_by(2).filter(|text| is_path(text));
            let quoted = quoted.map(|text| text.trim_end_matches('/').to_owned());
            let linked = links(line).map(|target| resolve(folder, target));
            for path in quoted.chain(linked).filter(|path| !tree.has(path)) {
                found.push(Finding::new(
                    &file.path,
                    number,
                    format!("names {path}, which is not there"),
                ));
            }
        }
    }
    found
}

fn is_path(text: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    ROOTS.iter().any(|root| text.starts_with(root)) && text.chars().all(is_plain)
}

/// The relative targets of the links of a line, anchors cut.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let targets = targets.map(|(target, _)| target.split('#').next().unwrap_or(target));
    targets.filter(|target| !target.is_empty() && !target.contains(':'))
}

const SHOWN: &str = "<!-- file: ";

/// Code that a document shows is a file that is compiled: the block after `<!-- file: path -->`.
pub(crate) fn shown_files_are_equal(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in documents(tree) {
        let mut lines = file.lines();
        while let Some((number, line)) = lines.next() {
            let path = line.strip_prefix(SHOWN).and_then(|rest| rest.strip_suffix(" -->"));
            let Some(path) = path else { continue };
            let block = lines.by_ref().skip_while(|(_, line)| !line.starts_with("```")).skip(1);
            let block = block.map(|(_, line)| line).take_while(|line| !line.starts_with("```"));
            let shown: Vec<_> = block.collect();
            let real = tree.file(path).map(|file| {
                file.lines().map(|(_, line)| line).skip_while(|line| line.starts_with("//!"))
            });
            if !real.is_some_and(|real| real.eq(shown)) {
                let message = format!("shows something else than {path}: copy it again");
                found.push(Finding::new(&file.path, number, message));
            }
        }
    }
    found
}

const SECTIONS: &[&str] =
    &["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Breaking"];

/// The changelog is one that people and programs can read: <https://keepachangelog.com>.
pub(crate) fn changelog_form(tree: &Tree) -> Vec<Finding> {
    const PATH: &str = "CHANGELOG.md";
    let Some(file) = tree.file(PATH) else {
        return vec![Finding::new(PATH, 0, "is missing")];
    };
    let mut found = Vec::new();
    let mut versions = 0;
    for (number, line) in file.lines() {
        let problem = if let Some(title) = line.strip_prefix("## ") {
            versions += 1;
            (!is_release(title)).then_some("is no `## [Unreleased]` or `## [1.2.3] - 2026-01-31`")
        } else if let Some(section) = line.strip_prefix("### ") {
            (!SECTIONS.contains(&section)).then_some("is none of the sections of a changelog")
        } else {
            let is_entry = line.is_empty() || line.starts_with("- ") || line.starts_with("  ");
            (versions > 0 && !is_entry && !line.starts_with('['))
                .then_some("is no entry: entries start with `- `")
        };
        found.extend(problem.map(|message| Finding::new(PATH, number, message)));
    }
    if versions == 0 {
        found.push(Finding::new(PATH, 0, "has no version"));
    }
    found
}

fn is_release(title: &str) -> bool {
    if title == "[Unreleased]" {
        return true;
    }
    let Some((version, date)) = title.strip_prefix('[').and_then(|rest| rest.split_once("] - "))
    else {
        return false;
    };
    let numbers = |text: &str, by: char, lengths: &[usize]| {
        let parts: Vec<_> = text.split(by).collect();
        parts.len() == lengths.len()
            && parts.iter().zip(lengths).all(|(part, len)| {
                part.chars().all(|c| c.is_ascii_digit())
                    && (*len == 0 && !part.is_empty() || part.len() == *len)
            })
    };
    numbers(version, '.', &[0, 0, 0]) && numbers(date, '-', &[4, 2, 2])
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn titles() {
        let files = &[
            ("a.md", "# A\n```\n# no title\n```\n## B\n"),
            ("b.md", "no title\n"),
            ("c.md", "# A\n\n# B\n"),
            ("d.md", "text\n# A\n"),
        ];
        assert_eq!(
            findings(one_title, files),
            "b.md:1: has no `# Title` on its first line\nc.md:3: has a second title\n\
             d.md:2: does not start with its title"
        );
    }

    #[test]
    fn stale_paths() {
        let files = &[
            ("crates/a/src/lib.rs", ""),
            ("crates/a/B.md", "[up](../../A.md) [gone](C.md)\n"),
            (
                "A.md",
                "`crates/a/` `crates/a/src/lib.rs` `crates/*/x` `cargo x`\n`crates/b`\n\
                 ```\n`crates/c`\n```\n[b](crates/a/B.md#x) [w](https://x.y) [c](C.md)\n",
            ),
        ];
        assert_eq!(
            findings(paths_exist, files),
            "A.md:2: names crates/b, which is not there\nA.md:6: names C.md, which is not there\n\
             crates/a/B.md:1: names crates/a/C.md, which is not there"
        );
    }

    #[test]
    fn shown_files() {
        let document = "# A\n<!-- file: a.rs -->\n\n```rust\nfn a() {}\n```\n";
        let both = |code| findings(shown_files_are_equal, &[("A.md", document), ("a.rs", code)]);
        assert_eq!(both("//! Is.\nfn a() {}\n"), "");
        let message = "A.md:2: shows something else than a.rs: copy it again";
        assert_eq!(both("fn a() { }\n"), message);
        assert_eq!(both("fn a() {}\nfn b() {}\n"), message);
        assert_eq!(findings(shown_files_are_equal, &[("A.md", document)]), message);
    }

    #[test]
    fn changelogs() {
        let good = "# Changelog\n\nAll changes.\n\n## [Unreleased]\n\n### Added\n\n- A thing\n  in two lines.\n\n\
                    ## [0.1.0] - 2026-11-21\n";
        assert_eq!(findings(changelog_form, &[("CHANGELOG.md", good)]), "");
        let bad = "# Changelog\n## 0.1\n### New\nthing\n";
        assert_eq!(
            findings(changelog_form, &[("CHANGELOG.md", bad)]),
            "CHANGELOG.md:2: is no `## [Unreleased]` or `## [1.2.3] - 2026-01-31`\n\
             CHANGELOG.md:3: is none of the sections of a changelog\n\
             CHANGELOG.md:4: is no entry: entries start with `- `"
        );
        assert_eq!(findings(changelog_form, &[]), "CHANGELOG.md: is missing");
        assert_eq!(
            findings(changelog_form, &[("CHANGELOG.md", "# Changelog\n")]),
            "CHANGELOG.md: has no version"
        );
    }
}
