//! Storyboards: parallel flows as tables of *(state, event, commands, next state)*, read, checked and played.
//!
//! ```text
//!   Markdown ──parse──► Story ──check──► faults, each with its line
//!                         │
//!                         │ perform              ┌──────────────────────────────┐
//!                         ▼            Action    │ Stage                        │
//!      flow ─ flow ─ flow: a cursor  ──────────► │   a simulated cluster        │
//!         └──events──┘     each      ◄────────── │   or real nodes              │
//!                         │             News     └──────────────────────────────┘
//!                         ▼
//!                       Report: kept, failed at a line, stuck where, or a promise broken
//! ```
//!
//! Start at [`read`], which gives a [`Story`] or everything that is wrong with the file, and at [`perform`], which
//! plays it on a [`Stage`]. This crate knows no cluster and no clock: a stage has both.
//!
//! A storyboard reads well as plain text:
//!
//! ```
//! let text = "\
//! ## A try is answered
//!
//! ### flow anna at node-a
//!
//! | state | on        | do         | next |
//! | ----- | --------- | ---------- | ---- |
//! | start | -         | lock r EX  | asks |
//! | asks  | granted r | raise held | has  |
//! | has   | tried     | unlock r   | done |
//!
//! ### flow bert at node-b
//!
//! | state | on     | do                                     | next |
//! | ----- | ------ | -------------------------------------- | ---- |
//! | start | held   | lock r PR NOQUEUE; wait r; raise tried | told |
//! | told  | busy r | expect granted anna.r EX               | done |
//! ";
//! let story = oarlock_story::read(text).unwrap();
//! assert_eq!(story.flows.len(), 2);
//! assert_eq!(oarlock_story::read(&story.to_string()).unwrap().to_string(), story.to_string());
//! ```
//!
//! # The grammar
//!
//! ```text
//!   flow      heading `flow NAME` or `flow NAME at node-a`, below it one table: state | on | do | next
//!   on        - | EVENT | meet BARRIER | after TIME | lost | attached | granted L | WHY L | failed L | answered L
//!             | released L | blocking L
//!   do        commands separated by `;` or `<br>`; `-` or nothing for none
//!   command   lock [strict:]NAME MODE [FLAG…] [within TIME] [as L]
//!             convert L MODE [FLAG…] [within TIME] [value "…"]     read L
//!             unlock L [value "…"] [invalidate]     cancel L     wait L     wait TIME
//!             raise EVENT     let X = SUM     say "…"     kill FLOW
//!             pause NODE     continue NODE     cut NODE [->] NODE     heal NODE [->] NODE
//!             kill node NODE     kill engine NODE     stop node NODE     start node NODE     attach
//!             leave node NODE     join node NODE     expect COND     expect history PROMISE
//!   next      STATE | STATE if COND else next          `done` is the end
//!   COND      [not] granted L [MODE] | waiting L | WHY L | failed L | released L | blocking L | lost [FLOW]
//!             | value L "…"|invalid|never-written|not-read | raised EVENT | SUM ==|!=|<|<=|>|>= SUM
//!   SUM       N | X | token L | counter NAME at NODE, each perhaps with ` + N`
//!   WHY       busy timed-out cancelled not-owned no-such-lock in-flight bad-conversion bad-flags deadlock
//!             not-serving fenced
//!   PROMISE   exclusion value tokens order answers liveness all
//!   TIME      500us 20ms 3s          L: a lock of this flow; in an expectation also FLOW.L
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod book;
mod chance;
mod check;
mod fault;
mod judge;
mod parse;
mod play;
mod print;
mod report;
mod stage;
pub mod table;
mod words;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::code::Code;

pub use check::check;
pub use fault::Fault;
pub use parse::parse;
pub use play::perform;
pub use report::{Failure, Outcome, Report};
pub use stage::{Action, News, Stage, Told};
pub use table::Story;

/// Reads a storyboard and checks it: a storyboard that can be played, or everything that is wrong with the file.
pub fn read(text: &str) -> Result<Story, Vec<Fault>> {
    let story = parse(text)?;
    let faults = check(&story);
    if faults.is_empty() { Ok(story) } else { Err(faults) }
}

impl Story {
    /// How many nodes the cluster needs: as many as it names, up to the last.
    pub fn nodes(&self) -> u16 {
        let named = self.flows.iter().flat_map(|flow| {
            let commands = flow.rows.iter().flat_map(|row| &row.commands);
            flow.node.into_iter().chain(commands.flat_map(table::Command::places))
        });
        named.map(|place| place.0 + 1).max().unwrap_or(1)
    }

    /// What of it a stage cannot do, each with its line; `refuses` says why ([`Stage::refuses`]).
    pub fn refusals(&self, refuses: impl Fn(&table::Command) -> Option<String>) -> Vec<Fault> {
        let rows = self.flows.iter().flat_map(|flow| &flow.rows);
        let commands = rows.flat_map(|row| row.commands.iter().map(move |command| (row.line, command)));
        let refused = commands.filter_map(|(line, command)| {
            let why = refuses(command)?;
            Some(Fault::new(Code::StoryNotHere, line, format!("`{command}`: {why}")))
        });
        refused.collect()
    }
}
