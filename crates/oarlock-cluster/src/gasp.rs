//! Who may say that a run of another node has ended (L5).
//!
//! ```text
//!   run 7 of C, over its circuits        whoever outlives it, once                    here
//!   Pledge(code of a secret) ──────────► Gasp(C, 7, secret) ──► code of it ──► is it what C has pledged for run 7?
//! ```
//!
//! A process that has died cannot say so any more, and whoever watched it die has no circuit. So each run pledges a code, made
//! with a secret of one use, over circuits that prove who speaks; the secret itself lies with the keeper. Nobody can make it
//! up, and a copy of a gasp that was said says again what is true already: that *this* run has ended. Of a later run it says
//! nothing.

use alloc::collections::BTreeMap;

use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::seal::{MAC_BYTES, same_code};

/// Runs of one node whose codes are kept, the latest. A node that dies again and again has one in the view at most, and those
/// before it were put out before that one came in; with one run more it is certain that it is among these.
const RUNS_MAX: usize = 4;

/// What runs of other nodes have pledged.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pledges {
    codes: BTreeMap<(NodeId, Incarnation), [u8; MAC_BYTES]>,
}

impl Pledges {
    /// Nothing yet.
    pub const fn new() -> Pledges {
        Pledges { codes: BTreeMap::new() }
    }

    /// A run says, over its circuit, by which code its end is proven.
    pub fn handle_pledge(&mut self, from: NodeId, incarnation: Incarnation, code: [u8; MAC_BYTES]) {
        self.codes.insert((from, incarnation), code);
        let of = |codes: &BTreeMap<_, _>| {
            codes.range((from, Incarnation(0))..=(from, Incarnation(u64::MAX))).count()
        };
        while of(&self.codes) > RUNS_MAX {
            let (oldest, _) = self.codes.range((from, Incarnation(0))..).next().expect("there are several");
            let oldest = *oldest;
            self.codes.remove(&oldest);
        }
    }

    /// Whether a gasp whose secret makes this code speaks for that run.
    pub fn proves(&self, node: NodeId, incarnation: Incarnation, code: &[u8; MAC_BYTES]) -> bool {
        self.codes.get(&(node, incarnation)).is_some_and(|pledged| same_code(pledged, code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: NodeId = NodeId(2);

    /// L5: for the run that has pledged it, and for no other; not even for the one after it.
    #[test]
    fn a_code_speaks_for_one_run() {
        let mut pledges = Pledges::new();
        assert!(!pledges.proves(C, Incarnation(7), &[7; 16]), "nothing is pledged");
        pledges.handle_pledge(C, Incarnation(7), [7; 16]);
        assert!(pledges.proves(C, Incarnation(7), &[7; 16]));
        for (node, run, code) in [(C, 8, [7; 16]), (C, 6, [7; 16]), (NodeId(1), 7, [7; 16]), (C, 7, [8; 16])]
        {
            assert!(!pledges.proves(node, Incarnation(run), &code), "{node} {run}");
        }
        // It is back before its end was told: both runs have their code.
        pledges.handle_pledge(C, Incarnation(8), [8; 16]);
        assert!(pledges.proves(C, Incarnation(7), &[7; 16]));
        assert!(!pledges.proves(C, Incarnation(8), &[7; 16]));
    }

    #[test]
    fn a_node_that_comes_back_for_ever_fills_no_memory() {
        let mut pledges = Pledges::new();
        pledges.handle_pledge(NodeId(3), Incarnation(1), [3; 16]);
        pledges.handle_pledge(NodeId(1), Incarnation(9), [1; 16]);
        (1..=20).for_each(|run| pledges.handle_pledge(C, Incarnation(run), [run as u8; 16]));
        assert_eq!(pledges.codes.len(), RUNS_MAX + 2);
        assert!(
            pledges.proves(C, Incarnation(20), &[20; 16]) && !pledges.proves(C, Incarnation(16), &[16; 16])
        );
        assert!(pledges.proves(NodeId(1), Incarnation(9), &[1; 16]));
        assert!(pledges.proves(NodeId(3), Incarnation(1), &[3; 16]));
    }
}
