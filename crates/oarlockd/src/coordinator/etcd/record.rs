//! What stands under the keys, in our own bytes, and what the keys are called.
//!
//! ```text
//!   <prefix>/log/00000000000000000041     one entry of the order: whose it is, and a command
//!   <prefix>/snapshot                     how far the snapshot goes, how long it is, its sum
//!   <prefix>/part/00000000000000000040/0000   its bytes, in parts that etcd takes
//! ```

use oarlock_cluster::registry::{COMMAND_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use oarlock_layout::codec::{Malformed, Reader, Wire, Writer};

use super::Failure;

/// Of both records. Another layout gets another number.
const FORMAT: u8 = 1;

/// Indexes stay below: they are counted one by one.
const COUNTED_MAX: u64 = 1 << 62;

/// Names one proposal among all of all nodes: a run of a node, drawn by chance, and a count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    pub(super) run: u64,
    pub(super) count: u64,
}

/// One entry of the order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) ticket: Ticket,
    pub(super) command: Vec<u8>,
}

/// What is known of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// The last entry that is in it.
    pub(super) index: u64,
    /// Bytes of it.
    pub(super) length: u32,
    /// Of its bytes.
    pub(super) sum: u64,
}

impl Wire for Entry {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u8(FORMAT);
        out.u64(self.ticket.run);
        out.u64(self.ticket.count);
        out.bytes(&self.command);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Entry, Malformed> {
        format(reader, "format of an entry")?;
        let ticket = Ticket { run: reader.u64()?, count: reader.u64()? };
        Ok(Entry { ticket, command: reader.bytes("size of a command", COMMAND_BYTES_MAX)?.to_vec() })
    }
}

impl Wire for Head {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u8(FORMAT);
        out.u64(self.index);
        out.u32(self.length);
        out.u64(self.sum);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Head, Malformed> {
        format(reader, "format of a snapshot")?;
        let (index, length) = (reader.u64()?, reader.u32()?);
        let bounded = |field, value, max| {
            if value > max { Err(Malformed::TooMany { field, value, max }) } else { Ok(()) }
        };
        bounded("index of a snapshot", index, COUNTED_MAX)?;
        bounded("size of a snapshot", length.into(), SNAPSHOT_BYTES_MAX as u64)?;
        Ok(Head { index, length, sum: reader.u64()? })
    }
}

fn format(reader: &mut Reader<'_>, field: &'static str) -> Result<(), Malformed> {
    match reader.u8()? {
        FORMAT => Ok(()),
        other => Err(Malformed::Unknown { field, value: other.into() }),
    }
}

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Keys {
        Keys { prefix: prefix.into() }
    }

    pub(super) fn entry(&self, index: u64) -> Vec<u8> {
        format!("{}/log/{index:020}", self.prefix).into()
    }

    /// Before the first entry and behind the last one that can be.
    pub(super) fn log(&self) -> [Vec<u8>; 2] {
        // In the order of bytes 0 comes after the stroke.
        [format!("{}/log/", self.prefix).into(), format!("{}/log0", self.prefix).into()]
    }

    pub(super) fn head(&self) -> Vec<u8> {
        format!("{}/snapshot", self.prefix).into()
    }

    pub(super) fn part(&self, index: u64, part: usize) -> Vec<u8> {
        format!("{}/part/{index:020}/{part:04}", self.prefix).into()
    }

    /// All parts of one snapshot.
    pub(super) fn parts(&self, index: u64) -> [Vec<u8>; 2] {
        let of = format!("{}/part/{index:020}", self.prefix);
        [format!("{of}/").into(), format!("{of}0").into()]
    }

    /// The parts of all snapshots before one.
    pub(super) fn parts_before(&self, index: u64) -> [Vec<u8>; 2] {
        [format!("{}/part/", self.prefix).into(), format!("{}/part/{index:020}", self.prefix).into()]
    }

    /// Which entry a key of the log is.
    pub(super) fn index(&self, key: &[u8]) -> Result<u64, Failure> {
        let digits = key.strip_prefix(self.log()[0].as_slice());
        let digits = digits.filter(|digits| digits.len() == 20 && digits.iter().all(u8::is_ascii_digit));
        let index = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        index.filter(|index| (1..COUNTED_MAX).contains(index)).ok_or_else(|| {
            Failure::Broken(format!("the key {} is none of the log, and stands in it", shown(key)))
        })
    }
}

/// A key as people read it.
pub(super) fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_or_not_at_all() {
        let entry = Entry { ticket: Ticket { run: 7, count: u64::MAX }, command: b"command".to_vec() };
        let head = Head { index: 41, length: 4096, sum: 9 };
        assert_eq!(Entry::from_bytes(&entry.to_bytes()).as_ref(), Ok(&entry));
        assert_eq!(Head::from_bytes(&head.to_bytes()), Ok(head));
        for end in 0..entry.to_bytes().len() {
            assert!(Entry::from_bytes(&entry.to_bytes()[..end]).is_err(), "{end} bytes");
        }
        for end in 0..head.to_bytes().len() {
            assert!(Head::from_bytes(&head.to_bytes()[..end]).is_err(), "{end} bytes");
        }
        assert!(Entry::from_bytes(&[2; 40]).is_err(), "another format");
        assert!(Head::from_bytes(&Head { index: u64::MAX, ..head }.to_bytes()).is_err());
        assert!(Head::from_bytes(&Head { length: u32::MAX, ..head }.to_bytes()).is_err());
    }

    #[test]
    fn keys_ascend_like_their_indexes_and_say_them() {
        let keys = Keys::new("/oarlock/harbour");
        assert_eq!(shown(&keys.entry(41)), "/oarlock/harbour/log/00000000000000000041");
        for index in [1, 9, 10, 99_999, COUNTED_MAX - 2] {
            assert_eq!(keys.index(&keys.entry(index)), Ok(index));
            assert!(keys.entry(index) < keys.entry(index + 1));
            let [begin, end] = keys.log();
            assert!(begin < keys.entry(index) && keys.entry(index) < end);
            let [begin, end] = keys.parts(index);
            assert!((begin..end).contains(&keys.part(index, 9_999)));
            let [begin, end] = keys.parts_before(index);
            assert!((&begin..&end).contains(&&keys.part(index - 1, 9_999)) && keys.part(index, 0) >= end);
        }
        for wrong in
            ["log/7", "log/0000000000000000004x", "log/00000000000000000000", "log/99999999999999999999"]
        {
            let key = format!("/oarlock/harbour/{wrong}");
            let Err(Failure::Broken(why)) = keys.index(key.as_bytes()) else { panic!("{key}") };
            assert!(why.contains(&key), "{why}");
        }
    }
}
