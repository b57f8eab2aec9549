//! Locks that hold in a whole cluster, for programs.
//!
//! ```text
//!     your program                     node on this machine        other nodes
//!   ┌──────────────────────┐ Unix    ┌───────────────────────┐   ┌─────────────┐
//!   │ Client               │ socket  │ session ──► shadow ───┼───┼──► master   │
//!   │  └─ Space            ├─────────┤   grants what it owns,│   │  decides    │
//!   │      └─ LockRequest  │         │   asks for the rest   │   │  for all    │
//!   │          └─ Guard    │         └───────────────────────┘   └─────────────┘
//!   └──────────────────────┘
//! ```
//!
//! A [`Client`] is a session with the node of this machine. It finds a [`Space`], a named world of resources;
//! the space makes a [`LockRequest`] for a resource, and that becomes a [`Guard`]: the lock, held in one of
//! six [`Mode`]s until it is released or dropped.
//!
//! ```no_run
//! use std::time::Duration;
//! use oarlock::{Client, Mode};
//!
//! # async fn work(_: &oarlock::Guard) {}
//! # async fn example() -> oarlock::Result<()> {
//! let client = Client::connect_default().await?;
//! let space = client.space("default").await?;
//! let guard = space.lock("orders/page/1184").mode(Mode::EX).timeout(Duration::from_secs(2)).acquire().await?;
//! work(&guard).await;
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The futures need no particular runtime: they run under tokio, smol or a plain `block_on`, because a thread of
//! the session wakes them. [`blocking`] is the same without futures, and [`dispatch`] is for programs that wait with `poll`.
//!
//! # What a holder must watch
//!
//! A lock can be *wanted* and it can be *lost*. [`Guard::blocking`] resolves when others wait for what this
//! guard is in the way of; giving way is polite, not compulsory. [`Guard::lost`] resolves when the lock is
//! gone, because the daemon died or its node left the cluster; then somebody else may hold it already.
//!
//! ```no_run
//! # async fn work(_: &oarlock::Guard) -> oarlock::Result<()> { Ok(()) }
//! # macro_rules! select { ($($tt:tt)*) => {} }
//! # async fn example(guard: oarlock::Guard) -> oarlock::Result<()> {
//! // with your runtime's `select!`
//! select! {
//!     done = work(&guard) => done?,
//!     why = guard.lost() => return Err(why),
//!     wanted = guard.blocking() => guard.convert(wanted?.strongest_beside()).await?,
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Between losing a lock and noticing it lies a moment in which a program can still write. Only the storage
//! can close it, by refusing writes that carry an older [`Guard::token`] than one it has seen.
//!
//! # Rules
//!
//! - Futures are cancel-safe. Dropping one withdraws its request; a grant that was quicker is given back.
//! - When the daemon goes, every pending call fails and every guard is lost. Nothing hangs.
//! - A session belongs to the process that opened it. In a fork every call fails with [`Kind::Forked`].
//!   The socket does not survive `exec`.
//! - Nothing here installs signal handlers, holds a mutex while foreign code runs, or panics over what a
//!   daemon sends.
//!
//! What went wrong is an [`Error`] with a [`Kind`] to match on.
#![forbid(unsafe_code)]

mod address;
pub mod blocking;
mod calls;
mod client;
pub mod dispatch;
mod error;
mod greeting;
mod habit;
mod handle;
mod held;
mod json;
mod kept;
mod methods;
mod outbox;
mod segment;
mod session;
mod socket;
mod table;
mod threads;
mod wakers;
mod wish;
mod withdrawal;

pub use address::{SOCKET_VARIABLE, SYSTEM_SOCKET, dev_file, dev_sockets};
pub use client::{Builder, Client, Conversion, Guard, Handle, HandleGuard, LockRequest, Space};
pub use error::{Error, Kind, Result};
pub use habit::Habit;
pub use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
pub use oarlock_layout::id::{Epoch, LockId, SessionId};
pub use oarlock_layout::mode::Mode;
pub use oarlock_layout::token::{Fence, Token};
pub use oarlock_layout::value::Value;
pub use withdrawal::Withdrawal;
