//! What a program tells its tracer, and the clock of both: a second shared memory, of which nothing but cells is used.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::Geometry;
use oarlock_shm::{Clock, Memory, Spot};

use crate::tracee;

const FIRST: usize = 1_024;
/// Now.
pub(crate) const TIME: usize = FIRST;
/// How often the subject looked at the clock.
pub(crate) const LOOKS: usize = FIRST + 1;
/// Where a program has mapped the segment, and the slate.
pub(crate) const SEGMENT: usize = FIRST + 2;
pub(crate) const OWN: usize = FIRST + 4;
/// A belief.
const BELIEF: usize = FIRST + 8;
/// What a program was found to do wrong, as text.
const COMPLAINT: usize = FIRST + 32;
const COMPLAINT_CELLS: usize = 32;
/// Free for the processes that are killed.
pub(crate) const KILLS: usize = FIRST + 128;
const END: usize = FIRST + 512;

/// The slate.
#[derive(Clone)]
pub(crate) struct Slate {
    pub(crate) memory: Arc<Memory>,
    fd: Arc<OwnedFd>,
}

/// What a program believes after an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Belief {
    /// What it holds: entry, mode and resource.
    pub(crate) held: Option<(u32, Mode, Spot)>,
    /// The entry that waits for an answer.
    pub(crate) waits: Option<u32>,
    /// It looked a name up, and found this.
    pub(crate) found: Option<Spot>,
    /// The local part of a token it drew; none if it got none.
    pub(crate) token: Option<u64>,
    /// It has to knock at the node.
    pub(crate) knock: bool,
    /// The operation said that the lock, or the session, is lost.
    pub(crate) lost: bool,
    /// It read a value block that nobody wrote.
    pub(crate) torn: bool,
}

impl Slate {
    /// A new one, to be shared with forks.
    pub(crate) fn new() -> Slate {
        let geometry = Geometry { slots: 1, areas: 1, entries: 64 };
        let (memory, fd) = Memory::create("slate", geometry, 0).expect("a slate");
        Slate { memory, fd: Arc::new(fd) }
    }

    /// The same in a fork.
    pub(crate) fn open(&self) -> Slate {
        Slate { memory: Memory::open(&*self.fd).expect("the slate"), fd: Arc::clone(&self.fd) }
    }

    pub(crate) fn clear(&self) {
        (FIRST..END).for_each(|cell| self.set(cell, 0));
    }

    pub(crate) fn set(&self, cell: usize, bits: u64) {
        self.memory.scribble(cell, bits);
    }

    pub(crate) fn get(&self, cell: usize) -> u64 {
        self.memory.peek(cell)
    }

    /// A program says where it has mapped what.
    pub(crate) fn say_ranges(&self, segment: &Arc<Memory>) {
        for (cell, memory) in [(SEGMENT, segment), (OWN, &self.memory)] {
            let (start, end) = tracee::range(memory);
            self.set(cell, start);
            self.set(cell + 1, end);
        }
    }

    pub(crate) fn range(&self, cell: usize) -> (u64, u64) {
        (self.get(cell), self.get(cell + 1))
    }

    pub(crate) fn say(&self, belief: Belief) {
        let (entry, mode, spot) = match belief.held {
            Some((entry, mode, spot)) => (u64::from(entry), 1 + mode as u64, Some(spot)),
            None => (0, 0, None),
        };
        let spot_cells =
            |spot: Option<Spot>| spot.map_or((0, 0), |spot| (1 + u64::from(spot.slot), spot.generation));
        let ((slot, generation), (found, found_generation)) = (spot_cells(spot), spot_cells(belief.found));
        let cells = [
            entry,
            mode,
            slot,
            generation,
            belief.waits.map_or(0, |entry| 1 + u64::from(entry)),
            found,
            found_generation,
            belief.token.map_or(0, |token| 1 + token),
            belief.knock.into(),
            belief.lost.into(),
            belief.torn.into(),
        ];
        cells.into_iter().enumerate().for_each(|(cell, bits)| self.set(BELIEF + cell, bits));
    }

    pub(crate) fn belief(&self) -> Belief {
        let cell = |cell: usize| self.get(BELIEF + cell);
        let spot = |slot: usize| {
            let number = cell(slot).checked_sub(1)?;
            Some(Spot { slot: number as u32, generation: cell(slot + 1) })
        };
        let mode = cell(1).checked_sub(1).and_then(|mode| Mode::from_number(mode as u8));
        Belief {
            held: mode.zip(spot(2)).map(|(mode, spot)| (cell(0) as u32, mode, spot)),
            waits: cell(4).checked_sub(1).map(|entry| entry as u32),
            found: spot(5),
            token: cell(7).checked_sub(1),
            knock: cell(8) != 0,
            lost: cell(9) != 0,
            torn: cell(10) != 0,
        }
    }

    /// Writes down what is wrong.
    pub(crate) fn complain(&self, what: &str) {
        let mut bytes = what.bytes().take(8 * COMPLAINT_CELLS);
        for cell in 0..COMPLAINT_CELLS {
            let chunk: [u8; 8] = std::array::from_fn(|_| bytes.next().unwrap_or(0));
            self.set(COMPLAINT + cell, u64::from_le_bytes(chunk));
        }
    }

    /// What was wrong, if anything.
    pub(crate) fn complaint(&self) -> Result<(), String> {
        let bytes: Vec<u8> =
            (0..COMPLAINT_CELLS).flat_map(|cell| self.get(COMPLAINT + cell).to_le_bytes()).collect();
        let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
        if text.is_empty() { Ok(()) } else { Err(text) }
    }
}

/// A clock that stands where the slate says.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) slate: Slate,
    /// The looks of the subject are counted.
    pub(crate) counts: bool,
}

impl Clock for Watch {
    fn coarse(&self) -> u64 {
        if self.counts {
            self.slate.set(LOOKS, self.slate.get(LOOKS) + 1);
        }
        self.slate.get(TIME)
    }
}
