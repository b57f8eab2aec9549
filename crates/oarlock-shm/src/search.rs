//! Where an entry may lie: a search that is bounded from the slot to its entries, and from a page to its locks (M4).

use oarlock_layout::segment::Geometry;
use oarlock_layout::segment::geometry::{ENTRIES_PER_PAGE, HOT_ENTRIES, SEATS, WINDOW, area};

use crate::memory::Memory;
use crate::sync::{FIELD, LOOK};

/// First of the entries in which locks on a slot may lie beside the hot ones.
fn window(geometry: Geometry, slot: u32) -> u32 {
    let places = geometry.entries - HOT_ENTRIES - WINDOW + 1;
    let spread = (u64::from(slot) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    HOT_ENTRIES + ((spread * u64::from(places)) >> 32) as u32
}

/// Which entry a thread tries first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct First(u32);

impl First {
    /// The seat of this thread: while it has it, no other thread of this program says so, be it on any segment. Taking it
    /// costs no exchange.
    ///
    /// # Panics
    /// If there is no such seat; there are [`SEATS`].
    pub const fn seat(number: u32) -> First {
        assert!(number < SEATS, "no such seat");
        First(number)
    }

    /// One that all threads share; different numbers spread them.
    pub const fn shared(number: u32) -> First {
        First(number | 1 << 31)
    }

    /// The entry that is nobody else's.
    #[inline(always)]
    pub(crate) const fn own(self) -> Option<u32> {
        if self.0 < SEATS { Some(self.0) } else { None }
    }
}

/// The entries that any thread may take for a lock on a slot, in the order to try them.
pub(crate) fn reach(geometry: Geometry, slot: u32, first: First) -> impl Iterator<Item = u32> {
    const SHARED: u32 = HOT_ENTRIES - SEATS;
    let start = first.0 & !(1 << 31);
    let hot = (0..SHARED).map(move |n| SEATS + start.wrapping_add(n) % SHARED);
    let first = window(geometry, slot);
    hot.chain(first..first + WINDOW)
}

/// Every entry in which a lock on a slot can be: one that waited for a slot not yet bound lies where those without a
/// slot do.
pub(crate) fn every(geometry: Geometry, slot: u32) -> impl Iterator<Item = u32> {
    let (own, none) = (window(geometry, slot), window(geometry, u32::MAX));
    let others = (none..none + WINDOW).filter(move |entry| !(own..own + WINDOW).contains(entry));
    (0..HOT_ENTRIES).chain(own..own + WINDOW).chain(others)
}

/// Notes that a page of entries is in use. Once set it stays, so this is mostly one look. The page of the seats needs none.
#[inline(always)]
pub(crate) fn touch(memory: &Memory, number: u32, entry: u32) {
    let page = entry as usize / ENTRIES_PER_PAGE;
    let cell = &memory.area(number)[area::TOUCHED + page / 64];
    let bit = 1 << (page % 64);
    if cell.load(FIELD) & bit == 0 {
        cell.fetch_or(bit, crate::sync::TAKE);
    }
}

/// The entries of an area that were ever used, and its seats. Other memory that was never used is not looked at, or it would
/// become real.
pub(crate) fn touched(memory: &Memory, number: u32) -> impl Iterator<Item = u32> {
    let entries = memory.geometry().entries;
    let pages = (entries as usize / ENTRIES_PER_PAGE) as u32;
    let cells = pages.div_ceil(64) as usize;
    (0..cells).flat_map(move |cell| {
        // A seat is taken without a note of it.
        let seats = u64::from(cell == 0);
        let bits = memory.area(number)[area::TOUCHED + cell].load(LOOK) | seats;
        let page = move |bit| (cell * 64) as u32 + bit;
        (0..64).filter(move |bit| bits >> bit & 1 != 0).map(page).filter(move |page| *page < pages).flat_map(
            |page| {
                let first = page * ENTRIES_PER_PAGE as u32;
                first..first + ENTRIES_PER_PAGE as u32
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_reaches_a_window_within_its_area() {
        for entries in [64, 96, 1 << 14] {
            let geometry = Geometry { slots: 1000, areas: 1, entries };
            for slot in (0..1000).chain([u32::MAX]) {
                let reach: Vec<u32> = reach(geometry, slot, First::shared(slot)).collect();
                assert_eq!(reach.len(), (HOT_ENTRIES - SEATS + WINDOW) as usize);
                assert!(reach.iter().all(|entry| (SEATS..entries).contains(entry)));
            }
        }
    }
}
