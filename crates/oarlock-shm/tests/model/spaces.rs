//! What is looked through: each space is a few programs, and what may happen to them.

use oarlock_layout::mode::Mode::{self, *};
use oarlock_shm::planted::Bug;

/// Something that a program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Takes a lock on this name, and waits for it.
    Lock(Mode, u8),
    /// The same, on the first name; it may withdraw while it waits.
    Impatient(Mode),
    /// Takes a lock if it can be had at once, or ends.
    Try(Mode),
    /// Takes a stronger mode, by itself or by the node.
    Raise(Mode),
    /// The same; it may ask for the old mode back while it waits.
    Hasty(Mode),
    Lower(Mode),
    Release,
    /// Holds until it is told that it blocks somebody.
    ReleaseTold,
    /// Asks the node to take the lock away.
    Unlock,
}

impl Op {
    pub fn mode(self) -> Mode {
        match self {
            Op::Lock(mode, _)
            | Op::Impatient(mode)
            | Op::Try(mode)
            | Op::Raise(mode)
            | Op::Hasty(mode)
            | Op::Lower(mode) => mode,
            Op::Release | Op::ReleaseTold | Op::Unlock => NL,
        }
    }

    pub fn name(self) -> u8 {
        if let Op::Lock(_, name) = self { name } else { 0 }
    }
}

/// A program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Program {
    pub session: usize,
    pub ops: &'static [Op],
    /// It may die at any step.
    pub mortal: bool,
    /// The node may end its session while it goes on.
    pub cut: bool,
}

/// A rule that is left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slip {
    /// One of those that can be left out of the code.
    Rule(Bug),
    /// A recount moves only the waiter on that is offered at that moment.
    RestampOffered,
    /// A program that does not want to wait for a stronger mode takes the old one back by itself.
    CancelByProgram,
    /// A node that takes over counts only what it finds shut.
    AdoptShut,
    /// An attempt that was taken back waits without a look at its session.
    WaitUnlooked,
    /// The lock of an ended session leaves the word before its entry is free.
    WordBeforeEnding,
    /// The node calls a lock held in the weaker mode before the word counts it so.
    HeldBeforeWord,
    /// The node does not note who uses a slot when it grants.
    NoUserByNode,
}

impl Slip {
    /// Every one, and the small space that misses it soonest.
    pub const ALL: [(Slip, &str); 20] = [
        (Slip::Rule(Bug::CommitByStore), "taken over, two"),
        (Slip::Rule(Bug::NoCheckAfterLoad), "two threads, one entry"),
        (Slip::Rule(Bug::KeepTurn), "two threads, one entry"),
        (Slip::Rule(Bug::CountByOldMode), "taken over, two"),
        (Slip::Rule(Bug::NoShut), "taken over, two"),
        (Slip::Rule(Bug::NoGateReread), "notices, two"),
        (Slip::Rule(Bug::NoSlotGeneration), "slot reused, two"),
        (Slip::Rule(Bug::StaleNeed), "owned lowered, two"),
        (Slip::Rule(Bug::NoGateByFinder), "places, three"),
        (Slip::Rule(Bug::NoRestamp), "taken over, handed over, two"),
        (Slip::Rule(Bug::NoRecall), "hand-over, withdrawn, two"),
        (Slip::Rule(Bug::EndKeepsTurn), "up and down, two"),
        (Slip::Rule(Bug::GrantByStore), "hand-over, withdrawn, two"),
        (Slip::RestampOffered, "taken over, handed over, two"),
        (Slip::CancelByProgram, "up, withdrawn, two"),
        (Slip::AdoptShut, "taken over, two"),
        (Slip::WaitUnlooked, "an end and a death, two"),
        (Slip::WordBeforeEnding, "taken over, two"),
        (Slip::HeldBeforeWord, "up and down, two"),
        (Slip::NoUserByNode, "slot bound, a death, two"),
    ];

    /// As it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Slip::Rule(rule) => {
                let named = Bug::NAMED.iter().find(|(_, bug)| *bug == rule);
                named.map_or("a fence", |(name, _)| name)
            }
            Slip::RestampOffered => "restamp-offered",
            Slip::CancelByProgram => "cancel-by-program",
            Slip::AdoptShut => "adopt-shut",
            Slip::WaitUnlooked => "wait-unlooked",
            Slip::WordBeforeEnding => "word-before-ending",
            Slip::HeldBeforeWord => "held-before-word",
            Slip::NoUserByNode => "no-user-by-node",
        }
    }
}

/// A space.
#[derive(Clone, Debug)]
pub struct Space {
    pub name: &'static str,
    pub programs: Vec<Program>,
    pub deaths: u8,
    pub cuts: u8,
    /// Another node wants this once.
    pub heads: Option<Mode>,
    /// How often the node looks whether the slot is used.
    pub sweeps: u8,
    pub epochs: u8,
    /// How often the node dies and another takes its segment over.
    pub takeovers: u8,
    /// The name has no slot yet.
    pub unbound: bool,
    /// The node names waiters to releasers.
    pub offers: bool,
    /// The node tells holders that they block somebody.
    pub notices: bool,
    /// Places in the queue are watched.
    pub fair: bool,
    /// Some of the programs are the same: which of them is which does not matter.
    pub alike: bool,
    /// What is left out.
    pub slip: Option<Slip>,
}

impl Space {
    fn new(name: &'static str) -> Space {
        Space {
            name,
            programs: Vec::new(),
            deaths: 0,
            cuts: 0,
            heads: None,
            sweeps: 0,
            epochs: 0,
            takeovers: 0,
            unbound: false,
            offers: false,
            notices: false,
            fair: false,
            alike: false,
            slip: None,
        }
    }

    fn program(mut self, ops: &'static [Op], mortal: bool, cut: bool) -> Space {
        let session = self.programs.len();
        self.programs.push(Program { session, ops, mortal, cut });
        self.alike = self.any_alike();
        self
    }

    /// One that lives.
    fn lives(self, ops: &'static [Op]) -> Space {
        self.program(ops, false, false)
    }

    /// One that may die.
    fn dies(self, ops: &'static [Op]) -> Space {
        let space = self.program(ops, true, false);
        Space { deaths: 1, ..space }
    }

    /// One whose session may end while it goes on.
    fn cut(self, ops: &'static [Op]) -> Space {
        let space = self.program(ops, false, true);
        Space { cuts: 1, ..space }
    }

    /// Another thread of the last session, with the same entry.
    fn thread(mut self, ops: &'static [Op]) -> Space {
        let last = *self.programs.last().expect("a program");
        self.programs.push(Program { ops, ..last });
        self.alike = false;
        self
    }

    pub fn sessions(&self) -> usize {
        self.programs.iter().map(|program| program.session + 1).max().unwrap_or(0)
    }

    /// May any processes trade places?
    fn any_alike(&self) -> bool {
        let all = self.programs.len();
        self.sessions() == all && (1..all).any(|n| self.same(n - 1, n))
    }

    pub fn same(&self, one: usize, other: usize) -> bool {
        let (one, other) = (self.programs[one], self.programs[other]);
        (one.ops, one.mortal, one.cut) == (other.ops, other.mortal, other.cut)
    }

    pub fn may_cut(&self, session: usize) -> bool {
        self.programs.iter().any(|program| program.session == session && program.cut)
    }
}

const EX_ONCE: &[Op] = &[Op::Lock(EX, 0), Op::Release];
const PR_ONCE: &[Op] = &[Op::Lock(PR, 0), Op::Release];
const EX_TRY: &[Op] = &[Op::Try(EX), Op::Release];
const PR_TRY: &[Op] = &[Op::Try(PR), Op::Release];
const EX_TRY_TWICE: &[Op] = &[Op::Try(EX), Op::Release, Op::Try(EX), Op::Release];
const EX_IMPATIENT: &[Op] = &[Op::Impatient(EX), Op::Release];
const PR_IMPATIENT: &[Op] = &[Op::Impatient(PR), Op::Release];
const PR_UP: &[Op] = &[Op::Lock(PR, 0), Op::Raise(EX), Op::Release];
const EX_DOWN: &[Op] = &[Op::Lock(EX, 0), Op::Lower(PR), Op::Release];
const PR_UP_HASTY: &[Op] = &[Op::Lock(PR, 0), Op::Hasty(EX), Op::Release];
const CR_UP: &[Op] = &[Op::Lock(CR, 0), Op::Raise(PW), Op::Release];
const PW_DOWN: &[Op] = &[Op::Lock(PW, 0), Op::Lower(CR), Op::Release];
const EX_TOLD: &[Op] = &[Op::Lock(EX, 0), Op::ReleaseTold];
const PR_TOLD: &[Op] = &[Op::Lock(PR, 0), Op::ReleaseTold];
const EX_UNLOCK: &[Op] = &[Op::Lock(EX, 0), Op::Unlock];
const OTHER_ONCE: &[Op] = &[Op::Lock(EX, 1), Op::Release];
const UP_DOWN: &[Op] = &[Op::Lock(PR, 0), Op::Raise(EX), Op::Lower(PR), Op::Release];
const EX_TWICE: &[Op] = &[Op::Lock(EX, 0), Op::Release, Op::Lock(EX, 0), Op::Release];

/// Those of the ordinary test run.
pub fn small() -> Vec<Space> {
    vec![
        Space::new("take, an end, two").lives(EX_ONCE).cut(EX_ONCE),
        Space::new("wait, a death, two").lives(EX_ONCE).dies(PR_ONCE),
        Space { fair: true, ..Space::new("places, three").lives(EX_ONCE).lives(EX_TRY).lives(EX_TRY) },
        Space::new("up and down, two").dies(PR_UP).dies(EX_DOWN),
        Space::new("up, withdrawn, two").lives(PR_ONCE).lives(PR_UP_HASTY),
        Space::new("weak up and down, two").dies(CR_UP).dies(PW_DOWN),
        Space { offers: true, ..Space::new("hand-over, a death, two").lives(EX_ONCE).dies(EX_ONCE) },
        Space { offers: true, ..Space::new("hand-over, withdrawn, two").lives(EX_ONCE).lives(EX_IMPATIENT) },
        Space {
            offers: true,
            heads: Some(EX),
            ..Space::new("hand-over, recalled, two").lives(EX_ONCE).lives(EX_ONCE)
        },
        Space { offers: true, ..Space::new("hand-over, an end, two").lives(EX_ONCE).cut(EX_ONCE) },
        Space { offers: true, ..Space::new("hand-over and up, two").lives(PR_UP_HASTY).lives(EX_IMPATIENT) },
        Space {
            offers: true,
            heads: Some(PR),
            ..Space::new("owned lowered, two").lives(PR_ONCE).lives(EX_ONCE)
        },
        Space { notices: true, ..Space::new("notices, two").lives(EX_TOLD).lives(PR_TOLD) },
        Space { sweeps: 3, ..Space::new("slot reused, two").lives(EX_TRY).lives(OTHER_ONCE) },
        Space { unbound: true, ..Space::new("slot bound, two").lives(EX_ONCE).lives(PR_ONCE) },
        Space { epochs: 1, offers: true, ..Space::new("epoch turned, two").lives(EX_ONCE).lives(PR_ONCE) },
        Space { takeovers: 1, ..Space::new("taken over, two").lives(EX_ONCE).dies(EX_TRY) },
        Space {
            takeovers: 1,
            offers: true,
            ..Space::new("taken over, handed over, two").lives(EX_ONCE).lives(EX_ONCE)
        },
        Space::new("an end and a death, two").cut(EX_ONCE).dies(EX_TRY),
        Space { unbound: true, ..Space::new("slot bound, a death, two").lives(EX_ONCE).dies(PR_ONCE) },
        Space::new("unlocked by the node").lives(EX_UNLOCK).dies(PR_ONCE),
        Space::new("two threads, one entry").lives(EX_TRY).dies(EX_TRY_TWICE).thread(EX_TRY),
    ]
}

/// Those that take minutes.
pub fn large() -> Vec<Space> {
    vec![
        Space::new("take, a death, three").dies(PR_TRY).dies(PR_TRY).lives(EX_TRY),
        Space::new("take and wait, a death, three").lives(EX_ONCE).lives(PR_ONCE).dies(PR_ONCE),
        Space {
            deaths: 2,
            ..Space::new("take, two deaths, three").dies(EX_ONCE).dies(EX_ONCE).dies(EX_ONCE)
        },
        Space::new("take and wait, an end, three").lives(EX_ONCE).lives(PR_ONCE).cut(EX_ONCE),
        Space::new("up and down, a death, three").lives(PR_UP).lives(EX_DOWN).dies(PR_ONCE),
        Space::new("up and down by turns, two").lives(UP_DOWN).dies(UP_DOWN),
        Space {
            offers: true,
            ..Space::new("hand-over, a death, three").lives(EX_ONCE).lives(EX_ONCE).dies(EX_ONCE)
        },
        Space {
            offers: true,
            ..Space::new("hand-over, withdrawn, a death").lives(EX_ONCE).lives(PR_IMPATIENT).dies(EX_ONCE)
        },
        Space {
            offers: true,
            heads: Some(EX),
            ..Space::new("hand-over, recalled, three").lives(EX_ONCE).lives(EX_ONCE).lives(PR_ONCE)
        },
        Space { sweeps: 4, ..Space::new("slot reused, a death").lives(EX_ONCE).dies(OTHER_ONCE) },
        Space {
            takeovers: 1,
            offers: true,
            ..Space::new("taken over, withdrawn, two").lives(EX_ONCE).dies(EX_IMPATIENT)
        },
        Space { notices: true, ..Space::new("notices, three").lives(EX_TOLD).lives(PR_TOLD).lives(PR_TOLD) },
        Space { takeovers: 1, ..Space::new("taken over, up and down").lives(PR_UP_HASTY).dies(EX_DOWN) },
        Space { takeovers: 2, ..Space::new("taken over twice").lives(EX_ONCE).dies(EX_TRY) },
        Space::new("twice, a death").lives(EX_TWICE).dies(EX_TWICE),
    ]
}
