//! `cargo xtask tidy`: the house rules that no compiler checks, as checks over every file.

mod code;
mod documents;
mod floors;
mod layout;
mod source;
mod text;
mod tree;

use std::fmt;

use crate::{Result, workspace};
use tree::Tree;

/// Where a rule is broken, and how.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    /// Counted from 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// One rule.
type Check = fn(&Tree) -> Vec<Finding>;

/// Every rule; a check that is not here is not run, and the compiler says that it is unused.
const CHECKS: &[Check] = &[
    text::allowed_extensions,
    text::small_files,
    text::clean_lines,
    text::no_leftovers,
    text::no_machine_paths,
    code::first_line_says_what,
    code::short_files,
    code::lib_is_a_table_of_contents,
    code::features_stay_at_the_door,
    code::unsafe_stays_in_its_modules,
    code::only_the_tools_talk,
    code::tests_never_sleep,
    code::ignored_tests_say_why,
    layout::every_module_is_reached,
    layout::transports_look_alike,
    layout::siblings_do_not_know_each_other,
    layout::absences,
    floors::dependencies_go_down,
    floors::lints_are_the_workspaces,
    documents::one_title,
    documents::paths_exist,
    documents::shown_files_are_equal,
    documents::changelog_form,
];

/// Checks the tree and fails with every finding.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::read(&workspace::root())?;
    let findings: Vec<_> = CHECKS.iter().flat_map(|check| check(&tree)).collect();
    if findings.is_empty() {
        println!("tidy: {} files, {} rules, nothing found", tree.files.len(), CHECKS.len());
        return Ok(());
    }
    for finding in &findings {
        println!("{finding}");
    }
    Err(format!("{} findings", findings.len()))
}

/// What a check says about a tree of these files, one finding a line.
#[cfg(test)]
fn findings(check: Check, files: &[(&str, &str)]) -> String {
    let bytes = |(path, text): &(&str, &str)| ((*path).to_owned(), text.as_bytes().to_vec());
    let tree = Tree::of(files.iter().map(bytes).collect());
    check(&tree).iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_project_is_tidy() {
        assert_eq!(super::run(), Ok(()), "see the findings above");
    }
}
