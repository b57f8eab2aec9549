//! The node's side of names: fills the index that callers search, and finds room for long names.
//!
//! What callers may have done to the index does not matter here: the node finds names in its own table. It writes,
//! and looks only for a place to write to.

use oarlock_layout::codec::{Malformed, Reader, Writer};
use oarlock_layout::segment::Geometry;
use oarlock_layout::segment::geometry::{
    GRANULE_CELLS, INLINE_BYTES, INLINE_LONG_BYTES, PROBES_MAX, header, slot,
};

use super::written::{below, numbers, read_numbers};
use crate::memory::Memory;
use crate::names::{Cut, index, tag};
use crate::sync::{FIELD, SHOW};

/// Slots that are carried to the next level with each name that comes: it is complete long before it is full.
const CARRY: u32 = 64;

#[derive(Clone, Debug)]
pub(super) struct Directory {
    level: u32,
    /// A larger level is being filled: which, and the next slot to carry there.
    growing: Option<(u32, u32)>,
    granules: Granules,
}

impl Directory {
    pub(super) fn new() -> Directory {
        Directory { level: Geometry::INDEX_LEVEL_MIN, growing: None, granules: Granules::default() }
    }

    /// The level as a segment says it, for a node that takes over.
    pub(super) fn adopt(memory: &Memory) -> Directory {
        let level = (memory[header::INDEX].load(FIELD) as u32)
            .clamp(Geometry::INDEX_LEVEL_MIN, memory.geometry().index_level_max());
        // Granules in use are not known; none is given out twice as long as new ones are taken beyond all of them.
        let granules = Granules { next: memory.geometry().granules(), free: Default::default() };
        Directory { level, growing: None, granules }
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.level);
        out.option(self.growing.as_ref(), |out, (level, carried)| {
            out.u32(*level);
            out.u32(*carried);
        });
        out.u32(self.granules.next);
        self.granules.free.iter().for_each(|runs| numbers(out, runs.iter().copied()));
    }

    pub(super) fn decode(r: &mut Reader<'_>, geometry: Geometry) -> Result<Directory, Malformed> {
        let level = |r: &mut Reader<'_>| below(r, "index level", geometry.index_level_max() + 1);
        let mut directory = Directory { level: level(r)?, ..Directory::new() };
        directory.growing = r.option("growing index", |r| Ok((level(r)?, r.u32()?)))?;
        let granules = geometry.granules();
        directory.granules.next = below(r, "granules", granules.saturating_add(1))?;
        for runs in &mut directory.granules.free {
            *runs = read_numbers(r, "granules", granules)?;
        }
        Ok(directory)
    }

    /// Writes a name into its slot, which nobody takes for a name's as long as its generation is even. The first of its
    /// granules, if it needs any; none if there is no room for a long name, which callers then do not find.
    pub(super) fn write_name(&mut self, memory: &Memory, number: u32, hash: u64, name: &[u8]) -> Option<u32> {
        let cut = Cut::new(name);
        let line = memory.slot(number);
        let cells = &line[slot::NAME..];
        let mut first = None;
        if cut.length <= INLINE_BYTES {
            for (cell, bits) in cells.iter().zip(cut.cells) {
                cell.store(bits, FIELD);
            }
        } else {
            let inline = INLINE_LONG_BYTES / 8;
            for (cell, bits) in cells[..inline].iter().zip(cut.cells) {
                cell.store(bits, FIELD);
            }
            first = self.granules.take(cut.granules(), memory.geometry().granules());
            cells[inline].store(first.map_or(u64::MAX, u64::from), FIELD);
            let outside =
                first.into_iter().flat_map(|first| (first..).zip(cut.outside().chunks(GRANULE_CELLS)));
            for (granule, bits) in outside {
                for (cell, bits) in memory.granule(granule).iter().zip(bits) {
                    cell.store(*bits, FIELD);
                }
            }
        }
        line[slot::TAG].store(tag(hash, cut.length), FIELD);
        first
    }

    /// The name of a slot goes.
    pub(super) fn free_name(&mut self, name: &[u8], first: Option<u32>) {
        if let Some(first) = first {
            self.granules.give(first, Cut::new(name).granules());
        }
    }

    /// Lets callers find a slot. `bound`: how many there are now; `hash_of`: of any bound slot.
    pub(super) fn insert(
        &mut self,
        memory: &Memory,
        hash: u64,
        number: u32,
        bound: u32,
        slots: u32,
        hash_of: impl Fn(u32) -> Option<u64>,
    ) {
        write(memory, self.level, hash, index::entry(hash, number));
        if self.growing.is_none()
            && u64::from(bound) * 2 > 1 << self.level
            && self.level < memory.geometry().index_level_max()
        {
            self.growing = Some((self.level + 1, 0));
        }
        let Some((level, carried)) = self.growing else { return };
        if number < carried {
            write(memory, level, hash, index::entry(hash, number));
        }
        let end = (carried + CARRY).min(slots);
        for number in carried..end {
            if let Some(hash) = hash_of(number) {
                write(memory, level, hash, index::entry(hash, number));
            }
        }
        self.growing = Some((level, end));
        if end == slots {
            let old = self.level;
            (self.level, self.growing) = (level, None);
            memory[header::INDEX].store(level.into(), SHOW);
            memory.forget_index_level(old);
        }
    }

    /// Callers find the slot no longer.
    pub(super) fn remove(&self, memory: &Memory, hash: u64, number: u32) {
        let entry = index::entry(hash, number);
        erase(memory, self.level, hash, entry);
        if let Some((level, _)) = self.growing {
            erase(memory, level, hash, entry);
        }
    }
}

fn load(memory: &Memory, level: u32, place: u32) -> u32 {
    let cell = memory[memory.index_level(level) + place as usize / 2].load(FIELD);
    (cell >> (32 * (place & 1))) as u32
}

fn store(memory: &Memory, level: u32, place: u32, entry: u32) {
    let cell = &memory[memory.index_level(level) + place as usize / 2];
    let shift = 32 * (place & 1);
    let bits = cell.load(FIELD) & !(0xffff_ffff << shift) | u64::from(entry) << shift;
    cell.store(bits, SHOW);
}

/// Writes an entry to the first free place of its search. If there is none, callers ask the node.
fn write(memory: &Memory, level: u32, hash: u64, entry: u32) {
    let mask = (1u32 << level) - 1;
    let places = (0..PROBES_MAX).map(|probe| (hash as u32).wrapping_add(probe) & mask);
    for place in places {
        let there = load(memory, level, place);
        if there == entry {
            return;
        }
        if there == index::EMPTY || there == index::GONE {
            store(memory, level, place, entry);
            return;
        }
    }
}

/// Erases an entry; where no search goes on, the place and those before it become empty again.
fn erase(memory: &Memory, level: u32, hash: u64, entry: u32) {
    let mask = (1u32 << level) - 1;
    let mut places = (0..PROBES_MAX).map(|probe| (hash as u32).wrapping_add(probe) & mask);
    let Some(place) = places.find(|place| load(memory, level, *place) == entry) else { return };
    store(memory, level, place, index::GONE);
    if load(memory, level, place.wrapping_add(1) & mask) != index::EMPTY {
        return;
    }
    let mut place = place;
    for _ in 0..PROBES_MAX {
        if load(memory, level, place) != index::GONE {
            return;
        }
        store(memory, level, place, index::EMPTY);
        place = place.wrapping_sub(1) & mask;
    }
}

/// Runs of granules.
#[derive(Clone, Debug, Default)]
struct Granules {
    next: u32,
    free: [Vec<u32>; RUN_MAX],
}

/// Longest run.
const RUN_MAX: usize =
    (oarlock_layout::limit::NAME_BYTES_MAX - INLINE_LONG_BYTES).div_ceil(GRANULE_CELLS * 8);

impl Granules {
    fn take(&mut self, run: u32, all: u32) -> Option<u32> {
        if let Some(first) = self.free[run as usize - 1].pop() {
            return Some(first);
        }
        if run <= all.saturating_sub(self.next) {
            self.next += run;
            return Some(self.next - run);
        }
        // A longer run that nobody needs is cut.
        let longer = (run as usize..RUN_MAX).find(|longer| !self.free[*longer].is_empty())?;
        let first = self.free[longer].pop()?;
        self.give(first + run, longer as u32 + 1 - run);
        Some(first)
    }

    fn give(&mut self, first: u32, run: u32) {
        self.free[run as usize - 1].push(first);
    }
}
