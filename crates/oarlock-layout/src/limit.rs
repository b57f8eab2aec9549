//! Every bound of the system in one place, with its reason and how the bounds relate.
//!
//! A full queue refuses at the edge with a reason the caller can act on; nothing inside grows without one
//! of these.

use core::time::Duration;

/// Longest resource name. One byte holds the length.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest lockspace or node name: they are printed in tables and put in file names.
pub const LABEL_BYTES_MAX: usize = 64;
/// Size of a value block.
pub const VALUE_BYTES: usize = 64;
/// Members of a cluster. One bit each in a `u64`; probes are all-pairs.
pub const NODES_MAX: usize = 64;
/// Lockspaces of a cluster.
pub const SPACES_MAX: usize = 1024;
/// Default bound on resources a lockspace keeps on one node (retained ones included).
pub const RESOURCES_MAX_DEFAULT: u32 = 1 << 20;
/// Sessions of a node: descriptors are the scarce thing, 1024 is the usual soft limit.
pub const SESSIONS_MAX: usize = 4096;
/// Locks of one session, held and waiting.
pub const SESSION_LOCKS_MAX: usize = 1 << 20;
/// Locks of one node that outlived their sessions and that nobody has adopted yet, from which on no further are granted that would stay.
pub const ORPHANS_MAX: usize = 1 << 20;
/// Branches that are open at one node: thousands are used, and each is a short name and a count.
pub const BRANCHES_MAX: usize = 1 << 16;
/// Locks waiting on one resource at one node.
pub const WAITERS_MAX: usize = 1 << 16;

/// Bits of a token's epoch: a million whole restarts.
pub const EPOCH_BITS: u32 = 20;
/// Stamps that a view may issue before the coordinator is asked for more: 500 million a second for two minutes. It is
/// asked when half of them are used, so at most once a minute. All epochs together have used a sixty-fourth of the clock.
pub const STAMPS_PER_VIEW: u64 = 1 << 36;
/// Bits of a token's serial: 17 million grants a second for twelve days, in one epoch.
pub const SERIAL_BITS: u32 = 44;
/// Grants are refused from here on; the last sixteenth is for whoever must still finish.
pub const SERIAL_MAX: u64 = (1 << SERIAL_BITS) - (1 << (SERIAL_BITS - 4));
/// From here on `status` warns that serials run out: half of the room is used.
pub const SERIAL_WARN: u64 = 1 << (SERIAL_BITS - 1);

/// Largest message a circuit carries; larger ones are the sender's mistake.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Segments of one class that may be sent beyond the first that is not acknowledged. A receiver keeps no more;
/// sixteen bits describe any gap.
pub const CIRCUIT_WINDOW_SEGMENTS: usize = 8192;
/// Bytes of the same: what a round trip of a millisecond holds at 16 Gbit/s. With one message in pieces it
/// bounds what a peer can make us keep.
pub const CIRCUIT_WINDOW_BYTES: usize = 2 << 20;
/// Largest packet on a session's socket, both ways. Below the kernel's default socket buffer.
pub const SESSION_PACKET_BYTES_MAX: usize = 64 << 10;

/// Bytes that wait to be acknowledged by one peer, above which new lock requests that need it are refused.
/// Everything already begun may still be said: the circuits' own wall stands four times as far.
pub const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// Bytes that a member has not acknowledged yet, above which no further resource is stated anew to it: what is stated is
/// of use only when all of it has arrived, and what programs ask meanwhile shall not stand behind all of it.
pub const RESTATE_BACKLOG_BYTES: usize = 1 << 20;

/// A circuit with no received data for this long sends a keepalive that asks for an answer (A6, E4).
pub const PROBE: Duration = Duration::from_millis(100);
/// How old a wait is before it is looked whether it is part of a deadlock (D8).
pub const DEADLOCK_AFTER: Duration = Duration::from_millis(100);
/// Ten unanswered probes make a peer silent. Evidence, not a verdict.
pub const SILENT: Duration = Duration::from_secs(1);
/// What a membership lease lasts: so long a run that died is waited for.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often a lease is renewed: three times before its holder freezes and four times before it is lost, were
/// none confirmed.
pub const RENEW: Duration = Duration::from_millis(750);
/// How long before its end a lease that nobody renews is at risk: from then on nothing new is granted under it (L6).
pub const LEASE_FROZEN: Duration = LEASE.saturating_mul(40).checked_div(100).expect("not zero");
/// How long before the end the commands of `oarlock lock` are asked to end.
pub const LEASE_ENDING: Duration = LEASE.saturating_mul(20).checked_div(100).expect("not zero");
/// How long before the end they are killed.
pub const LEASE_KILLING: Duration = LEASE.saturating_mul(5).checked_div(100).expect("not zero");
/// By how much a member calls its own lease over too early.
pub const LEASE_MARGIN: Duration = Duration::from_millis(100);
/// By how much the others call it over too late. With the margin it covers clocks that run 4 % off in opposite
/// directions for a whole lease, and one tick of a coarse clock.
pub const LEASE_DRIFT: Duration = Duration::from_millis(200);
/// How long after a verdict about silent pairs the next one must wait: circuits of the new view settle first.
pub const VERDICT_HOLD: Duration = Duration::from_secs(10);

const _: () = assert!(SILENT.as_millis() == 10 * PROBE.as_millis(), "ten probes to silence");
const _: () = assert!(LEASE.as_millis() > 2 * SILENT.as_millis(), "a lease outlives a silence");
const _: () = assert!(LEASE.as_millis() >= 4 * RENEW.as_millis(), "one lost renewal freezes nobody");
const _: () = assert!(
    (LEASE.as_millis() - LEASE_MARGIN.as_millis()) * 104 < (LEASE.as_millis() + LEASE_DRIFT.as_millis()) * 96,
    "a clock that is 4 % slow gives a lease up before one that is 4 % fast calls it over"
);
const _: () = assert!(CIRCUIT_WINDOW_BYTES >= MESSAGE_BYTES_MAX, "a message fits the window");
const _: () = assert!(CIRCUIT_WINDOW_SEGMENTS < 1 << 16, "acknowledged gaps have sixteen bits");
const _: () = assert!(NODES_MAX <= 64, "node sets are u64 bitmaps");
const _: () = assert!(EPOCH_BITS + SERIAL_BITS == 64, "a fence is one u64");
const _: () = assert!(SERIAL_WARN < SERIAL_MAX, "warn before refusing");
const _: () =
    assert!(NAME_BYTES_MAX + VALUE_BYTES + 1024 < SESSION_PACKET_BYTES_MAX, "a request fits a packet");

#[cfg(test)]
mod tests {
    use super::*;

    /// L10: these figures are promised to people who run a cluster; other times are derived from them.
    #[test]
    fn the_one_table_of_times_is_what_was_promised() {
        let promised = [100, 1_000, 3_000, 750, 300, 10_000].map(Duration::from_millis);
        assert_eq!([PROBE, SILENT, LEASE, RENEW, LEASE_MARGIN + LEASE_DRIFT, VERDICT_HOLD], promised);
        // L6: 40, 20 and 5 hundredths of a lease before its end.
        let steps = [1_200, 600, 150].map(Duration::from_millis);
        assert_eq!([LEASE_FROZEN, LEASE_ENDING, LEASE_KILLING], steps);
    }
}
