//! Control threads of three real nodes, over real circuits on real sockets of this machine.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use oarlock_cluster::registry::{FirstSpace, Founder, Order, SpaceSettings};
use oarlock_layout::id::{Epoch, Incarnation};
use oarlock_layout::seal::PublicKey;
use oarlock_node::{Config, Node, NodeConfig, Output, numbered};
use tempfile::TempDir;

use super::*;
use crate::host::clock;
use crate::host::key::Secret;
use crate::host::seal::HostSeal;

const LONG: Duration = Duration::from_secs(60);

/// A node, its socket and its coordinator; what the daemon's engine does for them is in `turn`.
struct Place {
    node: Node,
    socket: UdpSocket,
    link: Link,
    registry: Arc<Registry>,
    answers: Vec<Outcome>,
}

impl Place {
    fn turn(&mut self) {
        let now = clock::now();
        let mut datagram = vec![0; 1 << 16];
        while let Ok((length, from)) = self.socket.recv_from(&mut datagram) {
            self.node.handle_datagram(now, from, &mut datagram[..length]);
        }
        if self.node.poll_timeout().is_some_and(|at| at <= now) {
            self.node.handle_timeout(now);
        }
        while let Some(message) = self.link.poll() {
            match message {
                FromControl::Carry { to, message } => _ = self.node.carry(now, to, &message),
                FromControl::Applied(registry) => self.registry = registry,
                FromControl::Answered { outcome, .. } => self.answers.push(outcome),
                FromControl::Failed { command, .. } => self.link.send(ToControl::Propose(command)),
                FromControl::Standing(_) | FromControl::SteppedDown => {}
                FromControl::Misdeed { from, misdeed } => panic!("node {from}: {misdeed}"),
                FromControl::Down(problem) => panic!("{problem}"),
            }
        }
        while let Some(output) = self.node.poll_output(now) {
            match output {
                Output::Transmit(transmit) => transmit.datagrams().for_each(|datagram| {
                    // A datagram that is not sent is one that is lost.
                    let _ = self.socket.send_to(datagram, transmit.to);
                }),
                Output::Carried { from, message } => self.link.send(ToControl::Carried { from, message }),
                _ => {}
            }
        }
    }
}

#[track_caller]
fn until(places: &mut [Place], what: &str, done: impl Fn(&[Place]) -> bool) {
    let begin = Instant::now();
    while !done(places) {
        assert!(begin.elapsed() < LONG, "{what} takes for ever");
        places.iter_mut().for_each(Place::turn);
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// T "Founding": three nodes with one configuration found their cluster over encrypted circuits, and decide in it.
#[test]
fn nodes_found_and_decide_over_their_circuits() {
    let directory = TempDir::new().unwrap();
    let secret = Secret::generate();
    let keys: Vec<Secret> = (0..3).map(|_| Secret::generate()).collect();
    let sockets: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let named = |n: usize| (format!("n{n}"), addresses[n], PublicKey(keys[n].public()));
    let settings = SpaceSettings {
        order: Order::Passover,
        value: 64,
        retain: true,
        resources_max: 100,
        owner: 0,
        group: 0,
        mode: 0o660,
    };
    let founders = (0..3).map(named).map(|(name, address, key)| Founder { name, address, key }).collect();
    let spaces = vec![FirstSpace { name: "default".into(), settings }];
    let founding = Command::found("harbour", founders, spaces, Epoch(0));
    let place = |(me, socket): (usize, UdpSocket)| {
        socket.set_nonblocking(true).unwrap();
        let config = Config {
            cluster: "harbour".into(),
            me: NodeId(me as u16),
            nodes: numbered((0..3).map(named).map(|(name, address, key)| NodeConfig { name, address, key })),
            spaces: Vec::new(),
            shared: 5,
            incarnation: Incarnation(1),
            ceiling: Default::default(),
            seed: me as u64,
            shards: 1,
            circuits: Default::default(),
            forget_after: Duration::from_secs(10),
            deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
        };
        let seal = Box::new(HostSeal::new(keys[me].bytes(), secret.bytes()));
        let file = directory.path().join(format!("{me}.redb"));
        prepare(&file, true, None).unwrap();
        let (founding, wake) = (Some(founding.clone()), Wake::new().unwrap());
        let parts =
            Parts { me: NodeId(me as u16), file, founding, joined: None, tuning: Tuning::default(), wake };
        Place {
            node: Node::new(clock::now(), config, seal, Vec::new()),
            socket,
            link: start(parts).unwrap(),
            registry: Arc::default(),
            answers: Vec::new(),
        }
    };
    let mut places: Vec<Place> = sockets.into_iter().enumerate().map(place).collect();
    until(&mut places, "the founding", |all| all.iter().all(|place| place.registry.cluster().is_some()));
    for (n, place) in places.iter().enumerate() {
        let (_, _, key) = named(n);
        let start = Command::Start {
            node: NodeId(n as u16),
            key,
            incarnation: Incarnation(1),
            nonce: 1,
            fences: Vec::new(),
        };
        place.link.send(ToControl::Propose(start));
    }
    until(&mut places, "three starts", |all| {
        all.iter().all(|place| !place.answers.is_empty() && place.registry.view().members.len() == 3)
    });
    let first = &places[0].registry;
    assert!(places.iter().all(|place| place.registry == *first));
    for place in places {
        assert!(place.link.stop());
    }
}
