//! What nodes tell each other in a search for deadlocks (C17, C18, D1).
//!
//! ```text
//!   a node with an old wait          whoever may know            the victim's node        every member
//!            │   Trace (resources, transactions)   │                      │                    │
//!            ├────────────────────────────────────►│                      │                    │
//!            │   Traced (sights of resources)      │                      │                    │
//!            │◄────────────────────────────────────┤                      │                    │
//!            │      … until nothing is unknown; then all of it once more …│                    │
//!            │   Verdict (wait, cycle)             │                      │                    │
//!            ├───────────────────────────────────────────────────────────►│   Broken (cycle)   │
//!            │                                     │                      ├───────────────────►│
//! ```
//!
//! What is short goes with the locks, for a search that waits behind bulk data finds nothing in time; what is long goes with those. All but
//! `Broken` is of one view: what was seen in another is nobody's.

use alloc::vec::Vec;

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::{Epoch, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use crate::limit::{MESSAGE_BYTES_MAX, NODES_MAX};
use crate::message::lock::Kind;
use crate::message::look::Party;
use crate::mode::Mode;
use crate::name::Name;
use crate::stamp::Stamp;
use crate::time::Duration;

/// Resources and transactions that one question may name.
pub const ASKED_MAX: usize = 4096;
/// Holders or waiters in one sight.
pub const ROWS_MAX: usize = 4096;
/// Sights in one answer take no more bytes: half of what a circuit carries as one message, so that names of programs and what stands around
/// them find room.
pub const SIGHTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
/// Waits in one cycle; what is longer is told as far as this.
pub const LINKS_MAX: usize = 64;

/// Who holds and waits as one, in a search: a transaction wherever it is at work, else an owner within a session, else the session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Actor {
    /// Of any node.
    Transaction(TransactionId),
    /// Of one session. Owner 0 is whatever in it names no owner.
    Owner(NodeId, SessionId, OwnerId),
    /// A lock that is by itself ([`OwnerId::APART`]).
    Lock(NodeId, LockId),
}

impl Actor {
    /// Who stands behind a lock of this node.
    pub fn of(node: NodeId, lock: LockId, owner: OwnerId, transaction: TransactionId) -> Actor {
        match (transaction, owner) {
            (TransactionId(0), OwnerId::APART) => Actor::Lock(node, lock),
            (TransactionId(0), owner) => Actor::Owner(node, lock.session(), owner),
            (transaction, _) => Actor::Transaction(transaction),
        }
    }
}

/// Which wait: the same lock may wait again later. Of two the larger one is the younger (D7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitId {
    /// Since when.
    pub since: Since,
    /// Where.
    pub node: NodeId,
    /// In which lockspace.
    pub space: SpaceId,
    /// Whose.
    pub lock: LockId,
    /// Which of the waits on the resource at that node.
    pub number: u64,
}

/// Since when a lock waits, in an order that all nodes compute alike: whatever a search saw earlier is older, and of what it saw in the same
/// pass whatever had waited longer.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// The cluster clock of that search; 0 before one has seen it.
    pub stamp: Stamp,
    /// 2^32 less the microseconds for which it had waited then.
    pub youth: u64,
}

impl Since {
    /// A search of this stamp sees it, and it has waited for so long.
    pub fn seen(stamp: Stamp, waited: Duration) -> Since {
        let waited = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        Since { stamp, youth: (1u64 << 32).saturating_sub(waited) }
    }

    /// Has a search seen it?
    pub fn is_seen(self) -> bool {
        self.stamp != Stamp(0)
    }
}

/// Tell what you see of these.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Trace {
    /// The view in which it searches.
    pub epoch: Epoch,
    /// Number of the question, chosen by who asks.
    pub question: u64,
    /// The cluster clock when the search began.
    pub stamp: Stamp,
    /// Resources on which somebody waits.
    pub resources: Vec<(SpaceId, Name)>,
    /// Transactions that hold something in the way of somebody: what do they wait for?
    pub transactions: Vec<TransactionId>,
}

/// The answer: the resources that were asked for, and those on which waits whoever holds them or was asked for, and so on, as far as that
/// goes at one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Traced {
    /// The view in which this was seen.
    pub epoch: Epoch,
    /// Of the question.
    pub question: u64,
    /// Of what was asked for, or of what that waits for, not all went into the answer. What is left out counts as whatever goes on.
    pub cut: bool,
    /// Transactions that were asked for and wait here, of which nothing is told.
    pub left: Vec<TransactionId>,
    /// By resource.
    pub sights: Vec<Sight>,
}

/// What one node sees of a resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sight {
    /// In which lockspace.
    pub space: SpaceId,
    /// Which resource.
    pub name: Name,
    /// Granted and waiting locks that matter. Whoever holds something and waits for nothing is left out.
    pub holds: Vec<Hold>,
    /// Waits in the order of the queue: those of whoever was asked for, and before them the first of each mode.
    pub waits: Vec<Wait>,
    /// Whatever waits here waits for programs of this node only: no other need be asked (D2).
    pub alone: bool,
    /// Of what its holders wait for not all is told: there was no room for it, and it is to be asked for by the name of this resource.
    pub more: bool,
    /// Somebody here waits for an answer of the master, which comes whatever others do: what stands in its queue for this node may be that.
    pub asks: bool,
    /// From the master: nodes with somebody waiting, in the order of its queue.
    pub order: Vec<NodeId>,
    /// From the master: nodes that it knows to use the resource. No other can keep anybody waiting here.
    pub records: Vec<NodeId>,
    /// Entries pass each other within one look at the queue (C10).
    pub passover: bool,
}

/// A granted lock of somebody who waits, or may wait elsewhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Hold {
    /// Which.
    pub lock: LockId,
    /// Who.
    pub owner: OwnerId,
    /// Who.
    pub transaction: TransactionId,
    /// In which mode.
    pub mode: Mode,
}

/// A lock that waits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wait {
    /// Who.
    pub party: Party,
    /// What it wants.
    pub wanted: Mode,
    /// What would do as well.
    pub alternate: Option<Mode>,
    /// What it holds meanwhile, if it converts.
    pub held: Option<Mode>,
    /// In which queue.
    pub kind: Kind,
    /// Which of the waits on this resource at this node.
    pub number: u64,
    /// Since when.
    pub since: Since,
    /// It may pass others in a strict lockspace as well (NOORDER).
    pub passes: bool,
    /// It is no wait that a search counts (NODLCKWT): its program resolves it.
    pub excused: bool,
    /// What the node owns would do, and it stands behind the first of the master's queue (C13).
    pub held_back: bool,
    /// It was put before those who waited already (HEADQUE).
    pub ahead: bool,
    /// For so many things waits at this node whoever waits here: with fewer of them told, it may be that it goes on.
    pub of: u32,
}

impl Wait {
    /// Where it stands among the waits of its node and resource: converts before newcomers, and in either those that were put first, the last
    /// of them before all.
    pub fn place(&self) -> (bool, bool, u64) {
        let number = if self.ahead { u64::MAX - self.number } else { self.number };
        (self.kind == Kind::New, !self.ahead, number)
    }
}

/// A cycle that two passes have found: this wait of yours is to be refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Verdict {
    /// The view in which it was found.
    pub epoch: Epoch,
    /// Which.
    pub victim: WaitId,
    /// Why.
    pub cycle: Vec<Link>,
}

/// One wait of a cycle. It waits for the next; the last one for the first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// At which node.
    pub node: NodeId,
    /// In which lockspace.
    pub space: SpaceId,
    /// On which resource.
    pub name: Name,
    /// Who.
    pub party: Party,
    /// What it wants.
    pub wanted: Mode,
    /// What it holds meanwhile, if it converts.
    pub held: Option<Mode>,
    /// The mode in which the next one holds the resource; none if it only waits before this one.
    pub behind: Option<Mode>,
}

/// A deadlock was broken. Told to all members, for those who ask what happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Broken {
    /// Which wait was refused.
    pub victim: WaitId,
    /// How long it had waited, in microseconds.
    pub waited_us: u64,
    /// The cycle.
    pub cycle: Vec<Link>,
}

impl Wire for Trace {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.epoch.0);
        out.u64(self.question);
        out.u64(self.stamp.0);
        out.u32(self.resources.len() as u32);
        for (space, name) in &self.resources {
            out.u16(space.0);
            out.name(name);
        }
        out.u32(self.transactions.len() as u32);
        for transaction in &self.transactions {
            out.u64(transaction.0);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Trace, Malformed> {
        let epoch = Epoch(r.u32()?);
        let (question, stamp) = (r.u64()?, Stamp(r.u64()?));
        let resources = list(r, "resources", ASKED_MAX, |r| Ok((SpaceId(r.u16()?), r.name()?)))?;
        let transactions = list(r, "transactions", ASKED_MAX, |r| Ok(TransactionId(r.u64()?)))?;
        Ok(Trace { epoch, question, stamp, resources, transactions })
    }
}

impl Wire for Traced {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.epoch.0);
        out.u64(self.question);
        out.bool(self.cut);
        out.u32(self.left.len() as u32);
        for transaction in &self.left {
            out.u64(transaction.0);
        }
        out.u32(self.sights.len() as u32);
        for sight in &self.sights {
            sight.encode(out);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Traced, Malformed> {
        let epoch = Epoch(r.u32()?);
        let (question, cut) = (r.u64()?, r.bool("cut")?);
        let left = list(r, "transactions", ASKED_MAX, |r| Ok(TransactionId(r.u64()?)))?;
        let sights = list(r, "sights", ROWS_MAX, Sight::decode)?;
        Ok(Traced { epoch, question, cut, left, sights })
    }
}

impl Wire for Sight {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u16(self.space.0);
        out.name(&self.name);
        out.u32(self.holds.len() as u32);
        for hold in &self.holds {
            hold.encode(out);
        }
        out.u32(self.waits.len() as u32);
        for wait in &self.waits {
            wait.encode(out);
        }
        out.bool(self.alone);
        out.bool(self.more);
        out.bool(self.asks);
        out.u32(self.order.len() as u32);
        for node in &self.order {
            out.u16(node.0);
        }
        out.u32(self.records.len() as u32);
        for node in &self.records {
            out.u16(node.0);
        }
        out.bool(self.passover);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Sight, Malformed> {
        let (space, name) = (SpaceId(r.u16()?), r.name()?);
        let holds = list(r, "holders", ROWS_MAX, Hold::decode)?;
        let waits = list(r, "waiters", ROWS_MAX, Wait::decode)?;
        let (alone, more, asks) = (r.bool("alone")?, r.bool("more")?, r.bool("asks")?);
        let order = list(r, "queued nodes", NODES_MAX, |r| Ok(NodeId(r.u16()?)))?;
        let records = list(r, "using nodes", NODES_MAX, |r| Ok(NodeId(r.u16()?)))?;
        let passover = r.bool("passover")?;
        Ok(Sight { space, name, holds, waits, alone, more, asks, order, records, passover })
    }
}

impl Wire for Hold {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.lock.0);
        out.u64(self.owner.0);
        out.u64(self.transaction.0);
        out.mode(self.mode);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Hold, Malformed> {
        Ok(Hold {
            lock: LockId(r.u64()?),
            owner: OwnerId(r.u64()?),
            transaction: TransactionId(r.u64()?),
            mode: r.mode()?,
        })
    }
}

impl Wire for Wait {
    fn encode(&self, out: &mut Writer<'_>) {
        self.party.encode(out);
        out.mode(self.wanted);
        out.mode_option(self.alternate);
        out.mode_option(self.held);
        self.kind.encode(out);
        out.u64(self.number);
        self.since.encode(out);
        out.bool(self.passes);
        out.bool(self.excused);
        out.bool(self.held_back);
        out.bool(self.ahead);
        out.u32(self.of);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Wait, Malformed> {
        Ok(Wait {
            party: Party::decode(r)?,
            wanted: r.mode()?,
            alternate: r.mode_option()?,
            held: r.mode_option()?,
            kind: Kind::decode(r)?,
            number: r.u64()?,
            since: Since::decode(r)?,
            passes: r.bool("passes")?,
            excused: r.bool("excused")?,
            held_back: r.bool("held back")?,
            ahead: r.bool("ahead")?,
            of: r.u32()?,
        })
    }
}

impl Wire for Since {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.stamp.0);
        out.u64(self.youth);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Since, Malformed> {
        Ok(Since { stamp: Stamp(r.u64()?), youth: r.u64()? })
    }
}

impl Wire for WaitId {
    fn encode(&self, out: &mut Writer<'_>) {
        self.since.encode(out);
        out.u16(self.node.0);
        out.u16(self.space.0);
        out.u64(self.lock.0);
        out.u64(self.number);
    }

    fn decode(r: &mut Reader<'_>) -> Result<WaitId, Malformed> {
        Ok(WaitId {
            since: Since::decode(r)?,
            node: NodeId(r.u16()?),
            space: SpaceId(r.u16()?),
            lock: LockId(r.u64()?),
            number: r.u64()?,
        })
    }
}

impl Wire for Verdict {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.epoch.0);
        self.victim.encode(out);
        out.u32(self.cycle.len() as u32);
        for link in &self.cycle {
            link.encode(out);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Verdict, Malformed> {
        let (epoch, victim) = (Epoch(r.u32()?), WaitId::decode(r)?);
        Ok(Verdict { epoch, victim, cycle: list(r, "links", LINKS_MAX, Link::decode)? })
    }
}

impl Wire for Link {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u16(self.node.0);
        out.u16(self.space.0);
        out.name(&self.name);
        self.party.encode(out);
        out.mode(self.wanted);
        out.mode_option(self.held);
        out.mode_option(self.behind);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Link, Malformed> {
        Ok(Link {
            node: NodeId(r.u16()?),
            space: SpaceId(r.u16()?),
            name: r.name()?,
            party: Party::decode(r)?,
            wanted: r.mode()?,
            held: r.mode_option()?,
            behind: r.mode_option()?,
        })
    }
}

impl Wire for Broken {
    fn encode(&self, out: &mut Writer<'_>) {
        self.victim.encode(out);
        out.u64(self.waited_us);
        out.u32(self.cycle.len() as u32);
        for link in &self.cycle {
            link.encode(out);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Broken, Malformed> {
        Ok(Broken {
            victim: WaitId::decode(r)?,
            waited_us: r.u64()?,
            cycle: list(r, "links", LINKS_MAX, Link::decode)?,
        })
    }
}

fn list<T>(
    r: &mut Reader<'_>,
    field: &'static str,
    max: usize,
    decode: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let n = r.count(field, max)?;
    (0..n).map(|_| decode(r)).collect()
}
