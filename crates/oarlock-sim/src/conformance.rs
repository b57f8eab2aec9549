//! What stands in for a kernel, by itself.
//!
//! A simulated node is believed to run as a real one would. That rests on its network, clock, disk and sockets
//! behaving as the daemon's do in everything a node relies on. `oarlockd/tests/host_suite.rs` makes the same
//! claims about both; this module is the door through which it reaches the stand-ins. They are the very ones on
//! which simulated nodes stand, here with nobody on top: what arrives is kept until it is asked for.
//!
//! Nobody needs this to simulate anything. Beside it stand the [scenes] that every coordinator plays, the simulated one
//! like those of the daemon.

pub mod scenes;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use oarlock_circuit::Transmit;
use oarlock_layout::id::Epoch;
use oarlock_layout::time::Instant;

use crate::disk;
use crate::history::Client;
use crate::host::{Host, Input};
use crate::network::{Network, Weather};
use crate::process::pid;
use crate::queue::{Queue, Time};
use crate::random::Random;
use crate::socket::Socket;

/// What reached a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// A datagram.
    Datagram {
        /// Its sender.
        from: SocketAddr,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// A program attached.
    Opened {
        /// Its number.
        client: Client,
        /// Its process.
        pid: u32,
    },
    /// A program sent a packet.
    Packet {
        /// Its number.
        client: Client,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// A program hung up.
    HungUp {
        /// Its number.
        client: Client,
    },
    /// An epoch is on the disk.
    Stored {
        /// Which one.
        epoch: Epoch,
    },
}

/// What comes next.
enum Happening {
    Input { node: u16, run: Option<u64>, input: Input },
    Reply { client: Client, bytes: Vec<u8> },
    Alarm,
}

/// A program, as far as its socket goes.
struct Program {
    node: u16,
    run: u64,
    socket: Socket,
    heard: VecDeque<Vec<u8>>,
}

/// Some machines and the network between them, in fine weather.
///
/// Time passes only in [`wait`](Machines::wait). Each machine is down until it is [begun](Machines::begin).
pub struct Machines {
    queue: Queue<Happening>,
    network: Network,
    hosts: Vec<Host>,
    arrived: Vec<VecDeque<Arrival>>,
    programs: BTreeMap<Client, Program>,
    next_client: Client,
    random: Random,
}

impl Machines {
    /// So many machines. Origin and rate of their clocks follow from the seed; the rates are up to two per cent
    /// off, as in a run with faults (FT14).
    pub fn new(seed: u64, machines: u16) -> Machines {
        let mut random = Random::new(seed);
        let mut host = |index| {
            let drift = random.between(0, 40_000) as i64 - 20_000;
            Host::new(index, random.below(1 << 40), drift)
        };
        Machines {
            queue: Queue::default(),
            hosts: (0..machines).map(&mut host).collect(),
            arrived: vec![VecDeque::new(); usize::from(machines)],
            programs: BTreeMap::new(),
            next_client: 0,
            network: Network::new(machines, Weather::FINE, random.fork()),
            random,
        }
    }

    fn host(&mut self, node: u16) -> &mut Host {
        &mut self.hosts[usize::from(node)]
    }

    // ----- runs and disks -------------------------------------------------------------------------------

    /// A run begins. Gives its number and the epoch on the disk.
    pub fn begin(&mut self, node: u16) -> (u64, Epoch) {
        let host = self.host(node);
        host.begin();
        (host.disk.run(), host.disk.stored())
    }

    /// The run ends. Programs see the end of their sockets.
    pub fn end(&mut self, node: u16) {
        let host = self.host(node);
        host.end();
        self.arrived[usize::from(node)].clear();
    }

    /// Begins to store an epoch. [`Arrival::Stored`] says that it is done.
    pub fn store(&mut self, node: u16, epoch: Epoch) {
        let done = self.queue.now() + disk::write_time(&mut self.random);
        let run = Some(self.host(node).disk.run());
        self.queue.push(done, Happening::Input { node, run, input: Input::Stored { epoch } });
    }

    // ----- time -----------------------------------------------------------------------------------------

    /// What the clock of a machine shows.
    pub fn clock(&self, node: u16) -> Instant {
        self.hosts[usize::from(node)].clock(self.queue.now())
    }

    /// True time since the beginning.
    pub fn elapsed(&self) -> Time {
        self.queue.now()
    }

    /// Waits as a node does: until its clock shows `until`, or something has reached it.
    pub fn wait(&mut self, node: u16, until: Instant) {
        let at = self.host(node).when(until).max(self.queue.now());
        self.queue.push(at, Happening::Alarm);
        while self.queue.now() < at && self.arrived[usize::from(node)].is_empty() {
            self.step(at);
        }
    }

    /// Lets so much true time pass, whatever arrives.
    pub fn pass(&mut self, time: Time) {
        let at = self.queue.now() + time;
        self.queue.push(at, Happening::Alarm);
        while self.step(at) {}
    }

    /// Stands still: what comes waits in sockets.
    pub fn stand_still(&mut self, node: u16) {
        self.host(node).paused = true;
    }

    /// Goes on, with what has waited.
    pub fn go_on(&mut self, node: u16) {
        let host = self.host(node);
        host.paused = false;
        for input in std::mem::take(&mut host.inbox) {
            self.take_in(node, input);
        }
    }

    /// What has reached a machine since this was asked last.
    pub fn arrived(&mut self, node: u16) -> Vec<Arrival> {
        self.arrived[usize::from(node)].drain(..).collect()
    }

    fn step(&mut self, until: Time) -> bool {
        let Some(happening) = self.queue.pop(until) else { return false };
        match happening {
            Happening::Input { node, run, input } => {
                if let Some(input) = self.host(node).admit(run, input) {
                    self.take_in(node, input);
                }
            }
            Happening::Reply { client, bytes } => {
                // Of a run that is over nothing more is heard, not even what was under way.
                if !self.gone(client) {
                    self.programs.get_mut(&client).expect("it is there").heard.push_back(bytes);
                }
            }
            Happening::Alarm => {}
        }
        true
    }

    fn take_in(&mut self, node: u16, input: Input) {
        let arrival = match input {
            Input::Datagram { from, bytes } => Arrival::Datagram { from: Host::address(from), bytes },
            Input::Open { client, pid } => Arrival::Opened { client, pid },
            Input::Packet { client, bytes } => Arrival::Packet { client, bytes },
            Input::Hangup { client } => Arrival::HungUp { client },
            // These machines have no segments.
            Input::Gone { .. } => return,
            Input::Stored { epoch } => {
                self.host(node).disk.store(epoch);
                Arrival::Stored { epoch }
            }
            // Nobody stands on these machines who has a clock.
            Input::CeilingStored { .. } | Input::GivenUp { .. } => return,
        };
        self.arrived[usize::from(node)].push_back(arrival);
    }

    // ----- the network ----------------------------------------------------------------------------------

    /// Where a machine is reached.
    pub fn address(&self, node: u16) -> SocketAddr {
        Host::address(node)
    }

    /// Sends to one of the machines.
    pub fn send(&mut self, from: u16, transmit: &Transmit) {
        let now = self.queue.now();
        let to = Host::at_address(transmit.to).expect("an address of these machines");
        for datagram in transmit.datagrams() {
            self.network.send(now, from, to, datagram, |flight| {
                let bytes = flight.altered.unwrap_or_else(|| datagram.to_vec());
                let input = Input::Datagram { from, bytes };
                self.queue.push(flight.at, Happening::Input { node: to, run: None, input });
            });
        }
    }

    // ----- programs -------------------------------------------------------------------------------------

    /// A program attaches to the run that goes on; gives its number.
    pub fn attach(&mut self, node: u16) -> Client {
        self.next_client += 1;
        let client = self.next_client;
        let (run, socket) = (self.host(node).disk.run(), Socket::new(self.queue.now()));
        self.programs.insert(client, Program { node, run, socket, heard: VecDeque::new() });
        self.put(client, Input::Open { client, pid: pid(client) });
        client
    }

    /// The process of a program.
    pub fn pid(&self, client: Client) -> u32 {
        pid(client)
    }

    /// A program sends a packet.
    pub fn ask(&mut self, client: Client, packet: &[u8]) {
        self.put(client, Input::Packet { client, bytes: packet.to_vec() });
    }

    /// A program dies.
    pub fn die(&mut self, client: Client) {
        self.put(client, Input::Hangup { client });
        self.programs.remove(&client);
    }

    /// The node sends a packet to a program.
    pub fn reply(&mut self, client: Client, packet: &[u8]) {
        let Some(program) = self.programs.get_mut(&client) else { return };
        let at = program.socket.reaches_program(self.queue.now(), &mut self.random);
        self.queue.push(at, Happening::Reply { client, bytes: packet.to_vec() });
    }

    /// What a program has heard since this was asked last, and whether its node has gone.
    pub fn heard(&mut self, client: Client) -> (Vec<Vec<u8>>, bool) {
        let gone = self.gone(client);
        let heard = self.programs.get_mut(&client).map(|program| program.heard.drain(..).collect());
        (heard.unwrap_or_default(), gone)
    }

    /// The program is dead, or the run it was attached to is over.
    fn gone(&self, client: Client) -> bool {
        self.programs.get(&client).is_none_or(|program| {
            let host = &self.hosts[usize::from(program.node)];
            !host.up || host.disk.run() != program.run
        })
    }

    fn put(&mut self, client: Client, input: Input) {
        let Some(program) = self.programs.get_mut(&client) else { return };
        let at = program.socket.reaches_node(self.queue.now(), &mut self.random);
        let run = Some(program.run);
        self.queue.push(at, Happening::Input { node: program.node, run, input });
    }
}
