//! From one view to the next: what is owned stays, what was known of it is said anew (X9 to X11, L11).
//!
//! ```text
//!             handle_view          restate (in pieces)      handle_open
//!   open ─────────────────► quiet ─────────────────► restated ─────────► open
//!     ▲   masters are gone;  │  all members are in     │  all members have restated: masters
//!     │   shadows say        │  the view: handovers,   │  grant what goes beside all that those
//!     │   nothing            │  then a statement of    │  who left may still act under
//!     │                      │  each shadow            │
//!     └── another view may come at any of these: it begins again ──┘
//! ```
//!
//! Local grants go on all the while under the mode that was owned: `owned` is a safe upper bound while masters move (M13).
//! It may be lowered meanwhile, which a later statement says; nobody raises it, because grants of the view before are not
//! listened to any more and those of this one begin at the end.
//!
//! # Why no two members own what conflicts
//!
//! A member lowers what it owns before it says so, and raises it only when it hears a grant. So at every instant what a
//! member owns is no more than the master of the view believes, and what a master believes of all members is compatible.
//! Whoever has entered the next view hears no grant of this one; whoever has not may still hear one, made beside beliefs
//! that are no less than what the others have stated by then. The new master grants nothing before all have stated.
//!
//! # Value blocks (44)
//!
//! A master that lives hands over the newest block it knew and who might have written a newer one; if that one has left,
//! the block is marked as not to be believed before. If no master lives to say so, a member that owns more than CR is
//! a witness that nobody was writing. Without either the block is marked. A second view in the middle loses nothing but
//! certainty: who had not yet handed over hands over then, what comes late to an heir that is in the next view already is
//! handed on by it, and what a dead heir had is missing, which marks the block.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use oarlock_layout::departed::Departed;
use oarlock_layout::id::{Epoch, NodeId, Slot};
use oarlock_layout::message::lock::{Body, Handover};
use oarlock_layout::name::Name;
use oarlock_layout::segment::Words;
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};

use crate::context::Context;
use crate::master::Master;
use crate::planted::Bug;
use crate::space::Lockspace;

/// How far this lockspace is in its view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Stage {
    /// No view yet, or not all members are in it: nothing is said.
    Quiet,
    /// Shadows state anew; all slots below this one have.
    Restating(u32),
    /// All have.
    Restated,
    /// Masters grant.
    Open,
}

/// Views that follow each other before one is open, and of which each is remembered. Each takes a decision of all.
const OVERTAKEN_MAX: usize = 16;

impl Lockspace {
    /// What is known of runs that left is this now (L4). Something is to be proven of a run before the view without it is valid here.
    pub fn handle_departed(&mut self, now: Instant, words: &mut dyn Words, departed: &Departed) {
        let old = core::mem::replace(&mut self.remains, departed.clone());
        match () {
            () if self.planted.has(Bug::LostForgotten) => self.remains.lost.clear(),
            () if self.planted.has(Bug::UnknownForgotten) => self.remains.unknown.clear(),
            () if self.planted.has(Bug::AllUnknown) => self.remains.unknown.clone_from(&departed.pending),
            () => {}
        }
        if old.pending.is_subset(&departed.pending) {
            return;
        }
        self.each_master(now, words, |master, ctx| {
            master.forget_remains(ctx);
            master.run(ctx, Vec::new());
        });
    }

    /// Another view is valid. Returns whether a run that was in the one before is not in this one; or in one before that, if
    /// the views since then were never open here: what it may have done is not settled yet.
    ///
    /// # Panics
    /// If its epoch is not above the one before, or this node is no member.
    pub fn handle_view(&mut self, view: &View) -> bool {
        assert!(view.epoch > self.view.epoch, "{:?} comes after {:?}", view.epoch, self.view.epoch);
        assert!(view.member(self.config().me).is_some(), "only a member enters a view");
        assert!(self.inside.is_empty(), "all that was said inside has been heard");
        let complete = self.stage == Stage::Open;
        let before = self.masters.len();
        let pending =
            |run: &Member| self.remains.pending.contains(run) && !self.planted.has(Bug::RemainsForgotten);
        let left = |node: NodeId| {
            let run = self.view.member(node).copied().filter(|run| view.member(node) != Some(run));
            run.filter(pending)
        };
        for master in self.masters.take() {
            if let Some(estate) = master.estate(complete, left) {
                self.estates.insert(master.name, estate);
            }
        }
        // About as many will be stated anew; one member less, and those that remain have more each.
        self.masters.reserve(before + before / view.members.len());
        let old = core::mem::replace(&mut self.view, view.clone());
        let same = self.planted.has(Bug::SameNode);
        let gone = |node: NodeId| match view.member(node) {
            Some(_) if same => false,
            now => old.member(node).is_some() && old.member(node) != now,
        };
        for Handover { value, writer, .. } in self.estates.values_mut() {
            if writer.is_some_and(gone) && !self.planted.has(Bug::KeepDeadWritersBlock) {
                (*value, *writer) = (value.doubted(view.epoch), None);
            }
        }
        self.stage = Stage::Quiet;
        self.serial = 0;
        self.departed =
            old.nodes().any(gone) || (self.departed && !complete && !self.planted.has(Bug::DepartedOnce));
        if complete {
            self.overtaken.clear();
        } else if !old.members.is_empty() {
            self.overtaken.push(old);
        }
        if self.overtaken.len() > OVERTAKEN_MAX {
            // What is handed over under the oldest will be refused, so nobody may be sure of a block.
            self.overtaken.remove(0);
            self.departed = true;
        }
        self.departed
    }

    /// What a master of an earlier view handed over under a view that was overtaken before it was open here. Whoever said it
    /// has nothing more, and says that it is in the view that is valid only after it: so it comes before this node restates.
    pub(crate) fn late_estate(&mut self, from: NodeId, epoch: Epoch, name: Name, mut estate: Handover) {
        let Some(then) = self.overtaken.iter().find(|view| view.epoch == epoch) else { return };
        if self.stage != Stage::Quiet
            || self.planted.has(Bug::LateHandover)
            || then.member(from).is_none()
            || self.master_in(then, &name) != self.config().me
        {
            return;
        }
        let gone = |node: NodeId| then.member(node) != self.view.member(node);
        if estate.writer.is_some_and(gone) {
            (estate.value, estate.writer) = (estate.value.doubted(self.view.epoch), None);
        }
        self.estates.entry(name).or_insert(estate);
    }

    /// All members are in the view: says what the next so many resources have to say. Returns whether there are more.
    pub fn restate(&mut self, now: Instant, words: &mut dyn Words, mut budget: u32) -> bool {
        if self.stage == Stage::Quiet {
            self.stage = Stage::Restating(0);
        }
        while budget > 0
            && let Some((name, estate)) = self.estates.pop_first()
        {
            budget -= 1;
            let heir = self.master_of(&name);
            self.split(now, words).2.send(heir, &name, Body::Handover(estate));
            self.drain_inside(now, words);
        }
        while let Stage::Restating(next) = self.stage {
            if next as usize == self.shadows.len() {
                self.stage = Stage::Restated;
                break;
            }
            if budget == 0 {
                return true;
            }
            self.stage = Stage::Restating(next + 1);
            if self.shadow(Slot(next)).is_some() {
                budget -= 1;
                self.counters.restated += 1;
                let (shadow, mut ctx) = self.open(now, words, Slot(next));
                shadow.settle(&mut ctx);
                self.drain_inside(now, words);
            }
        }
        false
    }

    /// All members have restated: masters here grant from now on what goes beside all that departed runs may still act under.
    /// `departed`: some member knew a run that is not in this view. What is known of departed runs has been said before.
    ///
    /// # Panics
    /// If this node has not restated itself.
    pub fn handle_open(&mut self, now: Instant, words: &mut dyn Words, departed: bool) {
        assert!(self.stage == Stage::Restated, "its own shadows have not restated: {:?}", self.stage);
        self.stage = Stage::Open;
        self.each_master(now, words, |master, ctx| master.open(ctx, departed));
    }

    /// Does this with each, and what follows from it at this node before the next.
    fn each_master(
        &mut self,
        now: Instant,
        words: &mut dyn Words,
        mut call: impl FnMut(&mut Master, &mut Context<'_>),
    ) {
        for place in 0..self.masters.places() {
            let (_, masters, mut ctx) = self.split(now, words);
            let Some(master) = masters.at_mut(place) else { continue };
            call(master, &mut ctx);
            if master.is_empty() && ctx.open {
                let name = master.name.clone();
                masters.remove(&name);
            }
            self.drain_inside(now, words);
        }
    }

    /// The lease of this node comes to its end: until it is renewed no program is granted anything new (L6). Masters here go
    /// on: who listens to them is still in the view with them.
    pub fn handle_frozen(&mut self, now: Instant, words: &mut dyn Words, frozen: bool) {
        self.frozen = frozen;
        if frozen {
            return;
        }
        let slots: BTreeSet<Slot> = self.waiting.values().copied().collect();
        for slot in slots {
            let (shadow, mut ctx) = self.open(now, words, slot);
            shadow.settle(&mut ctx);
            self.drain_inside(now, words);
        }
    }

    /// Do masters here grant?
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// The view that is valid here; without members before the first.
    pub fn view(&self) -> &View {
        &self.view
    }
}
