//! Locks that outlive their programs, and branches of a lockspace: in whole nodes, over a restart of an engine too.

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, SessionId, SharedHandle, SpaceId, TransactionId};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::look::{At, What};
use oarlock_layout::message::session::{ConvertRequest, LockRequest, Reply, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::time::Duration;
use oarlock_node::branch::Step;

use stage::*;

mod stage;

const SPACE: SpaceId = SpaceId(0);

fn lock(name: &str, handle: u32, mode: Mode, flags: Flags) -> Request {
    Request::Lock(LockRequest {
        handle,
        space: SPACE,
        name: Name::new(name.as_bytes()).unwrap(),
        mode,
        flags,
        timeout_ms: 0,
        owner: OwnerId(0),
        transaction: TransactionId(0),
    })
}

fn convert(handle: u32, mode: Mode, flags: Flags, value: Option<[u8; VALUE_BYTES]>) -> Request {
    Request::Convert(ConvertRequest { handle, mode, flags, timeout_ms: 0, value })
}

type Program = (usize, SessionId);

/// What it hears next of its own requests.
#[track_caller]
fn answer(cluster: &mut Cluster, at: Program) -> Reply {
    loop {
        match cluster.reply(at) {
            Reply::Blocking { .. } => {}
            other => return other,
        }
    }
}

#[track_caller]
fn granted(
    cluster: &mut Cluster,
    at: Program,
    request: &Request,
) -> oarlock_layout::message::session::Granted {
    cluster.say(at, request);
    match answer(cluster, at) {
        Reply::Granted(granted) => granted,
        other => panic!("{request:?}: {other:?}"),
    }
}

#[track_caller]
fn failed(cluster: &mut Cluster, at: Program, request: &Request) -> Code {
    cluster.say(at, request);
    match answer(cluster, at) {
        Reply::Failed { why, .. } => why.code,
        other => panic!("{request:?}: {other:?}"),
    }
}

fn hang_up(cluster: &mut Cluster, at: Program) {
    let now = cluster.now;
    cluster.node(at.0).handle_session_closed(now, at.1);
    cluster.settle();
}

/// Is it granted now? Whoever asks gives it back.
fn free(cluster: &mut Cluster, at: Program, name: &str, mode: Mode) -> bool {
    cluster.say(at, &lock(name, 900, mode, Flags::NOQUEUE));
    match answer(cluster, at) {
        Reply::Granted(_) => {
            cluster.say(at, &Request::Unlock { handle: 900, value: None, invalidate: false });
            assert!(matches!(answer(cluster, at), Reply::Released { .. }));
            true
        }
        Reply::Failed { why, .. } if why.code == Code::Busy => false,
        other => panic!("{other:?}"),
    }
}

/// Scenario 37: the granted lock stays and blocks, whatever its session waited for is withdrawn, and what was not to outlive it goes.
#[test]
fn a_persistent_lock_outlives_its_session_in_the_mode_that_it_had() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    granted(&mut cluster, a, &lock("stays", 1, Mode::PR, Flags::PERSISTENT));
    granted(&mut cluster, a, &lock("goes", 2, Mode::EX, Flags::empty()));
    granted(&mut cluster, b, &lock("stays", 1, Mode::PR, Flags::empty()));
    granted(&mut cluster, b, &lock("other", 2, Mode::EX, Flags::empty()));
    // It waits to convert one that stays, and for a new one that would stay.
    cluster.say(a, &convert(1, Mode::EX, Flags::PERSISTENT, None));
    cluster.say(a, &lock("other", 3, Mode::EX, Flags::PERSISTENT));
    assert_eq!(cluster.heard(a), None);
    hang_up(&mut cluster, a);
    cluster.say(b, &Request::Unlock { handle: 1, value: None, invalidate: false });
    cluster.say(b, &Request::Unlock { handle: 2, value: None, invalidate: false });
    while let Some(reply) = cluster.heard(b) {
        assert!(matches!(reply, Reply::Released { .. } | Reply::Blocking { .. }), "{reply:?}");
    }
    assert!(free(&mut cluster, b, "goes", Mode::EX));
    assert!(free(&mut cluster, b, "other", Mode::EX), "a request that was not granted outlives nothing");
    assert!(!free(&mut cluster, b, "stays", Mode::EX), "an orphan blocks");
    assert!(free(&mut cluster, b, "stays", Mode::PR), "in the mode that was granted");
    cluster.run(Duration::from_secs(30));
    assert!(!free(&mut cluster, b, "stays", Mode::EX), "for as long as it takes");
    // Whoever asks sees whose it was.
    let now = cluster.now;
    cluster.node(1).look(now, 6, SPACE, At::Resource(Name::new(b"stays").unwrap()));
    cluster.settle();
    let seen = cluster.looked.pop().unwrap();
    let rows = seen.iter().flat_map(|(_, seen)| &seen.as_ref().unwrap().rows);
    let labels: Vec<_> = rows
        .filter_map(|row| match &row.what {
            What::Holder(holder) => Some(holder.party.label.as_str()),
            _ => None,
        })
        .collect();
    assert!(matches!(labels[..], [label] if label.starts_with("orphan of ")), "{labels:?}");
}

/// Scenario 38: adopted by name and mode, whole: converted, told of others, given back by its new number, and not to be adopted twice.
#[test]
fn an_orphan_is_adopted_in_its_mode_and_by_one() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    let held = granted(&mut cluster, a, &lock("x", 5, Mode::PW, Flags::PERSISTENT | Flags::VALBLK));
    let c = cluster.session(0, 3);
    let adopts = |mode| lock("x", 77, mode, Flags::ORPHAN | Flags::PERSISTENT);
    assert_eq!(failed(&mut cluster, c, &adopts(Mode::PW)), Code::NoOrphan, "its program lives");
    hang_up(&mut cluster, a);
    cluster.say(b, &lock("x", 1, Mode::PR, Flags::empty()));
    assert_eq!(failed(&mut cluster, c, &adopts(Mode::EX)), Code::OrphanMode);
    assert_eq!(failed(&mut cluster, c, &lock("y", 77, Mode::EX, Flags::ORPHAN)), Code::NoOrphan);
    let elsewhere = cluster.session(1, 4);
    assert_eq!(failed(&mut cluster, elsewhere, &adopts(Mode::PW)), Code::NoOrphan, "it is another node's");

    let adopted = granted(&mut cluster, c, &adopts(Mode::PW));
    assert_eq!((adopted.handle, adopted.token, adopted.value), (77, held.token, None));
    assert_eq!(cluster.reply(c), Reply::Blocking { handle: 77, wanted: Mode::PR }, "somebody waits already");
    let d = cluster.session(0, 5);
    assert_eq!(failed(&mut cluster, d, &adopts(Mode::PW)), Code::NoOrphan, "it has a program again");
    // A number that is in use is in use for this too.
    assert_eq!(failed(&mut cluster, c, &adopts(Mode::PW)), Code::InFlight);
    let written = Some([7; VALUE_BYTES]);
    granted(&mut cluster, c, &convert(77, Mode::PR, Flags::VALBLK, written));
    assert!(matches!(cluster.reply(b), Reply::Granted(granted) if granted.mode == Mode::PR));
    cluster.say(c, &Request::Unlock { handle: 77, value: None, invalidate: false });
    assert_eq!(cluster.reply(c), Reply::Released { handle: 77 });
    assert_eq!(failed(&mut cluster, c, &convert(77, Mode::NL, Flags::empty(), None)), Code::NoSuchLock);
    // The number is free again, and means a lock of its own.
    granted(&mut cluster, c, &lock("z", 77, Mode::EX, Flags::empty()));
    assert!(!free(&mut cluster, b, "z", Mode::PR));
    granted(&mut cluster, c, &convert(77, Mode::PR, Flags::empty(), None));
    assert!(free(&mut cluster, b, "z", Mode::PR));
    let read = granted(&mut cluster, b, &lock("x", 9, Mode::CR, Flags::VALBLK));
    assert!(read.value.is_some_and(|value| value.valid && value.bytes == [7; VALUE_BYTES]));
}

/// Scenario 37 again, by an heir: what was adopted to outlive its program does, with what it waited for withdrawn; and what was not goes.
#[test]
fn an_adopted_lock_is_left_behind_again_or_goes_as_its_last_request_says() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    granted(&mut cluster, a, &lock("again", 1, Mode::PR, Flags::PERSISTENT));
    granted(&mut cluster, a, &lock("once", 2, Mode::PR, Flags::PERSISTENT));
    hang_up(&mut cluster, a);
    granted(&mut cluster, b, &lock("again", 1, Mode::PR, Flags::empty()));
    let heir = cluster.session(0, 3);
    granted(&mut cluster, heir, &lock("again", 1, Mode::PR, Flags::ORPHAN | Flags::PERSISTENT));
    granted(&mut cluster, heir, &lock("once", 2, Mode::PR, Flags::ORPHAN));
    cluster.say(heir, &convert(1, Mode::EX, Flags::empty(), None));
    assert_eq!(cluster.heard(heir), None, "b is in the way");
    hang_up(&mut cluster, heir);
    assert!(free(&mut cluster, b, "once", Mode::EX), "it was adopted without a word that it is to stay");
    cluster.say(b, &Request::Unlock { handle: 1, value: None, invalidate: false });
    while cluster.heard(b).is_some() {}
    assert!(!free(&mut cluster, b, "again", Mode::EX));
    let next = cluster.session(0, 4);
    granted(&mut cluster, next, &lock("again", 1, Mode::PR, Flags::ORPHAN));
}

/// Scenario 39: the last request that was granted counts, on the way up and down; a refused one does not.
#[test]
fn persistence_is_a_matter_of_each_request() {
    let mut cluster = serving(2);
    let b = cluster.session(1, 1);
    let stays = |cluster: &mut Cluster, id: u32, steps: &[Request]| {
        let a = cluster.session(0, id);
        for step in steps {
            cluster.say(a, step);
            while cluster.heard(a).is_some() {}
        }
        hang_up(cluster, a);
        let stays = !free(cluster, b, "r", Mode::EX);
        let now = cluster.now;
        assert_eq!(cluster.node(0).purge(now, SPACE, b"", None), usize::from(stays));
        cluster.settle();
        assert!(free(cluster, b, "r", Mode::EX));
        stays
    };
    let (p, none) = (Flags::PERSISTENT, Flags::empty());
    let new = |flags| lock("r", 1, Mode::PR, flags);
    assert!(stays(&mut cluster, 10, &[new(p)]));
    assert!(!stays(&mut cluster, 11, &[new(none)]));
    assert!(!stays(&mut cluster, 12, &[new(p), convert(1, Mode::EX, none, None)]));
    assert!(!stays(&mut cluster, 13, &[new(p), convert(1, Mode::CR, none, None)]));
    assert!(!stays(&mut cluster, 14, &[new(p), convert(1, Mode::PR, none, None)]), "the same mode too");
    assert!(stays(&mut cluster, 15, &[new(none), convert(1, Mode::EX, p, None)]));
    assert!(stays(&mut cluster, 16, &[new(none), convert(1, Mode::CR, p, None)]));
    // Refused: it stands as before, in this too.
    granted(&mut cluster, b, &lock("r", 1, Mode::PR, Flags::empty()));
    let refused = convert(1, Mode::EX, Flags::NOQUEUE, None);
    let a = cluster.session(0, 17);
    granted(&mut cluster, a, &new(p));
    assert_eq!(failed(&mut cluster, a, &refused), Code::Busy);
    hang_up(&mut cluster, a);
    cluster.say(b, &Request::Unlock { handle: 1, value: None, invalidate: false });
    while cluster.heard(b).is_some() {}
    assert!(!free(&mut cluster, b, "r", Mode::EX));
}

/// Scenario 40: purged by node, by name and by process; whoever waits comes next, and what a writer left is not to be believed.
#[test]
fn orphans_are_purged_by_name_and_process_and_writers_spoil_their_block() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    let writes = Flags::PERSISTENT | Flags::VALBLK;
    granted(&mut cluster, a, &lock("v/x", 1, Mode::EX, writes));
    granted(&mut cluster, a, &convert(1, Mode::NL, writes, Some([3; VALUE_BYTES])));
    granted(&mut cluster, a, &convert(1, Mode::EX, writes, None));
    granted(&mut cluster, a, &lock("w/x", 2, Mode::PR, writes));
    granted(&mut cluster, a, &lock("v/mine", 3, Mode::EX, Flags::empty()));
    hang_up(&mut cluster, a);
    let living = cluster.session(0, 3);
    granted(&mut cluster, living, &lock("v/held", 1, Mode::EX, Flags::PERSISTENT));
    cluster.say(b, &lock("v/x", 1, Mode::PR, Flags::VALBLK));
    assert_eq!(cluster.heard(b), None);
    let now = cluster.now;
    assert_eq!(cluster.node(0).purge(now, SPACE, b"", Some(7)), 0, "of another process");
    assert_eq!(cluster.node(1).purge(now, SPACE, b"", None), 0, "of another node");
    assert_eq!(cluster.node(0).purge(now, SPACE, b"v/", None), 1, "and what is held is no orphan");
    cluster.settle();
    let Reply::Granted(read) = cluster.reply(b) else { panic!("it waited for the orphan") };
    assert!(read.value.is_some_and(|value| !value.valid && value.bytes == [3; VALUE_BYTES]), "{read:?}");
    assert!(!free(&mut cluster, b, "v/held", Mode::PR));
    assert!(!free(&mut cluster, b, "w/x", Mode::EX));
    let now = cluster.now;
    assert_eq!(cluster.node(0).purge(now, SPACE, b"", Some(101)), 1, "session 1 is of process 101");
    cluster.settle();
    assert!(free(&mut cluster, b, "w/x", Mode::EX));
    assert_eq!(failed(&mut cluster, living, &lock("w/x", 5, Mode::PR, Flags::ORPHAN)), Code::NoOrphan);
}

/// An engine that is replaced keeps orphans, who has adopted what, and branches.
#[test]
fn orphans_and_branches_outlive_the_engine() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    for (handle, name) in [(1, "left"), (2, "adopted")] {
        granted(&mut cluster, a, &lock(name, handle, Mode::EX, Flags::PERSISTENT));
    }
    hang_up(&mut cluster, a);
    let heir = cluster.session(0, 3);
    granted(&mut cluster, heir, &lock("adopted", 8, Mode::EX, Flags::ORPHAN));
    let now = cluster.now;
    let open = |exclusive| Step::Open { branch: "vg0".into(), exclusive };
    cluster.node(0).branch(now, SPACE, &open(false)).unwrap();
    cluster.rewrite(0);
    let now = cluster.now;
    assert_eq!(cluster.node(0).branch(now, SPACE, &Step::List), Ok(vec![("vg0".into(), 1)]));
    granted(&mut cluster, heir, &lock("left", 9, Mode::EX, Flags::ORPHAN));
    granted(&mut cluster, heir, &convert(8, Mode::PR, Flags::empty(), None));
    assert!(free(&mut cluster, b, "adopted", Mode::PR));
    hang_up(&mut cluster, heir);
    assert!(free(&mut cluster, b, "adopted", Mode::EX) && free(&mut cluster, b, "left", Mode::EX));
}

/// A member that leaves the view takes its orphans along, as all it holds: nobody could adopt them.
#[test]
fn orphans_go_with_their_node() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    granted(&mut cluster, a, &lock("x", 1, Mode::EX, Flags::PERSISTENT));
    hang_up(&mut cluster, a);
    cluster.nodes[0] = None;
    cluster.run(Duration::from_secs(10));
    assert!(free(&mut cluster, b, "x", Mode::EX));
}

/// What must not be: to outlive a place in a segment, and to convert into an orphan.
#[test]
fn flags_that_make_no_sense_are_refused() {
    let mut cluster = serving(1);
    let a = cluster.session(0, 1);
    granted(&mut cluster, a, &lock("x", 1, Mode::PR, Flags::empty()));
    assert_eq!(failed(&mut cluster, a, &convert(1, Mode::EX, Flags::ORPHAN, None)), Code::BadFlags);
    cluster.say(a, &Request::Attach { request: 1, space: SPACE });
    let entry = SharedHandle { segment: 0, entry: 0 }.number();
    for flags in [Flags::PERSISTENT, Flags::ORPHAN] {
        assert_eq!(failed(&mut cluster, a, &lock("y", entry, Mode::EX, flags)), Code::BadFlags, "{flags:?}");
    }
}

/// Scenarios 65, 66: counted, one only if it is to be the first, not closed for the last time while locks are in it.
#[test]
fn branches_are_counted_and_not_closed_under_those_who_use_them() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    let branch = || "vg0".to_owned();
    let open = |exclusive| Step::Open { branch: branch(), exclusive };
    let close = |force| Step::Close { branch: branch(), force };
    let step = |cluster: &mut Cluster, step: Step| {
        let now = cluster.now;
        let result = cluster.node(0).branch(now, SPACE, &step);
        cluster.settle();
        result.map(|all| all.first().map_or(0, |(_, count)| *count)).map_err(|(code, _)| code)
    };
    assert_eq!(step(&mut cluster, Step::Find { branch: branch() }), Err(Code::UnknownBranch));
    assert_eq!(step(&mut cluster, close(true)), Err(Code::UnknownBranch));
    assert_eq!(step(&mut cluster, open(true)), Ok(1));
    assert_eq!(step(&mut cluster, open(true)), Err(Code::BranchExists));
    assert_eq!(step(&mut cluster, open(false)), Ok(2));
    assert_eq!(step(&mut cluster, Step::Find { branch: branch() }), Ok(2));
    for bad in ["", "a/b", "..", "a\0b", "a\nb", &"n".repeat(65)] {
        assert_eq!(
            step(&mut cluster, Step::Open { branch: bad.into(), exclusive: false }),
            Err(Code::BadName)
        );
    }
    // A lock of another branch whose name begins alike, one of another node, one that is waited for here, one that was left behind.
    granted(&mut cluster, a, &lock("vg01/x", 1, Mode::EX, Flags::empty()));
    granted(&mut cluster, b, &lock("vg0/x", 1, Mode::EX, Flags::empty()));
    assert_eq!(step(&mut cluster, close(false)), Ok(1));
    cluster.say(a, &lock("vg0/x", 2, Mode::EX, Flags::empty()));
    assert_eq!(step(&mut cluster, close(false)), Err(Code::BranchInUse), "it waits here");
    cluster.say(a, &Request::Cancel { handle: 2 });
    while cluster.heard(a).is_some() {}
    assert_eq!(step(&mut cluster, close(false)), Ok(0));
    assert_eq!(step(&mut cluster, Step::List), Ok(0));
    step(&mut cluster, open(true)).unwrap();
    granted(&mut cluster, a, &lock("vg0/left", 3, Mode::EX, Flags::PERSISTENT));
    hang_up(&mut cluster, a);
    let c = cluster.session(0, 3);
    granted(&mut cluster, c, &lock("vg0/held", 1, Mode::EX, Flags::empty()));
    assert_eq!(step(&mut cluster, close(false)), Err(Code::BranchInUse));
    assert_eq!(step(&mut cluster, close(true)), Ok(0));
    assert!(free(&mut cluster, b, "vg0/left", Mode::EX), "nobody has it");
    assert!(!free(&mut cluster, b, "vg0/held", Mode::EX), "its program has");
}

/// Scenario 36 with 37: of what a session waits for nothing is granted while it goes, or it would stay for ever, granted to nobody.
#[test]
fn nothing_is_granted_to_a_session_that_goes() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(0, 2));
    granted(&mut cluster, b, &lock("x", 1, Mode::CR, Flags::VALBLK));
    // The first waits for b, the second only for the place of the first.
    cluster.say(a, &lock("x", 1, Mode::EX, Flags::empty()));
    cluster.say(a, &lock("x", 2, Mode::PW, Flags::PERSISTENT));
    // The same with a lock of its own in the way, which goes as well.
    granted(&mut cluster, a, &lock("y", 3, Mode::PR, Flags::empty()));
    cluster.say(a, &lock("y", 4, Mode::EX, Flags::PERSISTENT | Flags::VALBLK));
    while cluster.heard(a).is_some() {}
    hang_up(&mut cluster, a);
    assert!(free(&mut cluster, b, "x", Mode::PW) && free(&mut cluster, b, "y", Mode::EX));
    let now = cluster.now;
    assert_eq!(cluster.node(0).purge(now, SPACE, b"", None), 0);
    let read = granted(&mut cluster, b, &lock("y", 9, Mode::CR, Flags::VALBLK));
    assert!(read.value.is_some_and(|value| value.valid), "nobody has spoilt it: {read:?}");
}

/// What the node has to say to a program that is gone is not said to whoever has its lock by then, though all of it came at once.
#[test]
fn an_heir_hears_nothing_that_was_meant_for_the_dead() {
    let mut cluster = serving(2);
    let (a, c) = (cluster.session(0, 1), cluster.session(0, 2));
    granted(&mut cluster, a, &lock("x", 1, Mode::PW, Flags::PERSISTENT));
    let now = cluster.now;
    let node = cluster.node(0);
    node.handle_session_packet(now, a.1, &convert(1, Mode::PR, Flags::PERSISTENT, None).to_bytes());
    node.handle_session_closed(now, a.1);
    node.handle_session_packet(now, c.1, &lock("x", 1, Mode::PR, Flags::ORPHAN).to_bytes());
    cluster.settle();
    assert!(matches!(cluster.reply(c), Reply::Granted(granted) if granted.mode == Mode::PR));
    assert_eq!(cluster.heard(c), None);
    granted(&mut cluster, c, &convert(1, Mode::EX, Flags::empty(), None));
}

/// An heir that wants to hear who waits hears of those who came before it, though the dead did not want to.
#[test]
fn an_heir_hears_of_those_who_wait_already() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    granted(&mut cluster, a, &lock("x", 1, Mode::PR, Flags::PERSISTENT | Flags::NOBAST));
    cluster.say(b, &lock("x", 1, Mode::EX, Flags::empty()));
    hang_up(&mut cluster, a);
    let c = cluster.session(0, 3);
    cluster.say(c, &lock("x", 7, Mode::PR, Flags::ORPHAN));
    assert!(matches!(cluster.reply(c), Reply::Granted(granted) if granted.handle == 7));
    assert_eq!(cluster.reply(c), Reply::Blocking { handle: 7, wanted: Mode::EX });
    // It is its own in lists and searches too: with its number, owner and transaction.
    let now = cluster.now;
    cluster.node(1).look(now, 6, SPACE, At::Resource(Name::new(b"x").unwrap()));
    cluster.settle();
    let seen = cluster.looked.pop().unwrap();
    let rows = seen.iter().flat_map(|(_, seen)| &seen.as_ref().unwrap().rows);
    let holders: Vec<_> = rows
        .filter_map(|row| match &row.what {
            What::Holder(holder) => Some((holder.party.lock, holder.party.label.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(holders, [(LockId::new(c.1, 7), "program 3".to_owned())]);
}
