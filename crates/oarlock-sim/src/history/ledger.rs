//! Keeps account of a history: who holds what for certain, who waits for what.
//!
//! The ledger draws no conclusions. It takes each event literally, so that every checker reads the same
//! picture of the moment *before* the event.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::{Mode, join_option};
use oarlock_layout::name::Name;
use oarlock_layout::token::Token;

use super::{Ask, Client, Event, Mark, Told, What};

/// A lock in a history.
pub type LockKey = (Client, u32);

/// A lock that a client has asked for and not heard the end of.
#[derive(Clone, Debug)]
pub struct Lock {
    /// Client and its number for the lock.
    pub key: LockKey,
    /// The client's node.
    pub node: u16,
    /// Index of the resource.
    pub resource: usize,
    /// What the client was granted last.
    pub held: Option<Held>,
    /// The request that was not answered yet.
    pub pending: Option<Pending>,
    /// When the client asked to give it back.
    pub unlocking: Option<u64>,
    /// Flags of the first request.
    pub flags: Flags,
}

/// What a client was granted.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The mode.
    pub mode: Mode,
    /// The token, if it has been drawn.
    pub token: Option<Token>,
    /// When the client heard of it.
    pub at: u64,
    /// Join of what the client was told that others want, since.
    pub told: Option<Mode>,
}

/// A request that was not answered yet.
#[derive(Clone, Debug)]
pub struct Pending {
    /// New or convert.
    pub kind: PendingKind,
    /// The mode asked for.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// When.
    pub at: u64,
    /// Ordinal among all requests of the history: an order that never ties.
    pub ordinal: u64,
    /// Milliseconds after which it may fail with a timeout, 0 for never.
    pub timeout_ms: u32,
    /// When the client withdrew it.
    pub cancelled: Option<u64>,
    /// It brings a value block along.
    pub writes: bool,
    /// How many requests of the same node waited on the resource when it was asked.
    pub ahead_here: u32,
    /// How many requests of any node waited on the resource when it was asked.
    pub ahead_anywhere: u32,
}

/// Which kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PendingKind {
    /// A new lock.
    New,
    /// Another mode.
    Convert,
}

/// A resource in a history.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Index of the lockspace.
    pub space: u16,
    /// Its name.
    pub name: Name,
    /// Locks that are not known to be over, in order of key.
    pub locks: BTreeSet<LockKey>,
    /// Locks of sessions that ended, with the modes they may have had in the end and when that was.
    pub ghosts: Vec<Ghost>,
}

/// A lock whose client is gone: nobody knows when the cluster forgets it.
#[derive(Clone, Copy, Debug)]
pub struct Ghost {
    /// The strongest it may have held.
    pub mode: Mode,
    /// When its session ended.
    pub at: u64,
}

/// The account.
#[derive(Debug, Default)]
pub struct Ledger {
    clients: BTreeMap<Client, u16>,
    locks: HashMap<LockKey, Lock, BuildHasherDefault<KeyHasher>>,
    by_client: BTreeMap<Client, BTreeSet<u32>>,
    resources: Vec<Resource>,
    indexes: HashMap<(u16, Name), usize>,
    ordinal: u64,
    calm_since: Option<u64>,
}

/// Mixes the two numbers of a lock. They come from our own programs, which do not attack hash tables.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(23) ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The strongest mode that both cover: what a holder has for certain while it changes from one to the other.
pub fn meet(a: Mode, b: Mode) -> Mode {
    if a.covers(b) {
        b
    } else if b.covers(a) {
        a
    } else {
        // CW and PR have CR in common.
        Mode::CR
    }
}

impl Lock {
    /// What the client holds beyond doubt: from its grant to the moment it asks for something that could
    /// weaken it.
    pub fn certain(&self) -> Option<Mode> {
        let held = self.held.filter(|_| self.unlocking.is_none())?;
        Some(match &self.pending {
            Some(p) => {
                let mut mode = meet(held.mode, p.mode);
                for (flag, alternate) in [(Flags::ALTPR, Mode::PR), (Flags::ALTCW, Mode::CW)] {
                    if p.flags.contains(flag) {
                        mode = meet(mode, alternate);
                    }
                }
                mode
            }
            None => held.mode,
        })
    }

    /// The strongest the lock may be at this moment, as far as its client can tell.
    pub fn possible(&self) -> Option<Mode> {
        let mut mode = self.held.map(|h| h.mode);
        if let Some(p) = &self.pending {
            mode = join_option(mode, Some(p.mode));
        }
        mode
    }
}

impl Ledger {
    /// The node of a client whose session lives.
    pub fn node(&self, client: Client) -> Option<u16> {
        self.clients.get(&client).copied()
    }

    /// A lock that is not known to be over.
    pub fn lock(&self, key: LockKey) -> Option<&Lock> {
        self.locks.get(&key)
    }

    /// All locks of a client that are not known to be over.
    pub fn locks_of(&self, client: Client) -> impl Iterator<Item = &Lock> + '_ {
        self.by_client.get(&client).into_iter().flatten().map(move |handle| &self.locks[&(client, *handle)])
    }

    /// A resource by its index.
    pub fn resource(&self, index: usize) -> &Resource {
        &self.resources[index]
    }

    /// All resources that were ever named.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The index a resource has or would get.
    pub fn index(&self, space: u16, name: &Name) -> usize {
        self.indexes.get(&(space, name.clone())).copied().unwrap_or(self.resources.len())
    }

    /// All locks on a resource that are not known to be over, in order of key.
    pub fn locks_on(&self, resource: usize) -> impl Iterator<Item = &Lock> + '_ {
        let keys = self.resources.get(resource).map(|r| &r.locks);
        keys.into_iter().flatten().map(|key| &self.locks[key])
    }

    /// All locks, in order of client and handle.
    pub fn locks(&self) -> impl Iterator<Item = &Lock> + '_ {
        self.by_client.iter().flat_map(|(c, handles)| handles.iter().map(|h| &self.locks[&(*c, *h)]))
    }

    /// Since when there are no faults of nodes or network, if so.
    pub fn calm_since(&self) -> Option<u64> {
        self.calm_since
    }

    /// Ordinal of the last request.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Enters an event. Whatever does not fit is left out; the answers checker complains about it.
    pub fn enter(&mut self, event: &Event) {
        match &event.what {
            What::Opened { client, node } => {
                self.clients.insert(*client, *node);
            }
            What::Asked { client, handle, ask } => self.asked(event.at, (*client, *handle), ask),
            What::Told { client, handle, told } => self.told(event.at, (*client, *handle), told),
            What::Ended { client, .. } => self.ended(event.at, *client),
            What::Mark(Mark::Storm) => self.calm_since = None,
            What::Mark(Mark::Calm) => self.calm_since = Some(event.at),
            What::Mark(Mark::NewCluster) => {
                for client in self.clients.keys().copied().collect::<Vec<_>>() {
                    self.ended(event.at, client);
                }
                for resource in &mut self.resources {
                    resource.ghosts.clear();
                }
            }
            What::Mark(Mark::Polite | Mark::PoliteEnd | Mark::Drained | Mark::NodeGone(_)) => {}
        }
    }

    fn asked(&mut self, at: u64, key: LockKey, ask: &Ask) {
        self.ordinal += 1;
        match ask {
            Ask::Lock { space, name, mode, flags, timeout_ms } => {
                let Some(node) = self.node(key.0).filter(|_| !self.locks.contains_key(&key)) else { return };
                let resource = self.index(*space, name);
                if resource == self.resources.len() {
                    self.indexes.insert((*space, name.clone()), resource);
                    let (locks, ghosts) = (BTreeSet::new(), Vec::new());
                    self.resources.push(Resource { space: *space, name: name.clone(), locks, ghosts });
                }
                let pending =
                    self.pending(at, (node, resource), PendingKind::New, *mode, *flags, *timeout_ms);
                let (held, unlocking, pending) = (None, None, Some(pending));
                self.locks.insert(key, Lock { key, node, resource, held, pending, unlocking, flags: *flags });
                self.by_client.entry(key.0).or_default().insert(key.1);
                self.resources[resource].locks.insert(key);
            }
            Ask::Convert { mode, flags, timeout_ms, value } => {
                let Some(lock) = self.locks.get(&key) else { return };
                let place = (lock.node, lock.resource);
                let mut pending = self.pending(at, place, PendingKind::Convert, *mode, *flags, *timeout_ms);
                pending.writes = value.is_some() && flags.contains(Flags::VALBLK);
                self.locks.get_mut(&key).expect("looked up above").pending = Some(pending);
            }
            Ask::Unlock { .. } => {
                if let Some(lock) = self.locks.get_mut(&key) {
                    lock.unlocking.get_or_insert(at);
                }
            }
            Ask::Cancel => {
                if let Some(p) = self.locks.get_mut(&key).and_then(|l| l.pending.as_mut()) {
                    p.cancelled.get_or_insert(at);
                }
            }
        }
    }

    fn pending(
        &self,
        at: u64,
        (node, resource): (u16, usize),
        kind: PendingKind,
        mode: Mode,
        flags: Flags,
        timeout_ms: u32,
    ) -> Pending {
        let (mut ahead_here, mut ahead_anywhere) = (0, 0);
        for lock in self.locks_on(resource).filter(|l| l.pending.is_some()) {
            ahead_anywhere += 1;
            ahead_here += u32::from(lock.node == node);
        }
        let (ordinal, cancelled, writes) = (self.ordinal, None, false);
        Pending { kind, mode, flags, at, ordinal, timeout_ms, cancelled, writes, ahead_here, ahead_anywhere }
    }

    fn told(&mut self, at: u64, key: LockKey, told: &Told) {
        let Some(lock) = self.locks.get_mut(&key) else { return };
        match told {
            Told::Granted { mode, token, .. } => {
                // A way down keeps the token that was drawn before.
                let kept = || lock.held.filter(|held| held.mode.covers(*mode)).and_then(|held| held.token);
                lock.held = Some(Held { mode: *mode, token: token.or_else(kept), at, told: None });
                // What a lock wants to be told is what its last granted request said (13, 61).
                if let Some(pending) = lock.pending.take() {
                    lock.flags.set(Flags::NOBAST, pending.flags.contains(Flags::NOBAST));
                }
            }
            Told::Token { token } => {
                if let Some(held) = &mut lock.held {
                    held.token = Some(*token);
                }
            }
            Told::Released => self.forget(key),
            Told::Failed { .. } => match lock.pending.take().map(|p| p.kind) {
                Some(PendingKind::New) if lock.unlocking.is_none() => self.forget(key),
                // The unlock that crossed the refusal still has its own answer to come.
                Some(_) => {}
                None if lock.unlocking.is_some() => self.forget(key),
                None => {}
            },
            Told::Blocking { wanted } => {
                if let Some(held) = &mut lock.held {
                    held.told = join_option(held.told, Some(*wanted));
                }
            }
        }
    }

    fn ended(&mut self, at: u64, client: Client) {
        self.clients.remove(&client);
        for handle in self.by_client.get(&client).cloned().unwrap_or_default() {
            let lock = &self.locks[&(client, handle)];
            if let Some(mode) = lock.possible() {
                self.resources[lock.resource].ghosts.push(Ghost { mode, at });
            }
            self.forget((client, handle));
        }
        self.by_client.remove(&client);
    }

    fn forget(&mut self, key: LockKey) {
        if let Some(lock) = self.locks.remove(&key) {
            self.resources[lock.resource].locks.remove(&key);
            self.by_client.entry(key.0).or_default().remove(&key.1);
        }
    }

    /// Drops ghosts that are older than `linger`; for long runs.
    pub fn bury(&mut self, now: u64, linger: u64) {
        for resource in &mut self.resources {
            resource.ghosts.retain(|g| now.saturating_sub(g.at) < linger);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_meet_is_the_strongest_that_both_cover(a in 0u8..6, b in 0u8..6, c in 0u8..6) {
            let [a, b, c] = [a, b, c].map(|n| Mode::from_number(n).unwrap());
            let m = meet(a, b);
            prop_assert!(a.covers(m) && b.covers(m));
            if a.covers(c) && b.covers(c) { prop_assert!(m.covers(c)); }
        }
    }
}
