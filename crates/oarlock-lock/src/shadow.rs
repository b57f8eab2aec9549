//! A node's own resource object: grants to programs as far as it owns, and tells the master the rest.
//!
//! Three records are kept apart (C4): who holds what locally (behind `Words`), what is owned, and what the
//! master was told. Everything that can change any of them ends in [`Shadow::settle`], which applies the
//! rules in one fixed order: grant, give way to the head, notify, state.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, LockId, NodeId, Slot};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::lock::{Head, Kind, Want};
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::Word;
use oarlock_layout::token::Fence;
use oarlock_layout::value::Value;

use crate::config::Order;
use crate::context::Context;
use crate::output::Output;
use crate::planted::Bug;
use crate::seldom::{Nothing, Seldom};
use crate::statement::{Carried, Told, Wish};
use crate::value::{Effect, effect};
use crate::waiting::{Queues, Waiting};

mod granting;
mod hearing;
mod stating;

/// A resource at one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shadow {
    pub(crate) slot: Slot,
    pub(crate) master: NodeId,
    /// The view under which it speaks.
    pub(crate) epoch: Epoch,
    /// Owned now. The private copy is the truth; what `Words` says is a claim.
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) owned: Option<Mode>,
    /// Somebody here has used the value block.
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    uses_value: bool,
    /// A `Forget` is under way: the record stands as a tombstone until the answer (X9, R12).
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) forgetting: bool,
    /// Locks on this resource at other nodes, as last heard (C16).
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    elsewhere: u32,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) told: Told,
    /// Last statement sent, last change heard, last statement that the master said it heard (R10).
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) n: u64,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) g: u64,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) a: u64,
    /// Last statement sent when the last change came; last statement known to be applied. What the master
    /// says it *heard* may have been discarded.
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    base: u64,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    applied: u64,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    attempts: u64,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) rare: Seldom<Rare>,
}

/// What a shadow has at rest: nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rare {
    /// What the master was told of those who wait.
    pub(crate) wish: Wish,
    pub(crate) head: Option<Head>,
    pub(crate) queues: Queues,
    /// The waiting entry for which the master has granted what is owned: its place is before every head
    /// announced since, even while local holders still keep it waiting.
    reserved: Option<u64>,
    /// Whose turn it is to be stated.
    turn: Turn,
    /// Requests that could not be granted when their answer came, and how often. Of each its own: two that take turns
    /// would otherwise start anew each time.
    vain: BTreeMap<u64, u32>,
    /// Does the master know that the value block is used here (R5)?
    value_use: Carried<bool>,
    /// Sequence of the value block that the master has.
    value_known: Carried<u64>,
    /// Sequence of the block when the master last learned that less than PW is owned. Who owns less has written nothing
    /// since: a later one was made up by a program.
    value_written: u64,
    /// It owned PW or EX when this view came, and has said nothing under it: whatever is written until then is to be told.
    writes_unheard: bool,
    idle_since: Option<oarlock_layout::time::Instant>,
}

impl Nothing for Rare {
    fn nothing() -> &'static Rare {
        static NOTHING: Rare = Rare {
            wish: Wish { conv: None, busy: 0 },
            head: None,
            queues: Queues::NONE,
            reserved: None,
            turn: Turn::Front,
            vain: BTreeMap::new(),
            value_use: Carried::new(false),
            value_known: Carried::new(0),
            value_written: 0,
            writes_unheard: false,
            idle_since: None,
        };
        &NOTHING
    }
}

/// Those who wait for an answer stand in front of all others, and take turns with whoever waits behind them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
enum Turn {
    /// The first is stated, as always.
    #[default]
    Front,
    /// An answer has come: before the next who waits for one is stated, whoever waits behind them has a turn.
    Behind,
    /// It has begun: a question was asked for this entry, and nothing else is stated before the answer.
    Asked(u64),
}

/// So many answers in vain a request gets. One that keeps to the rules gets one: when its program withdraws it meanwhile.
const VAIN_MAX: u32 = 8;

/// What became of an attempt to grant.
enum Verdict {
    Granted,
    /// Local holders conflict.
    Held,
    /// The head of the master's queue comes first.
    Head,
    /// The master must be asked: for a mode, or for an answer.
    Ask,
}

/// What a message of the master allows during the scan it causes, beyond what is allowed at any time.
#[derive(Clone, Copy, Default)]
struct Answer {
    want: Want,
    alternate: bool,
}

impl Shadow {
    pub(crate) fn new(slot: Slot, master: NodeId, epoch: Epoch) -> Shadow {
        Shadow {
            slot,
            master,
            epoch,
            owned: None,
            uses_value: false,
            forgetting: false,
            elsewhere: 0,
            told: Told::default(),
            n: 0,
            g: 0,
            a: 0,
            base: 0,
            applied: 0,
            attempts: 0,
            rare: Seldom::default(),
        }
    }

    /// Another view is valid: what the master knew counts no more, what is owned does (L11). The first statement says all of it.
    pub(crate) fn enter(&mut self, ctx: &mut Context<'_>, master: NodeId) {
        let writes = |mode: Option<Mode>| mode.is_some_and(Mode::writes_value);
        let writer = writes(self.owned) || writes(self.told.held) || self.rare.writes_unheard;
        let mut written = if writer {
            ctx.words.value(self.slot).sequence
        } else {
            self.rare.value_known.expected().max(self.rare.value_written)
        };
        let old = core::mem::replace(self, Shadow::new(self.slot, master, ctx.epoch));
        (self.owned, self.uses_value, self.attempts) = (old.owned, old.uses_value, old.attempts);
        if old.forgetting && written <= old.rare.value_known.sure() {
            // It is no news even if the record is not gone.
            written = 0;
        }
        if written > 0 {
            self.rare.value_written = written;
        }
        if writer && !old.forgetting && !ctx.planted.has(Bug::WriteUnheard) {
            self.rare.writes_unheard = true;
        }
        if let Some(Rare { queues, vain, idle_since, wish, .. }) = old.rare.into_some() {
            if !queues.is_empty() {
                self.rare.queues = queues;
                self.rare.queues.ask_anew();
            }
            if !vain.is_empty() {
                self.rare.vain = vain;
            }
            if idle_since.is_some() {
                self.rare.idle_since = idle_since;
            }
            if ctx.planted.has(Bug::ToldAlready) {
                self.rare.wish = wish;
            }
        }
        if ctx.planted.has(Bug::ToldAlready) {
            self.told = old.told;
        }
        if old.forgetting && !ctx.planted.has(Bug::OldTombstone) {
            // The answer will not come. If the record is gone, the resource may have gone and come back since (33): nothing
            // is owned any more, and of the block only that is kept which the master may not have heard (X9).
            self.disown(ctx, written > 0);
        }
    }

    /// Owns nothing any more: nobody here holds anything. The block goes too, unless somebody must still be told of it.
    fn disown(&mut self, ctx: &mut Context<'_>, keep: bool) {
        self.owned = None;
        self.uses_value = keep || self.rare.queues.iter().any(|e| e.flags.contains(Flags::VALBLK));
        if !keep {
            ctx.words.set_value(self.slot, Value::NEVER);
        }
        ctx.words.disown(self.slot);
        let made_up: Vec<LockId> =
            self.rare.queues.converts().filter(|e| self.made_up(e)).map(|e| e.lock).collect();
        for lock in made_up {
            if let Some(entry) = self.rare.queues.remove(lock) {
                self.retire(ctx, &entry);
                ctx.failed(lock, Code::NoSuchLock);
            }
        }
    }

    /// The master has answered what was asked for.
    fn answered(&mut self) {
        if self.rare.wish.conv.is_some() {
            self.rare.wish.conv = None;
        }
    }

    // ----- requests of programs -------------------------------------------------------------------------

    /// A new lock, or a convert that may have to wait (`from` is set). Flags are checked.
    pub(crate) fn ask(&mut self, ctx: &mut Context<'_>, mut entry: Waiting) {
        self.wake(ctx);
        if self.made_up(&entry) {
            return ctx.failed(entry.lock, Code::NoSuchLock);
        }
        if ctx.planted.has(Bug::NlWithoutRecord) && entry.mode == Mode::NL && self.n == 0 {
            ctx.words.raise(self.slot, Mode::NL, Fence::default());
            (self.owned, self.told.held) = (Some(Mode::NL), Some(Mode::NL));
        }
        if entry.flags.contains(Flags::VALBLK) {
            self.uses_value = true;
            entry.asked_after = self.n;
        }
        let local = entry.flags.contains(Flags::LOCAL);
        // A try never waits for other waiters, only for the answer of an earlier try (R2).
        let hopeless = (local && self.forgetting) || self.behind_waiters(&entry, ctx.config.order);
        let mut fits_here = false;
        if self.comes_behind(&entry, ctx.config.order) {
            if local || (entry.is_try() && hopeless) {
                self.refuse_try(ctx, &entry);
                return;
            }
        } else {
            match self.attempt(ctx, &entry, Answer::default()) {
                Verdict::Granted => {
                    ctx.counters.covered_grants += 1;
                    self.settle(ctx);
                    return;
                }
                Verdict::Held => {
                    if local || entry.is_try() {
                        self.refuse_try(ctx, &entry);
                        self.settle(ctx);
                        return;
                    }
                }
                verdict @ (Verdict::Head | Verdict::Ask) => {
                    let head = matches!(verdict, Verdict::Head);
                    fits_here = ctx.config.order == Order::Strict && !head;
                    ctx.counters.head_refusals += u64::from(head);
                    if local && !head {
                        ctx.failed(entry.lock, Code::NotOwned);
                        self.settle(ctx);
                        return;
                    }
                    // A try is stated before those who wait here already, even if that costs them their place
                    // at the master: only the master can say no truthfully, and what is known here of the
                    // head may be old (R2). A new one that would stand behind somebody was refused above.
                    if local {
                        self.refuse_try(ctx, &entry);
                        self.settle(ctx);
                        return;
                    }
                }
            }
        }
        if self.rare.queues.conversion_deadlock(&entry) && fits_here && !entry.flags.contains(Flags::QUECVT) {
            // In strict order a convert looks at granted modes only: if it fits at the master as well it passes
            // those it would wait for (9). If it does not, it is the victim (50, 53).
            entry.flags |= Flags::NOQUEUE;
            entry.victim = true;
        } else if self.rare.queues.conversion_deadlock(&entry) {
            ctx.counters.deadlock_victims += 1;
            ctx.failed(entry.lock, Code::Deadlock);
            self.settle(ctx);
            return;
        }
        if self.rare.queues.len() >= oarlock_layout::limit::WAITERS_MAX {
            ctx.failed(entry.lock, Code::TooManyWaiters);
            return;
        }
        self.attempts += 1;
        entry.attempt = self.attempts;
        ctx.waiting.insert(entry.lock, self.slot);
        ctx.index.begin(ctx.config.me, &entry, self.slot);
        if let Some(deadline) = entry.deadline {
            ctx.deadlines.insert((deadline, entry.lock));
        }
        self.rare.queues.push(entry);
        self.settle(ctx);
    }

    /// Does it convert from a mode that nobody here can have? Its program wrote that into its entry by itself.
    pub(super) fn made_up(&self, entry: &Waiting) -> bool {
        entry.from.is_some_and(|from| !self.owned.is_some_and(|owned| owned.covers(from)))
    }

    /// A change of mode that is granted whatever else waits: down, or to the same mode (C11).
    /// With a value block whose newest copy is elsewhere it waits for an answer like any other.
    pub(crate) fn convert(
        &mut self,
        ctx: &mut Context<'_>,
        entry: Waiting,
        value: Option<[u8; VALUE_BYTES]>,
        invalidate: bool,
    ) {
        let from = entry.from.expect("a convert has a mode to convert from");
        self.write_value(ctx, from, effect(Some(from), entry.mode), value, invalidate);
        let before = ctx.words.look(self.slot);
        self.ask(ctx, entry);
        self.consider(ctx, before);
    }

    /// Gives a held lock back. `died`: its session ended, which is no orderly release (35).
    pub(crate) fn unlock(
        &mut self,
        ctx: &mut Context<'_>,
        lock: LockId,
        value: Option<[u8; VALUE_BYTES]>,
        invalidate: bool,
        died: bool,
    ) {
        // Its program may have given it back by itself since it was looked up.
        let Some(entry) = ctx.words.entry(lock) else {
            if !died {
                ctx.failed(lock, Code::NoSuchLock);
            }
            return self.settle(ctx);
        };
        if ctx.waiting.contains_key(&lock)
            && let Some(waiting) = self.rare.queues.remove(lock)
        {
            self.retire(ctx, &waiting);
        }
        let before = ctx.words.look(self.slot);
        if died && entry.mode.writes_value() {
            ctx.words.set_value(self.slot, ctx.words.value(self.slot).invalidated());
        } else {
            self.write_value(ctx, entry.mode, Effect::Write, value, invalidate);
        }
        ctx.words.drop(lock);
        if !died {
            ctx.outputs.push_back(Output::Released { lock });
        }
        // Those who wait here come before the question whether to keep what is owned.
        self.settle(ctx);
        self.consider(ctx, before);
    }

    /// Withdraws a waiting request; a convert leaves the lock as it is. Tells the program `code`, if any.
    pub(crate) fn withdraw(&mut self, ctx: &mut Context<'_>, lock: LockId, code: Option<Code>) {
        // The entry is the one arbiter: a releaser may be handing over at this moment (R9).
        if !ctx.words.refuse(lock) {
            self.take_up(ctx);
            return self.settle(ctx);
        }
        let Some(entry) = self.rare.queues.remove(lock) else { return };
        if ctx.planted.has(Bug::CancelAndGrant) {
            // The loser of the race is told as well as the winner.
            self.rare.queues.push(entry.clone());
        } else {
            self.retire(ctx, &entry);
        }
        if let Some(code) = code {
            ctx.failed(lock, code);
        }
        self.settle(ctx);
    }

    /// Takes what a lock waits for out of its queue, if it was not granted first. Nothing is granted in its place before the next
    /// [`settle`](Shadow::settle).
    pub(crate) fn take_out(&mut self, ctx: &mut Context<'_>, lock: LockId) {
        if !ctx.words.refuse(lock) {
            self.take_up(ctx);
        } else if let Some(entry) = self.rare.queues.remove(lock) {
            self.retire(ctx, &entry);
        }
    }

    /// Takes a request that left a queue off the books.
    fn retire(&mut self, ctx: &mut Context<'_>, entry: &Waiting) {
        if self.rare.reserved == Some(entry.attempt) {
            self.rare.reserved = None;
        }
        if !self.rare.vain.is_empty() {
            self.rare.vain.remove(&entry.attempt);
        }
        ctx.waiting.remove(&entry.lock);
        ctx.index.end(ctx.config.me, entry);
        if let Some(deadline) = entry.deadline {
            ctx.deadlines.remove(&(deadline, entry.lock));
        }
    }

    fn refuse_try(&mut self, ctx: &mut Context<'_>, entry: &Waiting) {
        if entry.flags.contains(Flags::NOQUEUEBAST) {
            self.notify(ctx, entry.mode, Some(entry.lock));
        }
        ctx.counters.deadlock_victims += u64::from(entry.victim);
        ctx.failed(entry.lock, entry.refusal());
    }

    // ----- the rules, in order --------------------------------------------------------------------------

    /// Applies all rules after something changed.
    pub(crate) fn settle(&mut self, ctx: &mut Context<'_>) {
        if self.forgetting {
            return self.offer(ctx);
        }
        // Before anything is looked at: a caller that gives something back after that look must ring.
        if !self.rare.queues.is_empty() || self.rare.head.is_some() {
            ctx.words.set_gate(self.slot);
        }
        self.scan(ctx, Answer::default());
        self.give_way(ctx);
        self.notify_all(ctx);
        if self.rare.queues.is_empty() && self.rare.head.is_none() && self.owned.is_some() {
            ctx.words.clear_gate(self.slot);
        } else {
            ctx.words.set_gate(self.slot);
        }
        ctx.words.set_value_ready(self.slot, self.rare.value_use.sure());
        self.offer(ctx);
        let word = ctx.words.look(self.slot);
        self.state(ctx, &word);
        self.rest(ctx, &word);
    }

    /// A head that conflicts with what is owned takes all that nobody here needs (rule 3, C14), and nothing
    /// that somebody here waits for who comes before it.
    ///
    /// Without the second half a convert behind a local reader and a newcomer elsewhere would play ball for
    /// ever: the convert is granted first, gives way, and asks again.
    fn give_way(&mut self, ctx: &mut Context<'_>) {
        let Some(head) = self.rare.head else { return };
        if self.owned.is_some_and(|owned| !owned.compatible(head.mode)) && !ctx.planted.has(Bug::KeepRetained)
        {
            ctx.words.set_gate(self.slot);
            let floor = self.ahead(head).filter_map(|e| self.kept_for(e)).reduce(Mode::join);
            let floor = floor.filter(|_| !ctx.planted.has(Bug::PlayBall));
            let anybody = || self.rare.queues.iter().filter_map(|e| self.kept_for(e)).reduce(Mode::join);
            let floor = if ctx.planted.has(Bug::KeepForAll) { anybody() } else { floor };
            self.lower(ctx, floor);
        }
    }

    /// The waiting entries that come before the head: converts, or the one that the master has granted.
    fn ahead(&self, head: Head) -> impl Iterator<Item = &Waiting> {
        let among = if self.rare.reserved.is_some() {
            self.rare.queues.len()
        } else {
            self.rare.queues.converts().count()
        };
        self.rare.queues.iter().take(among).filter(move |e| self.before_head(e, head))
    }

    /// Does a waiting entry come before the head: because the master has granted its mode already, or because
    /// converts come before newcomers everywhere?
    fn before_head(&self, entry: &Waiting, head: Head) -> bool {
        match (entry.kind(), head.kind) {
            (Kind::Convert, Kind::New) => true,
            (Kind::New, Kind::Convert) => false,
            _ => self.is_reserved(entry),
        }
    }

    /// Has the master granted what this entry waits for? That no longer counts when another waiter has come before
    /// it by HEADQUE: that one is stated now, and would wait for the head that waits for this one.
    fn is_reserved(&self, entry: &Waiting) -> bool {
        let next = |first: &Waiting| first.attempt == entry.attempt;
        entry.attempt != 0
            && self.rare.reserved == Some(entry.attempt)
            && (entry.waits_for_an_answer() || self.rare.queues.first_waiter().is_some_and(next))
    }

    /// The mode that must stay owned for a waiting entry, if it is owned.
    fn kept_for(&self, entry: &Waiting) -> Option<Mode> {
        let choices = [Some(entry.mode), entry.alternate];
        choices.into_iter().flatten().find(|mode| self.owned.is_some_and(|owned| owned.covers(*mode)))
    }

    /// Lowers `owned` to what is needed at this instant, or to `floor`. Only ever down, whatever `Words` claims.
    /// Returns the word that was written: a later look may find that less is needed.
    fn lower(&mut self, ctx: &mut Context<'_>, floor: Option<Mode>) -> Word {
        let word = ctx.words.lower(self.slot, floor);
        if let (Some(owned), Some(claimed)) = (self.owned, word.owned)
            && owned.covers(claimed)
        {
            self.owned = Some(claimed);
        }
        let reserved =
            self.rare.reserved.and_then(|attempt| self.rare.queues.iter().find(|e| e.attempt == attempt));
        if reserved.is_some_and(|e| self.kept_for(e).is_none()) {
            self.rare.reserved = None;
        }
        word
    }

    /// The decision point of C15: less is needed than before, and less than is owned. `before` is the word as
    /// it was, with the lock that was lowered still counted.
    fn consider(&mut self, ctx: &mut Context<'_>, before: Word) {
        let Some(owned) = self.owned else { return };
        let need = ctx.words.look(self.slot).counts.need().unwrap_or(Mode::NL);
        let was = before.counts.need().unwrap_or(Mode::NL);
        if need == owned || self.forgetting || !self.rare.queues.is_empty() {
            return;
        }
        if was != owned && ctx.config.retain {
            return;
        }
        ctx.counters.proactive_considered += 1;
        // The one that just left still counts: programs come back.
        self.decide_to_keep(ctx, self.openers_here(&before));
    }

    /// Most users are here, or as many as elsewhere: keep what is owned (C16).
    fn decide_to_keep(&mut self, ctx: &mut Context<'_>, here: u32) {
        let keep = ctx.config.retain && here >= self.elsewhere;
        ctx.words.set_keep(self.slot, keep);
        if !keep {
            ctx.counters.proactive_done += 1;
            self.lower(ctx, None);
            self.settle(ctx);
        }
    }

    /// A caller gave something back by itself. Which, nobody knows: the counts are what is left.
    pub(crate) fn bell(&mut self, ctx: &mut Context<'_>) {
        self.settle(ctx);
        let word = ctx.words.look(self.slot);
        let Some(owned) = self.owned else { return };
        if self.forgetting || !self.rare.queues.is_empty() || word.counts.need().unwrap_or(Mode::NL) == owned
        {
            return;
        }
        ctx.counters.proactive_considered += 1;
        self.decide_to_keep(ctx, self.openers_here(&word));
    }

    fn openers_here(&self, word: &Word) -> u32 {
        word.counts.total() + self.rare.queues.len() as u32
    }

    /// Tells holders what waits behind them (57-59). Only what is news to them goes out.
    fn notify_all(&self, ctx: &mut Context<'_>) {
        if let Some(head) = self.rare.head
            && head.notify
            && !ctx.planted.has(Bug::NoNotice)
        {
            self.notify(ctx, head.mode, None);
        }
        for mode in Mode::ALL {
            if let Some(but) = self.rare.queues.wanted(mode) {
                self.notify(ctx, mode, but);
            }
        }
    }

    fn notify(&self, ctx: &mut Context<'_>, wanted: Mode, but: Option<LockId>) {
        for notice in ctx.words.notice(self.slot, wanted, but) {
            ctx.counters.notices += 1;
            ctx.outputs.push_back(Output::Blocking { lock: notice.lock, wanted: notice.wanted });
        }
    }

    /// Writes the value block on the way out of PW or EX (27, 29, 31).
    fn write_value(
        &mut self,
        ctx: &mut Context<'_>,
        from: Mode,
        effect: Effect,
        value: Option<[u8; VALUE_BYTES]>,
        invalidate: bool,
    ) {
        if !from.writes_value() || effect != Effect::Write {
            return;
        }
        let old = ctx.words.value(self.slot);
        if invalidate {
            ctx.words.set_value(self.slot, old.invalidated());
        } else if let Some(bytes) = value {
            self.uses_value = true;
            ctx.words.set_value(self.slot, old.written(bytes));
        }
    }
}
