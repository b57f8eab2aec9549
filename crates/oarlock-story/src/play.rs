//! Plays a storyboard: one cursor per flow, and a stage that does what they say.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_layout::time::Instant;

use crate::book::{Answer, Book, Pending};
use crate::chance::Chance;
use crate::report::{Failure, Outcome, Report, told_words};
use crate::stage::{Action, News, Stage, Told};
use crate::table::{Command, DONE, Next, On, Row, Story, Sum, Term};

/// So many rows are taken at most; more is a circle that waits for nothing.
const ROWS_MAX: u32 = 10_000;

/// Plays a storyboard to its end.
///
/// With a seed, flows take their steps at moments that follow from it, so that a stage that follows from a seed as
/// well gives the same play each time, to the last letter of its transcript (S5). Without one they step as soon as
/// they can, which is for stages that bring chance of their own.
pub fn perform(story: &Story, stage: &mut dyn Stage, seed: Option<u64>) -> Report {
    let mut play = Play::new(story, stage.now(), seed);
    let outcome = play.run(stage);
    play.report(outcome)
}

/// How far a flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Between two rows.
    Rests,
    /// In a row, at this command.
    In { row: usize, command: usize },
    /// At the end of the table.
    Done,
    /// Its program was killed.
    Killed,
}

/// One flow and all that is private to it.
pub(crate) struct Cursor {
    pub(crate) state: String,
    pub(crate) way: Way,
    entered: Instant,
    /// The moment of its next step, once it can take one.
    due: Option<Instant>,
    /// Until when the command `wait` lets time pass.
    passing: Option<Instant>,
    pub(crate) book: Book,
    variables: BTreeMap<String, u128>,
    /// How often it has taken up each event.
    seen: BTreeMap<String, u32>,
    pub(crate) lost: bool,
    lost_unseen: bool,
    /// It has asked for another session.
    attaching: bool,
    attached_unseen: bool,
    chance: Option<Chance>,
}

impl Cursor {
    pub(crate) fn ended(&self) -> bool {
        matches!(self.way, Way::Done | Way::Killed)
    }
}

/// Who has come to a barrier.
#[derive(Default)]
struct Barrier {
    parties: BTreeSet<usize>,
    arrived: BTreeSet<usize>,
    /// All had arrived; these have not gone on yet.
    open: BTreeSet<usize>,
}

pub(crate) struct Play<'a> {
    pub(crate) story: &'a Story,
    pub(crate) flows: Vec<Cursor>,
    /// How often each event was raised.
    pub(crate) raised: BTreeMap<&'a str, u32>,
    barriers: BTreeMap<&'a str, Barrier>,
    began: Instant,
    last_news: Instant,
    transcript: Vec<String>,
    rows: u32,
    expectations: u32,
}

impl<'a> Play<'a> {
    fn new(story: &'a Story, now: Instant, seed: Option<u64>) -> Play<'a> {
        let mut barriers: BTreeMap<&str, Barrier> = BTreeMap::new();
        for (index, flow) in story.flows.iter().enumerate() {
            for row in &flow.rows {
                if let On::Meet(barrier) = &row.on {
                    barriers.entry(barrier).or_default().parties.insert(index);
                }
            }
        }
        let flows = story.flows.iter().map(|flow| Cursor {
            state: flow.rows.first().map_or(DONE, |row| &row.state).into(),
            way: if flow.rows.is_empty() { Way::Done } else { Way::Rests },
            entered: now,
            due: None,
            passing: None,
            book: Book::default(),
            variables: BTreeMap::new(),
            seen: BTreeMap::new(),
            lost: false,
            lost_unseen: false,
            attaching: false,
            attached_unseen: false,
            chance: seed.map(|seed| Chance::new(seed, &flow.name)),
        });
        Play {
            story,
            flows: flows.collect(),
            raised: BTreeMap::new(),
            barriers,
            began: now,
            last_news: now,
            transcript: Vec::new(),
            rows: 0,
            expectations: 0,
        }
    }

    fn run(&mut self, stage: &mut dyn Stage) -> Outcome {
        loop {
            if let Err(failure) = self.step(stage) {
                return Outcome::Failed(failure);
            }
            if self.flows.iter().all(Cursor::ended) {
                break;
            }
            if stage.interrupted() {
                return self.as_a_whole("it was interrupted");
            }
            let timer = self.timer();
            let end = self.last_news + stage.patience();
            if timer.is_none() && (!self.hopes() || stage.now() >= end) {
                let mut remarks = stage.remarks();
                // A checker may know better than all that wait: a grant that got lost, for instance.
                remarks.extend(stage.end().into_iter().map(|found| format!("a promise is broken: {found}")));
                return Outcome::Stuck(self.stuck(remarks));
            }
            for news in stage.pass(timer.unwrap_or(end)) {
                self.hear(stage.now(), news);
            }
        }
        if self.expectations == 0 {
            return self.as_a_whole("it came to its end, but on this way nothing was expected");
        }
        match stage.end() {
            broken if broken.is_empty() => Outcome::Kept,
            broken => Outcome::Broken(broken),
        }
    }

    fn as_a_whole(&self, what: &str) -> Outcome {
        Outcome::Failed(Failure { line: 0, flow: String::new(), what: what.into() })
    }

    /// Takes every step that is due.
    fn step(&mut self, stage: &mut dyn Stage) -> Result<(), Failure> {
        loop {
            let now = stage.now();
            self.arrive();
            for index in 0..self.flows.len() {
                if self.flows[index].due.is_none() && self.ready(index, now) {
                    let flow = &mut self.flows[index];
                    flow.due = Some(flow.chance.as_mut().map_or(now, |chance| now + chance.delay()));
                }
            }
            let first =
                self.flows.iter().enumerate().filter_map(|(index, flow)| Some((flow.due?, index))).min();
            let Some((_, index)) = first.filter(|(due, _)| *due <= now) else { return Ok(()) };
            self.flows[index].due = None;
            // What made it ready may be gone: another flow may have killed it.
            if self.ready(index, now) {
                self.take(index, stage)?;
                self.last_news = stage.now();
            }
        }
    }

    /// Can this flow take a step?
    fn ready(&self, index: usize, now: Instant) -> bool {
        let flow = &self.flows[index];
        match flow.way {
            Way::Done | Way::Killed => false,
            Way::Rests => self.row(index, now).is_some(),
            Way::In { row, command } => match self.story.flows[index].rows[row].commands.get(command) {
                Some(Command::Wait(handle)) => {
                    flow.lost || flow.book.get(handle).is_none_or(|lock| lock.pending.is_none())
                }
                Some(Command::Pass(_)) => flow.passing.is_none_or(|until| now >= until),
                _ => true,
            },
        }
    }

    /// The first row of its state whose event has come (S2).
    fn row(&self, index: usize, now: Instant) -> Option<usize> {
        let flow = &self.flows[index];
        let rows = self.story.flows[index].rows.iter();
        rows.enumerate()
            .find(|(_, r)| r.state == flow.state && self.came(index, &r.on, now))
            .map(|(at, _)| at)
    }

    fn came(&self, index: usize, on: &On, now: Instant) -> bool {
        let flow = &self.flows[index];
        let answer =
            |handle: &str| flow.book.get(handle).filter(|lock| lock.unseen).and_then(|lock| lock.answer);
        match on {
            On::Now => true,
            On::Granted(h) => answer(h) == Some(Answer::Granted),
            On::Why(code, h) => answer(h) == Some(Answer::Failed(*code)),
            On::Failed(h) => matches!(answer(h), Some(Answer::Failed(_))),
            On::Answered(h) => answer(h).is_some(),
            On::Released(h) => answer(h) == Some(Answer::Released),
            On::Blocking(h) => flow.book.get(h).is_some_and(|lock| lock.told_unseen),
            On::Lost => flow.lost_unseen,
            On::Attached => flow.attached_unseen,
            On::After(time) => now >= flow.entered + *time,
            On::Meet(barrier) => self.barriers.get(barrier.as_str()).is_some_and(|b| b.open.contains(&index)),
            On::Event(event) => {
                let raised = self.raised.get(event.as_str()).copied().unwrap_or(0);
                raised > flow.seen.get(event).copied().unwrap_or(0)
            }
        }
    }

    /// What made a row apply makes none apply a second time.
    fn take_up(&mut self, index: usize, on: &On) {
        let flow = &mut self.flows[index];
        match on {
            On::Granted(h) | On::Why(_, h) | On::Failed(h) | On::Answered(h) | On::Released(h) => {
                if let Some(lock) = flow.book.get_mut(h) {
                    lock.unseen = false;
                }
            }
            On::Blocking(h) => {
                if let Some(lock) = flow.book.get_mut(h) {
                    lock.told_unseen = false;
                }
            }
            On::Lost => flow.lost_unseen = false,
            On::Attached => flow.attached_unseen = false,
            On::Meet(barrier) => {
                if let Some(barrier) = self.barriers.get_mut(barrier.as_str()) {
                    barrier.open.remove(&index);
                }
            }
            On::Event(event) => *flow.seen.entry(event.clone()).or_default() += 1,
            On::Now | On::After(_) => {}
        }
    }

    /// Notes who stands at which barrier. Who went away by another row does not.
    fn arrive(&mut self) {
        for (name, barrier) in &mut self.barriers {
            for &index in &barrier.parties {
                let flow = &self.flows[index];
                let waits = |r: &Row| r.state == flow.state && r.on == On::Meet((*name).into());
                if flow.way == Way::Rests && self.story.flows[index].rows.iter().any(waits) {
                    if !barrier.open.contains(&index) {
                        barrier.arrived.insert(index);
                    }
                } else {
                    barrier.arrived.remove(&index);
                    barrier.open.remove(&index);
                }
            }
            if barrier.arrived.len() == barrier.parties.len() {
                barrier.open = core::mem::take(&mut barrier.arrived);
            }
        }
    }

    /// Runs a row, or goes on with it.
    fn take(&mut self, index: usize, stage: &mut dyn Stage) -> Result<(), Failure> {
        let story = self.story;
        let now = stage.now();
        let (at, mut command) = match self.flows[index].way {
            Way::In { row, command } => (row, command),
            _ => {
                let at = self.row(index, now).expect("it was ready");
                let row = &story.flows[index].rows[at];
                self.rows += 1;
                if self.rows > ROWS_MAX {
                    let what = format!("{ROWS_MAX} rows were taken: the flows go in circles");
                    return Err(self.failure(index, row, what));
                }
                self.write(now, index, &format!("{} | {} | line {}", row.state, row.on, row.line));
                self.take_up(index, &row.on);
                (at, 0)
            }
        };
        let row = &story.flows[index].rows[at];
        while let Some(what) = row.commands.get(command) {
            self.flows[index].way = Way::In { row: at, command };
            if !self.ready(index, stage.now()) {
                return Ok(());
            }
            let waits = matches!(what, Command::Pass(_)) && self.flows[index].passing.take().is_none();
            if waits && let Command::Pass(time) = what {
                self.flows[index].passing = Some(stage.now() + *time);
                return Ok(());
            }
            self.command(index, what, stage).map_err(|what| self.failure(index, row, what))?;
            command += 1;
        }
        self.go_on(index, row, stage)
    }

    /// The next state is worked out when all commands are done (S3).
    fn go_on(&mut self, index: usize, row: &Row, stage: &mut dyn Stage) -> Result<(), Failure> {
        let mut next = &row.next;
        while let Next::If(state, condition, other) = next {
            match self.holds(index, condition, stage).map_err(|what| self.failure(index, row, what))? {
                true => return self.enter(index, row, state, stage.now()),
                false => next = other,
            }
        }
        let Next::State(state) = next else { unreachable!("the loop ends at a state") };
        self.enter(index, row, state, stage.now())
    }

    fn enter(&mut self, index: usize, row: &Row, state: &str, now: Instant) -> Result<(), Failure> {
        let known = state == DONE || self.story.flows[index].rows.iter().any(|row| row.state == state);
        if !known {
            return Err(self.failure(index, row, format!("there is no state {state}")));
        }
        self.write(now, index, &format!("→ {state}"));
        let flow = &mut self.flows[index];
        flow.way = if state == DONE { Way::Done } else { Way::Rests };
        (flow.state, flow.entered) = (state.into(), now);
        Ok(())
    }

    fn command(&mut self, index: usize, command: &'a Command, stage: &mut dyn Stage) -> Result<(), String> {
        let now = stage.now();
        self.write(now, index, &format!("  {command}"));
        if let Some(action) = self.lock_action(index, command)? {
            return stage.act(action);
        }
        match command {
            Command::Raise(event) => *self.raised.entry(event).or_default() += 1,
            Command::Let(name, sum) => {
                let value = self.value(index, sum, stage)?;
                self.flows[index].variables.insert(name.clone(), value);
            }
            Command::Kill(name) => {
                let other = self.index(name);
                if self.flows[other].ended() {
                    return Err(format!("flow {name} has ended, there is nobody to kill"));
                }
                let flow = &mut self.flows[other];
                (flow.way, flow.due) = (Way::Killed, None);
                flow.book.end();
                return stage.act(Action::Kill { flow: other });
            }
            Command::Pause(node) => return stage.act(Action::Pause(*node)),
            Command::Continue(node) => return stage.act(Action::Continue(*node)),
            Command::Cut(link) => return stage.act(Action::Cut(*link)),
            Command::Heal(link) => return stage.act(Action::Heal(*link)),
            Command::Attach => {
                let flow = &mut self.flows[index];
                if !flow.lost || flow.attaching {
                    let why = if flow.lost { "it has asked for another already" } else { "it is not lost" };
                    return Err(format!("no other session can be opened: {why}"));
                }
                flow.attaching = true;
                return stage.act(Action::Attach { flow: index });
            }
            Command::KillNode(node) => return stage.act(Action::KillNode(*node)),
            Command::KillEngine(node) => return stage.act(Action::KillEngine(*node)),
            Command::StopNode(node) => return stage.act(Action::StopNode(*node)),
            Command::LeaveNode(node) => return stage.act(Action::LeaveNode(*node)),
            Command::JoinNode(node) => return stage.act(Action::JoinNode(*node)),
            Command::StartNode(node) => return stage.act(Action::StartNode(*node)),
            Command::Expect(condition) => {
                self.expectations += 1;
                if !self.holds(index, condition, stage)? {
                    return Err(format!(
                        "expected `{condition}`, but {}",
                        self.instead(index, condition, stage)
                    ));
                }
            }
            Command::History(promise) => {
                self.expectations += 1;
                if let Some(first) = stage.broken(*promise).into_iter().next() {
                    return Err(format!("the history is not as promised: {first}"));
                }
            }
            // The text is in the transcript; the waiting is done.
            Command::Say(_) | Command::Wait(_) | Command::Pass(_) => {}
            _ => {}
        }
        Ok(())
    }

    /// What a command about a lock asks of the stage.
    fn lock_action(&mut self, flow: usize, command: &Command) -> Result<Option<Action>, String> {
        let cursor = &mut self.flows[flow];
        let about_a_lock = matches!(
            command,
            Command::Lock { .. }
                | Command::Convert { .. }
                | Command::Read(_)
                | Command::Unlock { .. }
                | Command::Cancel(_)
        );
        if about_a_lock && cursor.lost {
            return Err("the session is lost".into());
        }
        let book = &mut cursor.book;
        Ok(Some(match command {
            Command::Lock { resource, mode, flags, within, handle } => {
                let handle = book.open(handle, resource, *mode)?;
                let (resource, mode, flags) = (resource.clone(), *mode, *flags);
                Action::Lock { flow, handle, resource, mode, flags, timeout_ms: millis(*within) }
            }
            Command::Convert { handle, mode, flags, within, value } => {
                let value = value.as_deref().map(block);
                let values = if value.is_some() { Flags::VALBLK } else { Flags::empty() };
                let handle = converting(book, handle, *mode)?;
                Action::Convert {
                    flow,
                    handle,
                    mode: *mode,
                    flags: *flags | values,
                    timeout_ms: millis(*within),
                    value,
                }
            }
            Command::Read(handle) => {
                let held = book.usable(handle)?.held;
                // From PW and EX the same call would write (27), and NL has nothing to read under.
                let Some(mode @ (Mode::CR | Mode::CW | Mode::PR)) = held else {
                    return Err(format!("{handle} is not held in CR, CW or PR, so it cannot read"));
                };
                let handle = converting(book, handle, mode)?;
                Action::Convert { flow, handle, mode, flags: Flags::VALBLK, timeout_ms: 0, value: None }
            }
            Command::Unlock { handle, value, invalidate } => {
                let lock = book.usable(handle)?;
                if lock.pending == Some(Pending::Unlock) {
                    return Err(format!("{handle} is being given back already"));
                }
                lock.ask(Pending::Unlock);
                let value = value.as_deref().map(block);
                Action::Unlock { flow, handle: lock.number, value, invalidate: *invalidate }
            }
            Command::Cancel(handle) => Action::Cancel { flow, handle: book.usable(handle)?.number },
            _ => return Ok(None),
        }))
    }

    /// A number.
    pub(crate) fn value(&self, index: usize, sum: &Sum, stage: &mut dyn Stage) -> Result<u128, String> {
        let base = match &sum.term {
            Term::Number(n) => u128::from(*n),
            Term::Variable(name) => {
                let value = self.flows[index].variables.get(name);
                *value.ok_or_else(|| format!("{name} has no value yet"))?
            }
            Term::Token(handle) => {
                let token = self.lock(index, handle).and_then(|lock| lock.token);
                let token = token.ok_or_else(|| format!("{handle} has no token: it was not granted"))?;
                u128::from(token.fence.number()) << 64 | u128::from(token.local)
            }
            Term::Counter(name, node) => u128::from(stage.counter(name, *node)?),
        };
        Ok(base + u128::from(sum.plus))
    }

    /// The place of a flow whose name was checked.
    pub(crate) fn index(&self, name: &str) -> usize {
        self.story.flows.iter().position(|flow| flow.name == name).expect("a checked name")
    }

    fn hear(&mut self, now: Instant, news: News) {
        self.last_news = now;
        let flow = &mut self.flows[news.flow];
        if flow.way == Way::Killed {
            return;
        }
        let words = match &news.what {
            Told::Lost => {
                flow.book.end();
                (flow.lost, flow.lost_unseen) = (true, true);
                (flow.attaching, flow.attached_unseen) = (false, false);
                "told: the session is lost".to_string()
            }
            Told::Attached => {
                (flow.lost, flow.lost_unseen) = (false, false);
                (flow.attaching, flow.attached_unseen) = (false, true);
                "told: another session has begun".to_string()
            }
            what => {
                let name = flow.book.hear(what).unwrap_or("a lock that is over").to_string();
                format!("told: {}", told_words(&name, what))
            }
        };
        self.write(now, news.flow, &words);
    }

    /// The next moment at which a flow can do something by itself.
    fn timer(&self) -> Option<Instant> {
        let mut timer: Option<Instant> = None;
        let mut note = |at: Instant| timer = Some(timer.map_or(at, |t| t.min(at)));
        for (index, flow) in self.flows.iter().enumerate().filter(|(_, flow)| !flow.ended()) {
            if let Some(due) = flow.due {
                note(due);
                continue;
            }
            match flow.way {
                Way::In { .. } => flow.passing.into_iter().for_each(&mut note),
                _ => {
                    for row in self.story.flows[index].rows.iter().filter(|row| row.state == flow.state) {
                        if let On::After(time) = row.on {
                            note(flow.entered + time);
                        }
                    }
                }
            }
        }
        timer
    }

    /// Does any flow wait for something that the stage might say? If all wait for each other it will not (S8).
    fn hopes(&self) -> bool {
        self.flows.iter().enumerate().filter(|(_, flow)| !flow.ended()).any(|(index, flow)| {
            let open = |handle: &str| flow.book.get(handle).is_some_and(|lock| !lock.over);
            let asked = |handle: &str| flow.book.get(handle).is_some_and(|lock| lock.pending.is_some());
            match flow.way {
                Way::In { .. } => true,
                _ => self.story.flows[index].rows.iter().filter(|row| row.state == flow.state).any(|row| {
                    match &row.on {
                        On::Granted(h)
                        | On::Why(_, h)
                        | On::Failed(h)
                        | On::Answered(h)
                        | On::Released(h) => asked(h),
                        On::Blocking(h) => open(h),
                        On::Lost => !flow.lost || flow.attaching,
                        On::Attached => flow.attaching,
                        _ => false,
                    }
                }),
            }
        })
    }

    fn failure(&self, index: usize, row: &Row, what: String) -> Failure {
        Failure { line: row.line, flow: self.story.flows[index].name.clone(), what }
    }

    fn write(&mut self, now: Instant, index: usize, text: &str) {
        let us = now.since(self.began).as_micros();
        let width = self.story.flows.iter().map(|flow| flow.name.len()).max().unwrap_or(0);
        let name = &self.story.flows[index].name;
        self.transcript.push(format!("{:>3}.{:06}  {name:width$}  {text}", us / 1_000_000, us % 1_000_000));
    }

    fn report(self, outcome: Outcome) -> Report {
        Report { outcome, rows: self.rows, expectations: self.expectations, transcript: self.transcript }
    }
}

fn converting(book: &mut Book, name: &str, mode: Mode) -> Result<u32, String> {
    let lock = book.usable(name)?;
    if lock.pending.is_some() || lock.held.is_none() {
        return Err(format!("{name} cannot be converted now: it {}", lock.tell()));
    }
    lock.ask(Pending::Convert(mode));
    Ok(lock.number)
}

fn millis(within: Option<Duration>) -> u32 {
    within.map_or(0, |time| time.as_millis() as u32)
}

/// A text as a value block: zeros follow it.
pub(crate) fn block(text: &str) -> Box<[u8; VALUE_BYTES]> {
    let mut block = Box::new([0; VALUE_BYTES]);
    block[..text.len()].copy_from_slice(text.as_bytes());
    block
}
