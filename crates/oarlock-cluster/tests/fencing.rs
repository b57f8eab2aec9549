//! Whose turn it is to fence, what becomes of a try, and what waits meanwhile.

mod founding;

use founding::{joined, key};
use oarlock_cluster::fencing::{Charge, Fencing, Output};
use oarlock_cluster::registry::{Basis, Command, Failed, Need, Out, Outcome, PROOFS_MAX, Refusal, Registry};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::RENEW;
use oarlock_layout::time::{Duration, Instant};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);

fn at(ms: u64) -> Instant {
    Instant::from_millis(1_000_000 + ms)
}

fn start(node: NodeId, incarnation: u64) -> Command {
    Command::Start {
        node,
        key: key(node.0),
        incarnation: Incarnation(incarnation),
        nonce: incarnation,
        fences: vec![Need::Program],
    }
}

fn cluster(nodes: u16) -> Registry {
    let mut registry = joined(nodes);
    for node in 0..nodes {
        assert_eq!(registry.apply(&start(NodeId(node), 1)), Outcome::Done);
    }
    registry
}

/// The last run of a node is put out: its lease is over.
fn dead(registry: &mut Registry, node: NodeId) {
    let member = registry.member(node).unwrap();
    let (incarnation, renewal) = (member.entered, member.renewal);
    let basis = Basis::LeaseOver { renewal };
    let out = vec![Out { node, incarnation, basis, fences: vec![Need::Program] }];
    let evict = Command::Evict { epoch: registry.view().epoch, out, note: None };
    assert_eq!(registry.apply(&evict), Outcome::Done);
}

fn proven(by: NodeId, by_hand: bool) -> Command {
    let (node, incarnation, need) = (C, Incarnation(1), Need::Program);
    let who = by_hand.then(|| "uid 0".into());
    Command::FenceProven { node, incarnation, need, by, by_hand, who }
}

fn failed(by: NodeId, tried: u32) -> Command {
    Command::FenceFailed { node: C, incarnation: Incarnation(1), tried, by, why: "exit status 1".into() }
}

fn outputs(room: &mut Fencing) -> Vec<Output> {
    std::iter::from_fn(|| room.poll_output()).collect()
}

fn charge(tries: u32) -> Charge {
    Charge { node: C, incarnation: Incarnation(1), epoch: Epoch(4), tries }
}

/// L4: each failure passes the turn on, once, and so does the end of whoever had it.
#[test]
fn the_turn_goes_round_among_the_members_of_the_view() {
    let mut registry = cluster(4);
    dead(&mut registry, C);
    let turn = |registry: &Registry| registry.fencer(registry.fences().next().unwrap());
    assert_eq!(turn(&registry), Some(A));
    assert_eq!(registry.apply(&failed(A, 0)), Outcome::Done);
    assert_eq!(registry.apply(&failed(A, 0)), Outcome::Already, "it is said again until it is heard");
    assert_eq!(turn(&registry), Some(B));
    assert_eq!(registry.apply(&failed(B, 1)), Outcome::Done);
    assert_eq!(turn(&registry), Some(NodeId(3)), "never the node itself");
    let not_mine = Outcome::Refused(Refusal::NotItsProof(C));
    assert_eq!(registry.apply(&failed(C, 2)), not_mine);
    assert_eq!(registry.apply(&failed(B, 7)), Outcome::Refused(Refusal::NotItsProof(B)));
    dead(&mut registry, NodeId(3));
    let of_c = registry.fences().next().unwrap();
    assert_eq!((of_c.node, registry.fencer(of_c)), (C, Some(A)));
    assert_eq!(of_c.failed, Some(Failed { by: B, why: "exit status 1".into() }));
    // Whoever ran it, and whoever's turn it is: a proof is a proof, but not of the node itself.
    assert_eq!(registry.apply(&proven(C, false)), not_mine);
    assert_eq!(registry.apply(&proven(B, false)), Outcome::Done);
    assert_eq!(registry.fences().count(), 1, "that of node 3");
    let proof = &registry.proofs()[0];
    assert_eq!((proof.node, proof.by, proof.by_hand, proof.tries), (C, B, false, 2));
    assert_eq!(registry, Registry::restore(&registry.snapshot()).unwrap());
}

/// L4: a person's word is remembered with whose it was; and of such proofs the last few.
#[test]
fn what_somebody_confirms_is_remembered_with_who_did() {
    let mut registry = cluster(3);
    dead(&mut registry, C);
    assert_eq!(registry.apply(&proven(A, true)), Outcome::Done);
    let proof = registry.proofs().last().unwrap();
    assert_eq!((proof.by, proof.by_hand, proof.who.as_deref()), (A, true, Some("uid 0")));
    for run in 2..20 {
        assert_eq!(registry.apply(&start(C, run)), Outcome::Done);
        dead(&mut registry, C);
        let (node, incarnation, need) = (C, Incarnation(run), Need::Program);
        let by = A;
        let command = Command::FenceProven { node, incarnation, need, by, by_hand: false, who: None };
        assert_eq!(registry.apply(&command), Outcome::Done);
    }
    assert_eq!(registry.proofs().len(), PROOFS_MAX);
    assert_eq!(registry.proofs().last().unwrap().incarnation, Incarnation(19));
}

/// L4 and L5: a stop in order costs nobody his machine, whether it was heard of before the verdict or after.
#[test]
fn a_run_that_gave_itself_up_needs_no_fence() {
    let surrender = Command::Surrender { node: C, incarnation: Incarnation(1) };
    let mut registry = cluster(3);
    registry.apply(&surrender);
    let out = vec![Out {
        node: C,
        incarnation: Incarnation(1),
        basis: Basis::Surrendered,
        fences: vec![Need::Program],
    }];
    registry.apply(&Command::Evict { epoch: Epoch(3), out, note: None });
    assert_eq!((registry.run(C), registry.fences().count()), (None, 0));

    let mut registry = cluster(3);
    dead(&mut registry, C);
    assert_eq!(registry.apply(&surrender), Outcome::Done);
    assert_eq!(registry.fences().count(), 0);
    assert_eq!(registry.apply(&surrender), Outcome::Already);
}

/// L4: a fence may be the end of the machine, so the next run of its node comes after it, unless nobody is there to fence.
#[test]
fn a_node_comes_back_after_its_fence() {
    let mut registry = cluster(3);
    dead(&mut registry, C);
    assert_eq!(registry.apply(&start(C, 2)), Outcome::Refused(Refusal::FencesPending(C)));
    registry.apply(&proven(B, false));
    assert_eq!(registry.apply(&start(C, 2)), Outcome::Done);

    // All have died: the first to come back waits for nobody, the next one for the first.
    let mut registry = cluster(2);
    dead(&mut registry, A);
    dead(&mut registry, B);
    assert!(registry.fences().all(|fence| registry.fencer(fence).is_none()));
    assert_eq!(registry.apply(&start(A, 2)), Outcome::Done);
    assert_eq!(registry.apply(&start(B, 2)), Outcome::Refused(Refusal::FencesPending(B)));
    let (node, incarnation, need) = (B, Incarnation(1), Need::Program);
    registry.apply(&Command::FenceProven { node, incarnation, need, by: A, by_hand: false, who: None });
    assert_eq!(registry.apply(&start(B, 2)), Outcome::Done);
    let of_a = registry.fences().next().unwrap();
    assert_eq!((of_a.node, registry.fencer(of_a)), (A, Some(B)));

    // A node alone has nobody who could ever fence it.
    let mut registry = cluster(1);
    dead(&mut registry, A);
    assert_eq!(registry.fences().count(), 0);
}

/// L4: the program knows a node by its name, which somebody else may have when it has left.
#[test]
fn a_member_leaves_only_when_no_program_is_to_fence_it_any_more() {
    let mut registry = cluster(3);
    dead(&mut registry, C);
    let leave = |r: &Registry| Command::Leave { node: C, seen: r.member(C).unwrap().revision };
    let command = leave(&registry);
    assert_eq!(registry.apply(&command), Outcome::Refused(Refusal::FenceFirst(C)));
    assert_eq!(registry.apply(&proven(A, true)), Outcome::Done);
    let command = leave(&registry);
    assert_eq!(registry.apply(&command), Outcome::Done);
}

/// L4: one charge at a time; what came of it is proposed until the registry has it; the next try comes later.
#[test]
fn a_try_is_made_once_and_what_came_of_it_is_said_until_it_is_heard() {
    let mut registry = cluster(3);
    let mut room = Fencing::new(A, Incarnation(1));
    room.handle_applied(at(0), &registry);
    assert_eq!((room.poll_timeout(), outputs(&mut room)), (None, vec![]));
    dead(&mut registry, C);
    room.handle_applied(at(0), &registry);
    room.handle_applied(at(1), &registry);
    assert_eq!(outputs(&mut room), [Output::Prove(charge(0))]);
    assert_eq!(room.poll_timeout(), None, "the fence is at it");
    room.handle_fenced(at(100), charge(0), Err("exit status 1".into()));
    let said = Output::Propose(failed(A, 0));
    assert_eq!(outputs(&mut room), std::slice::from_ref(&said));
    assert_eq!(room.poll_timeout(), Some(at(100) + RENEW), "the proposal may be lost");
    room.handle_timeout(at(100) + RENEW);
    assert_eq!(outputs(&mut room), [said]);
    registry.apply(&failed(A, 0));
    room.handle_applied(at(1_000), &registry);
    assert_eq!((room.poll_timeout(), outputs(&mut room)), (None, vec![]), "it is B's turn");

    // B fails too, and it is A's turn again, half a second later; then it is proven.
    registry.apply(&failed(B, 1));
    room.handle_applied(at(2_000), &registry);
    assert_eq!(outputs(&mut room), []);
    let then = at(2_000) + Duration::from_millis(500);
    assert_eq!(room.poll_timeout(), Some(then));
    room.handle_applied(at(2_100), &registry);
    assert_eq!(room.poll_timeout(), Some(then), "hearing of something else begins no new wait");
    room.handle_timeout(then);
    assert_eq!(outputs(&mut room), [Output::Prove(charge(2))]);
    room.handle_fenced(at(3_000), charge(2), Ok(()));
    assert_eq!(outputs(&mut room), [Output::Propose(proven(A, false))]);
    registry.apply(&proven(A, false));
    room.handle_applied(at(3_010), &registry);
    assert_eq!((room.poll_timeout(), outputs(&mut room)), (None, vec![]));
    room.handle_fenced(at(3_020), charge(2), Ok(()));
    assert_eq!(outputs(&mut room), [], "somebody was faster");
}

/// L4: whoever ran the fence dies, and the next member runs it; a run that is not in the view runs none.
#[test]
fn a_fence_outlives_whoever_ran_it() {
    let mut registry = cluster(3);
    let mut room = Fencing::new(B, Incarnation(1));
    let mut later = Fencing::new(B, Incarnation(2));
    dead(&mut registry, C);
    room.handle_applied(at(0), &registry);
    assert_eq!(outputs(&mut room), [], "it is A's turn");
    dead(&mut registry, A);
    room.handle_applied(at(10), &registry);
    later.handle_applied(at(10), &registry);
    let charges = outputs(&mut room);
    assert!(charges.contains(&Output::Prove(charge(0))) && charges.len() == 2, "{charges:?}");
    assert_eq!(outputs(&mut later), []);
}

/// L4: a slow fence that succeeds after its turn has passed on is a proof all the same, and a failure of it fails nobody's turn.
#[test]
fn what_a_late_try_comes_to_still_counts() {
    let mut registry = cluster(3);
    let mut room = Fencing::new(A, Incarnation(1));
    dead(&mut registry, C);
    room.handle_applied(at(0), &registry);
    assert_eq!(outputs(&mut room), [Output::Prove(charge(0))]);
    // Somebody says in A's name that it failed: an earlier proposal of a run that repeats itself.
    registry.apply(&failed(A, 0));
    room.handle_applied(at(50), &registry);
    assert_eq!(outputs(&mut room), []);
    let mut other = room.clone();
    room.handle_fenced(at(60), charge(0), Ok(()));
    assert_eq!(outputs(&mut room), [Output::Propose(proven(A, false))]);
    other.handle_fenced(at(60), charge(0), Err("exit status 1".into()));
    let said = outputs(&mut other);
    assert_eq!(said, [Output::Propose(failed(A, 0))]);
    assert_eq!(registry.apply(&failed(A, 0)), Outcome::Already);
    other.handle_applied(at(70), &registry);
    assert_eq!((other.poll_timeout(), outputs(&mut other)), (None, vec![]));
}
