//! How a request is withdrawn while somebody goes on waiting for it: then its answer says whether it was, or was granted first.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use crate::session::{Owner, Waiter};
use crate::table::{Place, Table};
use crate::wakers::Effects;

/// Withdraws the requests that were made with it, once. Cheap to clone; all clones are one.
///
/// Dropping a future withdraws its request too, but then nobody hears which was quicker, and when that was settled.
///
/// ```no_run
/// # async fn example(space: oarlock::Space) {
/// use oarlock::{Kind, Withdrawal};
/// let withdrawal = Withdrawal::new();
/// let asked = space.lock("x").withdrawn_by(&withdrawal).acquire();
/// withdrawal.ask(); // from any thread
/// assert_eq!(asked.await.err().map(|error| error.kind()), Some(Kind::Cancelled));
/// # }
/// ```
#[derive(Clone, Default, Debug)]
pub struct Withdrawal(Arc<Mutex<State>>);

#[derive(Default, Debug)]
struct State {
    asked: bool,
    /// Who waits for the request.
    waker: Option<Waker>,
}

impl Withdrawal {
    /// Nothing is withdrawn yet.
    pub fn new() -> Withdrawal {
        Withdrawal::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Withdraws what is under way, and what is asked for later.
    pub fn ask(&self) {
        let waker = {
            let mut state = self.state();
            state.asked = true;
            state.waker.take()
        };
        // Foreign code.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Was it asked? If not, whoever waits is woken when it is.
    fn look(&self, context: &Context<'_>) -> bool {
        let waker = context.waker().clone();
        let mut state = self.state();
        let asked = state.asked;
        let spare = if asked { Some(waker) } else { state.waker.replace(waker) };
        drop(state);
        drop(spare);
        asked
    }
}

/// Waits for the answer about a lock, and withdraws what was asked as soon as it is to be.
pub(crate) fn answer<T>(
    session: &Arc<Owner>,
    handle: u32,
    withdrawal: Option<Withdrawal>,
    mut check: impl FnMut(&mut Table, &mut Effects) -> Option<T>,
) -> impl Future<Output = T> {
    let mut waiter = Waiter::new(session, Place::Lock(handle));
    let session = Arc::clone(session);
    let mut withdrawal = withdrawal;
    std::future::poll_fn(move |context| {
        if withdrawal.as_ref().is_some_and(|withdrawal| withdrawal.look(context)) {
            withdrawal = None;
            session.change(|table, effects| table.withdraw(handle, effects));
        }
        waiter.poll(context, &mut check)
    })
}
