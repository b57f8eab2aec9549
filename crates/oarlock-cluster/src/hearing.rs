//! Evidence of silence: which peers are not heard, and since when.

use alloc::collections::BTreeMap;

use oarlock_layout::id::NodeId;
use oarlock_layout::time::{Duration, Instant};

/// Which peers are silent. Evidence only: by itself it puts nobody out of the view (L7, L8), but
/// whoever waits for a silent peer deserves to be told so.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hearing {
    silent: BTreeMap<NodeId, Instant>,
}

impl Hearing {
    /// Nobody is silent yet.
    pub const fn new() -> Hearing {
        Hearing { silent: BTreeMap::new() }
    }

    /// A circuit went silent. Saying so again does not restart the count.
    pub fn handle_silent(&mut self, now: Instant, peer: NodeId) {
        self.silent.entry(peer).or_insert(now);
    }

    /// A circuit is heard again, or a new run of the peer is up. Returns for how long it was silent.
    pub fn handle_heard(&mut self, now: Instant, peer: NodeId) -> Option<Duration> {
        self.silent.remove(&peer).map(|since| now.since(since))
    }

    /// Since when the peer is silent, if it is.
    pub fn silent_since(&self, peer: NodeId) -> Option<Instant> {
        self.silent.get(&peer).copied()
    }

    /// All silent peers, lowest id first.
    pub fn silent(&self) -> impl Iterator<Item = (NodeId, Instant)> + '_ {
        self.silent.iter().map(|(peer, since)| (*peer, *since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_counts_from_its_first_notice_to_the_first_word() {
        // L8: silent and heard again is one episode.
        let mut hearing = Hearing::new();
        let (peer, t) = (NodeId(2), Instant::from_millis);
        hearing.handle_silent(t(1_000), peer);
        hearing.handle_silent(t(2_000), peer);
        assert_eq!(hearing.silent_since(peer), Some(t(1_000)));
        assert_eq!(hearing.silent().collect::<Vec<_>>(), [(peer, t(1_000))]);
        assert_eq!(hearing.handle_heard(t(4_000), peer), Some(Duration::from_secs(3)));
        assert_eq!(hearing.handle_heard(t(5_000), peer), None);
        assert_eq!(hearing.silent().count(), 0);
    }
}
