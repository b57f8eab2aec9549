//! The exact state of one resource, for checkers.
//!
//! [`look`](Lockspace::look) is for people: rows of text, bounded, rounded. A checker needs every field that the
//! rules speak of, and needs it millions of times. These views borrow; they cannot change anything.

use oarlock_layout::id::NodeId;
use oarlock_layout::message::lock::{Conv, Head, Kind, Want};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::Words;
use oarlock_layout::time::Instant;
use oarlock_layout::value::Value;
use oarlock_layout::view::View;

use crate::master::{Master, Record};
use crate::shadow::Shadow;
use crate::space::Lockspace;
use crate::waiting::Waiting;

/// A shadow, as it is at this instant.
#[derive(Clone, Copy, Debug)]
pub struct ShadowProbe<'a>(&'a Shadow);

/// A local request that waits.
#[derive(Clone, Copy, Debug)]
pub struct WaitingProbe<'a>(&'a Waiting);

/// A master, as it is at this instant.
#[derive(Clone, Copy, Debug)]
pub struct MasterProbe<'a>(&'a Master);

/// What a master knows of one shadow.
#[derive(Clone, Copy, Debug)]
pub struct RecordProbe<'a>(&'a Record);

impl Lockspace {
    /// Enters a view in which nobody has anything to wait for: the first of all, or the only one of a node that is alone.
    pub fn found(&mut self, now: Instant, words: &mut dyn Words, view: &View) {
        let departed = self.handle_view(view);
        while self.restate(now, words, u32::MAX) {}
        self.handle_open(now, words, departed);
    }

    /// The shadow of a resource here, if there is one.
    pub fn probe_shadow(&self, words: &dyn Words, name: &Name) -> Option<ShadowProbe<'_>> {
        self.shadow(words.find(name)?).map(ShadowProbe)
    }

    /// The master of a resource, if it is here and anybody has a record.
    pub fn probe_master(&self, name: &Name) -> Option<MasterProbe<'_>> {
        self.master(name).map(MasterProbe)
    }
}

impl<'a> ShadowProbe<'a> {
    /// The mode owned (record 2 of C4).
    pub fn owned(self) -> Option<Mode> {
        self.0.owned
    }

    /// The mode that the master was last told is owned (record 3 of C4).
    pub fn told_held(self) -> Option<Mode> {
        self.0.told.held
    }

    /// The wish that the master was last told.
    pub fn told_conv(self) -> Option<Conv> {
        self.0.rare.wish.conv
    }

    /// The questions that the master was last asked.
    pub fn told_want(self) -> Want {
        self.0.told.want
    }

    /// A statement is known to be discarded and was not repeated yet.
    pub fn unsure(self) -> bool {
        self.0.told.unsure
    }

    /// Ordinal of the last statement; last change heard; last statement that the master said it heard (R10).
    pub fn numbers(self) -> (u64, u64, u64) {
        (self.0.n, self.0.g, self.0.a)
    }

    /// The head as last told.
    pub fn head(self) -> Option<Head> {
        self.0.rare.head
    }

    /// A `Forget` is under way.
    pub fn forgetting(self) -> bool {
        self.0.forgetting
    }

    /// Those who wait here, converts first.
    pub fn waiting(self) -> impl Iterator<Item = WaitingProbe<'a>> {
        self.0.rare.queues.iter().map(WaitingProbe)
    }
}

impl WaitingProbe<'_> {
    /// Which lock.
    pub fn lock(self) -> oarlock_layout::id::LockId {
        self.0.lock
    }

    /// What it waits for.
    pub fn mode(self) -> Mode {
        self.0.mode
    }

    /// What it would take as well.
    pub fn alternate(self) -> Option<Mode> {
        self.0.alternate
    }

    /// What it holds meanwhile, if it converts.
    pub fn from(self) -> Option<Mode> {
        self.0.from
    }

    /// In which queue.
    pub fn kind(self) -> Kind {
        self.0.kind()
    }

    /// Its number among the requests of its shadow that ever waited.
    pub fn attempt(self) -> u64 {
        self.0.attempt
    }

    /// As the program gave them.
    pub fn flags(self) -> oarlock_layout::flags::Flags {
        self.0.flags
    }
}

impl<'a> MasterProbe<'a> {
    /// The first waiter, and what was announced of it.
    pub fn head(self) -> Option<(NodeId, Head)> {
        self.0.rare.head
    }

    /// Those who wait, converts first.
    pub fn queue(self) -> impl Iterator<Item = NodeId> {
        self.0.rare.converting.iter().chain(&self.0.rare.waiting).copied()
    }

    /// The newest block known here.
    pub fn value(self) -> Value {
        self.0.rare.value
    }

    /// A shadow is being asked for its block.
    pub fn recalling(self) -> bool {
        self.0.recalling()
    }

    /// What is known of each shadow, by node.
    pub fn records(self) -> impl Iterator<Item = (NodeId, RecordProbe<'a>)> {
        self.0.records.iter().map(|(node, rec)| (*node, RecordProbe(rec)))
    }

    /// What is known of one.
    pub fn record(self, node: NodeId) -> Option<RecordProbe<'a>> {
        self.0.records.get(&node).map(RecordProbe)
    }
}

impl RecordProbe<'_> {
    /// The mode the shadow is believed to own.
    pub fn held(self) -> Option<Mode> {
        self.0.held
    }

    /// Its wish.
    pub fn conv(self) -> Option<Conv> {
        self.0.rare.conv
    }

    /// Its questions.
    pub fn want(self) -> Want {
        self.0.want
    }

    /// Changes made of the master's own accord; last statement heard (C6, R10).
    pub fn numbers(self) -> (u64, u64) {
        (self.0.g, self.0.a)
    }

    /// The head as last told it.
    pub fn told(self) -> Option<Head> {
        self.0.rare.told
    }

    /// Has anybody there used the value block (R5)?
    pub fn uses_value(self) -> bool {
        self.0.uses_value
    }
}
