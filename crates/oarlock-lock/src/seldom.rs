//! What few resources have at a time: a retained resource that nobody waits for needs none of it.
//!
//! A node keeps a million of those. So what belongs to waiting, to questions and to value blocks lies apart, and only
//! while there is something in it.

use alloc::boxed::Box;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::{Deref, DerefMut};

/// Something of which most have nothing.
pub(crate) trait Nothing: Default + Eq + 'static {
    /// What stands for it where it is not.
    fn nothing() -> &'static Self;
}

/// Reads as [`Nothing`] until it is written; a write makes room for it.
pub(crate) struct Seldom<T>(Option<Box<T>>);

impl<T: Nothing> Seldom<T> {
    /// What is in it, if it was ever written.
    pub(crate) fn into_some(self) -> Option<T> {
        self.0.map(|it| *it)
    }

    /// Gives the room back if nothing is in it.
    pub(crate) fn tidy(&mut self) {
        if self.0.as_deref().is_some_and(|it| it == T::nothing()) {
            self.0 = None;
        }
    }
}

impl<T> Default for Seldom<T> {
    fn default() -> Seldom<T> {
        Seldom(None)
    }
}

impl<T: Nothing> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::nothing())
    }
}

impl<T: Nothing> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Clone> Clone for Seldom<T> {
    fn clone(&self) -> Seldom<T> {
        Seldom(self.0.clone())
    }
}

impl<T: Nothing + serde::Serialize> serde::Serialize for Seldom<T> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Whether there is room for it is no difference, and two that are the same are written the same.
        let some = self.0.as_deref().filter(|it| *it != T::nothing());
        some.serialize(to)
    }
}

impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Seldom<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Seldom<T>, D::Error> {
        Option::<T>::deserialize(from).map(|it| Seldom(it.map(Box::new)))
    }
}

// Room with nothing in it is the same as no room: an explorer must take both for one state.
impl<T: Nothing> PartialEq for Seldom<T> {
    fn eq(&self, other: &Seldom<T>) -> bool {
        **self == **other
    }
}

impl<T: Nothing> Eq for Seldom<T> {}

impl<T: Nothing + Hash> Hash for Seldom<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<T: Nothing + fmt::Debug> fmt::Debug for Seldom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
    struct Few {
        many: u8,
    }

    impl Nothing for Few {
        fn nothing() -> &'static Few {
            &Few { many: 0 }
        }
    }

    #[test]
    fn it_reads_as_nothing_until_it_is_written_and_gives_its_room_back() {
        let mut few = Seldom::<Few>::default();
        assert_eq!(few.many, 0);
        few.many = 3;
        few.tidy();
        assert_eq!(few.many, 3);
        few.many = 0;
        assert_eq!(few, Seldom::default(), "room with nothing in it is no difference");
        assert!(few.0.is_some());
        few.tidy();
        assert!(few.0.is_none());
    }
}
