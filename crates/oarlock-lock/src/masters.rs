//! The masters of a lockspace, by name.
//!
//! They lie side by side and are found by hash; a tree of them would need twice the room. Whoever goes through all of
//! them does so in the order in which they lie, which the same calls make the same.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use hashbrown::HashTable;
use oarlock_layout::name::Name;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::master::Master;

#[derive(Clone, Debug, Default)]
pub(crate) struct Masters {
    seed: u64,
    places: Vec<Option<Master>>,
    free: Vec<u32>,
    names: HashTable<u32>,
}

impl Masters {
    /// With a seed for its hashes, so that nobody outside can choose names that collide.
    pub(crate) fn with_seed(seed: u64) -> Masters {
        Masters { seed, ..Masters::default() }
    }

    fn hash_of(&self, name: &Name) -> u64 {
        xxh3_64_with_seed(name.as_bytes(), self.seed)
    }

    fn place(&self, name: &Name) -> Option<u32> {
        let is = |place: &u32| self.places[*place as usize].as_ref().is_some_and(|it| it.name == *name);
        self.names.find(self.hash_of(name), is).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Master> {
        self.places.iter().flatten()
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Master> {
        self.places[self.place(name)? as usize].as_ref()
    }

    /// All of them, in the order in which they lie. None is left.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Master> + use<> {
        let old = core::mem::replace(self, Masters::with_seed(self.seed));
        old.places.into_iter().flatten()
    }

    /// The one that lies there.
    pub(crate) fn at_mut(&mut self, place: usize) -> Option<&mut Master> {
        self.places.get_mut(place)?.as_mut()
    }

    /// Room for so many more at once: growing by doubling would move each of them again and again.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.places.reserve(more);
        let (places, seed) = (&self.places, self.seed);
        self.names.reserve(more, |place| hash_at(places, seed, *place));
    }

    /// Places that may hold one.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// The master of a resource, made if there is none.
    pub(crate) fn get_or_new(&mut self, name: &Name) -> &mut Master {
        let place = match self.place(name) {
            Some(place) => place,
            None => self.insert(name),
        };
        self.places[place as usize].as_mut().expect("found or made")
    }

    fn insert(&mut self, name: &Name) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.places[place as usize] = Some(Master::new(name.clone()));
        self.find_by_name(name, place);
        place
    }

    /// From now on the master that lies there is found.
    fn find_by_name(&mut self, name: &Name, place: u32) {
        let (hash, seed, places) = (self.hash_of(name), self.seed, &self.places);
        self.names.insert_unique(hash, place, |place| hash_at(places, seed, *place));
    }

    pub(crate) fn remove(&mut self, name: &Name) {
        let (hash, Some(found)) = (self.hash_of(name), self.place(name)) else { return };
        self.names.find_entry(hash, |place| *place == found).expect("it was just found").remove();
        self.places[found as usize] = None;
        self.free.push(found);
    }
}

fn hash_at(places: &[Option<Master>], seed: u64, place: u32) -> u64 {
    let master = places[place as usize].as_ref();
    master.map_or(0, |master| xxh3_64_with_seed(master.name.as_bytes(), seed))
}

/// As they lie: whoever goes through them is to do so in the same order after they were written down. Places that are free are
/// given away in their order as well.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<P> {
    seed: u64,
    places: P,
    free: Vec<u32>,
}

impl serde::Serialize for Masters {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Written { seed: self.seed, places: &self.places, free: self.free.clone() }.serialize(to)
    }
}

impl<'de> serde::Deserialize<'de> for Masters {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Masters, D::Error> {
        let Written { seed, places, free } = Written::<Vec<Option<Master>>>::deserialize(from)?;
        let wrong = |what| Err(serde::de::Error::custom(what));
        let mut masters = Masters { seed, places, free, names: HashTable::new() };
        for place in 0..masters.places.len() {
            let Some(master) = &masters.places[place] else { continue };
            let name = master.name.clone();
            if masters.place(&name).is_some() {
                return wrong("a resource has two masters");
            }
            masters.find_by_name(&name, place as u32);
        }
        let taken = |place: &u32| masters.places.get(*place as usize).is_none_or(Option::is_some);
        let holes = masters.places.iter().filter(|it| it.is_none()).count();
        let mut each = masters.free.clone();
        each.sort_unstable();
        each.dedup();
        if masters.free.iter().any(taken) || each.len() != masters.free.len() || holes != each.len() {
            return wrong("places of masters are free that are not");
        }
        Ok(masters)
    }
}

/// In the order of names: where they lie decides nothing, and an explorer must not take it for a difference.
impl Hash for Masters {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut all: Vec<&Master> = self.values().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_found_again_whatever_came_and_went() {
        let mut masters = Masters::with_seed(7);
        let name = |n: u32| Name::new(&n.to_le_bytes()).unwrap();
        (0..500).for_each(|n| drop(masters.get_or_new(&name(n)).name.clone()));
        (0..500).step_by(3).for_each(|n| masters.remove(&name(n)));
        masters.remove(&name(0));
        (500..600).for_each(|n| drop(masters.get_or_new(&name(n)).name.clone()));
        let there = |n: u32| n >= 500 || !n.is_multiple_of(3);
        for n in 0..600 {
            assert_eq!(masters.get(&name(n)).map(|it| it.name.clone()), there(n).then(|| name(n)));
        }
        assert_eq!(masters.len(), (0..600).filter(|n| there(*n)).count());
        assert_eq!(masters.values().count(), masters.len());
        masters.reserve(5_000);
        let lying = (0..masters.places()).filter_map(|place| masters.at_mut(place).map(|it| it.name.clone()));
        let lying: alloc::vec::Vec<Name> = lying.collect();
        assert_eq!(lying.len(), masters.len());
        assert!(lying.iter().all(|name| masters.get(name).is_some_and(|it| it.name == *name)));
    }
}
