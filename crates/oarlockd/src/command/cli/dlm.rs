//! `oarlock dlm …`

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use super::{Ask, AskList};
use crate::command::complete;

/// In which native lockspace those of another lock manager's programs live, if nothing is said.
pub const DLM_SPACE: &str = "dlm";

/// The native lockspace whose branches are meant.
#[derive(Args, Clone, Debug)]
pub struct Home {
    /// The native lockspace in which they live
    #[arg(long, value_name = "SPACE", default_value = DLM_SPACE, add = ArgValueCompleter::new(complete::spaces))]
    pub space: String,
}

/// `oarlock dlm`
#[derive(Subcommand, Debug)]
pub enum Dlm {
    /// List the lockspaces that are open, with how often each was opened at this node, and the nodes that have it open
    #[command(after_help = crate::command::dlm::BRANCHES.help())]
    Ls {
        /// Where they live.
        #[command(flatten)]
        home: Home,
        /// How to ask and print.
        #[command(flatten)]
        ask: AskList,
    },
    /// Show the members of the cluster, a line each
    Status(Ask),
    /// Show the locks of this node's programs in a lockspace, a line each: id, modes granted and requested (IV is none), process, master,
    /// resource
    Lockdump {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Where it lives.
        #[command(flatten)]
        home: Home,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Open a lockspace at this node; it stays open until as many leave it as have joined
    Join {
        /// Its name: 1 to 64 bytes without `/`
        #[arg(value_name = "NAME")]
        name: String,
        /// Not if it is open already
        #[arg(long)]
        exclusive: bool,
        /// Where it lives.
        #[command(flatten)]
        home: Home,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Close a lockspace at this node; the last one cannot while locks are held in it
    Leave {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Also while locks are held in it: those that no program has any more are given back, the others go with their programs
        #[arg(long)]
        force: bool,
        /// Where it lives.
        #[command(flatten)]
        home: Home,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
}
