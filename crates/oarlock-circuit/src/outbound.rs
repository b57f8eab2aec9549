//! Messages of one class on their way to a peer.
//!
//! ```text
//!   store     ▕ acknowledged ▏ sent, not acknowledged      ▏ not cut yet         ▏
//!   segments                 ▏ 0   1   2   3   4   5 …     ▏
//!                            ↑ first                       ↑ end
//! ```
//!
//! All bytes lie in one ring, from the oldest that may have to be sent again to the newest. Messages are cut
//! into segments only when they are packed, so that each datagram is filled to its end. Acknowledged segments
//! leave at the front.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use oarlock_layout::codec::Malformed;
use oarlock_layout::limit::{CIRCUIT_WINDOW_BYTES, CIRCUIT_WINDOW_SEGMENTS};
use oarlock_layout::message::frame::{
    self, CHUNK_HEADER_BYTES, Class, RUN_HEADER_BYTES, Ranges, SEALED_OVERHEAD_BYTES, SEGMENT_HEADER_BYTES,
};
use oarlock_layout::time::Instant;

use crate::congestion::Congestion;
use crate::rtt::Rtt;
use crate::store::Store;

/// A segment counts as lost when something sent this many datagrams later has arrived.
const REORDER: u64 = 3;
/// Bulk messages are not cut into pieces smaller than this just to fill a datagram.
const PIECE_MIN: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Fate {
    Flying,
    Lost,
    Arrived,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Segment {
    start: u64,
    length: u16,
    more: bool,
    resent: bool,
    fate: Fate,
    /// The datagram it was last sent in, counted over all datagrams of the circuit.
    order: u64,
    at: Instant,
}

/// Segments that went out together.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Flight {
    order: u64,
    first: u64,
    count: u32,
}

/// The sending half of one class.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outbound {
    class: Class,
    /// The longest message that a datagram holds whole.
    whole: usize,
    store: Store,
    /// Messages that are not wholly acknowledged.
    messages: usize,
    first: u64,
    segments: VecDeque<Segment>,
    flights: VecDeque<Flight>,
    lost: BTreeSet<u64>,
    flying_bytes: usize,
    congestion: Congestion,
    timer: Option<Instant>,
    backoff: u32,
    /// Ranges of the last acknowledgement: only what grew beyond them is new.
    known: Vec<(u64, u64)>,
}

/// What the peer says has arrived: everything below `next`, and `ranges`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack<'a> {
    pub(crate) next: u64,
    pub(crate) ranges: Ranges<'a>,
    /// How long the newest of it waited at the peer.
    pub(crate) delay: Duration,
}

/// What was packed into a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) segments: usize,
    pub(crate) resent: usize,
}

/// Times and sizes the sender needs from its circuit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) ack_delay: Duration,
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Patience {
    fn wait(&self, rtt: &Rtt, backoff: u32) -> Duration {
        (rtt.patience(self.ack_delay).max(self.min) * (1 << backoff.min(10))).min(self.max)
    }
}

impl Outbound {
    pub(crate) fn new(class: Class, datagram: usize) -> Outbound {
        Outbound {
            class,
            whole: datagram
                - SEALED_OVERHEAD_BYTES
                - CHUNK_HEADER_BYTES
                - RUN_HEADER_BYTES
                - SEGMENT_HEADER_BYTES,
            store: Store::default(),
            messages: 0,
            first: 0,
            segments: VecDeque::new(),
            flights: VecDeque::new(),
            lost: BTreeSet::new(),
            flying_bytes: 0,
            congestion: Congestion::new(datagram, CIRCUIT_WINDOW_BYTES),
            timer: None,
            backoff: 0,
            known: Vec::new(),
        }
    }

    /// Everything counts as acknowledged.
    #[cfg(feature = "planted")]
    pub(crate) fn lose(&mut self) {
        let congestion = self.congestion.clone();
        let (class, whole, first) = (self.class, self.whole, self.end());
        *self = Outbound { class, whole, first, congestion, ..Outbound::new(class, 1400) };
    }

    /// Takes a message.
    pub(crate) fn push(&mut self, message: &[u8]) {
        self.store.push(message);
        self.messages += 1;
    }

    /// Bytes that are not acknowledged.
    pub(crate) fn backlog(&self) -> usize {
        self.store.len()
    }

    /// Bytes that were never sent.
    pub(crate) fn unsent(&self) -> usize {
        self.store.unsent()
    }

    /// Messages that are not wholly acknowledged.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// When to look again if no acknowledgement comes.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.timer
    }

    /// There is something to send and room for it in every window.
    pub(crate) fn ready(&self) -> bool {
        (!self.lost.is_empty() || (self.store.left().is_some() && self.window_open())) && self.uncongested()
    }

    /// Both ends know these bounds: the receiver keeps what arrives early, up to here.
    fn window_open(&self) -> bool {
        self.segments.len() < CIRCUIT_WINDOW_SEGMENTS && self.store.sent() < CIRCUIT_WINDOW_BYTES
    }

    fn uncongested(&self) -> bool {
        self.flying_bytes < self.congestion.window()
    }

    fn end(&self) -> u64 {
        self.first + self.segments.len() as u64
    }

    /// Packs what is to be sent, lost segments first, until `out` has `limit` bytes or nothing fits.
    pub(crate) fn pack(
        &mut self,
        now: Instant,
        order: u64,
        rtt: &Rtt,
        patience: Patience,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Packed {
        let mut packed = Packed::default();
        self.pack_lost(now, order, out, limit, &mut packed);
        if self.lost.is_empty() {
            self.pack_new(now, order, out, limit, &mut packed);
        }
        if packed.segments > 0 && self.timer.is_none() {
            self.timer = Some(now + patience.wait(rtt, self.backoff));
        }
        packed
    }

    fn pack_lost(&mut self, now: Instant, order: u64, out: &mut Vec<u8>, limit: usize, packed: &mut Packed) {
        let mut run: Option<(usize, u64, u64)> = None; // where, first, next
        while self.uncongested() {
            let Some(&sequence) = self.lost.first() else { break };
            let at = (sequence - self.first) as usize;
            let length = usize::from(self.segments[at].length);
            let continues = run.is_some_and(|(_, _, next)| next == sequence);
            let header = if continues { 0 } else { CHUNK_HEADER_BYTES + RUN_HEADER_BYTES };
            if out.len() + header + SEGMENT_HEADER_BYTES + length > limit {
                break;
            }
            if !continues {
                self.close(out, order, run.take());
                run = Some((frame::begin_run(out, self.class, sequence), sequence, sequence));
            }
            let segment = &mut self.segments[at];
            segment.fate = Fate::Flying;
            segment.resent = true;
            segment.order = order;
            segment.at = now;
            frame::begin_segment(out, length, segment.more);
            self.store.copy(segment.start, length, out);
            self.flying_bytes += length;
            self.lost.pop_first();
            run.as_mut().expect("a run is open").2 = sequence + 1;
            packed.segments += 1;
            packed.resent += 1;
        }
        self.close(out, order, run);
    }

    fn pack_new(&mut self, now: Instant, order: u64, out: &mut Vec<u8>, limit: usize, packed: &mut Packed) {
        let mut run: Option<(usize, u64, u64)> = None;
        while self.uncongested() && self.window_open() {
            let Some(left) = self.store.left() else { break };
            let header = if run.is_some() { 0 } else { CHUNK_HEADER_BYTES + RUN_HEADER_BYTES };
            let Some(room) = limit.checked_sub(out.len() + header + SEGMENT_HEADER_BYTES) else { break };
            if left > room && !self.worth_cutting(left, room) {
                break;
            }
            let length = left.min(room);
            let sequence = self.end();
            if run.is_none() {
                run = Some((frame::begin_run(out, self.class, sequence), sequence, sequence));
            }
            frame::begin_segment(out, length, length < left);
            let (start, more) = self.store.cut(length, out);
            self.segments.push_back(Segment {
                start,
                length: length as u16,
                more,
                resent: false,
                fate: Fate::Flying,
                order,
                at: now,
            });
            self.flying_bytes += length;
            run.as_mut().expect("a run is open").2 = sequence + 1;
            packed.segments += 1;
        }
        self.close(out, order, run);
    }

    /// A bulk message fills what is left of a datagram. Any other stays whole if an empty datagram could hold it: in
    /// two pieces it would have two chances to be lost.
    fn worth_cutting(&self, left: usize, room: usize) -> bool {
        room >= PIECE_MIN && (self.class == Class::Bulk || left > self.whole)
    }

    fn close(&mut self, out: &mut [u8], order: u64, run: Option<(usize, u64, u64)>) {
        if let Some((at, first, next)) = run {
            frame::end_run(out, at);
            self.flights.push_back(Flight { order, first, count: (next - first) as u32 });
        }
    }

    /// Takes an acknowledgement. `order` is that of the next datagram. To acknowledge what was never sent is
    /// the peer's fault, and nothing changes.
    pub(crate) fn handle_ack(
        &mut self,
        now: Instant,
        ack: Ack<'_>,
        order: u64,
        rtt: &mut Rtt,
        patience: Patience,
    ) -> Result<(), Malformed> {
        let Ack { next, mut ranges, delay } = ack;
        let sent = self.end();
        let unsent = |value| Malformed::TooMany { field: "acknowledged", value, max: sent };
        if next > sent {
            return Err(unsent(next));
        }
        let mut all = Vec::new();
        while let Some((first, end)) = ranges.next_range()? {
            if end > sent {
                return Err(unsent(end));
            }
            all.push((first, end));
        }
        let full = self.flying_bytes + self.congestion.window() / 8 >= self.congestion.window();
        let mut news = News::default();
        let mut released = self.store.base();
        while self.first < next {
            self.arrived(now, self.first, rtt, &mut news);
            let segment = self.segments.pop_front().expect("the peer acknowledges what was sent");
            self.first += 1;
            if !segment.more {
                self.messages -= 1;
            }
            released = segment.start + u64::from(segment.length);
        }
        self.store.release(released);
        for &(first, end) in &all {
            // A range that was told before is looked at only where it has grown.
            let told = self.known.iter().find(|known| known.0 == first).map_or(first, |known| known.1);
            for sequence in told.max(self.first)..end {
                self.arrived(now, sequence, rtt, &mut news);
            }
        }
        self.known = all;
        if news.segments == 0 {
            return Ok(());
        }
        if let Some((_, at)) = news.sample {
            rtt.sample(now.since(at).saturating_sub(delay));
        }
        self.congestion.arrived(news.bytes, full);
        self.find_losses(news.newest, order);
        self.backoff = 0;
        self.timer = (!self.segments.is_empty()).then(|| now + patience.wait(rtt, 0));
        Ok(())
    }

    fn arrived(&mut self, now: Instant, sequence: u64, rtt: &Rtt, news: &mut News) {
        let segment = &mut self.segments[(sequence - self.first) as usize];
        match segment.fate {
            Fate::Arrived => return,
            Fate::Flying => self.flying_bytes -= usize::from(segment.length),
            Fate::Lost => {
                self.lost.remove(&sequence);
            }
        }
        segment.fate = Fate::Arrived;
        news.segments += 1;
        news.bytes += usize::from(segment.length);
        if !segment.resent && news.sample.is_none_or(|(order, _)| segment.order > order) {
            news.sample = Some((segment.order, segment.at));
        }
        // What was sent twice tells about its second order only if the answer can be to that.
        if !segment.resent || rtt.least().is_some_and(|least| now.since(segment.at) >= least) {
            news.newest = news.newest.max(Some(segment.order));
        }
    }

    /// Whatever was sent well before something that arrived is lost.
    fn find_losses(&mut self, newest: Option<u64>, next_order: u64) {
        while let Some(flight) = self.flights.front() {
            let overtaken = newest.is_some_and(|newest| flight.order + REORDER <= newest);
            if !overtaken && self.still_flying(flight) {
                break;
            }
            let flight = self.flights.pop_front().expect("just looked at");
            if overtaken {
                self.give_up(&flight, next_order);
            }
        }
    }

    fn members(&self, flight: &Flight) -> core::ops::Range<usize> {
        let end = (flight.first + u64::from(flight.count)).saturating_sub(self.first);
        flight.first.saturating_sub(self.first) as usize..end as usize
    }

    fn still_flying(&self, flight: &Flight) -> bool {
        self.segments.range(self.members(flight)).any(|s| s.fate == Fate::Flying && s.order == flight.order)
    }

    fn give_up(&mut self, flight: &Flight, next_order: u64) -> bool {
        let mut any = false;
        for at in self.members(flight) {
            let segment = &mut self.segments[at];
            if segment.fate == Fate::Flying && segment.order == flight.order {
                segment.fate = Fate::Lost;
                self.flying_bytes -= usize::from(segment.length);
                self.lost.insert(self.first + at as u64);
                any = true;
            }
        }
        if any {
            self.congestion.lost(flight.order, next_order);
        }
        any
    }

    /// No acknowledgement came in time; true if so. The first time the oldest datagram is sent again, which
    /// repairs a lost tail; the second time everything is taken for lost. To a silent peer one datagram is
    /// enough, again and again: it shows when the peer is back.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        next_order: u64,
        silent: bool,
        rtt: &Rtt,
        patience: Patience,
    ) -> bool {
        if self.timer.is_none_or(|timer| timer > now) {
            return false;
        }
        let all = self.backoff > 0 && !silent;
        while let Some(flight) = self.flights.pop_front() {
            if self.give_up(&flight, next_order) && !all {
                break;
            }
        }
        if all {
            self.congestion.stalled(next_order);
        }
        self.backoff += 1;
        self.timer = (!self.segments.is_empty()).then(|| now + patience.wait(rtt, self.backoff));
        true
    }

    /// The peer is heard again: what waits for a long timer is sent now.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if self.timer.is_some() && self.backoff > 0 {
            self.timer = Some(now);
        }
    }
}

/// What one acknowledgement adds to what was known.
#[derive(Default)]
struct News {
    segments: usize,
    bytes: usize,
    /// Order and time of the newest that was sent once.
    sample: Option<(u64, Instant)>,
    newest: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::message::frame::{Chunk, Chunks};

    const PATIENCE: Patience = Patience {
        ack_delay: Duration::from_millis(1),
        min: Duration::from_millis(10),
        max: Duration::from_millis(500),
    };

    struct Bench {
        outbound: Outbound,
        rtt: Rtt,
        order: u64,
        now: Instant,
    }

    impl Bench {
        fn new(class: Class) -> Bench {
            Bench {
                outbound: Outbound::new(class, 1400),
                rtt: Rtt::default(),
                order: 0,
                now: Instant::from_millis(1),
            }
        }

        /// The next datagram's segments: sequence number, length, more.
        fn pack(&mut self) -> Vec<(u64, usize, bool)> {
            let mut bytes = Vec::new();
            self.outbound.pack(self.now, self.order, &self.rtt, PATIENCE, &mut bytes, 1360);
            assert!(bytes.len() <= 1360);
            self.order += 1;
            let (mut all, mut chunks) = (Vec::new(), Chunks::new(&bytes));
            while let Some(Chunk::Run { first, mut segments, .. }) = chunks.next_chunk().unwrap() {
                let mut sequence = first;
                while let Some(segment) = segments.next_segment().unwrap() {
                    all.push((sequence, segment.bytes.len(), segment.more));
                    sequence += 1;
                }
            }
            all
        }

        fn ack(&mut self, next: u64, ranges: &[(u64, u64)]) -> Result<(), Malformed> {
            let mut bytes = Vec::new();
            frame::encode_ack(&mut bytes, Class::Lock, next, 0, ranges.iter().copied(), 1000);
            let Ok(Some(Chunk::Ack { ranges, .. })) = Chunks::new(&bytes).next_chunk() else { panic!() };
            let ack = Ack { next, ranges, delay: Duration::ZERO };
            self.outbound.handle_ack(self.now, ack, self.order, &mut self.rtt, PATIENCE)
        }

        fn timeout(&mut self, ms: u64) -> bool {
            self.now += Duration::from_millis(ms);
            self.outbound.handle_timeout(self.now, self.order, false, &self.rtt, PATIENCE)
        }
    }

    #[test]
    fn messages_share_datagrams_and_only_bulk_is_cut_to_fill_them() {
        for class in Class::ALL {
            let mut bench = Bench::new(class);
            (0..3).for_each(|_| bench.outbound.push(&[1; 600]));
            let expected: &[(u64, usize, bool)] = match class {
                Class::Lock | Class::Control => &[(0, 600, false), (1, 600, false)],
                Class::Bulk => &[(0, 600, false), (1, 600, false), (2, 142, true)],
            };
            assert_eq!(bench.pack(), expected);
            let rest = if class == Class::Bulk { 458 } else { 600 };
            assert_eq!(bench.pack().last().map(|s| (s.1, s.2)), Some((rest, false)));
            assert_eq!(bench.pack(), []);
            // What no datagram holds whole is cut in any class.
            bench.outbound.push(&[1; 3000]);
            assert_eq!(bench.pack().len(), 1);
        }
    }

    #[test]
    fn what_arrived_three_datagrams_later_gives_an_earlier_one_up() {
        let mut bench = Bench::new(Class::Lock);
        for _ in 0..6 {
            bench.outbound.push(&[1; 1300]);
            bench.pack();
        }
        bench.ack(0, &[(1, 3)]).unwrap();
        assert_eq!(bench.pack(), [], "two later ones may have overtaken it");
        bench.ack(0, &[(1, 4)]).unwrap();
        assert_eq!(bench.pack(), [(0, 1300, false)]);
        bench.ack(0, &[(1, 4)]).unwrap();
        assert_eq!(bench.pack(), [], "and once is enough");
        bench.ack(6, &[]).unwrap();
        assert_eq!((bench.outbound.backlog(), bench.outbound.messages()), (0, 0));
        assert_eq!(bench.outbound.timer(), None);
    }

    #[test]
    fn a_lost_tail_is_sent_again_by_time_one_datagram_first_then_all() {
        let mut bench = Bench::new(Class::Lock);
        for _ in 0..4 {
            bench.outbound.push(&[1; 1300]);
            bench.pack();
        }
        assert!(!bench.timeout(99));
        assert!(bench.timeout(1));
        assert_eq!(bench.pack(), [(0, 1300, false)]);
        assert_eq!(bench.pack(), []);
        assert!(!bench.timeout(199), "twice as patient");
        assert!(bench.timeout(1));
        let again: Vec<_> = (0..4).flat_map(|_| bench.pack()).map(|s| s.0).collect();
        assert_eq!(again, [0, 1, 2, 3]);
        assert!(!bench.timeout(399));
        assert!(bench.timeout(1));
        assert!(bench.timeout(500), "and never more than the most");
    }

    #[test]
    fn karn_what_was_sent_twice_is_no_sample() {
        let mut bench = Bench::new(Class::Lock);
        bench.outbound.push(b"x");
        bench.pack();
        bench.timeout(100);
        bench.pack();
        bench.ack(1, &[]).unwrap();
        assert_eq!(bench.rtt.smooth(), None);
        bench.outbound.push(b"y");
        bench.pack();
        bench.now += Duration::from_millis(7);
        bench.ack(2, &[]).unwrap();
        assert_eq!(bench.rtt.smooth(), Some(Duration::from_millis(7)));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
        let mut bench = Bench::new(Class::Lock);
        (0..3).for_each(|_| bench.outbound.push(&[1; 100]));
        bench.pack();
        assert!(bench.ack(4, &[]).is_err());
        assert!(bench.ack(1, &[(2, 4)]).is_err());
        assert_eq!((bench.outbound.backlog(), bench.outbound.messages()), (300, 3));
        // Stale ones are normal, and change nothing either.
        bench.ack(2, &[]).unwrap();
        bench.ack(0, &[(1, 2)]).unwrap();
        assert_eq!((bench.outbound.backlog(), bench.outbound.messages()), (100, 1));
        bench.ack(3, &[]).unwrap();
        assert_eq!(bench.outbound.backlog(), 0);
    }

    #[test]
    fn what_is_on_its_way_is_bounded_by_the_windows() {
        let mut bench = Bench::new(Class::Bulk);
        bench.outbound.push(&vec![1; 1 << 20]);
        let first: usize = std::iter::from_fn(|| Some(bench.pack()).filter(|p| !p.is_empty())).count();
        assert_eq!(first, (64 * 1400usize).div_ceil(1346), "the congestion window to begin with");
        let mut bench = Bench::new(Class::Lock);
        (0..9000).for_each(|_| bench.outbound.push(b""));
        let sent: usize = std::iter::from_fn(|| Some(bench.pack().len()).filter(|&n| n > 0)).sum();
        assert_eq!(sent, CIRCUIT_WINDOW_SEGMENTS, "messages without bytes are bounded too");
    }
}
