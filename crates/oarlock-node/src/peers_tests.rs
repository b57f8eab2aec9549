//! Every message that nodes have for each other, from everybody who may send one: what the table of rights allows is heard, and what
//! it does not allow changes nothing.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use oarlock_circuit::{Class, SendError};
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::session::{LockRequest, Reply, Request};
use oarlock_layout::message::trace::{Sight, Trace, Traced, Verdict, WaitId};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::seal::Seal;
use oarlock_layout::time::Duration;

use crate::deadlock::Room;
use crate::rights::{Access, Kind, Role};
use crate::stage::{Cluster, address, founded, seal_of, secret, words};
use crate::{Event, Node, Output};

#[path = "../../oarlock-layout/tests/samples/mod.rs"]
mod samples;

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaker {
    /// The run that the view names.
    Member,
    /// The same, of a node for whose programs the lockspace is not.
    Bystander,
    /// A member of the cluster that is not in the view.
    Away,
    /// A run of a node before the one that the view names.
    Earlier,
    /// A run after that, which wants to be let in.
    Later,
    /// A node of the view, and there is no circuit to it.
    Unconnected,
    /// A node that is no member, and there is no circuit to it.
    Unknown,
}

impl Speaker {
    const ALL: [Speaker; 7] = [
        Speaker::Member,
        Speaker::Bystander,
        Speaker::Away,
        Speaker::Earlier,
        Speaker::Later,
        Speaker::Unconnected,
        Speaker::Unknown,
    ];

    /// As whom the table knows it; only in a lockspace can it be a bystander.
    const fn role(self, in_space: bool) -> Role {
        match self {
            Speaker::Bystander if in_space => Role::Bystander,
            Speaker::Member | Speaker::Bystander => Role::Member,
            Speaker::Away | Speaker::Earlier | Speaker::Later => Role::Outsider,
            Speaker::Unconnected | Speaker::Unknown => Role::Stranger,
        }
    }
}

/// Three nodes in a view, and a fourth member that is not; and who of them speaks to the first.
fn staged(speaker: Speaker) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(1));
    let from = match speaker {
        Speaker::Away => NodeId(2),
        Speaker::Unknown => NodeId(9),
        _ => NodeId(1),
    };
    if speaker == Speaker::Away {
        // It dies, and is put out; a run of it is there and waits.
        cluster.nodes[2] = None;
        cluster.run(Duration::from_secs(5));
    }
    let node = cluster.node(0);
    let view = node.recovery.view().clone();
    assert_eq!(view.member(from).is_some(), !matches!(speaker, Speaker::Away | Speaker::Unknown), "{view:?}");
    let named = view.member(NodeId(1)).expect("it is in").incarnation;
    match speaker {
        Speaker::Member | Speaker::Bystander => assert_eq!(node.runs.get(&from), Some(&named)),
        Speaker::Away => _ = node.runs.insert(from, Incarnation(2)),
        Speaker::Earlier => _ = node.runs.insert(from, Incarnation(named.0 - 1)),
        Speaker::Later => _ = node.runs.insert(from, Incarnation(named.0 + 1)),
        Speaker::Unconnected | Speaker::Unknown => _ = node.runs.remove(&from),
    }
    if speaker == Speaker::Bystander {
        node.accesses = [Access { nodes: Some([NodeId(0)].into()), ..Access::default() }].into();
    }
    (cluster, from)
}

fn said(node: &mut Node, now: oarlock_layout::time::Instant) -> Vec<Output> {
    core::iter::from_fn(|| node.poll_output(now)).collect()
}

/// A message of that kind about the first lockspace, in the view that is valid.
fn here(mut message: PeerMessage, epoch: Epoch) -> PeerMessage {
    match &mut message {
        PeerMessage::Lock(packet) => (packet.space, packet.epoch) = (SpaceId(0), epoch),
        PeerMessage::Look(look) => look.space = SpaceId(0),
        PeerMessage::Barrier(barrier) => barrier.epoch = epoch,
        PeerMessage::Trace(trace) => trace.resources.iter_mut().for_each(|(space, _)| *space = SpaceId(0)),
        _ => {}
    }
    message
}

/// I22: role by role and message by message.
#[test]
fn a_message_of_another_node_is_heard_as_the_table_says_or_changes_nothing() {
    let mut walked = BTreeSet::new();
    let mut moved = BTreeSet::new();
    for speaker in Speaker::ALL {
        for (name, message) in samples::peer() {
            let (mut cluster, from) = staged(speaker);
            let now = cluster.now;
            let node = cluster.node(0);
            let message = here(message, node.recovery.view().epoch);
            let kind = Kind::of_peer(&message);
            let in_space = matches!(message, PeerMessage::Lock(_));
            let expected = speaker.role(in_space).has(kind.right(), 0);
            let what = alloc::format!("{name} by {speaker:?}");
            assert!(said(node, now).is_empty(), "{what}: it comes to rest before");
            let before = node.write();
            assert_eq!(node.may_say(from, &message), expected, "{what}");
            let asked = said(node, now);
            node.deliver(now, from, message);
            let outputs = said(node, now);
            let changed = node.write() != before || !outputs.is_empty();
            if !expected {
                let told = |all: &[Output]| match all {
                    [] => false,
                    [Output::Event(Event::Violation { .. })] => true,
                    other => panic!("{what}: {other:?}"),
                };
                // A member of the view that states where it must not misbehaves; of others nothing is said.
                let misbehaves = speaker == Speaker::Bystander;
                assert_eq!((told(&asked), told(&outputs)), (misbehaves, misbehaves), "{what}");
                assert!(node.write() == before, "{what}: something came of it");
            } else if changed {
                moved.insert(kind);
            }
            walked.insert((alloc::format!("{speaker:?}"), kind));
        }
    }
    let peers =
        [Kind::Statement, Kind::Decision, Kind::Handover, Kind::Talk, Kind::Search, Kind::Coordination];
    assert_eq!(walked.len(), Speaker::ALL.len() * peers.len(), "{walked:?}");
    assert_eq!(moved.into_iter().collect::<Vec<_>>(), peers, "what is allowed has some effect");
}

/// What has another key, or is an earlier run than one that is known, gets no circuit: there is nothing that it could say.
#[test]
fn who_gets_no_circuit_can_say_nothing() {
    for (who, key, boots) in [("another key", 40, 1), ("an earlier run", 1, 1)] {
        let mut cluster = Cluster::new(3);
        cluster.run(Duration::from_secs(1));
        if who == "an earlier run" {
            cluster.start(1);
            cluster.run(Duration::from_secs(6));
            assert_eq!(cluster.node(0).runs.get(&NodeId(1)), Some(&Incarnation(2)));
        }
        let known = cluster.node(0).runs.clone();
        let mut config = cluster.config(1, &[0, 1, 2]);
        config.incarnation = Incarnation(boots);
        let seal: alloc::boxed::Box<dyn Seal + Send> = alloc::boxed::Box::new(seal_of(key, boots + 7));
        let mut ghost = Node::new(cluster.now, config, seal, words(1));
        ghost.pledge(&secret(1, 9));
        ghost.handle_applied(cluster.now, &founded(3));
        // The one whose name it uses says nothing meanwhile.
        cluster.mute = Some(1);
        for _ in 0..40 {
            cluster.run(Duration::from_millis(50));
            let now = cluster.now;
            ghost.handle_timeout(now);
            while let Some(output) = ghost.poll_output(now) {
                let Output::Transmit(transmit) = output else { continue };
                if transmit.to != address(0) {
                    continue;
                }
                for datagram in transmit.datagrams() {
                    cluster.node(0).handle_datagram(now, address(1), &mut datagram.to_vec());
                }
                while let Some(output) = cluster.node(0).poll_output(now) {
                    match output {
                        Output::Transmit(transmit) if transmit.to == address(1) => {
                            for datagram in transmit.datagrams() {
                                ghost.handle_datagram(now, address(0), &mut datagram.to_vec());
                            }
                        }
                        other => cluster.carry(0, other),
                    }
                }
            }
        }
        let now = cluster.now;
        for (name, message) in samples::peer() {
            let refused = ghost.send(now, NodeId(0), Class::Bulk, &message);
            assert!(matches!(refused, Err(SendError::NotUp(_))), "{who} says {name}: {refused:?}");
        }
        assert_eq!(cluster.node(0).runs, known, "{who} is taken for a member");
        let told =
            cluster.events.iter().filter(|event| event.starts_with("0: ")).any(|it| it.contains("refused"));
        assert!(told, "{who}: {:#?}", cluster.events);
    }
}

/// A program at node 0 holds `x` and waits for `y`, which a program at node 1 holds. Returns the session that waits.
fn wait_across(cluster: &mut Cluster) -> (usize, SessionId) {
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    let lock = |handle, name: &str| {
        Request::Lock(LockRequest {
            handle,
            space: SpaceId(0),
            name: Name::new(name.as_bytes()).unwrap(),
            mode: Mode::EX,
            flags: Flags::empty(),
            timeout_ms: 0,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        })
    };
    cluster.say(a, &lock(1, "x"));
    cluster.say(b, &lock(1, "y"));
    cluster.say(a, &lock(2, "y"));
    a
}

/// D8: an answer to a search that tells of a lockspace that there is not is its sender's fault, and nothing follows from it.
#[test]
fn an_answer_about_a_lockspace_that_there_is_not_is_a_misdeed() {
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(1));
    wait_across(&mut cluster);
    // Node 1 answers no more, so that a pass is under way when the answer comes. Its question has one of the first numbers.
    cluster.nodes[1] = None;
    cluster.run(Duration::from_millis(150));
    let sights = samples::peer().into_iter().filter_map(|(_, message)| match message {
        PeerMessage::Traced(traced) => traced.sights.into_iter().find(|sight| !sight.waits.is_empty()),
        _ => None,
    });
    let sight = sights.into_iter().next().expect("a sample with waits");
    let sight = Sight { space: SpaceId(7), alone: false, ..sight };
    let (now, node) = (cluster.now, cluster.node(0));
    let mut misdeeds = 0;
    for question in 1..20 {
        for from in [1, 2] {
            let (epoch, left, sights) = (Epoch(1), Vec::new(), vec![sight.clone()]);
            let traced = Traced { epoch, question, cut: false, left, sights };
            node.deliver(now, NodeId(from), PeerMessage::Traced(traced));
            let outputs = said(node, now);
            misdeeds +=
                outputs.iter().filter(|it| matches!(it, Output::Event(Event::Violation { .. }))).count();
        }
    }
    assert!(misdeeds > 0, "nobody was blamed");
}

/// What is asked, answered and found in one view means nothing in another: it is of other locks, or of other masters.
#[test]
fn a_question_or_verdict_of_another_view_changes_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(1));
    let a = wait_across(&mut cluster);
    cluster.run(Duration::from_secs(1));
    let epoch = cluster.node(0).recovery.epoch();
    let now = cluster.now;
    let trace = |epoch| Trace {
        epoch,
        question: 7,
        stamp: oarlock_layout::stamp::Stamp(7),
        resources: vec![(SpaceId(0), Name::new(b"y").unwrap())],
        transactions: vec![TransactionId(5)],
    };
    let answers = |node: &mut Node, epoch| {
        let sent = |node: &Node| node.circuits.counters().peers.messages_sent;
        let before = sent(node);
        node.deliver(now, NodeId(1), PeerMessage::Trace(trace(epoch)));
        sent(node) - before
    };
    for (epoch, sent) in [(Epoch(epoch.0 - 1), 0), (Epoch(epoch.0 + 1), 0), (epoch, 1)] {
        assert_eq!(answers(cluster.node(0), epoch), sent, "{epoch:?}");
    }
    let traced = cluster.node(0).traced(&trace(epoch), Room::MESSAGE);
    let wait = traced.sights[0].waits[0].clone();
    let victim = WaitId {
        since: wait.since,
        node: NodeId(0),
        space: SpaceId(0),
        lock: wait.party.lock,
        number: wait.number,
    };
    while cluster.heard(a).is_some() {}
    for (epoch, refused) in [(Epoch(epoch.0 - 1), false), (Epoch(epoch.0 + 1), false), (epoch, true)] {
        let verdict = Verdict { epoch, victim, cycle: Vec::new() };
        cluster.node(0).deliver(now, NodeId(1), PeerMessage::Verdict(verdict));
        cluster.settle();
        let said = cluster.heard(a);
        let is = matches!(&said, Some(Reply::Failed { why, .. }) if why.code == Code::Deadlock);
        assert_eq!(is, refused, "{epoch:?}: {said:?}");
    }
}

/// In a chain of waits as much is told as there is room for, from what was asked on, and where it goes on is said.
#[test]
fn what_there_is_no_room_for_can_be_asked_for() {
    let mut cluster = Cluster::new(1);
    cluster.run(Duration::from_secs(1));
    let all: Vec<_> = (1..=6).map(|id| cluster.session(0, id)).collect();
    let name = |at: usize| Name::new(&[b'a' + at as u8]).unwrap();
    let lock = |handle, at: usize| {
        Request::Lock(LockRequest {
            handle,
            space: SpaceId(0),
            name: name(at),
            mode: Mode::EX,
            flags: Flags::empty(),
            timeout_ms: 0,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        })
    };
    for (at, session) in all.iter().enumerate() {
        cluster.say(*session, &lock(1, at));
    }
    for (at, session) in all[..5].iter().enumerate() {
        cluster.say(*session, &lock(2, at + 1));
    }
    let epoch = cluster.node(0).recovery.epoch();
    let trace = |at: usize| Trace {
        epoch,
        question: 7,
        stamp: oarlock_layout::stamp::Stamp(7),
        resources: vec![(SpaceId(0), name(at))],
        transactions: Vec::new(),
    };
    let node = cluster.nodes[0].as_ref().unwrap();
    let traced = |at, room| node.traced(&trace(at), room);
    let shown =
        |traced: &Traced| traced.sights.iter().map(|it| (it.name.clone(), it.more)).collect::<Vec<_>>();
    let whole = traced(1, Room::MESSAGE);
    assert!(!whole.cut);
    assert_eq!(shown(&whole), [1, 2, 3, 4, 5].map(|at| (name(at), false)));
    let first_three = [(name(1), false), (name(2), false), (name(3), true)];
    let size = |sights: &[Sight]| sights.iter().map(|sight| sight.to_bytes().len()).sum::<usize>();
    for room in [Room { rows: 3, bytes: 1 << 20 }, Room { rows: 9, bytes: size(&whole.sights[..3]) + 5 }] {
        let part = traced(1, room);
        assert!(!part.cut, "what was asked for is all there");
        assert_eq!(shown(&part), first_three);
        assert!(size(&part.sights) <= room.bytes);
    }
    for room in [Room { rows: 1, bytes: 1 << 20 }, Room { rows: 9, bytes: size(&whole.sights[2..3]) + 5 }] {
        let part = traced(3, room);
        assert!(part.cut, "the wait of its holder is not");
        assert_eq!(shown(&part), [(name(3), true)]);
    }
    // Of many who wait for one thing so many are told as fit, the first among them.
    for owner in 1..=50 {
        for (handle, at, mode) in [(owner * 2 + 1, 6, Mode::PR), (owner * 2 + 2, 1, Mode::EX)] {
            let Request::Lock(request) = lock(handle, at) else { unreachable!() };
            let request = LockRequest { owner: OwnerId(owner.into()), mode, ..request };
            cluster.say(all[5], &Request::Lock(request));
        }
    }
    let traced = |room| cluster.nodes[0].as_ref().unwrap().traced(&trace(6), room);
    let whole = traced(Room::MESSAGE);
    let [held, wanted] = [&whole.sights[0], &whole.sights[1]];
    assert_eq!((whole.cut, &held.name, held.holds.len()), (false, &name(6), 50));
    assert_eq!((&wanted.name, wanted.waits.len()), (&name(1), 51));
    let room = Room { rows: 100, bytes: size(&whole.sights[..1]) + size(&whole.sights[1..2]) / 3 };
    let part = traced(room);
    assert!(part.cut && size(&part.sights) <= room.bytes);
    let wanted = &part.sights[1];
    assert!((2..=17).contains(&wanted.waits.len()), "{}", wanted.waits.len());
    assert_eq!(wanted.waits[0], whole.sights[1].waits[0]);
}

/// Until all have restated a node knows less than there is: whatever it told could make somebody seem stuck who is not, or hide him.
#[test]
fn while_locks_are_recovered_nothing_is_told() {
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(1));
    let a = cluster.session(0, 1);
    let name = Name::new(b"x").unwrap();
    for handle in [1, 2] {
        cluster.say(
            a,
            &Request::Lock(LockRequest {
                handle,
                space: SpaceId(0),
                name: name.clone(),
                mode: Mode::EX,
                flags: Flags::NODLCKWT,
                timeout_ms: 0,
                owner: OwnerId(0),
                transaction: TransactionId(5),
            }),
        );
    }
    let before = cluster.node(0).recovery.epoch();
    let trace = |epoch| Trace {
        epoch,
        question: 7,
        stamp: oarlock_layout::stamp::Stamp(7),
        resources: vec![(SpaceId(0), name.clone())],
        transactions: vec![TransactionId(5)],
    };
    let now = cluster.now;
    assert_eq!(cluster.node(0).answer(now, &trace(before)).sights.len(), 1);
    cluster.nodes[1] = None;
    cluster.run(Duration::from_millis(900));
    // Of the third nobody hears that it has restated.
    cluster.mute = Some(2);
    while cluster.node(0).recovery.epoch() == before {
        cluster.run(Duration::from_millis(10));
    }
    assert!(!cluster.node(0).recovery.is_open());
    let (now, epoch) = (cluster.now, cluster.node(0).recovery.epoch());
    let traced = cluster.node(0).answer(now, &trace(epoch));
    assert_eq!((traced.cut, traced.left, traced.sights), (true, vec![TransactionId(5)], Vec::new()));
}
