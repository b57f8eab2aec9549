//! The segments of a node.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use oarlock_layout::segment::Wake;
use oarlock_layout::segment::geometry::entry;
use oarlock_shm::Memory;

/// The segment of a lockspace.
pub struct Segment {
    /// What the node maps.
    pub memory: Arc<Memory>,
    /// What programs get.
    pub fd: OwnedFd,
}

impl Segment {
    /// Wakes whoever sleeps on an entry.
    pub(super) fn wake(&self, wake: Wake) {
        self.memory.wake(self.memory.geometry().entry(wake.area, wake.entry) + entry::STATE);
    }
}
