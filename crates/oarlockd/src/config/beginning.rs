//! Which beginning of the cluster this node belongs to: the founding, or one from a backup of its registry. It is said where
//! members compare what they must share, so that nobody of before a restore ever gets a circuit to somebody of after it.
//!
//! Two numbers of 16 bits and two checks of them are laid over the four parts. So a difference that is nothing but another
//! beginning is told from another configuration, wrongly once in 2^32 times; and two beginnings look alike as rarely.

use xxhash_rust::xxh3::xxh3_64;

use super::Shared;

impl Shared {
    /// The same configuration, in a cluster that began anew.
    #[must_use]
    pub fn since(self, restoration: Option<u64>) -> Shared {
        let Some(restoration) = restoration else { return self };
        let hash = xxh3_64(&restoration.to_le_bytes());
        // Never nothing at all.
        Shared(self.0 ^ laid((hash >> 16) as u16 | 1, hash as u16))
    }

    /// The configurations are the same, and only one of the two members is of after a restore, or they are of two of them.
    pub fn differs_in_beginning(self, other: Shared) -> bool {
        let between = self.0 ^ other.0;
        between != 0 && between == laid((between >> 48) as u16, (between >> 32) as u16)
    }
}

/// Made of shifts and XOR only: what lies between two of them is of the same form.
const fn laid(a: u16, b: u16) -> u64 {
    let (c, d) = (a ^ b.rotate_left(3), a.rotate_left(5) ^ b.rotate_left(11));
    (a as u64) << 48 | (b as u64) << 32 | (c as u64) << 16 | d as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_beginning_is_told_from_another_configuration() {
        let founded = Shared(0x0123_4567_89ab_cdef);
        assert_eq!(founded.since(None), founded);
        let all: Vec<Shared> = [None, Some(1), Some(2), Some(u64::MAX)].map(|it| founded.since(it)).into();
        for one in &all {
            for other in &all {
                assert_eq!(one.differs_in_beginning(*other), one != other);
            }
            // One part, or two, as configurations differ.
            for bits in [1, 0xffff, 0x1234 << 16, 0x1234 << 32 | 7, 0x1234 << 48 | 7, 0x1234 << 48] {
                assert!(!one.differs_in_beginning(Shared(one.0 ^ bits)), "{bits:x}");
                assert!(!one.differs_in_beginning(Shared(founded.since(Some(9)).0 ^ bits)), "{bits:x}");
            }
        }
        assert!(all.windows(2).all(|two| two[0] != two[1]));
    }
}
