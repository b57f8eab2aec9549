//! What people type.
//!
//! ```text
//!   cli        the command line, declared once
//!   connect    which daemon;  session  the conversation with it
//!   lock       run a command under a lock;  waiting  what it says meanwhile
//!   status  locks  tree  why  watch  node  metrics     questions, answered as tables or documents
//!   serve  dev                                         daemons
//!   key  config  doctor  explain  man                  everything around them
//! ```

pub mod args;
pub mod cli;
pub mod connect;
pub mod lock;
pub mod locks;
pub mod output;
pub mod session;
pub mod status;
pub mod tree;
pub mod waiting;
pub mod watch;
