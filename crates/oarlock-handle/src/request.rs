//! From numbers and flags to requests of the Rust library.

use std::ffi::c_int;
use std::time::Duration;

use oarlock::{Conversion, Guard, LockRequest, Mode, Space};

use crate::abi::*;
use crate::fault::{Fault, Outcome};

const BOTH: u32 = OAR_NOQUEUE
    | OAR_NOQUEUE_NOTIFY
    | OAR_HEADQUE
    | OAR_ALTPR
    | OAR_ALTCW
    | OAR_FRESH
    | OAR_NODLCKWT
    | OAR_NOBAST;
const LOCK: u32 = BOTH | OAR_NOORDER | OAR_EXPEDITE | OAR_VALBLK | OAR_LOCAL | OAR_NODLCKBLK;
const CONVERSION: u32 = BOTH | OAR_QUECVT;

/// The mode of a number.
#[inline]
pub fn mode(number: c_int) -> Outcome<Mode> {
    let found = usize::try_from(number).ok().and_then(|at| Mode::ALL.get(at));
    found.copied().ok_or_else(|| Fault::usage(format!("{number} is no mode; they are OAR_NL to OAR_EX")))
}

#[inline]
fn check(opts: &oar_opts, known: u32, what: &str) -> Outcome<()> {
    let strange = opts.flags & !known;
    if strange != 0 {
        return Err(Fault::usage(format!("the flags {strange:#x} are not for {what}")));
    }
    if opts.reserved != 0 {
        return Err(Fault::usage("oar_opts.reserved is not 0"));
    }
    if opts.flags & OAR_ALTPR != 0 && opts.flags & OAR_ALTCW != 0 {
        return Err(Fault::usage("OAR_ALTPR and OAR_ALTCW exclude each other"));
    }
    Ok(())
}

/// A request for a new lock that the calling thread waits for: in a search for deadlocks that thread stands behind it, unless the
/// program names somebody.
#[inline]
pub fn awaited(space: &Space, name: &[u8], number: c_int, opts: &oar_opts) -> Outcome<LockRequest> {
    let request = lock(space, name, number, opts)?;
    Ok(if opts.owner == 0 { request.by_thread() } else { request })
}

/// A request for a new lock. If the program names nobody, nobody is known to stand behind it.
#[inline]
pub fn lock(space: &Space, name: &[u8], number: c_int, opts: &oar_opts) -> Outcome<LockRequest> {
    check(opts, LOCK, "a new lock")?;
    if !(1..=255).contains(&name.len()) {
        return Err(Fault::usage(format!("the name has {} bytes, it may have 1 to 255", name.len())));
    }
    let mut request = space.lock(name).mode(mode(number)?).transaction(opts.transaction);
    if opts.owner != 0 {
        request = request.owner(opts.owner);
    }
    if opts.timeout_ms != 0 {
        request = request.timeout(Duration::from_millis(opts.timeout_ms.into()));
    }
    Ok(if opts.flags == 0 { request } else { flagged(request, opts.flags) })
}

fn flagged(mut request: LockRequest, flags: u32) -> LockRequest {
    type Setter = fn(LockRequest) -> LockRequest;
    let setters: [(u32, Setter); 13] = [
        (OAR_NOQUEUE, LockRequest::no_queue),
        (OAR_NOQUEUE_NOTIFY, LockRequest::no_queue_notify),
        (OAR_HEADQUE, LockRequest::head_queue),
        (OAR_NOORDER, LockRequest::no_order),
        (OAR_EXPEDITE, LockRequest::expedite),
        (OAR_VALBLK, LockRequest::value_block),
        (OAR_ALTPR, |request| request.alternate(Mode::PR)),
        (OAR_ALTCW, |request| request.alternate(Mode::CW)),
        (OAR_FRESH, LockRequest::fresh),
        (OAR_LOCAL, LockRequest::local),
        (OAR_NODLCKWT, LockRequest::no_deadlock_victim),
        (OAR_NODLCKBLK, LockRequest::no_deadlock_blocker),
        (OAR_NOBAST, LockRequest::no_notices),
    ];
    for (flag, set) in setters {
        if flags & flag != 0 {
            request = set(request);
        }
    }
    request
}

/// A change of mode, checked before its guard is known.
#[derive(Clone, Copy)]
pub struct Change {
    mode: Mode,
    opts: oar_opts,
}

impl Change {
    /// From a number and options, if they make sense.
    pub fn new(number: c_int, opts: oar_opts) -> Outcome<Change> {
        check(&opts, CONVERSION, "a conversion")?;
        if opts.owner != 0 || opts.transaction != 0 {
            return Err(Fault::usage("a conversion keeps the owner and the transaction of its lock"));
        }
        Ok(Change { mode: mode(number)?, opts })
    }

    pub(crate) fn of(self, guard: &Guard) -> Conversion<'_> {
        let has = |flag| self.opts.flags & flag != 0;
        let mut change = guard.conversion(self.mode);
        if self.opts.timeout_ms != 0 {
            change = change.timeout(Duration::from_millis(self.opts.timeout_ms.into()));
        }
        if has(OAR_NOQUEUE) {
            change = change.no_queue();
        }
        if has(OAR_NOQUEUE_NOTIFY) {
            change = change.no_queue_notify();
        }
        if has(OAR_HEADQUE) {
            change = change.head_queue();
        }
        if has(OAR_QUECVT) {
            change = change.queue_convert();
        }
        if has(OAR_ALTPR) {
            change = change.alternate(Mode::PR);
        }
        if has(OAR_ALTCW) {
            change = change.alternate(Mode::CW);
        }
        if has(OAR_FRESH) {
            change = change.fresh();
        }
        if has(OAR_NODLCKWT) {
            change = change.no_deadlock_victim();
        }
        if has(OAR_NOBAST) {
            change = change.no_notices();
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_flags_are_checked() {
        assert_eq!(mode(OAR_EX).unwrap(), Mode::EX);
        assert_eq!(mode(OAR_NL).unwrap(), Mode::NL);
        assert!(mode(6).is_err() && mode(-1).is_err());
        let with = |flags| oar_opts { flags, ..oar_opts::default() };
        assert!(Change::new(OAR_PR, with(OAR_QUECVT)).is_ok());
        for flags in [OAR_VALBLK, OAR_LOCAL, 1 << 7, 1 << 31, OAR_ALTPR | OAR_ALTCW] {
            assert_eq!(Change::new(OAR_PR, with(flags)).err().unwrap().rc, OAR_E_USAGE);
        }
        assert!(check(&with(OAR_QUECVT), LOCK, "a new lock").is_err());
        assert!(check(&with(LOCK & !OAR_ALTCW), LOCK, "a new lock").is_ok());
    }
}
