//! Who is in the cluster, who is heard, and what the cluster clock says.
//!
//! Views that never change, which is what nodes use:
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
//! Views that change, which nothing uses yet:
//!
//! ```text
//!                         ┌────────────────────────────────────────┐
//!   a command, in order ► │  Registry     members, view, fences    │   Outcome, the same at every node
//!                         ├────────────────────────────────────────┤
//!   own renewal applied ► │  Lease        live ──► … ──► lost (L6) │─► Renew, Frozen, EndChildren, Lost, …
//!   time                  ├────────────────────────────────────────┤
//!   command applied   ──► │  Watch        evidence ──► verdict     │─► Evict, if it is still so when applied (L2)
//!   who hears whom, time  └────────────────────────────────────────┘
//! ```
//!
//! Start at [`Forming`]: it turns a static list of members into a [`View`](oarlock_layout::view::View) that
//! names one run of each, and never leaves it (L3). [`LogicalClock`] is the clock that circuits stamp frames
//! with. [`Hearing`] keeps the evidence of silence; nobody acts on it here, because with static views silence
//! has no verdict (L8).
//!
//! For views that change start at [`registry`]: one state machine for the low-rate truth, and why nobody who may
//! hold a lock is called dead. [`Membership`] is one run's part: its [`Lease`] says how long it is in, its [`Watch`] proposes
//! who is to go, and [`partition::largest`] says who stays when members do not hear each other (L7).
//!
//! The room is pure: time arrives as an argument, durability as an input, and nothing is random.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod clock;
mod forming;
mod hearing;
pub mod lease;
pub mod membership;
pub mod partition;
pub mod recovery;
pub mod registry;
mod standing;
mod violation;
mod watch;

pub use clock::LogicalClock;
pub use forming::{Forming, FormingConfig, Output};
pub use hearing::Hearing;
pub use lease::Lease;
pub use membership::Membership;
pub use oarlock_layout::message::form::{Form, Phase};
pub use recovery::Recovery;
pub use registry::Registry;
pub use standing::{PeerStanding, Said, Wait};
pub use violation::Violation;
pub use watch::Watch;
