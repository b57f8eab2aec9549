//! The command line, declared once: help texts, completions and man pages come from here.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::{ArgValueCompleter, Shell};

pub use self::dlm::{DLM_SPACE, Dlm, Home};
pub use self::locks::Locks;
use super::complete;
pub use super::options::{Ask, AskList, Connect, Format, List, Output, Space, Sure};

mod dlm;
mod locks;

/// Locks for programs on several machines, granted over encrypted circuits.
#[derive(Parser, Debug)]
#[command(
    name = "oarlock",
    version,
    // Clap would fill 100 columns, whatever the terminal has.
    term_width = 80,
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done (lock: the child's own), 1 failed, 2 usage, 69 daemon not reachable, 75 not \
                  granted, 76 lock lost, 77 not permitted, 78 bad configuration, 79 this node is fenced, \
                  80 outcome unknown, 81 deadlock. \
                  Every error has a code; `oarlock explain CODE` explains it."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a cluster of nodes on this machine, with nothing installed and nothing left behind
    Dev(Dev),
    /// Run a node (what a service manager starts)
    Serve(Serve),
    /// What a node does but for its keeper, which starts it
    #[command(hide = true)]
    Engine(EngineArgs),
    /// Make a cluster that begins with this node
    #[command(
        after_help = "The configuration needs [node] with name and listen, and neither [cluster] nor [[member]]. Others join with \
                            `oarlock token create` here and `oarlock join` there."
    )]
    Init(Init),
    /// Make this machine a member of a cluster, with a token that one of its members made
    Join(Join),
    /// Let this node leave its cluster for good
    Leave {
        /// Whether it is meant.
        #[command(flatten)]
        sure: Sure,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(Token),
    /// Run a command while holding a lock
    Lock(Lock),
    /// Show how this node and its cluster are
    Status(Ask),
    /// Exit with 0 if this node grants locks, else say why
    Ok(Ask),
    /// Show how well this node is, a line for each matter
    #[command(
        after_help = "Exit status: 0 all is well, 1 it serves with warnings, 69 it cannot serve or soon may not, \
                      79 it is not let in before an earlier run of it is fenced."
    )]
    Health(Health),
    /// Look at locks
    #[command(subcommand)]
    Locks(Locks),
    /// Look at the lockspaces of programs that were written for libdlm, open and close them
    #[command(subcommand)]
    Dlm(Dlm),
    /// Look at lockspaces, and to whom they are given
    #[command(subcommand)]
    Space(Spaces),
    /// Look at members and their circuits, put them out, mark them
    #[command(subcommand)]
    Node(Node),
    /// Look at how the last views came into effect: who left, and what was waited for
    #[command(subcommand)]
    Failover(Failover),
    /// Look at what the coordinator keeps: members, views and why they changed, fences
    #[command(subcommand)]
    Coord(Coord),
    /// Look at the cluster clock and its watermark
    #[command(subcommand)]
    Clock(Clock),
    /// Show what happened at this node
    #[command(after_help = "With -o json each event is one document on one line.")]
    Events(Events),
    /// Show the counters of this node
    #[command(after_help = super::status::COUNTERS.help())]
    Metrics(AskList),
    /// Make and show keys
    #[command(subcommand)]
    Key(Key),
    /// Check and show a configuration
    #[command(subcommand)]
    Config(Config),
    /// Check this machine: kernel, limits, network, keys, daemon
    #[command(after_help = super::doctor::CHECKS.help())]
    Doctor(Doctor),
    /// Check and play storyboards: tables of states and events that are tests
    #[command(subcommand)]
    Story(Story),
    /// Explain an error code
    #[command(after_help = super::help::CODES.help())]
    Explain(Explain),
    /// Print a script with which a shell completes commands, options and the names of resources and nodes
    #[command(after_help = "bash: source <(oarlock completions bash)\n\
                            zsh:  source <(oarlock completions zsh)\n\
                            fish: oarlock completions fish | source")]
    Completions(Completions),
    /// Print the manual, or write all pages to a directory
    Man(Man),
    /// Print versions
    Version(Format),
}

/// Who decides what a cluster agrees on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Engine {
    /// The members among themselves
    Raft,
    /// An etcd, which must be installed
    Etcd,
}

/// What can be done to a running `oarlock dev`.
#[derive(Subcommand, Debug)]
pub enum Harm {
    /// Kill a node; it stays down until it is healed
    Break {
        /// Name of the node
        #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::dev_nodes))]
        node: String,
        /// Which cluster.
        #[command(flatten)]
        at: HarmAt,
    },
    /// Start, continue and connect again what was broken, paused and cut
    Heal {
        /// Name of the node [default: all]
        #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::dev_nodes))]
        node: Option<String>,
        /// Which cluster.
        #[command(flatten)]
        at: HarmAt,
    },
    /// Stop a node's processes, as if its machine stood still
    Pause {
        /// Name of the node
        #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::dev_nodes))]
        node: String,
        /// Which cluster.
        #[command(flatten)]
        at: HarmAt,
    },
    /// Let two nodes not hear each other
    Cut {
        /// Name of the one
        #[arg(value_name = "A", add = ArgValueCompleter::new(complete::dev_nodes))]
        from: String,
        /// Name of the other
        #[arg(value_name = "B", add = ArgValueCompleter::new(complete::dev_nodes))]
        to: String,
        /// Only B does not hear A; A still hears B
        #[arg(long)]
        one_way: bool,
        /// Which cluster.
        #[command(flatten)]
        at: HarmAt,
    },
}

/// Which `oarlock dev` is meant.
#[derive(Args, Debug)]
pub struct HarmAt {
    /// Directory of the cluster [default: that of your running `oarlock dev`]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// `oarlock dev`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dev {
    /// What to do to one that runs.
    #[command(subcommand)]
    pub harm: Option<Harm>,
    /// Who decides what the cluster agrees on
    #[arg(long, value_name = "ENGINE", value_enum, default_value = "raft")]
    pub coordinator: Engine,
    /// Where to put keys, configuration and sockets (DIR/node-a/oarlock.sock …) [default: a temporary directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// When a node dies, do not start it again: see what the others do without it
    #[arg(long)]
    pub keep: bool,
    /// How many nodes
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=26))]
    pub nodes: u8,
    /// Print nothing but problems
    #[arg(short, long)]
    pub quiet: bool,
    /// A lockspace besides `default` and `dlm`; may be repeated. `NAME` or `NAME:strict`
    #[arg(long, value_name = "NAME[:ORDER]")]
    pub space: Vec<String>,
    /// Lockspaces give back what they own after the last use (for measurements)
    #[arg(long)]
    pub no_retain: bool,
    /// Do not let the kernel cut and join trains of datagrams
    #[arg(long)]
    pub no_offload: bool,
}

/// `oarlock health`
#[derive(Args, Debug)]
pub struct Health {
    /// Say as well what each code means and what to do
    #[arg(value_enum)]
    pub detail: Option<Detail>,
    /// A wait that lasts longer than this is told as stuck
    #[arg(long, value_name = "T", default_value = "1m")]
    pub stuck: String,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: Ask,
}

/// How much `oarlock health` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Detail {
    /// With what the codes mean
    Detail,
}

/// `oarlock serve`
#[derive(Args, Debug)]
pub struct Serve {
    /// Configuration of the node
    #[arg(short, long, value_name = "FILE", default_value = crate::config::SYSTEM_FILE, value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Be a node of `oarlock dev`, which may be told not to hear others
    #[arg(long, hide = true)]
    pub dev: bool,
}

/// `oarlock engine`
#[derive(Args, Debug)]
pub struct EngineArgs {
    /// As its keeper got it.
    #[command(flatten)]
    pub serve: Serve,
    /// Go on with the run that the engine before left under this descriptor
    #[arg(long, value_name = "FD")]
    pub take_over: Option<i32>,
    /// Only say whether that can be
    #[arg(long, requires = "take_over")]
    pub rehearse: bool,
}

/// `oarlock init`
#[derive(Args, Debug)]
pub struct Init {
    /// Configuration of the node
    #[arg(short, long, value_name = "FILE", default_value = crate::config::SYSTEM_FILE, value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "oarlock")]
    pub cluster: String,
    /// Where the others will reach this node [default: `listen` of its configuration]
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<SocketAddr>,
}

/// `oarlock join`
#[derive(Args, Debug)]
pub struct Join {
    /// Configuration of the node
    #[arg(short, long, value_name = "FILE", default_value = crate::config::SYSTEM_FILE, value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Where the others will reach this node [default: `listen` of its configuration]
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<SocketAddr>,
    /// How long to ask for an answer
    #[arg(short = 'w', long, value_name = "T", default_value = "20s")]
    pub timeout: String,
    /// What `oarlock token create` printed; `-` reads it from standard input, where no other user sees it
    #[arg(value_name = "TOKEN", allow_hyphen_values = true)]
    pub token: String,
}

/// `oarlock token`
#[derive(Subcommand, Debug)]
pub enum Token {
    /// Make a token with which one machine can join, once
    Create {
        /// Name of the node that is to join, as in its configuration
        #[arg(value_name = "NAME")]
        name: String,
        /// How long it is good, 15 minutes at most
        #[arg(long, value_name = "T", default_value = "15m")]
        ttl: String,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// List the tokens that are out
    #[command(after_help = super::members::TOKENS.help())]
    Ls(AskList),
    /// Take a token back
    Revoke {
        /// Its number, as `oarlock token ls` shows it
        #[arg(value_name = "TOKEN")]
        serial: u64,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
}

/// `oarlock lock`
#[derive(Args, Debug)]
#[command(
    override_usage = "oarlock lock [OPTIONS] RES [--] CMD…",
    after_help = "The command finds OARLOCK_RESOURCE, OARLOCK_MODE, OARLOCK_TOKEN (a decimal number that grows with \
                  every exclusive grant: let storage refuse smaller ones), OARLOCK_LKID, OARLOCK_LOST_FD \
                  (readable when the lock is lost) and OARLOCK_TRANSACTION (by which `oarlock lock` within \
                  `oarlock lock` belongs to it when deadlocks are looked for) in its environment. It is killed if the lock is lost or if \
                  `oarlock lock` itself is killed.\n\n\
                  Exit status: that of the command, 128+n if signal n ended it; 75 not granted (-E changes it); \
                  76 lock lost; 79 this node is fenced; 81 it would wait in a circle; 126, 127 the command cannot be run."
)]
pub struct Lock {
    /// Take it exclusively, EX (the default)
    #[arg(short = 'x', visible_short_alias = 'e', long, visible_alias = "exclusive", group = "how")]
    pub ex: bool,
    /// Take it shared, PR
    #[arg(short = 's', long, group = "how")]
    pub shared: bool,
    /// Take it in this mode: NL, CR, CW, PR, PW or EX
    #[arg(short, long, value_name = "MODE", group = "how")]
    pub mode: Option<String>,
    /// Do not wait: fail if somebody holds it
    #[arg(short, long, visible_aliases = ["nb", "no-wait"], conflicts_with = "wait")]
    pub nonblock: bool,
    /// Wait at most so long, such as 250ms, 10s or 1m; a bare number means seconds
    #[arg(short, long, visible_alias = "timeout", value_name = "T", allow_negative_numbers = true)]
    pub wait: Option<String>,
    /// Exit status if it is not granted
    #[arg(short = 'E', long, value_name = "N", default_value_t = 75)]
    pub conflict_exit_code: u8,
    /// Lockspace of the resource
    #[arg(long, value_name = "SPACE", default_value = crate::config::DEFAULT_SPACE, add = ArgValueCompleter::new(complete::spaces))]
    pub space: String,
    /// What to call this program when somebody asks who holds the lock [default: name of the command]
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Run this text with the shell instead of a command
    #[arg(short, long, value_name = "TEXT", conflicts_with = "cmd")]
    pub command: Option<OsString>,
    /// Say nothing while waiting
    #[arg(short, long)]
    pub quiet: bool,
    /// How to reach the daemon.
    #[command(flatten)]
    pub connect: Connect,
    /// The resource: 1 to 255 bytes, \xNN for those that cannot be typed
    #[arg(value_name = "RES", add = ArgValueCompleter::new(complete::resources))]
    pub resource: OsString,
    /// The command and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::CommandWithArguments, add = ArgValueCompleter::new(complete::Words))]
    pub cmd: Vec<OsString>,
}

/// `oarlock space`
#[derive(Subcommand, Debug)]
pub enum Spaces {
    /// List the lockspaces that you may look at
    #[command(after_help = super::space::SPACES.help())]
    Ls(AskList),
    /// Show one lockspace
    Show {
        /// Name of the lockspace
        #[arg(value_name = "NAME", default_value = crate::config::DEFAULT_SPACE, add = ArgValueCompleter::new(complete::spaces))]
        name: String,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
}

/// `oarlock node`
#[derive(Subcommand, Debug)]
pub enum Node {
    /// List the members
    #[command(after_help = super::status::MEMBERS.help())]
    Ls(AskList),
    /// Show one member and the circuit to it
    Show {
        /// Name of the member [default: the node that answers]
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
        name: Option<String>,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Put a member out of the view; what it held is granted once its lease is over
    #[command(
        after_help = "For a node that hangs and that nobody can reach. One that is silent is put out without this as \
                            soon as its lease is over."
    )]
    Evict {
        /// Name of the member
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// Whether it is meant.
        #[command(flatten)]
        sure: Sure,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Put a member out if it is in, and fence it; with --confirmed, vouch for it that it is fenced (dangerous)
    #[command(
        after_help = "Without --confirmed the programs of [fencing] are run, as for every node that is put out, until one \
                            has succeeded. --confirmed says that somebody has seen to it himself: the machine is off, or its \
                            access is cut. It says the same as `unfence`."
    )]
    Fence {
        /// Name of the node
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// It is fenced, I have seen to it
        #[arg(long)]
        confirmed: bool,
        /// Whether it is meant.
        #[command(flatten)]
        sure: Sure,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Mark a member: it is to get no new work
    Drain {
        /// Name of the member
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Take that mark away
    Undrain {
        /// Name of the member
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Start the engine of the node that answers anew, and keep all locks
    #[command(
        after_help = "For an upgrade of the program, and for a changed configuration. The program at the place from which the \
                      node was started takes over the same run: no lock is lost, no session ends, and the others see \
                      a node that is silent for a moment. It reads everything once before, and if it cannot go on \
                      from that, nothing happens. The keeper stays the program that it is until the node is \
                      stopped and started."
    )]
    Restart {
        /// The node that is asked, by its own socket; it is so without this word, too
        #[arg(long = "self")]
        itself: bool,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// End the membership of a node that is lost; its key is accepted no more
    #[command(
        after_help = "For a machine that will not come back. The node must be out of the view: a silent one is as soon as \
                            its lease is over. One that works leaves by `oarlock leave` there. A machine in its place joins with \
                            `oarlock token create` here and `oarlock join` there, also under the same name."
    )]
    Remove {
        /// Name of the member
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// Whether it is meant.
        #[command(flatten)]
        sure: Sure,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Vouch for it that a node that is out can do no harm any more (dangerous)
    #[command(
        after_help = "While something is to be proven of a run that is out, masters grant nothing. This says of all of \
                            it that it has come about. If it has not, two nodes hold the same locks."
    )]
    Unfence {
        /// Name of the node
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// Whether it is meant.
        #[command(flatten)]
        sure: Sure,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
}

/// `oarlock events`
#[derive(Args, Debug)]
pub struct Events {
    /// Go on printing what happens
    #[arg(short, long)]
    pub follow: bool,
    /// How many of those that happened before
    #[arg(short = 'n', long, value_name = "N", default_value_t = crate::engine::EVENTS_MAX)]
    pub last: usize,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: Ask,
}

/// `oarlock coord`
#[derive(Subcommand, Debug)]
pub enum Coord {
    /// Show the registry as the node that answers has it, and who leads and votes
    Show(Ask),
    /// Copy the registry to a file: members, views, fences, what tokens rest on
    #[command(
        after_help = "The copy holds everything that was decided before it was asked for. Without a majority there is no such \
                      copy; --here takes what the node that answers has, which is the newest there is of a cluster whose \
                      other members are lost. Locks are not in it."
    )]
    Backup {
        /// Where to; it is replaced as a whole. `-` is standard output
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// What this node has, without asking the others
        #[arg(long)]
        here: bool,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Begin the cluster anew from a backup: with the same file at every member, while all are stopped
    Restore(Restore),
}

/// `oarlock coord restore`
#[derive(Args, Debug)]
#[command(
    after_help = "For a cluster whose registry is lost: a majority of the data directories is gone. Stop every node, say this with \
                  the same FILE at every member (in its old data directory, or in a new one), then start them. Tokens go on above \
                  all that were ever issued: views begin 1,024 above that of the backup. A member that was not restored is \
                  refused by the others (OAR-5107). If a directory has seen a later view than that, it says so, and --above is \
                  to be given at every member. What was there before is kept as raft.before. One that is there from an \
                  earlier restore stays, nothing else is kept then, and nobody removes it: move it away first, or when all is well."
)]
pub struct Restore {
    /// The backup; `-` is standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Configuration of this node
    #[arg(short, long, value_name = "FILE", default_value = crate::config::SYSTEM_FILE, value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Views begin 1,024 above this one, if that of the backup is lower; the same at every member
    #[arg(long, value_name = "VIEW", default_value_t = 0)]
    pub above: u32,
    /// Whether it is meant.
    #[command(flatten)]
    pub sure: Sure,
}

/// `oarlock failover`
#[derive(Subcommand, Debug)]
pub enum Failover {
    /// List the last views of the node that answers
    #[command(after_help = super::failover::FAILOVERS.help())]
    Ls(AskList),
    /// Show the timeline of one view: when each barrier was passed, and who was last
    Show {
        /// Number of the view, or `last`
        #[arg(value_name = "EPOCH", default_value = "last")]
        epoch: String,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
}

/// `oarlock clock`
#[derive(Subcommand, Debug)]
pub enum Clock {
    /// Show where the clock stands, and what members have announced and acknowledged
    Show {
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Issue stamps: each is above all that anybody saw before, and nobody else has it
    ///
    /// Printed as NUMBER.NODE, to be compared by NUMBER and then by NODE. One node's stamps rise. Across nodes they follow what they
    /// depend on: who takes a lock gets stamps above those of whoever had it before. None comes twice, whatever is restarted.
    Stamp {
        /// So many, in order
        #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
        count: u32,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Print a line whenever something of it is new
    Watch {
        /// Look so often
        #[arg(long, value_name = "T", default_value = "500ms")]
        every: String,
        /// Stop after so long
        #[arg(long = "for", value_name = "T")]
        during: Option<String>,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
}

/// `oarlock key`
#[derive(Subcommand, Debug)]
pub enum Key {
    /// Make a node's key and print its public half
    New {
        /// Where to put the private key
        #[arg(long, value_name = "FILE", default_value = "node.key", value_hint = ValueHint::FilePath)]
        out: PathBuf,
        /// How to print.
        #[command(flatten)]
        format: Format,
    },
    /// Print by which keys members are let in, or the public half of a key file
    Show {
        /// A key file; without it, the node that runs is asked
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Change this node's key while it runs, with every circuit and lock going on
    Rotate {
        /// Say that it has begun, and do not wait; `oarlock key show` tells how far it is
        #[arg(long)]
        no_wait: bool,
        /// How to ask and print.
        #[command(flatten)]
        ask: Ask,
    },
    /// Make the secret that all members of a cluster share
    Secret {
        /// Where to put it
        #[arg(long, value_name = "FILE", default_value = "cluster.secret", value_hint = ValueHint::FilePath)]
        out: PathBuf,
    },
}

/// `oarlock config`
#[derive(Subcommand, Debug)]
pub enum Config {
    /// Check a configuration and the files it names
    Check {
        /// The file
        #[arg(value_name = "FILE", default_value = crate::config::SYSTEM_FILE, value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// How to print.
        #[command(flatten)]
        format: Format,
    },
    /// Print a configuration with its defaults filled in
    Show {
        /// The file
        #[arg(value_name = "FILE", default_value = crate::config::SYSTEM_FILE, value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// How to print.
        #[command(flatten)]
        format: Format,
    },
}

/// `oarlock doctor`
#[derive(Args, Debug)]
pub struct Doctor {
    /// Also check this configuration
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// How to ask and print.
    #[command(flatten)]
    pub ask: AskList,
}

/// `oarlock story`
#[derive(Subcommand, Debug)]
pub enum Story {
    /// Say what is wrong with storyboards, each fault with its line
    Check {
        /// The storyboards, in Markdown
        #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Play a storyboard, in a simulated cluster or on real nodes
    #[command(
        after_help = "In the simulator the same file and seed give the same play, to the last letter of --trace. \
                            With --dev the nodes are processes of a cluster that is made for the play and removed \
                            after it."
    )]
    Run {
        /// The storyboard, in Markdown
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Play it in a simulated cluster; everything follows from this number
        #[arg(long, value_name = "SEED", default_value_t = 0, conflicts_with = "dev")]
        sim: u64,
        /// Play it on real nodes
        #[arg(long)]
        dev: bool,
        /// Print each row, command and answer with its time
        #[arg(long)]
        trace: bool,
    },
    /// Be a program of a play on real nodes: connect the socket on standard input, and live
    #[command(hide = true)]
    Program {
        /// The node's socket
        #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
        socket: PathBuf,
    },
}

/// `oarlock explain`
#[derive(Args, Debug)]
pub struct Explain {
    /// The code, such as OAR-2101; all codes if left out
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub list: List,
}

/// `oarlock completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
    /// Complete only the words of this version: no names, and `oarlock` is not run for them
    #[arg(long)]
    pub fixed: bool,
}

/// `oarlock man`
#[derive(Args, Debug)]
pub struct Man {
    /// Directory to write a page for each command to
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// The whole declaration, for completions and man pages.
pub fn declaration() -> clap::Command {
    Cli::command()
}

/// The declaration of `oarlock lock` alone. Building all of it takes longer than taking a lock does.
pub fn lock_declaration() -> clap::Command {
    Lock::augment_args(
        clap::Command::new("oarlock lock")
            .bin_name("oarlock lock")
            .term_width(80)
            .about("Run a command while holding a lock"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_holds_together() {
        declaration().debug_assert();
        lock_declaration().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal() {
        let mut all = declaration();
        all.build();
        let mut todo = vec![all, lock_declaration()];
        while let Some(mut command) = todo.pop() {
            let help = command.render_help().to_string();
            let long: Vec<_> = help.lines().filter(|l| l.chars().count() > 80).collect();
            assert!(long.is_empty(), "{}: {long:#?}", command.get_name());
            todo.extend(command.get_subcommands().cloned());
        }
    }
}
