//! A segment with a node and some programs, small enough for a checker of orders.

use std::sync::Arc;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, LockId, SessionId, SharedHandle, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Claim, Counts, Geometry, Grant, Stage as EntryStage, State, Words};
use oarlock_layout::token::Fence;
use oarlock_shm::{Caller, Clock, Hold, Hub, Memory, Party, Spot, Taken, Ticket};

/// Time stands: the lease is no matter of orders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Still;

impl Clock for Still {
    fn coarse(&self) -> u64 {
        0
    }
}

/// Of the name hash.
pub(crate) const SEED: u64 = 3;

pub(crate) type Program = Caller<Still>;

pub(crate) const PARTY: Party = Party { owner: 1, transaction: 2, flags: Flags::empty() };

pub(crate) struct Stage {
    pub(crate) hub: Hub,
    sessions: Vec<(u32, u32)>,
    serial: u64,
}

impl Stage {
    pub(crate) fn new(slots: u32) -> Stage {
        let memory = Memory::private(Geometry { slots, areas: 4, entries: 64 }, SEED);
        let mut hub = Hub::new(memory);
        hub.renew(u64::MAX);
        Stage { hub, sessions: Vec::new(), serial: 0 }
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        self.hub.memory()
    }

    pub(crate) fn session(&mut self, number: u32) -> Program {
        let place = self.hub.attach(SessionId(number), 0).expect("an area");
        self.sessions.push((number, place.area));
        Caller::new(Arc::clone(self.hub.memory()), place, Still)
    }

    /// A resource that this node owns in `mode`, open to programs.
    pub(crate) fn owned(&mut self, name: &str, mode: Mode) -> (Slot, Spot) {
        let slot = self.hub.bind(&Name::new(name.as_bytes()).expect("a name")).expect("a slot");
        self.raise(slot, mode);
        self.hub.clear_gate(slot);
        let memory = self.hub.memory();
        let generation = memory.peek(memory.geometry().slot(slot.0) + 1);
        (slot, Spot { slot: slot.0, generation })
    }

    pub(crate) fn raise(&mut self, slot: Slot, mode: Mode) {
        self.serial += 1;
        self.hub.raise(slot, mode, Fence::new(Epoch(1), self.serial));
    }

    pub(crate) fn admit(&mut self, slot: Slot, lock: LockId, mode: Mode) -> bool {
        self.hub.admit(slot, mode, Claim { lock, flags: Flags::QUIET, ..Claim::default() }).is_some()
    }

    /// The cell of an entry's state.
    pub(crate) fn state_cell(&self, session: u32, entry: u32) -> usize {
        let (_, area) = self.sessions.iter().find(|(number, _)| *number == session).expect("a session");
        self.memory().geometry().entry(*area, entry)
    }

    /// As if the program of a lock had died in an attempt, after its exchange with the word or before.
    pub(crate) fn die_trying(&self, session: u32, hold: Hold, counted: bool) {
        let cell = self.state_cell(session, hold.entry);
        let held = State(self.memory().peek(cell));
        self.memory().scribble(cell, held.to(EntryStage::Trying, Some(hold.mode), None).0);
        if !counted {
            let cell = self.memory().geometry().slot(hold.spot.slot);
            self.memory().scribble(cell, Grant(self.memory().peek(cell)).without(hold.mode).0);
        }
    }

    /// Answers all bells, and looks whether the word counts what the entries say, and no two exclude each other. All
    /// locks that are held.
    pub(crate) fn at_rest(&mut self, slot: Slot) -> Vec<(LockId, Mode)> {
        while self.hub.poll_bell().is_some() {}
        let locks: Vec<(LockId, Mode)> =
            self.hub.entries(slot).iter().map(|entry| (entry.claim.lock, entry.mode)).collect();
        let counts = locks.iter().fold(Counts::default(), |counts, (_, mode)| counts.with(*mode));
        let word = self.hub.look(slot);
        assert_eq!(
            word.counts, counts,
            "the word counts what no entry holds, or the other way round: {locks:?}"
        );
        let owned = word.owned.expect("an owned mode");
        for (n, (lock, mode)) in locks.iter().enumerate() {
            assert!(owned.covers(*mode), "{lock} holds {mode:?} and the node owns {owned:?}");
            let clash = locks[..n].iter().find(|(_, other)| !other.compatible(*mode));
            assert!(clash.is_none(), "{lock} holds {mode:?} beside {clash:?}");
        }
        locks
    }
}

pub(crate) fn lock_of(session: u32, entry: u32) -> LockId {
    LockId::new(SessionId(session), SharedHandle { segment: 0, entry }.number())
}

pub(crate) fn held(taken: Taken) -> Hold {
    hold_of(taken).unwrap_or_else(|| panic!("{taken:?}"))
}

pub(crate) fn hold_of(taken: Taken) -> Option<Hold> {
    match taken {
        Taken::Held { hold, .. } => Some(hold),
        _ => None,
    }
}

pub(crate) fn waits(taken: Taken) -> Ticket {
    match taken {
        Taken::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}
