//! Questions that people ask about locks, and what a node sees (`locks ls|show|tree|why`).
//!
//! Asked of every member in the bulk class, so that a question never delays a grant. A node answers from its
//! shadows (holders, waiters) and from the resources it masters (records, queue).

use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::{LockId, NodeId, OwnerId, SpaceId, TransactionId};
use crate::message::lock::{Head, Kind};
use crate::mode::Mode;
use crate::name::Name;
use crate::token::{Fence, Token};

/// Rows in one answer; more are left off, and said to be.
pub const ROWS_MAX: usize = 4096;

/// A question.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Look {
    /// Number of the question, chosen by who asks.
    pub question: u64,
    /// Which lockspace.
    pub space: SpaceId,
    /// What to look at.
    pub at: At,
}

/// What to look at.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum At {
    /// One resource.
    Resource(Name),
    /// Every resource, in order of names, at most [`ROWS_MAX`] rows.
    All,
    /// Only resources with somebody waiting.
    Waiting,
    /// Not locks, but the branches that are open: this one, or all, in order of names.
    Branches(Option<Name>),
}

/// What one node sees.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Seen {
    /// The question it answers.
    pub question: u64,
    /// Rows were left off.
    pub cut: bool,
    /// What is seen, resource by resource.
    pub rows: Vec<Row>,
}

/// One thing a node sees of a resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Row {
    /// The resource.
    pub name: Name,
    /// What of it.
    pub what: What,
}

/// One thing a node sees.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// A lock granted to a program of the node.
    Holder(Holder),
    /// A lock that waits, first in its queue first.
    Waiter(Waiter),
    /// The node's own resource object: three separate records (C4).
    Shadow(ShadowRow),
    /// The deciding object: only the master has one.
    Master(MasterRow),
    /// What the master knows of one shadow, in order of node id.
    Record(RecordRow),
    /// A branch of that name is open at the node, so many times.
    Branch(u32),
}

/// Who stands behind a lock.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Party {
    /// The lock.
    pub lock: LockId,
    /// Process of the session, 0 if not known.
    pub pid: u32,
    /// What the program calls itself, or its command name.
    pub label: String,
    /// As the program gave it.
    pub owner: OwnerId,
    /// As the program gave it.
    pub transaction: TransactionId,
}

/// A granted lock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// Who.
    pub party: Party,
    /// The mode it holds.
    pub mode: Mode,
    /// For how long, in microseconds.
    pub age_us: u64,
    /// Its token.
    pub token: Token,
    /// It was told that it blocks somebody who wants this.
    pub told: Option<Mode>,
    /// Its program granted it to itself.
    pub fast: bool,
}

/// A waiting lock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Waiter {
    /// Who.
    pub party: Party,
    /// The mode it wants.
    pub wanted: Mode,
    /// The mode it holds meanwhile, if it converts.
    pub held: Option<Mode>,
    /// Which queue.
    pub kind: Kind,
    /// For how long, in microseconds.
    pub age_us: u64,
}

/// A shadow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ShadowRow {
    /// Owned now.
    pub owned: Option<Mode>,
    /// Join of what local programs hold.
    pub need: Option<Mode>,
    /// What the master was last told it holds.
    pub told_held: Option<Mode>,
    /// What the master was last told it wants.
    pub told_conv: Option<Mode>,
    /// The head as last heard.
    pub head: Option<Head>,
    /// Last statement sent.
    pub n: u64,
    /// Last change heard.
    pub g: u64,
    /// Last statement of ours that the master said it heard.
    pub a: u64,
    /// Sequence of the value block here.
    pub value: u64,
    /// Fence of the last grant.
    pub fence: Fence,
}

/// A master.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MasterRow {
    /// The first waiter.
    pub head: Option<Head>,
    /// Nodes in the convert queue, in order.
    pub converting: Vec<NodeId>,
    /// Nodes in the wait queue, in order.
    pub waiting: Vec<NodeId>,
    /// Sequence of the newest value block known here.
    pub value: u64,
    /// Whether it is believed.
    pub value_valid: bool,
    /// Openers on all nodes.
    pub openers: u32,
    /// Nodes that left and may still act under what they had of it: what does not go beside that waits for a proof (L4).
    pub departed: Vec<NodeId>,
}

/// What the master knows of one shadow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RecordRow {
    /// Which node.
    pub node: NodeId,
    /// What it is believed to hold.
    pub held: Option<Mode>,
    /// What it is believed to want.
    pub conv: Option<Mode>,
    /// Changes made of the master's own accord.
    pub g: u64,
    /// Last statement heard.
    pub a: u64,
    /// Number of the head it said it blocks.
    pub busy: u64,
}

impl Wire for Look {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.question);
        out.u16(self.space.0);
        match &self.at {
            At::Resource(name) => {
                out.u8(0);
                out.name(name);
            }
            At::All => out.u8(1),
            At::Waiting => out.u8(2),
            At::Branches(name) => {
                out.u8(3);
                out.option(name.as_ref(), |out, name| out.name(name));
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Look, Malformed> {
        Ok(Look {
            question: r.u64()?,
            space: SpaceId(r.u16()?),
            at: match r.u8()? {
                0 => At::Resource(r.name()?),
                1 => At::All,
                2 => At::Waiting,
                3 => At::Branches(r.option("branch", Reader::name)?),
                n => return Err(Malformed::Unknown { field: "place to look at", value: n.into() }),
            },
        })
    }
}

impl Wire for Seen {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.question);
        out.bool(self.cut);
        out.u32(self.rows.len() as u32);
        for row in &self.rows {
            out.name(&row.name);
            row.what.encode(out);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Seen, Malformed> {
        let question = r.u64()?;
        let cut = r.bool("cut")?;
        let n = r.count("rows", ROWS_MAX)?;
        let mut rows = Vec::with_capacity(n.min(64));
        for _ in 0..n {
            rows.push(Row { name: r.name()?, what: What::decode(r)? });
        }
        Ok(Seen { question, cut, rows })
    }
}

impl Wire for Party {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.lock.0);
        out.u32(self.pid);
        out.label(&self.label);
        out.u64(self.owner.0);
        out.u64(self.transaction.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Party, Malformed> {
        Ok(Party {
            lock: LockId(r.u64()?),
            pid: r.u32()?,
            label: r.label("label")?.into(),
            owner: OwnerId(r.u64()?),
            transaction: TransactionId(r.u64()?),
        })
    }
}

impl Wire for What {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            What::Holder(h) => {
                out.u8(1);
                h.party.encode(out);
                out.mode(h.mode);
                out.u64(h.age_us);
                h.token.encode(out);
                out.mode_option(h.told);
                out.bool(h.fast);
            }
            What::Waiter(w) => {
                out.u8(2);
                w.party.encode(out);
                out.mode(w.wanted);
                out.mode_option(w.held);
                w.kind.encode(out);
                out.u64(w.age_us);
            }
            What::Shadow(s) => {
                out.u8(3);
                out.mode_option(s.owned);
                out.mode_option(s.need);
                out.mode_option(s.told_held);
                out.mode_option(s.told_conv);
                out.option(s.head.as_ref(), |out, head| head.encode(out));
                out.u64(s.n);
                out.u64(s.g);
                out.u64(s.a);
                out.u64(s.value);
                out.u64(s.fence.number());
            }
            What::Master(m) => {
                out.u8(4);
                out.option(m.head.as_ref(), |out, head| head.encode(out));
                for queue in [&m.converting, &m.waiting] {
                    out.u32(queue.len() as u32);
                    for node in queue {
                        out.u16(node.0);
                    }
                }
                out.u64(m.value);
                out.bool(m.value_valid);
                out.u32(m.openers);
                out.u32(m.departed.len() as u32);
                for node in &m.departed {
                    out.u16(node.0);
                }
            }
            What::Record(k) => {
                out.u8(5);
                out.u16(k.node.0);
                out.mode_option(k.held);
                out.mode_option(k.conv);
                out.u64(k.g);
                out.u64(k.a);
                out.u64(k.busy);
            }
            What::Branch(opened) => {
                out.u8(6);
                out.u32(*opened);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<What, Malformed> {
        Ok(match r.u8()? {
            1 => What::Holder(Holder {
                party: Party::decode(r)?,
                mode: r.mode()?,
                age_us: r.u64()?,
                token: Token::decode(r)?,
                told: r.mode_option()?,
                fast: r.bool("fast")?,
            }),
            2 => What::Waiter(Waiter {
                party: Party::decode(r)?,
                wanted: r.mode()?,
                held: r.mode_option()?,
                kind: Kind::decode(r)?,
                age_us: r.u64()?,
            }),
            3 => What::Shadow(ShadowRow {
                owned: r.mode_option()?,
                need: r.mode_option()?,
                told_held: r.mode_option()?,
                told_conv: r.mode_option()?,
                head: r.option("head", Head::decode)?,
                n: r.u64()?,
                g: r.u64()?,
                a: r.u64()?,
                value: r.u64()?,
                fence: Fence::from_number(r.u64()?),
            }),
            4 => {
                let head = r.option("head", Head::decode)?;
                let converting = nodes(r)?;
                let waiting = nodes(r)?;
                What::Master(MasterRow {
                    head,
                    converting,
                    waiting,
                    value: r.u64()?,
                    value_valid: r.bool("value validity")?,
                    openers: r.u32()?,
                    departed: nodes(r)?,
                })
            }
            5 => What::Record(RecordRow {
                node: NodeId(r.u16()?),
                held: r.mode_option()?,
                conv: r.mode_option()?,
                g: r.u64()?,
                a: r.u64()?,
                busy: r.u64()?,
            }),
            6 => What::Branch(r.u32()?),
            n => return Err(Malformed::Unknown { field: "row", value: n.into() }),
        })
    }
}

fn nodes(r: &mut Reader<'_>) -> Result<Vec<NodeId>, Malformed> {
    let n = r.count("queued nodes", crate::limit::NODES_MAX)?;
    (0..n).map(|_| Ok(NodeId(r.u16()?))).collect()
}

impl Wire for Token {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.fence.number());
        out.u64(self.local);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Token, Malformed> {
        Ok(Token { fence: Fence::from_number(r.u64()?), local: r.u64()? })
    }
}
