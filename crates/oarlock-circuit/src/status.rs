//! What people and metrics see of circuits.

use core::ops::AddAssign;
use core::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::id::Incarnation;
use oarlock_layout::time::Instant;

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $(#[doc = $help:literal] $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(#[doc = $help] pub $field: u64,)* }

        impl $name {
            /// Name, help and value of each counter, in the order they are declared.
            pub fn list(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), help($help), self.$field)),*].into_iter()
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: $name) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

/// A doc comment as people who watch counters need it: without its full stop and the ids of rules.
fn help(doc: &'static str) -> &'static str {
    let text = doc.trim().trim_end_matches('.');
    text.split_once(" (").map_or(text, |(text, _)| text)
}

counters! {
    /// Counts of one circuit over all runs of the peer, or of all circuits together.
    PeerCounters {
        /// Messages taken for sending.
        messages_sent,
        /// Messages delivered.
        messages_received,
        /// Sealed datagrams built.
        datagrams_sent,
        /// Sealed datagrams that were authentic and new.
        datagrams_received,
        /// Bytes of the sealed datagrams built.
        bytes_sent,
        /// Bytes of the sealed datagrams that were authentic and new.
        bytes_received,
        /// Segments sent again.
        resent,
        /// Segments that arrived again.
        duplicates,
        /// Segments beyond the window or the room for reassembly; the peer sends them again.
        overflowed,
        /// Retransmission timers that ran out.
        resend_timeouts,
        /// Keepalives sent, because no data came for a probe period (A7).
        keepalive_sent,
        /// Answers to keepalives.
        keepalive_acked,
        /// Keepalives of the peer that were answered.
        keepalive_answered,
        /// Times the peer became silent (L8).
        silences,
        /// Times a circuit came up.
        circuit_up,
        /// Times a circuit went down, because a new incarnation of the peer took its place.
        circuit_down,
        /// Messages that were not acknowledged when a circuit went down.
        unknown,
        /// Key changes after the first keys.
        rekeys,
        /// Packets that were already seen.
        replayed,
        /// Packets that were not made with the circuit's key, or were changed.
        bad_tag,
        /// Packets with a stamp that no honest clock has reached.
        absurd_stamps,
        /// Authentic bodies that no honest peer builds.
        violations,
        /// Chunks of a later version, skipped.
        chunks_skipped,
    }
}

counters! {
    /// Counts of what belongs to no circuit, because nobody proved to be a peer.
    DoorCounters {
        /// Datagrams that are not ours, or broken.
        foreign,
        /// Sealed datagrams that name no key of ours: late ones, or of another run of this node.
        no_such_key,
        /// First messages of handshakes sent.
        hellos_sent,
        /// First messages of handshakes received, broken ones not counted.
        hellos_received,
        /// First messages received that were older than the peer's last.
        hellos_replayed,
        /// Hellos ignored because our own attempt wins the tie (A1).
        hellos_tied,
        /// Hellos dropped because one source sent too many.
        hellos_dropped,
        /// Hellos answered, with keys or with a refusal.
        answers_sent,
        /// Cookies sent instead of an answer.
        cookies_sent,
        /// Cookies received.
        cookies_received,
        /// Handshake answers that fit no attempt of ours, or are not authentic.
        replies_stray,
        /// Refused: the sender does not know the cluster secret.
        refused_secret,
        /// Refused: no pinned key, or not that of the node it claims to be.
        refused_key,
        /// Refused: another protocol version.
        refused_version,
        /// Refused: another shared configuration.
        refused_config,
        /// Refused: an older run, or another one than the view names.
        refused_restarted,
        /// Refusals of ours by others.
        refused_by,
    }
}

/// All counts of a node's circuits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Counters {
    /// All circuits together.
    pub peers: PeerCounters,
    /// What belongs to no circuit.
    pub door: DoorCounters,
}

/// How a circuit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No circuit yet; attempts go on.
    Opening,
    /// The peer refuses us, or we refuse it; attempts go on.
    Refused(Code),
    /// Open and heard.
    Up,
    /// Open, but the peer is not heard, or does not hear us. Nothing is lost.
    Silent,
}

impl State {
    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Refused(_) => "refused",
            State::Up => "up",
            State::Silent => "silent",
        }
    }
}

/// One circuit as people see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CircuitStatus {
    /// How it is.
    pub state: State,
    /// The run of the peer at the other end.
    pub incarnation: Option<Incarnation>,
    /// Since when there is a circuit to this run.
    pub up_since: Option<Instant>,
    /// Since when it is silent.
    pub silent_since: Option<Instant>,
    /// When the peer was last heard.
    pub heard_at: Option<Instant>,
    /// Smoothed time of a round trip.
    pub rtt: Option<Duration>,
    /// When the keys in use were agreed on.
    pub keyed_at: Option<Instant>,
    /// Bytes that are not acknowledged yet.
    pub backlog: usize,
    /// Messages that are not acknowledged yet.
    pub unacknowledged: usize,
    /// Counts.
    pub counters: PeerCounters,
    /// The peer's hash of the shared configuration, as it said last: people want to know what differs.
    pub shared: Option<u64>,
}
