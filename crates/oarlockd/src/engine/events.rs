//! The last things that happened at this node, for people who come after them.

use std::collections::VecDeque;

use oarlock_layout::code::Code;
use oarlock_layout::time::Instant;
use oarlock_node::Event;
use tracing::{debug, error, info, warn};

use super::Engine;
use crate::console;
use crate::host::clock;

/// How many are remembered: a restless night. A node that is told more in a minute has it in its log.
pub const EVENTS_MAX: usize = 1024;

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Level {
    /// The cluster does its work.
    Info,
    /// Somebody should look.
    Warn,
    /// Something is lost or broken.
    Error,
}

impl Level {
    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    /// Grows by one with each, from 1 on.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub wall_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// Its code, if it has one.
    pub code: Option<Code>,
    /// For people.
    pub text: String,
}

/// The last events.
#[derive(Debug, Default)]
pub(super) struct Events {
    ring: VecDeque<Noted>,
    last: u64,
}

impl Events {
    /// Remembers it, and writes it into the log.
    pub(super) fn note(&mut self, level: Level, code: Option<Code>, text: String) {
        match level {
            Level::Info => info!("{text}"),
            Level::Warn => warn!("{text}"),
            Level::Error => error!("{text}"),
        }
        self.keep(clock::wall_millis(), level, code, text);
    }

    /// Remembers it.
    pub(super) fn keep(&mut self, wall_ms: u64, level: Level, code: Option<Code>, text: String) {
        self.last += 1;
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(Noted { number: self.last, wall_ms, level, code, text });
    }

    /// All that are remembered, and the number of the last.
    pub(super) fn written(&self) -> (Vec<Noted>, u64) {
        (self.ring.iter().cloned().collect(), self.last)
    }

    /// Goes on from there.
    pub(super) fn resume(&mut self, (ring, last): (Vec<Noted>, u64)) {
        *self = Events { ring: ring.into(), last };
    }

    /// The number of the oldest that is remembered, and those behind `after`.
    pub(super) fn after(&self, after: u64) -> (u64, Vec<Noted>) {
        let first = self.last + 1 - self.ring.len() as u64;
        let skipped = (after + 1).saturating_sub(first).min(self.ring.len() as u64);
        (first, self.ring.iter().skip(skipped as usize).cloned().collect())
    }
}

impl Engine {
    /// What the node has to say of itself.
    pub(super) fn log(&mut self, now: Instant, event: &Event) {
        let mut text = event.to_string();
        if matches!(
            event,
            Event::Serving { .. } | Event::Frozen | Event::Thawed | Event::LeaseLost | Event::NotLetIn { .. }
        ) {
            self.p.notify.tell(&format!("STATUS={text}"));
        }
        let (level, code) = match event {
            Event::Violation { node, .. } => {
                match self.complaints.note(now, node) {
                    Some(0) => {}
                    Some(silent) => {
                        text += &format!("; and {silent} times more since the last line about it")
                    }
                    None => return,
                }
                (Level::Error, Some(Code::PeerViolation))
            }
            // It comes with every start of anybody, and says nothing that a view does not say.
            Event::Up { .. } => {
                debug!("{text}");
                return self.events.keep(clock::wall_millis(), Level::Info, None, text);
            }
            Event::MemberNew { .. }
            | Event::MemberGone { .. }
            | Event::KeyAnnounced { .. }
            | Event::KeyTaken { .. }
            | Event::View { .. }
            | Event::Serving { .. }
            | Event::Heard { .. }
            | Event::Thawed => (Level::Info, None),
            Event::Overwhelmed { .. } => (Level::Error, None),
            Event::LeaseLost | Event::Suspended { .. } => (Level::Error, Some(Code::Lost)),
            Event::NotLetIn { why } => {
                self.refused_entry(now, why);
                (Level::Error, Some(Code::Refused))
            }
            Event::Frozen => (Level::Warn, Some(Code::NotServing)),
            Event::Silent { .. } => (Level::Warn, Some(Code::MemberSilent)),
            Event::Replaced { .. } | Event::GivenUp { .. } => (Level::Warn, None),
            Event::Refused { node, code, .. } => {
                if let Some(node) = node {
                    self.called_by(now, node, *code);
                }
                let (code, more) = self.differing(now, node.as_deref(), *code);
                text += &more;
                (Level::Warn, Some(code))
            }
            Event::RefusedBy { node, code } => {
                self.refused_by(now, node, *code);
                let (code, more) = self.differing(now, Some(node), *code);
                text += &more;
                (Level::Warn, Some(code))
            }
        };
        self.events.note(level, code, text);
    }

    /// In what the configuration of a member differs, if that is why there is no circuit to it; and the code for that.
    fn differing(&self, now: Instant, node: Option<&str>, code: Code) -> (Code, String) {
        let status = self.p.node.status(now);
        let member = status.members.iter().find(|m| Some(m.name.as_str()) == node);
        match member.and_then(|m| m.circuit.as_ref()) {
            Some(circuit) if code == Code::PeerConfig => {
                match console::status::refusal(self.p.shared, circuit.shared, code) {
                    Code::PeerConfig => (code, console::status::differing(self.p.shared, circuit)),
                    other => (other, format!(": {other}, {}", crate::explain::page(other).title)),
                }
            }
            _ => (code, String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_numbers_say_what_is_missing() {
        let mut events = Events::default();
        assert_eq!(events.after(0), (1, vec![]));
        let numbers = |events: &Events, after| {
            let (first, of) = events.after(after);
            (first, of.iter().map(|e| e.number).collect::<Vec<_>>())
        };
        for i in 1..=3 {
            events.keep(i, Level::Info, None, i.to_string());
        }
        assert_eq!(numbers(&events, 0), (1, vec![1, 2, 3]));
        assert_eq!(numbers(&events, 2), (1, vec![3]));
        // From a run of the process before this one.
        assert_eq!(numbers(&events, 900), (1, vec![]));
        for i in 4..=EVENTS_MAX as u64 + 2 {
            events.keep(i, Level::Info, None, i.to_string());
        }
        let (first, all) = numbers(&events, 0);
        assert_eq!((first, all.len(), all[0]), (3, EVENTS_MAX, 3));
        assert_eq!(numbers(&events, 1025), (3, vec![1026]));
    }
}
