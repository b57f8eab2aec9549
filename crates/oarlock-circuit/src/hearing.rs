//! Whether a peer is heard: keepalives, their answers, and silence.

use core::time::Duration;

use oarlock_layout::time::Instant;

/// What one end of a circuit knows about hearing and being heard.
///
/// The timer restarts at *received* data (A6). To restart it at sent data is the usual mistake: whoever talks
/// all the time would then never notice that nobody listens. An acknowledgement or an answer proves life but
/// does not put the next keepalive off, so there is an exchange in every period (E4).
///
/// A path may be dead in one direction only. The end that hears nothing says so (`deaf`) in its keepalives,
/// which do arrive; so both ends learn of the silence (A8).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hearing {
    period: Duration,
    unanswered_max: u32,
    probe_at: Instant,
    /// A keepalive was asked for in an earlier period; until then nothing can be unanswered.
    asking: bool,
    heard_since: bool,
    unanswered: u32,
    number: u32,
    asked_at: Option<Instant>,
    /// A keepalive is to be sent.
    wanted: bool,
    /// An answer is to be sent.
    owed: Option<u32>,
    deaf: bool,
    peer_deaf: bool,
    /// The place of the packet that said so among those of the peer.
    told_by: (Instant, u64),
    reported: bool,
    pub(crate) heard_at: Instant,
    pub(crate) silent_since: Option<Instant>,
}

/// A change that is to be reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Silent,
    Heard,
}

impl Hearing {
    /// The circuit has just come up, so the peer has just been heard.
    pub(crate) fn new(now: Instant, period: Duration, silent: Duration) -> Hearing {
        Hearing {
            period,
            unanswered_max: (silent.as_nanos() / period.as_nanos()).max(1) as u32,
            probe_at: now + period,
            asking: false,
            heard_since: false,
            unanswered: 0,
            number: 0,
            asked_at: None,
            wanted: false,
            owed: None,
            deaf: false,
            peer_deaf: false,
            told_by: (Instant(0), 0),
            reported: false,
            heard_at: now,
            silent_since: None,
        }
    }

    /// An authentic packet of any kind came.
    pub(crate) fn handle_packet(&mut self, now: Instant) {
        self.heard_at = now;
        self.heard_since = true;
        self.unanswered = 0;
        self.deaf = false;
    }

    /// It carried data.
    pub(crate) fn handle_data(&mut self, now: Instant) {
        // A peer that said it does not hear us is asked until it says otherwise, whatever comes from it: with
        // data flowing both ways again nobody would ask, and nobody would say.
        if !self.peer_deaf {
            self.probe_at = now + self.period;
        }
    }

    /// It asked for an answer.
    pub(crate) fn handle_keepalive(&mut self, order: (Instant, u64), number: u32, deaf: bool) {
        self.owed = Some(number);
        self.handle_deaf(order, deaf);
    }

    /// It answered. Gives the round trip if it answers the newest question, the only one whose time is kept.
    pub(crate) fn handle_alive(
        &mut self,
        now: Instant,
        order: (Instant, u64),
        number: u32,
        deaf: bool,
    ) -> Option<Duration> {
        self.handle_deaf(order, deaf);
        if number != self.number {
            return None;
        }
        self.asked_at.take().map(|at| now.since(at))
    }

    /// It said whether it hears us. A word that was overtaken on the way is older than what we know.
    fn handle_deaf(&mut self, order: (Instant, u64), deaf: bool) {
        if order > self.told_by {
            self.told_by = order;
            self.peer_deaf = deaf;
        }
    }

    /// A period without data may have ended.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.probe_at > now {
            return;
        }
        if self.asking && !self.heard_since {
            self.unanswered += 1;
            self.deaf |= self.unanswered >= self.unanswered_max;
        }
        self.asking = true;
        self.heard_since = false;
        self.wanted = true;
        // From now, not from the last time: after a pause of our own one question is enough, and ten periods
        // that we slept through must not look like ten questions without an answer.
        self.probe_at = now + self.period;
    }

    pub(crate) fn timer(&self) -> Instant {
        self.probe_at
    }

    /// A keepalive or an answer must go out.
    pub(crate) fn due(&self) -> bool {
        self.wanted || self.owed.is_some()
    }

    /// The keepalive to send, if one is wanted: number, deaf.
    pub(crate) fn take_keepalive(&mut self, now: Instant) -> Option<(u32, bool)> {
        if !core::mem::take(&mut self.wanted) {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        self.asked_at = Some(now);
        Some((self.number, self.deaf))
    }

    /// The answer to send, if one is owed: number, deaf.
    pub(crate) fn take_alive(&mut self) -> Option<(u32, bool)> {
        self.owed.take().map(|number| (number, self.deaf))
    }

    /// What changed since the last call.
    pub(crate) fn poll_change(&mut self, now: Instant) -> Option<Change> {
        let silent = self.silent();
        if silent == self.reported {
            return None;
        }
        self.reported = silent;
        self.silent_since = silent.then_some(now);
        Some(if silent { Change::Silent } else { Change::Heard })
    }

    /// One of us does not hear the other.
    pub(crate) fn silent(&self) -> bool {
        self.deaf || self.peer_deaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    fn hearing() -> Hearing {
        Hearing::new(ms(0), Duration::from_millis(100), Duration::from_millis(1000))
    }

    #[test]
    fn a8_ten_unanswered_keepalives_are_a_silence_and_one_report() {
        let (mut h, mut asked) = (hearing(), 0);
        for t in 1..=2000 {
            h.handle_timeout(ms(t));
            asked += u32::from(h.take_keepalive(ms(t)).is_some());
            match h.poll_change(ms(t)) {
                Some(change) => assert_eq!((t, asked, change), (1100, 11, Change::Silent)),
                None => assert_eq!(h.silent(), t >= 1100),
            }
        }
        assert_eq!(asked, 20, "keepalives go on while the peer is silent");
        h.handle_packet(ms(2001));
        assert_eq!(h.poll_change(ms(2001)), Some(Change::Heard));
        assert_eq!(h.poll_change(ms(2001)), None);
    }

    #[test]
    fn a6_received_data_puts_the_keepalive_off_and_acknowledgements_do_not() {
        let mut h = hearing();
        for t in 1..=1000 {
            if t % 90 == 0 {
                h.handle_packet(ms(t));
                h.handle_data(ms(t));
            }
            h.handle_timeout(ms(t));
            assert_eq!(h.take_keepalive(ms(t)), None);
        }
        let mut asked = 0;
        for t in 1001..=2000 {
            h.handle_packet(ms(t));
            h.handle_timeout(ms(t));
            asked += u32::from(h.take_keepalive(ms(t)).is_some());
        }
        assert_eq!(asked, 10);
    }

    #[test]
    fn our_own_pause_is_no_silence_of_the_peer() {
        let mut h = hearing();
        h.handle_timeout(ms(100));
        h.handle_timeout(ms(60_000));
        assert!(!h.silent());
    }

    #[test]
    fn a8_a_peer_that_cannot_hear_us_is_silent_too() {
        let mut h = hearing();
        h.handle_packet(ms(5));
        h.handle_keepalive((ms(0), 5), 1, true);
        assert_eq!(h.poll_change(ms(5)), Some(Change::Silent));
        assert_eq!(h.take_alive(), Some((1, false)));
        h.handle_packet(ms(6));
        h.handle_alive(ms(6), (ms(0), 7), 9, false);
        assert_eq!(h.poll_change(ms(6)), Some(Change::Heard));
        // Said before, arrived after.
        h.handle_keepalive((ms(0), 6), 2, true);
        assert_eq!(h.poll_change(ms(7)), None);
        h.handle_keepalive((ms(3), 0), 3, true);
        assert_eq!(h.poll_change(ms(8)), Some(Change::Silent));
    }
}
