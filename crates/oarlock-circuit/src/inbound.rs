//! Messages of one class on their way from a peer.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use oarlock_layout::limit::{CIRCUIT_WINDOW_BYTES, CIRCUIT_WINDOW_SEGMENTS, MESSAGE_BYTES_MAX};
use oarlock_layout::message::frame::{self, Class, Segment};
use oarlock_layout::time::Instant;

/// Datagrams with segments after which an acknowledgement does not wait for company.
const ACK_EVERY: u32 = 2;

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// It is new.
    New,
    /// It had arrived before.
    Duplicate,
    /// It is beyond the window or there is no room to keep it; it will be sent again.
    Overflow,
    /// Its message would be longer than any message: no honest peer sends that.
    TooLong,
}

/// The receiving half of one class.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inbound {
    /// The sequence number that is waited for.
    next: u64,
    /// Pieces of the message that `next` goes on with.
    #[serde(with = "oarlock_layout::written::bytes")]
    partial: Vec<u8>,
    /// Length of the last message that came in pieces: the next one is given this much room at once, because
    /// bulk messages come in rows of equal length and growing step by step copies each byte once more.
    expected: usize,
    /// Segments beyond `next`.
    early: BTreeMap<u64, Early>,
    early_bytes: usize,
    /// The same as ranges (first, end): ascending, not touching.
    ranges: Vec<(u64, u64)>,
    /// Datagrams with segments since the last acknowledgement.
    unacknowledged: u32,
    /// When the last of them came.
    arrived_at: Instant,
    due: bool,
    ack_at: Option<Instant>,
    /// The peer sent a message longer than any.
    broken: bool,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Early {
    #[serde(with = "oarlock_layout::written::bytes")]
    bytes: Vec<u8>,
    more: bool,
}

impl Inbound {
    /// Takes one segment; `deliver` gets each message that is complete now.
    pub(crate) fn handle_segment(
        &mut self,
        sequence: u64,
        segment: Segment<'_>,
        mut deliver: impl FnMut(Vec<u8>),
    ) -> Arrival {
        if sequence != self.next {
            return self.keep(sequence, segment);
        }
        if !self.accept(segment.bytes, segment.more, &mut deliver) {
            return Arrival::TooLong;
        }
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() != self.next {
                break;
            }
            let early = entry.remove();
            self.early_bytes -= early.bytes.len();
            if self.partial.is_empty() && !early.more && !self.broken {
                self.next += 1;
                deliver(early.bytes);
            } else if !self.accept(&early.bytes, early.more, &mut deliver) {
                return Arrival::TooLong;
            }
        }
        if self.ranges.first().is_some_and(|range| range.0 < self.next) {
            // What was early begins where a gap was, so the whole range has just been taken.
            self.ranges.remove(0);
        }
        Arrival::New
    }

    fn accept(&mut self, bytes: &[u8], more: bool, deliver: &mut impl FnMut(Vec<u8>)) -> bool {
        if self.broken || self.partial.len() + bytes.len() > MESSAGE_BYTES_MAX {
            // The order of messages cannot be kept any more, so nothing is delivered any more.
            *self = Inbound { broken: true, next: self.next, ..Inbound::default() };
            return false;
        }
        self.next += 1;
        if !more && self.partial.is_empty() {
            deliver(bytes.to_vec());
            return true;
        }
        if self.partial.is_empty() {
            self.partial.reserve(self.expected);
        }
        self.partial.extend_from_slice(bytes);
        if !more {
            self.expected = self.partial.len();
            deliver(mem::take(&mut self.partial));
        }
        true
    }

    fn keep(&mut self, sequence: u64, segment: Segment<'_>) -> Arrival {
        // Something is missing, or the sender does not know that it is not: it should know at once.
        self.due = true;
        if sequence < self.next || self.early.contains_key(&sequence) {
            return Arrival::Duplicate;
        }
        if self.broken {
            return Arrival::TooLong;
        }
        let room = CIRCUIT_WINDOW_BYTES + frame::SEGMENT_BYTES_MAX;
        if sequence - self.next >= CIRCUIT_WINDOW_SEGMENTS as u64
            || self.early_bytes + segment.bytes.len() > room
        {
            return Arrival::Overflow;
        }
        self.early_bytes += segment.bytes.len();
        self.early.insert(sequence, Early { bytes: segment.bytes.to_vec(), more: segment.more });
        let at = self.ranges.partition_point(|&(_, end)| end < sequence);
        match self.ranges.get_mut(at) {
            Some(range) if range.1 == sequence => {
                range.1 += 1;
                if self.ranges.get(at + 1).is_some_and(|after| after.0 == sequence + 1) {
                    self.ranges[at].1 = self.ranges.remove(at + 1).1;
                }
            }
            Some(range) if range.0 == sequence + 1 => range.0 = sequence,
            _ => self.ranges.insert(at, (sequence, sequence + 1)),
        }
        Arrival::New
    }

    /// A datagram with segments of this class was read.
    pub(crate) fn handle_datagram(&mut self, now: Instant, ack_delay: Duration) {
        self.unacknowledged += 1;
        self.arrived_at = now;
        if self.unacknowledged >= ACK_EVERY {
            self.due = true;
        } else if !self.due {
            self.ack_at = self.ack_at.or(Some(now + ack_delay));
        }
    }

    /// When an acknowledgement stops waiting for company.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.ack_at
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_at = None;
            self.due = true;
        }
    }

    /// An acknowledgement must go out now.
    pub(crate) fn due(&self) -> bool {
        self.due
    }

    /// An acknowledgement goes along with whatever goes out.
    pub(crate) fn pending(&self) -> bool {
        self.due || self.unacknowledged > 0
    }

    /// Acknowledge at the next occasion, even if nothing arrived.
    pub(crate) fn acknowledge(&mut self) {
        self.due = true;
    }

    /// Appends the acknowledgement.
    pub(crate) fn pack_ack(&mut self, now: Instant, class: Class, out: &mut Vec<u8>, room: usize) {
        let delay = now.since(self.arrived_at).as_micros().try_into().unwrap_or(u32::MAX);
        frame::encode_ack(out, class, self.next, delay, self.ranges.iter().copied(), room);
        self.unacknowledged = 0;
        self.due = false;
        self.ack_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::message::frame::{Chunk, Chunks};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn feed(inbound: &mut Inbound, sequence: u64, bytes: &[u8], more: bool) -> (Arrival, Vec<Vec<u8>>) {
        let mut delivered = Vec::new();
        let arrival =
            inbound.handle_segment(sequence, Segment { bytes, more }, |message| delivered.push(message));
        (arrival, delivered)
    }

    /// What the acknowledgement says: next, ranges.
    fn acknowledged(inbound: &mut Inbound) -> (u64, Vec<(u64, u64)>) {
        let mut bytes = Vec::new();
        inbound.pack_ack(Instant(0), Class::Lock, &mut bytes, 1000);
        let Ok(Some(Chunk::Ack { next, mut ranges, .. })) = Chunks::new(&bytes).next_chunk() else {
            panic!("an acknowledgement")
        };
        (next, std::iter::from_fn(|| ranges.next_range().unwrap()).collect())
    }

    proptest! {
        /// The twin keeps a set of what came. Any order, any repetition: the messages come out as they went
        /// in, and every acknowledgement is exactly what has arrived.
        #[test]
        fn any_order_of_arrival_delivers_the_same_messages(
            lengths in prop::collection::vec(prop::collection::vec(0usize..30, 1..4), 1..20),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..150),
        ) {
            let mut segments = Vec::new();
            let mut messages = Vec::new();
            for (n, pieces) in lengths.iter().enumerate() {
                let mut message = Vec::new();
                for (i, &length) in pieces.iter().enumerate() {
                    let bytes = vec![(n * 7 + i) as u8; length];
                    message.extend_from_slice(&bytes);
                    segments.push((bytes, i + 1 < pieces.len()));
                }
                messages.push(message);
            }
            let (mut inbound, mut got, mut twin) = (Inbound::default(), Vec::new(), BTreeSet::new());
            let order = order.iter().map(|i| i.index(segments.len())).chain(0..segments.len());
            for at in order {
                let (bytes, more) = &segments[at];
                let (arrival, delivered) = feed(&mut inbound, at as u64, bytes, *more);
                let new = twin.insert(at as u64);
                prop_assert_eq!(arrival, if new { Arrival::New } else { Arrival::Duplicate });
                got.extend(delivered);
                let (next, ranges) = acknowledged(&mut inbound);
                let said: BTreeSet<u64> = (0..next).chain(ranges.iter().flat_map(|r| r.0..r.1)).collect();
                if ranges.len() < frame::ACK_RANGES_MAX {
                    prop_assert_eq!(&said, &twin);
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!((inbound.early_bytes, inbound.early.len(), inbound.ranges.len()), (0, 0, 0));
        }
    }

    #[test]
    fn what_is_kept_is_bounded_by_the_window() {
        let mut inbound = Inbound::default();
        let far = CIRCUIT_WINDOW_SEGMENTS as u64;
        assert_eq!(feed(&mut inbound, far, b"x", false).0, Arrival::Overflow);
        assert_eq!(feed(&mut inbound, u64::MAX, b"x", false).0, Arrival::Overflow);
        assert_eq!(feed(&mut inbound, far - 1, b"x", false).0, Arrival::New);
        let large = vec![0; frame::SEGMENT_BYTES_MAX];
        let kept = (1..200).filter(|&n| feed(&mut inbound, n, &large, false).0 == Arrival::New).count();
        assert_eq!(kept, (CIRCUIT_WINDOW_BYTES - 1) / large.len() + 1);
    }

    #[test]
    fn a_message_that_is_too_long_ends_delivery_and_keeps_nothing() {
        let mut inbound = Inbound::default();
        let piece = vec![0; 1 << 14];
        assert_eq!(feed(&mut inbound, 70, b"early", false).0, Arrival::New);
        for n in 0..64 {
            assert_eq!(feed(&mut inbound, n, &piece, true).0, Arrival::New);
        }
        // Exactly at the bound now; the early one would make it longer by another way.
        for n in 65..70 {
            assert_eq!(feed(&mut inbound, n, b"", true).0, Arrival::New);
        }
        assert_eq!(feed(&mut inbound, 64, b"", true), (Arrival::TooLong, vec![]));
        assert_eq!((inbound.partial.capacity(), inbound.early.len()), (0, 0));
        let (next, ranges) = acknowledged(&mut inbound);
        assert_eq!((next, ranges), (70, vec![]));
        assert_eq!(feed(&mut inbound, 70, b"y", false).0, Arrival::TooLong);
        assert_eq!(feed(&mut inbound, 72, b"y", false).0, Arrival::TooLong);
    }
}
