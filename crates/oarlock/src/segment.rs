//! Locks that the program grants itself, in memory shared with its node.
//!
//! ```text
//!   find the name ──► take the entry, count in the word ──► held: no message, no system call
//!                          │ somebody is in the way, or this node does not own enough
//!                          ▼
//!                     wait in the entry, ask the node ──► held: the node or a releaser says so in the entry
//! ```
//!
//! A lock that waits here is known to the node by the number of its entry. It is in the session's table only while
//! something is asked of the node about it.

use std::cell::Cell as Local;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::table::Staged;
use nix::time::{ClockId, clock_gettime};
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{OwnerId, SharedHandle};
use oarlock_layout::message::session::Attached;
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::geometry::{HOT_ENTRIES, SEATS};
use oarlock_layout::time::Instant;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;
use oarlock_shm::{Answer, Birthmark, Caller, Clock, First, Hold, Loss, Memory, Taken, Ticket};
use rustix::thread::{MembarrierCommand, membarrier};

/// Where a lockspace's segment will be once the node has answered; none in it: there is none to be had.
pub(crate) type Cell = OnceLock<Option<Arc<Segment>>>;

/// How long a waiter sleeps before it looks whether the session is still alive. Whoever grants or refuses wakes it.
const NAP: Duration = Duration::from_millis(100);
/// How often whoever was handed a lock while the node's lease is at risk looks whether it was renewed. Nobody wakes it.
pub(crate) const AT_RISK: Duration = Duration::from_millis(10);
/// Most looks at an entry before a waiter sleeps. A hand-over between two processors takes some hundred of them.
const SPINS_MAX: u32 = 2_000;

/// This program's place in the segment of one lockspace.
pub(crate) struct Segment {
    pub(crate) caller: Caller<Coarse>,
    number: u8,
    /// The session is over: its guards count as lost, and nothing more is granted, whatever the lease would allow.
    over: AtomicBool,
    /// As the session has one; here it is nearer.
    birthmark: Birthmark,
    /// How many looks are worth it before sleeping: what lately was enough, more or less.
    spins: AtomicU32,
    guards: Guards,
}

/// In which entries a guard of this program lies, be its lock lost or not. What stands in the entries themselves does not say
/// so: the node takes them back as soon as the session is over.
struct Guards {
    /// Those of the hot entries, each on a line of its own.
    hot: [Line; HOT_ENTRIES as usize],
    others: Box<[AtomicBool]>,
    /// The session is over, and in none before this one is a guard, nor will be.
    first: AtomicU32,
}

#[derive(Default)]
#[repr(align(64))]
struct Line(AtomicBool);

impl Guards {
    fn new(entries: u32) -> Guards {
        let others = (HOT_ENTRIES..entries).map(|_| AtomicBool::new(false)).collect();
        Guards { hot: Default::default(), others, first: AtomicU32::new(0) }
    }

    #[inline(always)]
    fn at(&self, entry: u32) -> &AtomicBool {
        match self.hot.get(entry as usize) {
            Some(line) => &line.0,
            None => &self.others[(entry - HOT_ENTRIES) as usize],
        }
    }
}

/// Whatever any thread of this program has done before is seen by what this one does next, and the other way round. So those
/// who take and give locks need no barrier of their own. False if the kernel cannot do that.
pub(crate) fn barrier() -> bool {
    // Registered once in a process, again does no harm; the global one is slower by far, and older.
    let expedited = membarrier(MembarrierCommand::RegisterPrivateExpedited)
        .and_then(|()| membarrier(MembarrierCommand::PrivateExpedited));
    expedited.or_else(|_| membarrier(MembarrierCommand::Global)).is_ok()
}

/// CLOCK_MONOTONIC_COARSE: read from a page that the kernel shares, without calling it.
#[derive(Clone, Copy)]
pub(crate) struct Coarse;

impl Clock for Coarse {
    #[inline(always)]
    fn coarse(&self) -> u64 {
        nanoseconds(ClockId::CLOCK_MONOTONIC_COARSE)
    }
}

/// CLOCK_BOOTTIME: the clock of leases, which goes on while the machine is suspended (L9).
pub(crate) fn boottime() -> Instant {
    Instant(nanoseconds(ClockId::CLOCK_BOOTTIME))
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

#[inline(always)]
fn nanoseconds(clock: ClockId) -> u64 {
    let at = clock_gettime(clock).expect("Linux has this clock");
    (at.tv_sec() as u64).wrapping_mul(1_000_000_000).wrapping_add(at.tv_nsec() as u64)
}

impl Segment {
    /// Maps what the node has sent. None if it does not fit, or if the clocks of node and program differ: a program in a
    /// time namespace cannot judge the lease (L1). `asked`: this program's clock when it asked.
    pub(crate) fn open(attached: &Attached, fd: OwnedFd, asked: u64) -> Option<Arc<Segment>> {
        if !(asked..=monotonic()).contains(&attached.now) {
            return None;
        }
        let memory = Memory::open(fd).ok()?;
        if attached.place.area >= memory.geometry().areas || attached.segment >= SharedHandle::SEGMENTS_MAX {
            return None;
        }
        let guards = Guards::new(memory.geometry().entries);
        let caller = Caller::new(memory, attached.place, Coarse);
        let (birthmark, spins) = (Birthmark::new().ok()?, AtomicU32::new(SPINS_MAX / 4));
        let over = AtomicBool::new(false);
        Some(Arc::new(Segment { caller, number: attached.segment, over, birthmark, spins, guards }))
    }

    /// Nothing more is granted here.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Is the session over?
    #[inline(always)]
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A guard of a lock in this entry comes to be. False: too late, the session is over, and nobody waits for it.
    #[inline(always)]
    pub(crate) fn guard(&self, entry: u32) -> bool {
        self.guards.at(entry).store(true, Ordering::Relaxed);
        // In this order for this thread; whoever ends the session makes it so for all ([`barrier`]).
        compiler_fence(Ordering::SeqCst);
        if self.is_over() {
            self.unguard(entry);
            return false;
        }
        true
    }

    /// The session ended while the lock was taken.
    #[cold]
    #[inline(never)]
    pub(crate) fn too_late(&self, hold: Hold) {
        // The node has taken it back already, or will.
        let _ = self.caller.release_apart(hold);
    }

    /// The guard goes. Before the entry is let go of: then it may be another's.
    #[inline(always)]
    pub(crate) fn unguard(&self, entry: u32) {
        // Whoever sees this sees what was done under the guard.
        self.guards.at(entry).store(false, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }

    /// Is there a guard of a session that is over?
    pub(crate) fn is_guarded(&self) -> bool {
        let entries = HOT_ENTRIES + self.guards.others.len() as u32;
        let first = self.guards.first.load(Ordering::Relaxed);
        let found = (first..entries).find(|entry| self.guards.at(*entry).load(Ordering::Acquire));
        self.guards.first.store(found.unwrap_or(entries), Ordering::Relaxed);
        found.is_some()
    }

    /// Is this the process that attached it, and no fork?
    #[inline(always)]
    pub(crate) fn is_mine(&self) -> bool {
        self.birthmark.is_mine()
    }

    /// The number by which the node knows a lock in this entry.
    pub(crate) fn handle(&self, entry: u32) -> u32 {
        SharedHandle { segment: self.number, entry }.number()
    }

    /// Waits for a while: spinning as long as that has paid lately, then asleep.
    pub(crate) fn wait_a_while(&self, ticket: Ticket) -> Answer {
        let worth = self.spins.load(Ordering::Relaxed);
        for spin in 0..(worth + worth / 2).clamp(16, SPINS_MAX) {
            match self.caller.look(ticket) {
                Answer::Waiting(_) => std::hint::spin_loop(),
                answer => {
                    self.spins.store((worth * 7 + spin) / 8, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        self.spins.store(worth - worth / 8, Ordering::Relaxed);
        if let Answer::Waiting(seen) = self.caller.look(ticket) {
            self.caller.sleep(ticket, seen, NAP);
        }
        self.caller.look(ticket)
    }
}

/// A thread of this process.
#[derive(Clone, Copy)]
pub(crate) struct Me {
    /// Which entry it tries first: its seat, as long as there are any.
    pub(crate) first: First,
    /// Who it is to a search for deadlocks.
    pub(crate) owner: OwnerId,
}

/// The thread that asks.
#[inline(always)]
pub(crate) fn me() -> Me {
    thread_local! {
        static ME: Local<Option<Me>> = const { Local::new(None) };
        static SEAT: Seat = const { Seat(Local::new(None)) };
    }

    #[cold]
    #[inline(never)]
    fn choose() -> Me {
        static THREADS: AtomicU64 = AtomicU64::new(1);
        let first = match SEAT.try_with(Seat::take) {
            Ok(Some(number)) => First::seat(number),
            // Also while the thread ends, when its seat may be another's already.
            _ => First::shared(SPREAD.fetch_add(1, Ordering::Relaxed) & 0xffff),
        };
        let me = Me { first, owner: OwnerId::thread(THREADS.fetch_add(1, Ordering::Relaxed)) };
        ME.set(Some(me));
        me
    }

    /// Seats of threads, one bit each.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    static SPREAD: AtomicU32 = AtomicU32::new(0);

    /// This thread's seat; given back when the thread ends.
    struct Seat(Local<Option<u32>>);

    impl Seat {
        fn take(&self) -> Option<u32> {
            let free = |taken: u32| (0..SEATS).find(|seat| taken >> seat & 1 == 0);
            let mut taken = TAKEN.load(Ordering::Relaxed);
            while let Some(seat) = free(taken) {
                match TAKEN.compare_exchange(taken, taken | 1 << seat, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => {
                        self.0.set(Some(seat));
                        return Some(seat);
                    }
                    Err(now) => taken = now,
                }
            }
            None
        }
    }

    impl Drop for Seat {
        fn drop(&mut self) {
            if let Some(seat) = self.0.take() {
                // What this thread takes after this it takes from those that all share.
                ME.set(ME.get().map(|me| Me { first: First::shared(seat), ..me }));
                TAKEN.fetch_and(!(1 << seat), Ordering::Release);
            }
        }
    }

    ME.get().unwrap_or_else(choose)
}

/// A lock held in an entry.
pub(crate) struct Shared {
    pub(crate) hold: Hold,
    /// Drawn when it is first asked for, or told by the node.
    pub(crate) token: Option<Token>,
    /// Apart, because few locks have one, and what is held moves.
    block: Option<Box<Block>>,
    /// Modes that others want and the holder was told of, a bit each.
    pub(crate) shown: u8,
    /// A change of mode was asked of the node, and nobody has taken up its answer.
    pub(crate) asked: Option<Ticket>,
    /// What the lock was asked for with.
    pub(crate) flags: Flags,
    /// The last change of mode got its second choice.
    pub(crate) alternate: bool,
}

/// What concerns the value block.
#[derive(Default)]
pub(crate) struct Block {
    /// As the grant showed it, or as it was written since.
    pub(crate) value: Option<Value>,
    /// Goes out with the release, or with a way down from PW or EX.
    pub(crate) staged: Staged,
}

impl Shared {
    #[inline(always)]
    pub(crate) fn new(hold: Hold, flags: Flags) -> Shared {
        Shared { hold, token: None, block: None, shown: 0, asked: None, flags, alternate: false }
    }

    /// The value, if it is known.
    pub(crate) fn value(&self) -> Option<Value> {
        self.block.as_ref()?.value
    }

    /// What is to be written.
    pub(crate) fn staged(&self) -> Staged {
        self.block.as_ref()?.staged
    }

    pub(crate) fn block_mut(&mut self) -> &mut Block {
        self.block.get_or_insert_default()
    }

    /// The token of this grant. Zero if the lock was lost before anybody asked for it: such a token is refused wherever
    /// tokens are looked at.
    pub(crate) fn token(&mut self, segment: &Segment) -> Token {
        if self.token.is_none() {
            self.token = segment.caller.draw_token(self.hold);
        }
        self.token.unwrap_or_default()
    }

    /// What others want and the holder was not told of.
    pub(crate) fn news(&mut self, segment: &Segment) -> Option<Mode> {
        let wanted = segment.caller.told(self.hold) & !self.shown;
        self.shown |= wanted;
        let conflicting = |mode: &Mode| wanted & (1 << *mode as u8) != 0 && !mode.compatible(self.hold.mode);
        Mode::ALL.into_iter().filter(conflicting).reduce(Mode::join)
    }

    /// Is it held still, as far as can be known here?
    pub(crate) fn check(&self, segment: &Segment) -> Result<(), Option<Loss>> {
        segment.caller.living().map_err(Some)?;
        if self.asked.is_some() || segment.caller.holds(self.hold) { Ok(()) } else { Err(None) }
    }

    /// Writes what was put aside. False: the node has to do it.
    #[inline(always)]
    pub(crate) fn write(&mut self, segment: &Segment) -> bool {
        let Some(staged) = self.staged().filter(|_| self.hold.mode.writes_value()) else { return true };
        let written = segment.caller.write_value(self.hold, staged);
        if written {
            self.written();
        }
        written
    }

    /// What was put aside is in the block.
    pub(crate) fn written(&mut self) {
        let Some(block) = &mut self.block else { return };
        match block.staged.take() {
            Some(Some(bytes)) => block.value = Some(block.value.unwrap_or_default().written(bytes)),
            Some(None) => block.value = block.value.map(|value| value.invalidated()),
            None => {}
        }
    }

    /// Changes the mode here, if that can be done here: nobody else's answer is needed, and nothing of it concerns the
    /// value block.
    pub(crate) fn convert(&mut self, segment: &Segment, to: Mode) -> Taken {
        let taken = if self.hold.mode.covers(to) {
            segment.caller.lower(self.hold, to)
        } else if to.covers(self.hold.mode) {
            segment.caller.raise(self.hold, to)
        } else {
            return Taken::NotOwned;
        };
        if let Taken::Held { hold, .. } = taken {
            // A way down is no new grant, and keeps its token: drawn before, it is still known; drawn later, it is no smaller.
            if !self.hold.mode.covers(to) || self.hold.mode == to {
                self.token = None;
            }
            self.hold = hold;
            self.alternate = false;
            self.shown = 0;
        }
        if let Taken::Frozen { hold, .. } = taken {
            // The node is to be asked, from where it stands now.
            self.hold = hold;
        }
        taken
    }
}

/// Why nothing is granted any more, for people.
pub(crate) fn say(loss: Option<Loss>) -> &'static str {
    match loss {
        Some(Loss::Epoch) => "the node ended its run or lost its lease",
        Some(Loss::Lease) => "the node has not renewed its lease in time",
        Some(Loss::Session) | None => "the node has ended this session",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    use super::*;

    /// M1: what a thread takes by a store is its own, and another's once it has ended. One test, since seats are the
    /// process's.
    #[test]
    fn a_seat_is_one_threads_and_comes_back() {
        let together = |threads: usize| -> Vec<First> {
            let all = Barrier::new(threads);
            let sit = || {
                let first = me().first;
                assert_eq!(first, super::me().first, "it keeps its seat");
                all.wait();
                first
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..threads).map(|_| scope.spawn(sit)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        };
        let seats = || (0..SEATS).map(First::seat);
        for round in 0..3 {
            let firsts = together(SEATS as usize + 3);
            for seat in seats() {
                assert_eq!(
                    firsts.iter().filter(|first| **first == seat).count(),
                    1,
                    "round {round}: {seat:?}"
                );
            }
            let shared = firsts.iter().filter(|first| !seats().any(|seat| seat == **first));
            assert_eq!(shared.count(), 3, "round {round}");
        }
        // One after the other they need one seat together.
        let firsts: BTreeSet<String> = (0..20).map(|_| format!("{:?}", together(1)[0])).collect();
        assert_eq!(firsts.len(), 1, "{firsts:?}");
        who_ends_has_no_seat();
    }

    /// A thread that ends has given its seat back before what else it leaves is dropped.
    fn who_ends_has_no_seat() {
        struct Late(std::sync::mpsc::Sender<First>);
        impl Drop for Late {
            fn drop(&mut self) {
                self.0.send(me().first).unwrap();
            }
        }
        thread_local! {
            static LATE: Local<Option<Late>> = const { Local::new(None) };
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Registered before the seat, so that it is dropped after it.
            LATE.set(Some(Late(sender)));
            me();
        })
        .join()
        .unwrap();
        let late = receiver.recv().unwrap();
        assert!((0..SEATS).all(|seat| late != First::seat(seat)), "{late:?}");
    }
}
