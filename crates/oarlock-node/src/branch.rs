//! Branches: parts of a lockspace that programs of a node open and close by name.
//!
//! A lockspace is configured, the same at all nodes. A branch is made by whoever first opens it, costs a name and a count, and
//! nothing is agreed on with other nodes: the resources of branch `vg0` are those whose names begin with `vg0/`. Programs that were
//! written for another lock manager call these lockspaces, have thousands of them, and expect that they outlive whoever made them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::id::SpaceId;
use oarlock_layout::limit::{BRANCHES_MAX, LABEL_BYTES_MAX};
use oarlock_layout::message::look::{Look, ROWS_MAX, Row, Seen, What};
use oarlock_layout::name::Name;
use oarlock_layout::time::Instant;

use crate::node::{Node, Space};

/// What stands between a branch's name and the rest.
pub const MARK: u8 = b'/';

/// What somebody wants of branches.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Which are there?
    List,
    /// Is this one there?
    Find {
        /// Its name.
        branch: String,
    },
    /// Make it, or count one more who has it open.
    Open {
        /// Its name.
        branch: String,
        /// Not if it is there.
        #[serde(default)]
        exclusive: bool,
    },
    /// Count one less. With the last it goes, unless locks of this node are in it.
    Close {
        /// Its name.
        branch: String,
        /// Then too. What was left behind in it goes; what sessions hold stays theirs, and goes with them.
        #[serde(default)]
        force: bool,
    },
}

/// People read these names in lists, and programs as names of directories.
fn is_name(branch: &str) -> bool {
    let fits = (1..=LABEL_BYTES_MAX).contains(&branch.len()) && !matches!(branch, "." | "..");
    fits && !branch.chars().any(|c| c == char::from(MARK) || c.is_control())
}

/// All branches of a node.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Branches {
    /// How often each was opened and not closed, by the lockspace's id.
    opened: BTreeMap<(u16, String), u32>,
}

impl Branches {
    fn of(&self, space: SpaceId) -> impl Iterator<Item = (&String, u32)> {
        let all = self.opened.range((space.0, String::new())..);
        all.take_while(move |((of, _), _)| *of == space.0).map(|((_, name), count)| (name, *count))
    }

    pub(crate) fn fit(&self, spaces: usize) -> bool {
        let fits =
            |space: u16, name: &str, count: u32| usize::from(space) < spaces && is_name(name) && count > 0;
        self.opened.iter().all(|((space, name), count)| fits(*space, name, *count))
    }
}

impl Node {
    /// Does one step. Gives the branches that it is about, with how often each is open by now: 0 if it has gone.
    ///
    /// # Errors
    /// [`Code::UnknownBranch`], [`Code::BranchExists`], [`Code::BranchInUse`], [`Code::TooManyKept`], or [`Code::BadName`].
    pub fn branch(
        &mut self,
        now: Instant,
        space: SpaceId,
        step: &Step,
    ) -> Result<Vec<(String, u32)>, (Code, String)> {
        let branch = match step {
            Step::List => {
                return Ok(self.branches.of(space).map(|(name, count)| (name.clone(), count)).collect());
            }
            Step::Find { branch } | Step::Open { branch, .. } | Step::Close { branch, .. } => branch,
        };
        if !is_name(branch) {
            let mark = char::from(MARK);
            let text = format!(
                "a branch is named by 1 to {LABEL_BYTES_MAX} bytes of text without {mark:?} and control characters, not by {branch:?}"
            );
            return Err((Code::BadName, text));
        }
        let key = (space.0, branch.clone());
        let open = self.branches.opened.get(&key).copied();
        let count = match (step, open) {
            (Step::Open { exclusive: true, .. }, Some(count)) => {
                let text = format!("branch {branch:?} was opened {count} times at this node and not closed");
                return Err((Code::BranchExists, text));
            }
            (Step::Open { .. }, None) if self.branches.opened.len() >= BRANCHES_MAX => {
                let text = format!("{BRANCHES_MAX} branches are open at this node, which is all it may have");
                return Err((Code::TooManyKept, text));
            }
            (Step::Open { .. }, open) => open.unwrap_or(0).saturating_add(1),
            (_, None) => {
                return Err((Code::UnknownBranch, format!("no branch {branch:?} is open at this node")));
            }
            (Step::Close { force, .. }, Some(1)) => {
                let mut prefix = branch.clone().into_bytes();
                prefix.push(MARK);
                let Space { locks, words } = &self.spaces[usize::from(space.0)];
                if *force {
                    self.purge(now, space, &prefix, None);
                } else if locks.is_used(words.as_ref(), &prefix) {
                    let text = format!("locks of this node are in branch {branch:?}, or wait there");
                    return Err((Code::BranchInUse, text));
                }
                0
            }
            (Step::Close { .. }, Some(count)) => count - 1,
            (_, Some(count)) => count,
        };
        match count {
            0 => self.branches.opened.remove(&key),
            _ => self.branches.opened.insert(key, count),
        };
        Ok(vec![(branch.clone(), count)])
    }

    /// This node's part of the answer to who has which branches open.
    pub(crate) fn see_branches(&self, look: &Look, name: Option<&Name>) -> Seen {
        let asked = |branch: &String| name.is_none_or(|name| name.as_bytes() == branch.as_bytes());
        let mut rows: Vec<Row> = (self.branches.of(look.space).filter(|(branch, _)| asked(branch)))
            .take(ROWS_MAX + 1)
            .map(|(branch, opened)| Row {
                name: Name::new(branch.as_bytes()).expect("a branch's name is short enough"),
                what: What::Branch(opened),
            })
            .collect();
        let cut = rows.len() > ROWS_MAX;
        rows.truncate(ROWS_MAX);
        Seen { question: look.question, cut, rows }
    }
}
