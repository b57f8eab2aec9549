//! A proxy for datagrams between nodes: all weather between them is made here.
//!
//! ```text
//!               door of b                                     door of a
//!   node a ───► 127…:p_b ──► fate of a→b ──► later, twice… ──► (sent from here) ───► node b
//!   listens at                                                 so that b sees the      listens at
//!   real_a                                                     address of a            real_b
//! ```
//!
//! The configuration that all members share names the *doors* as their addresses, while each node listens
//! somewhere else, as behind an address translation. A datagram that arrives at the door of b from where a
//! listens is one from a to b, and goes on from the door of a. So no node needs a configuration of its own.
//!
//! Each direction of each link draws from its own stream of the seed: with the same weather, its n-th datagram
//! meets the same fate in every run.

mod weather;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oarlock_sim::Random;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use weather::Weather;
use weather::{Copy, Fate};

/// Datagrams that wait at one time; more pass without waiting. At 1,400 bytes each this is below 30 MB.
const WAITING_MAX: usize = 20_000;
/// Datagrams that a recording keeps: the first of a link are the ones worth replaying.
const RECORDED_MAX: usize = 4_000;
/// Larger than any datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// How often a quiet proxy looks whether it shall end.
const LOOK: Duration = Duration::from_millis(20);

/// What a proxy did, in datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Came from a member.
    pub taken: u64,
    /// Were sent on, copies included.
    pub sent: u64,
    /// Vanished.
    pub dropped: u64,
    /// Vanished because the link was cut.
    pub cut: u64,
    /// Were sent twice.
    pub duplicated: u64,
    /// Had bits flipped.
    pub flipped: u64,
    /// Waited.
    pub delayed: u64,
    /// Of these, overtaken by one that came later.
    pub overtaken: u64,
    /// Came from somebody who is no member, and were dropped.
    pub strange: u64,
}

/// A datagram that went from one node to another, as it was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Sender.
    pub from: usize,
    /// Receiver.
    pub to: usize,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// A running proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// By sender, then receiver.
    weather: Mutex<Vec<Vec<Weather>>>,
    counts: Mutex<Counts>,
    recording: Mutex<Option<Vec<Recorded>>>,
}

#[derive(Debug)]
enum Order {
    Inject(Recorded),
    End,
}

impl Proxy {
    /// Opens a door for each node. `real` is where the nodes listen, in the order of their ids.
    pub fn open(seed: u64, real: &[SocketAddr]) -> io::Result<Proxy> {
        let doors: Vec<UdpSocket> =
            real.iter().map(|address| UdpSocket::bind((address.ip(), 0))).collect::<Result<_, _>>()?;
        let mut addresses = Vec::new();
        for door in &doors {
            door.set_nonblocking(true)?;
            addresses.push(door.local_addr()?);
        }
        let n = real.len();
        let shared = Arc::new(Shared {
            weather: Mutex::new(vec![vec![Weather::default(); n]; n]),
            counts: Mutex::new(Counts::default()),
            recording: Mutex::new(None),
        });
        let mut random = Random::new(seed);
        let random = (0..n).map(|_| (0..n).map(|_| random.fork()).collect()).collect();
        let (orders, inbox) = channel();
        let post = Post {
            shared: Arc::clone(&shared),
            doors,
            real: real.to_vec(),
            random,
            waiting: BinaryHeap::new(),
            taken: 0,
            latest: vec![vec![0; n]; n],
        };
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || post.run(&inbox))?;
        Ok(Proxy { shared, addresses, orders, thread: Some(thread) })
    }

    /// The addresses to put into the configuration, in the order of the nodes.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Changes the weather of one direction of a link.
    pub fn set(&self, from: usize, to: usize, weather: Weather) {
        lock(&self.shared.weather)[from][to] = weather;
    }

    /// Changes the weather of all links.
    pub fn set_all(&self, weather: Weather) {
        lock(&self.shared.weather).iter_mut().flatten().for_each(|w| *w = weather);
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }

    /// Begins to keep datagrams, before any weather touches them.
    pub fn record(&self) {
        *lock(&self.shared.recording) = Some(Vec::new());
    }

    /// Ends a recording.
    pub fn recorded(&self) -> Vec<Recorded> {
        lock(&self.shared.recording).take().unwrap_or_default()
    }

    /// Sends a datagram as if it came from a member, past all weather.
    pub fn inject(&self, datagram: Recorded) {
        // A proxy that has ended sends nothing, and is about to be dropped.
        let _ = self.orders.send(Order::Inject(datagram));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}

/// The thread's own part.
struct Post {
    shared: Arc<Shared>,
    doors: Vec<UdpSocket>,
    real: Vec<SocketAddr>,
    random: Vec<Vec<Random>>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    taken: u64,
    /// By link: the highest number sent so far, to know what was overtaken.
    latest: Vec<Vec<u64>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Instant,
    number: u64,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

impl Post {
    fn run(mut self, inbox: &Receiver<Order>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            for order in inbox.try_iter() {
                match order {
                    Order::Inject(d) => self.send(d.from, d.to, &d.bytes),
                    Order::End => return,
                }
            }
            self.wait();
            for to in 0..self.doors.len() {
                // An unreachable node makes itself known as an error here, and is nothing to us.
                while let Some((length, source)) = receive(&self.doors[to], &mut buffer) {
                    self.take(source, to, &buffer[..length]);
                }
            }
            let now = Instant::now();
            while self.waiting.peek().is_some_and(|Reverse(w)| w.due <= now) {
                let Reverse(w) = self.waiting.pop().expect("peeked");
                if w.number < self.latest[w.from][w.to] {
                    lock(&self.shared.counts).overtaken += 1;
                }
                self.latest[w.from][w.to] = self.latest[w.from][w.to].max(w.number);
                self.send(w.from, w.to, &w.bytes);
            }
        }
    }

    fn wait(&self) {
        let due = self.waiting.peek().map(|Reverse(w)| w.due.saturating_duration_since(Instant::now()));
        let time = due.unwrap_or(LOOK).min(LOOK);
        let timeout = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
        let mut watched: Vec<PollFd<'_>> = self.doors.iter().map(|d| PollFd::new(d, PollFlags::IN)).collect();
        // An interrupted wait is a short wait.
        let _ = poll(&mut watched, Some(&timeout));
    }

    fn take(&mut self, source: SocketAddr, to: usize, bytes: &[u8]) {
        let Some(from) = self.real.iter().position(|r| *r == source) else {
            lock(&self.shared.counts).strange += 1;
            return;
        };
        if let Some(recording) = lock(&self.shared.recording).as_mut().filter(|r| r.len() < RECORDED_MAX) {
            recording.push(Recorded { from, to, bytes: bytes.to_vec() });
        }
        let weather = lock(&self.shared.weather)[from][to];
        let fate = Fate::draw(&mut self.random[from][to], &weather, bytes.len());
        self.taken += 1;
        let number = self.taken;
        let mut counts = lock(&self.shared.counts);
        counts.taken += 1;
        match fate {
            Fate::Cut => counts.cut += 1,
            Fate::Dropped => counts.dropped += 1,
            Fate::Goes(first, second) => {
                counts.duplicated += u64::from(second.is_some());
                drop(counts);
                for copy in [Some(first), second].into_iter().flatten() {
                    self.forward(number, from, to, bytes, copy);
                }
            }
        }
    }

    fn forward(&mut self, number: u64, from: usize, to: usize, bytes: &[u8], copy: Copy) {
        let mut bytes = bytes.to_vec();
        let mut counts = lock(&self.shared.counts);
        if let Some(flips) = copy.flips {
            counts.flipped += 1;
            for bit in flips {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        if copy.delay.is_zero() || self.waiting.len() >= WAITING_MAX {
            drop(counts);
            self.latest[from][to] = self.latest[from][to].max(number);
            self.send(from, to, &bytes);
        } else {
            counts.delayed += 1;
            drop(counts);
            self.waiting.push(Reverse(Waiting { due: Instant::now() + copy.delay, number, from, to, bytes }));
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: &[u8]) {
        // A full buffer or a dead node loses the datagram, as a network would.
        if self.doors[from].send_to(bytes, self.real[to]).is_ok() {
            lock(&self.shared.counts).sent += 1;
        }
    }
}

/// The next datagram; errors that earlier sends left behind are passed over.
fn receive(door: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    for _ in 0..64 {
        match door.recv_from(buffer) {
            Ok(came) => return Some(came),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
