//! Dependencies: each has a reason, stands once, and none is banned or under a licence we do not take.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Faults;
use super::licence;
use super::tree::Tree;

/// Packages that stay out, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "a C library of the system; aws-lc-rs is linked in"),
    ("ring", "aws-lc-rs does the same and is kept by a team"),
    ("bincode", "its format follows the compiler's idea of a type; ours is written down"),
    ("figment", "configuration has one source here"),
];

/// Tools under a licence that nothing we hand out may have: what they write is ours, and no product links them.
const TOOLS: &[(&str, &str)] = &[("cbindgen", "MPL-2.0")];

/// Where JSON may be read and written: the edge towards people, and the histories of the simulator.
const JSON_ALLOWED: &[&str] = &[
    // It asks what people ask.
    "crates/oarlock-dlm-paths/",
    "crates/oarlockd/src/console/",
    "crates/oarlockd/src/command/",
    "crates/oarlock-sim/src/history/",
];

pub(super) fn check(tree: &Tree, metadata: &Value, faults: &mut Faults) {
    reasons(tree, faults);
    once(tree, faults);
    packages(metadata, faults);
    json(tree, faults);
}

/// Each line of `[workspace.dependencies]` says why, except for our own crates.
fn reasons(tree: &Tree, faults: &mut Faults) {
    let Some(manifest) = tree.get("Cargo.toml") else { return };
    let mut inside = false;
    for (i, line) in manifest.text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[workspace.dependencies]";
        }
        let Some((name, rest)) = line.split_once('=').filter(|_| inside) else { continue };
        let ours = rest.contains("path =");
        if !line.starts_with('#') && !ours && !rest.contains('#') {
            faults.add("Cargo.toml", i + 1, format!("{} has no reason behind it", name.trim()));
        }
    }
}

/// Members take their dependencies from the root, so that a version stands once.
fn once(tree: &Tree, faults: &mut Faults) {
    let member = |path: &str| path != "Cargo.toml" && !path.starts_with("fuzz/");
    for file in tree.ending("Cargo.toml").filter(|f| member(&f.path)) {
        let mut inside = false;
        for (i, line) in file.text.lines().enumerate() {
            if line.starts_with('[') {
                inside = line.contains("dependencies");
            }
            let is_entry = inside && line.contains('=') && !line.starts_with('#') && !line.starts_with('[');
            if is_entry && !line.contains("workspace") && !line.contains("path =") {
                faults.add(&file.path, i + 1, "a version of its own; take it from the root manifest");
            }
        }
    }
}

/// Every package that is linked or used to build, dependencies of dependencies included.
fn packages(metadata: &Value, faults: &mut Faults) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let used: BTreeMap<String, ()> =
        list(&metadata["resolve"]["nodes"]).iter().map(|n| (n["id"].to_string(), ())).collect();
    for package in list(&metadata["packages"]).iter().filter(|p| used.contains_key(&p["id"].to_string())) {
        let name = package["name"].as_str().unwrap_or_default();
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            faults.add("Cargo.lock", 0, format!("{name} is banned: {why}"));
        }
        let licence = package["license"].as_str().unwrap_or_default();
        if TOOLS.contains(&(name, licence)) {
            continue;
        }
        if let Err(why) = licence::check(licence) {
            faults.add("Cargo.lock", 0, format!("{name}: {why}"));
        }
    }
}

fn json(tree: &Tree, faults: &mut Faults) {
    let product =
        |path: &str| path.starts_with("crates/") && path.contains("/src/") && !path.contains("/src/bin/");
    for file in tree.ending(".rs").filter(|f| product(&f.path)) {
        if JSON_ALLOWED.iter().any(|allowed| file.path.starts_with(allowed)) {
            continue;
        }
        for (i, line) in file.product_lines().filter(|(_, l)| l.contains("serde_json")) {
            faults.add(&file.path, i, format!("JSON belongs to the edge towards people: {}", line.trim()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::File;
    use serde_json::json;

    fn tree(path: &str, text: &str) -> Tree {
        Tree { files: vec![File::new(path.into(), text.into())] }
    }

    fn faults(tree: &Tree, metadata: Value) -> Vec<String> {
        let mut faults = Faults::default();
        check(tree, &metadata, &mut faults);
        faults.lines
    }

    #[test]
    fn a_dependency_needs_a_reason_and_stands_once() {
        let root = "[workspace.dependencies]\na = { path = \"a\" }\nb = \"1\" # because\nc = \"1\"\n[other]\nd = 1\n";
        assert_eq!(faults(&tree("Cargo.toml", root), json!({})), ["Cargo.toml:4: c has no reason behind it"]);
        let member = "[dependencies]\nb.workspace = true\nc = \"1\"\n";
        assert_eq!(faults(&tree("crates/x/Cargo.toml", member), json!({})).len(), 1);
    }

    #[test]
    fn banned_packages_and_licences_are_named() {
        let package = |name: &str, licence: &str| json!({ "id": name, "name": name, "license": licence });
        let metadata = json!({
            "packages": [package("ring", "ISC"), package("x", "GPL-3.0-only"), package("unused", "GPL-2.0"),
                         package("cbindgen", "MPL-2.0"), package("fine", "MIT OR Apache-2.0")],
            "resolve": { "nodes": [{ "id": "ring" }, { "id": "x" }, { "id": "cbindgen" }, { "id": "fine" }] },
        });
        let faults = faults(&tree("a.md", ""), metadata);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("ring is banned") && faults[1].contains("GPL-3.0-only"));
    }

    #[test]
    fn json_stays_at_the_edge() {
        let text = "use serde_json::Value;\n";
        assert_eq!(faults(&tree("crates/oarlockd/src/engine.rs", text), json!({})).len(), 1);
        assert_eq!(faults(&tree("crates/oarlockd/src/console/ask.rs", text), json!({})), [""; 0]);
    }
}
