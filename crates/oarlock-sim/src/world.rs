//! The world of one seed: machines, the network between them, programs, and what goes wrong.
//!
//! ```text
//!    Queue ──► arrival, timer, request, answer, fault … ──► Host (Node) ──► outputs ──► Queue
//!                                                            Process ──► Event ──► Judge
//! ```
//!
//! The run has four parts: a *storm* of faults under load, *calm* under load (where order can be judged), a
//! *polite* part in which locks are given back only when a notice asks for it, and the end in which all is given
//! back and nothing may be left unanswered.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use oarlock_cluster::fencing::Fence;
use oarlock_cluster::registry::Command;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Incarnation, NodeId, SessionId, SpaceId};
use oarlock_layout::message::session::{Attached, Reply, Request, VERSION};
use oarlock_layout::name::Name;
use oarlock_layout::time::Duration;
use oarlock_node::{Config, Node, Order, Output, SpaceConfig};

use crate::check::{Findings, Judge};
use crate::coordinator::Coordinator;
use crate::coverage::{Coverage, KINDS};
use crate::disk;
use crate::farewell::{self, Farewell};
use crate::fencing::{Fences, Fencing};
use crate::health::{Breakage, Health};
use crate::history::{Client, End, Event, Mark, Rules, What};
use crate::host::{Host, Input};
use crate::keys::{key_of, machine};
use crate::members::Changes;
use crate::network::Network;
use crate::options::Options;
use crate::parts::{Part, Plan};
use crate::process::{self, Context, Phase, Process};
use crate::queue::{Queue, Time};
use crate::random::Random;
use crate::report::{Load, Report};
use crate::rights::Rights;
use crate::seal::ChecksumSeal;
use crate::segments::Gate;
use crate::share::Outcome;
use crate::stamps::Stamps;
use crate::swarm::{FaultKind, MS, Mix, S};
use crate::trace::{Kind, Trace};

/// What can come next.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Something reaches a node. Sessions and writes belong to one run of it.
    Input { node: u16, run: Option<u64>, input: Input },
    /// A node asked to be woken.
    Timer { node: u16, run: u64 },
    /// An answer reaches a program.
    Reply { process: usize, client: Client, bytes: Vec<u8> },
    /// A program that stood still may go on.
    Thaw { process: usize, client: Client },
    /// A program is given a place in a segment.
    Attached { process: usize, client: Client, space: SpaceId, attached: Attached },
    /// A program looks at its entries in segments.
    Look { process: usize, client: Client },
    /// Some program stands still for a while.
    Freeze,
    /// A lease may have passed.
    Lapse { node: u16, run: u64 },
    /// A proposal reaches whoever leads the coordinator.
    Decide { node: u16, run: u64, command: Command },
    /// A node hears what was decided.
    Catch { node: u16 },
    /// Everybody asks whether something was decided.
    Attend,
    /// A run has ended by itself; its process begins another.
    Again { node: u16, run: u64 },
    /// A node has nothing to do.
    Sleep { node: u16 },
    /// A session, a run or an engine comes to its end.
    Farewell(Farewell),
    /// A node of another wire goes back to this version.
    Downgrade { node: u16 },
    /// Whoever changes the members looks how far that is.
    Members,
    /// Something about registers and fences.
    Fencing(Fencing),
    /// A program has something to do.
    Think { process: usize, client: Client },
    /// A program starts.
    Spawn { process: usize },
    /// Some program dies.
    Kill,
    /// The next fault.
    Fault,
    /// A disturbance of the network ends.
    Settle { disturbance: u64 },
    /// A captured datagram comes again: to this node, of a run that is over.
    Replay { to: Option<u16>, old: bool },
    /// A fault that waited for a node to come into a phase.
    Ambush { kind: FaultKind, node: u16 },
    /// A node goes on after standing still.
    Resume { node: u16 },
    /// A planned upheaval.
    Upheaval { index: usize },
    /// All nodes are stopped, to be started again.
    RestartAll { clean: bool },
    /// A node is started.
    Start { node: u16 },
    /// Somebody asks a node to change its key.
    ChangeKey { node: u16 },
    /// Somebody looks after a node whose disk was set back.
    SetRight { node: u16 },
    /// Some engine is handed over.
    HandOver,
    /// The next part of the run.
    Part(Part),
    /// Nothing but that it is this late: somebody outside waits for the moment.
    Alarm,
}

/// One run.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) options: Options,
    pub(crate) mix: Mix,
    pub(crate) plan: Plan,
    pub(crate) queue: Queue<Happening>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    pub(crate) coordinator: Coordinator,
    pub(crate) fences: Fences,
    pub(crate) processes: Vec<Process>,
    pub(crate) names: Vec<Name>,
    /// The time, for the clocks of programs.
    pub(crate) time: Rc<Cell<Time>>,
    pub(crate) phase: Phase,
    pub(crate) calm: bool,
    pub(crate) load: Load,
    pub(crate) faults: [u64; KINDS],
    pub(crate) coverage: Coverage,
    pub(crate) health: Health,
    /// Separate streams, so that one more fault does not change what all programs do.
    pub(crate) load_random: Random,
    pub(crate) fault_random: Random,
    local_random: Random,
    pub(crate) segment_random: Random,
    pub(crate) handover_random: Random,
    pub(crate) farewells: Random,
    pub(crate) changes: Changes,
    pub(crate) rights: Rights,
    pub(crate) next_client: Client,
    pub(crate) trace: Trace,
    /// The second that is counted, and the datagrams before it.
    traffic: (u64, u64),
    /// The second in which words were last compared with entries.
    audited: u64,
    /// Gates that were set a while before the end.
    pub(crate) gates: BTreeSet<Gate>,
    pub(crate) judge: Judge,
    pub(crate) others: Findings,
    pub(crate) stamps: Stamps,
    history: Option<Vec<Event>>,
}

/// More than this to come is a run out of control: some hundreds are usual.
const QUEUE_MAX: usize = 300_000;
pub(crate) const SECRET: u64 = 0x5eed_0a41_0c4b;
/// Makes other streams of the same seed.
const SEGMENTS: u64 = 0x5e97_e475_0000_0000;
const AIMS: u64 = 0xa125_0000_0000_0000;
const HANDOVERS: u64 = 0x4a4d_0eed_0000_0000;

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> World {
        let mut random = Random::new(seed);
        let storm_end = Plan::new(options.seconds, false, false, false).storm_end;
        let mut mix = Mix::draw(&mut random, options.nodes, storm_end, options.resources);
        mix.draw_aims(&mut Random::new(seed ^ AIMS), (options.liveness, options.circles), storm_end);
        let plan = Plan::new(options.seconds, mix.liveness, mix.late, options.torn);
        let mut segment_random = Random::new(seed ^ SEGMENTS);
        mix.draw_segments(&mut segment_random, options.segments);
        let mut handover_random = Random::new(seed ^ HANDOVERS);
        if options.handovers != Some(false) {
            mix.draw_handovers(&mut handover_random, storm_end);
        }
        let network = Network::new(options.nodes, mix.weather, random.fork());
        let hosts = (0..options.nodes)
            .map(|n| Host::new(n, random.below(1 << 40), mix.drift[usize::from(n)]))
            .collect();
        let anchors = usize::from(options.nodes.min(3));
        let processes = (0..options.processes + anchors)
            .map(|n| Process::new((n % usize::from(options.nodes)) as u16, n >= options.processes))
            .collect();
        // Even ranks are in the first lockspace, odd ones in the second.
        let names = (0..mix.resources * 2).map(|n| Name::new(format!("r{}", n / 2).as_bytes()));
        let founders = (0..options.nodes).map(|n| (name_of(n), key_of(&options, n, 0))).collect();
        let rights = Rights::draw(seed, options.nodes, options.rights);
        let rules = rights.rules(&mix, Rules::simulated(options.nodes, vec![false, true]));
        World {
            seed,
            plan,
            queue: Queue::default(),
            hosts,
            network,
            coordinator: Coordinator::new(founders, random.fork()),
            fences: Fences::new(seed, &options),
            processes,
            names: names.map(|name| name.expect("a short name")).collect(),
            phase: Phase::Load,
            calm: false,
            load: Load::default(),
            faults: [0; KINDS],
            coverage: Coverage::default(),
            health: Health::new(options.nodes),
            load_random: random.fork(),
            fault_random: random.fork(),
            local_random: random.fork(),
            segment_random,
            handover_random,
            farewells: farewell::stream(seed),
            changes: Changes::default(),
            rights,
            time: Rc::default(),
            audited: 0,
            gates: BTreeSet::new(),
            next_client: 0,
            trace: Trace::default(),
            traffic: (0, 0),
            judge: Judge::new(rules),
            others: Findings::default(),
            stamps: Stamps::default(),
            history: options.keep_history.then(Vec::new),
            mix,
            options,
        }
    }

    pub(crate) fn run(mut self) -> (Report, Option<Vec<Event>>) {
        self.mark(Mark::Storm);
        for node in 0..self.options.nodes {
            let at = self.fault_random.below(200 * MS);
            self.queue.push(at, Happening::Start { node });
        }
        for process in 0..self.processes.len() {
            let at = 250 * MS + self.load_random.below(100 * MS);
            self.queue.push(at, Happening::Spawn { process });
        }
        self.queue.push(S, Happening::Kill);
        self.queue.push(1, Happening::Attend);
        self.begin_fencing();
        if self.mix.attached.is_some() {
            self.queue.push(S, Happening::Freeze);
        }
        if self.options.faults {
            self.queue.push(S / 2, Happening::Fault);
            if self.mix.handovers.is_some() {
                self.queue.push(S, Happening::HandOver);
            }
            for (index, (at, _)) in self.mix.upheavals.clone().into_iter().enumerate() {
                self.queue.push(at, Happening::Upheaval { index });
            }
        }
        self.plan_keys();
        for (at, part) in self.parts() {
            self.queue.push(at, Happening::Part(part));
        }
        let end = self.plan.end;
        while let Some(happening) = self.queue.pop(end) {
            self.load.events += 1;
            self.time.set(self.queue.now());
            self.happen(happening);
            self.rewrite();
            self.look_somewhere();
            self.watch_traffic();
            if self.queue.now() / S != self.audited {
                self.audited = self.queue.now() / S;
                self.audit(false);
            }
            if self.options.stop_at_first && !(self.judge.is_clean() && self.others.is_empty()) {
                break;
            }
            if self.queue.len() > QUEUE_MAX || self.load.events > self.events_max() {
                let text =
                    format!("{} things are to come after {} events", self.queue.len(), self.load.events);
                self.others.add("traffic", self.queue.now(), text);
                break;
            }
        }
        self.load.harmed = self.network.harmed;
        let reads = self.judge.reads();
        (self.load.reads, self.load.reads_certain) = (reads.all, reads.certain);
        self.load.verdicts_judged = self.health.verdicts;
        (self.load.left, self.load.joined) = (self.changes.left, self.changes.joined);
        let mut findings = self.others.into_vec();
        findings.extend(self.judge.finish());
        findings.sort_by_key(|f| f.at);
        let report = Report {
            seed: self.seed,
            seconds: end / S,
            trace: self.trace,
            findings,
            load: self.load,
            faults: self.faults,
            coverage: self.coverage,
            liveness: self.mix.liveness,
            torn: self.options.torn,
        };
        (report, self.history)
    }

    /// More events than this likewise: for five nodes ten thousand a second are usual.
    fn events_max(&self) -> u64 {
        let nodes = u64::from(self.options.nodes);
        (20_000 + 150 * nodes * nodes) * (self.plan.end / S)
    }

    /// A cluster that talks without end about what nobody asks for breaks no promise to any client. But it does
    /// not come to rest, and no network would bear it.
    pub(crate) fn watch_traffic(&mut self) {
        let now = self.queue.now();
        let (second, before) = self.traffic;
        let sent = self.load.datagrams - before;
        // Between any two nodes a probe and its answer each tenth of a second, and three times as much for records
        // of the load before, which are given up when they have not been used for long.
        let pairs = u64::from(self.options.nodes) * u64::from(self.options.nodes - 1);
        let at_rest = self.phase == Phase::Drain && now > self.plan.drain + 2 * S;
        let most = if at_rest { pairs * 80 } else { 3_000 * pairs };
        if sent > most {
            let state = if at_rest { "at rest" } else { "under load" };
            let text = format!("{sent} datagrams in a second {state}, {most} are more than enough");
            self.others.add("traffic", now, text);
        }
        if now / S != second || sent > most {
            self.traffic = (now / S, self.load.datagrams);
        }
    }

    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Input { node, run, input } => self.input(node, run, input),
            Happening::Timer { node, run } => self.timer(node, run),
            Happening::Reply { process, client, bytes } => self.reply(process, client, bytes),
            Happening::Thaw { process, client } => self.thaw(process, client),
            Happening::Think { process, client } => self.think(process, client),
            Happening::Attached { process, client, space, attached } => {
                self.attached(process, client, space, &attached);
            }
            Happening::Look { process, client } => self.look(process, client),
            Happening::Freeze => self.freeze(),
            Happening::Lapse { node, run } => self.lapsed(node, run),
            Happening::Decide { node, run, command } => self.decide(node, run, command),
            Happening::Catch { node } => self.catch(node),
            Happening::Attend => self.attend(),
            Happening::Again { node, run } => self.again(node, run),
            Happening::Sleep { node } => self.sleep(node),
            Happening::Farewell(what) => self.farewell(what),
            Happening::Downgrade { node } => self.downgrade(node),
            Happening::Members => self.change_members(),
            Happening::Fencing(what) => self.fencing(what),
            Happening::Spawn { process } => self.spawn(process),
            Happening::Kill => self.kill_somebody(),
            Happening::Fault => self.next_fault(),
            Happening::Settle { disturbance } => self.network.settle(disturbance),
            Happening::Replay { to, old } => self.replay(to, old),
            Happening::Ambush { kind, node } => self.make(kind, Some(node)),
            Happening::Resume { node } => self.resume(node),
            Happening::Upheaval { index } => self.upheaval(index),
            Happening::RestartAll { clean } => self.restart_all(clean),
            Happening::Start { node } => self.start(node),
            Happening::ChangeKey { node } => self.change_key(node),
            Happening::SetRight { node } => self.set_right(node),
            Happening::HandOver => self.hand_over_somebody(),
            Happening::Part(part) => self.part(part),
            Happening::Alarm => {}
        }
    }

    // ----- nodes ----------------------------------------------------------------------------------------

    pub(crate) fn start(&mut self, index: u16) {
        let now = self.queue.now();
        let (away, mut nodes) = (self.is_away(index), self.members_of(index));
        let host = &mut self.hosts[usize::from(index)];
        if host.stopping.is_some() {
            // As a service manager would: after the end of the run before.
            return self.queue.push(now + 20 * MS, Happening::Start { node: index });
        }
        if host.up || away || self.health.broken.get(&index) == Some(&Breakage::Dead) {
            return;
        }
        host.begin();
        let release = host.release;
        self.health.touch(index, now);
        self.network.begin(index, now);
        let run = host.disk.run();
        // A number of runs may come twice, chance does not.
        let seed = self.seed ^ (u64::from(index) << 32) ^ host.starts.wrapping_mul(0x9e37_79b9);
        let seed_of_run = seed;
        let space = |name: &str, order| SpaceConfig {
            name: name.into(),
            order,
            retain: self.mix.retain,
            resources_max: self.mix.resources_max,
        };
        if self.options.crypto.is_none() {
            // What its configuration says is the key that it had at first.
            nodes.get_mut(&NodeId(index)).expect("it is a node").key = host.keys.public();
        }
        let config = Config {
            cluster: "sim".into(),
            me: NodeId(index),
            nodes,
            spaces: vec![space("default", Order::Passover), space("strict", Order::Strict)],
            shared: 1,
            incarnation: Incarnation(run),
            ceiling: host.disk.ceiling(),
            seed,
            shards: 1,
            circuits: oarlock_circuit::Options {
                rekey_after: Duration::from_nanos(self.mix.rekey.0),
                rekey_packets: self.mix.rekey.1,
                strange: release.strange_chunk(),
                ..oarlock_circuit::Options::default()
            },
            forget_after: Duration::from_nanos(self.mix.forget_after),
            deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
            #[cfg(feature = "planted")]
            bug: self.options.bug,
        };
        let host = &mut self.hosts[usize::from(index)];
        let generation = host.identity.generation;
        let seal = match self.options.crypto {
            Some(make) => make(machine(index, generation), seed).0,
            None => Box::new(ChecksumSeal::changing(host.keys.begin(), SECRET, seed)),
        };
        let words = self.words(index, seed_of_run);
        let host = &mut self.hosts[usize::from(index)];
        let at = host.clock(now);
        host.config = Some(config.clone());
        let mut node = Node::new(at, config, seal, words);
        if let Some((revision, _)) = &self.hosts[usize::from(index)].identity.joined {
            node.follow_from(*revision);
        }
        self.meet_keeper(index, &mut node, seed_of_run);
        node.set_fences(self.fences.needs());
        node.give(self.rights.accesses());
        node.handle_applied(at, self.coordinator.known(index));
        self.hosts[usize::from(index)].node = Some(node);
        self.trace.record(now, Kind::Start, index.into(), &run.to_le_bytes());
        self.turn(index);
    }

    /// Somebody may keep a copy of a node's disk, to put it back some day.
    pub(crate) fn keep_a_copy(&mut self, index: u16) {
        if self.local_random.chance(300) {
            self.hosts[usize::from(index)].copy();
            self.coordinator.copy(index);
        }
    }

    fn input(&mut self, index: u16, run: Option<u64>, input: Input) {
        let Some(input) = self.hosts[usize::from(index)].admit(run, input) else { return };
        self.hand_in(index, input);
        self.turn(index);
    }

    fn hand_in(&mut self, index: u16, input: Input) {
        let now = self.queue.now();
        self.wake(index);
        let host = &mut self.hosts[usize::from(index)];
        let at = host.clock(now);
        let Some(node) = &mut host.node else { return };
        match input {
            Input::Datagram { from, mut bytes } => {
                host.release.mark(&mut bytes);
                self.trace.record(now, Kind::Arrival, index.into(), &bytes);
                node.handle_datagram(at, Host::address(from), &mut bytes);
            }
            Input::Open { client, pid } => {
                let who = self.rights.who(&self.processes, client);
                node.handle_session_opened(at, SessionId(client), pid, who);
            }
            Input::Packet { client, bytes } => {
                self.trace.record(now, Kind::Request, client, &bytes);
                node.handle_session_packet(at, SessionId(client), &bytes);
                self.issue(index);
            }
            Input::Hangup { client } => {
                node.handle_session_closed(at, SessionId(client));
                self.hung_up(index, client);
            }
            Input::GivenUp { incarnation } => node.handle_given_up(at, incarnation),
            Input::Gone { client } => node.handle_opener_ended(SessionId(client)),
            Input::Stored { epoch } => host.disk.store(epoch),
            Input::CeilingStored { ceiling } => {
                host.disk.store_ceiling(ceiling);
                node.handle_ceiling_stored(at, ceiling);
            }
        }
    }

    fn timer(&mut self, index: u16, run: u64) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        if host.disk.run() != run || host.timer_at != now || host.paused {
            return;
        }
        host.timer_at = Time::MAX;
        self.wake(index);
        let host = &mut self.hosts[usize::from(index)];
        let at = host.clock(now);
        let Some(node) = &mut host.node else { return };
        self.trace.record(now, Kind::Timer, index.into(), &[]);
        node.handle_timeout(at);
        assert!(
            node.poll_timeout().is_none_or(|next| next > at) || host.rush(now) < 1_000,
            "node {index} asks again and again to be woken at {at:?}"
        );
        self.turn(index);
    }

    /// Carries away everything a node has to say, and notes when it wants to be woken.
    pub(crate) fn drain(&mut self, index: u16) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        let (at, run, starts, release) = (host.clock(now), host.disk.run(), host.starts, host.release);
        let Some(node) = &mut host.node else { return };
        let mut events = Vec::new();
        let (mut looks, mut proposals, mut lease, mut refused) = (Vec::new(), Vec::new(), None, false);
        while let Some(output) = node.poll_output(at) {
            match output {
                Output::Transmit(mut transmit) => {
                    let to = Host::at_address(transmit.to).expect("an address of this cluster");
                    release.mark_all(&mut transmit);
                    for datagram in transmit.datagrams() {
                        self.load.datagrams += 1;
                        self.trace.record(now, Kind::Datagram, index.into(), datagram);
                        let queue = &mut self.queue;
                        self.network.send(now, index, to, datagram, |flight| {
                            let bytes = flight.altered.unwrap_or_else(|| datagram.to_vec());
                            let input = Input::Datagram { from: index, bytes };
                            queue.push(flight.at, Happening::Input { node: to, run: None, input });
                        });
                    }
                }
                Output::Reply { session, packet } => {
                    self.trace.record(now, Kind::Reply, session.0, &packet);
                    let Some(process) = host.sessions.get(&session.0).copied() else { continue };
                    let at = self.processes[process].socket.reaches_program(now, &mut self.local_random);
                    let happening = Happening::Reply { process, client: session.0, bytes: packet };
                    self.queue.push(at, happening);
                }
                Output::Store { epoch } => {
                    host.keeper.lay_down(run);
                    self.trace.record(now, Kind::Store, index.into(), &epoch.0.to_le_bytes());
                    let done = now + disk::write_time(&mut self.local_random);
                    let input = Input::Stored { epoch };
                    self.queue.push(done, Happening::Input { node: index, run: Some(starts), input });
                }
                Output::Propose(command) => proposals.push(command),
                Output::Lease { until } => lease = Some(until),
                Output::StoreCeiling { ceiling } => {
                    self.trace.record(now, Kind::Store, index.into(), &ceiling.0.to_le_bytes());
                    let done = now + disk::write_time(&mut self.local_random);
                    let input = Input::CeilingStored { ceiling };
                    self.queue.push(done, Happening::Input { node: index, run: Some(starts), input });
                }
                Output::Event(event) => {
                    let text = event.to_string();
                    self.trace.record(now, Kind::Event, index.into(), text.as_bytes());
                    match event {
                        oarlock_node::Event::Serving { .. } => {
                            host.serving = true;
                            // Let in under a number that some members know of another run, it is never heard by those.
                            host.stale &= host.disk.run() < host.starts;
                        }
                        // Its number was used before, which it must be told.
                        oarlock_node::Event::NotLetIn { .. } if host.stale => refused = true,
                        oarlock_node::Event::Violation { .. }
                        | oarlock_node::Event::Overwhelmed { .. }
                        | oarlock_node::Event::NotLetIn { .. } => {
                            let text = format!("node {index}: {text}");
                            self.others.add("honesty", now, text);
                        }
                        event @ (oarlock_node::Event::Up { .. }
                        | oarlock_node::Event::Refused { .. }
                        | oarlock_node::Event::RefusedBy { .. }) => events.push(event),
                        _ => {}
                    }
                }
                Output::Hint { session, packet } => {
                    let Some(process) = host.sessions.get(&session.0).copied() else { continue };
                    if self.segment_random.chance(200) {
                        // There was no room for it. The program looks at its entries anyhow.
                        let at = now + self.segment_random.spread(50_000, 50 * MS);
                        looks.push((process, Some(at)));
                        continue;
                    }
                    self.trace.record(now, Kind::Reply, session.0, &packet);
                    let at = self.processes[process].socket.reaches_program(now, &mut self.local_random);
                    let happening = Happening::Reply { process, client: session.0, bytes: packet };
                    self.queue.push(at, happening);
                }
                Output::Attached { session, space, attached } => {
                    let Some(process) = host.sessions.get(&session.0).copied() else { continue };
                    let at = self.processes[process].socket.reaches_program(now, &mut self.local_random);
                    let happening = Happening::Attached { process, client: session.0, space, attached };
                    self.queue.push(at, happening);
                }
                Output::Wake { space, wake } => {
                    let sits = |process: &usize| {
                        self.processes[*process].share.sits(usize::from(space.0), wake.area)
                    };
                    looks.extend(host.sessions.values().copied().filter(sits).map(|process| (process, None)));
                }
                Output::Fence(charge) => host.fence.begin(at, charge, ""),
                // Programs that close are told before; nobody asks questions here, and no coordinator calls another.
                Output::Close { .. }
                | Output::Asked { .. }
                | Output::Looked { .. }
                | Output::Carried { .. } => {}
            }
        }
        let ended = node.has_ended();
        if let Some(wake) = node.poll_timeout() {
            let when = host.when(wake).max(now);
            if when < host.timer_at {
                host.timer_at = when;
                self.queue.push(when, Happening::Timer { node: index, run });
            }
        }
        for event in events {
            self.look_at_versions(index, &event);
        }
        for command in proposals {
            self.propose(index, run, command);
        }
        if let Some(until) = lease {
            self.lease(index, until);
        }
        self.carry_charges(index, run);
        if ended && self.hosts[usize::from(index)].stopping.is_none() {
            self.queue.push(now, Happening::Again { node: index, run });
        } else if refused {
            self.not_let_in(index);
        }
        for (process, at) in looks {
            match at {
                Some(at) => self.look_at(process, at),
                None => self.look_soon(process),
            }
        }
    }

    pub(crate) fn resume(&mut self, index: u16) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        if !std::mem::take(&mut host.paused) {
            return;
        }
        // As a daemon would: everything that waits in its sockets, its timers, its outputs.
        self.wake(index);
        let waiting = std::mem::take(&mut self.hosts[usize::from(index)].inbox);
        for input in waiting {
            self.hand_in(index, input);
        }
        let host = &mut self.hosts[usize::from(index)];
        host.timer_at = Time::MAX;
        let at = host.clock(now);
        if let Some(node) = &mut host.node {
            node.handle_timeout(at);
        }
        self.turn(index);
        self.go_on_stopping(index);
    }

    pub(crate) fn restart_all(&mut self, clean: bool) {
        // All begin anew together, so here disks may know less of the clock than the coordinator, or more (E8).
        let memory = self.fault_random.below(3);
        for node in 0..self.options.nodes {
            self.hosts[usize::from(node)].disk.misremember(memory, node == 0);
            // A clean stop of all but one is no clean stop.
            let this = clean && self.fault_random.chance(950);
            if this { self.stop(node) } else { self.end(node) }
        }
        for node in 0..self.options.nodes {
            let at = self.queue.now() + self.fault_random.below(S);
            self.queue.push(at, Happening::Start { node });
        }
    }

    pub(crate) fn local_delay(&mut self) -> Time {
        self.local_random.spread(MS, 300 * MS)
    }

    /// A run has ended by itself.
    fn again(&mut self, node: u16, run: u64) {
        let host = &self.hosts[usize::from(node)];
        if !host.up || host.disk.run() != run || host.stopping.is_some() {
            return;
        }
        self.end(node);
        let at = self.queue.now() + self.local_delay();
        self.queue.push(at, Happening::Start { node });
    }

    fn replay(&mut self, to: Option<u16>, old: bool) {
        if let Some((from, to, bytes)) = self.network.replay(to, old) {
            self.input(to, None, Input::Datagram { from, bytes });
        }
    }

    // ----- programs -------------------------------------------------------------------------------------

    fn spawn(&mut self, index: usize) {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        if process.alive || self.phase != Phase::Load || self.health.broken.contains_key(&process.node) {
            return;
        }
        let host = &mut self.hosts[usize::from(process.node)];
        if !host.up || host.stopping.is_some() {
            let at = now + 50 * MS;
            return self.queue.push(at, Happening::Spawn { process: index });
        }
        self.next_client += 1;
        let (client, node) = (self.next_client, process.node);
        process.spawn(now, client, (host.starts, host.disk.run()), &mut self.load_random);
        host.sessions.insert(client, index);
        self.event(What::Opened { client, node });
        self.lay_session(node, client);
        self.put(index, Input::Open { client, pid: process::pid(client) });
        let hello = Request::Hello { version: VERSION, label: format!("p{index}") };
        self.put(index, Input::Packet { client, bytes: hello.to_bytes() });
        self.ask_for_places(index);
        self.schedule(index);
    }

    /// Puts something into the socket of a program.
    pub(crate) fn put(&mut self, index: usize, input: Input) {
        if self.goes_to_nobody(index, &input) {
            return;
        }
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let at = process.socket.reaches_node(now, &mut self.local_random);
        let run = Some(self.hosts[usize::from(process.node)].starts);
        self.queue.push(at, Happening::Input { node: process.node, run, input });
    }

    pub(crate) fn schedule(&mut self, index: usize) {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let due = process.due().max(now + 1);
        if process.alive && due < process.thinks_at && due < self.plan.end {
            process.thinks_at = due;
            let happening = Happening::Think { process: index, client: process.client };
            self.queue.push(due, happening);
        }
    }

    fn think(&mut self, index: usize, client: Client) {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        // Another thought may have come to its mind since.
        if process.client != client || !process.alive || process.thinks_at != now || process.parting {
            return;
        }
        process.thinks_at = Time::MAX;
        if now < process.frozen_until {
            process.thinks_at = process.frozen_until;
            return self.queue.push(process.frozen_until, Happening::Think { process: index, client });
        }
        let mut cx = Context {
            now,
            phase: self.phase,
            mix: &self.mix,
            names: &self.names,
            random: &mut self.load_random,
            load: &mut self.load,
            asks: Vec::new(),
        };
        process.think(&mut cx);
        for (handle, ask) in cx.asks {
            self.act(index, client, handle, ask);
        }
        self.schedule(index);
    }

    fn reply(&mut self, index: usize, client: Client, bytes: Vec<u8>) {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        if process.client != client || !process.alive {
            return;
        }
        if now < process.frozen_until || !process.unread.is_empty() {
            // However often it is held up, it reads in the order in which its node wrote.
            if process.unread.is_empty() {
                self.queue.push(process.frozen_until, Happening::Thaw { process: index, client });
            }
            return process.unread.push_back(bytes);
        }
        self.hear(index, &bytes);
    }

    /// A program that stood still reads what came meanwhile.
    fn thaw(&mut self, index: usize, client: Client) {
        let process = &mut self.processes[index];
        if self.queue.now() < process.frozen_until {
            return self.queue.push(process.frozen_until, Happening::Thaw { process: index, client });
        }
        while self.processes[index].client == client && self.processes[index].alive {
            let Some(bytes) = self.processes[index].unread.pop_front() else { return };
            self.hear(index, &bytes);
        }
    }

    fn hear(&mut self, index: usize, bytes: &[u8]) {
        let process = &mut self.processes[index];
        let client = process.client;
        if process.parting {
            return;
        }
        let reply = Reply::from_bytes(bytes).expect("a node sends what it can read");
        if matches!(reply, Reply::Welcome { .. } | Reply::Denied { .. }) {
            return;
        }
        let mut out = Outcome::default();
        if !process.share.hear(&reply, &mut out) {
            match process.hear(reply) {
                Some(told) => out.told.push(told),
                None => return self.hears(index, client),
            }
        }
        self.carry_out(index, out);
    }

    /// A program learned that its session is over.
    pub(crate) fn lost(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.alive = false;
        let client = process.client;
        self.event(What::Ended { client, how: End::Lost });
        let at = self.queue.now() + self.load_random.between(20 * MS, 150 * MS);
        self.queue.push(at, Happening::Spawn { process: index });
    }

    fn kill_somebody(&mut self) {
        let now = self.queue.now();
        if self.phase == Phase::Drain {
            return;
        }
        let gap = self.load_random.below(720 * MS);
        self.queue.push(now + gap, Happening::Kill);
        let index = self.load_random.below(self.options.processes as u64) as usize;
        let process = &mut self.processes[index];
        if !process.alive {
            return;
        }
        let node = process.node;
        self.cover(FaultKind::ProgramDies, &[node]);
        let process = &mut self.processes[index];
        process.alive = false;
        let client = process.client;
        self.load.deaths += 1;
        self.hosts[usize::from(node)].sessions.remove(&client);
        self.event(What::Ended { client, how: End::Died });
        if self.processes[index].is_idle() && self.processes[index].share.is_attached() {
            // It ends in order, and nothing of it touches a segment any more.
            self.put(index, Input::Packet { client, bytes: Request::Detach.to_bytes() });
        }
        self.put(index, Input::Hangup { client });
        self.bury(index);
        let at = now + self.load_random.spread(MS, 50 * MS);
        self.queue.push(at, Happening::Spawn { process: index });
    }

    // ----- the run --------------------------------------------------------------------------------------

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.event(What::Mark(mark));
    }

    pub(crate) fn event(&mut self, what: What) {
        let event = Event { at: self.queue.now(), what };
        self.before_event(&event);
        self.look_at_rights(&event);
        self.judge.see(&event);
        self.after_event(&event);
        if let Some(history) = &mut self.history {
            history.push(event);
        }
    }
}

pub(crate) fn name_of(node: u16) -> String {
    format!("node-{}", char::from(b'a' + (node % 26) as u8))
}
