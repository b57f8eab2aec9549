//! Questions of people that go to every member (`locks show|tree|why`).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use oarlock_layout::id::NodeId;
use oarlock_layout::message::look::Seen;
use oarlock_layout::time::{Duration, Instant};

/// How long members have to answer; a person waits, and a silent member must not keep him.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A question whose answers come in.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) ticket: u64,
    pub(crate) deadline: Instant,
    /// Every member asked, with its answer once it has come.
    #[serde(with = "answers")]
    pub(crate) seen: BTreeMap<NodeId, Option<Seen>>,
}

/// All open questions, by number.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Questions {
    open: BTreeMap<u64, Question>,
    last: u64,
}

impl Questions {
    /// Opens a question to `members`; returns its number.
    pub(crate) fn ask(&mut self, now: Instant, ticket: u64, members: impl Iterator<Item = NodeId>) -> u64 {
        self.last += 1;
        let seen = members.map(|node| (node, None)).collect();
        self.open.insert(self.last, Question { ticket, deadline: now + PATIENCE, seen });
        self.last
    }

    /// An answer. A late or unasked one changes nothing.
    pub(crate) fn answer(&mut self, from: NodeId, seen: Seen) {
        if let Some(place) = self.open.get_mut(&seen.question).and_then(|q| q.seen.get_mut(&from)) {
            *place = Some(seen);
        }
    }

    /// Takes the questions that are answered, or have waited long enough.
    pub(crate) fn take_done(&mut self, now: Instant) -> Vec<Question> {
        let done: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, q)| q.deadline <= now || q.seen.values().all(Option::is_some))
            .map(|(number, _)| *number)
            .collect();
        done.into_iter().filter_map(|number| self.open.remove(&number)).collect()
    }

    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.open.values().map(|q| q.deadline).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// Answers in the form in which they came.
mod answers {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Answer(#[serde(with = "oarlock_layout::written::wire")] Seen);

    pub(super) fn serialize<S: Serializer>(
        seen: &BTreeMap<NodeId, Option<Seen>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(seen.iter().map(|(node, seen)| (node, seen.clone().map(Answer))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<NodeId, Option<Seen>>, D::Error> {
        let seen = BTreeMap::<NodeId, Option<Answer>>::deserialize(from)?;
        Ok(seen.into_iter().map(|(node, seen)| (node, seen.map(|Answer(seen)| seen))).collect())
    }
}
