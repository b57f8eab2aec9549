//! Every atomic of the segment comes from here, and so does every fence: the standard library's, or those of a
//! checker that tries orders.
//!
//! | build | atomics | tries |
//! | --- | --- | --- |
//! | ordinary | `core` | nothing |
//! | `--cfg loom` | loom | every order that C11 permits, in small runs |
//! | `--cfg shuttle` | shuttle | random sequentially consistent orders, in long runs |
//!
//! A word that two sides exchange is taken with [`TAKE`] and looked at with [`LOOK`]. Where one side stores and then
//! looks at what the other stores before it looks ("I hold, then I see no gate" against "the gate is set, then I see no
//! holder"), acquire and release order nothing: both need a [`fence`]. Each such place has a name, so that a proof can
//! leave it out and watch what breaks.

use core::sync::atomic::Ordering;

#[cfg(loom)]
pub(crate) use crate::watch::AtomicU64;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::AtomicU64;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::atomic::AtomicU64;

use crate::planted::{Bug, planted};

/// A successful exchange: sees what the last owner wrote, and shows what was written before.
pub(crate) const TAKE: Ordering = Ordering::AcqRel;
/// A look that decides something.
pub(crate) const LOOK: Ordering = Ordering::Acquire;
/// A store that shows what was written before.
pub(crate) const SHOW: Ordering = Ordering::Release;
/// A field that is written before something else shows it, or a count that orders nothing.
pub(crate) const FIELD: Ordering = Ordering::Relaxed;

/// The places where a store must be seen before a later look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A caller: the lock is committed; then epoch, session and gate are looked at again (M1 step 7, M2).
    Commit,
    /// The node: the epoch or a session word is turned; then entries are looked at (M2, M12).
    Turn,
    /// The node: the gate is set; then holders are looked at (M5).
    Gate,
    /// A caller: a bell is set; then it looks whether the node sleeps.
    Ring,
    /// The node: it says that it sleeps; then it looks at the bells.
    Sleep,
    /// A writer of a value block: earlier versions are shown before the buffer is overwritten (M6).
    Write,
    /// A reader of a value block: it has copied the buffer; then it looks whether the version moved (M6).
    Read,
    /// A caller: it has compared a name; then it looks whether the slot changed hands (M7).
    Name,
    /// The node: a slot's generation has moved on; then its name is overwritten (M7).
    Rename,
}

/// A sequentially consistent fence.
#[inline(always)]
pub(crate) fn fence(place: Place) {
    if planted(Bug::Fence(place)) {
        return;
    }
    #[cfg(loom)]
    crate::watch::fence();
    #[cfg(not(loom))]
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// The same where the last thing this thread did was an exchange. On x86-64 that is a full fence by itself, and only the
/// compiler must be kept from moving the looks that follow.
#[inline(always)]
pub(crate) fn fence_after_exchange(place: Place) {
    if cfg!(all(target_arch = "x86_64", not(any(loom, shuttle)))) {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(place);
    }
}
