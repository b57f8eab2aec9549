//! A memfd, mapped: one of the two places in this crate that need `unsafe`.

use std::ops::Deref;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::memory::Line;
use crate::memory::MapError;
use crate::sync::FIELD;

/// Nobody may change the size, nor take that back.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// At least a page, on every machine.
const PAGE_BYTES: usize = 64 << 10;
const LINE_BYTES: usize = size_of::<Line>();
const PROT: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// Cells, shared with other processes or not.
pub(crate) struct Map {
    first: NonNull<Line>,
    lines: usize,
    /// The process that mapped it. A fork has something else in that place, or nothing.
    process: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread; what it holds is atomic cells, which any thread may use.
unsafe impl Send for Map {}
// SAFETY: as above; there is no way to the cells but through shared references to atomics.
unsafe impl Sync for Map {}

fn kernel(what: &'static str) -> impl Fn(rustix::io::Errno) -> MapError {
    move |errno| MapError::Kernel { what, errno }
}

impl Map {
    /// Empties cells and gives their memory back, as far as they fill whole pages; for everybody who maps them.
    pub(crate) fn forget(&self, cells: std::ops::Range<usize>) {
        let bytes = (cells.start * 8).next_multiple_of(PAGE_BYTES)..(cells.end * 8) & !(PAGE_BYTES - 1);
        if bytes.is_empty() || bytes.end > self.len() * LINE_BYTES {
            return;
        }
        // SAFETY: the range lies within the mapping, which lives as long as `self`. What is there are atomic cells, and all
        // of them zero is as good as any other content. Where the kernel refuses, they stay as they are.
        let _ = unsafe {
            let first = self.first.as_ptr().cast::<u8>().add(bytes.start);
            rustix::mm::madvise(first.cast(), bytes.len(), Advice::LinuxRemove)
        };
    }

    /// A new memfd of so many lines: sparse, sealed, closed in programs that are executed.
    pub(crate) fn create(name: &str, lines: usize) -> Result<(Map, OwnedFd), MapError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags).map_err(kernel("made"))?;
        rustix::fs::ftruncate(&fd, lines as u64 * LINE_BYTES as u64).map_err(kernel("sized"))?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(kernel("sealed"))?;
        let map = Map::over(rustix::fd::AsFd::as_fd(&fd), lines)?;
        Ok((map, fd))
    }

    /// Maps what another process made, once it is certain that it cannot shrink: a look beyond the end of a file kills.
    pub(crate) fn open(fd: BorrowedFd<'_>) -> Result<Map, MapError> {
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| MapError::NotSealed)?;
        if !seals.contains(SEALS) {
            return Err(MapError::NotSealed);
        }
        let bytes = rustix::fs::fstat(fd).map_err(kernel("measured"))?.st_size;
        let lines = usize::try_from(bytes).unwrap_or(0) / LINE_BYTES;
        if lines == 0 {
            return Err(MapError::Size { found: 0, needed: 512 });
        }
        Map::over(fd, lines)
    }

    /// Cells that no other process sees.
    pub(crate) fn private(lines: usize) -> Result<Map, MapError> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place that the kernel chooses overlaps nothing of ours.
        let first =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), lines * LINE_BYTES, PROT, flags) };
        let first = first.map_err(kernel("mapped"))?;
        Ok(Map::at(first, lines))
    }

    fn at(first: *mut std::ffi::c_void, lines: usize) -> Map {
        let first = NonNull::new(first.cast()).expect("a mapping is not at null");
        Map { first, lines, process: std::process::id() }
    }

    fn over(fd: BorrowedFd<'_>, lines: usize) -> Result<Map, MapError> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place that the kernel chooses overlaps nothing of ours.
        let first = unsafe { rustix::mm::mmap(std::ptr::null_mut(), lines * LINE_BYTES, PROT, flags, fd, 0) };
        let first = first.map_err(kernel("mapped"))?;
        let map = Map::at(first, lines);
        // SAFETY: the range is exactly the mapping just made. A fork must not have it: handles do not pass through one,
        // and a lock that two processes believe theirs is held by neither (M12).
        unsafe { rustix::mm::madvise(first, lines * LINE_BYTES, Advice::LinuxDontFork) }
            .map_err(kernel("kept from forks"))?;
        Ok(map)
    }
}

impl Deref for Map {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        // SAFETY: `first` is the start of a mapping of `lines` times 64 bytes, page-aligned and so aligned for lines, readable
        // and writable until `self` is dropped. The file, if there is one, is sealed against shrinking, so that every page of it exists.
        // Every bit pattern is a value of the cell, and other processes reach the memory by atomic instructions or, if
        // they do not keep to that, by stores that the hardware does not tear within a cell of eight aligned bytes.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.lines) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        // SAFETY: the range is exactly the mapping that `over` or `private` made; no reference to it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.first.as_ptr().cast(), self.lines * LINE_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Tells a process from its forks, without asking the kernel.
pub struct Birthmark(Map);

impl Birthmark {
    /// The mark of this process.
    pub fn new() -> Result<Birthmark, MapError> {
        let map = Map::private(PAGE_BYTES / LINE_BYTES)?;
        let first = map.first.as_ptr().cast();
        // SAFETY: the range is exactly the private mapping just made; that a fork finds it full of zeros changes nothing
        // for this process.
        unsafe { rustix::mm::madvise(first, PAGE_BYTES, Advice::LinuxWipeOnFork) }
            .map_err(kernel("kept from forks"))?;
        map[0][0].store(1, FIELD);
        Ok(Birthmark(map))
    }

    /// Is this still the process that made it, and no fork?
    #[inline(always)]
    pub fn is_mine(&self) -> bool {
        self.0[0][0].load(FIELD) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_is_forgotten_is_empty_for_everybody_and_nothing_else_is() {
        let page = PAGE_BYTES / 8;
        let (one, fd) = Map::create("test", 4 * page / 8).unwrap();
        let two = Map::open(fd.as_fd()).unwrap();
        let (one, two) = (one, two.as_flattened());
        one.as_flattened().iter().for_each(|cell| cell.store(7, Relaxed));
        one.forget(100..3 * page + 100);
        let zero: Vec<usize> = (0..4 * page).filter(|cell| two[*cell].load(Relaxed) == 0).collect();
        assert_eq!(zero, Vec::from_iter(page..3 * page));
        one.forget(3 * page..5 * page);
        assert_eq!(two[4 * page - 1].load(Relaxed), 7, "beyond the end");
    }

    #[test]
    fn two_mappings_see_one_memory_and_nobody_can_cut_it_short() {
        let (one, fd) = Map::create("test", 512).unwrap();
        let two = Map::open(fd.as_fd()).unwrap();
        one[511][7].store(7, Relaxed);
        assert_eq!((two.len(), two[511][7].load(Relaxed)), (512, 7));
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn what_could_shrink_is_not_mapped() {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert!(matches!(Map::open(fd.as_fd()), Err(MapError::NotSealed)));
        let file = tempfile_like();
        assert!(matches!(Map::open(file.as_fd()), Err(MapError::NotSealed)));
    }

    fn tempfile_like() -> OwnedFd {
        rustix::fs::open("/dev/zero", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).unwrap()
    }
}
