//! `oarlock locks …`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Subcommand, ValueHint};
use clap_complete::ArgValueCompleter;

use super::{Ask, AskList, Space};
use crate::command::complete;

/// `oarlock locks`
#[derive(Subcommand, Debug)]
pub enum Locks {
    /// List resources with their holders, waiters and owners
    #[command(after_help = crate::command::locks::RESOURCES.help())]
    Ls {
        /// Only names that begin so
        #[arg(value_name = "PREFIX", default_value = "", add = ArgValueCompleter::new(complete::resources))]
        prefix: String,
        /// Which lockspace.
        #[command(flatten)]
        space: Space,
        /// How to ask and print.
        #[command(flatten)]
        ask: AskList,
    },
    /// Show everything about one resource
    Show {
        /// The resource
        #[arg(value_name = "RES", add = ArgValueCompleter::new(complete::resources))]
        resource: OsString,
        /// Which lockspace.
        #[command(flatten)]
        space: Space,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Show who waits for whom, and who is at the root
    Tree {
        /// Which lockspace.
        #[command(flatten)]
        space: Space,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Say in words why a resource is not granted
    Why {
        /// The resource
        #[arg(value_name = "RES", add = ArgValueCompleter::new(complete::resources))]
        resource: OsString,
        /// Which lockspace.
        #[command(flatten)]
        space: Space,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Print a line for each grant, wait and release as they happen
    Watch {
        /// Only names that begin so
        #[arg(value_name = "PREFIX", default_value = "", add = ArgValueCompleter::new(complete::resources))]
        prefix: String,
        /// Look so often
        #[arg(long, value_name = "T", default_value = "500ms")]
        every: String,
        /// Stop after so long
        #[arg(long = "for", value_name = "T")]
        during: Option<String>,
        /// Which lockspace.
        #[command(flatten)]
        space: Space,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Give back locks of this node that outlived their programs and that nobody has adopted
    ///
    /// They go as if their programs had just died: whoever held EX or PW leaves a value block that is not to be believed.
    Purge {
        /// Only names that begin so
        #[arg(value_name = "PREFIX", add = ArgValueCompleter::new(complete::resources))]
        prefix: Option<String>,
        /// Only what this process left behind
        #[arg(long, value_name = "PID")]
        pid: Option<u32>,
        /// Which lockspace.
        #[command(flatten)]
        space: Space,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Show the resources that cause most messages between nodes
    #[command(after_help = crate::command::locks::HOT.help())]
    Hot {
        /// Count for so long
        #[arg(long = "for", value_name = "T", default_value = "1s")]
        during: String,
        /// How many to show
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        top: usize,
        /// Which lockspace.
        #[command(flatten)]
        space: Space,
        /// How to ask and print.
        #[command(flatten)]
        ask: AskList,
    },
    /// Show deadlocks that were found and broken: who waited for whom, and whose wait was refused
    ///
    /// Each node remembers the last 64 of the cluster of which it heard since it began. Deadlocks in lockspaces that you may not look at are
    /// counted only.
    #[command(after_help = DEADLOCKS)]
    Deadlocks {
        /// Write a picture of the newest one to this file; `-` is standard output
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        svg: Option<PathBuf>,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
}

const DEADLOCKS: &str = "\
A wait that lasts longer than 100 ms is looked at. If it is one of a circle, which is looked at twice, the youngest wait of that circle fails
with OAR-2301 (exit status 81); all other locks of that program are as they were. Programs that say of their waits that they resolve them
themselves (NODLCKWT), and locks that are not to count (NODLCKBLK), are left alone.";
