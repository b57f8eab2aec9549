//! What the circuits of a node are told at their start.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::limit;
use oarlock_layout::message::frame::{SEALED_OVERHEAD_BYTES, SEGMENT_BYTES_MAX};
use oarlock_layout::seal::PublicKey;

/// Who we are, who the others are, and how patient to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// Name of the cluster. Part of the handshake's prologue: nodes of different clusters never understand
    /// each other, even if somebody gave them the same secret.
    pub cluster: String,
    /// Hash of the configuration all members must share; a peer with another one is refused.
    pub shared: u64,
    /// The other members. An entry for `me` is ignored, so that all nodes can be given the same list.
    pub peers: Vec<Peer>,
    /// All chance of this room: jitter, numbers of keys, cookies. The daemon draws it from the kernel; a
    /// simulator picks it.
    pub seed: u64,
    /// How patient to be.
    pub options: Options,
}

/// Another member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its id.
    pub node: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its pinned key.
    pub key: PublicKey,
}

/// Times and sizes. The defaults are meant for a local network; tests shorten the long ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// After this long without received data, a keepalive asks whether the peer is there (A6).
    pub probe: Duration,
    /// After this long without an answer the peer is reported silent (L8).
    pub silent: Duration,
    /// New keys are agreed on after this long.
    pub rekey_after: Duration,
    /// New keys are agreed on after this many packets under one key.
    pub rekey_packets: u64,
    /// Keys are not used beyond this age, in either direction.
    pub reject_after: Duration,
    /// Size of a full datagram, headers of UDP and IP not counted. 1400 fits an Ethernet frame with room for
    /// IPv6, a VLAN tag and the usual tunnel; the path's real limit is not searched for.
    pub datagram_bytes: usize,
    /// Datagrams of one train ([`Transmit`](crate::Transmit)). The kernel cuts at most 64 segments or 64 KiB.
    pub train_max: usize,
    /// How long an acknowledgement may wait for a message to ride with. Longer than a lock request takes at
    /// its master, so that the common exchange costs two datagrams and not three.
    pub ack_delay: Duration,
    /// No retransmission timer is shorter: a peer that was not scheduled for some milliseconds lost nothing.
    pub resend_min: Duration,
    /// No retransmission timer grows beyond; so a peer that comes back is not waited for much longer.
    pub resend_max: Duration,
    /// First pause between two attempts at a handshake; doubles up to [`Options::hello_max`].
    pub hello_min: Duration,
    /// Longest pause between two attempts at a handshake.
    pub hello_max: Duration,
    /// Handshakes of all sources in one second beyond which only senders with a cookie are answered.
    pub hellos_per_second: u32,
    /// Bytes one circuit keeps that are not acknowledged. The hall refuses work at its edge long before, by
    /// [`Circuits::backlog`](crate::Circuits::backlog); this bound is the wall behind that.
    pub backlog_max: usize,
    /// A chunk of this kind, which no version up to this one has, goes with every keepalive. Peers skip it and count it: so it is
    /// seen that a later version may say more on the same wire. None: it does not.
    pub strange: Option<u8>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            probe: limit::PROBE,
            silent: limit::SILENT,
            rekey_after: Duration::from_secs(120),
            rekey_packets: 1 << 32,
            reject_after: Duration::from_secs(180),
            datagram_bytes: 1400,
            train_max: 44,
            ack_delay: Duration::from_millis(4),
            resend_min: Duration::from_millis(15),
            resend_max: Duration::from_millis(500),
            hello_min: Duration::from_millis(250),
            hello_max: Duration::from_secs(1),
            hellos_per_second: 50,
            backlog_max: 64 << 20,
            strange: None,
        }
    }
}

impl Options {
    /// Stops on numbers that cannot work together: they come from our own program, not from outside.
    pub(crate) fn assert_sane(&self) {
        assert!(self.datagram_bytes >= 256, "a datagram has room for every acknowledgement");
        assert!(self.datagram_bytes - SEALED_OVERHEAD_BYTES <= SEGMENT_BYTES_MAX, "a segment has 15 bits");
        assert!(self.train_max >= 1, "a train has a datagram");
        assert!(!self.probe.is_zero() && self.silent >= self.probe, "silence is counted in probes");
        assert!(self.rekey_after < self.reject_after, "new keys before the old ones end");
        assert!(self.rekey_packets > 0 && self.rekey_packets < 1 << 62, "numbers are not used up");
        assert!(self.resend_min > self.ack_delay, "an acknowledgement may wait without being missed");
        assert!(self.resend_max >= self.resend_min && self.hello_max >= self.hello_min);
        assert!(self.backlog_max >= limit::MESSAGE_BYTES_MAX, "one message fits");
    }
}
