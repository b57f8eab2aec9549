//! Segments of simulated nodes: their leases, their bells and sleep, and the programs that grant themselves in them.
//!
//! ```text
//!   node: lease ─► lease ─► …          stands still past the lease ─► its sessions are over
//!         turn: wake up, inputs, bells, outputs, fall asleep
//!   program: call ─► (anything) ─► look ─► (anything) ─► call
//! ```

use std::collections::BTreeMap;

use oarlock_layout::id::SpaceId;
use oarlock_layout::limit::LEASE_FROZEN;
use oarlock_layout::message::session::{Attached, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::geometry::{area, entry, slot};
use oarlock_layout::segment::{Geometry, Grant, PlainWords, Stage, State, Words};
use oarlock_layout::time::Instant;
use oarlock_shm::{Hub, Memory};

use crate::history::{Ask, Client, Told, What};
use crate::host::Input;
use crate::process::{self, Context, Phase};
use crate::queue::Time;
use crate::share::Outcome;
use crate::swarm::{FaultKind, MS, S};
use crate::trace::Kind;
use crate::world::{Happening, World};

/// Entries of a program: as few as there can be.
const ENTRIES: u32 = 64;

impl World {
    // ----- nodes ----------------------------------------------------------------------------------------

    /// What a new run of a node counts its locks in.
    pub(crate) fn words(&mut self, index: u16, seed: u64) -> Vec<Box<dyn Words + Send>> {
        let slots = self.mix.resources_max;
        if self.mix.attached.is_none() {
            return (0..2).map(|_| Box::new(PlainWords::new(slots)) as Box<dyn Words + Send>).collect();
        }
        let geometry = Geometry { slots, areas: self.mix.areas, entries: ENTRIES };
        let segments = (0..2).map(|space| Memory::private(geometry, seed ^ space)).collect();
        let host = &mut self.hosts[usize::from(index)];
        host.segments = segments;
        host.segments
            .iter()
            .map(|memory| Box::new(Hub::new(memory.clone())) as Box<dyn Words + Send>)
            .collect()
    }

    /// What programs hold is theirs until then.
    pub(crate) fn lease(&mut self, index: u16, until: Instant) {
        let host = &mut self.hosts[usize::from(index)];
        host.lease_until = until;
        let run = host.disk.run();
        let lapse_at = host.when(until);
        self.health.evidence.lease(index, run, lapse_at);
        if let Some(node) = &mut host.node {
            node.renew(until.0);
        }
        // What was handed over while the lease was at risk may be believed now.
        self.stir(index);
        self.queue.push(lapse_at, Happening::Lapse { node: index, run });
    }

    /// A lease may have passed, which programs notice by themselves.
    pub(crate) fn lapsed(&mut self, index: u16, run: u64) {
        let host = &self.hosts[usize::from(index)];
        if host.up && host.disk.run() == run && host.clock(self.queue.now()) >= host.lease_until {
            self.lapse(index);
        }
    }

    fn lapse(&mut self, index: u16) {
        let sessions: Vec<(Client, usize)> =
            self.hosts[usize::from(index)].sessions.iter().map(|(c, p)| (*c, *p)).collect();
        for (client, process) in sessions {
            let program = &self.processes[process];
            // Who has no place in a segment hears of the lease from its node, and counts by itself as well.
            let over = !program.share.is_living() || !program.share.is_attached();
            if program.alive && program.client == client && over {
                self.load.lapsed += 1;
                self.forsake(process);
            }
        }
    }

    /// Something comes to a node that waited.
    pub(crate) fn wake(&mut self, index: u16) {
        let host = &mut self.hosts[usize::from(index)];
        if std::mem::take(&mut host.asleep)
            && let Some(node) = &mut host.node
        {
            node.wake_up();
        }
    }

    /// The rest of a turn: bells, outputs, and sleep.
    pub(crate) fn turn(&mut self, index: u16) {
        if !self.hosts[usize::from(index)].segments.is_empty() {
            self.answer_bells(index);
        }
        self.drain(index);
        self.check_clocks();
        self.ambush(index);
        let host = &self.hosts[usize::from(index)];
        if host.segments.is_empty() || host.paused || host.node.is_none() {
            return;
        }
        if self.segment_random.chance(100) {
            // It is a moment until it sleeps, and who rings meanwhile need not knock.
            let at = self.queue.now() + self.segment_random.between(1_000, 50_000);
            return self.queue.push(at, Happening::Sleep { node: index });
        }
        self.sleep(index);
    }

    fn answer_bells(&mut self, index: u16) {
        let now = self.queue.now();
        let host = &mut self.hosts[usize::from(index)];
        let at = host.clock(now);
        if let Some(node) = &mut host.node {
            while node.handle_bells(at) {}
        }
    }

    pub(crate) fn sleep(&mut self, index: u16) {
        loop {
            let host = &mut self.hosts[usize::from(index)];
            if host.asleep || host.paused {
                return;
            }
            let Some(node) = &mut host.node else { return };
            // After the end of a run nobody answers bells.
            if node.has_ended() || node.fall_asleep() {
                host.asleep = true;
                return;
            }
            self.answer_bells(index);
            self.drain(index);
        }
    }

    // ----- programs -------------------------------------------------------------------------------------

    /// A program has said hello; it may want places in segments.
    pub(crate) fn ask_for_places(&mut self, index: usize) {
        let Some(attached) = self.mix.attached else { return };
        let client = self.processes[index].client;
        for space in 0..2 {
            if self.segment_random.chance(attached) {
                let attach = Request::Attach { request: space.into(), space: SpaceId(space) };
                let bytes = oarlock_layout::codec::Wire::to_bytes(&attach);
                self.put(index, Input::Packet { client, bytes });
            }
        }
    }

    /// The node has given a program a place in a segment.
    pub(crate) fn attached(&mut self, index: usize, client: Client, space: SpaceId, attached: &Attached) {
        let process = &mut self.processes[index];
        if process.client != client || !process.alive {
            return;
        }
        let host = &self.hosts[usize::from(process.node)];
        let Some(memory) = host.segments.get(usize::from(space.0)) else { return };
        process.share.attach(usize::from(space.0), memory.clone(), attached, host.ticking(&self.time));
        if !process.share.is_living() {
            self.hears(index, client);
        }
    }

    /// A program asks for something, of its segment or of its node.
    pub(crate) fn act(&mut self, index: usize, client: Client, handle: u32, ask: Ask) {
        // What it asked before may have ended its session.
        let process = &self.processes[index];
        if process.client != client || !process.alive || process.parting {
            return;
        }
        if let Some(token) = self.processes[index].share.token(handle) {
            self.event(What::Told { client, handle, told: Told::Token { token } });
        }
        let mut out = Outcome::default();
        self.event(What::Asked { client, handle, ask: ask.clone() });
        if !self.processes[index].share.ask(handle, &ask, &mut self.segment_random, &mut out) {
            out.packets.push(process::packet(handle, &ask));
        }
        self.note_entries(&out);
        self.carry_out(index, out);
    }

    fn note_entries(&mut self, out: &Outcome) {
        self.load.by_entry +=
            out.told.iter().filter(|(_, t)| matches!(t, Told::Granted { .. })).count() as u64;
    }

    /// What came of a call or of a packet.
    pub(crate) fn carry_out(&mut self, index: usize, out: Outcome) {
        let now = self.queue.now();
        let (client, node) = (self.processes[index].client, self.processes[index].node);
        for packet in out.packets {
            let bytes = oarlock_layout::codec::Wire::to_bytes(&packet);
            self.put(index, Input::Packet { client, bytes });
        }
        if out.knock {
            let bytes = oarlock_layout::codec::Wire::to_bytes(&Request::Knock);
            self.put(index, Input::Packet { client, bytes });
        }
        for (handle, told) in out.told {
            if self.processes[index].share.is_attached() {
                let line = [handle.to_le_bytes()[0], matches!(told, Told::Granted { .. }).into()];
                self.trace.record(now, Kind::Caller, client, &line);
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
            self.processes[index].learn(handle, &told, &mut cx);
            if let Told::Granted { mode, .. } = told {
                self.look_for_frozen((client, handle), mode, node);
            }
            self.load.grants += u64::from(matches!(told, Told::Granted { .. }));
            self.event(What::Told { client, handle, told });
        }
        if out.lost {
            return self.hears(index, client);
        }
        self.schedule(index);
        if out.gave {
            self.stir(node);
        }
    }

    /// L6: what is asked for while a node's lease is at risk is not granted before that was renewed. A way down is no grant.
    fn look_for_frozen(&mut self, key: (Client, u32), mode: Mode, node: u16) {
        let host = &self.hosts[usize::from(node)];
        let Some(lock) = self.judge.ledger().lock(key) else { return };
        let Some(asked) = lock.pending.as_ref().map(|pending| pending.at) else { return };
        if host.lease_until == Instant(0) || lock.held.is_some_and(|held| held.mode.covers(mode)) {
            return;
        }
        let frozen = host.when(Instant(host.lease_until.0.saturating_sub(LEASE_FROZEN.as_nanos() as u64)));
        if asked >= frozen {
            let late = (asked - frozen) / 1_000_000;
            let text = format!(
                "client {}, lock {}: granted {mode}, asked for {late} ms after node {node} froze",
                key.0, key.1
            );
            self.others.add("frozen", self.queue.now(), text);
        }
    }

    /// A lock was given back at a node: whoever sleeps on an entry may have it now.
    fn stir(&mut self, node: u16) {
        let sleepers: Vec<usize> = self.hosts[usize::from(node)].sessions.values().copied().collect();
        for process in sleepers {
            if self.processes[process].alive && self.processes[process].share.is_answered() {
                self.look_soon(process);
            }
        }
    }

    /// A program is woken.
    pub(crate) fn look_soon(&mut self, index: usize) {
        let late = self.segment_random.chance(10);
        let delay = if late { MS } else { self.segment_random.between(2_000, 40_000) };
        self.look_at(index, self.queue.now() + delay);
    }

    pub(crate) fn look_at(&mut self, index: usize, at: Time) {
        let process = &mut self.processes[index];
        if at < process.looks_at {
            process.looks_at = at;
            self.queue.push(at, Happening::Look { process: index, client: process.client });
        }
    }

    /// A program looks at its entries.
    pub(crate) fn look(&mut self, index: usize, client: Client) {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        if process.client != client || !process.alive || process.parting {
            return;
        }
        if now < process.frozen_until {
            process.looks_at = Time::MAX;
            return self.look_at(index, self.processes[index].frozen_until);
        }
        if process.looks_at <= now {
            process.looks_at = Time::MAX;
        }
        let mut out = Outcome::default();
        process.share.look(&mut self.segment_random, &mut out);
        self.note_entries(&out);
        self.carry_out(index, out);
    }

    /// Between any two things that happen some program may look.
    pub(crate) fn look_somewhere(&mut self) {
        if self.mix.attached.is_none() || !self.segment_random.chance(20) {
            return;
        }
        let index = self.segment_random.below(self.processes.len() as u64) as usize;
        if self.processes[index].share.is_attached() {
            self.look(index, self.processes[index].client);
        }
    }

    /// A program stands still for a while, perhaps for longer than its node's lease.
    pub(crate) fn freeze(&mut self) {
        let now = self.queue.now();
        if self.phase != Phase::Load {
            return;
        }
        let gap = self.segment_random.below(4 * S);
        self.queue.push(now + gap, Happening::Freeze);
        let index = self.segment_random.below(self.processes.len() as u64) as usize;
        let length = self.segment_random.spread(MS, 5 * S);
        let node = self.processes[index].node;
        self.cover(FaultKind::ProgramStands, &[node]);
        self.hold_up(index, now + length);
    }

    /// Nobody goes on earlier than he would have.
    fn hold_up(&mut self, index: usize, until: Time) {
        let until = until.min(self.plan.polite - 10 * MS);
        self.processes[index].frozen_until = self.processes[index].frozen_until.max(until);
    }

    /// What holds a node up may hold its programs up as well, and for longer.
    pub(crate) fn freeze_some(&mut self, node: u16, until: Time) {
        if self.mix.attached.is_none() || !self.segment_random.chance(700) {
            return;
        }
        for index in 0..self.processes.len() {
            if self.processes[index].node == node && self.segment_random.chance(600) {
                let longer = self.segment_random.spread(MS / 10, S);
                self.hold_up(index, until + longer);
            }
        }
    }

    /// A program finds that nothing it has in a segment can be believed: its session is over.
    pub(crate) fn forsake(&mut self, index: usize) {
        let (client, node) = (self.processes[index].client, self.processes[index].node);
        self.hosts[usize::from(node)].sessions.remove(&client);
        self.put(index, Input::Hangup { client });
        self.bury(index);
        self.lost(index);
    }

    /// The process of a session that is over ends a while later: then its places may be used again.
    pub(crate) fn bury(&mut self, index: usize) {
        let process = &self.processes[index];
        let host = &self.hosts[usize::from(process.node)];
        if !process.share.is_attached() || host.starts != process.life {
            return;
        }
        let now = self.queue.now();
        let (client, node) = (self.processes[index].client, self.processes[index].node);
        let sent = self.processes[index].socket.reaches_node(now, &mut self.segment_random);
        let at = sent + self.segment_random.spread(100_000, 400 * MS);
        let run = Some(self.hosts[usize::from(node)].starts);
        self.queue.push(at, Happening::Input { node, run, input: Input::Gone { client } });
    }

    // ----- what must be true of words ---------------------------------------------------------------------

    /// Compares what words count with what entries claim. No call is under way, so they must agree at any moment; at
    /// rest nothing is left of either.
    pub(crate) fn audit(&mut self, at_rest: bool) {
        let now = self.queue.now();
        for (gate, text) in self.wrongs(at_rest) {
            // For as long as a record is being given up its gate is set, at rest too.
            if gate.is_none_or(|gate| self.gates.contains(&gate)) {
                self.others.add("words", now, text);
            }
        }
    }

    /// Notes which gates are set, a while before the end.
    pub(crate) fn note_gates(&mut self) {
        self.gates = self.wrongs(true).into_iter().filter_map(|(gate, _)| gate).collect();
    }

    /// What is wrong; of a gate that is set although nobody waits also which it is.
    fn wrongs(&self, at_rest: bool) -> Vec<(Option<Gate>, String)> {
        let mut wrong = Vec::new();
        for host in self.hosts.iter().filter(|host| host.up) {
            for (space, memory) in host.segments.iter().enumerate() {
                let mut complain = |slot: Option<u32>, text: String| {
                    let gate = slot.map(|slot| (host.index, space, slot));
                    wrong.push((gate, format!("node {}, lockspace {space}: {text}", host.index)));
                };
                audit(memory, at_rest && host.serving && self.is_whole(host.index), &mut complain);
            }
        }
        wrong
    }
}

/// A gate: at which node, in which lockspace, of which slot. The rest of its word may change while it is stuck.
pub(crate) type Gate = (u16, usize, u32);

/// Complains of what is wrong; with the number of the slot if it is a gate that is set although nobody waits.
fn audit(memory: &Memory, at_rest: bool, complain: &mut dyn FnMut(Option<u32>, String)) {
    let geometry = memory.geometry();
    let mut claimed: BTreeMap<(u32, u64), [u32; 6]> = BTreeMap::new();
    for (home, number) in (0..geometry.areas).flat_map(|home| (0..ENTRIES).map(move |number| (home, number)))
    {
        let first = geometry.entry(home, number);
        let state = State(memory.peek(first + entry::STATE));
        let Some(stage) = state.stage() else {
            complain(None, format!("entry {number} of area {home} is in no stage"));
            continue;
        };
        // What a program leaves that outlives its session is nobody's, until the area is used again.
        let live = memory.peek(geometry.area(home) + area::SESSION) & 1 == 1;
        if at_rest && live && stage != Stage::Free {
            complain(None, format!("entry {number} of area {home} is {state:?} at rest"));
        }
        let counts = matches!(stage, Stage::Held | Stage::Asking | Stage::Ending | Stage::Handed);
        if let Some(mode) = state.mode().filter(|_| counts) {
            let place =
                (memory.peek(first + entry::SLOT) as u32, memory.peek(first + entry::SLOT_GENERATION));
            claimed.entry(place).or_default()[mode as usize] += 1;
        }
    }
    for number in 0..geometry.slots {
        let first = geometry.slot(number);
        let generation = memory.peek(first + slot::GENERATION);
        if generation == 0 {
            break;
        }
        let entries = claimed.remove(&(number, generation)).unwrap_or_default();
        if generation & 1 == 0 {
            continue;
        }
        let word = Grant(memory.peek(first + slot::WORD));
        for (counted, claims) in word.counts().0.into_iter().zip(entries) {
            // One more stands for all that the node keeps in its own table.
            if counted != claims && counted != claims + 1 {
                complain(None, format!("slot {number} is {word:?}, and its entries claim {entries:?}"));
                break;
            }
        }
        if at_rest && !word.unheld() {
            complain(None, format!("slot {number} is {word:?} at rest"));
        }
        if at_rest && word.gate() && word.owned().is_some() {
            complain(Some(number), format!("the gate of slot {number} is set, and nobody waits: {word:?}"));
        }
    }
    if let Some((place, modes)) = claimed.into_iter().next() {
        complain(None, format!("entries claim {modes:?} on {place:?}, which is no slot any more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::id::{Epoch, SessionId};
    use oarlock_layout::name::Name;
    use oarlock_layout::token::Fence;
    use oarlock_shm::{Caller, Clock, First, Party, Taken};

    struct Still;

    impl Clock for Still {
        fn coarse(&self) -> u64 {
            1
        }
    }

    fn complaints(memory: &Memory, at_rest: bool) -> Vec<String> {
        let mut all = Vec::new();
        audit(memory, at_rest, &mut |_, text| all.push(text));
        all
    }

    fn gates(memory: &Memory) -> Vec<u32> {
        let mut all = Vec::new();
        audit(memory, true, &mut |slot, _| all.extend(slot));
        all
    }

    #[test]
    fn an_audit_sees_a_count_without_an_entry_and_what_is_left_at_rest() {
        let memory = Memory::private(Geometry { slots: 4, areas: 2, entries: ENTRIES }, 1);
        let mut hub = Hub::new(memory.clone());
        hub.renew(1 << 40);
        let slot = hub.bind(&Name::new(b"r").unwrap()).unwrap();
        hub.raise(slot, Mode::PR, Fence::new(Epoch(1), 1));
        hub.clear_gate(slot);
        let place = hub.attach(SessionId(1), 0).unwrap();
        let caller = Caller::new(memory.clone(), place, Still);
        assert_eq!(complaints(&memory, true), [""; 0]);
        let spot = caller.find(b"r").unwrap();
        let Taken::Held { hold, .. } =
            caller.acquire(spot, Mode::PR, &Party::default(), true, First::seat(0))
        else {
            panic!("it is owned, and free");
        };
        assert_eq!(complaints(&memory, false), [""; 0]);
        assert_eq!(complaints(&memory, true).len(), 2, "an entry and a count at rest");
        let cell = memory.geometry().slot(slot.0) + slot::WORD;
        let word = Grant(memory.peek(cell));
        for wrong in [word.without(Mode::PR), word.with(Mode::PR).unwrap().with(Mode::PR).unwrap()] {
            memory.scribble(cell, wrong.0);
            assert_eq!(complaints(&memory, false).len(), 1, "{wrong:?}");
        }
        memory.scribble(cell, word.0);
        caller.release(hold).unwrap();
        assert_eq!(complaints(&memory, true), [""; 0]);
        hub.set_gate(slot);
        assert_eq!(complaints(&memory, true).len(), 1, "a gate without a queue");
        // It is the same gate whatever else its word says a moment later.
        assert_eq!(gates(&memory), [slot.0]);
        hub.raise(slot, Mode::EX, Fence::new(Epoch(1), 2));
        hub.set_gate(slot);
        assert_eq!(gates(&memory), [slot.0]);
    }
}
