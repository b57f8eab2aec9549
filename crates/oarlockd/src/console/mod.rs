//! Questions of people and machines, answered as documents: JSON on the session socket, text over HTTP.

pub mod doc;
mod merge;

pub use merge::merge;
