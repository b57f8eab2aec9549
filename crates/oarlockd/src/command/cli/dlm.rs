//! `oarlock dlm …`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use clap_complete::ArgValueCompleter;

use super::{Ask, AskList, Connect};
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
    /// Run a program that was written for libdlm, with our libraries in place of it
    ///
    /// The program is not changed: it finds `libdlm.so.3` and `libdlm_lt.so.3` of Oarlock first (LD_LIBRARY_PATH), and the few files of the
    /// kernel's lock manager that such programs read are answered by the node (LD_PRELOAD). It and what it starts talk to the
    /// node that is found now. Programs that run with other rights than those of who starts them, and static ones, take no notice of either.
    #[command(after_help = "Exit status: that of the program; 126, 127 it cannot be run.")]
    Run {
        /// Where the libraries are [default: where they are installed, or built, beside this program]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        libraries: Option<PathBuf>,
        /// How to reach the daemon.
        #[command(flatten)]
        connect: Connect,
        /// The program and its arguments
        #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::CommandWithArguments, add = ArgValueCompleter::new(complete::Words))]
        program: Vec<OsString>,
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
