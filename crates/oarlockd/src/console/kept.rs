//! What a node keeps without a program: orphans, and branches of lockspaces.

use std::collections::BTreeMap;

use oarlock_layout::code::Code;
use oarlock_layout::id::SpaceId;
use oarlock_layout::message::look::{At, What};
use oarlock_layout::name::Name;
use oarlock_node::branch::Step;
use oarlock_node::rights::Permit;
use oarlock_node::text;
use tokio::sync::oneshot;

use super::{Console, doc, wait};
use crate::engine::Control;
use crate::problem::did_you_mean;

type Answer<T> = std::result::Result<T, (Code, String)>;

impl Console {
    /// The lockspace that a question names.
    pub(super) fn asked_space(&self, space: &str, permit: &Permit) -> Answer<SpaceId> {
        if let Some(id) = self.space(space) {
            return Ok(id);
        }
        let spaces = self.config.spaces.iter().enumerate();
        let seen: Vec<&str> =
            spaces.filter(|(i, _)| permit.sees(SpaceId(*i as u16))).map(|(_, s)| s.name.as_str()).collect();
        let hint = did_you_mean(space, seen.iter().copied())
            .map_or(String::new(), |s| format!("; did you mean {s:?}?"));
        let all = text::names(&seen, self.config.spaces.len() - seen.len());
        Err((Code::UnknownSpace, format!("there is no lockspace {space:?}; this cluster has {all}{hint}")))
    }

    pub(super) async fn purge(
        &self,
        space: &str,
        prefix: Option<&str>,
        pid: Option<u32>,
        permit: &Permit,
    ) -> Answer<doc::Purged> {
        let id = self.asked_space(space, permit)?;
        let prefix = prefix.map_or_else(Vec::new, Name::unescape);
        let (reply, receiver) = oneshot::channel();
        self.link.send(Control::Purge { space: id, prefix, pid, reply });
        let purged = wait(receiver).await? as u64;
        Ok(doc::Purged { v: doc::VERSION, node: self.config.name().into(), space: space.into(), purged })
    }

    pub(super) async fn branch(&self, space: &str, step: Step, permit: &Permit) -> Answer<doc::Branches> {
        let id = self.asked_space(space, permit)?;
        let (reply, receiver) = oneshot::channel();
        self.link.send(Control::Branch { space: id, step, reply });
        let branches = wait(receiver).await??;
        let branch = |(name, opened)| doc::Branch { name, opened, nodes: None };
        let branches = branches.into_iter().map(branch).collect();
        Ok(self.branches(space, branches))
    }

    fn branches(&self, space: &str, branches: Vec<doc::Branch>) -> doc::Branches {
        let (node, space) = (self.config.name().into(), space.into());
        doc::Branches { v: doc::VERSION, node, space, branches, unanswered: Vec::new(), cut: Vec::new() }
    }

    /// The branches that are open anywhere, or one of them, with the nodes that have it open.
    pub(super) async fn members_of_branches(
        &self,
        space: &str,
        branch: Option<&str>,
        permit: &Permit,
    ) -> Answer<doc::Branches> {
        let id = self.asked_space(space, permit)?;
        let name = branch.map(|branch| Name::new(branch.as_bytes())).transpose();
        let name = name.map_err(|e| (Code::BadName, format!("not a name of a branch: {e}")))?;
        let (names, seen) = self.look(id, At::Branches(name)).await?;
        let mut answer = self.branches(space, Vec::new());
        let mut merged: BTreeMap<String, doc::Branch> = BTreeMap::new();
        for (id, seen) in seen {
            let node = names.get(&id).cloned().unwrap_or_else(|| format!("node {id}"));
            let Some(seen) = seen else {
                answer.unanswered.push(node);
                continue;
            };
            if seen.cut {
                answer.cut.push(node.clone());
            }
            for row in seen.rows {
                let What::Branch(opened) = row.what else { continue };
                let name = String::from_utf8_lossy(row.name.as_bytes()).into_owned();
                let nothing = || doc::Branch { name: name.clone(), opened: 0, nodes: Some(Vec::new()) };
                let branch = merged.entry(name.clone()).or_insert_with(nothing);
                branch.opened += if id == self.config.me { opened } else { 0 };
                branch.nodes.get_or_insert_default().push(doc::BranchNode { node: node.clone(), id: id.0 });
            }
        }
        answer.branches = merged.into_values().collect();
        Ok(answer)
    }
}
