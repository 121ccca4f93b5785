//! What cargo knows about the workspace.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Result, shell};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // Cargo says it at run time; the compiled path is for a binary that was started by hand.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
}

/// A package of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its features, `default` apart.
    pub(crate) features: Vec<String>,
    /// Its examples.
    pub(crate) examples: Vec<String>,
}

/// The workspace, and where cargo builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workspace {
    /// The packages, in the order of their names.
    pub(crate) packages: Vec<Package>,
    /// The target directory.
    pub(crate) target: PathBuf,
}

/// Asks `cargo metadata`.
pub(crate) fn read() -> Result<Workspace> {
    parse(&shell::output(&mut shell::cargo(["metadata", "--no-deps", "--format-version", "1"]))?)
}

fn parse(metadata: &str) -> Result<Workspace> {
    let bad = || "cargo metadata printed something else than expected".to_owned();
    let metadata: Value = serde_json::from_str(metadata).map_err(|_| bad())?;
    let packages = metadata["packages"].as_array().ok_or_else(bad)?;
    let mut packages: Vec<_> = packages.iter().filter_map(package).collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    let target = metadata["target_directory"].as_str().ok_or_else(bad)?;
    Ok(Workspace { packages, target: target.into() })
}

fn package(package: &Value) -> Option<Package> {
    let name = package["name"].as_str()?.to_owned();
    let features = package["features"].as_object()?.keys();
    let features = features.filter(|name| *name != "default").cloned().collect();
    let is_example = |target: &&Value| {
        let kinds = target["kind"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "example"))
    };
    let examples = package["targets"].as_array()?.iter().filter(is_example);
    let examples =
        examples.filter_map(|target| Some(target["name"].as_str()?.to_owned())).collect();
    Some(Package { name, features, examples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_gives_packages_features_and_examples() {
        let metadata = r#"{"target_directory": "/t", "packages": [
            {"name": "b", "features": {"default": ["file"], "file": []},
             "targets": [{"name": "b", "kind": ["lib"]}, {"name": "hello", "kind": ["example"]}]},
            {"name": "a", "features": {}, "targets": []}]}"#;
        let package = |name: &str, features: &[&str], examples: &[&str]| Package {
            name: name.to_owned(),
            features: features.iter().map(|text| (*text).to_owned()).collect(),
            examples: examples.iter().map(|text| (*text).to_owned()).collect(),
        };
        let packages = vec![package("a", &[], &[]), package("b", &["file"], &["hello"])];
        assert_eq!(parse(metadata), Ok(Workspace { packages, target: "/t".into() }));
    }

    #[test]
    fn other_output_is_an_error() {
        assert!(parse("[]").is_err());
        assert!(parse("no").is_err());
    }

    #[test]
    fn the_root_holds_the_manifest() {
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}
