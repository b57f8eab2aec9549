//! How much one class may have on its way.

/// A window in bytes that opens while acknowledgements come and closes at losses.
///
/// Modest on purpose: circuits run in one machine room, and what they must not do is fill a switch's or a
/// socket's buffer until everything is late. Slow start, then one datagram a round trip, 0.7 of the window
/// after a loss. It never closes below [`FLOOR`] datagrams: a lossy link then still carries lock messages,
/// whose sum is small.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Congestion {
    datagram: usize,
    ceiling: usize,
    window: usize,
    /// Above it the window grows slowly.
    threshold: usize,
    /// Losses of what was sent before this order are one loss.
    recovering: u64,
}

/// Datagrams that may always be on their way.
const FLOOR: usize = 16;
/// Datagrams to begin with.
const START: usize = 64;

impl Congestion {
    pub(crate) fn new(datagram: usize, ceiling: usize) -> Congestion {
        let window = (START * datagram).min(ceiling);
        Congestion { datagram, ceiling, window, threshold: ceiling, recovering: 0 }
    }

    /// Bytes that may be on their way.
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// `bytes` arrived. `full` says that the window was what held the sender back; without that it proves
    /// nothing about a wider one.
    pub(crate) fn arrived(&mut self, bytes: usize, full: bool) {
        if full {
            let step = if self.window < self.threshold { bytes } else { self.datagram * bytes / self.window };
            self.window = (self.window + step).min(self.ceiling);
        }
    }

    /// Something sent as number `order` was lost, while `next` will be the next order.
    pub(crate) fn lost(&mut self, order: u64, next: u64) {
        if order >= self.recovering {
            self.recovering = next;
            self.window = (self.window / 10 * 7).max(self.floor());
            self.threshold = self.window;
        }
    }

    /// Nothing was answered for several timeouts: begin again.
    pub(crate) fn stalled(&mut self, next: u64) {
        self.recovering = next;
        self.threshold = (self.window / 2).max(self.floor());
        self.window = self.floor();
    }

    fn floor(&self) -> usize {
        (FLOOR * self.datagram).min(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_one_flight_count_once() {
        let mut c = Congestion::new(1000, 1_000_000);
        c.lost(5, 40);
        c.lost(6, 40);
        c.lost(39, 41);
        assert_eq!(c.window(), 44_800);
        c.lost(40, 60);
        assert_eq!(c.window(), 31_360);
    }

    #[test]
    fn the_window_opens_to_its_ceiling_and_closes_to_its_floor() {
        let mut c = Congestion::new(1000, 1_000_000);
        c.arrived(50_000, false);
        assert_eq!(c.window(), 64_000);
        (0..100).for_each(|_| c.arrived(50_000, true));
        assert_eq!(c.window(), 1_000_000);
        (0..100).for_each(|i| c.lost(i * 10, i * 10 + 1));
        assert_eq!(c.window(), 16_000);
        c.stalled(2000);
        assert_eq!(c.window(), 16_000);
    }
}
