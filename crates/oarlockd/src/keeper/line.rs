//! What engine and keeper say to each other. Both are this program, so the bytes are nobody else's affair; after a planned restart
//! the engine may be of a later version, which says the same words ([`WORDS`]).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oarlock_layout::code::Code;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::message::frame::{GASP_BYTES, encode_gasp};
use oarlock_layout::seal::MAC_BYTES;

use crate::host::pair::{self, Received, With};
use crate::problem::{Problem, Result};

const SEGMENT: u8 = 1;
const SESSION: u8 = 2;
const GASP: u8 = 3;
const AGAIN: u8 = 4;
const GIVEN_UP: u8 = 5;
const RESTARTS: u8 = 6;
const GOES_ON: u8 = 7;

/// Which words engine and keeper know, and what they mean. An engine that takes another's place may be of another version than the
/// keeper: this is raised with every change.
pub const WORDS: u32 = 1;

/// What an engine lays down with its keeper.
#[derive(Debug)]
pub(super) enum Word {
    /// The segment of a lockspace.
    Segment(OwnedFd),
    /// The socket of a program's session, before anything was read from it.
    Session(OwnedFd),
    /// What is to be sent when nobody acts under a lock of this run any more. Comes when the run is in the view, before it
    /// grants anything: of one that is not, nothing is to be given up.
    Gasp(Gasp),
    /// The run has ended, and the next one is to begin.
    Again,
    /// Another program takes the engine's place, in the same process and with everything that was laid down; or it has done so, or
    /// has not and never will, and all is as before. In between no status with which the process ends is an engine's own.
    Restarts(bool),
    /// A descriptor came with a word, and there was no room for it.
    Lost,
}

/// The last word of a run, made while it lives.
#[derive(Debug)]
pub(super) struct Gasp {
    /// Which run.
    pub(super) incarnation: Incarnation,
    /// The whole datagram.
    pub(super) datagram: [u8; GASP_BYTES],
    /// To whom.
    pub(super) to: Vec<SocketAddr>,
    /// The socket from which its circuits spoke.
    pub(super) from: OwnedFd,
}

/// What others are to be told when the engine has died.
#[derive(Clone, Debug)]
pub struct LastWord {
    /// This node.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// What the run pledges to the others.
    pub secret: [u8; MAC_BYTES],
    /// Where the others are.
    pub to: Vec<SocketAddr>,
}

/// The engine's end.
pub struct Keeper {
    fd: OwnedFd,
}

impl Keeper {
    /// The keeper is at the other end of standard input.
    pub fn at_stdin() -> Result<Keeper> {
        let stdin = io::stdin();
        if !pair::is_end(&stdin) {
            return Err(Problem::new(Code::Usage, "an engine is started by its keeper")
                .because("its standard input is no line to one")
                .try_next("oarlock serve"));
        }
        let fd = stdin.as_fd().try_clone_to_owned().map_err(Keeper::failed)?;
        Ok(Keeper { fd })
    }

    fn failed(e: io::Error) -> Problem {
        Problem::io(Code::Failed, "cannot speak to the keeper of this engine", &e)
    }

    /// Lays down a segment: its epoch is turned when this process has died.
    pub fn segment(&self, segment: &OwnedFd) -> Result<()> {
        self.say(&[SEGMENT], Some(segment))
    }

    /// Lays down the last word of this run, to be said from this socket.
    pub fn last_word(&self, word: &LastWord, from: &dyn AsFd) -> Result<()> {
        let mut packet = vec![GASP];
        packet.extend(word.incarnation.0.to_le_bytes());
        packet.extend(encode_gasp(word.node, word.incarnation, &word.secret));
        packet.extend(
            word.to.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" ").as_bytes(),
        );
        self.say(&packet, Some(from))
    }

    /// Another run is to begin in place of this one.
    pub fn again(&self) -> Result<()> {
        self.say(&[AGAIN], None)
    }

    /// Another program is about to take this one's place; or it is not so any more, whichever program says it. False: the keeper
    /// does not listen.
    pub fn restarts(&self, begins: bool) -> bool {
        pair::send(&self.fd, &[if begins { RESTARTS } else { GOES_ON }], None, false).unwrap_or(false)
    }

    fn say(&self, packet: &[u8], with: Option<&dyn AsFd>) -> Result<()> {
        loop {
            match pair::send(&self.fd, packet, with, true) {
                Ok(true) => return Ok(()),
                // Too many descriptors are under way. It happens at the start only, and the keeper is reading.
                Ok(false) => std::thread::sleep(std::time::Duration::from_millis(1)),
                Err(e) => return Err(Keeper::failed(e)),
            }
        }
    }

    /// Lays down the socket of a session. False: the keeper does not take it up now.
    pub fn session(&self, socket: &OwnedFd) -> bool {
        pair::send(&self.fd, &[SESSION], Some(socket), false).unwrap_or(false)
    }

    /// An earlier run of this node under whose locks nobody acts any more, if the keeper has one to tell of.
    pub fn poll_given_up(&self) -> Option<Incarnation> {
        let mut buffer = [0; 16];
        match pair::receive(&self.fd, &mut buffer) {
            Ok(Received::Packet(9, _)) if buffer[0] == GIVEN_UP => {
                Some(Incarnation(u64::from_le_bytes(buffer[1..9].try_into().expect("eight bytes"))))
            }
            // When the keeper dies, the kernel ends this process.
            _ => None,
        }
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Tells an engine that an earlier run has been given up. One that is about to die does not hear it.
pub(super) fn tell_given_up(fd: impl AsFd, incarnation: Incarnation) {
    let mut packet = [GIVEN_UP; 9];
    packet[1..].copy_from_slice(&incarnation.0.to_le_bytes());
    let _ = pair::send(fd, &packet, None, false);
}

/// What was heard of an engine.
#[derive(Debug)]
pub(super) enum Heard {
    Word(Word),
    /// Nothing now.
    Nothing,
    /// Nothing more.
    End,
}

/// The next word of an engine.
pub(super) fn receive(fd: impl AsFd, buffer: &mut [u8]) -> Heard {
    let (n, with) = match pair::receive(fd, buffer) {
        Ok(Received::Packet(n, with)) => (n, with),
        Ok(Received::Nothing) => return Heard::Nothing,
        Ok(Received::End) | Err(_) => return Heard::End,
    };
    Heard::Word(match (buffer[0], with) {
        (SEGMENT, With::Descriptor(fd)) => Word::Segment(fd),
        (SESSION, With::Descriptor(fd)) => Word::Session(fd),
        (GASP, With::Descriptor(from)) => Word::Gasp(parse_gasp(&buffer[1..n], from)),
        (AGAIN, _) => Word::Again,
        (RESTARTS, _) => Word::Restarts(true),
        (GOES_ON, _) => Word::Restarts(false),
        (SEGMENT | SESSION | GASP, With::Lost | With::Nothing) => Word::Lost,
        (other, _) => unreachable!("an engine of this very program said {other}"),
    })
}

fn parse_gasp(bytes: &[u8], from: OwnedFd) -> Gasp {
    let (incarnation, rest) = bytes.split_first_chunk().expect("an engine of this program wrote it");
    let (datagram, to) = rest.split_first_chunk().expect("an engine of this program wrote it");
    let to = std::str::from_utf8(to).expect("addresses").split_whitespace();
    Gasp {
        incarnation: Incarnation(u64::from_le_bytes(*incarnation)),
        datagram: *datagram,
        to: to.map(|address| address.parse().expect("an address as it was printed")).collect(),
        from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_lays_down_is_there_when_it_has_died() {
        let (here, there) = pair::pair().unwrap();
        let keeper = Keeper { fd: there };
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (session, _program) = pair::pair().unwrap();
        let to: Vec<SocketAddr> = vec!["127.0.0.1:7".parse().unwrap(), "[::1]:8".parse().unwrap()];
        keeper.segment(&session).unwrap();
        let (node, incarnation) = (NodeId(2), Incarnation(9));
        let word = LastWord { node, incarnation, secret: [7; 16], to: to.clone() };
        keeper.last_word(&word, &udp).unwrap();
        assert!(keeper.session(&session));
        keeper.again().unwrap();
        tell_given_up(&here, Incarnation(8));
        assert_eq!((keeper.poll_given_up(), keeper.poll_given_up()), (Some(Incarnation(8)), None));
        drop((keeper, udp));
        let mut buffer = [0; pair::PACKET_BYTES_MAX];
        let mut next = || match receive(&here, &mut buffer) {
            Heard::Word(word) => Some(word),
            Heard::End => None,
            Heard::Nothing => panic!("it has gone"),
        };
        assert!(matches!(next(), Some(Word::Segment(_))));
        let Some(Word::Gasp(gasp)) = next() else { panic!() };
        assert_eq!((gasp.incarnation, gasp.to), (Incarnation(9), to));
        assert_eq!(gasp.datagram, encode_gasp(NodeId(2), Incarnation(9), &[7; 16]));
        assert!(matches!(next(), Some(Word::Session(_))) && matches!(next(), Some(Word::Again)));
        assert!(next().is_none());
    }

    /// 64 members with the longest addresses there are.
    #[test]
    fn the_last_word_to_the_largest_cluster_is_one_packet() {
        let longest = "[2001:0db8:1111:2222:3333:4444:5555:6666]:65535".len() + 1;
        assert!(9 + GASP_BYTES + oarlock_layout::limit::NODES_MAX * longest < pair::PACKET_BYTES_MAX);
    }
}
