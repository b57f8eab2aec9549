//! To whom lockspaces are given, and whose programs ask (I22).
//!
//! ```text
//!   lockspace 0, 1   owner 10, group 20, a mode like 0640; the second perhaps not for programs of one node
//!   of 16 programs   1 is a stranger's, 1 somebody's of the group, 4 the owner's, 10 root's
//! ```
//!
//! All ask for everything. What is granted to somebody without the right is a finding, and so is what somebody who may do all is
//! refused for want of it. This is told from what a file with such a mode would allow, not by the table of the nodes.

use oarlock_layout::code::Code;
use oarlock_layout::id::NodeId;
use oarlock_layout::mode::Mode;
use oarlock_node::rights::{Access, Who};

use crate::clocks;
use crate::history::{Client, Event, Rules, Told, What};
use crate::process::Process;
use crate::random::Random;
use crate::swarm::Mix;
use crate::world::World;

/// Makes another stream of the same seed.
const STREAM: u64 = 0x2164_75e0_0000_0000;
const OWNER: u32 = 10;
const GROUP: u32 = 20;

/// How the lockspaces are given; to root alone, who runs all programs then, in half of the seeds.
#[derive(Debug)]
pub(crate) struct Rights(Option<[Access; 2]>);

impl Rights {
    /// `wanted` or not, whatever the seed says.
    pub(crate) fn draw(seed: u64, nodes: u16, wanted: Option<bool>) -> Rights {
        let mut random = Random::new(seed ^ STREAM);
        let drawn = random.chance(500);
        let given = wanted.unwrap_or(drawn);
        let without = random.chance(250).then(|| random.below(nodes.into()) as u16);
        let mut access = |without: Option<u16>| Access {
            owner: OWNER,
            group: GROUP,
            mode: *random.pick(&[0o600, 0o640, 0o660, 0o644, 0o664]),
            nodes: without.map(|it| (0..nodes).filter(|n| *n != it).map(NodeId).collect()),
        };
        let accesses = [access(None), access(without)];
        Rights(given.then_some(accesses))
    }

    pub(crate) fn are_given(&self) -> bool {
        self.0.is_some()
    }

    /// What may be answered, besides what these say.
    pub(crate) fn rules(&self, mix: &Mix, rules: Rules) -> Rules {
        Rules { given: self.are_given(), leap: clocks::leap_max(mix), ..rules }
    }

    pub(crate) fn accesses(&self) -> Vec<Access> {
        self.0.clone().unwrap_or_default().to_vec()
    }

    /// Whose the program of a session is.
    pub(crate) fn who(&self, processes: &[Process], client: Client) -> Who {
        let index = processes.iter().position(|it| it.client == client && !it.anchor);
        match index.filter(|_| self.are_given()).map(|index| index % 16) {
            Some(0) => Who { uid: 30, groups: [30].into(), ..Who::default() },
            Some(3) => Who { uid: 31, groups: [31, GROUP].into(), ..Who::default() },
            Some(1 | 6 | 9 | 14) => Who { uid: OWNER, groups: [OWNER].into(), ..Who::default() },
            _ => Who::root(),
        }
    }

    /// May somebody's program at a node have a lock in this mode? As with a file: whoever writes must also be allowed to read.
    fn may(&self, who: &Who, node: u16, space: u16, mode: Mode) -> bool {
        let Some(access) = self.0.as_ref().map(|all| &all[usize::from(space)]) else { return true };
        let bits = match who {
            Who { root: true, .. } => 7,
            Who { uid: OWNER, .. } => access.mode >> 6,
            Who { groups, .. } if groups.contains(&GROUP) => access.mode >> 3,
            Who { .. } => access.mode,
        };
        let needed = if matches!(mode, Mode::CW | Mode::PW | Mode::EX) { 0o6 } else { 0o4 };
        let here = access.nodes.as_ref().is_none_or(|nodes| nodes.contains(&NodeId(node)));
        here && bits & needed == needed
    }
}

impl World {
    /// Something is told to a program: had it the right?
    pub(crate) fn look_at_rights(&mut self, event: &Event) {
        let What::Told { client, handle, told } = &event.what else { return };
        if !self.rights.are_given() {
            return;
        }
        let ledger = self.judge.ledger();
        let (Some(node), Some(lock)) = (ledger.node(*client), ledger.lock((*client, *handle))) else {
            return;
        };
        let space = ledger.resource(lock.resource).space;
        let who = self.rights.who(&self.processes, *client);
        let all = self.rights.may(&who, node, space, Mode::EX);
        match told {
            Told::Granted { mode, .. } => {
                self.load.granted_to_few += u64::from(!all);
                if !self.rights.may(&who, node, space, *mode) {
                    let text =
                        format!("client {client} of user {} has {mode:?} in lockspace {space}", who.uid);
                    self.others.add("rights", event.at, text);
                }
            }
            Told::Failed { code: Code::SpaceDenied } => {
                self.load.denied += 1;
                if all {
                    let text =
                        format!("client {client} of user {} is refused its right, lock {handle}", who.uid);
                    self.others.add("rights", event.at, text);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_gives_what_a_file_of_that_mode_would() {
        let mut rights = Rights(None);
        let other = Who { uid: 30, groups: [30].into(), ..Who::default() };
        let group = Who { uid: 31, groups: [31, GROUP].into(), ..Who::default() };
        let owner = Who { uid: OWNER, groups: [OWNER].into(), ..Who::default() };
        assert!(rights.may(&other, 0, 0, Mode::EX));
        let access = Access { owner: OWNER, group: GROUP, mode: 0o640, nodes: None };
        let without = Access { nodes: Some(vec![NodeId(0)]), ..access.clone() };
        rights.0 = Some([access, without]);
        for (who, read, write) in
            [(&other, false, false), (&group, true, false), (&owner, true, true), (&Who::root(), true, true)]
        {
            for space in [0, 1] {
                assert_eq!([Mode::NL, Mode::PR].map(|mode| rights.may(who, 0, space, mode)), [read; 2]);
                let writes = [Mode::CW, Mode::PW, Mode::EX].map(|mode| rights.may(who, 0, space, mode));
                assert_eq!(writes, [write; 3]);
            }
            assert!(!rights.may(who, 1, 1, Mode::NL), "not at this node, root neither");
        }
    }

    #[test]
    fn half_of_the_seeds_have_lockspaces_that_are_given_some_not_for_one_node() {
        let drawn: Vec<Rights> = (0..200).map(|seed| Rights::draw(seed, 5, None)).collect();
        let given = drawn.iter().filter_map(|rights| rights.0.as_ref());
        assert!((60..140).contains(&given.clone().count()));
        assert!((10..50).contains(&given.filter(|spaces| spaces[1].nodes.is_some()).count()));
    }
}
