//! `cargo xtask purity`: the pure crates need no operating system, and the build proves it (habit 3, T).
//!
//! A clock, a socket, a thread, a random source: all of them are in `std`. So it is enough to show that no pure
//! crate brings `std` along, neither by itself nor through a dependency:
//!
//! ```text
//!   crates/oarlock-{layout,circuit,cluster,lock,story,node}
//!            │  linked into
//!            ▼
//!   target/purity: a no_std static library with its own panic handler      must build
//!            │  + one dependency that uses std (the control)
//!            ▼
//!   the same library                                                        must not build
//! ```
//!
//! `std` has a panic handler too, and a program may have one only: if `std` is anywhere below, the compiler
//! refuses with "duplicate lang item". That works on the stable toolchain without a second target. Where a
//! target without an operating system is installed, the crates are built for it as well.
//!
//! The library is a workspace of its own, so that features wanted by the daemon do not leak into it, and it
//! takes the versions of our lock file.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::ci::Outcome;
use crate::context::{Context, Failure, run};

/// A pure crate and the crates of this workspace it may need: rooms have no doors to each other.
pub(crate) const PURE: &[(&str, &[&str])] = &[
    ("oarlock-layout", &[]),
    ("oarlock-circuit", &["oarlock-layout"]),
    ("oarlock-cluster", &["oarlock-layout"]),
    ("oarlock-deadlock", &["oarlock-layout"]),
    ("oarlock-lock", &["oarlock-layout"]),
    ("oarlock-story", &["oarlock-layout"]),
    (
        "oarlock-node",
        &["oarlock-layout", "oarlock-circuit", "oarlock-cluster", "oarlock-deadlock", "oarlock-lock"],
    ),
];

/// What pure crates may link from outside. Each is `no_std` and does arithmetic only.
const ALLOWED: &[&str] = &[
    "bitflags",
    "cbor4ii",
    "hashbrown",
    "serde",
    "serde_core",
    "serde_derive",
    "thiserror",
    "thiserror-impl",
    "xxhash-rust",
];

/// Refused by the compiler if two crates bring a panic handler.
const DUPLICATE: &str = "E0152";

/// As a part of `ci`.
pub(crate) fn part(context: &Context) -> Outcome {
    Outcome::noted(check(context))
}

/// Arrows, dependencies, the library, its control, the bare target.
pub(crate) fn check(context: &Context) -> Result<String, Failure> {
    arrows(&context.metadata()?)?;
    let clean = Library::write(context, "purity", None)?;
    clean.dependencies(context)?;
    run(&mut clean.cargo(context, "build"))
        .map_err(|why| format!("{why}\nthe pure crates do not build without std: see the errors above"))?;
    control(context)?;
    let bare = bare_targets(context);
    for target in &bare {
        run(clean.cargo(context, "build").arg("--target").arg(target))?;
    }
    let bare = if bare.is_empty() { "no bare target installed, skipped".into() } else { bare.join(", ") };
    Ok(format!("{} crates without std; {bare}", PURE.len()))
}

/// Plants a dependency that uses `std` and sees the build fail for that reason: the check can fail.
fn control(context: &Context) -> Result<(), Failure> {
    let planted = Library::write(
        context,
        "purity-control",
        Some("pub fn now() -> std::time::Instant { std::time::Instant::now() }\n"),
    )?;
    let output = planted.cargo(context, "build").output().map_err(|e| format!("cargo build: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains(DUPLICATE) {
        return Err(format!("a planted use of std was not refused with {DUPLICATE}; cargo said:\n{said}"));
    }
    Ok(())
}

/// The generated library.
struct Library {
    manifest: PathBuf,
}

impl Library {
    /// Writes it, with a dependency of the given text beside the pure crates if there is one.
    fn write(context: &Context, name: &str, leak: Option<&str>) -> Result<Library, Failure> {
        let dir = context.target_dir().join(name);
        let put = |path: &str, text: &str| -> Result<(), Failure> {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a file below a directory"))
                .and_then(|()| fs::write(&path, text))
                .map_err(|e| format!("{}: {e}", path.display()))
        };
        let mut manifest = String::from(
            "[workspace]\n[package]\nname = \"purity\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [lib]\ncrate-type = [\"staticlib\"]\npath = \"lib.rs\"\n\
             [profile.dev]\npanic = \"abort\"\n[dependencies]\n",
        );
        let mut names = String::new();
        for (pure, _) in PURE {
            let path = context.root.join("crates").join(pure);
            manifest += &format!("{pure} = {{ path = {path:?} }}\n");
            names += &format!("extern crate {};\n", pure.replace('-', "_"));
        }
        if let Some(text) = leak {
            manifest += "leak = { path = \"leak\" }\n";
            names += "extern crate leak;\n";
            put(
                "leak/Cargo.toml",
                "[package]\nname = \"leak\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n",
            )?;
            put("leak/lib.rs", text)?;
        }
        put("Cargo.toml", &manifest)?;
        put("lib.rs", &include_str!("purity/lib.rs.in").replace("EXTERN_CRATES\n", &names))?;
        put("Cargo.lock", &context.read("Cargo.lock")?)?;
        Ok(Library { manifest: dir.join("Cargo.toml") })
    }

    fn cargo(&self, context: &Context, task: &str) -> Command {
        let mut command = context.cargo();
        command.arg(task).arg("--quiet").arg("--manifest-path").arg(&self.manifest);
        command
    }

    /// Every package below the library is ours or on the list.
    fn dependencies(&self, context: &Context) -> Result<(), Failure> {
        let mut command = context.cargo();
        command.args(["metadata", "--format-version=1", "--manifest-path"]).arg(&self.manifest);
        let output = command.output().map_err(|e| format!("cargo metadata: {e}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
        let linked = linked(&metadata, "purity");
        let known: BTreeSet<&str> = PURE.iter().map(|p| p.0).chain(ALLOWED.iter().copied()).collect();
        let strangers: Vec<&String> = linked.iter().filter(|n| !known.contains(n.as_str())).collect();
        if strangers.is_empty() {
            return Ok(());
        }
        Err(format!(
            "pure crates link {strangers:?}, which xtask/src/purity.rs does not allow; a pure crate needs \
             almost nothing, so look for a way without it first"
        ))
    }
}

/// Names of all packages linked into `root`: what procedural macros need at build time is not linked.
fn linked(metadata: &Value, root: &str) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let of = |id: &str| metadata["packages"].as_array()?.iter().find(|p| p["id"] == id).cloned();
    let is_macro = |package: &Value| {
        let targets = package["targets"].as_array().into_iter().flatten();
        targets.flat_map(|t| t["kind"].as_array().into_iter().flatten()).any(|k| k == "proc-macro")
    };
    let mut open: Vec<Value> = packages.filter(|p| p["name"] == root).cloned().collect();
    let mut names = BTreeSet::new();
    while let Some(package) = open.pop() {
        if package["name"] != root && !names.insert(text(&package["name"])) || is_macro(&package) {
            continue;
        }
        let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
        for node in nodes.filter(|n| n["id"] == package["id"]) {
            for dep in node["deps"].as_array().into_iter().flatten() {
                let normal = |k: &Value| k["kind"].is_null();
                if dep["dep_kinds"].as_array().into_iter().flatten().any(normal) {
                    open.extend(of(&text(&dep["pkg"])));
                }
            }
        }
    }
    names
}

/// Pure crates need no more of each other than the drawing allows.
fn arrows(metadata: &Value) -> Result<(), Failure> {
    for (name, allowed) in PURE {
        let package = metadata["packages"].as_array().into_iter().flatten().find(|p| p["name"] == *name);
        let package = package.ok_or(format!("{name} is not a package of this workspace"))?;
        for dep in package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"].is_null()) {
            let dep = text(&dep["name"]);
            if dep.starts_with("oarlock") && !allowed.contains(&dep.as_str()) {
                return Err(format!(
                    "{name} needs {dep}, but rooms have no doors to each other (ARCHITECTURE.md)"
                ));
            }
        }
    }
    Ok(())
}

/// Installed targets without an operating system; none where there is no rustup.
fn bare_targets(context: &Context) -> Vec<String> {
    let output = context.program("rustup").args(["target", "list", "--installed"]).output();
    let installed = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    installed.lines().filter(|t| t.contains("-none")).map(String::from).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dep(id: &str, kind: Option<&str>) -> Value {
        json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] })
    }

    #[test]
    fn tests_and_macro_internals_are_not_linked() {
        let package =
            |name: &str, kind: &str| json!({ "id": name, "name": name, "targets": [{ "kind": [kind] }] });
        let metadata = json!({
            "packages": [package("purity", "staticlib"), package("a", "lib"), package("m", "proc-macro"),
                         package("syn", "lib"), package("proptest", "lib")],
            "resolve": { "nodes": [
                { "id": "purity", "deps": [dep("a", None)] },
                { "id": "a", "deps": [dep("m", None), dep("proptest", Some("dev"))] },
                { "id": "m", "deps": [dep("syn", None)] },
            ] },
        });
        assert_eq!(linked(&metadata, "purity"), ["a", "m"].map(String::from).into());
    }

    #[test]
    fn a_door_between_rooms_is_refused() {
        let with = |deps: Value| {
            let package = |name: &str| {
                let deps = if name == "oarlock-lock" { deps.clone() } else { json!([]) };
                json!({ "name": name, "dependencies": deps })
            };
            json!({ "packages": PURE.iter().map(|p| package(p.0)).collect::<Vec<_>>() })
        };
        let layout = json!({ "name": "oarlock-layout", "kind": null });
        let test_only = json!({ "name": "oarlock-sim", "kind": "dev" });
        let door = json!({ "name": "oarlock-circuit", "kind": null });
        assert!(arrows(&with(json!([layout, test_only]))).is_ok());
        assert!(arrows(&with(json!([door]))).unwrap_err().contains("no doors"));
    }
}
