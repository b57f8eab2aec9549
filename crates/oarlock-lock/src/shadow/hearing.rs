//! What a shadow makes of its master's messages.

use oarlock_layout::code::Code;
use oarlock_layout::id::Epoch;
use oarlock_layout::limit::SERIAL_BITS;
use oarlock_layout::message::lock::{Deny, ForgetAck, Grant, HeadNotice, Reason, Want};
use oarlock_layout::token::Fence;
use oarlock_layout::value::Value;

use super::{Answer, Shadow, Turn};
use crate::context::Context;
use crate::output::Violation;
use crate::planted::Bug;
use crate::waiting::Waiting;

impl Shadow {
    pub(crate) fn grant(&mut self, ctx: &mut Context<'_>, m: Grant) -> Result<(), Violation> {
        let fence = self.believable(ctx, &m)?;
        self.change(ctx, m.g, m.a)?;
        ctx.counters.grant_received += 1;
        self.forgetting = false;
        let asked = self.rare.wish.conv.map(|conv| conv.attempt);
        let wanted = m.queued
            || self.told.want.any()
            || asked.is_some_and(|attempt| self.rare.queues.iter().any(|e| e.attempt == attempt));
        if !wanted {
            ctx.counters.grant_unwanted += 1;
            if ctx.planted.has(Bug::DropUnwantedGrant) {
                self.answered();
                return Ok(());
            }
        }
        if self.owned.is_none() && self.rare.value_written > 0 {
            // What it kept to be told is of a life of the resource that may be over. The master has judged it.
            ctx.words.set_value(self.slot, Value::NEVER);
            self.rare.value_written = 0;
            self.rare.value_known.learn(0);
        }
        self.owned = Some(m.mode);
        ctx.words.raise(self.slot, m.mode, fence);
        if let Some(value) = m.value {
            self.rare.value_known.learn(value.sequence);
            if value.sequence > ctx.words.value(self.slot).sequence || ctx.planted.has(Bug::OldBlock) {
                ctx.words.set_value(self.slot, value);
            }
        }
        self.told.held = Some(m.mode);
        if !m.queued && !ctx.planted.has(Bug::KeepTold) {
            self.answered();
        }
        self.told.want.serial = false;
        self.told.want.value &= !m.current;
        self.elsewhere = m.openers;
        if !m.queued && !ctx.planted.has(Bug::HeadFirst) {
            self.rare.reserved =
                asked.filter(|attempt| self.rare.queues.iter().any(|e| e.attempt == *attempt));
        }
        // The waiting local request first, then the head that came along: otherwise ownership would travel
        // without any program ever running (X8).
        self.rare.head = if ctx.planted.has(Bug::HeadFirst) { m.head } else { None };
        let answer = Answer { want: Want { value: m.current, serial: true }, alternate: m.alternate };
        self.scan(ctx, answer);
        self.rare.head = m.head;
        self.settle(ctx);
        if !wanted {
            // Ownership that nobody asked for any more goes through the same decision as a release.
            let mut before = ctx.words.look(self.slot);
            before.counts = before.counts.with(m.mode);
            self.consider(ctx, before);
        }
        Ok(())
    }

    pub(crate) fn deny(&mut self, ctx: &mut Context<'_>, m: Deny) -> Result<(), Violation> {
        self.change(ctx, m.g, m.a)?;
        self.forgetting = false;
        // The questions that came with the wish were refused with it; whoever still has one asks again.
        self.answered();
        let asked = core::mem::take(&mut self.told.want);
        // Who asked a question alone is not named in it: any that still has one would only ask it again, and is refused for it.
        let asks = |e: &&Waiting| self.missing(ctx, e, e.mode, Want::default()).any();
        let alone = asked.any() && m.attempt == 0 && m.reason == Reason::Exhausted;
        let asker = self.rare.queues.iter().find(|e| alone && asks(e));
        let denied = self.rare.queues.iter().find(|e| e.attempt == m.attempt).or(asker);
        let denied = denied.map(|e| (e.lock, e.refusal()));
        if let Some((lock, refusal)) = denied {
            let code = match m.reason {
                Reason::Busy => refusal,
                Reason::Deadlock => Code::Deadlock,
                Reason::Exhausted => Code::TokensExhausted,
            };
            ctx.counters.deadlock_victims += u64::from(code == Code::Deadlock);
            self.withdraw(ctx, lock, Some(code));
        } else {
            self.settle(ctx);
        }
        Ok(())
    }

    pub(crate) fn head(&mut self, ctx: &mut Context<'_>, m: HeadNotice) -> Result<(), Violation> {
        if m.g != self.g {
            return Err(Violation::Change { expected: self.g, came: m.g });
        }
        self.heard(m.a)?;
        self.elsewhere = m.openers;
        if m.head.is_none() {
            ctx.counters.head_cleared += 1;
        }
        self.rare.head = m.head;
        if !self.forgetting {
            self.settle(ctx);
        }
        Ok(())
    }

    /// The record is gone. Returns true if the shadow may go too.
    pub(crate) fn forgotten(&mut self, ctx: &mut Context<'_>, m: ForgetAck) -> Result<bool, Violation> {
        if !self.forgetting || m.n != self.n || m.g != self.g {
            return Err(Violation::NoRecord);
        }
        let mut old = core::mem::replace(self, Shadow::new(self.slot, self.master, self.epoch));
        if !old.rare.queues.is_empty() {
            self.rare.queues = core::mem::take(&mut old.rare.queues);
        }
        self.attempts = old.attempts;
        // Statements are counted anew, and nothing was asked yet.
        if !self.rare.queues.is_empty() {
            self.rare.queues.ask_anew();
        }
        // Whatever the block was, the resource may have gone and come back since (33).
        self.disown(ctx, false);
        if self.rare.queues.is_empty() {
            return Ok(true);
        }
        self.settle(ctx);
        Ok(false)
    }

    /// The fence of a grant that an honest master can have sent: it takes nothing away (3.4 rule 9), and serials
    /// do not fall (R6).
    fn believable(&self, ctx: &Context<'_>, m: &Grant) -> Result<Fence, Violation> {
        if self.owned.is_some_and(|owned| !m.mode.covers(owned)) {
            return Err(Violation::Lowers { owned: self.owned, came: m.mode });
        }
        let last = ctx.words.token(self.slot).fence;
        let reset = ctx.planted.has(Bug::TokenReset);
        let epoch = if reset { Epoch(1) } else { ctx.epoch };
        let fence = (m.serial < 1 << SERIAL_BITS).then(|| Fence::new(epoch, m.serial));
        fence
            .filter(|fence| *fence >= last || reset)
            .ok_or(Violation::Serial { last: last.serial(), came: m.serial })
    }

    /// A change that the master made of its own accord.
    fn change(&mut self, ctx: &Context<'_>, g: u64, a: u64) -> Result<(), Violation> {
        if g != self.g + 1 {
            return Err(Violation::Change { expected: self.g + 1, came: g });
        }
        self.heard(a)?;
        self.g = g;
        // Statements since the last change echo that change, so the master has applied those it has heard; all
        // earlier ones it has applied or discarded before.
        if a > self.base {
            self.applied = a;
        }
        self.base = self.n;
        self.rare.turn = Turn::Behind;
        self.told.unsure |= a < self.n && !ctx.planted.has(Bug::KeepTold);
        self.rare.value_use.settle(a);
        self.rare.value_known.settle(if ctx.planted.has(Bug::LoseStaleValue) { self.n } else { a });
        Ok(())
    }

    fn heard(&mut self, a: u64) -> Result<(), Violation> {
        if a > self.n || a < self.a {
            return Err(Violation::UnheardOf { last: self.n, came: a });
        }
        self.a = a;
        Ok(())
    }
}
