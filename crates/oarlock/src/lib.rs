//! Distributed locks for programs: connect to the node on this machine, take locks that hold cluster-wide.
//!
//! ```text
//!   your program                        this machine's node            other nodes
//!   ┌──────────────────────────┐        ┌───────────────────┐
//!   │ Client ── Space ── Guard │ socket │ session ── shadow │ circuits   master
//!   │            (a lockspace) ├────────┤                   ├──────────  shadows
//!   └──────────────────────────┘        └───────────────────┘
//! ```
#![forbid(unsafe_code)]

mod address;
pub mod blocking;
mod error;
mod greeting;
mod json;
mod methods;
mod outbox;
mod session;
mod socket;
mod table;
mod wakers;
mod wish;

pub use address::{SOCKET_VARIABLE, SYSTEM_SOCKET, dev_file, dev_sockets};
pub use error::{Error, Kind, Result};
pub use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
pub use oarlock_layout::id::{Epoch, LockId, SessionId};
pub use oarlock_layout::mode::Mode;
pub use oarlock_layout::token::{Fence, Token};
pub use oarlock_layout::value::Value;
