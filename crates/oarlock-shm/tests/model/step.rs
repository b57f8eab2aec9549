//! What a program does: `caller.rs`, one access of the segment after the other.
//!
//! Each arm is one access with what its result leads to. The name before it is that of the function it mirrors. Left out:
//! the lease (it is looked at with the epoch, and by a clock), value blocks, tokens, counters, full counts, entries of
//! which there are many, and sleep: who waits goes on when its entry reads otherwise. The load of the own entry before
//! an exchange that fails if it is old is one step with that exchange where to fail leads to nothing else.

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::{Grant, Stage, State};
use oarlock_shm::planted::Bug;

use crate::check;
use crate::spaces::{Op, Slip, Space};
use crate::state::{At, Message, NO_SLOT, NOBODY, Small, Then, World};

/// Goes on to the next operation of a program.
pub fn begin(space: &Space, world: &mut World, number: usize) {
    let caller = &mut world.callers[number];
    let op = space.programs[number].ops.get(caller.op as usize);
    caller.then = Then::Next;
    caller.own = Small::NONE;
    caller.now = Grant(0);
    caller.their = NOBODY;
    caller.theirs = Small::NONE;
    caller.bell = false;
    caller.at = match op {
        None => At::End,
        Some(Op::Lock(..) | Op::Impatient(_) | Op::Try(_)) => At::Find,
        Some(Op::Release) => At::Release,
        Some(Op::ReleaseTold) => At::Told,
        Some(Op::Lower(_)) => At::Lower,
        Some(Op::Raise(_) | Op::Hasty(_)) => At::Raise,
        Some(Op::Unlock) => At::UnlockSend,
    };
}

/// May this program make a step?
pub fn may(space: &Space, world: &World, number: usize) -> bool {
    let session = space.programs[number].session;
    if World::bit(world.dead, session) {
        return false;
    }
    let caller = &world.callers[number];
    let stage = world.stage(session as u8);
    let over = World::bit(world.over, session);
    match caller.at {
        At::End => false,
        At::Look => stage != Stage::Waiting,
        At::LookConvert => !matches!(stage, Stage::Asking | Stage::Lowering),
        At::Hear => over || World::bit(world.answered, session),
        At::Told => {
            let told = world.entries[session].told;
            told != Small::NONE && told.get().generation() == caller.hold.get().generation()
        }
        _ => true,
    }
}

/// May it lose its patience?
pub fn may_withdraw(space: &Space, world: &World, number: usize) -> bool {
    let program = &space.programs[number];
    let caller = &world.callers[number];
    !World::bit(world.dead, program.session)
        && match program.ops.get(caller.op as usize) {
            Some(Op::Impatient(_)) => caller.at == At::Look,
            // It asks once.
            Some(Op::Hasty(_)) => caller.at == At::LookConvert && !caller.bell,
            _ => false,
        }
}

/// Table::desert_lock; of a change of mode the node is asked.
pub fn withdraw(space: &Space, world: &mut World, number: usize) {
    let session = space.programs[number].session;
    let caller = &mut world.callers[number];
    if caller.at == At::Look {
        caller.at = At::Withdraw;
    } else {
        caller.bell = true;
        if space.slip == Some(Slip::CancelByProgram) {
            caller.at = At::AskBack;
        }
        world.post(session, Message::Cancel);
    }
}

pub struct Step<'a> {
    pub space: &'a Space,
    pub world: &'a mut World,
    pub number: usize,
    pub session: usize,
}

/// One step of a program.
pub fn step(space: &Space, world: &mut World, number: usize) {
    let session = space.programs[number].session;
    Step { space, world, number, session }.run();
}

impl Step<'_> {
    pub fn bug(&self, bug: Bug) -> bool {
        self.space.slip == Some(Slip::Rule(bug))
    }

    pub fn go(&mut self, at: At) {
        self.world.callers[self.number].at = at;
    }

    pub fn own(&self) -> State {
        self.world.callers[self.number].own.get()
    }

    pub fn set_own(&mut self, state: State) {
        self.world.callers[self.number].own = state.into();
    }

    pub fn hold(&self) -> State {
        self.world.callers[self.number].hold.get()
    }

    pub fn state(&self) -> State {
        self.world.entries[self.session].state.get()
    }

    pub fn exchange(&mut self, from: State, to: State) -> Result<(), State> {
        let there = &mut self.world.entries[self.session].state;
        if there.get() != from {
            return Err(there.get());
        }
        *there = to.into();
        Ok(())
    }

    pub fn exchange_word(&mut self, from: Grant, to: Grant) -> bool {
        let same = self.world.word == from;
        if same {
            self.world.word = to;
        }
        same
    }

    pub fn now(&self) -> Grant {
        self.world.callers[self.number].now
    }

    pub fn forget_word(&mut self) {
        self.world.callers[self.number].now = Grant(0);
    }

    pub fn living(&self) -> bool {
        !World::bit(self.world.ended, self.session)
    }

    pub fn believe(&mut self, mode: Option<Mode>) {
        self.world.callers[self.number].belief = mode;
    }

    pub fn break_rule(&mut self, rule: u8) {
        if self.world.broken == 0 {
            self.world.broken = rule;
        }
    }

    pub fn next(&mut self) {
        self.world.callers[self.number].op += 1;
        begin(self.space, self.world, self.number);
    }

    /// Nothing more comes of this program.
    pub fn stop(&mut self) {
        let caller = &mut self.world.callers[self.number];
        caller.op = self.space.programs[self.number].ops.len() as u8;
        caller.belief = None;
        caller.hold = Small::NONE;
        caller.placed = false;
        begin(self.space, self.world, self.number);
    }

    /// `Loss`: only if something has ended.
    pub fn lost(&mut self) {
        if self.living() && self.world.epoch == 0 {
            self.break_rule(check::LOST);
        }
        self.stop();
    }

    pub fn then(&mut self, then: Then) {
        match then {
            Then::Next => self.next(),
            Then::Stop => self.stop(),
            Then::Moved => begin(self.space, self.world, self.number),
        }
    }

    pub fn op(&self) -> Op {
        self.space.programs[self.number].ops[self.world.callers[self.number].op as usize]
    }

    pub fn wanted(&self) -> Mode {
        self.op().mode()
    }

    pub fn waits(&self) -> bool {
        !matches!(self.op(), Op::Try(_))
    }

    pub fn free_and(&mut self, from: State, then: Then) {
        self.set_own(from);
        self.forget_word();
        self.world.callers[self.number].then = then;
        self.go(At::Free);
    }

    pub fn wait_from(&mut self, from: State) {
        self.set_own(from);
        self.forget_word();
        self.go(At::Wait);
    }

    /// `released`: what a release is part of.
    pub fn release_and(&mut self, then: Then) {
        self.world.callers[self.number].then = then;
        self.go(At::LastWord);
    }

    pub fn keep_hold(&mut self, state: State, mode: Mode) {
        let caller = &mut self.world.callers[self.number];
        caller.hold = state.into();
        caller.mode = mode;
        caller.own = Small::NONE;
        caller.now = Grant(0);
        caller.placed = false;
    }

    /// A word with one less, and whether there was one.
    pub fn without(&mut self, word: Grant, mode: Mode) -> Grant {
        word.without(mode)
    }

    pub fn uncounted(&mut self, word: Grant, mode: Mode) {
        if word.count(mode) == 0 {
            self.break_rule(check::UNDERFLOW);
        }
    }

    pub fn run(&mut self) {
        match self.world.callers[self.number].at {
            At::End => unreachable!("it has ended"),
            at @ (At::Find
            | At::Claim
            | At::Name
            | At::NameGeneration
            | At::Word
            | At::Users
            | At::SetUsers
            | At::Own
            | At::Generation
            | At::Session
            | At::Gate
            | At::Count
            | At::Commit) => self.acquire(at),
            at @ (At::Epoch | At::Living | At::GenerationAgain | At::WordAgain | At::Ring) => {
                self.committed(at)
            }
            at @ (At::TurnedDown | At::TurnedLiving | At::Free | At::Wait | At::Send) => self.turned(at),
            at @ (At::Look
            | At::WakeEpoch
            | At::WakeLiving
            | At::WakeWord
            | At::Withdraw
            | At::WithdrawExchange
            | At::WithdrawSend
            | At::Hear
            | At::Close
            | At::UnlockSend) => self.waiting(at),
            at @ (At::Told
            | At::LastWord
            | At::Release
            | At::LessWord
            | At::LessOwn
            | At::Hand
            | At::Finished
            | At::FinishedFree
            | At::Less
            | At::LessRing
            | At::Freed) => self.release(at),
            at @ (At::Offered | At::Theirs | At::PassWord | At::PassEntry) => self.pass_on(at),
            at @ (At::Lower
            | At::LowerWord
            | At::LowerOwn
            | At::LowerBack
            | At::LowerExchange
            | At::LowerRing
            | At::LowerHeld
            | At::Lowered) => self.lower(at),
            at => self.raise(at),
        }
    }

    // ----- Caller::acquire, try_claim, ask --------------------------------------------------------------

    pub fn acquire(&mut self, at: At) {
        let mode = self.wanted();
        match at {
            At::Find => {
                // Memory::find; the name is read under the generation and compared.
                let generation = self.world.generation;
                let found = generation & 1 == 1 && self.world.name == self.op().name();
                if !found && !self.waits() {
                    return self.stop();
                }
                self.world.callers[self.number].spot = if found { generation } else { 0 };
                self.go(At::Claim);
            }
            At::Claim => {
                // try_claim
                let free = self.state();
                if free.stage() != Some(Stage::Free) {
                    // NoRoom.
                    return self.stop();
                }
                let trying = free.to(Stage::Trying, Some(mode), None);
                self.exchange(free, trying).expect("it was just looked at");
                self.set_own(trying);
                self.go(At::Name);
            }
            At::Name => {
                let spot = self.world.callers[self.number].spot;
                self.world.entries[self.session].slot = if spot == 0 { NO_SLOT } else { 0 };
                self.go(At::NameGeneration);
            }
            At::NameGeneration => {
                let spot = self.world.callers[self.number].spot;
                self.world.entries[self.session].generation = spot;
                // Caller::ask goes to wait at once.
                self.go(if spot == 0 { At::Wait } else { At::Word });
            }
            At::Word => {
                self.world.callers[self.number].now = self.world.word;
                self.go(At::Users);
            }
            At::Users => {
                let set = World::bit(self.world.users, self.session);
                self.go(if set { At::Own } else { At::SetUsers });
            }
            At::SetUsers => {
                self.world.users |= 1 << self.session;
                self.go(At::Word);
            }
            At::Own => {
                if self.state() != self.own() && !self.bug(Bug::NoCheckAfterLoad) {
                    self.forget_word();
                    return self.go(At::TurnedDown);
                }
                self.go(if self.bug(Bug::NoSlotGeneration) { At::Session } else { At::Generation });
            }
            At::Generation => {
                if self.world.generation != self.world.callers[self.number].spot {
                    return self.free_and(self.own(), Then::Moved);
                }
                self.go(At::Session);
            }
            At::Session => {
                if !self.living() {
                    return self.free_and(self.own(), Then::Stop);
                }
                let now = self.now();
                if now.open_to(mode) && now.covers(mode) {
                    return self.go(At::Count);
                }
                if !self.waits() {
                    return self.free_and(self.own(), Then::Stop);
                }
                let gate = now.gate() || now.shut() || self.bug(Bug::NoGateByFinder);
                if !gate {
                    return self.go(At::Gate);
                }
                self.place(now);
                self.wait_from(self.own());
            }
            At::Gate => {
                let now = self.now();
                if !self.exchange_word(now, now.with_gate(true)) {
                    return self.go(At::Word);
                }
                self.place(now);
                self.wait_from(self.own());
            }
            At::Count => {
                let now = self.now();
                let then = now.with(mode).expect("there is room");
                if !self.exchange_word(now, then) {
                    return self.go(At::Word);
                }
                let overtaken = |n: usize| {
                    let session = self.space.programs[n].session;
                    n != self.number
                        && self.world.callers[n].placed
                        && !World::bit(self.world.dead | self.world.over, session)
                };
                if (0..self.space.programs.len()).any(overtaken) {
                    self.break_rule(check::OVERTAKEN);
                }
                self.forget_word();
                self.go(At::Commit);
            }
            At::Commit => {
                let trying = self.own();
                let held = trying.to(Stage::Held, Some(mode), None);
                if self.bug(Bug::CommitByStore) {
                    self.world.entries[self.session].state = held.into();
                } else if self.exchange(trying, held).is_err() {
                    return self.go(At::TurnedDown);
                }
                self.keep_hold(held, mode);
                self.go(At::Epoch);
            }
            _ => unreachable!("not of an acquire"),
        }
    }

    /// Its place counts from here, unless the word that it judged is not the word any more.
    pub fn place(&mut self, now: Grant) {
        let fair = self.space.fair && self.world.word.turn() == now.turn();
        self.world.callers[self.number].placed =
            fair && (self.world.word.gate() || self.bug(Bug::NoGateByFinder));
    }

    /// Caller::committed.
    pub fn committed(&mut self, at: At) {
        match at {
            At::Epoch => {
                if self.world.epoch != 0 {
                    return self.release_and(Then::Stop);
                }
                self.go(At::Living);
            }
            At::Living => {
                if !self.living() {
                    return self.release_and(Then::Stop);
                }
                if self.bug(Bug::NoSlotGeneration) {
                    return self.commit();
                }
                self.go(At::GenerationAgain);
            }
            At::GenerationAgain => {
                if self.world.generation != self.world.callers[self.number].spot {
                    return self.release_and(Then::Moved);
                }
                self.commit();
            }
            At::WordAgain => {
                if self.world.word.gate() {
                    return self.go(At::Ring);
                }
                self.next();
            }
            At::Ring => {
                self.world.bell = true;
                self.next();
            }
            _ => unreachable!("not of a commit"),
        }
    }

    pub fn commit(&mut self) {
        let mode = self.world.callers[self.number].mode;
        self.believe(Some(mode));
        if self.bug(Bug::NoGateReread) { self.next() } else { self.go(At::WordAgain) }
    }

    /// Caller::turned_down, free, wait; Wish sends the request.
    pub fn turned(&mut self, at: At) {
        match at {
            At::TurnedDown => {
                let (now, trying) = (self.state(), self.own());
                if now.stage() != Some(Stage::Revoked) || now.generation() != trying.next_generation() {
                    return self.lost();
                }
                self.set_own(now);
                if self.space.slip == Some(Slip::WaitUnlooked) && self.waits() {
                    return self.wait_from(now);
                }
                self.go(At::TurnedLiving);
            }
            At::TurnedLiving => {
                let revoked = self.own();
                if !self.living() {
                    return self.free_and(revoked, Then::Stop);
                }
                if self.waits() { self.wait_from(revoked) } else { self.free_and(revoked, Then::Stop) }
            }
            At::Free => {
                let from = self.own();
                if let Err(now) = self.exchange(from, from.freed())
                    && now.stage() == Some(Stage::Revoked)
                    && from.stage() != Some(Stage::Revoked)
                {
                    return self.set_own(now);
                }
                let then = self.world.callers[self.number].then;
                self.then(then);
            }
            At::Wait => {
                let from = self.own();
                let waiting = from.to(Stage::Waiting, Some(self.wanted()), None);
                match self.exchange(from, waiting) {
                    Ok(()) => {
                        // The ticket: only its stage matters from here on.
                        self.set_own(State(0));
                        self.go(At::Send);
                    }
                    Err(now)
                        if now.stage() == Some(Stage::Revoked) && from.stage() == Some(Stage::Trying) =>
                    {
                        self.set_own(now)
                    }
                    Err(_) => self.lost(),
                }
            }
            At::Send => {
                let (mode, name) = (self.wanted(), self.op().name());
                self.world.post(self.session, Message::Lock(mode, name));
                self.go(At::Look);
            }
            _ => unreachable!("not of one turned down"),
        }
    }

    // ----- Caller::look, wake, withdraw, close ----------------------------------------------------------

    pub fn waiting(&mut self, at: At) {
        match at {
            At::Look => {
                let now = self.state();
                match now.stage() {
                    Some(Stage::Held) => {
                        self.keep_hold(now, now.mode().expect("a mode is held"));
                        self.world.callers[self.number].spot = self.world.entries[self.session].generation;
                        self.go(At::WakeEpoch);
                    }
                    // Why comes by message.
                    Some(Stage::Refused) => self.go(At::Hear),
                    _ => self.lost(),
                }
            }
            At::WakeEpoch => {
                if self.world.epoch != 0 {
                    return self.lost();
                }
                self.go(At::WakeLiving);
            }
            At::WakeLiving => {
                if !self.living() {
                    return self.lost();
                }
                let mode = self.world.callers[self.number].mode;
                self.believe(Some(mode));
                self.go(At::WakeWord);
            }
            At::WakeWord => {
                if self.world.word.gate() {
                    return self.go(At::Ring);
                }
                self.next();
            }
            At::Withdraw => {
                let now = self.state();
                match now.stage() {
                    Some(Stage::Waiting) => {
                        self.set_own(now);
                        self.go(At::WithdrawExchange);
                    }
                    Some(Stage::Held) => {
                        self.keep_hold(now, now.mode().expect("a mode is held"));
                        self.release_and(Then::Stop);
                    }
                    _ => self.go(At::WithdrawSend),
                }
            }
            At::WithdrawExchange => {
                let now = self.own();
                let to = now.to(Stage::Cancelled, now.mode(), None);
                self.set_own(State(0));
                match self.exchange(now, to) {
                    Ok(()) => {
                        self.world.callers[self.number].placed = false;
                        self.go(At::WithdrawSend)
                    }
                    Err(_) => self.go(At::Withdraw),
                }
            }
            At::WithdrawSend => {
                self.world.post(self.session, Message::Cancel);
                self.go(At::Hear);
            }
            At::Hear => {
                if World::bit(self.world.over, self.session) {
                    return self.stop();
                }
                self.world.answered &= !(1 << self.session);
                self.go(At::Close);
            }
            At::Close => {
                // The load, and an exchange from it: the node leaves such an entry alone while its session lives.
                let now = self.state();
                if matches!(now.stage(), Some(Stage::Refused | Stage::Cancelled)) {
                    self.exchange(now, now.freed()).expect("it was just looked at");
                }
                self.stop();
            }
            At::UnlockSend => {
                // Held::unlock_by_message; it is held until the node has taken it, but nobody acts under it any more.
                self.believe(None);
                self.world.callers[self.number].hold = Small::NONE;
                self.world.post(self.session, Message::Unlock);
                self.go(At::Hear);
            }
            _ => unreachable!("not of one that waits"),
        }
    }

    // ----- Caller::release ------------------------------------------------------------------------------

    pub fn release(&mut self, at: At) {
        match at {
            At::Told | At::LastWord => {
                self.world.callers[self.number].now = self.world.word;
                self.go(At::Release);
            }
            At::Release => {
                self.believe(None);
                let hold = self.hold();
                let mode = self.world.callers[self.number].mode;
                let lowering = hold.to(Stage::Lowering, Some(mode), None);
                self.world.callers[self.number].hold = Small::NONE;
                if self.exchange(hold, lowering).is_err() {
                    // release_kept: nothing is kept in the node's own table here.
                    self.forget_word();
                    return self.lost();
                }
                self.world.callers[self.number].less = mode;
                self.set_own(lowering);
                self.less_or_hand();
            }
            At::LessWord => {
                self.world.callers[self.number].now = self.world.word;
                self.go(At::LessOwn);
            }
            At::LessOwn => {
                if self.state() != self.own() {
                    self.forget_word();
                    return self.go(At::Finished);
                }
                self.less_or_hand();
            }
            At::Hand => {
                // hand_to_the_node
                let lowering = self.own();
                let handed = lowering.to(Stage::Handed, lowering.mode(), None);
                if self.exchange(lowering, handed).is_err() {
                    return self.go(At::Finished);
                }
                // Nobody else lets it go before the node has been told.
                self.set_own(State(0));
                self.go(At::LessRing);
            }
            At::Finished => {
                let now = self.state();
                if now.stage() == Some(Stage::Finished) {
                    self.set_own(now);
                    return self.go(At::FinishedFree);
                }
                self.released();
            }
            At::FinishedFree => {
                let now = self.own();
                let _ = self.exchange(now, now.freed());
                self.released();
            }
            At::Less => {
                let (now, mode) = (self.now(), self.world.callers[self.number].less);
                let less = self.without(now, mode);
                if !self.exchange_word(now, less) {
                    return self.go(At::LessWord);
                }
                self.uncounted(now, mode);
                self.considered(now, less, At::LessRing, At::Freed);
            }
            At::LessRing => {
                self.world.bell = true;
                if self.own() == State(0) {
                    return self.released();
                }
                self.go(At::Freed);
            }
            At::Freed => {
                self.world.entries[self.session].state = self.own().freed().into();
                self.released();
            }
            _ => unreachable!("not of a release"),
        }
    }

    fn less_or_hand(&mut self) {
        let now = self.now();
        if now.shut() && !self.bug(Bug::NoShut) {
            self.forget_word();
            return self.go(At::Hand);
        }
        self.go(if now.gate() { At::Offered } else { At::Less });
    }

    pub fn released(&mut self) {
        let then = self.world.callers[self.number].then;
        self.then(then);
    }

    /// Caller::considered. The policy is to keep, so only the gate rings.
    pub fn considered(&mut self, before: Grant, _after: Grant, ring: At, on: At) {
        self.forget_word();
        self.go(if before.gate() { ring } else { on });
    }

    /// Caller::pass_on.
    pub fn pass_on(&mut self, at: At) {
        match at {
            At::Offered => {
                let caller = &mut self.world.callers[self.number];
                caller.their = self.world.offer;
                if caller.their == NOBODY {
                    return self.go(At::Less);
                }
                // What the offer says of the state.
                caller.theirs = self.world.offer_state;
                self.go(At::Theirs);
            }
            At::Theirs => {
                let caller = self.world.callers[self.number];
                let waiting = self.world.entries[caller.their as usize].state;
                let named = waiting == caller.theirs && waiting.get().stage() == Some(Stage::Waiting);
                let less = self.without(self.now(), caller.less);
                let fits =
                    waiting.get().mode().is_some_and(|mode| self.now().covers(mode) && less.admits(mode));
                if !named || !fits {
                    self.forget_waiter();
                    return self.go(At::Less);
                }
                self.go(At::PassWord);
            }
            At::PassWord => {
                let caller = self.world.callers[self.number];
                let (now, mode) = (self.now(), caller.theirs.get().mode().expect("it waits for a mode"));
                let then = self.without(now, caller.less).with(mode).expect("there is room");
                if !self.exchange_word(now, then) {
                    self.forget_waiter();
                    return self.go(At::LessWord);
                }
                self.uncounted(now, caller.less);
                self.go(At::PassEntry);
            }
            At::PassEntry => {
                let caller = self.world.callers[self.number];
                let waiting = caller.theirs.get();
                let mode = waiting.mode().expect("it waits for a mode");
                let there = &mut self.world.entries[caller.their as usize].state;
                if there.get() != waiting {
                    self.world.callers[self.number].less = mode;
                    self.forget_waiter();
                    self.forget_word();
                    return self.go(At::LessWord);
                }
                *there = waiting.to(Stage::Held, Some(mode), None).into();
                self.forget_waiter();
                let before = self.now();
                self.considered(before, before, At::LessRing, At::Freed);
            }
            _ => unreachable!("not of a hand-over"),
        }
    }

    pub fn forget_waiter(&mut self) {
        let caller = &mut self.world.callers[self.number];
        caller.their = NOBODY;
        caller.theirs = Small::NONE;
    }
}
