//! What the libraries do once pointers are followed, and in what they differ.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oarlock_dlm::flags::LockFlags;
use oarlock_dlm::server::How;
use oarlock_dlm::{Block, Call, Errno, Lockspace, Order, Registry, Report, Turn, status};

use crate::pointers::{StatusBlock, User};

/// What this process has opened. A library has one, however often it is opened.
pub fn registry() -> &'static Registry<User> {
    static REGISTRY: OnceLock<Registry<User>> = OnceLock::new();
    REGISTRY.get_or_init(Registry::new)
}

/// The two libraries that programs link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Library {
    /// `libdlm`: a thread runs callbacks. A call that waits returns 0 when what it waited for is over, whatever came of it.
    Threaded,
    /// `libdlm_lt`: a call that waits runs callbacks itself, and returns -1 when what it waited for has failed.
    Light,
}

/// A result, and errno if that is to be set.
pub(crate) type Told = (c_int, Option<i32>);

impl Library {
    /// What a thread does while it waits: callbacks run in it where no other thread runs them.
    fn turn(self, handle: usize) -> Turn<'static, User> {
        let calls = match self {
            Library::Light => true,
            Library::Threaded => registry().callback_thread(handle) == Some(std::thread::current().id()),
        };
        if calls { Turn::Call(&User::tell) } else { Turn::Sleep }
    }

    /// What a call returns that waited for this, if `good` is what it wanted.
    fn returns(self, status: i32, good: i32) -> Told {
        match self {
            Library::Threaded => (0, None),
            Library::Light if status == good => (0, (status != 0).then_some(status)),
            Library::Light => (-1, Some(status)),
        }
    }
}

/// A lock call, taken apart.
pub(crate) struct Wanted<'a> {
    pub(crate) mode: u32,
    pub(crate) flags: u32,
    pub(crate) name: &'a [u8],
    pub(crate) lkid: u32,
    pub(crate) user: User,
    pub(crate) transaction: u64,
    pub(crate) timeout: Option<Duration>,
}

impl<'a> Wanted<'a> {
    /// As the lockspace wants it.
    fn call(self) -> Call<'a, User> {
        Call {
            mode: self.mode,
            flags: self.flags & !LockFlags::WAIT.bits(),
            name: self.name,
            lkid: self.lkid,
            value: self.user.block.and_then(|block| value(block, self.flags)),
            notices: self.user.bast.is_some(),
            transaction: self.transaction,
            timeout: self.timeout,
            user: self.user,
        }
    }
}

/// The program's value block. Without VALBLK nobody has said that there is one: the pointer may be anything.
fn value(block: StatusBlock, flags: u32) -> Option<Block> {
    if flags & LockFlags::VALBLK.bits() != 0 { block.value() } else { None }
}

/// Asks for a lock or a change of mode.
pub(crate) fn lock(handle: usize, wanted: Wanted<'_>) -> Result<c_int, Errno> {
    let block = wanted.user.block.ok_or(Errno::INVAL)?;
    if wanted.user.ast.is_none() {
        return Err(Errno::INVAL);
    }
    let mut adopted = 0;
    let accept = |lkid| {
        adopted = lkid;
        block.accept(Some(lkid));
    };
    if !registry().get(handle)?.lock(wanted.call(), accept)? {
        // Nothing more comes of it.
        block.write(&Report { lkid: adopted, status: 0, flags: 0, value: None });
    }
    Ok(0)
}

/// The same, and waits.
pub(crate) fn lock_wait(library: Library, handle: usize, wanted: Wanted<'_>) -> Result<Report, Errno> {
    let block = wanted.user.block;
    let accept = |lkid| {
        if let Some(block) = block {
            block.accept(Some(lkid));
        }
    };
    let report = registry().get(handle)?.lock_wait(wanted.call(), accept, library.turn(handle))?;
    if let Some(block) = block {
        block.write(&report);
    }
    Ok(report)
}

/// The same, as a call of C returns.
pub(crate) fn locked(library: Library, handle: usize, wanted: Wanted<'_>) -> Result<Told, Errno> {
    Ok(library.returns(lock_wait(library, handle, wanted)?.status, 0))
}

/// What a program says about giving a lock back: where to write, and what to call with.
fn order<C: FnOnce(&mut User)>(lkid: u32, flags: u32, block: StatusBlock, change: C) -> Order<C> {
    Order { lkid, flags, value: value(block, flags), change }
}

/// Gives a lock back, or withdraws what it waits for.
pub(crate) fn unlock(
    handle: usize,
    lkid: u32,
    flags: u32,
    block: StatusBlock,
    argument: *mut c_void,
) -> Result<c_int, Errno> {
    let change = |user: &mut User| {
        user.block = Some(block);
        if !argument.is_null() {
            user.argument = argument;
        }
    };
    registry().get(handle)?.unlock(order(lkid, flags, block, change), || block.accept(None))?;
    Ok(0)
}

/// The same, and waits.
pub(crate) fn unlock_wait(
    library: Library,
    handle: usize,
    lkid: u32,
    flags: u32,
    block: StatusBlock,
) -> Result<Told, Errno> {
    let change = |user: &mut User| user.block = Some(block);
    let (space, order) = (registry().get(handle)?, order(lkid, flags, block, change));
    match space.unlock_wait(order, || block.accept(None), library.turn(handle))? {
        Some(report) => {
            block.write(&report);
            Ok(library.returns(report.status, status::UNLOCKED))
        }
        // Nothing was to be withdrawn.
        None => Ok((0, None)),
    }
}

/// The same, for programs that have no status block.
pub(crate) fn unlock_silently(library: Library, handle: usize, lkid: u32) -> Result<Report, Errno> {
    let order = Order { lkid, flags: 0, value: None, change: |user: &mut User| user.block = None };
    let report = registry().get(handle)?.unlock_wait(order, || (), library.turn(handle))?;
    // There is one, because nothing was only to be withdrawn.
    report.ok_or(Errno::NOENT)
}

/// Runs what there is to run of a descriptor's lockspace.
pub(crate) fn dispatch(fd: c_int) -> Result<c_int, Errno> {
    let space: Arc<Lockspace<User>> = registry().of_fd(fd)?;
    while let Some(event) = space.next() {
        User::tell(event);
    }
    Ok(0)
}

/// `dlm_new_lockspace`'s flag: it must not be there.
const NEW_EXCLUSIVE: u32 = 8;

/// Makes a lockspace, or takes part in it.
pub(crate) fn create(name: &[u8], flags: u32) -> Result<usize, Errno> {
    registry().enter(name, How::Create { exclusive: flags & NEW_EXCLUSIVE != 0 })
}

/// Takes part in a lockspace.
pub(crate) fn attach(name: &[u8]) -> Result<usize, Errno> {
    registry().enter(name, How::Attach)
}

/// Closes a lockspace, and gives it up. What the node says against that is in errno alone: so it has always been.
pub(crate) fn release(handle: usize, force: bool) -> Result<Told, Errno> {
    let left = registry().release(handle, force).map_err(|_| Errno::INVAL)?;
    Ok((0, left.err().map(Errno::raw_os_error)))
}
