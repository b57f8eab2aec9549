//! A stage for transcripts: a few nodes, channels that can be held, and a small language.
//!
//! ```text
//!   # words for people
//!   > nodes 3 strict master c          three nodes a, b, c; the resource R is mastered at c
//!   > lock a1 EX VALBLK                lock number 1 of node a, on R
//!   > convert a1 PR value=hello
//!   > unlock a1 value=hello            also: invalid
//!   > cancel a1  > die a1              the session of that lock ends
//!   > hold a>c   > let a>c [1]         keep messages of a direction back; let them go (only so many)
//!   > wait 100ms                       time passes
//!   > nodes 4 first abc master c ab:b abd:d     the views to come, each with the master it shall have
//!   > view ab                          the next view: who is not in it is dead, and all members enter it
//!   > decide ab  > enter a             the same in steps
//!   > dump       > count a info_stale
//!   > grants a   > waits a            grants by what brought them about; how long they had waited
//! ```
//!
//! What happens is printed behind each command, two blanks in. Each lock has a session of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{
    Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SharedHandle, SpaceId, TransactionId,
};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::look::{At, What};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Geometry, PlainWords, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Order, Output, Request, Unlock};
use oarlock_shm::{Answer, Caller, Clock, First, Hub, Memory, Party, Taken, Ticket};

mod show;
mod views;

use views::{Mail, Views};

use show::{letter, mode, show, show_head, show_value};

/// Runs a transcript and returns it with what happened.
pub(crate) fn perform(text: &str, over: Over) -> String {
    let mut stage: Option<Stage> = None;
    let mut out = String::new();
    for line in text.lines().filter(|l| !l.starts_with("  ")) {
        writeln!(out, "{line}").unwrap();
        let Some(command) = line.strip_prefix("> ") else { continue };
        let words: Vec<&str> = command.split_whitespace().collect();
        match (&mut stage, words.as_slice()) {
            (_, ["nodes", rest @ ..]) => stage = Some(Stage::new(rest, over)),
            (Some(stage), words) => {
                stage.command(words);
                for line in stage.said.drain(..) {
                    writeln!(out, "  {line}").unwrap();
                }
            }
            (None, _) => panic!("the first command is `nodes`"),
        }
    }
    out
}

/// Where held locks stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// In plain tables.
    Plain,
    /// In the node's own table, beside a segment.
    Hub,
    /// In entries of a segment.
    Entries,
}

/// The room and the counts it works on.
type Node = (Lockspace, Box<dyn Words>);

pub(crate) struct Stage {
    now: Instant,
    over: Over,
    nodes: Vec<Node>,
    /// The segments of the nodes, and the sessions in them with their one lock each.
    segments: Vec<Arc<Memory>>,
    callers: BTreeMap<(usize, SessionId), (Caller<Still>, Ticket)>,
    channels: BTreeMap<(usize, usize), VecDeque<Mail>>,
    config: Config,
    views: Views,
    held: BTreeSet<(usize, usize)>,
    resource: Name,
    said: Vec<String>,
}

impl Stage {
    fn new(args: &[&str], over: Over) -> Stage {
        let count: u16 = args[0].parse().expect("how many nodes");
        let has = |word: &str| args.contains(&word);
        let master = args.iter().position(|w| *w == "master").map_or(0, |i| node(args[i + 1]));
        let first = args.iter().position(|w| *w == "first").map(|i| members(args[i + 1]));
        let first = first.unwrap_or_else(|| (0..usize::from(count)).collect());
        let view = View {
            epoch: Epoch(1),
            members: first
                .iter()
                .map(|n| Member { node: NodeId(*n as u16), incarnation: Incarnation(1) })
                .collect(),
        };
        let wished = [(first, master)].into_iter().chain(args.iter().filter_map(|word| {
            let (names, master) = word.split_once(':')?;
            Some((members(names), node(master)))
        }));
        let wished: Vec<(Vec<usize>, usize)> = wished.collect();
        let name = (0..)
            .map(|i: u32| Name::new(format!("R{i}").as_bytes()).unwrap())
            .find(|name| {
                wished.iter().all(|(members, master)| {
                    let nodes = members.iter().map(|n| NodeId(*n as u16));
                    directory::master(SpaceId(0), name.as_bytes(), nodes) == Some(NodeId(*master as u16))
                })
            })
            .unwrap();
        let mut config = Config::native(SpaceId(0), NodeId(0));
        config.order = if has("strict") { Order::Strict } else { Order::Passover };
        config.retain = !has("unretained");
        let mut stage = Stage {
            now: Instant(0),
            over,
            nodes: Vec::new(),
            segments: Vec::new(),
            callers: BTreeMap::new(),
            channels: BTreeMap::new(),
            config,
            views: Views::new(usize::from(count), &view),
            held: BTreeSet::new(),
            resource: name,
            said: Vec::new(),
        };
        for n in 0..usize::from(count) {
            let (mut node, segment) = stage.fresh(n);
            if view.member(NodeId(n as u16)).is_some() {
                node.0.found(Instant(0), node.1.as_mut(), &view);
            }
            stage.nodes.push(node);
            stage.segments.extend(segment);
        }
        stage
    }

    /// A node that has just begun.
    fn fresh(&self, n: usize) -> (Node, Option<Arc<Memory>>) {
        let space = Lockspace::new(Config { me: NodeId(n as u16), ..self.config });
        if self.over == Over::Plain {
            return ((space, Box::new(PlainWords::new(16))), None);
        }
        let memory = Memory::private(Geometry { slots: 16, areas: 64, entries: 64 }, 7);
        let mut hub = Hub::new(Arc::clone(&memory));
        hub.renew(u64::MAX);
        ((space, Box::new(hub)), Some(memory))
    }

    fn command(&mut self, words: &[&str]) {
        match words {
            ["lock", lock, mode, rest @ ..] => {
                let (node, id) = lock_id(lock);
                let transaction = option(rest, "t").map_or(0, |t| t.parse().unwrap());
                let id = self.wait_in_entry(node, id, mode.parse().unwrap(), flags(rest), transaction);
                let request = Request::Lock(Lock {
                    lock: id,
                    name: self.resource.clone(),
                    mode: mode.parse().unwrap(),
                    flags: flags(rest),
                    timeout: option(rest, "timeout").map(duration),
                    owner: OwnerId(0),
                    transaction: TransactionId(transaction),
                });
                self.request(node, request);
            }
            ["convert", lock, mode, rest @ ..] => {
                let (node, id) = lock_id(lock);
                let id = self.id_of(node, id);
                self.ask_in_entry(node, id, mode.parse().unwrap());
                let request = Request::Convert(Convert {
                    lock: id,
                    mode: mode.parse().unwrap(),
                    flags: flags(rest),
                    timeout: option(rest, "timeout").map(duration),
                    value: option(rest, "value").map(block),
                });
                self.request(node, request);
            }
            ["unlock", lock, rest @ ..] => {
                let (node, id) = lock_id(lock);
                let id = self.id_of(node, id);
                let value = option(rest, "value").map(block);
                let invalidate = rest.contains(&"invalid");
                self.request(node, Request::Unlock(Unlock { lock: id, value, invalidate }));
            }
            ["cancel", lock] => {
                let (node, id) = lock_id(lock);
                let id = self.id_of(node, id);
                self.request(node, Request::Cancel(id));
            }
            ["die", lock] => {
                let (node, id) = lock_id(lock);
                self.nodes[node].1.end(id.session());
                self.request(node, Request::End(id.session()));
                self.nodes[node].1.bury(id.session());
                self.callers.remove(&(node, id.session()));
            }
            ["hold", direction] => {
                self.held.insert(pair(direction));
            }
            ["let", direction, rest @ ..] => {
                let direction = pair(direction);
                match rest {
                    [] => {
                        self.held.remove(&direction);
                    }
                    [count] => {
                        for _ in 0..count.parse::<usize>().unwrap() {
                            self.deliver(direction);
                        }
                    }
                    _ => panic!("let DIRECTION [COUNT]"),
                }
                self.quiesce();
            }
            ["wait", time] => {
                self.now += duration(time);
                for n in 0..self.nodes.len() {
                    let (space, words) = &mut self.nodes[n];
                    if space.poll_timeout().is_some_and(|at| at <= self.now) {
                        space.handle_timeout(self.now, words.as_mut());
                    }
                    self.collect(n);
                }
                self.quiesce();
            }
            ["view", names] => {
                let members = members(names);
                self.decide(&members);
                members.into_iter().for_each(|n| self.enter(n));
                self.quiesce();
            }
            ["decide", names] => self.decide(&members(names)),
            ["enter", name] => {
                self.enter(node(name));
                self.quiesce();
            }
            ["dump"] => self.dump(),
            ["count", node_name, names @ ..] => {
                let counters: BTreeMap<&str, u64> =
                    self.nodes[node(node_name)].0.counters().list().map(|(n, _, v)| (n, v)).collect();
                for name in names {
                    let value = counters.get(name).unwrap_or_else(|| panic!("no counter {name}"));
                    self.said.push(format!("{name} {value}"));
                }
            }
            ["grants", node_name] => {
                let how = self.nodes[node(node_name)].0.counters().grants_by_how();
                let how: Vec<_> = how.filter(|(_, n)| *n > 0).map(|(how, n)| format!("{how} {n}")).collect();
                self.said.push(how.join(", "));
            }
            ["waits", node_name] => {
                let waits = &self.nodes[node(node_name)].0.counters().waits;
                for (bound, n) in waits.buckets().filter(|(_, n)| *n > 0) {
                    self.said.push(match bound {
                        Some(bound) => format!("{n} within {bound:?}"),
                        None => format!("{n} longer"),
                    });
                }
                self.said.push(format!("{} in {:?}", waits.count(), waits.sum()));
            }
            ["messages"] => {
                let sent: u64 = self.nodes.iter().map(|(s, _)| s.counters().messages_sent()).sum();
                self.said.push(format!("{sent} messages between nodes so far"));
            }
            other => panic!("unknown command {other:?}"),
        }
    }

    // ----- entries --------------------------------------------------------------------------------------

    /// The number of a session's lock: that of its entry, if it has one.
    fn id_of(&self, node: usize, id: LockId) -> LockId {
        match self.callers.get(&(node, id.session())) {
            Some((_, ticket)) => {
                LockId::new(id.session(), SharedHandle { segment: 0, entry: ticket.entry }.number())
            }
            None => id,
        }
    }

    /// A program that is about to ask for a lock waits in an entry first.
    fn wait_in_entry(
        &mut self,
        node: usize,
        id: LockId,
        mode: Mode,
        flags: Flags,
        transaction: u64,
    ) -> LockId {
        if self.over != Over::Entries {
            return id;
        }
        let session = id.session();
        let party = Party { owner: 0, transaction, flags };
        let ask = |caller: &Caller<Still>| match caller.ask(mode, &party, First::seat(0)) {
            Taken::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        };
        match self.callers.get_mut(&(node, session)) {
            None => {
                let place = self.nodes[node].1.attach(session, 0).expect("an area");
                let caller = Caller::new(Arc::clone(&self.segments[node]), place, Still);
                let ticket = ask(&caller);
                self.callers.insert((node, session), (caller, ticket));
            }
            Some((caller, ticket)) => {
                if matches!(caller.look(*ticket), Answer::Refused | Answer::Lost) {
                    caller.close(ticket.entry);
                    *ticket = ask(caller);
                }
            }
        }
        self.id_of(node, id)
    }

    /// A program that is about to ask for another mode says so in its entry first.
    fn ask_in_entry(&mut self, node: usize, id: LockId, mode: Mode) {
        if let Some((caller, ticket)) = self.callers.get_mut(&(node, id.session()))
            && let Answer::Held(hold) = caller.look(*ticket)
        {
            *ticket = caller.ask_convert(hold, mode).expect("it is held");
        }
    }

    fn request(&mut self, node: usize, request: Request) {
        let (space, words) = &mut self.nodes[node];
        space.handle_request(self.now, words.as_mut(), request);
        self.collect(node);
        self.quiesce();
    }

    /// Prints what a node says to programs and puts its packets on their way.
    fn collect(&mut self, from: usize) {
        while let Some(output) = self.nodes[from].0.poll_output() {
            match output {
                Output::Send { to, packet } => {
                    let to = to.0 as usize;
                    let note = if self.held.contains(&(from, to)) { "   (held)" } else { "" };
                    self.said.push(format!("{}>{} {}{note}", letter(from), letter(to), show(&packet.body)));
                    self.channels.entry((from, to)).or_default().push_back(Mail::Lock(packet));
                }
                Output::Granted(g) => {
                    let mut line =
                        format!("{} granted {} token {:?}", lock_name(from, g.lock), g.mode, g.token);
                    if let Some(value) = g.value {
                        write!(line, " value {}", show_value(&value)).unwrap();
                    }
                    if g.alternate {
                        line.push_str(" alternate");
                    }
                    self.said.push(line);
                }
                Output::Released { lock } => self.said.push(format!("{} released", lock_name(from, lock))),
                Output::Failed { lock, code } => {
                    self.said.push(format!("{} failed {code:?}", lock_name(from, lock)));
                }
                Output::Blocking { lock, wanted } => {
                    self.said.push(format!("{} blocks {wanted}", lock_name(from, lock)));
                }
            }
        }
        self.rewrite(from);
    }

    /// The room as it is written down, read again: after each step another goes on (L5).
    fn rewrite(&mut self, node: usize) {
        let space = &mut self.nodes[node].0;
        let bytes = cbor4ii::serde::to_vec(Vec::new(), space).expect("memory");
        let read: Lockspace = cbor4ii::serde::from_slice(&bytes).expect("its own words");
        assert_eq!(read.check(space.config()), Ok(()));
        assert_eq!((state(&read), read.counters()), (state(space), space.counters()), "another state");
        *space = read;
    }

    fn deliver(&mut self, (from, to): (usize, usize)) {
        let mail = self.channels.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("a held message");
        let packet = match mail {
            Mail::Lock(packet) => packet,
            Mail::Barrier(barrier) => return self.hear(from, to, barrier),
        };
        let (space, words) = &mut self.nodes[to];
        space
            .handle_message(self.now, words.as_mut(), NodeId(from as u16), packet)
            .unwrap_or_else(|v| panic!("{} says {} misbehaves: {v}", letter(to), letter(from)));
        self.collect(to);
    }

    fn quiesce(&mut self) {
        while let Some(direction) = self
            .channels
            .iter()
            .find(|(direction, queue)| !queue.is_empty() && !self.held.contains(direction))
            .map(|(direction, _)| *direction)
        {
            self.deliver(direction);
        }
    }

    fn dump(&mut self) {
        for n in 0..self.nodes.len() {
            let (space, words) = &self.nodes[n];
            for row in space.look(self.now, words.as_ref(), &At::Resource(self.resource.clone())).0 {
                let who = letter(n);
                let line = match row.what {
                    What::Shadow(s) => format!(
                        "{who} owned {} need {} told {} head {}",
                        mode(s.owned),
                        mode(s.need),
                        match s.told_conv {
                            Some(conv) => format!("{}>{conv}", mode(s.told_held)),
                            None => mode(s.told_held),
                        },
                        s.head.map_or("-".into(), |h| show_head(&h)),
                    ),
                    What::Holder(h) => {
                        let told = h.told.map_or(String::new(), |t| format!(", told {t}"));
                        format!("{who} {} holds {}{told}", lock_name(n, h.party.lock), h.mode)
                    }
                    What::Waiter(w) => {
                        let from = w.held.map_or(String::new(), |from| format!("{from}>"));
                        format!("{who} {} waits {from}{}", lock_name(n, w.party.lock), w.wanted)
                    }
                    What::Master(m) => {
                        let names =
                            |nodes: &[NodeId]| nodes.iter().map(|n| letter(n.0 as usize)).collect::<String>();
                        format!(
                            "{who} masters: converting [{}] waiting [{}] head {} value v{}{}",
                            names(&m.converting),
                            names(&m.waiting),
                            m.head.map_or("-".into(), |h| show_head(&h)),
                            m.value,
                            if m.value_valid { "" } else { "!" },
                        )
                    }
                    What::Branch(_) => unreachable!("no look at locks brings one"),
                    What::Record(r) => format!(
                        "{who}   knows {}: held {} wants {} g{} a{} busy {}",
                        letter(r.node.0 as usize),
                        mode(r.held),
                        mode(r.conv),
                        r.g,
                        r.a,
                        r.busy
                    ),
                };
                self.said.push(line);
            }
        }
    }
}

/// A lease that lasts for ever needs no clock.
struct Still;

impl Clock for Still {
    fn coarse(&self) -> u64 {
        0
    }
}

fn node(name: &str) -> usize {
    (name.as_bytes()[0] - b'a') as usize
}

fn members(names: &str) -> Vec<usize> {
    names.bytes().map(|name| usize::from(name - b'a')).collect()
}

fn pair(direction: &str) -> (usize, usize) {
    let (from, to) = direction.split_once('>').expect("FROM>TO");
    (node(from), node(to))
}

fn lock_id(name: &str) -> (usize, LockId) {
    let number: u32 = name[1..].parse().expect("a lock is called a1, b2, ...");
    (node(name), LockId::new(SessionId(number), 1))
}

fn lock_name(node: usize, lock: LockId) -> String {
    format!("{}{}", letter(node), lock.session())
}

fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

fn flags(words: &[&str]) -> Flags {
    words.iter().filter(|w| !w.contains('=')).fold(Flags::empty(), |flags, word| {
        flags | Flags::from_name(word).unwrap_or_else(|| panic!("unknown flag {word}"))
    })
}

fn duration(text: &str) -> Duration {
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(ms), _) => Duration::from_millis(ms.parse().unwrap()),
        (_, Some(s)) => Duration::from_secs(s.parse().unwrap()),
        _ => panic!("a time is 100ms or 2s"),
    }
}

fn block(text: &str) -> [u8; VALUE_BYTES] {
    let mut bytes = [0; VALUE_BYTES];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// All that decides what happens next.
fn state(space: &Lockspace) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(space, &mut hasher);
    std::hash::Hasher::finish(&hasher)
}
