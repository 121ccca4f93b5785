//! Each feature by itself, and none: a feature must not need another that it does not name.

use crate::workspace::Workspace;
use crate::{Result, shell};

/// Lints each package that has features with none of them and with each one alone.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let failed: Vec<_> = combinations(workspace)
        .into_iter()
        .filter_map(|(package, feature)| {
            let mut clippy = shell::cargo(["clippy", "--quiet", "--package", &package]);
            clippy.args(["--no-default-features", "--features", &feature]);
            clippy.args(["--", "-D", "warnings"]);
            shell::run(&mut clippy).err()
        })
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// Package and feature, the empty one first.
fn combinations(workspace: &Workspace) -> Vec<(String, String)> {
    let packages = workspace.packages.iter().filter(|package| !package.features.is_empty());
    let of_package = |package: &crate::workspace::Package| {
        let none = (package.name.clone(), String::new());
        let each = package.features.iter().map(|feature| (package.name.clone(), feature.clone()));
        std::iter::once(none).chain(each).collect::<Vec<_>>()
    };
    packages.flat_map(of_package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    #[test]
    fn packages_with_features_are_checked_with_none_and_with_each() {
        let package = |name: &str, features: &[&str]| Package {
            name: name.to_owned(),
            features: features.iter().map(|text| (*text).to_owned()).collect(),
            examples: Vec::new(),
        };
        let packages = vec![package("core", &[]), package("bus", &["file", "kafka"])];
        let workspace = Workspace { packages, target: "target".into() };
        let found = combinations(&workspace);
        let found: Vec<_> = found.iter().map(|(p, f)| (p.as_str(), f.as_str())).collect();
        assert_eq!(found, [("bus", ""), ("bus", "file"), ("bus", "kafka")]);
    }
}
