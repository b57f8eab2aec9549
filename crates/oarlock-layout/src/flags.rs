//! Flags on lock requests.

bitflags::bitflags! {
    /// How a request wants to be treated. Names follow the VMS and libdlm manuals where they have one.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Flags: u32 {
        /// Answer at once: granted or busy, never queued.
        const NOQUEUE = 1 << 0;
        /// A NOQUEUE request that fails still tells the holders that somebody wanted in (scenario 16).
        const NOQUEUEBAST = 1 << 1;
        /// Queue at the front of its own queue (scenario 6).
        const HEADQUE = 1 << 2;
        /// This request alone may pass queued ones, as in a passover lockspace (scenario 5, R1).
        const NOORDER = 1 << 3;
        /// A convert queues behind earlier converts even if it would fit (scenario 9).
        const QUECVT = 1 << 4;
        /// A new NL request is granted past every queue (scenario 3).
        const EXPEDITE = 1 << 5;
        /// Read or write the value block on this call (scenarios 26-29).
        const VALBLK = 1 << 6;
        /// Leaving PW or EX marks the value block as not to be believed (scenario 31).
        const IVVALBLK = 1 << 7;
        /// If the wanted mode does not fit, PR will do.
        const ALTPR = 1 << 8;
        /// If the wanted mode does not fit, CW will do.
        const ALTCW = 1 << 9;
        /// Ask the master even if the node could grant by itself, so that the fence grows (R6).
        const FRESH = 1 << 10;
        /// Answer from what this node owns, without a message: granted, busy, or not owned.
        const LOCAL = 1 << 11;
        /// Never choose this lock as a deadlock victim for waiting.
        const NODLCKWT = 1 << 12;
        /// This lock does not count as blocking in a deadlock search.
        const NODLCKBLK = 1 << 13;
        /// Send no blocking notices for this lock.
        const NOBAST = 1 << 14;
        /// The program looks at the lock's entry in the segment by itself: no message about a grant.
        const QUIET = 1 << 15;
        /// Granted like this, the lock outlives its session as an orphan. Each request about it says so anew, and the last one that
        /// was granted counts (scenarios 37, 39).
        const PERSISTENT = 1 << 16;
        /// Not a new lock, but an orphan of this name and mode (scenario 38).
        const ORPHAN = 1 << 17;
        /// PW is likely to be wanted next: a master that knows nobody else may let the node own it at once (C20).
        const LIKELYPW = 1 << 18;
        /// EX is likely to be wanted next, likewise.
        const LIKELYEX = 1 << 19;
    }
}

impl Flags {
    /// What an `Info` carries to the master (R0, R2): the rest concerns the shadow alone.
    pub const STATED: Flags = Flags::NOQUEUE
        .union(Flags::NOQUEUEBAST)
        .union(Flags::HEADQUE)
        .union(Flags::NOORDER)
        .union(Flags::QUECVT)
        .union(Flags::EXPEDITE)
        .union(Flags::NODLCKWT)
        .union(Flags::LIKELYPW)
        .union(Flags::LIKELYEX);
}

impl serde::Serialize for Flags {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(self.bits())
    }
}

impl<'de> serde::Deserialize<'de> for Flags {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Flags, D::Error> {
        let bits = u32::deserialize(from)?;
        Flags::from_bits(bits).ok_or_else(|| serde::de::Error::custom("there is no such flag"))
    }
}
