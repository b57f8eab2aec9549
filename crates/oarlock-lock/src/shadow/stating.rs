//! What a shadow tells its master, and when it gives its record up.

use oarlock_layout::flags::Flags;
use oarlock_layout::message::lock::{Body, Conv, Forget, Info, Want};
use oarlock_layout::mode::{Mode, join_option};
use oarlock_layout::segment::Word;

use super::{Shadow, Turn};
use crate::context::Context;
use crate::planted::Bug;
use crate::statement::{Told, Wish};
use crate::value::{Effect, effect, readable_under};
use crate::waiting::Waiting;

impl Shadow {
    /// Says what the master does not know yet, if anything (rules 5 and 6).
    pub(super) fn state(&mut self, ctx: &mut Context<'_>, word: &Word) {
        if ctx.quiet {
            return;
        }
        let exceeds = |conv: &Conv, owned: Mode| {
            [Some(conv.mode), conv.alternate].into_iter().flatten().any(|mode| !mode.covers(owned))
        };
        // Programs that ask for answers one after the other would keep a waiter of their node from ever being
        // heard, although nobody may be in its way. So it is stated in between, if only for a moment.
        let turn = self.rare.turn;
        if turn != Turn::Front {
            self.rare.turn = Turn::Front;
        }
        let behind = match turn {
            Turn::Front => None,
            Turn::Behind => self.rare.queues.held_up(),
            Turn::Asked(attempt) => self.rare.queues.held_up().filter(|entry| entry.attempt == attempt),
        };
        if let Some(entry) = behind.cloned() {
            let conv = self.conv_of(ctx, word, &entry);
            let want = self.want_of(ctx, word, &entry, None);
            if conv.is_none() && want.any() && self.rare.queues.first().is_some_and(Waiting::is_try) {
                // It waits for an answer itself, which a refused try does not bring. The block may have to be
                // asked for elsewhere, and a question that is taken back is never answered: so the try waits.
                self.say(ctx, word, None, want);
                self.rare.turn = Turn::Asked(entry.attempt);
                return;
            }
            if conv.is_some()
                && !conv.as_ref().zip(self.owned).is_some_and(|(conv, owned)| exceeds(conv, owned))
            {
                self.say(ctx, word, conv, Want::default());
            }
        }
        let mut conv = self.conv(ctx, word);
        if conv.as_ref().zip(self.owned).is_some_and(|(conv, owned)| exceeds(conv, owned))
            && !ctx.planted.has(Bug::KeepIncomparable)
        {
            // What is retained and what is wanted are not comparable (CW and PR), or a head holds back an
            // entry that needs less: a grant would take away what is still owned. So it goes first.
            let lowered = self.lower(ctx, None);
            conv = self.conv(ctx, &lowered);
        }
        let want = self.want(ctx, word, conv.as_ref());
        let asks = |entry: &&Waiting| conv.is_none() && want.any() && !entry.waits_for_an_answer();
        if let Some(first) = self.rare.queues.first().filter(asks) {
            self.rare.turn = Turn::Asked(first.attempt);
        }
        self.say(ctx, word, conv, want);
    }

    /// Says it, unless the master knows.
    fn say(&mut self, ctx: &mut Context<'_>, word: &Word, conv: Option<Conv>, want: Want) {
        let busy = match self.rare.head {
            Some(head) if self.owned.is_some_and(|owned| !owned.compatible(head.mode)) => head.number,
            _ => 0,
        };
        let wish = Wish { conv, busy };
        let value = ctx.words.value(self.slot);
        let owns_block = self.owned.is_some_and(Mode::writes_value);
        let written = self.told.held.is_some_and(Mode::writes_value) || self.rare.writes_unheard;
        if written && self.rare.value_written != value.sequence {
            self.rare.value_written = value.sequence;
        }
        // Who was giving its record up when the view came owns nothing, and says so only if it wrote.
        let may_write = self.owned.is_some() || self.n == 0;
        let value_due = !owns_block && may_write && self.value_is_news(value.sequence);
        if self.owes_block() && !value_due {
            // Whoever maps the segment has put another number there: nothing is left that could be said.
            self.rare.value_written = 0;
        }
        if !self.told.differs(self.owned, want, self.rare.wish, wish) && !value_due {
            return;
        }
        let silent = self.n == 0 && self.owned == Some(Mode::NL) && wish.conv.is_none();
        if silent && ctx.planted.has(Bug::NlUnstated) {
            return;
        }
        self.n += 1;
        if self.rare.writes_unheard {
            self.rare.writes_unheard = false;
        }
        let carries = self.value_is_news(value.sequence);
        if carries {
            self.rare.value_known.carry(self.n, value.sequence);
        }
        if self.uses_value && !self.rare.value_use.expected() && !ctx.planted.has(Bug::SilentUse) {
            self.rare.value_use.carry(self.n, true);
        }
        self.told = Told { held: self.owned, want, unsure: false };
        if self.rare.wish != wish {
            self.rare.wish = wish;
        }
        let info = Info {
            n: self.n,
            g: self.g,
            held: self.owned,
            conv,
            busy,
            openers: self.openers_here(word),
            uses_value: self.uses_value && !ctx.planted.has(Bug::SilentUse),
            want,
            value: carries.then_some(value),
        };
        ctx.send(self.master, &ctx.words.name(self.slot), Body::Info(info));
    }

    /// Is this block newer than what the master has, and can it have been written under what it granted?
    fn value_is_news(&self, sequence: u64) -> bool {
        sequence > self.rare.value_known.expected() && sequence <= self.rare.value_written
    }

    /// The wish to state: the first request that cannot be served from here (rule 5). One that is covered
    /// but held back by a head is stated too: otherwise it would have no place in the master's queue.
    pub(super) fn conv(&self, ctx: &Context<'_>, word: &Word) -> Option<Conv> {
        self.conv_of(ctx, word, self.rare.queues.first()?)
    }

    fn conv_of(&self, ctx: &Context<'_>, word: &Word, first: &Waiting) -> Option<Conv> {
        if first.in_place() || self.is_vain(first) {
            return None;
        }
        let covered = self.owned.is_some_and(|owned| owned.covers(first.mode));
        if covered && self.passes_head(ctx.config.order, ctx.words, first) {
            return None;
        }
        if ctx.frozen {
            // What is granted now cannot be used: a new wish would be granted and stated without end.
            return self.rare.wish.conv.filter(|told| told.attempt == first.attempt);
        }
        let need = word.counts.need();
        let with_need = |mode| join_option(need, Some(mode)).expect("a join with some mode");
        let others = match first.from {
            Some(from) => word.counts.without(from),
            None => word.counts,
        };
        Some(Conv {
            mode: with_need(first.mode),
            // A second choice that somebody here is in the way of would be granted again and again, for
            // nothing.
            alternate: first.alternate.filter(|mode| others.admits(*mode)).map(with_need),
            kind: first.kind(),
            from: first.from,
            attempt: first.attempt,
            flags: self.stated(ctx, first),
            demand: false,
        })
    }

    /// A hint at what comes next is of no use where nothing is kept that nobody needs.
    fn stated(&self, ctx: &Context<'_>, first: &Waiting) -> Flags {
        let flags = first.flags & Flags::STATED;
        if ctx.config.retain { flags } else { flags - (Flags::LIKELYPW | Flags::LIKELYEX) }
    }

    pub(super) fn want(&self, ctx: &Context<'_>, word: &Word, conv: Option<&Conv>) -> Want {
        self.rare.queues.first().map_or(Want::default(), |first| self.want_of(ctx, word, first, conv))
    }

    fn want_of(&self, ctx: &Context<'_>, word: &Word, first: &Waiting, conv: Option<&Conv>) -> Want {
        if ctx.frozen {
            // No answer would lead to a grant.
            return Want::default();
        }
        if conv.is_some() {
            // The grant brings a new serial by itself; whether it brings the newest block depends on who
            // else owns what then.
            let reads = first.flags.contains(Flags::VALBLK)
                && effect(first.from, first.mode) == Effect::Read
                && !readable_under(first.mode);
            return Want { value: reads, serial: false };
        }
        let others = match first.from {
            Some(from) => word.counts.without(from),
            None => word.counts,
        };
        if others.admits(first.mode) {
            self.missing(ctx, first, first.mode, Want::default())
        } else {
            Want::default()
        }
    }

    /// Nobody here has or wants a lock, and the master knows everything.
    pub(super) fn unused(&self, word: &Word) -> bool {
        word.counts.total() == 0
            && self.rare.queues.is_empty()
            && !self.told.unsure
            && self.rare.wish.conv.is_none()
            && !self.told.want.any()
            && self.told.held == self.owned
            && !self.owes_block()
    }

    /// It gave its record up when the view before came to its end, and has not said yet what it wrote last.
    fn owes_block(&self) -> bool {
        let unsaid = self.rare.value_written > self.rare.value_known.expected();
        self.n == 0 && self.owned.is_none() && unsaid
    }

    /// Keeps the book of shadows that may be forgotten later.
    pub(super) fn rest(&mut self, ctx: &mut Context<'_>, word: &Word) {
        let idle = self.unused(word) && matches!(self.owned, None | Some(Mode::NL));
        match (idle, self.rare.idle_since) {
            (true, None) => {
                self.rare.idle_since = Some(ctx.now);
                ctx.idle.insert((ctx.now, self.slot));
            }
            (false, Some(_)) => self.wake(ctx),
            _ => {}
        }
        self.rare.tidy();
    }

    /// Comes up for being forgotten once more.
    pub(crate) fn rest_anew(&mut self, ctx: &mut Context<'_>) {
        self.rare.idle_since = Some(ctx.now);
        ctx.idle.insert((ctx.now, self.slot));
    }

    pub(super) fn wake(&mut self, ctx: &mut Context<'_>) {
        if let Some(since) = self.rare.idle_since {
            self.rare.idle_since = None;
            ctx.idle.remove(&(since, self.slot));
        }
    }

    /// Gives up the record of an unused resource, retained modes included. Returns true if there is no
    /// record to give up: the shadow may go at once.
    pub(crate) fn forget(&mut self, ctx: &mut Context<'_>) -> bool {
        // From here on it is no longer in the book of idle ones, whatever comes of this.
        self.wake(ctx);
        if self.forgetting || !self.unused(&ctx.words.look(self.slot)) {
            return false;
        }
        if self.n == 0 && self.owned.is_none() {
            return true;
        }
        if ctx.quiet {
            // Once it may speak it rests anew.
            return false;
        }
        // A caller may have taken a lock since that look: only behind the gate the counts can do nothing but
        // fall (M8).
        let word = ctx.words.set_gate(self.slot);
        if word.counts.total() != 0 && !ctx.planted.has(Bug::ForgetUncounted) {
            self.settle(ctx);
            return false;
        }
        self.lower(ctx, None);
        let word = ctx.words.look(self.slot);
        self.state(ctx, &word);
        self.forgetting = true;
        self.n += 1;
        let value = ctx.words.value(self.slot);
        let newer = self.value_is_news(value.sequence);
        let forget = Forget { g: self.g, n: self.n, value: newer.then_some(value) };
        ctx.send(self.master, &ctx.words.name(self.slot), Body::Forget(forget));
        false
    }

    /// Is there a retained mode, or nothing, and no reason to keep the slot but memory of it?
    pub(crate) fn evictable(&self, word: &Word) -> bool {
        !self.forgetting && self.unused(word)
    }
}
