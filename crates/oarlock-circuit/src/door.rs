//! Who may make us work before being known: the count of handshakes, cookies, and what we say about refusals.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::seal::{MAC_BYTES, MacKey, Seal, same_code};
use oarlock_layout::time::Instant;

use crate::chance::Chance;

/// A cookie is good for one to two of these.
const COOKIE_LIFE: Duration = Duration::from_secs(60);
/// The same refusal is not reported again for this long.
const REPORT_PAUSE: Duration = Duration::from_secs(5);
/// Places for counting sources; sources that share one share its allowance.
const SOURCES: usize = 64;

/// What to do with a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Read it.
    Read,
    /// Busy: send a cookie instead.
    SendCookie,
    /// This source has used up its allowance.
    Drop,
}

/// Keeps the cost of strangers bounded. All of its memory is here from the start: no stranger can make it grow.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Door {
    per_second: u32,
    second: Instant,
    hellos: u32,
    #[serde(with = "oarlock_layout::written::array")]
    by_source: [u32; SOURCES],
    secrets: [[u8; MAC_BYTES]; 2],
    rotated_at: Instant,
    chance: Chance,
}

impl Door {
    pub(crate) fn new(now: Instant, per_second: u32, mut chance: Chance, seal: &dyn Seal) -> Door {
        let secrets = [draw(&mut chance, seal), draw(&mut chance, seal)];
        let by_source = [0; SOURCES];
        Door { per_second, second: now, hellos: 0, by_source, secrets, rotated_at: now, chance }
    }

    /// Decides about a hello. `proof` checks its cookie proof against a cookie.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        from: SocketAddr,
        seal: &dyn Seal,
        proof: impl Fn(&[u8; MAC_BYTES]) -> bool,
    ) -> Admission {
        self.turn_second(now);
        self.hellos = self.hellos.saturating_add(1);
        if self.hellos <= self.per_second {
            return Admission::Read;
        }
        self.rotate(now, seal);
        if !self.secrets.iter().any(|secret| proof(&cookie(secret, from, seal))) {
            return Admission::SendCookie;
        }
        // The address is real; what remains is a member or a replayer that asks too often.
        let place = usize::from(seal.mac(MacKey::Given(&self.secrets[0]), &[&address(from)])[0]) % SOURCES;
        self.by_source[place] += 1;
        if self.by_source[place] <= self.per_second { Admission::Read } else { Admission::Drop }
    }

    /// May one more answer go to somebody who proved nothing?
    pub(crate) fn may_answer(&mut self, now: Instant) -> bool {
        self.turn_second(now);
        self.hellos = self.hellos.saturating_add(1);
        self.hellos <= self.per_second
    }

    /// The cookie for this source.
    pub(crate) fn cookie(&self, from: SocketAddr, seal: &dyn Seal) -> [u8; MAC_BYTES] {
        cookie(&self.secrets[0], from, seal)
    }

    fn turn_second(&mut self, now: Instant) {
        if now.since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.hellos = 0;
            self.by_source = [0; SOURCES];
        }
    }

    fn rotate(&mut self, now: Instant, seal: &dyn Seal) {
        let age = now.since(self.rotated_at);
        if age < COOKIE_LIFE {
            return;
        }
        self.rotated_at = now;
        // Nothing turns them while nobody knocks too often, so both may have been in use for long.
        let previous = if age < COOKIE_LIFE * 2 { self.secrets[0] } else { draw(&mut self.chance, seal) };
        self.secrets = [draw(&mut self.chance, seal), previous];
    }
}

/// A secret that who knows the seed but not the cluster secret cannot compute.
fn draw(chance: &mut Chance, seal: &dyn Seal) -> [u8; MAC_BYTES] {
    seal.mac(MacKey::Cluster, &[b"cookie secret", &chance.next().to_le_bytes()])
}

fn cookie(secret: &[u8; MAC_BYTES], from: SocketAddr, seal: &dyn Seal) -> [u8; MAC_BYTES] {
    seal.mac(MacKey::Given(secret), &[&address(from), &from.port().to_le_bytes()])
}

fn address(from: SocketAddr) -> [u8; 16] {
    match from.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Checks a proof made over the first part of a datagram.
pub(crate) fn proves(seal: &dyn Seal, key: MacKey<'_>, bytes: &[u8], proof: &[u8; MAC_BYTES]) -> bool {
    same_code(&seal.mac(key, &[bytes]), proof)
}

/// Which refusals were reported when: a log is told of each reason once in a while, however often it occurs.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reports(Vec<(Code, Instant)>);

impl Reports {
    /// True if this one is to be reported.
    pub(crate) fn note(&mut self, now: Instant, code: Code) -> bool {
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, at)) if now.since(*at) < REPORT_PAUSE => false,
            Some((_, at)) => {
                *at = now;
                true
            }
            None => {
                // One entry for each code that circuits know: six.
                self.0.push((code, now));
                true
            }
        }
    }

    /// The peer was let in; the next refusal is news again.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use oarlock_layout::seal::{Arrival, Initiation, NotAuthentic, PublicKey};

    /// Only codes; a checksum will do.
    struct Codes;

    impl Seal for Codes {
        fn initiate(
            &mut self,
            _: &PublicKey,
            _: &[u8],
            _: &[u8],
            _: &mut Vec<u8>,
        ) -> Box<dyn Initiation + Send> {
            unreachable!("the door makes no handshakes")
        }

        fn respond(&mut self, _: &[u8], _: &[u8]) -> Result<Arrival, NotAuthentic> {
            Err(NotAuthentic)
        }

        fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
            let key = match key {
                MacKey::Cluster => &[0; MAC_BYTES],
                MacKey::Given(key) => key,
            };
            xxhash_rust::xxh3::xxh3_128(&[&[&key[..]], parts].concat().concat()).to_le_bytes()
        }

        fn restore(&self, _: &[u8]) -> Result<Box<dyn oarlock_layout::seal::Keys + Send>, NotAuthentic> {
            Err(NotAuthentic)
        }
    }

    const S: Duration = Duration::from_secs(1);

    fn from(n: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, n], 99))
    }

    /// A door at which `n` hellos without a cookie have just been read.
    fn door(now: Instant, n: u32) -> Door {
        let mut door = Door::new(now, 50, Chance::new(3), &Codes);
        for _ in 0..n {
            door.admit(now, from(1), &Codes, |_| false);
        }
        door
    }

    #[test]
    fn beyond_fifty_a_second_a_cookie_is_asked_for_and_only_from_its_own_source() {
        let mut door = door(Instant(0), 49);
        assert_eq!(door.admit(Instant(0), from(1), &Codes, |_| false), Admission::Read);
        assert_eq!(door.admit(Instant(0), from(1), &Codes, |_| false), Admission::SendCookie);
        let mine = door.cookie(from(1), &Codes);
        assert_eq!(door.admit(Instant(0), from(1), &Codes, |c| *c == mine), Admission::Read);
        assert_eq!(door.admit(Instant(0), from(2), &Codes, |c| *c == mine), Admission::SendCookie);
        let other_port = SocketAddr::from(([127, 0, 0, 1], 98));
        assert_eq!(door.admit(Instant(0), other_port, &Codes, |c| *c == mine), Admission::SendCookie);
        // The next second begins anew.
        assert_eq!(door.admit(Instant(0) + S, from(2), &Codes, |_| false), Admission::Read);
    }

    #[test]
    fn even_with_a_cookie_a_source_has_an_allowance() {
        let mut door = door(Instant(0), 50);
        let mine = door.cookie(from(1), &Codes);
        let read = (0..200)
            .filter(|_| door.admit(Instant(0), from(1), &Codes, |c| *c == mine) == Admission::Read)
            .count();
        assert_eq!(read, 50);
    }

    #[test]
    fn a_cookie_is_good_for_one_life_at_least_and_two_at_most() {
        let taken = |after: &[u64]| {
            let mut door = door(Instant(0), 50);
            let mine = door.cookie(from(1), &Codes);
            let mut last = Admission::Drop;
            for &after in after {
                let now = Instant(0) + S * after as u32;
                for _ in 0..50 {
                    door.admit(now, from(3), &Codes, |_| false);
                }
                last = door.admit(now, from(1), &Codes, |c| *c == mine);
            }
            last == Admission::Read
        };
        assert!(taken(&[59]) && taken(&[60]) && taken(&[61, 119]));
        assert!(!taken(&[60, 120]) && !taken(&[120]) && !taken(&[100_000]));
    }

    #[test]
    fn a_reason_is_reported_once_in_a_while() {
        let mut reports = Reports::default();
        assert!(reports.note(Instant(0), Code::PeerKey));
        assert!(!reports.note(Instant(0) + S * 4, Code::PeerKey));
        assert!(reports.note(Instant(0) + S * 4, Code::PeerConfig));
        assert!(reports.note(Instant(0) + S * 5, Code::PeerKey));
        reports.forget();
        assert!(reports.note(Instant(0) + S * 5, Code::PeerKey));
    }
}
