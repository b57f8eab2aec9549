//! What a program and its node say to each other over the Unix socket (SOCK_SEQPACKET: one message a packet).
//!
//! ```text
//!   program ── Hello ─────────────► node        once, first
//!           ◄──────── Welcome|Refused
//!           ── Open ──────────────► node        lockspaces by name
//!           ◄──────────────── Opened|Denied
//!           ── Attach ────────────► node        the segment of a lockspace, to grant oneself
//!           ◄──────────────── Attached|Denied   with a descriptor
//!           ── Lock|Convert ──────► node
//!           ◄──────────────── Granted|Failed    exactly one for each
//!           ── Unlock ────────────►             Released|Failed
//!           ── Cancel ────────────►             no answer of its own: the cancelled request gets one (R9)
//!           ◄──────────────── Blocking          somebody wants it (BAST)
//!           ◄──────────────── Lost              all locks of the session are gone
//!           ── Ask ───────────────►             Answer… (JSON, in pieces)
//!           ── Knock ─────────────►             bells were rung while the node slept; no answer
//!           ── Detach ────────────►             last: no segment is touched any more; no answer
//! ```
//!
//! The program numbers its own locks (the low half of [`LockId`](crate::id::LockId)), so it can cancel what was
//! not answered. A lock that waits in an entry of a segment has the entry's number instead
//! ([`SharedHandle`](crate::id::SharedHandle)). Once it is granted the program changes it in the segment, and asks here
//! only for what it cannot do by itself. With [`Flags::QUIET`] no `Granted` comes: the entry says so. A `Blocking` for
//! such a lock is a hint to look at its entry; it can be missing.

use alloc::string::String;
use alloc::vec::Vec;

use crate::code::Code;
use crate::codec::{Malformed, Reader, Wire, Writer, cut};
use crate::flags::Flags;
use crate::id::{Epoch, OwnerId, SessionId, SpaceId, TransactionId};
use crate::limit::{SESSION_PACKET_BYTES_MAX, VALUE_BYTES};
use crate::mode::Mode;
use crate::name::Name;
use crate::segment::Place;
use crate::time::Instant;
use crate::token::Token;
use crate::value::Value;

/// Version of this conversation. The first three bytes of a [`Request::Hello`] and of a
/// [`Reply::Refused`] never change, so that versions can always name each other.
pub const VERSION: u16 = 3;

/// Program to node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Opens the conversation.
    Hello {
        /// [`VERSION`] of the program.
        version: u16,
        /// What the program calls itself; shown to people who ask who holds a lock.
        label: String,
    },
    /// Finds a lockspace.
    Open {
        /// Chosen by the program, echoed in the answer.
        request: u32,
        /// Name of the lockspace.
        space: String,
    },
    /// Asks for a new lock.
    Lock(LockRequest),
    /// Changes the mode of a granted lock.
    Convert(ConvertRequest),
    /// Gives a lock back; a waiting one is withdrawn (scenario 21).
    Unlock {
        /// The program's number for the lock.
        handle: u32,
        /// A new value block, if it is held in PW or EX.
        value: Option<[u8; VALUE_BYTES]>,
        /// Mark the value block as not to be believed (IVVALBLK).
        invalidate: bool,
    },
    /// Withdraws whatever the lock waits for: a new lock ends, a convert goes back to the old mode.
    Cancel {
        /// The program's number for the lock.
        handle: u32,
    },
    /// A question of a person, in JSON.
    Ask {
        /// Chosen by the program, echoed in the answer.
        request: u32,
        /// The question.
        question: String,
    },
    /// Asks for the segment of a lockspace, in which the program can grant itself. Once for each lockspace.
    Attach {
        /// Chosen by the program, echoed in the answer.
        request: u32,
        /// The lockspace.
        space: SpaceId,
    },
    /// The program rang a bell in a segment and found that the node sleeps.
    Knock,
    /// Nothing in this process touches a segment of this session any more. The last word of an orderly end: from here
    /// on its place in the segments may be given to another session.
    Detach,
}

/// A new lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// The program's number for the lock; not one that is in use.
    pub handle: u32,
    /// Which lockspace.
    pub space: SpaceId,
    /// Which resource.
    pub name: Name,
    /// Which mode.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// Give up after so many milliseconds of waiting; 0 is never.
    pub timeout_ms: u32,
    /// Who stands behind it, as the program sees it.
    pub owner: OwnerId,
    /// Which transaction, 0 for none.
    pub transaction: TransactionId,
}

/// Another mode for a granted lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConvertRequest {
    /// The program's number for the lock.
    pub handle: u32,
    /// Which mode.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// Give up after so many milliseconds of waiting; 0 is never.
    pub timeout_ms: u32,
    /// A new value block, if it leaves PW or EX.
    pub value: Option<[u8; VALUE_BYTES]>,
}

/// Node to program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Answer to a [`Request::Hello`].
    Welcome {
        /// [`VERSION`] of the node.
        version: u16,
        /// Number of the session.
        session: SessionId,
        /// Name of the node.
        node: String,
        /// Name of the cluster.
        cluster: String,
        /// Epoch of the view, 0 if there is none yet.
        epoch: Epoch,
        /// What the node's clock (CLOCK_BOOTTIME) reads. The descriptor of a file with its [lease](crate::lease) comes
        /// along, on that clock; in a time namespace a program's own reads otherwise.
        now: Instant,
    },
    /// Answer to a [`Request::Hello`] that leads nowhere; the socket closes.
    Refused {
        /// [`VERSION`] of the node.
        version: u16,
        /// Why.
        why: Failure,
    },
    /// Answer to an [`Request::Open`].
    Opened {
        /// As in the request.
        request: u32,
        /// The lockspace.
        space: SpaceId,
    },
    /// A request of a lock succeeded.
    Granted(Granted),
    /// A lock is given back.
    Released {
        /// The program's number for the lock.
        handle: u32,
    },
    /// A request of a lock failed. After a failed Lock the number is free again; after a failed Convert the
    /// lock stands as before.
    Failed {
        /// The program's number for the lock.
        handle: u32,
        /// Why.
        why: Failure,
    },
    /// An [`Request::Open`] or [`Request::Ask`] failed.
    Denied {
        /// As in the request.
        request: u32,
        /// Why.
        why: Failure,
    },
    /// Somebody waits behind a granted lock (BAST).
    Blocking {
        /// The program's number for the lock.
        handle: u32,
        /// What is wanted.
        wanted: Mode,
    },
    /// All locks of the session are gone; the socket closes.
    Lost {
        /// Why.
        why: Failure,
    },
    /// A piece of an answer.
    Answer {
        /// As in the request.
        request: u32,
        /// More pieces follow.
        more: bool,
        /// JSON text, cut anywhere.
        bytes: Vec<u8>,
    },
    /// Answer to a [`Request::Attach`]; the descriptor of the segment comes with it.
    Attached(Attached),
}

/// A session's place in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// As in the request.
    pub request: u32,
    /// Which of the session's segments this is, as the numbers of its locks there say.
    pub segment: u8,
    /// Where the session's entries are, and what its words read while it lives.
    pub place: Place,
    /// CLOCK_MONOTONIC of the node as it sent this, in nanoseconds: a program whose clock is another (in a time
    /// namespace) cannot judge the lease, and must not grant itself (L1).
    pub now: u64,
}

/// A lock is held in a mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The program's number for the lock.
    pub handle: u32,
    /// The mode held now.
    pub mode: Mode,
    /// The token of this grant.
    pub token: Token,
    /// The value block, if the call read it.
    pub value: Option<Value>,
    /// The second choice was given.
    pub alternate: bool,
}

/// Why something failed: a code, and a sentence with the numbers of this case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Stable.
    pub code: Code,
    /// For people.
    pub text: String,
}

/// Longest text of a [`Failure`]; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Longest [`Request::Ask`].
pub const QUESTION_BYTES_MAX: usize = 4096;
/// Longest piece of an [`Reply::Answer`].
pub const PIECE_BYTES_MAX: usize = SESSION_PACKET_BYTES_MAX - 16;

/// Is this packet a [`Reply::Welcome`], with which a descriptor goes?
pub fn is_welcome(packet: &[u8]) -> bool {
    packet.first() == Some(&1)
}

fn text(out: &mut Writer<'_>, text: &str, max: usize) {
    out.bytes(cut(text, max).as_bytes());
}

fn read_text(r: &mut Reader<'_>, field: &'static str, max: usize) -> Result<String, Malformed> {
    let bytes = r.bytes(field, max)?;
    core::str::from_utf8(bytes).map(String::from).map_err(|_| Malformed::Text(field))
}

fn block(out: &mut Writer<'_>, value: Option<&[u8; VALUE_BYTES]>) {
    out.option(value, |out, bytes| out.raw(bytes));
}

fn read_block(r: &mut Reader<'_>) -> Result<Option<[u8; VALUE_BYTES]>, Malformed> {
    r.option("value", |r| Ok(r.raw(VALUE_BYTES)?.try_into().expect("VALUE_BYTES bytes")))
}

impl Wire for Request {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Request::Hello { version, label } => {
                out.u8(1);
                out.u16(*version);
                out.label(label);
            }
            Request::Open { request, space } => {
                out.u8(2);
                out.u32(*request);
                out.label(space);
            }
            Request::Lock(m) => {
                out.u8(3);
                out.u32(m.handle);
                out.u16(m.space.0);
                out.name(&m.name);
                out.mode(m.mode);
                m.flags.encode(out);
                out.u32(m.timeout_ms);
                out.u64(m.owner.0);
                out.u64(m.transaction.0);
            }
            Request::Convert(m) => {
                out.u8(4);
                out.u32(m.handle);
                out.mode(m.mode);
                m.flags.encode(out);
                out.u32(m.timeout_ms);
                block(out, m.value.as_ref());
            }
            Request::Unlock { handle, value, invalidate } => {
                out.u8(5);
                out.u32(*handle);
                block(out, value.as_ref());
                out.bool(*invalidate);
            }
            Request::Cancel { handle } => {
                out.u8(6);
                out.u32(*handle);
            }
            Request::Ask { request, question } => {
                out.u8(7);
                out.u32(*request);
                text(out, question, QUESTION_BYTES_MAX);
            }
            Request::Attach { request, space } => {
                out.u8(8);
                out.u32(*request);
                out.u16(space.0);
            }
            Request::Knock => out.u8(9),
            Request::Detach => out.u8(10),
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Request, Malformed> {
        Ok(match r.u8()? {
            1 => Request::Hello { version: r.u16()?, label: r.label("label")?.into() },
            2 => Request::Open { request: r.u32()?, space: r.label("lockspace")?.into() },
            3 => Request::Lock(LockRequest {
                handle: r.u32()?,
                space: SpaceId(r.u16()?),
                name: r.name()?,
                mode: r.mode()?,
                flags: Flags::decode(r)?,
                timeout_ms: r.u32()?,
                owner: OwnerId(r.u64()?),
                transaction: TransactionId(r.u64()?),
            }),
            4 => Request::Convert(ConvertRequest {
                handle: r.u32()?,
                mode: r.mode()?,
                flags: Flags::decode(r)?,
                timeout_ms: r.u32()?,
                value: read_block(r)?,
            }),
            5 => {
                Request::Unlock { handle: r.u32()?, value: read_block(r)?, invalidate: r.bool("invalidate")? }
            }
            6 => Request::Cancel { handle: r.u32()? },
            7 => Request::Ask { request: r.u32()?, question: read_text(r, "question", QUESTION_BYTES_MAX)? },
            8 => Request::Attach { request: r.u32()?, space: SpaceId(r.u16()?) },
            9 => Request::Knock,
            10 => Request::Detach,
            n => return Err(Malformed::Unknown { field: "session request", value: n.into() }),
        })
    }
}

impl Wire for Failure {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u16(self.code.number());
        text(out, &self.text, TEXT_BYTES_MAX);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Failure, Malformed> {
        let number = r.u16()?;
        let code =
            Code::from_number(number).ok_or(Malformed::Unknown { field: "code", value: number.into() })?;
        Ok(Failure { code, text: read_text(r, "text", TEXT_BYTES_MAX)? })
    }
}

impl Wire for Reply {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Reply::Welcome { version, session, node, cluster, epoch, now } => {
                out.u8(1);
                out.u16(*version);
                out.u32(session.0);
                out.label(node);
                out.label(cluster);
                out.u32(epoch.0);
                out.u64(now.0);
            }
            Reply::Refused { version, why } => {
                out.u8(2);
                out.u16(*version);
                why.encode(out);
            }
            Reply::Opened { request, space } => {
                out.u8(3);
                out.u32(*request);
                out.u16(space.0);
            }
            Reply::Granted(m) => {
                out.u8(4);
                out.u32(m.handle);
                out.mode(m.mode);
                m.token.encode(out);
                out.option(m.value.as_ref(), |out, value| out.value(value));
                out.bool(m.alternate);
            }
            Reply::Released { handle } => {
                out.u8(5);
                out.u32(*handle);
            }
            Reply::Failed { handle, why } => {
                out.u8(6);
                out.u32(*handle);
                why.encode(out);
            }
            Reply::Denied { request, why } => {
                out.u8(7);
                out.u32(*request);
                why.encode(out);
            }
            Reply::Blocking { handle, wanted } => {
                out.u8(8);
                out.u32(*handle);
                out.mode(*wanted);
            }
            Reply::Lost { why } => {
                out.u8(9);
                why.encode(out);
            }
            Reply::Answer { request, more, bytes } => {
                out.u8(10);
                out.u32(*request);
                out.bool(*more);
                out.bytes(bytes);
            }
            Reply::Attached(m) => {
                out.u8(11);
                out.u32(m.request);
                out.u8(m.segment);
                out.u32(m.place.area);
                out.u64(m.place.session_word);
                out.u64(m.place.epoch);
                out.u64(m.now);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Reply, Malformed> {
        Ok(match r.u8()? {
            1 => Reply::Welcome {
                version: r.u16()?,
                session: SessionId(r.u32()?),
                node: r.label("node")?.into(),
                cluster: r.label("cluster")?.into(),
                epoch: Epoch(r.u32()?),
                now: Instant(r.u64()?),
            },
            2 => Reply::Refused { version: r.u16()?, why: Failure::decode(r)? },
            3 => Reply::Opened { request: r.u32()?, space: SpaceId(r.u16()?) },
            4 => Reply::Granted(Granted {
                handle: r.u32()?,
                mode: r.mode()?,
                token: Token::decode(r)?,
                value: r.option("value", Reader::value)?,
                alternate: r.bool("alternate")?,
            }),
            5 => Reply::Released { handle: r.u32()? },
            6 => Reply::Failed { handle: r.u32()?, why: Failure::decode(r)? },
            7 => Reply::Denied { request: r.u32()?, why: Failure::decode(r)? },
            8 => Reply::Blocking { handle: r.u32()?, wanted: r.mode()? },
            9 => Reply::Lost { why: Failure::decode(r)? },
            10 => Reply::Answer {
                request: r.u32()?,
                more: r.bool("more")?,
                bytes: r.bytes("piece", PIECE_BYTES_MAX)?.into(),
            },
            11 => Reply::Attached(Attached {
                request: r.u32()?,
                segment: r.u8()?,
                place: Place { area: r.u32()?, session_word: r.u64()?, epoch: r.u64()? },
                now: r.u64()?,
            }),
            n => return Err(Malformed::Unknown { field: "session reply", value: n.into() }),
        })
    }
}
