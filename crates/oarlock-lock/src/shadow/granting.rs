//! Which local requests a shadow grants, in which order.

use oarlock_layout::flags::Flags;
use oarlock_layout::message::lock::{Kind, Want};
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::{Claim, Words};

use super::{Answer, Shadow, VAIN_MAX, Verdict};
use crate::config::Order;
use crate::context::Context;
use crate::counters::How;
use crate::output::{Granted, Output};
use crate::planted::Bug;
use crate::value::{Effect, effect, readable_under};
use crate::waiting::Waiting;

impl Shadow {
    /// Must this request stand behind others of its node?
    pub(super) fn comes_behind(&self, entry: &Waiting, order: Order) -> bool {
        self.forgetting || self.respected(entry, order).next().is_some()
    }

    /// Does it stand behind somebody who waits, and not only for the answer to a try?
    pub(super) fn behind_waiters(&self, entry: &Waiting, order: Order) -> bool {
        self.respected(entry, order).any(|e| !e.waits_for_an_answer())
    }

    /// The waiting requests of this node that `entry` may not pass when it arrives.
    pub(super) fn respected<'a>(
        &'a self,
        entry: &Waiting,
        order: Order,
    ) -> impl Iterator<Item = &'a Waiting> + use<'a> {
        let (converts, waits) = if entry.flags.contains(Flags::EXPEDITE) || entry.in_place() {
            (false, false)
        } else if entry.from.is_some() {
            // In strict order a convert looks at granted modes only, unless it said QUECVT (9).
            (order == Order::Passover || entry.flags.contains(Flags::QUECVT), false)
        } else {
            (true, true)
        };
        let converts = if converts { self.rare.queues.converts().count() } else { 0 };
        let waits = if waits { usize::MAX } else { converts };
        self.rare.queues.iter().take(converts.max(waits))
    }

    /// May `entry` be granted although somebody elsewhere is first in the master's queue (C13, R3)?
    pub(crate) fn passes_head(&self, order: Order, words: &dyn Words, entry: &Waiting) -> bool {
        let Some(head) = self.rare.head else { return true };
        if entry.in_place() || entry.flags.contains(Flags::EXPEDITE) || self.exempt(order, words, entry) {
            return true;
        }
        if self.before_head(entry, head) {
            return true;
        }
        let beside = entry.mode.compatible(head.mode);
        let strict = order == Order::Strict && !entry.flags.contains(Flags::NOORDER);
        match (entry.kind(), head.kind) {
            // Converts come before newcomers everywhere (scenario 8).
            (Kind::Convert, Kind::New) => true,
            // In strict order a convert looks at granted modes only, unless it said QUECVT (9).
            (Kind::Convert, Kind::Convert) if strict => !entry.flags.contains(Flags::QUECVT),
            (Kind::Convert, Kind::Convert) => beside,
            // Newcomers need an empty convert queue (7).
            (Kind::New, Kind::Convert) => false,
            (Kind::New, Kind::New) => !strict && beside,
        }
    }

    /// In passover order a transaction may have again what it has already (C13, R12).
    pub(super) fn exempt(&self, order: Order, words: &dyn Words, entry: &Waiting) -> bool {
        order == Order::Passover
            && entry.transaction.0 != 0
            && words
                .entries(self.slot)
                .iter()
                .any(|held| held.claim.transaction == entry.transaction && held.mode.covers(entry.mode))
    }

    /// Grants `entry` if every rule allows it, and tells the program.
    pub(super) fn attempt(&mut self, ctx: &mut Context<'_>, entry: &Waiting, answer: Answer) -> Verdict {
        let word = ctx.words.look(self.slot);
        let others = match entry.from {
            Some(from) => word.counts.without(from),
            None => word.counts,
        };
        let choices = [Some(entry.mode), entry.alternate];
        if !choices.iter().flatten().any(|m| others.admits(*m)) {
            return Verdict::Held;
        }
        if !self.passes_head(ctx.config.order, ctx.words, entry) || (ctx.frozen && !entry.in_place()) {
            return Verdict::Head;
        }
        for (index, mode) in choices.into_iter().enumerate() {
            let Some(mode) = mode else { break };
            if !others.admits(mode) {
                continue;
            }
            let covered = self.owned.is_some_and(|owned| owned.covers(mode));
            if !covered {
                // The first choice is asked for; the second only once the master has said that the first
                // does not fit.
                if answer.alternate && index == 0 {
                    continue;
                }
                return Verdict::Ask;
            }
            let late = entry.asked_after >= self.applied;
            let have = Want { value: answer.want.value && !late, ..answer.want };
            let missing = self.missing(ctx, entry, mode, have);
            if missing.any() {
                return Verdict::Ask;
            }
            if self.admit(ctx, entry, mode, index == 1) {
                return Verdict::Granted;
            }
            if answer.want.any() {
                *self.rare.vain.entry(entry.attempt).or_default() += 1;
            }
        }
        Verdict::Held
    }

    /// What a covered grant of `entry` in `mode` still needs from the master.
    pub(super) fn missing(&self, ctx: &Context<'_>, entry: &Waiting, mode: Mode, have: Want) -> Want {
        let owned = self.owned.unwrap_or(Mode::NL);
        let silent = ctx.planted.has(Bug::SilentUse);
        let value = entry.flags.contains(Flags::VALBLK)
            && (!(self.rare.value_use.sure() || have.value || silent)
                // On the way down from CR the block is not read, but whether it is to be believed is said (32).
                || (effect(entry.from, mode) != Effect::Write
                    && !readable_under(owned)
                    && !ctx.planted.has(Bug::ReadUnderCr)));
        let missing = Want {
            value: value && !have.value,
            serial: entry.flags.contains(Flags::FRESH) && !have.serial && !entry.in_place(),
        };
        // No answer would lead to a grant, and the question be asked again without end.
        let vain = self.is_vain(entry) || ctx.words.gone(entry.lock);
        if missing.any() && vain { Want::default() } else { missing }
    }

    /// Was this request answered often enough? What its entry says does not let it be granted.
    pub(super) fn is_vain(&self, entry: &Waiting) -> bool {
        self.rare.vain.get(&entry.attempt).is_some_and(|n| *n >= VAIN_MAX)
    }

    pub(super) fn admit(
        &mut self,
        ctx: &mut Context<'_>,
        entry: &Waiting,
        mode: Mode,
        alternate: bool,
    ) -> bool {
        let token = match entry.from {
            Some(_) => {
                let token = ctx.words.convert(entry.lock, mode);
                if token.is_some() {
                    ctx.words.set_manner(entry.lock, entry.flags);
                }
                token
            }
            None => {
                let claim = Claim {
                    lock: entry.lock,
                    owner: entry.owner,
                    transaction: entry.transaction,
                    flags: entry.flags,
                    since: ctx.now,
                };
                ctx.words.admit(self.slot, mode, claim)
            }
        };
        let Some(token) = token else { return false };
        let value = ctx.words.value(self.slot);
        // On a way that moves nothing the block is shown only to say that it is not to be believed (32).
        let shown = entry.flags.contains(Flags::VALBLK)
            && match effect(entry.from, mode) {
                Effect::Read => true,
                Effect::Nothing => !value.valid,
                Effect::Write => false,
            };
        ctx.counters.local_grants += 1;
        // Only what was queued has a number among the queued.
        let queued = entry.attempt != 0;
        ctx.counters.grants[if queued { ctx.how } else { How::Retained } as usize] += 1;
        if queued {
            ctx.counters.waits.add(ctx.now.since(entry.since));
        }
        ctx.outputs.push_back(Output::Granted(Granted {
            lock: entry.lock,
            mode,
            token,
            value: shown.then_some(value),
            alternate,
            quiet: entry.flags.contains(Flags::QUIET),
        }));
        true
    }

    /// A releaser has handed over to the first waiter (M10): it is granted, and its request off the books.
    pub(crate) fn take_up(&mut self, ctx: &mut Context<'_>) {
        let Some(lock) = ctx.words.taken(self.slot) else { return };
        // Not there any more if its session ended or it withdrew in between.
        if self.rare.queues.is_empty() {
            return;
        }
        let Some(entry) = self.rare.queues.remove(lock) else { return };
        self.retire(ctx, &entry);
        ctx.counters.local_grants += 1;
        ctx.counters.grants[How::Local as usize] += 1;
        ctx.counters.waits.add(ctx.now.since(entry.since));
        ctx.outputs.push_back(Output::Granted(Granted {
            lock,
            mode: entry.mode,
            token: ctx.words.token(self.slot),
            value: None,
            alternate: false,
            quiet: true,
        }));
    }

    /// Names the waiter to whom a releaser may hand over, if there is one whom nothing but local holders keeps waiting
    /// and who needs nothing that only the node can give.
    pub(super) fn offer(&mut self, ctx: &mut Context<'_>) {
        let slow = Flags::VALBLK | Flags::FRESH | Flags::ALTPR | Flags::ALTCW;
        let next = self.rare.queues.only_newcomers().filter(|entry| {
            entry.flags.contains(Flags::QUIET)
                && !entry.flags.intersects(slow)
                && self.owned.is_some_and(|owned| owned.covers(entry.mode))
        });
        let offered = next.map(|entry| (entry.lock, entry.mode));
        let offered = offered.filter(|_| self.rare.head.is_none() && !self.forgetting);
        ctx.words.offer(self.slot, offered);
    }

    /// Grants from the queues in order (C9, C10, R1). Returns whether anything was granted.
    pub(super) fn scan(&mut self, ctx: &mut Context<'_>, answer: Answer) -> bool {
        if self.rare.queues.is_empty() {
            return false;
        }
        let mut any = self.scan_front(ctx, answer);
        // The list is scanned from the front until somebody does not fit.
        let tried = self.rare.queues.first_try();
        let passes = |entry: &Waiting| tried.is_some_and(|tried| tried < entry.attempt);
        while let Some(entry) = self.rare.queues.first_waiter().cloned() {
            if passes(&entry) || !matches!(self.attempt(ctx, &entry, answer), Verdict::Granted) {
                break;
            }
            any = true;
            self.rare.queues.pop_waiter();
            self.retire(ctx, &entry);
        }
        // Past those that do not fit: only in a scan that granted its head, so that an entry is passed over
        // at most once for each that stood before it (C10).
        if !any {
            return false;
        }
        let strict = ctx.config.order == Order::Strict;
        let how = core::mem::replace(&mut ctx.how, How::Passover);
        let mut queues = core::mem::take(&mut self.rare.queues);
        let shared = core::cell::RefCell::new(&mut *ctx);
        let (slot, owned) = (self.slot, self.owned);
        queues.offer_rest(
            strict,
            &mut |wants| {
                let word = shared.borrow().words.look(slot);
                let may =
                    |mode: Mode| owned.is_some_and(|owned| owned.covers(mode)) && word.counts.admits(mode);
                Mode::ALL.into_iter().any(|mode| wants(mode) && may(mode))
            },
            &mut |entry| {
                let ctx = &mut **shared.borrow_mut();
                let granted = !passes(entry) && matches!(self.attempt(ctx, entry, answer), Verdict::Granted);
                if granted {
                    ctx.counters.passover_grants += 1;
                    self.retire(ctx, entry);
                }
                granted
            },
        );
        self.rare.queues = queues;
        ctx.how = how;
        // Whoever was granted may be in the way of a try.
        self.scan_front(ctx, answer);
        true
    }

    /// Those who wait for an answer and for nobody else: each is granted as soon as it can be, and a try refused as
    /// soon as somebody here is in its way. A try holds up those that came later (R2), a change in place nobody.
    fn scan_front(&mut self, ctx: &mut Context<'_>, answer: Answer) -> bool {
        let mut any = false;
        let mut queues = core::mem::take(&mut self.rare.queues);
        queues.offer_front(&mut |entry| {
            let verdict = self.attempt(ctx, entry, answer);
            let granted = matches!(verdict, Verdict::Granted);
            any |= granted;
            let over = granted || (matches!(verdict, Verdict::Held) && entry.is_try());
            if over {
                self.retire(ctx, entry);
            }
            if over && !granted {
                self.refuse_try(ctx, entry);
            }
            over
        });
        self.rare.queues = queues;
        any
    }
}
