//! Methods that the async client and its blocking twin have word for word in common. Written once, so that
//! the twins cannot drift apart.

/// The setters of a builder; the type has a field `sharing: bool`.
macro_rules! builder_methods {
    () => {
        /// May locks be granted in this process, in memory that it shares with its node? They may if not said. Without it
        /// each lock costs messages to the node; with it one that this node owns costs some instructions.
        pub fn shared_memory(mut self, allowed: bool) -> Self {
            self.sharing = allowed;
            self
        }
    };
}

/// The setters of a request for a new lock; the type has a field `wish: Wish`.
macro_rules! lock_request_methods {
    () => {
        /// Which mode; [`Mode::EX`](crate::Mode::EX) if not said.
        pub fn mode(mut self, mode: $crate::Mode) -> Self {
            self.wish.manner.mode = mode;
            self
        }

        /// Give up after waiting for so long: [`Kind::TimedOut`](crate::Kind::TimedOut). The daemon keeps
        /// the time. Zero is the same as [`no_queue`](Self::no_queue).
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.wish.manner.timeout = Some(timeout);
            self
        }

        /// Do not wait while somebody holds it: [`Kind::Busy`](crate::Kind::Busy). The other nodes are
        /// asked if need be, which takes a round trip.
        pub fn no_queue(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::NOQUEUE;
            self
        }

        /// Like [`no_queue`](Self::no_queue), and if somebody holds it, tell them that it is wanted.
        pub fn no_queue_notify(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::NOQUEUE | $crate::Flags::NOQUEUEBAST;
            self
        }

        /// Ask the resource's master even if this node could grant by itself, so that the
        /// [fence](Guard::fence) of this grant is larger than that of every earlier one.
        pub fn fresh(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::FRESH;
            self
        }

        /// Let the node grant it, whatever could be granted in this process: for a lock that a conversion is to make
        /// [`persistent`](Self::persistent).
        pub fn by_message(mut self) -> Self {
            self.wish.by_message = true;
            self
        }

        /// Let the lock outlive this program: if the session ends without giving it back, it stays held as an orphan, until
        /// somebody at this node [adopts](Self::adopt) or purges it, or the node's run ends. A conversion says it anew, or the lock is
        /// ordinary again.
        pub fn persistent(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::PERSISTENT;
            self
        }

        /// Take over a lock that an ended program of this node has left behind on this resource, in just this mode, instead of
        /// asking for a new one: [`Kind::NoOrphan`](crate::Kind::NoOrphan) if there is none. The value block is not read by it.
        pub fn adopt(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::ORPHAN;
            self
        }

        /// Read the resource's value block with the grant, and be allowed to write it.
        pub fn value_block(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::VALBLK;
            self
        }

        /// Who stands behind the lock, as the program sees it: a task, a connection; below 2^63. Shown to people. In a search for deadlocks all
        /// locks of an owner are one's, and whoever waits for one of them waits for it.
        ///
        /// Where nothing is said, that is the thread that asks, in [`blocking`](crate::blocking), and nobody in the async client, which does not
        /// know its tasks: name an owner or a [`transaction`](Self::transaction) there to have deadlocks found.
        pub fn owner(mut self, owner: u64) -> Self {
            self.wish.whose = $crate::wish::Whose::named(owner);
            self
        }

        /// The thread that asks stands behind the lock, as it does in [`blocking`](crate::blocking) where nothing is said: for
        /// programs of the async client that have one request at a time in each thread.
        pub fn by_thread(mut self) -> Self {
            self.wish.whose = $crate::wish::Whose::Thread;
            self
        }

        /// The transaction that the lock belongs to; 0 is none. In a search for deadlocks all its locks are one's, at whatever node.
        pub fn transaction(mut self, transaction: u64) -> Self {
            self.wish.transaction = transaction;
            self
        }

        /// Grant a new NL lock past every queue. Only for NL.
        pub fn expedite(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::EXPEDITE;
            self
        }

        /// In a strict lockspace, let this request pass queued ones that it does not conflict with.
        pub fn no_order(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::NOORDER;
            self
        }

        /// Queue in front of those who wait already.
        pub fn head_queue(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::HEADQUE;
            self
        }

        /// If the wanted mode does not fit, this one will do: PR or CW. See
        /// [`Guard::is_alternate`](Guard::is_alternate).
        pub fn alternate(mut self, mode: $crate::Mode) -> Self {
            self.wish.manner.alternate = Some(mode);
            self
        }

        /// A stronger mode is likely to be wanted next: PW or EX. Where nobody else holds or wants the resource, the node owns that at
        /// once, and a conversion to it costs no message. It costs others one if they come first.
        /// What a [`Habit`](crate::Habit) says can be given as it is.
        pub fn likely(mut self, mode: impl Into<Option<$crate::Mode>>) -> Self {
            self.wish.manner.likely = mode.into();
            self
        }

        /// Send no notices while this lock blocks others. A conversion says it anew, or the notices begin.
        pub fn no_notices(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::NOBAST;
            self
        }

        /// Never choose this lock as the victim of a deadlock.
        pub fn no_deadlock_victim(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::NODLCKWT;
            self
        }

        /// Leave this lock out of the search for deadlocks: it will be released whatever happens.
        pub fn no_deadlock_blocker(mut self) -> Self {
            self.wish.manner.flags |= $crate::Flags::NODLCKBLK;
            self
        }
    };
}

/// The setters of a conversion; the type has a field `manner: Manner`.
macro_rules! conversion_methods {
    () => {
        /// Give up after waiting for so long: [`Kind::TimedOut`](crate::Kind::TimedOut), and the lock stands
        /// as before. Zero is the same as [`no_queue`](Self::no_queue).
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.manner.timeout = Some(timeout);
            self
        }

        /// Do not wait while somebody is in the way: [`Kind::Busy`](crate::Kind::Busy), and the lock stands
        /// as before.
        pub fn no_queue(mut self) -> Self {
            self.manner.flags |= $crate::Flags::NOQUEUE;
            self
        }

        /// Like [`no_queue`](Self::no_queue), and if somebody is in the way, tell them.
        pub fn no_queue_notify(mut self) -> Self {
            self.manner.flags |= $crate::Flags::NOQUEUE | $crate::Flags::NOQUEUEBAST;
            self
        }

        /// From now on let the lock outlive this program, as the request for a new lock may say; without this it is ordinary again.
        /// Only for a lock that was asked for by message: it was persistent from the beginning, or
        /// [`by_message`](crate::LockRequest::by_message).
        pub fn persistent(mut self) -> Self {
            self.manner.flags |= $crate::Flags::PERSISTENT;
            self
        }

        /// Queue behind conversions that wait already, even if this one would fit. Only upward.
        pub fn queue_convert(mut self) -> Self {
            self.manner.flags |= $crate::Flags::QUECVT;
            self
        }

        /// Queue in front of conversions that wait already.
        pub fn head_queue(mut self) -> Self {
            self.manner.flags |= $crate::Flags::HEADQUE;
            self
        }

        /// Ask the resource's master even if this node could grant by itself, so that the fence grows.
        pub fn fresh(mut self) -> Self {
            self.manner.flags |= $crate::Flags::FRESH;
            self
        }

        /// If the wanted mode does not fit, this one will do: PR or CW.
        pub fn alternate(mut self, mode: $crate::Mode) -> Self {
            self.manner.alternate = Some(mode);
            self
        }

        /// A stronger mode is likely to be wanted next: PW or EX. Where nobody else holds or wants the resource, the node owns that at
        /// once, and a conversion to it costs no message. It costs others one if they come first.
        /// What a [`Habit`](crate::Habit) says can be given as it is.
        pub fn likely(mut self, mode: impl Into<Option<$crate::Mode>>) -> Self {
            self.manner.likely = mode.into();
            self
        }

        /// From now on, send no notices while this lock blocks others. Without this, they begin again.
        pub fn no_notices(mut self) -> Self {
            self.manner.flags |= $crate::Flags::NOBAST;
            self
        }

        /// Never choose this conversion as the victim of a deadlock.
        pub fn no_deadlock_victim(mut self) -> Self {
            self.manner.flags |= $crate::Flags::NODLCKWT;
            self
        }

        /// Leave this lock out of the search for deadlocks from now on, as the request for a new lock may say.
        pub fn no_deadlock_blocker(mut self) -> Self {
            self.manner.flags |= $crate::Flags::NODLCKBLK;
            self
        }
    };
}

/// What a guard shows and takes without waiting; the type has a field `held: Held`.
macro_rules! guard_methods {
    () => {
        /// The lock's id, as lists of locks show it.
        pub fn id(&self) -> $crate::LockId {
            self.held.id()
        }

        /// The mode that is held now.
        pub fn mode(&self) -> $crate::Mode {
            self.held.mode()
        }

        /// The token of this grant. Of two PW or EX grants of one resource the later has the larger one,
        /// whichever nodes they were given on. Let the storage refuse what comes with a smaller one.
        pub fn token(&self) -> $crate::Token {
            self.held.token()
        }

        /// The first 64 bits of the [`token`](Self::token), for storage that compares a single number. It
        /// grows with every grant only if the lock was taken with `fresh()`.
        pub fn fence(&self) -> u64 {
            self.held.token().fence.number()
        }

        /// The resource's value block as last read or written by this lock; `None` if it was taken
        /// without `value_block()`. Look at its `valid` before believing the bytes.
        pub fn value(&self) -> Option<$crate::Value> {
            self.held.value()
        }

        /// Writes up to 64 bytes, filled up with zeros, into the resource's value block. They are written
        /// when the lock is released, or converted down from PW or EX.
        ///
        /// # Errors
        /// [`Kind::Usage`](crate::Kind::Usage) if the lock is not held in PW or EX, was taken without
        /// `value_block()`, or there are more bytes.
        pub fn set_value(&self, bytes: &[u8]) -> $crate::Result<()> {
            self.held.stage(Some(bytes))
        }

        /// Marks the value block as not to be believed, when the lock is released or converted down.
        ///
        /// # Errors
        /// As for [`set_value`](Self::set_value).
        pub fn invalidate_value(&self) -> $crate::Result<()> {
            self.held.stage(None)
        }

        /// Was the second choice granted?
        pub fn is_alternate(&self) -> bool {
            self.held.grant().alternate
        }

        /// What others want and this lock is in the way of, if there is news since the last call; does
        /// not wait.
        pub fn blocking_now(&self) -> Option<$crate::Mode> {
            self.held.news()
        }

        /// Is the lock gone? Then nothing it protected may be touched any more; why, the other `lost`
        /// methods tell.
        pub fn is_lost(&self) -> bool {
            self.held.check_lost().is_some()
        }

        /// Has the node not renewed its lease for so long that the lock is lost soon, unless it does? Nothing new is
        /// granted meanwhile.
        pub fn is_at_risk(&self) -> bool {
            self.held.risk().is_some()
        }
    };
}

/// What a handle's guard shows; the type has a field `taking: Taking<'_, Guard>`.
macro_rules! handle_guard_methods {
    () => {
        /// The mode that is held.
        pub fn mode(&self) -> $crate::Mode {
            match &self.taking {
                Taking::Here(here) => here.mode(),
                Taking::There(there) => there.guard().mode(),
            }
        }

        /// The token of this grant, as [`Guard::token`] has it.
        pub fn token(&self) -> $crate::Token {
            match &self.taking {
                Taking::Here(here) => here.token(),
                Taking::There(there) => there.guard().token(),
            }
        }

        /// Is the lock gone? Then nothing it protected may be touched any more.
        pub fn is_lost(&self) -> bool {
            match &self.taking {
                Taking::Here(here) => here.is_lost(),
                Taking::There(there) => there.guard().is_lost(),
            }
        }

        /// What others want that this lock is in the way of, as far as it is known; does not wait.
        pub fn blocking_now(&self) -> Option<$crate::Mode> {
            match &self.taking {
                Taking::Here(here) => here.blocks(),
                Taking::There(there) => there.guard().blocking_now(),
            }
        }
    };
}

/// The setters of a handle; the type has the fields `opened: Opened` and `mode: Mode`.
macro_rules! handle_methods {
    () => {
        /// Which mode; [`Mode::EX`](crate::Mode::EX) if not said.
        pub fn mode(mut self, mode: $crate::Mode) -> Self {
            self.mode = mode;
            self
        }
    };
}

/// What a client knows of its session; the type has a field `session: Arc<Owner>`.
macro_rules! client_methods {
    () => {
        /// Name of the node that this session is with.
        pub fn node(&self) -> &str {
            &self.session.hello.node
        }

        /// Name of the cluster.
        pub fn cluster(&self) -> &str {
            &self.session.hello.cluster
        }

        /// Number of the session at its node.
        pub fn session_id(&self) -> $crate::SessionId {
            self.session.hello.session
        }

        /// Epoch of the cluster's view when the session was opened; 0 if there was none yet.
        pub fn epoch(&self) -> $crate::Epoch {
            self.session.hello.epoch
        }
    };
}

pub(crate) use {
    builder_methods, client_methods, conversion_methods, guard_methods, handle_guard_methods, handle_methods,
    lock_request_methods,
};
