//! What stands between a simulated program and its node's segments: the caller's side, call by call.
//!
//! ```text
//!   Process ── Ask ──► Share ──► Caller (acquire, raise, lower, release, withdraw, look)
//!           ◄─ Told ──   └─────► packets, where the node must be asked
//! ```
//!
//! A call is one step: nothing else happens meanwhile. Between two of them anything may, also the end of the program.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::SharedHandle;
use oarlock_layout::message::session::{Attached, Reply, Request};
use oarlock_layout::mode::{Mode, join_option};
use oarlock_layout::name::Name;
use oarlock_layout::token::Token;
use oarlock_shm::{Answer, Caller, Clock, First, Hold, Memory, Party, Spot, Taken, Ticket};

use crate::history::{Ask, Block, Told};
use crate::host;
use crate::process;
use crate::queue::Time;
use crate::random::Random;

/// The clock of a machine, as its programs see it.
#[derive(Clone, Debug)]
pub(crate) struct Ticking {
    pub now: Rc<Cell<Time>>,
    pub skew: Rc<Cell<host::Skew>>,
    pub drift: i64,
}

impl Clock for Ticking {
    fn coarse(&self) -> u64 {
        host::shown(self.now.get(), self.skew.get(), self.drift).0
    }
}

/// The segments of one program.
#[derive(Default)]
pub(crate) struct Share {
    seats: [Option<Seat>; 2],
    /// By the number that the program gave.
    locks: BTreeMap<u32, Lock>,
    /// Answers that are to come, by the number on the wire: whose they are, or nobody's who waits for them still.
    answers: BTreeMap<u32, VecDeque<Due>>,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share").finish_non_exhaustive()
    }
}

struct Seat {
    caller: Caller<Ticking>,
    segment: u8,
    area: u32,
    /// Where names were found; it may be true no more.
    spots: BTreeMap<Name, Spot>,
}

/// An answer to come.
#[derive(Clone, Copy, Debug)]
struct Due {
    handle: Option<u32>,
    unlock: bool,
}

struct Lock {
    space: usize,
    entry: u32,
    /// The mode last asked for, and how.
    mode: Mode,
    flags: Flags,
    stage: Stage,
    /// What it knows that others want.
    told: Option<Mode>,
    /// A token is to be drawn before the next request about it.
    undrawn: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// `quiet`: the program looks at the entry.
    Waiting {
        ticket: Ticket,
        quiet: bool,
    },
    Held(Hold),
    Asking(Ticket),
    /// Withdrawn, with the whole lock or not.
    Withdrawn {
        whole: bool,
    },
    /// The node gives it back.
    Leaving,
}

/// What came of a call.
#[derive(Default)]
pub(crate) struct Outcome {
    /// What the program learned.
    pub told: Vec<(u32, Told)>,
    /// What the node must be asked.
    pub packets: Vec<Request>,
    /// The node sleeps.
    pub knock: bool,
    /// The session is over.
    pub lost: bool,
    /// Something was given back: somebody else may have it now.
    pub gave: bool,
}

/// What a look at a lock that somebody else has granted comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Held,
    /// It is counted, and not to be believed while the lease is at risk.
    Frozen,
    Lost,
}

/// What is held after a change of mode that did not come about.
fn as_it_stands(taken: Taken, hold: Hold) -> Hold {
    if let Taken::Frozen { hold, .. } = taken { hold } else { hold }
}

/// A new lock as it was asked for.
struct Wish<'a> {
    handle: u32,
    space: usize,
    name: &'a Name,
    mode: Mode,
    flags: Flags,
}

impl Share {
    /// The node has given the program a place.
    pub(crate) fn attach(&mut self, space: usize, memory: Arc<Memory>, attached: &Attached, clock: Ticking) {
        let caller = Caller::new(memory, attached.place, clock);
        let (segment, area) = (attached.segment, attached.place.area);
        self.seats[space] = Some(Seat { caller, segment, area, spots: BTreeMap::new() });
    }

    /// Has it a place anywhere?
    pub(crate) fn is_attached(&self) -> bool {
        self.seats.iter().any(Option::is_some)
    }

    /// Has it this place?
    pub(crate) fn sits(&self, space: usize, area: u32) -> bool {
        self.seats[space].as_ref().is_some_and(|seat| seat.area == area)
    }

    /// Can what it has be believed?
    pub(crate) fn is_living(&self) -> bool {
        self.seats.iter().flatten().all(|seat| seat.caller.living().is_ok())
    }

    /// Has an entry changed on which the program sleeps?
    pub(crate) fn is_answered(&self) -> bool {
        self.locks.values().any(|lock| match lock.stage {
            Stage::Waiting { ticket, quiet: true } => match self.caller(lock.space).look(ticket) {
                Answer::Waiting(_) | Answer::Refused => false,
                Answer::Held(_) => !self.caller(lock.space).frozen() || !self.is_living(),
                Answer::Lost => true,
            },
            _ => false,
        })
    }

    fn caller(&self, space: usize) -> &Caller<Ticking> {
        &self.seats[space].as_ref().expect("a lock in a segment has a place").caller
    }

    fn number(&self, lock: &Lock) -> u32 {
        let segment = self.seats[lock.space].as_ref().expect("a lock in a segment has a place").segment;
        SharedHandle { segment, entry: lock.entry }.number()
    }

    // ----- requests -------------------------------------------------------------------------------------

    /// The token of a lock about which the program is about to ask something, if it has put off drawing it.
    pub(crate) fn token(&mut self, handle: u32) -> Option<Token> {
        let lock = self.locks.get_mut(&handle).filter(|lock| lock.undrawn)?;
        let Stage::Held(hold) = lock.stage else { return None };
        lock.undrawn = false;
        let space = lock.space;
        self.caller(space).draw_token(hold)
    }

    /// Does what the program asks, as far as it concerns a segment. False if it does not.
    pub(crate) fn ask(&mut self, handle: u32, ask: &Ask, random: &mut Random, out: &mut Outcome) -> bool {
        if let Ask::Lock { space, name, mode, flags, .. } = ask {
            let wish = Wish { handle, space: usize::from(*space), name, mode: *mode, flags: *flags };
            return self.lock(&wish, ask, random, out);
        }
        let Some(lock) = self.locks.get(&handle) else { return false };
        let (stage, space) = (lock.stage, lock.space);
        match (ask, stage) {
            (Ask::Convert { mode, flags, value, .. }, Stage::Held(hold)) => {
                self.convert(handle, hold, (*mode, *flags, value.as_deref()), ask, random, out);
            }
            (Ask::Unlock { value, invalidate }, Stage::Held(hold)) => {
                let written = self.write(space, hold, value.as_deref(), *invalidate);
                if written && random.chance(950) {
                    self.release(handle, hold, out);
                } else {
                    let ask = Ask::Unlock {
                        value: value.clone().filter(|_| !written),
                        invalidate: *invalidate && !written,
                    };
                    self.send(handle, &ask, Flags::empty(), out);
                    self.set(handle, Stage::Leaving);
                }
            }
            (Ask::Cancel | Ask::Unlock { .. }, Stage::Waiting { ticket, quiet }) => {
                self.withdraw(handle, ticket, quiet, matches!(ask, Ask::Unlock { .. }), random, out);
            }
            // What a change of mode becomes the node decides.
            (Ask::Cancel, Stage::Asking(_)) => self.send(handle, ask, Flags::empty(), out),
            (Ask::Unlock { .. }, Stage::Asking(_)) => {
                self.send(handle, ask, Flags::empty(), out);
                self.set(handle, Stage::Leaving);
            }
            // An answer is on its way already.
            (Ask::Cancel, _) => {}
            (ask, stage) => panic!("a simulated program does not ask {ask:?} while {stage:?}"),
        }
        true
    }

    fn lock(&mut self, wish: &Wish<'_>, ask: &Ask, random: &mut Random, out: &mut Outcome) -> bool {
        let Some(seat) = &mut self.seats[wish.space] else { return false };
        // A program may have locks without entries beside those in the segment.
        if random.chance(40) {
            return false;
        }
        let manner = Flags::NOBAST | Flags::NODLCKWT | Flags::NODLCKBLK | Flags::VALBLK;
        let party = Party { owner: 0, transaction: 0, flags: wish.flags & manner };
        let wait = !wish.flags.contains(Flags::LOCAL);
        // One at a time its threads think, so that a seat is never two threads' at once.
        let first = random.below(4) as u32;
        let first = if first == 0 { First::shared(0) } else { First::seat(first) };
        let believed = seat.spots.get(wish.name).copied().filter(|_| random.chance(700));
        let mut spot = believed.or_else(|| seat.caller.find(wish.name.as_bytes()));
        let taken = loop {
            let taken = match spot {
                // The fence grows only if the master is asked.
                Some(spot) if !wish.flags.contains(Flags::FRESH) => {
                    seat.caller.acquire(spot, wish.mode, &party, wait, first)
                }
                _ if wait => seat.caller.ask(wish.mode, &party, first),
                _ => Taken::NotOwned,
            };
            if taken != Taken::Moved {
                break taken;
            }
            spot = seat.caller.find(wish.name.as_bytes());
        };
        if let Some(spot) = spot {
            seat.spots.insert(wish.name.clone(), spot);
        }
        match taken {
            Taken::Held { hold, knock } => {
                out.knock |= knock;
                self.add(wish, hold.entry, Stage::Held(hold));
                self.granted(wish.handle, hold, random, out);
            }
            Taken::Wait(ticket) => {
                let quiet = random.chance(600);
                self.add(wish, ticket.entry, Stage::Waiting { ticket, quiet });
                let flags = if quiet { Flags::QUIET } else { Flags::empty() };
                self.send(wish.handle, ask, flags, out);
            }
            Taken::Busy => out.told.push((wish.handle, Told::Failed { code: Code::Busy })),
            Taken::NotOwned => out.told.push((wish.handle, Told::Failed { code: Code::NotOwned })),
            Taken::NoRoom => return false,
            Taken::Lost(_) => out.lost = true,
            Taken::Moved => unreachable!("looked up again"),
            Taken::Frozen { .. } => unreachable!("what is not granted for good is given back"),
        }
        true
    }

    fn add(&mut self, wish: &Wish<'_>, entry: u32, stage: Stage) {
        let (space, mode, flags) = (wish.space, wish.mode, wish.flags);
        self.locks.insert(wish.handle, Lock { space, entry, mode, flags, stage, told: None, undrawn: false });
    }

    fn set(&mut self, handle: u32, stage: Stage) {
        self.locks.get_mut(&handle).expect("a lock in a segment").stage = stage;
    }

    /// Sends a request about a lock, and notes that its answer is to come.
    fn send(&mut self, handle: u32, ask: &Ask, flags: Flags, out: &mut Outcome) {
        let number = self.number(&self.locks[&handle]);
        let mut packet = process::packet(number, ask);
        if let Request::Lock(lock) = &mut packet {
            lock.flags |= flags;
        }
        if !matches!(ask, Ask::Cancel) {
            let due = Due { handle: Some(handle), unlock: matches!(ask, Ask::Unlock { .. }) };
            self.answers.entry(number).or_default().push_back(due);
        }
        out.packets.push(packet);
    }

    /// A lock is held, by whatever way: what the program learns of it, and how it was granted it will not hear again.
    fn granted(&mut self, handle: u32, hold: Hold, random: &mut Random, out: &mut Outcome) {
        let lock = &self.locks[&handle];
        let (caller, mode, flags) = (self.caller(lock.space), lock.mode, lock.flags);
        let read = flags.contains(Flags::VALBLK);
        let value = read.then(|| Box::new(caller.value(hold).expect("nobody writes meanwhile")));
        let token = if random.chance(500) { caller.draw_token(hold) } else { None };
        let alternate = hold.mode != mode;
        let told = Told::Granted { mode: hold.mode, token, value, alternate };
        let lock = self.locks.get_mut(&handle).expect("just looked at");
        lock.undrawn = token.is_none() && random.chance(500);
        (lock.stage, lock.told) = (Stage::Held(hold), None);
        out.told.push((handle, told));
        // A hint may have come before the program looked.
        self.read(handle, hold, out);
    }

    /// Writes the value block before a lock is lowered. False if the node has to do it.
    fn write(&self, space: usize, hold: Hold, value: Option<&Block>, invalidate: bool) -> bool {
        if value.is_none() && !invalidate {
            return true;
        }
        let block = value.copied().filter(|_| !invalidate);
        self.caller(space).write_value(hold, block)
    }

    fn release(&mut self, handle: u32, hold: Hold, out: &mut Outcome) {
        let space = self.locks[&handle].space;
        match self.caller(space).release(hold) {
            Ok(knock) => {
                out.knock |= knock;
                out.gave = true;
                self.locks.remove(&handle);
                out.told.push((handle, Told::Released));
            }
            Err(_) => out.lost = true,
        }
    }

    fn convert(
        &mut self,
        handle: u32,
        hold: Hold,
        (to, flags, value): (Mode, Flags, Option<&Block>),
        ask: &Ask,
        random: &mut Random,
        out: &mut Outcome,
    ) {
        let lock = self.locks.get_mut(&handle).expect("it was looked up");
        let (space, from) = (lock.space, hold.mode);
        let manner = lock.flags & Flags::NOBAST == flags & Flags::NOBAST;
        (lock.mode, lock.flags) = (to, flags);
        let alone = manner && !flags.contains(Flags::FRESH) && random.chance(850);
        let values = flags.contains(Flags::VALBLK);
        let invalidates = flags.contains(Flags::IVVALBLK);
        let writes = from == Mode::EX || (from == Mode::PW && to != Mode::EX);
        let mut written = false;
        let taken = if alone && from.covers(to) && (writes || !values) {
            written = self.write(space, hold, value.filter(|_| values && writes), invalidates && writes);
            if written { self.caller(space).lower(hold, to) } else { Taken::Busy }
        } else if alone && to.covers(from) && from != to && !values {
            self.caller(space).raise(hold, to)
        } else {
            Taken::Busy
        };
        match taken {
            Taken::Held { hold, knock } => {
                out.knock |= knock;
                out.gave = true;
                // The way down shows no block, and is no new grant.
                let lock = self.locks.get_mut(&handle).expect("it was looked up");
                lock.flags -= Flags::VALBLK;
                self.granted(handle, hold, random, out);
            }
            Taken::Lost(_) => out.lost = true,
            taken => match self.caller(space).ask_convert(as_it_stands(taken, hold), to) {
                Ok(ticket) => {
                    let mut ask = ask.clone();
                    if let Ask::Convert { value, flags, .. } = &mut ask
                        && written
                    {
                        *value = None;
                        *flags -= Flags::IVVALBLK;
                    }
                    self.set(handle, Stage::Asking(ticket));
                    self.send(handle, &ask, Flags::empty(), out);
                }
                Err(_) => out.lost = true,
            },
        }
    }

    /// Withdraws a lock that waits; `whole`: the program wants to be rid of it even if it has been granted.
    fn withdraw(
        &mut self,
        handle: u32,
        ticket: Ticket,
        quiet: bool,
        whole: bool,
        random: &mut Random,
        out: &mut Outcome,
    ) {
        let lock = &self.locks[&handle];
        let (space, number) = (lock.space, self.number(lock));
        match self.caller(space).withdraw(ticket) {
            // The answer was quicker (R9). A packet that says the same says nothing new.
            Some(hold) => {
                let due = self.answers.get_mut(&number).expect("asked for");
                if quiet {
                    due.retain(|due| due.handle != Some(handle));
                } else {
                    due.iter_mut().filter(|due| due.handle == Some(handle)).for_each(|due| due.handle = None);
                }
                match self.wake(space, hold, out) {
                    Woken::Held => {
                        self.granted(handle, hold, random, out);
                        if whole {
                            self.release(handle, hold, out);
                        }
                    }
                    // Never believed, and not wanted any more.
                    Woken::Frozen => {
                        out.told.push((handle, Told::Failed { code: Code::Cancelled }));
                        let mut left = Outcome::default();
                        self.release(handle, hold, &mut left);
                        (out.knock, out.gave) = (out.knock | left.knock, true);
                        out.lost |= left.lost;
                        if whole {
                            out.told.push((handle, Told::Released));
                        }
                    }
                    Woken::Lost => {}
                }
            }
            None if self.is_living() => {
                self.send(handle, &Ask::Cancel, Flags::empty(), out);
                self.set(handle, Stage::Withdrawn { whole });
            }
            None => out.lost = true,
        }
    }

    /// The looks that follow a grant by somebody else.
    fn wake(&self, space: usize, hold: Hold, out: &mut Outcome) -> Woken {
        match self.caller(space).wake(hold) {
            Taken::Held { knock, .. } => {
                out.knock |= knock;
                Woken::Held
            }
            Taken::Frozen { knock, .. } => {
                out.knock |= knock;
                Woken::Frozen
            }
            _ => {
                out.lost = true;
                Woken::Lost
            }
        }
    }

    // ----- answers --------------------------------------------------------------------------------------

    /// The program comes by and looks at its entries.
    pub(crate) fn look(&mut self, random: &mut Random, out: &mut Outcome) {
        if !self.is_living() {
            out.lost = true;
            return;
        }
        let handles: Vec<u32> = self.locks.keys().copied().collect();
        for handle in handles {
            let lock = &self.locks[&handle];
            let (space, stage, number) = (lock.space, lock.stage, self.number(lock));
            match stage {
                Stage::Waiting { ticket, quiet: true } => match self.caller(space).look(ticket) {
                    // What was refused, and why, comes by packet.
                    Answer::Waiting(_) | Answer::Refused => {}
                    Answer::Held(hold) => {
                        let woken = self.wake(space, hold, out);
                        if woken == Woken::Frozen {
                            continue;
                        }
                        let due = self.answers.get_mut(&number).expect("asked for");
                        due.retain(|due| due.handle != Some(handle));
                        if woken == Woken::Held {
                            self.granted(handle, hold, random, out);
                        }
                    }
                    Answer::Lost => out.lost = true,
                },
                Stage::Held(hold) => self.read(handle, hold, out),
                _ => {}
            }
        }
    }

    /// Reads what others want of a lock that is held.
    fn read(&mut self, handle: u32, hold: Hold, out: &mut Outcome) {
        let space = self.locks[&handle].space;
        let bits = self.caller(space).told(hold);
        let lock = self.locks.get_mut(&handle).expect("it was looked up");
        for wanted in Mode::ALL.into_iter().filter(|mode| bits >> *mode as u8 & 1 != 0) {
            if lock.told.is_none_or(|told| !told.covers(wanted)) {
                lock.told = join_option(lock.told, Some(wanted));
                out.told.push((handle, Told::Blocking { wanted }));
            }
        }
    }

    /// Hears a packet about a lock in a segment. False if it is about another.
    pub(crate) fn hear(&mut self, reply: &Reply, out: &mut Outcome) -> bool {
        let (number, released, hint) = match reply {
            Reply::Granted(granted) => (granted.handle, false, false),
            Reply::Failed { handle, .. } => (*handle, false, false),
            Reply::Released { handle } => (*handle, true, false),
            Reply::Blocking { handle, .. } => (*handle, false, true),
            _ => return false,
        };
        if SharedHandle::of(number).is_none() {
            return false;
        }
        if hint {
            let named = |(handle, lock): (&u32, &Lock)| (self.number(lock) == number).then_some(*handle);
            let handles: Vec<u32> = self.locks.iter().filter_map(named).collect();
            for handle in handles {
                if let Stage::Held(hold) = self.locks[&handle].stage {
                    self.read(handle, hold, out);
                }
            }
            return true;
        }
        let due = self.answers.get_mut(&number).expect("an answer is to come");
        let mut next = due.pop_front().expect("an answer is to come");
        // A lock that is given back answers for the change of mode that was under way.
        while released && !next.unlock {
            next = due.pop_front().expect("a release was asked for");
        }
        if let Some(handle) = next.handle {
            self.answer(handle, reply, out);
            if next.unlock {
                let lock = self.locks.remove(&handle).expect("its answer was to come");
                self.caller(lock.space).close(lock.entry);
            }
        }
        true
    }

    fn answer(&mut self, handle: u32, reply: &Reply, out: &mut Outcome) {
        let lock = &self.locks[&handle];
        let (space, entry, stage) = (lock.space, lock.entry, lock.stage);
        match reply {
            Reply::Granted(g) => {
                let (Stage::Waiting { ticket, .. } | Stage::Asking(ticket)) = stage else {
                    // The lock is being given back: its grant changes nothing.
                    assert!(matches!(stage, Stage::Leaving), "granted by packet while {stage:?}");
                    let told = self.told(g);
                    return out.told.push((handle, told));
                };
                match self.caller(space).look(ticket) {
                    Answer::Held(hold) if self.is_living() => {
                        assert_eq!(hold.mode, g.mode, "what the entry says and what the packet says");
                        let told = self.told(g);
                        let lock = self.locks.get_mut(&handle).expect("looked at above");
                        (lock.stage, lock.told, lock.undrawn) = (Stage::Held(hold), None, false);
                        out.told.push((handle, told));
                        self.read(handle, hold, out);
                    }
                    Answer::Waiting(state) => panic!("granted by packet while its entry says {state:?}"),
                    _ => out.lost = true,
                }
            }
            Reply::Failed { why, .. } => {
                let told = Told::Failed { code: why.code };
                match stage {
                    Stage::Asking(ticket) => match self.caller(space).look(ticket) {
                        Answer::Held(hold) => {
                            self.set(handle, Stage::Held(hold));
                            out.told.push((handle, told));
                        }
                        Answer::Waiting(state) => panic!("refused by packet while its entry says {state:?}"),
                        _ => out.lost = true,
                    },
                    Stage::Waiting { .. } | Stage::Withdrawn { .. } => {
                        self.caller(space).close(entry);
                        self.locks.remove(&handle);
                        out.told.push((handle, told));
                        if matches!(stage, Stage::Withdrawn { whole: true }) {
                            out.told.push((handle, Told::Released));
                        }
                    }
                    Stage::Leaving => out.told.push((handle, told)),
                    Stage::Held(_) => panic!("{:?} about a lock that it has", why.code),
                }
            }
            _ => out.told.push((handle, Told::Released)),
        }
    }

    fn told(&self, g: &oarlock_layout::message::session::Granted) -> Told {
        let value = g.value.map(Box::new);
        Told::Granted { mode: g.mode, token: Some(g.token), value, alternate: g.alternate }
    }
}
