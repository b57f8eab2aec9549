//! How programs learn that the run of their node is over, and who may say that they have (L5, FT1).
//!
//! ```text
//!   a run stops in order ──► told ─(late)─► hears ─(ends what it does)─► hangs up ──► all holders have ──► Surrender
//!   an engine dies       ──► its keeper sees it, tells ─► … ─► hangs up ──► all programs have ──► the last word, in a datagram
//!   a daemon dies whole  ──► its sockets are closed ─(late)─► hears ─► hangs up, which nobody notices; its lease runs out
//!   any of them          ──► the lease of the run is over: a program counts that by itself, whatever it has heard
//! ```
//!
//! A program holds what it holds until it hangs up, or until the lease is over: that is what the checkers believe. So whoever gives
//! something of a run to others before every program of it has acknowledged gives away what is held, and is found out by them.

use std::sync::Arc;

use oarlock_cluster::farewell::Care;
use oarlock_cluster::{Stopping, Ward};
use oarlock_layout::id::{Incarnation, NodeId, SessionId};
use oarlock_layout::limit::{LEASE, LEASE_DRIFT};
use oarlock_layout::message::frame::{GASP_BYTES, encode_gasp};
use oarlock_layout::seal::MAC_BYTES;
use oarlock_layout::time::{Duration, Instant};
use oarlock_shm::Memory;

use crate::history::Client;
use crate::host::Input;
use crate::queue::Time;
use crate::random::Random;
use crate::swarm::{FaultKind, MS, S};
use crate::trace::Kind;
use crate::world::{Happening, World};

/// Makes another stream of the same seed.
const STREAM: u64 = 0xfa2e_3e11_0000_0000;
/// A daemon that stops waits so long for programs, and so long for the coordinator.
const STOP_MAX: Duration = Duration::from_millis(3_500);
const SURRENDER_MAX: Duration = Duration::from_millis(1_500);
/// A keeper waits so long for the last word of a run before it starts the next one, and no longer than this for programs.
const WORD_FIRST: Time = 400 * MS;
const CARE_MAX: Duration = LEASE.saturating_add(LEASE_DRIFT);
/// A program that is not done with what it does before the lease is over. It hangs up at last.
const NEVER: Time = 6 * S;

/// What can come next.
#[derive(Debug)]
pub(crate) enum Farewell {
    /// A program sees that its session is over.
    Hears { process: usize, client: Client },
    /// It has ended what it did under its locks, and hangs up.
    Parts { process: usize, client: Client },
    /// The lease of the run that it is of has passed.
    Outlives { process: usize, client: Client },
    /// A run that stops waits no longer.
    Enough { node: u16, life: u64 },
    /// A keeper has noticed that its engine is dead.
    Noticed { node: u16, life: u64 },
    /// A program has hung up at a keeper.
    HungUp { node: u16, life: u64, client: Client },
    /// A keeper waits no longer for programs.
    CareEnds { node: u16, life: u64 },
    /// A keeper starts another engine.
    Again { node: u16, life: u64 },
    /// A last word is said again.
    Echo { node: u16, word: [u8; GASP_BYTES] },
}

/// A run that has been stopped and is still there.
#[derive(Debug)]
pub(crate) struct Leaving {
    run: Stopping,
    until: Instant,
}

/// What outlives an engine on its machine.
#[derive(Default)]
pub(crate) struct Keeper {
    /// What the engine has laid down.
    ward: Ward,
    word: Option<[u8; GASP_BYTES]>,
    /// What the last one left that died.
    orphans: Option<Orphans>,
    /// The last run that was given up.
    given_up: Option<Incarnation>,
}

/// What an engine has left.
struct Orphans {
    life: u64,
    ward: Ward,
    word: Option<[u8; GASP_BYTES]>,
    segments: Vec<Arc<Memory>>,
    sessions: Vec<(Client, usize)>,
    until: Time,
    told: bool,
}

/// What chance this file needs.
pub(crate) fn stream(seed: u64) -> Random {
    Random::new(seed ^ STREAM)
}

/// What proves the end of a run.
fn secret(seed_of_run: u64) -> [u8; MAC_BYTES] {
    let mut bytes = [0x5e; MAC_BYTES];
    bytes[..8].copy_from_slice(&seed_of_run.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes
}

impl World {
    pub(crate) fn farewell(&mut self, what: Farewell) {
        match what {
            Farewell::Hears { process, client } => self.hears(process, client),
            Farewell::Parts { process, client } => self.hangs_up(process, client),
            Farewell::Outlives { process, client } => {
                if self.is_there(process, client) {
                    self.forsake(process);
                }
            }
            Farewell::Enough { node, life } => {
                if self.hosts[usize::from(node)].starts == life {
                    self.go_on_stopping(node);
                }
            }
            Farewell::Noticed { node, life } => self.engine_is_dead(node, life),
            Farewell::HungUp { node, life, client } => {
                if let Some(orphans) = self.orphans(node, life) {
                    orphans.ward.hung_up(client.into());
                    self.care(node, life);
                }
            }
            Farewell::CareEnds { node, life } => self.care(node, life),
            Farewell::Echo { node, word } => self.send_the_last(node, word),
            Farewell::Again { node, life } => {
                let host = &self.hosts[usize::from(node)];
                if host.starts == life && host.kept && !host.up {
                    self.start(node);
                }
            }
        }
    }

    fn later(&mut self, at: Time, what: Farewell) {
        self.queue.push(at, Happening::Farewell(what));
    }

    // ----- programs -------------------------------------------------------------------------------------

    fn is_there(&self, process: usize, client: Client) -> bool {
        self.processes[process].client == client && self.processes[process].alive
    }

    /// In calm weather everybody is quick.
    fn is_slow(&mut self, permille: u64) -> bool {
        !self.calm && self.farewells.chance(permille)
    }

    /// The end of its socket reaches a program.
    fn reaches(&mut self, process: usize, client: Client) {
        let now = self.queue.now();
        let most = if self.is_slow(100) { 300 * MS } else { MS / 10 };
        let at = now + self.farewells.spread(4_000, most);
        self.later(at, Farewell::Hears { process, client });
    }

    /// A program hears that its session is over. What runs under its locks goes on until it has ended it.
    pub(crate) fn hears(&mut self, process: usize, client: Client) {
        if !self.is_there(process, client) || self.processes[process].parting {
            return;
        }
        let (now, frozen) = (self.queue.now(), self.processes[process].frozen_until);
        if now < frozen {
            return self.later(frozen, Farewell::Hears { process, client });
        }
        self.processes[process].parting = true;
        let takes = match self.farewells.below(20) {
            _ if self.calm => 0,
            0 => NEVER,
            1..10 => self.farewells.spread(MS, 400 * MS),
            _ => self.farewells.spread(1_000, MS),
        };
        self.later(now + takes, Farewell::Parts { process, client });
    }

    fn hangs_up(&mut self, process: usize, client: Client) {
        if !self.is_there(process, client) {
            return;
        }
        let frozen = self.processes[process].frozen_until;
        if self.queue.now() < frozen {
            return self.later(frozen, Farewell::Parts { process, client });
        }
        self.forsake(process);
    }

    /// The end of a session, from its program's side. True: it does not go to a node, because the run that it was of is over.
    pub(crate) fn goes_to_nobody(&mut self, index: usize, input: &Input) -> bool {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let (node, life, client) = (process.node, process.life, process.client);
        let host = &self.hosts[usize::from(node)];
        if host.up && host.starts == life {
            return false;
        }
        if matches!(input, Input::Hangup { .. }) && self.orphans(node, life).is_some() {
            let at = self.processes[index].socket.reaches_node(now, &mut self.farewells);
            self.later(at, Farewell::HungUp { node, life, client });
        }
        true
    }

    /// A run is over, and these had sessions of it.
    fn abandon(&mut self, index: u16, sessions: &[(Client, usize)], lease: Instant) {
        let now = self.queue.now();
        let over = self.hosts[usize::from(index)].when(lease).max(now);
        for (client, process) in sessions.iter().copied() {
            if self.is_there(process, client) {
                self.later(over, Farewell::Outlives { process, client });
            }
        }
    }

    // ----- the end of a run -------------------------------------------------------------------------------

    /// The node's run ends, with its keeper: nobody is left who could say anything of it.
    pub(crate) fn end(&mut self, index: u16) {
        let sessions = self.end_run(index, false);
        self.hosts[usize::from(index)].keeper = Keeper::default();
        self.hosts[usize::from(index)].kept = false;
        for (client, process) in sessions {
            self.reaches(process, client);
        }
        self.ambush(index);
    }

    fn end_run(&mut self, index: u16, clean: bool) -> Vec<(Client, usize)> {
        let now = self.queue.now();
        self.health.touch(index, now);
        self.keep_a_copy(index);
        self.count_skipped(index);
        self.trace.record(now, Kind::End, index.into(), &[u8::from(clean)]);
        let host = &mut self.hosts[usize::from(index)];
        self.load.views += host.node.iter().flat_map(oarlock_node::Node::failovers).count() as u64;
        let overtaken = host.node.iter().flat_map(oarlock_node::Node::failovers).filter(|f| f.overtaken);
        self.load.overtaken += overtaken.count() as u64;
        let lease = host.lease_until;
        let sessions: Vec<(Client, usize)> = std::mem::take(&mut host.sessions).into_iter().collect();
        host.end();
        self.abandon(index, &sessions, lease);
        sessions
    }

    /// Somebody stops the node in order. It stays until its programs have heard and the coordinator knows, if that does not take too long.
    pub(crate) fn stop(&mut self, index: u16) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        // A machine that stands still does not stop in order.
        if host.paused || !host.up {
            return self.end(index);
        }
        let at = host.clock(now);
        let Some(node) = host.node.as_mut().filter(|_| host.stopping.is_none()) else { return };
        let ended = node.has_ended();
        let run = Stopping::new(node.stop(at), ended);
        self.load.stops += u64::from(!ended);
        host.stopping = Some(Leaving { run, until: Instant(at.0 + STOP_MAX.as_nanos() as u64) });
        self.health.touch(index, now);
        self.turn(index);
        self.go_on_stopping(index);
    }

    /// Something that a run which stops waits for has come about, perhaps.
    pub(crate) fn go_on_stopping(&mut self, index: u16) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        let (at, life) = (host.clock(now), host.starts);
        let (Some(leaving), Some(node)) = (&mut host.stopping, &mut host.node) else { return };
        if host.paused {
            return;
        }
        if leaving.run.may_give_up() {
            leaving.run.asked(node.surrender());
            self.health.evidence.given_up(index, host.disk.run());
            leaving.until = Instant(at.0 + SURRENDER_MAX.as_nanos() as u64);
            self.turn(index);
        }
        let host = &self.hosts[usize::from(index)];
        let Some(leaving) = &host.stopping else { return };
        if !leaving.run.is_given_up() && at < leaving.until {
            let enough = host.when(leaving.until);
            return self.later(enough, Farewell::Enough { node: index, life });
        }
        self.load.surrendered += u64::from(leaving.run.is_given_up());
        for (client, process) in self.end_run(index, true) {
            self.reaches(process, client);
        }
        // Its keeper ends with it.
        let host = &mut self.hosts[usize::from(index)];
        (host.keeper, host.kept) = (Keeper::default(), false);
        self.ambush(index);
    }

    /// The program of a session has hung up at its node.
    pub(crate) fn hung_up(&mut self, index: u16, client: Client) {
        let host = &mut self.hosts[usize::from(index)];
        host.keeper.ward.hung_up(client.into());
        if let Some(leaving) = &mut host.stopping {
            leaving.run.hung_up(SessionId(client));
            self.go_on_stopping(index);
        }
    }

    /// The coordinator has noted that the run gives itself up.
    pub(crate) fn noted(&mut self, index: u16) {
        if let Some(leaving) = &mut self.hosts[usize::from(index)].stopping {
            leaving.run.noted();
            self.go_on_stopping(index);
        }
    }

    // ----- the keeper -------------------------------------------------------------------------------------

    /// A new engine has begun: it pledges, and hears what its keeper knows.
    pub(crate) fn meet_keeper(&mut self, index: u16, node: &mut oarlock_node::Node, seed_of_run: u64) {
        let at = self.hosts[usize::from(index)].clock(self.queue.now());
        let secret = secret(seed_of_run);
        node.pledge(&secret);
        let host = &mut self.hosts[usize::from(index)];
        host.kept = true;
        let run = Incarnation(host.disk.run());
        host.keeper.ward = Ward::default();
        host.keeper.word = Some(encode_gasp(NodeId(index), run, &secret));
        if let Some(before) = host.keeper.given_up {
            node.handle_given_up(at, before);
        }
    }

    /// A session begins, before anything is asked for in it.
    pub(crate) fn lay_session(&mut self, index: u16, client: Client) {
        let missing = self.is_slow(2);
        let ward = &mut self.hosts[usize::from(index)].keeper.ward;
        ward.begun(client.into());
        if missing {
            // There was no descriptor left for it.
            ward.miss();
        }
    }

    /// The engine of a node dies, and its keeper does not (FT1).
    pub(crate) fn engine_dies(&mut self, index: u16) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        if !host.up || host.paused || host.stopping.is_some() {
            return;
        }
        self.cover(FaultKind::EngineDies, &[index]);
        let host = &mut self.hosts[usize::from(index)];
        let life = host.starts;
        let (segments, ward) = (std::mem::take(&mut host.segments), std::mem::take(&mut host.keeper.ward));
        let word = host.keeper.word.take();
        let until = host.when(Instant(host.clock(now).0 + CARE_MAX.as_nanos() as u64));
        let sessions = self.end_run(index, false);
        self.load.engines += 1;
        let orphans = Orphans { life, ward, word, segments, sessions, until, told: false };
        if let Some(before) = self.hosts[usize::from(index)].keeper.orphans.replace(orphans) {
            self.let_go(before);
        }
        let seen = now + self.farewells.spread(50_000, 20 * MS);
        self.later(seen, Farewell::Noticed { node: index, life });
        self.later(until, Farewell::CareEnds { node: index, life });
        self.ambush(index);
    }

    fn orphans(&mut self, index: u16, life: u64) -> Option<&mut Orphans> {
        self.hosts[usize::from(index)].keeper.orphans.as_mut().filter(|it| it.life == life)
    }

    /// In this order: what is granted after it is not believed, and who is told afterwards looks there first.
    fn engine_is_dead(&mut self, index: u16, life: u64) {
        let Some(orphans) = self.orphans(index, life) else { return };
        orphans.told = true;
        orphans.segments.iter().for_each(|memory| memory.turn_epoch());
        for (client, process) in orphans.sessions.clone() {
            self.reaches(process, client);
        }
        let at = self.queue.now() + WORD_FIRST;
        self.later(at, Farewell::Again { node: index, life });
        self.care(index, life);
    }

    /// Gives the run up that has died, as soon as that is true.
    fn care(&mut self, index: u16, life: u64) {
        let now = self.queue.now();
        let hasty = self.hurries();
        let Some(orphans) = self.orphans(index, life).filter(|it| it.told) else { return };
        let mut ward = orphans.ward.clone();
        if hasty {
            orphans.sessions.iter().for_each(|(client, _)| ward.hung_up((*client).into()));
        }
        match ward.settle(orphans.until <= now) {
            Care::Waits => return,
            Care::GivenUp(run) => {
                let word = orphans.word.expect("laid down with the run");
                self.load.gasps += 1;
                self.health.evidence.given_up(index, run.0);
                self.say_the_last(index, word);
                self.hosts[usize::from(index)].keeper.given_up = Some(run);
                self.queue.push(now, self.to_engine(index, run));
            }
            Care::NothingHeld | Care::LeftToItsLease => {}
        }
        let keeper = &mut self.hosts[usize::from(index)].keeper;
        let orphans = keeper.orphans.take().expect("just looked at");
        self.let_go(orphans);
        self.later(now, Farewell::Again { node: index, life });
    }

    fn to_engine(&self, node: u16, incarnation: Incarnation) -> Happening {
        let run = Some(self.hosts[usize::from(node)].disk.run());
        Happening::Input { node, run, input: Input::GivenUp { incarnation } }
    }

    /// To everybody, twice: one may be lost.
    fn say_the_last(&mut self, from: u16, word: [u8; GASP_BYTES]) {
        let now = self.queue.now();
        if self.is_slow(300) {
            // Somebody has kept a copy, and says it when the next run may be in.
            let again = now + self.farewells.between(WORD_FIRST, 4 * S);
            self.later(again, Farewell::Echo { node: from, word });
        }
        self.send_the_last(from, word);
    }

    fn send_the_last(&mut self, from: u16, word: [u8; GASP_BYTES]) {
        let now = self.queue.now();
        for to in (0..2 * self.options.nodes).map(|n| n % self.options.nodes).filter(|to| *to != from) {
            let queue = &mut self.queue;
            self.network.send(now, from, to, &word, |flight| {
                let bytes = flight.altered.unwrap_or_else(|| word.to_vec());
                let input = Input::Datagram { from, bytes };
                queue.push(flight.at, Happening::Input { node: to, run: None, input });
            });
        }
    }

    /// Nothing more is waited for. Programs that have not been told see the end of their sessions.
    fn let_go(&mut self, orphans: Orphans) {
        for (client, process) in orphans.sessions {
            self.reaches(process, client);
        }
    }

    #[cfg(feature = "planted")]
    fn hurries(&self) -> bool {
        self.options.bug == Some(oarlock_node::Bug::GaspUnheard)
    }

    #[cfg(not(feature = "planted"))]
    const fn hurries(&self) -> bool {
        false
    }
}

impl Keeper {
    /// The run is in a view, before it grants anything: its last word is laid down.
    pub(crate) fn lay_down(&mut self, run: u64) {
        self.ward.laid_down(Incarnation(run));
    }
}
