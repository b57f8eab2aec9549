//! Members that change their key: nobody is cut off by it, and nobody is let in by a key that was retired.

mod founding;

use founding::{cluster, key, start};
use oarlock_cluster::registry::{Command, Outcome, Refusal, Registry};
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::seal::PublicKey;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);
const SECOND: PublicKey = PublicKey([77; 32]);
const THIRD: PublicKey = PublicKey([78; 32]);

fn announce(registry: &Registry, key: PublicKey) -> Command {
    Command::NextKey { node: B, seen: registry.member(B).unwrap().revision, key, made: 5 }
}

fn seen(by: NodeId, key: PublicKey) -> Command {
    Command::KeySeen { node: B, key, by }
}

fn take(key: PublicKey) -> Command {
    Command::TakeKey { node: B, key }
}

fn refused(registry: &mut Registry, command: &Command, refusal: Refusal) {
    assert_eq!(registry.apply(command), Outcome::Refused(refusal));
}

fn begin(incarnation: u64, key: PublicKey) -> Command {
    let Command::Start { node, incarnation, nonce, fences, .. } = start(B, incarnation) else {
        unreachable!()
    };
    Command::Start { node, key, incarnation, nonce, fences }
}

/// The key before goes only after every other member has said that it knows the next one.
#[test]
fn a_key_is_taken_once_every_member_knows_it() {
    let mut registry = cluster(3);
    refused(&mut registry, &take(SECOND), Refusal::NotTheNextKey(B));
    let command = announce(&registry, SECOND);
    assert_eq!(registry.apply(&command), Outcome::Done);
    assert_eq!(registry.apply(&command), Outcome::Already, "a repetition");
    assert_eq!(registry.unaware(B).collect::<Vec<_>>(), [A, C]);
    refused(&mut registry, &take(SECOND), Refusal::KeyUnseen(A));
    assert_eq!(registry.apply(&seen(C, SECOND)), Outcome::Done);
    assert_eq!(registry.apply(&seen(C, SECOND)), Outcome::Already);
    assert_eq!(registry.apply(&seen(B, SECOND)), Outcome::Already, "its owner knows it anyway");
    refused(&mut registry, &take(SECOND), Refusal::KeyUnseen(A));
    assert_eq!(registry.apply(&seen(A, SECOND)), Outcome::Done);
    let kept = Registry::restore(&registry.snapshot()).unwrap();
    assert_eq!(kept, registry, "how far it is outlives everybody's memory");
    assert_eq!(registry.apply(&take(SECOND)), Outcome::Done);
    assert_eq!(registry.apply(&take(SECOND)), Outcome::Already);
    let record = registry.member(B).unwrap();
    assert_eq!((record.key, record.next.as_ref(), record.made), (SECOND, None, Some(5)));
}

/// A run that begins while the key changes has either; one that comes with the retired one is a stranger's.
#[test]
fn a_run_begins_with_either_key_until_one_is_retired() {
    let mut registry = cluster(3);
    registry.apply(&announce(&registry.clone(), SECOND));
    let out = |registry: &mut Registry, incarnation| {
        let incarnation = Incarnation(incarnation);
        assert_eq!(registry.apply(&Command::Surrender { node: B, incarnation }), Outcome::Done);
    };
    out(&mut registry, 1);
    let command = begin(2, SECOND);
    assert_eq!(registry.apply(&command), Outcome::Done);
    out(&mut registry, 2);
    let command = begin(3, key(1));
    assert_eq!(registry.apply(&command), Outcome::Done);
    for by in [A, C] {
        registry.apply(&seen(by, SECOND));
    }
    registry.apply(&take(SECOND));
    out(&mut registry, 3);
    let command = begin(4, key(1));
    refused(&mut registry, &command, Refusal::OtherKey(B));
    let command = begin(4, SECOND);
    assert_eq!(registry.apply(&command), Outcome::Done);
}

/// Commands of a rotation that was given up, or is over, change nothing of a later one.
#[test]
fn late_commands_of_another_rotation_are_refused() {
    let mut registry = cluster(3);
    let first = announce(&registry, SECOND);
    registry.apply(&first);
    registry.apply(&seen(A, SECOND));
    registry.apply(&seen(C, SECOND));
    // Its file was lost: the member announces another, and nobody has seen that.
    let second = announce(&registry, THIRD);
    assert_eq!(registry.apply(&second), Outcome::Done);
    let now = registry.member(B).unwrap().revision;
    let Command::NextKey { seen: saw, .. } = first else { unreachable!() };
    refused(&mut registry, &first, Refusal::Changed { seen: saw, now });
    refused(&mut registry, &take(SECOND), Refusal::NotTheNextKey(B));
    refused(&mut registry, &seen(A, SECOND), Refusal::NotTheNextKey(B));
    refused(&mut registry, &take(THIRD), Refusal::KeyUnseen(A));
    for by in [A, C] {
        assert_eq!(registry.apply(&seen(by, THIRD)), Outcome::Done);
    }
    assert_eq!(registry.apply(&take(THIRD)), Outcome::Done);
    assert_eq!(registry.apply(&seen(A, THIRD)), Outcome::Already);
    refused(&mut registry, &seen(A, SECOND), Refusal::NotTheNextKey(B));
}

/// A key is one member's only, announced or in use.
#[test]
fn nobody_takes_the_key_of_another() {
    let mut registry = cluster(3);
    let command = announce(&registry, key(2));
    refused(&mut registry, &command, Refusal::KeyTaken(C));
    let record = registry.member(C).unwrap().revision;
    let theirs = Command::NextKey { node: C, seen: record, key: SECOND, made: 1 };
    assert_eq!(registry.apply(&theirs), Outcome::Done);
    let command = announce(&registry, SECOND);
    refused(&mut registry, &command, Refusal::KeyTaken(C));
}

/// Who has left need not know it; who has its id since must.
#[test]
fn a_member_that_left_is_not_waited_for_and_its_heir_is() {
    let mut registry = cluster(3);
    registry.apply(&announce(&registry.clone(), SECOND));
    registry.apply(&seen(A, SECOND));
    registry.apply(&seen(C, SECOND));
    registry.apply(&Command::Surrender { node: C, incarnation: Incarnation(1) });
    let run = oarlock_cluster::registry::Out {
        node: C,
        incarnation: Incarnation(1),
        basis: oarlock_cluster::registry::Basis::Surrendered,
        fences: Vec::new(),
    };
    let epoch = registry.view().epoch;
    assert_eq!(registry.apply(&Command::Evict { epoch, out: vec![run], note: None }), Outcome::Done);
    let leave = Command::Leave { node: C, seen: registry.member(C).unwrap().revision };
    assert_eq!(registry.apply(&leave), Outcome::Done);
    assert_eq!(registry.unaware(B).count(), 0);
    let serial = registry.next_token();
    registry.apply(&founding::token(serial, 9));
    let joined = registry.apply(&founding::join(serial, 9));
    assert!(matches!(joined, Outcome::Joined { node: C, .. }), "{joined:?}");
    refused(&mut registry, &take(SECOND), Refusal::KeyUnseen(C));
}
