//! The registry as a whole, for those who are behind the log, which is cut below it.

use oarlock_cluster::registry::Registry;
use oarlock_layout::codec::Wire;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::machine::broken;
use super::record::Head;
use super::wire::{Compare, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest};
use super::{Failure, Shared};

impl Shared {
    /// Writes the registry down, unless another did so a moment ago, and cuts the log.
    ///
    /// The parts come first, under keys with the number of the last entry; they count when the head names them. Two nodes
    /// that write one of the same entry write the same bytes. Of two of different entries one finds the head changed, and
    /// what it leaves behind goes with the next.
    pub(super) async fn write_snapshot(&self) -> Result<(), Failure> {
        let until = Instant::now() + self.tuning.patience;
        let (index, registry) = self.machine.registry();
        let seen = self.head(until).await?;
        if let Some((head, _)) = &seen {
            self.machine.note_snapshot(head.index);
            if index < head.index + self.tuning.snapshot_every {
                return Ok(());
            }
        }
        let bytes = registry.snapshot();
        for (number, part) in bytes.chunks(self.tuning.part_bytes).enumerate() {
            let put = PutRequest { key: self.keys.part(index, number), value: part.to_vec() };
            self.client.ask(&put, until).await?;
        }
        let length = u32::try_from(bytes.len()).expect("a snapshot has a few megabytes at most");
        let head = Head { index, length, sum: xxh3_64(&bytes) };
        // The last entries stay for those who are only a little behind; the end of the log stays in any case.
        let keep = (self.tuning.snapshot_every / 4).max(1);
        let [first, _] = self.keys.log();
        let cut = self.keys.entry((index + 1).saturating_sub(keep));
        let [parts, parts_end] = self.keys.parts_before(index);
        let txn = TxnRequest {
            compare: vec![Compare::unchanged(self.keys.head(), seen.map_or(0, |(_, kv)| kv.mod_revision))],
            success: vec![
                RequestOp::put(self.keys.head(), head.to_bytes()),
                RequestOp::delete(first, cut),
                RequestOp::delete(parts, parts_end),
            ],
            failure: Vec::new(),
        };
        if self.client.ask(&txn, until).await?.succeeded {
            self.machine.note_snapshot(index);
        }
        Ok(())
    }

    /// Takes over the registry as it was written down last, if it is newer than the own.
    pub(super) async fn restore(&self, until: Instant) -> Result<(), Failure> {
        let mut before = None;
        loop {
            let Some((head, kv)) = self.head(until).await? else {
                let wanted = self.keys.entry(self.machine.last() + 1);
                return Err(broken(&wanted, "an entry is missing, and there is no snapshot that it is in"));
            };
            if head.index <= self.machine.last() {
                self.machine.note_snapshot(head.index);
                return Ok(());
            }
            let [key, range_end] = self.keys.parts(head.index);
            let read = self.client.ask(&RangeRequest { key, range_end, limit: 0 }, until).await?;
            let bytes = read.kvs.into_iter().flat_map(|part| part.value).collect::<Vec<u8>>();
            if bytes.len() == head.length as usize && xxh3_64(&bytes) == head.sum {
                let registry = Registry::restore(&bytes).map_err(|e| broken(&kv.key, e))?;
                return self.machine.replace(head.index, registry);
            }
            // Its parts go when the next one is written; the head names others then.
            if before.replace(kv.mod_revision) == Some(kv.mod_revision) {
                return Err(broken(&kv.key, "the parts of the snapshot are not what it says"));
            }
        }
    }

    async fn head(&self, until: Instant) -> Result<Option<(Head, KeyValue)>, Failure> {
        let key = self.keys.head();
        let read = self.client.ask(&RangeRequest { key, range_end: Vec::new(), limit: 1 }, until).await?;
        let Some(kv) = read.kvs.into_iter().next() else { return Ok(None) };
        let head = Head::from_bytes(&kv.value).map_err(|e| broken(&kv.key, e))?;
        Ok(Some((head, kv)))
    }
}
