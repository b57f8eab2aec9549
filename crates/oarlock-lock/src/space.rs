//! One lockspace on one node.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::departed::Departed;
use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, NodeId, SessionId, Slot};
use oarlock_layout::message::lock::{Body, Handover, Packet};
use oarlock_layout::message::trace::Since;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Claim, Entry, Words};
use oarlock_layout::time::Instant;
use oarlock_layout::view::View;

use crate::config::Config;
use crate::context::Context;
use crate::counters::{Counters, How};
use crate::index::Index;
use crate::master::Master;
use crate::masters::Masters;
use crate::output::{Granted, Output, Violation};
use crate::planted::{Bug, Planted};
use crate::recovery::Stage;
use crate::request::{Adopt, Convert, Lock, Request, Unlock, alternate};
use crate::shadow::Shadow;
use crate::waiting::Waiting;

/// The masters and shadows of one lockspace on one node.
///
/// The calling contract: after each `handle_*` call drain [`poll_output`](Lockspace::poll_output) to `None`,
/// then call [`handle_timeout`](Lockspace::handle_timeout) no later than
/// [`poll_timeout`](Lockspace::poll_timeout). Nothing else moves it.
///
/// | call | when |
/// | --- | --- |
/// | `handle_view` | another view is valid; before the first nothing is granted |
/// | `restate` | all members are in the view, until it returns false |
/// | `handle_departed` | something else is known of runs that left than before, and always before the view without them |
/// | `handle_open` | all members have restated |
/// | `handle_request` | a program asks |
/// | `handle_message` | a circuit delivered a packet, in order |
/// | `handle_bell` | a caller that changes counts by itself rang |
/// | `handle_timeout` | the time of `poll_timeout` has come |
///
/// Every call gets the same [`Words`]: the counts that callers of this node may change between any two calls.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockspace {
    config: Config,
    #[serde(skip)]
    pub(crate) planted: Planted,
    pub(crate) view: View,
    pub(crate) stage: Stage,
    /// No program is granted anything new (L6).
    pub(crate) frozen: bool,
    /// By slot of `Words`: a shadow lives exactly as long as its slot is bound.
    pub(crate) shadows: Vec<Option<Shadow>>,
    pub(crate) masters: Masters,
    /// What this node knew as master of resources that others, or it anew, are masters of now.
    pub(crate) estates: BTreeMap<Name, Handover>,
    /// Somebody has left since this node was last open.
    pub(crate) departed: bool,
    /// What those who left may still act under.
    pub(crate) remains: Departed,
    /// The views since then, without the one that is valid.
    pub(crate) overtaken: Vec<View>,
    pub(crate) serial: u64,
    pub(crate) waiting: BTreeMap<LockId, Slot>,
    #[serde(default)]
    pub(crate) index: Index,
    pub(crate) deadlines: BTreeSet<(Instant, LockId)>,
    idle: BTreeSet<(Instant, Slot)>,
    /// Where the search for a slot to free goes on.
    sweep: u32,
    #[serde(with = "oarlock_layout::written::drained")]
    pub(crate) inside: VecDeque<Packet>,
    #[serde(with = "oarlock_layout::written::drained")]
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) counters: Counters,
}

/// How many slots are looked at for each new one when the table is nearly full: two keep ahead of one.
const SWEEP_STEP: u32 = 4;

/// Messages inside the node that one input may cause: so many, and so many more for each lock that waits and each
/// message that is there already. An answered lock costs two or three (a statement, a grant, the head behind it).
const INSIDE_MIN: usize = 1_000;
const INSIDE_EACH: usize = 16;

impl Lockspace {
    /// An empty lockspace.
    pub fn new(config: Config) -> Lockspace {
        Lockspace {
            config,
            planted: Planted::NONE,
            view: View::default(),
            stage: Stage::Quiet,
            frozen: false,
            shadows: Vec::new(),
            masters: Masters::default(),
            estates: BTreeMap::new(),
            departed: false,
            remains: Departed::default(),
            overtaken: Vec::new(),
            serial: 0,
            waiting: BTreeMap::new(),
            index: Index::default(),
            deadlines: BTreeSet::new(),
            idle: BTreeSet::new(),
            sweep: 0,
            inside: VecDeque::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The same with a seed for its hashes, so that nobody outside can choose names that collide.
    pub fn with_seed(config: Config, seed: u64) -> Lockspace {
        Lockspace { masters: Masters::with_seed(seed), ..Lockspace::new(config) }
    }

    /// The same with one rule left out, to try checkers on.
    #[cfg(feature = "planted")]
    pub fn with_bug(config: Config, bug: crate::planted::Bug) -> Lockspace {
        Lockspace { planted: Planted::new(bug), ..Lockspace::new(config) }
    }

    /// A program's request. Its answer is an output, now or later: one `Granted`, `Released` or `Failed` for
    /// each request, except that a cancel has none of its own and an end has none at all.
    pub fn handle_request(&mut self, now: Instant, words: &mut dyn Words, request: Request) {
        match request {
            Request::Lock(request) => self.lock(now, words, request),
            Request::Convert(request) => self.convert(now, words, request),
            Request::Unlock(request) => self.unlock(now, words, request),
            Request::Cancel(lock) => self.withdraw(now, words, lock, Code::Cancelled),
            Request::End(session) => self.end(now, words, session),
            Request::Drop(lock) => self.drop_lock(now, words, lock),
            Request::Adopt(request) => self.adopt(now, words, request),
        }
        self.drain_inside(now, words);
    }

    /// A packet that a circuit delivered.
    pub fn handle_message(
        &mut self,
        now: Instant,
        words: &mut dyn Words,
        from: NodeId,
        packet: Packet,
    ) -> Result<(), Violation> {
        let believed = self.planted.has(Bug::StaleEpoch)
            || (self.planted.has(Bug::OldGrants) && matches!(packet.body, Body::Grant(_)));
        if packet.epoch < self.view.epoch && !believed {
            self.counters.stale_epoch += 1;
            if let Body::Handover(estate) = packet.body {
                self.late_estate(from, packet.epoch, packet.name, estate);
            }
            return Ok(());
        }
        let result = if packet.epoch > self.view.epoch {
            Err(Violation::View { ours: self.view.epoch, came: packet.epoch })
        } else if self.view.member(from).is_none() {
            Err(Violation::NotMember)
        } else {
            self.deliver(now, words, from, packet)
        };
        self.counters.violations += u64::from(result.is_err());
        self.drain_inside(now, words);
        result
    }

    /// A caller changed the counts of a slot by itself and says so: it gave something back while the gate was
    /// set, or while the policy is not to keep (M1, M9). What changed is read from `words`.
    pub fn handle_bell(&mut self, now: Instant, words: &mut dyn Words, slot: Slot) {
        if self.shadow(slot).is_some() {
            let (shadow, mut ctx) = self.open(now, words, slot);
            shadow.bell(&mut ctx);
        }
        self.drain_inside(now, words);
    }

    /// The time of [`poll_timeout`](Lockspace::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant, words: &mut dyn Words) {
        while let Some(&(deadline, lock)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            self.withdraw(now, words, lock, Code::TimedOut);
        }
        while let Some(&(since, slot)) = self.idle.first() {
            if since + self.config.forget_after > now {
                break;
            }
            self.idle.pop_first();
            self.forget(now, words, slot);
        }
        self.drain_inside(now, words);
    }

    /// The next thing to carry on.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Lockspace::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let idle = self.idle.first().map(|(since, _)| *since + self.config.forget_after);
        [deadline, idle].into_iter().flatten().min()
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How it was configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Resources with a shadow here, resources mastered here, locks that wait here.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.shadows.iter().flatten().count(), self.masters.len(), self.waiting.len())
    }

    /// The last serial given out here (R6).
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Slots whose shadows may be forgotten.
    pub(crate) fn resting(&self) -> impl Iterator<Item = Slot> + '_ {
        self.idle.iter().map(|(_, slot)| *slot)
    }

    pub(crate) fn shadow(&self, slot: Slot) -> Option<&Shadow> {
        self.shadows.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn shadows(&self) -> impl Iterator<Item = &Shadow> {
        self.shadows.iter().flatten()
    }

    pub(crate) fn masters(&self) -> impl Iterator<Item = &Master> {
        self.masters.values()
    }

    pub(crate) fn master(&self, name: &Name) -> Option<&Master> {
        self.masters.get(name)
    }

    // ----- requests -------------------------------------------------------------------------------------

    /// A new lock failed before it came to a shadow.
    fn turn_away(&mut self, words: &mut dyn Words, lock: LockId, code: Code) {
        words.refuse(lock);
        self.fail(lock, code);
    }

    fn fail(&mut self, lock: LockId, code: Code) {
        self.outputs.push_back(Output::Failed { lock, code });
    }

    fn lock(&mut self, now: Instant, words: &mut dyn Words, request: Lock) {
        let lock = request.lock;
        self.freshen(now, words, lock);
        if self.waiting.contains_key(&lock) || words.entry(lock).is_some() {
            return self.fail(lock, Code::InFlight);
        }
        if let Err(code) = request.check() {
            return self.turn_away(words, lock, code);
        }
        let slot = match self.slot(now, words, &request.name) {
            Ok(slot) => slot,
            Err(code) => return self.turn_away(words, lock, code),
        };
        let entry = Waiting {
            lock,
            mode: request.mode,
            alternate: alternate(request.flags),
            from: None,
            flags: request.flags,
            owner: request.owner,
            transaction: request.transaction,
            since: now,
            seen: Since::default(),
            deadline: request.timeout.map(|t| now + t),
            attempt: 0,
            asked_after: 0,
            victim: false,
        };
        let (shadow, mut ctx) = self.open(now, words, slot);
        shadow.ask(&mut ctx, entry);
    }

    fn convert(&mut self, now: Instant, words: &mut dyn Words, request: Convert) {
        let lock = request.lock;
        self.freshen(now, words, lock);
        let Some(entry) = words.entry(lock) else {
            let code = if self.waiting.contains_key(&lock) { Code::InFlight } else { Code::NoSuchLock };
            return self.fail(lock, code);
        };
        if self.waiting.contains_key(&lock) {
            return self.fail(lock, Code::InFlight);
        }
        if let Err(code) = request.check(entry.mode) {
            return self.turn_away(words, lock, code);
        }
        let waiting = Waiting {
            lock,
            mode: request.mode,
            alternate: alternate(request.flags),
            from: Some(entry.mode),
            flags: request.flags,
            owner: entry.claim.owner,
            transaction: entry.claim.transaction,
            since: now,
            seen: Since::default(),
            deadline: request.timeout.map(|t| now + t),
            attempt: 0,
            asked_after: 0,
            victim: false,
        };
        let invalidate = request.flags.contains(Flags::IVVALBLK);
        let (shadow, mut ctx) = self.open(now, words, entry.slot);
        shadow.convert(&mut ctx, waiting, request.value, invalidate);
    }

    fn unlock(&mut self, now: Instant, words: &mut dyn Words, request: Unlock) {
        let lock = request.lock;
        self.freshen(now, words, lock);
        if self.waiting.contains_key(&lock) && words.entry(lock).is_none() && !words.refuse(lock) {
            // A releaser has handed over to it since.
            self.freshen(now, words, lock);
        }
        if let Some(entry) = words.entry(lock) {
            let (shadow, mut ctx) = self.open(now, words, entry.slot);
            shadow.unlock(&mut ctx, lock, request.value, request.invalidate, false);
        } else if let Some(slot) = self.waiting.get(&lock).copied() {
            // Its own answer comes before what its going away allows.
            self.outputs.push_back(Output::Released { lock });
            let (shadow, mut ctx) = self.open(now, words, slot);
            shadow.withdraw(&mut ctx, lock, None);
        } else {
            self.fail(lock, Code::NoSuchLock);
        }
    }

    /// A releaser may have handed over to this lock, and its program be on with the next thing already.
    fn freshen(&mut self, now: Instant, words: &mut dyn Words, lock: LockId) {
        if let Some(slot) = self.waiting.get(&lock).copied() {
            self.open(now, words, slot);
        }
    }

    pub(crate) fn withdraw(&mut self, now: Instant, words: &mut dyn Words, lock: LockId, code: Code) {
        if let Some(slot) = self.waiting.get(&lock).copied() {
            let (shadow, mut ctx) = self.open(now, words, slot);
            if ctx.waiting.contains_key(&lock) {
                shadow.withdraw(&mut ctx, lock, Some(code));
            } else {
                // It was handed over, and what waits in its entry now may be the next one, by the same number.
                shadow.settle(&mut ctx);
            }
        }
    }

    /// A session ended: what it waits for is withdrawn first, so that nothing is granted to it any more.
    fn end(&mut self, now: Instant, words: &mut dyn Words, session: SessionId) {
        let range = LockId::new(session, 0)..=LockId::new(session, u32::MAX);
        let waiting: Vec<(LockId, Slot)> =
            self.waiting.range(range).map(|(lock, slot)| (*lock, *slot)).collect();
        // All of it before anything is granted: of two that wait for each other's place the second would be, and outlive its session.
        for (lock, slot) in &waiting {
            let (shadow, mut ctx) = self.open(now, words, *slot);
            shadow.take_out(&mut ctx, *lock);
        }
        for (_, slot) in waiting {
            let (shadow, mut ctx) = self.open(now, words, slot);
            shadow.settle(&mut ctx);
        }
        for lock in words.of_session(session) {
            // What is in an entry of a segment goes with its program's place there, whatever somebody has written into it.
            let stays =
                |entry: Entry| entry.claim.flags.contains(Flags::PERSISTENT) && lock.entry().is_none();
            if words.entry(lock).is_some_and(|entry| !stays(entry)) {
                self.drop_lock(now, words, lock);
            }
        }
    }

    fn adopt(&mut self, now: Instant, words: &mut dyn Words, request: Adopt) {
        let Adopt { orphan, lock, flags, owner, transaction } = request;
        let Some(entry) = words.entry(orphan).filter(|_| words.entry(lock).is_none()) else {
            return self.fail(lock, Code::NoOrphan);
        };
        let claim = Claim { lock, owner, transaction, flags, since: entry.claim.since };
        if lock.entry().is_some() || !words.hand_on(orphan, claim) {
            return self.fail(lock, Code::NoOrphan);
        }
        let (mode, token) = (entry.mode, entry.token);
        let granted = Granted { lock, mode, token, value: None, alternate: false, quiet: false };
        self.outputs.push_back(Output::Granted(granted));
        // Whoever waits for it already is news to whoever has it now.
        let (shadow, mut ctx) = self.open(now, words, entry.slot);
        shadow.settle(&mut ctx);
    }

    fn drop_lock(&mut self, now: Instant, words: &mut dyn Words, lock: LockId) {
        if let Some(entry) = words.entry(lock) {
            let (shadow, mut ctx) = self.open(now, words, entry.slot);
            shadow.unlock(&mut ctx, lock, None, false, true);
        }
    }

    // ----- messages -------------------------------------------------------------------------------------

    fn deliver(
        &mut self,
        now: Instant,
        words: &mut dyn Words,
        from: NodeId,
        packet: Packet,
    ) -> Result<(), Violation> {
        let Packet { name, body, .. } = packet;
        let master = self.master_of(&name);
        match body {
            Body::Info(_) | Body::Forget(_) | Body::Handover(_) => {
                if master != self.config.me {
                    return Err(Violation::NotMaster);
                }
                if self.planted.has(Bug::SerialPerResource) && self.masters.get(&name).is_none() {
                    self.serial = 0;
                }
                let (_, masters, mut ctx) = self.split(now, words);
                let master = masters.get_or_new(&name);
                let result = match body {
                    Body::Info(info) => master.info(&mut ctx, from, info),
                    Body::Forget(forget) => master.forget(&mut ctx, from, forget),
                    Body::Handover(handover) => master.inherit(&ctx, handover),
                    _ => unreachable!("matched above"),
                };
                // While members still restate, more may come for it.
                if master.is_empty() && (ctx.open || result.is_err() && !master.inherits()) {
                    masters.remove(&name);
                }
                result
            }
            Body::Grant(_) | Body::Deny(_) | Body::Head(_) | Body::ForgetAck(_) => {
                if from != master {
                    return Err(Violation::NotFromMaster);
                }
                let slot = words.find(&name).ok_or(Violation::NoRecord)?;
                let (shadow, mut ctx) = self.open(now, words, slot);
                ctx.how = How::Master;
                match body {
                    Body::Grant(m) => shadow.grant(&mut ctx, m),
                    Body::Deny(m) => shadow.deny(&mut ctx, m),
                    Body::Head(m) => shadow.head(&mut ctx, m),
                    Body::ForgetAck(m) => {
                        if shadow.forgotten(&mut ctx, m)? {
                            self.close(now, words, slot);
                        }
                        Ok(())
                    }
                    _ => unreachable!("matched above"),
                }
            }
        }
    }

    /// Messages between the master and the shadow of this node, in order, until there are none. A master and a
    /// shadow that answer each other for ever would hang the node, which nobody outside could tell from a lost
    /// one: that is our own mistake, and it ends here.
    ///
    /// No content of a segment brings either of the two about. The numbers, modes and fences of these messages are
    /// the node's own, and so is the name of a slot. Of what is read from `words` they carry: counts, as need, which
    /// only what was lowered by them in the same exchange has to cover; the sequence of a value block, which counts
    /// no further than it had come when the right to write was last stated; the mode of a convert, which must be one
    /// that is owned. Messages go round only for a request that got its answer and could not be granted, because its
    /// entry says something else or a count came and went: so many answers in vain, then it asks no more, and only
    /// the first two in front and the first waiter behind them are tried with an answer.
    pub(crate) fn drain_inside(&mut self, now: Instant, words: &mut dyn Words) {
        let me = self.config.me;
        let mut left = INSIDE_MIN + INSIDE_EACH * (self.waiting.len() + self.inside.len());
        while let Some(packet) = self.inside.pop_front() {
            assert!(left > 0, "this node's own master and shadow do not come to rest: {packet:?}");
            left -= 1;
            if let Err(violation) = self.deliver(now, words, me, packet) {
                panic!("this node's own master and shadow disagree: {violation}");
            }
        }
    }

    pub(crate) fn master_of(&self, name: &Name) -> NodeId {
        self.master_in(&self.view, name)
    }

    pub(crate) fn master_in(&self, view: &View, name: &Name) -> NodeId {
        directory::master(self.config.space, name.as_bytes(), view.nodes()).expect("a view has members")
    }

    // ----- slots ----------------------------------------------------------------------------------------

    /// The slot of a name, bound if it has none.
    fn slot(&mut self, now: Instant, words: &mut dyn Words, name: &Name) -> Result<Slot, Code> {
        if let Some(slot) = words.find(name) {
            return Ok(slot);
        }
        if self.view.members.is_empty() {
            return Err(Code::NotServing);
        }
        if words.bound() + 1 >= words.room() - words.room() / 8 {
            // Before the new one is bound: it is as unused as any until its first lock is asked for.
            self.sweep(now, words);
        }
        let slot = match words.bind(name) {
            Ok(slot) => slot,
            Err(_) => {
                self.sweep(now, words);
                words.bind(name).map_err(|_| Code::SpaceFull)?
            }
        };
        let index = slot.0 as usize;
        if self.shadows.len() <= index {
            self.shadows.resize(index + 1, None);
        }
        assert!(self.shadows[index].is_none(), "slot {slot:?} has a shadow already");
        self.shadows[index] = Some(Shadow::new(slot, self.master_of(name), self.view.epoch));
        Ok(slot)
    }

    /// Looks at a few slots, round and round, and gives up those that nobody uses.
    fn sweep(&mut self, now: Instant, words: &mut dyn Words) {
        let len = self.shadows.len() as u32;
        for _ in 0..SWEEP_STEP.min(len) {
            self.sweep = (self.sweep + 1) % len;
            let slot = Slot(self.sweep);
            if let Some(shadow) = self.shadow(slot)
                && shadow.evictable(&words.look(slot))
                // A second chance for what callers use by themselves, which never comes to the node's ears.
                && !words.used(slot)
            {
                self.forget(now, words, slot);
                self.drain_inside(now, words);
            }
        }
    }

    fn forget(&mut self, now: Instant, words: &mut dyn Words, slot: Slot) {
        if self.shadow(slot).is_none() {
            return;
        }
        let (shadow, mut ctx) = self.open(now, words, slot);
        if shadow.forget(&mut ctx) {
            self.close(now, words, slot);
        }
    }

    fn close(&mut self, now: Instant, words: &mut dyn Words, slot: Slot) {
        if words.evict(slot) {
            self.shadows[slot.0 as usize] = None;
        } else {
            // Nothing is owned, so no honest caller holds anything: somebody has written a count. It costs a slot.
            let (shadow, mut ctx) = self.open(now, words, slot);
            shadow.rest_anew(&mut ctx);
        }
    }

    pub(crate) fn open<'a>(
        &'a mut self,
        now: Instant,
        words: &'a mut dyn Words,
        slot: Slot,
    ) -> (&'a mut Shadow, Context<'a>) {
        let old = self.shadow(slot).is_some_and(|shadow| shadow.epoch != self.view.epoch);
        let master = old.then(|| self.master_of(&words.name(slot)));
        let (shadows, _, mut ctx) = self.split(now, words);
        let shadow = shadows[slot.0 as usize].as_mut().expect("a bound slot has a shadow");
        if let Some(master) = master {
            shadow.enter(&mut ctx, master);
        }
        shadow.take_up(&mut ctx);
        (shadow, ctx)
    }

    pub(crate) fn split<'a>(
        &'a mut self,
        now: Instant,
        words: &'a mut dyn Words,
    ) -> (&'a mut Vec<Option<Shadow>>, &'a mut Masters, Context<'a>) {
        let ctx = Context {
            now,
            words,
            config: &self.config,
            planted: self.planted,
            epoch: self.view.epoch,
            open: self.stage == Stage::Open
                || (self.stage == Stage::Restated && self.planted.has(Bug::HalfBuilt)),
            quiet: self.stage == Stage::Quiet && !self.planted.has(Bug::SpeaksEarly),
            frozen: self.frozen,
            departed: &self.remains,
            serial: &mut self.serial,
            counters: &mut self.counters,
            outputs: &mut self.outputs,
            inside: &mut self.inside,
            waiting: &mut self.waiting,
            index: &mut self.index,
            deadlines: &mut self.deadlines,
            idle: &mut self.idle,
            how: How::Local,
        };
        (&mut self.shadows, &mut self.masters, ctx)
    }
}

/// The state, for explorers: everything that decides what happens next. Counters and outputs are left out:
/// they are consequences.
impl core::hash::Hash for Lockspace {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.shadows.hash(state);
        self.masters.hash(state);
        self.serial.hash(state);
        self.waiting.hash(state);
        self.deadlines.hash(state);
        self.idle.hash(state);
        self.inside.hash(state);
        self.estates.hash(state);
        (&self.view, &self.overtaken, self.stage, self.frozen, self.departed, &self.remains).hash(state);
        (self.sweep, self.config, self.planted).hash(state);
    }
}
