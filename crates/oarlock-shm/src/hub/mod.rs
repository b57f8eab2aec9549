//! The node's side of a segment: held locks behind [`Words`], while programs change them too.
//!
//! ```text
//!   the lock room ──Words──► Hub ──exchanges──► segment ◄──exchanges── callers
//!                             │ truth: names, owned, gate, fence, turn
//!                             │ locks of programs that do not map the segment
//! ```
//!
//! What is read from the segment is a claim: it is bounded, checked against what the node knows, and never waited for.
//! A slot whose word says something else than the node wrote is put right with the node's next write to it.
//!
//! | file | what |
//! | --- | --- |
//! | `mod` | slots, words, values, tokens, bells |
//! | `locks` | held locks: in entries, and in the node's own table |
//! | `recount` | what a death or the end of a session leaves |
//! | `directory` | names to slots, for callers |
//! | `areas` | which area is whose |
//! | `written` | what outlives the program that the node is made of |

mod areas;
mod directory;
mod locks;
mod recount;
mod words;
pub(crate) mod written;

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::HashTable;
use oarlock_layout::id::{LockId, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::{header, slot, tail};
use oarlock_layout::segment::{Counts, Grant, Locks, State, Wake, Word};
use oarlock_layout::token::{Fence, Token};

use crate::bells::Ears;
use crate::cells::{exchange_grant, grant};
use crate::memory::Memory;
use crate::names;
use crate::sync::{FIELD, LOOK, Place as At, SHOW, TAKE, fence};
use areas::Areas;
use directory::Directory;

/// How often a word is exchanged in vain before it is overwritten. Callers that keep to the rules move on between two
/// attempts; whoever changes the word as fast as we look is not one of them.
const EXCHANGES_MAX: u32 = 1_000;

/// The node's side of one segment.
#[derive(Debug)]
pub struct Hub {
    memory: Arc<Memory>,
    seed: u64,
    /// By slot.
    places: Vec<Option<Place>>,
    names: HashTable<u32>,
    free: Vec<u32>,
    directory: Directory,
    /// Locks that stand in no entry, and those whose count was full.
    kept: Locks,
    areas: Areas,
    ears: Ears,
    /// Slots that the hub itself has something to say about.
    rung: VecDeque<u32>,
    wakes: VecDeque<Wake>,
    /// Slots whose last writer died before anybody knew what it had written.
    spoilt: BTreeSet<u32>,
}

/// What the node knows of a slot.
#[derive(Debug)]
struct Place {
    name: Name,
    generation: u64,
    fence: Fence,
    turn: u16,
    owned: Option<Mode>,
    gate: bool,
    keep: bool,
    /// Every lock here that blocks one of these modes (a bit each) has been told so.
    told: u8,
    value_ready: bool,
    /// First granule of a long name, counted from one.
    granule: Option<NonZeroU32>,
    rare: Option<Box<Rare>>,
}

/// What few slots need.
#[derive(Debug, Default)]
struct Rare {
    /// Locks in the node's own table, by mode; the word counts one for each mode that has any.
    kept: [u32; 6],
    /// The waiter named in the tail, and its state word then.
    offered: Option<(LockId, State)>,
    told_but: Option<(Mode, LockId)>,
}

impl Place {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn kept(&self, mode: Mode) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.kept[mode as usize])
    }

    fn offered(&self) -> Option<(LockId, State)> {
        self.rare.as_ref().and_then(|rare| rare.offered)
    }

    /// Everybody here is to be told anew.
    fn untell(&mut self) {
        self.told = 0;
        if let Some(rare) = &mut self.rare {
            rare.told_but = None;
        }
    }

    /// A word that callers left, with the node's own knowledge put back into it.
    fn own(&self, word: Grant) -> Grant {
        let mut word = word.with_owned(self.owned).with_keep(self.keep).with_gate(self.gate || word.gate());
        if let Some(rare) = &self.rare {
            // What stands in the node's own table is counted, or a foreign hand could have two of those granted.
            for mode in Mode::ALL.into_iter().filter(|mode| rare.kept[*mode as usize] > 0) {
                if word.count(mode) == 0 {
                    word = word.with_own(mode).unwrap_or(word);
                }
            }
        }
        if word.turn() == self.turn && !word.shut() { word } else { word.shut_for(self.turn).reopened() }
    }
}

impl Hub {
    /// The hub of a segment that was just made.
    pub fn new(memory: Arc<Memory>) -> Hub {
        let seed = memory[header::SEED].load(FIELD);
        Hub {
            areas: Areas::new(memory.geometry().areas),
            memory,
            seed,
            places: Vec::new(),
            names: HashTable::new(),
            free: Vec::new(),
            directory: Directory::new(),
            kept: Locks::with_seed(seed),
            ears: Ears::default(),
            rung: VecDeque::new(),
            wakes: VecDeque::new(),
            spoilt: BTreeSet::new(),
        }
    }

    /// The segment.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn place(&self, slot: Slot) -> &Place {
        self.places[slot.0 as usize].as_ref().expect("a bound slot")
    }

    fn place_mut(&mut self, slot: Slot) -> &mut Place {
        self.places[slot.0 as usize].as_mut().expect("a bound slot")
    }

    fn hash(&self, name: &Name) -> u64 {
        names::hash(name.as_bytes(), self.seed)
    }

    // ----- the word -------------------------------------------------------------------------------------

    /// Changes a word: `change` sees what is there, with the node's own knowledge, and gives what shall be; none leaves
    /// it. Returns what was there and what is now.
    fn update(
        &self,
        slot: Slot,
        mut change: impl FnMut(Grant) -> Option<Grant>,
    ) -> Result<(Grant, Grant), Grant> {
        let cell = &self.memory.slot(slot.0)[slot::WORD];
        let place = self.place(slot);
        let mut there = grant(cell);
        for _ in 0..EXCHANGES_MAX {
            let now = place.own(there);
            let Some(then) = change(now) else { return Err(now) };
            match exchange_grant(cell, there, then) {
                Ok(()) => return Ok((now, then)),
                Err(other) => there = other,
            }
        }
        let now = place.own(Grant(cell.load(LOOK)));
        let Some(then) = change(now) else { return Err(now) };
        cell.store(then.0, SHOW);
        Ok((now, then))
    }

    fn word(&self, slot: Slot) -> Grant {
        self.place(slot).own(grant(&self.memory.slot(slot.0)[slot::WORD]))
    }

    /// A word as the room sees it: all locks, also those that the word counts as one.
    fn view(&self, slot: Slot, word: Grant) -> Word {
        let place = self.place(slot);
        let counts = Counts(Mode::ALL.map(|mode| {
            let (all, kept) = (word.count(mode), place.kept(mode));
            if kept == 0 { all } else { all.saturating_sub(1) + kept }
        }));
        Word { counts, owned: place.owned, gate: word.gate() }
    }

    // ----- slots ----------------------------------------------------------------------------------------

    fn bind_slot(&mut self, name: &Name) -> Option<Slot> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if (self.places.len() as u32) < self.memory.geometry().slots => {
                self.places.push(None);
                self.places.len() as u32 - 1
            }
            None => return None,
        };
        let hash = self.hash(name);
        let line = self.memory.slot(number);
        // Nobody takes what is written here for a name's before the generation is odd.
        let generation = line[slot::GENERATION].load(FIELD) | 1;
        let turn = grant(&line[slot::WORD]).turn().wrapping_add(1);
        fence(At::Rename);
        let granule = self.directory.write_name(&self.memory, number, hash, name.as_bytes());
        line[slot::USERS].store(0, FIELD);
        let tail = self.memory.tail(number);
        tail[tail::FENCE].store(0, FIELD);
        tail[tail::OFFERED].store(0, FIELD);
        self.memory.clear_block(number);
        line[slot::WORD].store(Grant::bound(turn).0, SHOW);
        line[slot::GENERATION].store(generation, SHOW);
        let place = Place {
            name: name.clone(),
            generation,
            fence: Fence::default(),
            turn,
            owned: None,
            gate: true,
            keep: true,
            told: 0,
            value_ready: false,
            granule: granule.and_then(|first| NonZeroU32::new(first + 1)),
            rare: None,
        };
        self.places[number as usize] = Some(place);
        self.index(number);
        let (seed, places) = (self.seed, &self.places);
        let hash_of = |number: u32| {
            let place = places.get(number as usize)?.as_ref()?;
            Some(names::hash(place.name.as_bytes(), seed))
        };
        let (bound, slots) = (self.names.len() as u32, places.len() as u32);
        if granule.is_some() || name.as_bytes().len() <= oarlock_layout::segment::geometry::INLINE_BYTES {
            self.directory.insert(&self.memory, hash, number, bound, slots, hash_of);
        }
        Some(Slot(number))
    }

    /// Lets the name of a bound slot be found.
    fn index(&mut self, number: u32) {
        let (seed, places) = (self.seed, &self.places);
        let hash_of = |number: &u32| {
            let place = places.get(*number as usize).and_then(Option::as_ref);
            place.map_or(0, |place| names::hash(place.name.as_bytes(), seed))
        };
        self.names.insert_unique(hash_of(&number), number, hash_of);
    }

    /// Takes a slot away. False if a lock is counted in it.
    fn evict_slot(&mut self, slot: Slot) -> bool {
        if self.place(slot).rare.as_ref().is_some_and(|rare| rare.kept.iter().any(|kept| *kept > 0)) {
            return false;
        }
        let turn = self.place(slot).turn.wrapping_add(1);
        // In one exchange with the look at the counts: a caller that was about to take a lock finds another turn.
        if self.update(slot, |word| word.unheld().then(|| word.with_gate(true).shut_for(turn))).is_err() {
            return false;
        }
        let place = self.places[slot.0 as usize].take().expect("a bound slot");
        let line = self.memory.slot(slot.0);
        line[slot::GENERATION].store(place.generation.wrapping_add(1), SHOW);
        let hash = self.hash(&place.name);
        self.names.find_entry(hash, |number| *number == slot.0).expect("a bound slot has a name").remove();
        self.directory.remove(&self.memory, hash, slot.0);
        self.directory.free_name(place.name.as_bytes(), place.granule.map(|first| first.get() - 1));
        self.free.push(slot.0);
        true
    }

    fn find_slot(&self, name: &Name) -> Option<Slot> {
        let is =
            |number: &u32| self.places[*number as usize].as_ref().is_some_and(|place| place.name == *name);
        self.names.find(self.hash(name), is).map(|number| Slot(*number))
    }

    // ----- tokens ---------------------------------------------------------------------------------------

    /// The token that a grant in `mode` draws (R6).
    fn draw(&self, slot: Slot, mode: Mode) -> Token {
        let local = &self.memory.tail(slot.0)[tail::LOCAL];
        let local =
            if mode.exclusive() { local.fetch_add(1, TAKE).wrapping_add(1) } else { local.load(LOOK) };
        Token { fence: self.place(slot).fence, local }
    }

    fn current(&self, slot: Slot) -> Token {
        Token { fence: self.place(slot).fence, local: self.memory.tail(slot.0)[tail::LOCAL].load(LOOK) }
    }
}
