//! Engines that are handed over (FT28): a node is written down and read again, in the middle of whatever goes on.
//!
//! ```text
//!   turn ─► written ─► (nobody serves for a while; what comes waits in the sockets) ─► read ─► turn
//!                       programs go on, in segments too
//! ```
//!
//! What reads is another node: of the one before only its seal remains, which is the node's key and the cluster's secret, and
//! the memory of its segments. That it is the same run all the same, no client and no other node may be able to tell, and
//! no lock may be lost by it.

use std::sync::Arc;

use oarlock_layout::codec::Wire;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_node::Node;
use oarlock_shm::{Hub, Memory};

use crate::queue::Time;
use crate::swarm::{FaultKind, MS, S};
use crate::trace::Kind;
use crate::world::{Happening, World};

impl World {
    /// Now and then some engine is.
    pub(crate) fn hand_over_somebody(&mut self) {
        let (now, Some(mean)) = (self.queue.now(), self.mix.handovers) else { return };
        if self.calm {
            return;
        }
        let gap = self.handover_random.below(2 * mean);
        self.queue.push(now + gap, Happening::HandOver);
        let node = self.handover_random.below(self.options.nodes.into()) as u16;
        let length = self.handover_random.spread(MS, 300 * MS);
        self.note_fault(FaultKind::HandOver as usize);
        self.hand_over(node, length);
    }

    /// An engine is handed over. Half of the time that takes no time; sometimes it takes longer than a lease.
    pub(crate) fn hand_over(&mut self, index: u16, length: Time) {
        let now = self.queue.now();
        // A machine that stands still replaces nothing, and a run that is over has nothing to hand over.
        let host = &self.hosts[usize::from(index)];
        if host.paused || host.node.as_ref().is_none_or(Node::has_ended) {
            return;
        }
        self.cover(FaultKind::HandOver, &[index]);
        // What it has to say is said before.
        self.drain(index);
        if self.hosts[usize::from(index)].node.as_ref().is_none_or(Node::has_ended) {
            return;
        }
        self.write_and_read(index);
        let length = match self.handover_random.below(100) {
            0..50 => 0,
            50..97 => length.min(S),
            _ => self.handover_random.between(S, 5 * S),
        };
        self.hosts[usize::from(index)].paused = true;
        if length == 0 {
            return self.resume(index);
        }
        let until = (now + length).min(self.plan.storm_end).max(now);
        self.health.touch(index, until);
        self.queue.push(until, Happening::Resume { node: index });
    }

    /// The state in writing says everything: who reads it writes the same.
    fn write_and_read(&mut self, index: u16) {
        let (now, loses) = (self.queue.now(), self.loses());
        let host = &mut self.hosts[usize::from(index)];
        let (Some(node), Some(config)) = (host.node.take(), &host.config) else { return };
        let bytes = node.write();
        let (seal, words) = node.into_parts();
        let words = words_anew(words, &host.segments);
        let node = Node::read(config.clone(), seal, words, &bytes)
            .unwrap_or_else(|why| panic!("node {index} cannot be read: {why}"));
        if !loses {
            assert!(node.write() == bytes, "node {index} is another after it was written and read");
        }
        host.node = Some(node);
        self.load.handovers += 1;
        self.load.handover_bytes += bytes.len() as u64;
        if self.options.rewrite.is_none() {
            self.trace.record(now, Kind::HandOver, index.into(), &bytes);
        }
    }

    /// Something is lost on purpose, which others than the one who does it are to notice.
    #[cfg(feature = "planted")]
    fn loses(&self) -> bool {
        matches!(self.options.bug, Some(oarlock_node::Bug::Lose(_)))
    }

    #[cfg(not(feature = "planted"))]
    fn loses(&self) -> bool {
        false
    }

    /// Between any two steps, if the options say so: nothing else may change by it, so chance has no part in it.
    pub(crate) fn rewrite(&mut self) {
        let Some(every) = self.options.rewrite else { return };
        if !self.load.events.is_multiple_of(every) {
            return;
        }
        let index = (self.load.events / every % u64::from(self.options.nodes)) as u16;
        // A handshake under way would be begun again, which others could tell.
        let runs = |node: &Node| !node.is_greeting() && !node.has_ended();
        if self.hosts[usize::from(index)].node.as_ref().is_some_and(runs) {
            self.write_and_read(index);
        }
    }
}

/// What counts locks is written down and read again as well; in segments programs go on meanwhile.
fn words_anew(words: Vec<Box<dyn Words + Send>>, segments: &[Arc<Memory>]) -> Vec<Box<dyn Words + Send>> {
    let written: Vec<Vec<u8>> = words.into_iter().map(|words| words.written()).collect();
    let read = |(space, bytes): (usize, &Vec<u8>)| -> Box<dyn Words + Send> {
        match segments.get(space) {
            Some(memory) => Box::new(Hub::resume(memory.clone(), bytes).expect("its own words")),
            None => Box::new(PlainWords::from_bytes(bytes).expect("its own words")),
        }
    };
    written.iter().enumerate().map(read).collect()
}
