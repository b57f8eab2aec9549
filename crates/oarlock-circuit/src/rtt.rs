//! How long a round trip takes, and how long to wait for one (RFC 6298).

use core::time::Duration;

/// Estimate of the round trip of one circuit.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rtt {
    estimate: Option<(Duration, Duration)>,
    least: Option<Duration>,
}

impl Rtt {
    /// Takes a sample. The caller samples only what was sent once (Karn): of two transmissions nobody knows
    /// which one was answered.
    pub(crate) fn sample(&mut self, rtt: Duration) {
        self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
        self.estimate = Some(match self.estimate {
            None => (rtt, rtt / 2),
            Some((smooth, variation)) => {
                let variation = (variation * 3 + smooth.abs_diff(rtt)) / 4;
                ((smooth * 7 + rtt) / 8, variation)
            }
        });
    }

    /// The smoothed round trip.
    pub(crate) fn smooth(&self) -> Option<Duration> {
        self.estimate.map(|(smooth, _)| smooth)
    }

    /// The shortest ever seen: an answer that came sooner after a retransmission answers the first one.
    pub(crate) fn least(&self) -> Option<Duration> {
        self.least
    }

    /// How long to wait for an acknowledgement before sending again, not yet bounded.
    pub(crate) fn patience(&self, ack_delay: Duration) -> Duration {
        match self.estimate {
            // Before the first sample: longer than any local network needs, shorter than a person waits.
            None => Duration::from_millis(100),
            Some((smooth, variation)) => smooth + variation * 4 + ack_delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_samples_bring_patience_down_to_the_round_trip() {
        let (ms, mut rtt) = (Duration::from_millis, Rtt::default());
        assert_eq!(rtt.patience(ms(4)), ms(100));
        rtt.sample(ms(20));
        assert_eq!(rtt.patience(ms(0)), ms(60));
        for _ in 0..60 {
            rtt.sample(ms(20));
        }
        assert_eq!(rtt.smooth(), Some(ms(20)));
        assert!(rtt.patience(ms(4)) < ms(25), "{:?}", rtt.patience(ms(4)));
    }

    #[test]
    fn one_late_answer_makes_patient() {
        let (ms, mut rtt) = (Duration::from_millis, Rtt::default());
        (0..60).for_each(|_| rtt.sample(ms(1)));
        let before = rtt.patience(ms(0));
        rtt.sample(ms(100));
        assert!(rtt.patience(ms(0)) > before + ms(90));
        assert_eq!(rtt.least(), Some(ms(1)));
    }
}
