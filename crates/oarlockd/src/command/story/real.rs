//! Real nodes as a stage for storyboards. Each flow with a node has a session of its own there, opened by a process of
//! its own; what it asks and hears is judged by the simulator's checkers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant as Wall;

use oarlock_layout::id::SpaceId;
use oarlock_layout::message::session::{Reply, Request};
use oarlock_layout::time::{Duration, Instant};
use oarlock_sim::check::Judge;
use oarlock_sim::history::{Ask, End, Event, Mark, Rules, What};
use oarlock_sim::story::{asked, is_about, news, refusal, request, told};
use oarlock_story::table::{Command, Flow, Link, Place, Promise};
use oarlock_story::{Action, Fault, News, Stage, Story, Told};
use rustix::event::{PollFd, PollFlags, poll};

use super::super::dev::{Cluster, Harm, Nodes};
use super::super::session::{Session, parse, timespec};
use super::program::Program;
use crate::console::doc::{Counters, Question, Status};
use crate::problem::Result;

/// So long may nothing be heard: far longer than a lease, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is under way at the end arrives in that time.
const SETTLING: Duration = Duration::from_millis(500);
/// Between two looks at a node that is to serve.
const ATTACH_EACH: Duration = Duration::from_millis(50);
/// A node that does not answer in this time is asked again.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// A release whose answer has not come then is lost: longer than the judge allows it to be under way.
const RELEASING: Duration = Duration::from_secs(2);

/// A cluster of node processes, and a session for each flow that has a node.
pub(super) struct Real<'a, 'b> {
    cluster: &'a Cluster<'b>,
    began: Wall,
    /// By flow; none if it has no node or its session is over.
    actors: Vec<Option<Actor>>,
    /// For each flow its node, and what it calls itself.
    roles: Vec<Option<(Place, String)>>,
    /// Flows that want another session as soon as their node serves.
    attaching: BTreeMap<usize, Option<Looking>>,
    clients: u32,
    judge: Judge,
    /// Names of all counters.
    counts: BTreeSet<String>,
    paused: BTreeSet<Place>,
    dead: BTreeSet<Place>,
    cuts: BTreeSet<Link>,
    /// Sockets of programs that were killed, still open here: a session ends with its process, not with its socket.
    left: Vec<Session>,
}

struct Actor {
    program: Program,
    session: Session,
    client: u32,
    strict: SpaceId,
}

/// A question whether a node serves, and until when it may be answered: nobody else waits for that.
struct Looking(Session, Wall);

impl Looking {
    fn serves(looking: &mut Option<Looking>, socket: &Path) -> bool {
        let Some(Looking(session, until)) = looking else {
            let asked = Session::open(socket, "oarlock story")
                .and_then(|mut session| session.ask_later(&Question::Status).map(|_| session));
            *looking = asked.ok().map(|session| Looking(session, Wall::now() + LOOK_MAX));
            return false;
        };
        let status: Option<Status> = match session.try_receive() {
            Ok(None) if Wall::now() < *until => return false,
            Ok(Some(Reply::Answer { bytes, more: false, .. })) => {
                parse(&String::from_utf8_lossy(&bytes)).ok()
            }
            _ => None,
        };
        *looking = None;
        status.is_some_and(|status| status.serving)
    }
}

impl Actor {
    fn begin(socket: &Path, name: &str, client: u32) -> Result<Actor> {
        let (program, fd) = Program::start(socket)?;
        let mut session = Session::begin(fd, socket, name)?;
        let strict = session.space("strict")?;
        Ok(Actor { program, session, client, strict })
    }
}

/// What real nodes cannot do, whichever they are.
pub(super) fn refusals(story: &Story) -> Vec<Fault> {
    story.refusals(no_means)
}

fn no_means(command: &Command) -> Option<String> {
    refusal(command, |_| true)
}

impl<'a, 'b> Real<'a, 'b> {
    /// Opens all sessions.
    pub(super) fn open(story: &Story, cluster: &'a Cluster<'b>) -> Result<Real<'a, 'b>> {
        let mut judge = Judge::new(Rules::real(story.nodes(), vec![false, true]));
        let began = Wall::now();
        let mut see = |what| judge.see(&Event { at: began.elapsed().as_nanos() as u64, what });
        see(What::Mark(Mark::Storm));
        see(What::Mark(Mark::Calm));
        let role = |flow: &Flow| flow.node.map(|node| (node, flow.name.clone()));
        let roles: Vec<Option<(Place, String)>> = story.flows.iter().map(role).collect();
        let (mut actors, mut clients) = (Vec::new(), 0);
        for role in &roles {
            let Some((node, name)) = role else {
                actors.push(None);
                continue;
            };
            clients += 1;
            let actor = Actor::begin(&cluster.sockets[usize::from(node.0)], name, clients)?;
            see(What::Opened { client: clients, node: node.0 });
            actors.push(Some(actor));
        }
        let counters: Counters =
            Session::open(&cluster.sockets[0], "oarlock story")?.document(&Question::Counters)?;
        let counts = counters.counters.into_iter().map(|counter| counter.name).collect();
        Ok(Real {
            cluster,
            began,
            actors,
            roles,
            attaching: BTreeMap::new(),
            clients,
            judge,
            counts,
            paused: BTreeSet::new(),
            dead: BTreeSet::new(),
            cuts: BTreeSet::new(),
            left: Vec::new(),
        })
    }

    fn see(&mut self, what: What) {
        let at = self.began.elapsed().as_nanos() as u64;
        self.judge.see(&Event { at, what });
    }

    fn ask(&mut self, flow: usize, handle: u32, ask: Ask) -> Result<(), String> {
        let Some(actor) = &mut self.actors[flow] else { return Ok(()) };
        let mut packet = request(handle, &ask);
        if let Request::Lock(lock) = &mut packet
            && lock.space != SpaceId(0)
        {
            lock.space = actor.strict;
        }
        let client = actor.client;
        self.see(What::Asked { client, handle, ask });
        let actor = self.actors[flow].as_mut().expect("it was there");
        actor.session.send(&packet).map_err(|problem| problem.what)
    }

    /// Everything that waits in the sockets.
    fn hear(&mut self) -> Vec<News> {
        let mut all = Vec::new();
        for flow in 0..self.actors.len() {
            while let Some(actor) = &mut self.actors[flow] {
                let client = actor.client;
                let reply = match actor.session.try_receive() {
                    Ok(None) => break,
                    Ok(Some(Reply::Lost { .. })) | Err(_) => {
                        self.actors[flow] = None;
                        self.see(What::Ended { client, how: End::Lost });
                        all.push(News { flow, what: Told::Lost });
                        break;
                    }
                    Ok(Some(reply)) => reply,
                };
                let Some((handle, told)) = told(reply) else { continue };
                all.extend(news(handle, &told).map(|what| News { flow, what }));
                self.see(What::Told { client, handle, told });
            }
        }
        all
    }

    /// Opens the sessions that flows wait for, at nodes that serve by now.
    fn attach(&mut self) -> Vec<News> {
        let mut all = Vec::new();
        for flow in self.attaching.keys().copied().collect::<Vec<_>>() {
            let Some((node, name)) = &self.roles[flow] else { continue };
            let socket = &self.cluster.sockets[usize::from(node.0)];
            let looking = self.attaching.entry(flow).or_default();
            if !Looking::serves(looking, socket) {
                continue;
            }
            // Its node may die at this moment; then it is tried again.
            let Ok(actor) = Actor::begin(socket, name, self.clients + 1) else { continue };
            let node = node.0;
            self.clients += 1;
            self.attaching.remove(&flow);
            self.actors[flow] = Some(actor);
            self.see(What::Opened { client: self.clients, node });
            all.push(News { flow, what: Told::Attached });
        }
        all
    }

    /// The process is killed, and nobody closes its socket.
    fn kill(&mut self, flow: usize) {
        self.attaching.remove(&flow);
        if let Some(Actor { program, session, client, .. }) = self.actors[flow].take() {
            self.see(What::Ended { client, how: End::Died });
            drop(program);
            self.left.push(session);
        }
    }

    /// Does something to the nodes.
    fn harm(
        &mut self,
        what: impl FnOnce(&mut Harm, &mut Nodes<'_>) -> crate::problem::Result<()>,
    ) -> Result<(), String> {
        let (nodes, harm) = &mut *self.cluster.nodes.borrow_mut();
        what(harm, nodes).map_err(|problem| problem.what)
    }

    /// Order is judged only while all can reach all.
    fn weather_changed(&mut self) {
        let calm = self.paused.is_empty() && self.dead.is_empty() && self.cuts.is_empty();
        self.see(What::Mark(if calm { Mark::Calm } else { Mark::Storm }));
    }

    fn pause(&mut self, node: Place, pause: bool) -> Result<(), String> {
        let at = usize::from(node.0);
        self.harm(|harm, nodes| if pause { harm.pause(nodes, at) } else { harm.resume(nodes, at) })?;
        let _ = if pause { self.paused.insert(node) } else { self.paused.remove(&node) };
        self.weather_changed();
        Ok(())
    }

    fn cut(&mut self, link: Link) -> Result<(), String> {
        if !self.cuts.insert(link) {
            return Err(format!("{link} is cut already"));
        }
        self.weather_changed();
        self.lay(link)
    }

    fn heal(&mut self, link: Link) -> Result<(), String> {
        if !self.cuts.remove(&link) {
            return Err(format!("{link} was not cut, in these words"));
        }
        self.lay(link)?;
        self.weather_changed();
        Ok(())
    }

    /// Cuts or opens the ways of a link, as all cuts together want it.
    fn lay(&mut self, link: Link) -> Result<(), String> {
        let cut = |from: Place, to: Place| {
            self.cuts
                .iter()
                .any(|it| (it.from, it.to) == (from, to) || !it.one_way && (it.to, it.from) == (from, to))
        };
        let ways = [(link.from, link.to), (link.to, link.from)].map(|(from, to)| (from, to, cut(from, to)));
        for (from, to, cut) in ways {
            let (from, to) = (usize::from(from.0), usize::from(to.0));
            self.harm(|harm, nodes| harm.cut(nodes, from, to, cut))?;
        }
        Ok(())
    }
}

impl Stage for Real<'_, '_> {
    fn refuses(&self, command: &Command) -> Option<String> {
        no_means(command).or_else(|| refusal(command, |name| self.counts.contains(name)))
    }

    fn now(&self) -> Instant {
        Instant(self.began.elapsed().as_nanos() as u64)
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Kill { flow } => self.kill(flow),
            Action::Pause(node) => return self.pause(node, true),
            Action::Continue(node) => return self.pause(node, false),
            Action::Cut(link) => return self.cut(link),
            Action::Heal(link) => return self.heal(link),
            Action::KillNode(node) => {
                self.harm(|harm, nodes| harm.kill(nodes, usize::from(node.0)))?;
                // Until others have recovered, what it may have written is in doubt.
                self.see(What::Mark(Mark::NodeGone(Some(node.0))));
                self.paused.remove(&node);
                self.dead.insert(node);
                self.weather_changed();
            }
            Action::KillEngine(node) => {
                self.harm(|harm, nodes| harm.kill_engine(nodes, usize::from(node.0)))?;
                self.see(What::Mark(Mark::NodeGone(Some(node.0))));
                // It comes back by itself, and nobody says when.
                self.dead.insert(node);
                self.weather_changed();
                self.dead.remove(&node);
            }
            Action::StopNode(node) => {
                self.harm(|harm, nodes| harm.stop(nodes, usize::from(node.0)))?;
                self.see(What::Mark(Mark::NodeGone(Some(node.0))));
                self.dead.insert(node);
                self.weather_changed();
            }
            Action::LeaveNode(node) => {
                self.harm(|_, nodes| nodes.leave(usize::from(node.0)))?;
                self.see(What::Mark(Mark::NodeGone(Some(node.0))));
                self.dead.insert(node);
                self.weather_changed();
            }
            Action::JoinNode(node) => {
                self.harm(|_, nodes| nodes.join(usize::from(node.0)))?;
                self.dead.remove(&node);
                self.weather_changed();
            }
            Action::Attach { flow } => drop(self.attaching.insert(flow, None)),
            Action::StartNode(node) => {
                self.harm(|harm, nodes| harm.start(nodes, usize::from(node.0)))?;
                self.dead.remove(&node);
                self.weather_changed();
            }
            action => {
                let (flow, handle, ask) = asked(action).ok_or("real nodes cannot do that yet")?;
                return self.ask(flow, handle, ask);
            }
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, node: Place) -> Result<u64, String> {
        let socket = &self.cluster.sockets[usize::from(node.0)];
        let counters =
            Session::open(socket, "oarlock story").and_then(|mut s| s.document(&Question::Counters));
        let counters: Counters = counters.map_err(|problem| problem.what)?;
        let counter = counters.counters.iter().find(|counter| counter.name == name);
        counter.map(|counter| counter.value).ok_or_else(|| format!("{node} has no counter {name}"))
    }

    fn broken(&mut self, promise: Promise) -> Vec<String> {
        let findings = self.judge.findings().iter();
        findings.filter(|found| is_about(found, promise)).map(ToString::to_string).collect()
    }

    fn pass(&mut self, until: Instant) -> Vec<News> {
        loop {
            let mut all = self.hear();
            all.extend(self.attach());
            let left = until.since(self.now());
            let left = if self.attaching.is_empty() { left } else { left.min(ATTACH_EACH) };
            if !all.is_empty() || left.is_zero() || self.interrupted() {
                return all;
            }
            let sessions =
                self.actors.iter().flatten().map(|actor| PollFd::new(&actor.session, PollFlags::IN));
            let mut fds: Vec<PollFd<'_>> = sessions.collect();
            let pipes: Vec<_> = self.cluster.signals.watched().map(|(_, fd)| fd).collect();
            fds.extend(pipes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            let _ = poll(&mut fds, Some(&timespec(left)));
        }
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn remarks(&mut self) -> Vec<String> {
        let paused = self.paused.iter().map(|node| format!("{node} stands still"));
        let dead = self.dead.iter().map(|node| format!("{node} is dead"));
        paused.chain(dead).chain(self.cuts.iter().map(|link| format!("the way {link} is cut"))).collect()
    }

    fn interrupted(&self) -> bool {
        self.cluster.signals.pending()
    }

    fn end(&mut self) -> Vec<String> {
        for node in self.paused.clone() {
            // One that has ended cannot go on, which its sessions have said.
            let _ = self.pause(node, false);
        }
        for link in self.cuts.clone() {
            let _ = self.heal(link);
        }
        let end = self.now() + SETTLING;
        while self.now() < end && !self.interrupted() {
            self.pass(end);
        }
        // A release that is not answered is judged only when it had time for it.
        let end = self.now() + RELEASING;
        while self.judge.ledger().locks().any(|lock| lock.unlocking.is_some())
            && self.now() < end
            && !self.interrupted()
        {
            self.pass(end);
        }
        self.see(What::Mark(Mark::PoliteEnd));
        for flow in 0..self.actors.len() {
            self.kill(flow);
        }
        self.see(What::Mark(Mark::Drained));
        self.broken(Promise::All)
    }
}
