//! The machine's users and groups. Asked by the C library's way, so that those of a directory service count too.

use std::io;

use nix::unistd::{Gid, Group, Uid, User};

/// The number of a user, given by name or as a number; none if there is no such name.
pub fn user(named: &str) -> io::Result<Option<u32>> {
    match named.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Ok(User::from_name(named)?.map(|user| user.uid.as_raw())),
    }
}

/// The number of a group, likewise.
pub fn group(named: &str) -> io::Result<Option<u32>> {
    match named.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Ok(Group::from_name(named)?.map(|group| group.gid.as_raw())),
    }
}

/// What a user is called; its number if nobody knows.
pub fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// What a group is called; its number if nobody knows.
pub fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// As whom this process acts.
pub fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// And in which group.
pub fn my_group() -> u32 {
    rustix::process::getegid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_to_each_other() {
        assert_eq!((user("root").unwrap(), group("root").unwrap()), (Some(0), Some(0)));
        assert_eq!((user("4711").unwrap(), group("4712").unwrap()), (Some(4711), Some(4712)));
        assert_eq!(
            (user("nobody-is-called-so").unwrap(), group("nobody-is-called-so").unwrap()),
            (None, None)
        );
        assert_eq!((user_name(0), group_name(0)), ("root".into(), "root".into()));
        assert_eq!(
            (user_name(3_999_999_999), group_name(3_999_999_999)),
            ("3999999999".into(), "3999999999".into())
        );
    }
}
