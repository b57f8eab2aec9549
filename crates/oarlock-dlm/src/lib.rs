//! Lockspaces, lock ids and callbacks as programs written for `libdlm` know them, without a line that C sees.
//!
//! ```text
//!   libdlm.so.3 ───┐
//!                  ├── oarlock-dlm-c ──► Registry ──► Lockspace ──► oarlock (library)
//!   libdlm_lt.so.3─┘   follows pointers                 │ table: lkid ► lock
//!                                                       │ queue: what is to be called, in order
//!                                                       └ runner: looks after requests under way
//! ```
//!
//! Start at [`Lockspace`]: a session of its own with the daemon, a table of locks by the numbers that programs know them by,
//! and one queue of completions and blocking notices, whose descriptor is readable while there is something in it. Requests
//! are looked after as answers come, in the thread that brings them, so the queue has the order in which things happened;
//! callbacks run only where somebody takes them from the queue.
//!
//! What a program's callback is, this crate does not know: each lock carries a value of the type `U` through, and gives it
//! back in an [`Event`]. [`flags`] says what is refused before anything is sent; [`server`] is where a lockspace of libdlm
//! lives in one of Oarlock.
#![forbid(unsafe_code)]

pub mod flags;
mod lock;
mod lockspace;
mod queue;
pub mod registry;
mod requests;
mod runner;
pub mod server;
pub mod status;

pub use lockspace::{Call, Lockspace, Order};
pub use queue::{Event, Turn, What};
pub use registry::Registry;
pub use rustix::io::Errno;
pub use status::Report;

/// Bytes of a value block.
pub const VALUE_BYTES: usize = 32;
/// Longest name of a resource.
pub const RESOURCE_BYTES_MAX: usize = 64;
/// Longest name of a lockspace.
pub const LOCKSPACE_BYTES_MAX: usize = 64;

/// A value block.
pub type Block = [u8; VALUE_BYTES];
