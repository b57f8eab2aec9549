//! To whom the lockspaces are given, and who operates the node: names of the configuration as numbers of this machine.
//! What they lead to stands in [`oarlock_node::rights`].

use oarlock_layout::code::Code;
use oarlock_layout::id::{NodeId, SpaceId};
use oarlock_node::rights::{Access, Kind, Permit, Who};

use super::{Config, Space};
use crate::host::door::Caller;
use crate::host::people;
use crate::problem::{Problem, Result};

/// As a lockspace is given if its mode is not said: to its owner and its group.
pub(super) const MODE: u16 = 0o660;

/// To whom a lockspace is given, as it stands in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    /// A user by name or number; none: the one as whom the node runs.
    pub owner: Option<String>,
    /// A group by name or number; none: the one of the node's socket.
    pub group: Option<String>,
    /// Bits as those of a file.
    pub mode: u16,
    /// Members whose programs may use it; none: all.
    pub nodes: Option<Vec<String>>,
}

impl Default for Given {
    fn default() -> Given {
        Given { owner: None, group: None, mode: MODE, nodes: None }
    }
}

/// The same for a whole node, resolved.
#[derive(Clone, Debug)]
pub struct Rights {
    me: NodeId,
    /// As whom the daemon runs.
    uid: u32,
    /// The group of its socket.
    gid: u32,
    operators: Option<u32>,
    accesses: Vec<Access>,
    /// The names of the members that may use each lockspace; none: all.
    named: Vec<Option<Vec<String>>>,
}

impl Rights {
    /// For a daemon that runs as `uid` with a socket of group `gid`.
    pub fn of(config: &Config, uid: u32, gid: u32) -> Result<Rights> {
        let operators = match &config.operators {
            None => None,
            Some(named) => Some(group(config, "`operators` in [node]", named)?),
        };
        let accesses =
            config.spaces.iter().map(|space| access(config, space, uid, gid)).collect::<Result<_>>()?;
        let named = config.spaces.iter().map(|space| space.given.nodes.clone()).collect();
        let mut rights = Rights { me: config.me, uid, gid, operators, accesses, named };
        let known = config.known();
        rights.know(known.iter().map(|(node, member)| (*node, member.name.as_str())));
        Ok(rights)
    }

    /// Takes in who the members are. Numbers of those that left are given to others, and names are what was written down. False:
    /// nothing is given to other nodes than before.
    pub fn know<'a>(&mut self, members: impl Iterator<Item = (NodeId, &'a str)>) -> bool {
        let members: Vec<_> = members.collect();
        let mut changed = false;
        for (access, named) in self.accesses.iter_mut().zip(&self.named) {
            let Some(named) = named else { continue };
            let is_named = |(node, name): (NodeId, &str)| named.iter().any(|it| it == name).then_some(node);
            let nodes = Some(members.iter().copied().filter_map(is_named).collect());
            changed |= access.nodes != nodes;
            access.nodes = nodes;
        }
        changed
    }

    /// Who somebody is to this node.
    pub fn who(&self, caller: &Caller) -> Who {
        let mut groups = caller.groups.clone();
        groups.push(caller.gid);
        let root = caller.uid == 0 || caller.uid == self.uid;
        let operator = self.operators.is_some_and(|group| groups.contains(&group));
        Who { uid: caller.uid, groups: groups.into(), root, operator }
    }

    /// May it come in? Whoever has a right here may: root and the daemon's user, the group of the socket, operators, and those
    /// to whom a lockspace is given.
    pub fn admits(&self, who: &Who) -> bool {
        let permit = Permit { who: who.clone(), accesses: self.accesses.clone().into(), node: self.me };
        let mut spaces = (0..self.accesses.len()).map(|index| SpaceId(index as u16));
        who.root
            || who.operator
            || who.groups.contains(&self.gid)
            || spaces.any(|space| permit.check(Kind::Open, Some(space)).is_ok())
    }

    /// To whom each lockspace is given, by id.
    pub fn accesses(&self) -> &[Access] {
        &self.accesses
    }

    /// Is there anybody to be let in whom the mode of a socket for user and group would keep out?
    pub fn reach_beyond_the_socket(&self) -> bool {
        let beyond = |it: &Access| {
            let has = |bits| it.mode & bits != 0;
            it.owner != self.uid && it.owner != 0 && has(0o400)
                || it.group != self.gid && has(0o040)
                || has(0o004)
        };
        self.operators.is_some_and(|group| group != self.gid) || self.accesses.iter().any(beyond)
    }
}

fn access(config: &Config, space: &Space, uid: u32, gid: u32) -> Result<Access> {
    let Given { owner, group: of, mode, .. } = &space.given;
    let what = |key| format!("`{key}` of lockspace `{}`", space.name);
    let owner = match owner {
        None => uid,
        Some(named) => found(config, &what("owner"), "user", named, people::user(named))?,
    };
    let group = match of {
        None => gid,
        Some(named) => group(config, &what("group"), named)?,
    };
    // Which nodes it is for, `Rights::know` says.
    Ok(Access { owner, group, mode: *mode, nodes: None })
}

fn group(config: &Config, what: &str, named: &str) -> Result<u32> {
    found(config, what, "group", named, people::group(named))
}

fn found(
    config: &Config,
    what: &str,
    kind: &str,
    named: &str,
    number: std::io::Result<Option<u32>>,
) -> Result<u32> {
    let file = config.path.display();
    match number {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(Problem::new(Code::BadConfig, format!("{file}: {what} is `{named}`"))
            .because(format!("this machine knows no {kind} of that name"))
            .try_next(format!(
                "getent {} {named}; or the number of the {kind}",
                if kind == "user" { "passwd" } else { kind }
            ))),
        Err(e) => {
            Err(Problem::io(Code::BadConfig, format!("{file}: cannot look up the {kind} `{named}`"), &e))
        }
    }
}
