//! A header that leads to the write before the last.
//!
//! ```text
//!   byte 9: which slot is in force      slot 0, byte 64 on      slot 1, byte 192 on
//!           bit 0 0 or 1                at 104: number of the write, at 112: checksum
//! ```
//!
//! A write goes to the slot that is not in force, is forced, and then one bit puts that slot in force. No checksum covers
//! that bit. If it is another one, the file is sound and as it was before the last write, and a vote is forgotten. A file that was left
//! between the two steps looks the same, and nobody was answered then: so it does no harm to put the later slot in force in both
//! cases, if all that it leads to is there.

use std::io;
use std::ops::Bound::Unbounded;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use xxhash_rust::xxh3::xxh3_128;

use super::Store;

const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
const HEADER_BYTES: usize = 320;
const IN_FORCE: usize = 9;
/// Bits of that byte.
const SLOT_1: u8 = 1;
const LEFT_OPEN: u8 = 2;
const TWO_STEPS: u8 = 4;
const SLOTS: [usize; 2] = [64, 192];
/// What this file knows of: the first byte of a slot.
const FORMAT: u8 = 3;
/// In a slot.
const NUMBER: usize = 104;
const CHECKSUM: usize = 112;

/// Puts the later write in force, if all of it is there.
pub(super) fn put_in_force(file: &impl StorageBackend, path: &Path) -> io::Result<()> {
    match file.try_lock_range(Unbounded, Unbounded) {
        // Somebody has it open; to open it once more is refused.
        Ok(false) => return Ok(()),
        Ok(true) => {}
        // What cannot be locked nobody else has.
        Err(redb::BackendError::Unsupported) => return look(file, path),
        Err(e) => return Err(e.into()),
    }
    let looked = look(file, path);
    file.unlock_range(Unbounded, Unbounded)?;
    looked
}

fn look(file: &impl StorageBackend, path: &Path) -> io::Result<()> {
    let length = file.len()?;
    if length < HEADER_BYTES as u64 {
        return Ok(());
    }
    let mut head = [0; HEADER_BYTES];
    file.read(0, &mut head)?;
    // The number of a write that is what it was.
    let number = |slot: usize| {
        let (said, sum) = head[SLOTS[slot]..SLOTS[slot] + 128].split_at(CHECKSUM);
        let number = said[NUMBER..].try_into().expect("eight bytes");
        (said[0] == FORMAT && xxh3_128(said).to_le_bytes() == sum).then(|| u64::from_le_bytes(number))
    };
    let in_force = usize::from(head[IN_FORCE] & SLOT_1);
    match (number(in_force), number(1 - in_force)) {
        (Some(now), Some(other)) if head.starts_with(MAGIC) && now < other => {}
        _ => return Ok(()),
    }
    let mut all = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read(0, &mut all)?;
    // As if it had been in force, and with nothing to go back to.
    all[IN_FORCE] = (all[IN_FORCE] ^ SLOT_1) | LEFT_OPEN | TWO_STEPS;
    let copy = InMemoryBackend::new();
    copy.set_len(length)?;
    copy.write(0, &all)?;
    if Store::look_through_all(copy, path).is_ok() {
        file.write(IN_FORCE as u64, &[head[IN_FORCE] ^ SLOT_1])?;
        file.sync_data()?;
    }
    Ok(())
}
