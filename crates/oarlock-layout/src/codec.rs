//! Bounded readers and writers for messages: little-endian, no allocation a length field could inflate.
//!
//! Every message type implements [`Wire`]. A decoder reads exactly what the encoder wrote, checks every
//! enumeration and bound, and says what was wrong ([`Malformed`]); the sender of bytes that fail here is at
//! fault, not this node.

use alloc::vec::Vec;

use crate::limit::{LABEL_BYTES_MAX, VALUE_BYTES};
use crate::mode::Mode;
use crate::name::{Name, NameError};
use crate::value::{SEQUENCE_MAX, Value};

/// What is wrong with received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end inside a field.
    #[error("{wanted} more bytes expected at offset {at}, {left} left")]
    Short {
        /// Offset of the field.
        at: usize,
        /// Bytes the field needs.
        wanted: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// The message ends before the bytes do.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// A number that stands for nothing in its field.
    #[error("{value} is not a known {field}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What came.
        value: u64,
    },
    /// A count or length above its bound.
    #[error("{field} is {value}, at most {max} are allowed")]
    TooMany {
        /// Which field.
        field: &'static str,
        /// What came.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// A resource name that cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Text that is not UTF-8.
    #[error("{0} is not UTF-8 text")]
    Text(&'static str),
    /// A record of numbered fields lacks one that it cannot do without.
    #[error("{record} has no {field}")]
    Missing {
        /// Which record.
        record: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// Numbered fields that do not ascend: one of them is there twice, or the bytes are not what we write.
    #[error("field {number} of {record} is out of order")]
    OutOfOrder {
        /// Which record.
        record: &'static str,
        /// Number of the field.
        number: u16,
    },
    /// A field that this version does not know and that its writer did not let us skip.
    #[error("{record} has a field {number} that this version does not know and must not ignore")]
    Critical {
        /// Which record.
        record: &'static str,
        /// Number of the field.
        number: u16,
    },
}

/// Bytes that two programs agree on.
pub trait Wire: Sized {
    /// Appends the encoding to `out`.
    fn encode(&self, out: &mut Writer<'_>);

    /// Reads one value and leaves the reader behind it.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed>;

    /// The encoding alone.
    fn to_bytes(&self) -> Vec<u8> {
        // Room for the usual message: growing byte by byte cost more than all the encoding.
        let mut bytes = Vec::with_capacity(128);
        self.encode(&mut Writer::new(&mut bytes));
        bytes
    }

    /// Decodes a whole message; bytes left over are an error.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode(&mut reader)?;
        reader.end()?;
        Ok(value)
    }
}

/// Appends fields to a buffer.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`, leaving what it holds.
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Bytes whose number both sides know.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Four bytes of length, then the bytes.
    ///
    /// # Panics
    /// If there are 2^32 bytes or more; every caller's bound is far below.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("a field of at most 4 GiB"));
        self.raw(bytes);
    }

    /// One byte of length, then the name.
    pub fn name(&mut self, name: &Name) {
        self.u8(name.as_bytes().len() as u8);
        self.raw(name.as_bytes());
    }

    /// A short text, cut at [`LABEL_BYTES_MAX`] bytes on a character boundary.
    pub fn label(&mut self, text: &str) {
        let text = cut(text, LABEL_BYTES_MAX);
        self.u8(text.len() as u8);
        self.raw(text.as_bytes());
    }

    /// A mode as its number.
    pub fn mode(&mut self, mode: Mode) {
        self.u8(mode as u8);
    }

    /// A mode or none.
    pub fn mode_option(&mut self, mode: Option<Mode>) {
        self.u8(mode.map_or(0xff, |m| m as u8));
    }

    /// 0, or 1 and the value.
    pub fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A value block.
    pub fn value(&mut self, value: &Value) {
        self.u64(value.sequence);
        self.bool(value.valid);
        self.raw(&value.bytes);
    }
}

/// The longest beginning of `text` that has at most `max` bytes and ends between characters.
pub fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Takes fields from the front of received bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let short = Malformed::Short { at: self.at, wanted: n, left: self.left() };
        let end = self.at.checked_add(n).ok_or(short)?;
        let bytes = self.bytes.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.raw(N)?.try_into().expect("raw returned N bytes"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// One byte that must be 0 or 1.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            n => Err(Malformed::Unknown { field, value: n.into() }),
        }
    }

    /// Four bytes of length, at most `max`, then the bytes.
    pub fn bytes(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], Malformed> {
        let n = self.u32()? as usize;
        if n > max {
            return Err(Malformed::TooMany { field, value: n as u64, max: max as u64 });
        }
        self.raw(n)
    }

    /// A count of items to follow, at most `max`, each at least one byte: so it cannot exceed what is left.
    pub fn count(&mut self, field: &'static str, max: usize) -> Result<usize, Malformed> {
        let n = self.u32()? as usize;
        let max = max.min(self.left());
        if n > max {
            return Err(Malformed::TooMany { field, value: n as u64, max: max as u64 });
        }
        Ok(n)
    }

    /// A resource name.
    pub fn name(&mut self) -> Result<Name, Malformed> {
        let n = self.u8()? as usize;
        if cfg!(feature = "planted") {
            // The planted bug: a length that is believed.
            let bytes = &self.bytes[self.at..self.at + n];
            self.at += n;
            return Ok(Name::new(bytes)?);
        }
        Ok(Name::new(self.raw(n)?)?)
    }

    /// A short text.
    pub fn label(&mut self, field: &'static str) -> Result<&'a str, Malformed> {
        let n = self.u8()? as usize;
        if n > LABEL_BYTES_MAX {
            return Err(Malformed::TooMany { field, value: n as u64, max: LABEL_BYTES_MAX as u64 });
        }
        core::str::from_utf8(self.raw(n)?).map_err(|_| Malformed::Text(field))
    }

    /// A mode.
    pub fn mode(&mut self) -> Result<Mode, Malformed> {
        let n = self.u8()?;
        Mode::from_number(n).ok_or(Malformed::Unknown { field: "mode", value: n.into() })
    }

    /// A mode or none.
    pub fn mode_option(&mut self) -> Result<Option<Mode>, Malformed> {
        match self.u8()? {
            0xff => Ok(None),
            n => match Mode::from_number(n) {
                Some(mode) => Ok(Some(mode)),
                None => Err(Malformed::Unknown { field: "mode", value: n.into() }),
            },
        }
    }

    /// 0, or 1 and a value.
    pub fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.bool(field)? { read(self).map(Some) } else { Ok(None) }
    }

    /// A value block.
    pub fn value(&mut self) -> Result<Value, Malformed> {
        let sequence = self.u64()?;
        if sequence > SEQUENCE_MAX {
            return Err(Malformed::Unknown { field: "value sequence", value: sequence });
        }
        Ok(Value { sequence, valid: self.bool("value validity")?, bytes: self.array::<VALUE_BYTES>()? })
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            n => Err(Malformed::Trailing(n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("abc", 5), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("ü", 1), "");
    }
}
