//! Four nodes with clocks, disks, and a network that loses, delays, repeats and reorders; and a ledger of what must hold.

#![allow(unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

use oarlock_cluster::watermark::{Config, NoStamp, Output, Watermark};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::stamp::{HighWatermark, Reading, Stamp};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::{Member, View};

/// As many as the model of the design has.
pub const NODES: usize = 4;
/// In this time every node sends every other a frame, in milliseconds; a step is one.
pub const PERIOD: u64 = 30;
/// Stamps of a view until more are asked for, if a coordinator bounds ceilings: many times in a storm.
pub const RANGE: u64 = 1 << 12;

/// SplitMix64.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One run of a node.
pub struct Process {
    pub clock: Watermark,
    pub incarnation: Incarnation,
    /// Index of the last view it was shown.
    view: usize,
    pub paused_until: u64,
    /// What the disk is writing, and when it is done.
    writing: Option<(Stamp, u64)>,
    next_frame: [u64; NODES],
    /// The largest stamp on any frame that came here, believed or not.
    heard: Stamp,
}

struct Frame {
    at: u64,
    from: (usize, Incarnation),
    to: (usize, Incarnation),
    reading: Reading,
}

/// What goes wrong, and how often.
#[derive(Clone, Copy)]
pub struct Weather {
    /// Frames lost, of a hundred.
    pub loss: u64,
    /// The longest a frame takes.
    pub delay: u64,
    /// The longest a write takes.
    pub disk: u64,
}

pub const CALM: Weather = Weather { loss: 0, delay: 1, disk: 1 };
pub const STORM: Weather = Weather { loss: 20, delay: 40, disk: 10 };

pub struct World {
    pub now: u64,
    pub chance: Chance,
    pub weather: Weather,
    pub nodes: [Option<Process>; NODES],
    pub disks: [Stamp; NODES],
    /// All views ever, in order, and the jump of each.
    pub views: Vec<(View, Stamp)>,
    /// The coordinator's order, if it bounds ceilings: the bound with each of `views`, where one that comes again is a raise.
    pub bounds: Option<Vec<Stamp>>,
    frames: Vec<Frame>,
    incarnations: u64,
    pub cut: BTreeSet<(usize, usize)>,
    /// Lowest and highest stamp issued in each view.
    issued: BTreeMap<Epoch, (Stamp, Stamp)>,
    stamps: u64,
    /// The highest stamp of each node, whichever run.
    last_of: [Stamp; NODES],
    /// The first thing that must not be.
    pub broken: Option<String>,
    /// The first clock that was above a watermark.
    pub beyond: Option<String>,
    /// Frames that were sent.
    pub sent: u64,
    pub make: fn(Config) -> Watermark,
    pub patience: u64,
    /// No frames but those that somebody waits for.
    pub hush: bool,
}

impl World {
    pub fn new(seed: u64, weather: Weather) -> World {
        World {
            now: 1,
            chance: Chance::new(seed),
            weather,
            nodes: [const { None }; NODES],
            disks: [Stamp(0); NODES],
            views: vec![(View::default(), Stamp(0))],
            bounds: None,
            frames: Vec::new(),
            incarnations: 0,
            cut: BTreeSet::new(),
            issued: BTreeMap::new(),
            stamps: 0,
            last_of: [Stamp(0); NODES],
            broken: None,
            beyond: None,
            sent: 0,
            make: Watermark::new,
            patience: 0,
            hush: false,
        }
    }

    /// All nodes in one view, which has begun.
    pub fn begun(seed: u64, weather: Weather) -> World {
        let mut world = World::new(seed, weather);
        world.begin();
        world
    }

    pub fn begin(&mut self) {
        (0..NODES).for_each(|node| self.start(node));
        self.decide((0..NODES).collect(), Stamp(0));
        self.show_all();
        self.run(600, |_| {});
        (0..NODES).for_each(|node| assert!(self.clock(node).granted() > Stamp(0), "node {node} begins"));
    }

    /// Ends all runs, and begins again with the disks.
    pub fn restart_all(&mut self) {
        (0..NODES)
            .filter(|n| self.nodes[*n].is_some())
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|n| self.crash(n));
        self.begin();
    }

    /// Stamps issued so far.
    pub fn issued(&self) -> u64 {
        self.stamps
    }

    pub fn clock(&mut self, node: usize) -> &mut Watermark {
        &mut self.nodes[node].as_mut().expect("the node is there").clock
    }

    pub fn instant(&self) -> Instant {
        Instant::from_millis(self.now)
    }

    pub fn start(&mut self, node: usize) {
        self.incarnations += 1;
        let incarnation = Incarnation(self.incarnations);
        let mut config = Config::new(NodeId(node as u16), incarnation, self.disks[node]);
        config.period = Duration::from_millis(PERIOD);
        config.patience = Duration::from_millis(self.patience);
        if self.bounds.is_some() {
            (config.bound, config.range) = (Stamp(0), RANGE);
        }
        self.nodes[node] = Some(Process {
            clock: (self.make)(config),
            incarnation,
            view: 0,
            paused_until: 0,
            writing: None,
            next_frame: [self.now; NODES],
            heard: Stamp(0),
        });
    }

    /// Ends a run. What the disk was writing may be there or not.
    pub fn crash(&mut self, node: usize) {
        let process = self.nodes[node].take().expect("the node is there");
        if let Some((number, _)) = process.writing
            && self.chance.one_in(2)
        {
            self.disks[node] = number;
        }
        if self.bounds.is_some() && self.chance.one_in(3) {
            self.disks[node] = Stamp(0);
        }
    }

    pub fn newest(&self) -> &View {
        &self.views.last().expect("there is always one").0
    }

    /// The next view: of those who are to be in, the runs that are there; of dead ones, the runs that were in.
    pub fn decide(&mut self, nodes: BTreeSet<usize>, jump: Stamp) {
        let old = self.newest().clone();
        let members = nodes.into_iter().filter_map(|n| {
            let node = NodeId(n as u16);
            let run = self.nodes[n].as_ref().map(|process| process.incarnation);
            let incarnation = run.or(old.member(node).map(|m| m.incarnation))?;
            Some(Member { node, incarnation })
        });
        let view = View { epoch: Epoch(old.epoch.0 + 1), members: members.collect() };
        let Some(bounds) = &mut self.bounds else { return self.views.push((view, jump)) };
        // As the registry does.
        let floor = bounds.last().copied().unwrap_or_default();
        bounds.push(Stamp(floor.0 + RANGE));
        self.views.push((view, floor));
    }

    /// A node asks for room, if it wants any. What it asks for may get lost.
    fn ask(&mut self, node: usize) {
        let wanted = self.nodes[node].as_ref().and_then(|process| process.clock.bound_wanted());
        let (Some(to), Some(bounds)) = (wanted, &mut self.bounds) else { return };
        if self.chance.one_in(2) && bounds.last() < Some(&to) {
            bounds.push(to);
            self.views.extend(self.views.last().cloned());
        }
    }

    /// Is somebody in it who knows? See `Watermark::handle_view`.
    pub fn known_to(&self, nodes: &BTreeSet<usize>) -> bool {
        let last = self.issued.keys().last().copied().unwrap_or_default();
        let since = self.views.iter().filter(|(view, _)| view.epoch >= last && view.epoch > Epoch(0));
        since.into_iter().all(|(view, _)| view.nodes().any(|node| nodes.contains(&node.0.into())))
    }

    /// Beyond what any clock of the views so far will ever reach: what a registry knows if it bounds all ceilings.
    pub fn beyond(&self) -> Stamp {
        let of = |p: &Process| p.clock.high_watermark().map_or(Stamp(0), |high| high.0).max(p.clock.stored());
        let highest = self
            .nodes
            .iter()
            .flatten()
            .map(of)
            .chain(self.disks)
            .chain(self.views.iter().map(|view| view.1))
            .max()
            .expect("there are disks");
        Stamp(highest.0 + (1 << 30))
    }

    /// Shows a node one of the views that it has not seen.
    pub fn show(&mut self, node: usize, index: usize) {
        let now = self.instant();
        let (view, jump) = self.views[index].clone();
        let process = self.nodes[node].as_mut().expect("the node is there");
        process.view = index;
        process.clock.handle_view(now, &view, HighWatermark(jump));
        if let Some(bounds) = self.bounds.as_ref().filter(|_| process.clock.epoch() == view.epoch) {
            process.clock.handle_bound(now, bounds[index]);
        }
        self.drain(node);
    }

    pub fn show_all(&mut self) {
        let last = self.views.len() - 1;
        let there: Vec<usize> = (0..NODES).filter(|n| self.nodes[*n].is_some()).collect();
        there.into_iter().for_each(|node| self.show(node, last));
    }

    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].as_ref().is_some_and(|process| process.paused_until <= self.now)
    }

    /// This run is in the newest view.
    pub fn is_in(&self, node: usize) -> bool {
        let process = self.nodes[node].as_ref();
        let member = self.newest().member(NodeId(node as u16));
        process.is_some_and(|p| member.is_some_and(|m| m.incarnation == p.incarnation))
    }

    pub fn issue(&mut self, node: usize) -> Result<Stamp, NoStamp> {
        let now = self.instant();
        let process = self.nodes[node].as_mut().expect("the node is there");
        let result = process.clock.issue(now);
        let (heard, epoch) = (process.heard, process.clock.epoch());
        if let Ok(stamp) = result {
            // Who is out and does not know it knows nothing of later stamps.
            if stamp <= heard && self.is_in(node) {
                self.fail(format!("node {node} issues {stamp} and has heard {heard} (CK2)"));
            }
            if stamp <= self.last_of[node] {
                self.fail(format!("node {node} issues {stamp} after {} (E1, E8)", self.last_of[node]));
            }
            self.last_of[node] = stamp;
            self.stamps += 1;
            let earlier = self.issued.range(..epoch).map(|(_, (_, high))| *high).max();
            let later = self.issued.iter().filter(|(e, _)| **e > epoch).map(|(_, (low, _))| *low).min();
            if earlier.is_some_and(|earlier| stamp <= earlier) || later.is_some_and(|later| stamp >= later) {
                self.fail(format!("{stamp} of {epoch:?} is not between {earlier:?} and {later:?}"));
            }
            let range = self.issued.entry(epoch).or_insert((stamp, stamp));
            *range = (range.0.min(stamp), range.1.max(stamp));
        }
        self.drain(node);
        result
    }

    /// The next stamp of a node, which may have to wait for it.
    pub fn issue_soon(&mut self, node: usize) -> Stamp {
        for _ in 0..600 {
            match self.issue(node) {
                Ok(stamp) => return stamp,
                Err(_) => self.run(1, |_| {}),
            }
        }
        panic!("the clock of node {node} stands still")
    }

    fn fail(&mut self, what: String) {
        let now = self.now;
        self.broken.get_or_insert_with(|| format!("at {now}: {what}"));
    }

    pub fn drain(&mut self, node: usize) {
        loop {
            let process = self.nodes[node].as_mut().expect("the node is there");
            match process.clock.poll_output() {
                None => return,
                Some(Output::Store(number)) => {
                    assert!(process.writing.is_none(), "one at a time");
                    process.writing = Some((number, self.now + 1 + self.chance.below(self.weather.disk)));
                }
                Some(Output::Say(to)) => self.send(node, to.0.into()),
                Some(Output::Ready) => {}
                Some(Output::Misdeed(violation)) if self.is_in(node) => {
                    self.fail(format!("node {node} accuses: {violation}"));
                }
                Some(Output::Misdeed(_)) => {}
            }
        }
    }

    pub fn send(&mut self, from: usize, to: usize) {
        let Some(process) = &mut self.nodes[from] else { return };
        process.next_frame[to] = self.now + PERIOD / 2 + self.chance.below(PERIOD / 2);
        let (source, reading) = ((from, process.incarnation), process.clock.reading(NodeId(to as u16)));
        let Some(peer) = &self.nodes[to] else { return };
        let target = (to, peer.incarnation);
        self.sent += 1;
        let copies = if self.weather.loss > 0 && self.chance.one_in(10) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance.below(100) >= self.weather.loss && !self.cut.contains(&(from, to)) {
                let at = self.now + 1 + self.chance.below(self.weather.delay);
                self.frames.push(Frame { at, from: source, to: target, reading });
            }
        }
    }

    pub fn hear(&mut self, to: usize, from: usize, reading: &Reading) -> bool {
        let process = self.nodes[to].as_mut().expect("the node is there");
        let believed = process.clock.hear(NodeId(from as u16), reading).is_ok();
        if believed {
            process.heard = process.heard.max(reading.stamp);
        }
        self.drain(to);
        believed
    }

    /// Time passes: disks end writing, frames arrive, whoever has said nothing for a while says something.
    pub fn step(&mut self) {
        self.now += 1;
        for node in 0..NODES {
            let now = self.instant();
            let Some(process) = &mut self.nodes[node] else { continue };
            if let Some((number, at)) = process.writing
                && at <= self.now
            {
                // The disk writes while the process stands; that it is done is noticed later.
                self.disks[node] = self.disks[node].max(number);
                if process.paused_until <= self.now {
                    process.writing = None;
                    process.clock.handle_stored(now, number);
                    self.drain(node);
                }
            }
        }
        let mut index = 0;
        while index < self.frames.len() {
            let Frame { at, from, to, reading } = &self.frames[index];
            let run = self.nodes[to.0].as_ref().map(|process| process.incarnation);
            if *at > self.now || run == Some(to.1) && !self.runs(to.0) {
                index += 1;
                continue;
            }
            let (from, to, reading) = (from.0, to.0, *reading);
            let there = run == Some(self.frames[index].to.1);
            // In any order: a circuit has classes, and classes do not wait for each other.
            self.frames.swap_remove(index);
            if there {
                self.hear(to, from, &reading);
                self.check();
            }
        }
        for from in 0..NODES {
            for to in 0..NODES {
                let runs = from != to && !self.hush && self.runs(from);
                if runs && self.nodes[from].as_ref().is_some_and(|p| p.next_frame[to] <= self.now) {
                    self.send(from, to);
                }
            }
        }
        self.check();
    }

    pub fn run(&mut self, steps: u64, mut each: impl FnMut(&mut World)) {
        for _ in 0..steps {
            each(self);
            self.check();
            self.step();
        }
    }

    /// CK3: the watermark of every member that has one is at or above every clock there is, now.
    pub fn check(&mut self) {
        for i in 0..NODES {
            if !self.is_in(i) {
                continue;
            }
            let Some(HighWatermark(high)) = self.nodes[i].as_ref().and_then(|p| p.clock.high_watermark())
            else {
                continue;
            };
            for j in 0..NODES {
                let Some(process) = &self.nodes[j] else { continue };
                let clock = process.clock.last();
                if clock > high {
                    let what = format!("the watermark of node {i} is {high}, the clock of node {j} {clock}");
                    self.beyond.get_or_insert_with(|| what.clone());
                    self.fail(what);
                }
            }
        }
    }

    /// A storm of everything: one decision of chance a step.
    pub fn chaos(&mut self) {
        let node = self.chance.below(NODES as u64) as usize;
        match self.chance.below(400) {
            0..250 if self.runs(node) => {
                let most = if self.chance.one_in(8) { 3_000 } else { 60 };
                let many = self.chance.below(most);
                (0..many).any(|_| self.issue(node).is_err());
                self.ask(node);
            }
            250..320 if self.runs(node) => {
                let to = self.chance.below(NODES as u64) as usize;
                if to != node {
                    self.send(node, to);
                }
            }
            320..325 if self.runs(node) => {
                let long = if self.chance.one_in(4) { 600 } else { 60 };
                let until = self.now + self.chance.below(long);
                self.nodes[node].as_mut().expect("it runs").paused_until = until;
            }
            325..328 if self.nodes[node].is_some() => self.crash(node),
            328 if self.chance.one_in(3) => {
                let there: Vec<usize> = (0..NODES).filter(|n| self.nodes[*n].is_some()).collect();
                there.into_iter().for_each(|node| self.crash(node));
            }
            330..340 if self.nodes[node].is_none() => self.start(node),
            340..346 => self.another_view(),
            346..400 if self.runs(node) => {
                let seen = self.nodes[node].as_ref().map_or(0, |p| p.view);
                let left = self.views.len() - 1 - seen;
                if left > 0 {
                    // Views may be shown together.
                    let skip =
                        if self.chance.one_in(3) { self.chance.below(left as u64) as usize } else { 0 };
                    self.show(node, seen + 1 + skip);
                }
            }
            _ => {}
        }
    }

    fn another_view(&mut self) {
        let mut nodes: BTreeSet<usize> = (0..NODES).filter(|n| self.nodes[*n].is_some()).collect();
        // Some wait to be let in, some are put out while they live, some dead are not noticed yet.
        for node in 0..NODES {
            if self.chance.one_in(5) {
                nodes.remove(&node);
            } else if self.newest().member(NodeId(node as u16)).is_some() && self.chance.one_in(5) {
                nodes.insert(node);
            }
        }
        // A run that was put out never comes back.
        nodes.retain(|n| {
            self.is_in(*n) || self.nodes[*n].as_ref().is_none_or(|p| !self.was_in(*n, p.incarnation))
        });
        if nodes.is_empty() {
            return;
        }
        let bounded = self.bounds.is_some();
        let jump = if bounded || self.known_to(&nodes) { Stamp(0) } else { self.beyond() };
        self.decide(nodes, jump);
    }

    fn was_in(&self, node: usize, incarnation: Incarnation) -> bool {
        let node = NodeId(node as u16);
        self.views.iter().any(|(view, _)| view.member(node).is_some_and(|m| m.incarnation == incarnation))
    }
}
