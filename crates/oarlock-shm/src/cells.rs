//! Parts of a segment by name, each with one check of its bounds.

use oarlock_layout::segment::geometry::{
    AREA_HEAD_CELLS, BUFFER_CELLS, ENTRY_CELLS, GRANULE_CELLS, TAIL_CELLS,
};
use oarlock_layout::segment::{Geometry, Grant, State};

use crate::memory::{Line, Memory};
use crate::sync::{AtomicU64, LOOK, TAKE};

impl Memory {
    #[inline(always)]
    fn part<const N: usize>(&self, first: usize) -> &[AtomicU64; N] {
        self[first..first.wrapping_add(N)].first_chunk().expect("so many cells")
    }

    /// A line; one that does not exist is our own mistake: whoever takes a number from a segment compares it first.
    #[inline(always)]
    pub(crate) fn line(&self, number: usize) -> &Line {
        &self.lines()[number]
    }

    /// A slot.
    #[inline(always)]
    pub(crate) fn slot(&self, slot: u32) -> &Line {
        self.line(self.firsts.slot.wrapping_add(slot as usize))
    }

    /// What is needed less often about a slot.
    #[inline(always)]
    pub(crate) fn tail(&self, slot: u32) -> &[AtomicU64; TAIL_CELLS] {
        self.part(self.firsts.tail.wrapping_add(TAIL_CELLS * slot as usize))
    }

    /// The line where an area begins.
    #[inline(always)]
    pub(crate) fn area_line(&self, area: u32) -> usize {
        self.firsts.area.wrapping_add(self.firsts.area_step.wrapping_mul(area as usize))
    }

    /// The head of an area.
    #[inline(always)]
    pub(crate) fn area(&self, area: u32) -> &[AtomicU64] {
        let first = self.area_line(area);
        self.lines()[first..first + AREA_HEAD_CELLS / 8].as_flattened()
    }

    /// An entry.
    #[inline(always)]
    pub(crate) fn entry(&self, area: u32, entry: u32) -> Own<'_> {
        self.own(self.area_line(area), entry)
    }

    /// An entry of the area that begins with this line.
    #[inline(always)]
    pub(crate) fn own(&self, area_line: usize, entry: u32) -> Own<'_> {
        // Areas begin with a page, so both lines of an entry make a pair, and are found with one check.
        let first = area_line.wrapping_add(AREA_HEAD_CELLS / 8) / 2;
        Own(&self.lines().as_chunks().0[first.wrapping_add(entry as usize)])
    }

    /// The first cell of a level of the index.
    #[inline(always)]
    pub(crate) fn index_level(&self, level: u32) -> usize {
        let before = (1usize << level) - (1 << Geometry::INDEX_LEVEL_MIN);
        self.firsts.index + before / 2
    }

    /// A buffer of a slot's value block.
    pub(crate) fn buffer(&self, slot: u32, which: usize) -> &[AtomicU64; BUFFER_CELLS] {
        self.part(self.geometry().value(slot) + which * BUFFER_CELLS)
    }

    /// A granule of long names.
    #[inline(always)]
    pub(crate) fn granule(&self, granule: u32) -> &[AtomicU64; GRANULE_CELLS] {
        self.part(self.firsts.granule.wrapping_add(GRANULE_CELLS * granule as usize))
    }
}

/// The two lines of an entry, by the places of its cells.
#[derive(Clone, Copy)]
pub(crate) struct Own<'a>(&'a [Line; 2]);

const _: () = assert!(ENTRY_CELLS == 16 && AREA_HEAD_CELLS.is_multiple_of(16), "an entry is a pair of lines");

impl std::ops::Index<usize> for Own<'_> {
    type Output = AtomicU64;

    #[inline(always)]
    fn index(&self, cell: usize) -> &AtomicU64 {
        &self.0[cell / 8][cell % 8]
    }
}

/// The grant word in a cell.
#[inline(always)]
pub(crate) fn grant(cell: &AtomicU64) -> Grant {
    Grant(cell.load(LOOK))
}

/// The state word in a cell.
#[inline(always)]
pub(crate) fn state(cell: &AtomicU64) -> State {
    State(cell.load(LOOK))
}

/// Exchanges a grant word; the word that was there instead if it was another.
#[inline(always)]
pub(crate) fn exchange_grant(cell: &AtomicU64, from: Grant, to: Grant) -> Result<(), Grant> {
    cell.compare_exchange(from.0, to.0, TAKE, LOOK).map(|_| ()).map_err(Grant)
}

/// Exchanges a state word; the word that was there instead if it was another.
#[inline(always)]
pub(crate) fn exchange_state(cell: &AtomicU64, from: State, to: State) -> Result<(), State> {
    cell.compare_exchange(from.0, to.0, TAKE, LOOK).map(|_| ()).map_err(State)
}
