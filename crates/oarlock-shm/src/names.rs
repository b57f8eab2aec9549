//! Names to slots, for callers: hash, compare, and see that the slot did not change hands meanwhile (M7).
//!
//! The index has a level for each power of two; the header says which one is in use. Each entry of it holds eight bits
//! of the hash and a slot, so that most names that are not meant cost no look at their slot. The index is a help, not
//! the truth: a name that is not found costs its caller a question to the node, and a slot that is found is compared.

use oarlock_layout::limit::NAME_BYTES_MAX;
use oarlock_layout::segment::Geometry;
use oarlock_layout::segment::geometry::{
    GRANULE_CELLS, INLINE_BYTES, INLINE_LONG_BYTES, PROBES_MAX, header, slot,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::memory::Memory;
use crate::planted::{Bug, planted};
use crate::sync::{AtomicU64, FIELD, LOOK, Place, fence};

/// A slot, as it is at one time: with the generation it is a resource, not just a place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Spot {
    /// The slot.
    pub slot: u32,
    /// Its generation then.
    pub generation: u64,
}

/// An entry of the index: what is needed of it.
pub(crate) mod index {
    /// Never used: a search ends here.
    pub(crate) const EMPTY: u32 = 0;
    /// Used and free again: a search goes on.
    pub(crate) const GONE: u32 = 0x00ff_ffff;

    /// The entry of a slot.
    pub(crate) const fn entry(hash: u64, slot: u32) -> u32 {
        fingerprint(hash) << 24 | (slot + 1)
    }

    /// Eight bits of the hash that do not choose the place.
    pub(crate) const fn fingerprint(hash: u64) -> u32 {
        (hash >> 56) as u32
    }

    /// The slot of an entry.
    pub(crate) const fn slot(entry: u32) -> u32 {
        (entry & 0x00ff_ffff).wrapping_sub(1)
    }
}

/// Hash of a name: the low bits choose its place in the index, the high ones its fingerprint.
pub(crate) fn hash(name: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(name, seed)
}

const LENGTH_SHIFT: u32 = 24;
/// Callers may use the value block.
pub(crate) const VALUE_READY: u64 = 1;

/// Hash and length of a name as they stand in its slot, without flags.
pub(crate) const fn tag(hash: u64, length: usize) -> u64 {
    hash & 0xffff_ffff_0000_0000 | (length as u64) << LENGTH_SHIFT
}

/// A tag without its flags.
pub(crate) const fn untagged(bits: u64) -> u64 {
    bits & !((1 << LENGTH_SHIFT) - 1)
}

/// A name cut into cells.
pub(crate) struct Cut {
    pub(crate) cells: [u64; NAME_BYTES_MAX.div_ceil(8)],
    pub(crate) length: usize,
}

impl Cut {
    #[inline]
    pub(crate) fn new(name: &[u8]) -> Cut {
        let mut cells = [0; NAME_BYTES_MAX.div_ceil(8)];
        let (whole, rest) = name.as_chunks::<8>();
        for (cell, chunk) in cells.iter_mut().zip(whole) {
            *cell = u64::from_le_bytes(*chunk);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            cells[whole.len()] = u64::from_le_bytes(last);
        }
        Cut { cells, length: name.len() }
    }

    /// Cells that lie in granules.
    pub(crate) fn outside(&self) -> &[u64] {
        if self.length <= INLINE_BYTES {
            &[]
        } else {
            &self.cells[INLINE_LONG_BYTES / 8..self.length.div_ceil(8)]
        }
    }

    /// Granules that are needed for them.
    pub(crate) fn granules(&self) -> u32 {
        self.outside().len().div_ceil(GRANULE_CELLS) as u32
    }
}

/// Do cells begin with these bytes, and fill up the last one with zeros?
#[inline]
fn same(bytes: &[u8], cells: &[AtomicU64]) -> bool {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut pairs = whole.iter().zip(cells);
    pairs.all(|(chunk, cell)| cell.load(FIELD) == u64::from_le_bytes(*chunk))
        && (rest.is_empty() || cells[whole.len()].load(FIELD) == last(bytes, rest))
}

/// The cell that is not full: `rest` of all the bytes.
#[inline]
fn last(bytes: &[u8], rest: &[u8]) -> u64 {
    match bytes.last_chunk() {
        // What comes before them is shifted out: cheaper than to copy a number of bytes that is not known.
        Some(chunk) => u64::from_le_bytes(*chunk) >> (64 - 8 * rest.len()),
        None => rest.iter().rev().fold(0, |cell, byte| cell << 8 | u64::from(*byte)),
    }
}

impl Memory {
    /// The slot of a name, if the index knows it.
    #[inline]
    pub(crate) fn find(&self, name: &[u8]) -> Option<Spot> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let hash = hash(name, self[header::SEED].load(FIELD));
        let level =
            (self[header::INDEX].load(LOOK) as u32).clamp(Geometry::INDEX_LEVEL_MIN, self.firsts.level_max);
        let (first, mask) = (self.index_level(level), (1u32 << level) - 1);
        for probe in 0..PROBES_MAX {
            let place = (hash as u32).wrapping_add(probe) & mask;
            let cell = self[first + place as usize / 2].load(LOOK);
            let entry = (cell >> (32 * (place & 1))) as u32;
            if entry == index::EMPTY {
                return None;
            }
            let slot = index::slot(entry);
            if entry >> 24 != index::fingerprint(hash) || slot >= self.geometry().slots {
                continue;
            }
            if let Some(generation) = self.bears(slot, hash, name) {
                return Some(Spot { slot, generation });
            }
        }
        None
    }

    /// Is it a name of which the slot has the first part and granules have the others?
    #[inline(never)]
    fn same_long(&self, name: &[u8], cells: &[AtomicU64]) -> bool {
        let (inside, outside) = name.split_at(INLINE_LONG_BYTES);
        let Ok(first) = u32::try_from(cells[INLINE_LONG_BYTES / 8].load(FIELD)) else { return false };
        let granules = outside.len().div_ceil(GRANULE_CELLS * 8) as u32;
        let there = first.checked_add(granules).is_some_and(|end| end <= self.geometry().granules());
        there
            && same(inside, cells)
            && (first..).zip(outside.chunks(GRANULE_CELLS * 8)).all(|(n, part)| same(part, self.granule(n)))
    }

    /// The generation in which a slot bears this name; none if it bears another.
    #[inline(never)]
    fn bears(&self, number: u32, hash: u64, name: &[u8]) -> Option<u64> {
        let line = self.slot(number);
        let generation = line[slot::GENERATION].load(LOOK);
        if generation & 1 == 0 || untagged(line[slot::TAG].load(FIELD)) != tag(hash, name.len()) {
            return None;
        }
        let cells = &line[slot::NAME..];
        let same = if name.len() <= INLINE_BYTES { same(name, cells) } else { self.same_long(name, cells) };
        if !same {
            return None;
        }
        fence(Place::Name);
        let still = line[slot::GENERATION].load(FIELD) == generation || planted(Bug::NoSlotGeneration);
        still.then_some(generation)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// Of each length, and with each byte changed: the hash, which nearly always differs too, is not asked.
    #[test]
    fn cells_are_the_same_as_a_name_and_as_no_other() {
        for length in 1..=NAME_BYTES_MAX {
            let mut name: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
            let cells = Cut::new(&name).cells.map(AtomicU64::new);
            assert!(same(&name, &cells), "{length} bytes");
            for at in 0..length {
                name[at] ^= 0x80;
                assert!(!same(&name, &cells), "{length} bytes, byte {at}");
                name[at] ^= 0x80;
            }
            assert!(
                length < 2 || length % 8 == 1 || !same(&name[..length - 1], &cells),
                "one less than {length}"
            );
        }
    }

    /// The same of a long one, part of which lies in granules; and granules that there are not are nobody's.
    #[test]
    fn a_long_name_is_compared_to_its_last_byte() {
        let memory = Memory::private(Geometry { slots: 4, areas: 1, entries: 64 }, 3);
        for length in INLINE_BYTES + 1..=NAME_BYTES_MAX {
            let mut name: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
            let (cut, first) = (Cut::new(&name), 2);
            let mut inside = [0; INLINE_LONG_BYTES / 8 + 1];
            inside[..INLINE_LONG_BYTES / 8].copy_from_slice(&cut.cells[..INLINE_LONG_BYTES / 8]);
            inside[INLINE_LONG_BYTES / 8] = u64::from(first);
            let inside = inside.map(AtomicU64::new);
            for (granule, bits) in (first..).zip(cut.outside().chunks(GRANULE_CELLS)) {
                for (cell, bits) in memory.granule(granule).iter().zip(bits) {
                    cell.store(*bits, FIELD);
                }
            }
            assert!(memory.same_long(&name, &inside), "{length} bytes");
            for at in 0..length {
                name[at] ^= 0x80;
                assert!(!memory.same_long(&name, &inside), "{length} bytes, byte {at}");
                name[at] ^= 0x80;
            }
            for nowhere in [u64::from(memory.geometry().granules()), u32::MAX.into(), 1 << 40] {
                inside[INLINE_LONG_BYTES / 8].store(nowhere, FIELD);
                assert!(!memory.same_long(&name, &inside), "granule {nowhere}");
            }
        }
    }
}
