//! What a run was like.

use std::fmt;

use crate::check::Finding;
use crate::coverage::{Coverage, KINDS};
use crate::trace::Trace;

/// How much happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Requests for new locks.
    pub locks: u64,
    /// Of all requests, those refused because the node was not in a view.
    pub refused: u64,
    /// Converts asked for.
    pub converts: u64,
    /// Requests withdrawn.
    pub cancels: u64,
    /// Programs killed.
    pub deaths: u64,
    /// Faults of nodes and of the network.
    pub faults: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Datagrams lost, doubled, corrupted, delayed or replayed.
    pub harmed: u64,
    /// Things that happened: arrivals, timers, requests, answers, faults.
    pub events: u64,
    /// Grants that clients saw.
    pub grants: u64,
    /// Of those, grants that programs gave themselves or found in their entries.
    pub by_entry: u64,
    /// Sessions that ended because their node's lease had passed.
    pub lapsed: u64,
    /// Views in which a run was put out.
    pub verdicts: u64,
    /// Of these, views in which some were outvoted by whoever waited.
    pub outvoted: u64,
    /// Joins refused because a token was expired, or not made yet, by the wall clock of whoever proposed them.
    pub tokens_refused: u64,
    /// Times in which no coordinator led.
    pub leaders_lost: u64,
    /// Views that came into effect, counted once at each node.
    pub views: u64,
    /// Fences that every register had on its disk.
    pub fenced: u64,
    /// Tries of a fence that failed.
    pub fence_failures: u64,
    /// Writes that a register refused because their node was fenced.
    pub refused_writes: u64,
    /// Views that another one overtook before masters granted, likewise.
    pub overtaken: u64,
    /// Value blocks read.
    pub reads: u64,
    /// Of those, outside of doubt: a mark that nobody accounts for would be found.
    pub reads_certain: u64,
    /// Verdicts while some member was sound, which they must have spared.
    pub verdicts_judged: u64,
    /// Waits that could close a circle.
    pub daring: u64,
    /// Of these, refused because they did.
    pub circles: u64,
    /// Nodes that were written down and read again.
    pub handovers: u64,
    /// How many bytes that were, together.
    pub handover_bytes: u64,
    /// Keys that nodes began to change.
    pub keys_changed: u64,
    /// Of those, changed to the end.
    pub keys_retired: u64,
    /// Runs that were stopped in order.
    pub stops: u64,
    /// Of those, runs that heard that they have given themselves up.
    pub surrendered: u64,
    /// Engines that died while their keepers lived.
    pub engines: u64,
    /// Last words that keepers said of them.
    pub gasps: u64,
    /// Nodes that came back as a later version.
    pub upgrades: u64,
    /// Chunks and fields of later versions that were skipped.
    pub skipped: u64,
    /// Commands with fields that must be understood, refused by their number.
    pub unread: u64,
    /// Times that a node was told of another version, or told one.
    pub refused_versions: u64,
    /// Grants to programs that lacked a right to something, and requests of them that were refused for that.
    pub granted_to_few: u64,
    /// See above.
    pub denied: u64,
    /// Members that left for good.
    pub left: u64,
    /// Members that joined in their places.
    pub joined: u64,
}

impl Load {
    /// Adds another run's.
    pub fn add(&mut self, other: &Load) {
        self.locks += other.locks;
        self.refused += other.refused;
        self.converts += other.converts;
        self.cancels += other.cancels;
        self.deaths += other.deaths;
        self.faults += other.faults;
        self.datagrams += other.datagrams;
        self.harmed += other.harmed;
        self.events += other.events;
        self.grants += other.grants;
        self.by_entry += other.by_entry;
        self.lapsed += other.lapsed;
        self.verdicts += other.verdicts;
        self.outvoted += other.outvoted;
        self.tokens_refused += other.tokens_refused;
        self.leaders_lost += other.leaders_lost;
        self.views += other.views;
        self.fenced += other.fenced;
        self.fence_failures += other.fence_failures;
        self.refused_writes += other.refused_writes;
        self.overtaken += other.overtaken;
        self.reads += other.reads;
        self.reads_certain += other.reads_certain;
        self.verdicts_judged += other.verdicts_judged;
        self.handovers += other.handovers;
        self.handover_bytes += other.handover_bytes;
        self.keys_changed += other.keys_changed;
        self.keys_retired += other.keys_retired;
        self.stops += other.stops;
        self.surrendered += other.surrendered;
        self.engines += other.engines;
        self.gasps += other.gasps;
        self.upgrades += other.upgrades;
        self.skipped += other.skipped;
        self.unread += other.unread;
        self.refused_versions += other.refused_versions;
        self.daring += other.daring;
        self.circles += other.circles;
        self.granted_to_few += other.granted_to_few;
        self.denied += other.denied;
        self.left += other.left;
        self.joined += other.joined;
    }
}

/// A run and what was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// From which it follows.
    pub seed: u64,
    /// Simulated seconds.
    pub seconds: u64,
    /// The hash over every frame, output and timer.
    pub trace: Trace,
    /// Everything that is not as promised.
    pub findings: Vec<Finding>,
    /// How much happened.
    pub load: Load,
    /// How often each kind of fault was made, in the order of
    /// [`FaultKind::ALL`](crate::swarm::FaultKind::ALL).
    pub faults: [u64; KINDS],
    /// Which fault met which phase of the protocol.
    pub coverage: Coverage,
    /// The storm ended for a majority only.
    pub liveness: bool,
    /// And what stays broken is one node that two others do not hear.
    pub torn: bool,
}

impl Report {
    /// What of the standard load did not happen: 500 lock calls, 20 converts or cancels, 2 deaths and 1 fault in
    /// each simulated second, of which nine tenths must be reached for the seed to count; six where nodes stay broken.
    pub fn missed_load(&self) -> Option<String> {
        let served = self.load.locks.saturating_sub(self.load.refused);
        let changes = self.load.converts + self.load.cancels;
        // Where nodes stay broken their programs are gone, and the storm is shorter.
        // Until such a node is put out nobody may be granted anything.
        let tenths = if self.torn {
            3
        } else if self.liveness {
            6
        } else {
            9
        };
        let standard = [
            ("lock calls", served, 500),
            ("converts and cancels", changes, 20),
            ("deaths", self.load.deaths, 2),
            ("faults", self.load.faults, 1),
        ];
        let missed: Vec<String> = standard
            .iter()
            .filter(|(_, had, per_second)| had * 10 < per_second * self.seconds * tenths)
            .map(|(what, had, per_second)| format!("{had} of {} {what}", per_second * self.seconds))
            .collect();
        (!missed.is_empty()).then(|| missed.join(", "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} ({} s, trace {})", self.seed, self.seconds, self.trace)?;
        match self.findings.first() {
            Some(first) => write!(f, ": {} findings, first: {first}", self.findings.len()),
            None => write!(f, ": as promised"),
        }
    }
}
