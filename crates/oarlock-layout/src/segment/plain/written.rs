//! The tables as bytes, for whoever takes the run over that they are of.

use alloc::vec::Vec;

use super::{Place, PlainWords};
use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::{LockId, Slot};
use crate::mode::Mode;
use crate::segment::{Counts, Entry, Word};
use crate::token::Token;

impl Wire for Place {
    fn encode(&self, out: &mut Writer<'_>) {
        out.name(&self.name);
        self.word.counts.0.iter().for_each(|count| out.u32(*count));
        out.mode_option(self.word.owned);
        out.bool(self.word.gate);
        out.bool(self.keep);
        self.token.encode(out);
        out.value(&self.value);
        out.u8(self.told);
        out.option(self.told_but.as_ref(), |out, (mode, lock)| {
            out.mode(*mode);
            out.u64(lock.0);
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<Place, Malformed> {
        let name = r.name()?;
        let mut counts = Counts::default();
        for count in &mut counts.0 {
            *count = r.u32()?;
        }
        let word = Word { counts, owned: r.mode_option()?, gate: r.bool("gate")? };
        let (keep, token, value, told) = (r.bool("policy")?, Token::decode(r)?, r.value()?, r.u8()?);
        let told_but = |r: &mut Reader<'_>| Ok::<(Mode, LockId), Malformed>((r.mode()?, LockId(r.u64()?)));
        let told_but = r.option("exception", told_but)?;
        Ok(Place { name, word, keep, token, value, told, told_but })
    }
}

impl Wire for PlainWords {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.seed);
        out.u32(self.max);
        out.u32(self.slots.len() as u32);
        self.slots.iter().for_each(|place| out.option(place.as_ref(), |out, place| place.encode(out)));
        out.u32(self.free.len() as u32);
        self.free.iter().for_each(|slot| out.u32(slot.0));
        out.u32(self.locks.len() as u32);
        self.locks.all().for_each(|entry| entry.encode(out));
    }

    fn decode(r: &mut Reader<'_>) -> Result<PlainWords, Malformed> {
        let seed = r.u64()?;
        let mut words = PlainWords::with_seed(r.u32()?, seed);
        for _ in 0..r.count("slots", u32::MAX as usize)? {
            let place = r.option("slot", Place::decode)?;
            words.slots.push(place);
        }
        for number in 0..words.slots.len() as u32 {
            words.index(Slot(number));
        }
        let slots = words.slots.len();
        let there = |slot: Slot| match (slot.0 as usize) < slots {
            true => Ok(slot),
            false => Err(Malformed::TooMany { field: "slot", value: slot.0.into(), max: slots as u64 }),
        };
        let free: Result<Vec<Slot>, Malformed> =
            (0..r.count("free slots", slots)?).map(|_| there(Slot(r.u32()?))).collect();
        words.free = free?;
        for _ in 0..r.count("locks", u32::MAX as usize)? {
            let entry = Entry::decode(r)?;
            there(entry.slot)?;
            if words.locks.get(entry.claim.lock).is_some() {
                return Err(Malformed::Unknown { field: "lock", value: entry.claim.lock.0 });
            }
            words.locks.insert(entry);
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, SessionId};
    use crate::name::Name;
    use crate::segment::{Claim, Words as _};
    use crate::token::Fence;
    use core::hash::{Hash, Hasher};

    struct Sum(u64);

    impl Hasher for Sum {
        fn finish(&self) -> u64 {
            self.0
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
        }
    }

    fn sum(words: &PlainWords) -> u64 {
        let mut sum = Sum(0);
        words.hash(&mut sum);
        sum.finish()
    }

    /// L5: what is read is what was written, and goes on the same.
    #[test]
    fn tables_that_were_written_go_on_as_they_were() {
        let mut words = PlainWords::with_seed(5, 7);
        let names: Vec<Name> = (0..5u8).map(|n| Name::new(&[b'r', n]).unwrap()).collect();
        let slots: Vec<Slot> = names.iter().map(|name| words.bind(name).unwrap()).collect();
        for (n, slot) in slots.iter().enumerate() {
            words.raise(*slot, Mode::PR, Fence::new(Epoch(3), n as u64));
            for session in 0..n as u32 {
                let claim = Claim { lock: LockId::new(SessionId(session), n as u32), ..Claim::default() };
                words.admit(*slot, Mode::PR, claim).unwrap();
            }
        }
        words.clear_gate(slots[2]);
        words.notice(slots[3], Mode::EX, Some(LockId::new(SessionId(1), 3)));
        assert!(words.evict(slots[0]));
        let mut other = PlainWords::from_bytes(&words.written()).unwrap();
        assert_eq!((sum(&words), words.written()), (sum(&other), other.written()));
        for words in [&mut words, &mut other] {
            assert_eq!(words.find(&names[0]), None);
            assert_eq!(words.find(&names[4]), Some(slots[4]));
            assert_eq!(words.bind(&names[0]), Ok(slots[0]));
            assert!(words.drop(LockId::new(SessionId(1), 3)).is_some());
            assert_eq!(words.notice(slots[3], Mode::EX, None).len(), 0);
        }
        assert_eq!(sum(&words), sum(&other));
    }

    #[test]
    fn half_of_it_is_no_table() {
        let mut words = PlainWords::with_seed(2, 7);
        let slot = words.bind(&Name::new(b"r").unwrap()).unwrap();
        words.raise(slot, Mode::EX, Fence::new(Epoch(3), 1));
        words.admit(slot, Mode::EX, Claim::default()).unwrap();
        let bytes = words.written();
        (0..bytes.len()).for_each(|end| assert!(PlainWords::from_bytes(&bytes[..end]).is_err(), "{end}"));
    }
}
