//! The bytes of messages that may have to be sent again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Messages one after another in a ring, from the oldest byte that is not acknowledged to the newest.
///
/// ```text
///            base             cut                end of the ring
///   released ▏ sent           ▏ never sent       ▏
/// ```
///
/// Positions count from the first byte of the circuit, so they stay what they are while the front moves.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    #[serde(with = "oarlock_layout::written::ring")]
    bytes: VecDeque<u8>,
    base: u64,
    cut: u64,
    /// Ends of the messages that are not wholly cut.
    ends: VecDeque<u64>,
}

impl Store {
    /// Appends a message.
    pub(crate) fn push(&mut self, message: &[u8]) {
        self.bytes.extend(message);
        self.ends.push_back(self.end());
    }

    /// Bytes that are not released.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that were cut and are not released.
    pub(crate) fn sent(&self) -> usize {
        (self.cut - self.base) as usize
    }

    /// Bytes that were never cut.
    pub(crate) fn unsent(&self) -> usize {
        (self.end() - self.cut) as usize
    }

    /// How much is left of the message that is cut next; a message may be empty.
    pub(crate) fn left(&self) -> Option<usize> {
        self.ends.front().map(|end| (end - self.cut) as usize)
    }

    /// Takes the next `length` bytes of the message that is cut next and appends them to `out`; gives their
    /// position and whether the message goes on.
    pub(crate) fn cut(&mut self, length: usize, out: &mut Vec<u8>) -> (u64, bool) {
        let left = self.left().expect("the caller asked what is left");
        assert!(length <= left, "{length} of {left} bytes");
        let start = self.cut;
        self.copy(start, length, out);
        self.cut += length as u64;
        if length == left {
            self.ends.pop_front();
        }
        (start, length < left)
    }

    /// Appends bytes that were cut before.
    pub(crate) fn copy(&self, start: u64, length: usize, out: &mut Vec<u8>) {
        let at = (start - self.base) as usize;
        let (front, back) = self.bytes.as_slices();
        if at + length <= front.len() {
            out.extend_from_slice(&front[at..at + length]);
        } else if at >= front.len() {
            out.extend_from_slice(&back[at - front.len()..][..length]);
        } else {
            out.extend_from_slice(&front[at..]);
            out.extend_from_slice(&back[..length - (front.len() - at)]);
        }
    }

    /// Where the ring begins.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Forgets everything before `to`.
    pub(crate) fn release(&mut self, to: u64) {
        assert!(to <= self.cut, "only what was sent is acknowledged");
        self.bytes.drain(..(to - self.base) as usize);
        self.base = to;
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The twin is one long vector that forgets nothing.
        #[test]
        fn what_is_cut_and_copied_is_what_was_pushed(
            steps in prop::collection::vec((0u8..4, 0usize..300), 1..200)
        ) {
            let (mut store, mut all, mut cut_at) = (Store::default(), Vec::new(), 0usize);
            for (step, n) in steps {
                match step {
                    0 => {
                        let message: Vec<u8> = (0..n).map(|i| (i * 7 + all.len()) as u8).collect();
                        store.push(&message);
                        all.extend(message);
                    }
                    1 => if let Some(left) = store.left() {
                        let (length, mut out) = (n.min(left), Vec::new());
                        let (start, more) = store.cut(length, &mut out);
                        prop_assert_eq!((start, more), (cut_at as u64, length < left));
                        prop_assert_eq!(&out, &all[cut_at..cut_at + length]);
                        cut_at += length;
                    },
                    2 => {
                        let (base, mut out) = (store.base() as usize, Vec::new());
                        let length = n.min(cut_at - base);
                        store.copy((cut_at - length) as u64, length, &mut out);
                        prop_assert_eq!(&out, &all[cut_at - length..cut_at]);
                    }
                    _ => store.release((store.base() + n as u64).min(cut_at as u64)),
                }
                prop_assert_eq!(store.sent() + store.unsent(), store.len());
                prop_assert_eq!(store.unsent(), all.len() - cut_at);
            }
        }
    }
}
