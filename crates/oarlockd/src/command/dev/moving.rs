//! Members of a `dev` cluster that leave it, and machines that join in their places.
//!
//! Both are done with the commands that people have: what a storyboard shows of them is what they do.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use oarlock_layout::code::Code;

use super::nodes::Nodes;
use crate::host::file;
use crate::problem::{Problem, Result};

impl Nodes<'_> {
    /// Tells a member to leave for good, and does not wait: its programs must hear of it first. What comes of it stands in
    /// the node's log.
    pub(crate) fn leave(&mut self, node: usize) -> Result<()> {
        let name = self.name(node).to_owned();
        if self.has_ended(node) {
            return Err(refused(format!("{name} is down, it cannot leave in order")));
        }
        let fail = |e: std::io::Error| Problem::io(Code::Failed, format!("cannot let {name} leave"), &e);
        let log = fs::OpenOptions::new().append(true).open(self.place().log(&name)).map_err(fail)?;
        let mut command = oarlock(&self.place().socket(&name)).map_err(fail)?;
        command.args(["leave", "--yes"]).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(fail)?).stderr(log);
        // It ends with the node, and `story` does not outlive it by much.
        command.spawn().map(drop).map_err(fail)
    }

    /// A machine of the same name and address, with another key and an empty data directory, joins and is started.
    pub(crate) fn join(&mut self, node: usize) -> Result<()> {
        let name = self.name(node).to_owned();
        if !self.has_ended(node) {
            return Err(refused(format!("{name} has not left")));
        }
        let fail = |e: std::io::Error| Problem::io(Code::Failed, format!("cannot let {name} join"), &e);
        let config = self.place().config(&name);
        let old = fs::read_to_string(&config).map_err(fail)?;
        let text = newcomer(&name, &old).ok_or_else(|| refused(format!("{name} has no address")))?;
        file::replace(&config, text.as_bytes(), 0o600).map_err(fail)?;
        fs::remove_dir_all(config.with_file_name("data")).map_err(fail)?;
        let other = (0..self.count()).find(|other| *other != node && self.is_up(*other));
        let other = other.ok_or_else(|| refused("no member is left to join".into()))?;
        let mut create = oarlock(&self.place().socket(self.name(other))).map_err(fail)?;
        let token = said(create.args(["token", "create", &name]))?;
        let mut join = oarlock(&self.place().socket(&name)).map_err(fail)?;
        said(join.arg("join").arg("--config").arg(&config).arg(token.trim()))?;
        self.start_again(&name)
    }
}

/// The configuration of a machine that founded nothing: what it has to know beside this it is told when it joins.
fn newcomer(name: &str, old: &str) -> Option<String> {
    let (own, _) = old.split_once("\n[cluster]")?;
    let own = own.replace("key_file = \"node.key\"\n", "");
    let (_, member) = old.split_once(&format!("[[member]]\nname = \"{name}\"\n"))?;
    let address = member.lines().find_map(|line| line.strip_prefix("address = "))?;
    Some(format!("{own}\nlisten = {address}\n"))
}

fn oarlock(socket: &Path) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("OARLOCK_SOCKET", socket);
    Ok(command)
}

/// Runs a command, and gives what it prints.
fn said(command: &mut Command) -> Result<String> {
    let fail = |e: std::io::Error| Problem::io(Code::Failed, "cannot run a command of our own", &e);
    let output = command.stdin(Stdio::null()).output().map_err(fail)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(refused(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

fn refused(text: String) -> Problem {
    Problem::new(Code::ChangeRefused, text)
        .because("a member leaves in order, and one joins where one has left")
}
