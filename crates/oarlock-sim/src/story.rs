//! A simulated cluster as a stage for storyboards (S5, S7).
//!
//! ```text
//!   Play ── Action ──► Theatre ── Ask ──► socket ──► Node          the nodes, network and clocks of a World,
//!        ◄── News ───          ◄── Told ── socket ◄── Node          and its checkers; nothing goes wrong but
//!                              └── Event ──► Judge                  what the storyboard says
//! ```
//!
//! [`play`] plays one storyboard with one seed. The pieces that turn actions into requests and answers into news
//! serve a stage of real nodes as well.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use oarlock_layout::codec::Wire;
use oarlock_layout::message::session::{Reply, Request, VERSION};
use oarlock_layout::name::Name;
use oarlock_layout::time::{Duration, Instant};
use oarlock_story::table::{Command, Condition, Fact, Link, Place, Promise, Sum, Term};
use oarlock_story::{Action, News, Outcome, Report, Stage, Story, perform};

use crate::check::Finding;
use crate::history::{Ask, End, Mark, Told, What};
use crate::host::Input;
use crate::network::{Disturbance, Network, Weather};
use crate::options::Options;
use crate::process::{Process, packet, pid};
use crate::queue::Time;
use crate::random::Random;
use crate::swarm::{MS, S};
use crate::world::{Happening, World};

/// When the curtain rises: the cluster has formed, and the checker of order looks from two seconds on.
const BEGIN: Time = 3 * S;
/// So long may nothing happen: longer than any lease, timeout or pause of retransmission.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any story.
const STORY_MAX: Time = 3_600 * S;
/// Another stream of the same seed.
const WEATHER: u64 = 0x3707_7ea7_e600_0000;

/// Plays a storyboard in a simulated cluster. The last line of the transcript is a hash over every datagram: the
/// same seed gives the same transcript, to the last letter. Of the options only a planted bug counts.
pub fn play(story: &Story, seed: u64, options: &Options) -> Report {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut theatre = Theatre::new(story, seed, options);
        let mut report = perform(story, &mut theatre, Some(seed));
        report.transcript.push(format!("seed {seed}, trace {}", theatre.world.trace));
        report
    }));
    played.unwrap_or_else(|panic| Report {
        outcome: Outcome::Broken(vec![format!("an assertion failed: {}", crate::panic_text(panic.as_ref()))]),
        rows: 0,
        expectations: 0,
        transcript: Vec::new(),
    })
}

/// What a simulated cluster cannot do of a storyboard, each with its line.
pub fn refusals(story: &Story) -> Vec<oarlock_story::Fault> {
    let theatre = Theatre::new(story, 0, &Options::default());
    story.refusals(|command| theatre.refuses(command))
}

/// A simulated cluster with a program for each flow that has a node.
pub struct Theatre {
    world: World,
    /// For each flow its program, if it has one.
    actors: Vec<Option<usize>>,
    /// For each program its flow, and whether it was alive when looked at last.
    flows: Vec<(usize, bool)>,
    /// What each program calls itself.
    names: Vec<String>,
    cuts: BTreeMap<Link, u64>,
    /// Programs that want another session as soon as their node serves, and those to which it owes a welcome.
    attaching: BTreeSet<usize>,
    unwelcome: BTreeSet<usize>,
    news: Vec<News>,
}

impl Theatre {
    /// A cluster of as many nodes as the storyboard names, formed and in fine weather, with all programs attached.
    pub fn new(story: &Story, seed: u64, options: &Options) -> Theatre {
        let options = Options {
            nodes: story.nodes(),
            processes: 0,
            faults: false,
            segments: Some(false),
            fences: Some(false),
            rights: Some(false),
            liveness: Some(false),
            ..options.clone()
        };
        let nodes = options.nodes;
        let mut world = World::new(seed, options);
        // What a seed draws for storms is no part of a storyboard, but for clocks and delays.
        world.network = Network::new(nodes, Weather::FINE, Random::new(seed ^ WEATHER));
        (world.mix.retain, world.mix.resources_max) = (true, 1 << 16);
        (world.mix.forget_after, world.mix.rekey) = (10 * S, (120 * S, 1 << 32));
        let mut theatre = Theatre {
            world,
            actors: Vec::new(),
            flows: Vec::new(),
            names: Vec::new(),
            cuts: BTreeMap::new(),
            attaching: BTreeSet::new(),
            unwelcome: BTreeSet::new(),
            news: Vec::new(),
        };
        theatre.world.processes.clear();
        for (index, flow) in story.flows.iter().enumerate() {
            let program = flow.node.map(|node| {
                theatre.world.processes.push(Process::new(node.0, false));
                theatre.flows.push((index, false));
                theatre.flows.len() - 1
            });
            theatre.actors.push(program);
        }
        theatre.world.mark(Mark::Storm);
        theatre.world.mark(Mark::Calm);
        // The coordinator has its troubles in storms only.
        theatre.world.calm = true;
        for node in 0..nodes {
            let at = theatre.world.fault_random.below(200 * MS);
            theatre.world.queue.push(at, Happening::Start { node });
        }
        theatre.run(BEGIN);
        for program in 0..theatre.flows.len() {
            let flow = theatre.flows[program].0;
            theatre.names.push(story.flows[flow].name.clone());
            theatre.attach(program);
        }
        // Long enough for everybody to be welcome.
        theatre.run(BEGIN + 100 * MS);
        let idle: Vec<u16> = theatre.world.hosts.iter().filter(|h| !h.serving).map(|h| h.index).collect();
        assert!(idle.is_empty(), "nodes {idle:?} do not serve after {} s", BEGIN / S);
        theatre
    }

    fn attach(&mut self, program: usize) {
        let world = &mut self.world;
        let now = world.queue.now();
        world.next_client += 1;
        let client = world.next_client;
        let process = &mut world.processes[program];
        let host = &world.hosts[usize::from(process.node)];
        process.spawn(now, client, (host.starts, host.disk.run()), &mut world.load_random);
        self.flows[program].1 = true;
        let node = process.node;
        world.hosts[usize::from(node)].sessions.insert(client, program);
        world.event(What::Opened { client, node });
        world.put(program, Input::Open { client, pid: pid(client) });
        let hello = Request::Hello { version: VERSION, label: self.names[program].clone() };
        world.put(program, Input::Packet { client, bytes: hello.to_bytes() });
    }

    /// Lets everything happen up to a moment, news or not.
    fn run(&mut self, until: Time) {
        self.world.queue.push(until, Happening::Alarm);
        while let Some(happening) = self.world.queue.pop(until) {
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        self.world.load.events += 1;
        self.world.time.set(self.world.queue.now());
        match happening {
            Happening::Reply { process, client, bytes } => {
                let actor = &self.world.processes[process];
                if actor.client == client && actor.alive {
                    self.hear(process, &bytes);
                }
            }
            // Whoever is dead stays dead.
            Happening::Spawn { .. } => {}
            other => self.world.happen(other),
        }
        self.world.watch_traffic();
        for program in 0..self.flows.len() {
            let (flow, alive) = self.flows[program];
            if alive && !self.world.processes[program].alive {
                self.flows[program].1 = false;
                self.unwelcome.remove(&program);
                self.news.push(News { flow, what: oarlock_story::Told::Lost });
            }
        }
        let hosts = &self.world.hosts;
        let processes = &self.world.processes;
        let host = |program: usize| &hosts[usize::from(processes[program].node)];
        let serves = |program: &usize| host(*program).serving && host(*program).stopping.is_none();
        if let Some(program) = self.attaching.iter().copied().find(serves) {
            self.attaching.remove(&program);
            self.unwelcome.insert(program);
            self.attach(program);
        }
    }

    fn hear(&mut self, program: usize, bytes: &[u8]) {
        let reply = Reply::from_bytes(bytes).expect("a node sends what it can read");
        if matches!(reply, Reply::Welcome { .. }) {
            if self.unwelcome.remove(&program) {
                self.news.push(News { flow: self.flows[program].0, what: oarlock_story::Told::Attached });
            }
            return;
        }
        let world = &mut self.world;
        let client = world.processes[program].client;
        match told(reply) {
            Some((handle, told)) => {
                if let Some(what) = news(handle, &told) {
                    self.news.push(News { flow: self.flows[program].0, what });
                }
                world.event(What::Told { client, handle, told });
            }
            // `Lost` or `Refused`: the program acknowledges it by hanging up, for which the run may wait (L5).
            None => world.hears(program, client),
        }
    }

    fn ask(&mut self, flow: usize, handle: u32, ask: Ask) {
        let Some(program) = self.actors[flow] else { return };
        let client = self.world.processes[program].client;
        let bytes = request(handle, &ask).to_bytes();
        self.world.event(What::Asked { client, handle, ask });
        self.world.put(program, Input::Packet { client, bytes });
    }

    /// The program is killed: its node sees the end of the socket, and nothing else.
    fn kill(&mut self, flow: usize) {
        let Some(program) = self.actors[flow] else { return };
        self.attaching.remove(&program);
        let process = &mut self.world.processes[program];
        if !std::mem::take(&mut process.alive) {
            return;
        }
        self.flows[program].1 = false;
        let (client, node) = (process.client, process.node);
        self.world.hosts[usize::from(node)].sessions.remove(&client);
        self.world.event(What::Ended { client, how: End::Died });
        self.world.put(program, Input::Hangup { client });
    }

    fn cut(&mut self, link: Link) -> Result<(), String> {
        let (from, to) = (link.from.0, link.to.0);
        let links = if link.one_way { vec![(from, to)] } else { vec![(from, to), (to, from)] };
        let weather = Weather { lost: 1000, ..Weather::FINE };
        let now = self.world.queue.now();
        if self.cuts.contains_key(&link) {
            return Err(format!("{link} is cut already"));
        }
        let disturbance = Disturbance { links, weather, flap: 0 };
        // What is done to its ends is for the story to judge, also once it is whole again.
        let health = &mut self.world.health;
        health.touch_ways(now, &disturbance, STORY_MAX);
        health.evidence.disturb([from, to], now + STORY_MAX);
        [from, to].into_iter().for_each(|node| health.touch_around(node, now + STORY_MAX));
        let number = self.world.network.disturb(now, disturbance);
        self.cuts.insert(link, number);
        self.weather_changed();
        Ok(())
    }

    fn heal(&mut self, link: Link) -> Result<(), String> {
        let number = self.cuts.remove(&link).ok_or_else(|| format!("{link} was not cut, in these words"))?;
        self.world.network.settle(number);
        self.weather_changed();
        Ok(())
    }

    fn pause(&mut self, node: Place, pause: bool) -> Result<(), String> {
        let host = &mut self.world.hosts[usize::from(node.0)];
        if host.paused == pause {
            return Err(format!(
                "{node} {}",
                if pause { "stands still already" } else { "does not stand still" }
            ));
        }
        match pause {
            true => host.paused = true,
            false => self.world.resume(node.0),
        }
        self.weather_changed();
        Ok(())
    }

    fn kill_node(&mut self, node: Place) -> Result<(), String> {
        if !self.world.hosts[usize::from(node.0)].up {
            return Err(format!("{node} is dead already"));
        }
        self.world.end(node.0);
        self.weather_changed();
        Ok(())
    }

    /// The engine dies, and its keeper starts another one.
    fn kill_engine(&mut self, node: Place) -> Result<(), String> {
        let host = &self.world.hosts[usize::from(node.0)];
        if !host.up || host.paused || host.stopping.is_some() {
            return Err(format!("{node} has no engine that runs"));
        }
        self.world.engine_dies(node.0);
        self.weather_changed();
        Ok(())
    }

    fn stop_node(&mut self, node: Place) -> Result<(), String> {
        let host = &self.world.hosts[usize::from(node.0)];
        if !host.up || host.stopping.is_some() {
            return Err(format!("{node} {}", if host.up { "is being stopped" } else { "is dead already" }));
        }
        self.world.stop(node.0);
        self.world.mark(Mark::Storm);
        Ok(())
    }

    fn leave_node(&mut self, node: Place) -> Result<(), String> {
        if !self.world.hosts[usize::from(node.0)].up {
            return Err(format!("{node} is dead, it cannot leave in order"));
        }
        if !self.world.leave_in_order(node.0) {
            return Err("one member is changed at a time".into());
        }
        self.world.mark(Mark::Storm);
        Ok(())
    }

    fn join_node(&mut self, node: Place) -> Result<(), String> {
        if self.world.take_the_place(node.0) { Ok(()) } else { Err(format!("{node} has not left")) }
    }

    fn start_node(&mut self, node: Place) -> Result<(), String> {
        if self.world.hosts[usize::from(node.0)].up {
            return Err(format!("{node} runs already"));
        }
        self.world.start(node.0);
        self.weather_changed();
        Ok(())
    }

    /// Where order is judged, and from when on, hangs on whether all can reach all.
    fn weather_changed(&mut self) {
        let calm = self.cuts.is_empty() && self.world.hosts.iter().all(|host| host.up && !host.paused);
        self.world.mark(if calm { Mark::Calm } else { Mark::Storm });
    }
}

impl Stage for Theatre {
    fn refuses(&self, command: &Command) -> Option<String> {
        let node = self.world.hosts[0].node.as_ref()?;
        refusal(command, |name| node.counters().iter().any(|counter| counter.name == name))
    }

    fn now(&self) -> Instant {
        Instant(self.world.queue.now())
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Kill { flow } => self.kill(flow),
            Action::Pause(node) => return self.pause(node, true),
            Action::Continue(node) => return self.pause(node, false),
            Action::KillNode(node) => return self.kill_node(node),
            Action::KillEngine(node) => return self.kill_engine(node),
            Action::StopNode(node) => return self.stop_node(node),
            Action::StartNode(node) => return self.start_node(node),
            Action::LeaveNode(node) => return self.leave_node(node),
            Action::JoinNode(node) => return self.join_node(node),
            Action::Attach { flow } => self.attaching.extend(self.actors[flow]),
            Action::Cut(link) => return self.cut(link),
            Action::Heal(link) => return self.heal(link),
            action => {
                let (flow, handle, ask) = asked(action).ok_or("nobody can do that here")?;
                self.ask(flow, handle, ask);
            }
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, node: Place) -> Result<u64, String> {
        let counters = self.world.hosts[usize::from(node.0)].node.as_ref().map(|node| node.counters());
        let counter = counters.into_iter().flatten().find(|counter| counter.name == name);
        counter.map(|counter| counter.value).ok_or_else(|| format!("{node} has no counter {name}"))
    }

    fn broken(&mut self, promise: Promise) -> Vec<String> {
        let findings = self.world.judge.findings().iter().chain(self.world.others.as_slice());
        findings.filter(|found| is_about(found, promise)).map(ToString::to_string).collect()
    }

    fn pass(&mut self, until: Instant) -> Vec<News> {
        self.world.queue.push(until.0, Happening::Alarm);
        while self.news.is_empty() {
            let Some(happening) = self.world.queue.pop(until.0) else { break };
            self.happen(happening);
        }
        std::mem::take(&mut self.news)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn remarks(&mut self) -> Vec<String> {
        let paused = self.world.hosts.iter().filter(|host| host.paused);
        let paused = paused.map(|host| format!("{} stands still", Place(host.index)));
        let dead = self.world.hosts.iter().filter(|host| !host.up);
        let dead = dead.map(|host| format!("{} is dead", Place(host.index)));
        paused.chain(dead).chain(self.cuts.keys().map(|link| format!("the way {link} is cut"))).collect()
    }

    fn end(&mut self) -> Vec<String> {
        for node in 0..self.world.hosts.len() {
            if self.world.hosts[node].paused {
                self.world.resume(node as u16);
            }
        }
        for (_, number) in std::mem::take(&mut self.cuts) {
            self.world.network.settle(number);
        }
        // What is under way arrives; then whoever waits must wait for somebody who was told.
        self.run(self.world.queue.now() + 5 * S);
        self.world.mark(Mark::PoliteEnd);
        for flow in 0..self.actors.len() {
            self.kill(flow);
        }
        self.run(self.world.queue.now() + 3 * S);
        self.world.mark(Mark::Drained);
        self.broken(Promise::All)
    }
}

/// Is this what the checker of a promise has found?
pub fn is_about(found: &Finding, promise: Promise) -> bool {
    promise == Promise::All || promise.name() == found.checker
}

/// What no stage can do, with the reason; `counts` knows the counters of a node.
pub fn refusal(command: &Command, counts: impl Fn(&str) -> bool) -> Option<String> {
    let unknown = |sum: &Sum| match &sum.term {
        Term::Counter(name, _) if !counts(name) => {
            Some(format!("no node counts {name}; see `oarlock metrics`"))
        }
        _ => None,
    };
    match command {
        Command::Let(_, sum) => unknown(sum),
        Command::Expect(Condition { fact: Fact::Compare(a, _, b), .. }) => unknown(a).or_else(|| unknown(b)),
        _ => None,
    }
}

/// The request in an action about a lock, as histories have it: whose, of which lock, what.
pub fn asked(action: Action) -> Option<(usize, u32, Ask)> {
    Some(match action {
        Action::Lock { flow, handle, resource, mode, flags, timeout_ms } => {
            let name = Name::new(resource.name.as_bytes()).expect("a checked name");
            (flow, handle, Ask::Lock { space: resource.strict.into(), name, mode, flags, timeout_ms })
        }
        Action::Convert { flow, handle, mode, flags, timeout_ms, value } => {
            (flow, handle, Ask::Convert { mode, flags, timeout_ms, value })
        }
        Action::Unlock { flow, handle, value, invalidate } => {
            (flow, handle, Ask::Unlock { value, invalidate })
        }
        Action::Cancel { flow, handle } => (flow, handle, Ask::Cancel),
        _ => return None,
    })
}

/// The packet with which a program asks.
pub fn request(handle: u32, ask: &Ask) -> Request {
    packet(handle, ask)
}

/// What a reply says about which lock, as histories have it; none if it speaks of no lock.
pub fn told(reply: Reply) -> Option<(u32, Told)> {
    Some(match reply {
        Reply::Granted(g) => {
            let (token, value) = (Some(g.token), g.value.map(Box::new));
            (g.handle, Told::Granted { mode: g.mode, token, value, alternate: g.alternate })
        }
        Reply::Failed { handle, why } => (handle, Told::Failed { code: why.code }),
        Reply::Released { handle } => (handle, Told::Released),
        Reply::Blocking { handle, wanted } => (handle, Told::Blocking { wanted }),
        _ => return None,
    })
}

/// The same as news of a play.
pub fn news(handle: u32, told: &Told) -> Option<oarlock_story::Told> {
    use oarlock_story::Told as News;
    Some(match told {
        Told::Granted { mode, token, value, .. } => {
            News::Granted { handle, mode: *mode, token: (*token)?, value: value.clone() }
        }
        Told::Released => News::Released { handle },
        Told::Failed { code } => News::Failed { handle, code: *code },
        Told::Blocking { wanted } => News::Blocking { handle, wanted: *wanted },
        Told::Token { .. } => return None,
    })
}
