//! The deciding object of a resource: which shadow holds what, who waits, who is first.
//!
//! Every change ends in [`Master::run`]: grant from the front, then answer questions, then tell each shadow
//! what became of the head. What is believed of the shadows is kept mutually compatible at every instant;
//! since each believed mode covers what the shadow really owns, that is exclusion (3.4 rule 9, I1).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::NodeId;
use oarlock_layout::limit::SERIAL_MAX;
use oarlock_layout::message::lock::{
    Body, Conv, Deny, Forget, ForgetAck, Grant, Handover, Head, HeadNotice, Info, Kind, Reason, Remains, Want,
};
use oarlock_layout::mode::{Mode, join_option};
use oarlock_layout::name::Name;
use oarlock_layout::value::Value;
use oarlock_layout::view::Member;

use crate::config::Order;
use crate::context::Context;
use crate::output::Violation;
use crate::planted::Bug;
use crate::records::Records;
use crate::request::likely;
use crate::seldom::{Nothing, Seldom};
use crate::value::newer;

/// A resource at its master.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Master {
    pub(crate) name: Name,
    pub(crate) records: Records,
    /// Heads are numbered, tries and recalls included.
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    numbers: u64,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) rare: Seldom<Busy>,
}

/// What a master has while nobody waits and no block was ever written: nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Busy {
    /// Shadows that state a convert, then those that state a new request: one list, in order (C8, R3).
    pub(crate) converting: VecDeque<NodeId>,
    pub(crate) waiting: VecDeque<NodeId>,
    pub(crate) head: Option<(NodeId, Head)>,
    /// The newest block known here. A shadow that owns PW or EX may have a newer one (R5).
    pub(crate) value: Value,
    recall: Option<Recall>,
    /// What the master of an earlier view handed over, until all members have restated.
    inherited: Option<Inherited>,
    /// What departed runs had, until it is proven that they can do no harm (L4).
    pub(crate) remains: Vec<Remains>,
}

/// Of a resource, besides its block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Inherited {
    /// Who owned PW or EX, and may have a newer block.
    writer: Option<NodeId>,
    uses_value: bool,
}

impl Nothing for Busy {
    fn nothing() -> &'static Busy {
        static NOTHING: Busy = Busy {
            converting: VecDeque::new(),
            waiting: VecDeque::new(),
            head: None,
            value: Value::NEVER,
            recall: None,
            inherited: None,
            remains: Vec::new(),
        };
        &NOTHING
    }
}

/// What the master knows of one shadow.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) held: Option<Mode>,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) uses_value: bool,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) want: Want,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) openers: u32,
    /// Raised with each change of the master's own accord (C6).
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) g: u64,
    /// Last statement heard (R10).
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) a: u64,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) rare: Seldom<Asking>,
}

/// What is known of a shadow that waits, keeps others waiting or uses the value block.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asking {
    pub(crate) conv: Option<Conv>,
    /// The head as last sent to it.
    pub(crate) told: Option<Head>,
    pub(crate) busy: u64,
    /// Sequence of the block that the shadow is known to have.
    value_known: u64,
    /// Number of the recall whose answer its question for the value waits for.
    recall: u64,
    /// The block it wrote before it gave its record up, which the master of the view before may have heard or not.
    left: Value,
    /// It gave its record up before all had restated: its last change and statement then.
    forgets: Option<(u64, u64)>,
}

impl Nothing for Asking {
    fn nothing() -> &'static Asking {
        static NOTHING: Asking = Asking {
            conv: None,
            told: None,
            busy: 0,
            value_known: 0,
            recall: 0,
            left: Value::NEVER,
            forgets: None,
        };
        &NOTHING
    }
}

/// A question to the owner of PW or EX for its block, in the form of a head that gives way at once (R5 e).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Recall {
    holder: NodeId,
    number: u64,
}

/// What a run decided for one shadow.
#[derive(Clone, Copy)]
pub(crate) enum Decision {
    Granted { alternate: bool },
    Answered,
    Denied { attempt: u64, reason: Reason },
}

impl Master {
    pub(crate) fn new(name: Name) -> Master {
        Master { name, records: Records::default(), numbers: 0, rare: Seldom::default() }
    }

    /// A shadow's statement (3.6 rule 1).
    pub(crate) fn info(&mut self, ctx: &mut Context<'_>, from: NodeId, info: Info) -> Result<(), Violation> {
        let known = self.records.contains_key(&from);
        let rec = self.records.get_or_default(from);
        let restates = !known && !ctx.open;
        let checked = Self::check(rec, known, restates, &info);
        if let Err(violation) = checked {
            if !known {
                self.records.remove(&from);
            }
            return Err(violation);
        }
        if let Some(held) = info.held.filter(|held| restates && !self.beside_others(ctx, from, *held)) {
            self.records.remove(&from);
            return Err(Violation::Overlaps { came: held });
        }
        let rec = self.records.get_or_default(from);
        rec.a = info.n;
        if info.g < rec.g && !ctx.planted.has(Bug::NoSequenceCheck) {
            // It spoke before it heard of the last change, which is on its way and will make it speak again.
            ctx.counters.info_stale += 1;
            if ctx.planted.has(Bug::StaleLowers) {
                rec.held = info.held;
                self.run(ctx, Vec::new());
            }
            return Ok(());
        }
        if rec.rare.forgets.is_some() {
            rec.rare.forgets = None;
        }
        rec.held = info.held;
        rec.openers = info.openers;
        rec.uses_value |= info.uses_value;
        rec.rare.busy = info.busy;
        // A recall answers the statement that it was made for: a later one may stand for a request that came
        // after a write which the answer does not know.
        rec.rare.recall = 0;
        rec.want = info.want;
        if let (None, Some(value)) = (info.held, info.value) {
            rec.rare.left = value;
        } else if let Some(value) = info.value {
            rec.rare.value_known = rec.rare.value_known.max(value.sequence);
            if value.sequence > self.rare.value.sequence {
                self.rare.value = value;
            }
        }
        let mut decided = Vec::new();
        self.place(ctx, from, info.conv, &mut decided);
        self.run(ctx, decided);
        Ok(())
    }

    /// `restates`: it is the first thing that it says under this view, and it may have owned something before.
    fn check(rec: &Record, known: bool, restates: bool, info: &Info) -> Result<(), Violation> {
        if info.n != rec.a + 1 {
            return Err(Violation::Ordinal { expected: rec.a + 1, came: info.n });
        }
        if info.g > rec.g {
            return Err(Violation::Future { last: rec.g, came: info.g });
        }
        if info.g < rec.g {
            return Ok(());
        }
        let lowered = match (rec.held, info.held) {
            (_, None) => rec.held.is_none(),
            (None, Some(_)) => restates,
            (Some(granted), Some(held)) => granted.covers(held),
        };
        if !lowered {
            return Err(Violation::Overclaims { granted: rec.held, came: info.held });
        }
        let shrinks = |conv: &Conv| {
            let wants = [Some(conv.mode), conv.alternate].into_iter().flatten();
            wants.zip(core::iter::repeat(info.held)).any(|(wish, held)| held.is_some_and(|h| !wish.covers(h)))
        };
        if info.conv.as_ref().is_some_and(shrinks) {
            return Err(Violation::Shrinks { held: info.held });
        }
        if info.value.is_some() && !restates && !rec.held.is_some_and(Mode::writes_value) {
            return Err(Violation::ValueWithoutRight);
        }
        if !known && info.held.is_none() && info.want.any() && info.conv.is_none() {
            return Err(Violation::NoRecord);
        }
        Ok(())
    }

    /// A shadow gives up its record (R12).
    pub(crate) fn forget(&mut self, ctx: &mut Context<'_>, from: NodeId, m: Forget) -> Result<(), Violation> {
        let rec = self.records.get_mut(&from).ok_or(Violation::NoRecord)?;
        if m.n != rec.a + 1 {
            return Err(Violation::Ordinal { expected: rec.a + 1, came: m.n });
        }
        if m.g > rec.g {
            return Err(Violation::Future { last: rec.g, came: m.g });
        }
        rec.a = m.n;
        if m.g < rec.g && !ctx.planted.has(Bug::StaleForget) {
            ctx.counters.info_stale += 1;
            return Ok(());
        }
        if let Some(value) = m.value {
            if !rec.held.is_some_and(Mode::writes_value) {
                return Err(Violation::ValueWithoutRight);
            }
            if value.sequence > self.rare.value.sequence {
                self.rare.value = value;
            }
        }
        if ctx.open || ctx.planted.has(Bug::ForgetAtOnce) {
            self.let_go(ctx, from, m.g, m.n);
            self.run(ctx, Vec::new());
        } else {
            // What it wrote is not yet what this master knows: another view may come before all have restated, and then it
            // must be there to say so again.
            self.records.get_mut(&from).expect("found above").rare.forgets = Some((m.g, m.n));
        }
        Ok(())
    }

    /// The record of a shadow goes, and it is told so.
    fn let_go(&mut self, ctx: &mut Context<'_>, from: NodeId, g: u64, n: u64) {
        self.records.remove(&from);
        self.leave(from);
        ctx.send(from, &self.name, Body::ForgetAck(ForgetAck { g, n }));
    }

    /// Does anybody still have a record, or had one that can still do harm? If not, the resource and its block may go (33).
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.rare.remains.is_empty()
    }

    /// Forgets what departed runs had that can do no harm any more.
    pub(crate) fn forget_remains(&mut self, ctx: &Context<'_>) {
        if !self.rare.remains.is_empty() {
            self.rare.remains.retain(|it| ctx.departed.pending.contains(&it.run));
        }
    }

    /// Is some shadow being asked for its block?
    pub(crate) fn recalling(&self) -> bool {
        self.rare.recall.is_some()
    }

    // ----- from view to view ----------------------------------------------------------------------------

    /// What this master knows that no shadow can say, for whoever is master in the next view. `complete`: all members had
    /// restated, so that what it knows is all there is. `left`: the run of a node that leaves now, if something is to be proven of it.
    pub(crate) fn estate(&self, complete: bool, left: impl Fn(NodeId) -> Option<Member>) -> Option<Handover> {
        let inherited = self.rare.inherited;
        if !complete && inherited.is_none() {
            return None;
        }
        let had = |(node, rec): (&NodeId, &Record)| {
            let mode = rec.held.filter(|mode| *mode != Mode::NL)?;
            Some(Remains { run: left(*node)?, mode })
        };
        let mut remains = self.rare.remains.clone();
        remains.extend(self.records.iter().filter_map(had));
        let value = self.with_left(inherited.and_then(|it| it.writer));
        let writes = |(_, rec): &(&NodeId, &Record)| rec.held.is_some_and(Mode::writes_value);
        let writer = self.records.iter().find(writes).map(|(node, _)| *node);
        let unheard = || inherited?.writer.filter(|node| !self.records.contains_key(node));
        let uses_value =
            self.records.values().any(|rec| rec.uses_value) || inherited.is_some_and(|it| it.uses_value);
        (value.sequence > 0 || uses_value || !remains.is_empty()).then(|| Handover {
            value,
            writer: writer.or_else(unheard),
            uses_value,
            remains,
        })
    }

    /// The master of the view before says what it knew.
    pub(crate) fn inherit(&mut self, ctx: &Context<'_>, m: Handover) -> Result<(), Violation> {
        if ctx.open || self.rare.inherited.is_some() {
            return Err(Violation::Handover);
        }
        self.rare.remains = m.remains;
        if ctx.planted.has(Bug::HeirForgets) {
            return Ok(());
        }
        if m.value.sequence > self.rare.value.sequence {
            self.rare.value = m.value;
        }
        self.rare.inherited = Some(Inherited { writer: m.writer, uses_value: m.uses_value });
        Ok(())
    }

    /// Has it something that no shadow can say again?
    pub(crate) fn inherits(&self) -> bool {
        self.rare.inherited.is_some()
    }

    /// All members have restated. `departed`: some member left whose own shadow nobody could ask.
    pub(crate) fn open(&mut self, ctx: &mut Context<'_>, departed: bool) {
        let in_doubt = self.in_doubt() || ctx.planted.has(Bug::MarkAlways);
        if departed && in_doubt && !ctx.planted.has(Bug::KeepDeadWritersBlock) {
            let left = self.records.values().map(|rec| rec.rare.left);
            self.rare.value = left.fold(self.rare.value, newer).doubted(ctx.epoch);
        } else if let Some(Inherited { writer, .. }) = self.rare.inherited {
            self.rare.value = self.with_left(writer);
        }
        if self.inherits() {
            self.rare.inherited = None;
        }
        for rec in self.records.values_mut().filter(|rec| rec.rare.left != Value::NEVER) {
            rec.rare.left = Value::NEVER;
        }
        let forgets = |(node, rec): (&NodeId, &Record)| rec.rare.forgets.map(|(g, n)| (*node, g, n));
        for (node, g, n) in self.records.iter().filter_map(forgets).collect::<Vec<_>>() {
            self.let_go(ctx, node, g, n);
        }
        let mut decided = Vec::new();
        // Without order: that in which they were stated anew could itself be a deadlock (47).
        for node in self.rare.converting.clone() {
            if let Some(alternate) = self.fits(ctx, node, self.conv(node)) {
                self.decide(ctx, node, alternate, &mut decided);
            }
        }
        for node in self.rare.converting.clone() {
            if self.conversion_deadlock(node) {
                self.refuse(node, Reason::Deadlock, &mut decided);
            }
        }
        self.run(ctx, decided);
    }

    /// The newest block, with what `writer` wrote before it gave its record up.
    fn with_left(&self, writer: Option<NodeId>) -> Value {
        let left = writer.and_then(|node| self.records.get(&node)).map(|rec| rec.rare.left);
        left.map_or(self.rare.value, |left| newer(self.rare.value, left))
    }

    /// May there have been a newer block than any that was stated? The master of the view before has not said who could
    /// have written one. Beside a mode above CR nobody can have (44).
    fn in_doubt(&self) -> bool {
        let uses = |rec: &Record| rec.uses_value || rec.rare.left.sequence > 0;
        let used = self.rare.value.sequence > 0 || self.records.values().any(uses);
        let witness = |rec: &Record| rec.held.is_some_and(|held| !matches!(held, Mode::NL | Mode::CR));
        used && !self.inherits() && !self.records.values().any(witness)
    }

    // ----- queues ---------------------------------------------------------------------------------------

    fn leave(&mut self, node: NodeId) {
        self.rare.converting.retain(|n| *n != node);
        self.rare.waiting.retain(|n| *n != node);
    }

    /// Who is first: converts before newcomers.
    fn first(&self) -> Option<NodeId> {
        self.rare.converting.front().or(self.rare.waiting.front()).copied()
    }

    fn conv(&self, node: NodeId) -> Conv {
        self.records[&node].rare.conv.expect("a queued shadow has stated a wish")
    }

    /// Puts a wish in its place, or answers it at once.
    fn place(
        &mut self,
        ctx: &mut Context<'_>,
        node: NodeId,
        conv: Option<Conv>,
        decided: &mut Vec<(NodeId, Decision)>,
    ) {
        let rec = self.records.get_mut(&node).expect("a record");
        let old = rec.rare.conv;
        rec.rare.conv = conv;
        let Some(conv) = conv else {
            self.leave(node);
            return;
        };
        if old.is_some_and(|old| old.kind != conv.kind) {
            // A statement whose kind changes goes to the tail of its new queue (R3).
            self.leave(node);
        }
        let queued = self.rare.converting.contains(&node) || self.rare.waiting.contains(&node);
        let strict = ctx.config.order == Order::Strict;
        let expedited = conv.kind == Kind::New && conv.flags.contains(Flags::EXPEDITE);
        // In strict order a convert that fits is granted in place, past every queue, unless it said
        // QUECVT (8, 9).
        let in_place = strict && conv.kind == Kind::Convert && !conv.flags.contains(Flags::QUECVT);
        // Another local request may have come to the front of a shadow that waits already; one that was
        // queued once stays in its place (11).
        let another = !queued || old.is_none_or(|old| old.attempt != conv.attempt);
        if (expedited || in_place)
            && another
            && ctx.open
            && let Some(alternate) = self.fits(ctx, node, conv)
        {
            self.decide(ctx, node, alternate, decided);
            return;
        }
        // One that came to the front of its shadow by HEADQUE does so here as well, although its shadow had a place
        // for another already (R8).
        let headed = queued && another && conv.flags.contains(Flags::HEADQUE);
        if headed {
            self.leave(node);
        }
        if !queued || headed {
            let behind = match conv.kind {
                Kind::Convert => !self.rare.converting.is_empty(),
                Kind::New => self.first().is_some(),
            };
            let hasty = ctx.planted.has(Bug::TryByRetention) && self.fits(ctx, node, conv).is_none();
            if conv.flags.contains(Flags::NOQUEUE) && (behind || hasty) && ctx.open {
                self.refuse(node, Reason::Busy, decided);
                return;
            }
            let queue = match conv.kind {
                Kind::Convert => &mut self.rare.converting,
                Kind::New => &mut self.rare.waiting,
            };
            if conv.flags.contains(Flags::HEADQUE) {
                queue.push_front(node);
            } else {
                queue.push_back(node);
            }
        }
        if ctx.open && self.conversion_deadlock(node) && !ctx.planted.has(Bug::NoDeadlock) {
            self.refuse(node, Reason::Deadlock, decided);
        }
    }

    /// Do this convert and one ahead of it wait for each other: that one for the mode this one holds, this one
    /// for its place (D9, scenarios 50, 53)? The one that came later is refused.
    fn conversion_deadlock(&self, node: NodeId) -> bool {
        let conv = self.conv(node);
        let Some(held) = conv.from else { return false };
        if conv.flags.intersects(Flags::NOQUEUE | Flags::NODLCKWT) {
            return false;
        }
        let place = self.rare.converting.iter().position(|n| *n == node);
        let Some(place) = place else { return false };
        let waits = |n: &NodeId| !self.conv(*n).flags.contains(Flags::NOQUEUE);
        let ahead = self.rare.converting.iter().take(place).filter(|n| waits(n));
        let mut behind = self.rare.converting.iter().skip(place + 1).filter(|n| waits(n));
        ahead.map(|n| self.conv(*n)).any(|other| !other.mode.compatible(held))
            || (conv.flags.contains(Flags::HEADQUE)
                && behind.any(|n| self.conv(*n).from.is_some_and(|held| !held.compatible(conv.mode))))
    }

    /// Takes a wish out of its queue with a refusal.
    fn refuse(&mut self, node: NodeId, reason: Reason, decided: &mut Vec<(NodeId, Decision)>) {
        let attempt = self.conv(node).attempt;
        self.leave(node);
        let rec = self.records.get_mut(&node).expect("a record");
        // The questions that came with it are over as well.
        (rec.rare.conv, rec.want, rec.rare.recall) = (None, Want::default(), 0);
        rec.g += 1;
        decided.push((node, Decision::Denied { attempt, reason }));
    }

    // ----- deciding -------------------------------------------------------------------------------------

    /// Is `mode` beside everything that others hold? A shadow's own mode never blocks it (3.6 rule 4).
    fn beside_others(&self, ctx: &Context<'_>, node: NodeId, mode: Mode) -> bool {
        self.records
            .iter()
            .filter(|(other, _)| **other != node || ctx.planted.has(Bug::OwnHeldBlocks))
            .all(|(_, rec)| rec.held.is_none_or(|held| held.compatible(mode)))
    }

    /// Is `mode` beside everything that others hold, and departed runs may still act under?
    fn is_free(&self, ctx: &Context<'_>, node: NodeId, mode: Mode) -> bool {
        self.beside_others(ctx, node, mode)
            && ctx.departed.allow(ctx.config.space, &self.name, &self.rare.remains, mode)
    }

    /// Can the wish be granted now, and is it the second choice?
    fn fits(&self, ctx: &Context<'_>, node: NodeId, conv: Conv) -> Option<bool> {
        if self.is_free(ctx, node, conv.mode) {
            return Some(false);
        }
        conv.alternate.filter(|mode| self.is_free(ctx, node, *mode)).map(|_| true)
    }

    /// What a shadow may own at once beyond what it wants, because its program is likely to want that next: only where nobody else
    /// holds or wants anything, so that it takes nothing from anybody (C20).
    fn stronger(&self, ctx: &Context<'_>, node: NodeId, conv: Conv) -> Option<Mode> {
        let mode = join_option(Some(conv.mode), Some(likely(conv.flags)?))?;
        let idle = |rec: &Record| rec.held.is_none_or(|held| held == Mode::NL) && rec.rare.conv.is_none();
        let alone = self.records.iter().all(|(other, rec)| *other == node || idle(rec));
        let may = alone && self.is_free(ctx, node, mode) || ctx.planted.has(Bug::LikelyUnchecked);
        (mode != conv.mode && may).then_some(mode)
    }

    /// Gives a shadow the mode it stated, or more if it hinted at that. False if there is no serial left to give.
    fn grant(&mut self, ctx: &mut Context<'_>, node: NodeId, alternate: bool) -> bool {
        if *ctx.serial >= SERIAL_MAX {
            return false;
        }
        let conv = self.conv(node);
        let mode = match conv.alternate.filter(|_| alternate) {
            Some(second) => second,
            None => self.stronger(ctx, node, conv).unwrap_or(conv.mode),
        };
        ctx.counters.anticipatory_granted += u64::from(!alternate && mode != conv.mode);
        assert!(
            ctx.planted != crate::planted::Planted::NONE || self.beside_others(ctx, node, mode),
            "{mode} beside an incompatible mode on {:?}",
            self.name
        );
        self.leave(node);
        let rec = self.records.get_mut(&node).expect("a record");
        rec.held = Some(mode);
        rec.rare.conv = None;
        rec.g += 1;
        true
    }

    /// Grants, answers and announces whatever the present state allows.
    pub(crate) fn run(&mut self, ctx: &mut Context<'_>, mut decided: Vec<(NodeId, Decision)>) {
        if !ctx.open {
            // What is built so far is half of what there is.
            assert!(decided.is_empty(), "nothing is decided before all have restated");
            return;
        }
        self.grant_from_front(ctx, &mut decided);
        self.answer(ctx, &mut decided);
        self.number_head();
        // A try at the head is over as soon as one holder is really busy (R2).
        while let Some((node, head)) = self.rare.head.filter(|(_, head)| head.attempt != 0) {
            let conv = self.conv(node);
            let busy = self.records.iter().any(|(other, rec)| {
                *other != node
                    && rec.rare.busy == head.number
                    && rec.held.is_some_and(|held| !held.compatible(conv.mode))
            });
            if !busy {
                break;
            }
            self.refuse(node, Reason::Busy, &mut decided);
            self.grant_from_front(ctx, &mut decided);
            // Whoever was granted now may have a question that the grant does not answer.
            self.answer(ctx, &mut decided);
            self.number_head();
        }
        self.announce(ctx, decided);
    }

    /// The scan: from the front while the first fits; then, if anybody was granted, past those that do not
    /// (C8, C9, R1).
    fn grant_from_front(&mut self, ctx: &mut Context<'_>, decided: &mut Vec<(NodeId, Decision)>) {
        let mut any = false;
        while let Some(node) = self.first() {
            let Some(alternate) = self.fits(ctx, node, self.conv(node)) else { break };
            self.decide(ctx, node, alternate, decided);
            any = true;
        }
        // A try waits for answers, not for others: behind somebody it is over.
        let behind: Vec<NodeId> = self
            .rare
            .converting
            .iter()
            .chain(&self.rare.waiting)
            .skip(1)
            .filter(|n| self.conv(**n).flags.contains(Flags::NOQUEUE))
            .copied()
            .collect();
        for node in behind {
            self.refuse(node, Reason::Busy, decided);
        }
        if !any {
            return;
        }
        let rest: Vec<NodeId> =
            self.rare.converting.iter().chain(&self.rare.waiting).skip(1).copied().collect();
        for node in rest {
            let conv = self.conv(node);
            let may = ctx.config.order == Order::Passover || conv.flags.contains(Flags::NOORDER);
            if let Some(alternate) = self.fits(ctx, node, conv).filter(|_| may) {
                ctx.counters.passover_grants += 1;
                self.decide(ctx, node, alternate, decided);
            }
        }
    }

    fn decide(
        &mut self,
        ctx: &mut Context<'_>,
        node: NodeId,
        alternate: bool,
        decided: &mut Vec<(NodeId, Decision)>,
    ) {
        if self.grant(ctx, node, alternate) {
            decided.push((node, Decision::Granted { alternate }));
        } else {
            self.refuse(node, Reason::Exhausted, decided);
        }
    }

    /// The shadow, other than `node`, that may have a newer block than the master. Whether it said that it uses
    /// the block does not matter: a program that only locked may have died (35) or written on its way out (29).
    fn writer(&self, node: NodeId) -> Option<NodeId> {
        let writes = |rec: &Record| rec.held.is_some_and(Mode::writes_value);
        self.records.iter().find(|(other, rec)| **other != node && writes(rec)).map(|(other, _)| *other)
    }

    /// Answers what shadows asked besides modes: a serial at once, the newest block after a recall if some
    /// other shadow may have a newer one.
    fn answer(&mut self, ctx: &Context<'_>, decided: &mut Vec<(NodeId, Decision)>) {
        if let Some(recall) = self.rare.recall {
            let rec = self.records.get(&recall.holder);
            let open =
                rec.is_some_and(|r| r.rare.busy != recall.number && r.held.is_some_and(Mode::writes_value));
            if !open {
                self.rare.recall = None;
                for rec in self.records.values_mut().filter(|rec| rec.rare.recall == recall.number) {
                    // Its question is as good as the block that has just come.
                    rec.rare.recall = u64::MAX;
                }
            }
        }
        // A question that comes with a wish is answered with it: asked alone it would be asked again and
        // again while the wish waits.
        let alone = ctx.planted.has(Bug::AnswerAlone);
        let asks = |rec: &Record| rec.want.any() && rec.held.is_some() && (rec.rare.conv.is_none() || alone);
        let asking: Vec<NodeId> =
            self.records.iter().filter(|(_, rec)| asks(rec)).map(|(node, _)| *node).collect();
        for node in asking {
            let writer = self.writer(node);
            let told = decided.iter().any(|(n, _)| *n == node);
            let rec = self.records.get_mut(&node).expect("a record");
            let answerable = !rec.want.value || writer.is_none() || rec.rare.recall == u64::MAX;
            if answerable {
                // A grant of this run says it all.
                if !told && *ctx.serial < SERIAL_MAX {
                    rec.g += 1;
                    decided.push((node, Decision::Answered));
                } else if !told {
                    // An answer is a grant, and there is no serial left for one: it would be waited for as long as the view lasts.
                    (rec.want, rec.rare.recall) = (Want::default(), 0);
                    rec.g += 1;
                    decided.push((node, Decision::Denied { attempt: 0, reason: Reason::Exhausted }));
                }
            } else if let (None, Some(holder)) = (self.rare.recall, writer) {
                self.numbers += 1;
                rec.rare.recall = self.numbers;
                self.rare.recall = Some(Recall { holder, number: self.numbers });
            }
        }
    }

    /// Gives the first waiter a number if it is another one, or wants something else, than before.
    fn number_head(&mut self) {
        let now = self.first().map(|node| (node, self.conv(node)));
        if now.is_none() && self.rare.head.is_none() {
            return;
        }
        let is = |head: &Head, conv: &Conv| {
            let attempt = if conv.flags.contains(Flags::NOQUEUE) { conv.attempt } else { 0 };
            head.mode == conv.mode && head.kind == conv.kind && head.attempt == attempt
        };
        self.rare.head = match (now, self.rare.head) {
            (None, _) => None,
            (Some((node, conv)), Some((old, head))) if node == old && is(&head, &conv) => Some((old, head)),
            (Some((node, conv)), _) => {
                self.numbers += 1;
                let try_ = conv.flags.contains(Flags::NOQUEUE);
                let head = Head {
                    number: self.numbers,
                    mode: conv.mode,
                    kind: conv.kind,
                    attempt: if try_ { conv.attempt } else { 0 },
                    notify: !try_ || conv.flags.contains(Flags::NOQUEUEBAST),
                    demand: conv.demand,
                };
                Some((node, head))
            }
        };
    }

    // ----- telling --------------------------------------------------------------------------------------

    /// The head as far as it concerns `node` (C12; R3: in strict order it concerns everybody who holds).
    fn head_for(&self, ctx: &Context<'_>, node: NodeId) -> Option<Head> {
        if let Some(recall) = self.rare.recall.filter(|recall| recall.holder == node) {
            return Some(Head {
                number: recall.number,
                mode: Mode::PR,
                kind: Kind::New,
                attempt: recall.number,
                notify: false,
                demand: false,
            });
        }
        let (owner, head) = self.rare.head?;
        let held = self.records[&node].held?;
        let concerned = match ctx.config.order {
            Order::Strict => held != Mode::NL,
            Order::Passover => !held.compatible(head.mode),
        };
        (owner != node && concerned).then_some(head)
    }

    fn openers_elsewhere(&self, node: NodeId) -> u32 {
        self.records
            .iter()
            .filter(|(other, _)| **other != node)
            .fold(0, |sum, (_, rec)| sum.saturating_add(rec.openers))
    }

    /// Sends grants, answers and refusals, each with the head as it is now; then the head to the others.
    fn announce(&mut self, ctx: &mut Context<'_>, decided: Vec<(NodeId, Decision)>) {
        for (node, decision) in decided {
            let head = self.head_for(ctx, node);
            let openers = self.openers_elsewhere(node);
            let writer = self.writer(node);
            let rec = self.records.get_mut(&node).expect("a record");
            let (g, a) = (rec.g, rec.a);
            if let Decision::Denied { attempt, reason } = decision {
                ctx.send(node, &self.name, Body::Deny(Deny { g, a, attempt, reason }));
                continue;
            }
            let answered = matches!(decision, Decision::Answered);
            // A grant of PR or more has no other writer beside it; a grant of CR or NL may have one, and
            // then only a recall makes the block current.
            let current = writer.is_none() || rec.rare.recall == u64::MAX;
            rec.want.serial = false;
            if current {
                rec.want.value = false;
                rec.rare.recall = 0;
            }
            rec.rare.told = head;
            let newer = self.rare.value.sequence > rec.rare.value_known || ctx.planted.has(Bug::OldBlock);
            rec.rare.value_known = rec.rare.value_known.max(self.rare.value.sequence);
            let mode = rec.held.expect("whoever is granted or answered holds something");
            let grant = Grant {
                g,
                a,
                mode,
                serial: next_serial(ctx),
                alternate: matches!(decision, Decision::Granted { alternate: true }),
                queued: answered && rec.rare.conv.is_some(),
                current,
                head,
                openers,
                value: newer.then_some(self.rare.value),
            };
            ctx.send(node, &self.name, Body::Grant(grant));
        }
        let nodes: Vec<NodeId> = self.records.keys().copied().collect();
        for node in nodes {
            let head = self.head_for(ctx, node);
            let openers = self.openers_elsewhere(node);
            let rec = self.records.get_mut(&node).expect("a record");
            if rec.rare.told.map(|h| h.number) == head.map(|h| h.number) {
                continue;
            }
            if head.is_none() && ctx.planted.has(Bug::ForgetHeadGone) {
                continue;
            }
            rec.rare.told = head;
            let notice = HeadNotice { g: rec.g, a: rec.a, head, openers };
            ctx.send(node, &self.name, Body::Head(notice));
        }
        self.records.values_mut().for_each(|rec| rec.rare.tidy());
        self.rare.tidy();
    }
}

fn next_serial(ctx: &mut Context<'_>) -> u64 {
    *ctx.serial += 1;
    *ctx.serial
}
