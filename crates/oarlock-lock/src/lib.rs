//! The lock manager of one lockspace on one node: masters, shadows, queues.
//!
//! One resource, seen from three nodes. Each node with interested programs has a *shadow*; one node, chosen
//! by hash, also has the *master*. Programs talk to their own shadow only, shadows to the master only (C3).
//!
//! ```text
//!    programs of node a      programs of node b      programs of node c
//!        │  ▲                    │  ▲                    │  ▲
//!   ask  │  │ granted            │  │                    │  │
//!        ▼  │                    ▼  │                    ▼  │
//!    ┌──────────┐            ┌──────────┐            ┌──────────┐
//!    │ shadow a │            │ shadow b │            │ shadow c │   converts ▸ local convert queue
//!    │ owned PR │            │ owned PR │            │ owned NL │   waits    ▸ local wait queue
//!    └──┬────▲──┘            └──┬────▲──┘            └──┬────▲──┘
//!  Info │    │ Grant Deny Head  │    │                  │    │
//!       └────┴─────────┬────────┴────┴──────────────────┴────┘
//!                ┌─────┴─────────────────────────┐
//!                │ master                        │   a record per shadow: held, wanted, numbers
//!                │ converting ▸ waiting ▸ head   │   one list, scanned from the front
//!                └───────────────────────────────┘
//! ```
//!
//! A shadow grants by itself as far as the mode it *owns* covers (C1), and keeps what it owns after the last
//! local release (C14). Held locks are not stored here: they live behind [`Words`], which callers change too.
//!
//! Start at [`Lockspace`]. It is pure: time comes in as an argument, everything leaves as an [`Output`].
//!
//! [`Words`]: oarlock_layout::segment::Words
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
mod context;
mod counters;
#[cfg(test)]
mod exhausted_tests;
mod index;
mod look;
mod master;
mod masters;
mod output;
pub mod planted;
pub mod probe;
mod records;
mod recovery;
mod request;
mod seldom;
mod shadow;
mod space;
mod statement;
mod trace;
mod value;
mod waiting;
mod waits;
mod written;

pub use config::{Config, Order};
pub use counters::{Counters, How};
pub use output::{Granted, Output, Violation};
pub use request::{Adopt, Convert, Lock, Request, Unlock};
pub use space::Lockspace;
pub use trace::{Rank, Waiter};
pub use waits::Waits;
