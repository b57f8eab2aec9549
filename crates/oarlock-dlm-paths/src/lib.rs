//! Files that the kernel's lock manager would show, for programs that read them: preloaded by `oarlock dlm run`.
//!
//! ```text
//!   program ── fopen("/sys/kernel/config/dlm/…") ──► exports.rs ──► paths.rs ── questions ──► node
//!                                                        │              │
//!                                                        └── the real ◄─┘ the same file below OARLOCK_DLM_TREE
//!                                                            fopen()        written anew
//! ```
//!
//! Clients of libdlm look at few of them: the name of the cluster, which lockspaces are open here and at which nodes, the locks of a
//! lockspace. Where there is no such kernel module, `/sys` cannot have them. So the functions with which programs open files are
//! defined here before the C library's, hand every other path on untouched, and for these ask the node, write what it says below a directory
//! of the user's own, and open that.
//!
//! [`exports`] has all unsafe code.
#![deny(unsafe_code)]

pub mod exports;
mod paths;
