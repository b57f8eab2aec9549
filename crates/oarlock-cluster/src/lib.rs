//! Who is in the cluster, who is heard, when masters may grant, and what the cluster clock says.
//!
//! ```text
//!                         ┌────────────────────────────────────────┐
//!   a command, in order ► │  Registry     members, view, fences    │   Outcome, the same at every node
//!                         ├────────────────────────────────────────┤
//!   applied, answered ──► │  Membership   this run's part:         │─► Propose, Report, View
//!   silent, heard         │    Lease      live ──► … ──► lost (L6) │─► Frozen, Thawed, Lost
//!   reports, time         │    Watch      evidence ──► verdict     │─► Evict, if it is still so when applied (L2)
//!                         ├────────────────────────────────────────┤
//!   a view, barriers  ──► │  Recovery     arrived ─ restated ─ open│─► Say, Restate, Open (X9 to X11)
//!                         ├────────────────────────────────────────┤
//!   a run that is out ──► │  Fencing      whose turn it is to fence│─► Prove, Propose (L4)
//!                         ├────────────────────────────────────────┤
//!   pledges, a gasp   ──► │  Pledges      who speaks for a dead run (L5)   │   read by the hall
//!   told, hung up     ──► │  Stopping, Ward   when a run may be given up (L5)   │   read by engine and keeper
//!   silent / heard    ──► │  Hearing      who is silent, since when│   read by `status`
//!   every frame, a view ► │  Watermark    the clock, with ceilings │─► Store, Say, Misdeed; a stamp, once all have agreed
//!                         └────────────────────────────────────────┘
//! ```
//!
//! Start at [`registry`]: one state machine for the low-rate truth, and why nobody who may hold a lock is called dead.
//! [`Membership`] is one run's part: its [`Lease`] says how long it is in, its [`Watch`] proposes who is to go, and
//! [`partition::largest`] says who stays when members do not hear each other (L7). [`Recovery`] is the way from a view to
//! the first grant under it. [`Watermark`] is the clock that circuits stamp frames with: every member knows a bound of its
//! highest value in the whole cluster, at every moment (E5). [`LogicalClock`] is one without ceilings, for circuits that
//! are used alone.
//!
//! The room is pure: time arrives as an argument, durability as an input, and nothing is random.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod clock;
pub mod farewell;
pub mod fencing;
pub mod gasp;
mod hearing;
pub mod lease;
pub mod membership;
pub mod partition;
pub mod planted;
pub mod recovery;
pub mod registry;
mod watch;
pub mod watermark;

pub use clock::LogicalClock;
pub use farewell::{Stopping, Ward};
pub use fencing::Fencing;
pub use gasp::Pledges;
pub use hearing::Hearing;
pub use lease::Lease;
pub use membership::Membership;
pub use recovery::Recovery;
pub use registry::Registry;
pub use watch::Watch;
pub use watermark::Watermark;
