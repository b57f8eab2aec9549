//! The first packet each way.

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Epoch, SessionId};
use oarlock_layout::message::session::{Failure, Reply, Request, VERSION};
use oarlock_layout::time::Instant;

/// Who the other side says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) session: SessionId,
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) epoch: Epoch,
    /// What the node's clock read; zero if nothing shows its lease.
    pub(crate) now: Instant,
}

/// What a program says first.
pub(crate) fn hello(label: &str) -> Request {
    Request::Hello { version: VERSION, label: label.into() }
}

/// What this program is called: a default label, so that people see more than a number.
pub(crate) fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads the daemon's first packet.
pub(crate) fn read(packet: &[u8]) -> Result<Hello, Failure> {
    // Kind and version stand in the first three bytes of a greeting in every version; the rest may differ.
    let version = match packet {
        [1 | 2, low, high, ..] => u16::from_le_bytes([*low, *high]),
        _ => VERSION,
    };
    let wrong_version = || Failure {
        code: Code::SessionVersion,
        text: format!("it speaks version {version} of the session protocol, this library version {VERSION}"),
    };
    let malformed = |text| Failure { code: Code::SessionMalformed, text };
    match Reply::from_bytes(packet) {
        Ok(Reply::Welcome { version: VERSION, session, node, cluster, epoch, now }) => {
            Ok(Hello { session, node, cluster, epoch, now })
        }
        Ok(Reply::Refused { version: VERSION, why }) => Err(why),
        Ok(Reply::Welcome { .. } | Reply::Refused { .. }) => Err(wrong_version()),
        Ok(_) => Err(malformed("it does not begin with a welcome".into())),
        Err(_) if version != VERSION => Err(wrong_version()),
        Err(error) => Err(malformed(format!("it does not begin with a welcome: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome(version: u16) -> Reply {
        Reply::Welcome {
            version,
            session: SessionId(7),
            node: "a".into(),
            cluster: "c".into(),
            epoch: Epoch(3),
            now: Instant(0),
        }
    }

    #[test]
    fn a_welcome_names_node_and_cluster() {
        let hello = read(&welcome(VERSION).to_bytes()).unwrap();
        assert_eq!((hello.session, hello.node.as_str(), hello.epoch), (SessionId(7), "a", Epoch(3)));
    }

    #[test]
    fn another_version_is_named_even_if_nothing_else_can_be_read() {
        let mut garbled = welcome(VERSION + 1).to_bytes();
        garbled.truncate(5);
        for packet in [welcome(VERSION + 1).to_bytes(), garbled, vec![2, 9, 0, 0xff]] {
            let failure = read(&packet).unwrap_err();
            assert_eq!(failure.code, Code::SessionVersion, "{}", failure.text);
        }
    }

    #[test]
    fn a_refusal_is_passed_on_and_anything_else_is_malformed() {
        let why = Failure { code: Code::TooManySessions, text: "4096 sessions".into() };
        let refused = Reply::Refused { version: VERSION, why: why.clone() }.to_bytes();
        assert_eq!(read(&refused).unwrap_err(), why);
        for packet in [vec![1, VERSION as u8, 0], vec![77], vec![], Reply::Released { handle: 1 }.to_bytes()]
        {
            assert_eq!(read(&packet).unwrap_err().code, Code::SessionMalformed);
        }
    }
}
