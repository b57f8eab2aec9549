//! What the Debian package is made of: every file is there, belongs to something, and the unit and the scripts can be read by those who
//! read them. The package itself is built at night, because that needs `cargo-deb`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Said, oarlock};
use toml::Value;

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let manifest: Value = toml::from_str(&fs::read_to_string(home().join("Cargo.toml")).unwrap()).unwrap();
    manifest["package"]["metadata"]["deb"].clone()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// Where each asset comes from, and where it goes: a file, not a directory.
fn assets(deb: &Value) -> Vec<(String, String)> {
    let assets = deb["assets"].as_array().unwrap().iter().map(words);
    let whole = |it: Vec<String>| {
        let name = it[0].rsplit('/').next().unwrap();
        let to = if it[1].ends_with('/') { format!("/{}{name}", it[1]) } else { format!("/{}", it[1]) };
        (it[0].clone(), to)
    };
    assets.map(whole).collect()
}

fn checked(mut command: Command) -> String {
    let said = Said::of(command.output().unwrap_or_else(|e| panic!("{command:?}: {e}")));
    assert_eq!(said.status, Some(0), "{command:?}: {}{}", said.out, said.err);
    said.out + &said.err
}

#[test]
fn every_file_of_the_package_is_there_or_is_made() {
    let deb = metadata();
    let script = fs::read_to_string(home().join("packaging/build-deb")).unwrap();
    for (from, to) in assets(&deb) {
        match from.strip_prefix("../../target/package/") {
            // What `build-deb` makes, it must name.
            Some(made) => {
                let made = made.rsplit_once("/*.").map_or(made, |(directory, _)| directory);
                assert!(script.contains(&format!("$made/{made}")), "nobody makes {from}");
            }
            None if from == "target/release/oarlock" => assert_eq!(to, "/usr/bin/oarlock"),
            None => assert!(home().join(&from).is_file(), "{from} is not there"),
        }
    }
    let installed: BTreeSet<String> = assets(&deb).into_iter().map(|(_, to)| to).collect();
    for file in words(&deb["conf-files"]) {
        assert!(installed.contains(&file), "{file} is to be kept at an upgrade, and nothing installs it");
    }
    for file in words(&deb["license-file"]) {
        assert!(home().join(&file).is_file(), "{file}");
    }
    let made = tempfile::tempdir().unwrap();
    let mut man = oarlock();
    man.arg("man").arg(made.path());
    checked(man);
    assert!(made.path().join("oarlock-serve.1").is_file(), "the unit names it");
    for shell in ["bash", "zsh", "fish"] {
        let mut completions = oarlock();
        completions.args(["completions", shell]);
        assert!(!checked(completions).is_empty());
    }
}

#[test]
fn the_scripts_of_the_package_can_be_read() {
    let scripts = home().join(metadata()["maintainer-scripts"].as_str().unwrap());
    let mut found = BTreeSet::new();
    for script in fs::read_dir(scripts).unwrap().flatten() {
        let mut shell = Command::new("sh");
        shell.arg("-n").arg(script.path());
        checked(shell);
        let text = fs::read_to_string(script.path()).unwrap();
        assert!(text.contains("set -e\n"), "a step that fails must end it");
        assert!(text.contains("\n#DEBHELPER#\n"), "what is to be done about the unit goes there");
        found.insert(script.file_name().into_string().unwrap());
    }
    assert!(found.contains("postinst") && found.contains("postrm"), "{found:?}");
    let mut shell = Command::new("sh");
    shell.arg("-n").arg(home().join("packaging/build-deb"));
    checked(shell);
}

/// The values of a key in a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_unit_fits_the_package_and_systemd_reads_all_of_it() {
    let deb = metadata();
    let units = &deb["systemd-units"];
    for key in ["start", "enable", "restart-after-upgrade", "stop-on-upgrade"] {
        assert_eq!(units[key].as_bool(), Some(false), "{key}: locks must outlive an upgrade");
    }
    let name = format!("{}.service", units["unit-name"].as_str().unwrap());
    let unit = fs::read_to_string(home().join(units["unit-scripts"].as_str().unwrap()).join(&name)).unwrap();
    assert_eq!(values(&unit, "ExecStart"), ["/usr/bin/oarlock serve"]);
    assert!(assets(&deb).iter().any(|(_, to)| to == "/usr/bin/oarlock"));
    // The user that the script makes, and the directories that `serve` looks into by itself.
    let postinst = fs::read_to_string(home().join("packaging/debian/postinst")).unwrap();
    for key in ["User", "Group"] {
        assert_eq!(values(&unit, key), ["oarlock"]);
    }
    assert!(postinst.contains("adduser --system") && postinst.contains("addgroup --system"));
    for (key, value) in [("Type", "notify"), ("RuntimeDirectory", "oarlock"), ("StateDirectory", "oarlock")] {
        assert_eq!(values(&unit, key), [value]);
    }
    let Ok(program) = which("systemd-analyze") else {
        return eprintln!("skipped: there is no systemd-analyze here");
    };
    // It looks at the program too, which is elsewhere here.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join(&name);
    fs::write(&copy, unit.replace("/usr/bin/oarlock", env!("CARGO_BIN_EXE_oarlock"))).unwrap();
    let mut verify = Command::new(program);
    verify.args(["verify", "--man=no"]).arg(&copy);
    assert_eq!(checked(verify), "", "it does not know all of the unit");
}

fn which(program: &str) -> Result<PathBuf, ()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|it| it.join(program)).find(|it| it.is_file()).ok_or(())
}

/// The package of the binary under test: what is in it works where it is unpacked, and nothing of it is missing.
#[test]
#[ignore = "needs cargo-deb"]
fn the_package_has_what_it_should() {
    let root = home().join("../..").canonicalize().unwrap();
    let mut build = Command::new(home().join("packaging/build-deb"));
    build.arg("dev").current_dir(&root);
    let told = checked(build);
    let file = told.lines().map(str::trim).rfind(|line| line.ends_with(".deb")).expect(&told);
    let deb = |args: &[&str]| {
        let mut command = Command::new("dpkg-deb");
        command.args(args);
        checked(command)
    };
    let unpacked = tempfile::tempdir().unwrap();
    let at = unpacked.path().to_str().unwrap();
    deb(&["--raw-extract", file, at]);
    let there = |path: &str| unpacked.path().join(path.trim_start_matches('/')).exists();
    for (from, to) in assets(&metadata()) {
        let page = if from.ends_with("*.3.gz") { "oar_lock_wait" } else { "oarlock-lock" };
        let to = to.replace('*', page);
        assert!(there(&to) || there(&format!("{to}.gz")), "{to} is not in the package");
    }
    let read = |path: &str| fs::read_to_string(unpacked.path().join(path)).unwrap();
    let unit = ["usr/lib/systemd/system", "lib/systemd/system"].map(|it| format!("{it}/oarlock.service"));
    assert!(unit.iter().any(|it| there(it)), "the unit is not in the package");
    assert_eq!(read("DEBIAN/conffiles").trim(), "/etc/oarlock/oarlock.toml");
    for script in ["postinst", "postrm"] {
        let text = read(&format!("DEBIAN/{script}"));
        assert!(!text.contains("#DEBHELPER#"), "{script}: nothing was put there");
        assert!(!text.contains("deb-systemd-invoke start") && !text.contains("restart"), "{script}: {text}");
    }
    let mut program = Command::new(unpacked.path().join("usr/bin/oarlock"));
    program.arg("version");
    let version = checked(program);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    // It finds its own libraries: the node is what is missing.
    let mut program = Command::new(unpacked.path().join("usr/bin/oarlock"));
    program.args(["dlm", "run", "--", "true"]).env("OARLOCK_SOCKET", "/nobody/listens/here");
    Said::of(program.output().unwrap()).expect(69, &["OAR-1101"]);
    let control = read("DEBIAN/control");
    assert!(control.contains("Package: oarlock\n") && control.contains("adduser"), "{control}");
    let mut check = Command::new(unpacked.path().join("usr/bin/oarlock"));
    check.args(["config", "check"]).arg(Path::new(at).join("etc/oarlock/oarlock.toml"));
    // It is to be filled in first, and says so.
    let said = Said::of(check.output().unwrap());
    assert!(said.status == Some(78) && said.err.contains("oarlock.toml"), "{}{}", said.out, said.err);
}
