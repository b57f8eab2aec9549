//! Real programs, really killed: at any time, by SIGKILL, again and again, while others go on.
//!
//! Each hammers at the same few resources. It writes down what it believes right after it is granted and strikes it out
//! right before it gives back, so that two who believe what does not go together are seen. The node here is a small
//! one: a queue for each resource.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fork::Fork;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, SessionId, Slot};
use oarlock_layout::mode::Mode::{self, *};
use oarlock_layout::segment::{Place, Words};
use oarlock_layout::token::Fence;
use oarlock_layout::value::Value;
use oarlock_shm::{Answer, Caller, First, Hold, Hub, Memory, Party, Spot, Taken, Ticket};

use crate::judge;
use crate::slate::{KILLS, Slate, Watch};
use crate::stage::{self, LEASE, NEWER, OLD};

const PROGRAMS: usize = 3;
const RESOURCES: usize = 2;
/// In the slate: everybody shall stop; what each believes of each resource; what each asks for, by resource, mode and
/// entry; how many grants each has had.
const STOP: usize = KILLS;
const BELIEFS: usize = KILLS + 8;
const WISHES: usize = BELIEFS + 64;
const GRANTS: usize = WISHES + 8;
const WRONG: usize = GRANTS + 8;
/// So long nobody who goes on is without a grant.
const PATIENCE: Duration = Duration::from_secs(20);

/// Chance, the same for a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What was done.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) kills: usize,
    pub(crate) grants: u64,
    /// Deaths that left somebody in the middle of something.
    pub(crate) ambiguous: usize,
}

// ----- programs ---------------------------------------------------------------------------------------------

struct Program<'a> {
    caller: Caller<Watch>,
    slate: &'a Slate,
    number: usize,
    chance: Chance,
}

impl Program<'_> {
    fn belief(&self, program: usize, resource: usize) -> usize {
        BELIEFS + program * RESOURCES + resource
    }

    fn wrong(&self, what: u64) {
        self.slate.set(WRONG, what);
    }

    /// It is held: nobody believes what does not stand beside it.
    fn believe(&self, resource: usize, hold: Hold) {
        self.slate.set(self.belief(self.number, resource), 1 + hold.mode as u64);
        for other in (0..PROGRAMS).filter(|other| *other != self.number) {
            let belief = self.slate.get(self.belief(other, resource)).checked_sub(1);
            let belief = belief.and_then(|mode| Mode::from_number(mode as u8));
            // What the other writes down may be older than what it holds, but not newer.
            if belief.is_some_and(|mode| !mode.compatible(hold.mode)) && self.caller.holds(hold) {
                self.wrong(1 + hold.mode as u64);
            }
        }
    }

    fn forget(&self, resource: usize) {
        self.slate.set(self.belief(self.number, resource), 0);
    }

    fn pause(&mut self) {
        for _ in 0..self.chance.below(16) {
            std::hint::spin_loop();
        }
    }

    fn round(&mut self, spots: &[Spot]) {
        let resource = self.chance.below(RESOURCES as u64) as usize;
        let mode = [NL, CR, CW, PR, PW, EX, EX, PR][self.chance.below(8) as usize];
        let wait = self.chance.below(12) == 0;
        let party = Party { flags: Flags::VALBLK, ..Party::default() };
        let first = self.chance.below(3) as u32;
        let first = if first == 0 { First::shared(0) } else { First::seat(first) };
        let hold = match self.caller.acquire(spots[resource], mode, &party, wait, first) {
            Taken::Held { hold, .. } => hold,
            Taken::Wait(ticket) => match self.wait(resource, mode, ticket) {
                Some(hold) => hold,
                None => return,
            },
            _ => return,
        };
        self.slate.set(GRANTS + self.number, self.slate.get(GRANTS + self.number) + 1);
        self.believe(resource, hold);
        self.pause();
        let hold = self.change(resource, hold);
        if hold.mode.writes_value() {
            let bytes = if self.chance.below(2) == 0 { OLD } else { NEWER };
            self.caller.write_value(hold, Some(bytes));
        }
        if let Some(value) = self.caller.value(hold)
            && value.valid
            && value.bytes != OLD
            && value.bytes != NEWER
        {
            self.wrong(100);
        }
        self.forget(resource);
        if self.caller.release(hold).is_err() {
            self.wrong(101);
        }
    }

    fn change(&mut self, resource: usize, hold: Hold) -> Hold {
        let to = [NL, CR, PR, PW, EX][self.chance.below(5) as usize];
        if to == hold.mode {
            return hold;
        }
        let taken = if hold.mode.covers(to) {
            // Down: the belief first.
            self.slate.set(self.belief(self.number, resource), 1 + to as u64);
            self.caller.lower(hold, to)
        } else if to.covers(hold.mode) {
            self.caller.raise(hold, to)
        } else {
            return hold;
        };
        match taken {
            Taken::Held { hold, .. } => {
                self.believe(resource, hold);
                hold
            }
            Taken::Lost(_) => {
                self.wrong(102);
                hold
            }
            _ => {
                self.slate.set(self.belief(self.number, resource), 1 + hold.mode as u64);
                hold
            }
        }
    }

    /// Asks the node, and waits for its answer or, sometimes, not.
    fn wait(&mut self, resource: usize, mode: Mode, ticket: Ticket) -> Option<Hold> {
        let wish = 1 | (resource as u64) << 8 | (mode as u64) << 16 | u64::from(ticket.entry) << 32;
        self.slate.set(WISHES + self.number, wish);
        let patient = self.chance.below(2) != 0;
        let hold = loop {
            match self.caller.look(ticket) {
                Answer::Held(hold) => break Some(hold),
                Answer::Waiting(seen) if patient => {
                    self.caller.sleep(ticket, seen, Duration::from_millis(1));
                }
                Answer::Waiting(_) => break self.caller.withdraw(ticket),
                _ => {
                    self.wrong(103);
                    break None;
                }
            }
        };
        // The node takes a wish out of its queue before the entry may be used again.
        self.slate.set(WISHES + self.number, 2);
        while self.slate.get(WISHES + self.number) != 0 {
            std::thread::yield_now();
        }
        if hold.is_none() {
            self.caller.close(ticket.entry);
        }
        hold
    }
}

fn program(fd: &OwnedFd, slate: &Slate, seat: Place, number: usize, seed: u64, spots: &[Spot]) {
    // It does not outlive the test, however that ends.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).expect("a signal");
    let (memory, slate) = (Memory::open(fd).expect("the segment"), slate.open());
    let caller = Caller::new(memory, seat, Watch { slate: slate.clone(), counts: false });
    let mut program = Program { caller, slate: &slate, number, chance: Chance(seed) };
    while slate.get(STOP) == 0 {
        program.round(spots);
    }
}

// ----- the node ---------------------------------------------------------------------------------------------

struct Node<'a> {
    hub: Hub,
    fd: OwnedFd,
    slate: &'a Slate,
    slots: Vec<Slot>,
    spots: Vec<Spot>,
    /// By resource: program, session, entry and mode, in the order they came.
    queues: Vec<VecDeque<(usize, u32, u32, Mode)>>,
    running: Vec<(Pid, u32)>,
    sessions: u32,
}

impl<'a> Node<'a> {
    fn new(slate: &'a Slate) -> Node<'a> {
        slate.clear();
        let (memory, fd) = stage::shared();
        let mut hub = Hub::new(memory);
        hub.renew(LEASE);
        let looker = hub.attach(SessionId(1_000_000), 0).expect("an area");
        let looker =
            Caller::new(Arc::clone(hub.memory()), looker, Watch { slate: slate.clone(), counts: false });
        let names: [&[u8]; RESOURCES] = [stage::NAME, stage::BESIDE];
        let slots: Vec<Slot> = names.iter().map(|n| hub.bind(&stage::name(n)).expect("a slot")).collect();
        for slot in &slots {
            hub.raise(*slot, EX, Fence::new(Epoch(1), 1));
            hub.set_value_ready(*slot, true);
            hub.set_value(*slot, Value::NEVER.written(OLD));
            hub.clear_gate(*slot);
        }
        let spots = names.iter().map(|name| looker.find(name).expect("it is bound")).collect();
        hub.end(SessionId(1_000_000));
        hub.bury(SessionId(1_000_000));
        let queues = vec![VecDeque::new(); RESOURCES];
        Node { hub, fd, slate, slots, spots, queues, running: Vec::new(), sessions: 0 }
    }

    fn start(&mut self, number: usize, seed: u64) -> Result<(Pid, u32), String> {
        self.sessions += 1;
        let session = self.sessions;
        let seat = self.hub.attach(SessionId(session), 0).ok_or("no area is free: one was not given back")?;
        match fork::fork().map_err(|error| error.to_string())? {
            Fork::Child => {
                let run = || program(&self.fd, self.slate, seat, number, seed | 1, &self.spots);
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                std::process::abort()
            }
            Fork::Parent(pid) => Ok((Pid::from_raw(pid), session)),
        }
    }

    /// One round of a node's work.
    fn work(&mut self) {
        for number in 0..PROGRAMS {
            let cell = WISHES + number;
            let wish = self.slate.get(cell);
            if wish & 3 == 1 {
                let (resource, entry) = ((wish >> 8 & 0xff) as usize, (wish >> 32) as u32);
                let mode = Mode::from_number((wish >> 16 & 0xff) as u8).expect("a mode");
                let session = self.running[number].1;
                let place = (number, session, entry, mode);
                if !self.queues[resource].contains(&place) {
                    self.queues[resource].push_back(place);
                }
            } else if wish & 3 == 2 {
                self.strike(number);
                self.slate.set(cell, 0);
            }
        }
        while self.hub.poll_bell().is_some() {}
        for resource in 0..RESOURCES {
            self.queue(resource);
        }
        while let Some(wake) = self.hub.poll_wake() {
            self.hub.memory().wake(self.hub.memory().geometry().entry(wake.area, wake.entry));
        }
    }

    /// A program no longer waits.
    fn strike(&mut self, number: usize) {
        self.queues.iter_mut().for_each(|queue| queue.retain(|place| place.0 != number));
    }

    fn queue(&mut self, resource: usize) {
        let slot = self.slots[resource];
        if let Some(lock) = self.hub.taken(slot) {
            self.queues[resource].retain(|place| stage::lock(place.1, place.2) != lock);
        }
        while let Some((_, session, entry, mode)) = self.queues[resource].front().copied() {
            self.hub.set_gate(slot);
            if self.hub.admit(slot, mode, stage::claim(session, entry)).is_none() {
                self.hub.offer(slot, Some((stage::lock(session, entry), mode)));
                return;
            }
            self.queues[resource].pop_front();
        }
        self.hub.offer(slot, None);
        self.hub.clear_gate(slot);
    }

    /// Kills a program and puts right what it left.
    fn kill(&mut self, number: usize, tally: &mut Tally) -> Result<(), String> {
        let (pid, session) = self.running[number];
        kill(pid, Signal::SIGKILL).map_err(|error| error.to_string())?;
        let end = waitpid(pid, None).map_err(|error| error.to_string())?;
        if !matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)) {
            return Err(format!("a program ended by itself: {end:?}"));
        }
        for resource in 0..RESOURCES {
            self.slate.set(BELIEFS + number * RESOURCES + resource, 0);
        }
        self.strike(number);
        self.slate.set(WISHES + number, 0);
        let turns = |node: &Node<'_>| {
            node.slots.iter().map(|slot| stage::word(node.hub.memory(), slot.0).turn()).collect::<Vec<_>>()
        };
        let before = turns(self);
        self.hub.end(SessionId(session));
        judge::bury(&mut self.hub, SessionId(session))?;
        tally.ambiguous += usize::from(turns(self) != before);
        judge::exclusion(self.hub.memory())?;
        for slot in &self.slots {
            judge::value(&self.hub, *slot)?;
        }
        Ok(())
    }

    fn grants(&self, number: usize) -> u64 {
        self.slate.get(GRANTS + number)
    }

    fn wrong(&self) -> Result<(), String> {
        match self.slate.get(WRONG) {
            0 => Ok(()),
            wrong => Err(format!("a program found something wrong: {wrong}")),
        }
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        for (pid, _) in &self.running {
            let _ = kill(*pid, Signal::SIGKILL);
            let _ = waitpid(*pid, None);
        }
    }
}

/// So many deaths, one after the other.
pub(crate) fn all(slate: &Slate, kills: usize, seed: u64) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut chance = Chance(seed | 1);
    let mut node = Node::new(slate);
    for number in 0..PROGRAMS {
        let program = node.start(number, chance.below(u64::MAX))?;
        node.running.push(program);
    }
    for death in 0..kills {
        let at = |error: String| format!("death {death} of seed {seed}: {error}");
        let until = Instant::now() + Duration::from_micros(chance.below(1_500));
        while Instant::now() < until {
            node.work();
        }
        let number = chance.below(PROGRAMS as u64) as usize;
        node.kill(number, &mut tally).map_err(at)?;
        // The others go on.
        if death % 16 == 0 {
            for other in (0..PROGRAMS).filter(|other| *other != number) {
                let (before, start) = (node.grants(other), Instant::now());
                while node.grants(other) == before {
                    node.work();
                    node.wrong().map_err(at)?;
                    if start.elapsed() > PATIENCE {
                        return Err(at(format!("program {other} is granted nothing any more")));
                    }
                }
            }
        }
        node.running[number] = node.start(number, chance.below(u64::MAX))?;
        node.wrong().map_err(at)?;
        tally.kills += 1;
    }
    // At the end all stop by themselves, and nothing is left.
    slate.set(STOP, 1);
    let start = Instant::now();
    let mut left: Vec<Pid> = node.running.iter().map(|(pid, _)| *pid).collect();
    while !left.is_empty() {
        node.work();
        left.retain(|pid| matches!(waitpid(*pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)));
        if start.elapsed() > PATIENCE {
            return Err(format!("{left:?} do not come to an end"));
        }
    }
    node.running.clear();
    node.work();
    node.wrong()?;
    tally.grants = (0..PROGRAMS).map(|number| node.grants(number)).sum();
    judge::at_rest(node.hub.memory())?;
    judge::nothing_left(node.hub.memory())?;
    for slot in node.slots.clone() {
        if !stage::word(node.hub.memory(), slot.0).unheld() {
            return Err(format!("something is counted that nobody has in {slot:?}"));
        }
    }
    Ok(tally)
}
