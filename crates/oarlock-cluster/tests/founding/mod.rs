//! How the clusters of these tests come about.

// Each program that includes this file uses a part of it.
#![allow(dead_code)]

use oarlock_cluster::registry::{Command, FirstSpace, Founder, Order, Outcome, Registry, SpaceSettings};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::seal::PublicKey;

pub(crate) const CLUSTER: [u8; 16] = [7; 16];
pub(crate) const WALL: u64 = 1_800_000_000;

pub(crate) fn settings() -> SpaceSettings {
    SpaceSettings {
        order: Order::Passover,
        value: 64,
        retain: true,
        resources_max: 1 << 20,
        owner: 0,
        group: 0,
        mode: 0o660,
    }
}

pub(crate) fn key(node: u16) -> PublicKey {
    PublicKey([node as u8 + 1; 32])
}

pub(crate) fn address(node: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([10, 0, 0, node as u8], 7000))
}

pub(crate) fn init(above: u32) -> Command {
    let spaces = vec![FirstSpace { name: "default".into(), settings: settings() }];
    Command::Init { cluster: CLUSTER, members: vec![founder(0)], spaces, above: Epoch(above) }
}

pub(crate) fn founder(node: u16) -> Founder {
    Founder { name: format!("n{node}"), address: address(node), key: key(node) }
}

pub(crate) fn token(serial: u64, node: u16) -> Command {
    Command::CreateToken {
        serial,
        hash: [serial as u8; 32],
        name: format!("n{node}"),
        wall: WALL,
        expires: WALL + 60,
    }
}

pub(crate) fn join(serial: u64, node: u16) -> Command {
    Command::Join {
        cluster: CLUSTER,
        hash: [serial as u8; 32],
        name: format!("n{node}"),
        address: address(node),
        key: key(node),
        wall: WALL + 5,
    }
}

pub(crate) fn start(node: NodeId, incarnation: u64) -> Command {
    Command::Start {
        node,
        key: key(node.0),
        incarnation: Incarnation(incarnation),
        nonce: incarnation * 11,
        fences: Vec::new(),
    }
}

pub(crate) fn renew(node: NodeId, incarnation: u64, number: u64) -> Command {
    Command::Renew { node, incarnation: Incarnation(incarnation), number }
}

/// A cluster of `nodes` members, none of which has started.
pub(crate) fn joined(nodes: u16) -> Registry {
    let mut registry = Registry::new();
    assert_eq!(registry.apply(&init(0)), Outcome::Done);
    for node in 1..nodes {
        assert_eq!(registry.apply(&token(node.into(), node)), Outcome::Done);
        let joined = Outcome::Joined { node: NodeId(node), above: Incarnation(0), already: false };
        assert_eq!(registry.apply(&join(node.into(), node)), joined);
    }
    registry
}

/// A cluster of `nodes` members, all started as run 1: epoch = number of nodes.
pub(crate) fn cluster(nodes: u16) -> Registry {
    let mut registry = joined(nodes);
    for node in 0..nodes {
        assert_eq!(registry.apply(&start(NodeId(node), 1)), Outcome::Done);
    }
    registry
}
