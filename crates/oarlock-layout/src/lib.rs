//! What every part of Oarlock agrees on: ids, units, lock modes, limits, messages.
//!
//! ```text
//!   id  time  stamp  token        small types: an id is never a bare integer
//!   mode                          six lock modes, one compatibility table
//!   name  value  flags            what a lock request is made of
//!   codec                         bounded readers and writers for bytes
//!   message/lock                  what masters and shadows say to each other
//!   message/session               what a program and its node say to each other
//!   message/form                  how members agree on a view
//!   message/frame                 what a datagram looks like on the wire
//!   lease                         what programs see of their node's lease
//!   segment/                      the `Words` trait: counts that callers change too
//!   seal                          the `Seal` trait: cryptography, handed in from outside
//!   limit                         every bound, with its reason
//!   code                          stable error codes and exit statuses
//! ```
//!
//! Start at [`message::lock::Packet`] to see what travels between nodes, at [`mode::Mode`] for the
//! algebra behind every grant. There is no behaviour here beyond encoding, decoding and tables.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod code;
pub mod codec;
pub mod departed;
pub mod directory;
pub mod flags;
pub mod id;
pub mod lease;
pub mod limit;
pub mod message;
pub mod mode;
pub mod name;
pub mod seal;
pub mod segment;
pub mod stamp;
pub mod time;
pub mod token;
pub mod value;
pub mod view;
pub mod written;
