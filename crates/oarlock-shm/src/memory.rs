//! The cells of a segment: shared with other processes, or private to this one.

use std::ops::Deref;
#[cfg(not(any(loom, shuttle)))]
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use oarlock_layout::segment::geometry::{Geometry, MAGIC, header};

#[cfg(not(any(loom, shuttle)))]
use crate::map::Map;
#[cfg(not(any(loom, shuttle)))]
use crate::sync::LOOK;
use crate::sync::{AtomicU64, FIELD};

/// A segment in memory. All of it is atomic cells: whatever another process writes where and when, a look at a cell
/// gives some value, and never more than that.
pub struct Memory {
    cells: Cells,
    geometry: Geometry,
    pub(crate) firsts: Firsts,
}

/// The first cells of parts, computed once.
#[derive(Clone, Copy)]
pub(crate) struct Firsts {
    /// In lines.
    pub(crate) slot: usize,
    pub(crate) tail: usize,
    pub(crate) index: usize,
    pub(crate) level_max: u32,
    pub(crate) granule: usize,
    /// In lines.
    pub(crate) area: usize,
    /// In lines.
    pub(crate) area_step: usize,
}

impl Firsts {
    fn new(geometry: Geometry) -> Firsts {
        let area = geometry.area(0);
        Firsts {
            slot: geometry.slot(0) / 8,
            tail: geometry.tail(0),
            index: geometry.index(Geometry::INDEX_LEVEL_MIN),
            level_max: geometry.index_level_max(),
            granule: geometry.granule(0),
            area: area / 8,
            area_step: (geometry.area(1) - area) / 8,
        }
    }
}

#[cfg(not(any(loom, shuttle)))]
type Cells = Map;
#[cfg(any(loom, shuttle))]
type Cells = Box<[Line]>;

/// Eight cells: what a processor moves at once, and what is found with one check of a bound.
pub(crate) type Line = [AtomicU64; 8];

/// Why a descriptor is no segment.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The kernel would not.
    #[error("the segment cannot be {what}: {errno}")]
    Kernel {
        /// Made, sized, sealed or mapped.
        what: &'static str,
        /// Why not.
        errno: rustix::io::Errno,
    },
    /// It could be cut short under our feet.
    #[error("the segment is not sealed against a change of its size")]
    NotSealed,
    /// Another layout, or no segment at all.
    #[error("the segment begins with {0:#x}, not with what this version writes")]
    Magic(u64),
    /// Its own sizes do not fit it.
    #[error("the segment has {found} bytes, and what it says of itself needs {needed}")]
    Size {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        needed: u64,
    },
    /// Sizes out of bounds.
    #[error(transparent)]
    Geometry(#[from] oarlock_layout::segment::GeometryError),
}

impl Memory {
    /// A segment that no other process sees, for simulators and tests.
    pub fn private(geometry: Geometry, seed: u64) -> Arc<Memory> {
        let memory = Memory { cells: private(geometry.cells() / 8), geometry, firsts: Firsts::new(geometry) };
        memory.begin(seed);
        Arc::new(memory)
    }

    /// A new segment to be shared, and the descriptor by which others map it: sparse, of fixed size, without a name.
    #[cfg(not(any(loom, shuttle)))]
    pub fn create(name: &str, geometry: Geometry, seed: u64) -> Result<(Arc<Memory>, OwnedFd), MapError> {
        let geometry = geometry.check()?;
        let (map, fd) = Map::create(name, geometry.cells() / 8)?;
        let memory = Memory { cells: map, geometry, firsts: Firsts::new(geometry) };
        memory.begin(seed);
        Ok((Arc::new(memory), fd))
    }

    /// Maps a segment that another process made.
    #[cfg(not(any(loom, shuttle)))]
    pub fn open(fd: impl AsFd) -> Result<Arc<Memory>, MapError> {
        let map = Map::open(fd.as_fd())?;
        let cells = map.as_flattened();
        if cells.len() < oarlock_layout::segment::geometry::HEADER_CELLS {
            return Err(MapError::Size { found: cells.len() as u64 * 8, needed: 512 });
        }
        let cell = |place: usize| cells[place].load(LOOK);
        if cell(header::MAGIC) != MAGIC {
            return Err(MapError::Magic(cell(header::MAGIC)));
        }
        let size = |place| u32::try_from(cell(place)).unwrap_or(u32::MAX);
        let (slots, areas, entries) = (size(header::SLOTS), size(header::AREAS), size(header::ENTRIES));
        let geometry = Geometry { slots, areas, entries }.check()?;
        if geometry.cells() != cells.len() {
            let (found, needed) = (cells.len() as u64 * 8, geometry.cells() as u64 * 8);
            return Err(MapError::Size { found, needed });
        }
        Ok(Arc::new(Memory { cells: map, geometry, firsts: Firsts::new(geometry) }))
    }

    fn begin(&self, seed: u64) {
        let geometry = self.geometry;
        self[header::SLOTS].store(geometry.slots.into(), FIELD);
        self[header::AREAS].store(geometry.areas.into(), FIELD);
        self[header::ENTRIES].store(geometry.entries.into(), FIELD);
        self[header::SEED].store(seed, FIELD);
        self[header::EPOCH].store(1, FIELD);
        self[header::INDEX].store(Geometry::INDEX_LEVEL_MIN.into(), FIELD);
        self[header::MAGIC].store(MAGIC, crate::sync::SHOW);
    }

    #[inline(always)]
    pub(crate) fn lines(&self) -> &[Line] {
        &self.cells
    }

    /// Where things lie.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// A copy that no other process sees: what a test looks at while the original goes on.
    pub fn copy(&self) -> Arc<Memory> {
        let cells = private(self.cells.len());
        for (to, from) in cells.as_flattened().iter().zip(self.iter()) {
            let bits = from.load(FIELD);
            if bits != 0 {
                to.store(bits, FIELD);
            }
        }
        Arc::new(Memory { cells, geometry: self.geometry, firsts: self.firsts })
    }

    /// From here on nobody believes what he has granted himself under the lease of this run (M13). By the node, or by who
    /// outlived it.
    pub fn turn_epoch(&self) {
        self[header::EPOCH].fetch_add(1, crate::sync::TAKE);
        crate::sync::fence(crate::sync::Place::Turn);
    }

    /// Gives back the memory of an index level that is used no more. Who still looks there finds nothing, and asks the node.
    pub(crate) fn forget_index_level(&self, level: u32) {
        #[cfg(not(any(loom, shuttle)))]
        self.cells.forget(self.geometry.index(level)..self.geometry.index(level + 1));
        #[cfg(any(loom, shuttle))]
        let _ = level;
    }

    /// Overwrites a cell, as a program that does not keep to the rules can.
    pub fn scribble(&self, cell: usize, bits: u64) {
        self[cell].store(bits, FIELD);
    }

    /// What a cell reads now.
    pub fn peek(&self, cell: usize) -> u64 {
        self[cell].load(FIELD)
    }

    /// From here on so many threads race for this segment, and loom orders their accesses to these cells.
    #[cfg(loom)]
    pub fn race(&self, threads: usize, watched: impl IntoIterator<Item = usize>) {
        watched.into_iter().for_each(|cell| self[cell].watch(threads));
        crate::watch::race();
    }

    /// The race is over. Cells that were raced for and not watched: what was seen does not count before they are.
    #[cfg(loom)]
    pub fn rest(&self) -> Vec<usize> {
        crate::watch::rest();
        (0..self.len()).filter(|cell| self[*cell].was_raced_for()).collect()
    }

    /// Sleeps until the low half of a cell is no longer `expected`, for `timeout` at most. May wake without reason.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn sleep(&self, cell: usize, expected: u32, timeout: std::time::Duration) {
        crate::futex::wait(&self[cell], expected, timeout);
    }

    /// Wakes whoever sleeps on a cell.
    #[cfg(not(any(loom, shuttle)))]
    pub fn wake(&self, cell: usize) -> bool {
        crate::futex::wake(&self[cell])
    }
}

/// Cells that no other process sees, all zero.
fn private(lines: usize) -> Cells {
    #[cfg(not(any(loom, shuttle)))]
    return Map::private(lines).expect("address space for a private segment");
    #[cfg(any(loom, shuttle))]
    (0..lines).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect()
}

impl Deref for Memory {
    type Target = [AtomicU64];

    #[inline(always)]
    fn deref(&self) -> &[AtomicU64] {
        self.cells.as_flattened()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}
