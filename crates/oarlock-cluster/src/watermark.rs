//! The cluster clock under ceilings: a watermark that is at or above every clock of the cluster, at every moment (E5-E9).
//!
//! ```text
//!                         ┌──────────────────────────────┐
//!   who wants a stamp ──► │  clock ≤ granted ≤ ceiling   │──► the next stamp, or Wait
//!   a frame's reading ──► │  watermark                   │──► Store    a number that must be durable first
//!   a view            ──► │                              │──► Say      a frame to a peer, who waits for it or is waited for
//!   a number is durable ► │                              │──► Ready    whoever was told to wait may ask again
//!                         └──────────────────────────────┘──► Misdeed  a peer's clock is a lie
//! ```
//!
//! # Ceilings
//!
//! Each node says on every frame: where its clock stands, the ceiling it has announced, and the ceiling of the receiver
//! that it has heard ([`Reading`]). **A node issues no stamp above a ceiling that all members of its view have acknowledged
//! in that view.** The watermark of a node is the highest ceiling that it knows. So whatever any member issues, every
//! member has a watermark at or above it *before* it is issued; and what a clock takes over from a message was issued by
//! somebody. That needs no timer and no bound on delays, only acknowledgements.
//!
//! A raise is one round: announce, all acknowledge. Nothing stops meanwhile (the second form of E7), because it begins long
//! before the old ceiling is reached: half a stride before, which is how far the clock goes in two periods, the time a
//! raise takes, and the time in which a silent member is put out. It is announced on frames that go anyway, unless
//! somebody waits; it is answered at once. So a raise is one frame from each other member, and one more to each if
//! somebody waits.
//!
//! # What is durable
//!
//! One number, at or above every ceiling that this node has announced **or acknowledged**, stored before it says either
//! (CK5). So a run that begins with the number of the run before knows a watermark that covers the whole cluster as it was,
//! and if all die at once, any one that comes back with its disk covers them all (E8).
//!
//! # When the view changes
//!
//! Acknowledgements count in one view only: both must be in it. A node that has installed a view acknowledges nothing of
//! an earlier one any more. From this follows all else:
//!
//! * *The dead.* What a dead member issued, every survivor had acknowledged before it installed the new view, so it is
//!   below that survivor's watermark; even if the dead one goes on for a while without knowing that it is out (E9).
//!   It knows nothing of later views, and nothing may come of its stamps: that is what fences are for.
//! * *Survivors* begin the view above their watermark, once a ceiling above it is acknowledged. So every stamp of the new
//!   view is above every stamp of the old one.
//! * *A newcomer* or a run that was restarted announces what it has stored, and takes no part in the clock until it has
//!   heard every member in the new view. Each of them has announced a ceiling above its watermark by then, and issues
//!   nothing above it that the newcomer has not acknowledged. From then on the newcomer's watermark is valid, and its
//!   clock begins there.
//! * *A raise under way* is void; the first ceiling of the new view takes its place.
//! * *A view is skipped.* A member of it that did not install it has acknowledged nothing in it, so nobody has issued
//!   anything in it.
//!
//! # Who bounds ceilings
//!
//! What members know is lost with their disks. So somebody whose memory is better, the coordinator, bounds all ceilings: it has
//! one number above which none is announced, raises it in long strides when it is told to, and hands it to each new view as the
//! `jump` from which its clocks begin. A view is decided after every raise that counted in the one before, and a node
//! learns of a raise that comes after it no earlier than of the view itself; so no ceiling of an earlier view is above the jump.
//!
//! # Who is silent
//!
//! A silent member stops the clock of nobody at once: all go on up to what it has acknowledged. Then they wait until it is
//! heard or the view is another one. Locks need no stamps and do not wait.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::{LEASE, LEASE_DRIFT, PROBE, STAMPS_PER_VIEW};
use oarlock_layout::stamp::{AbsurdStamp, Clock, HighWatermark, Reading, Stamp};
use oarlock_layout::time::Instant;
use oarlock_layout::view::View;

mod pace;
#[cfg(feature = "planted")]
mod planted;
mod violation;

#[cfg(feature = "planted")]
pub use planted::Shortcut;
pub use violation::Violation;

use pace::Pace;

/// The longest stride: 500 million stamps a second for half a minute, and a peer that lies needs millions of lies to
/// come to the end of all clocks.
pub const STRIDE_MAX: u64 = 1 << 34;

const _: () = assert!(STAMPS_PER_VIEW >= 4 * STRIDE_MAX, "more room is asked for before a stride needs it");

/// What a clock is built with.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// This run of it. Only a view that names it counts.
    pub incarnation: Incarnation,
    /// What the runs before have stored last; zero if nothing.
    pub stored: Stamp,
    /// At least one frame goes each way in this time (E4).
    pub period: Duration,
    /// How long a member may be silent before it is put out of the view; a clock in haste has a ceiling so far ahead.
    pub patience: Duration,
    /// No ceiling is announced above it, until [`Watermark::handle_bound`] says more. [`Stamp::MAX`] if nobody bounds ceilings.
    pub bound: Stamp,
    /// Half of it is the room below the bound at which more is wanted.
    pub range: u64,
}

impl Config {
    /// With the times of the cluster (L10), and nobody who bounds ceilings.
    pub const fn new(me: NodeId, incarnation: Incarnation, stored: Stamp) -> Config {
        let patience = LEASE.saturating_add(LEASE_DRIFT);
        let (bound, range) = (Stamp::MAX, STAMPS_PER_VIEW);
        Config { me, incarnation, stored, period: PROBE, patience, bound, range }
    }
}

/// Why there is no stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoStamp {
    /// [`Output::Ready`] says when to ask again.
    #[error("not all members have acknowledged a higher ceiling yet")]
    Wait,
    /// The clock has come to its end. It never wraps.
    #[error("the clock has come to its end")]
    End,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Make this durable, then call [`Watermark::handle_stored`]. There is one at a time.
    Store(Stamp),
    /// Send this peer a frame now: somebody waits for what it says.
    Say(NodeId),
    /// Whoever was told to wait may ask again.
    Ready,
    /// A peer's clock is a lie. Its frame was refused; it should be put out (CK7).
    Misdeed(Violation),
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Stamps issued.
    pub issued: u64,
    /// How often a peer's stamp moved this clock forward.
    pub jumps: u64,
    /// How often somebody had to wait for a stamp.
    pub waits: u64,
    /// Ceilings announced, those with which views begin included.
    pub raises: u64,
    /// Numbers stored.
    pub stores: u64,
    /// Frames asked for because somebody waited.
    pub said: u64,
    /// Stamps that were not taken over, because nothing could be known of their ceiling.
    pub unmerged: u64,
    /// Readings that were lies.
    pub misdeeds: u64,
}

/// Another member of the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// Which node.
    pub node: NodeId,
    /// The highest ceiling it has announced in this view.
    pub heard: Option<Stamp>,
    /// The highest ceiling of ours that it has acknowledged in this view.
    pub acked: Stamp,
    /// That is not acknowledged yet: it waits for the disk.
    owed: bool,
}

/// The clock of one run. See the [module](self).
///
/// *Inputs* are the `handle_` methods, [`issue`](Watermark::issue) and [`hear`](Watermark::hear); after each, drain
/// [`poll_output`](Watermark::poll_output). There is no timer: a frame goes each way at least once per period (E4) and says
/// everything again, so nothing has to be repeated here.
///
/// ```
/// use oarlock_cluster::watermark::{Config, Output, Watermark};
/// use oarlock_layout::id::{Epoch, Incarnation, NodeId};
/// use oarlock_layout::stamp::{HighWatermark, Stamp};
/// use oarlock_layout::time::Instant;
/// use oarlock_layout::view::{Member, View};
///
/// let (me, incarnation, now) = (NodeId(0), Incarnation(7), Instant(0));
/// let mut clock = Watermark::new(Config::new(me, incarnation, Stamp(4000)));
/// let view = View { epoch: Epoch(1), members: vec![Member { node: me, incarnation }] };
/// clock.handle_view(now, &view, HighWatermark(Stamp(0)));
/// assert!(clock.issue(now).is_err(), "nothing is durable yet");
/// while let Some(output) = clock.poll_output() {
///     if let Output::Store(number) = output {
///         clock.handle_stored(now, number);
///     }
/// }
/// assert_eq!(clock.issue(now), Ok(Stamp(4001)), "above everything that runs before have issued");
/// ```
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermark {
    config: Config,
    clock: Stamp,
    /// Every ceiling heard or announced is at or below it.
    high: Stamp,
    /// It is at or above every clock of the cluster, not only of those heard.
    valid: bool,
    stored: Stamp,
    storing: Option<Stamp>,
    /// The newest view that was shown.
    shown: Epoch,
    /// The same; 0 if it does not name this run.
    epoch: Epoch,
    /// Sorted by node.
    others: Vec<Other>,
    /// All others have announced a ceiling in this view.
    all_heard: bool,
    /// The first stamp issued in this view is above it.
    base: Option<Stamp>,
    /// The ceiling of this view that peers are told.
    announced: Option<Stamp>,
    /// The ceiling that is wanted; announced as soon as it is durable.
    wanted: Stamp,
    /// No ceiling is announced above it.
    bound: Stamp,
    /// Up to here stamps may be issued; zero until the view's base is acknowledged.
    granted: Stamp,
    /// Somebody was told to wait.
    waiting: bool,
    /// What peers have announced for views that are not installed here yet.
    ahead: BTreeMap<NodeId, (Epoch, Stamp)>,
    pace: Pace,
    counters: Counters,
    #[serde(with = "oarlock_layout::written::drained")]
    outputs: VecDeque<Output>,
    #[cfg(feature = "planted")]
    #[serde(skip)]
    shortcut: Option<Shortcut>,
}

impl Watermark {
    /// The clock of a run that has just begun. It stands at zero: it goes on where the cluster is, once a view names it.
    ///
    /// # Panics
    /// If what was stored is beyond the end of all clocks.
    pub fn new(config: Config) -> Watermark {
        assert!(config.stored <= Stamp::MAX, "{} is stored, beyond the end", config.stored);
        Watermark {
            config,
            clock: Stamp(0),
            high: config.stored,
            valid: false,
            stored: config.stored,
            storing: None,
            shown: Epoch(0),
            epoch: Epoch(0),
            others: Vec::new(),
            all_heard: false,
            base: None,
            announced: None,
            wanted: Stamp(0),
            bound: config.bound,
            granted: Stamp(0),
            waiting: false,
            ahead: BTreeMap::new(),
            pace: Pace::new(config.period, config.patience),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            #[cfg(feature = "planted")]
            shortcut: None,
        }
    }

    // ----- inputs ---------------------------------------------------------------------------------------------

    /// The next stamp: above every one that this node has issued or heard (E1, CK2).
    pub fn issue(&mut self, now: Instant) -> Result<Stamp, NoStamp> {
        self.pace.handle_issue(now, self.clock.0);
        if self.clock >= Stamp::MAX {
            return Err(NoStamp::End);
        }
        if self.granted >= self.wanted {
            self.pace.handle_granted(now);
        }
        let may = self.clock < self.granted || (self.clock == self.granted && self.goes_one_above());
        if may {
            self.clock.0 += 1;
            self.counters.issued += 1;
        }
        // Until the view's base is acknowledged, the ceiling with which it begins is under way or not to be known yet.
        let near = self.wanted.0.saturating_sub(self.clock.0) < self.pace.half_stride(self.clock.0);
        if near && self.granted > Stamp(0) {
            self.want(now, self.clock);
        }
        if may {
            return Ok(self.clock);
        }
        if !self.waiting {
            self.waiting = true;
            self.counters.waits += 1;
            // The raise may be under way, and in no haste until now.
            self.urge();
        }
        Err(NoStamp::Wait)
    }

    /// A frame came: this comes before all else that it says (E3).
    ///
    /// A run that is in no view, or has not heard everybody in it, does not know enough to call a stamp a lie. Then a
    /// stamp above its watermark is left where it is: its own clock will begin further ahead.
    pub fn hear(&mut self, from: NodeId, reading: &Reading) -> Result<(), Violation> {
        let result = self.try_hear(from, reading);
        if let Err(violation) = result {
            self.counters.misdeeds += 1;
            self.outputs.push_back(Output::Misdeed(violation));
        }
        result
    }

    /// A view is valid here. `jump` came with it and is the same for all: no clock begins the view below it.
    ///
    /// Views that are not newer are ignored. A view that does not name this run ends its part in the clock.
    ///
    /// Somebody in the view must know: it must name, of every view since the last one in which stamps were issued, at least
    /// one node, be it with another run that has the disk of the one before. Or `jump` brings what nobody in it
    /// knows, as it does if all ceilings are [bounded](Watermark::handle_bound) and it is what the bound was when the view came.
    pub fn handle_view(&mut self, now: Instant, view: &View, jump: HighWatermark) {
        if view.epoch <= self.shown {
            return;
        }
        self.shown = view.epoch;
        let Config { me, incarnation, .. } = self.config;
        let named = view.member(me).is_some_and(|member| member.incarnation == incarnation);
        self.epoch = if named { view.epoch } else { Epoch(0) };
        self.valid &= named;
        (self.base, self.announced, self.granted, self.wanted) = (None, None, Stamp(0), Stamp(0));
        self.all_heard = false;
        self.others.clear();
        if !named {
            return;
        }
        for node in view.nodes().filter(|node| *node != me) {
            let heard =
                self.ahead.get(&node).filter(|(epoch, _)| *epoch == view.epoch).map(|(_, heard)| *heard);
            self.high = self.high.max(heard.unwrap_or_default());
            self.others.push(Other { node, heard, acked: Stamp(0), owed: heard.is_some() });
        }
        self.ahead.retain(|_, (epoch, _)| *epoch > view.epoch);
        self.high = self.high.max(jump.0.min(Stamp::MAX));
        if self.valid {
            self.base = Some(self.high);
            self.want(now, self.high);
        } else {
            self.announced = Some(self.stored);
            self.urge();
        }
        self.settle_base(now);
        self.store();
    }

    /// Ceilings may be announced up to here, in the view that was shown last and in no earlier one. It never falls.
    pub fn handle_bound(&mut self, now: Instant, bound: Stamp) {
        if bound <= self.bound {
            return;
        }
        self.bound = bound;
        let Some(base) = self.base else { return };
        if self.granted == Stamp(0) || self.waiting {
            self.want(now, base);
        }
    }

    /// What [`Output::Store`] asked for is durable.
    ///
    /// # Panics
    /// If it did not ask for this.
    pub fn handle_stored(&mut self, now: Instant, number: Stamp) {
        assert_eq!(self.storing.take(), Some(number), "stored what was asked for");
        self.stored = self.stored.max(number);
        self.settle_base(now);
        self.answer();
        self.store();
    }

    // ----- outputs --------------------------------------------------------------------------------------------

    /// What is to be done next, until it is `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What a frame to this peer says of the clock (E2).
    pub fn reading(&self, to: NodeId) -> Reading {
        // Before the first ceiling of the view is durable, the view is not spoken of.
        let Some(ceiling) = self.announced else { return Reading::bare(self.clock) };
        let heard = self.place(to).and_then(|place| self.others[place].heard);
        // Nothing is acknowledged that a restart would forget.
        let acked = heard.unwrap_or_default().min(self.stored);
        Reading { stamp: self.clock, ceiling, acked, epoch: self.epoch }
    }

    /// The largest stamp issued or heard so far.
    pub const fn last(&self) -> Stamp {
        self.clock
    }

    /// At or above every clock of the cluster, now. `None` until this run has heard every member of a view that names it.
    pub fn high_watermark(&self) -> Option<HighWatermark> {
        self.valid.then_some(HighWatermark(self.high))
    }

    /// The view whose members must acknowledge; 0 while none names this run.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What this node has announced in this view.
    pub const fn ceiling(&self) -> Option<Stamp> {
        self.announced
    }

    /// Up to here this node may issue stamps; zero while it may issue none.
    pub const fn granted(&self) -> Stamp {
        self.granted
    }

    /// The bound that is wanted, if clocks have come near the one that there is: half a range further. All members that know
    /// the same bound want the same one. It should be asked for now and then, until it is there.
    pub fn bound_wanted(&self) -> Option<Stamp> {
        let half = self.config.range / 2;
        let near = self.epoch != Epoch(0) && self.bound < Stamp::MAX && self.high.0 + half > self.bound.0;
        near.then(|| Stamp((self.bound.max(self.high).0 + half).min(Stamp::MAX.0)))
    }

    /// No ceiling is announced above this.
    pub const fn bound(&self) -> Stamp {
        self.bound
    }

    /// What is durable here.
    pub const fn stored(&self) -> Stamp {
        self.stored
    }

    /// The other members, by node.
    pub fn others(&self) -> &[Other] {
        &self.others
    }

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    // ----- what follows ---------------------------------------------------------------------------------------

    fn place(&self, node: NodeId) -> Option<usize> {
        self.others.binary_search_by_key(&node, |other| other.node).ok()
    }

    fn try_hear(&mut self, from: NodeId, reading: &Reading) -> Result<(), Violation> {
        let &Reading { stamp, ceiling, acked, epoch } = reading;
        let furthest = stamp.max(ceiling).max(acked);
        if furthest > Stamp::MAX {
            return Err(Violation::PastTheEnd { from, stamp: furthest, end: Stamp::MAX });
        }
        let same = (epoch == self.epoch).then(|| self.place(from)).flatten();
        // Whatever a clock of this view shows was acknowledged here before it was issued. Only a node that is further
        // may know of stamps that we do not: if we are out of the view and have not learned it yet. Who says no view may
        // be further, and on its way to the next one.
        if self.valid && stamp > self.high && epoch <= self.epoch && epoch != Epoch(0) {
            return Err(Violation::BeyondCeilings { from, stamp, max: self.high });
        }
        if let Some(place) = same {
            self.check(from, reading)?;
            self.heard_in_view(place, reading);
        } else if epoch > self.epoch && self.ahead.get(&from).is_none_or(|known| *known < (epoch, ceiling)) {
            self.ahead.insert(from, (epoch, ceiling));
        }
        if stamp > self.high {
            self.counters.unmerged += 1;
        } else if stamp > self.clock {
            self.clock = stamp;
            self.counters.jumps += 1;
            if self.granted == Stamp(0) {
                // Others have begun the view already. From an earlier one to here is no pace.
                self.pace.handle_jump(stamp.0);
            }
        }
        self.tick_on_receive();
        Ok(())
    }

    /// Of a peer in the same view.
    fn check(&self, from: NodeId, reading: &Reading) -> Result<(), Violation> {
        let announced = self.announced.unwrap_or_default();
        if reading.acked > announced {
            return Err(Violation::NeverAnnounced { from, acked: reading.acked, announced });
        }
        // The first ceiling of a view brings what its sender has stored, which may be anything; a later one is at most a
        // stride above a clock or a first ceiling, all of which are known here, or above that with which another member
        // has begun, who may have begun above a third.
        let members = self.others.len() as u64 + 1;
        let max = Stamp(self.high.0.saturating_add(STRIDE_MAX * members));
        if self.valid && self.all_heard && reading.ceiling > max {
            return Err(Violation::CeilingTooFar { from, ceiling: reading.ceiling, max });
        }
        Ok(())
    }

    fn heard_in_view(&mut self, place: usize, reading: &Reading) {
        let other = &mut self.others[place];
        if other.heard < Some(reading.ceiling) {
            other.heard = Some(reading.ceiling);
            other.owed = true;
            self.answer();
            self.high = self.high.max(reading.ceiling);
            self.begin_clock();
            self.store();
        }
        let other = &mut self.others[place];
        if reading.acked > other.acked {
            other.acked = reading.acked;
            self.grant();
        }
    }

    /// Who has heard all members knows a watermark that covers all clocks; there its own clock begins.
    fn begin_clock(&mut self) {
        self.all_heard = self.epoch != Epoch(0) && self.others.iter().all(|other| other.heard.is_some());
        if self.all_heard && !self.valid {
            self.valid = true;
            self.base = Some(self.high);
            self.wanted = self.stride_above(self.high).unwrap_or_default();
            self.announce();
        }
    }

    fn settle_base(&mut self, now: Instant) {
        self.begin_clock();
        if self.granted < self.wanted {
            self.pace.handle_asked(now);
        }
        self.announce();
        self.grant();
    }

    /// The ceiling that is a stride above this, or less if it is bounded. None if it would not be above the base of the view:
    /// whoever hears a ceiling of the view may rely on its being above all that its member knew before.
    fn stride_above(&self, from: Stamp) -> Option<Stamp> {
        let to = Stamp(from.0 + 2 * self.pace.half_stride(self.clock.0)).min(self.bound);
        Some(to).filter(|to| Some(*to) > self.base)
    }

    /// Wants a ceiling a stride above this.
    fn want(&mut self, now: Instant, from: Stamp) {
        let Some(to) = self.stride_above(from.max(self.clock)) else { return };
        if to > self.wanted {
            self.wanted = to;
            self.pace.handle_asked(now);
            self.store();
            self.announce();
        }
    }

    /// Asks for the number that must be durable before more can be said: one at a time, and all that waits at once.
    fn store(&mut self) {
        let need = self.high.max(self.wanted);
        if self.storing.is_none() && need > self.stored && self.epoch != Epoch(0) {
            self.storing = Some(need);
            self.counters.stores += 1;
            self.outputs.push_back(Output::Store(need));
        }
    }

    /// Announces what is wanted as soon as it is durable.
    fn announce(&mut self) {
        if self.wanted == Stamp(0) || self.wanted > self.stored || self.announced == Some(self.wanted) {
            return;
        }
        let begins = self.granted == Stamp(0);
        self.announced = Some(self.wanted);
        self.high = self.high.max(self.wanted);
        self.counters.raises += 1;
        self.grant();
        // A view is begun in haste: nobody can issue anything before.
        if begins || self.waiting {
            self.urge();
        }
    }

    /// Everybody who has not acknowledged the ceiling is told of it now.
    fn urge(&mut self) {
        let Some(announced) = self.announced else { return };
        for index in 0..self.others.len() {
            if self.others[index].acked < announced {
                self.say(index);
            }
        }
    }

    /// Whoever has announced a ceiling is answered at once, or when it is durable.
    fn answer(&mut self) {
        for index in 0..self.others.len() {
            if self.others[index].owed && self.answers(index) {
                self.say(index);
            }
        }
    }

    /// The next frame to this member acknowledges all that it has announced.
    fn answers(&self, index: usize) -> bool {
        self.announced.is_some() && self.others[index].heard <= Some(self.stored)
    }

    /// Up to where stamps may be issued.
    fn grant(&mut self) {
        let (Some(announced), Some(base)) = (self.announced, self.base) else { return };
        let acked = self.others.iter().map(|other| other.acked).min().unwrap_or(announced);
        let acked = if self.awaits() { acked.min(announced) } else { announced };
        // The first stamp of the view is above the base, so that much must be acknowledged.
        if acked <= base || acked <= self.granted {
            return;
        }
        if self.granted == Stamp(0) && base > self.clock {
            self.clock = base;
            self.pace.handle_jump(base.0);
        }
        self.granted = acked;
        // Others may have driven the clock above what was asked for; then it is asked for again.
        if self.waiting && (self.clock < self.granted || self.granted >= self.wanted) {
            self.waiting = false;
            self.outputs.push_back(Output::Ready);
        }
    }

    fn say(&mut self, index: usize) {
        self.others[index].owed &= !self.answers(index);
        self.counters.said += 1;
        self.outputs.push_back(Output::Say(self.others[index].node));
    }
}

#[cfg(not(feature = "planted"))]
impl Watermark {
    /// Ceilings are awaited, always. See `planted`.
    const fn awaits(&self) -> bool {
        true
    }

    /// A clock does not tick when it hears: two that talk would drive each other above all ceilings (CK2).
    const fn tick_on_receive(&mut self) {}

    /// The ceiling that all have acknowledged is the last stamp before the next ceiling (E5).
    const fn goes_one_above(&self) -> bool {
        false
    }
}

impl Clock for Watermark {
    fn reading(&mut self, to: NodeId) -> Reading {
        Watermark::reading(self, to)
    }

    fn hear(&mut self, from: NodeId, reading: &Reading) -> Result<(), AbsurdStamp> {
        let max = self.high;
        Watermark::hear(self, from, reading).map_err(|_| AbsurdStamp { stamp: reading.stamp, max })
    }
}
