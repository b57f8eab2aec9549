//! What a node sees of its locks, for people who ask.

use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::id::{LockId, OwnerId, TransactionId};
use oarlock_layout::message::look::{
    At, Holder, MasterRow, Party, ROWS_MAX, RecordRow, Row, ShadowRow, Waiter, What,
};
use oarlock_layout::name::Name;
use oarlock_layout::segment::Words;
use oarlock_layout::time::Instant;

use crate::master::Master;
use crate::shadow::Shadow;
use crate::space::Lockspace;

impl Lockspace {
    /// Is a lock held here, or does one wait, on a resource whose name begins like this?
    pub fn is_used(&self, words: &dyn Words, prefix: &[u8]) -> bool {
        let here = self.shadows().filter(|shadow| words.name(shadow.slot).as_bytes().starts_with(prefix));
        here.into_iter()
            .any(|shadow| !shadow.rare.queues.is_empty() || !words.entries(shadow.slot).is_empty())
    }

    /// What this node sees, sorted by name; and whether rows were left off.
    ///
    /// Who a session is (process, label) is not known here: those fields are empty.
    pub fn look(&self, now: Instant, words: &dyn Words, at: &At) -> (Vec<Row>, bool) {
        let mut rows = Vec::new();
        match at {
            At::Resource(name) => {
                if let Some(shadow) = words.find(name).and_then(|slot| self.shadow(slot)) {
                    shadow_rows(&mut rows, now, words, shadow);
                }
                if let Some(master) = self.master(name) {
                    self.master_rows(&mut rows, master);
                } else if self.is_open()
                    && self.master_of(name) == self.config().me
                    && !self.remains.nodes(self.config().space, name, &[]).is_empty()
                {
                    // Nobody has a record, and a departed run may have had one.
                    self.master_rows(&mut rows, &Master::new(name.clone()));
                }
            }
            // The hall knows these.
            At::Branches(_) => {}
            At::All | At::Waiting => {
                let all = *at == At::All;
                for shadow in
                    self.shadows().filter(|s| all || !s.rare.queues.is_empty() || s.rare.head.is_some())
                {
                    shadow_rows(&mut rows, now, words, shadow);
                    if rows.len() > ROWS_MAX {
                        break;
                    }
                }
                for master in self.masters().filter(|m| all || m.rare.head.is_some()) {
                    if rows.len() > 2 * ROWS_MAX {
                        break;
                    }
                    self.master_rows(&mut rows, master);
                }
            }
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let cut = rows.len() > ROWS_MAX;
        rows.truncate(ROWS_MAX);
        (rows, cut)
    }

    fn master_rows(&self, rows: &mut Vec<Row>, master: &Master) {
        let name: &Name = &master.name;
        let row = |what| Row { name: name.clone(), what };
        let departed = self.remains.nodes(self.config().space, name, &master.rare.remains);
        rows.push(row(What::Master(MasterRow {
            head: master.rare.head.map(|(_, head)| head),
            converting: master.rare.converting.iter().copied().collect(),
            waiting: master.rare.waiting.iter().copied().collect(),
            value: master.rare.value.sequence,
            value_valid: master.rare.value.valid,
            openers: master.records.values().fold(0, |sum: u32, rec| sum.saturating_add(rec.openers)),
            departed,
        })));
        for (node, rec) in &master.records {
            rows.push(row(What::Record(RecordRow {
                node: *node,
                held: rec.held,
                conv: rec.rare.conv.map(|conv| conv.mode),
                g: rec.g,
                a: rec.a,
                busy: rec.rare.busy,
            })));
        }
    }
}

fn party(lock: LockId, owner: OwnerId, transaction: TransactionId) -> Party {
    Party { lock, pid: 0, label: String::new(), owner, transaction }
}

fn micros(now: Instant, since: Instant) -> u64 {
    u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX)
}

fn shadow_rows(rows: &mut Vec<Row>, now: Instant, words: &dyn Words, shadow: &Shadow) {
    let name = words.name(shadow.slot);
    let row = |what| Row { name: name.clone(), what };
    rows.push(row(What::Shadow(ShadowRow {
        owned: shadow.owned,
        need: words.look(shadow.slot).counts.need(),
        told_held: shadow.told.held,
        told_conv: shadow.rare.wish.conv.map(|conv| conv.mode),
        head: shadow.rare.head,
        n: shadow.n,
        g: shadow.g,
        a: shadow.a,
        value: words.value(shadow.slot).sequence,
        fence: words.token(shadow.slot).fence,
    })));
    for entry in words.entries(shadow.slot) {
        rows.push(row(What::Holder(Holder {
            party: party(entry.claim.lock, entry.claim.owner, entry.claim.transaction),
            mode: entry.mode,
            age_us: micros(now, entry.claim.since),
            token: entry.token,
            told: entry.told,
            fast: entry.fast,
        })));
    }
    for entry in shadow.rare.queues.iter() {
        rows.push(row(What::Waiter(Waiter {
            party: party(entry.lock, entry.owner, entry.transaction),
            wanted: entry.mode,
            held: entry.from,
            kind: entry.kind(),
            age_us: micros(now, entry.since),
        })));
    }
}
