//! What a node was told of its cluster when it founded it alone or joined it: `cluster.toml` in the data directory.
//!
//! ```text
//!   configuration          has [cluster] and [[member]]: it founds the cluster, and nothing else is read
//!        │ has only [node] and the like
//!        ▼
//!   DATA/cluster.toml      [cluster] [[member]] [[space]]   as the cluster was founded
//!                          [joined] [[peer]]                who this node is in it, and whom it met (not if it founded)
//! ```
//!
//! The parts that founded the cluster are passed on word for word, so every member compares the same ones. Who the members are
//! now the registry says; this file is where a node begins to look for it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use oarlock_cluster::registry::{ClusterId, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::id::NodeId;
use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::{Config, Member, Source, file};
use crate::host::key;
use crate::problem::{Problem, Result};

/// Its name in the data directory.
pub const FILE: &str = "cluster.toml";
/// The cluster's secret beside it.
pub const SECRET: &str = "cluster.secret";
const NOTE: &str = "# Written by `oarlock init` or `oarlock join`, and not to be changed by hand.\n";

/// Who a node is that joined a cluster which others had founded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The revision of the registry with which this node became a member.
    pub revision: u64,
    /// The members that it was told of, itself included.
    pub peers: BTreeMap<NodeId, Member>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) cluster: file::Cluster,
    #[serde(default)]
    pub(super) member: Vec<file::Member>,
    #[serde(default)]
    pub(super) space: Vec<file::Space>,
    pub(super) joined: Option<JoinedFile>,
    #[serde(default)]
    pub(super) peer: Vec<Peer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinedFile {
    pub(super) cluster: Spanned<String>,
    pub(super) node: u16,
    pub(super) revision: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) node: u16,
    pub(super) name: Spanned<String>,
    pub(super) address: Spanned<String>,
    pub(super) public_key: Spanned<String>,
}

/// Reads the file of a node whose configuration does not found a cluster.
pub(super) fn read(data_dir: &Path) -> Result<(PathBuf, String)> {
    let path = data_dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Problem::new(
            Code::NoCluster,
            format!("this node belongs to no cluster yet: there is no {}", path.display()),
        )),
        Err(e) => Err(Problem::io(Code::DataDir, format!("cannot read {}", path.display()), &e)),
    }
}

/// Who this node is, and whom it met.
pub(super) fn joined(source: &Source<'_>, file: &JoinedFile, peers: &[Peer]) -> Result<(NodeId, Joined)> {
    let bad = |what: &str| source.bad(file.cluster.span().start, what);
    let cluster = parse_cluster(file.cluster.get_ref()).ok_or_else(|| bad("not the id of a cluster"))?;
    let mut known = BTreeMap::new();
    for peer in peers {
        let name = peer.name.get_ref().clone();
        let key = key::parse(peer.public_key.get_ref()).ok_or_else(|| {
            source.bad(peer.public_key.span().start, format_args!("not the key of `{name}`"))
        })?;
        let address = super::address(source, &peer.address, "address")?;
        known.insert(NodeId(peer.node), Member { name, address, key });
    }
    let me = NodeId(file.node);
    match known.contains_key(&me) {
        true => Ok((me, Joined { cluster, revision: file.revision, peers: known })),
        false => Err(bad("this node is not among the peers")),
    }
}

/// The id of a cluster as it is printed.
pub fn print_cluster(cluster: &ClusterId) -> String {
    cluster.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_cluster(text: &str) -> Option<ClusterId> {
    let mut id = ClusterId::default();
    let digits = text.len() == 2 * id.len() && text.bytes().all(|b| b.is_ascii_hexdigit());
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2).filter(|_| digits)?, 16).ok()?;
    }
    Some(id)
}

/// The parts of a configuration that found a cluster, word for word, as one text.
pub(super) fn founding_parts(text: &str) -> Table {
    let mut table: Table = toml::from_str(text).unwrap_or_default();
    table.retain(|key, _| matches!(key, "member" | "space"));
    table
}

fn member(name: &str, address: SocketAddr, key: &[u8; key::KEY_BYTES]) -> Table {
    let mut table = Table::new();
    table.insert("name".into(), name.into());
    table.insert("address".into(), address.to_string().into());
    table.insert("public_key".into(), key::print(key).into());
    table
}

fn cluster(name: &str, etcd: bool) -> Table {
    let mut table = Table::new();
    table.insert("name".into(), name.into());
    if etcd {
        table.insert("coordinator".into(), "etcd".into());
    }
    table.insert("secret_file".into(), SECRET.into());
    table
}

/// What a node is told that has become member `node`: what [`Local::accept`] takes.
pub fn welcome(config: &Config, registry: &Registry, node: NodeId, secret: &key::Secret) -> String {
    let mut table = config.founded.clone();
    table.insert("cluster".into(), cluster(&config.cluster, config.etcd.is_some()).into());
    if let Some(etcd) = &config.etcd {
        table.insert("prefix".into(), etcd.prefix.clone().into());
    }
    let mut joined = Table::new();
    let id = registry.cluster().expect("a cluster that somebody joined");
    joined.insert("cluster".into(), print_cluster(&id).into());
    joined.insert("node".into(), i64::from(node.0).into());
    let revision = registry.member(node).map_or(0, |it| it.revision);
    joined.insert("revision".into(), i64::try_from(revision).unwrap_or(i64::MAX).into());
    table.insert("joined".into(), joined.into());
    let peers = registry.members().map(|it| {
        // Where this node has reached a member is better than where it once said that it listens.
        let known = config.member(it.node).filter(|known| known.key == it.key.0);
        let mut peer = member(&it.name, known.map_or(it.address, |known| known.address), &it.key.0);
        peer.insert("node".into(), i64::from(it.node.0).into());
        Value::from(peer)
    });
    table.insert("peer".into(), Value::Array(peers.collect()));
    let fences = config.fencing.iter().map(|it| Value::from(it.name.as_str()));
    table.insert("fencing".into(), Value::Array(fences.collect()));
    table.insert("secret".into(), key::print(&secret.bytes()).into());
    if let Some(restoration) = registry.restoration() {
        table.insert("restoration".into(), format!("{restoration:016x}").into());
    }
    toml::to_string(&table).expect("a table is text")
}

/// What a [`welcome`] says.
pub struct Accepted {
    /// The file to write.
    pub membership: String,
    /// The cluster's secret.
    pub secret: key::Secret,
    /// Which beginning of the cluster the node belongs to, if not the founding.
    pub restoration: Option<u64>,
    /// An etcd decides, not the members.
    pub outside: bool,
    /// What the members' verdicts ask for: `order` of their `[fencing]`.
    fencing: Vec<String>,
}

/// The part of a configuration that is about one node: all that `init` and `join` need.
#[derive(Clone, Debug)]
pub struct Local {
    /// The file.
    pub path: PathBuf,
    /// The node's name.
    pub name: String,
    /// Where its circuits listen.
    pub listen: Option<SocketAddr>,
    /// Where it keeps what outlives a run.
    pub data_dir: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// What keeps departed nodes from doing harm, by name.
    fencing: Vec<String>,
    /// The lockspaces that it describes.
    spaces: Option<Value>,
    /// If it says where an etcd is: under which keys, if it says that.
    etcd: Option<Option<String>>,
}

impl Local {
    /// Reads the configuration of a node that belongs to no cluster yet.
    ///
    /// # Errors
    /// One that founds a cluster, or whose data directory belongs to a member.
    pub fn load(path: &Path) -> Result<Local> {
        let text = super::read(path)?;
        let base = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let source = Source { path: &base, text: &text };
        let file: file::File = toml::from_str(&text).map_err(|e| source.parse_error(&e))?;
        if file.cluster.is_some() || !file.member.is_empty() {
            return Err(Problem::new(
                Code::InCluster,
                format!("{} says itself which cluster this node belongs to", base.display()),
            )
            .because("it has [cluster] and [[member]], which found a cluster")
            .try_next("oarlock serve; or take both parts out of the file to make or join another cluster"));
        }
        super::label(&source, &file.node.name, "a node name")?;
        super::spaces(&source, &file.space, &[])?;
        let listen = file.node.listen.as_ref().map(|it| super::address(&source, it, "listen")).transpose()?;
        let (data_dir, key_file) = super::places(&base, &file.node);
        let there = data_dir.join(FILE);
        if there.exists() {
            return Err(Problem::new(Code::InCluster, format!("{} is there", there.display())));
        }
        let name = file.node.name.into_inner();
        let spaces = founding_parts(&text).remove("space");
        let etcd = file.coordinator.etcd.map(|it| it.into_inner().prefix);
        let fencing = super::fencing::methods(&source, file.fencing, &base)?;
        let fencing = fencing.into_iter().map(|it| it.name).collect();
        Ok(Local { path: base, name, listen, data_dir, key_file, spaces, etcd, fencing })
    }

    /// This node's key; made if there is none yet.
    pub fn key(&self) -> Result<key::Secret> {
        if !self.key_file.exists() {
            key::Secret::generate().write_new(&self.key_file)?;
        }
        key::Secret::read(&self.key_file)
    }

    /// The file of a cluster that this node founds alone.
    pub fn found(&self, name: &str, address: SocketAddr, key: &[u8; key::KEY_BYTES]) -> String {
        let mut table = Table::new();
        table.insert("cluster".into(), cluster(name, self.etcd.is_some()).into());
        table.insert("member".into(), Value::Array(vec![member(&self.name, address, key).into()]));
        if let Some(spaces) = &self.spaces {
            table.insert("space".into(), spaces.clone());
        }
        format!("{NOTE}{}", toml::to_string(&table).expect("a table is text"))
    }

    /// Takes a [`welcome`] apart.
    ///
    /// # Errors
    /// It is no such text, or does not make sense together with this configuration: why.
    pub fn accept(&self, text: &str) -> std::result::Result<Accepted, String> {
        let (table, accepted, theirs) = self.read(text).ok_or("it is of another version")?;
        if self.spaces.is_some() && self.spaces.as_ref() != table.get("space") {
            return Err("its lockspaces are not those of this configuration: take [[space]] out of it".into());
        }
        if self.fencing != accepted.fencing {
            // Its circuits would be refused for it, and its membership would wait for somebody to see why.
            let theirs = &accepted.fencing;
            return Err(format!(
                "its members have `order = {theirs:?}` in [fencing], and this configuration has {:?}",
                self.fencing
            ));
        }
        let cluster = table["cluster"]["name"].as_str().unwrap_or_default();
        let own = self.etcd.clone().map(|prefix| prefix.unwrap_or_else(|| format!("/oarlock/{cluster}")));
        match (own, &theirs) {
            (own, theirs) if own == *theirs => Ok(accepted),
            (_, None) => {
                Err("its members decide by themselves: take [coordinator.etcd] out of this configuration"
                    .into())
            }
            (None, Some(prefix)) => Err(format!(
                "it relies on an etcd: [coordinator.etcd] of this configuration must say where that is, and prefix = {prefix:?}"
            )),
            (Some(own), Some(prefix)) => {
                Err(format!("etcd keeps it under {prefix:?}, and this configuration has prefix {own:?}"))
            }
        }
    }

    /// What a text says, and under which keys an etcd keeps the cluster, if one does.
    fn read(&self, text: &str) -> Option<(Table, Accepted, Option<String>)> {
        let mut table: Table = toml::from_str(text).ok()?;
        let secret = key::parse(table.remove("secret")?.as_str()?)?;
        let restoration = match table.remove("restoration") {
            Some(number) => Some(u64::from_str_radix(number.as_str()?, 16).ok()?),
            None => None,
        };
        let prefix = match table.remove("prefix") {
            Some(prefix) => Some(prefix.as_str()?.to_owned()),
            None => None,
        };
        let fencing = match table.remove("fencing") {
            Some(names) => names.try_into().ok()?,
            None => Vec::new(),
        };
        let text = format!("{NOTE}{}", toml::to_string(&table).ok()?);
        let path = self.data_dir.join(FILE);
        let file: File = toml::from_str(&text).ok()?;
        joined(&Source { path: &path, text: &text }, file.joined.as_ref()?, &file.peer).ok()?;
        let secret = key::Secret::from_bytes(secret);
        let accepted = Accepted { membership: text, secret, restoration, outside: prefix.is_some(), fencing };
        Some((table, accepted, prefix))
    }
}
