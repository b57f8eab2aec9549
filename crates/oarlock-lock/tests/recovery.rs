//! What crosses a change of views, by the messages of one node. The stories are in `testdata/`, all of them in the explorer.

use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::lock::{Body, Grant, Handover, Head, HeadNotice, Info, Kind, Packet};
use oarlock_layout::mode::Mode::{self, EX, NL};
use oarlock_layout::name::Name;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::value::Value;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Lock, Lockspace, Output, Request, Unlock};

const NOW: Instant = Instant(0);
const LOCK: LockId = LockId::new(SessionId(1), 1);

fn view(epoch: u32, nodes: &[u16]) -> View {
    let member = |n: &u16| Member { node: NodeId(*n), incarnation: Incarnation(1) };
    View { epoch: Epoch(epoch), members: nodes.iter().map(member).collect() }
}

/// A name with these masters in these views.
fn name(wished: &[(&[u16], u16)]) -> Name {
    let master = |name: &Name, nodes: &[u16]| {
        directory::master(SpaceId(0), name.as_bytes(), nodes.iter().map(|n| NodeId(*n)))
    };
    (0u32..)
        .map(|i| Name::new(&i.to_le_bytes()).unwrap())
        .find(|name| wished.iter().all(|(nodes, wish)| master(name, nodes) == Some(NodeId(*wish))))
        .unwrap()
}

/// One node, and what it sends.
struct Node {
    space: Lockspace,
    words: PlainWords,
    name: Name,
}

impl Node {
    fn new(me: u16, name: Name, first: &View) -> Node {
        let config = Config { forget_after: Duration::ZERO, ..Config::native(SpaceId(0), NodeId(me)) };
        let (mut space, mut words) = (Lockspace::new(config), PlainWords::new(4));
        space.found(NOW, &mut words, first);
        Node { space, words, name }
    }

    fn hear(&mut self, from: u16, epoch: u32, body: Body) -> Vec<(u16, Body)> {
        let packet = Packet { space: SpaceId(0), epoch: Epoch(epoch), name: self.name.clone(), body };
        self.space.handle_message(NOW, &mut self.words, NodeId(from), packet).expect("honest");
        self.said()
    }

    fn lock(&mut self, mode: Mode) -> Vec<(u16, Body)> {
        let request = Lock {
            lock: LOCK,
            name: self.name.clone(),
            mode,
            flags: Flags::VALBLK,
            timeout: None,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        };
        self.space.handle_request(NOW, &mut self.words, Request::Lock(request));
        self.said()
    }

    fn restate(&mut self) -> Vec<(u16, Body)> {
        while self.space.restate(NOW, &mut self.words, 1) {}
        self.said()
    }

    fn said(&mut self) -> Vec<(u16, Body)> {
        let sent = |output| match output {
            Output::Send { to, packet } => Some((to.0, packet.body)),
            _ => None,
        };
        std::iter::from_fn(|| self.space.poll_output()).filter_map(sent).collect()
    }
}

fn wants(n: u64, mode: Mode) -> Body {
    let conv = oarlock_layout::message::lock::Conv {
        mode,
        alternate: None,
        kind: oarlock_layout::message::lock::Kind::New,
        from: None,
        attempt: n,
        flags: Flags::empty(),
        demand: false,
    };
    Body::Info(Info { n, conv: Some(conv), ..Info::default() })
}

fn grant(mode: Mode, serial: u64) -> Body {
    Body::Grant(Grant {
        g: 1,
        a: 1,
        mode,
        serial,
        alternate: false,
        queued: false,
        current: true,
        head: None,
        openers: 0,
        value: None,
    })
}

/// X10: the master has granted EX to node 1, which died; under the view without it another one is granted.
#[test]
fn a_grant_to_a_dead_node_is_taken_back_with_its_view() {
    let mut master = Node::new(2, name(&[(&[0, 1, 2], 2), (&[0, 2], 2)]), &view(1, &[0, 1, 2]));
    assert!(matches!(&master.hear(1, 1, wants(1, EX))[..], [(1, Body::Grant(_))]));
    assert!(matches!(&master.hear(0, 1, wants(1, EX))[..], [(1, Body::Head(_))]), "node 1 is asked");
    assert!(master.space.handle_view(&view(2, &[0, 2])));
    assert_eq!(master.restate(), vec![]);
    assert_eq!(master.hear(0, 2, wants(1, EX)), vec![], "not all have restated");
    master.space.handle_open(NOW, &mut master.words, true);
    assert!(matches!(&master.said()[..], [(0, Body::Grant(_))]));
}

/// X11: a grant and a statement of an earlier view are dropped without a word; what is handed over late is handed on.
#[test]
fn what_was_said_under_an_earlier_view_is_not_heard() {
    let masters: [(&[u16], u16); 3] = [(&[0, 1], 1), (&[0, 1, 2], 2), (&[0, 1, 2, 3], 3)];
    let mut shadow = Node::new(0, name(&masters), &view(1, &[0, 1]));
    shadow.lock(EX);
    assert!(!shadow.space.handle_view(&view(2, &[0, 1, 2])));
    assert_eq!(shadow.hear(1, 1, grant(EX, 1)), vec![]);
    let said = shadow.restate();
    assert!(matches!(&said[..], [(2, Body::Info(Info { n: 1, held: None, conv: Some(_), .. }))]), "{said:?}");
    assert_eq!(shadow.space.counters().stale_epoch, 1);

    let mut heir = Node::new(2, name(&masters), &view(1, &[2]));
    heir.space.handle_view(&view(2, &[0, 1, 2]));
    heir.space.handle_view(&view(3, &[0, 1, 2, 3]));
    assert_eq!(heir.hear(0, 2, wants(1, EX)), vec![]);
    let estate = Handover {
        value: Value::NEVER.written([7; 64]),
        writer: Some(NodeId(1)),
        uses_value: true,
        remains: vec![],
    };
    assert_eq!(heir.hear(1, 2, Body::Handover(estate.clone())), vec![]);
    assert_eq!(heir.restate(), vec![(3, Body::Handover(estate))]);
}

/// X9: the answer to a `Forget` does not come, because the view changed. The node owns nothing any more and says nothing; its
/// next lock is the first of a new record.
#[test]
fn a_record_that_was_being_given_up_begins_the_next_view_with_nothing() {
    let mut shadow = Node::new(0, name(&[(&[0, 1], 1)]), &view(1, &[0, 1]));
    shadow.lock(NL);
    shadow.hear(1, 1, grant(NL, 1));
    let unlock = Unlock { lock: LOCK, value: None, invalidate: false };
    shadow.space.handle_request(NOW, &mut shadow.words, Request::Unlock(unlock));
    shadow.space.handle_timeout(NOW, &mut shadow.words);
    assert!(matches!(&shadow.said()[..], [(1, Body::Forget(_))]));
    shadow.space.handle_view(&view(2, &[0, 1]));
    assert_eq!(shadow.restate(), vec![]);
    shadow.space.handle_open(NOW, &mut shadow.words, false);
    let said = shadow.lock(NL);
    assert!(matches!(&said[..], [(1, Body::Info(Info { n: 1, held: None, conv: Some(_), .. }))]), "{said:?}");
}

/// A node that gave its record up with the block that it wrote last, as another view came: nobody may have heard it.
fn gone_with_a_block() -> Node {
    let mut shadow = Node::new(0, name(&[(&[0, 1], 1)]), &view(1, &[0, 1]));
    shadow.lock(EX);
    shadow.hear(1, 1, grant(EX, 1));
    let unlock = Unlock { lock: LOCK, value: Some([7; 64]), invalidate: false };
    shadow.space.handle_request(NOW, &mut shadow.words, Request::Unlock(unlock));
    let head = Head { number: 1, mode: EX, kind: Kind::New, attempt: 0, notify: true, demand: false };
    let gives_way = shadow.hear(1, 1, Body::Head(HeadNotice { g: 1, a: 1, head: Some(head), openers: 1 }));
    assert!(matches!(&gives_way[..], [(1, Body::Info(Info { value: Some(_), .. }))]), "{gives_way:?}");
    shadow.space.handle_timeout(NOW, &mut shadow.words);
    assert!(matches!(&shadow.said()[..], [(1, Body::Forget(_))]));
    shadow
}

/// A program that maps the segment can spoil the number of a block. Then there is nothing to say, and the place is free again.
#[test]
fn a_block_whose_number_was_spoilt_is_not_kept_for_ever() {
    for number in [0, 1 << 40] {
        let mut shadow = gone_with_a_block();
        shadow.space.handle_view(&view(2, &[0, 1]));
        shadow.lock(EX);
        shadow.space.handle_request(NOW, &mut shadow.words, Request::Cancel(LOCK));
        let slot = shadow.words.find(&shadow.name).unwrap();
        let value = shadow.words.value(slot);
        shadow.words.set_value(slot, Value { sequence: number, ..value });
        let said = shadow.restate();
        assert!(
            said.iter().all(|(_, body)| !matches!(body, Body::Info(Info { value: Some(_), .. }))),
            "{said:?}"
        );
        shadow.space.handle_timeout(NOW, &mut shadow.words);
        shadow.said();
        assert_eq!(shadow.words.find(&shadow.name), None, "{number}: its place is kept");
    }
}

/// R5, X9: what was written last is on its way to a master that has entered the next view and does not hear it. Until the node may say it
/// anew, it does not forget it, whoever comes and goes meanwhile.
#[test]
fn a_block_that_nobody_may_have_heard_is_not_forgotten_before_it_can_be_said() {
    let mut shadow = gone_with_a_block();
    for epoch in [2, 3] {
        shadow.space.handle_view(&view(epoch, &[0, 1]));
        assert_eq!(shadow.lock(EX), vec![]);
        shadow.space.handle_request(NOW, &mut shadow.words, Request::Cancel(LOCK));
        shadow.space.handle_timeout(NOW, &mut shadow.words);
        assert_eq!(shadow.said(), vec![]);
    }
    let said = shadow.restate();
    let block = |value: &Option<Value>| value.is_some_and(|it| it.bytes == [7; 64] && it.valid);
    assert!(
        matches!(&said[..], [(1, Body::Info(Info { n: 1, held: None, conv: None, value, .. }))] if block(value)),
        "{said:?}"
    );
}
