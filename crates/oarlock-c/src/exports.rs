//! The functions of the header, one by one: check the process, look at the arguments, do it, remember what went wrong.
#![allow(unsafe_code, reason = "this is the boundary")]
#![allow(clippy::missing_safety_doc, reason = "the header says once what all of them ask of their callers")]

use std::ffi::{OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oarlock_handle::abi::*;
use oarlock_handle::client::{Client, Space};
use oarlock_handle::fault::{self, Fault, Outcome};
use oarlock_handle::lock::{Lock, Notices};
use oarlock_handle::request::{self, Change};

use crate::pointers::{
    boundary, bytes, done, fill, give, look, oar_blocking_fn, oar_done_fn, oar_lost_fn, share, sized,
    take_back, text, told, written,
};
use crate::versions::versions;

/// What has a client to remember errors with.
trait Handle {
    fn client(&self) -> &Client;
}

impl Handle for Client {
    fn client(&self) -> &Client {
        self
    }
}

impl Handle for Space {
    fn client(&self) -> &Client {
        Space::client(self)
    }
}

impl Handle for Lock {
    fn client(&self) -> &Client {
        Lock::client(self)
    }
}

/// A function of a handle that gives a number.
///
/// # Safety
/// As for [`share`].
#[inline]
unsafe fn with<T: Handle>(handle: *const T, body: impl FnOnce(&Arc<T>) -> Outcome<c_int>) -> c_int {
    boundary(OAR_E_INTERNAL, || {
        // SAFETY: by the contract.
        let Some(seen) = (unsafe { look(handle) }) else { return OAR_E_USAGE };
        if let Err(fault) = seen.client().check_process() {
            return fault.rc;
        }
        // SAFETY: by the contract.
        let Ok(shared) = (unsafe { share(handle) }) else { return OAR_E_USAGE };
        body(&shared).unwrap_or_else(|fault| shared.client().note(fault))
    })
}

/// Gives back C's share of a handle, but not that of the parent of this process.
///
/// # Safety
/// As for [`take_back`], or null.
unsafe fn leave<T: Handle>(handle: *mut T, last: impl FnOnce(&T)) {
    boundary((), || {
        // SAFETY: by the contract.
        let Some(seen) = (unsafe { look(handle.cast_const()) }) else { return };
        if seen.client().check_process().is_ok() {
            // SAFETY: by the contract.
            let handle = unsafe { take_back(handle) };
            last(&handle);
        }
    });
}

fn required<T>(pointer: *mut T) -> Outcome<*mut T> {
    if pointer.is_null() { Err(Fault::usage("the place for the result is NULL")) } else { Ok(pointer) }
}

// ---- sessions ---------------------------------------------------------------------------------------

/// The version of the library, as "0.1.0".
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// A sentence for a code. Never NULL, and never to be freed.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_strerror(rc: c_int) -> *const c_char {
    fault::sentence(rc).as_ptr()
}

/// Connects to the daemon whose socket this is. NULL: to the one that OARLOCK_SOCKET names; without that variable, to
/// the one of this machine; and if there is none, to the first node of this user's running `oarlock dev`.
///
/// opts may be NULL. On success *client is the session: it and all its locks end when the process does, or when it is
/// closed and all its spaces and locks are.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_connect(
    socket: *const c_char,
    opts: *const oar_connect_opts,
    client: *mut *mut Client,
) -> c_int {
    boundary(OAR_E_INTERNAL, || {
        let default =
            oar_connect_opts { size: 0, flags: 0, label: std::ptr::null(), error: std::ptr::null_mut() };
        // SAFETY: a struct of the caller's, or null.
        let opts = match unsafe { sized(opts, default) } {
            Ok(opts) => opts,
            Err(fault) => return fault.rc,
        };
        // SAFETY: both are strings of the caller's, or null.
        let (socket, label) = unsafe { (text(socket), text(opts.label)) };
        let socket = socket.map(|socket| Path::new(OsStr::from_bytes(socket.to_bytes())));
        let label = label.map(|label| label.to_string_lossy().into_owned());
        let connected = required(client).and_then(|to| Ok((to, Client::connect(socket, label, opts.flags)?)));
        match connected {
            Ok((to, connected)) => {
                // SAFETY: the caller's variable.
                unsafe { give(to, connected) };
                0
            }
            Err(fault) => {
                if !opts.error.is_null() {
                    // SAFETY: a struct of the caller's. One without its size stays as it is.
                    let _ = unsafe { fill(opts.error, &written(Some(&fault))) };
                }
                fault.rc
            }
        }
    })
}

/// Closes a client; NULL is no error. Its spaces and locks stay until they are freed. No callback begins any more once
/// this has returned, and none that runs in another thread is waited for.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_close(client: *mut Client) {
    // SAFETY: the caller's handle, or null.
    unsafe { leave(client, |client| client.close()) }
}

/// Fills *error with the last error of this thread with this client, its spaces and locks. Inside a callback, that is
/// what the callback is about.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_errinfo(client: *const Client, error: *mut oar_error) -> c_int {
    // SAFETY: the caller's handle and struct, or null.
    unsafe { with(client, |client| fill(error, &written(client.noted().as_ref())).map(|()| 0)) }
}

/// The name of the node that the session is with. Valid until the client is closed; NULL in a fork.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_node(client: *const Client) -> *const c_char {
    // SAFETY: the caller's handle, or null.
    unsafe { name(client, |client| client.node().as_ptr()) }
}

/// The name of the cluster. Valid until the client is closed; NULL in a fork.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_cluster(client: *const Client) -> *const c_char {
    // SAFETY: the caller's handle, or null.
    unsafe { name(client, |client| client.cluster().as_ptr()) }
}

/// # Safety
/// As for [`look`].
unsafe fn name(client: *const Client, name: impl FnOnce(&Client) -> *const c_char) -> *const c_char {
    boundary(std::ptr::null(), || {
        // SAFETY: by the contract.
        let client = unsafe { look(client) };
        client.filter(|client| client.check_process().is_ok()).map_or(std::ptr::null(), name)
    })
}

/// A descriptor that is readable while there are callbacks to run: wait for it with poll(), then call oar_dispatch().
/// It is the client's: do not read or close it.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_fd(client: *const Client) -> c_int {
    // SAFETY: the caller's handle, or null.
    unsafe { with(client, |client| Ok(client.fd())) }
}

/// Runs the callbacks there are to run, in this thread, and returns how many; if there are none, waits up to so many
/// milliseconds for some (0: not at all, -1: as long as it takes). Returns 0 when the time is up or a signal came.
/// Several threads may call it at once, and callbacks may; then callbacks of one lock may run in several threads at once.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_dispatch(client: *mut Client, timeout_ms: c_int) -> c_int {
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    // SAFETY: the caller's handle, or null.
    unsafe { with(client, |client| Ok(c_int::try_from(client.dispatch(timeout)).unwrap_or(c_int::MAX))) }
}

/// Finds a lockspace by its name. "default" exists in every cluster. flags: 0.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_space_open(
    client: *mut Client,
    space_name: *const c_char,
    flags: u32,
    space: *mut *mut Space,
) -> c_int {
    let body = |client: &Arc<Client>| {
        let to = required(space)?;
        if flags != 0 {
            return Err(Fault::usage("oar_space_open() has no flags yet"));
        }
        // SAFETY: the caller's string, or null.
        let name = unsafe { text(space_name) }.and_then(|name| name.to_str().ok());
        let name = name.ok_or_else(|| Fault::usage("the name of the lockspace is NULL, or no UTF-8"))?;
        let opened = client.space(name)?;
        // SAFETY: the caller's variable.
        unsafe { give(to, opened) };
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(client, body) }
}

/// Frees a lockspace's handle; NULL is no error. Its locks stay.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_space_close(space: *mut Space) {
    // SAFETY: the caller's handle, or null.
    unsafe { leave(space, |_| ()) }
}

// ---- locks ------------------------------------------------------------------------------------------

/// Waits for a lock on the resource of this name: 1 to 255 bytes of any value. opts may be NULL.
///
/// On success *lock is held until oar_unlock_wait(), oar_unlock_start() or oar_lock_free(). Otherwise *lock stays as it was.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_wait(
    space: *mut Space,
    resource: *const c_void,
    length: usize,
    mode: c_int,
    opts: *const oar_opts,
    lock: *mut *mut Lock,
) -> c_int {
    let body = |space: &Arc<Space>| {
        let to = required(lock)?;
        // SAFETY: the caller's bytes and struct, or null.
        let (resource, opts) = unsafe { (bytes(resource, length)?, sized(opts, oar_opts::default())?) };
        let taken = Lock::take(space, request::awaited(space.space(), resource, mode, &opts)?)?;
        // SAFETY: the caller's variable.
        unsafe { give(to, taken) };
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(space, body) }
}

/// Asks for a lock without waiting. A later oar_dispatch() calls done_fn with what came of it: 0 if it was granted, be it
/// at once, or why it was not. It does so once, unless the handle is freed first. When the lock is held, blocking_fn, which
/// may be NULL, is called when others want it.
///
/// On success *lock is a handle, before any callback has it. It is to be freed, granted or not. If an error is returned,
/// there is no handle, and done_fn is not called.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_start(
    space: *mut Space,
    resource: *const c_void,
    length: usize,
    mode: c_int,
    opts: *const oar_opts,
    done_fn: oar_done_fn,
    blocking_fn: oar_blocking_fn,
    arg: *mut c_void,
    lock: *mut *mut Lock,
) -> c_int {
    let body = |space: &Arc<Space>| {
        let (to, done) = (required(lock)?, done(done_fn, arg)?);
        // SAFETY: the caller's bytes and struct, or null.
        let (resource, opts) = unsafe { (bytes(resource, length)?, sized(opts, oar_opts::default())?) };
        let request = request::lock(space.space(), resource, mode, &opts)?;
        let blocking = told(blocking_fn, arg);
        let begun = Lock::unasked(space, Notices { blocking, lost: None });
        // SAFETY: the caller's variable.
        unsafe { give(to, Arc::clone(&begun)) };
        begun.start(request, done);
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(space, body) }
}

/// Says whom to tell, from now on, that others want this lock, and that it is at risk or lost. NULL for what nobody wants
/// to hear; whoever was told before is not told any more.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_watch(
    lock: *mut Lock,
    blocking_fn: oar_blocking_fn,
    lost_fn: oar_lost_fn,
    arg: *mut c_void,
) -> c_int {
    let body = |lock: &Arc<Lock>| {
        let (blocking, lost) = (told(blocking_fn, arg), told(lost_fn, arg));
        lock.watch(Notices { blocking, lost });
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) }
}

/// Changes the mode, up or down, and waits until that is granted. If it is refused, the lock stands as before. From PW
/// or EX down the value block is written.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_convert_wait(lock: *mut Lock, mode: c_int, opts: *const oar_opts) -> c_int {
    let body = |lock: &Arc<Lock>| {
        // SAFETY: the caller's struct, or null.
        let opts = unsafe { sized(opts, oar_opts::default())? };
        lock.convert(Change::new(mode, opts)?)?;
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) }
}

/// Changes the mode as oar_convert_wait() does, without waiting: a later oar_dispatch() calls done_fn with what came of it.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_convert_start(
    lock: *mut Lock,
    mode: c_int,
    opts: *const oar_opts,
    done_fn: oar_done_fn,
    arg: *mut c_void,
) -> c_int {
    let body = |lock: &Arc<Lock>| {
        // SAFETY: the caller's struct, or null.
        let opts = unsafe { sized(opts, oar_opts::default())? };
        lock.start_convert(Change::new(mode, opts)?, done(done_fn, arg)?)?;
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) }
}

/// Withdraws what is under way: a request for a new lock, or a conversion that another thread may be waiting for. It
/// ends with OAR_E_CANCELLED, or with success if it was granted first.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_cancel(lock: *mut Lock) -> c_int {
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, |lock| lock.cancel().map(|()| 0)) }
}

/// Gives the lock back and waits until that is done, the value block written included. The handle is still to be freed.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_unlock_wait(lock: *mut Lock) -> c_int {
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, |lock| lock.unlock().map(|()| 0)) }
}

/// Gives the lock back as oar_unlock_wait() does, without waiting: a later oar_dispatch() calls done_fn with what came of it.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_unlock_start(lock: *mut Lock, done_fn: oar_done_fn, arg: *mut c_void) -> c_int {
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, |lock| lock.start_unlock(done(done_fn, arg)?).map(|()| 0)) }
}

/// Frees a handle, whatever its state; NULL is no error. A lock that is held is given back without waiting, a request
/// under way is withdrawn. No callback of the lock comes any more, but for one that another thread is at, or about to
/// call, inside its own oar_dispatch(): what its arg points to must outlive that.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_free(lock: *mut Lock) {
    // SAFETY: the caller's handle, or null.
    unsafe { leave(lock, Lock::free) }
}

// ---- what is held -----------------------------------------------------------------------------------

/// The mode that is held now: OAR_NL to OAR_EX.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_mode(lock: *const Lock) -> c_int {
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, |lock| lock.ask(|guard| guard.mode() as c_int)) }
}

/// The token of this grant; zeros if there is none.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_token(lock: *const Lock) -> oar_token {
    let mut token = oar_token::default();
    let body = |lock: &Arc<Lock>| {
        let granted = lock.ask(|guard| guard.token())?;
        token = oar_token { hi: granted.fence.number(), lo: granted.local };
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) };
    token
}

/// The lock's id, as lists of locks show it; 0 if it is not held.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_id(lock: *const Lock) -> u64 {
    let mut id = 0;
    let body = |lock: &Arc<Lock>| {
        id = lock.ask(|guard| guard.id())?.0;
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) };
    id
}

/// 1 if the second choice was granted that OAR_ALTPR or OAR_ALTCW asked for, else 0.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_is_alternate(lock: *const Lock) -> c_int {
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, |lock| lock.ask(|guard| guard.is_alternate().into())) }
}

/// 0 if the lock is held and safe, OAR_E_AT_RISK if it will soon be lost, OAR_E_LOST if it is.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_lost(lock: *const Lock) -> c_int {
    let body = |lock: &Arc<Lock>| {
        let at_risk = || Fault::new(OAR_E_AT_RISK, "the node has not renewed its lease");
        match lock.ask(|guard| (guard.is_lost(), guard.is_at_risk()))? {
            (true, _) => Err(Fault::new(OAR_E_LOST, "the lock is gone: stop using what it protected")),
            (false, true) => Err(at_risk()),
            (false, false) => Ok(0),
        }
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) }
}

/// What others want that this lock is in the way of, if there is news since the last call and no callback was told; OAR_NL
/// if there is none. Does not wait.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_lock_wanted(lock: *const Lock) -> c_int {
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, |lock| Ok(lock.wanted()?.map_or(OAR_NL, |mode| mode as c_int))) }
}

// ---- value blocks -----------------------------------------------------------------------------------

/// Fills *value with the resource's value block, as last read or written by this lock. OAR_E_USAGE if it was taken without
/// OAR_VALBLK. Look at valid before believing the bytes.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_value_get(lock: *const Lock, value: *mut oar_value) -> c_int {
    let body = |lock: &Arc<Lock>| {
        let block = lock.ask(|guard| guard.value())?;
        let block = block.ok_or_else(|| Fault::usage("the lock was taken without OAR_VALBLK"))?;
        let read =
            oar_value { size: 0, valid: block.valid.into(), sequence: block.sequence, bytes: block.bytes };
        // SAFETY: the caller's struct, or null.
        unsafe { fill(value, &read) }.map(|()| 0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) }
}

/// Writes up to OAR_VALUE_BYTES, filled up with zeros, into the value block. They are written when the lock is given back,
/// or converted down from PW or EX.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_value_set(lock: *mut Lock, value: *const c_void, length: usize) -> c_int {
    let body = |lock: &Arc<Lock>| {
        // SAFETY: the caller's bytes, or null.
        let value = unsafe { bytes(value, length)? };
        lock.ask(|guard| guard.set_value(value))??;
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) }
}

/// Marks the value block as not to be believed, when the lock is given back or converted down from PW or EX.
// SAFETY: no other library has names that begin so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oar_value_invalidate(lock: *mut Lock) -> c_int {
    let body = |lock: &Arc<Lock>| {
        lock.ask(|guard| guard.invalidate_value())??;
        Ok(0)
    };
    // SAFETY: the caller's handle, or null.
    unsafe { with(lock, body) }
}

// ---- versions ---------------------------------------------------------------------------------------

// In the file of the functions: an assembler gives a version only to what it defines.
versions! {
    "OARLOCK_0":
    "oar_version"
    "oar_strerror"
    "oar_connect"
    "oar_close"
    "oar_errinfo"
    "oar_node"
    "oar_cluster"
    "oar_fd"
    "oar_dispatch"
    "oar_space_open"
    "oar_space_close"
    "oar_lock_wait"
    "oar_lock_start"
    "oar_watch"
    "oar_convert_wait"
    "oar_convert_start"
    "oar_cancel"
    "oar_unlock_wait"
    "oar_unlock_start"
    "oar_lock_free"
    "oar_lock_mode"
    "oar_lock_token"
    "oar_lock_id"
    "oar_lock_is_alternate"
    "oar_lock_lost"
    "oar_lock_wanted"
    "oar_value_get"
    "oar_value_set"
    "oar_value_invalidate"
}
