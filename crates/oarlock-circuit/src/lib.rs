//! Datagrams in, ordered messages out.
//!
//! Between each pair of nodes there is one circuit. It carries messages in three classes, each exactly once and
//! in order for as long as both runs of the two nodes live; everything on it is encrypted, and everything it
//! sends is stamped with the cluster clock.
//!
//! ```text
//!                     hall                                          network
//!          send ─────────────▶ ┌───────────────────────────────┐
//!                              │ Outbound  control│lock│bulk   │
//!                              │     └────┬───────┘  Congestion│
//!                              │          ▼                    │
//!                              │        pack ── KeyRing ── seal├──────────▶ Output::Transmit
//!                              │          ▲         ▲          │
//!                              │   Hearing, Rtt     │ Door     │
//!                              │          ▼         ▼          │
//!                              │      chunks ── replay ─── open│◀────────── handle_datagram
//!                              │     ┌────┴───────┐            │
//!  Output::Deliver ◀───────────│ Inbound   control│lock│bulk   │
//!  Up Down Silent Heard ◀──────│                               │
//!                              └───────────────────────────────┘
//! ```
//!
//! [`Circuits`] is the type to start from: its documentation says in which order to call what. The room has no
//! clock, socket, cipher or random source; they come as arguments and as the [`Seal`] it is built with.
//!
//! [`Seal`]: oarlock_layout::seal::Seal
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod chance;
mod circuit;
mod circuits;
mod config;
mod congestion;
mod door;
mod handshake;
mod hearing;
mod inbound;
mod keyring;
mod outbound;
mod output;
mod places;
mod replay;
mod rtt;
mod status;
mod store;
mod written;

pub use circuits::Circuits;
pub use config::{Config, Options, Peer};
pub use oarlock_layout::message::frame::Class;
pub use output::{Output, SendError, Transmit};
pub use replay::{REPLAY_WINDOW, ReplayWindow};
pub use status::{CircuitStatus, Counters, DoorCounters, PeerCounters, State};
pub use written::Written;
