//! Three whole nodes in one thread, over a network that delivers at once: what the hall wires together.

use oarlock_cluster::registry::Need;
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::form::Phase;
use oarlock_layout::message::frame::encode_gasp;
use oarlock_layout::message::look::{At, What};
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::raft::{Answer, Call};
use oarlock_layout::message::session::{ConvertRequest, LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::Duration;
use oarlock_node::Node;
use oarlock_node::rights::{Access, Who};

use stage::*;

mod stage;

/// L4: the lease of the dead node is over, and still nothing is granted until whoever's turn it is has fenced it.
#[test]
fn nothing_of_a_dead_node_is_granted_before_it_is_fenced() {
    let mut cluster = Cluster::with_fences(3, vec![Need::Program]);
    cluster.run(Duration::from_secs(1));
    let (a, c) = (cluster.session(0, 1), cluster.session(2, 2));
    cluster.lock(c, 1, Mode::EX);
    assert!(matches!(cluster.reply(c), Reply::Granted(_)));
    cluster.nodes[2] = None;
    cluster.lock(a, 1, Mode::EX);
    cluster.run(Duration::from_secs(10));
    assert_eq!(cluster.heard(a), None, "its lease is over, its fence is missing");
    let [(n, charge)] = cluster.charges[..] else { panic!("one node is told once: {:?}", cluster.charges) };
    assert_eq!((n, charge.node, charge.incarnation), (0, NodeId(2), Incarnation(1)));
    let status = cluster.nodes[1].as_ref().unwrap().status(cluster.now);
    let told = |text: &str| status.problems.iter().any(|(_, it)| it.contains(text));
    assert!(told("waiting for the fence of node-c (run 1)"), "{:?}", status.problems);

    let now = cluster.now;
    cluster.node(0).handle_fenced(now, charge, Err("exit status 1".into()));
    cluster.run(Duration::from_secs(1));
    let (n, charge) = cluster.charges[1];
    assert_eq!((n, charge.tries, cluster.heard(a)), (1, 1, None));
    let now = cluster.now;
    cluster.node(1).handle_fenced(now, charge, Ok(()));
    cluster.run(Duration::from_millis(100));
    assert!(matches!(cluster.reply(a), Reply::Granted(_)));
    assert!(cluster.node(0).fences().is_empty());
}

#[test]
fn a_lock_excludes_across_nodes_and_moves_on_at_release() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    cluster.lock(a, 1, Mode::EX);
    let Reply::Granted(first) = cluster.reply(a) else { panic!("not granted") };
    cluster.lock(b, 1, Mode::EX);
    assert_eq!(cluster.heard(b), None, "excluded");
    assert_eq!(cluster.reply(a), Reply::Blocking { handle: 1, wanted: Mode::EX });
    cluster.say(a, &Request::Unlock { handle: 1, value: None, invalidate: false });
    assert_eq!(cluster.reply(a), Reply::Released { handle: 1 });
    let Reply::Granted(second) = cluster.reply(b) else { panic!("not granted") };
    assert!(second.token > first.token, "{:?} then {:?}", first.token, second.token);
}

#[test]
fn a_program_that_hangs_up_leaves_no_lock_behind() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    cluster.lock(a, 1, Mode::EX);
    cluster.lock(b, 1, Mode::PR);
    cluster.reply(a);
    let now = cluster.now;
    cluster.node(0).handle_session_closed(now, a.1);
    cluster.settle();
    assert!(matches!(cluster.reply(b), Reply::Granted(g) if g.mode == Mode::PR));
}

#[test]
fn a_lock_that_is_converted_while_it_waits_is_still_found_when_its_program_dies() {
    // Scenarios 22 and 36: the convert is refused, and that is all that comes of it.
    let mut cluster = serving(3);
    let (a, b, c) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    cluster.lock(a, 1, Mode::EX);
    cluster.reply(a);
    cluster.lock(b, 1, Mode::EX);
    let (flags, timeout_ms, value) = (Flags::empty(), 0, None);
    cluster.say(b, &Request::Convert(ConvertRequest { handle: 1, mode: Mode::PR, flags, timeout_ms, value }));
    assert!(matches!(cluster.reply(b), Reply::Failed { why, .. } if why.code == Code::InFlight));
    cluster.say(a, &Request::Unlock { handle: 1, value: None, invalidate: false });
    assert!(matches!(cluster.reply(b), Reply::Granted(g) if g.mode == Mode::EX));
    cluster.lock(c, 1, Mode::PR);
    assert_eq!(cluster.reply(b), Reply::Blocking { handle: 1, wanted: Mode::PR });
    let now = cluster.now;
    cluster.node(1).handle_session_closed(now, b.1);
    cluster.settle();
    assert!(matches!(cluster.heard(c), Some(Reply::Granted(_))), "the lock of a dead program is still held");
}

#[test]
fn a_question_is_answered_by_every_member_with_the_programs_named() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    cluster.lock(a, 1, Mode::EX);
    cluster.lock(b, 1, Mode::EX);
    let now = cluster.now;
    cluster.node(2).look(now, 9, SpaceId(0), At::Resource(Name::new(b"jobs/nightly").unwrap()));
    cluster.run(Duration::from_millis(50));
    let seen = cluster.looked.pop().expect("answered before its deadline");
    let rows: Vec<_> =
        seen.iter().flat_map(|(n, s)| s.as_ref().unwrap().rows.iter().map(|r| (n.0, &r.what))).collect();
    let holder = rows.iter().any(|(n, w)| matches!(w, What::Holder(h) if *n == 0 && h.party.pid == 101));
    let waiter =
        rows.iter().any(|(n, w)| matches!(w, What::Waiter(w) if *n == 1 && w.party.label == "program 2"));
    assert!(holder && waiter, "{rows:#?}");
    assert_eq!(rows.iter().filter(|(_, w)| matches!(w, What::Master(_))).count(), 1);
}

/// X10, L5, L11: what a node held that died is granted elsewhere once its lease is over, not before; what others hold stays
/// held, and no token falls (R6).
#[test]
fn a_node_dies_and_its_locks_are_granted_elsewhere_once_its_lease_is_over() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    cluster.lock(a, 1, Mode::EX);
    let Reply::Granted(first) = cluster.reply(a) else { panic!("not granted") };
    cluster.lock(b, 1, Mode::EX);
    let began = cluster.now;
    cluster.nodes[0] = None;
    cluster.run(Duration::from_millis(2_800));
    assert_eq!(cluster.heard(b), None, "its lease goes on");
    cluster.run(Duration::from_millis(2_200));
    let Some(Reply::Granted(second)) = cluster.heard(b) else { panic!("not granted: {:#?}", cluster.events) };
    assert!(second.token.fence > first.token.fence, "{:?} then {:?}", first.token, second.token);
    assert!(cluster.now.since(began) <= Duration::from_secs(5), "silent death to usable (L10)");
    // It comes back, and waits for the lock like any other.
    cluster.start(0);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.phases(), vec![Phase::Serving; 3], "{:#?}", cluster.events);
    let a = cluster.session(0, 3);
    cluster.lock(a, 1, Mode::EX);
    assert_eq!(cluster.heard(a), None, "the survivor holds it");
    assert_eq!(cluster.reply(b), Reply::Blocking { handle: 1, wanted: Mode::EX });
    cluster.say(b, &Request::Unlock { handle: 1, value: None, invalidate: false });
    let Some(Reply::Granted(third)) = cluster.heard(a) else { panic!("not granted: {:#?}", cluster.events) };
    assert!(third.token > second.token);
}

/// L5: a run that ends in order gives itself up, and nobody waits for its lease.
#[test]
fn a_run_that_gives_itself_up_is_not_waited_for() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    cluster.lock(a, 1, Mode::EX);
    cluster.reply(a);
    cluster.lock(b, 1, Mode::EX);
    let now = cluster.now;
    assert_eq!(cluster.node(0).stop(now), [a.1], "one program held a lock");
    cluster.settle();
    assert_eq!(cluster.reply(a), Reply::Blocking { handle: 1, wanted: Mode::EX });
    assert!(matches!(cluster.reply(a), Reply::Lost { .. }));
    // It has been told, but may still be acting: its lock is nobody's until the run is surrendered.
    assert_eq!(cluster.heard(b), None);
    assert!(cluster.node(0).surrender());
    cluster.settle();
    cluster.nodes[0] = None;
    cluster.run(Duration::from_millis(500));
    assert!(matches!(cluster.heard(b), Some(Reply::Granted(_))), "{:#?}", cluster.events);
}

/// L1: a node may stand still between its decision and its telling it. What it decided under a lease that is over since then
/// is told to nobody.
#[test]
fn a_grant_that_was_not_told_before_the_lease_was_over_is_never_told() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(0, 2));
    cluster.lock(a, 1, Mode::EX);
    cluster.reply(a);
    // The node owns the resource now, and grants the next one by itself.
    let now = cluster.now;
    cluster.node(0).handle_session_packet(now, b.1, &lock_request(1, Mode::NL).to_bytes());
    cluster.now += Duration::from_secs(4);
    cluster.settle();
    assert!(matches!(cluster.reply(b), Reply::Lost { .. }), "not that it was granted");
}

/// 49: a node that joins disturbs no granted lock, hears of the members that it was not told of, and takes its part. One that
/// leaves gives back what it held; its key opens no circuit any more, and the others go on.
#[test]
fn a_node_joins_and_leaves_while_locks_are_held() {
    let mut cluster = serving(3);
    let a = cluster.session(0, 1);
    cluster.lock(a, 1, Mode::EX);
    let Reply::Granted(first) = cluster.reply(a) else { panic!("not granted") };
    let d = cluster.join();
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.phases(), vec![Phase::Serving; 4], "{:#?}", cluster.events);
    let now = cluster.now;
    for n in 0..4 {
        let heard = cluster.node(n).status(now).members.iter().filter(|m| m.heard && m.in_view).count();
        assert_eq!(heard, 4, "seen from node {n}: {:#?}", cluster.events);
    }
    assert_eq!(cluster.heard(a), None, "what is held stays held");
    let c = cluster.session(d, 2);
    cluster.lock(c, 1, Mode::EX);
    assert_eq!((cluster.heard(c), cluster.reply(a)), (None, Reply::Blocking { handle: 1, wanted: Mode::EX }));
    cluster.say(a, &Request::Unlock { handle: 1, value: None, invalidate: false });
    let Reply::Granted(second) = cluster.reply(c) else { panic!("not granted") };
    assert!(second.token > first.token, "{:?} then {:?}", first.token, second.token);

    let b = cluster.session(1, 3);
    cluster.lock(b, 1, Mode::EX);
    assert_eq!(cluster.heard(b), None, "excluded");
    cluster.leave(d);
    cluster.run(Duration::from_secs(1));
    let Some(Reply::Granted(third)) = cluster.heard(b) else { panic!("{:#?}", cluster.events) };
    assert!(third.token > second.token);
    let now = cluster.now;
    assert_eq!(cluster.node(0).status(now).members.len(), 3);
    // It comes back as if nothing had been, and everybody refuses it.
    cluster.nodes[d] = None;
    cluster.start(d);
    cluster.run(Duration::from_secs(5));
    let refused = format!("{d}: node-a refuses this node ({})", Code::PeerKey);
    assert!(cluster.events.contains(&refused), "{:#?}", cluster.events);
    assert_eq!(cluster.phases()[..3], [Phase::Serving; 3], "{:#?}", cluster.events);
    assert_ne!(cluster.phases()[d], Phase::Serving);
}

/// L4, L5: whoever is told that its lock is lost may still act under it; what a run that ends had stays held until it is out.
#[test]
fn a_run_that_ends_gives_nothing_back_before_it_gives_itself_up() {
    let mut cluster = serving(3);
    for n in 0..3 {
        let (holder, waiter) = (cluster.session(n, 1), cluster.session((n + 1) % 3, 2));
        cluster.lock(holder, 1, Mode::EX);
        assert!(matches!(cluster.reply(holder), Reply::Granted(_)));
        cluster.lock(waiter, 1, Mode::EX);
        let now = cluster.now;
        assert_eq!(cluster.node(n).stop(now), [holder.1]);
        cluster.run(Duration::from_millis(500));
        assert_eq!(cluster.heard(waiter), None, "the program of node {n} has only just been told");
        assert!(cluster.node(n).surrender());
        cluster.run(Duration::from_secs(1));
        assert!(matches!(cluster.reply(waiter), Reply::Granted(_)));
        cluster = serving(3);
    }
}

/// L5: a run that died is given up by whoever knows the secret that it pledged, and of no other run does that say anything.
#[test]
fn the_last_gasp_of_a_dead_run_is_believed_and_no_other() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    cluster.lock(a, 1, Mode::EX);
    cluster.reply(a);
    cluster.lock(b, 1, Mode::EX);
    cluster.nodes[0] = None;
    let gasp = |cluster: &mut Cluster, to: usize, node: u16, run: u64, secret: [u8; 16]| {
        let mut datagram = encode_gasp(NodeId(node), Incarnation(run), &secret);
        let now = cluster.now;
        // From anywhere: it proves itself.
        cluster.node(to).handle_datagram(now, "192.0.2.1:9".parse().unwrap(), &mut datagram);
        cluster.run(Duration::from_millis(100));
    };
    let in_view = |cluster: &Cluster| cluster.coordinator.registry.run(NodeId(0)).is_some();
    gasp(&mut cluster, 1, 0, 1, [0; 16]);
    gasp(&mut cluster, 1, 0, 2, secret(0, 1));
    gasp(&mut cluster, 1, 2, 1, secret(0, 1));
    assert!(in_view(&cluster) && cluster.coordinator.registry.run(NodeId(2)).is_some());
    assert_eq!(cluster.heard(b), None);
    // One who hears it is enough.
    gasp(&mut cluster, 2, 0, 1, secret(0, 1));
    assert!(!in_view(&cluster));
    assert!(matches!(cluster.heard(b), Some(Reply::Granted(_))), "{:#?}", cluster.events);
    // It comes back. What was said of the run before says nothing of this one, however often it is said.
    cluster.start(0);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.phases(), vec![Phase::Serving; 3], "{:#?}", cluster.events);
    for to in [1, 2] {
        gasp(&mut cluster, to, 0, 1, secret(0, 1));
        gasp(&mut cluster, to, 0, 2, secret(0, 1));
    }
    cluster.run(Duration::from_secs(4));
    assert_eq!(cluster.coordinator.registry.run(NodeId(0)), Some(Incarnation(2)));
    // A later run of the same node may say it too, over its circuits.
    cluster.nodes[0] = None;
    cluster.start(0);
    let began = cluster.now;
    cluster.node(0).handle_given_up(began, Incarnation(2));
    cluster.run(Duration::from_millis(1_500));
    assert_eq!(cluster.coordinator.registry.run(NodeId(0)), Some(Incarnation(3)), "{:#?}", cluster.events);
}

/// L2, L6: a node that no majority confirms any more grants nothing new, then loses everything; it was no moment too late.
#[test]
fn without_a_coordinator_a_lease_freezes_and_ends() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(0, 2));
    cluster.lock(a, 1, Mode::PR);
    cluster.reply(a);
    cluster.coordinator.away = true;
    cluster.run(Duration::from_millis(1_760));
    cluster.lock(b, 1, Mode::PR);
    assert_eq!(cluster.heard(b), None, "nothing new is granted, though it is owned");
    let status = |cluster: &mut Cluster| {
        let now = cluster.now;
        cluster.node(0).status(now)
    };
    assert!(status(&mut cluster).problems.iter().any(|(code, _)| *code == Code::NotServing));
    // It comes back in time.
    cluster.coordinator.away = false;
    cluster.run(Duration::from_millis(800));
    assert!(matches!(cluster.heard(b), Some(Reply::Granted(_))), "{:#?}", cluster.events);
    assert_eq!(cluster.heard(a), None, "nothing was lost");
    cluster.coordinator.away = true;
    cluster.run(Duration::from_millis(3_000));
    assert!(matches!(cluster.heard(a), Some(Reply::Lost { .. })), "{:#?}", cluster.events);
    assert!(cluster.nodes[0].as_ref().is_some_and(Node::has_ended));
}

/// L9: whatever its programs have granted themselves while the machine was suspended is not believed, whether the lease is over
/// or not; and a run without a lease goes on.
#[test]
fn a_suspended_machine_ends_the_run_of_its_node() {
    let mut cluster = serving(3);
    let a = cluster.session(0, 1);
    cluster.lock(a, 1, Mode::EX);
    assert!(matches!(cluster.reply(a), Reply::Granted(_)));
    let now = cluster.now;
    cluster.node(0).handle_suspended(now, Duration::from_millis(150));
    cluster.settle();
    let Some(Reply::Lost { why }) = cluster.heard(a) else { panic!("not told: {:#?}", cluster.events) };
    assert!(why.text.contains("suspended"), "{}", why.text);
    assert!(cluster.nodes[0].as_ref().is_some_and(Node::has_ended));
    assert!(cluster.events.iter().any(|event| event.contains("suspended for 0.1")), "{:#?}", cluster.events);
    let mut forming = Cluster::new(3);
    let now = forming.now;
    forming.node(0).handle_suspended(now, Duration::from_secs(9));
    assert!(!forming.nodes[0].as_ref().is_some_and(Node::has_ended), "it had no lease");
}

/// A whole cluster that ends without a word begins again by itself, and its tokens go on (R6).
#[test]
fn a_cluster_that_died_as_a_whole_comes_back() {
    let mut cluster = serving(3);
    let a = cluster.session(0, 1);
    cluster.lock(a, 1, Mode::EX);
    let Reply::Granted(first) = cluster.reply(a) else { panic!("not granted") };
    for n in 0..3 {
        cluster.nodes[n] = None;
    }
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.phases(), vec![Phase::Serving; 3], "{:#?}", cluster.events);
    let a = cluster.session(0, 7);
    cluster.lock(a, 1, Mode::EX);
    let Some(Reply::Granted(second)) = cluster.heard(a) else { panic!("not granted: {:#?}", cluster.events) };
    assert!(second.token.fence > first.token.fence);
}

#[test]
fn a_program_that_speaks_another_version_or_nonsense_is_sent_away() {
    let mut cluster = serving(1);
    let now = cluster.now;
    let old = (0, SessionId(1));
    cluster.node(0).handle_session_opened(now, old.1, 1, Who::root());
    cluster.node(0).handle_session_packet(now, old.1, &[1, 0xff, 0x7f, 9, 9, 9]);
    cluster.settle();
    assert!(matches!(cluster.reply(old), Reply::Refused { why, .. } if why.code == Code::SessionVersion));
    let mad = cluster.session(0, 2);
    cluster.lock(mad, 1, Mode::EX);
    cluster.reply(mad);
    cluster.node(0).handle_session_packet(now, mad.1, &[250, 1, 2, 3]);
    cluster.settle();
    assert!(matches!(cluster.reply(mad), Reply::Lost { why } if why.code == Code::SessionMalformed));
    let next = cluster.session(0, 3);
    cluster.lock(next, 1, Mode::EX);
    assert!(matches!(cluster.reply(next), Reply::Granted(_)), "its lock went with it");
}

#[test]
fn a_covered_lock_sends_no_message_between_nodes() {
    // A2, C1.
    let mut cluster = serving(3);
    let a = cluster.session(0, 1);
    let sent = |cluster: &mut Cluster| {
        let count = |node: &Node| node.counters().iter().find(|c| c.name == "messages_sent").unwrap().value;
        cluster.nodes.iter().flatten().map(count).sum::<u64>()
    };
    cluster.lock(a, 0, Mode::EX);
    cluster.say(a, &Request::Unlock { handle: 0, value: None, invalidate: false });
    let before = sent(&mut cluster);
    for handle in 1..1_000 {
        cluster.lock(a, handle, if handle % 2 == 0 { Mode::EX } else { Mode::PR });
        cluster.say(a, &Request::Unlock { handle, value: None, invalidate: false });
    }
    assert_eq!(sent(&mut cluster), before);
    assert_eq!(cluster.replies[&a].len(), 2 * 1_000, "each was granted and released");
}

/// A process that comes and goes without its last word leaves few places behind: every search looks at those too.
#[test]
fn places_that_wait_for_the_end_of_their_process_are_few() {
    let mut cluster = serving(1);
    let attach = |cluster: &mut Cluster, number: u32, pid: u32| {
        let (now, session) = (cluster.now, SessionId(number));
        let node = cluster.node(0);
        node.handle_session_opened(now, session, pid, Who::root());
        let hello = Request::Hello { version: VERSION, label: "program".into() };
        node.handle_session_packet(now, session, &hello.to_bytes());
        node.handle_session_packet(
            now,
            session,
            &Request::Attach { request: 1, space: SpaceId(0) }.to_bytes(),
        );
        cluster.settle();
        let denied = |reply: &Reply| matches!(reply, Reply::Denied { .. });
        let refused = cluster.replies.get(&(0, session)).is_some_and(|replies| replies.iter().any(denied));
        cluster.node(0).handle_session_closed(now, session);
        cluster.settle();
        !refused
    };
    for number in 1..=8 {
        assert!(attach(&mut cluster, number, 7));
    }
    assert!(!attach(&mut cluster, 9, 7), "it has left enough");
    assert!(attach(&mut cluster, 10, 8), "another may");
    cluster.node(0).handle_opener_ended(SessionId(3));
    assert!(attach(&mut cluster, 11, 7));
}

/// What coordinators say goes from one to the other as it is, whatever its length, and is not kept for who is silent.
#[test]
fn calls_of_coordinators_are_carried_while_their_node_is_heard() {
    let mut cluster = Cluster::new(3);
    let call =
        |question, bytes| PeerMessage::Call { question, call: Call::Propose { command: vec![7; bytes] } };
    let answer = PeerMessage::Answer { question: 1, answer: Answer::Unsure };
    let now = cluster.now;
    assert!(!cluster.node(0).carry(now, NodeId(1), &call(1, 5)), "there is no circuit yet");
    cluster.run(Duration::from_secs(1));
    let now = cluster.now;
    assert!(!cluster.node(0).carry(now, NodeId(0), &call(1, 5)), "nobody has a circuit to himself");
    for (from, to, message) in [(0, 1, call(1, 5)), (1, 0, answer.clone()), (2, 0, call(1, 100_000))] {
        assert!(cluster.node(from).carry(now, NodeId(to), &message));
        cluster.settle();
        let carried = cluster.carried.pop();
        assert_eq!(carried, Some((usize::from(to), NodeId(from as u16), message)));
    }
    // A short one does not wait for a long one.
    assert!(cluster.node(0).carry(now, NodeId(1), &call(2, 160 << 10)));
    assert!(cluster.node(0).carry(now, NodeId(1), &answer));
    cluster.settle();
    let order: Vec<_> = cluster.carried.drain(..).map(|(.., message)| message).collect();
    assert_eq!(order, [answer.clone(), call(2, 160 << 10)]);

    cluster.mute = Some(1);
    cluster.run(Duration::from_millis(1_400));
    let now = cluster.now;
    assert!(!cluster.node(0).carry(now, NodeId(1), &call(3, 5)), "it is silent");
    assert!(cluster.node(0).carry(now, NodeId(2), &call(3, 5)));
    cluster.mute = None;
    cluster.run(Duration::from_millis(800));
    let now = cluster.now;
    assert!(cluster.node(0).carry(now, NodeId(1), &call(4, 5)), "it is heard again");
    cluster.settle();
    let order: Vec<_> = cluster.carried.drain(..).map(|(to, _, message)| (to, message)).collect();
    assert_eq!(order, [(2, call(3, 5)), (1, call(4, 5))]);
}

/// E8: each view brings its own range of stamps, so a cluster whose disks have forgotten the clock goes on above it.
#[test]
fn e8_the_coordinator_alone_keeps_the_clock_rising() {
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(2));
    let first = (0..3).map(|n| cluster.stamp(n)).max().unwrap();
    assert_eq!(cluster.raises, 0, "with a view comes enough");
    (0..3).for_each(|n| cluster.nodes[n] = None);
    cluster.ceilings = vec![Stamp(0); 3];
    (0..3).for_each(|n| cluster.start(n));
    cluster.run(Duration::from_secs(20));
    (0..3).for_each(|n| assert!(cluster.stamp(n) > first));
}

/// E8: nodes whose disks know more than the coordinator, because it was founded anew, ask it for more and go on above both.
#[test]
fn e8_members_ask_for_the_room_that_they_need() {
    let mut cluster = Cluster::new(0);
    let high = Stamp(1 << 50);
    cluster.nodes = (0..2).map(|_| None).collect();
    (cluster.boots, cluster.ceilings) = (vec![0; 2], vec![Stamp(0), high]);
    cluster.coordinator.registry = founded(2);
    (0..2).for_each(|n| cluster.start(n));
    cluster.run(Duration::from_secs(3));
    (0..2).for_each(|n| assert!(cluster.stamp(n) > high));
    assert!((1..6).contains(&cluster.raises), "{} times", cluster.raises);
    assert!(cluster.coordinator.registry.watermark() > high);
}

/// I22: a node whose programs have no business in a lockspace, and that lets them in all the same, gets nothing from any master,
/// and is told of. As a master it decides like any other.
#[test]
fn a_node_that_a_lockspace_is_not_for_states_in_vain() {
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(1));
    let given = |nodes| vec![Access { nodes, ..Access::default() }];
    cluster.node(0).give(given(Some(vec![NodeId(0), NodeId(2)])));
    cluster.node(2).give(given(Some(vec![NodeId(0), NodeId(2)])));
    // node-b believes that it may.
    cluster.node(1).give(given(None));
    let (liar, honest) = (cluster.session(1, 1), cluster.session(0, 2));
    let (mut refused, mut own) = (0, 0);
    for handle in 0..30 {
        let name = Name::new(format!("r{handle}").as_bytes()).unwrap();
        let master = cluster.node(0).master_of(SpaceId(0), &name).unwrap();
        let lock = |handle| {
            Request::Lock(LockRequest {
                handle,
                space: SpaceId(0),
                name: name.clone(),
                mode: Mode::EX,
                flags: Flags::empty(),
                timeout_ms: 0,
                owner: OwnerId(0),
                transaction: TransactionId(0),
            })
        };
        cluster.events.clear();
        cluster.say(liar, &lock(handle));
        if master == NodeId(1) {
            // What it decides by itself nobody else can see.
            own += 1;
            assert!(matches!(cluster.reply(liar), Reply::Granted(_)));
            cluster.say(liar, &Request::Unlock { handle, value: None, invalidate: false });
            cluster.reply(liar);
        } else {
            refused += 1;
            assert_eq!(cluster.heard(liar), None, "{name} at {master}");
            let said = format!("{master}: node-b misbehaves: it states locks in lockspace default");
            let said = said.trim_start_matches('n');
            assert!(cluster.events.iter().any(|e| e.starts_with(said)), "{said}: {:?}", cluster.events);
        }
        cluster.events.clear();
        cluster.say(honest, &lock(handle));
        assert!(matches!(cluster.reply(honest), Reply::Granted(_)), "{name} at {master}");
        assert!(!cluster.events.iter().any(|e| e.contains("misbehaves")), "{:?}", cluster.events);
    }
    assert!(refused > 5 && own > 2, "{refused} {own}");
    // An honest node does not even ask.
    cluster.node(1).give(given(Some(vec![NodeId(0), NodeId(2)])));
    cluster.events.clear();
    cluster.lock(liar, 99, Mode::PR);
    assert!(matches!(cluster.reply(liar), Reply::Failed { why, .. } if why.code == Code::SpaceDenied));
    assert_eq!(cluster.events, Vec::<String>::new());
}
