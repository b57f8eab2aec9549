//! Local requests that wait, in their two queues.

use alloc::collections::VecDeque;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, TransactionId};
use oarlock_layout::message::lock::Kind;
use oarlock_layout::message::trace::Since;
use oarlock_layout::mode::Mode;
use oarlock_layout::time::Instant;

/// A local request that was not granted at once.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Waiting {
    pub(crate) lock: LockId,
    pub(crate) mode: Mode,
    pub(crate) alternate: Option<Mode>,
    /// The mode it holds meanwhile, if it converts.
    pub(crate) from: Option<Mode>,
    pub(crate) flags: Flags,
    pub(crate) owner: OwnerId,
    pub(crate) transaction: TransactionId,
    pub(crate) since: Instant,
    /// When a search first saw it (D7).
    pub(crate) seen: Since,
    pub(crate) deadline: Option<Instant>,
    /// Its number among the queued requests of this shadow.
    pub(crate) attempt: u64,
    /// The last statement made before it came, if it uses the value block: an answer to that one or an
    /// earlier one may be older than the request, and older than a write that was over before it (R5 e).
    pub(crate) asked_after: u64,
    /// It is granted at once or is the victim of a deadlock: asked for as a try, and refused as this.
    pub(crate) victim: bool,
}

impl Waiting {
    pub(crate) fn kind(&self) -> Kind {
        if self.from.is_some() { Kind::Convert } else { Kind::New }
    }

    /// A convert that asks for no more than it has waits for nobody but an answer of the master (C11).
    pub(crate) fn in_place(&self) -> bool {
        self.from.is_some_and(|from| from.covers(self.mode))
    }

    /// What a refused try hears.
    pub(crate) fn refusal(&self) -> Code {
        if self.victim { Code::Deadlock } else { Code::Busy }
    }

    /// It waits for an answer of the master and for nobody else.
    pub(crate) fn waits_for_an_answer(&self) -> bool {
        self.in_place() || self.is_try() || (self.from.is_none() && self.flags.contains(Flags::EXPEDITE))
    }

    pub(crate) fn is_try(&self) -> bool {
        self.flags.contains(Flags::NOQUEUE)
    }
}

/// Asked with the modes that somebody would take: could any of them be granted as things stand?
pub(crate) type Hope<'a> = dyn FnMut(&dyn Fn(Mode) -> bool) -> bool + 'a;

/// The queues of a shadow. Converts come before newcomers; all are one list when scanned.
///
/// Beside each queue stands how many of it want which mode: a step must not walk a queue of thousands to learn
/// that nobody in it can be served.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queues {
    /// Those who wait for an answer of the master and for nobody else: tries, changes in place, expedited NL.
    /// Whatever comes later waits behind that answer (R2).
    front: VecDeque<Waiting>,
    converts: VecDeque<Waiting>,
    waits: VecDeque<Waiting>,
    wishes: Wishes,
}

/// Counts over the entries that wait for others.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wishes {
    /// Converts, and newcomers, of which holders are to be told, by mode.
    converts_told: [u32; 6],
    waits_told: [u32; 6],
    /// Newcomers that would take a mode, second choices included.
    waits_taking: [u32; 6],
    /// Newcomers with NOORDER.
    waits_without_order: u32,
}

impl Wishes {
    const NONE: Wishes =
        Wishes { converts_told: [0; 6], waits_told: [0; 6], waits_taking: [0; 6], waits_without_order: 0 };

    fn count(&mut self, entry: &Waiting, change: impl Fn(&mut u32)) {
        let convert = entry.kind() == Kind::Convert;
        let told = if convert { &mut self.converts_told } else { &mut self.waits_told };
        change(&mut told[entry.mode as usize]);
        if !convert {
            for mode in [Some(entry.mode), entry.alternate].into_iter().flatten() {
                change(&mut self.waits_taking[mode as usize]);
            }
            if entry.flags.contains(Flags::NOORDER) {
                change(&mut self.waits_without_order);
            }
        }
    }
}

impl Queues {
    /// Nobody waits.
    pub(crate) const NONE: Queues = Queues {
        front: VecDeque::new(),
        converts: VecDeque::new(),
        waits: VecDeque::new(),
        wishes: Wishes::NONE,
    };

    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty() && !self.has_waiters()
    }

    /// Does anybody wait for others, and not only for an answer?
    fn has_waiters(&self) -> bool {
        !self.converts.is_empty() || !self.waits.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.front.len() + self.converts.len() + self.waits.len()
    }

    pub(crate) fn first(&self) -> Option<&Waiting> {
        self.front.front().or(self.converts.front()).or(self.waits.front())
    }

    /// The first who waits for others, and not only for an answer.
    pub(crate) fn first_waiter(&self) -> Option<&Waiting> {
        self.converts.front().or(self.waits.front())
    }

    /// The first newcomer, if nobody stands before it.
    pub(crate) fn only_newcomers(&self) -> Option<&Waiting> {
        if self.front.is_empty() && self.converts.is_empty() { self.waits.front() } else { None }
    }

    /// Whoever came later waits behind the answer of the first try that has none yet (R2): its number.
    pub(crate) fn first_try(&self) -> Option<u64> {
        self.front.iter().find(|e| e.is_try()).map(|e| e.attempt)
    }

    /// The try or waiter that came first, if others who wait for an answer stand before it.
    pub(crate) fn held_up(&self) -> Option<&Waiting> {
        let first = self.front.front()?;
        let tried = self.front.iter().find(|e| e.is_try());
        let waits = self.first_waiter().filter(|e| tried.is_none_or(|tried| e.attempt < tried.attempt));
        waits.or(tried).filter(|e| e.attempt != first.attempt)
    }

    /// All but the newcomers that wait for others.
    pub(crate) fn converts(&self) -> impl Iterator<Item = &Waiting> {
        self.front.iter().chain(&self.converts)
    }

    /// The same, to be changed in what counts in no queue.
    pub(crate) fn waiters_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.converts.iter_mut().chain(&mut self.waits)
    }

    /// Does nobody wait for an answer only?
    pub(crate) fn has_no_questions(&self) -> bool {
        self.front.is_empty()
    }

    /// Those who wait for others, and not only for an answer.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = &Waiting> {
        self.converts.iter().chain(&self.waits)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.converts().chain(&self.waits)
    }

    /// Statements are counted anew: nothing was asked yet.
    pub(crate) fn ask_anew(&mut self) {
        for entry in self.front.iter_mut().chain(&mut self.converts).chain(&mut self.waits) {
            entry.asked_after = 0;
        }
    }

    /// Queues at the tail of its own queue, or at the front with HEADQUE (scenario 6). What passes every queue
    /// and only waits for an answer goes to the very front, in front of tries and behind its like (C11, scenario 3).
    pub(crate) fn push(&mut self, entry: Waiting) {
        if entry.waits_for_an_answer() {
            if entry.is_try() {
                self.front.push_back(entry);
            } else {
                let place = self.front.iter().position(Waiting::is_try).unwrap_or(self.front.len());
                self.front.insert(place, entry);
            }
            return;
        }
        self.wishes.count(&entry, |n| *n += 1);
        let queue = match entry.kind() {
            Kind::Convert => &mut self.converts,
            Kind::New => &mut self.waits,
        };
        if entry.flags.contains(Flags::HEADQUE) {
            queue.push_front(entry);
        } else {
            queue.push_back(entry);
        }
    }

    pub(crate) fn pop_waiter(&mut self) -> Option<Waiting> {
        let entry = self.converts.pop_front().or_else(|| self.waits.pop_front())?;
        self.wishes.count(&entry, |n| *n -= 1);
        Some(entry)
    }

    pub(crate) fn remove(&mut self, lock: LockId) -> Option<Waiting> {
        let is = |e: &Waiting| e.lock == lock;
        if let Some(index) = self.front.iter().position(is) {
            return self.front.remove(index);
        }
        let entry = match self.converts.iter().position(is) {
            Some(index) => self.converts.remove(index),
            None => self.waits.iter().position(is).and_then(|index| self.waits.remove(index)),
        }?;
        self.wishes.count(&entry, |n| *n -= 1);
        Some(entry)
    }

    /// Offers those who wait for an answer and takes out those that were taken: changes in place up to the first
    /// that was not, then tries up to the first that was not.
    pub(crate) fn offer_front(&mut self, take: &mut dyn FnMut(&Waiting) -> bool) {
        while self.front.front().is_some_and(|entry| !entry.is_try() && take(entry)) {
            self.front.pop_front();
        }
        let Some(tried) = self.front.iter().position(Waiting::is_try) else { return };
        while self.front.get(tried).is_some_and(&mut *take) {
            self.front.remove(tried);
        }
    }

    /// Offers every waiter but the first, in order, and takes out those that were taken. `hope` says whether any
    /// newcomer could be taken in a mode as things stand; without hope the rest is not even looked at.
    pub(crate) fn offer_rest(
        &mut self,
        only_without_order: bool,
        hope: &mut Hope<'_>,
        take: &mut dyn FnMut(&Waiting) -> bool,
    ) {
        let mut first = true;
        let wishes = &mut self.wishes;
        self.converts.retain(|entry| {
            let passed = first || (only_without_order && !entry.flags.contains(Flags::NOORDER));
            first = false;
            if passed || !take(entry) {
                return true;
            }
            wishes.count(entry, |n| *n -= 1);
            false
        });
        let mut waits = core::mem::take(&mut self.waits);
        let mut kept = VecDeque::new();
        while let Some(entry) = waits.pop_front() {
            if first {
                first = false;
                kept.push_back(entry);
                continue;
            }
            let taking = self.wishes.waits_taking;
            let none = only_without_order && self.wishes.waits_without_order == 0;
            if none || !hope(&|mode| taking[mode as usize] > 0) {
                kept.push_back(entry);
                break;
            }
            if (only_without_order && !entry.flags.contains(Flags::NOORDER)) || !take(&entry) {
                kept.push_back(entry);
            } else {
                self.wishes.count(&entry, |n| *n -= 1);
            }
        }
        // Those who were looked at go back in front of those who were not, which may be thousands.
        while let Some(entry) = kept.pop_back() {
            waits.push_front(entry);
        }
        self.waits = waits;
    }

    /// Do holders have to hear that somebody waits for `mode`, and whom does it come from if from a single
    /// convert? That one is not told of its own wish.
    pub(crate) fn wanted(&self, mode: Mode) -> Option<Option<LockId>> {
        let (converts, waits) =
            (self.wishes.converts_told[mode as usize], self.wishes.waits_told[mode as usize]);
        match (converts, waits) {
            (0, 0) => None,
            (1, 0) => Some(self.converts.iter().find(|e| e.mode == mode).map(|e| e.lock)),
            _ => Some(None),
        }
    }

    /// Would this convert and one that waits already wait for each other (D9, scenarios 50, 53)? Those ahead
    /// of it wait for its granted mode; it waits for its place behind them.
    pub(crate) fn conversion_deadlock(&self, entry: &Waiting) -> bool {
        let Some(held) = entry.from else { return false };
        if entry.in_place() || entry.flags.intersects(Flags::NOQUEUE | Flags::NODLCKWT) {
            return false;
        }
        let front = entry.flags.contains(Flags::HEADQUE);
        self.converts.iter().filter(|e| !e.in_place() && !e.is_try()).any(|other| {
            if front {
                other.from.is_some_and(|held| !held.compatible(entry.mode))
            } else {
                !other.mode.compatible(held)
            }
        })
    }
}
