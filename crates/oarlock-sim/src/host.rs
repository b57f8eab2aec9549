//! A machine: a node, its disk, its clock, and whether it stands still.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use oarlock_layout::id::{Epoch, Incarnation};
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::Instant;
use oarlock_node::{Config, Node};
use oarlock_shm::Memory;

use crate::disk::Disk;
use crate::farewell::{Keeper, Leaving};
use crate::fencing::ToRegisters;
use crate::history::Client;
use crate::keys::Keys;
use crate::members::Identity;
use crate::queue::Time;
use crate::share::Ticking;
use crate::swarm::S;
use crate::versions::Release;

/// What comes to a node from outside.
#[derive(Debug)]
pub(crate) enum Input {
    Datagram {
        from: u16,
        bytes: Vec<u8>,
    },
    Open {
        client: Client,
        pid: u32,
    },
    Packet {
        client: Client,
        bytes: Vec<u8>,
    },
    Hangup {
        client: Client,
    },
    /// The process that had this session has ended for certain.
    Gone {
        client: Client,
    },
    /// An earlier run of this node was given up by its keeper.
    GivenUp {
        incarnation: Incarnation,
    },
    Stored {
        epoch: Epoch,
    },
    CeilingStored {
        ceiling: Stamp,
    },
}

/// A machine.
pub(crate) struct Host {
    pub index: u16,
    /// A run of the node goes on.
    pub up: bool,
    pub node: Option<Node>,
    /// What its run was told at its start.
    pub config: Option<Config>,
    pub disk: Disk,
    /// Its own keys, which lie beside.
    pub keys: Keys,
    /// Processes connected to this run of the node.
    pub sessions: BTreeMap<Client, usize>,
    pub serving: bool,
    /// Its disk is older than its last run, or empty.
    pub stale: bool,
    /// How many runs it has had, whatever its disk says.
    pub starts: u64,
    /// A copy of its disk that somebody made.
    copy: Disk,
    /// The phases that it was seen in last.
    pub stages: u32,
    /// It does nothing until it goes on; what comes meanwhile waits here.
    pub paused: bool,
    pub inbox: VecDeque<Input>,
    /// The timer that is in the queue.
    pub timer_at: Time,
    /// The segments of this run's lockspaces; none if programs have only their sockets.
    pub segments: Vec<Arc<Memory>>,
    /// Up to when programs believe that they hold what they hold, on this machine's clock.
    pub lease_until: Instant,
    /// The node waits, and whoever rings must knock.
    pub asleep: bool,
    /// How this run of the node fences others.
    pub fence: ToRegisters,
    /// The run has been stopped and waits for its programs.
    pub stopping: Option<Leaving>,
    /// What outlives the engine.
    pub keeper: Keeper,
    /// It lives.
    pub kept: bool,
    /// Who it is to the others.
    pub identity: Identity,
    /// What it runs.
    pub release: Release,
    /// How often in a row it was woken at the same moment.
    rushes: (Time, u32),
    skew: Rc<Cell<Skew>>,
    drift: i64,
    /// So many seconds its wall clock is off, and when its other clock leapt or stood still last.
    pub wall_off: i64,
    pub stepped: Time,
}

/// What a clock is off besides its rate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Skew {
    offset: u64,
    /// So long it has stood still in all, before the last time.
    stood: Time,
    /// From when to when it stands still.
    hold: (Time, Time),
}

/// What all wall clocks show at first.
const WALL: u64 = 1_800_000_000;

/// Datagrams that a socket keeps while nobody reads it.
pub(crate) const INBOX_MAX: usize = 2048;

impl Host {
    pub(crate) fn new(index: u16, offset: u64, drift: i64) -> Host {
        Host {
            index,
            up: false,
            node: None,
            config: None,
            disk: Disk::default(),
            keys: Keys::new(index),
            sessions: BTreeMap::new(),
            serving: false,
            stale: false,
            starts: 0,
            copy: Disk::default(),
            stages: 0,
            paused: false,
            inbox: VecDeque::new(),
            timer_at: Time::MAX,
            segments: Vec::new(),
            lease_until: Instant(0),
            asleep: false,
            fence: ToRegisters::default(),
            stopping: None,
            keeper: Keeper::default(),
            kept: false,
            identity: Identity::founder(index),
            release: Release::This,
            rushes: (0, 0),
            skew: Rc::new(Cell::new(Skew { offset, ..Skew::default() })),
            drift,
            wall_off: 0,
            stepped: 0,
        }
    }

    /// A run begins.
    pub(crate) fn begin(&mut self) {
        self.rest();
        self.up = true;
        self.starts += 1;
        self.disk.begin();
    }

    /// The run ends, in whatever way; what waited for it is gone.
    pub(crate) fn end(&mut self) {
        self.rest();
        self.up = false;
        self.node = None;
        self.inbox.clear();
        self.segments.clear();
    }

    /// Somebody copies its disk.
    pub(crate) fn copy(&mut self) {
        self.copy = self.disk;
    }

    /// Its disk is as it was when it was copied, or empty.
    pub(crate) fn turn_back(&mut self, wiped: bool) {
        self.disk = if wiped { Disk::default() } else { self.copy };
        self.stale = true;
    }

    fn rest(&mut self) {
        (self.serving, self.paused, self.timer_at) = (false, false, Time::MAX);
        (self.asleep, self.lease_until) = (false, Instant(0));
        self.fence = ToRegisters::default();
        self.stopping = None;
    }

    /// Something reached the machine, for this run (of so many starts) or for whichever goes on. Gives it back if the node is to
    /// take it now. Nobody takes what is for a run that is over; while the machine stands still it waits, and a
    /// datagram that finds no room is gone.
    pub(crate) fn admit(&mut self, run: Option<u64>, input: Input) -> Option<Input> {
        // Counted by what the machine has seen: its disk may have begun to count again, while a write of the run before is under way.
        if !self.up || run.is_some_and(|run| run != self.starts) {
            return None;
        }
        if !self.paused {
            return Some(input);
        }
        if !matches!(input, Input::Datagram { .. }) || self.inbox.len() < INBOX_MAX {
            self.inbox.push_back(input);
        }
        None
    }

    /// What this machine's clock shows (FT14: its rate is a little off).
    pub(crate) fn clock(&self, now: Time) -> Instant {
        shown(now, self.skew.get(), self.drift)
    }

    /// Its clock leaps ahead by so much.
    pub(crate) fn leap(&mut self, by: Time) {
        let skew = self.skew.get();
        self.skew.set(Skew { offset: skew.offset + by, ..skew });
    }

    /// Its clock stands still from now on for so long.
    pub(crate) fn stand(&mut self, now: Time, length: Time) {
        let skew = self.skew.get();
        debug_assert!(skew.hold.1 <= now, "one after the other");
        let stood = skew.stood + skew.hold.1 - skew.hold.0;
        self.skew.set(Skew { stood, hold: (now, now + length), ..skew });
    }

    /// What its wall clock shows, in seconds since 1970 (FT14: it may be years off).
    pub(crate) fn wall(&self, now: Time) -> u64 {
        (WALL + now / S).saturating_add_signed(self.wall_off)
    }

    /// Its node grants.
    pub(crate) fn grants(&self) -> bool {
        self.node.as_ref().is_some_and(Node::grants)
    }

    /// The same clock, for its programs.
    pub(crate) fn ticking(&self, now: &Rc<Cell<Time>>) -> Ticking {
        Ticking { now: now.clone(), skew: self.skew.clone(), drift: self.drift }
    }

    /// Counts how often it is woken at one moment.
    pub(crate) fn rush(&mut self, now: Time) -> u32 {
        self.rushes = if self.rushes.0 == now { (now, self.rushes.1 + 1) } else { (now, 0) };
        self.rushes.1
    }

    /// The first moment at which its clock shows at least `at`.
    pub(crate) fn when(&self, at: Instant) -> Time {
        let skew = self.skew.get();
        let Some(local) = at.0.checked_sub(skew.offset) else { return 0 };
        // As if it had never stood still.
        let clock = |time| shown(time, Skew { offset: skew.offset, ..Skew::default() }, self.drift);
        let mut time = (i128::from(local) * 1_000_000 / i128::from(1_000_000 + self.drift)) as Time;
        while clock(time) < at {
            time += 1;
        }
        while time > 0 && clock(time - 1) >= at {
            time -= 1;
        }
        let (from, to) = skew.hold;
        let time = time + skew.stood;
        if time > from { time + (to - from) } else { time }
    }

    pub(crate) fn address(index: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 7, 0, index as u8 + 1)), 7007)
    }

    /// Which node has this address.
    pub(crate) fn at_address(address: SocketAddr) -> Option<u16> {
        match address.ip() {
            IpAddr::V4(ip) => Some(u16::from(ip.octets()[3]) - 1),
            IpAddr::V6(_) => None,
        }
    }
}

/// What a clock shows that is off by so much and runs `drift` millionths too fast.
pub(crate) fn shown(now: Time, skew: Skew, drift: i64) -> Instant {
    let (from, to) = skew.hold;
    let ran = now - skew.stood - (now.clamp(from, to) - from);
    let off = i128::from(ran) * i128::from(drift) / 1_000_000;
    Instant((i128::from(ran) + off + i128::from(skew.offset)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_drift_and_timers_are_neither_early_nor_late() {
        for drift in [-20_000, -1, 0, 7, 20_000] {
            let host = Host::new(0, 123_456_789, drift);
            for at in [0, 1, 999, 1_000_000_007, 86_400_000_000_000] {
                let shown = host.clock(at);
                let when = host.when(shown);
                assert!(host.clock(when) >= shown && when <= at);
                assert!(when == 0 || host.clock(when - 1) < shown);
            }
        }
    }

    /// It never goes back, and a timer is due at the first moment at which it shows what was asked for.
    #[test]
    fn a_clock_that_leapt_and_stood_goes_on_from_there() {
        for drift in [-20_000, 0, 20_000] {
            let mut host = Host::new(0, 5, drift);
            host.leap(1_000_000);
            host.stand(2_000_000, 500_000);
            let moments = [0, 1_999_999, 2_000_000, 2_000_001, 2_499_999, 2_500_000, 2_500_001, 9_000_000];
            for pair in moments.windows(2) {
                assert!(host.clock(pair[0]) <= host.clock(pair[1]));
            }
            assert_eq!(host.clock(2_000_000), host.clock(2_500_000));
            // From here on nobody asks what it showed before.
            host.stand(7_000_000, 250_000);
            for at in [7_000_000, 7_000_001, 7_249_999, 7_250_000, 9_000_000] {
                let when = host.when(host.clock(at));
                assert!(when <= at && host.clock(when) >= host.clock(at), "{at} {when}");
                let next = Instant(host.clock(at).0 + 1_000_000);
                assert!(host.clock(host.when(next)) >= next && host.clock(host.when(next) - 1) < next);
            }
            // One millisecond ahead, three quarters of one behind.
            assert!(drift != 0 || host.clock(9_000_000) == Instant(9_250_005));
        }
    }

    #[test]
    fn addresses_name_their_node() {
        assert_eq!(Host::at_address(Host::address(6)), Some(6));
    }
}
