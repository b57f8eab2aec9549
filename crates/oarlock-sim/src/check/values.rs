//! Value blocks (I8, R5; scenarios 26-35): a read sees one write as a whole, the newest that it can have seen,
//! or is told that the block cannot be believed.
//!
//! Writers exclude each other, so what happened to a block has an order: that of the requests that did it.
//! For each resource the checker keeps this list, and after each step the set of *contents* that are possible
//! then. One is usual; there are more when a client died without hearing whether it was granted a writing mode
//! or whether its last write was done. A read must find a content that was possible at some step between
//!
//! * the last step that was certainly over when the read was asked (or, if the reader's mode conflicts with
//!   the writer's, the last one that was asked for at all: it must have come first), and
//! * the last step when the read was answered.
//!
//! The sequence tells contents apart: it never falls, and the same number is never another block. A resource
//! that nobody is known to hold may vanish with its block, and begin again at zeros.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_layout::value::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::Findings;
use crate::history::{
    Ask, Block, Event, Ledger, Lock, LockKey, Mark, Pending, PendingKind, Rules, Told, What,
};

/// What a block may hold: which bytes (by hash), and whether it can be believed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Content {
    bytes: u64,
    valid: bool,
    /// Written at least once; a block that never was is not invalidated either (scenario 35).
    had: bool,
}

/// From the verdict about a node until all locks are recovered, at most.
const RECOVERY_MAX: u64 = 8_000_000_000;
/// Steps kept per resource; reads that span more are judged by what is left.
const STEPS_MAX: usize = 512;

#[derive(Debug)]
struct Track {
    /// Contents possible after step `base`, `base + 1`, …
    steps: VecDeque<BTreeSet<Content>>,
    base: u64,
    /// Steps up to here are known to be over: somebody heard the answer to the last of them.
    done: u64,
    /// For each step that a living client asked for and has no answer to: which one it is.
    asked: BTreeMap<LockKey, u64>,
    /// Reads under way: the step that was over when they were asked.
    reads: BTreeMap<LockKey, u64>,
    /// Steps that are deaths of writers: when, and the mode that died. Nobody hears an answer to a death; it is
    /// over when a conflicting mode is granted, or at the latest when its traces are gone.
    deaths: Vec<(u64, u64, Mode)>,
    /// Until then a dead client's last request may still be granted, and the block invalidated for its death.
    shaky_until: u64,
    /// Until then others may not have recovered from these nodes that were put out, or from any.
    doubted: Vec<(Option<u16>, u64)>,
    /// Nothing was written since then that others must know: whatever is there may be marked.
    doubtful: bool,
    /// Contents seen in this life, by sequence; and the highest sequence that a finished read saw.
    seen: BTreeMap<u64, (u64, bool)>,
    floor: Floor,
    /// The floor when a read that is under way was asked.
    floors: BTreeMap<LockKey, Floor>,
}

/// Below it nobody reads any more.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    /// For everybody: what was written.
    written: u64,
    /// For whoever was granted its lock in the view whose mark this is, or later. A mark says only that nobody knows; a run that the view has put out
    /// does not hear of it, and reads what it has until its lease is over.
    marked: u64,
}

impl Floor {
    /// Bits of a sequence below the view that has marked the block.
    const VIEW_SHIFT: u32 = 40;

    fn rise(&mut self, value: &Value) {
        let is_mark = !value.valid && value.sequence.trailing_zeros() >= Floor::VIEW_SHIFT;
        let floor = if is_mark { &mut self.marked } else { &mut self.written };
        *floor = value.sequence.max(*floor);
    }

    /// For a lock granted in this view, if that is known.
    fn below(self, view: Option<u32>) -> u64 {
        let unheard = view.is_some_and(|view| u64::from(view) < self.marked >> Floor::VIEW_SHIFT);
        if unheard { self.written } else { self.written.max(self.marked) }
    }
}

impl Default for Track {
    fn default() -> Track {
        Track {
            steps: [BTreeSet::from([never()])].into(),
            base: 0,
            done: 0,
            asked: BTreeMap::new(),
            reads: BTreeMap::new(),
            deaths: Vec::new(),
            shaky_until: 0,
            doubted: Vec::new(),
            doubtful: false,
            seen: BTreeMap::new(),
            floor: Floor::default(),
            floors: BTreeMap::new(),
        }
    }
}

fn never() -> Content {
    Content { bytes: xxh3_64(&[0; VALUE_BYTES]), valid: true, had: false }
}

/// After the departure of a node that may have written, if only the first block of all.
fn marked(content: &Content) -> Content {
    Content { valid: false, had: true, ..*content }
}

fn invalidated(content: Content) -> Content {
    Content { valid: content.valid && !content.had, ..content }
}

impl Track {
    fn last(&self) -> u64 {
        self.base + self.steps.len() as u64 - 1
    }

    fn now(&self) -> &BTreeSet<Content> {
        self.steps.back().expect("there is always a first step")
    }

    /// Something happened to the block; `contents` are possible from here on.
    fn step(&mut self, contents: BTreeSet<Content>) -> u64 {
        self.steps.push_back(contents);
        if self.steps.len() > STEPS_MAX {
            self.steps.pop_front();
            self.base += 1;
        }
        self.last()
    }

    /// Whatever is read now may be marked, for a reason that nobody wrote down.
    fn is_doubtful(&self, at: u64) -> bool {
        self.doubtful || at < self.shaky_until
    }

    /// `node` is where it is written.
    fn wrote(&mut self, at: u64, node: Option<u16>, bytes: &Block) -> u64 {
        let written = Content { bytes: xxh3_64(bytes), valid: true, had: true };
        let mut contents = BTreeSet::from([written]);
        if at < self.shaky_until {
            contents.insert(invalidated(written));
        }
        self.doubted.retain(|(_, until)| at < *until);
        if self.doubted.iter().any(|(gone, _)| gone.is_none() || node.is_none() || *gone == node) {
            // It may be written at the very node that has been put out and has not heard of it.
            contents.extend(self.now().iter().filter(|content| !content.valid).copied());
        } else if self.doubted.is_empty() {
            self.doubtful = false;
        }
        self.step(contents)
    }

    /// A node was put out: of what it may have written others know the last block they were told of, and mark it. Until
    /// they have recovered a block that is written and told to the node that left is marked as well.
    fn doubt(&mut self, at: u64, node: Option<u16>) {
        let contents = self.steps.iter().flatten().map(marked).chain(self.now().iter().copied()).collect();
        self.step(contents);
        self.shaky_until = self.shaky_until.max(at + RECOVERY_MAX);
        self.doubted.push((node, at + RECOVERY_MAX));
        self.doubtful = true;
    }

    /// Deaths of which `over` is true have been dealt with.
    fn bury(&mut self, over: impl Fn(u64, Mode) -> bool) {
        let done = &mut self.done;
        self.deaths.retain(|(at, step, mode)| {
            let over = over(*at, *mode);
            if over {
                *done = (*done).max(*step);
            }
            !over
        });
    }

    /// The resource may have vanished, and its block with it.
    fn may_vanish(&mut self) {
        self.steps.back_mut().expect("there is always a first step").insert(never());
        self.seen.clear();
        self.floor = Floor::default();
        self.floors.values_mut().for_each(|f| *f = Floor::default());
    }
}

/// Follows every block.
#[derive(Debug, Default)]
pub struct Values {
    tracks: Vec<Track>,
    /// Nodes that were put out, and when, as long as others may not have recovered from it.
    gone: Vec<(Option<u16>, u64)>,
    /// When each node was put out last.
    out: BTreeMap<u16, u64>,
    now: u64,
    reads: Reads,
}

/// How many reads of blocks were judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reads {
    /// All.
    pub all: u64,
    /// Of these, where a mark needed a reason: nobody had left or died who may have written since the last write.
    pub certain: u64,
}

impl Values {
    /// An event that the ledger has not entered yet.
    pub fn see(&mut self, rules: &Rules, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        self.now = event.at;
        match &event.what {
            What::Asked { client, handle, ask } => {
                self.asked(rules, ledger, event.at, (*client, *handle), ask);
            }
            What::Told { client, handle, told } => {
                let Some(lock) = ledger.lock((*client, *handle)) else { return };
                if let Err(why) = self.told(event.at, lock, told) {
                    let name = &ledger.resource(lock.resource).name;
                    findings.add("value", event.at, format!("{name:?}, client {client}: {why}"));
                }
                let ends = match told {
                    Told::Released => true,
                    Told::Failed { .. } => lock.held.is_none(),
                    Told::Granted { .. } | Told::Token { .. } | Told::Blocking { .. } => false,
                };
                if ends {
                    self.left(ledger, lock);
                }
            }
            What::Ended { client, .. } => {
                for lock in ledger.locks_of(*client) {
                    self.ended(rules, event.at, lock);
                    self.left(ledger, lock);
                }
            }
            What::Mark(Mark::NewCluster) => self.tracks.clear(),
            What::Mark(Mark::NodeGone(node)) => {
                self.gone.retain(|(_, gone)| event.at < gone + RECOVERY_MAX);
                self.gone.push((*node, event.at));
                self.tracks.iter_mut().for_each(|track| track.doubt(event.at, *node));
                if let Some(node) = node {
                    self.out.insert(*node, event.at);
                    for resource in 0..self.tracks.len() {
                        if !self.is_kept(ledger, resource, None) {
                            self.track(resource).may_vanish();
                        }
                    }
                }
            }
            What::Opened { .. } | What::Mark(_) => {}
        }
    }

    fn track(&mut self, resource: usize) -> &mut Track {
        while self.tracks.len() <= resource {
            let mut track = Track::default();
            // Whoever left may have used it before anybody else.
            for (node, gone) in &self.gone {
                if self.now < gone + RECOVERY_MAX {
                    track.doubt(*gone, *node);
                }
            }
            self.tracks.push(track);
        }
        &mut self.tracks[resource]
    }

    fn asked(&mut self, rules: &Rules, ledger: &Ledger, at: u64, key: LockKey, ask: &Ask) {
        let (resource, held, flags, to, value, invalidate) = match ask {
            Ask::Lock { space, name, flags, .. } => {
                (ledger.index(*space, name), None, *flags, None, &None, false)
            }
            Ask::Convert { mode, flags, value, .. } => {
                let Some(lock) = ledger.lock(key) else { return };
                let invalidate = flags.contains(Flags::IVVALBLK);
                let value = if flags.contains(Flags::VALBLK) { value } else { &None };
                (lock.resource, lock.certain(), *flags, Some(*mode), value, invalidate)
            }
            Ask::Unlock { value, invalidate } => {
                let Some(lock) = ledger.lock(key) else { return };
                // The certain part of a lock that still converts is less than it may hold; whether such an
                // unlock writes is known only where both modes agree.
                (lock.resource, lock.certain(), Flags::empty(), None, value, *invalidate)
            }
            Ask::Cancel => return,
        };
        let track = self.track(resource);
        track.bury(|died, _| died + rules.linger <= at);
        if flags.contains(Flags::VALBLK) {
            let (done, floor) = (track.done, track.floor);
            track.reads.insert(key, done);
            track.floors.insert(key, floor);
        }
        let unlock = matches!(ask, Ask::Unlock { .. });
        if !held.is_some_and(|from| unlock && from.writes_value() || to.is_some_and(|to| writes(from, to))) {
            return;
        }
        let step = if invalidate {
            let contents = track.now().iter().copied().map(invalidated).collect();
            track.step(contents)
        } else if let Some(block) = value {
            track.wrote(at, ledger.node(key.0), block)
        } else {
            return;
        };
        track.asked.insert(key, step);
    }

    fn told(&mut self, at: u64, lock: &Lock, told: &Told) -> Result<(), String> {
        let track = self.track(lock.resource);
        match told {
            Told::Blocking { .. } | Told::Token { .. } => return Ok(()),
            Told::Granted { .. } | Told::Released | Told::Failed { .. } => {
                let answered = lock.unlocking.is_none() || matches!(told, Told::Released);
                if answered && let Some(step) = track.asked.remove(&lock.key) {
                    track.done = track.done.max(step);
                }
            }
        }
        let from = track.reads.remove(&lock.key);
        let floor = track.floors.remove(&lock.key).unwrap_or_default();
        let Told::Granted { mode, value, token, .. } = told else { return Ok(()) };
        let floor = floor.below(token.map(|token| token.fence.epoch().0));
        track.bury(|_, dead| !dead.compatible(*mode));
        let (Some(pending), Some(from)) = (&lock.pending, from) else { return Ok(()) };
        if lock.unlocking.is_some() {
            return Ok(());
        }
        if !reads(lock, pending, *mode) {
            let writer = lock.held.is_some_and(|h| h.mode.writes_value());
            return if writer { Ok(()) } else { judge_way_down(track, at, (from, floor), value.as_deref()) };
        }
        let Some(value) = value else {
            return Err(format!("granted {mode} without the value block it asked for"));
        };
        let certain = !track.is_doubtful(at);
        let judged = judge_read(track, at, *mode, (from, floor), value);
        self.reads.all += 1;
        self.reads.certain += u64::from(certain);
        judged
    }

    /// How many reads were judged so far.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// A client died, or its session did. What it held in a writing mode is invalidated, as far as it held it. A program that
    /// hears of the end of its session lives, and may give its locks back in memory that it shares with others before
    /// anybody invalidates anything; the history says so if it does.
    fn ended(&mut self, rules: &Rules, at: u64, lock: &Lock) {
        let track = self.track(lock.resource);
        track.reads.remove(&lock.key);
        track.floors.remove(&lock.key);
        let asked = track.asked.remove(&lock.key);
        let certain = lock.certain().is_some_and(Mode::writes_value);
        let possible = lock.possible().is_some_and(Mode::writes_value);
        let spoiled: BTreeSet<Content> = track.now().iter().copied().map(invalidated).collect();
        if let Some(step) = asked.filter(|step| *step >= track.base) {
            // Its last write was done, or not, and then it died as a writer.
            let before = step.checked_sub(track.base + 1).and_then(|n| track.steps.get(n as usize)).cloned();
            let undone = before.unwrap_or_default().into_iter().map(invalidated);
            let mut contents: BTreeSet<Content> = track.now().iter().copied().chain(undone).collect();
            if possible {
                contents.extend(spoiled);
            }
            track.step(contents);
            track.shaky_until = track.shaky_until.max(at + rules.linger);
        } else if certain && lock.unlocking.is_none() {
            let step = track.step(spoiled);
            track.deaths.extend(lock.certain().map(|mode| (at, step, mode)));
        } else if possible {
            let contents = track.now().union(&spoiled).copied().collect();
            track.step(contents);
            track.shaky_until = track.shaky_until.max(at + rules.linger);
        }
    }

    /// A lock is over; if it was the last one that is known, the resource may vanish.
    fn left(&mut self, ledger: &Ledger, gone: &Lock) {
        if !self.is_kept(ledger, gone.resource, Some(gone.key)) {
            self.track(gone.resource).may_vanish();
        }
    }

    /// Does anybody keep a resource, beside this lock? Programs of a node that was put out do not, also if they have not heard of it.
    fn is_kept(&self, ledger: &Ledger, resource: usize, but: Option<LockKey>) -> bool {
        let left = |lock: &Lock| {
            let out = self.out.get(&lock.node);
            out.is_some_and(|out| lock.held.is_none_or(|held| held.at <= *out))
        };
        let others = ledger.locks_on(resource).filter(|lock| Some(lock.key) != but);
        others.into_iter().any(|lock| lock.certain().is_some() && !left(lock))
    }
}

/// Scenario 27: leaving these modes this way takes the caller's block, if it brought one.
fn writes(from: Mode, to: Mode) -> bool {
    from == Mode::EX || (from == Mode::PW && to != Mode::EX)
}

/// Scenario 26: these grants bring the block along.
fn reads(lock: &Lock, pending: &Pending, mode: Mode) -> bool {
    let Some(held) = lock.held.filter(|_| pending.kind == PendingKind::Convert) else { return true };
    match held.mode {
        Mode::NL => true,
        Mode::EX => false,
        from if from == mode => from != Mode::PW,
        // By the numbers of the modes: CW to PR reads, PR to CW does not (28).
        Mode::CW if mode == Mode::PR => true,
        from => mode.covers(from),
    }
}

/// Scenario 32: on the way down from PR, CW or CR the block is shown only if it is not to be believed, and then it
/// must be. While the answer is on its way others may write.
fn judge_way_down(
    track: &mut Track,
    at: u64,
    (from, floor): (u64, u64),
    value: Option<&Value>,
) -> Result<(), String> {
    match value {
        Some(value) if value.valid => Err("shown a valid block on the way down".into()),
        Some(value) => judge_read(track, at, Mode::NL, (from, floor), value),
        None => {
            let skip = from.saturating_sub(track.base) as usize;
            let believable = track.steps.iter().skip(skip).flatten().any(|c| c.valid);
            if believable {
                Ok(())
            } else {
                Err("went down without hearing that the block is invalid".into())
            }
        }
    }
}

fn judge_read(
    track: &mut Track,
    at: u64,
    mode: Mode,
    (from, floor): (u64, u64),
    value: &Value,
) -> Result<(), String> {
    let bytes = xxh3_64(&value.bytes);
    let found = |c: &Content| c.bytes == bytes && c.valid == value.valid && (c.had || value.sequence == 0);
    // A reader whose mode stands beside PW may be answered while a write is under way.
    let beside_writer = mode.compatible(Mode::PW);
    let from = if beside_writer { from } else { track.last() };
    let skip = from.saturating_sub(track.base) as usize;
    let mut possible = track.steps.iter().skip(skip).flatten().copied().collect::<BTreeSet<Content>>();
    if at < track.shaky_until {
        possible.extend(possible.clone().into_iter().map(invalidated));
    }
    if track.doubtful {
        possible.extend(possible.clone().iter().map(marked));
    }
    if !possible.iter().any(found) {
        let earlier = track.steps.iter().take(skip).flatten().any(found);
        let torn = !track.steps.iter().flatten().any(|c| c.bytes == bytes);
        let spoiled = possible.iter().any(|c| c.bytes == bytes && c.valid != value.valid);
        let kind = match (torn, spoiled && value.valid, earlier) {
            (true, ..) => "nobody wrote this block",
            (_, true, _) => "a block that cannot be believed is called valid",
            (_, _, true) => "an old block",
            _ if value.valid => "a block that was never there",
            _ => "the block is called invalid without a reason",
        };
        let expected =
            possible.iter().map(|c| format!("{:08x}{}", c.bytes >> 32, if c.valid { "" } else { "!" }));
        return Err(format!(
            "{mode} read {:08x} {value:?}: {kind}; possible are {}",
            bytes >> 32,
            expected.collect::<Vec<_>>().join(", ")
        ));
    }
    if value.sequence < floor {
        return Err(format!("{mode} read sequence {}, but {floor} was read before", value.sequence));
    }
    track.floor.rise(value);
    let first = *track.seen.entry(value.sequence).or_insert((bytes, value.valid));
    if first != (bytes, value.valid) {
        return Err(format!("sequence {} stands for two different blocks", value.sequence));
    }
    if track.seen.len() > STEPS_MAX {
        track.seen.pop_first();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::check::script::{finds, passes};

    /// Client 1 has written block `a`, and an anchor keeps the resource alive.
    const WRITTEN: &str = "9 lock x NL; 9 granted NL 1.1.0; 1 lock x EX; 1 granted EX 1.1.1; \
                           1 unlock write=a; 1 released; ";

    fn story(rest: &str) -> String {
        format!("{WRITTEN}{rest}")
    }

    #[test]
    fn accepts_the_newest_block() {
        passes("fresh zeros (30)", "1 lock x PR VALBLK; 1 granted PR 1.1.0 read=0:0");
        passes("what was written", &story("2 lock x PR VALBLK; 2 granted PR 1.1.1 read=1:a"));
        passes("by another node", &story("11 lock x CR VALBLK; 11 granted CR 1.2.0 read=1:a"));
        passes(
            "a vanished resource",
            "1 lock x EX; 1 granted EX 1.1.1; 1 unlock write=a; 1 released; 2 lock x PR VALBLK; 2 granted PR 1.2.0 read=0:0",
        );
        passes(
            "a resource that only programs of a departed node kept, who have not heard of it",
            "11 lock x NL; 11 granted NL 1.1.0; 1 lock x EX; 1 granted EX 1.1.1; 1 unlock write=a; 1 released; \
             node-gone 1; 2 lock x PR VALBLK; 2 granted PR 2.1.0 read=0:0",
        );
        passes(
            "a reader beside a writer sees the block before or after",
            &story(
                "1 lock x PW; 1 granted PW 1.2.1; 2 lock x CR VALBLK; 1 unlock write=b; 2 granted CR 1.1.1 read=1:a; \
                 2 convert CR VALBLK; 2 granted CR 1.1.1 read=2:b; 1 released",
            ),
        );
        passes(
            "a release without a block leaves the old one (29)",
            &story(
                "1 lock x EX; 1 granted EX 1.1.2; 1 convert NL; 1 granted NL 1.1.2; 2 lock x PR VALBLK; 2 granted PR 1.1.2 read=1:a",
            ),
        );
        passes(
            "an older block that is marked, after a node was put out (44)",
            &story(
                "2 lock x EX; 2 granted EX 1.1.2; 2 unlock write=b; 2 released; node-gone; \
                 11 lock x CR VALBLK; 11 granted CR 2.1.0 read=9:a!",
            ),
        );
        passes(
            "invalid after a writer's death, until the next write (35, 32)",
            &story(
                "1 lock x EX; 1 granted EX 1.1.2; 1 died; 2 lock x EX VALBLK; 2 granted EX 1.1.3 read=2:a!; \
                 2 unlock write=c; 2 released; 3 lock x PR VALBLK; 3 granted PR 1.1.3 read=3:c",
            ),
        );
        for read in ["a", "a!"] {
            let lost = "1 lock x EX; 1 granted EX 1.1.2; 1 unlock; 1 lost; 2 lock x PR VALBLK; \
                        2 granted PR 1.1.2 read=2:";
            passes(
                "a session that was lost, and its program gave back in shared memory what it had, either way",
                &story(&format!("{lost}{read}")),
            );
        }
        passes(
            "a death in the middle of a release, either way",
            &story(
                "1 lock x EX; 1 granted EX 1.1.2; 1 unlock write=b; 1 died; 2 lock x PR VALBLK; 2 granted PR 1.1.2 read=2:b",
            ),
        );
        passes(
            "a death in the middle of a release, the other way",
            &story(
                "1 lock x EX; 1 granted EX 1.1.2; 1 unlock write=b; 1 died; 2 lock x PR VALBLK; 2 granted PR 1.1.2 read=2:a!",
            ),
        );
        passes(
            "a dead reader leaves it valid (35)",
            &story(
                "2 lock x PR; 2 granted PR 1.1.1; 2 died; 3 lock x PR VALBLK; 3 granted PR 1.1.1 read=1:a",
            ),
        );
    }

    #[test]
    fn rejects_an_old_block() {
        let rest = "1 lock x EX; 1 granted EX 1.1.2; 1 unlock write=b; 1 released; 2 lock x PR VALBLK; 2 granted PR 1.1.2 read=1:a";
        finds("value", "an old block", &story(rest));
    }

    #[test]
    fn rejects_an_old_block_read_beside_a_finished_write() {
        // R5 e: a CR lock under a covering CR reads what its node had.
        let rest = "2 lock x CR VALBLK; 2 granted CR 1.1.1 read=1:a; 11 lock x PW; 11 granted PW 1.2.1; \
                    11 unlock write=b; 11 released; 3 lock x CR VALBLK; 3 granted CR 1.1.1 read=1:a";
        finds("value", "an old block", &story(rest));
    }

    #[test]
    fn rejects_a_torn_block() {
        let rest = "1 lock x EX; 1 granted EX 1.1.2; 1 unlock write=b; 1 released; 2 lock x PR VALBLK; 2 granted PR 1.1.2 read=2:a|b";
        finds("value", "nobody wrote", &story(rest));
    }

    #[test]
    fn rejects_a_stale_block_called_valid_after_a_death() {
        // R5 b: the block that crashed others.
        let rest = "1 lock x EX; 1 granted EX 1.1.2; 1 died; 2 lock x PR VALBLK; 2 granted PR 1.1.3 read=1:a";
        finds("value", "called valid", &story(rest));
    }

    #[test]
    fn rejects_a_stale_block_called_valid_after_a_loss_that_nobody_gave_back() {
        let rest = "1 lock x EX; 1 granted EX 1.1.2; 1 lost; 2 lock x PR VALBLK; 2 granted PR 1.1.3 read=1:a";
        finds("value", "called valid", &story(rest));
    }

    #[test]
    fn rejects_a_block_called_valid_beside_the_lock_of_a_dead_writer() {
        // 35: CR stands beside PW, so nothing but time, or a later grant, tells that the death was dealt with.
        let dead = "1 lock x PW; 1 granted PW 1.1.2; 1 died; ";
        let read = "11 lock x CR VALBLK; 11 granted CR 1.2.0 read=1:a";
        passes("just died", &story(&format!("{dead}{read}")));
        finds("value", "called valid", &story(&format!("{dead}@20000; {read}")));
        finds("value", "called valid", &story(&format!("{dead}2 lock x PR; 2 granted PR 1.1.2; {read}")));
    }

    #[test]
    fn rejects_a_way_down_that_keeps_silent_or_speaks_for_nothing() {
        let reader = "2 lock x CR VALBLK; 2 granted CR 1.1.1 read=1:a; ";
        let down = "2 convert NL VALBLK; 2 granted NL 1.1.1";
        let marked = "1 lock x PW; 1 granted PW 1.1.2; 1 unlock invalidate; 1 released; ";
        passes("it is valid", &story(&format!("{reader}{down}")));
        passes("it is not, and that is said (32)", &story(&format!("{reader}{marked}{down} read=2:a!")));
        finds("value", "went down", &story(&format!("{reader}{marked}{down}")));
        finds("value", "without a reason", &story(&format!("{reader}{down} read=2:a!")));
    }

    #[test]
    fn rejects_zeros_called_valid_where_a_block_was_lost() {
        let rest = "2 lock x PR VALBLK; 2 granted PR 1.1.1 read=0:0";
        finds("value", "old block", &story(rest));
    }

    #[test]
    fn rejects_an_older_marked_block_after_a_write_at_a_node_that_stayed() {
        // Node 2 was put out. A block written at node 0 since then may be marked, but it does not give way to an older one.
        let gone = "1 lock x EX; 1 granted EX 1.1.2; 1 unlock invalidate; 1 released; node-gone 2; \
                    2 lock x EX; 2 granted EX 2.1.1; 2 unlock write=b; 2 released; 3 lock x PR VALBLK; ";
        finds("value", "an old block", &story(&format!("{gone}3 granted PR 2.1.1 read=2:a!")));
        passes("the newest, marked", &story(&format!("{gone}3 granted PR 2.1.1 read=3:b!")));
        // At the node that was put out it may be lost; and if nobody knows which that was, anywhere.
        for unknown in ["node-gone 0", "node-gone"] {
            let gone = gone.replace("node-gone 2", unknown);
            passes("lost with its node", &story(&format!("{gone}3 granted PR 2.1.1 read=2:a!")));
        }
    }

    #[test]
    fn a_mark_binds_those_who_can_have_heard_of_it() {
        let marked = 2u64 << 40;
        let gone = format!(
            "node-gone 2; 2 lock x NL VALBLK; 2 granted NL 2.1.0 read={marked}:a!; 3 lock x PR VALBLK; "
        );
        passes("put out, and within its lease", &story(&format!("{gone}3 granted PR 1.1.1 read=1:a")));
        finds("value", "was read before", &story(&format!("{gone}3 granted PR 2.2.0 read=1:a")));
    }

    #[test]
    fn counts_reads_in_which_a_mark_would_need_a_reason() {
        let reads = |text: &str| {
            let mut judge = crate::check::Judge::new(crate::check::script::rules());
            crate::check::script::parse(&story(text)).iter().for_each(|event| judge.see(event));
            judge.reads()
        };
        let read = "2 lock x PR VALBLK; 2 granted PR 1.1.1 read=1:a";
        let (quiet, doubted) = (reads(read), reads(&format!("node-gone 1; {read}")));
        assert_eq!((quiet.all, doubted.all), (doubted.all, quiet.all));
        assert_eq!(quiet.certain, doubted.certain + 1);
    }

    #[test]
    fn rejects_an_invalid_mark_without_a_reason() {
        finds("value", "without a reason", &story("2 lock x PR VALBLK; 2 granted PR 1.1.1 read=2:a!"));
    }

    #[test]
    fn rejects_a_sequence_that_falls_or_means_two_blocks() {
        let falls = "2 lock x PR VALBLK; 2 granted PR 1.1.1 read=5:a; 3 lock x PR VALBLK; 3 granted PR 1.1.1 read=4:a";
        finds("value", "was read before", &story(falls));
        let twice = "2 lock x PR VALBLK; 2 granted PR 1.1.1 read=1:a; 2 unlock; 2 released; 1 lock x EX; \
                     1 granted EX 1.1.2; 1 unlock write=b; 1 released; 2 lock x PR VALBLK; 2 granted PR 1.1.2 read=1:b";
        finds("value", "two different", &story(twice));
    }

    #[test]
    fn rejects_a_missing_block_and_a_lost_invalidation() {
        finds("value", "without the value", &story("2 lock x PR VALBLK; 2 granted PR 1.1.1"));
        let rest = "1 lock x EX; 1 granted EX 1.1.2; 1 unlock invalidate; 1 released; 2 lock x PR VALBLK; 2 granted PR 1.1.2 read=1:a";
        finds("value", "called valid", &story(rest));
    }
}
