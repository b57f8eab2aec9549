//! What a flow knows of its locks: what it asked, what it was told, and what of that no row has taken up yet.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};

use oarlock_layout::code::Code;
use oarlock_layout::mode::Mode;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;

use crate::stage::Told;
use crate::table::Resource;

/// One lock of a flow, by the name that the flow gave it.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    /// Its number in the session.
    pub(crate) number: u32,
    pub(crate) resource: Resource,
    pub(crate) held: Option<Mode>,
    pub(crate) pending: Option<Pending>,
    pub(crate) answer: Option<Answer>,
    /// No row has taken the answer up.
    pub(crate) unseen: bool,
    /// What others want that wait behind it, since its last grant.
    pub(crate) told: Option<Mode>,
    pub(crate) told_unseen: bool,
    pub(crate) token: Option<Token>,
    /// What the last grant read.
    pub(crate) value: Option<Box<Value>>,
    /// Its number means nothing any more.
    pub(crate) over: bool,
}

/// What is asked of a lock and not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pending {
    New(Mode),
    Convert(Mode),
    Unlock,
}

/// The last answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Granted,
    Released,
    Failed(Code),
}

/// The locks of one flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    locks: BTreeMap<String, Lock>,
    last: u32,
}

impl Book {
    pub(crate) fn get(&self, name: &str) -> Option<&Lock> {
        self.locks.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Lock> {
        self.locks.get_mut(name)
    }

    /// All of them that may still be in somebody's way or queue.
    pub(crate) fn living(&self) -> impl Iterator<Item = (&String, &Lock)> {
        self.locks.iter().filter(|(_, lock)| !lock.over)
    }

    /// A new lock takes the name, if it is free.
    pub(crate) fn open(&mut self, name: &str, resource: &Resource, mode: Mode) -> Result<u32, String> {
        if self.locks.get(name).is_some_and(|lock| !lock.over) {
            return Err(format!("{name} is the name of a lock that is not given back yet"));
        }
        self.last += 1;
        let lock = Lock {
            number: self.last,
            resource: resource.clone(),
            held: None,
            pending: Some(Pending::New(mode)),
            answer: None,
            unseen: false,
            told: None,
            told_unseen: false,
            token: None,
            value: None,
            over: false,
        };
        self.locks.insert(name.to_string(), lock);
        Ok(self.last)
    }

    /// The lock, if something can be asked of it.
    pub(crate) fn usable(&mut self, name: &str) -> Result<&mut Lock, String> {
        match self.locks.get_mut(name) {
            None => Err(format!("{name} was never asked for")),
            Some(lock) if lock.over => Err(format!("{name} is over: {}", lock.tell())),
            Some(lock) => Ok(lock),
        }
    }

    /// A lock heard something. Gives its name.
    pub(crate) fn hear(&mut self, told: &Told) -> Option<&str> {
        let number = match told {
            Told::Granted { handle, .. } | Told::Released { handle } => *handle,
            Told::Failed { handle, .. } | Told::Blocking { handle, .. } => *handle,
            Told::Lost | Told::Attached => return None,
        };
        let (name, lock) = self.locks.iter_mut().find(|(_, lock)| lock.number == number)?;
        lock.hear(told);
        Some(name)
    }

    /// The session is over, and so is every lock.
    pub(crate) fn end(&mut self) {
        for lock in self.locks.values_mut() {
            (lock.over, lock.held, lock.pending) = (true, None, None);
        }
    }
}

impl Lock {
    /// Something is asked of it from here on.
    pub(crate) fn ask(&mut self, pending: Pending) {
        (self.pending, self.answer, self.unseen) = (Some(pending), None, false);
    }

    fn hear(&mut self, told: &Told) {
        match told {
            Told::Granted { mode, token, value, .. } => {
                (self.held, self.token, self.value) = (Some(*mode), Some(*token), value.clone());
                (self.told, self.told_unseen) = (None, false);
                // A grant may have been on its way when the lock was given back.
                if self.pending == Some(Pending::Unlock) {
                    return;
                }
                self.answer(Answer::Granted);
            }
            Told::Released { .. } => {
                (self.held, self.over) = (None, true);
                self.answer(Answer::Released);
            }
            Told::Failed { code, .. } => {
                self.over = self.held.is_none();
                self.answer(Answer::Failed(*code));
            }
            Told::Blocking { wanted, .. } => {
                self.told = Some(self.told.map_or(*wanted, |mode| mode.join(*wanted)));
                self.told_unseen = true;
            }
            Told::Lost | Told::Attached => {}
        }
    }

    fn answer(&mut self, answer: Answer) {
        (self.pending, self.answer, self.unseen) = (None, Some(answer), true);
    }

    /// How it stands, in words.
    pub(crate) fn tell(&self) -> String {
        let resource = &self.resource;
        match (self.held, self.pending) {
            (None, Some(Pending::New(mode))) => format!("waits for {mode} on {resource}"),
            (Some(held), Some(Pending::Convert(mode))) => {
                format!("holds {held} on {resource} and waits to convert to {mode}")
            }
            (held, Some(_)) => {
                let held = held.map_or("", Mode::name);
                format!("waits for the end of its release of {held} {resource}").replace("  ", " ")
            }
            (Some(held), None) => {
                let failed = match self.answer {
                    Some(Answer::Failed(code)) => format!(", after its last request failed with {code}"),
                    _ => String::new(),
                };
                format!("holds {held} on {resource}{failed}")
            }
            (None, None) => match self.answer {
                Some(Answer::Failed(code)) => format!("failed on {resource} with {code}"),
                Some(_) => format!("is given back, {resource}"),
                None => format!("is lost, {resource}"),
            },
        }
    }
}
