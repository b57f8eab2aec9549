//! The binary `oarlock`: the node daemon and the commands people type.
//!
//! ```text
//!                      ┌────────────── one process: `oarlock engine` ─────────────┐
//!   programs ─ socket ─┤ engine/    one thread, one wait: sockets in, Node, out    │
//!   peers ──── UDP ────┤            └── host/     clock, chance, files, sockets    │
//!   people ─── HTTP ───┤ console/   questions and metrics as documents; own thread │
//!                      │ coordinator/ one order of changes for all nodes: who is   │
//!                      │            in the view, until when; own thread            │
//!                      └──────────────────────────────────────────────────────────┘
//!   keeper/    the process around it, which outlives it when it dies
//!   command/   what people type; talks to a daemon through its socket, as programs do
//!   config/    the file; problem, explain: every error as code, what, why, what next
//! ```
//!
//! Nothing here decides about locks: [`oarlock_node::Node`] does, and the simulator holds the same one.
//! Start at [`engine::Engine`] for the daemon and at [`command`] for the rest.
#![warn(missing_docs)]

pub mod command;
pub mod config;
pub mod console;
pub mod coordinator;
pub mod engine;
pub mod explain;
pub mod host;
pub mod keeper;
pub mod problem;
