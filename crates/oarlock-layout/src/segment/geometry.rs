//! Where things lie in a segment, in cells of eight bytes.
//!
//! ```text
//!   header │ bells │ slots │ tails │ values │ index │ long names │ areas
//! ```
//!
//! | part | cells each | what |
//! | --- | --- | --- |
//! | header | 64 | what it is, geometry, epoch and lease, index in use, doorbell |
//! | bells | 1 bit a slot, in levels | slots that a caller rang for |
//! | slot | 8, one cache line | grant word, generation, users, tag, name up to 32 bytes |
//! | tail | 4 | fence, local token count, waiter offered, version of the value block |
//! | value | 20 | two buffers of sequence, 64 bytes and checksum |
//! | index | half | name hash to slot, open addressing; a level of each power of two |
//! | long names | 4 a granule | what of a name does not fit its slot |
//! | area | 512 and 16 an entry | session word, pages touched, entries |
//!
//! Places are numbers, never pointers. Memory costs something only where it was touched: the sizes are bounds.

use super::grant::Grant;
use crate::limit::{NAME_BYTES_MAX, SESSIONS_MAX, VALUE_BYTES};

/// First cell: says what this is. The last byte grows with each change of layout.
pub const MAGIC: u64 = u64::from_le_bytes(*b"oarlock\x02");
/// Cells of the header: four lines for what seldom changes, and one for each of two that do.
pub const HEADER_CELLS: usize = 64;
/// Cells of a slot: one cache line, so that word, generation and name cost one miss.
pub const SLOT_CELLS: usize = 8;
/// Cells of what is needed less often about a slot.
pub const TAIL_CELLS: usize = 4;
/// Cells of one buffer of a value block: sequence and validity, the bytes, a checksum over both.
pub const BUFFER_CELLS: usize = 2 + VALUE_BYTES / 8;
/// Cells of a value block: two buffers.
pub const VALUE_CELLS: usize = 2 * BUFFER_CELLS;
/// Cells of a granule of long names.
pub const GRANULE_CELLS: usize = 4;
/// Cells of an entry: two cache lines, since processors fetch lines in pairs and entries belong to threads.
pub const ENTRY_CELLS: usize = 16;
/// Cells of the head of an area: one page, so that areas do not share pages.
pub const AREA_HEAD_CELLS: usize = 512;
/// Bytes of a name that fit a slot.
pub const INLINE_BYTES: usize = 32;
/// Bytes that stay in the slot when the name is longer: the last cell then names the granules.
pub const INLINE_LONG_BYTES: usize = 24;
/// Entries of a page of an area.
pub const ENTRIES_PER_PAGE: usize = 512 / ENTRY_CELLS;
/// Entries that may name any slot. The rest is found from the slot: a bounded search either way (M4).
pub const HOT_ENTRIES: u32 = 16;
/// Those of them that belong to one thread of their program each, which takes them without asking the others.
pub const SEATS: u32 = 8;
/// How far from its place by hash an entry may lie.
pub const WINDOW: u32 = 32;
/// Longest search in the index before a name counts as not there.
pub const PROBES_MAX: u32 = 64;

/// Places in the header.
pub mod header {
    /// [`MAGIC`](super::MAGIC).
    pub const MAGIC: usize = 0;
    /// Slots there are.
    pub const SLOTS: usize = 1;
    /// Areas there are.
    pub const AREAS: usize = 2;
    /// Entries of an area.
    pub const ENTRIES: usize = 3;
    /// Seed of the name hash.
    pub const SEED: usize = 4;
    /// Turned when this node's lease is lost or its run ends (M13). On a line with the lease: both are read by
    /// every grant and seldom written.
    pub const EPOCH: usize = 8;
    /// Up to when what was granted is to be believed, in nanoseconds of CLOCK_MONOTONIC (L1): holders look at this.
    pub const LEASE_UNTIL: usize = 9;
    /// Up to when anything new is granted, on the same clock: some time before that, the lease is at risk (L6). Grants
    /// look at this one instead, so that they compare once.
    pub const GRANT_UNTIL: usize = 11;
    /// Level of the index in use.
    pub const INDEX: usize = 10;
    /// The node sleeps: whoever rings must knock. On a line of its own.
    pub const SLEEPING: usize = 16;
}

/// Places in a slot.
pub mod slot {
    /// The grant word.
    pub const WORD: usize = 0;
    /// Odd while bound; grows at each binding and each eviction (M7).
    pub const GENERATION: usize = 1;
    /// Which sessions have an entry here, a bit for each number modulo 64 (M4).
    pub const USERS: usize = 2;
    /// Hash, length and flags of the name.
    pub const TAG: usize = 3;
    /// The name.
    pub const NAME: usize = 4;
}

/// Places in a tail.
pub mod tail {
    /// The fence of the last grant of the master.
    pub const FENCE: usize = 0;
    /// Counts exclusive grants that asked for a token.
    pub const LOCAL: usize = 1;
    /// The first waiter, if a releaser may hand over to it (M10).
    pub const OFFERED: usize = 2;
    /// Version of the value block; its low bit names the buffer that is valid.
    pub const VERSION: usize = 3;
}

/// Places in the head of an area.
pub mod area {
    /// The session word: turned when the session ends (M12).
    pub const SESSION: usize = 0;
    /// Pages of entries that were ever used, a bit each. The first has the seats, and counts as used without its bit.
    pub const TOUCHED: usize = 8;
    /// Cells of that.
    pub const TOUCHED_CELLS: usize = 64;
}

/// Places in an entry.
pub mod entry {
    /// The state word.
    pub const STATE: usize = 0;
    /// Slot in the low half, flags in the high half.
    pub const SLOT: usize = 1;
    /// Generation of the slot.
    pub const SLOT_GENERATION: usize = 2;
    /// What others want (M5): modes a bit each in the low byte, the entry's generation above.
    pub const TOLD: usize = 3;
    /// As the program gave it.
    pub const OWNER: usize = 4;
    /// As the program gave it.
    pub const TRANSACTION: usize = 5;
    /// When it was granted, in nanoseconds.
    pub const SINCE: usize = 6;
    /// Grants and changes of mode in this entry without the node; never falls while the area has one session.
    pub const GRANTS: usize = 7;
    /// Releases that let need fall below what is owned (C15, M9).
    pub const CONSIDERED: usize = 8;
    /// Releases that handed over to a waiter.
    pub const HANDED_OVER: usize = 9;
    /// On which processor its owner went to sleep.
    pub const SLEEPS_ON: usize = 10;
}

/// How large a segment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Resources at most.
    pub slots: u32,
    /// Sessions at most.
    pub areas: u32,
    /// Entries of each session.
    pub entries: u32,
}

/// Why a segment cannot be of this size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// More than the bits of an index entry can name.
    #[error("a segment has 1 to {max} slots, not {0}", max = Geometry::SLOTS_MAX)]
    Slots(u32),
    /// More than the bits of an offer can name.
    #[error("a segment has 1 to {max} areas, not {0}", max = Geometry::AREAS_MAX)]
    Areas(u32),
    /// Too few to search in, or more than a lock number can name.
    #[error("an area has {min} to {max} entries in whole pages, not {0}", min = Geometry::ENTRIES_MIN, max = Geometry::ENTRIES_MAX)]
    Entries(u32),
}

impl Geometry {
    /// An index entry has 24 bits for a slot.
    pub const SLOTS_MAX: u32 = (1 << 24) - 2;
    /// An offer has 12 bits for an area.
    pub const AREAS_MAX: u32 = SESSIONS_MAX as u32;
    /// The entries that may name any slot, and one window.
    pub const ENTRIES_MIN: u32 = 64;
    /// A lock number has 14 bits for an entry.
    pub const ENTRIES_MAX: u32 = 1 << 14;

    /// For a lockspace of a node.
    pub const fn of_space(resources_max: u32) -> Geometry {
        Geometry { slots: resources_max, areas: Geometry::AREAS_MAX, entries: Geometry::ENTRIES_MAX }
    }

    /// Checks the bounds.
    pub const fn check(self) -> Result<Geometry, GeometryError> {
        if self.slots == 0 || self.slots > Geometry::SLOTS_MAX {
            return Err(GeometryError::Slots(self.slots));
        }
        if self.areas == 0 || self.areas > Geometry::AREAS_MAX {
            return Err(GeometryError::Areas(self.areas));
        }
        let entries = self.entries;
        if entries < Geometry::ENTRIES_MIN
            || entries > Geometry::ENTRIES_MAX
            || !(entries as usize).is_multiple_of(ENTRIES_PER_PAGE)
        {
            return Err(GeometryError::Entries(entries));
        }
        Ok(self)
    }

    const fn bell_cells(self) -> usize {
        let (mut total, mut level) = (0, self.slots as usize);
        loop {
            level = level.div_ceil(64);
            total += level;
            if level <= 1 {
                return total.next_multiple_of(8);
            }
        }
    }

    /// The first cell of the bells.
    pub const fn bells(self) -> usize {
        HEADER_CELLS
    }

    /// The first cell of a slot.
    pub const fn slot(self, slot: u32) -> usize {
        self.bells() + self.bell_cells() + slot as usize * SLOT_CELLS
    }

    /// The first cell of a slot's tail.
    pub const fn tail(self, slot: u32) -> usize {
        self.slot(self.slots) + slot as usize * TAIL_CELLS
    }

    /// The first cell of a slot's value block.
    pub const fn value(self, slot: u32) -> usize {
        self.tail(self.slots) + slot as usize * VALUE_CELLS
    }

    /// The levels of the index: level `k` has `2^k` entries, two in a cell.
    pub const INDEX_LEVEL_MIN: u32 = 6;

    /// The level of the index that keeps every slot at half load.
    pub const fn index_level_max(self) -> u32 {
        let needed = (self.slots as u64 * 2).next_power_of_two().trailing_zeros();
        if needed < Geometry::INDEX_LEVEL_MIN { Geometry::INDEX_LEVEL_MIN } else { needed }
    }

    /// The first cell of a level of the index.
    pub const fn index(self, level: u32) -> usize {
        let before = (1usize << level) - (1 << Geometry::INDEX_LEVEL_MIN);
        self.value(self.slots) + before / 2
    }

    /// Granules of long names: as many as every slot would need for the longest name.
    pub const fn granules(self) -> u32 {
        let most = (NAME_BYTES_MAX - INLINE_LONG_BYTES).div_ceil(GRANULE_CELLS * 8) as u32;
        self.slots.saturating_mul(most)
    }

    /// The first cell of a granule.
    pub const fn granule(self, granule: u32) -> usize {
        self.index(self.index_level_max() + 1) + granule as usize * GRANULE_CELLS
    }

    /// The first cell of an area; areas begin with a page.
    pub const fn area(self, area: u32) -> usize {
        let first = self.granule(self.granules()).next_multiple_of(512);
        first + area as usize * (AREA_HEAD_CELLS + self.entries as usize * ENTRY_CELLS)
    }

    /// The first cell of an entry.
    pub const fn entry(self, area: u32, entry: u32) -> usize {
        self.area(area) + AREA_HEAD_CELLS + entry as usize * ENTRY_CELLS
    }

    /// Cells in all.
    pub const fn cells(self) -> usize {
        self.area(self.areas)
    }
}

const _: () = assert!(size_of::<Grant>() == 8, "a grant word is one cell");
const _: () =
    assert!(Geometry::ENTRIES_MAX as usize / ENTRIES_PER_PAGE <= 64 * area::TOUCHED_CELLS, "a bit a page");
const _: () = assert!(HOT_ENTRIES + WINDOW <= Geometry::ENTRIES_MIN, "an area has room for a window");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_one_behind_the_other() {
        for slots in [1, 3, 64, 65, 5000, 1 << 20] {
            let g = Geometry { slots, areas: 3, entries: 64 }.check().unwrap();
            let borders = [
                g.bells(),
                g.slot(0),
                g.tail(0),
                g.value(0),
                g.index(Geometry::INDEX_LEVEL_MIN),
                g.index(g.index_level_max() + 1),
                g.area(0),
                g.area(1),
                g.cells(),
            ];
            assert!(borders.is_sorted() && borders.windows(2).all(|w| w[0] < w[1]), "{borders:?}");
            assert!(g.slot(0).is_multiple_of(8), "slots lie on cache lines");
            assert!(g.cells().is_multiple_of(512), "a segment is whole pages");
            assert!(g.area(0).is_multiple_of(512) && g.entry(1, 1).is_multiple_of(8));
            assert!(1u64 << g.index_level_max() >= 2 * u64::from(slots));
        }
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        let g = Geometry::of_space(1 << 20);
        assert_eq!(g.check(), Ok(g));
        for bad in [
            Geometry { slots: 0, ..g },
            Geometry { slots: 1 << 24, ..g },
            Geometry { areas: 0, ..g },
            Geometry { areas: 4097, ..g },
            Geometry { entries: 32, ..g },
            Geometry { entries: 65, ..g },
            Geometry { entries: 1 << 15, ..g },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
