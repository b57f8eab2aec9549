//! What is done to the nodes of a `dev` cluster on purpose: killed, stopped, made deaf to each other; and healed.
//!
//! ```text
//!   oarlock dev break node-b ──► DIR/dev.sock ──► oarlock dev ──► SIGKILL, SIGSTOP to the node's process group
//!                                                     └─────────► DIR/node-b/deaf, and a request over its socket
//! ```
//!
//! Nothing of it needs a privilege: a node of `dev` drops the datagrams of those whom it is told not to hear. It reads its
//! file when it begins, so a cut outlives a run.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use oarlock_layout::code::Code;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::super::cli::Harm as Command;
use super::super::session::Session;
use super::super::{connect, output};
use super::nodes::Nodes;
use super::place::Place;
use crate::console::doc::{Deafened, Question};
use crate::explain;
use crate::host::file;
use crate::problem::{Problem, Result, did_you_mean};

/// The door for these orders, in the directory of the cluster.
pub(super) const DOOR: &str = "dev.sock";
/// Whom a node does not hear, a name in each line; beside its configuration.
pub const DEAF: &str = "deaf";
/// Whoever gives an order says it at once.
const ORDER_MAX: Duration = Duration::from_secs(2);
/// An order may wait for a node that comes to itself.
const DONE_MAX: Duration = Duration::from_secs(30);
/// A node that was stopped may begin another run first.
const HEARS_MAX: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Order {
    /// Kill a node, and leave it dead.
    Break { node: String },
    /// Stop its processes.
    Pause { node: String },
    /// The second does not hear the first any more; both ways unless so marked.
    Cut { from: String, to: String, one_way: bool },
    /// Undo all of it, of one node or of all.
    Heal { node: Option<String> },
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    /// Sentences.
    Done(Vec<String>),
    /// Why not.
    Failed { code: String, what: String, why: String, try_next: String },
}

/// Says it to the running `dev`, and prints what came of it.
pub(super) fn order(command: &Command) -> Result<()> {
    let (order, dir) = match command {
        Command::Break { node, at } => (Order::Break { node: node.clone() }, &at.dir),
        Command::Pause { node, at } => (Order::Pause { node: node.clone() }, &at.dir),
        Command::Heal { node, at } => (Order::Heal { node: node.clone() }, &at.dir),
        Command::Cut { from, to, one_way, at } => {
            (Order::Cut { from: from.clone(), to: to.clone(), one_way: *one_way }, &at.dir)
        }
    };
    let dir = match dir {
        Some(dir) => dir.clone(),
        None => running()?,
    };
    match say(&dir.join(DOOR), &order)? {
        Done::Done(lines) => output::print_text(&lines.join("\n")),
        Done::Failed { code, what, why, try_next } => {
            let code = explain::parse(&code).unwrap_or(Code::Failed);
            Err(Problem::new(code, what).because(why).try_next(try_next))
        }
    }
}

fn running() -> Result<PathBuf> {
    let none = || {
        Problem::new(Code::NoDaemon, "no `oarlock dev` of yours is running")
            .because("only nodes of such a cluster can be broken and healed on request")
            .try_next("oarlock dev, or --dir DIR if it runs in a directory that you chose")
    };
    connect::running_dev().map(|it| it.dir).ok_or_else(none)
}

fn say(door: &Path, order: &Order) -> Result<Done> {
    let fail = |e: &io::Error| {
        Problem::io(Code::NoDaemon, format!("no `oarlock dev` answers on {}", door.display()), e)
    };
    let stream = UnixStream::connect(door).map_err(|e| fail(&e))?;
    let told = (|| {
        stream.set_read_timeout(Some(DONE_MAX))?;
        writeln!(&stream, "{}", serde_json::to_string(order).expect("plain data"))?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(io::Error::from)
    })();
    told.map_err(|e| fail(&e))
}

/// Where orders come in.
pub(super) struct Orders {
    listener: UnixListener,
}

impl Orders {
    pub(super) fn open(place: &Place) -> Result<Orders> {
        let path = place.dir.join(DOOR);
        let fail = |e: io::Error| Problem::io(Code::Failed, format!("cannot open {}", path.display()), &e);
        let listener = UnixListener::bind(&path).map_err(fail)?;
        // For this user, as the directory is if `dev` has made it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        Ok(Orders { listener })
    }

    /// Carries out those that wait. Whoever does not say what is to be done in time is sent away.
    pub(super) fn take(&self, harm: &mut Harm, nodes: &mut Nodes<'_>) {
        while let Ok((stream, _)) = self.listener.accept() {
            let _ = answer(&stream, harm, nodes);
        }
    }
}

fn answer(stream: &UnixStream, harm: &mut Harm, nodes: &mut Nodes<'_>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ORDER_MAX))?;
    stream.set_write_timeout(Some(ORDER_MAX))?;
    let mut line = String::new();
    BufReader::new(io::Read::take(stream, 4096)).read_line(&mut line)?;
    let done = match serde_json::from_str::<Order>(&line) {
        Ok(order) => harm.carry_out(nodes, &order),
        Err(e) => {
            Err(Problem::new(Code::Usage, "not an order this version understands").because(e.to_string()))
        }
    };
    let done = done.map_or_else(
        |p| Done::Failed { code: p.code.to_string(), what: p.what, why: p.why, try_next: p.try_next },
        Done::Done,
    );
    let mut stream = stream;
    writeln!(stream, "{}", serde_json::to_string(&done).expect("plain data"))
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// What was done to the nodes and is not healed.
#[derive(Default)]
pub(crate) struct Harm {
    paused: BTreeSet<usize>,
    /// From whom nothing comes through, and to whom.
    cuts: BTreeSet<(usize, usize)>,
    /// Who stood still when it was to be told whom it does not hear.
    untold: BTreeSet<usize>,
}

impl Harm {
    /// Kills a node; it stays down until it is started.
    pub(crate) fn kill(&mut self, nodes: &mut Nodes<'_>, node: usize) -> Result<()> {
        if !nodes.is_up(node) {
            return Err(refused(format!("{} is down already", nodes.name(node))));
        }
        nodes.kill(node);
        self.paused.remove(&node);
        self.untold.remove(&node);
        Ok(())
    }

    /// Kills the engine of a node. Its keeper starts another one.
    pub(crate) fn kill_engine(&mut self, nodes: &mut Nodes<'_>, node: usize) -> Result<()> {
        if nodes.kill_engine(node) {
            return Ok(());
        }
        Err(refused(format!("{} has no engine that runs", nodes.name(node))))
    }

    /// Stops a node in order; it ends when its programs have heard.
    pub(crate) fn stop(&mut self, nodes: &mut Nodes<'_>, node: usize) -> Result<()> {
        if nodes.has_ended(node) {
            return Err(refused(format!("{} is down already", nodes.name(node))));
        }
        nodes.stop_one(node);
        Ok(())
    }

    /// Starts a node that is down.
    pub(crate) fn start(&mut self, nodes: &mut Nodes<'_>, node: usize) -> Result<()> {
        let name = nodes.name(node).to_owned();
        nodes.has_ended(node);
        if nodes.is_up(node) {
            return Err(refused(format!("{name} runs already")));
        }
        nodes.start_again(&name)
    }

    /// Stops a node's processes.
    pub(crate) fn pause(&mut self, nodes: &Nodes<'_>, node: usize) -> Result<()> {
        let name = nodes.name(node);
        if !nodes.is_up(node) {
            return Err(refused(format!("{name} is down")));
        }
        if !self.paused.insert(node) {
            return Err(refused(format!("{name} stands still already")));
        }
        nodes.signal_one(node, Signal::STOP);
        Ok(())
    }

    /// Lets them go on.
    pub(crate) fn resume(&mut self, nodes: &Nodes<'_>, node: usize) -> Result<()> {
        if !self.paused.remove(&node) {
            return Err(refused(format!("{} does not stand still", nodes.name(node))));
        }
        nodes.signal_one(node, Signal::CONT);
        if self.untold.remove(&node) { self.tell(nodes, node) } else { Ok(()) }
    }

    /// One node does not hear another any more, or hears it again.
    pub(crate) fn cut(&mut self, nodes: &Nodes<'_>, from: usize, to: usize, cut: bool) -> Result<()> {
        let changed = if cut { self.cuts.insert((from, to)) } else { self.cuts.remove(&(from, to)) };
        if changed { self.tell(nodes, to) } else { Ok(()) }
    }

    /// Tells a node whom it does not hear, now and after its next start.
    fn tell(&mut self, nodes: &Nodes<'_>, node: usize) -> Result<()> {
        let from: Vec<String> = self
            .cuts
            .iter()
            .filter(|(_, to)| *to == node)
            .map(|(from, _)| nodes.name(*from).into())
            .collect();
        let path = nodes.place().dir.join(nodes.name(node)).join(DEAF);
        let lines: String = from.iter().map(|name| format!("{name}\n")).collect();
        file::replace(&path, lines.as_bytes(), 0o600)
            .map_err(|e| Problem::io(Code::Failed, format!("cannot write {}", path.display()), &e))?;
        if !nodes.is_up(node) {
            return Ok(());
        }
        if self.paused.contains(&node) {
            self.untold.insert(node);
            return Ok(());
        }
        let question = Question::Deafen { from };
        let socket = nodes.place().socket(nodes.name(node));
        let end = Instant::now() + HEARS_MAX;
        loop {
            let said =
                Session::open(&socket, "oarlock dev").and_then(|mut s| s.document::<Deafened>(&question));
            match said {
                Ok(_) => return Ok(()),
                // It begins another run, which reads the file.
                Err(problem) if Instant::now() > end => return Err(problem),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn carry_out(&mut self, nodes: &mut Nodes<'_>, order: &Order) -> Result<Vec<String>> {
        match order {
            Order::Break { node } => {
                let at = nodes.find(node)?;
                self.kill(nodes, at)?;
                Ok(vec![format!("{node} is killed, and stays down until `oarlock dev heal {node}`")])
            }
            Order::Pause { node } => {
                let at = nodes.find(node)?;
                self.pause(nodes, at)?;
                Ok(vec![format!("{node} stands still until `oarlock dev heal {node}`")])
            }
            Order::Cut { from, to, one_way } => {
                let (a, b) = (nodes.find(from)?, nodes.find(to)?);
                if a == b {
                    return Err(refused("a node always hears itself".into()));
                }
                let ways = if *one_way { vec![(a, b)] } else { vec![(a, b), (b, a)] };
                for (from, to) in ways {
                    self.cut(nodes, from, to, true)?;
                }
                Ok(vec![match one_way {
                    true => format!("{to} does not hear {from} any more, until `oarlock dev heal`"),
                    false => {
                        format!("{from} and {to} do not hear each other any more, until `oarlock dev heal`")
                    }
                }])
            }
            Order::Heal { node } => {
                let which = match node {
                    Some(node) => [nodes.find(node)?].into(),
                    None => (0..nodes.count()).collect(),
                };
                self.heal(nodes, &which)
            }
        }
    }

    /// Undoes everything that concerns these nodes.
    fn heal(&mut self, nodes: &mut Nodes<'_>, which: &BTreeSet<usize>) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for &node in which {
            if self.paused.contains(&node) {
                self.resume(nodes, node)?;
                lines.push(format!("{} goes on", nodes.name(node)));
            }
        }
        let cuts: Vec<(usize, usize)> = self.cuts.iter().copied().collect();
        for (from, to) in cuts {
            if which.contains(&from) || which.contains(&to) {
                self.cut(nodes, from, to, false)?;
                lines.push(format!("{} hears {} again", nodes.name(to), nodes.name(from)));
            }
        }
        for &node in which {
            if !nodes.is_up(node) {
                self.start(nodes, node)?;
                lines.push(format!("{} is started again", nodes.name(node)));
            }
        }
        if lines.is_empty() {
            lines.push("nothing is to be healed".into());
        }
        Ok(lines)
    }
}

fn refused(text: String) -> Problem {
    Problem::new(Code::ChangeRefused, text)
        .because("it would change nothing")
        .try_next("oarlock node ls; oarlock dev heal undoes what was done")
}

impl Nodes<'_> {
    /// The place of a node in the cluster.
    fn find(&self, name: &str) -> Result<usize> {
        let names = &self.place().names;
        names.iter().position(|it| it == name).ok_or_else(|| {
            let problem = Problem::new(Code::Usage, format!("there is no node `{name}`"))
                .because(format!("this cluster has {}", names.join(", ")));
            match did_you_mean(name, names.iter().map(String::as_str)) {
                Some(meant) => problem.try_next(format!("did you mean {meant}?")),
                None => problem,
            }
        })
    }
}
