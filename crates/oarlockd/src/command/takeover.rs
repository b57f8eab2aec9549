//! `oarlock engine --take-over`: go on with the run of the engine that was in this process before, and its rehearsal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::segment::{Geometry, PlainWords};
use oarlock_node::Node;
use oarlock_shm::{Hub, LeaseNote, Memory};
use rustix::process::Signal;
use tracing::{info, warn};

use super::cli::EngineArgs;
use super::config::check_files;
use super::output;
use super::serve::{
    AllWords, Kept, Run, Sockets, listen, log_to_stderr, node_config, raise_descriptor_limit, seal,
};
use crate::config::{Config, Rights};
use crate::console;
use crate::engine::parcel::{Bytes, Parcel, Taken};
use crate::engine::{Engine, Next, Segment};
use crate::host::datagrams::Datagrams;
use crate::host::door::Door;
use crate::host::people;
use crate::host::signals::Signals;
use crate::host::state::{DataDir, State};
use crate::host::{child, exec};
use crate::keeper::{Keeper, LastWord};
use crate::problem::{Problem, Result};

/// Runs one run of the node, or the rest of one.
pub(super) fn run(args: &EngineArgs) -> Result<()> {
    match (args.take_over, args.rehearse) {
        (None, _) => super::serve::run(&args.serve),
        (Some(_), true) => rehearse(args),
        (Some(fd), false) => take_over(args, fd),
    }
}

/// The program that takes this one's place in a restart: whatever is there by then.
pub(super) fn next(config: &Config) -> Result<Next> {
    let program = exec::this_program()
        .map_err(|e| Problem::io(Code::Failed, "cannot find out where this program is", &e))?;
    let secrets = [config.key_file.clone(), config.secret_file.clone()];
    Ok(Next { program, config: config.path.clone(), dev: config.dev, fixed: config.fixed(), secrets })
}

fn cannot(why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::RestartRefused, "this program cannot go on with the run").because(why)
}

fn read(fd: &OwnedFd) -> Result<Parcel> {
    let bytes = exec::unsealed(fd).map_err(cannot)?;
    Parcel::from_bytes(&bytes).map_err(cannot)
}

/// The configuration, if it is one with which the run can go on.
fn config(args: &EngineArgs, parcel: &Parcel) -> Result<Config> {
    let mut config = Config::load(&args.serve.config)?;
    config.dev = args.serve.dev;
    config.restoration = parcel.restored;
    let differs = |(was, is): (&(String, String), &(String, String))| (was != is).then(|| is.0.clone());
    let now = config.fixed();
    let mut differing: Vec<String> = parcel.fixed.iter().zip(&now).filter_map(differs).collect();
    let more = parcel.fixed.iter().skip(now.len()).chain(now.iter().skip(parcel.fixed.len()));
    differing.extend(more.map(|(name, _)| name.clone()));
    if differing.is_empty() {
        return Ok(config);
    }
    Err(cannot(format!("{} has changed: {}", config.path.display(), differing.join(", ")))
        .try_next("stop the node and start it, with which its locks move to others"))
}

/// What a run has that goes on: its number, and what it stored is in the data directory.
fn state_of(parcel: &Parcel) -> Result<State> {
    let whose = oarlock_node::whose(&parcel.node.0).map_err(cannot)?;
    Ok(State { incarnation: whose.incarnation, restored: parcel.restored, ..State::FIRST })
}

/// Reads everything and touches nothing.
fn rehearse(args: &EngineArgs) -> Result<()> {
    let fd = io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
    let parcel = read(&fd)?;
    let config = config(args, &parcel)?;
    let (chain, secret) = check_files(&config)?;
    parcel.check().map_err(cannot)?;
    let mut words = AllWords::new();
    for (index, space) in config.spaces.iter().enumerate() {
        let bytes = parcel.words.get(index).ok_or_else(|| cannot("a lockspace is missing"))?;
        let segment = parcel.has_segment(index).then(|| Geometry::of_space(space.resources_max));
        words.push(match segment {
            // Its seed stands first; of the segment itself nothing is looked at.
            Some(geometry) => {
                let seed = bytes.0.first_chunk().map_or(0, |seed| u64::from_le_bytes(*seed));
                hub(Memory::private(geometry, seed), bytes)?
            }
            None => plain(bytes)?,
        });
    }
    let state = state_of(&parcel)?;
    Node::read(node_config(&config, state, &chain), seal(&chain, &secret), words, &parcel.node.0)
        .map_err(cannot)?;
    if let Some(at) = config.api.filter(|at| parcel.api() != Some(*at)) {
        listen(at)?;
    }
    output::print_text(&format!("{}{}", console::CAN, env!("CARGO_PKG_VERSION")))
}

fn hub(memory: Arc<Memory>, bytes: &Bytes) -> Result<Box<dyn oarlock_layout::segment::Words + Send>> {
    Ok(Box::new(Hub::resume(memory, &bytes.0).map_err(|e| cannot(format!("held locks: {e}")))?))
}

fn plain(bytes: &Bytes) -> Result<Box<dyn oarlock_layout::segment::Words + Send>> {
    Ok(Box::new(PlainWords::from_bytes(&bytes.0).map_err(|e| cannot(format!("held locks: {e}")))?))
}

/// Goes on with the run.
fn take_over(args: &EngineArgs, fd: i32) -> Result<()> {
    let parcel = read(&exec::take(fd).map_err(cannot)?)?;
    child::stay_bound(parcel.parent, Signal::KILL).map_err(|e| cannot(format!("its keeper: {e}")))?;
    let Taken { datagrams, door, data, lease, segments, signals, api } =
        parcel.descriptors.take().map_err(cannot)?;
    let signals = Signals::resume(signals).map_err(cannot)?;
    let keeper = Keeper::at_stdin()?;
    let config = config(args, &parcel)?;
    let (chain, secret) = check_files(&config)?;
    let chain = Arc::new(chain);
    log_to_stderr(config.log);
    raise_descriptor_limit();
    let data = DataDir::resume(&config.data_dir, data)?;
    let (me, incarnation, word) = parcel.word();
    if data.state().incarnation != incarnation {
        return Err(cannot(format!(
            "its data directory says that run {} was the last, and this is run {incarnation}",
            data.state().incarnation
        )));
    }
    let mut kept = Kept::default();
    if parcel.words.len() != config.spaces.len() || segments.len() != config.spaces.len() {
        return Err(cannot("a lockspace is missing"));
    }
    for (fd, bytes) in segments.into_iter().zip(&parcel.words) {
        let segment =
            fd.map(|fd| Ok::<_, Problem>(Segment { memory: Memory::open(&fd).map_err(cannot)?, fd }));
        let segment = segment.transpose()?;
        kept.words.push(match &segment {
            Some(segment) => hub(Arc::clone(&segment.memory), bytes)?,
            None => plain(bytes)?,
        });
        kept.segments.push(segment.map(Arc::new));
    }
    let sockets = sockets(&config, datagrams, door, api, &mut kept)?;
    info!("going on with run {incarnation} of node {}", config.name());
    let last_word = LastWord { node: me, incarnation, secret: word, to: Vec::new() };
    let lease = LeaseNote::resume(lease);
    let (state, keys) = (data.state(), (Arc::clone(&chain), secret.clone()));
    let run = Run { config, keys, keeper, signals, data, sockets, kept, lease, last_word, goes_on: true };
    let parts = run.parts(|config, words, accesses, _| {
        let config = node_config(config, state, &chain);
        let mut node = Node::read(config, seal(&chain, &secret), words, &parcel.node.0).map_err(cannot)?;
        node.give(accesses);
        Ok(node)
    })?;
    Engine::resume(parts, parcel)?.run().map(|_| ())
}

fn sockets(
    config: &Config,
    datagrams: OwnedFd,
    door: [OwnedFd; 2],
    api: Option<(std::net::SocketAddr, OwnedFd)>,
    kept: &mut Kept,
) -> Result<Sockets> {
    let door = Door::resume(&config.socket, door)?;
    let rights = Rights::of(config, people::me(), door.gid())?;
    let opened = match rights.reach_beyond_the_socket() {
        true => door.let_everybody_knock().map(|wrong| wrong.into_iter().for_each(|it| warn!("{it}"))),
        false => door.let_the_group_knock(),
    };
    if let Err(e) = opened {
        warn!("the mode of {} stays as it was: {e}", config.socket.display());
    }
    let api = match (config.api, api) {
        (Some(at), Some((was, fd))) if at == was => Some(fd.into()),
        // For want of this no lock is given up.
        (Some(at), _) => listen(at)
            .inspect_err(|problem| {
                warn!("{problem}");
                kept.problems.push((problem.code, problem.what.clone()));
            })
            .ok(),
        (None, _) => None,
    };
    Ok(Sockets { datagrams: Datagrams::resume(datagrams, config.offload)?, door, rights, api })
}
