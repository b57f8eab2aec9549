//! All that a step can see or change, as small as it goes, and as much alike as it can be made.

use std::hash::{Hash, Hasher};

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::{Grant, Stage, State};

use crate::spaces::Space;

/// Most processes, each with one session, one area and one entry.
pub const MAX: usize = 4;
/// What the node has still to do, at most.
pub const TODO: usize = 16;
/// No process.
pub const NOBODY: u8 = u8::MAX;
/// The slot of an entry that was asked for without one.
pub const NO_SLOT: u8 = 1;

/// A state word whose generation is small. All zero: none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Small(u16);

impl From<State> for Small {
    fn from(state: State) -> Small {
        Small(u16::try_from(state.0).expect("generations are kept small"))
    }
}

impl Small {
    /// Nothing kept.
    pub const NONE: Small = Small(0);

    pub fn get(self) -> State {
        State(self.0.into())
    }

    fn generation(self) -> u16 {
        self.0 >> 10
    }

    fn moved(self, generation: u16) -> Small {
        Small(self.0 & 0x3ff | generation << 10)
    }
}

/// An entry of the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub state: Small,
    /// Which slot it names: the one there is (0), or none.
    pub slot: u8,
    pub generation: u8,
    /// The state in which it was told that it blocks somebody.
    pub told: Small,
}

/// Where a program stands: always before the access that is named.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum At {
    /// Nothing left to do.
    End,
    // acquire
    Find,
    Claim,
    Name,
    NameGeneration,
    Word,
    Users,
    SetUsers,
    Own,
    Generation,
    Session,
    Gate,
    Count,
    Commit,
    // committed
    Epoch,
    Living,
    GenerationAgain,
    WordAgain,
    Ring,
    // turned_down, free, wait
    TurnedDown,
    TurnedLiving,
    Free,
    Wait,
    Send,
    // what waits
    Look,
    WakeEpoch,
    WakeLiving,
    WakeWord,
    // withdraw, close
    Withdraw,
    WithdrawExchange,
    WithdrawSend,
    Hear,
    Close,
    // release
    Told,
    LastWord,
    Release,
    LessWord,
    LessOwn,
    Hand,
    Finished,
    FinishedFree,
    Offered,
    Theirs,
    PassWord,
    PassEntry,
    Less,
    LessRing,
    Freed,
    // lower
    Lower,
    LowerWord,
    LowerOwn,
    LowerBack,
    LowerExchange,
    LowerRing,
    LowerHeld,
    Lowered,
    // raise
    Raise,
    RaiseWord,
    RaiseOwn,
    RaiseBack,
    RaiseExchange,
    RaiseHeld,
    RaisedEpoch,
    RaisedLiving,
    RaisedWord,
    Raised,
    // ask_convert, and the answer
    Ask,
    AskSend,
    AskBack,
    LookConvert,
    // an unlock that the node is asked for
    UnlockSend,
}

/// What a helper's end leads to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Then {
    /// The next of its operations.
    Next,
    /// The name is looked up again.
    Moved,
    /// Nothing more: the rest of the program had a lock to work with.
    Stop,
}

/// A program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub at: At,
    pub op: u8,
    pub then: Then,
    /// The generation of the slot as it was found; 0 if it was not.
    pub spot: u8,
    /// The waiter to whom it hands over.
    pub their: u8,
    /// What is taken from the word: the own mode, or that of a waiter who has gone.
    pub less: Mode,
    /// What it believes to hold.
    pub belief: Option<Mode>,
    /// What it holds, if it does.
    pub mode: Mode,
    /// A bell is due.
    pub bell: bool,
    /// It found a conflict, and the gate has been set since (only watched).
    pub placed: bool,
    /// The state of the entry while it is held, and while something is under way.
    pub hold: Small,
    pub own: Small,
    pub theirs: Small,
    /// The word as it was loaded; 0 if that does not matter any more.
    pub now: Grant,
}

/// Changes that the node makes to a word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Change {
    SetGate,
    ClearGate,
    Lower,
    /// What the node knows is put back, nothing else.
    Own,
    Admit,
    Less,
    Up,
    Down,
    Back,
    Shut,
    Unused,
    Evict,
}

/// What the node is about to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Do {
    Nothing,
    // hub/mod.rs: update
    Load,
    Exchange,
    // hub/locks.rs: admit_entry, convert_entry, drop_lock, finish_handed, notify
    AdmitLoad,
    AdmitUsers,
    AdmitName,
    AdmitGeneration,
    AdmitCounted,
    AdmitExchange,
    AdmitFailed,
    ForgetOffer,
    Convert,
    ConvertDown,
    ConvertLowered,
    ConvertCounted,
    ConvertExchange,
    ConvertFailed,
    Drop,
    DropExchange,
    DropFree,
    Handed,
    HandedPass,
    HandedNext,
    HandedFree,
    Notify,
    NotifyUsers,
    NotifyPass,
    NotifyMark,
    // offer_to, was_taken, refuse_lock
    Offer,
    OfferLoad,
    OfferRecall,
    OfferTaken,
    OfferName,
    OfferGeneration,
    OfferUsers,
    OfferStore,
    Taken,
    TakeUp,
    Refuse,
    RefuseExchange,
    RefuseTaken,
    // hub/recount.rs
    End,
    EndLoad,
    EndSlot,
    EndExchange,
    EndOffer,
    Recount,
    RecountUsers,
    RecountPass,
    RecountSlot,
    RecountGeneration,
    RecountExchange,
    RecountOffer,
    Publish,
    PublishStore,
    AdoptGeneration,
    AdoptWord,
    AdoptAreas,
    Restate,
    // hub/mod.rs and words.rs: lower, used, evict_slot, bind_slot
    LowerStale,
    SweepLook,
    UsedLoad,
    UsedShut,
    UsedStore,
    EvictGate,
    EvictLook,
    EvictShut,
    EvictGeneration,
    BindUsers,
    BindOffered,
    BindWord,
    BindGeneration,
    Owned,
    // the room
    Ask,
    Asked,
    Attempt,
    Settle,
    Scan,
    Scanned,
    GiveWay,
    GateEnd,
    Withdraw,
    Withdrawn,
    Ended,
    // the end of the run
    Scatter,
    ScatterPass,
}

/// One thing to do. What its fields mean is said where it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    pub what: Do,
    pub entry: u8,
    pub a: Option<Mode>,
    pub b: Option<Mode>,
    pub change: Change,
    /// Entries still to be looked at.
    pub mask: u8,
    pub note: u8,
    pub state: Small,
}

impl Task {
    pub const fn new(what: Do) -> Task {
        Task {
            what,
            entry: NOBODY,
            a: None,
            b: None,
            change: Change::Own,
            mask: 0,
            note: 0,
            state: Small::NONE,
        }
    }

    pub const fn of(what: Do, entry: u8) -> Task {
        Task { entry, ..Task::new(what) }
    }
}

/// The node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// The last is done first.
    pub todo: [Task; TODO],
    pub left: u8,
    /// What the last helper said.
    pub said: bool,
    /// The word that the update under way has seen.
    pub there: Grant,
    /// What a recount has counted.
    pub counts: [u8; 6],
    // `Place`
    pub bound: bool,
    pub turn: u16,
    pub owned: Option<Mode>,
    pub gate: bool,
    pub told: u8,
    pub offered: u8,
    pub offered_state: Small,
    /// The hub has something to say about the slot.
    pub rung: bool,
    // the room
    /// Who waits, in order.
    pub queue: [u8; MAX],
    pub queued: u8,
    /// What each waits for, and from which mode.
    pub wants: [Option<Mode>; MAX],
    pub from: [Option<Mode>; MAX],
    pub head: Option<Mode>,
    /// What another node has.
    pub remote: Option<Mode>,
    /// Answers that go out when this is done.
    pub answers: u8,
    /// Entries that the end of the run has looked at, and those that claimed something.
    pub seen: u8,
    pub claiming: u8,
}

/// What a program may tell the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Message {
    None,
    Lock(Mode, u8),
    Convert(Mode),
    Cancel,
    Unlock,
}

/// The whole world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct World {
    // the segment
    pub word: Grant,
    pub generation: u8,
    /// Which name the slot bears.
    pub name: u8,
    pub users: u8,
    pub offer: u8,
    pub offer_state: Small,
    pub bell: bool,
    pub epoch: u8,
    /// Session words that were turned, a bit each.
    pub ended: u8,
    pub entries: [Entry; MAX],
    // programs
    pub callers: [Caller; MAX],
    /// Sessions whose program died, and those whose end the node has begun with.
    pub dead: u8,
    pub over: u8,
    pub inbox: [[Message; 3]; MAX],
    pub answered: u8,
    pub node: Node,
    // what may still happen
    pub deaths: u8,
    pub cuts: u8,
    pub heads: u8,
    pub sweeps: u8,
    pub epochs: u8,
    pub takeovers: u8,
    /// A step did what must not be done: which one, as `check` says.
    pub broken: u8,
}

impl World {
    pub fn bit(of: u8, number: usize) -> bool {
        of >> number & 1 != 0
    }

    /// Puts every generation and turn as low as its order allows, and alike processes in one order. Only whether two of
    /// them are the same, or one follows the other, ever matters.
    pub fn settle(&mut self, space: &Space) {
        for entry in 0..space.sessions() {
            let mut there = [0u16; 24];
            let mut count = 0;
            self.each_state(space, entry as u8, &mut |state| {
                let generation = state.generation();
                if !there[..count].contains(&generation) {
                    there[count] = generation;
                    count += 1;
                }
            });
            let there = &mut there[..count];
            there.sort_unstable();
            let mut to = [0u16; 24];
            for n in 1..count {
                to[n] = to[n - 1] + (there[n] - there[n - 1]).min(2);
            }
            let there = &*there;
            if there.iter().enumerate().any(|(n, generation)| to[n] != *generation) {
                self.each_state(space, entry as u8, &mut |state| {
                    let n = there.iter().position(|g| *g == state.generation()).expect("it was listed");
                    *state = state.moved(to[n]);
                });
            }
        }
        self.lower_turns();
        if space.alike {
            self.sort(space);
        }
    }

    /// Every state word of an entry that is kept anywhere.
    fn each_state(&mut self, space: &Space, entry: u8, see: &mut dyn FnMut(&mut Small)) {
        let own = &mut self.entries[entry as usize];
        see(&mut own.state);
        let mut see = |state: &mut Small| {
            if *state != Small::NONE {
                see(state);
            }
        };
        see(&mut own.told);
        for (number, caller) in self.callers.iter_mut().enumerate().take(space.programs.len()) {
            if space.programs[number].session == entry as usize {
                see(&mut caller.hold);
                see(&mut caller.own);
            }
            if caller.their == entry {
                see(&mut caller.theirs);
            }
        }
        if self.offer == entry {
            see(&mut self.offer_state);
        }
        if self.node.offered == entry {
            see(&mut self.node.offered_state);
        }
        let left = self.node.left as usize;
        for task in self.node.todo[..left].iter_mut().filter(|task| task.entry == entry) {
            see(&mut task.state);
        }
    }

    fn lower_turns(&mut self) {
        let mut there = [0u16; MAX + 3];
        let mut count = 0;
        let mut note = |turn: u16| {
            if !there[..count].contains(&turn) {
                there[count] = turn;
                count += 1;
            }
        };
        note(self.word.turn());
        note(self.node.turn);
        let words = self.callers.iter().map(|caller| caller.now).chain([self.node.there]);
        words.filter(|word| word.0 != 0).for_each(|word| note(word.turn()));
        let there = &mut there[..count];
        there.sort_unstable();
        if there[count - 1] as usize == count - 1 {
            return;
        }
        let of = |turn: u16| there.iter().position(|t| *t == turn).expect("it was listed") as u16;
        let moved = |word: &mut Grant| {
            if word.0 != 0 {
                let shut = word.shut();
                let next = word.shut_for(of(word.turn()));
                *word = if shut { next } else { next.reopened() };
            }
        };
        moved(&mut self.word);
        self.node.turn = of(self.node.turn);
        self.callers.iter_mut().for_each(|caller| moved(&mut caller.now));
        moved(&mut self.node.there);
    }

    fn key(&self, n: usize) -> u128 {
        let mut hash = Mix::default();
        (self.entries[n], self.callers[n], self.inbox[n]).hash(&mut hash);
        (self.node.wants[n], self.node.from[n]).hash(&mut hash);
        let bits = [self.dead, self.over, self.ended, self.answered, self.users];
        bits.map(|bits| bits >> n & 1).hash(&mut hash);
        (self.offer == n as u8, self.node.offered == n as u8).hash(&mut hash);
        let queue = &self.node.queue[..self.node.queued as usize];
        queue.iter().position(|e| *e == n as u8).hash(&mut hash);
        hash.sum()
    }

    /// Sorts processes that run the same program. What runs over entries in turn takes them in any order, so that who is
    /// called what does not matter.
    fn sort(&mut self, space: &Space) {
        let sessions = space.sessions();
        let mut order: [usize; MAX] = [0, 1, 2, 3];
        let keys: [u128; MAX] = std::array::from_fn(|n| if n < sessions { self.key(n) } else { 0 });
        // Only those of one program trade places.
        for at in 1..sessions {
            let mut here = at;
            while here > 0
                && space.same(order[here - 1], order[here])
                && keys[order[here - 1]] > keys[order[here]]
            {
                order.swap(here - 1, here);
                here -= 1;
            }
        }
        if order == [0, 1, 2, 3] {
            return;
        }
        let mut place = [0u8; MAX];
        for (new, old) in order.into_iter().enumerate() {
            place[old] = new as u8;
        }
        let moved = |entry: &mut u8| {
            if (*entry as usize) < MAX {
                *entry = place[*entry as usize];
            }
        };
        let bits = |bits: &mut u8| {
            *bits = (0..MAX).filter(|n| *bits >> n & 1 != 0).fold(0, |all, n| all | 1 << place[n]);
        };
        self.entries = order.map(|old| self.entries[old]);
        self.callers = order.map(|old| self.callers[old]);
        self.inbox = order.map(|old| self.inbox[old]);
        self.node.wants = order.map(|old| self.node.wants[old]);
        self.node.from = order.map(|old| self.node.from[old]);
        self.callers.iter_mut().for_each(|caller| moved(&mut caller.their));
        moved(&mut self.offer);
        moved(&mut self.node.offered);
        self.node.queue.iter_mut().for_each(moved);
        for task in &mut self.node.todo[..self.node.left as usize] {
            moved(&mut task.entry);
            bits(&mut task.mask);
        }
        let node = &mut self.node;
        for all in [&mut self.users, &mut self.ended, &mut self.dead, &mut self.over, &mut self.answered] {
            bits(all);
        }
        for all in [&mut node.answers, &mut node.seen, &mut node.claiming] {
            bits(all);
        }
    }

    /// 128 bits that stand for this world.
    pub fn fingerprint(&self, space: &Space) -> u128 {
        let mut hash = Mix::default();
        (self.word, self.generation, self.name, self.users, self.offer, self.offer_state).hash(&mut hash);
        (self.bell, self.epoch, self.ended, self.dead, self.over, self.answered).hash(&mut hash);
        (self.deaths, self.cuts, self.heads, self.sweeps, self.epochs, self.takeovers, self.broken)
            .hash(&mut hash);
        for n in 0..space.programs.len() {
            (self.entries[n], self.callers[n], self.inbox[n]).hash(&mut hash);
            (self.node.wants[n], self.node.from[n]).hash(&mut hash);
        }
        let node = &self.node;
        node.todo[..node.left as usize].hash(&mut hash);
        node.queue[..node.queued as usize].hash(&mut hash);
        (node.said, node.there, node.counts, node.bound, node.turn, node.owned, node.gate).hash(&mut hash);
        (node.told, node.offered, node.offered_state, node.rung, node.head, node.remote).hash(&mut hash);
        (node.answers, node.seen, node.claiming).hash(&mut hash);
        hash.sum()
    }

    /// Nothing has happened yet.
    pub fn first(space: &Space) -> World {
        let entry = Entry { state: State::free(0).into(), slot: 0, generation: 0, told: Small::NONE };
        let caller = Caller {
            at: At::End,
            op: 0,
            then: Then::Next,
            spot: 0,
            their: NOBODY,
            less: Mode::NL,
            belief: None,
            mode: Mode::NL,
            bell: false,
            placed: false,
            hold: Small::NONE,
            own: Small::NONE,
            theirs: Small::NONE,
            now: Grant(0),
        };
        let bound = Grant::bound(0);
        let word = if space.unbound { bound } else { bound.with_owned(Some(Mode::EX)).with_gate(false) };
        let node = Node {
            todo: [Task::new(Do::Nothing); TODO],
            left: 0,
            said: false,
            there: Grant(0),
            counts: [0; 6],
            bound: !space.unbound,
            turn: 0,
            owned: word.owned(),
            gate: word.gate(),
            told: 0,
            offered: NOBODY,
            offered_state: Small::NONE,
            rung: false,
            queue: [NOBODY; MAX],
            queued: 0,
            wants: [None; MAX],
            from: [None; MAX],
            head: None,
            remote: None,
            answers: 0,
            seen: 0,
            claiming: 0,
        };
        let mut world = World {
            word,
            generation: u8::from(!space.unbound),
            name: 0,
            users: 0,
            offer: NOBODY,
            offer_state: Small::NONE,
            bell: false,
            epoch: 0,
            ended: 0,
            entries: [entry; MAX],
            callers: [caller; MAX],
            dead: 0,
            over: 0,
            inbox: [[Message::None; 3]; MAX],
            answered: 0,
            node,
            deaths: space.deaths,
            cuts: space.cuts,
            heads: space.heads.is_some().into(),
            sweeps: space.sweeps,
            epochs: space.epochs,
            takeovers: space.takeovers,
            broken: 0,
        };
        for number in 0..space.programs.len() {
            crate::step::begin(space, &mut world, number);
        }
        world
    }

    pub fn stage(&self, entry: u8) -> Stage {
        self.entries[entry as usize].state.get().stage().expect("only stages that exist are written")
    }

    pub fn post(&mut self, session: usize, message: Message) {
        if World::bit(self.over, session) {
            return;
        }
        let place = self.inbox[session].iter().position(|m| *m == Message::None);
        self.inbox[session][place.expect("a program waits for its answers")] = message;
    }
}

fn number(mode: Option<Mode>) -> u64 {
    mode.map_or(7, |mode| mode as u64)
}

/// Bytes side by side: a hash of few cells is quicker than one of many fields.
fn bytes(bytes: [u64; 8]) -> u64 {
    bytes.into_iter().fold(0, |cell, byte| cell << 8 | byte)
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, hash: &mut H) {
        let (state, told) = (u64::from(self.state.0), u64::from(self.told.0));
        hash.write_u64(state << 32 | told << 16 | u64::from(self.slot) << 8 | u64::from(self.generation));
    }
}

impl Hash for Caller {
    fn hash<H: Hasher>(&self, hash: &mut H) {
        hash.write_u64(self.now.0);
        let flags = u64::from(self.bell) << 1 | u64::from(self.placed);
        let modes = (self.less as u64) << 3 | self.mode as u64;
        hash.write_u64(bytes([
            self.at as u64,
            self.op.into(),
            self.then as u64,
            self.spot.into(),
            self.their.into(),
            number(self.belief),
            modes,
            flags,
        ]));
        let (hold, own, theirs) = (u64::from(self.hold.0), u64::from(self.own.0), u64::from(self.theirs.0));
        hash.write_u64(theirs << 32 | own << 16 | hold);
    }
}

impl Hash for Task {
    fn hash<H: Hasher>(&self, hash: &mut H) {
        let modes = number(self.a) << 3 | number(self.b);
        hash.write_u64(bytes([
            self.what as u64,
            self.entry.into(),
            modes,
            self.change as u64,
            self.mask.into(),
            self.note.into(),
            u64::from(self.state.0) >> 8,
            u64::from(self.state.0) & 0xff,
        ]));
    }
}

/// Two lanes of multiply and fold: fast, and not kept anywhere.
pub struct Mix(u64, u64);

impl Default for Mix {
    fn default() -> Mix {
        Mix(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344)
    }
}

impl Mix {
    pub fn sum(&self) -> u128 {
        let one = fold(self.0 ^ self.1.rotate_left(32), 0x9e37_79b9_7f4a_7c15);
        let two = fold(self.1 ^ one, 0xd6e8_feb8_6659_fd93);
        u128::from(one) << 64 | u128::from(two)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.sum() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut cell = [0; 8];
            cell[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(cell));
        }
    }

    #[inline]
    fn write_u64(&mut self, bits: u64) {
        self.0 = fold(self.0.wrapping_add(bits), 0xa076_1d64_78bd_642f).wrapping_add(self.0.rotate_left(17));
        self.1 = fold(self.1 ^ bits, 0xe703_7ed1_a0b4_28db).wrapping_add(self.1.rotate_left(29) ^ 1);
    }

    #[inline]
    fn write_u8(&mut self, bits: u8) {
        self.write_u64(bits.into());
    }

    #[inline]
    fn write_u16(&mut self, bits: u16) {
        self.write_u64(bits.into());
    }

    #[inline]
    fn write_usize(&mut self, bits: usize) {
        self.write_u64(bits as u64);
    }
}
