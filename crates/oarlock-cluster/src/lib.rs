//! Who is in the cluster, who is heard, and what the cluster clock says.
//!
//! ```text
//!                         ┌────────────────────────────────────────┐
//!   circuit up / refused  │  Forming      forming ──► serving      │  Send    to one peer
//!   Form from a peer  ──► │     ▲            │                     │─► Store  make an epoch durable
//!   epoch is durable      │     │            ▼                     │  Serve   the view, and from when to grant
//!                         │     └────────  refused                 │
//!                         ├────────────────────────────────────────┤
//!   silent / heard    ──► │  Hearing      who is silent, since when│   read by `status`
//!                         ├────────────────────────────────────────┤
//!   every frame       ──► │  LogicalClock stamps only grow (E1-E3) │   an argument of the circuits
//!                         └────────────────────────────────────────┘
//! ```
//!
//! Start at [`Forming`]: it turns a static list of members into a [`View`](oarlock_layout::view::View) that
//! names one run of each, and never leaves it (L3). [`LogicalClock`] is the clock that circuits stamp frames
//! with. [`Hearing`] keeps the evidence of silence; nobody acts on it here, because with static views silence
//! has no verdict (L8).
//!
//! The room is pure: time arrives as an argument, durability as an input, and nothing is random.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod clock;
mod forming;
mod hearing;
pub mod lease;
pub mod registry;
mod standing;
mod violation;

pub use clock::LogicalClock;
pub use forming::{Forming, FormingConfig, Output};
pub use hearing::Hearing;
pub use lease::Lease;
pub use oarlock_layout::message::form::{Form, Phase};
pub use registry::Registry;
pub use standing::{PeerStanding, Said, Wait};
pub use violation::Violation;
