//! A simulated program: takes locks, converts, cancels, writes values, and gives everything back.
//!
//! It never waits for two things in an order that could make a deadlock it cannot get out of: all it waits
//! for has a patience, after which it cancels.

use std::collections::VecDeque;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{OwnerId, SpaceId, TransactionId};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::session::{ConvertRequest, LockRequest, Reply, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;

use crate::coverage::Stage;
use crate::history::{Ask, Block, Client, Told};
use crate::queue::Time;
use crate::random::Random;
use crate::report::Load;
use crate::share::Share;
use crate::socket::Socket;
use crate::swarm::{MS, Mix, S};

/// What all programs are at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// They work.
    Load,
    /// They take nothing new and give back what blocks somebody, once they are told.
    Polite,
    /// They give everything back.
    Drain,
}

/// What a process may look at while it decides.
pub(crate) struct Context<'a> {
    pub now: Time,
    pub phase: Phase,
    pub mix: &'a Mix,
    pub names: &'a [Name],
    pub random: &'a mut Random,
    pub load: &'a mut Load,
    /// What it asks, in order.
    pub asks: Vec<(u32, Ask)>,
}

/// A lock of a process.
#[derive(Debug)]
struct Slot {
    handle: u32,
    /// Its rank among the resources: waiting in this order cannot make a circle.
    rank: u64,
    held: Option<Mode>,
    pending: bool,
    unlocking: bool,
    cancelled: bool,
    /// It was told that it blocks somebody, since its last grant.
    told: bool,
    values: bool,
    /// It waits against the order of ranks. Until it does no more the program does nothing else.
    daring: bool,
    /// When to do the next thing about it.
    due: Time,
}

/// A program.
#[derive(Debug)]
pub(crate) struct Process {
    pub node: u16,
    /// Its number in the history; a new one after each death.
    pub client: Client,
    pub alive: bool,
    /// Which start of its node its session is of, and which run that was.
    pub life: u64,
    pub run: u64,
    /// It has heard that its session is over, and ends what it does under its locks.
    pub parting: bool,
    /// An anchor keeps NL on some resources, so that their value blocks live on.
    pub anchor: bool,
    slots: Vec<Slot>,
    next_handle: u32,
    next_lock: Time,
    slots_max: usize,
    writes: u64,
    pub socket: Socket,
    /// Its places in the segments of its node.
    pub share: Share,
    /// It stands still until then.
    pub frozen_until: Time,
    /// What came while it did.
    pub unread: VecDeque<Vec<u8>>,
    /// The earliest thought, and look at its entries, that is already in the queue.
    pub thinks_at: Time,
    pub looks_at: Time,
}

/// Resources on which anchors keep a lock.
const ANCHORED: u64 = 6;
/// Mean time between two locks of a process.
const LOCK_GAP: Time = 60 * MS;
/// Locks that all processes together ask for in a second: the standard load, and a little more, since the last
/// seconds of a run ask for none.
const PACE: u64 = 600;

impl Process {
    pub(crate) fn new(node: u16, anchor: bool) -> Process {
        Process {
            node,
            client: 0,
            alive: false,
            life: 0,
            run: 0,
            parting: false,
            anchor,
            slots: Vec::new(),
            next_handle: 0,
            next_lock: 0,
            slots_max: 1,
            writes: 0,
            socket: Socket::default(),
            share: Share::default(),
            frozen_until: 0,
            unread: VecDeque::new(),
            thinks_at: Time::MAX,
            looks_at: Time::MAX,
        }
    }

    /// A new life.
    pub(crate) fn spawn(&mut self, now: Time, client: Client, (life, run): (u64, u64), random: &mut Random) {
        self.client = client;
        (self.alive, self.parting) = (true, false);
        (self.life, self.run) = (life, run);
        self.slots.clear();
        self.next_handle = 0;
        self.next_lock = now + random.below(20 * MS);
        self.slots_max = if self.anchor { ANCHORED as usize } else { random.between(1, 3) as usize };
        (self.socket, self.share, self.frozen_until) = (Socket::new(now), Share::default(), 0);
        self.unread.clear();
        (self.thinks_at, self.looks_at) = (Time::MAX, Time::MAX);
    }

    /// Has it no lock and asked for none?
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// What its locks are about.
    pub(crate) fn stages(&self, mut put: impl FnMut(Stage)) {
        for slot in &self.slots {
            match (slot.held.is_some(), slot.pending) {
                (true, true) => put(Stage::Converting),
                (false, true) => put(Stage::Queued),
                _ => put(Stage::Holding),
            }
            if slot.cancelled && slot.pending {
                put(Stage::Cancelling);
            }
            if slot.values && slot.held.is_some_and(Mode::writes_value) {
                put(Stage::Writing);
            }
        }
    }

    /// Does it wait for something that could close a circle? Then it holds on to what it has.
    fn dares(&self) -> bool {
        self.slots.iter().any(|slot| slot.daring && slot.pending && !slot.cancelled)
    }

    /// When it wants to think next.
    pub(crate) fn due(&self) -> Time {
        if self.dares() {
            let own = self.slots.iter().filter(|slot| slot.daring).map(|slot| slot.due);
            return own.min().unwrap_or(Time::MAX);
        }
        let new = if self.slots.len() < self.slots_max { self.next_lock } else { Time::MAX };
        self.slots.iter().map(|s| s.due).fold(new, Time::min)
    }

    /// All processes enter another phase.
    pub(crate) fn enter(&mut self, now: Time, phase: Phase, uncounted: bool, random: &mut Random) {
        self.next_lock = Time::MAX;
        for slot in &mut self.slots {
            slot.due = match phase {
                // It may be part of a circle that no search may count.
                _ if uncounted && slot.daring && slot.pending => now,
                // Who was told before remembers; everybody else sits on what he has.
                Phase::Polite if slot.told && !slot.pending && !slot.unlocking => now,
                Phase::Drain if slot.held.is_some() && !slot.pending => now + random.below(20 * MS),
                _ => Time::MAX,
            };
        }
    }

    /// Does what is due.
    pub(crate) fn think(&mut self, cx: &mut Context<'_>) {
        let dares = self.dares();
        for index in 0..self.slots.len() {
            if self.slots[index].due <= cx.now && (!dares || self.slots[index].daring) {
                self.tend(index, cx);
            }
        }
        if dares {
            return;
        }
        if cx.phase == Phase::Load && self.next_lock <= cx.now && self.slots.len() < self.slots_max {
            self.lock(cx);
        }
    }

    /// Something about one lock is due: patience is over, or it was held long enough.
    fn tend(&mut self, index: usize, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index];
        slot.due = Time::MAX;
        if slot.unlocking {
            return;
        }
        if slot.pending {
            if !slot.cancelled {
                slot.cancelled = true;
                cx.load.cancels += 1;
                // Most withdraw the wish; some give the whole lock back while it still waits.
                if cx.random.chance(850) {
                    cx.asks.push((slot.handle, Ask::Cancel));
                } else {
                    slot.unlocking = true;
                    cx.asks.push((slot.handle, Ask::Unlock { value: None, invalidate: false }));
                }
            }
            return;
        }
        let Some(held) = slot.held else { return };
        if self.anchor && cx.phase == Phase::Load {
            return;
        }
        if cx.phase == Phase::Load && cx.random.chance(150) {
            self.convert(index, held, cx);
        } else {
            self.unlock(index, held, cx);
        }
    }

    fn unlock(&mut self, index: usize, held: Mode, cx: &mut Context<'_>) {
        // A write needs the block on its own call only, not when the lock was taken (29).
        let writes = held.writes_value() && (self.slots[index].values || cx.random.chance(50));
        let value = (writes && cx.random.chance(700)).then(|| self.block());
        let invalidate = writes && cx.random.chance(30);
        let slot = &mut self.slots[index];
        slot.unlocking = true;
        cx.asks.push((slot.handle, Ask::Unlock { value, invalidate }));
    }

    fn convert(&mut self, index: usize, held: Mode, cx: &mut Context<'_>) {
        let mode = cx.mix.mode(cx.random);
        let mut flags = Flags::empty();
        let upward = !held.covers(mode);
        if self.slots[index].values && cx.random.chance(700) {
            flags |= Flags::VALBLK;
        }
        let value = (flags.contains(Flags::VALBLK) && held.writes_value()).then(|| self.block());
        if upward && cx.random.chance(100) {
            flags |= Flags::QUECVT;
        }
        if upward && cx.random.chance(cx.mix.tries) {
            flags |= Flags::NOQUEUE;
        }
        if held.writes_value() && cx.random.chance(30) {
            flags |= Flags::IVVALBLK;
        }
        if mode.exclusive() && cx.random.chance(30) {
            flags |= Flags::FRESH;
        }
        let slot = &mut self.slots[index];
        (slot.pending, slot.cancelled) = (true, false);
        if cx.random.chance(20) {
            flags |= Flags::NOBAST;
        }
        slot.due = cx.now + patience(cx.random);
        cx.load.converts += 1;
        let timeout_ms = if upward && cx.random.chance(100) { cx.random.spread(5, 500) as u32 } else { 0 };
        cx.asks.push((slot.handle, Ask::Convert { mode, flags, timeout_ms, value }));
    }

    fn lock(&mut self, cx: &mut Context<'_>) {
        // Together they keep a pace: after a time in which nothing could be had they hurry.
        let behind = cx.load.locks.saturating_sub(cx.load.refused) < cx.now / MS * PACE / 1000;
        let gap = if behind { LOCK_GAP / 3 } else { LOCK_GAP * 2 };
        self.next_lock = cx.now + cx.random.below(2 * gap);
        let count = cx.names.len() as u64 / 2;
        let rank = if self.anchor {
            self.next_lock = cx.now + 10 * MS;
            (self.slots.len() as u64).min(count - 1) * 2
        } else {
            let draws = 0..cx.mix.heat;
            draws.map(|_| cx.random.below(cx.names.len() as u64)).min().expect("at least one draw")
        };
        let mode = if self.anchor { Mode::NL } else { cx.mix.mode(cx.random) };
        let values = self.anchor || cx.random.chance(cx.mix.values);
        let mut flags = if values { Flags::VALBLK } else { Flags::empty() };
        // Waiting against the order of ranks could close a circle; trying cannot.
        let risky = self.slots.iter().any(|slot| slot.rank >= rank);
        let dares = risky && !self.anchor && cx.mix.daring > 0 && cx.random.chance(cx.mix.daring);
        if !self.anchor {
            flags |= self.lock_flags(mode, risky && !dares, cx);
        }
        let daring = dares && !flags.intersects(Flags::NOQUEUE | Flags::LOCAL);
        if cx.mix.uncounted && !self.anchor {
            if daring && cx.random.chance(100) {
                flags |= Flags::NODLCKWT;
            }
            if cx.random.chance(30) {
                flags |= Flags::NODLCKBLK;
            }
        }
        cx.load.daring += u64::from(daring);
        let timed = !flags.intersects(Flags::NOQUEUE | Flags::LOCAL) && cx.random.chance(100);
        let timeout_ms = if timed && !self.anchor { cx.random.spread(5, 1000) as u32 } else { 0 };
        self.next_handle += 1;
        let handle = self.next_handle;
        let due = match daring {
            _ if self.anchor => Time::MAX,
            true => cx.now + cx.random.between(3 * S, 6 * S),
            false => cx.now + patience(cx.random),
        };
        let (held, pending, unlocking, cancelled, told) = (None, true, false, false, false);
        self.slots.push(Slot {
            handle,
            rank,
            held,
            pending,
            unlocking,
            cancelled,
            told,
            values,
            daring,
            due,
        });
        cx.load.locks += 1;
        let name = cx.names[rank as usize].clone();
        cx.asks.push((handle, Ask::Lock { space: (rank % 2) as u16, name, mode, flags, timeout_ms }));
    }

    fn lock_flags(&self, mode: Mode, risky: bool, cx: &mut Context<'_>) -> Flags {
        let mut flags = Flags::empty();
        let mut toss = |permille, flag| {
            if cx.random.chance(permille) {
                flags |= flag;
            }
        };
        toss(20, Flags::NOBAST);
        if mode.exclusive() {
            toss(60, Flags::FRESH);
        }
        if risky {
            toss(1000, Flags::NOQUEUE);
            toss(200, Flags::NOQUEUEBAST);
            return flags;
        }
        toss(cx.mix.tries, Flags::NOQUEUE);
        if flags.contains(Flags::NOQUEUE) {
            if cx.random.chance(300) {
                flags |= Flags::NOQUEUEBAST;
            }
            return flags;
        }
        if cx.random.chance(cx.mix.tries / 4) {
            return (flags - Flags::FRESH) | Flags::LOCAL;
        }
        if mode == Mode::NL && cx.random.chance(300) {
            flags |= Flags::EXPEDITE;
        }
        match cx.random.below(50) {
            0 => flags |= Flags::HEADQUE,
            1 => flags |= Flags::NOORDER,
            2 if mode == Mode::CW => flags |= Flags::ALTPR,
            3 if mode == Mode::PR => flags |= Flags::ALTCW,
            _ => {}
        }
        flags
    }

    /// A block that nobody else writes, in which any two halves of different blocks are noticed.
    fn block(&mut self) -> Box<Block> {
        self.writes += 1;
        let mut block = Box::new([0; VALUE_BYTES]);
        for (n, chunk) in block.chunks_exact_mut(8).enumerate() {
            let word = (u64::from(self.client) << 32 | self.writes).wrapping_mul(2 * n as u64 + 1);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        block
    }

    /// Hears an answer. Returns what it says about which lock; none if its session is over by it.
    pub(crate) fn hear(&mut self, reply: Reply) -> Option<(u32, Told)> {
        match reply {
            Reply::Granted(g) => {
                let told = Told::Granted {
                    mode: g.mode,
                    token: Some(g.token),
                    value: g.value.map(Box::new),
                    alternate: g.alternate,
                };
                Some((g.handle, told))
            }
            Reply::Failed { handle, why } => Some((handle, Told::Failed { code: why.code })),
            Reply::Released { handle } => Some((handle, Told::Released)),
            Reply::Blocking { handle, wanted } => Some((handle, Told::Blocking { wanted })),
            Reply::Lost { .. } | Reply::Refused { .. } => None,
            other => panic!("a simulated program never asks for {other:?}"),
        }
    }

    /// Learns something about one of its locks, from whomever.
    pub(crate) fn learn(&mut self, handle: u32, told: &Told, cx: &mut Context<'_>) {
        if let Told::Failed { code } = told {
            return self.failed(handle, *code, cx);
        }
        let Some(place) = self.slots.iter().position(|s| s.handle == handle) else { return };
        let slot = &mut self.slots[place];
        match told {
            Told::Granted { mode, .. } => {
                (slot.held, slot.pending, slot.cancelled) = (Some(*mode), false, false);
                slot.told = false;
                slot.due = match cx.phase {
                    _ if slot.unlocking => Time::MAX,
                    Phase::Load if self.anchor => Time::MAX,
                    Phase::Load => cx.now + cx.random.spread(100_000, cx.mix.hold_max),
                    Phase::Polite => Time::MAX,
                    Phase::Drain => cx.now,
                };
            }
            Told::Released => drop(self.slots.remove(place)),
            Told::Blocking { .. } => {
                slot.told = true;
                match cx.phase {
                    _ if slot.pending || slot.unlocking => {}
                    Phase::Load if !self.anchor && cx.random.chance(600) => {
                        slot.due = slot.due.min(cx.now + cx.random.spread(50_000, 5 * MS));
                    }
                    Phase::Polite => slot.due = cx.now + cx.random.below(10 * MS),
                    Phase::Load | Phase::Drain => {}
                }
            }
            Told::Token { .. } | Told::Failed { .. } => {}
        }
    }

    fn failed(&mut self, handle: u32, code: Code, cx: &mut Context<'_>) {
        if code == Code::Deadlock && self.slots.iter().any(|slot| slot.handle == handle && slot.daring) {
            cx.load.circles += 1;
            // Whoever hears that gives back what it has, and begins again.
            for slot in self.slots.iter_mut().filter(|slot| slot.held.is_some() && !slot.unlocking) {
                slot.due = cx.now;
            }
        }
        if code == Code::SpaceDenied {
            self.next_lock = self.next_lock.max(cx.now + 20 * MS);
            cx.load.refused += 1;
        }
        if matches!(code, Code::NotServing | Code::Refused | Code::Fenced) {
            self.next_lock = self.next_lock.max(cx.now + 100 * MS);
            cx.load.refused += 1;
        }
        let Some(place) = self.slots.iter().position(|s| s.handle == handle) else { return };
        let slot = &mut self.slots[place];
        let was_pending = core::mem::take(&mut slot.pending);
        if slot.held.is_some() && was_pending {
            slot.cancelled = false;
            slot.due = match cx.phase {
                _ if slot.unlocking => Time::MAX,
                Phase::Load => cx.now + cx.random.spread(100_000, 10 * MS),
                // It may have been told while it waited.
                Phase::Polite => cx.now + cx.random.below(10 * MS),
                Phase::Drain => cx.now,
            };
        } else if !was_pending || !slot.unlocking {
            self.slots.remove(place);
        }
    }
}

/// The process of a program.
pub(crate) fn pid(client: Client) -> u32 {
    1000 + client
}

/// How long a program waits before it withdraws a request.
fn patience(random: &mut Random) -> Time {
    if random.chance(60) { random.spread(200_000, 30 * MS) } else { random.between(300 * MS, 2 * S) }
}

/// The packet for what a process asks.
pub(crate) fn packet(handle: u32, ask: &Ask) -> Request {
    match ask {
        Ask::Lock { space, name, mode, flags, timeout_ms } => Request::Lock(LockRequest {
            handle,
            space: SpaceId(*space),
            name: name.clone(),
            mode: *mode,
            flags: *flags,
            timeout_ms: *timeout_ms,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        }),
        Ask::Convert { mode, flags, timeout_ms, value } => Request::Convert(ConvertRequest {
            handle,
            mode: *mode,
            flags: *flags,
            timeout_ms: *timeout_ms,
            value: value.as_deref().copied(),
        }),
        Ask::Unlock { value, invalidate } => {
            Request::Unlock { handle, value: value.as_deref().copied(), invalidate: *invalidate }
        }
        Ask::Cancel => Request::Cancel { handle },
    }
}
