//! The functions, one by one: take what C hands over apart, do it, set errno. And the macro that gives them their names.
#![allow(unsafe_code, reason = "this is the boundary")]
#![allow(
    clippy::missing_safety_doc,
    reason = "what libdlm.h asks of callers is said there, and is the same for all"
)]
#![allow(clippy::too_many_arguments, reason = "C has them")]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::time::Duration;

use oarlock_dlm::flags::LockFlags;
use oarlock_dlm::{Errno, LOCKSPACE_BYTES_MAX};

use crate::calls::{self, Library, Wanted, registry};
use crate::pointers::{
    StatusBlock, User, boundary, boundary_telling, bytes, dlm_callback, dlm_lksb, number, put, text,
};

/// What both version calls say. Programs take an older kernel's value blocks for broken, and wait for a newer one's.
pub const VERSION: (u32, u32, u32) = (6, 0, 2);

/// Which lockspace a call means.
#[derive(Clone, Copy)]
pub enum Place {
    /// The one that is made when it is first needed.
    Default,
    /// A handle of the program's.
    Handle(*mut c_void),
}

impl Place {
    /// The handle, where the default lockspace is entered if need be.
    fn entered(self) -> Result<usize, Errno> {
        match self {
            Place::Default => registry().enter_default(),
            handle => handle.known(),
        }
    }

    /// The handle of what is open.
    fn known(self) -> Result<usize, Errno> {
        match self {
            Place::Default => registry().default_handle(),
            Place::Handle(handle) if handle.is_null() => Err(Errno::NOTCONN),
            Place::Handle(handle) => Ok(handle.addr()),
        }
    }
}

/// A lock call.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// Which lockspace.
    pub place: Place,
    /// Number of the mode.
    pub mode: u32,
    /// The status block.
    pub lksb: *mut dlm_lksb,
    /// Flags.
    pub flags: u32,
    /// The resource.
    pub name: *const c_void,
    /// Bytes of its name.
    pub length: c_uint,
    /// Hears that it is over.
    pub ast: dlm_callback,
    /// Hears that others want it.
    pub bast: dlm_callback,
    /// What they are called with.
    pub argument: *mut c_void,
    /// Not known to anybody.
    pub range: *mut c_void,
    /// A transaction, or null.
    pub transaction: *const u64,
    /// Hundredths of a second, or null.
    pub timeout: *const u64,
}

impl Arguments {
    /// # Safety
    /// The pointers are as `libdlm.h` asks for them.
    unsafe fn wanted<'a>(self) -> Result<Wanted<'a>, Errno> {
        if !self.range.is_null() {
            return Err(Errno::NOSYS);
        }
        // A change of mode names its lock by its number.
        let length = if self.flags & LockFlags::CONVERT.bits() != 0 { 0 } else { self.length };
        // SAFETY: the caller's, or null.
        let (block, name, transaction, timeout) = unsafe {
            (
                StatusBlock::new(self.lksb)?,
                bytes(self.name, length as usize)?,
                number(self.transaction),
                number(self.timeout),
            )
        };
        let user = User { ast: self.ast, bast: self.bast, argument: self.argument, block: Some(block) };
        let timeout = timeout.map(|hundredths| Duration::from_millis(hundredths.saturating_mul(10)));
        let (transaction, lkid) = (transaction.unwrap_or(0), block.lkid());
        Ok(Wanted { mode: self.mode, flags: self.flags, name, lkid, user, transaction, timeout })
    }
}

/// Asks for a lock or a change of mode.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn lock(arguments: Arguments) -> c_int {
    boundary(-1, || {
        let handle = arguments.place.entered()?;
        // SAFETY: the caller's pointers.
        calls::lock(handle, unsafe { arguments.wanted()? })
    })
}

/// The same, and waits.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn lock_wait(library: Library, arguments: Arguments) -> c_int {
    boundary_telling(|| {
        let handle = arguments.place.entered()?;
        // SAFETY: the caller's pointers.
        calls::locked(library, handle, unsafe { arguments.wanted()? })
    })
}

/// Gives a lock back, or withdraws what it waits for.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn unlock(
    place: Place,
    lkid: u32,
    flags: u32,
    lksb: *mut dlm_lksb,
    argument: *mut c_void,
) -> c_int {
    boundary(-1, || {
        let handle = place.known()?;
        // SAFETY: the caller's status block, or null.
        calls::unlock(handle, lkid, flags, unsafe { StatusBlock::new(lksb)? }, argument)
    })
}

/// The same, and waits.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn unlock_wait(
    library: Library,
    place: Place,
    lkid: u32,
    flags: u32,
    lksb: *mut dlm_lksb,
) -> c_int {
    boundary_telling(|| {
        let handle = place.known()?;
        // SAFETY: the caller's status block, or null.
        calls::unlock_wait(library, handle, lkid, flags, unsafe { StatusBlock::new(lksb)? })
    })
}

/// Withdraws what a lock waits for, because of a deadlock.
pub fn deadlock_cancel(place: Place, lkid: u32, flags: u32) -> c_int {
    boundary(-1, || registry().get(place.known()?)?.deadlock_cancel(lkid, flags).map(|()| 0))
}

/// Gives locks back without a word.
pub fn purge(place: Place, node: c_int, pid: c_int) -> c_int {
    boundary(-1, || registry().get(place.known()?)?.purge(node, pid).map(|()| 0))
}

/// A descriptor that is readable while there is something to dispatch.
pub fn fd(place: Place) -> c_int {
    boundary(-1, || Ok(registry().get(place.entered()?)?.fd()))
}

/// Runs what there is to run.
pub fn dispatch(fd: c_int) -> c_int {
    boundary(-1, || calls::dispatch(fd))
}

fn pointer(handle: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(handle)
}

/// Makes a lockspace, or takes part in it.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn create(name: *const c_char, flags: u32) -> *mut c_void {
    // SAFETY: the caller's string, or null.
    boundary(std::ptr::null_mut(), || calls::create(unsafe { text(name)? }, flags).map(pointer))
}

/// Takes part in a lockspace.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn attach(name: *const c_char) -> *mut c_void {
    // SAFETY: the caller's string, or null.
    boundary(std::ptr::null_mut(), || calls::attach(unsafe { text(name)? }).map(pointer))
}

/// Closes a lockspace. A fork has nothing to close, which is no failure.
pub fn close(place: Place) -> c_int {
    boundary(-1, || {
        let handle = place.known().map_err(|_| Errno::INVAL)?;
        // One that is closed is closed.
        let _ = registry().close(handle);
        Ok(0)
    })
}

/// Closes a lockspace, and gives it up.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn release(name: *const c_char, place: Place, force: c_int) -> c_int {
    boundary_telling(|| {
        // SAFETY: the caller's string, or null.
        let name = unsafe { text(name)? };
        if name.len() > LOCKSPACE_BYTES_MAX {
            return Err(Errno::INVAL);
        }
        calls::release(place.known().map_err(|_| Errno::INVAL)?, force != 0)
    })
}

/// Writes the version.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn version(major: *mut u32, minor: *mut u32, patch: *mut u32) -> c_int {
    // SAFETY: the caller's variables, or null.
    unsafe {
        put(major, VERSION.0);
        put(minor, VERSION.1);
        put(patch, VERSION.2);
    }
    0
}

/// Starts the thread that runs the callbacks of a lockspace.
pub fn start(place: Place) -> c_int {
    boundary(-1, || registry().start(place.entered()?, User::tell).map(|()| 0))
}

/// Stops that of the default lockspace, and closes it.
pub fn stop() -> c_int {
    boundary(-1, || match registry().default_handle() {
        Ok(handle) => registry().close(handle).map(|()| 0),
        // There is nothing to stop.
        Err(_) => Ok(0),
    })
}

/// Locks a resource in the default lockspace.
///
/// # Safety
/// The pointers are as `libdlm.h` asks for them.
pub unsafe fn lock_resource(resource: *const c_char, mode: c_int, flags: c_int, lkid: *mut c_int) -> c_int {
    boundary_telling(|| {
        if lkid.is_null() {
            return Err(Errno::INVAL);
        }
        let handle = registry().enter_default()?;
        match registry().start(handle, User::tell) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        // SAFETY: the caller's string and variable.
        let (name, converted) = unsafe { (text(resource)?, lkid.read()) };
        let wanted = Wanted {
            mode: mode.cast_unsigned(),
            flags: flags.cast_unsigned(),
            name,
            lkid: converted.cast_unsigned(),
            user: User { ast: None, bast: None, argument: std::ptr::null_mut(), block: None },
            transaction: 0,
            timeout: None,
        };
        let report = calls::lock_wait(Library::Threaded, handle, wanted)?;
        if report.status != 0 {
            // Not all of them are errors of the kernel's.
            return Ok((-1, Some(report.status)));
        }
        // SAFETY: the caller's variable.
        unsafe { lkid.write(report.lkid.cast_signed()) };
        Ok((0, None))
    })
}

/// Unlocks it.
pub fn unlock_resource(lkid: c_int) -> c_int {
    boundary_telling(|| {
        let handle = registry().default_handle()?;
        let report = calls::unlock_silently(Library::Threaded, handle, lkid.cast_unsigned())?;
        if report.status == oarlock_dlm::status::UNLOCKED {
            Ok((0, None))
        } else {
            Ok((-1, Some(report.status)))
        }
    })
}

/// Writes the functions that both libraries export, with their names. Only a shared library may.
#[macro_export]
macro_rules! exports {
    ($library:expr) => {
        use std::ffi::{c_char, c_int, c_uint, c_void};

        use $crate::exports::{self, Arguments, Place};
        use $crate::pointers::{dlm_callback, dlm_lksb};

        const NONE: *const u64 = std::ptr::null();

        $crate::exports! { @functions
            fn dlm_lock(mode: u32, lksb: *mut dlm_lksb, flags: u32, name: *const c_void, length: c_uint, _parent: u32,
                ast: dlm_callback, argument: *mut c_void, bast: dlm_callback, range: *mut c_void) -> c_int =
                exports::lock(Arguments { place: Place::Default, mode, lksb, flags, name, length, ast, bast, argument,
                    range, transaction: NONE, timeout: NONE });
            fn dlm_ls_lock(ls: *mut c_void, mode: u32, lksb: *mut dlm_lksb, flags: u32, name: *const c_void,
                length: c_uint, _parent: u32, ast: dlm_callback, argument: *mut c_void, bast: dlm_callback,
                range: *mut c_void) -> c_int =
                exports::lock(Arguments { place: Place::Handle(ls), mode, lksb, flags, name, length, ast, bast, argument,
                    range, transaction: NONE, timeout: NONE });
            fn dlm_ls_lockx(ls: *mut c_void, mode: u32, lksb: *mut dlm_lksb, flags: u32, name: *const c_void,
                length: c_uint, _parent: u32, ast: dlm_callback, argument: *mut c_void, bast: dlm_callback,
                transaction: *mut u64, timeout: *mut u64) -> c_int =
                exports::lock(Arguments { place: Place::Handle(ls), mode, lksb, flags, name, length, ast, bast, argument,
                    range: std::ptr::null_mut(), transaction, timeout });
            fn dlm_lock_wait(mode: u32, lksb: *mut dlm_lksb, flags: u32, name: *const c_void, length: c_uint,
                _parent: u32, argument: *mut c_void, bast: dlm_callback, range: *mut c_void) -> c_int =
                exports::lock_wait($library, Arguments { place: Place::Default, mode, lksb, flags, name, length,
                    ast: None, bast, argument, range, transaction: NONE, timeout: NONE });
            fn dlm_ls_lock_wait(ls: *mut c_void, mode: u32, lksb: *mut dlm_lksb, flags: u32, name: *const c_void,
                length: c_uint, _parent: u32, argument: *mut c_void, bast: dlm_callback, range: *mut c_void) -> c_int =
                exports::lock_wait($library, Arguments { place: Place::Handle(ls), mode, lksb, flags, name, length,
                    ast: None, bast, argument, range, transaction: NONE, timeout: NONE });
            fn dlm_unlock(lkid: u32, flags: u32, lksb: *mut dlm_lksb, argument: *mut c_void) -> c_int =
                exports::unlock(Place::Default, lkid, flags, lksb, argument);
            fn dlm_ls_unlock(ls: *mut c_void, lkid: u32, flags: u32, lksb: *mut dlm_lksb, argument: *mut c_void)
                -> c_int = exports::unlock(Place::Handle(ls), lkid, flags, lksb, argument);
            fn dlm_unlock_wait(lkid: u32, flags: u32, lksb: *mut dlm_lksb) -> c_int =
                exports::unlock_wait($library, Place::Default, lkid, flags, lksb);
            fn dlm_ls_unlock_wait(ls: *mut c_void, lkid: u32, flags: u32, lksb: *mut dlm_lksb) -> c_int =
                exports::unlock_wait($library, Place::Handle(ls), lkid, flags, lksb);
            fn dlm_ls_deadlock_cancel(ls: *mut c_void, lkid: u32, flags: u32) -> c_int =
                exports::deadlock_cancel(Place::Handle(ls), lkid, flags);
            fn dlm_ls_purge(ls: *mut c_void, node: c_int, pid: c_int) -> c_int =
                exports::purge(Place::Handle(ls), node, pid);
            fn dlm_get_fd() -> c_int = exports::fd(Place::Default);
            fn dlm_ls_get_fd(ls: *mut c_void) -> c_int = exports::fd(Place::Handle(ls));
            fn dlm_dispatch(fd: c_int) -> c_int = exports::dispatch(fd);
            fn dlm_create_lockspace(name: *const c_char, _mode: c_uint) -> *mut c_void = exports::create(name, 0);
            fn dlm_new_lockspace(name: *const c_char, _mode: c_uint, flags: u32) -> *mut c_void =
                exports::create(name, flags);
            fn dlm_open_lockspace(name: *const c_char) -> *mut c_void = exports::attach(name);
            fn dlm_close_lockspace(ls: *mut c_void) -> c_int = exports::close(Place::Handle(ls));
            fn dlm_release_lockspace(name: *const c_char, ls: *mut c_void, force: c_int) -> c_int =
                exports::release(name, Place::Handle(ls), force);
            fn dlm_kernel_version(major: *mut u32, minor: *mut u32, patch: *mut u32) -> c_int =
                exports::version(major, minor, patch);
            fn dlm_library_version(major: *mut u32, minor: *mut u32, patch: *mut u32) -> c_int =
                exports::version(major, minor, patch);
        }
    };
    (@threads) => {
        $crate::exports! { @functions
            fn dlm_pthread_init() -> c_int = exports::start(Place::Default);
            fn dlm_ls_pthread_init(ls: *mut c_void) -> c_int = exports::start(Place::Handle(ls));
            fn dlm_pthread_cleanup() -> c_int = exports::stop();
            fn lock_resource(resource: *const c_char, mode: c_int, flags: c_int, lkid: *mut c_int) -> c_int =
                exports::lock_resource(resource, mode, flags, lkid);
            fn unlock_resource(lkid: c_int) -> c_int = exports::unlock_resource(lkid);
        }
    };
    (@functions $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {
        $(
            #[doc = "As the manual page of this name says."]
            // SAFETY: no other library has this name, but the one that this takes the place of.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                #[allow(unused_unsafe, reason = "some of them follow no pointer")]
                // SAFETY: these are the caller's pointers.
                unsafe { $body }
            }
        )*
    };
}
