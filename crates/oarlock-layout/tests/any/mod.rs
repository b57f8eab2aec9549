//! Strategies that make any message there can be, within its limits.

#![allow(dead_code)]

use oarlock_layout::code::Code;
use oarlock_layout::departed::Lost;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::limit::{NODES_MAX, VALUE_BYTES};
use oarlock_layout::message::barrier::{Barrier, Report, Step};
use oarlock_layout::message::lock::*;
use oarlock_layout::message::look::*;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::raft::*;
use oarlock_layout::message::session::*;
use oarlock_layout::message::trace::{
    self, Broken, Hold, Link, Sight, Since, Trace, Traced, Verdict, Wait, WaitId,
};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::Place;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::{SEQUENCE_MAX, Value};
use oarlock_layout::view::Member;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

pub(crate) fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(&Mode::ALL[..])
}

pub(crate) fn name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=255).prop_map(|bytes| Name::new(&bytes).expect("1 to 255 bytes"))
}

/// Text of at most `max` bytes.
fn text(max: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=max / 4).prop_map(String::from_iter)
}

fn flags() -> impl Strategy<Value = Flags> {
    any::<u32>().prop_map(Flags::from_bits_truncate)
}

fn block() -> impl Strategy<Value = [u8; VALUE_BYTES]> {
    vec(any::<u8>(), VALUE_BYTES).prop_map(|bytes| bytes.try_into().expect("VALUE_BYTES bytes"))
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    (0..=SEQUENCE_MAX, any::<bool>(), block()).prop_map(|(sequence, valid, bytes)| Value {
        sequence,
        valid,
        bytes,
    })
}

fn fence() -> impl Strategy<Value = Fence> {
    any::<u64>().prop_map(Fence::from_number)
}

pub(crate) fn token() -> impl Strategy<Value = Token> {
    (fence(), any::<u64>()).prop_map(|(fence, local)| Token { fence, local })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::New), Just(Kind::Convert)]
}

pub(crate) fn head() -> impl Strategy<Value = Head> {
    (any::<u64>(), mode(), kind(), any::<u64>(), any::<bool>(), any::<bool>()).prop_map(
        |(number, mode, kind, attempt, notify, demand)| Head { number, mode, kind, attempt, notify, demand },
    )
}

fn conv() -> impl Strategy<Value = Conv> {
    (mode(), of(mode()), kind(), of(mode()), any::<u64>(), flags(), any::<bool>()).prop_map(
        |(mode, alternate, kind, from, attempt, flags, demand)| Conv {
            mode,
            alternate,
            kind,
            from,
            attempt,
            flags,
            demand,
        },
    )
}

fn info() -> impl Strategy<Value = Info> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
    let bits = (any::<bool>(), any::<bool>(), any::<bool>());
    (numbers, of(mode()), of(conv()), bits, of(value())).prop_map(|(numbers, held, conv, bits, value)| Info {
        n: numbers.0,
        g: numbers.1,
        held,
        conv,
        busy: numbers.2,
        openers: numbers.3,
        uses_value: bits.0,
        want: Want { value: bits.1, serial: bits.2 },
        value,
    })
}

fn grant() -> impl Strategy<Value = Grant> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
    let bits = (any::<bool>(), any::<bool>(), any::<bool>());
    (numbers, mode(), bits, of(head()), of(value())).prop_map(|(numbers, mode, bits, head, value)| Grant {
        g: numbers.0,
        a: numbers.1,
        mode,
        serial: numbers.2,
        alternate: bits.0,
        queued: bits.1,
        current: bits.2,
        head,
        openers: numbers.3,
        value,
    })
}

fn remains() -> impl Strategy<Value = Remains> {
    (run(), mode()).prop_map(|(run, mode)| Remains { run, mode })
}

fn run() -> impl Strategy<Value = Member> {
    (any::<u16>(), any::<u64>())
        .prop_map(|(node, run)| Member { node: NodeId(node), incarnation: Incarnation(run) })
}

fn body() -> impl Strategy<Value = Body> {
    let reason = prop_oneof![Just(Reason::Busy), Just(Reason::Deadlock), Just(Reason::Exhausted)];
    prop_oneof![
        info().prop_map(Body::Info),
        grant().prop_map(Body::Grant),
        (any::<u64>(), any::<u64>(), any::<u64>(), reason)
            .prop_map(|(g, a, attempt, reason)| Body::Deny(Deny { g, a, attempt, reason })),
        (any::<u64>(), any::<u64>(), of(head()), any::<u32>())
            .prop_map(|(g, a, head, openers)| Body::Head(HeadNotice { g, a, head, openers })),
        (any::<u64>(), any::<u64>(), of(value())).prop_map(|(g, n, value)| Body::Forget(Forget {
            g,
            n,
            value
        })),
        (any::<u64>(), any::<u64>()).prop_map(|(g, n)| Body::ForgetAck(ForgetAck { g, n })),
        (value(), of(any::<u16>()), any::<bool>(), vec(remains(), 0..4)).prop_map(
            |(value, writer, uses_value, remains)| {
                Body::Handover(Handover { value, writer: writer.map(NodeId), uses_value, remains })
            }
        ),
    ]
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    (any::<u16>(), any::<u32>(), name(), body()).prop_map(|(space, epoch, name, body)| Packet {
        space: SpaceId(space),
        epoch: Epoch(epoch),
        name,
        body,
    })
}

pub(crate) fn barrier() -> impl Strategy<Value = Barrier> {
    let step = prop_oneof![
        Just(Step::Arrived),
        (any::<bool>(), any::<bool>())
            .prop_map(|(departed, unsettled)| Step::Restated { departed, unsettled }),
        (any::<u64>(), any::<u64>(), run()).prop_map(|(members, masters, run)| Step::Lost(Lost {
            members,
            masters,
            run
        })),
        run().prop_map(Step::Unknown),
    ];
    (any::<u32>(), step).prop_map(|(epoch, step)| Barrier { epoch: Epoch(epoch), step })
}

pub(crate) fn report() -> impl Strategy<Value = Report> {
    any::<u64>().prop_map(|silent| Report { silent })
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        name().prop_map(At::Resource),
        Just(At::All),
        Just(At::Waiting),
        of(name()).prop_map(At::Branches)
    ]
}

pub(crate) fn look() -> impl Strategy<Value = Look> {
    (any::<u64>(), any::<u16>(), at()).prop_map(|(question, space, at)| Look {
        question,
        space: SpaceId(space),
        at,
    })
}

fn party() -> impl Strategy<Value = Party> {
    (any::<u64>(), any::<u32>(), text(64), any::<u64>(), any::<u64>()).prop_map(
        |(lock, pid, label, owner, transaction)| Party {
            lock: LockId(lock),
            pid,
            label,
            owner: OwnerId(owner),
            transaction: TransactionId(transaction),
        },
    )
}

fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
    vec(any::<u16>().prop_map(NodeId), 0..=NODES_MAX)
}

fn what() -> impl Strategy<Value = What> {
    let modes = (of(mode()), of(mode()), of(mode()), of(mode()));
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    prop_oneof![
        (party(), mode(), any::<u64>(), token(), of(mode()), any::<bool>()).prop_map(
            |(party, mode, age_us, token, told, fast)| {
                What::Holder(Holder { party, mode, age_us, token, told, fast })
            }
        ),
        (party(), mode(), of(mode()), kind(), any::<u64>()).prop_map(
            |(party, wanted, held, kind, age_us)| {
                What::Waiter(Waiter { party, wanted, held, kind, age_us })
            }
        ),
        (modes, of(head()), numbers, fence()).prop_map(|(modes, head, numbers, fence)| {
            What::Shadow(ShadowRow {
                owned: modes.0,
                need: modes.1,
                told_held: modes.2,
                told_conv: modes.3,
                head,
                n: numbers.0,
                g: numbers.1,
                a: numbers.2,
                value: numbers.3,
                fence,
            })
        }),
        (of(head()), nodes(), nodes(), any::<u64>(), any::<bool>(), any::<u32>(), nodes()).prop_map(
            |(head, converting, waiting, value, value_valid, openers, departed)| {
                What::Master(MasterRow { head, converting, waiting, value, value_valid, openers, departed })
            }
        ),
        (any::<u16>(), of(mode()), of(mode()), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(node, held, conv, g, a, busy)| {
                What::Record(RecordRow { node: NodeId(node), held, conv, g, a, busy })
            }
        ),
        any::<u32>().prop_map(What::Branch),
    ]
}

pub(crate) fn seen() -> impl Strategy<Value = Seen> {
    let row = (name(), what()).prop_map(|(name, what)| Row { name, what });
    (any::<u64>(), any::<bool>(), vec(row, 0..20)).prop_map(|(question, cut, rows)| Seen {
        question,
        cut,
        rows,
    })
}

pub(crate) fn trace() -> impl Strategy<Value = Trace> {
    let resource = (any::<u16>(), name()).prop_map(|(space, name)| (SpaceId(space), name));
    let transaction = any::<u64>().prop_map(TransactionId);
    (any::<u32>(), any::<u64>(), any::<u64>(), vec(resource, 0..5), vec(transaction, 0..5)).prop_map(
        |(epoch, question, stamp, resources, transactions)| Trace {
            epoch: Epoch(epoch),
            question,
            stamp: Stamp(stamp),
            resources,
            transactions,
        },
    )
}

fn hold() -> impl Strategy<Value = Hold> {
    (any::<u64>(), any::<u64>(), any::<u64>(), mode()).prop_map(|(lock, owner, transaction, mode)| Hold {
        lock: LockId(lock),
        owner: OwnerId(owner),
        transaction: TransactionId(transaction),
        mode,
    })
}

fn since() -> impl Strategy<Value = Since> {
    (any::<u64>(), any::<u64>()).prop_map(|(stamp, youth)| Since { stamp: Stamp(stamp), youth })
}

fn wait() -> impl Strategy<Value = Wait> {
    let told = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<u32>());
    ((party(), mode(), of(mode()), of(mode()), kind()), any::<u64>(), since(), told).prop_map(
        |((party, wanted, alternate, held, kind), number, since, told)| Wait {
            party,
            wanted,
            alternate,
            held,
            kind,
            number,
            since,
            passes: told.0,
            excused: told.1,
            held_back: told.2,
            ahead: told.3,
            of: told.4,
        },
    )
}

fn sight() -> impl Strategy<Value = Sight> {
    let told = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    ((any::<u16>(), name()), vec(hold(), 0..4), vec(wait(), 0..4), (nodes(), nodes()), told).prop_map(
        |((space, name), holds, waits, (order, records), (alone, more, asks, passover))| Sight {
            space: SpaceId(space),
            name,
            holds,
            waits,
            alone,
            more,
            asks,
            order,
            records,
            passover,
        },
    )
}

pub(crate) fn traced() -> impl Strategy<Value = Traced> {
    let left = vec(any::<u64>().prop_map(TransactionId), 0..5);
    (any::<u32>(), any::<u64>(), any::<bool>(), left, vec(sight(), 0..5)).prop_map(
        |(epoch, question, cut, left, sights)| Traced { epoch: Epoch(epoch), question, cut, left, sights },
    )
}

fn wait_id() -> impl Strategy<Value = WaitId> {
    (since(), any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>()).prop_map(
        |(since, node, space, lock, number)| WaitId {
            since,
            node: NodeId(node),
            space: SpaceId(space),
            lock: LockId(lock),
            number,
        },
    )
}

fn cycle() -> impl Strategy<Value = Vec<Link>> {
    let link = (any::<u16>(), any::<u16>(), name(), party(), mode(), of(mode()), of(mode())).prop_map(
        |(node, space, name, party, wanted, held, behind)| Link {
            node: NodeId(node),
            space: SpaceId(space),
            name,
            party,
            wanted,
            held,
            behind,
        },
    );
    vec(link, 0..=trace::LINKS_MAX)
}

pub(crate) fn verdict() -> impl Strategy<Value = Verdict> {
    (any::<u32>(), wait_id(), cycle()).prop_map(|(epoch, victim, cycle)| Verdict {
        epoch: Epoch(epoch),
        victim,
        cycle,
    })
}

pub(crate) fn broken() -> impl Strategy<Value = Broken> {
    (wait_id(), any::<u64>(), cycle()).prop_map(|(victim, waited_us, cycle)| Broken {
        victim,
        waited_us,
        cycle,
    })
}

pub(crate) fn peer() -> impl Strategy<Value = PeerMessage> {
    prop_oneof![
        packet().prop_map(PeerMessage::Lock),
        barrier().prop_map(PeerMessage::Barrier),
        report().prop_map(PeerMessage::Report),
        any::<[u8; 16]>().prop_map(PeerMessage::Pledge),
        look().prop_map(PeerMessage::Look),
        seen().prop_map(PeerMessage::Seen),
        (any::<u64>(), call()).prop_map(|(question, call)| PeerMessage::Call { question, call }),
        (any::<u64>(), answer()).prop_map(|(question, answer)| PeerMessage::Answer { question, answer }),
        trace().prop_map(PeerMessage::Trace),
        traced().prop_map(PeerMessage::Traced),
        verdict().prop_map(PeerMessage::Verdict),
        broken().prop_map(PeerMessage::Broken),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let lock =
        ((any::<u32>(), any::<u16>(), name(), mode()), flags(), any::<u32>(), any::<u64>(), any::<u64>())
            .prop_map(|(what, flags, timeout_ms, owner, transaction)| {
                Request::Lock(LockRequest {
                    handle: what.0,
                    space: SpaceId(what.1),
                    name: what.2,
                    mode: what.3,
                    flags,
                    timeout_ms,
                    owner: OwnerId(owner),
                    transaction: TransactionId(transaction),
                })
            });
    let convert = (any::<u32>(), mode(), flags(), any::<u32>(), of(block())).prop_map(
        |(handle, mode, flags, timeout_ms, value)| {
            Request::Convert(ConvertRequest { handle, mode, flags, timeout_ms, value })
        },
    );
    prop_oneof![
        (any::<u16>(), text(64)).prop_map(|(version, label)| Request::Hello { version, label }),
        (any::<u32>(), text(64)).prop_map(|(request, space)| Request::Open { request, space }),
        lock,
        convert,
        (any::<u32>(), of(block()), any::<bool>()).prop_map(|(handle, value, invalidate)| Request::Unlock {
            handle,
            value,
            invalidate
        }),
        any::<u32>().prop_map(|handle| Request::Cancel { handle }),
        (any::<u32>(), text(QUESTION_BYTES_MAX))
            .prop_map(|(request, question)| Request::Ask { request, question }),
        (any::<u32>(), any::<u16>())
            .prop_map(|(request, space)| Request::Attach { request, space: SpaceId(space) }),
        Just(Request::Knock),
        Just(Request::Detach),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    (prop::sample::select(Code::ALL), text(TEXT_BYTES_MAX)).prop_map(|(code, text)| Failure { code, text })
}

pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        ((any::<u16>(), any::<u32>(), any::<u64>()), text(64), text(64), any::<u32>()).prop_map(
            |(numbers, node, cluster, epoch)| Reply::Welcome {
                version: numbers.0,
                session: SessionId(numbers.1),
                node,
                cluster,
                epoch: Epoch(epoch),
                now: oarlock_layout::time::Instant(numbers.2),
            }
        ),
        (any::<u16>(), failure()).prop_map(|(version, why)| Reply::Refused { version, why }),
        (any::<u32>(), any::<u16>())
            .prop_map(|(request, space)| Reply::Opened { request, space: SpaceId(space) }),
        (any::<u32>(), mode(), token(), of(value()), any::<bool>()).prop_map(
            |(handle, mode, token, value, alternate)| {
                Reply::Granted(Granted { handle, mode, token, value, alternate })
            }
        ),
        any::<u32>().prop_map(|handle| Reply::Released { handle }),
        (any::<u32>(), failure()).prop_map(|(handle, why)| Reply::Failed { handle, why }),
        (any::<u32>(), failure()).prop_map(|(request, why)| Reply::Denied { request, why }),
        (any::<u32>(), mode()).prop_map(|(handle, wanted)| Reply::Blocking { handle, wanted }),
        failure().prop_map(|why| Reply::Lost { why }),
        (any::<u32>(), any::<bool>(), vec(any::<u8>(), 0..=4096))
            .prop_map(|(request, more, bytes)| Reply::Answer { request, more, bytes }),
        (any::<(u32, u8, u32)>(), any::<(u64, u64, u64)>()).prop_map(
            |((request, segment, area), (session_word, epoch, now))| {
                Reply::Attached(Attached {
                    request,
                    segment,
                    place: Place { area, session_word, epoch },
                    now,
                })
            }
        ),
    ]
}

fn leadership() -> impl Strategy<Value = Leadership> {
    (any::<u64>(), any::<u16>()).prop_map(|(term, node)| Leadership { term, node: NodeId(node) })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (leadership(), any::<bool>()).prop_map(|(leadership, committed)| Ballot { leadership, committed })
}

fn log_id() -> impl Strategy<Value = LogId> {
    (leadership(), any::<u64>()).prop_map(|(leadership, index)| LogId { leadership, index })
}

/// Every voter is one of the nodes.
fn voters() -> impl Strategy<Value = Voters> {
    (btree_map(any::<u16>(), any::<u8>(), 0..12), 0..3_u8).prop_map(|(nodes, configs)| {
        let set = |bit: u8| nodes.iter().filter(move |(_, in_sets)| *in_sets >> bit & 1 != 0);
        let configs = (0..configs).map(|bit| set(bit).map(|(node, _)| NodeId(*node)).collect()).collect();
        Voters { configs, nodes: nodes.keys().copied().map(NodeId).collect() }
    })
}

fn entry() -> impl Strategy<Value = LogEntry> {
    let payload = prop_oneof![
        Just(Payload::Blank),
        vec(any::<u8>(), 0..300).prop_map(Payload::Command),
        voters().prop_map(Payload::Voters),
    ];
    (log_id(), payload).prop_map(|(id, payload)| LogEntry { id, payload })
}

pub(crate) fn call() -> impl Strategy<Value = Call> {
    let voters_at = (of(log_id()), voters()).prop_map(|(id, voters)| VotersAt { id, voters });
    prop_oneof![
        (ballot(), of(log_id()), vec(entry(), 0..=ENTRIES_MAX), of(log_id())).prop_map(
            |(ballot, previous, entries, commit)| Call::Append { ballot, previous, entries, commit }
        ),
        (ballot(), of(log_id()), any::<bool>(), any::<bool>())
            .prop_map(|(ballot, last, transfer, pre)| Call::Vote { ballot, last, transfer, pre }),
        (ballot(), of(log_id()), voters_at, 0..1_000_u32, 0..1_000_u32, vec(any::<u8>(), 0..300)).prop_map(
            |(ballot, last, voters, offset, more, bytes)| {
                let total = offset + bytes.len() as u32 + more;
                Call::Install { ballot, last, voters, offset, total, bytes }
            }
        ),
        (ballot(), any::<u16>(), of(log_id())).prop_map(|(ballot, to, last)| Call::Transfer {
            ballot,
            to: NodeId(to),
            last
        }),
        vec(any::<u8>(), 0..300).prop_map(|command| Call::Propose { command }),
        Just(Call::Confirm),
    ]
}

pub(crate) fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Stored),
        of(log_id()).prop_map(Answer::StoredUpTo),
        Just(Answer::Conflict),
        ballot().prop_map(Answer::Higher),
        (ballot(), any::<bool>(), of(log_id())).prop_map(|(ballot, granted, last)| Answer::Voted {
            ballot,
            granted,
            last
        }),
        ballot().prop_map(Answer::Installed),
        Just(Answer::Trying),
        log_id().prop_map(Answer::At),
        of(any::<u16>()).prop_map(|node| Answer::NotLeader(node.map(NodeId))),
        Just(Answer::Unable),
        Just(Answer::Unsure),
    ]
}
