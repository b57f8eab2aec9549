//! The registry under commands in any order: what each condition is for, and that every node agrees.

mod founding;

use std::collections::{BTreeMap, BTreeSet};

use founding::{WALL, cluster, founder, init, join, joined, key, renew, settings, start, token};
use oarlock_cluster::registry::{
    Basis, COMMAND_BYTES_MAX, Command, FENCES_PER_NODE_MAX, FirstSpace, Founder, HISTORY_MAX, Need, Order,
    Out, Outcome, Refusal, Registry, RestoreError, Role, SpaceSettings, TOKENS_MAX,
};
use oarlock_layout::codec::Malformed;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::limit::{EPOCH_BITS, STAMPS_PER_VIEW};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::stamp::Stamp;
use proptest::prelude::*;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
fn evict(epoch: u32, out: &[(NodeId, u64, Basis)]) -> Command {
    let run = |(node, incarnation, basis): &(NodeId, u64, Basis)| {
        let (node, incarnation, basis) = (*node, Incarnation(*incarnation), *basis);
        Out { node, incarnation, basis, fences: Vec::new() }
    };
    Command::Evict { epoch: Epoch(epoch), out: out.iter().map(run).collect(), note: None }
}

fn refused(registry: &mut Registry, command: &Command, refusal: Refusal) {
    assert_eq!(registry.apply(command), Outcome::Refused(refusal));
}

/// L2: what the proposer saw must still be so.
#[test]
fn a_renewal_in_between_saves_its_member() {
    let mut registry = cluster(3);
    assert_eq!(registry.apply(&renew(B, 1, 7)), Outcome::Done);
    let verdict = evict(3, &[(B, 1, Basis::LeaseOver { renewal: 7 })]);
    assert_eq!(registry.apply(&renew(B, 1, 8)), Outcome::Done);
    refused(&mut registry, &verdict, Refusal::Renewed { node: B, seen: 7, last: 8 });
    let verdict = evict(3, &[(B, 1, Basis::LeaseOver { renewal: 8 })]);
    assert_eq!(registry.apply(&renew(B, 1, 6)), Outcome::Already, "an overtaken renewal renews nothing");
    assert_eq!(registry.apply(&verdict), Outcome::Done);
    assert_eq!(registry.run(B), None);
    assert_eq!(registry.fences().count(), 0, "its lease is known to be over");
    let gone = Refusal::NotInView { node: B, incarnation: Incarnation(1) };
    refused(&mut registry, &renew(B, 1, 9), gone);
    refused(&mut registry, &verdict, Refusal::OtherView { named: Epoch(3), current: Epoch(4) });
}

/// L2: all or none. One member that renewed saves the others for this verdict; the next one leaves it out.
#[test]
fn a_verdict_applies_as_a_whole() {
    let mut registry = cluster(3);
    registry.apply(&renew(B, 1, 1));
    let over = |renewal| Basis::LeaseOver { renewal };
    let both = evict(3, &[(A, 1, over(0)), (B, 1, over(0))]);
    refused(&mut registry, &both, Refusal::Renewed { node: B, seen: 0, last: 1 });
    assert_eq!(registry.view().members.len(), 3);
    refused(&mut registry, &evict(3, &[]), Refusal::BadVerdict);
    refused(&mut registry, &evict(3, &[(B, 1, over(1)), (B, 1, over(1))]), Refusal::BadVerdict);
    let all = [(A, 1, Basis::ByHand), (B, 1, Basis::Partition { kept: 0 }), (NodeId(2), 1, Basis::ByHand)];
    refused(&mut registry, &evict(3, &all), Refusal::LeavesNobody);
    refused(&mut registry, &evict(3, &[(B, 1, Basis::Surrendered)]), Refusal::NotSurrendered(B));
}

/// L4 and L5: whose lease may go on is waited for; surrender or a proof ends the wait.
#[test]
fn a_verdict_that_rests_on_no_ended_lease_waits_for_its_end() {
    let mut registry = cluster(3);
    let mut verdict = evict(3, &[(B, 1, Basis::Partition { kept: 2 })]);
    let Command::Evict { out, .. } = &mut verdict else { unreachable!() };
    out[0].fences = vec![Need::Tail { volume: 3 }, Need::Client { server: A }];
    assert_eq!(registry.apply(&verdict), Outcome::Done);
    let needs = |r: &Registry| r.fences().flat_map(|f| f.needs.clone()).collect::<Vec<_>>();
    assert_eq!(needs(&registry), [Need::Lease, Need::Client { server: A }, Need::Tail { volume: 3 }]);
    let proven = |need, by, by_hand| Command::FenceProven {
        node: B,
        incarnation: Incarnation(1),
        need,
        by,
        by_hand,
        who: None,
    };
    refused(
        &mut registry,
        &proven(Need::Client { server: A }, NodeId(2), false),
        Refusal::NotItsProof(NodeId(2)),
    );
    refused(&mut registry, &proven(Need::Lease, B, false), Refusal::NotItsProof(B));
    assert_eq!(registry.apply(&proven(Need::Client { server: A }, A, false)), Outcome::Done);
    assert_eq!(registry.apply(&proven(Need::Tail { volume: 3 }, B, true)), Outcome::Done);
    assert_eq!(registry.apply(&Command::Surrender { node: B, incarnation: Incarnation(1) }), Outcome::Done);
    assert_eq!(needs(&registry), []);
    assert_eq!(registry.apply(&proven(Need::Lease, A, false)), Outcome::Already);
    let none = Refusal::NoFence { node: A, incarnation: Incarnation(1) };
    let living = Command::FenceProven {
        node: A,
        incarnation: Incarnation(1),
        need: Need::Lease,
        by: B,
        by_hand: false,
        who: None,
    };
    refused(&mut registry, &living, none);
}

/// L3: a run that was in a view is in no later one; a clone of a run is told from it.
#[test]
fn a_run_enters_once_and_its_clone_never() {
    let mut registry = cluster(2);
    assert_eq!(registry.apply(&start(B, 1)), Outcome::Already);
    let old = Refusal::OldRun { node: B, incarnation: Incarnation(1), entered: Incarnation(1) };
    let clone =
        Command::Start { node: B, key: key(1), incarnation: Incarnation(1), nonce: 5, fences: vec![] };
    refused(&mut registry, &clone, old);
    let other =
        Command::Start { node: B, key: key(5), incarnation: Incarnation(2), nonce: 5, fences: vec![] };
    refused(&mut registry, &other, Refusal::OtherKey(B));
    refused(&mut registry, &start(B, 2), Refusal::StillIn { node: B, incarnation: Incarnation(1) });
    registry.apply(&Command::Surrender { node: B, incarnation: Incarnation(1) });
    refused(&mut registry, &renew(B, 1, 1), Refusal::Surrendered { node: B, incarnation: Incarnation(1) });
    refused(&mut registry, &start(B, 1), old);
    assert_eq!(registry.apply(&start(B, 2)), Outcome::Done);
    let last = registry.history().last().unwrap();
    assert_eq!((last.view.epoch, last.out[0].basis, last.entered.len()), (Epoch(3), Basis::Surrendered, 1));
    refused(
        &mut registry,
        &start(B, 1),
        Refusal::OldRun { entered: Incarnation(2), node: B, incarnation: Incarnation(1) },
    );
}

/// Whatever may be applied may also be carried, kept and read back.
#[test]
fn the_longest_verdicts_fit_their_bounds() {
    let mut registry = Registry::new();
    registry.apply(&init(0));
    for node in 1..64 {
        registry.apply(&token(node.into(), node));
        registry.apply(&join(node.into(), node));
    }
    for round in 1..=HISTORY_MAX as u64 + 1 {
        for node in 0..64 {
            let entered = registry.apply(&start(NodeId(node), round));
            let full = Outcome::Refused(Refusal::FencesPending(NodeId(node)));
            let expected = if round > FENCES_PER_NODE_MAX as u64 { full } else { Outcome::Done };
            assert_eq!(entered, expected);
        }
        let out = registry.view().members.iter().map(|m| Out {
            node: m.node,
            incarnation: m.incarnation,
            basis: Basis::ByHand,
            fences: (0..63).map(|volume| Need::Tail { volume }).collect(),
        });
        let evict = Command::Evict { epoch: registry.view().epoch, out: out.collect(), note: None };
        let read = Command::from_bytes(&evict.to_bytes());
        assert_eq!(read.as_ref(), Ok(&evict));
        registry.apply(&evict);
        assert_eq!(Registry::restore(&registry.snapshot()).as_ref(), Ok(&registry));
    }
    assert_eq!(registry.fences().count(), 64 * FENCES_PER_NODE_MAX);
}

fn space(name: &str) -> FirstSpace {
    FirstSpace { name: name.into(), settings: settings() }
}

fn found(members: &[Founder], spaces: &[FirstSpace], above: u32) -> Command {
    Command::found("west", members.to_vec(), spaces.to_vec(), Epoch(above))
}

/// Each founder proposes what its configuration says, at any time and as often as it likes.
#[test]
fn founders_of_one_configuration_found_one_cluster() {
    let members: Vec<Founder> = (0..3).map(founder).collect();
    let spaces = [space("default"), space("jobs")];
    let mut registry = Registry::new();
    assert_eq!(registry.apply(&found(&members, &spaces, 7)), Outcome::Done);
    let before = registry.clone();
    assert_eq!(registry.apply(&found(&members, &spaces, 9)), Outcome::Already, "it was there first");
    assert_eq!(registry, before);
    assert_eq!(registry.view().epoch, Epoch(7));
    let ids: Vec<_> = registry.members().map(|m| (m.node.0, m.name.as_str(), m.role)).collect();
    assert_eq!(ids, [(0, "n0", Role::Voter), (1, "n1", Role::Voter), (2, "n2", Role::Voter)]);
    assert!(registry.members().all(|m| m.token.is_none() && m.entered == Incarnation(0)));
    let names: Vec<_> = registry.spaces().map(|s| (s.id.0, s.name.as_str())).collect();
    assert_eq!(names, [(0, "default"), (1, "jobs")]);
    assert_eq!(registry.next_space(), Some(SpaceId(2)));
    for node in 0..3 {
        assert_eq!(registry.apply(&start(NodeId(node), 1)), Outcome::Done);
    }
    assert_eq!(registry.view().epoch, Epoch(10));
    assert_eq!(Registry::restore(&registry.snapshot()).as_ref(), Ok(&registry));

    // Whoever was told of another cluster hears of it.
    let mut other = members.clone();
    other[2].address.set_port(1);
    let other_space = [space("default"), space("job")];
    for other in [
        found(&members[..2], &spaces, 7),
        found(&other, &spaces, 7),
        found(&members, &spaces[..1], 7),
        found(&members, &other_space, 7),
        Command::found("east", members.clone(), spaces.to_vec(), Epoch(7)),
    ] {
        refused(&mut registry, &other, Refusal::OtherCluster);
    }
    // Two versions must agree on it.
    let id = registry.cluster().unwrap().map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(id, "0b1b960409c238b77bb0919d0d8889a8");
}

#[test]
fn a_founding_that_makes_no_sense_makes_nothing() {
    let members: Vec<Founder> = (0..3).map(founder).collect();
    let default = [space("default")];
    let with = |change: &dyn Fn(&mut Founder)| {
        let mut members = members.clone();
        change(&mut members[2]);
        members
    };
    let mut odd = space("odd");
    odd.settings.value = 7;
    let twice = [space("default"), space("jobs"), space("jobs")];
    let many: Vec<Founder> = (0..65).map(founder).collect();
    let spaces: Vec<FirstSpace> = (0..1025).map(|n| space(if n == 0 { "default" } else { "x" })).collect();
    for (command, refusal) in [
        (found(&[], &default, 0), Refusal::BadFounding),
        (found(&members, &[], 0), Refusal::BadFounding),
        (found(&members, &[space("jobs"), space("default")], 0), Refusal::BadFounding),
        (found(&many, &default, 0), Refusal::TooManyMembers),
        (found(&members, &spaces, 0), Refusal::TooManySpaces),
        (found(&with(&|m| m.name = "n0".into()), &default, 0), Refusal::NameTaken),
        (found(&with(&|m| m.name = String::new()), &default, 0), Refusal::BadName),
        (found(&with(&|m| m.key = key(1)), &default, 0), Refusal::KeyTaken(B)),
        (found(&members, &twice, 0), Refusal::NameTaken),
        (found(&members, &[space("default"), odd], 0), Refusal::BadValue(7)),
        (found(&members, &default, 1 << EPOCH_BITS), Refusal::EpochsExhausted),
    ] {
        let mut registry = Registry::new();
        refused(&mut registry, &command, refusal);
        assert_eq!(registry, Registry::new());
    }
}

/// The longest command that there is.
#[test]
fn a_founding_with_all_that_there_may_be_can_be_carried() {
    let long = |n: usize| format!("{n:0>64}");
    let members = (0..64).map(|node| Founder { name: long(node.into()), ..founder(node) }).collect();
    let named = |n| if n == 0 { "default".into() } else { long(n) };
    let spaces = (0..1024).map(|n| space(&named(n))).collect();
    let founding = Command::found(&long(0), members, spaces, Epoch(0));
    let bytes = founding.to_bytes();
    assert!(bytes.len() <= COMMAND_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Command::from_bytes(&bytes).as_ref(), Ok(&founding));
    let mut registry = Registry::new();
    assert_eq!(registry.apply(&founding), Outcome::Done);
    assert_eq!(Registry::restore(&registry.snapshot()).as_ref(), Ok(&registry));
}

#[test]
fn runs_of_a_restart_storm_do_not_pile_up_behind_unproven_fences() {
    let mut registry = cluster(2);
    for run in 1..=FENCES_PER_NODE_MAX as u64 {
        let epoch = registry.view().epoch.0;
        assert_eq!(registry.apply(&evict(epoch, &[(B, run, Basis::ByHand)])), Outcome::Done);
        if run < FENCES_PER_NODE_MAX as u64 {
            assert_eq!(registry.apply(&start(B, run + 1)), Outcome::Done);
        }
    }
    refused(&mut registry, &start(B, 9), Refusal::FencesPending(B));
    assert_eq!(registry.apply(&Command::Surrender { node: B, incarnation: Incarnation(2) }), Outcome::Done);
    assert_eq!(registry.apply(&start(B, 9)), Outcome::Done);
}

#[test]
fn a_token_lets_one_node_in_once_and_in_time() {
    let mut registry = cluster(1);
    refused(&mut registry, &token(2, 1), Refusal::NotNext { named: 2, next: 1 });
    assert_eq!(registry.apply(&token(1, 1)), Outcome::Done);
    assert_eq!(registry.apply(&token(1, 1)), Outcome::Already);
    refused(&mut registry, &join(2, 1), Refusal::NoSuchToken);
    refused(&mut registry, &join(1, 2), Refusal::TokenForOther);
    let changed = |change: fn(&mut [u8; 16], &mut u64, &mut PublicKey)| {
        let mut command = join(1, 1);
        let Command::Join { cluster, wall, key, .. } = &mut command else { unreachable!() };
        change(cluster, wall, key);
        command
    };
    refused(&mut registry, &changed(|cluster, _, _| cluster[0] = 0), Refusal::OtherCluster);
    refused(&mut registry, &changed(|_, wall, _| *wall += 60), Refusal::TokenExpired { seconds: 5 });
    refused(&mut registry, &changed(|_, _, k| *k = key(0)), Refusal::KeyTaken(A));
    let joined = |already| Outcome::Joined { node: B, above: Incarnation(0), already };
    assert_eq!(registry.apply(&join(1, 1)), joined(false));
    assert_eq!(registry.apply(&join(1, 1)), joined(true), "the answer may have been lost");
    refused(&mut registry, &changed(|_, _, k| *k = key(9)), Refusal::NameTaken);
    refused(&mut registry, &token(1, 1), Refusal::NotNext { named: 1, next: 2 });
    let mut long = token(2, 2);
    let Command::CreateToken { expires, .. } = &mut long else { unreachable!() };
    *expires = WALL + 901;
    refused(&mut registry, &long, Refusal::TokenLife { seconds: 901 });
    assert_eq!(registry.apply(&token(2, 2)), Outcome::Done);
    assert_eq!(registry.apply(&Command::RevokeToken { serial: 2 }), Outcome::Done);
    assert_eq!(registry.apply(&Command::RevokeToken { serial: 2 }), Outcome::Already);
    refused(&mut registry, &join(2, 2), Refusal::NoSuchToken);
    for serial in 3..3 + TOKENS_MAX as u64 {
        assert_eq!(registry.apply(&token(serial, 3)), Outcome::Done);
    }
    let mut next = token(3 + TOKENS_MAX as u64, 3);
    refused(&mut registry, &next, Refusal::TooManyTokens);
    // Those whose time is over give way, once there is no other place.
    let Command::CreateToken { wall, expires, .. } = &mut next else { unreachable!() };
    (*wall, *expires) = (WALL + 900, WALL + 901);
    assert_eq!(registry.apply(&next), Outcome::Done);
    assert_eq!(registry.tokens().count(), 1);
}

/// An id is given again only when nothing of its earlier owner is pending, and its runs go on counting.
#[test]
fn an_id_of_a_node_that_left_is_reused_above_its_runs() {
    let mut registry = cluster(3);
    let revision = |r: &Registry, node| r.member(node).unwrap().revision;
    let leave = |r: &Registry| Command::Leave { node: B, seen: revision(r, B) };
    let command = leave(&registry);
    refused(&mut registry, &command, Refusal::StillIn { node: B, incarnation: Incarnation(1) });
    registry.apply(&evict(3, &[(B, 1, Basis::ByHand)]));
    for role in [Role::Voter, Role::Learner] {
        let seen = revision(&registry, B);
        assert_eq!(registry.apply(&Command::SetRole { node: B, seen, role }), Outcome::Done);
        if role == Role::Voter {
            let command = leave(&registry);
            refused(&mut registry, &command, Refusal::StillVotes(B));
        }
    }
    let command = leave(&registry);
    assert_eq!(registry.apply(&command), Outcome::Done);
    assert_eq!(registry.apply(&command), Outcome::Already);
    refused(&mut registry, &start(B, 2), Refusal::NotAMember(B));
    registry.apply(&token(3, 8));
    registry.apply(&token(4, 9));
    let joined =
        |node, above| Outcome::Joined { node: NodeId(node), above: Incarnation(above), already: false };
    assert_eq!(registry.apply(&join(3, 8)), joined(3, 0), "a fence of node 1 is pending");
    registry.apply(&Command::Surrender { node: B, incarnation: Incarnation(1) });
    assert_eq!(registry.apply(&join(4, 9)), joined(1, 1));
    refused(&mut registry, &start(B, 2), Refusal::OtherKey(B));
    let now = revision(&registry, B);
    let Command::Leave { seen, .. } = command else { unreachable!() };
    refused(&mut registry, &command, Refusal::Changed { seen, now });
}

/// A command that was decided on an older record changes nothing.
#[test]
fn late_marks_roles_and_settings_are_refused() {
    let mut registry = cluster(2);
    let seen = registry.member(B).unwrap().revision;
    assert_eq!(registry.apply(&Command::Drain { node: B, seen }), Outcome::Done);
    let now = registry.member(B).unwrap().revision;
    assert_eq!(registry.apply(&Command::Undrain { node: B, seen: now }), Outcome::Done);
    let latest = registry.member(B).unwrap().revision;
    refused(&mut registry, &Command::Drain { node: B, seen }, Refusal::Changed { seen, now: latest });
    let seen = registry.member(A).unwrap().revision;
    refused(&mut registry, &Command::SetRole { node: A, seen, role: Role::Learner }, Refusal::LastVoter(A));
    assert_eq!(registry.apply(&Command::SetRole { node: B, seen: latest, role: Role::Voter }), Outcome::Done);
    assert_eq!(registry.apply(&Command::SetRole { node: A, seen, role: Role::Learner }), Outcome::Done);

    let create = Command::CreateSpace { id: SpaceId(1), name: "jobs".into(), settings: settings() };
    assert_eq!(registry.apply(&create), Outcome::Done);
    assert_eq!(registry.apply(&create), Outcome::Already);
    let seen = registry.revision();
    let strict = SpaceSettings { order: Order::Strict, ..settings() };
    let change = Command::ChangeSpace { id: SpaceId(1), seen, settings: strict };
    assert_eq!(registry.apply(&change), Outcome::Done);
    refused(
        &mut registry,
        &Command::DropSpace { id: SpaceId(1), seen },
        Refusal::Changed { seen, now: seen + 1 },
    );
    assert_eq!(registry.apply(&Command::DropSpace { id: SpaceId(1), seen: seen + 1 }), Outcome::Done);
    refused(&mut registry, &create, Refusal::NotNext { named: 1, next: 2 });
    refused(&mut registry, &Command::DropSpace { id: SpaceId(0), seen: 1 }, Refusal::DefaultStays);
    let odd = SpaceSettings { value: 16, ..settings() };
    let odd = Command::CreateSpace { id: SpaceId(2), name: "odd".into(), settings: odd };
    refused(&mut registry, &odd, Refusal::BadValue(16));
    let taken = Command::CreateSpace { id: SpaceId(2), name: "default".into(), settings: settings() };
    refused(&mut registry, &taken, Refusal::NameTaken);
}

#[test]
fn the_watermark_only_rises() {
    let mut registry = joined(1);
    assert_eq!(registry.apply(&Command::RaiseWatermark { to: Stamp(9) }), Outcome::Done);
    assert_eq!(registry.apply(&Command::RaiseWatermark { to: Stamp(5) }), Outcome::Already);
    let absurd = Stamp(Stamp::MAX.0 + 1);
    refused(&mut registry, &Command::RaiseWatermark { to: absurd }, Refusal::AbsurdStamp(absurd));
    assert_eq!((registry.floor(), registry.watermark()), (Stamp(0), Stamp(9)));
}

/// E8: whoever is in a view issues above all that any earlier view may have issued.
#[test]
fn e8_each_view_has_its_own_range_of_stamps() {
    let mut registry = joined(2);
    assert_eq!(registry.apply(&start(A, 1)), Outcome::Done);
    assert_eq!((registry.floor(), registry.watermark()), (Stamp(0), Stamp(STAMPS_PER_VIEW)));
    let to = Stamp(STAMPS_PER_VIEW + 9);
    assert_eq!(registry.apply(&Command::RaiseWatermark { to }), Outcome::Done);
    assert_eq!((registry.floor(), registry.watermark()), (Stamp(0), to));
    assert_eq!(registry.apply(&start(B, 1)), Outcome::Done);
    assert_eq!((registry.floor(), registry.watermark()), (to, Stamp(to.0 + STAMPS_PER_VIEW)));
    let copy = Registry::restore(&registry.snapshot()).unwrap();
    assert_eq!((copy.floor(), copy.watermark()), (registry.floor(), registry.watermark()));
}

/// R6: the last epoch is refused rather than wrapped, and a cluster goes on above the one it was before.
#[test]
fn epochs_begin_above_what_was_and_end_with_their_bits() {
    let mut registry = Registry::new();
    refused(&mut registry, &start(A, 1), Refusal::NoCluster);
    let last = (1 << EPOCH_BITS) - 1;
    registry.apply(&init(last - 1));
    assert_eq!(registry.apply(&start(A, 1)), Outcome::Done);
    assert_eq!(registry.view().epoch, Epoch(last));
    refused(&mut registry, &evict(last, &[(A, 1, Basis::ByHand)]), Refusal::EpochsExhausted);
    assert_eq!(registry.apply(&init(5)), Outcome::Already);
}

/// Bytes of later versions and damaged ones are named, not guessed at.
#[test]
fn an_unknown_command_is_named_and_a_contradiction_refused() {
    assert_eq!(Command::from_bytes(&[99, 0]), Err(Malformed::Unknown { field: "command", value: 99 }));
    let mut bytes = renew(A, 1, 1).to_bytes();
    bytes.extend([60, 0, 0, 0, 0, 0]);
    assert_eq!(Command::from_bytes(&bytes), Err(Malformed::Critical { record: "command Renew", number: 60 }));
    let at = bytes.len() - 5;
    bytes[at] |= 0x80;
    assert_eq!(Command::from_bytes(&bytes), Ok(renew(A, 1, 1)), "one that may be skipped is");
    assert!(Command::from_bytes(&vec![0; 1 << 20]).is_err());

    let snapshot = cluster(2).snapshot();
    let name = snapshot.windows(2).position(|w| w == b"n0").unwrap();
    assert!(Registry::restore(&snapshot[..name]).is_err());
    let (mut other, mut said) = (snapshot.clone(), BTreeSet::new());
    for byte in 0..snapshot.len() {
        other[byte] ^= 0xff;
        // Whatever a damaged byte makes of it: it is refused, or restores to something that reads back the same.
        match Registry::restore(&other) {
            Ok(registry) => assert_eq!(Registry::restore(&registry.snapshot()), Ok(registry)),
            Err(error) => _ = said.insert(error.to_string()),
        }
        other[byte] ^= 0xff;
    }
    for what in ["the view names a run that never entered", "members are out of order"] {
        let what = RestoreError::Contradiction(what).to_string();
        assert!(said.contains(&what), "{what} is not among {said:?}");
    }
}

/// What a proposer does: it looks at some past state, perhaps a long past one, and decides.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    /// How many changes ago the proposer looked.
    ago: usize,
    node: u16,
    x: u64,
    /// Send again something that was sent this many steps ago instead.
    again: Option<usize>,
    /// Go on from a snapshot.
    restore: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let again = prop_oneof![4 => Just(None), 1 => (0usize..40).prop_map(Some)];
    let step = (0u8..28, 0usize..6, 0u16..5, 0u64..4, again, proptest::bool::weighted(0.1)).prop_map(
        |(kind, ago, node, x, again, restore)| Step {
            kind,
            ago: ago.saturating_sub(2),
            node,
            x,
            again,
            restore,
        },
    );
    proptest::collection::vec(step, 1..150)
}

fn decide(seen: &Registry, step: &Step) -> Command {
    let node = NodeId(step.node);
    let record = seen.member(node);
    let revision = record.map_or(0, |m| m.revision);
    let run = seen.run(node).unwrap_or(Incarnation(step.x));
    let last = record.map_or(0, |m| m.renewal);
    match step.kind {
        0 => token(seen.next_token(), step.node),
        1 | 2 => {
            let serial = seen.tokens().last().map_or(1, |t| t.serial);
            let named = seen.tokens().last().and_then(|t| t.name[1..].parse().ok()).unwrap_or(step.node);
            join(serial, named)
        }
        3..=6 => {
            let entered = record.map_or(0, |m| m.entered.0);
            let next = record.and_then(|m| m.next.as_ref()).filter(|_| step.x == 1).map(|next| next.key);
            let key = next.or(record.map(|m| m.key)).unwrap_or(key(step.node));
            let incarnation = Incarnation(entered + step.x.min(2));
            Command::Start { node, key, incarnation, nonce: step.x, fences: Vec::new() }
        }
        7..=9 => Command::Renew { node, incarnation: run, number: last + step.x },
        10 => Command::Surrender { node, incarnation: run },
        11..=16 => {
            let basis = |member: NodeId| match (step.kind, step.x) {
                (11..=13, _) => Basis::LeaseOver { renewal: seen.member(member).map_or(0, |m| m.renewal) },
                (14, _) => Basis::Surrendered,
                (15, _) => Basis::Partition { kept: 1 },
                _ => Basis::ByHand,
            };
            let chosen =
                seen.view().members.iter().filter(|m| m.node == node || step.x == 3 && m.node > node);
            let out = chosen.map(|m| Out {
                node: m.node,
                incarnation: m.incarnation,
                basis: basis(m.node),
                fences: match step.x {
                    1 => vec![Need::Tail { volume: 1 }],
                    2 => vec![Need::Program],
                    _ => Vec::new(),
                },
            });
            Command::Evict { epoch: seen.view().epoch, out: out.collect(), note: Some("storm".into()) }
        }
        17 => match seen.fences().nth(step.x as usize) {
            Some(f) if step.node == 1 && f.needs.contains(&Need::Program) => Command::FenceFailed {
                node: f.node,
                incarnation: f.incarnation,
                tried: f.tries,
                by: NodeId(step.node),
                why: "exit status 1".into(),
            },
            Some(f) => {
                let (node, incarnation, need) = (f.node, f.incarnation, f.needs[0]);
                Command::FenceProven {
                    node,
                    incarnation,
                    need,
                    by: NodeId(step.node),
                    by_hand: step.x == 0,
                    who: None,
                }
            }
            None => Command::RaiseWatermark { to: Stamp(seen.watermark().0 + step.x) },
        },
        18 => Command::Leave { node, seen: revision },
        19 => Command::Drain { node, seen: revision },
        20 => Command::Undrain { node, seen: revision },
        21 => {
            let role = if step.x == 0 { Role::Learner } else { Role::Voter };
            Command::SetRole { node, seen: revision, role }
        }
        22 => {
            let id = seen.next_space().unwrap();
            Command::CreateSpace { id, name: format!("s{}", step.x), settings: settings() }
        }
        24 => {
            // Half of them are no new key.
            let key = PublicKey([100 + (step.x as u8) * 8 + step.node as u8; 32]);
            Command::NextKey { node, seen: revision, key, made: step.x }
        }
        25 => {
            let key = record.and_then(|m| m.next.as_ref()).map_or(key(step.node), |next| next.key);
            Command::KeySeen { node, key, by: NodeId(step.x as u16) }
        }
        26 => {
            let key = record.and_then(|m| m.next.as_ref()).map_or(key(step.node), |next| next.key);
            Command::TakeKey { node, key }
        }
        _ => match seen.spaces().nth(step.x as usize) {
            Some(s) if step.node == 0 => Command::DropSpace { id: s.id, seen: s.revision },
            Some(s) => {
                let settings = SpaceSettings { mode: step.node, ..settings() };
                Command::ChangeSpace { id: s.id, seen: s.revision, settings }
            }
            None => Command::RevokeToken { serial: step.x },
        },
    }
}

/// What a storm must never do, kept apart from the registry.
#[derive(Default)]
struct Ledger {
    renewals: BTreeMap<(NodeId, Incarnation), u64>,
    surrendered: BTreeSet<(NodeId, Incarnation)>,
    gone: BTreeSet<(NodeId, Incarnation)>,
    /// Put out while the lease may go on, and not yet known to be over.
    running: BTreeSet<(NodeId, Incarnation)>,
    joined: BTreeSet<[u8; 32]>,
}

impl Ledger {
    fn check(&mut self, before: &Registry, command: &Command, outcome: Outcome, after: &Registry) {
        let (old, new) = (before.view(), after.view());
        assert_eq!(outcome.changed(), before.snapshot() != after.snapshot(), "{command:?}: {outcome:?}");
        if old != new {
            assert_eq!(new.epoch.0, old.epoch.0 + 1, "one epoch per view");
            assert_eq!(after.history().last().unwrap().view, *new);
        }
        let runs =
            |r: &Registry| r.view().members.iter().map(|m| (m.node, m.incarnation)).collect::<BTreeSet<_>>();
        let (was, is) = (runs(before), runs(after));
        for run in was.difference(&is) {
            self.gone.insert(*run);
            if !self.surrendered.contains(run) {
                let Command::Evict { out, .. } = command else { panic!("{run:?} vanished by {command:?}") };
                let named = out.iter().find(|o| (o.node, o.incarnation) == *run).unwrap();
                match named.basis {
                    Basis::LeaseOver { renewal } => {
                        let last = self.renewals.get(run).copied().unwrap_or(0);
                        assert_eq!(renewal, last, "a renewal came in between (L2)");
                    }
                    Basis::Surrendered => panic!("{run:?} never surrendered"),
                    Basis::Partition { .. } | Basis::Outvoted { .. } | Basis::ByHand => {
                        self.running.insert(*run);
                    }
                }
            }
        }
        assert!(is.is_disjoint(&self.gone), "who was put out is in no later view");
        if outcome == Outcome::Done {
            match command {
                Command::Renew { node, incarnation, number } => {
                    assert!(
                        is.contains(&(*node, *incarnation))
                            && !self.surrendered.contains(&(*node, *incarnation))
                    );
                    assert!(self.renewals.insert((*node, *incarnation), *number) < Some(*number));
                }
                Command::Surrender { node, incarnation } => {
                    self.surrendered.insert((*node, *incarnation));
                    self.running.remove(&(*node, *incarnation));
                }
                Command::FenceProven { node, incarnation, need: Need::Lease, .. } => {
                    self.running.remove(&(*node, *incarnation));
                }
                _ => {}
            }
        }
        if let (Outcome::Joined { already: false, .. }, Command::Join { hash, .. }) = (outcome, command) {
            assert!(self.joined.insert(*hash), "a token lets in once");
        }
        let waits: BTreeSet<_> = after
            .fences()
            .filter(|f| f.needs.contains(&Need::Lease))
            .map(|f| (f.node, f.incarnation))
            .collect();
        assert_eq!(waits, self.running, "a lease that may go on is waited for (L4)");
        assert!(after.history().len() <= HISTORY_MAX);
        assert!(after.members().any(|m| m.role == Role::Voter));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Two registries that apply the same commands agree byte for byte, one of them through bytes and snapshots; what
    /// is repeated changes nothing; and the ledger holds.
    #[test]
    fn a_storm_of_late_and_repeated_commands_breaks_no_rule(steps in steps()) {
        let mut registry = cluster(3);
        let mut twin = registry.clone();
        let mut states = vec![registry.clone()];
        let mut sent: Vec<Command> = Vec::new();
        let mut ledger = Ledger::default();
        for step in steps {
            let again = step.again.and_then(|n| sent.iter().rev().nth(n)).cloned();
            let seen = &states[states.len() - 1 - step.ago.min(states.len() - 1)];
            let command = again.unwrap_or_else(|| decide(seen, &step));
            let before = registry.clone();
            let outcome = registry.apply(&command);
            ledger.check(&before, &command, outcome, &registry);

            let read = Command::from_bytes(&command.to_bytes()).unwrap();
            prop_assert_eq!(&read, &command);
            prop_assert_eq!(twin.apply(&read), outcome);
            if step.restore {
                twin = Registry::restore(&twin.snapshot()).unwrap();
            }
            prop_assert_eq!(twin.snapshot(), registry.snapshot());
            let repeated = twin.apply(&read);
            prop_assert!(!repeated.changed(), "{:?} repeated: {:?}", command, repeated);
            prop_assert_eq!(twin.snapshot(), registry.snapshot());

            sent.push(command);
            states.push(registry.clone());
        }
    }

    /// Whatever bytes come: an answer, no panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 1u8..19) {
        let _ = Registry::restore(&bytes);
        let mut bytes = bytes;
        bytes.splice(0..0, [kind, 0]);
        if let Ok(command) = Command::from_bytes(&bytes) {
            prop_assert_eq!(Command::from_bytes(&command.to_bytes()), Ok(command));
        }
    }
}

/// A member's clock that was put back does not make a token good again whose time is over: before the token was made there was
/// none. A clock that is a little late does no harm.
#[test]
fn a_clock_that_was_put_back_revives_no_token() {
    let years = 10 * 365 * 24 * 3_600;
    for (back, outcome) in [
        (years, Outcome::Refused(Refusal::TokenEarly { seconds: years - 5 - 840 })),
        (3_600, Outcome::Refused(Refusal::TokenEarly { seconds: 3_600 - 5 - 840 })),
        (20, Outcome::Joined { node: NodeId(1), above: Incarnation(0), already: false }),
    ] {
        let mut registry = joined(1);
        assert_eq!(registry.apply(&token(1, 1)), Outcome::Done);
        let mut late = join(1, 1);
        let Command::Join { wall, .. } = &mut late else { unreachable!() };
        *wall -= back;
        assert_eq!(registry.apply(&late), outcome, "{back} s back");
    }
}
