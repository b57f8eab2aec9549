//! Registers that locks protect, what programs write to them, and how departed nodes are fenced there (L4, I2).
//!
//! ```text
//!   node: Output::Fence ──► a request to each register ──► refuses at once ──► on its disk ──► answer ──► all have: proven
//!   program: granted    ──► a write, often seconds late ─────────► taken, or refused
//! ```
//!
//! Registers are slow, die and come back with what is on their disks, answer late or never. The program that asks them fails at
//! some node for a while. Two registers protect all lockspaces. Everybody reaches them always: a node that is cut off from all others is the
//! one that does harm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_cluster::fencing::{Charge, Fence};
use oarlock_cluster::registry::{self, Need};
use oarlock_layout::mode::Mode;
use oarlock_layout::time::Instant;

use crate::check;
use crate::history::{Client, Event, Told, What};
use crate::options::Options;
use crate::queue::Time;
use crate::random::Random;
use crate::registers::{Refused, Register, Run, Write};
use crate::swarm::{MS, S};
use crate::world::{Happening, World};

/// How many registers there are.
const REGISTERS: usize = 2;
/// Makes another stream of the same seed.
const STREAM: u64 = 0xfe4c_e000_0000_0000;
/// The asking program gives up after this.
const PATIENCE: Time = 1_500 * MS;
/// Longest fault of a register or of the program that asks it.
const FAULT_MAX: Time = 1_500 * MS;

/// What can come next.
#[derive(Debug)]
pub(crate) enum Fencing {
    /// A request reaches a register.
    Asked { register: usize, charge: Charge, by: Run },
    /// A fence is on the disk of a register, if that has not died since.
    Stored { register: usize, life: u64, charge: Charge, by: Run },
    /// An answer reaches the program that asked.
    Answered { register: usize, charge: Charge, by: Run },
    /// That program has failed, or waits no longer.
    GivenUp { charge: Charge, by: Run, why: &'static str },
    /// What came of a charge reaches its node, which may stand still.
    Heard { by: Run },
    /// A write reaches a register.
    Written { register: usize, write: Write },
    /// The next fault.
    Fault,
    /// A register is back.
    Back { register: usize },
}

/// The program that fences, at one run of one node.
#[derive(Debug, Default)]
pub(crate) struct ToRegisters {
    begun: Vec<Charge>,
    /// Registers that have not answered.
    waits: BTreeMap<Charge, BTreeSet<usize>>,
    answers: VecDeque<(Charge, Result<(), String>)>,
}

impl Fence for ToRegisters {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Program]
    }

    fn begin(&mut self, _: Instant, charge: Charge, _: &str) {
        self.begun.push(charge);
        self.waits.insert(charge, (0..REGISTERS).collect());
    }

    fn poll(&mut self, _: Instant) -> Option<(Charge, Result<(), String>)> {
        self.answers.pop_front()
    }
}

impl ToRegisters {
    /// A register has the fence on its disk. True if it was the last.
    fn answered(&mut self, register: usize, charge: Charge) -> bool {
        let Some(waits) = self.waits.get_mut(&charge) else { return false };
        waits.remove(&register);
        let all = waits.is_empty();
        if all {
            self.waits.remove(&charge);
            self.answers.push_back((charge, Ok(())));
        }
        all
    }

    /// It waits no longer. False if all had answered before.
    fn give_up(&mut self, charge: Charge, why: &str) -> bool {
        let waited = self.waits.remove(&charge).is_some();
        if waited {
            self.answers.push_back((charge, Err(why.into())));
        }
        waited
    }
}

/// How a register is, besides what it has stored.
#[derive(Debug, Default)]
struct Health {
    /// Dead until then.
    down_until: Time,
    /// Everything takes so much longer, until then.
    slow: (Time, Time),
    /// The same for answers only.
    late: (Time, Time),
    /// Grows with each death.
    life: u64,
}

/// All registers of a run, and what is known of them.
pub(crate) struct Fences {
    on: bool,
    registers: Vec<(Register, Health)>,
    /// The program fails at each node until then.
    failing_until: Vec<Time>,
    pub(crate) checker: check::Fences,
    /// When the last fence of each node was proven.
    proven: BTreeMap<u16, Time>,
    random: Random,
    #[cfg(feature = "planted")]
    bug: Option<crate::options::RegisterBug>,
}

impl Fences {
    pub(crate) fn new(seed: u64, options: &Options) -> Fences {
        let mut random = Random::new(seed ^ STREAM);
        let drawn = random.chance(500);
        let on = options.fences.unwrap_or(drawn);
        Fences {
            on,
            registers: (0..REGISTERS).map(|_| Default::default()).collect(),
            failing_until: vec![0; options.nodes.into()],
            checker: check::Fences::new(if on { REGISTERS } else { 0 }),
            proven: BTreeMap::new(),
            random,
            #[cfg(feature = "planted")]
            bug: options.register_bug,
        }
    }

    /// What verdicts must ask for.
    pub(crate) fn needs(&self) -> Vec<Need> {
        if self.on { ToRegisters::default().needs() } else { Vec::new() }
    }

    #[cfg(feature = "planted")]
    fn has_bug(&self, bug: &str) -> bool {
        self.bug.is_some_and(|planted| format!("{planted:?}") == bug)
    }

    #[cfg(not(feature = "planted"))]
    const fn has_bug(&self, _: &str) -> bool {
        false
    }

    /// How long something takes on its way to or from a register, or in it.
    fn way(&mut self, now: Time, register: usize, most: Time) -> Time {
        let (until, more) = self.registers[register].1.slow;
        let way = self.random.spread(50_000, most);
        now + way + if now < until { more } else { 0 }
    }
}

impl World {
    /// The first fault of registers.
    pub(crate) fn begin_fencing(&mut self) {
        if self.fences.on && self.options.faults {
            self.queue.push(S, Happening::Fencing(Fencing::Fault));
        }
    }

    /// It is decided that a run of this node is fenced.
    pub(crate) fn fence_proven(&mut self, node: u16) {
        self.fences.proven.insert(node, self.queue.now());
    }

    /// A run of this node is to be fenced before the next is let in, or was a moment ago. A try that the storm made fail is followed by
    /// the next after four seconds.
    pub(crate) fn waits_for_its_fence(&self, node: u16) -> bool {
        let mine = |it: &registry::Fence| it.node.0 == node && it.needs.contains(&Need::Program);
        let just = self.fences.proven.get(&node).is_some_and(|at| at + 2 * S > self.queue.now());
        just || self.coordinator.newest().fences().any(mine)
    }

    pub(crate) fn fencing(&mut self, what: Fencing) {
        match what {
            Fencing::Asked { register, charge, by } => self.fence_asked(register, charge, by),
            Fencing::Stored { register, life, charge, by } => {
                let (stored, health) = &mut self.fences.registers[register];
                if health.life == life {
                    let run = (charge.node.0, charge.incarnation.0);
                    stored.store(run, charge.epoch);
                    self.fences.checker.stored(register, run.0, run.1);
                    self.answer_fence(register, charge, by);
                }
            }
            Fencing::Answered { register, charge, by } => {
                if self.fencer(by).is_some_and(|fence| fence.answered(register, charge)) {
                    self.load.fenced += 1;
                    self.heard_of_fence(by);
                }
            }
            Fencing::GivenUp { charge, by, why } => {
                if self.fencer(by).is_some_and(|fence| fence.give_up(charge, why)) {
                    self.load.fence_failures += 1;
                    self.heard_of_fence(by);
                }
            }
            Fencing::Heard { by } => self.heard_of_fence(by),
            Fencing::Written { register, write } => self.written(register, &write),
            Fencing::Fault => self.fault_of_registers(),
            Fencing::Back { register } => {
                let (stored, health) = &mut self.fences.registers[register];
                if health.down_until <= self.queue.now() {
                    stored.crash();
                }
            }
        }
    }

    /// Sends what a node has begun to fence to all registers.
    pub(crate) fn carry_charges(&mut self, index: u16, run: u64) {
        let (now, by) = (self.queue.now(), (index, run));
        for charge in std::mem::take(&mut self.hosts[usize::from(index)].fence.begun) {
            let mut push = |at, what| self.queue.push(at, Happening::Fencing(what));
            if now < self.fences.failing_until[usize::from(index)] {
                let at = now + self.fences.random.spread(MS, 50 * MS);
                push(at, Fencing::GivenUp { charge, by, why: "exit status 1" });
                continue;
            }
            for register in 0..REGISTERS {
                let at = self.fences.way(now, register, 20 * MS);
                push(at, Fencing::Asked { register, charge, by });
            }
            push(now + PATIENCE, Fencing::GivenUp { charge, by, why: "not done in time" });
        }
    }

    fn fence_asked(&mut self, register: usize, charge: Charge, by: Run) {
        let now = self.queue.now();
        let (stored, health) = &mut self.fences.registers[register];
        if now < health.down_until {
            return;
        }
        stored.fence((charge.node.0, charge.incarnation.0), charge.epoch);
        let life = health.life;
        if self.fences.has_bug("FenceNotDurable") {
            self.answer_fence(register, charge, by);
        }
        let at = self.fences.way(now, register, 30 * MS);
        self.queue.push(at, Happening::Fencing(Fencing::Stored { register, life, charge, by }));
    }

    /// From here on the register has said it, whenever it is heard.
    fn answer_fence(&mut self, register: usize, charge: Charge, by: Run) {
        let now = self.queue.now();
        self.fences.checker.promised(register, charge.node.0, charge.incarnation.0);
        let (until, more) = self.fences.registers[register].1.late;
        let at = self.fences.way(now, register, 20 * MS) + if now < until { more } else { 0 };
        self.queue.push(at, Happening::Fencing(Fencing::Answered { register, charge, by }));
    }

    fn fencer(&mut self, (node, run): Run) -> Option<&mut ToRegisters> {
        let host = &mut self.hosts[usize::from(node)];
        (host.up && host.disk.run() == run).then_some(&mut host.fence)
    }

    /// Tells a node what came of its charges, once it does not stand still.
    fn heard_of_fence(&mut self, by: Run) {
        let (now, index) = (self.queue.now(), by.0);
        if self.fencer(by).is_none() {
            return;
        }
        if self.hosts[usize::from(index)].paused {
            return self.queue.push(now + 20 * MS, Happening::Fencing(Fencing::Heard { by }));
        }
        self.wake(index);
        let host = &mut self.hosts[usize::from(index)];
        let at = host.clock(now);
        while let (Some((charge, outcome)), Some(node)) = (host.fence.poll(at), &mut host.node) {
            node.handle_fenced(at, charge, outcome);
        }
        self.turn(index);
    }

    // ----- programs -------------------------------------------------------------------------------------

    /// What must be known of the moment before an event.
    pub(crate) fn before_event(&mut self, event: &Event) {
        if let What::Ended { client, how: crate::history::End::Lost } = event.what
            && let Some(run) = self.run_of(client)
        {
            self.fences.checker.lost(self.judge.ledger(), client, run.1);
        }
    }

    /// A grant is judged, and somebody may write under it.
    pub(crate) fn after_event(&mut self, event: &Event) {
        let What::Told { client, handle, told: Told::Granted { mode, token, .. } } = &event.what else {
            return;
        };
        let Some(by) = self.fences.on.then(|| self.run_of(*client)).flatten() else { return };
        let (ledger, coordinator) = (self.judge.ledger(), &self.coordinator);
        let is_in = |node, run| coordinator.is_in(node, run);
        let key = (*client, *handle);
        self.fences.checker.granted(event.at, ledger, (key, by.1), is_in, &mut self.others);
        let Some(resource) = ledger.lock(key).map(|lock| lock.resource) else { return };
        if let Some(token) = token.filter(|_| matches!(mode, Mode::PW | Mode::EX))
            && self.fences.random.chance(300)
        {
            // Some writes are on their way for long: those are what fences are for.
            let register = resource % REGISTERS;
            let most = if self.fences.random.chance(100) { 6 * S } else { 50 * MS };
            let at = self.fences.way(event.at, register, most);
            let write = Write { resource, token, by };
            self.queue.push(at, Happening::Fencing(Fencing::Written { register, write }));
        }
    }

    /// The run at which a client has its session: sessions end with runs.
    fn run_of(&self, client: Client) -> Option<Run> {
        let process = self.processes.iter().find(|process| process.client == client)?;
        Some((process.node, process.run))
    }

    fn written(&mut self, register: usize, write: &Write) {
        let below = self.fences.has_bug("WriteBelowFence");
        let now = self.queue.now();
        let (stored, health) = &mut self.fences.registers[register];
        if now < health.down_until {
            return;
        }
        match stored.write(write, below) {
            Ok(()) => {
                let (node, run) = write.by;
                self.fences.checker.wrote(now, register, node, run, &mut self.others);
            }
            Err(Refused::Fenced) => self.load.refused_writes += 1,
            Err(Refused::Stale) => {}
        }
    }

    // ----- what goes wrong ------------------------------------------------------------------------------

    fn fault_of_registers(&mut self) {
        let now = self.queue.now();
        if self.calm {
            return;
        }
        let random = &mut self.fences.random;
        let (gap, length) = (random.below(2 * S), random.spread(20 * MS, FAULT_MAX));
        self.queue.push(now + gap, Happening::Fencing(Fencing::Fault));
        let register = random.below(REGISTERS as u64) as usize;
        let until = (now + length).min(self.plan.storm_end);
        let more = random.spread(MS, FAULT_MAX);
        let health = &mut self.fences.registers[register].1;
        match random.below(4) {
            0 => {
                // What comes while it is dead is lost, and so is what was not on its disk.
                (health.down_until, health.life) = (until, health.life + 1);
                self.queue.push(until, Happening::Fencing(Fencing::Back { register }));
            }
            1 => health.slow = (until, more / 4),
            2 => health.late = (until, more),
            _ => {
                let all = random.chance(300);
                let one = random.below(self.options.nodes.into()) as usize;
                for (node, failing) in self.fences.failing_until.iter_mut().enumerate() {
                    *failing = if all || node == one { until } else { *failing };
                }
            }
        }
    }
}
