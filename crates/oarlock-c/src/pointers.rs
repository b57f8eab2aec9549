//! What C hands over, and what is handed to it: the only place that follows its pointers.
//!
//! Handles are `Arc`s that C holds as bare pointers. Each call takes a share of its own for as long as it lasts, so that
//! a callback may free the handle that it was called for.
#![allow(unsafe_code, reason = "C has no other way to say where something is")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nix::errno::Errno;

use oarlock_handle::abi::{OAR_ERROR_BYTES, oar_error};
use oarlock_handle::fault::{Fault, Outcome};
use oarlock_handle::lock::{Done, Lock, Told};

/// Every function runs in here: errno stays as it was, and a panic becomes `failed`.
#[inline]
pub(crate) fn boundary<T>(failed: T, body: impl FnOnce() -> T) -> T {
    let errno = Errno::last_raw();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(failed);
    Errno::set_raw(errno);
    result
}

/// A share of a handle.
///
/// # Safety
/// The pointer is null, or came from [`give`] and was not given to [`take_back`] yet.
#[inline]
pub(crate) unsafe fn share<T>(handle: *const T) -> Outcome<Arc<T>> {
    if handle.is_null() {
        return Err(Fault::usage("a handle is NULL"));
    }
    // SAFETY: by the contract it came from `Arc::into_raw`, and C's own share keeps it alive.
    unsafe {
        Arc::increment_strong_count(handle);
        Ok(Arc::from_raw(handle))
    }
}

/// A look at a handle, without a share: for the question whose process it is, before anything is touched.
///
/// # Safety
/// As for [`share`], and it is not freed while the reference is used.
#[inline]
pub(crate) unsafe fn look<'a, T>(handle: *const T) -> Option<&'a T> {
    // SAFETY: by the contract it is null or points to what an `Arc` keeps.
    unsafe { handle.as_ref() }
}

/// Hands C its share of a handle.
///
/// # Safety
/// The pointer may be written to.
#[inline]
pub(crate) unsafe fn give<T>(to: *mut *mut T, handle: Arc<T>) {
    // SAFETY: by the contract.
    unsafe { to.write(Arc::into_raw(handle).cast_mut()) }
}

/// Takes C's share of a handle back.
///
/// # Safety
/// The pointer came from [`give`], and nobody uses it any more.
pub(crate) unsafe fn take_back<T>(handle: *mut T) -> Arc<T> {
    // SAFETY: by the contract this is the share that was given.
    unsafe { Arc::from_raw(handle) }
}

/// The bytes of a name.
///
/// # Safety
/// So many bytes may be read there while the reference is used.
#[inline]
pub(crate) unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Outcome<&'a [u8]> {
    if length == 0 {
        return Ok(&[]);
    }
    if start.is_null() || isize::try_from(length).is_err() {
        return Err(Fault::usage("a pointer to bytes is NULL, or there are too many"));
    }
    // SAFETY: by the contract, and no slice is longer than the largest isize.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

/// A text; None if there is none.
///
/// # Safety
/// The pointer is null or leads to a string that ends with a zero and stays while the reference is used.
pub(crate) unsafe fn text<'a>(start: *const c_char) -> Option<&'a CStr> {
    // SAFETY: by the contract.
    (!start.is_null()).then(|| unsafe { CStr::from_ptr(start) })
}

/// A struct that begins with its size, as far as the caller has it; the rest is as in `default`. What a newer caller has
/// beyond that must be zero, because nobody here would heed it.
///
/// # Safety
/// The pointer is null or leads to as many bytes as their first four say. `T` is made of numbers and pointers only, and
/// begins with its size as a u32.
#[inline]
pub(crate) unsafe fn sized<T: Copy>(from: *const T, default: T) -> Outcome<T> {
    if from.is_null() {
        return Ok(default);
    }
    // SAFETY: every struct of the interface begins with its size.
    let size = unsafe { from.cast::<u32>().read() } as usize;
    if size == size_of::<T>() {
        // SAFETY: it is as large as ours.
        return Ok(unsafe { from.read() });
    }
    if !(4..=4096).contains(&size) {
        return Err(Fault::usage("a struct does not begin with its size; begin with its _INIT macro"));
    }
    // SAFETY: so many bytes are there, the caller says.
    let given = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) };
    if given.iter().skip(size_of::<T>()).any(|byte| *byte != 0) {
        return Err(Fault::usage("a struct has fields that this version of the library does not know"));
    }
    let mut whole = default;
    let length = size.min(size_of::<T>());
    // SAFETY: both are at least so long, and any bytes make numbers and pointers.
    unsafe { std::ptr::copy_nonoverlapping(given.as_ptr(), (&raw mut whole).cast::<u8>(), length) };
    Ok(whole)
}

/// Fills a struct that begins with its size, as far as the caller has it; its size stays.
///
/// # Safety
/// As for [`sized`], and it may be written to.
pub(crate) unsafe fn fill<T: Copy>(to: *mut T, value: &T) -> Outcome<()> {
    if to.is_null() {
        return Err(Fault::usage("there is no struct to fill"));
    }
    // SAFETY: every struct of the interface begins with its size.
    let size = unsafe { to.cast::<u32>().read() } as usize;
    if !(4..=4096).contains(&size) {
        return Err(Fault::usage("a struct does not begin with its size; begin with its _INIT macro"));
    }
    let length = size.min(size_of::<T>()) - 4;
    // SAFETY: behind the size, both have so many bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (&raw const *value).cast::<u8>().add(4),
            to.cast::<u8>().add(4),
            length,
        );
    }
    Ok(())
}

/// An error as C reads it.
pub(crate) fn written(fault: Option<&Fault>) -> oar_error {
    let mut error = oar_error { size: 0, rc: 0, number: 0, reserved: 0, text: [0; OAR_ERROR_BYTES] };
    if let Some(fault) = fault {
        error.rc = fault.rc;
        error.number = fault.number.into();
        let mut end = fault.text.len().min(OAR_ERROR_BYTES - 1);
        while !fault.text.is_char_boundary(end) {
            end -= 1;
        }
        for (to, byte) in error.text.iter_mut().zip(&fault.text.as_bytes()[..end]) {
            *to = *byte as c_char;
        }
    }
    error
}

/// An operation has come to its end, with 0 or an error code.
// SAFETY: for whoever calls it: the argument is the one that came with it, the lock a handle that is alive.
#[allow(non_camel_case_types, reason = "the name of the header")]
pub type oar_done_fn = Option<unsafe extern "C" fn(arg: *mut c_void, lock: *mut Lock, rc: c_int)>;

/// Others want a mode that this lock is in the way of. To give way is polite, not compulsory.
// SAFETY: for whoever calls it: as above.
#[allow(non_camel_case_types, reason = "the name of the header")]
pub type oar_blocking_fn =
    Option<unsafe extern "C" fn(arg: *mut c_void, lock: *mut Lock, wanted_mode: c_int)>;

/// The lock is at risk (OAR_E_AT_RISK) or lost (OAR_E_LOST).
// SAFETY: for whoever calls it: as above.
#[allow(non_camel_case_types, reason = "the name of the header")]
pub type oar_lost_fn = Option<unsafe extern "C" fn(arg: *mut c_void, lock: *mut Lock, rc: c_int)>;

/// A function of the program's, and what to call it with.
#[derive(Clone, Copy)]
struct Callback {
    // SAFETY: for whoever calls it: with this argument.
    function: unsafe extern "C" fn(*mut c_void, *mut Lock, c_int),
    argument: *mut c_void,
}

// SAFETY: the argument is only handed through. That its function may be called with it in whatever thread dispatches, the
// header says.
unsafe impl Send for Callback {}

// SAFETY: as above; nothing of it ever changes.
unsafe impl Sync for Callback {}

impl Callback {
    fn call(self, lock: &Arc<Lock>, number: c_int) {
        let handle = Arc::as_ptr(lock).cast_mut();
        // SAFETY: the function came with this argument; the handle is alive, because there is a share of it here.
        unsafe { (self.function)(self.argument, handle, number) }
    }
}

/// Whom to tell that an operation is over.
pub(crate) fn done(function: oar_done_fn, argument: *mut c_void) -> Outcome<Done> {
    let function =
        function.ok_or_else(|| Fault::usage("a request needs somebody to tell when it is done"))?;
    let callback = Callback { function, argument };
    Ok(Box::new(move |lock, rc| callback.call(lock, rc)))
}

/// Whom to tell what happens to a lock, if anybody.
pub(crate) fn told(function: oar_blocking_fn, argument: *mut c_void) -> Option<Told> {
    let callback = Callback { function: function?, argument };
    Some(Arc::new(move |lock, number| callback.call(lock, number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_handle::abi::{OAR_E_USAGE, oar_opts};

    #[test]
    fn structs_of_other_sizes_are_read_as_far_as_both_know_them() {
        let ours = oar_opts {
            size: size_of::<oar_opts>() as u32,
            flags: 3,
            timeout_ms: 5,
            owner: 7,
            ..oar_opts::default()
        };
        let read = |bytes: &[u64]| {
            // SAFETY: each of the buffers below is as long as its first field says.
            unsafe { sized(bytes.as_ptr().cast::<oar_opts>(), oar_opts::default()) }
        };
        let mut bytes = [0u64; 6];
        // SAFETY: the buffer is larger.
        unsafe { bytes.as_mut_ptr().cast::<oar_opts>().write(ours) };
        assert_eq!(read(&bytes).unwrap().owner, 7);
        bytes[0] = 48 | 3 << 32;
        assert_eq!(read(&bytes).unwrap().owner, 7, "a newer caller");
        bytes[5] = 1;
        assert_eq!(read(&bytes).err().unwrap().rc, OAR_E_USAGE, "who wants what nobody knows");
        bytes[0] = 16 | 3 << 32;
        let old = read(&bytes).unwrap();
        assert_eq!((old.flags, old.timeout_ms, old.owner), (3, 5, 0), "an older caller");
        bytes[0] = 0;
        assert_eq!(read(&bytes).err().unwrap().rc, OAR_E_USAGE);
    }

    #[test]
    fn a_panic_is_a_code_and_errno_stays() {
        Errno::set_raw(17);
        let rc = boundary(-20, || {
            Errno::set_raw(5);
            std::panic::resume_unwind(Box::new("not printed"))
        });
        assert_eq!((rc, Errno::last_raw()), (-20, 17));
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        let error = written(Some(&Fault::usage("\u{e4}".repeat(300))));
        let length = error.text.iter().position(|byte| *byte == 0).unwrap();
        assert_eq!(length, 494);
    }
}
