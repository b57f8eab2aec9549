//! The functions by which a program opens and looks at files, each handed on to the next library that has it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{DIR, FILE, mode_t, stat as Stat, stat64 as Stat64};

use crate::paths;

// SAFETY: only a type.
type Open = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
// SAFETY: only a type.
type FileOpen = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut FILE;
// SAFETY: only a type.
type DirOpen = unsafe extern "C" fn(*const c_char) -> *mut DIR;
// SAFETY: only a type.
type Access = unsafe extern "C" fn(*const c_char, c_int) -> c_int;
// SAFETY: only a type.
type Look = unsafe extern "C" fn(*const c_char, *mut Stat) -> c_int;
// SAFETY: only a type.
type Look64 = unsafe extern "C" fn(*const c_char, *mut Stat64) -> c_int;

/// Where the path of a call leads.
enum Way {
    /// Where it says.
    Straight,
    /// To a file with the node's answer.
    To(CString),
    /// Nowhere: there is no such file, or no node that says so.
    Nowhere,
}

/// # Safety
/// `path` is a string of C's, or null.
unsafe fn way(path: *const c_char) -> Way {
    if path.is_null() {
        return Way::Straight;
    }
    // SAFETY: by the contract.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if !paths::is_ours(path) {
        return Way::Straight;
    }
    let found = catch_unwind(AssertUnwindSafe(|| paths::answer(path))).ok().flatten();
    match found.and_then(|found| CString::new(found.as_os_str().as_bytes()).ok()) {
        Some(found) => Way::To(found),
        None => Way::Nowhere,
    }
}

/// The next function of this name after ours.
fn next(cell: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let known = cell.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: a constant and a string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "the C library lacks a function that every program has");
    cell.store(found, Ordering::Relaxed);
    found
}

fn no_such_file<T>(failure: T) -> T {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = libc::ENOENT };
    failure
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident as $symbol:literal ($($arg:ident: $type:ty),*) -> $result:ty, or $failure:expr, by $real:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the C library's.
        // SAFETY: it is meant to stand before the C library's, and does the same for every path but a few.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, $($arg: $type),*) -> $result {
            static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            // SAFETY: the C library's function of this name has this type.
            let real: $real = unsafe { std::mem::transmute(next(&NEXT, $symbol)) };
            // SAFETY: the caller's string.
            match unsafe { way(path) } {
                // SAFETY: the caller's arguments.
                Way::Straight => unsafe { real(path, $($arg),*) },
                // SAFETY: the caller's arguments, and a string that lives until the call returns.
                Way::To(found) => unsafe { real(found.as_ptr(), $($arg),*) },
                Way::Nowhere => no_such_file($failure),
            }
        }
    )*};
}

// The third argument of open() is there only with some flags; where it is not, whatever is passed on is not looked at.
hooks! {
    /// `open`
    open as c"open" (flags: c_int, mode: mode_t) -> c_int, or -1,
        by Open;
    /// `open64`
    open64 as c"open64" (flags: c_int, mode: mode_t) -> c_int, or -1,
        by Open;
    /// `fopen`
    fopen as c"fopen" (how: *const c_char) -> *mut FILE, or std::ptr::null_mut(),
        by FileOpen;
    /// `fopen64`
    fopen64 as c"fopen64" (how: *const c_char) -> *mut FILE, or std::ptr::null_mut(),
        by FileOpen;
    /// `opendir`
    opendir as c"opendir" () -> *mut DIR, or std::ptr::null_mut(),
        by DirOpen;
    /// `access`
    access as c"access" (how: c_int) -> c_int, or -1,
        by Access;
    /// `stat`
    stat as c"stat" (to: *mut Stat) -> c_int, or -1,
        by Look;
    /// `stat64`
    stat64 as c"stat64" (to: *mut Stat64) -> c_int, or -1,
        by Look64;
}
