//! The cluster clock under load: who issues stamps, and what must hold of them (E5, E8, CK1, CK3).
//!
//! Real nodes issue stamps when somebody asks. A simulated one issues some with every packet of a program: enough that
//! ceilings are raised many times in a run.

use std::collections::BTreeMap;

use oarlock_layout::id::Epoch;
use oarlock_layout::stamp::{HighWatermark, Stamp};

use crate::host::Host;
use crate::world::World;

/// With each packet of a program. Some dozens of packets use up the shortest stride.
const STAMPS: usize = 40;

/// The stamps of all runs so far.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// The highest of each node.
    last: BTreeMap<u16, Stamp>,
    /// The highest of each view.
    highest: BTreeMap<Epoch, Stamp>,
    pub issued: u64,
}

impl World {
    /// A program does something, and stamps are issued for it.
    pub(crate) fn issue(&mut self, index: u16) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        let at = host.clock(now);
        let Some(node) = &mut host.node else { return };
        for _ in 0..STAMPS {
            // It may have to wait: then nothing is issued for this packet.
            let Ok(stamp) = node.issue(at) else { return };
            let stamps = &mut self.stamps;
            stamps.issued += 1;
            let epoch = node.clock().epoch();
            let before = stamps.highest.range(..epoch).map(|(_, stamp)| *stamp).max().unwrap_or_default();
            let mine = stamps.last.insert(index, stamp).unwrap_or_default();
            if stamp <= before.max(mine) {
                let text = format!("node {index} issues {stamp} after {mine}, and earlier views {before}");
                self.others.add("stamp", now, text);
            }
            let highest = stamps.highest.entry(epoch).or_default();
            *highest = stamp.max(*highest);
        }
    }

    /// Long after the last fault every member may issue stamps.
    pub(crate) fn clocks_must_go(&mut self) {
        let stands = |host: &&Host| host.node.as_ref().is_some_and(|node| node.clock().granted() == Stamp(0));
        let broken = &self.health.broken;
        for host in self.hosts.iter().filter(|host| !broken.contains_key(&host.index)).filter(stands) {
            let text = format!("the clock of node {} stands", host.index);
            self.others.add("stamp", self.queue.now(), text);
        }
    }

    /// The watermark of every member is at or above every clock. Who is out and has not learned it knows nothing of later
    /// views; its own clock is covered all the same.
    pub(crate) fn check_clocks(&mut self) {
        let runs = || self.hosts.iter().filter_map(|host| Some((host, host.node.as_ref()?.clock())));
        let Some(highest) = runs().map(|(_, clock)| clock.last()).max() else { return };
        let members =
            runs().filter(|(host, _)| !host.stale && self.coordinator.is_in(host.index, host.disk.run()));
        let Some(HighWatermark(lowest)) = members.filter_map(|(_, clock)| clock.high_watermark()).min()
        else {
            return;
        };
        if highest > lowest {
            let text = format!("a clock stands at {highest}, and a watermark at {lowest}");
            self.others.add("stamp", self.queue.now(), text);
        }
    }
}
