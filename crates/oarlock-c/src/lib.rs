//! The C interface: what C programs, and all that can call C, link as `liboarlock.so.0`.
//!
//! ```text
//!   program ── oarlock.h ──► exports.rs ──► oarlock-handle ──► oarlock (library)
//!                            pointers.rs
//! ```
//!
//! [`exports`] are the functions, one by one, and [`pointers`] is what they do with what C hands them; no other file has
//! unsafe code. Everything else is in `oarlock_handle`, which other interfaces can use without exporting these. The
//! header is written by `cargo xtask header` from both crates.
//!
//! Each symbol has its version from the beginning (`oarlock.map`): `OARLOCK_0` is never taken away or
//! changed, what is added gets the next.
#![deny(unsafe_code)]

pub mod exports;
pub mod pointers;
mod versions;
