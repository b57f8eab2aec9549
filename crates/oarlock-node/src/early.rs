//! Lock messages of a view that is about to be served here: a peer may hear of the commit earlier.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use oarlock_layout::id::NodeId;
use oarlock_layout::message::lock::Packet;

/// More early messages of one peer than this are no matter of timing: it has served for long.
const EARLY_MAX: usize = 1 << 14;

/// Kept by peer, so that one which talks too much leaves the others their room.
#[derive(Debug, Default)]
pub(crate) struct Early(BTreeMap<NodeId, Vec<Packet>>);

impl Early {
    /// Keeps a message, or says that the peer has sent too many.
    pub(crate) fn keep(&mut self, from: NodeId, packet: Packet) -> bool {
        let kept = self.0.entry(from).or_default();
        let room = kept.len() < EARLY_MAX;
        if room {
            kept.push(packet);
        }
        room
    }

    /// Messages of a run that is gone belong to no view any more.
    pub(crate) fn forget(&mut self, from: NodeId) {
        self.0.remove(&from);
    }

    /// All of them, each peer's in the order in which they came.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (NodeId, Packet)> + use<> {
        let all = core::mem::take(&mut self.0);
        all.into_iter().flat_map(|(from, packets)| packets.into_iter().map(move |packet| (from, packet)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::id::{Epoch, SpaceId};
    use oarlock_layout::message::lock::{Body, ForgetAck};
    use oarlock_layout::name::Name;

    fn packet(n: u64) -> Packet {
        let name = Name::new(b"x").expect("a name");
        Packet { space: SpaceId(0), epoch: Epoch(1), name, body: Body::ForgetAck(ForgetAck { g: 0, n }) }
    }

    #[test]
    fn one_that_talks_too_much_leaves_the_others_their_room_and_order() {
        let mut early = Early::default();
        let (loud, other) = (NodeId(1), NodeId(2));
        let kept = (0..2 * EARLY_MAX as u64).filter(|n| early.keep(loud, packet(*n))).count();
        assert_eq!(kept, EARLY_MAX);
        assert!(early.keep(other, packet(0)) && early.keep(other, packet(1)));
        early.forget(loud);
        let left: Vec<_> = early.take().collect();
        assert_eq!(left, [(other, packet(0)), (other, packet(1))]);
        assert_eq!(early.take().count(), 0);
    }
}
