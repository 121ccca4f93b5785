//! Rules for manifests: the floors of the house.

use toml::{Table, Value};

use super::Finding;
use super::tree::{File, Tree};

/// Of ours: a crate, what it may depend on, and what its tests may use besides.
const FLOORS: &[(&str, &[&str], &[&str])] = &[
    ("busline-log", &[], &[]),
    ("busline-derive", &[], &["busline", "busline-core"]),
    ("busline-core", &[], &[]),
    ("busline-transports", &["busline-core", "busline-log"], &[]),
    ("busline", &["busline-core", "busline-derive", "busline-transports"], &["busline-log"]),
    ("busline-cli", &["busline"], &[]),
    ("xtask", &["busline", "busline-core", "busline-log", "busline-transports"], &[]),
];

/// Dependencies that only these crates may have, and why.
const RESERVED: &[(&str, &[&str], &str)] =
    &[("clap", &["busline-cli"], "only the command line tool reads arguments")];

/// A crate depends on the floors below it, never on its neighbours or those above.
pub(crate) fn dependencies_go_down(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, manifest) in manifests(tree, &mut found) {
        let Some(name) = manifest["package"].get("name").and_then(Value::as_str) else { continue };
        let Some((_, allowed, in_tests)) = FLOORS.iter().find(|(known, ..)| *known == name) else {
            let message =
                format!("{name} has no floor: give it one in tidy and in ARCHITECTURE.md");
            found.push(Finding::new(&file.path, 0, message));
            continue;
        };
        for (dependency, is_dev) in dependencies(&manifest) {
            let is_ours = FLOORS.iter().any(|(known, ..)| *known == dependency);
            let is_allowed = allowed.contains(&dependency.as_str())
                || is_dev && (in_tests.contains(&dependency.as_str()) || dependency == name);
            if is_ours && !is_allowed {
                let message = format!("{name} depends on {dependency}, which is no floor below it");
                found.push(Finding::new(&file.path, 0, message));
            }
            // Examples are programs.
            let reserved =
                RESERVED.iter().find(|(reserved, ..)| *reserved == dependency && !is_dev);
            if let Some((_, _, why)) = reserved.filter(|(_, owners, _)| !owners.contains(&name)) {
                let message = format!("{name} depends on {dependency}, but {why}");
                found.push(Finding::new(&file.path, 0, message));
            }
        }
    }
    found
}

/// Lints are set once.
pub(crate) fn lints_are_the_workspaces(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, manifest) in manifests(tree, &mut found) {
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if inherits.and_then(Value::as_bool) != Some(true) {
            let message = "does not take its lints from the workspace: `[lints] workspace = true`";
            found.push(Finding::new(&file.path, 0, message));
        }
    }
    found
}

/// What has a workspace of its own, because of what it needs to compile.
const APART: &[&str] = &["fuzz/", "xtask/peers/"];

/// The manifests of packages of the workspace.
fn manifests<'a>(tree: &'a Tree, found: &mut Vec<Finding>) -> Vec<(&'a File, Table)> {
    let is_manifest = |file: &&File| {
        file.name() == "Cargo.toml" && !APART.iter().any(|folder| file.path.starts_with(folder))
    };
    let mut manifests = Vec::new();
    for file in tree.files.iter().filter(is_manifest) {
        match file.text.as_deref().unwrap_or_default().parse::<Table>() {
            Ok(manifest) if manifest.contains_key("package") => manifests.push((file, manifest)),
            Ok(_) => {}
            Err(error) => found.push(Finding::new(&file.path, 0, format!("is no TOML: {error}"))),
        }
    }
    manifests
}

/// Every dependency by the name of its package, and whether only tests have it.
fn dependencies(manifest: &Table) -> Vec<(String, bool)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut all = Vec::new();
    for table in targets.chain([manifest]) {
        for (section, is_dev) in
            [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)]
        {
            for (name, value) in table.get(section).and_then(Value::as_table).into_iter().flatten()
            {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(name);
                all.push((package.to_owned(), is_dev));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    fn manifest(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n{LINTS}{rest}")
    }

    #[test]
    fn edges_that_go_up() {
        let core = manifest(
            "busline-core",
            "[dependencies]\nbytes = \"1\"\nbusline-log.workspace = true\n",
        );
        let log =
            manifest("busline-log", "[dev-dependencies]\nother = { package = \"busline-core\" }\n");
        let cli = manifest("busline-cli", "[dependencies]\nbusline = \"1\"\nclap = \"4\"\n");
        let bus = manifest(
            "busline",
            "[target.\"cfg(unix)\".dependencies]\nbusline-cli = \"1\"\nclap = \"4\"\n",
        );
        let files = &[
            ("a/Cargo.toml", core.as_str()),
            ("b/Cargo.toml", &log),
            ("c/Cargo.toml", &cli),
            ("d/Cargo.toml", &bus),
        ];
        assert_eq!(
            findings(dependencies_go_down, files),
            "a/Cargo.toml: busline-core depends on busline-log, which is no floor below it\n\
             b/Cargo.toml: busline-log depends on busline-core, which is no floor below it\n\
             d/Cargo.toml: busline depends on busline-cli, which is no floor below it\n\
             d/Cargo.toml: busline depends on clap, but only the command line tool reads arguments"
        );
    }

    #[test]
    fn a_crate_without_a_floor() {
        let text = manifest("busline-new", "");
        assert_eq!(
            findings(dependencies_go_down, &[("a/Cargo.toml", &text), ("b/Cargo.toml", "no")]),
            "b/Cargo.toml: is no TOML: TOML parse error at line 1, column 3\n  |\n1 | no\n  |   ^\n\
             key with no value, expected `=`\n\n\
             a/Cargo.toml: busline-new has no floor: give it one in tidy and in ARCHITECTURE.md"
        );
    }

    #[test]
    fn own_lints() {
        let files =
            &[("Cargo.toml", "[workspace]\n"), ("a/Cargo.toml", "[package]\nname = \"busline\"\n")];
        assert_eq!(
            findings(lints_are_the_workspaces, files),
            "a/Cargo.toml: does not take its lints from the workspace: `[lints] workspace = true`"
        );
    }
}
