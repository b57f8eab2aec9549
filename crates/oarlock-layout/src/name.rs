//! Names of resources: 1 to 255 bytes, any bytes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::limit::NAME_BYTES_MAX;

/// A resource's name. Cheap to clone; compares and sorts by bytes; prints readable bytes as they are and
/// others as `\xNN`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// Why bytes are not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name has at least one byte")]
    Empty,
    /// More bytes than a name may have.
    #[error("a name has at most {NAME_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
}

impl Name {
    /// Checks the length; every byte value is allowed.
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        match bytes.len() {
            0 => Err(NameError::Empty),
            n if n > NAME_BYTES_MAX => Err(NameError::TooLong(n)),
            _ => Ok(Name(Arc::from(bytes))),
        }
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The inverse of printing: `\xNN` and `\\` are bytes, everything else stands for itself.
    pub fn unescape(text: &str) -> Vec<u8> {
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut i = 0;
        while i < bytes.len() {
            let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
            let hex = digit(i + 2).zip(digit(i + 3)).map(|(high, low)| (high << 4 | low) as u8);
            match (bytes[i], bytes.get(i + 1), hex) {
                (b'\\', Some(b'x'), Some(byte)) => {
                    out.push(byte);
                    i += 4;
                }
                (b'\\', Some(b'\\'), _) => {
                    out.push(b'\\');
                    i += 2;
                }
                (byte, ..) => {
                    out.push(byte);
                    i += 1;
                }
            }
        }
        out
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
        let bytes: Vec<u8> = crate::written::bytes::deserialize(from)?;
        Name::new(&bytes).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(f)
    }
}

/// Bytes as a name prints them.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() => {
                        let mut buffer = [0; 4];
                        for byte in c.encode_utf8(&mut buffer).bytes() {
                            write!(f, "\\x{byte:02x}")?;
                        }
                    }
                    c => write!(f, "{c}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bounds_are_one_and_255() {
        assert_eq!(Name::new(b""), Err(NameError::Empty));
        assert!(Name::new(&[0; 255]).is_ok());
        assert_eq!(Name::new(&[0; 256]), Err(NameError::TooLong(256)));
    }

    #[test]
    fn only_two_digits_are_a_byte() {
        assert_eq!(Name::unescape(r"\x0fF"), b"\x0fF");
        for plain in [r"\x+f", r"\xg0", r"\x0", r"\x"] {
            assert_eq!(Name::unescape(plain), plain.as_bytes(), "{plain}");
        }
    }

    proptest! {
        #[test]
        fn printing_loses_nothing(bytes in proptest::collection::vec(any::<u8>(), 1..=255)) {
            let name = Name::new(&bytes).unwrap();
            prop_assert_eq!(Name::unescape(&name.to_string()), bytes);
        }
    }
}
