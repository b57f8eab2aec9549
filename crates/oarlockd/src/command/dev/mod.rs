//! `oarlock dev`: a cluster on this machine, with nothing installed and nothing left behind.
//!
//! ```text
//!   DIR/
//!     cluster.secret             shared by all
//!     dev.sock                   where `oarlock dev break` and the like say what is to be done
//!     etcd/                      with --coordinator etcd
//!     node-a/  node.toml  node.key  data/  log  oarlock.sock
//!     node-b/  …
//! ```
//!
//! Each node is a child process: this same program with `serve`. One that dies is started again, unless `--keep` wants to
//! see the others without it: they put it out of the view once its lease is over, and grant what it held.

mod etcd;
mod harm;
mod moving;
mod nodes;
mod place;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::connect::{Running, dev_file, is_own, user_dir};
use super::{cli, output};
use crate::host::file;
use crate::host::signals::Signals;
use crate::problem::{Problem, Result};
use etcd::Etcd;
pub use harm::DEAF;
pub(crate) use harm::Harm;
use harm::Orders;
pub(crate) use nodes::Nodes;
use place::Place;

/// A node that dies again so soon after a start will not get better by another start.
const TOO_SOON: Duration = Duration::from_secs(5);
/// So many hasty deaths of one node in a row end `dev`.
const HASTY_MAX: u32 = 3;
/// Ports are chosen, then released, then taken by the nodes; somebody else may come in between.
const PORT_TRIES: u32 = 3;

/// Runs the cluster until a signal comes.
pub fn run(args: &cli::Dev) -> Result<()> {
    if let Some(harm) = &args.harm {
        return harm::order(harm);
    }
    let signals = Signals::catch(&[SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Problem::io(Code::Failed, "cannot catch signals", &e))?;
    let began = Instant::now();
    let place = Place::make(args)?;
    let mut nodes = start(&place, args, &signals)?;
    if nodes.wait_until_serving(&signals)?.is_none() {
        return nodes.stop();
    }
    let orders = Orders::open(&place)?;
    let registered = Registered::new(&place);
    if !args.quiet {
        let took = began.elapsed().as_secs_f64();
        output::tell(format_args!("{}", welcome(&place, took, registered.as_ref().err().copied())));
    }
    watch(nodes, &orders, &signals, args)
}

/// A cluster for one piece of work: it serves when the work begins, and is removed when it is done.
pub(super) struct Cluster<'a> {
    /// Each node's socket.
    pub(super) sockets: Vec<PathBuf>,
    /// The nodes, and what was done to them.
    pub(super) nodes: RefCell<(Nodes<'a>, Harm)>,
    /// Whoever wants the work to end sends one of these.
    pub(super) signals: &'a Signals,
}

/// Makes a cluster, does the work and removes the cluster. No other command finds it.
pub(super) fn with_cluster<T>(args: &cli::Dev, work: impl FnOnce(&Cluster<'_>) -> Result<T>) -> Result<T> {
    let signals = Signals::catch(&[SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Problem::io(Code::Failed, "cannot catch signals", &e))?;
    let place = Place::make(args)?;
    let mut nodes = start(&place, args, &signals)?;
    if nodes.wait_until_serving(&signals)?.is_none() {
        nodes.stop()?;
        return Err(
            Problem::new(Code::Failed, "interrupted").because("a signal came while the cluster formed")
        );
    }
    let sockets = place.names.iter().map(|name| place.socket(name)).collect();
    let cluster = Cluster { sockets, nodes: RefCell::new((nodes, Harm::default())), signals: &signals };
    let done = work(&cluster);
    cluster.nodes.into_inner().0.stop()?;
    done
}

/// Starts all nodes; chooses other ports if somebody took one in between.
fn start<'a>(place: &'a Place, args: &cli::Dev, signals: &Signals) -> Result<Nodes<'a>> {
    let mut tries = 1;
    let mut etcd = match args.coordinator {
        cli::Engine::Raft => None,
        cli::Engine::Etcd => Some(Etcd::start(place)?),
    };
    loop {
        place.configure(args, etcd.as_ref().map(Etcd::endpoint).as_deref())?;
        let mut nodes = Nodes::spawn(place, etcd.take())?;
        match nodes.wait_until_listening(signals) {
            Err(p) if p.code == Code::AddressInUse && tries < PORT_TRIES => {
                tries += 1;
                etcd = nodes.release_etcd();
                nodes.stop()?;
            }
            Err(p) => return Err(p),
            Ok(()) => return Ok(nodes),
        }
    }
}

/// Waits for deaths and signals.
fn watch(mut nodes: Nodes<'_>, orders: &Orders, signals: &Signals, args: &cli::Dev) -> Result<()> {
    let mut harm = Harm::default();
    let mut hasty: BTreeMap<String, u32> = BTreeMap::new();
    loop {
        wait(&nodes, orders, signals);
        if !signals.take().is_empty() {
            nodes.stop()?;
            if !args.quiet {
                output::tell(format_args!("stopped; everything is removed"));
            }
            return Ok(());
        }
        orders.take(&mut harm, &mut nodes);
        if nodes.revive_etcd()? {
            output::say(format_args!("oarlock: etcd has ended; it is started again with what it had kept"));
        }
        for dead in nodes.reap() {
            let told = format!("{} {}", dead.name, dead.how);
            if args.keep {
                output::say(format_args!(
                    "oarlock: {told}\n  --keep: it is not started again. What it held is granted to others once its lease \
                     is over."
                ));
                if nodes.living() == 0 {
                    return Err(Problem::new(Code::Failed, "no node is left")
                        .because(told)
                        .try_next("oarlock dev, without --keep"));
                }
                continue;
            }
            let hasty = hasty.entry(dead.name.clone()).or_default();
            *hasty = if dead.lived < TOO_SOON { *hasty + 1 } else { 0 };
            if *hasty >= HASTY_MAX {
                let log = nodes.log_of(&dead.name);
                return Err(Problem::new(Code::Failed, format!("{told}, soon after each start")).because(log));
            }
            output::say(format_args!(
                "oarlock: {told}; it is started again. What it held is granted to others once its lease is over."
            ));
            nodes.start_again(&dead.name)?;
        }
    }
}

fn wait(nodes: &Nodes<'_>, orders: &Orders, signals: &Signals) {
    let mut fds: Vec<PollFd<'_>> =
        nodes.watched().map(|fd: &OwnedFd| PollFd::new(fd, PollFlags::IN)).collect();
    let pipes: Vec<_> = signals.watched().map(|(_, fd)| fd).collect();
    fds.extend(pipes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
    fds.push(PollFd::new(orders, PollFlags::IN));
    let _ = poll(&mut fds, None);
}

/// What to try first. Only commands that exist, and as they must be typed here.
/// `unnamed` says why other commands cannot find the cluster by themselves.
fn welcome(place: &Place, took: f64, unnamed: Option<&str>) -> String {
    let me = place::own_name();
    let socket = |i: usize| place.socket(&place.names[i]).display().to_string();
    let prefix = match unnamed {
        None => me.clone(),
        Some(_) => format!("OARLOCK_SOCKET={} {me}", socket(0)),
    };
    let mut out = vec![
        format!("{} nodes up in {took:.1} s   {}", place.names.len(), place.dir.display()),
        "try in another shell:".into(),
        format!("  {prefix} lock hello -- sleep 30     then the same again, and look at:"),
        format!("  {prefix} locks tree"),
        format!("  {prefix} status"),
    ];
    if place.names.len() > 1 {
        out.push("the same from another node's side:".into());
        out.push(format!("  OARLOCK_SOCKET={} {me} locks why hello", socket(1)));
    }
    if place.names.len() > 2 {
        let at = unnamed.map_or(String::new(), |_| format!(" --dir {}", place.dir.display()));
        let last = place.names.last().expect("there are some");
        out.push("lose a node, watch the others go on, and have it back:".into());
        out.push(format!("  {me} dev break {last}{at};  {prefix} failover show;  {me} dev heal{at}"));
    }
    if let Some(why) = unnamed {
        out.push(format!("({why}, so this one must be named)"));
    }
    if let Some(api) = place.api(0) {
        out.push(format!("metrics: http://{api}/metrics"));
    }
    out.push("stop with Ctrl-C; everything is removed".into());
    out.join("\n")
}

/// The note that lets other commands of this user find the cluster. Goes when this process does: what counts
/// is the lock, which the kernel releases.
struct Registered {
    _lock: fs::File,
}

impl Registered {
    /// Fails if another `dev` of this user is registered already, or if there is no safe place for the note.
    fn new(place: &Place) -> std::result::Result<Registered, &'static str> {
        let no_place = "there is no directory of yours for a note of it";
        let dir = user_dir();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|_| no_place)?;
        // In /tmp somebody else may have made it first, with links in it to files of this user: look before
        // anything is opened there.
        if !is_own(&dir) {
            return Err(no_place);
        }
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("dev.lock"))
            .map_err(|_| no_place)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| "another `oarlock dev` of yours is running")?;
        let note = Running {
            v: 1,
            pid: std::process::id(),
            dir: place.dir.clone(),
            sockets: place.names.iter().map(|n| (n.clone(), place.socket(n))).collect(),
        };
        let text = serde_json::to_string_pretty(&note).expect("plain data");
        file::replace(&dev_file(), text.as_bytes(), 0o600).map_err(|_| no_place)?;
        // Checked by the same eyes that will read it.
        match super::connect::running_dev() {
            Some(running) if running == note => Ok(Registered { _lock: lock }),
            _ => Err(no_place),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _ = fs::remove_file(dev_file());
        let _ = fs::remove_file(user_dir().join("dev.lock"));
        // Goes only if it is empty.
        let _ = fs::remove_dir(user_dir());
    }
}
