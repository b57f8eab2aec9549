//! A few nodes with the real `Lockspace`, the channels between them, and programs: one state to explore.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};

use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{
    Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, Slot, SpaceId, TransactionId,
};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::lock::Conv;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Claim, PlainWords, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Output, Request, Unlock};

use super::ghost::Ghost;
use super::intruder::{Intruder, Intrusion};
use super::menu::Menu;
use super::show;
use super::views::{Mail, Views};

/// Time stands still: what waits for time to pass is an action like any other.
pub(crate) const NOW: Instant = Instant(0);

/// What a program is about, as it can tell by itself from what it asked and was told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Doing {
    Nothing,
    /// Asked for a new lock.
    Asked {
        mode: Mode,
        flags: Flags,
    },
    Holds {
        mode: Mode,
        flags: Flags,
    },
    /// Holds, and asked for another mode.
    Converts {
        from: Mode,
        to: Mode,
        held: Flags,
        flags: Flags,
    },
}

impl Doing {
    /// The mode held now.
    pub(crate) fn held(self) -> Option<Mode> {
        match self {
            Doing::Holds { mode, .. } | Doing::Converts { from: mode, .. } => Some(mode),
            _ => None,
        }
    }

    /// The mode and flags of a request that has no answer yet.
    pub(crate) fn asks(self) -> Option<(Mode, Flags)> {
        match self {
            Doing::Asked { mode, flags } | Doing::Converts { to: mode, flags, .. } => Some((mode, flags)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Program {
    pub(crate) home: usize,
    pub(crate) doing: Doing,
    /// It has done something: the next program of its kind may start (see `Menu::homes`).
    pub(crate) started: bool,
}

/// One thing a program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    Lock(Mode, Flags),
    /// Converts, writing the block if it says so.
    Convert(Mode, Flags, bool),
    Unlock {
        write: bool,
    },
    Cancel,
    End,
    /// Without the room, as callers do that share the counts.
    FastLock(Mode),
    FastConvert(Mode),
    FastUnlock {
        write: bool,
    },
}

/// One step from a state to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Deliver {
        from: usize,
        to: usize,
    },
    /// The second message of a channel overtakes the first.
    Overtake {
        from: usize,
        to: usize,
    },
    Program {
        program: usize,
        ask: Ask,
    },
    /// A caller that gave something back while the gate was set has rung.
    Bell {
        node: usize,
    },
    /// Enough time passes for what is unused to be forgotten.
    Time {
        node: usize,
    },
    /// A program asks for another resource and the table is full.
    Pressure {
        node: usize,
    },
    /// The next view of the plan is decided: whoever is not in it is dead.
    Decide,
    /// The newest view is valid at a node.
    Enter {
        node: usize,
    },
    /// A node says the next piece of what it has to say under a view.
    Restate {
        node: usize,
    },
    /// Nothing is left to prove of those who left.
    Fenced {
        node: usize,
    },
    /// The delivery or bell meets a change of the counts in its middle, before the room's `at`-th operation.
    Intruded {
        step: Plain,
        program: usize,
        ask: Ask,
        at: u8,
    },
}

/// A step of a room that can be interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plain {
    Deliver { from: usize, to: usize },
    Time { node: usize },
}

/// A rule was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault(pub(crate) String);

pub(crate) type Checked = Result<(), Fault>;

macro_rules! ensure {
    ($cond:expr, $($arg:tt)+) => {
        if !$cond {
            return Err($crate::explore::world::Fault(format!($($arg)+)));
        }
    };
}
pub(crate) use ensure;

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) space: Lockspace,
    pub(crate) words: PlainWords,
    /// A caller rang and the room has not looked yet.
    pub(crate) rung: bool,
}

impl Node {
    /// In no view yet.
    pub(crate) fn new(n: u16, menu: &Menu) -> Node {
        let config = Config {
            order: menu.order,
            retain: menu.retain,
            forget_after: Duration::ZERO,
            ..Config::native(SpaceId(0), NodeId(n))
        };
        let words = PlainWords::new(if menu.pressure { 1 } else { 4 });
        Node { space: lockspace(config, menu), words, rung: false }
    }
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) channels: Vec<VecDeque<Mail>>,
    pub(crate) programs: Vec<Program>,
    pub(crate) ghost: Ghost,
    pub(crate) left: u8,
    pub(crate) resource: Name,
    /// Views that change, if they do.
    pub(crate) views: Option<Box<Views>>,
    /// Steps since a program last did something; no part of the state.
    pub(crate) steps: u32,
    /// What happens is written down, for people.
    pub(crate) said: Option<RefCell<Vec<String>>>,
}

/// What callers do in the middle of a step.
const INTRUSIONS: [Ask; 4] = [
    Ask::FastLock(Mode::NL),
    Ask::FastLock(Mode::PR),
    Ask::FastLock(Mode::EX),
    Ask::FastUnlock { write: false },
];

/// Asks for other resources.
const STRANGER: SessionId = SessionId(u32::MAX);

/// More steps than this without a program doing anything: it does not come to rest.
const STEPS_MAX: u32 = 400;

impl World {
    pub(crate) fn new(menu: &Menu) -> World {
        let view = View {
            epoch: Epoch(1),
            members: (0..menu.nodes)
                .map(|n| Member { node: NodeId(n), incarnation: Incarnation(1) })
                .collect(),
        };
        let master = Some(NodeId(menu.nodes - 1));
        let resource = (0..)
            .map(|i: u32| Name::new(&i.to_le_bytes()[..1]).unwrap())
            .find(|name| directory::master(SpaceId(0), name.as_bytes(), view.nodes()) == master)
            .unwrap();
        let node = |n| {
            let mut node = Node::new(n, menu);
            if menu.plan.is_none() {
                node.space.found(NOW, &mut node.words, &view);
            }
            node
        };
        let mut world = World {
            nodes: (0..menu.nodes).map(node).collect(),
            channels: vec![VecDeque::new(); usize::from(menu.nodes) * usize::from(menu.nodes)],
            programs: menu
                .homes
                .iter()
                .map(|home| Program { home: *home, doing: Doing::Nothing, started: false })
                .collect(),
            ghost: Ghost::new(menu.homes.len()),
            left: menu.actions,
            resource,
            views: None,
            steps: 0,
            said: None,
        };
        if let Some(plan) = &menu.plan {
            world.begin(menu, plan);
        }
        world
    }

    pub(crate) fn hash(&self) -> u128 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for node in &self.nodes {
            node.space.hash(&mut hasher);
            node.words.hash(&mut hasher);
            node.rung.hash(&mut hasher);
        }
        self.channels.hash(&mut hasher);
        self.programs.hash(&mut hasher);
        self.ghost.hash(&mut hasher);
        self.views.hash(&mut hasher);
        hasher.write_u8(self.left);
        hasher.digest128()
    }

    pub(crate) fn lock_of(program: usize) -> LockId {
        LockId::new(SessionId(program as u32 + 1), 1)
    }

    fn program_of(lock: LockId) -> usize {
        lock.session().0 as usize - 1
    }

    pub(crate) fn slot(&self, node: usize) -> Option<Slot> {
        self.nodes[node].words.find(&self.resource)
    }

    /// Nothing is under way: only programs can move on.
    pub(crate) fn at_rest(&self) -> bool {
        self.channels.iter().all(VecDeque::is_empty)
            && self.nodes.iter().all(|n| !n.rung)
            && self.views.as_ref().is_none_or(|views| views.settled())
    }

    // ----- what can happen ------------------------------------------------------------------------------

    pub(crate) fn steps(&self, menu: &Menu, out: &mut Vec<Step>) {
        out.clear();
        let nodes = self.nodes.len();
        for (index, channel) in self.channels.iter().enumerate() {
            if !channel.is_empty() {
                out.push(Step::Deliver { from: index / nodes, to: index % nodes });
            }
            if menu.reorder && channel.len() > 1 {
                out.push(Step::Overtake { from: index / nodes, to: index % nodes });
            }
        }
        out.extend((0..nodes).filter(|n| self.nodes[*n].rung).map(|node| Step::Bell { node }));
        if let Some(views) = &self.views {
            views.steps(out);
        }
        if self.left == 0 {
            return;
        }
        let plain = out.len();
        for program in 0..self.programs.len() {
            let there = self.views.as_ref().is_none_or(|views| views.serves(self.programs[program].home));
            if there && self.may_start(program, menu) {
                self.asks(menu, program, &mut |ask| out.push(Step::Program { program, ask }));
            }
        }
        if menu.forget {
            for node in 0..nodes {
                if self.nodes[node].space.poll_timeout().is_some_and(|at| at <= NOW) {
                    out.push(Step::Time { node });
                }
            }
        }
        if menu.pressure {
            out.extend((0..nodes).filter(|n| self.slot(*n).is_some()).map(|node| Step::Pressure { node }));
        }
        if menu.intrude {
            self.intrusions(plain, out);
        }
    }

    /// What is alike starts in order: the programs of a node, and nodes with equally many programs that are not
    /// the master's. What they could do in another order is the same with names exchanged.
    fn may_start(&self, program: usize, menu: &Menu) -> bool {
        let home = self.programs[program].home;
        let of = |node: usize| self.programs.iter().filter(move |p| p.home == node);
        if program > 0 && self.programs[program - 1].home == home {
            return self.programs[program - 1].started || self.programs[program].started;
        }
        if menu.plan.is_some() {
            // What becomes of a node makes it different from the others.
            return true;
        }
        let master = usize::from(menu.nodes) - 1;
        let alike = home > 0 && home != master && of(home - 1).count() == of(home).count();
        !alike || of(home - 1).any(|p| p.started)
    }

    fn asks(&self, menu: &Menu, program: usize, out: &mut dyn FnMut(Ask)) {
        let Program { home, doing, .. } = self.programs[program];
        match doing {
            Doing::Nothing => {
                menu.new.iter().for_each(|(mode, flags)| out(Ask::Lock(*mode, *flags)));
                if menu.fast {
                    let modes = menu.new.iter().filter(|(_, f)| f.is_empty());
                    modes
                        .filter(|(mode, _)| self.fast(home, None, *mode))
                        .for_each(|(m, _)| out(Ask::FastLock(*m)));
                }
            }
            Doing::Holds { mode, .. } => {
                let writes = menu.write && mode.writes_value();
                out(Ask::Unlock { write: false });
                if writes {
                    out(Ask::Unlock { write: true });
                }
                for (to, flags) in menu.convert.iter().filter(|(to, _)| *to != mode) {
                    out(Ask::Convert(*to, *flags, false));
                    // Writing is what matters on the way down; one kind of call is enough to do it.
                    if writes && mode.covers(*to) && flags.is_empty() {
                        out(Ask::Convert(*to, *flags | Flags::VALBLK, true));
                    }
                    if menu.fast && flags.is_empty() && (mode.covers(*to) || self.fast(home, Some(mode), *to))
                    {
                        out(Ask::FastConvert(*to));
                    }
                }
                if menu.fast {
                    out(Ask::FastUnlock { write: false });
                    if writes {
                        out(Ask::FastUnlock { write: true });
                    }
                }
                if menu.end {
                    out(Ask::End);
                }
            }
            Doing::Asked { .. } | Doing::Converts { .. } => {
                if menu.cancel {
                    out(Ask::Cancel);
                }
                if menu.end {
                    out(Ask::End);
                }
            }
        }
    }

    /// May a caller take this by itself, as far as the word tells?
    fn fast(&self, node: usize, from: Option<Mode>, to: Mode) -> bool {
        let Some(slot) = self.slot(node) else { return false };
        let word = self.nodes[node].words.look(slot);
        let others = from.map_or(word.counts, |from| word.counts.without(from));
        !word.gate && word.owned.is_some_and(|owned| owned.covers(to)) && others.admits(to)
    }

    /// Deliveries and passing time, met in their middle by a caller of the same node.
    fn intrusions(&self, plain: usize, out: &mut Vec<Step>) {
        for index in 0..out.len() {
            let (step, node) = match out[index] {
                Step::Deliver { from, to } if index < plain => (Plain::Deliver { from, to }, to),
                Step::Time { node } => (Plain::Time { node }, node),
                _ => continue,
            };
            for program in (0..self.programs.len()).filter(|p| self.programs[*p].home == node) {
                for ask in INTRUSIONS {
                    let fits = match self.programs[program].doing {
                        Doing::Nothing => matches!(ask, Ask::FastLock(_)),
                        Doing::Holds { .. } => ask == Ask::FastUnlock { write: false },
                        _ => false,
                    };
                    if fits {
                        out.extend((1..Intruder::CALLS).map(|at| Step::Intruded { step, program, ask, at }));
                    }
                }
            }
        }
    }

    // ----- making it happen -----------------------------------------------------------------------------

    /// Makes a step and checks what follows from it for the programs. False if it does not apply.
    pub(crate) fn apply(&mut self, step: Step) -> Result<bool, Fault> {
        let applied = self.make(step)?;
        if applied && self.views.is_some() {
            self.hasten()?;
        }
        Ok(applied)
    }

    fn make(&mut self, step: Step) -> Result<bool, Fault> {
        let node = match step {
            Step::Deliver { from, to } => {
                if self.channels[from * self.nodes.len() + to].is_empty() {
                    return Ok(false);
                }
                self.deliver(from, to, None)?;
                to
            }
            Step::Overtake { from, to } => {
                let channel = &mut self.channels[from * self.nodes.len() + to];
                if channel.len() < 2 {
                    return Ok(false);
                }
                channel.swap(0, 1);
                self.deliver(from, to, None)?;
                to
            }
            Step::Pressure { node } => {
                if self.left == 0 || self.slot(node).is_none() {
                    return Ok(false);
                }
                self.left -= 1;
                self.steps = 0;
                let at = &mut self.nodes[node];
                let request = Lock {
                    lock: LockId::new(STRANGER, 1),
                    name: Name::new(b"another").unwrap(),
                    mode: Mode::NL,
                    flags: Flags::LOCAL,
                    timeout: None,
                    owner: OwnerId(0),
                    transaction: TransactionId(0),
                };
                at.space.handle_request(NOW, &mut at.words, Request::Lock(request));
                node
            }
            Step::Bell { node } => {
                if !self.nodes[node].rung {
                    return Ok(false);
                }
                let slot = self.slot(node);
                let at = &mut self.nodes[node];
                at.rung = false;
                if let Some(slot) = slot {
                    at.space.handle_bell(NOW, &mut at.words, slot);
                }
                node
            }
            Step::Time { node } => {
                let at = &mut self.nodes[node];
                if at.space.poll_timeout().is_none_or(|due| due > NOW) {
                    return Ok(false);
                }
                self.left -= 1;
                self.steps = 0;
                at.space.handle_timeout(NOW, &mut at.words);
                node
            }
            Step::Program { program, ask } => {
                if self.left == 0 || !self.ask(program, ask)? {
                    return Ok(false);
                }
                self.left -= 1;
                self.steps = 0;
                self.programs[program].started = true;
                self.programs[program].home
            }
            Step::Intruded { step, program, ask, at } => {
                if self.left == 0 || !self.intruded(step, program, ask, at)? {
                    return Ok(false);
                }
                self.left -= 1;
                self.steps = 0;
                self.programs[program].started = true;
                self.programs[program].home
            }
            Step::Decide | Step::Enter { .. } | Step::Restate { .. } | Step::Fenced { .. } => {
                return self.apply_view(step);
            }
        };
        self.collect(node)?;
        self.steps += 1;
        ensure!(self.steps < STEPS_MAX, "it does not come to rest: {STEPS_MAX} steps and no end");
        Ok(true)
    }

    pub(crate) fn deliver(&mut self, from: usize, to: usize, intrusion: Option<&mut Intrusion>) -> Checked {
        let index = from * self.nodes.len() + to;
        let packet = match self.channels[index].pop_front().expect("a message under way") {
            Mail::Lock(packet) => packet,
            Mail::Barrier(barrier) => return self.hear(from, to, barrier),
        };
        let node = &mut self.nodes[to];
        let mut intruder;
        let words: &mut dyn Words = match intrusion {
            Some(intrusion) => {
                intruder = Intruder::new(&mut node.words, intrusion);
                &mut intruder
            }
            None => &mut node.words,
        };
        let heard = node.space.handle_message(NOW, words, NodeId(from as u16), packet);
        heard.map_err(|v| {
            Fault(format!("{} says that {} misbehaves: {v}", show::letter(to), show::letter(from)))
        })
    }

    /// A step of the room in whose middle a caller changes the counts. False if the caller finds that it may not.
    fn intruded(&mut self, step: Plain, program: usize, ask: Ask, at: u8) -> Result<bool, Fault> {
        let Program { home, doing, .. } = self.programs[program];
        let Some(slot) = self.slot(home) else { return Ok(false) };
        let lock = World::lock_of(program);
        let mut intrusion = Intrusion::new(
            self.resource.clone(),
            slot,
            at,
            match (ask, doing) {
                (Ask::FastLock(mode), Doing::Nothing) => super::intruder::What::Take(mode, claim(lock)),
                (Ask::FastUnlock { .. }, Doing::Holds { .. }) => super::intruder::What::Drop(lock),
                _ => return Ok(false),
            },
        );
        match step {
            Plain::Deliver { from, to } => {
                if self.channels[from * self.nodes.len() + to].is_empty() {
                    return Ok(false);
                }
                self.deliver(from, to, Some(&mut intrusion))?;
            }
            Plain::Time { node } => {
                let at = &mut self.nodes[node];
                if at.space.poll_timeout().is_none_or(|due| due > NOW) {
                    return Ok(false);
                }
                at.space.handle_timeout(NOW, &mut Intruder::new(&mut at.words, &mut intrusion));
            }
        }
        let Some(done) = intrusion.done else { return Ok(false) };
        self.nodes[home].rung |= done.rings;
        match (ask, done.token) {
            (Ask::FastLock(mode), Some(token)) => {
                self.say(|| format!("{} takes {mode} by itself meanwhile", self.name(program)));
                self.programs[program].doing = Doing::Holds { mode, flags: Flags::empty() };
                self.ghost.token(mode, token, false)?;
            }
            _ => {
                self.say(|| format!("{} unlocks by itself meanwhile", self.name(program)));
                self.programs[program].doing = Doing::Nothing;
            }
        }
        Ok(true)
    }

    fn ask(&mut self, program: usize, ask: Ask) -> Result<bool, Fault> {
        let Program { home, doing, .. } = self.programs[program];
        let lock = World::lock_of(program);
        let request = match (ask, doing) {
            (Ask::Lock(mode, flags), Doing::Nothing) => {
                self.programs[program].doing = Doing::Asked { mode, flags };
                self.ghost.asked(program, &self.programs, &self.queued());
                Request::Lock(Lock {
                    lock,
                    name: self.resource.clone(),
                    mode,
                    flags,
                    timeout: None,
                    owner: OwnerId(0),
                    transaction: TransactionId(0),
                })
            }
            (Ask::Convert(to, flags, write), Doing::Holds { mode, flags: held }) if to != mode => {
                let value = if write { Some(self.ghost.write()) } else { None };
                let leaves = mode == Mode::EX || (mode == Mode::PW && to != Mode::EX);
                if leaves && flags.contains(Flags::IVVALBLK) {
                    self.ghost.invalidate();
                }
                self.programs[program].doing = Doing::Converts { from: mode, to, held, flags };
                self.ghost.asked(program, &self.programs, &self.queued());
                Request::Convert(Convert { lock, mode: to, flags, timeout: None, value })
            }
            (Ask::Unlock { write }, Doing::Holds { .. }) => {
                let value = if write { Some(self.ghost.write()) } else { None };
                Request::Unlock(Unlock { lock, value, invalidate: false })
            }
            (Ask::Cancel, Doing::Asked { .. } | Doing::Converts { .. }) => {
                self.ghost.cancelled(program);
                Request::Cancel(lock)
            }
            (Ask::End, doing) if doing != Doing::Nothing => {
                if doing.held().is_some_and(Mode::writes_value) {
                    self.ghost.invalidate();
                }
                Request::End(lock.session())
            }
            (Ask::FastLock(_) | Ask::FastConvert(_) | Ask::FastUnlock { .. }, _) => {
                return self.fast_ask(program, ask);
            }
            _ => return Ok(false),
        };
        self.say(|| format!("> {}", self.describe(program, ask)));
        let releases = matches!(request, Request::Unlock(_));
        let ends = matches!(request, Request::End(_));
        let node = &mut self.nodes[home];
        node.space.handle_request(NOW, &mut node.words, request);
        if ends {
            self.programs[program].doing = Doing::Nothing;
            self.ghost.ended(program);
        }
        if releases {
            self.ghost.expect_release(program);
        }
        Ok(true)
    }

    fn fast_ask(&mut self, program: usize, ask: Ask) -> Result<bool, Fault> {
        let Program { home, doing, .. } = self.programs[program];
        let lock = World::lock_of(program);
        let Some(slot) = self.slot(home) else { return Ok(false) };
        match (ask, doing) {
            (Ask::FastLock(mode), Doing::Nothing) if self.fast(home, None, mode) => {
                let token =
                    self.nodes[home].words.admit(slot, mode, claim(lock)).expect("the word allows it");
                self.programs[program].doing = Doing::Holds { mode, flags: Flags::empty() };
                self.ghost.token(mode, token, false)?;
            }
            (Ask::FastConvert(to), Doing::Holds { mode, flags })
                if mode.covers(to) || self.fast(home, Some(mode), to) =>
            {
                let node = &mut self.nodes[home];
                let token = node.words.convert(lock, to).expect("the word allows it");
                node.rung |= node.words.look(slot).gate || !node.words.keep(slot);
                self.programs[program].doing = Doing::Holds { mode: to, flags };
                if !mode.covers(to) {
                    self.ghost.token(to, token, false)?;
                }
            }
            (Ask::FastUnlock { write }, Doing::Holds { .. }) => {
                let value = if write { Some(self.ghost.write()) } else { None };
                let node = &mut self.nodes[home];
                if let Some(bytes) = value {
                    node.words.set_value(slot, node.words.value(slot).written(bytes));
                }
                node.words.drop(lock);
                node.rung |= node.words.look(slot).gate || !node.words.keep(slot);
                self.programs[program].doing = Doing::Nothing;
            }
            _ => return Ok(false),
        }
        self.say(|| format!("> {}", self.describe(program, ask)));
        Ok(true)
    }

    /// Takes up what a node has to say.
    pub(crate) fn collect(&mut self, from: usize) -> Checked {
        while let Some(output) = self.nodes[from].space.poll_output() {
            match output {
                Output::Send { to, packet } => {
                    let to = usize::from(to.0);
                    self.say(|| {
                        format!("{}>{} {}", show::letter(from), show::letter(to), show::show(&packet.body))
                    });
                    if self.views.as_ref().is_none_or(|views| views.reaches(from, to)) {
                        self.channels[from * self.nodes.len() + to].push_back(Mail::Lock(packet));
                    } else {
                        self.said_to_departed(from, to, &packet);
                    }
                }
                Output::Granted(granted) => {
                    self.say(|| {
                        let name = self.name(World::program_of(granted.lock));
                        let value = granted.value.map_or(String::new(), |v| format!(" value {v:?}"));
                        format!("{name} granted {} token {:?}{value}", granted.mode, granted.token)
                    });
                    let program = World::program_of(granted.lock);
                    self.ghost.granted(&mut self.programs, program, &granted)?;
                }
                Output::Failed { lock, code } if lock.session() == STRANGER => {
                    self.say(|| format!("another resource: {code:?}"));
                }
                Output::Failed { lock, code } => {
                    self.say(|| format!("{} failed {code:?}", self.name(World::program_of(lock))));
                    self.ghost.failed(&mut self.programs, World::program_of(lock), code)?;
                }
                Output::Released { lock } => {
                    let program = World::program_of(lock);
                    self.ghost.released(program)?;
                    self.programs[program].doing = Doing::Nothing;
                }
                Output::Blocking { lock, wanted } => {
                    self.say(|| format!("{} blocks {wanted}", self.name(World::program_of(lock))));
                }
            }
        }
        let queued = self.queued();
        let gone = match &self.views {
            None => self.nodes[self.nodes.len() - 1].space.probe_master(&self.resource).is_none(),
            Some(views) => self.is_gone(views),
        };
        self.ghost.after(&self.programs, &queued, gone)
    }

    /// The wishes in the queue of the master, or of whoever still is one.
    fn queued(&self) -> Vec<(usize, Conv)> {
        let masters = self.nodes.iter().filter_map(|node| node.space.probe_master(&self.resource));
        let wishes = masters.flat_map(|master| {
            master.queue().filter_map(move |node| Some((usize::from(node.0), master.record(node)?.conv()?)))
        });
        wishes.collect()
    }

    // ----- words for people -----------------------------------------------------------------------------

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if let Some(said) = &self.said {
            said.borrow_mut().push(text());
        }
    }

    /// A program as it is called in transcripts: node and number.
    pub(crate) fn name(&self, program: usize) -> String {
        format!("{}{}", show::letter(self.programs[program].home), program + 1)
    }

    pub(crate) fn describe(&self, program: usize, ask: Ask) -> String {
        let name = self.name(program);
        let flags = |flags: Flags| flags.iter_names().map(|(name, _)| format!(" {name}")).collect::<String>();
        let value = |write: bool| if write { " value" } else { "" };
        match ask {
            Ask::Lock(mode, f) => format!("lock {name} {mode}{}", flags(f)),
            Ask::Convert(to, f, write) => format!("convert {name} {to}{}{}", flags(f), value(write)),
            Ask::Unlock { write } => format!("unlock {name}{}", value(write)),
            Ask::Cancel => format!("cancel {name}"),
            Ask::End => format!("die {name}"),
            Ask::FastLock(mode) => format!("{name} takes {mode} by itself"),
            Ask::FastConvert(to) => format!("{name} converts to {to} by itself"),
            Ask::FastUnlock { write } => format!("{name} unlocks by itself{}", value(write)),
        }
    }

    pub(crate) fn describe_step(&self, step: Step) -> String {
        match step {
            Step::Deliver { from, to } => format!("-- {}>{} arrives", show::letter(from), show::letter(to)),
            Step::Overtake { from, to } => {
                format!("-- the second {}>{} arrives first", show::letter(from), show::letter(to))
            }
            Step::Pressure { node } => format!("-- {} wants another resource", show::letter(node)),
            Step::Decide => "-- the next view is decided".into(),
            Step::Enter { node } => format!("-- {} enters the newest view", show::letter(node)),
            Step::Restate { node } => format!("-- {} restates a piece", show::letter(node)),
            Step::Fenced { node } => format!("-- {} knows the fences", show::letter(node)),
            Step::Program { program, ask } => format!("-- {}", self.describe(program, ask)),
            Step::Bell { node } => format!("-- {} answers the bell", show::letter(node)),
            Step::Time { node } => format!("-- time passes at {}", show::letter(node)),
            Step::Intruded { step, program, ask, at } => {
                let step = match step {
                    Plain::Deliver { from, to } => Step::Deliver { from, to },
                    Plain::Time { node } => Step::Time { node },
                };
                let ask = self.describe(program, ask);
                format!("{}, and before its operation {at}: {ask}", self.describe_step(step))
            }
        }
    }
}

#[cfg(feature = "planted")]
fn lockspace(config: Config, menu: &Menu) -> Lockspace {
    match menu.bug {
        Some(bug) => Lockspace::with_bug(config, bug),
        None => Lockspace::new(config),
    }
}

#[cfg(not(feature = "planted"))]
fn lockspace(config: Config, menu: &Menu) -> Lockspace {
    assert!(menu.bug.is_none(), "bugs can be planted with the feature `planted` only");
    Lockspace::new(config)
}

fn claim(lock: LockId) -> Claim {
    Claim { lock, ..Claim::default() }
}

/// Bytes that say which write they are of.
pub(crate) fn block(write: u8) -> [u8; VALUE_BYTES] {
    let mut bytes = [0; VALUE_BYTES];
    bytes[0] = write;
    bytes
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
