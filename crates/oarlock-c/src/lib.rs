//! The C interface: what C programs, and all that can call C, link as `liboarlock.so.0`.
//!
//! ```text
//!   program ── oarlock.h ──► exports.rs ──► client.rs, lock.rs ──► oarlock (library)
//!                            pointers.rs       dispatch queue  ◄── woken by the session's reader
//! ```
//!
//! [`exports`] are the functions, one by one, and [`pointers`] is what they do with what C hands them; no other file has
//! unsafe code. Everything else is made of the Rust library's own parts: futures, and [`oarlock::dispatch`], which
//! looks at them and tells what came of them inside `oar_dispatch`. [`abi`] are the types and numbers of the header, which
//! `cargo xtask header` writes from this crate.
//!
//! Each symbol has its version from the beginning (`oarlock.map`): `OARLOCK_0` is never taken away or
//! changed, what is added gets the next.
#![deny(unsafe_code)]

pub mod abi;
pub mod client;
pub mod exports;
pub mod fault;
pub mod lock;
pub mod pointers;
mod request;
mod versions;
