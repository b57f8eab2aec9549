//! What happened at this node, as a document.

use super::{doc, failover};
use crate::engine::Noted;

/// The document.
pub(super) fn document(node: String, first: u64, events: &[Noted]) -> doc::Events {
    let event = |it: &Noted| doc::Event {
        number: it.number,
        at: failover::rfc3339(it.wall_ms),
        level: it.level.name().into(),
        code: it.code.map(|code| code.to_string()),
        text: it.text.clone(),
    };
    doc::Events { v: doc::VERSION, node, first, events: events.iter().map(event).collect() }
}
