//! Types and numbers of the header. Nothing here ever changes its meaning; a struct grows at its end.
#![allow(non_camel_case_types, reason = "these are the names of the header")]

use std::ffi::{c_char, c_int};

/// Null: stands with everything; keeps the resource and its value block alive.
pub const OAR_NL: c_int = 0;
/// Concurrent read: reads, and lets others write.
pub const OAR_CR: c_int = 1;
/// Concurrent write: writes, and lets others write.
pub const OAR_CW: c_int = 2;
/// Protected read: reads, nobody writes.
pub const OAR_PR: c_int = 3;
/// Protected write: writes, others may at most read unprotected.
pub const OAR_PW: c_int = 4;
/// Exclusive: nobody else, but for NL.
pub const OAR_EX: c_int = 5;

/// Somebody holds the lock and the request did not want to wait.
pub const OAR_E_BUSY: c_int = -1;
/// The lock was not granted in time.
pub const OAR_E_TIMED_OUT: c_int = -2;
/// This node cannot tell without asking another one; only with OAR_LOCAL.
pub const OAR_E_NOT_OWNED: c_int = -3;
/// Holders wait for each other; this request was refused and the lock stands as before.
pub const OAR_E_DEADLOCK: c_int = -4;
/// The lock is gone: stop using what it protected.
pub const OAR_E_LOST: c_int = -5;
/// The lock is held still, and lost within a second unless the node renews its lease.
pub const OAR_E_AT_RISK: c_int = -6;
/// The request was withdrawn.
pub const OAR_E_CANCELLED: c_int = -7;
/// The call makes no sense: a null pointer, a name too long, flags that exclude each other, a lock not held.
pub const OAR_E_USAGE: c_int = -8;
/// Another operation on the same lock is under way.
pub const OAR_E_IN_FLIGHT: c_int = -9;
/// The daemon runs but its cluster does not grant locks, or not at this node.
pub const OAR_E_NOT_SERVING: c_int = -10;
/// The node is kept out until an earlier run of it is fenced.
pub const OAR_E_FENCED: c_int = -11;
/// No daemon answers.
pub const OAR_E_NO_DAEMON: c_int = -12;
/// This user may not do that.
pub const OAR_E_DENIED: c_int = -13;
/// Daemon and library speak different versions.
pub const OAR_E_VERSION: c_int = -14;
/// There is no such lockspace.
pub const OAR_E_UNKNOWN_SPACE: c_int = -15;
/// A bound was reached.
pub const OAR_E_LIMIT: c_int = -16;
/// The daemon sent what no honest daemon sends.
pub const OAR_E_MALFORMED: c_int = -17;
/// The handle belongs to the parent of this process.
pub const OAR_E_FORKED: c_int = -18;
/// Something else; oar_errinfo() says what.
pub const OAR_E_FAILED: c_int = -19;
/// The library has a fault; it goes on, but what the call has done is unknown.
pub const OAR_E_INTERNAL: c_int = -20;

/// Do not wait while somebody holds it: OAR_E_BUSY. Other nodes are asked if need be.
pub const OAR_NOQUEUE: u32 = 1 << 0;
/// Like OAR_NOQUEUE, and if somebody holds it, tell them that it is wanted.
pub const OAR_NOQUEUE_NOTIFY: u32 = 1 << 1;
/// Queue in front of those who wait already.
pub const OAR_HEADQUE: u32 = 1 << 2;
/// Pass queued requests that this one does not conflict with. New locks only.
pub const OAR_NOORDER: u32 = 1 << 3;
/// Queue behind conversions that wait already, even if this one would fit. Conversions only.
pub const OAR_QUECVT: u32 = 1 << 4;
/// Grant a new NL lock past every queue. New locks only.
pub const OAR_EXPEDITE: u32 = 1 << 5;
/// Read the resource's value block, and be allowed to write it. New locks only; their conversions keep it.
pub const OAR_VALBLK: u32 = 1 << 6;
/// If the wanted mode does not fit, PR will do; see oar_lock_is_alternate().
pub const OAR_ALTPR: u32 = 1 << 8;
/// If the wanted mode does not fit, CW will do.
pub const OAR_ALTCW: u32 = 1 << 9;
/// Ask the master even if this node could grant by itself, so that the token's hi grows.
pub const OAR_FRESH: u32 = 1 << 10;
/// Answer from what this node owns, without a message between nodes: OAR_E_BUSY or OAR_E_NOT_OWNED if it cannot
/// grant. New locks only.
pub const OAR_LOCAL: u32 = 1 << 11;
/// Never choose this request as the victim of a deadlock.
pub const OAR_NODLCKWT: u32 = 1 << 12;
/// Leave this lock out of the search for deadlocks: it will be released whatever happens. New locks only.
pub const OAR_NODLCKBLK: u32 = 1 << 13;
/// Send no blocking notices for this lock.
pub const OAR_NOBAST: u32 = 1 << 14;

/// For oar_connect_opts: ask the node for every lock, and share no memory with it.
pub const OAR_NO_SHARED_MEMORY: u32 = 1 << 0;

/// Bytes of a value block.
pub const OAR_VALUE_BYTES: usize = 64;
/// Bytes of oar_error's text, its closing zero included.
pub const OAR_ERROR_BYTES: usize = 496;

/// What else there is to say about a lock or a conversion. Begin with OAR_OPTS_INIT. NULL is the same as that.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct oar_opts {
    /// sizeof(oar_opts).
    pub size: u32,
    /// OAR_NOQUEUE and so on.
    pub flags: u32,
    /// Give up after so many milliseconds: OAR_E_TIMED_OUT. 0: wait as long as it takes.
    pub timeout_ms: u32,
    /// 0.
    pub reserved: u32,
    /// Who stands behind a new lock, as the program sees it. Shown to people. In a search for deadlocks all locks of an owner are one's. 0: the
    /// thread that waits, in oar_lock_wait(), and nobody in oar_lock_start().
    pub owner: u64,
    /// The transaction that a new lock belongs to; 0 is none.
    pub transaction: u64,
}

/// What went wrong, in full. Begin with OAR_ERROR_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct oar_error {
    /// sizeof(oar_error).
    pub size: u32,
    /// The code that was returned; 0 if nothing has gone wrong.
    pub rc: c_int,
    /// The number that `oarlock explain` knows, as 2101 in OAR-2101; 0 if it has none.
    pub number: u32,
    /// 0.
    pub reserved: u32,
    /// What was tried, why it did not work and what may help. UTF-8, cut where it does not fit.
    pub text: [c_char; OAR_ERROR_BYTES],
}

/// How to connect. Begin with OAR_CONNECT_OPTS_INIT. NULL is the same as that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct oar_connect_opts {
    /// sizeof(oar_connect_opts).
    pub size: u32,
    /// OAR_NO_SHARED_MEMORY.
    pub flags: u32,
    /// What the program calls itself; people see it when they ask who holds a lock. NULL: its file name.
    pub label: *const c_char,
    /// Where to write why it failed, because there is no client to ask then. May be NULL.
    pub error: *mut oar_error,
}

/// A resource's value block. Begin with OAR_VALUE_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct oar_value {
    /// sizeof(oar_value).
    pub size: u32,
    /// 1, or 0 if the bytes may not be believed because a writer died.
    pub valid: u32,
    /// Grows with each write; 0 if there was none yet.
    pub sequence: u64,
    /// The block.
    pub bytes: [u8; OAR_VALUE_BYTES],
}

/// Of two PW or EX grants of one resource the later has the larger token: compare hi, then lo. hi is the fence, for
/// storage that compares a single number; it grows with every grant only with OAR_FRESH.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct oar_token {
    /// The fence.
    pub hi: u64,
    /// Counts exclusive grants under one fence.
    pub lo: u64,
}
