//! A copy of the registry in a file of its own.
//!
//! ```text
//!    0  "oarlock backup\n\0"    16 bytes: what this is; `head -1` shows it
//!   16  format                  4, little endian, as all numbers here
//!   20  length of the copy      4
//!   24  checksum                16, xxh3 of everything else
//!   40  the copy                as the registry's own snapshot
//! ```
//!
//! This head stays as it is in later formats, so that a file that is damaged is told from one that is newer.

use std::fmt;

use oarlock_cluster::registry::{Registry, SNAPSHOT_BYTES_MAX};
use xxhash_rust::xxh3::Xxh3;

/// The latest format.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 16] = b"oarlock backup\n\0";
const HEAD_BYTES: usize = 40;

/// Longest file: of a registry that is as large as it may be.
pub const FILE_BYTES_MAX: usize = HEAD_BYTES + SNAPSHOT_BYTES_MAX;

/// Why bytes are no backup that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    /// Something else altogether.
    #[error("it is no backup of `oarlock coord backup`")]
    Foreign,
    /// The end is missing, or there is more than that.
    #[error("it has {has} bytes and should have {wants}")]
    Length {
        /// How many there are.
        has: usize,
        /// How many it says that there are.
        wants: usize,
    },
    /// Not what was written.
    #[error("it is damaged: its checksum is another")]
    Damaged,
    /// Of a later version.
    #[error("it is of format {0}, and this version reads format {FORMAT} only")]
    Newer(u32),
    /// The checksum is right, and the registry cannot be read.
    #[error("it cannot be read: {0}")]
    Registry(String),
    /// A registry without a cluster.
    #[error("it is of a node that knew of no cluster yet")]
    NoCluster,
}

/// A backup that was read and checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backup {
    /// The copy.
    pub registry: Registry,
    /// The checksum of the file: which copy.
    pub sum: u128,
}

impl Backup {
    /// The bytes of a backup of `registry`.
    pub fn write(registry: &Registry) -> Vec<u8> {
        let copy = registry.snapshot();
        let length = u32::try_from(copy.len()).expect("a snapshot has a bound");
        let head = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &length.to_le_bytes()].concat();
        let sum = sum(&head, &copy).to_le_bytes();
        [&head, sum.as_slice(), &copy].concat()
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Unusable`]. Nothing of what is damaged is believed.
    pub fn read(bytes: &[u8]) -> Result<Backup, Unusable> {
        if !bytes.starts_with(MAGIC) {
            return Err(Unusable::Foreign);
        }
        if bytes.len() < HEAD_BYTES {
            return Err(Unusable::Length { has: bytes.len(), wants: HEAD_BYTES });
        }
        let (head, copy) = bytes.split_at(HEAD_BYTES);
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let wants = HEAD_BYTES.saturating_add(number(20) as usize);
        let said = u128::from_le_bytes(head[24..].try_into().expect("sixteen bytes"));
        let sum = sum(&head[..24], copy);
        // A length that was damaged on the way is told from one that fits nothing by the file itself: it is cut, or it is not.
        if sum != said {
            return Err(match wants == bytes.len() {
                true => Unusable::Damaged,
                false => Unusable::Length { has: bytes.len(), wants },
            });
        }
        if number(16) != FORMAT {
            return Err(Unusable::Newer(number(16)));
        }
        let registry = Registry::restore(copy).map_err(|why| Unusable::Registry(why.to_string()))?;
        registry.cluster().ok_or(Unusable::NoCluster)?;
        Ok(Backup { registry, sum })
    }
}

fn sum(head: &[u8], copy: &[u8]) -> u128 {
    let mut sum = Xxh3::new();
    sum.update(head);
    sum.update(copy);
    sum.digest128()
}

/// The name of a cluster that no other has, for people.
pub struct ClusterName<'a>(pub &'a Registry);

impl fmt::Display for ClusterName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0.cluster().unwrap_or_default();
        id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_cluster::registry::{Command, FirstSpace, Founder, Order, SpaceSettings};
    use oarlock_layout::id::Epoch;
    use oarlock_layout::seal::PublicKey;

    fn registry() -> Registry {
        let founder = |n: u8| Founder {
            name: format!("node-{n}"),
            address: format!("127.0.0.1:74{n:02}").parse().unwrap(),
            key: PublicKey([n; 32]),
        };
        let settings = SpaceSettings {
            order: Order::Passover,
            value: 64,
            retain: true,
            resources_max: 100,
            owner: 0,
            group: 0,
            mode: 0o660,
        };
        let space = FirstSpace { name: "default".into(), settings };
        let mut registry = Registry::new();
        let members = vec![founder(1), founder(2), founder(3)];
        assert!(registry.apply(&Command::found("c", members, vec![space], Epoch(7))).changed());
        registry
    }

    #[test]
    fn what_was_written_is_read() {
        let registry = registry();
        assert_eq!(Backup::read(&Backup::write(&registry)).unwrap().registry, registry);
        assert_eq!(Backup::read(&Backup::write(&Registry::new())), Err(Unusable::NoCluster));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let good = Backup::write(&registry());
        for length in 0..good.len() {
            let why = Backup::read(&good[..length]).unwrap_err();
            assert!(matches!(why, Unusable::Foreign | Unusable::Length { .. }), "{length}: {why}");
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let why = Backup::read(&bytes).expect_err("a flipped bit");
            assert!(!matches!(why, Unusable::Newer(_) | Unusable::Registry(_)), "bit {bit}: {why}");
        }
        let longer = [good.as_slice(), b"\0"].concat();
        assert!(matches!(Backup::read(&longer), Err(Unusable::Length { .. })));
        assert_eq!(Backup::read(b"{}"), Err(Unusable::Foreign));
    }

    #[test]
    fn a_later_format_is_named_and_not_taken_for_damage() {
        let mut bytes = Backup::write(&registry());
        bytes[16] = 2;
        let sum = sum(&bytes[..24], &bytes[40..]).to_le_bytes();
        bytes[24..40].copy_from_slice(&sum);
        assert_eq!(Backup::read(&bytes), Err(Unusable::Newer(2)));
    }
}
