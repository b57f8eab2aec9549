//! What a death, the end of a session or of a node leaves: `hub/recount.rs`.

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::{Grant, Stage, State};
use oarlock_shm::planted::Bug;

use crate::daemon::Hub;
use crate::spaces::Slip;
use crate::state::{At, Change, Do, Message, NO_SLOT, NOBODY, Small, Task, World};

impl Hub<'_> {
    // ----- Hub::end_session -----------------------------------------------------------------------------

    pub fn end(&mut self, task: Task, what: Do) {
        let entry = task.entry;
        match what {
            Do::End => {
                self.world.ended |= 1 << entry;
                self.push(Task::of(Do::EndLoad, entry));
            }
            Do::EndLoad => {
                let now = self.state(entry);
                if now.stage() != Some(Stage::Free) {
                    self.push(Task { state: now.into(), ..Task::of(Do::EndSlot, entry) });
                }
            }
            Do::EndSlot => {
                let slot = self.world.entries[entry as usize].slot;
                self.push(Task { what: Do::EndExchange, note: slot, ..task });
            }
            Do::EndExchange => {
                let now = task.state.get();
                let (to, unsure) = ended(now);
                if !self.exchange(entry, now, to) {
                    return self.push(Task::of(Do::EndLoad, entry));
                }
                let here = task.note != NO_SLOT && self.world.node.bound;
                if here && unsure && !self.bug(Bug::EndKeepsTurn) {
                    self.push(Task::new(Do::Recount));
                }
                // Hub::ended_on
                if here && now.stage() == Some(Stage::Lowering) && now.mode().is_some_and(Mode::writes_value)
                {
                    self.world.node.rung = true;
                }
                if here && self.world.node.offered == entry {
                    self.push(Task::new(Do::EndOffer));
                }
            }
            Do::EndOffer => {
                self.unoffer();
                self.world.offer = NOBODY;
                self.world.offer_state = Small::NONE;
            }
            _ => unreachable!("not of an end"),
        }
    }

    // ----- Hub::recount: shut, count_entries, publish ---------------------------------------------------

    pub fn recount(&mut self, task: Task, what: Do, chosen: u8) {
        let entry = task.entry;
        match what {
            Do::Recount => {
                if !self.bug(Bug::KeepTurn) {
                    self.world.node.turn += 1;
                }
                self.world.node.counts = [0; 6];
                self.then(&[
                    Hub::update(Change::Shut, None, None),
                    Task::new(Do::RecountUsers),
                    Task::new(Do::Publish),
                ]);
            }
            Do::RecountUsers => {
                let mask = self.world.users & self.everybody();
                self.push(Task { mask, ..Task::new(Do::RecountPass) });
            }
            Do::RecountPass => {
                if task.mask == 0 {
                    return;
                }
                self.push(Task { mask: task.mask & !(1 << chosen), ..task });
                self.recount_load(chosen);
            }
            Do::RecountSlot => {
                let slot = self.world.entries[entry as usize].slot;
                self.push(Task { what: Do::RecountGeneration, note: slot, ..task });
            }
            Do::RecountGeneration => {
                let here = self.world.entries[entry as usize].generation == self.world.generation;
                if task.note == NO_SLOT {
                    return;
                }
                let now = task.state.get();
                let to = self.recounted(entry, now, here);
                let task = Task { note: here.into(), ..task };
                if to == now {
                    self.count(now, to, here);
                } else {
                    self.push(Task { what: Do::RecountExchange, ..task });
                }
            }
            Do::RecountExchange => {
                let (now, here) = (task.state.get(), task.note == 1);
                let to = self.recounted(entry, now, here);
                if !self.exchange(entry, now, to) {
                    // It is looked at again: the next access is that look.
                    return self.push(Task {
                        what: Do::RecountPass,
                        mask: 1 << entry,
                        ..Task::new(Do::Nothing)
                    });
                }
                if to.stage() == Some(Stage::Waiting) && self.world.node.offered == entry {
                    self.world.node.offered_state = to.into();
                    self.push(Task { state: to.into(), ..Task::of(Do::RecountOffer, entry) });
                }
                self.count(now, to, here);
            }
            Do::RecountOffer => {
                // offer_anew
                self.world.offer = entry;
                self.world.offer_state = task.state;
            }
            Do::Publish => {
                self.world.node.there = self.world.word;
                self.push(Task::new(Do::PublishStore));
            }
            Do::PublishStore => {
                let node = &self.world.node;
                let counts = oarlock_layout::segment::Counts(node.counts.map(u32::from));
                self.world.word = self.own(node.there).with_counts(counts);
                self.world.node.there = Grant(0);
                self.world.node.counts = [0; 6];
                self.world.node.rung = true;
            }
            _ => unreachable!("not of a recount"),
        }
    }

    pub fn recount_load(&mut self, entry: u8) {
        let now = self.state(entry);
        if now.stage() != Some(Stage::Free) {
            self.push(Task { state: now.into(), ..Task::of(Do::RecountSlot, entry) });
        }
    }

    pub fn recounted(&self, entry: u8, now: State, here: bool) -> State {
        let offered = self.world.node.offered == entry || !self.slip(Slip::RestampOffered);
        if now.stage() == Some(Stage::Waiting) && !self.bug(Bug::NoRestamp) && offered {
            return now.next(Stage::Waiting, now.mode(), None);
        }
        if here { rested(now) } else { strange(now) }
    }

    /// counted
    pub fn count(&mut self, was: State, now: State, here: bool) {
        let old = self.bug(Bug::CountByOldMode);
        let mode = match was.stage() {
            Some(Stage::Lowering) if old => was.mode(),
            Some(Stage::Raising) if old => was.target(),
            _ => match now.stage() {
                Some(Stage::Held | Stage::Asking | Stage::Ending) => now.mode(),
                _ => None,
            },
        };
        if let Some(mode) = mode.filter(|_| here) {
            self.world.node.counts[mode as usize] += 1;
        }
    }

    // ----- Hub::adopt -----------------------------------------------------------------------------------

    pub fn adopt(&mut self, what: Do) {
        match what {
            Do::AdoptGeneration => {
                // Cleared is what was bound, not what is not: the word of a slot that is free is looked at when it is
                // bound anew.
                if self.world.generation & 1 == 1 {
                    self.push(Task::new(Do::AdoptWord));
                } else {
                    self.push(Task::new(Do::AdoptAreas));
                }
            }
            Do::AdoptWord => {
                let word = self.world.word;
                let node = &mut self.world.node;
                (node.bound, node.turn, node.owned, node.gate) =
                    (true, word.turn(), word.owned(), word.gate());
                node.said = word.shut();
                self.push(Task::new(Do::AdoptAreas));
            }
            Do::AdoptAreas => {
                // Those of the dead end once more; then all is counted. What waits is asked for anew.
                let gone = self.world.over | self.world.dead;
                self.world.over = gone;
                let entries = (0..self.space.sessions() as u8).filter(|entry| gone >> entry & 1 != 0);
                let entries: Vec<u8> = entries.collect();
                for entry in &entries {
                    self.world.inbox[*entry as usize] = [Message::None; 3];
                    self.world.answered &= !(1 << entry);
                }
                self.push(Task::new(Do::Restate));
                for entry in &entries {
                    self.push(Task::of(Do::Ended, *entry));
                }
                let counts = self.world.node.said || !self.slip(Slip::AdoptShut);
                if self.world.node.bound && counts {
                    self.push(Task::new(Do::Recount));
                }
                for entry in &entries {
                    self.push(Task::of(Do::End, *entry));
                }
            }
            Do::Restate => self.restate(),
            _ => unreachable!("not of a takeover"),
        }
    }

    /// Programs that the node before has heard ask again. It is not in the code yet who does this.
    pub fn restate(&mut self) {
        for number in 0..self.space.programs.len() {
            let session = self.space.programs[number].session;
            // Whose answer is out already has nothing to ask.
            if World::bit(self.world.over | self.world.answered, session) {
                continue;
            }
            let caller = self.world.callers[number];
            let op = self.space.programs[number].ops.get(caller.op as usize);
            let Some(op) = op else { continue };
            let ask = match caller.at {
                At::Look | At::Withdraw | At::WithdrawExchange | At::WithdrawSend | At::Hear => {
                    Message::Lock(op.mode(), op.name())
                }
                At::LookConvert => Message::Convert(op.mode()),
                _ => continue,
            };
            let stage = self.state(session as u8).stage();
            let waits = matches!(stage, Some(Stage::Waiting | Stage::Asking | Stage::Cancelled));
            if stage == Some(Stage::Refused) {
                // The answer may have gone down with the node.
                self.world.answered |= 1 << session;
            }
            let inbox = &mut self.world.inbox[session];
            let asked = inbox.contains(&ask);
            if waits && !asked {
                inbox.copy_within(0..2, 1);
                inbox[0] = ask;
            }
            // Whoever waits for an answer to a cancel, or asked for one, asks for it again.
            let cancels = (caller.at == At::Hear && waits) || (caller.at == At::LookConvert && caller.bell);
            if cancels && !inbox.contains(&Message::Cancel) {
                let free = inbox.iter().position(|m| *m == Message::None).expect("there is room");
                inbox[free] = Message::Cancel;
            }
        }
        if self.world.node.bound {
            self.world.node.rung = true;
        }
    }
}

/// As in `hub/recount.rs`.
fn ended(now: State) -> (State, bool) {
    let ending = |mode| now.to(Stage::Ending, mode, None);
    match now.stage() {
        Some(Stage::Held | Stage::Kept | Stage::Asking | Stage::Ending) => (ending(now.mode()), false),
        Some(Stage::Raising) => (ending(now.mode()), true),
        Some(Stage::Lowering) if now.target().is_some() => (ending(now.target()), true),
        Some(Stage::Waiting | Stage::Refused | Stage::Cancelled | Stage::Revoked | Stage::Finished) => {
            (now.freed(), false)
        }
        _ => (now.freed(), true),
    }
}

/// As in `hub/recount.rs`.
fn rested(now: State) -> State {
    match now.stage() {
        Some(Stage::Trying) => now.next(Stage::Revoked, now.mode(), None),
        Some(Stage::Raising) => now.to(Stage::Held, now.mode(), None),
        Some(Stage::Lowering) if now.target().is_some() => now.to(Stage::Held, now.target(), None),
        Some(Stage::Lowering) => now.to(Stage::Finished, None, None),
        Some(Stage::Handed) | None => now.freed(),
        _ => now,
    }
}

/// As in `hub/recount.rs`.
fn strange(now: State) -> State {
    match now.stage() {
        Some(Stage::Trying | Stage::Held | Stage::Raising) => now.next(Stage::Revoked, now.mode(), None),
        _ => now,
    }
}
