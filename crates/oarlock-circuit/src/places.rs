//! Where circuits are kept: each has a place, which its peer's datagrams name.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use oarlock_layout::limit::NODES_MAX;

use crate::circuit::Circuit;

/// Circuits by place. A place stays a circuit's as long as it lives, for the numbers by which peers find their keys contain it; one
/// that is free again is given to the next.
#[derive(Default)]
pub(crate) struct Places(Vec<Option<Circuit>>);

impl Places {
    /// Puts a circuit into the lowest free place.
    ///
    /// # Panics
    /// If there is none: whoever makes circuits knows how many members a cluster may have.
    pub(crate) fn insert(&mut self, circuit: Circuit) -> usize {
        let place = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        assert!(place < NODES_MAX, "{NODES_MAX} circuits");
        match self.0.get_mut(place) {
            Some(free) => *free = Some(circuit),
            None => self.0.push(Some(circuit)),
        }
        place
    }

    /// Takes a circuit out; its place is free.
    pub(crate) fn remove(&mut self, place: usize) -> Option<Circuit> {
        self.0.get_mut(place)?.take()
    }

    pub(crate) fn get(&self, place: usize) -> Option<&Circuit> {
        self.0.get(place)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Circuit> {
        self.0.get_mut(place)?.as_mut()
    }

    /// The place of the first circuit that `fits`.
    pub(crate) fn position(&self, fits: impl Fn(&Circuit) -> bool) -> Option<usize> {
        self.0.iter().position(|it| it.as_ref().is_some_and(&fits))
    }

    /// By place, free ones too.
    pub(crate) fn all(&self) -> impl Iterator<Item = Option<&Circuit>> {
        self.0.iter().map(Option::as_ref)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Circuit> {
        self.0.iter().flatten()
    }

    /// With their places.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Circuit)> {
        self.0.iter_mut().enumerate().filter_map(|(place, it)| Some((place, it.as_mut()?)))
    }
}

impl From<Vec<Option<Circuit>>> for Places {
    fn from(all: Vec<Option<Circuit>>) -> Places {
        Places(all)
    }
}

impl Index<usize> for Places {
    type Output = Circuit;

    fn index(&self, place: usize) -> &Circuit {
        self.get(place).expect("a circuit has this place")
    }
}

impl IndexMut<usize> for Places {
    fn index_mut(&mut self, place: usize) -> &mut Circuit {
        self.get_mut(place).expect("a circuit has this place")
    }
}
