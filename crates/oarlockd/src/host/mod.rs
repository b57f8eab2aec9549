//! The kernel, and nothing but the kernel: clock, chance, files, sockets, children. Everything the daemon
//! asks of the operating system goes through here, so that the rest can be read without a manual beside it.

pub mod child;
pub mod clock;
pub mod datagrams;
pub mod door;
pub mod exec;
pub mod fence;
pub mod file;
pub mod guard;
pub mod key;
pub mod keychain;
pub mod notify;
pub mod pair;
pub mod people;
pub mod poll;
pub mod random;
pub mod seal;
pub mod signals;
pub mod spin;
pub mod state;
pub mod token;
pub mod wake;
