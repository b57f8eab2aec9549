//! The configuration: one TOML file, read once, checked as a whole.
//!
//! ```text
//!   beginning.rs which beginning of the cluster this node belongs to, which members must agree on as well
//!   fencing.rs   what keeps away a node that left
//!   file.rs      what may stand in the file; unknown keys are refused with a suggestion
//!   fixed.rs     what of it a run cannot change
//!   founding.rs  the cluster it describes, as its founders propose it
//!   membership.rs  what a node keeps of a cluster that it did not get from its configuration
//!   mod.rs       what it means: defaults filled in, paths made absolute, contradictions named
//!   rights.rs    to whom lockspaces are given, as numbers of this machine
//!   shared.rs    the part that must be the same on every member, as a number to compare
//! ```
//!
//! Start at [`Config::load`].

mod beginning;
pub mod fencing;
mod file;
mod fixed;
mod founding;
pub mod membership;
mod rights;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::id::NodeId;
use oarlock_layout::limit::{
    DEADLOCK_AFTER, LABEL_BYTES_MAX, NODES_MAX, RESOURCES_MAX_DEFAULT, SPACES_MAX, VALUE_BYTES,
};
use toml::{Spanned, Table};

pub use file::{Level, Order};
pub use membership::Joined;
pub use rights::{Given, Rights};
pub use shared::Shared;

use crate::coordinator::etcd;
use crate::host::key;
use crate::problem::{Problem, Result, did_you_mean};

/// Where a node's socket is unless the configuration says otherwise; commands look here too.
pub const SYSTEM_SOCKET: &str = "/run/oarlock/oarlock.sock";
/// Where commands look for a configuration that is not named.
pub const SYSTEM_FILE: &str = "/etc/oarlock/oarlock.toml";
/// The lockspace every cluster has.
pub const DEFAULT_SPACE: &str = "default";
const SYSTEM_DATA: &str = "/var/lib/oarlock";

/// A configuration that makes sense.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// This node's id.
    pub me: NodeId,
    /// Who it is.
    pub node: Member,
    /// Where circuits listen.
    pub listen: SocketAddr,
    /// Where metrics and readiness are served, if anywhere; always a loopback address.
    pub api: Option<SocketAddr>,
    /// Where programs attach.
    pub socket: PathBuf,
    /// Where the few numbers live that outlive a run.
    pub data_dir: PathBuf,
    /// This node's private key.
    pub key_file: PathBuf,
    /// The cluster's secret.
    pub secret_file: PathBuf,
    /// How many parts the lock tables are split into.
    pub shards: u16,
    /// Name of the cluster.
    pub cluster: String,
    /// Where the cluster's order is decided, if not by its members.
    pub etcd: Option<Etcd>,
    /// The members that founded the cluster, in the order of their ids.
    pub members: Vec<Member>,
    /// Set if this node joined a cluster that others had founded.
    pub joined: Option<Joined>,
    /// Members and lockspaces word for word, for those who join.
    founded: Table,
    /// All lockspaces, in the order of their ids; `default` first.
    pub spaces: Vec<Space>,
    /// Let the kernel cut and join trains of datagrams.
    pub offload: bool,
    /// The engine may look again for a moment before it sleeps.
    pub spin: bool,
    /// Programs may map segments and grant themselves locks in them.
    pub segments: bool,
    /// The group whose members may change the cluster from this node, besides root and the user as whom it runs.
    pub operators: Option<String>,
    /// How old a wait is before it is looked whether it is part of a deadlock.
    pub deadlock_search: Duration,
    /// What keeps a node that left from doing harm, in the order in which it is tried; empty: only its lease.
    pub fencing: Vec<fencing::Method>,
    /// How much is logged.
    pub log: Level,
    /// This is a node of `oarlock dev`, which may be told not to hear others. No file says so.
    pub dev: bool,
    /// Which beginning of the cluster the data directory is of, if not of the founding. Not in the file: whoever opens the
    /// directory says so.
    pub restoration: Option<u64>,
}

/// The etcd that a cluster relies on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Etcd {
    /// Its members, as this node reaches them; the first is asked first.
    pub endpoints: Vec<String>,
    /// Under which keys; the same at every member.
    pub prefix: String,
}

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where its circuits listen.
    pub address: SocketAddr,
    /// Its public key.
    pub key: [u8; key::KEY_BYTES],
}

/// A lockspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// In which order waiters are served.
    pub order: Order,
    /// Nodes keep what they own after the last local use.
    pub retain: bool,
    /// Resources on one node, retained ones included.
    pub resources_max: u32,
    /// To whom it is given.
    pub given: Given,
}

/// A text and the file it came from, so that an error can name a line.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{}:{line}:{column}", self.path.display())
    }

    fn bad(&self, at: usize, what: impl std::fmt::Display) -> Problem {
        Problem::new(Code::BadConfig, format!("{}: {what}", self.place(at)))
    }

    /// Turns what the parser says into a problem; an unknown key gets its own code and a suggestion.
    fn parse_error(&self, error: &toml::de::Error) -> Problem {
        let place = error.span().map_or_else(|| self.path.display().to_string(), |s| self.place(s.start));
        let message = error.message().trim();
        if let Some(key) = message.strip_prefix("missing field ") {
            return Problem::new(Code::BadConfig, format!("{place}: the key {key} is missing"))
                .because("it has no default, and stands in the section that begins here")
                .try_next("docs/operating.md has a whole configuration to begin with");
        }
        if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
            let why = match message.starts_with("invalid ") {
                true => "the key takes another kind of value",
                false => "it is not valid TOML here",
            };
            return Problem::new(Code::BadConfig, format!("{place}: {message}")).because(why);
        }
        let mut quoted = message.split('`').skip(1).step_by(2);
        let word = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let (code, kind) = match message.starts_with("unknown field") {
            true => (Code::UnknownKey, "key"),
            false => (Code::BadConfig, "value"),
        };
        let problem = Problem::new(code, format!("{place}: unknown {kind} `{word}`"))
            .because(format!("known here: {}", known.join(", ")));
        match did_you_mean(word, known.iter().copied()) {
            Some(meant) => problem.try_next(format!("did you mean `{meant}`?")),
            None => problem,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config> {
        let text = read(path)?;
        let base = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let source = Source { path: &base, text: &text };
        let file: file::File = toml::from_str(&text).map_err(|e| source.parse_error(&e))?;
        if file.cluster.is_some() || !file.member.is_empty() {
            return Config::founder(&source, file);
        }
        let (at, kept) = membership::read(&places(&base, &file.node).0)?;
        Config::member_of(&source, file, &Source { path: &at, text: &kept })
    }

    /// Checks a text as if it had been read from `path`; relative paths in it start at that file's directory.
    pub fn parse(path: &Path, text: &str) -> Result<Config> {
        let source = Source { path, text };
        let file: file::File = toml::from_str(text).map_err(|e| source.parse_error(&e))?;
        Config::founder(&source, file)
    }

    /// A node whose configuration founds the cluster.
    fn founder(source: &Source<'_>, mut file: file::File) -> Result<Config> {
        let cluster = file.cluster.take().ok_or_else(|| {
            source
                .bad(0, "the key `cluster` is missing")
                .because("there are members, but no name for their cluster")
        })?;
        let (member, space) = (std::mem::take(&mut file.member), std::mem::take(&mut file.space));
        let founding = Founding { source, cluster, member: &member, space: &space };
        let (me, node) = founding.me(source, &file.node.name)?;
        founding.config(source, file, (me, node), None)
    }

    /// A node that keeps what it knows of its cluster in its data directory.
    fn member_of(source: &Source<'_>, file: file::File, kept: &Source<'_>) -> Result<Config> {
        let known: membership::File = toml::from_str(kept.text).map_err(|e| kept.parse_error(&e))?;
        let here = membership::founding_parts(source.text).remove("space");
        if here.is_some() && here != membership::founding_parts(kept.text).remove("space") {
            return Err(source
                .bad(0, "the lockspaces are not those of the cluster")
                .because(format!("they were decided when it was founded; {} has them", kept.path.display()))
                .try_next("take [[space]] out of this file"));
        }
        let founding =
            Founding { source: kept, cluster: known.cluster, member: &known.member, space: &known.space };
        let Some(joined) = &known.joined else {
            let me = founding.me(source, &file.node.name)?;
            return founding.config(source, file, me, None);
        };
        let (me, joined) = membership::joined(kept, joined, &known.peer)?;
        let node = joined.peers[&me].clone();
        if node.name != *file.node.name.get_ref() {
            return Err(source
                .bad(
                    file.node.name.span().start,
                    format_args!("this node joined its cluster as `{}`", node.name),
                )
                .because("a member keeps its name"));
        }
        founding.config(source, file, (me, node), Some(joined))
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// The members that this node knows without asking: those that founded the cluster, or that it met when it joined.
    pub fn known(&self) -> BTreeMap<NodeId, Member> {
        match &self.joined {
            Some(joined) => joined.peers.clone(),
            None => (0..).map(NodeId).zip(self.members.iter().cloned()).collect(),
        }
    }

    /// One of them.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        match &self.joined {
            Some(joined) => joined.peers.get(&node),
            None => self.members.get(usize::from(node.0)),
        }
    }

    /// Where the members of these names send from, as far as this node knows them without asking.
    ///
    /// # Errors
    /// A name that is no member's.
    pub fn addresses(&self, names: &[String]) -> std::result::Result<BTreeSet<SocketAddr>, String> {
        let known = self.known();
        let address = |name: &String| {
            known.values().find(|m| m.name == *name).map(|m| m.address).ok_or_else(|| name.clone())
        };
        names.iter().map(address).collect()
    }

    /// The number every member must agree on.
    pub fn shared(&self) -> Shared {
        Shared::of(self).since(self.restoration)
    }
}

/// Reads a configuration.
fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Problem::io(Code::BadConfig, format!("cannot read the configuration {}", path.display()), &e)
            .try_next("oarlock serve --config FILE, or oarlock dev for a cluster without configuration")
    })
}

/// The data directory and the key file of the node whose configuration is at `path`.
fn places(path: &Path, node: &file::Node) -> (PathBuf, PathBuf) {
    let base = path.parent().unwrap_or(Path::new("/"));
    let data_dir = base.join(node.data_dir.clone().unwrap_or_else(|| SYSTEM_DATA.into()));
    let key_file = node.key_file.as_ref().map_or_else(|| data_dir.join("node.key"), |f| base.join(f));
    (data_dir, key_file)
}

/// How a cluster was founded, and where that is written.
struct Founding<'a> {
    source: &'a Source<'a>,
    cluster: file::Cluster,
    member: &'a [file::Member],
    space: &'a [file::Space],
}

impl Founding<'_> {
    /// Which founder this node is.
    fn me(&self, source: &Source<'_>, name: &Spanned<String>) -> Result<(NodeId, Member)> {
        let members = members(self.source, self.member)?;
        let at = name.span().start;
        let name = name.get_ref();
        let me = members.iter().position(|m| m.name == *name).ok_or_else(|| {
            let problem = source
                .bad(at, format_args!("this node is called `{name}`, and no [[member]] is"))
                .because("every node is a member of its own cluster");
            match did_you_mean(name, members.iter().map(|m| m.name.as_str())) {
                Some(meant) => problem.try_next(format!("did you mean `{meant}`?")),
                None => problem,
            }
        })?;
        Ok((NodeId(me as u16), members[me].clone()))
    }

    fn config(
        self,
        source: &Source<'_>,
        file: file::File,
        (me, node): (NodeId, Member),
        joined: Option<Joined>,
    ) -> Result<Config> {
        let base = source.path.parent().unwrap_or(Path::new("/"));
        let listen = match &file.node.listen {
            Some(text) => address(source, text, "listen")?,
            None => node.address,
        };
        if listen.is_ipv4() != node.address.is_ipv4() {
            let at = file.node.listen.as_ref().map_or(0, |text| text.span().start);
            return Err(source
                .bad(at, format_args!("a socket on {listen} cannot send to the other members"))
                .because("it is for IPv4 or for IPv6, as the addresses of the members are"));
        }
        let api = file.node.api.as_ref().map(|a| loopback(source, a)).transpose()?;
        let cluster = self.cluster.name.get_ref().clone();
        label(self.source, &self.cluster.name, "a cluster name")?;
        let etcd = etcd(source, self.cluster.coordinator, file.coordinator.etcd, &cluster)?;
        let (data_dir, key_file) = places(source.path, &file.node);
        let secrets = self.source.path.parent().unwrap_or(Path::new("/"));
        let members = members(self.source, self.member)?;
        let shards = match file.node.shards {
            None => 1,
            Some(n) if *n.get_ref() == 1 => 1,
            Some(n) => {
                return Err(source
                    .bad(n.span().start, format_args!("shards cannot be {}", n.get_ref()))
                    .because("this version has one engine, so only 1 shard"));
            }
        };
        Ok(Config {
            path: source.path.into(),
            me,
            node,
            listen,
            api,
            socket: base.join(file.node.socket.unwrap_or_else(|| SYSTEM_SOCKET.into())),
            key_file,
            data_dir,
            secret_file: secrets.join(self.cluster.secret_file),
            shards,
            cluster,
            spaces: spaces(self.source, self.space, &members)?,
            etcd,
            members,
            joined,
            founded: membership::founding_parts(self.source.text),
            offload: file.circuit.offload,
            spin: file.node.spin,
            segments: file.node.segments,
            operators: file.node.operators,
            deadlock_search: deadlock_search(source, file.node.deadlock_search)?,
            fencing: fencing::methods(source, file.fencing, base)?,
            log: file.log.level,
            dev: false,
            restoration: None,
        })
    }
}

fn deadlock_search(source: &Source<'_>, text: Option<Spanned<String>>) -> Result<Duration> {
    let Some(text) = text else { return Ok(DEADLOCK_AFTER) };
    let bad = || {
        source
            .bad(text.span().start, format_args!("deadlock_search cannot be `{}`", text.get_ref()))
            .because("it is how long a lock waits before it is looked whether it is part of a deadlock: a time such as 100ms, from 10ms to 1min")
    };
    let time = humantime::parse_duration(text.get_ref()).map_err(|_| bad())?;
    if (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&time) { Ok(time) } else { Err(bad()) }
}

fn etcd(
    source: &Source<'_>,
    engine: file::Engine,
    given: Option<Spanned<file::Etcd>>,
    cluster: &str,
) -> Result<Option<Etcd>> {
    match (engine, given) {
        (file::Engine::Raft, None) => Ok(None),
        (file::Engine::Raft, Some(given)) => Err(source
            .bad(given.span().start, "[coordinator.etcd] is given, and the members decide by themselves")
            .because("[cluster] coordinator is \"raft\", or left out")
            .try_next("coordinator = \"etcd\" in [cluster]")),
        (file::Engine::Etcd, None) => Err(source
            .bad(0, "[cluster] coordinator is \"etcd\", and [coordinator.etcd] is missing")
            .because("it says where etcd is")
            .try_next("endpoints = [\"http://127.0.0.1:2379\"] in [coordinator.etcd]")),
        (file::Engine::Etcd, Some(given)) => {
            let at = given.span().start;
            let file::Etcd { endpoints, prefix } = given.into_inner();
            let prefix = prefix.unwrap_or_else(|| format!("/oarlock/{cluster}"));
            etcd::check(&endpoints, &prefix).map_err(|why| source.bad(at, why))?;
            Ok(Some(Etcd { endpoints, prefix }))
        }
    }
}

fn members(source: &Source<'_>, list: &[file::Member]) -> Result<Vec<Member>> {
    if list.is_empty() {
        return Err(source.bad(0, "there is no [[member]]").because("a cluster has at least one node"));
    }
    if list.len() > NODES_MAX {
        return Err(
            source.bad(list[NODES_MAX].name.span().start, format_args!("more than {NODES_MAX} members"))
        );
    }
    let mut members: Vec<Member> = Vec::with_capacity(list.len());
    for it in list {
        label(source, &it.name, "a member name")?;
        let name = it.name.get_ref();
        let key = key::parse(it.public_key.get_ref()).ok_or_else(|| {
            source
                .bad(it.public_key.span().start, format_args!("the public key of `{name}` is not a key"))
                .because("a key is 44 characters of base64 or 64 hexadecimal digits")
                .try_next("oarlock key show FILE prints the public key of a key file")
        })?;
        let member = Member { name: name.clone(), address: address(source, &it.address, "address")?, key };
        let bad = |what: String| source.bad(it.address.span().start, what);
        let ip = member.address.ip();
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(bad(format!("the address of `{name}` is no machine's: {ip}"))
                .because("the other members send to it")
                .try_next(
                    "the machine's own address; `listen` in [node] may stand for all of its addresses",
                ));
        }
        if let Some(first) = members.first()
            && first.address.is_ipv4() != member.address.is_ipv4()
        {
            return Err(bad(format!("`{name}` and `{}` cannot send to each other", first.name))
                .because("a node has one socket, which is for IPv4 or for IPv6"));
        }
        for other in &members {
            let same = match () {
                () if other.name == member.name => "name",
                () if other.address == member.address => "address",
                () if other.key == member.key => "public key",
                () => continue,
            };
            return Err(source
                .bad(it.name.span().start, format_args!("`{name}` has the {same} of `{}`", other.name))
                .because("members differ in name, address and key"));
        }
        members.push(member);
    }
    Ok(members)
}

fn spaces(source: &Source<'_>, list: &[file::Space], members: &[Member]) -> Result<Vec<Space>> {
    let mut spaces = vec![Space {
        name: DEFAULT_SPACE.into(),
        order: Order::Passover,
        retain: true,
        resources_max: RESOURCES_MAX_DEFAULT,
        given: Given::default(),
    }];
    let mut seen: Vec<&str> = Vec::new();
    for it in list {
        label(source, &it.name, "a lockspace name")?;
        let name = it.name.get_ref().as_str();
        if seen.contains(&name) {
            return Err(
                source.bad(it.name.span().start, format_args!("lockspace `{name}` is described twice"))
            );
        }
        seen.push(name);
        if let Some(value) = &it.value
            && *value.get_ref() != VALUE_BYTES as u64
        {
            return Err(source
                .bad(value.span().start, format_args!("value blocks of {} bytes", value.get_ref()))
                .because(format!("this version has value blocks of {VALUE_BYTES} bytes only")));
        }
        let resources_max = match &it.resources_max {
            None => RESOURCES_MAX_DEFAULT,
            Some(n) if *n.get_ref() >= 1 => *n.get_ref(),
            Some(n) => return Err(source.bad(n.span().start, "resources_max must be at least 1")),
        };
        let given = given(source, it, members)?;
        let space = Space { name: name.into(), order: it.order, retain: it.retain, resources_max, given };
        match name {
            DEFAULT_SPACE => spaces[0] = space,
            _ => spaces.push(space),
        }
    }
    if spaces.len() > SPACES_MAX {
        return Err(source.bad(0, format_args!("more than {SPACES_MAX} lockspaces")));
    }
    Ok(spaces)
}

fn given(source: &Source<'_>, it: &file::Space, members: &[Member]) -> Result<Given> {
    let name = it.name.get_ref();
    let named = |text: &Option<Spanned<String>>| text.as_ref().map(|it| it.get_ref().clone());
    for (key, text) in [("owner", &it.owner), ("group", &it.group)] {
        if let Some(text) = text
            && (text.get_ref().is_empty() || text.get_ref().contains([':', ' ', '\n']))
        {
            return Err(source.bad(text.span().start, format_args!("{key} cannot be `{}`", text.get_ref())));
        }
    }
    let mode = match &it.mode {
        None => rights::MODE,
        Some(text) => mode(source, text)?,
    };
    if let Some(nodes) = &it.nodes {
        let names = || members.iter().map(|m| m.name.as_str());
        if let Some(node) = nodes.get_ref().iter().find(|node| !names().any(|m| m == node.as_str())) {
            let problem = source
                .bad(
                    nodes.span().start,
                    format_args!("lockspace `{name}` is for `{node}`, and no [[member]] is called so"),
                )
                .because("`nodes` names the members whose programs may use the lockspace");
            return Err(match did_you_mean(node, names()) {
                Some(meant) => problem.try_next(format!("did you mean `{meant}`?")),
                None => problem,
            });
        }
    }
    let nodes = it.nodes.as_ref().map(|nodes| {
        let mut nodes = nodes.get_ref().clone();
        nodes.sort();
        nodes
    });
    Ok(Given { owner: named(&it.owner), group: named(&it.group), mode, nodes })
}

/// Bits as of a file, of which each class has none, `r`, or `r` and `w`.
fn mode(source: &Source<'_>, text: &Spanned<String>) -> Result<u16> {
    let typed = text.get_ref();
    let bad = |why: &str| {
        Err(source
            .bad(text.span().start, format_args!("mode cannot be `{typed}`"))
            .because(why)
            .try_next("\"0660\" for owner and group, \"0664\" if everybody may look and take locks to read"))
    };
    let digits = (3..=4).contains(&typed.len()) && typed.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let Some(mode) = u16::from_str_radix(typed, 8).ok().filter(|mode| digits && *mode <= 0o777) else {
        return bad("it is three octal digits, as for chmod, perhaps with a 0 before them");
    };
    for class in [mode >> 6, mode >> 3 & 7, mode & 7] {
        match class & 7 {
            0 | 4 | 6 => {}
            2 => {
                return bad(
                    "whoever takes a lock to write reads the value block too: 2 without 4 would keep nothing",
                );
            }
            _ => return bad("nothing is executed in a lockspace: the digits are 0, 4 and 6"),
        }
    }
    Ok(mode)
}

/// Names are printed in tables and put in file names.
fn label(source: &Source<'_>, text: &Spanned<String>, what: &str) -> Result<()> {
    let name = text.get_ref();
    let fine = (1..=LABEL_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !name.starts_with('.');
    match fine {
        true => Ok(()),
        false => Err(source.bad(text.span().start, format_args!("{what} cannot be `{name}`")).because(
            format!("1 to {LABEL_BYTES_MAX} letters, digits, `-`, `_` or `.`, not beginning with `.`"),
        )),
    }
}

fn address(source: &Source<'_>, text: &Spanned<String>, key: &str) -> Result<SocketAddr> {
    let address: SocketAddr = text.get_ref().parse().map_err(|_| {
        source
            .bad(text.span().start, format_args!("`{}` is not an address", text.get_ref()))
            .because(format!("{key} is an IP address and a port, such as 10.0.0.11:7401 or [fd00::1]:7401"))
    })?;
    match address.port() {
        0 => Err(source
            .bad(text.span().start, format_args!("{key} needs a port"))
            .because("0 stands for any port")),
        _ => Ok(address),
    }
}

fn loopback(source: &Source<'_>, text: &Spanned<String>) -> Result<SocketAddr> {
    let it = address(source, text, "api")?;
    match it.ip().is_loopback() {
        true => Ok(it),
        false => Err(source
            .bad(text.span().start, format_args!("api address {it} is not a loopback address"))
            .because("metrics are served without encryption, so they stay on this machine")
            .try_next("127.0.0.1:7400, and a proxy if others must read them")),
    }
}

#[cfg(test)]
mod tests;
