//! What C hands over: the only place that follows its pointers.
#![allow(unsafe_code, reason = "C has no other way to say where something is")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering, fence};

use nix::errno::Errno as Last;
use oarlock_dlm::{Block, Errno, Event, Report, VALUE_BYTES, What, status};

/// `struct dlm_lksb`: a status block of the program's, which it keeps in place until nothing about the lock is under way.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the name of the header")]
pub struct dlm_lksb {
    sb_status: c_int,
    sb_lkid: u32,
    sb_flags: c_char,
    sb_lvbptr: *mut c_char,
}

const _: () = {
    assert!(size_of::<dlm_lksb>() == 24);
    assert!(std::mem::offset_of!(dlm_lksb, sb_lkid) == 4);
    assert!(std::mem::offset_of!(dlm_lksb, sb_flags) == 8);
    assert!(std::mem::offset_of!(dlm_lksb, sb_lvbptr) == 16);
};

/// A callback of the program's.
// SAFETY: for whoever calls it: with the argument that came with it.
#[allow(non_camel_case_types, reason = "named as in the header, where it has no name")]
pub type dlm_callback = Option<unsafe extern "C" fn(*mut c_void)>;

/// Below this there is no code. Some programs pass 1 for callbacks that are never to be called.
const FIRST_PAGE: usize = 4096;

/// A callback that can be called.
pub(crate) fn callable(callback: dlm_callback) -> bool {
    callback.is_some_and(|callback| callback as usize >= FIRST_PAGE)
}

/// A status block that is there for as long as something about its lock is under way. Programs may have it at any address: lvmlockd
/// keeps its own in an array of bytes.
#[derive(Clone, Copy)]
pub struct StatusBlock(*mut dlm_lksb);

// SAFETY: until the callback the block is the library's, in whatever thread that comes.
unsafe impl Send for StatusBlock {}

impl StatusBlock {
    /// One of the program's.
    ///
    /// # Safety
    /// The pointer is null or leads to a status block, and that to 32 bytes or to none, until nothing about the lock is under
    /// way any more and nobody is told of others who want it.
    pub(crate) unsafe fn new(lksb: *mut dlm_lksb) -> Result<StatusBlock, Errno> {
        if lksb.is_null() { Err(Errno::INVAL) } else { Ok(StatusBlock(lksb)) }
    }

    /// The number of its lock.
    pub(crate) fn lkid(self) -> u32 {
        // SAFETY: it is there.
        unsafe { (&raw const (*self.0).sb_lkid).read_unaligned() }
    }

    /// The program's value block, if it has one.
    pub(crate) fn value(self) -> Option<Block> {
        // SAFETY: it is there.
        let block = unsafe { (&raw const (*self.0).sb_lvbptr).read_unaligned() };
        // SAFETY: so is this; bytes need no alignment.
        (!block.is_null()).then(|| unsafe { block.cast::<Block>().read() })
    }

    /// Says that an operation is under way, and the number of its lock if that is new.
    pub(crate) fn accept(self, lkid: Option<u32>) {
        if let Some(lkid) = lkid {
            // SAFETY: it is there.
            unsafe { (&raw mut (*self.0).sb_lkid).write_unaligned(lkid) };
        }
        self.set_status(status::IN_PROGRESS);
    }

    fn set_status(self, status: c_int) {
        // SAFETY: it is there.
        let place = unsafe { &raw mut (*self.0).sb_status };
        if place.is_aligned() {
            // SAFETY: it is there, and programs do no more than look at it.
            unsafe { AtomicI32::from_ptr(place).store(status, Ordering::Release) };
        } else {
            fence(Ordering::Release);
            // SAFETY: it is there.
            unsafe { place.write_unaligned(status) };
        }
    }

    /// Writes a report. The status comes last, for programs that only look at it.
    pub(crate) fn write(self, report: &Report) {
        // SAFETY: it is there, and the block it leads to.
        unsafe {
            let block = (&raw const (*self.0).sb_lvbptr).read_unaligned();
            if let Some(value) = report.value.filter(|_| !block.is_null()) {
                std::ptr::copy_nonoverlapping(value.as_ptr().cast::<c_char>(), block, VALUE_BYTES);
            }
            (&raw mut (*self.0).sb_flags).write(report.flags as c_char);
            (&raw mut (*self.0).sb_lkid).write_unaligned(report.lkid);
        }
        self.set_status(report.status);
    }
}

/// Whom to call for a lock, and where its status block is.
#[derive(Clone, Copy)]
pub struct User {
    /// Hears that an operation is over; none of calls that wait.
    pub(crate) ast: dlm_callback,
    /// Hears that others want the lock.
    pub(crate) bast: dlm_callback,
    /// What they are called with.
    pub(crate) argument: *mut c_void,
    /// None of calls that keep their own.
    pub(crate) block: Option<StatusBlock>,
}

// SAFETY: the argument is only handed through. That callbacks may run in whatever thread dispatches is what programs for
// libdlm rely on.
unsafe impl Send for User {}

impl User {
    /// Writes what happened into the status block, and calls.
    pub fn tell(event: Event<User>) {
        let Event { user, what } = event;
        let (report, callback) = match what {
            What::Completed(report) => (Some(report), user.ast),
            What::Blocking(last) => (last.map(|last| Report { value: None, ..last }), user.bast),
        };
        if let (Some(block), Some(report)) = (user.block, report) {
            block.write(&report);
        }
        if let Some(callback) = callback.filter(|_| callable(callback)) {
            // SAFETY: it came with this argument.
            unsafe { callback(user.argument) };
        }
    }
}

/// Every function runs in here. On success errno is as before, unless the body has set it; on failure it is the number, and
/// the result `failed`. A panic is a failure.
pub(crate) fn boundary<T>(failed: T, body: impl FnOnce() -> Result<T, Errno>) -> T {
    let before = Last::last_raw();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Errno::NOTRECOVERABLE));
    let (result, errno) = match result {
        Ok(result) => (result, before),
        Err(errno) => (failed, errno.raw_os_error()),
    };
    Last::set_raw(errno);
    result
}

/// The same, for results that come with a number of their own.
pub(crate) fn boundary_telling(body: impl FnOnce() -> Result<(c_int, Option<i32>), Errno>) -> c_int {
    let mut told = None;
    let result = boundary(-1, || {
        let (result, errno) = body()?;
        told = errno;
        Ok(result)
    });
    if let Some(errno) = told {
        Last::set_raw(errno);
    }
    result
}

/// The bytes of a name.
///
/// # Safety
/// The pointer is null or so many bytes may be read there while the reference is used.
pub(crate) unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Result<&'a [u8], Errno> {
    match length {
        0 => Ok(&[]),
        _ if start.is_null() => Err(Errno::FAULT),
        // SAFETY: by the contract; a length from C fits.
        _ => Ok(unsafe { std::slice::from_raw_parts(start.cast(), length) }),
    }
}

/// A text.
///
/// # Safety
/// The pointer is null or leads to a string that ends with a zero and stays while the reference is used.
pub(crate) unsafe fn text<'a>(start: *const c_char) -> Result<&'a [u8], Errno> {
    if start.is_null() {
        return Err(Errno::INVAL);
    }
    // SAFETY: by the contract.
    Ok(unsafe { CStr::from_ptr(start) }.to_bytes())
}

/// A number, if there is one.
///
/// # Safety
/// The pointer is null or leads to a number.
pub(crate) unsafe fn number(from: *const u64) -> Option<u64> {
    // SAFETY: by the contract; it may lie anywhere.
    (!from.is_null()).then(|| unsafe { from.read_unaligned() })
}

/// Writes a number where there is a place for it.
///
/// # Safety
/// The pointer is null or may be written to.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: by the contract.
        unsafe { to.write(value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_where_the_program_looks() {
        let mut block = [7 as c_char; 33];
        let mut lksb = dlm_lksb { sb_status: 1, sb_lkid: 2, sb_flags: 3, sb_lvbptr: block.as_mut_ptr() };
        let mut report = Report { lkid: 9, status: 11, flags: 2, value: None };
        // SAFETY: it is this test's, and outlives the last use.
        let status = unsafe { StatusBlock::new(&mut lksb) }.unwrap();
        status.write(&report);
        assert_eq!((lksb.sb_status, lksb.sb_lkid, lksb.sb_flags, block[0]), (11, 9, 2, 7));
        report.value = Some([5; VALUE_BYTES]);
        status.write(&report);
        assert_eq!((block[31], block[32]), (5, 7));
        lksb.sb_lvbptr = std::ptr::null_mut();
        status.write(&report);
        status.accept(Some(3));
        assert_eq!((lksb.sb_status, status.lkid(), status.value()), (0x10003, 3, None));
        // SAFETY: nothing is no status block.
        assert!(unsafe { StatusBlock::new(std::ptr::null_mut()) }.is_err());
    }

    #[test]
    fn errno_is_set_on_failure_and_stays_otherwise() {
        Last::set_raw(5);
        assert_eq!((boundary(-1, || Err(Errno::BUSY)), Last::last_raw()), (-1, 16));
        Last::set_raw(5);
        let noisy = || {
            Last::set_raw(77);
            Ok(0)
        };
        assert_eq!((boundary(-1, noisy), Last::last_raw()), (0, 5));
        assert_eq!((boundary_telling(|| Ok((0, Some(99)))), Last::last_raw()), (0, 99));
        let panics = || -> Result<c_int, Errno> { std::panic::resume_unwind(Box::new("not printed")) };
        assert_eq!((boundary(-1, panics), Last::last_raw()), (-1, Errno::NOTRECOVERABLE.raw_os_error()));
    }

    #[test]
    fn one_is_no_function() {
        extern "C" fn real(_: *mut c_void) {}
        assert!(callable(Some(real)) && !callable(None));
    }
}
