//! Slots come and go, and what the lock room decides: `hub/mod.rs`, `hub/words.rs`, and the shadow of `oarlock-lock`.

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::{Grant, Stage};
use oarlock_shm::planted::Bug;

use crate::check;
use crate::daemon::Hub;
use crate::state::{Change, Do, NOBODY, Small, Task};

impl Hub<'_> {
    // ----- Words::used, Hub::evict_slot, bind_slot, Words::lower ----------------------------------------

    pub fn slot(&mut self, task: Task, what: Do) {
        match what {
            Do::SweepLook => {
                // Shadow::evictable
                if self.world.word.unheld() {
                    self.push(Task::new(Do::UsedLoad));
                }
            }
            Do::UsedLoad => {
                if self.world.users == 0 {
                    return self.push(Task::new(Do::EvictLook));
                }
                self.world.node.turn += 1;
                self.then(&[Hub::update(Change::Unused, None, None), Task::new(Do::UsedShut)]);
            }
            Do::UsedShut => {
                // A second chance: it is not evicted this time.
                if self.world.node.said {
                    self.then(&[Task::new(Do::UsedStore), Hub::update(Change::Own, None, None)]);
                }
            }
            Do::UsedStore => self.world.users = 0,
            Do::EvictLook => {
                // Shadow::forget: only behind the gate.
                if self.world.word.unheld() {
                    self.world.node.gate = true;
                    self.then(&[Hub::update(Change::SetGate, None, None), Task::new(Do::EvictGate)]);
                }
            }
            Do::EvictGate => {
                // The master forgets; nothing is owned any more. Whoever asks meanwhile is heard after.
                if !self.world.node.said {
                    return self.push(Task::new(Do::Settle));
                }
                let (lower, evict) = (Hub::update(Change::Lower, None, None), Task::new(Do::EvictShut));
                self.then(&[lower, Hub::update(Change::Evict, None, None), evict]);
            }
            Do::EvictShut => {
                if self.world.node.said {
                    self.world.node.turn += 1;
                    self.push(Task::new(Do::EvictGeneration));
                } else {
                    // Somebody holds it: the master gives back what it was given.
                    self.then(&[
                        Task::new(Do::Owned),
                        Hub::update(Change::Own, None, None),
                        Task::new(Do::Settle),
                    ]);
                }
            }
            Do::EvictGeneration => {
                self.world.generation += 1;
                self.world.node.bound = false;
                self.world.node.owned = None;
                self.world.node.gate = true;
                self.world.node.told = 0;
                self.unoffer();
            }
            Do::BindUsers => {
                self.world.node.turn = self.world.word.turn() + 1;
                self.world.users = 0;
            }
            Do::BindOffered => {
                self.world.offer = NOBODY;
                self.world.offer_state = Small::NONE;
            }
            Do::BindWord => self.world.word = Grant::bound(self.world.node.turn),
            Do::BindGeneration => {
                self.world.generation |= 1;
                self.world.name = task.note;
                self.world.node.bound = true;
                self.world.node.gate = true;
                self.world.node.owned = None;
            }
            Do::Owned => self.world.node.owned = Some(Mode::EX),
            Do::LowerStale => {
                let stale = self.own(self.world.word).target(task.a);
                self.push(Hub::update(Change::Lower, task.a, Some(stale)));
            }
            _ => unreachable!("not of a slot"),
        }
    }

    // ----- the room -------------------------------------------------------------------------------------

    pub fn room(&mut self, task: Task, what: Do, entry: u8) {
        match what {
            Do::Ask => {
                // `a`: the mode wanted; `b`: that which is held. Lockspace::lock and convert: one request a lock.
                let held = task.b.is_none() && self.state(entry).claims().is_some();
                if (self.queued(entry) || held) && self.world.broken == 0 {
                    self.world.broken = check::IN_FLIGHT;
                    return;
                }
                self.world.node.wants[entry as usize] = task.a;
                self.world.node.from[entry as usize] = task.b;
                // Shadow::ask; comes_behind
                let convert = self.world.node.from[entry as usize].is_some();
                let behind = !convert && self.world.node.queued > 0;
                self.push(Task::of(Do::Asked, entry));
                self.world.node.said = false;
                if !behind {
                    self.push(Task::of(Do::Attempt, entry));
                }
            }
            Do::Asked => {
                let node = &mut self.world.node;
                if node.said {
                    node.wants[entry as usize] = None;
                    node.from[entry as usize] = None;
                    return self.push(Task::new(Do::Settle));
                }
                // Queues::conversion_deadlock
                let held = node.from[entry as usize];
                let queue = &node.queue[..node.queued as usize];
                let stands = |e: &u8| node.from[*e as usize].is_some();
                let wants = |e: &u8| node.wants[*e as usize].expect("it waits for something");
                let locked =
                    held.is_some_and(|held| queue.iter().any(|e| stands(e) && !wants(e).compatible(held)));
                if locked {
                    node.wants[entry as usize] = None;
                    node.from[entry as usize] = None;
                    return self.then(&[Task::of(Do::Refuse, entry), Task::new(Do::Settle)]);
                }
                self.enqueue(entry);
                self.push(Task::new(Do::Settle));
            }
            Do::Attempt => {
                // Words::look; passes_head
                let node = &self.world.node;
                let mode = node.wants[entry as usize].expect("it waits for something");
                let from = node.from[entry as usize];
                let word = self.own(self.world.word);
                let others = from.map_or(word, |from| word.without(from));
                let in_place = from.is_some_and(|from| from.covers(mode));
                let passes = node.head.is_none() || from.is_some() || in_place;
                let covered = node.owned.is_some_and(|owned| owned.covers(mode));
                self.world.node.said = false;
                if others.admits(mode) && passes && covered {
                    let what = if from.is_some() { Do::Convert } else { Do::AdmitLoad };
                    self.push(Task { a: Some(mode), ..Task::of(what, entry) });
                }
            }
            Do::Settle => {
                let waits = self.world.node.queued > 0 || self.world.node.head.is_some();
                self.then(&[
                    Task::new(Do::Scan),
                    Task::new(Do::GiveWay),
                    Task::new(Do::Notify),
                    Task::new(Do::GateEnd),
                    Task::new(Do::Offer),
                ]);
                if waits {
                    self.set_gate();
                }
            }
            Do::Scan => {
                if self.world.node.queued > 0 {
                    let first = self.world.node.queue[0];
                    self.then(&[Task::of(Do::Attempt, first), Task::of(Do::Scanned, first)]);
                }
            }
            Do::Scanned => {
                if self.world.node.said {
                    self.unqueue(entry);
                    self.push(Task::new(Do::Scan));
                }
            }
            Do::GiveWay => {
                let node = &self.world.node;
                let Some(head) = node.head else { return };
                if node.remote.is_none() && node.owned.is_some_and(|owned| !owned.compatible(head)) {
                    let queue = &node.queue[..node.queued as usize];
                    let converts = queue.iter().filter(|e| node.from[**e as usize].is_some());
                    let floor = converts.filter_map(|e| node.wants[*e as usize]).reduce(Mode::join);
                    let lower = if self.bug(Bug::StaleNeed) {
                        Task { a: floor, ..Task::new(Do::LowerStale) }
                    } else {
                        Hub::update(Change::Lower, floor, None)
                    };
                    self.push(lower);
                    self.set_gate();
                }
            }
            Do::GateEnd => {
                let node = &mut self.world.node;
                if node.queued == 0 && node.head.is_none() && node.owned.is_some() {
                    node.gate = false;
                    self.push(Hub::update(Change::ClearGate, None, None));
                } else {
                    self.set_gate();
                }
            }
            Do::Withdraw => {
                // Lockspace::withdraw, Shadow::withdraw
                self.then(&[Task::of(Do::Refuse, entry), Task { what: Do::Withdrawn, ..task }]);
            }
            Do::Withdrawn => {
                if !self.world.node.said {
                    return self.then(&[Task::new(Do::TakeUp), Task::new(Do::Settle)]);
                }
                // `note`: its program is to be told. One that changes its mode looks at its entry.
                let newcomer = self.world.node.from[entry as usize].is_none();
                if self.unqueue(entry) {
                    if newcomer {
                        self.world.node.answers |= task.note << entry;
                    }
                    self.push(Task::new(Do::Settle));
                }
            }
            Do::Ended => {
                // Lockspace::end: what waits, then what is held.
                let held = self.stage(entry) == Some(Stage::Ending);
                let drop = [Task::of(Do::Drop, entry), Task::new(Do::Settle)];
                if held {
                    self.then(&drop);
                }
                if self.queued(entry) {
                    self.then(&[Task::new(Do::TakeUp), Task::of(Do::Withdraw, entry)]);
                }
            }
            _ => unreachable!("not of the room: {what:?}"),
        }
    }

    pub fn set_gate(&mut self) {
        self.world.node.gate = true;
        self.push(Hub::update(Change::SetGate, None, None));
    }
}
