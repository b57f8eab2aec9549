//! Bells: which slots a caller rang for.
//!
//! A bit for each slot, and above it a tree of bits that say where to look. Whoever rings sets the bit of its slot and
//! then every bit above it, also those that are set already: another who is between the two may die there. Whoever
//! answers clears from the top down and so never misses a bit that was set before. There is nothing that could
//! overflow, and ringing twice is the same as ringing once (M5).

use oarlock_layout::codec::{Malformed, Reader, Writer};
use oarlock_layout::segment::geometry::header;

use crate::hub::written::below;

use crate::memory::Memory;
use crate::sync::{AtomicU64, Place, TAKE, fence_after_exchange};

/// Levels that a tree of 2^24 bits has at most.
const LEVELS_MAX: usize = 4;

/// First cell and length of each level, the slots' own first.
fn levels(memory: &Memory) -> impl DoubleEndedIterator<Item = (usize, usize)> + use<> {
    let geometry = memory.geometry();
    let (mut first, mut bits) = (geometry.bells(), geometry.slots as usize);
    let mut levels = [(0, 0); LEVELS_MAX];
    let mut count = 0;
    loop {
        let cells = bits.div_ceil(64);
        levels[count] = (first, cells);
        count += 1;
        if cells == 1 {
            break;
        }
        (first, bits) = (first + cells, cells);
    }
    levels.into_iter().take(count)
}

impl Memory {
    /// Rings for a slot. True if the node sleeps and must be knocked at; only one caller hears so.
    #[must_use]
    pub(crate) fn ring(&self, slot: u32) -> bool {
        let mut bit = slot as usize;
        for (first, _) in levels(self) {
            self[first + bit / 64].fetch_or(1 << (bit % 64), TAKE);
            bit /= 64;
        }
        self.wakes_the_node()
    }

    /// Does the node sleep, and is it this caller who must knock?
    #[must_use]
    pub(crate) fn wakes_the_node(&self) -> bool {
        let sleeping = &self[header::SLEEPING];
        fence_after_exchange(Place::Ring);
        sleeping.load(crate::sync::LOOK) != 0 && sleeping.swap(0, TAKE) != 0
    }

    /// The node is about to sleep. False if a bell was rung meanwhile: then it must answer that first.
    #[must_use]
    pub(crate) fn fall_asleep(&self) -> bool {
        self[header::SLEEPING].store(1, crate::sync::SHOW);
        crate::sync::fence(Place::Sleep);
        let (top, _) = levels(self).next_back().expect("there is a slot");
        if self[top].load(crate::sync::LOOK) != 0 {
            self.wake_up();
            return false;
        }
        true
    }

    /// The node is awake: nobody needs to knock.
    pub(crate) fn wake_up(&self) {
        self[header::SLEEPING].store(0, crate::sync::SHOW);
    }
}

/// Answers bells, some at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ears {
    /// Bits taken down from each level and not followed yet, with the cell they come from.
    heard: Vec<(usize, usize, u64)>,
}

impl Ears {
    /// The next slot that was rung for, among the first `slots`: others were never in use, so no honest caller rings for
    /// them, and a foreign hand that does costs nothing.
    pub(crate) fn next(&mut self, memory: &Memory, slots: u32) -> Option<u32> {
        let levels: Vec<(usize, usize)> = levels(memory).collect();
        if self.heard.is_empty() {
            let level = levels.len() - 1;
            let bits = take(&memory[levels[level].0]);
            if bits == 0 {
                return None;
            }
            self.heard.push((level, 0, bits));
        }
        while let Some((level, cell, bits)) = self.heard.last_mut() {
            if *bits == 0 {
                self.heard.pop();
                continue;
            }
            let bit = bits.trailing_zeros() as usize;
            *bits &= *bits - 1;
            let index = *cell * 64 + bit;
            if *level == 0 {
                // Bits beyond the last slot are nobody's bells.
                if index < slots as usize {
                    return Some(index as u32);
                }
                continue;
            }
            let below = *level - 1;
            let (first, cells) = levels[below];
            if index < cells && index << (6 * (below + 1)) < slots as usize {
                let bits = take(&memory[first + index]);
                self.heard.push((below, index, bits));
            }
        }
        self.heard = Vec::new();
        None
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.heard.len() as u32);
        for (level, cell, bits) in &self.heard {
            out.u32(*level as u32);
            out.u32(*cell as u32);
            out.u64(*bits);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>, memory: &Memory) -> Result<Ears, Malformed> {
        let levels: Vec<(usize, usize)> = levels(memory).collect();
        let mut heard = Vec::new();
        for _ in 0..r.count("bells", levels.len())? {
            let level = below(r, "level of bells", levels.len() as u32)? as usize;
            let cell = below(r, "cell of bells", levels[level].1 as u32)? as usize;
            heard.push((level, cell, r.u64()?));
        }
        Ok(Ears { heard })
    }

    /// Is there anything left of what was heard?
    pub(crate) fn is_idle(&self) -> bool {
        self.heard.is_empty()
    }
}

/// Takes all bits of a cell, without writing to it when there are none.
fn take(cell: &AtomicU64) -> u64 {
    if cell.load(crate::sync::LOOK) == 0 { 0 } else { cell.swap(0, TAKE) }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use oarlock_layout::segment::Geometry;
    use std::collections::BTreeSet;

    fn memory(slots: u32) -> std::sync::Arc<Memory> {
        Memory::private(Geometry { slots, areas: 1, entries: 64 }, 0)
    }

    #[test]
    fn every_bell_is_answered_once() {
        for slots in [1, 64, 65, 5000] {
            let memory = memory(slots);
            let rung: BTreeSet<u32> = (0..slots).filter(|n| n * 7 % 5 < 2).collect();
            rung.iter().chain(&rung).for_each(|slot| assert!(!memory.ring(*slot)));
            let mut ears = Ears::default();
            let heard: Vec<u32> = std::iter::from_fn(|| ears.next(&memory, slots)).collect();
            assert_eq!(heard, rung.into_iter().collect::<Vec<_>>());
            assert!(ears.is_idle());
        }
    }

    #[test]
    fn only_the_first_who_rings_at_a_sleeper_knocks() {
        let memory = memory(3);
        assert!(memory.fall_asleep());
        assert!(memory.ring(1));
        assert!(!memory.ring(2));
        assert!(!memory.fall_asleep(), "a bell waits");
        let mut ears = Ears::default();
        let mut next = || ears.next(&memory, 3);
        assert_eq!((next(), next(), next()), (Some(1), Some(2), None));
        assert!(memory.fall_asleep());
    }

    #[test]
    fn bits_that_belong_to_no_slot_cost_a_bounded_time() {
        let memory = memory(5000);
        let geometry = memory.geometry();
        (geometry.bells()..geometry.slot(0)).for_each(|cell| memory.scribble(cell, u64::MAX));
        let mut ears = Ears::default();
        assert_eq!(std::iter::from_fn(|| ears.next(&memory, 5000)).count(), 5000);
    }

    #[test]
    fn bells_of_slots_that_were_never_in_use_are_not_even_looked_at() {
        let memory = memory(1 << 20);
        let geometry = memory.geometry();
        (geometry.bells()..geometry.slot(0)).for_each(|cell| memory.scribble(cell, u64::MAX));
        let mut ears = Ears::default();
        assert_eq!(std::iter::from_fn(|| ears.next(&memory, 70)).count(), 70);
        let taken = (0..1 << 14).filter(|cell| memory.peek(geometry.bells() + cell) == 0).count();
        assert_eq!(taken, 2, "cells of 64 bells");
    }
}
