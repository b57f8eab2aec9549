//! Records as numbered fields, so that commands and snapshots of one version can be read by the next.
//!
//! ```text
//!   record   field field field …          numbers ascend; the record ends where its bytes end
//!   field    ┌──────────┬──────────────┬───────────┐
//!            │ number 2 │ length 4     │ bytes     │       the top bit of the number: may be skipped
//!            └──────────┴──────────────┴───────────┘
//!   choice   kind 2, then a record
//!   list     (length 4, item) …           the list ends where its bytes end
//! ```
//!
//! A reader that meets a field it does not know skips it only if the writer marked it so. Anything else would let
//! two nodes of different versions apply one command in different ways, and their registries would part without
//! a word. An unknown kind is an error for the same reason.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use oarlock_layout::codec::{Malformed, Reader, Writer};
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::limit::{LABEL_BYTES_MAX, NODES_MAX};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::view::{Member, View};

/// Marks the number of a field without which a reader still does the right thing.
pub(super) const MAY_SKIP: u16 = 1 << 15;
/// Fields of one record, known or not.
const FIELDS_MAX: usize = 64;

/// What can stand in a field.
pub(super) trait Field: Sized {
    /// Items of a list of these.
    const LIST_MAX: usize = NODES_MAX;

    fn put(&self, out: &mut Writer<'_>);

    /// Reads from bytes that hold nothing else; `name` is the field's, for errors.
    fn take(r: &mut Reader<'_>, name: &'static str) -> Result<Self, Malformed>;

    /// False for what is said by leaving the field out.
    fn present(&self) -> bool {
        true
    }

    /// The value of a field that is not there, if that means something.
    fn absent() -> Option<Self> {
        None
    }
}

/// Appends one field, unless leaving it out says the same.
pub(super) fn put<T: Field>(number: u16, value: &T, out: &mut Writer<'_>) {
    if value.present() {
        out.u16(number);
        sized(value, out);
    }
}

fn sized<T: Field>(value: &T, out: &mut Writer<'_>) {
    let mut bytes = Vec::new();
    value.put(&mut Writer::new(&mut bytes));
    out.bytes(&bytes);
}

fn whole<T: Field>(bytes: &[u8], name: &'static str) -> Result<T, Malformed> {
    let mut r = Reader::new(bytes);
    let value = T::take(&mut r, name)?;
    r.end()?;
    Ok(value)
}

/// The fields of one record, found but not read yet.
pub(super) struct Fields<'a> {
    record: &'static str,
    found: Vec<(u16, &'a [u8])>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(r: &mut Reader<'a>, record: &'static str) -> Result<Fields<'a>, Malformed> {
        let mut found: Vec<(u16, &[u8])> = Vec::new();
        while r.left() > 0 {
            if found.len() == FIELDS_MAX {
                let value = FIELDS_MAX as u64 + 1;
                return Err(Malformed::TooMany { field: record, value, max: FIELDS_MAX as u64 });
            }
            let number = r.u16()?;
            if found.last().is_some_and(|(last, _)| last & !MAY_SKIP >= number & !MAY_SKIP) {
                return Err(Malformed::OutOfOrder { record, number: number & !MAY_SKIP });
            }
            found.push((number, r.bytes(record, r.left())?));
        }
        Ok(Fields { record, found })
    }

    pub(super) fn take<T: Field>(&self, number: u16, field: &'static str) -> Result<T, Malformed> {
        match self.found.iter().find(|(n, _)| n & !MAY_SKIP == number & !MAY_SKIP) {
            Some((_, bytes)) => whole(bytes, field),
            None => T::absent().ok_or(Malformed::Missing { record: self.record, field }),
        }
    }

    /// Whatever is not in `known` must be something that may be skipped.
    pub(super) fn end(&self, known: &[u16]) -> Result<(), Malformed> {
        let known = |number: u16| known.iter().any(|k| k & !MAY_SKIP == number & !MAY_SKIP);
        match self.found.iter().find(|(number, _)| number & MAY_SKIP == 0 && !known(*number)) {
            Some((number, _)) => Err(Malformed::Critical { record: self.record, number: *number }),
            None => Ok(()),
        }
    }
}

/// A struct that travels as a record.
macro_rules! record {
    ($(#[$doc:meta])* $vis:vis struct $name:ident, $what:literal, at most $max:expr, {
        $($(#[$field_doc:meta])* $number:literal $(| $skip:ident)? => $field:ident: $type:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $vis struct $name {
            $($(#[$field_doc])* $vis $field: $type,)*
        }

        impl $crate::registry::fields::Field for $name {
            const LIST_MAX: usize = $max;

            fn put(&self, out: &mut oarlock_layout::codec::Writer<'_>) {
                $($crate::registry::fields::put($number $(| $skip)?, &self.$field, out);)*
            }

            fn take(
                r: &mut oarlock_layout::codec::Reader<'_>,
                _: &'static str,
            ) -> Result<Self, oarlock_layout::codec::Malformed> {
                let fields = $crate::registry::fields::Fields::parse(r, $what)?;
                fields.end(&[$($number $(| $skip)?),*])?;
                Ok($name { $($field: fields.take($number $(| $skip)?, stringify!($field))?,)* })
            }
        }
    };
}

/// An enum that travels as a kind and a record.
macro_rules! choice {
    ($(#[$doc:meta])* enum $name:ident, $what:literal {
        $($(#[$variant_doc:meta])* $kind:literal => $variant:ident $({
            $($(#[$field_doc:meta])* $number:literal $(| $skip:ident)? => $field:ident: $type:ty),* $(,)?
        })?),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* $variant $({ $($(#[$field_doc])* $field: $type,)* })?,)*
        }

        impl $crate::registry::fields::Field for $name {
            fn put(&self, out: &mut oarlock_layout::codec::Writer<'_>) {
                match self {
                    $($name::$variant $({ $($field),* })? => {
                        out.u16($kind);
                        $($($crate::registry::fields::put($number $(| $skip)?, $field, out);)*)?
                    })*
                }
            }

            fn take(
                r: &mut oarlock_layout::codec::Reader<'_>,
                _: &'static str,
            ) -> Result<Self, oarlock_layout::codec::Malformed> {
                match r.u16()? {
                    $($kind => {
                        let record = concat!($what, " ", stringify!($variant));
                        let fields = $crate::registry::fields::Fields::parse(r, record)?;
                        fields.end(&[$($($number $(| $skip)?),*)?])?;
                        Ok($name::$variant $({ $($field: fields.take($number $(| $skip)?, stringify!($field))?,)* })?)
                    })*
                    other => Err(oarlock_layout::codec::Malformed::Unknown { field: $what, value: other.into() }),
                }
            }
        }
    };
}

pub(super) use {choice, record};

macro_rules! number {
    ($($type:ty: $inner:ident $wrap:expr, $unwrap:expr;)*) => {$(
        impl Field for $type {
            fn put(&self, out: &mut Writer<'_>) {
                out.$inner($unwrap(self));
            }

            fn take(r: &mut Reader<'_>, _: &'static str) -> Result<$type, Malformed> {
                r.$inner().map($wrap)
            }
        }
    )*};
}

number! {
    u8: u8 |n| n, |n: &u8| *n;
    u16: u16 |n| n, |n: &u16| *n;
    u32: u32 |n| n, |n: &u32| *n;
    u64: u64 |n| n, |n: &u64| *n;
    NodeId: u16 NodeId, |n: &NodeId| n.0;
    SpaceId: u16 SpaceId, |n: &SpaceId| n.0;
    Epoch: u32 Epoch, |n: &Epoch| n.0;
    Incarnation: u64 Incarnation, |n: &Incarnation| n.0;
    Stamp: u64 Stamp, |n: &Stamp| n.0;
}

impl Field for bool {
    fn put(&self, out: &mut Writer<'_>) {
        out.bool(*self);
    }

    fn take(r: &mut Reader<'_>, name: &'static str) -> Result<bool, Malformed> {
        r.bool(name)
    }
}

impl Field for String {
    fn put(&self, out: &mut Writer<'_>) {
        out.raw(self.as_bytes());
    }

    fn take(r: &mut Reader<'_>, name: &'static str) -> Result<String, Malformed> {
        let (n, max) = (r.left(), LABEL_BYTES_MAX);
        if n > max {
            return Err(Malformed::TooMany { field: name, value: n as u64, max: max as u64 });
        }
        core::str::from_utf8(r.raw(n)?).map(String::from).map_err(|_| Malformed::Text(name))
    }
}

impl<const N: usize> Field for [u8; N] {
    fn put(&self, out: &mut Writer<'_>) {
        out.raw(self);
    }

    fn take(r: &mut Reader<'_>, _: &'static str) -> Result<[u8; N], Malformed> {
        Ok(r.raw(N)?.try_into().expect("raw returned N bytes"))
    }
}

impl Field for PublicKey {
    fn put(&self, out: &mut Writer<'_>) {
        self.0.put(out);
    }

    fn take(r: &mut Reader<'_>, name: &'static str) -> Result<PublicKey, Malformed> {
        Field::take(r, name).map(PublicKey)
    }
}

/// Sixteen bytes of address (one of version 4 mapped) and the port. Scopes of link-local addresses name an
/// interface of one machine and mean nothing to another.
impl Field for SocketAddr {
    fn put(&self, out: &mut Writer<'_>) {
        let ip = match self.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.raw(&ip.octets());
        out.u16(self.port());
    }

    fn take(r: &mut Reader<'_>, name: &'static str) -> Result<SocketAddr, Malformed> {
        let ip = Ipv6Addr::from(<[u8; 16]>::take(r, name)?);
        Ok(SocketAddr::new(IpAddr::V6(ip).to_canonical(), r.u16()?))
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Writer<'_>) {
        self.as_ref().expect("only what is present is put").put(out);
    }

    fn take(r: &mut Reader<'_>, name: &'static str) -> Result<Option<T>, Malformed> {
        T::take(r, name).map(Some)
    }

    fn present(&self) -> bool {
        self.is_some()
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Writer<'_>) {
        for item in self {
            sized(item, out);
        }
    }

    fn take(r: &mut Reader<'_>, name: &'static str) -> Result<Vec<T>, Malformed> {
        let mut items = Vec::new();
        while r.left() > 0 {
            if items.len() == T::LIST_MAX {
                let (value, max) = (T::LIST_MAX as u64 + 1, T::LIST_MAX as u64);
                return Err(Malformed::TooMany { field: name, value, max });
            }
            items.push(whole(r.bytes(name, r.left())?, name)?);
        }
        Ok(items)
    }

    fn present(&self) -> bool {
        !self.is_empty()
    }

    fn absent() -> Option<Vec<T>> {
        Some(Vec::new())
    }
}

impl Field for Member {
    fn put(&self, out: &mut Writer<'_>) {
        put(1, &self.node, out);
        put(2, &self.incarnation, out);
    }

    fn take(r: &mut Reader<'_>, _: &'static str) -> Result<Member, Malformed> {
        let fields = Fields::parse(r, "member of a view")?;
        fields.end(&[1, 2])?;
        Ok(Member { node: fields.take(1, "node")?, incarnation: fields.take(2, "incarnation")? })
    }
}

impl Field for View {
    fn put(&self, out: &mut Writer<'_>) {
        put(1, &self.epoch, out);
        put(2, &self.members, out);
    }

    fn take(r: &mut Reader<'_>, _: &'static str) -> Result<View, Malformed> {
        let fields = Fields::parse(r, "view")?;
        fields.end(&[1, 2])?;
        Ok(View { epoch: fields.take(1, "epoch")?, members: fields.take(2, "members")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// As an old version knows it.
        struct Old, "lamp", at most 2, {
            /// How bright.
            1 => watts: u32,
            /// Who says so.
            2 | MAY_SKIP => note: Option<String>,
        }
    }

    record! {
        /// As a newer version knows it.
        struct New, "lamp", at most 2, {
            /// How bright.
            1 => watts: u32,
            /// Of interest to people.
            3 | MAY_SKIP => colour: Option<String>,
            /// Not to be overlooked.
            4 => poison: Option<bool>,
        }
    }

    fn bytes(value: &impl Field) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.put(&mut Writer::new(&mut bytes));
        bytes
    }

    #[test]
    fn an_older_reader_skips_what_it_may_and_names_what_it_must_not() {
        let new = New { watts: 60, colour: Some("red".into()), poison: None };
        assert_eq!(whole(&bytes(&new), "x"), Ok(Old { watts: 60, note: None }));
        let new = New { poison: Some(true), ..new };
        assert_eq!(whole::<Old>(&bytes(&new), "x"), Err(Malformed::Critical { record: "lamp", number: 4 }));
        assert_eq!(
            Malformed::Critical { record: "lamp", number: 4 }.to_string(),
            "lamp has a field 4 that this version does not know and must not ignore"
        );
    }

    #[test]
    fn a_field_that_is_missing_twice_there_or_too_long_is_named() {
        let watts = [1, 0, 4, 0, 0, 0, 60, 0, 0, 0];
        assert_eq!(whole(&watts, "x"), Ok(Old { watts: 60, note: None }));
        assert_eq!(whole::<Old>(&[], "x"), Err(Malformed::Missing { record: "lamp", field: "watts" }));
        let twice = [watts, watts].concat();
        assert_eq!(whole::<Old>(&twice, "x"), Err(Malformed::OutOfOrder { record: "lamp", number: 1 }));
        let long = [1, 0, 5, 0, 0, 0, 60, 0, 0, 0, 0];
        assert_eq!(whole::<Old>(&long, "x"), Err(Malformed::Trailing(1)));
        let beyond = [1, 0, 9, 0, 0, 0, 60];
        assert!(whole::<Old>(&beyond, "x").is_err());
        let label = Old { watts: 1, note: Some("n".repeat(LABEL_BYTES_MAX + 1)) };
        assert!(matches!(whole::<Old>(&bytes(&label), "x"), Err(Malformed::TooMany { field: "note", .. })));
    }

    #[test]
    fn lists_and_records_have_a_bound() {
        let lamp = Old { watts: 1, note: None };
        let many: Vec<Old> = vec![lamp; 3];
        assert!(whole::<Vec<Old>>(&bytes(&many[..2].to_vec()), "lamps").is_ok());
        assert!(matches!(
            whole::<Vec<Old>>(&bytes(&many), "lamps"),
            Err(Malformed::TooMany { field: "lamps", value: 3, max: 2 })
        ));
        let mut fields = Vec::new();
        for number in 1..=FIELDS_MAX as u16 + 1 {
            put(number | MAY_SKIP, &0u8, &mut Writer::new(&mut fields));
        }
        assert!(matches!(whole::<Old>(&fields, "x"), Err(Malformed::TooMany { field: "lamp", .. })));
    }

    #[test]
    fn addresses_of_both_versions_come_back() {
        for text in ["10.1.2.3:7000", "[fd00::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(whole(&bytes(&address), "x"), Ok(address));
        }
    }
}
