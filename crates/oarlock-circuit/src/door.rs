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
pub(crate) struct Door {
    per_second: u32,
    second: Instant,
    hellos: u32,
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
        if now.since(self.rotated_at) >= COOKIE_LIFE {
            self.rotated_at = now;
            self.secrets[1] = self.secrets[0];
            self.secrets[0] = draw(&mut self.chance, seal);
        }
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
#[derive(Default)]
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
