//! Every order of events in small clusters of real lockspaces.
//!
//! ```text
//!   menu      what is explored: nodes, programs, what they may ask and how often
//!   world     the state: lockspaces, channels, programs; one step from one to the next
//!   intruder  counts that change in the middle of a step (M8)
//!   ghost     what a watcher remembers: answers, blocks, tokens
//!   check     what must be true always, and at rest
//!   views     members that die, join and come back, and the barriers they pass
//!   recovery  what must be true while they do
//!   search    each state once; a broken rule becomes a short story
//!   aside     several spaces at once
//! ```
#![allow(dead_code, reason = "several test programs share these modules, each uses a part")]

pub(crate) mod aside;
pub(crate) mod check;
pub(crate) mod ghost;
pub(crate) mod intruder;
pub(crate) mod menu;
pub(crate) mod recovery;
pub(crate) mod search;
pub(crate) mod sets;
pub(crate) mod views;
pub(crate) mod world;

#[path = "../stage/show.rs"]
pub(crate) mod show;
