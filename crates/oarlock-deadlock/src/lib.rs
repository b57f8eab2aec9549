//! Finds locks that wait for each other in a circle, over all nodes and lockspaces (C18, C19, D1 to D8).
//!
//! ```text
//!   an old wait here ──► begin ─► ┌────────────┐ ─► Ask: whoever may know, for resources and transactions not yet seen
//!   Traced, Traced, … ──────────► │   Search   │
//!   time, another view ─────────► │            │ ─► Found: one wait to be refused, and the circle that it is in
//!                                 │   Graph    │
//!                                 └────────────┘
//! ```
//!
//! [`Graph`] puts together what nodes see and says who is stuck: not who stands on a circle, which is necessary and not
//! sufficient, but who cannot go on whatever everybody else does. [`Search`] is when to ask whom, and that a circle counts only
//! if its waits were stuck in two passes (D6).
//!
//! # Who waits for whom
//!
//! A wait is stuck if, for each mode that would do, a stuck actor holds a mode beside which that does not fit (D4, pair by pair), or
//! if a stuck wait stands before it in the queue (D3). An actor is stuck if it waits, and with everything that it waits for.
//! What a node merely owns is nobody's (D5). An actor is a transaction wherever it is at work, else the owner that a request
//! names, within its session ([`Actor`](oarlock_layout::message::trace::Actor)).
//!
//! Of the waits of one knot (each waits for each) whose actors hold what another waits for, the youngest by the cluster clock is refused:
//! one that only stands in a queue between them has nothing to give back. All nodes see the same knot and the same numbers, so whoever
//! searches names the same victim (D7).
//!
//! The room is pure: time arrives as an argument, and nothing is random.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod graph;
pub mod planted;
mod search;

pub use graph::{Graph, Knot};
pub use search::{
    CONFIRM, Counters, Output, PATIENCE, PATIENCE_MAX, PAUSE_MAX, PAUSE_TRANSACTIONS_MAX, Search, Start,
    Suspects,
};
