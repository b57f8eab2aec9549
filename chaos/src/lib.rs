//! Real daemons and real programs in bad weather, and a judge of what they saw.
//!
//! ```text
//!   12 clients ── Unix socket ──► 3 daemons ◄── UDP ──► proxy: loss, copies, delays, flipped bits, cuts
//!       │  ▲ kill -9, SIGSTOP        ▲ kill -9, SIGSTOP
//!       │  └───────────── harness ───┘
//!       └─► diaries ──► one history ──► the checkers of `oarlock-sim` ──► report
//! ```
//!
//! Everything the simulator invents is real here: processes, sockets, schedulers, signals. What the clients saw
//! is judged by the same checkers. Start at [`harness::run`]; [`proxy::Proxy`] and [`cluster::Cluster`] serve
//! other tests too.
#![forbid(unsafe_code)]

pub mod client;
pub mod clock;
pub mod cluster;
pub mod diary;
pub mod harness;
pub mod proxy;
pub mod story;
