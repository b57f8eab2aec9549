//! The forms in which a node's state is written down for whoever takes its run over, where a derive has none.
//!
//! These bytes never travel: one program writes them, and the next one on the same machine reads them a moment later. Their
//! shape is that of the types, with the names of all fields; `oarlock-node` puts a head before them and says what it is for.
//! Each module here is named by a `#[serde(with = …)]`.

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What was written reads well, and cannot be the state of any run. Which part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the state contradicts itself: {0}")]
pub struct Contradiction(pub &'static str);

/// Of what there are a million: a field that says nothing is not written, for its name is longer than what it says.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes as bytes, and not as a list of numbers.
pub mod bytes {
    use super::*;
    use alloc::vec::Vec;
    use core::fmt;

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    /// Writes them.
    pub fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes.as_ref())
    }

    /// Reads them, as many as there must be.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(from: D) -> Result<T, D::Error> {
        let bytes = from.deserialize_byte_buf(Bytes)?;
        bytes.try_into().map_err(|_| D::Error::custom("so many bytes do not belong here"))
    }
}

/// A ring of bytes likewise.
pub mod ring {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;

    /// Writes it from the front.
    pub fn serialize<S: Serializer>(ring: &VecDeque<u8>, to: S) -> Result<S::Ok, S::Error> {
        let (front, back) = ring.as_slices();
        if back.is_empty() { to.serialize_bytes(front) } else { to.serialize_bytes(&[front, back].concat()) }
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<VecDeque<u8>, D::Error> {
        bytes::deserialize::<D, Vec<u8>>(from).map(VecDeque::from)
    }
}

/// A long array: derives know those of up to 32.
pub mod array {
    use super::*;
    use alloc::vec::Vec;

    /// Writes it.
    pub fn serialize<S: Serializer, T: Serialize, const N: usize>(
        items: &[T; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(items)
    }

    /// Reads it, exactly as long.
    pub fn deserialize<'de, D, T, const N: usize>(from: D) -> Result<[T; N], D::Error>
    where
        D: Deserializer<'de>,
        T: Deserialize<'de>,
    {
        let items = Vec::<T>::deserialize(from)?;
        items.try_into().map_err(|_| D::Error::custom("so many items do not belong here"))
    }
}

/// What is shared in memory, as what it is.
pub mod shared {
    use super::*;
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    /// Writes it.
    pub fn serialize<S: Serializer, T: Serialize>(items: &Arc<[T]>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(items.iter())
    }

    /// Reads it, as the first of who share it.
    pub fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        from: D,
    ) -> Result<Arc<[T]>, D::Error> {
        Vec::<T>::deserialize(from).map(Arc::from)
    }
}

/// What travels between nodes too, in the form that it has there.
pub mod wire {
    use super::*;
    use crate::codec::Wire;
    use alloc::vec::Vec;

    /// Writes it.
    pub fn serialize<S: Serializer, T: Wire>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&value.to_bytes())
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>, T: Wire>(from: D) -> Result<T, D::Error> {
        T::from_bytes(&bytes::deserialize::<D, Vec<u8>>(from)?).map_err(D::Error::custom)
    }
}

/// A queue of what a room has to say. Whoever writes a node down has carried all of it out before: said twice or not at
/// all would both be wrong.
pub mod drained {
    use super::*;
    use alloc::collections::VecDeque;

    /// Writes that nothing is left.
    ///
    /// # Panics
    /// If something is: our own mistake.
    pub fn serialize<S: Serializer, T>(queue: &VecDeque<T>, to: S) -> Result<S::Ok, S::Error> {
        assert!(queue.is_empty(), "{} outputs wait while the state is written down", queue.len());
        to.serialize_unit()
    }

    /// Reads it as an empty one.
    pub fn deserialize<'de, D: Deserializer<'de>, T>(from: D) -> Result<VecDeque<T>, D::Error> {
        <()>::deserialize(from).map(|()| VecDeque::new())
    }
}
