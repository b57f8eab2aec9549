//! The node and held or waiting locks: `hub/locks.rs`.

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::Stage;
use oarlock_shm::planted::Bug;

use crate::daemon::Hub;
use crate::spaces::Slip;
use crate::state::{Change, Do, MAX, NO_SLOT, NOBODY, Small, Task};

impl Hub<'_> {
    // ----- Hub::admit_entry -----------------------------------------------------------------------------

    pub fn admit(&mut self, task: Task, what: Do) {
        let entry = task.entry;
        let own = entry as usize;
        match what {
            Do::AdmitLoad => {
                let waiting = self.state(entry);
                if waiting.stage() != Some(Stage::Waiting) {
                    self.world.node.said = false;
                    return;
                }
                let state = waiting.into();
                self.then(&[
                    Task::of(Do::AdmitUsers, entry),
                    Task::of(Do::AdmitName, entry),
                    Task::of(Do::AdmitGeneration, entry),
                    Hub::update(Change::Admit, task.a, None),
                    Task { state, a: task.a, ..Task::of(Do::AdmitCounted, entry) },
                ]);
            }
            Do::AdmitUsers => self.mark_user(entry),
            Do::AdmitName => self.world.entries[own].slot = 0,
            Do::AdmitGeneration => self.world.entries[own].generation = self.world.generation,
            Do::AdmitCounted => {
                if self.world.node.said {
                    self.push(Task { what: Do::AdmitExchange, ..task });
                }
            }
            Do::AdmitExchange => {
                let waiting = task.state.get();
                let held = waiting.to(Stage::Held, task.a, None);
                if self.bug(Bug::GrantByStore) {
                    self.world.entries[own].state = held.into();
                } else if !self.exchange(entry, waiting, held) {
                    let less = Hub::update(Change::Less, task.a, None);
                    return self.then(&[less, Task::new(Do::AdmitFailed)]);
                }
                self.world.node.said = true;
                self.world.node.told = 0;
                self.push(Task::of(Do::ForgetOffer, entry));
            }
            Do::AdmitFailed => self.world.node.said = false,
            Do::ForgetOffer => {
                if self.world.node.offered == entry {
                    self.unoffer();
                    self.push(Task::new(Do::OfferStore));
                }
            }
            _ => unreachable!("not of an admission"),
        }
    }

    pub fn mark_user(&mut self, entry: u8) {
        if !self.slip(Slip::NoUserByNode) {
            self.world.users |= 1 << entry;
        }
    }

    pub fn unoffer(&mut self) {
        self.world.node.offered = NOBODY;
        self.world.node.offered_state = Small::NONE;
    }

    // ----- Hub::convert_entry ---------------------------------------------------------------------------

    pub fn convert(&mut self, task: Task, what: Do) {
        let entry = task.entry;
        match what {
            Do::Convert => {
                // Words::entry and the entry itself: only the node changes one that asks.
                let asking = self.state(entry);
                self.world.node.said = false;
                if asking.stage() != Some(Stage::Asking) {
                    return;
                }
                let from = asking.mode().expect("a mode is held");
                let to = task.a.expect("a mode is wanted");
                let task = Task { state: asking.into(), a: Some(from), b: Some(to), ..task };
                if from.covers(to) {
                    self.push(Task { what: Do::ConvertDown, ..task });
                } else {
                    let up = Hub::update(Change::Up, Some(from), Some(to));
                    self.then(&[up, Task { what: Do::ConvertCounted, ..task }]);
                }
            }
            Do::ConvertDown => {
                let asking = task.state.get();
                self.world.node.said = false;
                let down = Hub::update(Change::Down, task.a, task.b);
                if self.slip(Slip::HeldBeforeWord) {
                    if self.exchange(entry, asking, asking.to(Stage::Held, task.b, None)) {
                        self.push(down);
                    }
                    return;
                }
                if self.exchange(entry, asking, asking.to(Stage::Lowering, task.a, task.b)) {
                    self.then(&[down, Task { what: Do::ConvertLowered, ..task }]);
                }
            }
            Do::ConvertLowered => {
                let asking = task.state.get();
                let lowering = asking.to(Stage::Lowering, task.a, task.b);
                let _ = self.exchange(entry, lowering, asking.to(Stage::Held, task.b, None));
                self.world.node.told = 0;
                self.world.node.said = true;
            }
            Do::ConvertCounted => {
                if self.world.node.said {
                    self.push(Task { what: Do::ConvertExchange, ..task });
                }
            }
            Do::ConvertExchange => {
                let asking = task.state.get();
                if self.exchange(entry, asking, asking.to(Stage::Held, task.b, None)) {
                    self.world.node.told = 0;
                    self.world.node.said = true;
                } else {
                    let back = Hub::update(Change::Back, task.b, task.a);
                    self.then(&[back, Task::new(Do::ConvertFailed)]);
                }
            }
            Do::ConvertFailed => {
                self.world.node.rung = true;
                self.world.node.said = false;
            }
            _ => unreachable!("not of a conversion"),
        }
    }

    // ----- Hub::drop_lock, release_entry ----------------------------------------------------------------

    pub fn drop(&mut self, task: Task, what: Do) {
        let entry = task.entry;
        match what {
            Do::Drop => {
                // Hub::read: one that is held, on the slot as it is now.
                let now = self.state(entry);
                let ending = now.stage() == Some(Stage::Ending);
                let mode = if ending { now.mode() } else { now.claims() };
                let there = self.world.entries[entry as usize];
                if mode.is_none() || !self.world.node.bound || there.generation != self.world.generation {
                    return;
                }
                let next = Task { state: now.into(), a: mode, ..task };
                if ending {
                    let less = Hub::update(Change::Less, mode, None);
                    let free = Task { what: Do::DropFree, ..next };
                    self.then(&if self.slip(Slip::WordBeforeEnding) { [less, free] } else { [free, less] });
                } else {
                    self.push(Task { what: Do::DropExchange, ..next });
                }
            }
            Do::DropExchange => {
                let now = task.state.get();
                if self.exchange(entry, now, now.next(Stage::Refused, None, None)) {
                    self.push(Hub::update(Change::Less, task.a, None));
                }
            }
            Do::DropFree => {
                let freed = self.state(entry).freed();
                self.world.entries[entry as usize].state = freed.into();
            }
            _ => unreachable!("not of a release"),
        }
    }

    // ----- Hub::finish_handed ---------------------------------------------------------------------------

    pub fn finish_handed(&mut self, task: Task, what: Do, chosen: u8) {
        match what {
            Do::Handed => {
                let pass = Task { mask: self.world.users & self.everybody(), ..Task::new(Do::HandedPass) };
                self.then(&[pass, Task::new(Do::HandedNext)]);
            }
            Do::HandedPass => {
                if task.mask == 0 {
                    return;
                }
                // Hub::naming. An entry that is handed is nobody's but the node's.
                let handed = self.stage(chosen) == Some(Stage::Handed)
                    && self.world.entries[chosen as usize].generation == self.world.generation
                    && self.world.entries[chosen as usize].slot != NO_SLOT;
                if handed {
                    let below = self.world.node.left as usize - 1;
                    self.world.node.todo[below].mask |= 1 << chosen;
                }
                self.push(Task { mask: task.mask & !(1 << chosen), ..task });
            }
            Do::HandedNext => {
                let Some(entry) = (0..MAX as u8).find(|entry| task.mask >> entry & 1 != 0) else { return };
                let rest = Task { mask: task.mask & !(1 << entry), ..task };
                let mode = self.state(entry).mode();
                let less = Hub::update(Change::Less, mode, None);
                self.then(&[less, Task::of(Do::HandedFree, entry), rest]);
            }
            Do::HandedFree => {
                let freed = self.state(task.entry).freed();
                self.world.entries[task.entry as usize].state = freed.into();
            }
            _ => unreachable!("not of a release that was left"),
        }
    }

    // ----- Hub::notify ----------------------------------------------------------------------------------

    pub fn notify(&mut self, task: Task, what: Do, chosen: u8) {
        match what {
            Do::Notify => {
                let node = &mut self.world.node;
                let first = node.queue[0];
                if node.queued == 0 || !self.space.notices {
                    return;
                }
                let wanted = node.wants[first as usize].expect("it waits for something");
                let known = Mode::ALL.into_iter().any(|m| node.told >> m as u8 & 1 != 0 && m.covers(wanted));
                if known {
                    return;
                }
                node.told |= 1 << wanted as u8;
                self.push(Task { a: Some(wanted), ..Task::of(Do::NotifyUsers, first) });
            }
            Do::NotifyUsers => {
                let mask = self.world.users & self.everybody();
                self.push(Task { what: Do::NotifyPass, mask, ..task });
            }
            Do::NotifyPass => {
                if task.mask == 0 {
                    return;
                }
                self.push(Task { mask: task.mask & !(1 << chosen), ..task });
                let state = self.state(chosen);
                let wanted = task.a.expect("something is wanted");
                let blocks = state.claims().is_some_and(|mode| !mode.compatible(wanted));
                if blocks && chosen != task.entry {
                    self.push(Task { state: state.into(), ..Task::of(Do::NotifyMark, chosen) });
                }
            }
            Do::NotifyMark => self.world.entries[task.entry as usize].told = task.state,
            _ => unreachable!("not of a notice"),
        }
    }

    // ----- Hub::offer_to, was_taken, Words::taken -------------------------------------------------------

    pub fn offer(&mut self, task: Task, what: Do) {
        let entry = task.entry;
        let node = &mut self.world.node;
        match what {
            Do::Offer => {
                // Shadow::offer
                let first = node.queue[0];
                let next = (node.queued > 0 && node.from[first as usize].is_none()).then_some(first);
                let covered = |e: &u8| {
                    let mode = node.wants[*e as usize].expect("it waits for something");
                    node.owned.is_some_and(|owned| owned.covers(mode))
                };
                let next = next.filter(covered).filter(|_| node.head.is_none() && self.space.offers);
                match next {
                    Some(next) => {
                        let a = node.wants[next as usize];
                        self.push(Task { a, ..Task::of(Do::OfferLoad, next) });
                    }
                    None => self.offer_next(NOBODY, Small::NONE),
                }
            }
            Do::OfferLoad => {
                let state = self.state(entry);
                if state.stage() == Some(Stage::Waiting) && state.mode() == task.a {
                    self.offer_next(entry, state.into());
                } else {
                    self.offer_next(NOBODY, Small::NONE);
                }
            }
            Do::OfferRecall => {
                // Hub::recall. `note`: how many tasks below are about the new one.
                let state = task.state.get();
                let moved = state.next(Stage::Waiting, state.mode(), None);
                if !self.exchange(entry, state, moved) {
                    self.push(Task { what: Do::OfferTaken, ..task });
                }
            }
            Do::OfferTaken => {
                if self.taken(entry) {
                    // First that one is told of: what lies below is dropped.
                    for _ in 0..task.note {
                        self.pop();
                    }
                }
            }
            Do::OfferName => {
                self.world.entries[entry as usize].slot = 0;
            }
            Do::OfferGeneration => {
                self.world.entries[entry as usize].generation = self.world.generation;
            }
            Do::OfferUsers => {
                self.mark_user(entry);
                self.world.node.offered = entry;
                self.world.node.offered_state = task.state;
            }
            Do::OfferStore => {
                if entry == NOBODY {
                    self.unoffer();
                }
                self.world.offer = entry;
                self.world.offer_state = task.state;
            }
            Do::TakeUp => {
                if node.offered != NOBODY {
                    let entry = node.offered;
                    self.push(Task::of(Do::Taken, entry));
                }
            }
            Do::Taken => {
                if self.taken(entry) {
                    self.unoffer();
                    self.world.node.told = 0;
                    self.unqueue(entry);
                    self.push(Task::new(Do::OfferStore));
                }
            }
            _ => unreachable!("not of an offer"),
        }
    }

    pub fn offer_next(&mut self, new: u8, state: Small) {
        let node = &self.world.node;
        let (old, old_state) = (node.offered, node.offered_state);
        if (old, old_state) == (new, state) {
            return;
        }
        let below = if new == NOBODY {
            self.push(Task::new(Do::OfferStore));
            1
        } else {
            let task = |what| Task { state, ..Task::of(what, new) };
            self.then(&[
                task(Do::OfferName),
                task(Do::OfferGeneration),
                task(Do::OfferUsers),
                task(Do::OfferStore),
            ]);
            4
        };
        if old != NOBODY && !self.bug(Bug::NoRecall) {
            self.push(Task { state: old_state, note: below, ..Task::of(Do::OfferRecall, old) });
        }
    }

    /// Hub::was_taken, of one that is offered.
    pub fn taken(&self, entry: u8) -> bool {
        if self.world.node.offered != entry {
            return false;
        }
        let (now, offered) = (self.state(entry), self.world.node.offered_state.get());
        let waits = now.generation() == offered.generation()
            && matches!(now.stage(), Some(Stage::Waiting | Stage::Cancelled | Stage::Refused));
        !waits
    }

    // ----- Hub::refuse_lock -----------------------------------------------------------------------------

    pub fn refuse(&mut self, task: Task, what: Do) {
        let entry = task.entry;
        match what {
            Do::Refuse => {
                let now = self.state(entry);
                match now.stage() {
                    Some(Stage::Waiting | Stage::Asking) => {
                        self.push(Task { state: now.into(), ..Task::of(Do::RefuseExchange, entry) });
                    }
                    Some(Stage::Cancelled) | None => self.world.node.said = true,
                    Some(_) => self.push(Task::of(Do::RefuseTaken, entry)),
                }
            }
            Do::RefuseExchange => {
                let now = task.state.get();
                let to = if now.stage() == Some(Stage::Waiting) { Stage::Refused } else { Stage::Held };
                if !self.exchange(entry, now, now.to(to, now.mode(), None)) {
                    return self.push(Task::of(Do::Refuse, entry));
                }
                self.world.node.said = true;
                if self.world.entries[entry as usize].slot != NO_SLOT && self.world.node.bound {
                    self.push(Task::of(Do::ForgetOffer, entry));
                }
            }
            Do::RefuseTaken => self.world.node.said = !self.taken(entry),
            _ => unreachable!("not of a refusal"),
        }
    }
}
