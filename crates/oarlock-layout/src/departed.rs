//! What may still be in use by runs that left the view, until it is proven that they can do no harm (L4).
//!
//! A grant that goes beside all that departed runs can have had waits for nothing. For each resource and each run of which something is
//! still to be proven it is known, or not, what the run can have owned at most:
//!
//! | its master, when the run left | what is known |
//! | --- | --- |
//! | is a member of the next view | what it believed of the run, which is no less than the run owned |
//! | left as well, or later, before all was proven | nothing: [`Lost`] |
//! | was not in a view that was open everywhere | nothing of any resource: [`Departed::unknown`] |
//!
//! The first is kept with the resource ([`Remains`]). The others are the same for all lockspaces, and members say them to each other
//! at every change of the view, so that whoever joins knows as much.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::directory;
use crate::id::{NodeId, SpaceId};
use crate::limit::NODES_MAX;
use crate::message::lock::Remains;
use crate::mode::Mode;
use crate::name::Name;
use crate::view::{Member, View};

/// What is known of departed runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departed {
    /// Runs of which something is to be proven. One may be in the view yet: the coordinator is ahead of views.
    pub pending: BTreeSet<Member>,
    /// Of these, the ones that may have had anything.
    pub unknown: BTreeSet<Member>,
    /// Masters that left with what they knew of these.
    pub lost: BTreeSet<Lost>,
}

/// Masters that left, and with them what they knew of a run that had left with them, or before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// The members of their view, one bit for each, the lowest for node 0: it says what each of them mastered.
    pub members: u64,
    /// Which of them left.
    pub masters: u64,
    /// Of whom they knew something.
    pub run: Member,
}

impl Lost {
    /// Whoever was in `old` and is not in `view`, as another run perhaps, had something to say of this run. None if nobody left.
    pub fn between(old: &View, view: &View, run: Member) -> Option<Lost> {
        let bits = |nodes: &mut dyn Iterator<Item = NodeId>| nodes.fold(0, |bits, node| bits | bit(node));
        let masters = bits(&mut old.nodes().filter(|node| old.member(*node) != view.member(*node)));
        (masters != 0).then(|| Lost { members: bits(&mut old.nodes()), masters, run })
    }

    fn mastered(&self, space: SpaceId, name: &Name) -> bool {
        let nodes = (0..NODES_MAX as u16).map(NodeId).filter(|node| self.members & bit(*node) != 0);
        let master = directory::master(space, name.as_bytes(), nodes);
        master.is_some_and(|master| self.masters & bit(master) != 0)
    }
}

const fn bit(node: NodeId) -> u64 {
    if (node.0 as usize) < NODES_MAX { 1 << node.0 } else { 0 }
}

impl Departed {
    /// Does this mode go beside all that departed runs can have had of a resource? `remains` is what is known of it.
    pub fn allow(&self, space: SpaceId, name: &Name, remains: &[Remains], mode: Mode) -> bool {
        let conflict = |it: &Remains| self.pending.contains(&it.run) && !it.mode.compatible(mode);
        self.pending.is_empty()
            || mode.compatible(Mode::EX)
            || (self.unknown.is_empty()
                && !remains.iter().any(conflict)
                && !self.lost.iter().any(|lost| lost.mastered(space, name)))
    }

    /// The nodes that some grant of a resource may have to wait for, ascending.
    pub fn nodes(&self, space: SpaceId, name: &Name, remains: &[Remains]) -> Vec<NodeId> {
        let remains = remains.iter().map(|it| it.run).filter(|run| self.pending.contains(run));
        let lost = self.lost.iter().filter(|lost| lost.mastered(space, name)).map(|lost| lost.run);
        let all: BTreeSet<NodeId> =
            remains.chain(lost).chain(self.unknown.iter().copied()).map(|run| run.node).collect();
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Incarnation};

    fn view(epoch: u32, nodes: &[u16]) -> View {
        let member = |n: &u16| Member { node: NodeId(*n), incarnation: Incarnation(1) };
        View { epoch: Epoch(epoch), members: nodes.iter().map(member).collect() }
    }

    fn name(n: u32) -> Name {
        Name::new(&n.to_le_bytes()).unwrap()
    }

    const SPACE: SpaceId = SpaceId(3);

    /// L4: what a departed run had in a mode keeps away what does not go beside that, and nothing else.
    #[test]
    fn what_a_departed_run_is_known_to_have_had_keeps_away_what_does_not_go_beside_it() {
        let run = Member { node: NodeId(2), incarnation: Incarnation(4) };
        let mut departed = Departed { pending: BTreeSet::from([run]), ..Departed::default() };
        let remains = [Remains { run, mode: Mode::PR }];
        let allowed = |departed: &Departed, remains: &[Remains]| -> Vec<Mode> {
            Mode::ALL.into_iter().filter(|mode| departed.allow(SPACE, &name(1), remains, *mode)).collect()
        };
        assert_eq!(allowed(&departed, &remains), [Mode::NL, Mode::CR, Mode::PR]);
        assert_eq!(departed.nodes(SPACE, &name(1), &remains), [NodeId(2)]);
        assert_eq!(allowed(&departed, &[]), Mode::ALL);
        assert_eq!(departed.nodes(SPACE, &name(1), &[]), []);
        departed.unknown.insert(run);
        assert_eq!(allowed(&departed, &[]), [Mode::NL]);
        departed = Departed::default();
        assert_eq!(allowed(&departed, &remains), Mode::ALL, "it is proven");
    }

    /// L4: of what a master took with it nobody knows who had it.
    #[test]
    fn what_departed_masters_decided_about_is_taken_for_in_use() {
        let (old, new) = (view(1, &[0, 1, 2]), view(2, &[0, 1]));
        let run = old.members[2];
        assert_eq!(Lost::between(&old, &old, run), None);
        let lost = Lost::between(&old, &new, run).unwrap();
        assert_eq!((lost.members, lost.masters), (0b111, 0b100));
        let departed =
            Departed { pending: BTreeSet::from([run]), lost: BTreeSet::from([lost]), ..Departed::default() };
        let mut kept = 0;
        for n in 0..300 {
            let mastered = directory::master(SPACE, name(n).as_bytes(), old.nodes()) == Some(NodeId(2));
            assert_eq!(departed.allow(SPACE, &name(n), &[], Mode::PR), !mastered);
            assert_eq!(departed.nodes(SPACE, &name(n), &[]).len(), usize::from(mastered));
            assert!(departed.allow(SPACE, &name(n), &[], Mode::NL));
            kept += usize::from(mastered);
        }
        assert!((60..140).contains(&kept), "a third of them: {kept}");
    }
}
