//! Which node masters a resource: rendezvous hashing over the members of the view.
//!
//! Every node computes the same answer from the same view; when a member goes, only its resources move.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::{NodeId, SpaceId};

/// The master of `name` in `space`: of all `members`, the one whose mixed hash is highest.
/// `None` only for an empty list.
///
/// The hash is xxh3 because it is stable over versions and machines; the order of `members` does not matter.
pub fn master(space: SpaceId, name: &[u8], members: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    let hash = xxh3_64_with_seed(name, u64::from(space.0));
    members.into_iter().max_by_key(|node| (weight(hash, *node), *node))
}

/// Which of `shards` engines of a node owns the resource; 0 while there is one.
pub fn shard(space: SpaceId, name: &[u8], shards: u16) -> u16 {
    debug_assert!(shards > 0);
    (xxh3_64_with_seed(name, u64::from(space.0) ^ 0x5348_4152_4453) % u64::from(shards.max(1))) as u16
}

/// Mixes a name's hash with a node's id (splitmix64 finaliser).
fn weight(hash: u64, node: NodeId) -> u64 {
    let mut z = hash ^ (u64::from(node.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(n: u16) -> Vec<NodeId> {
        (0..n).map(NodeId).collect()
    }

    #[test]
    fn mastership_is_spread_evenly() {
        let mut counts = [0u32; 5];
        for i in 0..10_000u32 {
            counts[master(SpaceId(0), &i.to_le_bytes(), nodes(5)).unwrap().0 as usize] += 1;
        }
        assert!(counts.iter().all(|c| (1_800..2_200).contains(c)), "{counts:?}");
    }

    #[test]
    fn only_the_resources_of_a_departed_member_move() {
        for i in 0..1_000u32 {
            let before = master(SpaceId(0), &i.to_le_bytes(), nodes(5)).unwrap();
            let after = master(SpaceId(0), &i.to_le_bytes(), nodes(4)).unwrap();
            assert!(before == after || before == NodeId(4));
        }
    }

    #[test]
    fn nobody_masters_nothing() {
        assert_eq!(master(SpaceId(0), b"x", []), None);
    }
}
