//! One node: the hall onto which the rooms open. Still pure: no clock, no socket, no thread.
//!
//! ```text
//!                        ┌──────────────────────── Node ───────────────────────┐
//!   datagrams ──────────►│ Circuits ──────► Forming, Hearing      (cluster)    │
//!   Transmit  ◄──────────│    ▲    │                                           │
//!                        │    │    └───────► Lockspace per lockspace  ◄─ Words │
//!   session packets ────►│    └──────────────  │        ▲                      │
//!   Reply, Close ◄───────│ sessions ◄──────────┘        │                      │
//!                        │    └─────────────────────────┘                      │
//!   Asked, Looked ◄──────│ questions of people                                 │
//!   Store         ◄──────│ the epoch, before it is used                        │
//!                        └─────────────────────────────────────────────────────┘
//! ```
//!
//! The hall carries one room's output to another's input and knows the programs of this node by their
//! sessions. The daemon and the simulator drive the same [`Node`]: what is simulated is what runs.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod branch;
mod cluster;
mod config;
mod deadlock;
mod desk;
mod event;
mod fencing;
mod node;
mod orphans;
#[cfg_attr(not(feature = "planted"), allow(dead_code, unreachable_pub, reason = "named, never planted"))]
mod planted;
mod question;
pub mod rights;
mod session;
mod sight;
mod status;
pub mod text;
mod written;

#[cfg(test)]
extern crate self as oarlock_node;
#[cfg(test)]
mod peers_tests;
#[cfg(test)]
#[path = "../tests/stage/mod.rs"]
mod stage;

pub use config::{Config, NodeConfig, SpaceConfig, numbered};
pub use event::Event;
pub use node::{Node, Output};
pub use oarlock_circuit::Transmit;
pub use oarlock_cluster::watermark::NoStamp;
pub use oarlock_lock::Order;
pub use status::{ClockStatus, Counter, MemberStatus, SpaceStatus, Status};
pub use written::{Unreadable, Whose, whose};
#[cfg(feature = "planted")]
pub use {
    oarlock_cluster::planted::Bug as MemberBug,
    oarlock_deadlock::planted::Bug as SearchBug,
    oarlock_lock::planted::Bug as RoomBug,
    planted::{Bug, Lost},
};
