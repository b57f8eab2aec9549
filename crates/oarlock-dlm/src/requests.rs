//! What is asked of the node, and followed until it is over.

use std::sync::Arc;
use std::time::Duration;

use oarlock::{Conversion, Error, Guard, Kind, LockRequest, Mode, Withdrawal};

use crate::flags::{Asked, LockFlags};
use crate::lock::Departure;
use crate::lockspace::Lockspace;
use crate::status;

/// What is said about a request besides mode and name.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) asked: Asked,
    pub(crate) timeout: Option<Duration>,
    pub(crate) notices: bool,
}

impl Manner {
    fn has(&self, flag: LockFlags) -> bool {
        self.asked.flags.contains(flag)
    }

    /// Only with NOQUEUE does NOQUEUEBAST mean something.
    fn tries(&self) -> Option<bool> {
        self.has(LockFlags::NOQUEUE).then(|| self.has(LockFlags::NOQUEUEBAST))
    }

    /// A new lock.
    pub(crate) fn request(&self, request: LockRequest, withdrawal: &Withdrawal) -> LockRequest {
        type Setter = fn(LockRequest) -> LockRequest;
        let setters: [(LockFlags, Setter); 8] = [
            (LockFlags::VALBLK, LockRequest::value_block),
            (LockFlags::PERSISTENT, LockRequest::persistent),
            (LockFlags::NODLCKWT, LockRequest::no_deadlock_victim),
            (LockFlags::NODLCKBLK, LockRequest::no_deadlock_blocker),
            (LockFlags::EXPEDITE, LockRequest::expedite),
            (LockFlags::HEADQUE, LockRequest::head_queue),
            (LockFlags::NOORDER, LockRequest::no_order),
            (LockFlags::ORPHAN, LockRequest::adopt),
        ];
        let mut request = request.mode(self.asked.mode).value_by_call().withdrawn_by(withdrawal);
        for (flag, set) in setters {
            if self.has(flag) {
                request = set(request);
            }
        }
        request = match self.tries() {
            Some(true) => request.no_queue_notify(),
            Some(false) => request.no_queue(),
            None => request,
        };
        if let Some(mode) = self.asked.alternate() {
            request = request.alternate(mode);
        }
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        if self.notices { request } else { request.no_notices() }
    }

    /// A change of mode. `queued`: behind those that wait already, whatever the flags say.
    fn conversion<'a>(&self, guard: &'a Guard, withdrawal: &Withdrawal, queued: bool) -> Conversion<'a> {
        type Setter = for<'b> fn(Conversion<'b>) -> Conversion<'b>;
        let setters: [(LockFlags, Setter); 6] = [
            (LockFlags::VALBLK, |it| it.value_block()),
            (LockFlags::PERSISTENT, |it| it.persistent()),
            (LockFlags::NODLCKWT, |it| it.no_deadlock_victim()),
            (LockFlags::NODLCKBLK, |it| it.no_deadlock_blocker()),
            (LockFlags::HEADQUE, |it| it.head_queue()),
            (LockFlags::QUECVT, |it| it.queue_convert()),
        ];
        let mut change = guard.conversion(self.asked.mode).withdrawn_by(withdrawal);
        for (flag, set) in setters {
            if self.has(flag) {
                change = set(change);
            }
        }
        change = match self.tries() {
            Some(true) => change.no_queue_notify(),
            Some(false) => change.no_queue(),
            None => change,
        };
        if queued {
            change = change.queue_convert();
        }
        if let Some(mode) = self.asked.alternate() {
            change = change.alternate(mode);
        }
        if let Some(timeout) = self.timeout {
            change = change.timeout(timeout);
        }
        if self.notices { change } else { change.no_notices() }
    }
}

/// What came of a request.
pub(crate) struct Outcome {
    /// What is held.
    pub(crate) guard: Option<Arc<Guard>>,
    /// 0, or why not.
    pub(crate) status: i32,
    pub(crate) demoted: bool,
}

fn status_of<T>(result: &Result<T, Error>) -> i32 {
    result.as_ref().err().map_or(0, status::when_over)
}

/// Asks for a new lock.
pub(crate) async fn ask<U: Clone + Send + 'static>(
    space: Arc<Lockspace<U>>,
    lkid: u32,
    request: LockRequest,
) {
    let result = request.acquire().await;
    let status = status_of(&result);
    let guard = result.ok().map(Arc::new);
    end(space, lkid, Outcome { guard, status, demoted: false }).await;
}

/// Changes the mode of a lock.
pub(crate) async fn convert<U: Clone + Send + 'static>(
    space: Arc<Lockspace<U>>,
    lkid: u32,
    guard: Arc<Guard>,
    manner: Manner,
    withdrawal: Withdrawal,
) {
    let mut result = manner.conversion(&guard, &withdrawal, false).convert().await;
    let deadlock = result.as_ref().err().is_some_and(|error| error.kind() == Kind::Deadlock);
    let mut demoted = false;
    if deadlock && manner.has(LockFlags::CONVDEADLK) {
        // It stands in the way of somebody who stands in its own: it lets go of what it has, and waits behind them (51).
        demoted = guard.convert(Mode::NL).await.is_ok();
        if demoted && manner.asked.mode != Mode::NL {
            result = manner.conversion(&guard, &withdrawal, true).convert().await;
        }
    }
    let status = status_of(&result);
    end(space, lkid, Outcome { guard: Some(guard), status, demoted }).await;
}

/// Tells what came of a request; gives the lock back if that was asked for meanwhile.
async fn end<U: Clone + Send + 'static>(space: Arc<Lockspace<U>>, lkid: u32, outcome: Outcome) {
    if let Some(departure) = space.finish(lkid, outcome) {
        depart(space, lkid, departure).await;
    }
}

/// Gives a lock back.
pub(crate) async fn depart<U: Clone + Send + 'static>(
    space: Arc<Lockspace<U>>,
    lkid: u32,
    departure: Departure,
) {
    let Departure { guard, watch, ending } = departure;
    if let Some(watch) = watch {
        // With it goes its share of the guard.
        watch.end();
    }
    ending.say_to(&guard);
    let released = match Arc::try_unwrap(guard) {
        Ok(guard) => guard.release().await,
        // Whoever has a share still gives it back in a moment.
        Err(_) => Ok(()),
    };
    space.gone(lkid, released.as_ref().err().map_or(status::UNLOCKED, status::when_over));
}

/// Hears of others who want a lock, until it is gone.
pub(crate) async fn watch<U: Clone + Send + 'static>(space: Arc<Lockspace<U>>, lkid: u32, guard: Arc<Guard>) {
    while let Ok(mode) = guard.blocking().await {
        space.wanted(lkid, mode);
    }
}
