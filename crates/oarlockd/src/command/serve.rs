//! `oarlock engine`: run a node until a signal comes. `oarlock serve` starts it and stays beside it: [`keeper`](crate::keeper).

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use oarlock_circuit::Options;
use oarlock_cluster::fencing::{Fence, LeaseOnly};
use oarlock_cluster::registry::ClusterId;
use oarlock_cluster::registry::Need;
use oarlock_layout::code::Code;
use oarlock_layout::id::Epoch;
use oarlock_layout::seal::PublicKey;
use oarlock_layout::segment::{Geometry, PlainWords, Words};
use oarlock_layout::time::Duration;
use oarlock_node::rights::Access;
use oarlock_node::{Node, NodeConfig, SpaceConfig};
use oarlock_shm::{Hub, LeaseNote, MapError, Memory};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tracing::{info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::cli::Serve;
use super::config::check_files;
use super::dev::DEAF;
use super::takeover::next;
use crate::config::membership;
use crate::config::{Config, Etcd, Level, Order, Rights, Space};
use crate::console;
use crate::coordinator::control;
use crate::coordinator::etcd;
use crate::coordinator::raft::Tuning;
use crate::engine::{Engine, Link, Parts, Segment};
use crate::host::datagrams::Datagrams;
use crate::host::door::Door;
use crate::host::fence::Programs;
use crate::host::key::Secret;
use crate::host::keychain::Keychain;
use crate::host::notify::Notify;
use crate::host::poll::Epoll;
use crate::host::seal::HostSeal;
use crate::host::signals::Signals;
use crate::host::spin::Spin;
use crate::host::state::{DataDir, State};
use crate::host::wake::Wake;
use crate::host::{clock, people, random};
use crate::keeper::{Keeper, LastWord};
use crate::problem::{Problem, Result};

/// How long a resource that nobody uses keeps its record. Longer costs memory; shorter costs a message for
/// whoever comes back.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Questions of machines that want to join and that nobody has read yet: more than one comes only if somebody makes a mistake, or
/// tries.
const KNOCKS: usize = 16;

/// How long an engine that was killed a moment ago may take to let go of what there can be one of: its data directory, and a
/// moment later its sockets.
const LET_GO_MAX: [std::time::Duration; 2] =
    [std::time::Duration::from_secs(2), std::time::Duration::from_millis(200)];

/// Runs one run of the node.
pub fn run(args: &Serve) -> Result<()> {
    let keeper = Keeper::at_stdin()?;
    let mut config = Config::load(&args.config)?;
    config.dev = args.dev;
    let (chain, secret) = check_files(&config)?;
    let chain = Arc::new(chain);
    log_to_stderr(config.log);
    raise_descriptor_limit();
    if chain.passes_over() {
        warn!(
            "{} holds a key that is not used: this node has changed to the one in its data directory; remove the file, or \
             have the node join anew for a key of your own",
            config.key_file.display()
        );
    }

    let signals = Signals::catch(&[SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Problem::io(Code::Failed, "cannot catch signals", &e))?;
    let mut data = DataDir::open_within(LET_GO_MAX[0], &config.data_dir)?;
    data.refuse_left()?;
    let file = config.data_dir.join(control::FILE);
    config.restoration = data.state().restored;
    match config.etcd {
        None => control::prepare(&file, data.state() == State::FIRST, config.restoration)?,
        Some(_) => control::prepare_outside(&file)?,
    }
    // Durable before any socket opens: nobody may ever hear two runs under one number (L3).
    let state = data.begin()?;
    let sockets = patiently(LET_GO_MAX[1], || Sockets::open(&config))?;
    let shared = config.shared();
    info!(
        "node {} of cluster {}, run {}, epoch {}",
        config.name(),
        config.cluster,
        state.incarnation,
        state.epoch
    );
    info!(
        "circuits on udp {}, programs on {}, shared configuration {shared}",
        config.listen,
        config.socket.display()
    );
    for (key, part) in shared.parts() {
        info!("shared part {part:04x} is {key}");
    }

    let kept = Kept::of(&config);
    for segment in kept.segments.iter().flatten() {
        keeper.segment(&segment.fd)?;
    }
    let last_word = last_word(&config, state);
    let secret_of_the_run = last_word.secret;
    let lease = LeaseNote::create().map_err(|errno| {
        Problem::io(Code::Failed, "cannot make the note of the lease", &errno.into()).because(
            "it is a file in memory, which programs look at to know until when their locks are theirs",
        )
    })?;
    let keys = (Arc::clone(&chain), secret.clone());
    let run = Run { config, keys, keeper, signals, data, sockets, kept, lease, last_word, goes_on: false };
    let parts = run.parts(|config, words, accesses, needs| {
        let mut node = node(config, state, &chain, &secret, words);
        if let Some(joined) = &config.joined {
            node.follow_from(joined.revision);
        }
        node.give(accesses);
        node.set_fences(needs);
        node.pledge(&secret_of_the_run);
        Ok(node)
    })?;
    Engine::new(parts)?.run().map(|_| ())
}

/// What a run is made of, whether it begins here or goes on.
pub(super) struct Run {
    pub(super) config: Config,
    /// The node's own, and the cluster's secret.
    pub(super) keys: (Arc<Keychain>, Secret),
    pub(super) keeper: Keeper,
    pub(super) signals: Signals,
    pub(super) data: DataDir,
    pub(super) sockets: Sockets,
    pub(super) kept: Kept,
    pub(super) lease: LeaseNote,
    pub(super) last_word: LastWord,
    /// Another program has begun it.
    pub(super) goes_on: bool,
}

impl Run {
    /// Starts what stands around the engine, and makes the node: with its words, to whom lockspaces are given, and what is to be
    /// proven of whoever is put out.
    pub(super) fn parts(
        self,
        node: impl FnOnce(&Config, AllWords, Vec<Access>, Vec<Need>) -> Result<Node>,
    ) -> Result<Parts> {
        let Run { config, keys, keeper, signals, data, sockets, kept, lease, last_word, goes_on } = self;
        let wake = Wake::new().map_err(|e| Problem::io(Code::Failed, "cannot make a bell", &e))?;
        let (to_engine, questions_of_people) = mpsc::channel();
        let (asked, questions) = tokio::sync::mpsc::unbounded_channel();
        let (knocks, knocking) = tokio::sync::mpsc::channel(KNOCKS);
        let link = Link::new(to_engine, wake.clone());
        let next = next(&config)?;
        // The console listens, and the next program may.
        let again = |api: &TcpListener| {
            let fd = api.as_fd().try_clone_to_owned();
            fd.map_err(|e| Problem::io(Code::Failed, "cannot keep the socket of the API", &e))
        };
        let api = match (&sockets.api, config.api) {
            (Some(listener), Some(at)) => Some((at, again(listener)?)),
            _ => None,
        };
        let (chain, secret) = keys;
        let secrets = (chain, secret, knocking);
        let (applied, shown) = tokio::sync::watch::channel(Arc::default());
        console::start(config.clone(), link, questions, secrets, shown, sockets.api, next.clone())?;
        let fence: Box<dyn Fence> = match config.fencing.is_empty() {
            true => Box::new(LeaseOnly::default()),
            false => Box::new(Programs::new(config.fencing.clone(), &config.cluster, wake.clone())),
        };
        let Kept { words, segments, problems } = kept;
        let node = node(&config, words, sockets.rights.accesses().to_vec(), fence.needs())?;
        let coordinator = decide_by(
            &config,
            config.data_dir.join(control::FILE),
            data.outside()?.map(u128::to_be_bytes),
            data.state().epoch,
            wake.clone(),
            goes_on,
        )?;
        let poll = Epoll::new().map_err(|e| Problem::io(Code::Failed, "cannot make an epoll", &e))?;
        Ok(Parts {
            node,
            segments,
            lease: Arc::new(lease),
            problems,
            poll: Box::new(poll),
            spin: Spin::new(config.spin),
            datagrams: sockets.datagrams,
            deaf: deaf(&config),
            door: sockets.door,
            rights: sockets.rights,
            shared: config.shared(),
            data,
            signals,
            keeper,
            last_word,
            notify: Notify::from_environment(),
            wake,
            fence,
            relies_on_etcd: config.etcd.is_some(),
            founders: if config.joined.is_none() && config.etcd.is_none() { config.members.len() } else { 0 },
            coordinator,
            applied,
            control: questions_of_people,
            asked,
            knocks,
            api,
            next,
        })
    }
}

/// What the keeper says to the others when this process has died and nobody acts under its locks any more.
fn last_word(config: &Config, state: State) -> LastWord {
    LastWord {
        node: config.me,
        incarnation: state.incarnation,
        secret: *random::bytes().first_chunk().expect("sixteen of 32 bytes"),
        to: Vec::new(),
    }
}

/// Tries again for a while, as long as somebody else has it.
fn patiently<T>(most: std::time::Duration, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let end = std::time::Instant::now() + most;
    loop {
        match work() {
            Err(problem)
                if matches!(problem.code, Code::AddressInUse | Code::SocketInUse)
                    && std::time::Instant::now() < end =>
            {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Whom this node was told not to hear, by the `oarlock dev` that it belongs to.
fn deaf(config: &Config) -> BTreeSet<SocketAddr> {
    let file = config.path.with_file_name(DEAF);
    let text = config.dev.then(|| std::fs::read_to_string(file).ok()).flatten().unwrap_or_default();
    let names: Vec<String> = text.lines().map(String::from).collect();
    config.addresses(&names).unwrap_or_default()
}

/// Starts this node's coordinator: etcd's, or its own with its `file`.
fn decide_by(
    config: &Config,
    file: PathBuf,
    kept_by_etcd: Option<ClusterId>,
    stored: Epoch,
    wake: Wake,
    goes_on: bool,
) -> Result<control::Link> {
    // Whoever joined takes part in what others founded.
    let founding = config.joined.is_none().then(|| config.founding(stored));
    let Some(Etcd { endpoints, prefix }) = config.etcd.clone() else {
        let tuning = Tuning { listen: listen_before_founding(config), ..Tuning::default() };
        let joined = config.joined.as_ref().map(|it| it.revision);
        let parts = control::Parts { me: config.me, file, founding, joined, tuning, wake };
        return if goes_on { control::resume(parts) } else { control::start(parts) };
    };
    // Which cluster it must be, the founding says to a founder at its first start, and its directory from then on.
    let cluster = config.joined.as_ref().map(|it| it.cluster).or(kept_by_etcd);
    let settings = etcd::Settings { endpoints, prefix, cluster, tuning: etcd::Tuning::default() };
    control::start_outside(settings, founding, stored, wake)
}

/// A founder that would be alone asks nobody whether there is a cluster, but whoever joined it before its directory was lost calls at least
/// that often. Not where the founding stands in the directory itself, and is lost with it (`oarlock init`).
fn listen_before_founding(config: &Config) -> std::time::Duration {
    let alone = config.members.len() == 1 && config.joined.is_none();
    let lost_with_it = config.data_dir.join(membership::FILE).exists();
    match alone && !lost_with_it && !config.dev {
        true => 3 * Options::default().hello_max / 2,
        false => std::time::Duration::ZERO,
    }
}

pub(super) struct Sockets {
    pub(super) datagrams: Datagrams,
    pub(super) door: Door,
    pub(super) rights: Rights,
    pub(super) api: Option<TcpListener>,
}

impl Sockets {
    fn open(config: &Config) -> Result<Sockets> {
        let door = Door::open(&config.socket)?;
        let rights = Rights::of(config, people::me(), door.gid())?;
        if rights.reach_beyond_the_socket() {
            let wrong = door.let_everybody_knock().map_err(|e| {
                Problem::io(Code::Failed, format!("cannot open {} to others", config.socket.display()), &e)
            })?;
            if let Some(wrong) = wrong {
                warn!("{wrong}");
            }
        }
        let datagrams = Datagrams::bind(config.listen, config.offload)?;
        let api = config.api.map(listen).transpose()?;
        Ok(Sockets { datagrams, door, rights, api })
    }
}

/// Listens where metrics and readiness are served.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let fail = |e: io::Error| {
        let what = format!("cannot listen on tcp {address}");
        match e.kind() {
            io::ErrorKind::AddrInUse => Problem::io(Code::AddressInUse, what, &e)
                .try_next(format!("ss -ltnp 'sport = :{}' names the other program", address.port())),
            io::ErrorKind::AddrNotAvailable => Problem::io(Code::AddressNotHere, what, &e),
            _ => Problem::io(Code::Failed, what, &e),
        }
    };
    let listener = TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

pub(super) type AllWords = Vec<Box<dyn Words + Send>>;

/// Where each lockspace keeps its held locks: in a segment, if there can be one.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) words: AllWords,
    pub(super) segments: Vec<Option<Arc<Segment>>>,
    pub(super) problems: Vec<(Code, String)>,
}

impl Kept {
    fn of(config: &Config) -> Kept {
        let mut kept = Kept::default();
        for space in &config.spaces {
            let made = config.segments.then(|| segment(space)).transpose().unwrap_or_else(|e| {
                let text = format!("programs must ask the node for every lock of {}: {e}", space.name);
                warn!("{text}");
                kept.problems.push((Code::NoSegment, text));
                None
            });
            kept.words.push(match &made {
                Some(segment) => Box::new(Hub::new(Arc::clone(&segment.memory))),
                None => Box::new(PlainWords::new(space.resources_max)),
            });
            kept.segments.push(made.map(Arc::new));
        }
        kept
    }
}

fn segment(space: &Space) -> Result<Segment, MapError> {
    let name = format!("oarlock-{}", space.name);
    let (memory, fd) = Memory::create(&name, Geometry::of_space(space.resources_max), random::seed())?;
    Ok(Segment { memory, fd })
}

fn node(config: &Config, state: State, chain: &Keychain, secret: &Secret, words: AllWords) -> Node {
    Node::new(clock::now(), node_config(config, state, chain), seal(chain, secret), words)
}

/// What seals the node's packets.
pub(super) fn seal(chain: &Keychain, secret: &Secret) -> Box<HostSeal> {
    Box::new(HostSeal::changing(chain.own(), secret.bytes()))
}

/// What a node is told of its configuration and of what outlived its last run.
pub(super) fn node_config(config: &Config, state: State, chain: &Keychain) -> oarlock_node::Config {
    let order = |order: Order| match order {
        Order::Passover => oarlock_node::Order::Passover,
        Order::Strict => oarlock_node::Order::Strict,
    };
    let mut node_config = oarlock_node::Config {
        cluster: config.cluster.clone(),
        me: config.me,
        nodes: config
            .known()
            .into_iter()
            .map(|(node, m)| (node, NodeConfig { name: m.name, address: m.address, key: PublicKey(m.key) }))
            .collect(),
        spaces: config
            .spaces
            .iter()
            .map(|s| SpaceConfig {
                name: s.name.clone(),
                order: order(s.order),
                retain: s.retain,
                resources_max: s.resources_max,
            })
            .collect(),
        shared: config.shared().0,
        incarnation: state.incarnation,
        ceiling: state.ceiling,
        seed: random::seed(),
        shards: config.shards,
        circuits: Default::default(),
        forget_after: FORGET_AFTER,
        deadlock_after: config.deadlock_search,
    };
    // The configuration names the key that the node had at first.
    let me = node_config.nodes.get_mut(&config.me).expect("this node is a member");
    me.key = PublicKey(chain.standing().current);
    node_config
}

/// Lines on stderr; OARLOCK_LOG overrides the level of the configuration.
pub fn log_to_stderr(level: Level) {
    let named = std::env::var("OARLOCK_LOG").unwrap_or_default();
    let level = match named.to_lowercase().as_str() {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "info" => Level::Info,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => level,
    };
    let level = match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    };
    let colour = std::env::var_os("NO_COLOR").is_none() && io::IsTerminal::is_terminal(&io::stderr());
    // Fails only if somebody has set a subscriber before, which in this process nobody does.
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(colour);
    // What the coordinator's library says of its own doings is for its authors; what of it matters here, this node says.
    let library = if level > tracing::Level::INFO { level } else { tracing::Level::ERROR };
    let worth = Targets::new().with_default(level).with_target("openraft", library);
    let _ = tracing_subscriber::registry().with(lines).with(worth).try_init();
}

/// Each program takes a descriptor, and the soft limit is made for programs that use select.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("cannot raise the limit of open files: {e}");
    }
}
