//! What the node does: `hub/*.rs` behind `Words`, and as much of the lock room as decides what it asks of them.
//!
//! The node does one thing after the other, and what it has to do is a pile: what is done last lies lowest. Each task is
//! one access of the segment, or a decision that sees none and is part of the step before it. A task is named after
//! the function that it mirrors. What runs over all entries takes them in any order, since which session has which area is
//! chance.
//!
//! Left out: the node's own table (`kept`), names but for which one a slot bears, value blocks, tokens, wake-ups, and of
//! the room: tries, alternates, passover (the queue stops at the first that does not fit), and the master, who is one
//! other node that wants a mode once.

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::{Grant, Stage, State};
use oarlock_shm::planted::Bug;

use crate::check;
use crate::spaces::{Slip, Space};
use crate::state::{Change, Do, MAX, Message, NOBODY, Task, World};

/// What may happen next at the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It goes on with what it does; the number says with which entry.
    Goes(u8),
    Hears(u8),
    Bell,
    Ends(u8),
    Head,
    Granted,
    HeadDone,
    Sweep,
    Epoch,
    Takeover,
}

/// All that may happen at the node. The second: must it happen some time?
pub fn events(space: &Space, world: &World, see: &mut dyn FnMut(Event, bool)) {
    let node = &world.node;
    if world.takeovers > 0 && world.epoch == 0 {
        see(Event::Takeover, false);
    }
    if node.left > 0 {
        let task = node.todo[node.left as usize - 1];
        if passes(task.what) && task.mask != 0 {
            for entry in (0..MAX as u8).filter(|entry| task.mask >> entry & 1 != 0) {
                see(Event::Goes(entry), true);
            }
        } else {
            see(Event::Goes(task.entry), true);
        }
        return;
    }
    if world.epoch != 0 {
        // The run is over.
        return;
    }
    for session in 0..space.sessions() as u8 {
        let over = World::bit(world.over, session as usize);
        if !over && world.inbox[session as usize][0] != Message::None {
            see(Event::Hears(session), true);
        }
        if !over && World::bit(world.dead, session as usize) {
            see(Event::Ends(session), true);
        } else if !over && world.cuts > 0 && space.may_cut(session as usize) {
            see(Event::Ends(session), false);
        }
    }
    if world.bell || node.rung {
        see(Event::Bell, true);
    }
    if world.heads > 0 && node.bound {
        see(Event::Head, false);
    }
    if let Some(head) = node.head {
        if node.remote.is_some() {
            see(Event::HeadDone, true);
        } else if node.owned.is_none_or(|owned| owned.compatible(head)) {
            see(Event::Granted, true);
        }
    }
    if world.sweeps > 0 && node.bound && node.queued == 0 && node.head.is_none() && node.owned.is_some() {
        see(Event::Sweep, false);
    }
    if world.epochs > 0 {
        see(Event::Epoch, false);
    }
}

fn passes(what: Do) -> bool {
    matches!(what, Do::HandedPass | Do::NotifyPass | Do::RecountPass | Do::ScatterPass)
}

/// One step of the node.
pub fn step(space: &Space, world: &mut World, event: Event) {
    let mut hub = Hub { space, world };
    let mut chosen = NOBODY;
    match event {
        Event::Goes(entry) => chosen = entry,
        other => hub.begin(other),
    }
    // To begin with something is a step of its own: most of what can be begun with is an access.
    let mut accessed = !matches!(event, Event::Goes(_));
    while let Some(task) = hub.top() {
        // A pass that is over is no access.
        let access = !(local(task.what) || passes(task.what) && task.mask == 0);
        if access && accessed {
            return;
        }
        accessed |= access;
        hub.pop();
        hub.run(task, chosen);
    }
    if hub.world.node.left == 0 {
        hub.rest();
    }
}

/// Tasks without an access of the segment.
fn local(what: Do) -> bool {
    matches!(
        what,
        Do::AdmitCounted
            | Do::AdmitFailed
            | Do::ForgetOffer
            | Do::ConvertCounted
            | Do::ConvertFailed
            | Do::Notify
            | Do::Offer
            | Do::TakeUp
            | Do::HandedNext
            | Do::Recount
            | Do::AdoptAreas
            | Do::Restate
            | Do::UsedShut
            | Do::EvictGate
            | Do::EvictShut
            | Do::Owned
            | Do::Ask
            | Do::Asked
            | Do::Settle
            | Do::Scan
            | Do::Scanned
            | Do::GiveWay
            | Do::GateEnd
            | Do::Withdraw
            | Do::Withdrawn
            | Do::Ended
            | Do::Scatter
    )
}

pub struct Hub<'a> {
    pub space: &'a Space,
    pub world: &'a mut World,
}

impl Hub<'_> {
    pub fn bug(&self, bug: Bug) -> bool {
        self.space.slip == Some(Slip::Rule(bug))
    }

    pub fn slip(&self, slip: Slip) -> bool {
        self.space.slip == Some(slip)
    }

    pub fn top(&self) -> Option<Task> {
        let left = self.world.node.left as usize;
        left.checked_sub(1).map(|top| self.world.node.todo[top])
    }

    pub fn pop(&mut self) {
        let node = &mut self.world.node;
        node.left -= 1;
        node.todo[node.left as usize] = Task::new(Do::Nothing);
    }

    pub fn push(&mut self, task: Task) {
        let node = &mut self.world.node;
        node.todo[node.left as usize] = task;
        node.left += 1;
    }

    /// In the order in which they are to be done.
    pub fn then(&mut self, tasks: &[Task]) {
        for task in tasks.iter().rev() {
            self.push(*task);
        }
    }

    pub fn update(change: Change, a: Option<Mode>, b: Option<Mode>) -> Task {
        Task { change, a, b, ..Task::new(Do::Load) }
    }

    /// Nothing is left of what was done: two worlds that differ only in that are one.
    pub fn rest(&mut self) {
        let node = &mut self.world.node;
        node.said = false;
        node.there = Grant(0);
        node.counts = [0; 6];
        self.world.answered |= node.answers & !self.world.over;
        node.answers = 0;
    }

    pub fn state(&self, entry: u8) -> State {
        self.world.entries[entry as usize].state.get()
    }

    pub fn exchange(&mut self, entry: u8, from: State, to: State) -> bool {
        let there = &mut self.world.entries[entry as usize].state;
        let same = there.get() == from;
        if same {
            *there = to.into();
        }
        same
    }

    pub fn everybody(&self) -> u8 {
        (1 << self.space.sessions()) - 1
    }

    pub fn queued(&self, entry: u8) -> bool {
        self.world.node.queue[..self.world.node.queued as usize].contains(&entry)
    }

    pub fn unqueue(&mut self, entry: u8) -> bool {
        let node = &mut self.world.node;
        let queue = &node.queue[..node.queued as usize];
        let Some(place) = queue.iter().position(|e| *e == entry) else { return false };
        node.queue.copy_within(place + 1.., place);
        node.queue[MAX - 1] = NOBODY;
        node.queued -= 1;
        node.wants[entry as usize] = None;
        node.from[entry as usize] = None;
        true
    }

    /// Queues::push: converts before newcomers.
    pub fn enqueue(&mut self, entry: u8) {
        let node = &mut self.world.node;
        let convert = |e: &u8| node.from[*e as usize].is_some();
        let converts = node.queue[..node.queued as usize].iter().take_while(|e| convert(e)).count();
        let place = if convert(&entry) { converts } else { node.queued as usize };
        node.queue.copy_within(place..MAX - 1, place + 1);
        node.queue[place] = entry;
        node.queued += 1;
    }

    /// Place::own
    pub fn own(&self, word: Grant) -> Grant {
        let node = &self.world.node;
        let word = word.with_owned(node.owned).with_keep(true).with_gate(node.gate || word.gate());
        if word.turn() == node.turn && !word.shut() { word } else { word.shut_for(node.turn).reopened() }
    }

    // ----- what begins ----------------------------------------------------------------------------------

    pub fn begin(&mut self, event: Event) {
        match event {
            Event::Goes(_) => unreachable!("it goes on"),
            Event::Hears(entry) => self.hear(entry),
            Event::Bell => {
                // Words::poll_bell, then Lockspace::handle_bell
                self.world.bell = false;
                self.world.node.rung = false;
                if self.world.node.bound {
                    self.world.node.told = 0;
                    self.then(&[Task::new(Do::Handed), Task::new(Do::TakeUp), Task::new(Do::Settle)]);
                }
            }
            Event::Ends(entry) => {
                if !World::bit(self.world.dead, entry as usize) {
                    self.world.cuts -= 1;
                }
                self.world.over |= 1 << entry;
                self.world.inbox[entry as usize] = [Message::None; 3];
                self.world.answered &= !(1 << entry);
                self.then(&[Task::of(Do::End, entry), Task::of(Do::Ended, entry)]);
            }
            Event::Head => {
                self.world.heads -= 1;
                self.world.node.head = self.space.heads;
                self.then(&[Task::new(Do::TakeUp), Task::new(Do::Settle)]);
            }
            Event::Granted => self.world.node.remote = self.world.node.head,
            Event::HeadDone => {
                self.world.node.remote = None;
                self.world.node.head = None;
                // Words::raise
                self.world.node.owned = Some(Mode::EX);
                self.then(&[
                    Task::new(Do::TakeUp),
                    Hub::update(Change::Own, None, None),
                    Task::new(Do::Settle),
                ]);
            }
            Event::Sweep => {
                // Lockspace::sweep, Words::used
                self.world.sweeps -= 1;
                self.push(Task::new(Do::SweepLook));
            }
            Event::Epoch => {
                // Words::turn_epoch
                self.world.epochs -= 1;
                self.world.epoch = 1;
                self.then(&[Task::new(Do::Scatter)]);
            }
            Event::Takeover => {
                self.world.takeovers -= 1;
                self.die();
            }
        }
    }

    /// The node dies; what is in the segment, and what programs want of it, is all that is left.
    pub fn die(&mut self) {
        let first = World::first(self.space).node;
        self.world.node = crate::state::Node { bound: false, ..first };
        self.then(&[Task::new(Do::AdoptGeneration)]);
    }

    /// Lockspace::handle_request
    pub fn hear(&mut self, entry: u8) {
        let inbox = &mut self.world.inbox[entry as usize];
        let message = inbox[0];
        inbox.copy_within(1.., 0);
        inbox[2] = Message::None;
        let node = &mut self.world.node;
        match message {
            Message::None => unreachable!("a message is there"),
            Message::Lock(mode, name) => {
                if node.bound && self.world.name != name {
                    // Every slot is in use: turn_away.
                    node.answers |= 1 << entry;
                    return self.then(&[Task::of(Do::Refuse, entry)]);
                }
                if node.bound {
                    // Lockspace::freshen, then the request.
                    let ask = Task { a: Some(mode), ..Task::of(Do::Ask, entry) };
                    self.then(&[Task::new(Do::TakeUp), ask]);
                } else {
                    // Bound, asked of the master, who grants.
                    node.wants[entry as usize] = Some(mode);
                    node.from[entry as usize] = None;
                    self.enqueue(entry);
                    self.then(&[
                        Task::new(Do::BindUsers),
                        Task::new(Do::BindOffered),
                        Task::new(Do::BindWord),
                        Task { note: name, ..Task::new(Do::BindGeneration) },
                        Task::new(Do::Owned),
                        Hub::update(Change::Own, None, None),
                        Task::new(Do::Settle),
                    ]);
                }
            }
            Message::Convert(to) => {
                if self.world.entries[entry as usize].state.get().stage() != Some(Stage::Asking) {
                    // No such lock.
                    return;
                }
                let from = self.world.entries[entry as usize].state.get().mode();
                let ask = Task { a: Some(to), b: from, ..Task::of(Do::Ask, entry) };
                self.then(&[Task::new(Do::TakeUp), ask]);
            }
            Message::Cancel => {
                if self.queued(entry) {
                    let withdraw = Task { note: 1, ..Task::of(Do::Withdraw, entry) };
                    self.then(&[Task::new(Do::TakeUp), withdraw]);
                }
            }
            Message::Unlock => {
                node.answers |= 1 << entry;
                self.then(&[Task::new(Do::TakeUp), Task::of(Do::Drop, entry), Task::new(Do::Settle)]);
            }
        }
    }

    pub fn stage(&self, entry: u8) -> Option<Stage> {
        self.state(entry).stage()
    }

    pub fn run(&mut self, task: Task, chosen: u8) {
        let entry = task.entry;
        match task.what {
            Do::Nothing => unreachable!("nothing lies on the pile"),
            Do::Load | Do::Exchange => self.change(task),
            what @ (Do::AdmitLoad
            | Do::AdmitUsers
            | Do::AdmitName
            | Do::AdmitGeneration
            | Do::AdmitCounted
            | Do::AdmitExchange
            | Do::AdmitFailed
            | Do::ForgetOffer) => self.admit(task, what),
            what @ (Do::Convert
            | Do::ConvertDown
            | Do::ConvertLowered
            | Do::ConvertCounted
            | Do::ConvertExchange
            | Do::ConvertFailed) => self.convert(task, what),
            what @ (Do::Drop | Do::DropExchange | Do::DropFree) => self.drop(task, what),
            what @ (Do::Handed | Do::HandedPass | Do::HandedNext | Do::HandedFree) => {
                self.finish_handed(task, what, chosen)
            }
            what @ (Do::Notify | Do::NotifyUsers | Do::NotifyPass | Do::NotifyMark) => {
                self.notify(task, what, chosen)
            }
            what @ (Do::Offer
            | Do::OfferLoad
            | Do::OfferRecall
            | Do::OfferTaken
            | Do::OfferName
            | Do::OfferGeneration
            | Do::OfferUsers
            | Do::OfferStore
            | Do::Taken
            | Do::TakeUp) => self.offer(task, what),
            what @ (Do::Refuse | Do::RefuseExchange | Do::RefuseTaken) => self.refuse(task, what),
            what @ (Do::End | Do::EndLoad | Do::EndSlot | Do::EndExchange | Do::EndOffer) => {
                self.end(task, what)
            }
            what @ (Do::Recount
            | Do::RecountUsers
            | Do::RecountPass
            | Do::RecountSlot
            | Do::RecountGeneration
            | Do::RecountExchange
            | Do::RecountOffer
            | Do::Publish
            | Do::PublishStore) => self.recount(task, what, chosen),
            what @ (Do::AdoptGeneration | Do::AdoptWord | Do::AdoptAreas | Do::Restate) => self.adopt(what),
            what @ (Do::SweepLook
            | Do::UsedLoad
            | Do::UsedShut
            | Do::UsedStore
            | Do::EvictGate
            | Do::EvictLook
            | Do::EvictShut
            | Do::EvictGeneration
            | Do::BindUsers
            | Do::BindOffered
            | Do::BindWord
            | Do::BindGeneration
            | Do::Owned
            | Do::LowerStale) => self.slot(task, what),
            Do::Scatter => {
                let mask = self.everybody();
                self.then(&[Task { mask, ..Task::new(Do::ScatterPass) }]);
            }
            Do::ScatterPass => {
                // Words::of_session, for each, after the epoch was turned.
                if task.mask == 0 {
                    return;
                }
                self.push(Task { mask: task.mask & !(1 << chosen), ..task });
                let state = self.state(chosen);
                self.world.node.seen |= 1 << chosen;
                let claims = state.stage() == Some(Stage::Ending) || state.claims().is_some();
                self.world.node.claiming |= u8::from(claims) << chosen;
            }
            what => self.room(task, what, entry),
        }
    }

    // ----- Hub::update ----------------------------------------------------------------------------------

    pub fn change(&mut self, task: Task) {
        if task.what == Do::Load || self.world.word != self.world.node.there {
            // A failed exchange gives what it found.
            self.world.node.there = self.world.word;
        } else {
            // The exchange succeeds.
            let now = self.own(self.world.node.there);
            let then = self.changed(task, now).expect("it was so when it was loaded");
            let less = match task.change {
                Change::Less | Change::Up | Change::Down | Change::Back => task.a,
                _ => None,
            };
            if less.is_some_and(|mode| now.count(mode) == 0) && self.world.broken == 0 {
                self.world.broken = check::UNDERFLOW;
            }
            self.world.word = then;
            self.world.node.there = Grant(0);
            // What is asked of the gate is whether anything is held behind it.
            self.world.node.said = task.change != Change::SetGate || then.unheld();
            if task.change == Change::Lower {
                self.world.node.owned = then.owned();
            }
            if task.change == Change::ClearGate {
                self.world.callers.iter_mut().for_each(|caller| caller.placed = false);
            }
            return;
        }
        let now = self.own(self.world.node.there);
        if self.changed(task, now).is_none() {
            self.world.node.said = false;
            self.world.node.there = Grant(0);
            return;
        }
        self.push(Task { what: Do::Exchange, ..task });
    }

    pub fn changed(&self, task: Task, word: Grant) -> Option<Grant> {
        let a = || task.a.expect("a mode");
        let b = || task.b.expect("a mode");
        match task.change {
            Change::SetGate => Some(word.with_gate(true)),
            Change::ClearGate => word.gate().then(|| word.with_gate(false)),
            Change::Lower => {
                // `a`: the floor; `b`: a need that was computed before.
                let target = task.b.unwrap_or_else(|| word.target(task.a));
                let owned = self.world.node.owned;
                owned.is_some_and(|owned| owned.covers(target)).then(|| word.with_owned(Some(target)))
            }
            Change::Own => Some(word),
            Change::Admit => word.admits(a()).then(|| word.with(a()).ok()).flatten(),
            Change::Less => Some(word.without(a())),
            Change::Down | Change::Back => {
                let less = word.without(a());
                Some(less.with(b()).unwrap_or(less))
            }
            Change::Up => {
                let less = word.without(a());
                less.admits(b()).then(|| less.with(b()).ok()).flatten().map(|more| more.with_gate(true))
            }
            Change::Shut => {
                let next = word.shut_for(self.world.node.turn);
                Some(if self.bug(Bug::NoShut) { next.reopened().with_gate(true) } else { next })
            }
            Change::Unused => word.unheld().then(|| word.shut_for(self.world.node.turn)),
            Change::Evict => {
                let turn = self.world.node.turn + 1;
                word.unheld().then(|| word.with_gate(true).shut_for(turn))
            }
        }
    }
}
