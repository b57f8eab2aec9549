//! Clients, lockspaces and locks as handles: what is behind every interface in the manner of C, without a line that C
//! sees.
//!
//! ```text
//!   a shared library (oarlock-c) ──► Client, Space, Lock ──► oarlock (library)
//!        follows pointers               dispatch queue  ◄── woken by the session's reader
//! ```
//!
//! A [`Client`](client::Client) has a session and the queue of what is to be told. A [`Lock`](lock::Lock) lives from its request
//! until it is freed; it is asked for, converted and given back either in the calling thread, which waits, or at once, and
//! then what came of it is told inside [`dispatch`](client::Client::dispatch) and nowhere else. Nothing is locked while
//! somebody is told, so that it may do with the lock what it likes.
//!
//! [`abi`] are the numbers and structs that `oarlock.h` has, [`fault`] what went wrong in such numbers. They stand here, and not
//! in the crate with the exported functions, because whoever links that one exports its functions as well.
#![forbid(unsafe_code)]

pub mod abi;
pub mod client;
pub mod fault;
pub mod lock;
pub mod request;
