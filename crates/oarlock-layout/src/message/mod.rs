//! The messages of Oarlock, one module per conversation.

pub mod barrier;
pub mod form;
pub mod frame;
pub mod join;
pub mod lock;
pub mod look;
pub mod peer;
pub mod raft;
pub mod session;
pub mod trace;
