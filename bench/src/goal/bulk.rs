//! Goal 12: how fast a circuit carries much, sealed, in order and without loss.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use oarlock_circuit::{Circuits, Class, Config, Options, Output, Peer};
use oarlock_cluster::LogicalClock;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::time::Instant;
use oarlockd::host::clock;
use oarlockd::host::datagrams::Datagrams;
use oarlockd::host::key::Secret;
use oarlockd::host::seal::HostSeal;

use super::Setting;
use crate::anchor::flood::{self, Calls, DATAGRAM_BYTES};
use crate::anchor::rtt::Wait;
use crate::hub::Waiter;
use crate::machine::{Cpus, pin};
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, alternate};

/// Size of one message: some pages, as a cache would send them.
const MESSAGE_BYTES: usize = 16 << 10;
/// What the sender keeps waiting in the circuit: more than the window holds, so that it is never idle.
const BACKLOG_BYTES: usize = 4 << 20;

/// With and without segmentation offload, against the same calls without any protocol.
pub(crate) fn run(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("circuit, datagram by datagram", || bulk(cpus, false, window)),
            Contender::new("circuit, in trains", || bulk(cpus, true, window)),
            Contender::new("send and recv", || flood::flood(cpus, Calls::Single, window)),
            Contender::new("GSO and GRO", || flood::flood(cpus, Calls::Trains, window)),
        ],
    )?;
    let line = |name, ours, against, anchor| {
        Line::new(name, "datagrams/s", table.metric(ours, 0).median, &table).goal(12).against(
            against,
            Some(table.metric(anchor, 0).median),
            Some(table.ratio((ours, 0), (anchor, 0))),
        )
    };
    Ok(vec![
        line("circuit bulk rate without GSO", 0, "send and recv", 2).must(Bound::AtLeast(0.7)),
        line("circuit bulk rate with GSO", 1, "send and recv", 2).must(Bound::AtLeast(3.0)),
        line("circuit bulk rate with GSO, to what GSO can do", 1, "GSO and GRO", 3)
            .stretch(Bound::AtLeast(0.25)),
    ])
}

/// One end of a circuit with its socket.
struct End {
    circuits: Circuits,
    clock: LogicalClock,
    wire: Datagrams,
    up: bool,
    /// Bytes of messages delivered here, and the number the next must carry.
    delivered: u64,
    expected: u64,
}

/// Delivered bytes in a second, counted in full datagrams.
fn bulk(cpus: Cpus, offload: bool, window: Duration) -> Result<Vec<f64>, Failure> {
    let [mut a, mut b] = ends(offload)?;
    let stop = AtomicBool::new(false);
    let received = AtomicU64::new(0);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            pin(cpus.1);
            let mut waiter = Waiter::new(&b.wire, Wait::Sleep)?;
            while !stop.load(Ordering::Relaxed) {
                waiter.wait(b.circuits.poll_timeout())?;
                b.turn()?;
                received.store(b.delivered, Ordering::Release);
            }
            Ok(())
        });
        let sender = scope.spawn(|| {
            pin(cpus.0);
            let rate = a.send_for(window, &received);
            stop.store(true, Ordering::Relaxed);
            rate
        });
        let rate = sender.join().expect("no panic");
        let received: Result<(), Failure> = receiver.join().expect("no panic");
        received.and(rate).map(|rate| vec![rate])
    })
}

fn ends(offload: bool) -> Result<[End; 2], Failure> {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let bind = || Datagrams::bind(local, offload).map_err(|e| e.to_string());
    let wires = [bind()?, bind()?];
    let secrets = [Secret::generate(), Secret::generate()];
    let cluster = Secret::generate();
    let mut peers = Vec::new();
    for (at, wire) in wires.iter().enumerate() {
        let address = wire.address().map_err(|e| e.to_string())?;
        peers.push(Peer { node: NodeId(at as u16), address, key: PublicKey(secrets[at].public()) });
    }
    let mut ends = Vec::new();
    for (at, wire) in wires.into_iter().enumerate() {
        let config = Config {
            me: NodeId(at as u16),
            incarnation: Incarnation(1),
            cluster: "bench".into(),
            shared: 1,
            peers: peers.clone(),
            seed: at as u64 + 1,
            options: Options::default(),
        };
        let seal = HostSeal::new(secrets[at].bytes(), cluster.bytes());
        ends.push(End {
            circuits: Circuits::new(clock::now(), config, Box::new(seal)),
            clock: LogicalClock::new(),
            wire,
            up: false,
            delivered: 0,
            expected: 0,
        });
    }
    let mut ends: [End; 2] = ends.try_into().ok().expect("two were made");
    let end = clock::now() + Duration::from_secs(5);
    while !ends.iter().all(|end| end.up) {
        for end in &mut ends {
            end.turn()?;
        }
        if clock::now() > end {
            return Err("no circuit within five seconds".into());
        }
    }
    Ok(ends)
}

impl End {
    fn turn(&mut self) -> Result<(), Failure> {
        let now = clock::now();
        let (circuits, clock) = (&mut self.circuits, &mut self.clock);
        self.wire
            .receive(|from, datagram| circuits.handle_datagram(now, clock, from, datagram))
            .map_err(|e| e.to_string())?;
        if self.circuits.poll_timeout().is_some_and(|at| at <= now) {
            self.circuits.handle_timeout(now, &mut self.clock);
        }
        self.drain(now)
    }

    fn drain(&mut self, now: Instant) -> Result<(), Failure> {
        while let Some(output) = self.circuits.poll_output(now, &mut self.clock) {
            match output {
                Output::Transmit(t) => self.wire.send(t.to, &t.bytes, t.segment),
                Output::Deliver { message, .. } => {
                    let number = message.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    if number != Some(self.expected) || message.len() != MESSAGE_BYTES {
                        return Err(format!("message {} came as {number:?}", self.expected));
                    }
                    self.expected += 1;
                    self.delivered += message.len() as u64;
                }
                Output::Up { .. } => self.up = true,
                Output::Silent { .. } | Output::Heard { .. } => {}
                other => return Err(format!("the circuit says {other:?}")),
            }
        }
        Ok(())
    }

    /// Sends as much as the circuit takes, first to fill it, then for the window. Counts what arrives.
    fn send_for(&mut self, window: Duration, received: &AtomicU64) -> Result<f64, Failure> {
        let peer = NodeId(1);
        let mut waiter = Waiter::new(&self.wire, Wait::Sleep)?;
        let mut message = vec![5; MESSAGE_BYTES];
        let mut number = 0u64;
        let warm = clock::now() + window / 10;
        let mut began: Option<(Instant, u64)> = None;
        loop {
            let now = clock::now();
            match began {
                None if now >= warm => began = Some((now, received.load(Ordering::Acquire))),
                Some((since, before)) if now.since(since) >= window => {
                    let bytes = received.load(Ordering::Acquire) - before;
                    return Ok(bytes as f64 / DATAGRAM_BYTES as f64 / now.since(since).as_secs_f64());
                }
                _ => {}
            }
            while self.circuits.backlog(peer) < BACKLOG_BYTES {
                message[..8].copy_from_slice(&number.to_le_bytes());
                number += 1;
                self.circuits.send(now, peer, Class::Bulk, &message).map_err(|e| e.to_string())?;
            }
            self.drain(now)?;
            waiter.wait(self.circuits.poll_timeout())?;
            self.turn()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_arrives_in_order_with_and_without_trains() {
        for offload in [false, true] {
            let rate = bulk(Cpus::find().unwrap(), offload, Duration::from_millis(200)).unwrap();
            assert!(rate[0] > 10.0, "{rate:?}");
        }
    }
}
