//! What a master and its shadows say to each other about one resource (C4-C7, C12; R0).
//!
//! Shadows send *statements of state*, never events: a newer one replaces an older one. Each side numbers
//! what it decides: the shadow its statements (`n`), the master the changes it made of its own accord (`g`),
//! and each echoes what it heard of the other (R10).
//!
//! ```text
//!    shadow ──── Info(n, g) ───► master      n: this statement   g: last change of mine you know of
//!    shadow ◄─ Grant|Deny(g, a) ─ master     g: raised           a: last statement I heard
//!    shadow ◄──── Head(g, a) ──── master     g: unchanged
//! ```
//!
//! All of these need a channel that delivers exactly once and in order per pair of nodes.

use alloc::vec::Vec;

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::flags::Flags;
use crate::id::{Epoch, NodeId, SpaceId};
use crate::limit::NODES_MAX;
use crate::mode::Mode;
use crate::name::Name;
use crate::value::Value;
use crate::view::Member;

/// One message about one resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    /// Which lockspace.
    pub space: SpaceId,
    /// The view it belongs to; older ones change nothing (X11, I10).
    pub epoch: Epoch,
    /// Which resource.
    pub name: Name,
    /// What is said.
    pub body: Body,
}

/// What is said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// Shadow to master: all the master should know.
    Info(Info),
    /// Master to shadow: you own this now.
    Grant(Grant),
    /// Master to shadow: your try failed.
    Deny(Deny),
    /// Master to shadow: this one waits first.
    Head(HeadNotice),
    /// Shadow to master: drop my record.
    Forget(Forget),
    /// Master to shadow: your record is gone.
    ForgetAck(ForgetAck),
    /// Master of the view before to the one of this view: what no shadow can state.
    Handover(Handover),
}

/// A shadow's statement of its whole state (C5).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Info {
    /// Ordinal of this statement; starts at 1 with each new record.
    pub n: u64,
    /// The last `g` received: the master discards the statement if it has moved on (3.6 rule 1).
    pub g: u64,
    /// What the shadow owns from here on; none is less than NL (R12).
    pub held: Option<Mode>,
    /// What it wants beyond that.
    pub conv: Option<Conv>,
    /// Number of the head that a real local holder blocks, 0 for none (R2).
    pub busy: u64,
    /// Locks held or waiting on this node: how much the resource is used here (C16).
    pub openers: u32,
    /// Somebody here has used the value block (R5).
    pub uses_value: bool,
    /// Questions that a `Grant` of the mode held answers.
    pub want: Want,
    /// The value block, if the master's is older.
    pub value: Option<Value>,
}

/// What a shadow wants: the first ungranted local entry, joined with what must be kept (3.4 rule 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// The mode to own.
    pub mode: Mode,
    /// A second choice, tried in the same scan (R8).
    pub alternate: Option<Mode>,
    /// What kind of local entry it stands for (R3).
    pub kind: Kind,
    /// The mode that entry holds meanwhile, if it converts: what a conversion deadlock is made of (D9).
    pub from: Option<Mode>,
    /// Number of that entry among those its shadow ever stated; never 0. A try has [`Flags::NOQUEUE`].
    pub attempt: u64,
    /// [`Flags::STATED`] of that entry.
    pub flags: Flags,
    /// Reserved for on-demand requests (F2).
    pub demand: bool,
}

/// Which queue an entry belongs to (R3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A newcomer: the wait queue.
    New,
    /// A holder asking for another mode: the convert queue, served first.
    Convert,
}

/// What a shadow asks besides a mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Want {
    /// The newest value block, which a CR or NL owner cannot know (R5 e).
    pub value: bool,
    /// A new serial, for a `fresh` grant (R6).
    pub serial: bool,
}

impl Want {
    /// Is anything asked?
    pub const fn any(self) -> bool {
        self.value || self.serial
    }
}

/// The first waiter of a resource, as announced (C12, C13). Numbered per resource, tries included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Grows with every new head; never 0.
    pub number: u64,
    /// What it waits for.
    pub mode: Mode,
    /// Which queue it stands in.
    pub kind: Kind,
    /// Number of the try, 0 if it waits: a busy holder answers a try at once (R2).
    pub attempt: u64,
    /// Holders are to be told although it is only a try (NOQUEUEBAST).
    pub notify: bool,
    /// Reserved for on-demand requests (F2).
    pub demand: bool,
}

/// Ownership, or the answer to a [`Want`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Grant {
    /// Raised by this message.
    pub g: u64,
    /// Last statement heard, applied or discarded.
    pub a: u64,
    /// What the shadow owns now.
    pub mode: Mode,
    /// The master's serial: the lower part of the fence (R6).
    pub serial: u64,
    /// The second choice was given (ALTMODE).
    pub alternate: bool,
    /// The statement that is queued stays queued: this only answers a [`Want`].
    pub queued: bool,
    /// The value block is the newest of the whole cluster, as far as it was asked for (R5 e).
    pub current: bool,
    /// The next waiter, to be honoured after the waiting local request was served (X8).
    pub head: Option<Head>,
    /// Locks held or waiting on other nodes (C16).
    pub openers: u32,
    /// The value block, if the shadow's is older.
    pub value: Option<Value>,
}

/// A request failed at the master.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Deny {
    /// Raised by this message.
    pub g: u64,
    /// Last statement heard.
    pub a: u64,
    /// Which request. 0: what the shadow asked without one.
    pub attempt: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a request failed at the master.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// A try: its holders are really busy, or others wait (R2).
    Busy,
    /// A convert that waits behind one which waits for it (D9).
    Deadlock,
    /// The serials of this epoch are used up (R6).
    Exhausted,
}

/// The head changed or went (C12, X5).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HeadNotice {
    /// Unchanged by this message.
    pub g: u64,
    /// Last statement heard.
    pub a: u64,
    /// The head as far as it concerns the receiver.
    pub head: Option<Head>,
    /// Locks held or waiting on other nodes (C16).
    pub openers: u32,
}

/// Nobody here needs the resource any more.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Forget {
    /// The last `g` received: acted upon only if current (R12).
    pub g: u64,
    /// Ordinal of this statement.
    pub n: u64,
    /// The value block, if the master's is older.
    pub value: Option<Value>,
}

/// The record is gone; the tombstone may go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ForgetAck {
    /// As in the [`Forget`].
    pub g: u64,
    /// As in the [`Forget`].
    pub n: u64,
}

/// What a master knew of a resource that another is master of now (44).
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The newest value block it knew; not to be believed if whoever owned PW or EX has left.
    pub value: Value,
    /// The member that owns PW or EX, as far as it knew, and may have a newer block.
    pub writer: Option<NodeId>,
    /// Somebody has used the value block.
    pub uses_value: bool,
    /// What runs that left had, and may act under until it is proven that they cannot (L4). At most [`REMAINS_MAX`].
    pub remains: Vec<Remains>,
}

/// What a run that left had of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remains {
    /// Which run.
    pub run: Member,
    /// All that it can have owned.
    pub mode: Mode,
}

/// Runs that left and of which something is still to be proven, at most: the coordinator keeps so many for each node, and the
/// one that is in.
pub const REMAINS_MAX: usize = NODES_MAX * 5;

const INFO: u8 = 1;
const GRANT: u8 = 2;
const DENY: u8 = 3;
const HEAD: u8 = 4;
const FORGET: u8 = 5;
const FORGET_ACK: u8 = 6;
const HANDOVER: u8 = 7;

impl Wire for Packet {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u16(self.space.0);
        out.u32(self.epoch.0);
        out.name(&self.name);
        match &self.body {
            Body::Info(info) => {
                out.u8(INFO);
                info.encode(out);
            }
            Body::Grant(m) => {
                out.u8(GRANT);
                out.u64(m.g);
                out.u64(m.a);
                out.mode(m.mode);
                out.u64(m.serial);
                out.bool(m.alternate);
                out.bool(m.queued);
                out.bool(m.current);
                out.option(m.head.as_ref(), |out, head| head.encode(out));
                out.u32(m.openers);
                out.option(m.value.as_ref(), |out, value| out.value(value));
            }
            Body::Deny(m) => {
                out.u8(DENY);
                out.u64(m.g);
                out.u64(m.a);
                out.u64(m.attempt);
                m.reason.encode(out);
            }
            Body::Head(m) => {
                out.u8(HEAD);
                out.u64(m.g);
                out.u64(m.a);
                out.option(m.head.as_ref(), |out, head| head.encode(out));
                out.u32(m.openers);
            }
            Body::Forget(m) => {
                out.u8(FORGET);
                out.u64(m.g);
                out.u64(m.n);
                out.option(m.value.as_ref(), |out, value| out.value(value));
            }
            Body::ForgetAck(m) => {
                out.u8(FORGET_ACK);
                out.u64(m.g);
                out.u64(m.n);
            }
            Body::Handover(m) => {
                out.u8(HANDOVER);
                out.value(&m.value);
                out.option(m.writer.as_ref(), |out, writer| out.u16(writer.0));
                out.bool(m.uses_value);
                out.u32(m.remains.len() as u32);
                for remains in &m.remains {
                    remains.encode(out);
                }
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Packet, Malformed> {
        let space = SpaceId(r.u16()?);
        let epoch = Epoch(r.u32()?);
        let name = r.name()?;
        let body = match r.u8()? {
            INFO => Body::Info(Info::decode(r)?),
            GRANT => Body::Grant(Grant {
                g: r.u64()?,
                a: r.u64()?,
                mode: r.mode()?,
                serial: r.u64()?,
                alternate: r.bool("alternate")?,
                queued: r.bool("queued")?,
                current: r.bool("current")?,
                head: r.option("head", Head::decode)?,
                openers: r.u32()?,
                value: r.option("value", Reader::value)?,
            }),
            DENY => {
                Body::Deny(Deny { g: r.u64()?, a: r.u64()?, attempt: r.u64()?, reason: Reason::decode(r)? })
            }
            HEAD => Body::Head(HeadNotice {
                g: r.u64()?,
                a: r.u64()?,
                head: r.option("head", Head::decode)?,
                openers: r.u32()?,
            }),
            FORGET => {
                Body::Forget(Forget { g: r.u64()?, n: r.u64()?, value: r.option("value", Reader::value)? })
            }
            FORGET_ACK => Body::ForgetAck(ForgetAck { g: r.u64()?, n: r.u64()? }),
            HANDOVER => Body::Handover(Handover {
                value: r.value()?,
                writer: r.option("writer", |r| r.u16().map(NodeId))?,
                uses_value: r.bool("uses value")?,
                remains: remains(r)?,
            }),
            n => return Err(Malformed::Unknown { field: "lock message", value: n.into() }),
        };
        Ok(Packet { space, epoch, name, body })
    }
}

fn remains(r: &mut Reader<'_>) -> Result<Vec<Remains>, Malformed> {
    let n = r.count("remains", REMAINS_MAX)?;
    (0..n).map(|_| Remains::decode(r)).collect()
}

impl Wire for Remains {
    fn encode(&self, out: &mut Writer<'_>) {
        self.run.encode(out);
        out.mode(self.mode);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Remains, Malformed> {
        Ok(Remains { run: Member::decode(r)?, mode: r.mode()? })
    }
}

impl Wire for Info {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.n);
        out.u64(self.g);
        out.mode_option(self.held);
        out.option(self.conv.as_ref(), |out, conv| conv.encode(out));
        out.u64(self.busy);
        out.u32(self.openers);
        out.bool(self.uses_value);
        out.bool(self.want.value);
        out.bool(self.want.serial);
        out.option(self.value.as_ref(), |out, value| out.value(value));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Info, Malformed> {
        Ok(Info {
            n: r.u64()?,
            g: r.u64()?,
            held: r.mode_option()?,
            conv: r.option("wish", Conv::decode)?,
            busy: r.u64()?,
            openers: r.u32()?,
            uses_value: r.bool("uses value")?,
            want: Want { value: r.bool("want value")?, serial: r.bool("want serial")? },
            value: r.option("value", Reader::value)?,
        })
    }
}

impl Wire for Kind {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u8(match self {
            Kind::New => 0,
            Kind::Convert => 1,
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<Kind, Malformed> {
        match r.u8()? {
            0 => Ok(Kind::New),
            1 => Ok(Kind::Convert),
            n => Err(Malformed::Unknown { field: "kind", value: n.into() }),
        }
    }
}

impl Wire for Reason {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u8(match self {
            Reason::Busy => 0,
            Reason::Deadlock => 1,
            Reason::Exhausted => 2,
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<Reason, Malformed> {
        match r.u8()? {
            0 => Ok(Reason::Busy),
            1 => Ok(Reason::Deadlock),
            2 => Ok(Reason::Exhausted),
            n => Err(Malformed::Unknown { field: "reason", value: n.into() }),
        }
    }
}

impl Wire for Flags {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.bits());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Flags, Malformed> {
        let bits = r.u32()?;
        Flags::from_bits(bits).ok_or(Malformed::Unknown { field: "request flag", value: bits.into() })
    }
}

impl Wire for Conv {
    fn encode(&self, out: &mut Writer<'_>) {
        out.mode(self.mode);
        out.mode_option(self.alternate);
        self.kind.encode(out);
        out.mode_option(self.from);
        out.u64(self.attempt);
        self.flags.encode(out);
        out.bool(self.demand);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Conv, Malformed> {
        Ok(Conv {
            mode: r.mode()?,
            alternate: r.mode_option()?,
            kind: Kind::decode(r)?,
            from: r.mode_option()?,
            attempt: r.u64()?,
            flags: Flags::decode(r)?,
            demand: r.bool("demand")?,
        })
    }
}

impl Wire for Head {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.number);
        out.mode(self.mode);
        self.kind.encode(out);
        out.u64(self.attempt);
        out.bool(self.notify);
        out.bool(self.demand);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Head, Malformed> {
        Ok(Head {
            number: r.u64()?,
            mode: r.mode()?,
            kind: Kind::decode(r)?,
            attempt: r.u64()?,
            notify: r.bool("notify")?,
            demand: r.bool("demand")?,
        })
    }
}
