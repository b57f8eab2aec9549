//! What stands in the segment before an operation, and the operation: the same each time it is built.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, LockId, SessionId, SharedHandle, Slot};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode::{self, *};
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::{entry, slot};
use oarlock_layout::segment::{Claim, Geometry, Grant, Place, Stage as At, State, Words};
use oarlock_layout::token::Fence;
use oarlock_layout::value::Value;
use oarlock_shm::{Answer, Caller, First, Hold, Hub, Memory, Party, Spot, Taken, Ticket};

use crate::slate::{Belief, Slate, Watch};

pub(crate) const GEOMETRY: Geometry = Geometry { slots: 3, areas: 6, entries: 64 };
/// The session whose operation is stepped.
pub(crate) const SUBJECT: u32 = 1;
/// A session that holds, or waits, and lives.
pub(crate) const SURVIVOR: u32 = 2;
/// A session that wants the lock afterwards.
pub(crate) const THIRD: u32 = 3;
/// A session that dies of something else.
pub(crate) const VICTIM: u32 = 4;
/// A session that comes.
pub(crate) const NEW: u32 = 5;
pub(crate) const LEASE: u64 = 10_000_000_000;

/// The resource that everything is about, the one beside it, and one that takes its slot. The last is long.
pub(crate) const NAME: &[u8] = b"resource";
pub(crate) const BESIDE: &[u8] = b"beside";
pub(crate) const AFTER: &[u8] = b"a name that is longer than what fits the slot itself";
/// Value blocks before and after a write.
pub(crate) const OLD: [u8; VALUE_BYTES] = [7; VALUE_BYTES];
pub(crate) const NEWER: [u8; VALUE_BYTES] = [9; VALUE_BYTES];

/// An operation of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Looks the name up, and nothing more.
    Find,
    /// Takes a lock, and waits for it or not.
    Acquire(Mode, bool),
    /// Takes a lock and draws its token.
    Draw(Mode),
    Release,
    Raise(Mode),
    Lower(Mode),
    Write,
    /// Reads the value block.
    Read,
    /// Marks the value block as not to be believed, and gives the lock back.
    SpoilAndRelease,
    /// Asks the node for another mode.
    Ask(Mode),
    Withdraw,
}

/// What stands there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) op: Op,
    pub(crate) owned: Mode,
    pub(crate) keep: bool,
    /// The subject holds this.
    pub(crate) holds: Option<Mode>,
    /// The survivor holds this.
    pub(crate) beside: Option<Mode>,
    /// The subject waits for this.
    pub(crate) waits: Option<Mode>,
    /// The survivor waits for this.
    pub(crate) behind: Option<Mode>,
    /// The survivor is offered to releasers.
    pub(crate) offered: bool,
    pub(crate) values: bool,
    /// Threads of the subject take the same entries.
    pub(crate) shared: bool,
}

impl Scene {
    /// Where the subject looks first.
    fn first(self) -> First {
        if self.shared { AMONG_THREADS } else { First::seat(0) }
    }
}

/// Where threads look that have no seat.
pub(crate) const AMONG_THREADS: First = First::shared(0);

const BARE: Scene = Scene {
    name: "",
    op: Op::Find,
    owned: EX,
    keep: true,
    holds: None,
    beside: None,
    waits: None,
    behind: None,
    offered: false,
    values: false,
    shared: false,
};

const fn scene(name: &'static str, op: Op) -> Scene {
    Scene { name, op, ..BARE }
}

const fn with(name: &'static str, op: Op, holds: Mode) -> Scene {
    Scene { holds: Some(holds), ..scene(name, op) }
}

/// Every operation, in the places where it goes different ways.
pub(crate) const SCENES: [Scene; 28] = [
    scene("find", Op::Find),
    scene("acquire-ex", Op::Acquire(EX, true)),
    Scene { shared: true, ..scene("acquire-ex-among-threads", Op::Acquire(EX, true)) },
    Scene { beside: Some(PR), ..scene("acquire-pr-beside-pr", Op::Acquire(PR, true)) },
    Scene { beside: Some(PR), ..scene("acquire-ex-and-wait", Op::Acquire(EX, true)) },
    Scene { beside: Some(PR), ..scene("acquire-ex-or-not", Op::Acquire(EX, false)) },
    Scene { owned: PR, ..scene("acquire-what-is-not-owned", Op::Acquire(EX, true)) },
    Scene { beside: Some(PR), behind: Some(EX), ..scene("acquire-behind-a-gate", Op::Acquire(CR, true)) },
    scene("draw-a-token", Op::Draw(EX)),
    with("release-ex", Op::Release, EX),
    Scene { beside: Some(PR), ..with("release-pr-beside-pr", Op::Release, PR) },
    Scene { keep: false, ..with("release-what-is-not-kept", Op::Release, EX) },
    Scene { behind: Some(EX), ..with("release-with-somebody-behind", Op::Release, EX) },
    Scene { behind: Some(EX), offered: true, ..with("hand-over-ex", Op::Release, EX) },
    Scene { behind: Some(PR), offered: true, ..with("hand-over-pr", Op::Release, EX) },
    with("raise-pr-to-ex", Op::Raise(EX), PR),
    Scene { beside: Some(CR), ..with("raise-cr-to-pw", Op::Raise(PW), CR) },
    Scene { beside: Some(PR), ..with("raise-against-another", Op::Raise(EX), PR) },
    with("lower-ex-to-pr", Op::Lower(PR), EX),
    Scene { beside: Some(CR), ..with("lower-pw-to-cr", Op::Lower(CR), PW) },
    Scene { behind: Some(PR), ..with("lower-with-somebody-behind", Op::Lower(CR), EX) },
    Scene { values: true, ..with("write-a-value", Op::Write, EX) },
    Scene { values: true, beside: Some(PW), ..with("read-a-value", Op::Read, CR) },
    Scene { values: true, beside: Some(CR), ..with("spoil-a-value", Op::SpoilAndRelease, PW) },
    Scene { beside: Some(CR), ..with("ask-for-a-mode", Op::Ask(CW), PR) },
    Scene { beside: Some(PR), ..with("ask-for-what-does-not-fit", Op::Ask(EX), PR) },
    Scene { beside: Some(EX), waits: Some(PR), ..scene("withdraw", Op::Withdraw) },
    Scene { beside: Some(EX), waits: Some(PR), offered: true, ..scene("withdraw-an-offer", Op::Withdraw) },
];

/// The scene of this name.
pub(crate) fn named(name: &str) -> Scene {
    *SCENES.iter().find(|scene| scene.name == name).unwrap_or_else(|| panic!("no scene {name}"))
}

/// A segment with its node and who is where in it.
pub(crate) struct World {
    pub(crate) hub: Hub,
    pub(crate) slate: Slate,
    pub(crate) cast: Cast,
}

/// Who is where. The same in each world of a scene, so a fork may use that of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cast {
    pub(crate) scene: Scene,
    pub(crate) slot: Slot,
    pub(crate) spot: Spot,
    pub(crate) seats: [Place; 4],
    pub(crate) hold: Option<Hold>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) kept: Option<Hold>,
    pub(crate) behind: Option<Ticket>,
}

/// A new segment to be shared with forks.
pub(crate) fn shared() -> (Arc<Memory>, OwnedFd) {
    Memory::create("stepper", GEOMETRY, 3).expect("a segment")
}

/// A new segment of this process.
pub(crate) fn private() -> Arc<Memory> {
    Memory::private(GEOMETRY, 3)
}

pub(crate) fn lock(session: u32, entry: u32) -> LockId {
    LockId::new(SessionId(session), SharedHandle { segment: 0, entry }.number())
}

pub(crate) fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).expect("a name")
}

fn held(taken: Taken) -> Hold {
    match taken {
        Taken::Held { hold, .. } => hold,
        other => panic!("{other:?} where a lock was to be had"),
    }
}

fn waits(taken: Taken) -> Ticket {
    match taken {
        Taken::Wait(ticket) => ticket,
        other => panic!("{other:?} where somebody had to wait"),
    }
}

impl World {
    /// Sets a scene in a new segment.
    pub(crate) fn new(memory: Arc<Memory>, slate: &Slate, scene: Scene) -> World {
        let mut hub = Hub::new(memory);
        hub.renew(LEASE);
        let seats = [SUBJECT, SURVIVOR, THIRD, VICTIM]
            .map(|session| hub.attach(SessionId(session), 0).expect("an area"));
        let slot = hub.bind(&name(NAME)).expect("a slot");
        hub.raise(slot, scene.owned, Fence::new(Epoch(1), 1));
        hub.set_keep(slot, scene.keep);
        hub.clear_gate(slot);
        hub.bind(&name(BESIDE)).expect("a slot");
        if scene.values {
            hub.set_value_ready(slot, true);
            hub.set_value(slot, Value::NEVER.written(OLD));
        }
        let slate = slate.clone();
        let watch = Watch { slate: slate.clone(), counts: false };
        let caller =
            |session: u32| Caller::new(Arc::clone(hub.memory()), seats[session as usize - 1], watch.clone());
        let spot = caller(SUBJECT).find(NAME).expect("it is bound");
        let (subject, survivor) = (caller(SUBJECT), caller(SURVIVOR));
        let party = party(scene);
        // Somebody was here before, and has gone.
        let third = caller(THIRD);
        let gone = held(third.acquire(spot, NL, &Party::default(), true, First::seat(0)));
        third.release(gone).expect("it is held");
        let hold = scene.holds.map(|mode| held(subject.acquire(spot, mode, &party, true, First::seat(0))));
        let kept = scene.beside.map(|mode| held(survivor.acquire(spot, mode, &party, true, First::seat(0))));
        let ticket = scene.waits.map(|mode| waits(subject.acquire(spot, mode, &party, true, First::seat(0))));
        let behind =
            scene.behind.map(|mode| waits(survivor.acquire(spot, mode, &party, true, First::seat(1))));
        if ticket.is_some() || behind.is_some() {
            hub.set_gate(slot);
        }
        if scene.offered {
            let offer = match (behind, ticket) {
                (Some(behind), _) => (lock(SURVIVOR, behind.entry), scene.behind),
                (None, Some(ticket)) => (lock(SUBJECT, ticket.entry), scene.waits),
                (None, None) => panic!("nobody waits"),
            };
            hub.offer(slot, Some((offer.0, offer.1.expect("a mode"))));
        }
        let cast = Cast { scene, slot, spot, seats, hold, ticket, kept, behind };
        World { hub, slate, cast }
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        self.hub.memory()
    }

    /// A session's side.
    pub(crate) fn caller(&self, session: u32) -> Caller<Watch> {
        self.cast.caller(self.memory(), &self.slate, session, false)
    }

    /// The word of the resource.
    pub(crate) fn word(&self) -> Grant {
        word(self.memory(), self.cast.slot.0)
    }

    /// Leaves the victim in the middle of an operation.
    pub(crate) fn strand(&self, victim: Victim) {
        let geometry = self.memory().geometry();
        let cell = geometry.entry(3, 0);
        let memory = self.memory();
        memory.scribble(cell + entry::SLOT, self.cast.slot.0.into());
        memory.scribble(cell + entry::SLOT_GENERATION, self.cast.spot.generation);
        let touched = geometry.area(3) + oarlock_layout::segment::geometry::area::TOUCHED;
        memory.scribble(touched, 1);
        let users = geometry.slot(self.cast.slot.0) + slot::USERS;
        memory.scribble(users, memory.peek(users) | 1 << 3);
        let free = State(memory.peek(cell + entry::STATE));
        let (state, counts) = match victim {
            Victim::Trying(mode, counted) => (free.to(At::Trying, Some(mode), None), counted.then_some(mode)),
            Victim::Lowering(mode, to, counted) => {
                (free.to(At::Lowering, Some(mode), to), if counted { Some(mode) } else { to })
            }
            Victim::Raising(mode, to, counted) => {
                (free.to(At::Raising, Some(mode), Some(to)), Some(if counted { to } else { mode }))
            }
            Victim::Held(mode) => (free.to(At::Held, Some(mode), None), Some(mode)),
        };
        memory.scribble(cell + entry::STATE, state.0);
        if let Some(mode) = counts {
            let cell = geometry.slot(self.cast.slot.0) + slot::WORD;
            memory.scribble(cell, self.word().with(mode).expect("room in the count").0);
        }
    }
}

/// How the victim stands when it dies: each is one that an operation leaves between two of its exchanges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Victim {
    Trying(Mode, bool),
    /// To which mode, if any; is the old one counted still?
    Lowering(Mode, Option<Mode>, bool),
    /// Is the new one counted already?
    Raising(Mode, Mode, bool),
    Held(Mode),
}

impl Victim {
    /// What the word counts for it.
    pub(crate) fn counts(self) -> Option<Mode> {
        match self {
            Victim::Trying(mode, counted) => counted.then_some(mode),
            Victim::Lowering(mode, _, true) | Victim::Raising(mode, _, false) | Victim::Held(mode) => {
                Some(mode)
            }
            Victim::Lowering(_, to, false) => to,
            Victim::Raising(_, to, true) => Some(to),
        }
    }
}

pub(crate) fn word(memory: &Memory, slot: u32) -> Grant {
    Grant(memory.peek(memory.geometry().slot(slot) + slot::WORD))
}

fn party(scene: Scene) -> Party {
    let flags = if scene.values { Flags::VALBLK } else { Flags::empty() };
    Party { owner: 1, transaction: 2, flags }
}

/// What an operation gave, in the program that did it.
pub(crate) enum Have {
    Hold(Hold),
    Ticket(Ticket),
    /// Withdrawn: the node has yet to hear of it.
    Withdrawn(u32),
    Nothing,
}

impl Cast {
    /// A session's side of a segment.
    pub(crate) fn caller(
        &self,
        memory: &Arc<Memory>,
        slate: &Slate,
        session: u32,
        counts: bool,
    ) -> Caller<Watch> {
        let watch = Watch { slate: slate.clone(), counts };
        Caller::new(Arc::clone(memory), self.seats[session as usize - 1], watch)
    }

    /// The subject's operation.
    pub(crate) fn perform(&self, caller: &Caller<Watch>) -> (Have, Belief) {
        let party = party(self.scene);
        let nothing = Belief::default();
        let lost = Belief { lost: true, ..nothing };
        let hold = self.hold;
        let taken = |taken: Taken, otherwise: Option<Hold>| match taken {
            Taken::Held { hold, knock } => (Have::Hold(hold), Belief { knock, ..holding(hold) }),
            Taken::Wait(ticket) => (Have::Ticket(ticket), Belief { waits: Some(ticket.entry), ..nothing }),
            Taken::Lost(_) => (Have::Nothing, lost),
            Taken::Frozen { hold, knock } => (Have::Hold(hold), Belief { knock, ..holding(hold) }),
            _ => otherwise.map_or((Have::Nothing, nothing), |hold| (Have::Hold(hold), holding(hold))),
        };
        let release = |hold: Hold| match caller.release(hold) {
            Ok(knock) => (Have::Nothing, Belief { knock, ..nothing }),
            Err(_) => (Have::Nothing, lost),
        };
        match self.scene.op {
            Op::Find => (Have::Nothing, Belief { found: caller.find(NAME), ..nothing }),
            Op::Acquire(mode, wait) => {
                taken(caller.acquire(self.spot, mode, &party, wait, self.scene.first()), None)
            }
            Op::Draw(mode) => {
                let (have, belief) =
                    taken(caller.acquire(self.spot, mode, &party, true, First::seat(0)), None);
                let Have::Hold(hold) = have else { return (have, belief) };
                let token = caller.draw_token(hold).map(|token| token.local);
                (have, Belief { token, ..belief })
            }
            Op::Release => release(hold.expect("a lock")),
            Op::Raise(to) => taken(caller.raise(hold.expect("a lock"), to), hold),
            Op::Lower(to) => taken(caller.lower(hold.expect("a lock"), to), hold),
            Op::Write => {
                let hold = hold.expect("a lock");
                caller.write_value(hold, Some(NEWER));
                (Have::Hold(hold), holding(hold))
            }
            Op::Read => {
                let hold = hold.expect("a lock");
                // Nobody spoils it meanwhile.
                let torn = caller.value(hold).is_some_and(|value| !whole(&value) || !value.valid);
                (Have::Hold(hold), Belief { torn, ..holding(hold) })
            }
            Op::SpoilAndRelease => {
                let hold = hold.expect("a lock");
                caller.write_value(hold, None);
                release(hold)
            }
            Op::Ask(to) => match caller.ask_convert(hold.expect("a lock"), to) {
                Ok(ticket) => {
                    let waits = Some(ticket.entry);
                    (Have::Ticket(ticket), Belief { waits, ..holding(hold.expect("a lock")) })
                }
                Err(_) => (Have::Nothing, lost),
            },
            Op::Withdraw => {
                let ticket = self.ticket.expect("a lock that waits");
                match caller.withdraw(ticket) {
                    Some(hold) => (Have::Hold(hold), holding(hold)),
                    None => (Have::Withdrawn(ticket.entry), nothing),
                }
            }
        }
    }

    /// What the subject has, given back.
    pub(crate) fn let_go(&self, caller: &Caller<Watch>, have: Have) -> Result<(), String> {
        match have {
            Have::Hold(hold) => {
                let _ = caller.release(hold);
            }
            Have::Ticket(ticket) => match caller.look(ticket) {
                Answer::Held(hold) => {
                    let _ = caller.release(hold);
                }
                Answer::Refused => caller.close(ticket.entry),
                Answer::Lost => {}
                Answer::Waiting(state) => return Err(format!("it is left waiting: {state:?}")),
            },
            Have::Withdrawn(entry) => caller.close(entry),
            Have::Nothing => {}
        }
        Ok(())
    }

    /// The program of the subject: waits for its first mark, does its operation, and gives back what it has.
    pub(crate) fn act(&self, fd: &OwnedFd, slate: &Slate) {
        let (memory, slate) = (Memory::open(fd).expect("the segment"), slate.open());
        slate.say_ranges(&memory);
        let caller = self.caller(&memory, &slate, SUBJECT, true);
        crate::tracee::mark();
        let (have, belief) = self.perform(&caller);
        slate.say(belief);
        crate::tracee::mark();
        if let Err(complaint) = self.let_go(&caller, have) {
            slate.complain(&complaint);
        }
        crate::tracee::mark();
    }
}

/// Is it one that somebody wrote, or not to be believed?
pub(crate) fn whole(value: &Value) -> bool {
    !value.valid || value.sequence == 0 || value.bytes == OLD || value.bytes == NEWER
}

fn holding(hold: Hold) -> Belief {
    Belief { held: Some((hold.entry, hold.mode, hold.spot)), ..Belief::default() }
}

/// A claim as the node makes it for a request of a program.
pub(crate) fn claim(session: u32, entry: u32) -> Claim {
    Claim { lock: lock(session, entry), flags: Flags::QUIET, ..Claim::default() }
}
