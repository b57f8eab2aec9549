//! The functions that `libdlm.so.3` and `libdlm_lt.so.3` have in common, as C calls them, without their names in C:
//! whoever links this crate exports nothing. [`exports!`] writes the named functions into a library.
//!
//! ```text
//!   libdlm.so.3 ────┐ exports!     exports.rs ── calls.rs ──► oarlock-dlm
//!   libdlm_lt.so.3 ─┘              pointers.rs ──┘
//! ```
//!
//! [`mod@exports`] has a function for each of C's, which takes what C hands over apart; [`pointers`] follows pointers, and no
//! other file has unsafe code. [`calls`] is what both libraries do with it, and where they differ: [`calls::Library`].
#![deny(unsafe_code)]

pub mod calls;
pub mod exports;
pub mod pointers;
