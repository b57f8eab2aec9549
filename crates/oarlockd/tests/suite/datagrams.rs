//! Datagrams: the daemon's UDP socket and the simulator's network in fine weather.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use oarlock_circuit::Transmit;
use oarlock_sim::conformance::{Arrival, Machines};
use oarlockd::host::datagrams::Datagrams;

use super::{Claim, claims};

/// Machines that send to each other.
const MACHINES: usize = 3;
/// The largest datagram over IPv4.
const LARGEST: usize = 65_507;

type Got = (SocketAddr, Vec<u8>);

/// A network between [`MACHINES`] machines.
pub(crate) trait Wire {
    /// So many datagrams of such a size are more than a socket keeps while nobody reads it.
    fn flood(&self) -> (usize, usize);
    fn address(&self, machine: usize) -> SocketAddr;
    /// Where nobody listens.
    fn nobody(&self) -> SocketAddr;
    fn send(&mut self, from: usize, transmit: &Transmit);
    /// The machine does not look at its socket until `receive` is called.
    fn stand_still(&mut self, machine: usize);
    /// Takes `n` datagrams if they come, and all that comes besides.
    fn receive(&mut self, machine: usize, n: usize) -> Vec<Got>;
}

pub(crate) fn claims<W: Wire>() -> Vec<Claim<W>> {
    claims![
        bytes_arrive_whole_and_as_sent_with_their_senders_address
        machines_are_not_mixed_up
        a_train_arrives_as_its_datagrams
        nothing_arrives_twice
        a_datagram_to_nobody_harms_nothing
        what_is_too_large_does_not_arrive_and_harms_nothing
        who_stands_still_finds_only_so_much
    ]
}

fn one(to: SocketAddr, bytes: &[u8]) -> Transmit {
    Transmit { to, bytes: bytes.to_vec(), segment: None }
}

/// Bytes by which a datagram is known again.
fn marked(mark: u32, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..length as u32).map(|i| (i.wrapping_mul(31) ^ mark.wrapping_mul(101)) as u8).collect();
    bytes.iter_mut().zip(mark.to_le_bytes()).for_each(|(byte, with)| *byte = with);
    bytes
}

/// Sends from one to another and checks that exactly that arrives, in whatever order.
fn exchange<W: Wire>(w: &mut W, from: usize, to: usize, transmits: &[Transmit]) {
    for transmit in transmits {
        w.send(from, transmit);
    }
    let sender = w.address(from);
    let datagrams = transmits.iter().flat_map(Transmit::datagrams);
    let expected = datagrams.map(|bytes| (sender, bytes.to_vec())).collect();
    let got = w.receive(to, transmits.iter().map(|t| t.datagrams().count()).sum());
    check(got, expected);
}

#[track_caller]
fn check(mut got: Vec<Got>, mut expected: Vec<Got>) {
    got.sort();
    expected.sort();
    if got != expected {
        let brief = |all: &[Got]| all.iter().map(|(from, b)| (*from, b.len())).collect::<Vec<_>>();
        panic!("{:?} arrived, {:?} were sent, or their bytes differ", brief(&got), brief(&expected));
    }
}

fn bytes_arrive_whole_and_as_sent_with_their_senders_address<W: Wire>(w: &mut W) {
    for (from, to) in [(0, 1), (1, 0), (2, 1), (0, 2)] {
        let sizes = [1, 2, 63, 64, 1199, 1452, 9000, LARGEST];
        let to_address = w.address(to);
        let sent: Vec<_> = sizes.iter().map(|size| one(to_address, &marked(*size as u32, *size))).collect();
        exchange(w, from, to, &sent);
    }
}

fn machines_are_not_mixed_up<W: Wire>(w: &mut W) {
    let mut expected = vec![Vec::new(); MACHINES];
    for round in 0..20 {
        for from in 0..MACHINES {
            for to in (0..MACHINES).filter(|to| *to != from) {
                let bytes = marked((round * 100 + from * 10 + to) as u32, 50 + round);
                w.send(from, &one(w.address(to), &bytes));
                expected[to].push((w.address(from), bytes));
            }
        }
    }
    for (machine, expected) in expected.into_iter().enumerate() {
        check(w.receive(machine, expected.len()), expected);
    }
}

fn a_train_arrives_as_its_datagrams<W: Wire>(w: &mut W) {
    let cases = [
        (10_000, 1000),
        (10_500, 1000),
        // The last one is a single byte.
        (1400 * 30 + 1, 1400),
        // More segments than a kernel cuts in one call (64 or 128), then more bytes than a datagram has.
        (64 * 150, 64),
        (1452 * 60 + 100, 1452),
        (8900 * 9 + 5, 8900),
        // No train at all.
        (1000, 1000),
        (999, 1000),
        (60, 1),
    ];
    for (total, segment) in cases {
        let bytes: Vec<u8> = (0..total).map(|i| (i % 251 + i / segment) as u8).collect();
        let transmit = Transmit { to: w.address(1), bytes, segment: Some(segment) };
        exchange(w, 0, 1, &[transmit]);
    }
}

fn nothing_arrives_twice<W: Wire>(w: &mut W) {
    for batch in 0..10 {
        for n in 0..50 {
            w.send(n % 2, &one(w.address(2), &marked((batch * 50 + n) as u32, 40)));
        }
        let mut got: Vec<_> = w.receive(2, 50).into_iter().map(|(_, bytes)| bytes).collect();
        got.sort();
        let all = got.len();
        got.dedup();
        assert_eq!((all, got.len()), (50, 50), "datagrams, and different ones");
    }
}

fn a_datagram_to_nobody_harms_nothing<W: Wire>(w: &mut W) {
    for _ in 0..3 {
        w.send(0, &one(w.nobody(), b"is anybody there?"));
        w.send(0, &Transmit { to: w.nobody(), bytes: vec![7; 5000], segment: Some(1000) });
        // The kernel would tell of it at the next call.
        check(w.receive(0, 0), Vec::new());
        let (forth, back) = (one(w.address(1), b"forth"), one(w.address(0), b"back"));
        exchange(w, 0, 1, &[forth]);
        exchange(w, 1, 0, &[back]);
    }
}

fn what_is_too_large_does_not_arrive_and_harms_nothing<W: Wire>(w: &mut W) {
    for size in [LARGEST + 1, 70_000, 200_000] {
        w.send(0, &one(w.address(1), &marked(1, size)));
        let next = one(w.address(1), b"next");
        exchange(w, 0, 1, &[next]);
    }
}

fn who_stands_still_finds_only_so_much<W: Wire>(w: &mut W) {
    let (count, size) = w.flood();
    w.stand_still(1);
    for n in 0..count {
        w.send(0, &one(w.address(1), &marked(n as u32, size)));
    }
    let got = w.receive(1, 1);
    assert!(!got.is_empty() && got.len() < count, "{} of {count} were kept", got.len());
    // What was there first is kept; what found no room is gone, whole.
    let (sender, kept) = (w.address(0), got.len());
    let expected = (0..kept).map(|n| (sender, marked(n as u32, size))).collect();
    check(got, expected);
    let fresh = one(w.address(1), b"fresh");
    exchange(w, 0, 1, &[fresh]);
}

// ----- the kernel ---------------------------------------------------------------------------------------

/// Real sockets on loopback.
pub(crate) struct Kernel {
    sockets: Vec<Datagrams>,
    /// Sends what says that all sent before has arrived.
    marker: UdpSocket,
}

impl Kernel {
    /// `offload` says of each machine whether it uses segmentation offload.
    pub(crate) fn new(offload: [bool; MACHINES]) -> Kernel {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let sockets = offload.map(|on| Datagrams::bind(any, on).unwrap()).into();
        Kernel { sockets, marker: UdpSocket::bind(any).unwrap() }
    }
}

impl Wire for Kernel {
    fn flood(&self) -> (usize, usize) {
        // A socket asks for 4 MiB, of which the kernel makes 8 at most.
        (600, 32 << 10)
    }

    fn address(&self, machine: usize) -> SocketAddr {
        self.sockets[machine].address().unwrap()
    }

    /// A port that this test holds, but at another of the machine's addresses: no stranger can get it.
    fn nobody(&self) -> SocketAddr {
        SocketAddr::new([127, 0, 0, 77].into(), self.marker.local_addr().unwrap().port())
    }

    fn send(&mut self, from: usize, transmit: &Transmit) {
        self.sockets[from].send(transmit.to, &transmit.bytes, transmit.segment);
    }

    fn stand_still(&mut self, _machine: usize) {}

    fn receive(&mut self, machine: usize, n: usize) -> Vec<Got> {
        let (to, marker) = (self.address(machine), self.marker.local_addr().unwrap());
        let known: Vec<_> = (0..MACHINES).map(|machine| self.address(machine)).collect();
        let (mut got, mut marked) = (Vec::new(), false);
        let end = Instant::now() + Duration::from_secs(10);
        while (got.len() < n || !marked) && Instant::now() < end {
            let took = self.sockets[machine].receive(|from, bytes| {
                marked |= from == marker;
                // Whoever had our port before may still be written to by programs outside this test.
                if known.contains(&from) {
                    got.push((from, bytes.to_vec()));
                }
            });
            if took.expect("no datagram is an error") == 0 {
                // Again and again: a full socket has no room for it either.
                self.marker.send_to(b"all was sent before this", to).unwrap();
                thread::sleep(Duration::from_micros(100));
            }
        }
        got
    }
}

// ----- the stand-in -------------------------------------------------------------------------------------

/// Simulated machines; the last one is down.
pub(crate) struct Simulated(Machines);

impl Simulated {
    pub(crate) fn new(seed: u64) -> Simulated {
        let mut machines = Machines::new(seed, MACHINES as u16 + 1);
        for machine in 0..MACHINES {
            machines.begin(machine as u16);
        }
        Simulated(machines)
    }
}

impl Wire for Simulated {
    fn flood(&self) -> (usize, usize) {
        (3000, 100)
    }

    fn address(&self, machine: usize) -> SocketAddr {
        self.0.address(machine as u16)
    }

    fn nobody(&self) -> SocketAddr {
        self.0.address(MACHINES as u16)
    }

    fn send(&mut self, from: usize, transmit: &Transmit) {
        self.0.send(from as u16, transmit);
        // Without a breath in between, fine weather may reorder; a kernel on loopback does not.
        self.0.pass(200_000);
    }

    fn stand_still(&mut self, machine: usize) {
        self.0.stand_still(machine as u16);
    }

    fn receive(&mut self, machine: usize, _n: usize) -> Vec<Got> {
        self.0.pass(1_000_000_000);
        self.0.go_on(machine as u16);
        let datagram = |arrival| match arrival {
            Arrival::Datagram { from, bytes } => (from, bytes),
            other => panic!("{other:?} on a wire"),
        };
        self.0.arrived(machine as u16).into_iter().map(datagram).collect()
    }
}

// ----- faults -------------------------------------------------------------------------------------------

/// What a world could do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    CutShort,
    OneBit,
    WrongSender,
    WrongMachine,
    TrainAsOne,
    NoLastSegment,
    Twice,
    EndedByNobody,
    CutsWhatIsTooLarge,
    KeepsAll,
    KeepsTheNewest,
}

pub(crate) const FAULTS: &[(Fault, &str)] = &[
    (Fault::CutShort, "bytes_arrive_whole_and_as_sent_with_their_senders_address"),
    (Fault::OneBit, "bytes_arrive_whole_and_as_sent_with_their_senders_address"),
    (Fault::WrongSender, "bytes_arrive_whole_and_as_sent_with_their_senders_address"),
    (Fault::WrongMachine, "machines_are_not_mixed_up"),
    (Fault::TrainAsOne, "a_train_arrives_as_its_datagrams"),
    (Fault::NoLastSegment, "a_train_arrives_as_its_datagrams"),
    (Fault::Twice, "nothing_arrives_twice"),
    (Fault::EndedByNobody, "a_datagram_to_nobody_harms_nothing"),
    (Fault::CutsWhatIsTooLarge, "what_is_too_large_does_not_arrive_and_harms_nothing"),
    (Fault::KeepsAll, "who_stands_still_finds_only_so_much"),
    (Fault::KeepsTheNewest, "who_stands_still_finds_only_so_much"),
];

/// A world with a fault.
pub(crate) struct Faulty {
    inner: Simulated,
    fault: Fault,
    sends: usize,
    ended: bool,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Faulty {
        Faulty { inner: Simulated::new(1), fault, sends: 0, ended: false }
    }
}

impl Wire for Faulty {
    fn flood(&self) -> (usize, usize) {
        self.inner.flood()
    }

    fn address(&self, machine: usize) -> SocketAddr {
        self.inner.address(machine)
    }

    fn nobody(&self) -> SocketAddr {
        self.inner.nobody()
    }

    fn send(&mut self, from: usize, transmit: &Transmit) {
        let mut transmit = transmit.clone();
        self.sends += 1;
        match self.fault {
            Fault::WrongMachine if self.sends == 33 => transmit.to = self.address((from + 1) % MACHINES),
            Fault::TrainAsOne => transmit.segment = None,
            Fault::NoLastSegment => {
                let size = transmit.segment.unwrap_or(usize::MAX);
                if transmit.bytes.len() > size {
                    let whole = transmit.bytes.len() / size * size;
                    transmit.bytes.truncate(whole);
                }
            }
            Fault::EndedByNobody => self.ended |= transmit.to == self.nobody(),
            Fault::CutsWhatIsTooLarge => transmit.bytes.truncate(LARGEST),
            _ => {}
        }
        if !self.ended || transmit.to == self.nobody() {
            self.inner.send(from, &transmit);
        }
    }

    fn stand_still(&mut self, machine: usize) {
        if self.fault != Fault::KeepsAll {
            self.inner.stand_still(machine);
        }
    }

    fn receive(&mut self, machine: usize, n: usize) -> Vec<Got> {
        let mut got = self.inner.receive(machine, n);
        let Some(last) = got.last_mut() else { return got };
        match self.fault {
            Fault::CutShort => last.1.truncate(last.1.len() - 1),
            Fault::OneBit => last.1[0] ^= 4,
            Fault::WrongSender => last.0 = self.inner.address(machine),
            Fault::Twice => got.push(got[0].clone()),
            Fault::KeepsTheNewest => {
                got.remove(0);
            }
            _ => {}
        }
        got
    }
}
