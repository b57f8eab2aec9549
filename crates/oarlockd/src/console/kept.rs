//! What a node keeps without a program: orphans, and branches of lockspaces.

use oarlock_layout::code::Code;
use oarlock_layout::id::SpaceId;
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
        let branches = branches.into_iter().map(|(name, opened)| doc::Branch { name, opened }).collect();
        Ok(doc::Branches { v: doc::VERSION, node: self.config.name().into(), space: space.into(), branches })
    }
}
