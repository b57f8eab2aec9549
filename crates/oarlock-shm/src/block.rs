//! Value blocks: read by many, written by one, never seen half written (M6).
//!
//! A block has two buffers and a version, whose low bit names the buffer that is valid. The writer, who holds PW or
//! EX, fills the other and then takes the version one further. A reader copies and then looks whether the version is
//! still the same.
//!
//! Still the *same*, not "moved by less than two": after one step the buffer that the reader copies is the one that the
//! next writer fills, and that step shows only when it is done.
//!
//! A program whose session was ended while it wrote may go on writing at any later time; no exchange guards plain
//! stores. So each buffer carries a checksum, and one that does not match is a block that is not to be believed.

use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::segment::geometry::{BUFFER_CELLS, tail};
use oarlock_layout::value::{SEQUENCE_MAX, Value};

use crate::memory::Memory;
use crate::sync::{FIELD, LOOK, Place, SHOW, fence};

/// How often a reader tries before it asks the node.
const TRIES: u32 = 3;
/// How often the node tries as often as that.
const NODE_TRIES: u32 = 32;
const SUM: usize = BUFFER_CELLS - 1;

impl Memory {
    /// The value block of a slot; none if it was written too often meanwhile.
    pub(crate) fn read_block(&self, slot: u32) -> Option<Value> {
        let version = &self.tail(slot)[tail::VERSION];
        for _ in 0..TRIES {
            let before = version.load(LOOK);
            if before == 0 {
                return Some(Value::NEVER);
            }
            let buffer = self.buffer(slot, (before & 1) as usize);
            let cells: [u64; BUFFER_CELLS] = std::array::from_fn(|cell| buffer[cell].load(FIELD));
            fence(Place::Read);
            if version.load(FIELD) == before {
                return Some(decode(&cells));
            }
        }
        None
    }

    /// The same for the node, which has nobody to ask: what cannot be read after many tries is not to be believed, and is
    /// not said to be none.
    pub(crate) fn read_block_or_spoilt(&self, slot: u32) -> Value {
        let read = (0..NODE_TRIES).find_map(|_| self.read_block(slot));
        read.unwrap_or_else(|| {
            let which = (self.tail(slot)[tail::VERSION].load(LOOK) & 1) as usize;
            let sequence = self.buffer(slot, which)[0].load(FIELD) >> 1;
            Value { sequence: sequence.max(1), valid: false, bytes: [0; VALUE_BYTES] }
        })
    }

    /// Replaces the value block of a slot. Only for whoever holds PW or EX, and for the node while nobody does.
    pub(crate) fn write_block(&self, slot: u32, value: &Value) {
        let version = &self.tail(slot)[tail::VERSION];
        // Version 0 is that of a slot that never had a block.
        let next = match version.load(LOOK).wrapping_add(1) {
            0 => 2,
            next => next,
        };
        fence(Place::Write);
        let buffer = self.buffer(slot, (next & 1) as usize);
        for (cell, bits) in buffer.iter().zip(encode(value)) {
            cell.store(bits, FIELD);
        }
        version.store(next, SHOW);
    }

    /// A slot begins anew without a block.
    pub(crate) fn clear_block(&self, slot: u32) {
        self.tail(slot)[tail::VERSION].store(0, SHOW);
    }
}

fn encode(value: &Value) -> [u64; BUFFER_CELLS] {
    let mut cells = [0; BUFFER_CELLS];
    cells[0] = value.sequence << 1 | u64::from(!value.valid);
    for (cell, bytes) in cells[1..].iter_mut().zip(value.bytes.as_chunks::<8>().0) {
        *cell = u64::from_le_bytes(*bytes);
    }
    cells[SUM] = sum(&cells);
    cells
}

fn decode(cells: &[u64; BUFFER_CELLS]) -> Value {
    let mut bytes = [0; VALUE_BYTES];
    for (bytes, cell) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&cells[1..]) {
        *bytes = cell.to_le_bytes();
    }
    let sequence = cells[0] >> 1;
    if sequence > SEQUENCE_MAX {
        // Nothing could ever be newer. No honest program gets there.
        return Value { valid: false, ..Value::NEVER };
    }
    Value { sequence, valid: cells[0] & 1 == 0 && cells[SUM] == sum(cells), bytes }
}

/// Mixes every cell but the last. Against accidents, not against malice.
fn sum(cells: &[u64; BUFFER_CELLS]) -> u64 {
    cells[..SUM].iter().fold(0x9e37_79b9_7f4a_7c15, |sum, cell| {
        (sum ^ cell).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(23)
    })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use oarlock_layout::segment::Geometry;

    #[test]
    fn a_block_is_read_as_it_was_written() {
        let memory = Memory::private(Geometry { slots: 2, areas: 1, entries: 64 }, 0);
        assert_eq!(memory.read_block(1), Some(Value::NEVER));
        let mut value = Value::NEVER;
        for n in 1..5u8 {
            value = if n == 3 { value.invalidated() } else { value.written([n; VALUE_BYTES]) };
            memory.write_block(1, &value);
            assert_eq!(memory.read_block(1), Some(value));
        }
        assert_eq!(memory.read_block(0), Some(Value::NEVER));
        memory.clear_block(1);
        assert_eq!(memory.read_block(1), Some(Value::NEVER));
    }

    #[test]
    fn a_sequence_that_nothing_could_follow_is_not_believed() {
        let memory = Memory::private(Geometry { slots: 1, areas: 1, entries: 64 }, 0);
        let last = Value { sequence: SEQUENCE_MAX, ..Value::NEVER };
        memory.write_block(0, &last);
        assert_eq!(memory.read_block(0), Some(last));
        memory.write_block(0, &Value { sequence: SEQUENCE_MAX + 1, ..last });
        assert_eq!(memory.read_block(0), Some(Value { valid: false, ..Value::NEVER }));
    }

    #[test]
    fn a_late_store_of_a_program_that_lost_the_lock_is_noticed() {
        let memory = Memory::private(Geometry { slots: 1, areas: 1, entries: 64 }, 0);
        memory.write_block(0, &Value::NEVER.written([7; VALUE_BYTES]));
        let buffer = memory.geometry().value(0) + BUFFER_CELLS;
        memory.scribble(buffer + 3, 0x0808_0808_0808_0808);
        let read = memory.read_block(0).unwrap();
        assert_eq!((read.sequence, read.valid), (1, false));
    }

    #[test]
    fn the_version_never_comes_back_to_that_of_no_block() {
        let memory = Memory::private(Geometry { slots: 1, areas: 1, entries: 64 }, 0);
        memory.scribble(memory.geometry().tail(0) + tail::VERSION, u64::MAX);
        let value = Value::NEVER.written([1; VALUE_BYTES]);
        memory.write_block(0, &value);
        assert_eq!(memory.read_block(0), Some(value));
    }
}
