//! `oarlock config`: check a file, and show what it means.

use std::path::Path;

use oarlock_layout::code::Code;

use super::cli::{Config as Command, Format, Output};
use super::output;
use crate::config::{Config, Given, Rights, fencing};
use crate::host::key::{Secret, print};
use crate::host::keychain::Keychain;
use crate::host::{door, people};
use crate::problem::{Problem, Result};

/// Runs one of them.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Check { file, format } => {
            let config = Config::load(file)?;
            check_files(&config)?;
            print_check(&config, format)
        }
        Command::Show { file, format } => print_config(&Config::load(file)?, format),
    }
}

/// Checks what the file only names: keys, their permissions, the socket's path.
pub fn check_files(config: &Config) -> Result<(Keychain, Secret)> {
    door::check_path(&config.socket)?;
    // Names that this machine does not know are better said now. The group of a socket that is not there yet is another matter.
    Rights::of(config, people::me(), people::my_group())?;
    let chain = Keychain::read(&config.data_dir, &config.key_file)?;
    let (key, expected) = (chain.standing().current, config.node.key);
    // A key to which the node has changed while it ran, no configuration says.
    if chain.is_first() && key != expected {
        return Err(Problem::new(
            Code::KeyMismatch,
            format!("{} is not the key of `{}`", config.key_file.display(), config.name()),
        )
        .because(format!(
            "its public half is {}, the configuration says {}",
            print(&key),
            print(&expected)
        )));
    }
    let secret = Secret::read(&config.secret_file).map_err(|p| match p.code {
        // It is there, and what its owner and mode should be has been said.
        Code::KeyPermissions => p,
        _ => p.try_next(format!("copy the cluster's secret to {}, mode 0600", config.secret_file.display())),
    })?;
    fencing::check(&config.fencing)?;
    Ok((chain, secret))
}

fn print_check(config: &Config, format: &Format) -> Result<()> {
    let shared = config.shared();
    if let form @ (Output::Json | Output::Yaml) = format.output {
        let parts: serde_json::Map<_, _> =
            shared.parts().iter().map(|(key, part)| ((*key).into(), format!("{part:04x}").into())).collect();
        let document = serde_json::json!({
            "v": 1, "ok": true, "node": config.name(), "shared": shared.to_string(), "parts": parts
        });
        return output::print_document(form, &document);
    }
    let mut lines = vec![format!("{} makes sense: node {}", config.path.display(), config.name())];
    lines.push("these must be the same on every member:".into());
    lines.extend(shared.parts().iter().map(|(key, part)| format!("  {part:04x}  {key}")));
    output::print_text(&lines.join("\n"))
}

fn print_config(c: &Config, format: &Format) -> Result<()> {
    if let form @ (Output::Json | Output::Yaml) = format.output {
        return output::print_document(form, &document(c));
    }
    let text = |path: &Path| path.display().to_string();
    let mut out =
        vec!["[node]".into(), format!("name = {:?}", c.name()), format!("listen = \"{}\"", c.listen)];
    out.extend(c.api.map(|api| format!("api = \"{api}\"")));
    out.extend([
        format!("socket = {:?}", text(&c.socket)),
        format!("data_dir = {:?}", text(&c.data_dir)),
        format!("key_file = {:?}", text(&c.key_file)),
        format!("shards = {}", c.shards),
        format!("spin = {}", c.spin),
        format!("deadlock_search = \"{}\"", humantime::format_duration(c.deadlock_search)),
    ]);
    out.extend(c.operators.as_ref().map(|it| format!("operators = {it:?}")));
    out.extend([
        "\n[cluster]".into(),
        format!("name = {:?}", c.cluster),
        format!("secret_file = {:?}", text(&c.secret_file)),
        format!("coordinator = \"{}\"", engine(c)),
    ]);
    out.extend(c.etcd.as_ref().map(|etcd| {
        format!("\n[coordinator.etcd]\nendpoints = {:?}\nprefix = {:?}", etcd.endpoints, etcd.prefix)
    }));
    for m in &c.members {
        out.push("\n[[member]]".into());
        out.push(format!(
            "name = {:?}\naddress = \"{}\"\npublic_key = \"{}\"",
            m.name,
            m.address,
            print(&m.key)
        ));
    }
    for s in &c.spaces {
        out.push("\n[[space]]".into());
        out.push(format!(
            "name = {:?}\norder = \"{}\"\nretain = {}\nresources_max = {}",
            s.name,
            s.order.name(),
            s.retain,
            s.resources_max
        ));
        let Given { owner, group, mode, nodes } = &s.given;
        out.extend(owner.as_ref().map(|it| format!("owner = {it:?}")));
        out.extend(group.as_ref().map(|it| format!("group = {it:?}")));
        out.push(format!("mode = \"{mode:04o}\""));
        out.extend(nodes.as_ref().map(|it| format!("nodes = {it:?}")));
    }
    if !c.fencing.is_empty() {
        let order: Vec<_> = c.fencing.iter().map(|method| method.name.as_str()).collect();
        out.push(format!("\n[fencing]\norder = {order:?}"));
    }
    for it in &c.fencing {
        let (command, timeout) = (text(&it.command), humantime::format_duration(it.timeout));
        out.push(format!("\n[fencing.{}]\ncommand = {command:?}\ntimeout = \"{timeout}\"", it.name));
    }
    out.push(format!("\n[circuit]\noffload = {}", c.offload));
    out.push(format!("\n[log]\nlevel = \"{}\"", c.log.name()));
    output::print_text(&out.join("\n"))
}

/// Who decides, as the file says it.
fn engine(c: &Config) -> &'static str {
    if c.etcd.is_some() { "etcd" } else { "raft" }
}

fn document(c: &Config) -> serde_json::Value {
    let members: Vec<_> = c
        .members
        .iter()
        .map(|m| serde_json::json!({"name": m.name, "address": m.address, "public_key": print(&m.key)}))
        .collect();
    let fences: Vec<_> = (c.fencing.iter())
        .map(|it| {
            let timeout = humantime::format_duration(it.timeout).to_string();
            serde_json::json!({"name": it.name, "command": it.command, "timeout": timeout})
        })
        .collect();
    let spaces: Vec<_> = c
        .spaces
        .iter()
        .map(|s| {
            serde_json::json!({
                "name": s.name, "order": s.order.name(), "retain": s.retain, "resources_max": s.resources_max,
                "owner": s.given.owner, "group": s.given.group, "mode": format!("{:04o}", s.given.mode),
                "nodes": s.given.nodes
            })
        })
        .collect();
    serde_json::json!({
        "v": 1,
        "node": {
            "name": c.name(), "listen": c.listen, "api": c.api, "socket": c.socket, "data_dir": c.data_dir,
            "key_file": c.key_file, "shards": c.shards, "spin": c.spin, "operators": c.operators,
            "deadlock_search": humantime::format_duration(c.deadlock_search).to_string()
        },
        "cluster": {"name": c.cluster, "secret_file": c.secret_file, "coordinator": engine(c)},
        "coordinator": {
            "etcd": c.etcd.as_ref().map(|it| serde_json::json!({"endpoints": it.endpoints, "prefix": it.prefix}))
        },
        "members": members,
        "spaces": spaces,
        "fencing": fences,
        "circuit": {"offload": c.offload},
        "log": {"level": c.log.name()},
        "shared": c.shared().to_string(),
    })
}
