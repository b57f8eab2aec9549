//! What a search for deadlocks needs of a node's locks (C17, D1).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, Slot, TransactionId};
use oarlock_layout::message::look::Party;
use oarlock_layout::message::trace::{Actor, Hold, Sight, Since, Wait, WaitId};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::Words;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};

use crate::config::Order;
use crate::output::Output;
use crate::space::Lockspace;
use crate::waiting::Waiting;

/// A lock that waits for others, and not only for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// On which resource.
    pub slot: Slot,
    /// Which.
    pub lock: LockId,
    /// As the program gave it.
    pub owner: OwnerId,
    /// As the program gave it.
    pub transaction: TransactionId,
    /// Since when.
    pub since: Instant,
    /// No search counts it (NODLCKWT).
    pub excused: bool,
    /// It came to stand before others: a convert, or HEADQUE.
    pub jumped: bool,
}

/// How much an actor matters to whoever asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    /// Somebody else.
    Other,
    /// It holds what somebody waits for.
    Wanted,
    /// It was asked for.
    Asked,
}

impl Lockspace {
    /// Everybody here who waits for others, resource by resource, first in its queue first.
    pub fn waiters(&self) -> impl Iterator<Item = Waiter> + '_ {
        let slots: BTreeSet<Slot> = self.waiting.values().copied().collect();
        slots.into_iter().filter_map(|slot| self.shadow(slot)).flat_map(|shadow| {
            shadow.rare.queues.waiters().map(|entry| Waiter {
                slot: shadow.slot,
                lock: entry.lock,
                owner: entry.owner,
                transaction: entry.transaction,
                since: entry.since,
                excused: entry.flags.contains(Flags::NODLCKWT),
                jumped: entry.from.is_some() || entry.flags.contains(Flags::HEADQUE),
            })
        })
    }

    /// A search of this stamp sees whoever waits and was not seen by one yet.
    pub fn see_waiters(&mut self, now: Instant, stamp: Stamp) {
        for slot in core::mem::take(&mut self.index.unseen) {
            let Some(shadow) = self.shadows.get_mut(slot.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            if shadow.rare.queues.waiters().any(|e| !e.seen.is_seen()) {
                for entry in shadow.rare.queues.waiters_mut().filter(|e| !e.seen.is_seen()) {
                    entry.seen = Since::seen(stamp, now.since(entry.since));
                }
            }
        }
    }

    /// Where an actor waits for others: on which resources, on one as often as it has locks that wait there.
    pub fn waits_of(&self, actor: Actor) -> impl Iterator<Item = Slot> + '_ {
        self.index.of(actor)
    }

    /// How many have begun to wait for others here, and how many waits have ended of whoever still waits for something else.
    pub fn turns(&self) -> (u64, u64) {
        (self.index.begun, self.index.turned)
    }

    /// Does anybody wait here?
    pub fn has_waiters(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Granted locks on a resource that keep others waiting: NL does not, and whoever has NODLCKBLK is not counted.
    pub fn holds(&self, words: &dyn Words, slot: Slot) -> Vec<Hold> {
        let entries = words.entries(slot).into_iter();
        let counts =
            entries.filter(|entry| entry.mode != Mode::NL && !entry.claim.flags.contains(Flags::NODLCKBLK));
        let hold = |entry: oarlock_layout::segment::Entry| Hold {
            lock: entry.claim.lock,
            owner: entry.claim.owner,
            transaction: entry.claim.transaction,
            mode: entry.mode,
        };
        counts.map(hold).collect()
    }

    /// What this node sees of a resource: of the holders `holds`, of those who wait whoever has a rank, the first of all, and
    /// before the last one who has one the first of each mode; but no more than `most` of either, and then whoever was asked for before
    /// others. True beside it: there are more. How many things an actor waits for is left to the caller.
    pub fn sight(
        &self,
        words: &dyn Words,
        name: &Name,
        most: usize,
        mut holds: Vec<Hold>,
        rank: &dyn Fn(LockId, OwnerId, TransactionId) -> Rank,
    ) -> (Sight, bool) {
        let master = self.master(name);
        let order = master.map(|master| {
            master.rare.converting.iter().chain(&master.rare.waiting).copied().collect::<Vec<_>>()
        });
        let records = master.map(|master| master.records.keys().copied().collect());
        let shadow = words.find(name).and_then(|slot| self.shadow(slot));
        let (mut waits, mut alone, mut asks) = (Vec::new(), false, false);
        let mut cut = holds.len() > most;
        holds.truncate(most);
        if let Some(shadow) = shadow {
            let queues = &shadow.rare.queues;
            // Nobody here wants more than is owned, and nobody elsewhere comes first: the master need not do anything.
            alone = shadow.rare.wish.conv.is_none()
                && shadow.rare.head.is_none()
                && queues.waiters().all(|e| shadow.owned.is_some_and(|owned| owned.covers(e.mode)));
            asks = !queues.has_no_questions();
            let held_back = |e: &Waiting| {
                let covered = shadow.owned.is_some_and(|owned| owned.covers(e.mode));
                covered && !shadow.passes_head(self.config().order, words, e)
            };
            let mut modes = BTreeSet::new();
            let mut rows = Vec::new();
            // What is after the last one of these keeps nobody waiting who matters.
            let mut end = 0;
            for (place, entry) in queues.waiters().enumerate() {
                let rank = match place {
                    // Without the first of all, those behind it would seem to wait for another.
                    0 => Rank::Asked,
                    _ => rank(entry.lock, entry.owner, entry.transaction),
                };
                let kind = (entry.mode as u8, entry.alternate.map(|mode| mode as u8), excused(entry));
                if rank > Rank::Other || modes.insert(kind) {
                    rows.push((rank, entry));
                    end = if rank > Rank::Other { rows.len() } else { end };
                }
            }
            rows.truncate(end);
            cut |= rows.len() > most;
            keep(&mut rows, most);
            let row = |(_, entry): (Rank, &Waiting)| Wait { held_back: held_back(entry), ..wait(entry) };
            waits = rows.into_iter().map(row).collect();
        }
        let sight = Sight {
            space: self.config().space,
            name: name.clone(),
            holds,
            waits,
            alone,
            more: false,
            asks,
            order: order.unwrap_or_default(),
            records: records.unwrap_or_default(),
            passover: self.config().order == Order::Passover,
        };
        (sight, cut)
    }

    /// A search has found that this wait is one of a circle of waits, and chose it. How long it had waited; none if it does not wait any
    /// more, or again.
    pub fn handle_verdict(
        &mut self,
        now: Instant,
        words: &mut dyn Words,
        victim: &WaitId,
    ) -> Option<Duration> {
        let slot = *self.waiting.get(&victim.lock)?;
        // A releaser may have handed over to it, which is seen only now.
        self.open(now, words, slot);
        let shadow = self.shadow(slot)?;
        let is = |e: &&Waiting| (e.lock, e.attempt, e.seen) == (victim.lock, victim.number, victim.since);
        let since = shadow.rare.queues.waiters().find(is)?.since;
        let said = self.outputs.len();
        self.withdraw(now, words, victim.lock, Code::Deadlock);
        // Its program may have withdrawn it in its entry at this very moment.
        let refused = Output::Failed { lock: victim.lock, code: Code::Deadlock };
        let refused = self.outputs.iter().skip(said).any(|output| *output == refused);
        self.drain_inside(now, words);
        if !refused {
            return None;
        }
        self.counters.deadlock_victims += 1;
        Some(now.since(since))
    }

    /// A wait is refused, whether anybody has found it in a circle or not.
    #[cfg(feature = "planted")]
    pub fn refuse(&mut self, now: Instant, words: &mut dyn Words, lock: LockId) {
        self.withdraw(now, words, lock, Code::Deadlock);
        self.drain_inside(now, words);
    }
}

/// No more than so many, those of a higher rank before others, and of equals the first; in the order in which they are.
fn keep<T>(rows: &mut Vec<(Rank, T)>, most: usize) {
    if rows.len() <= most {
        return;
    }
    let mut room = most;
    let mut rooms = [Rank::Asked, Rank::Wanted, Rank::Other].map(|rank| {
        let of_rank = rows.iter().filter(|row| row.0 == rank).count().min(room);
        room -= of_rank;
        (rank, of_rank)
    });
    rows.retain(|row| {
        let (_, room) = rooms.iter_mut().find(|(rank, _)| *rank == row.0).expect("all ranks are there");
        let stays = *room > 0;
        *room -= usize::from(stays);
        stays
    });
}

fn excused(entry: &Waiting) -> bool {
    entry.flags.contains(Flags::NODLCKWT)
}

fn wait(entry: &Waiting) -> Wait {
    Wait {
        party: Party {
            lock: entry.lock,
            owner: entry.owner,
            transaction: entry.transaction,
            ..Party::default()
        },
        wanted: entry.mode,
        alternate: entry.alternate,
        held: entry.from,
        kind: entry.kind(),
        number: entry.attempt,
        since: entry.seen,
        passes: entry.flags.contains(Flags::NOORDER),
        excused: excused(entry),
        held_back: false,
        ahead: entry.flags.contains(Flags::HEADQUE),
        of: 0,
    }
}
