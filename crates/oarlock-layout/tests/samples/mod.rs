//! One real message of every kind, with a name: golden bytes, fuzz seeds and `docs/layout.md` are made of them.
//!
//! Numbers differ from field to field, so that two fields written in the wrong order show.

// Each test program that includes this file uses a part of it.
#![allow(dead_code)]

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::departed::Lost;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::barrier::{Barrier, Report, Step};
use oarlock_layout::message::lock::*;
use oarlock_layout::message::look::*;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::raft::{
    Answer, Ballot, Call, Leadership, LogEntry, LogId, Payload, Voters, VotersAt,
};
use oarlock_layout::message::session::*;
use oarlock_layout::message::trace::{
    Broken, Hold, Link, Sight, Since, Trace, Traced, Verdict, Wait, WaitId,
};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::Place;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;
use oarlock_layout::view::Member;

/// Messages of one conversation: name, bytes, and whether the bytes decode to the message they came from.
pub(crate) struct Conversation {
    /// Name of the golden file and of the fuzz target.
    pub(crate) name: &'static str,
    /// Name of the message, its bytes.
    pub(crate) messages: Vec<(&'static str, Vec<u8>)>,
    /// Decodes bytes and encodes what came out; the error as text.
    pub(crate) again: fn(&[u8]) -> Result<Vec<u8>, String>,
}

/// All conversations.
pub(crate) fn conversations() -> Vec<Conversation> {
    vec![
        Conversation { name: "peer", messages: bytes(peer()), again: again::<PeerMessage> },
        Conversation { name: "request", messages: bytes(requests()), again: again::<Request> },
        Conversation { name: "reply", messages: bytes(replies()), again: again::<Reply> },
        Conversation { name: "call", messages: bytes(calls()), again: again::<Call> },
        Conversation { name: "answer", messages: bytes(answers()), again: again::<Answer> },
    ]
}

fn bytes<T: Wire>(messages: Vec<(&'static str, T)>) -> Vec<(&'static str, Vec<u8>)> {
    messages.into_iter().map(|(name, message)| (name, message.to_bytes())).collect()
}

fn again<T: Wire>(bytes: &[u8]) -> Result<Vec<u8>, String> {
    T::from_bytes(bytes).map(|m| m.to_bytes()).map_err(|e| e.to_string())
}

fn run() -> Member {
    Member { node: NodeId(3), incarnation: Incarnation(0x0a0b) }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a short name")
}

fn value() -> Value {
    let mut bytes = [0; 64];
    bytes.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
    Value { sequence: 0x0102, valid: true, bytes }
}

fn token() -> Token {
    Token { fence: Fence::new(Epoch(3), 0x0405), local: 0x0607 }
}

fn head() -> Head {
    Head { number: 0x11, mode: Mode::EX, kind: Kind::Convert, attempt: 0x12, notify: true, demand: false }
}

fn packet(body: Body) -> PeerMessage {
    PeerMessage::Lock(Packet { space: SpaceId(2), epoch: Epoch(3), name: name("accounts/7"), body })
}

/// What nodes say to each other.
pub(crate) fn peer() -> Vec<(&'static str, PeerMessage)> {
    let barrier = |step| PeerMessage::Barrier(Barrier { epoch: Epoch(4), step });
    let seen = |what| {
        let rows = vec![Row { name: name("accounts/7"), what }];
        PeerMessage::Seen(Seen { question: 0x31, cut: false, rows })
    };
    vec![
        ("info, everything said", packet(Body::Info(full_info()))),
        ("info, nothing owned", packet(Body::Info(Info { n: 1, ..Info::default() }))),
        ("grant with head and value", packet(Body::Grant(full_grant()))),
        ("deny, busy", packet(Body::Deny(Deny { g: 0x21, a: 0x22, attempt: 0x23, reason: Reason::Busy }))),
        (
            "deny, deadlock",
            packet(Body::Deny(Deny { g: 0x21, a: 0x22, attempt: 0x23, reason: Reason::Deadlock })),
        ),
        (
            "deny, exhausted",
            packet(Body::Deny(Deny { g: 0x21, a: 0x22, attempt: 0x23, reason: Reason::Exhausted })),
        ),
        ("head", packet(Body::Head(HeadNotice { g: 0x21, a: 0x22, head: Some(head()), openers: 5 }))),
        ("head gone", packet(Body::Head(HeadNotice { g: 0x21, a: 0x22, head: None, openers: 5 }))),
        ("forget", packet(Body::Forget(Forget { g: 0x21, n: 0x22, value: Some(value()) }))),
        ("forget acknowledged", packet(Body::ForgetAck(ForgetAck { g: 0x21, n: 0x22 }))),
        (
            "handover",
            packet(Body::Handover(Handover {
                value: value(),
                writer: Some(NodeId(6)),
                uses_value: true,
                remains: vec![Remains { run: run(), mode: Mode::PW }],
            })),
        ),
        ("arrived", barrier(Step::Arrived)),
        ("restated", barrier(Step::Restated { departed: true, unsettled: false })),
        ("lost", barrier(Step::Lost(Lost { members: 0x0f, masters: 0x0a, run: run() }))),
        ("unknown", barrier(Step::Unknown(run()))),
        ("report", PeerMessage::Report(Report { silent: 0x0a0b_0c0d })),
        ("pledge", PeerMessage::Pledge(core::array::from_fn(|i| i as u8))),
        ("look at one", look(At::Resource(name("accounts/7")))),
        ("look at all", look(At::All)),
        ("look at waiting", look(At::Waiting)),
        ("look at a branch", look(At::Branches(Some(name("vg0"))))),
        ("look at branches", look(At::Branches(None))),
        (
            "seen: holder",
            seen(What::Holder(Holder {
                party: party(),
                mode: Mode::PR,
                age_us: 0x0a0b,
                token: token(),
                told: Some(Mode::EX),
                fast: true,
            })),
        ),
        (
            "seen: waiter",
            seen(What::Waiter(Waiter {
                party: party(),
                wanted: Mode::PW,
                held: Some(Mode::CR),
                kind: Kind::New,
                age_us: 0x0a0b,
            })),
        ),
        (
            "seen: shadow",
            seen(What::Shadow(ShadowRow {
                owned: Some(Mode::EX),
                need: Some(Mode::CR),
                told_held: Some(Mode::PW),
                told_conv: None,
                head: Some(head()),
                n: 1,
                g: 2,
                a: 3,
                value: 4,
                fence: Fence::new(Epoch(5), 6),
            })),
        ),
        (
            "seen: master",
            seen(What::Master(MasterRow {
                head: None,
                converting: vec![NodeId(1)],
                waiting: vec![NodeId(2), NodeId(0)],
                value: 4,
                value_valid: false,
                openers: 6,
                departed: vec![NodeId(4)],
            })),
        ),
        (
            "seen: record",
            seen(What::Record(RecordRow {
                node: NodeId(2),
                held: Some(Mode::CW),
                conv: Some(Mode::PW),
                g: 1,
                a: 2,
                busy: 3,
            })),
        ),
        ("seen: branch", seen(What::Branch(2))),
        (
            "trace",
            PeerMessage::Trace(Trace {
                epoch: Epoch(9),
                question: 0x31,
                stamp: Stamp(0x29),
                resources: vec![(SpaceId(2), name("accounts/7"))],
                transactions: vec![TransactionId(0x0a0b)],
            }),
        ),
        (
            "traced",
            PeerMessage::Traced(Traced {
                epoch: Epoch(9),
                question: 0x31,
                cut: false,
                left: vec![TransactionId(0x0b0a)],
                sights: vec![Sight {
                    space: SpaceId(2),
                    name: name("accounts/7"),
                    holds: vec![Hold {
                        lock: LockId(0x21),
                        owner: OwnerId(0x22),
                        transaction: TransactionId(0x23),
                        mode: Mode::PR,
                    }],
                    waits: vec![Wait {
                        party: party(),
                        wanted: Mode::EX,
                        alternate: Some(Mode::PR),
                        held: Some(Mode::CR),
                        kind: Kind::Convert,
                        number: 0x24,
                        since: since(),
                        passes: true,
                        excused: false,
                        held_back: true,
                        ahead: false,
                        of: 0x2a,
                    }],
                    alone: true,
                    more: false,
                    asks: false,
                    order: vec![NodeId(2), NodeId(0)],
                    records: vec![NodeId(0), NodeId(1), NodeId(2)],
                    passover: false,
                }],
            }),
        ),
        (
            "verdict",
            PeerMessage::Verdict(Verdict { epoch: Epoch(9), victim: wait_id(), cycle: vec![link()] }),
        ),
        ("broken", PeerMessage::Broken(Broken { victim: wait_id(), waited_us: 0x0a0b, cycle: vec![link()] })),
        ("call: confirm", PeerMessage::Call { question: 0x0a0b_0c0d, call: Call::Confirm }),
        (
            "call: vote",
            PeerMessage::Call {
                question: 0x32,
                call: Call::Vote { ballot: ballot(), last: Some(log_id(0x33)), transfer: true, pre: false },
            },
        ),
        ("answer: at", PeerMessage::Answer { question: 0x0a0b_0c0d, answer: Answer::At(log_id(0x34)) }),
    ]
}

fn party() -> Party {
    Party {
        lock: LockId::new(SessionId(5), 6),
        pid: 4321,
        label: "backup".into(),
        owner: OwnerId(7),
        transaction: TransactionId(8),
    }
}

fn since() -> Since {
    Since { stamp: Stamp(0x25), youth: 0x26 }
}

fn wait_id() -> WaitId {
    WaitId { since: since(), node: NodeId(3), space: SpaceId(2), lock: LockId(0x27), number: 0x28 }
}

fn link() -> Link {
    Link {
        node: NodeId(3),
        space: SpaceId(2),
        name: name("accounts/7"),
        party: party(),
        wanted: Mode::EX,
        held: Some(Mode::CR),
        behind: Some(Mode::PR),
    }
}

fn look(at: At) -> PeerMessage {
    PeerMessage::Look(Look { question: 0x31, space: SpaceId(2), at })
}

fn full_info() -> Info {
    Info {
        n: 0x41,
        g: 0x42,
        held: Some(Mode::CR),
        conv: Some(Conv {
            mode: Mode::PW,
            alternate: Some(Mode::CW),
            kind: Kind::Convert,
            from: Some(Mode::NL),
            attempt: 0x43,
            flags: Flags::NOQUEUE | Flags::QUECVT,
            demand: false,
        }),
        busy: 0x44,
        openers: 0x45,
        uses_value: true,
        want: Want { value: true, serial: false },
        value: Some(value()),
    }
}

fn full_grant() -> Grant {
    Grant {
        g: 0x51,
        a: 0x52,
        mode: Mode::PW,
        serial: 0x53,
        alternate: false,
        queued: true,
        current: true,
        head: Some(head()),
        openers: 0x54,
        value: Some(value()),
    }
}

/// What a program says to its node.
pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    vec![
        ("hello", Request::Hello { version: VERSION, label: "backup".into() }),
        ("open", Request::Open { request: 0x61, space: "default".into() }),
        (
            "lock",
            Request::Lock(LockRequest {
                handle: 0x62,
                space: SpaceId(2),
                name: name("accounts/7"),
                mode: Mode::EX,
                flags: Flags::FRESH | Flags::VALBLK,
                timeout_ms: 0x63,
                owner: OwnerId(0x64),
                transaction: TransactionId(0x65),
            }),
        ),
        (
            "convert",
            Request::Convert(ConvertRequest {
                handle: 0x62,
                mode: Mode::PR,
                flags: Flags::QUECVT,
                timeout_ms: 0x63,
                value: Some(value().bytes),
            }),
        ),
        ("unlock", Request::Unlock { handle: 0x62, value: None, invalidate: true }),
        ("cancel", Request::Cancel { handle: 0x62 }),
        ("ask", Request::Ask { request: 0x61, question: "{\"v\":1,\"ask\":\"status\"}".into() }),
        ("attach", Request::Attach { request: 0x61, space: SpaceId(2) }),
        ("knock", Request::Knock),
        ("detach", Request::Detach),
    ]
}

/// What a node says to a program.
pub(crate) fn replies() -> Vec<(&'static str, Reply)> {
    let why = || Failure { code: Code::Busy, text: "held by node b".into() };
    vec![
        (
            "welcome",
            Reply::Welcome {
                version: VERSION,
                session: SessionId(0x71),
                node: "node-a".into(),
                cluster: "harbour".into(),
                epoch: Epoch(4),
                now: oarlock_layout::time::Instant(0x72),
            },
        ),
        ("refused", Reply::Refused { version: VERSION, why: why() }),
        ("opened", Reply::Opened { request: 0x61, space: SpaceId(2) }),
        (
            "granted",
            Reply::Granted(Granted {
                handle: 0x62,
                mode: Mode::EX,
                token: token(),
                value: Some(value()),
                alternate: true,
            }),
        ),
        ("released", Reply::Released { handle: 0x62 }),
        ("failed", Reply::Failed { handle: 0x62, why: why() }),
        ("denied", Reply::Denied { request: 0x61, why: why() }),
        ("blocking", Reply::Blocking { handle: 0x62, wanted: Mode::PR }),
        ("lost", Reply::Lost { why: why() }),
        ("answer", Reply::Answer { request: 0x61, more: true, bytes: b"{\"v\":1".to_vec() }),
        (
            "attached",
            Reply::Attached(Attached {
                request: 0x61,
                segment: 3,
                place: Place { area: 0x72, session_word: 0x73, epoch: 0x74 },
                now: 0x75,
            }),
        ),
    ]
}

fn ballot() -> Ballot {
    Ballot { leadership: Leadership { term: 0x21, node: NodeId(2) }, committed: true }
}

fn log_id(index: u64) -> LogId {
    LogId { leadership: ballot().leadership, index }
}

fn voters() -> Voters {
    let node = |n: &u16| NodeId(*n);
    let set = |nodes: &[u16]| nodes.iter().map(node).collect();
    Voters { configs: vec![set(&[0, 1, 2]), set(&[0, 1, 2, 3])], nodes: set(&[0, 1, 2, 3, 7]) }
}

/// What coordinators ask each other.
pub(crate) fn calls() -> Vec<(&'static str, Call)> {
    let entry = |index, payload| LogEntry { id: log_id(index), payload };
    vec![
        (
            "append",
            Call::Append {
                ballot: ballot(),
                previous: Some(log_id(0x30)),
                entries: vec![
                    entry(0x31, Payload::Blank),
                    entry(0x32, Payload::Command(vec![1, 2, 3])),
                    entry(0x33, Payload::Voters(voters())),
                ],
                commit: Some(log_id(0x31)),
            },
        ),
        ("vote", Call::Vote { ballot: ballot(), last: None, transfer: false, pre: true }),
        (
            "install",
            Call::Install {
                ballot: ballot(),
                last: Some(log_id(0x40)),
                voters: VotersAt { id: Some(log_id(0x3f)), voters: voters() },
                offset: 4,
                total: 9,
                bytes: vec![5, 6, 7],
            },
        ),
        ("transfer", Call::Transfer { ballot: ballot(), to: NodeId(1), last: Some(log_id(0x41)) }),
        ("propose", Call::Propose { command: vec![9, 8, 7] }),
        ("confirm", Call::Confirm),
    ]
}

/// What they answer.
pub(crate) fn answers() -> Vec<(&'static str, Answer)> {
    vec![
        ("stored", Answer::Stored),
        ("stored up to", Answer::StoredUpTo(Some(log_id(0x32)))),
        ("conflict", Answer::Conflict),
        ("higher", Answer::Higher(ballot())),
        ("voted", Answer::Voted { ballot: ballot(), granted: true, last: Some(log_id(0x33)) }),
        ("installed", Answer::Installed(ballot())),
        ("trying", Answer::Trying),
        ("at", Answer::At(log_id(0x34))),
        ("not leader", Answer::NotLeader(Some(NodeId(2)))),
        ("unable", Answer::Unable),
        ("unsure", Answer::Unsure),
    ]
}
