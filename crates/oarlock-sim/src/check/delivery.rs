//! Circuits (I9, I10): per pair of runs and class, what is delivered is a gapless, duplicate-free prefix of what
//! was sent, and nothing of an older run arrives after a newer one is up.

use std::collections::BTreeMap;

use super::{Finding, Findings};

/// One end's run: node and incarnation.
pub type Run = (u16, u64);

/// What happens to messages of one class on circuits. Messages are known by a hash of their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passage {
    /// The circuit between these runs is up at `at`; the other end is `peer`.
    Up {
        /// Whose end.
        at: Run,
        /// The other end.
        peer: Run,
    },
    /// Handed to the circuit.
    Sent {
        /// From.
        from: Run,
        /// To.
        to: Run,
        /// Class of the message.
        class: u8,
        /// Hash of the bytes.
        message: u64,
    },
    /// Handed out by the circuit.
    Delivered {
        /// From.
        from: Run,
        /// To.
        to: Run,
        /// Class of the message.
        class: u8,
        /// Hash of the bytes.
        message: u64,
    },
    /// The circuit is down at `at`, with so many messages of unknown fate.
    Down {
        /// Whose end.
        at: Run,
        /// The other end.
        peer: Run,
        /// How many of its own messages it knows nothing of.
        unknown: usize,
    },
}

#[derive(Debug, Default)]
struct Stream {
    sent: Vec<u64>,
    delivered: usize,
}

/// Follows every circuit.
#[derive(Debug, Default)]
pub struct Delivery {
    streams: BTreeMap<(Run, Run, u8), Stream>,
    /// The run of each peer that a run has a circuit with.
    up: BTreeMap<(Run, u16), u64>,
    findings: Findings,
}

impl Delivery {
    /// The next thing that happens.
    pub fn see(&mut self, at: u64, passage: Passage) {
        let findings = &mut self.findings;
        let mut complain = |text: String| findings.add("delivery", at, text);
        match passage {
            Passage::Up { at: me, peer } => {
                let known = self.up.insert((me, peer.0), peer.1);
                if known.is_some_and(|known| known >= peer.1) {
                    complain(format!("{me:?}: run {} of node {} is up after run {known:?}", peer.1, peer.0));
                }
            }
            Passage::Sent { from, to, class, message } => {
                self.streams.entry((from, to, class)).or_default().sent.push(message);
            }
            Passage::Delivered { from, to, class, message } => {
                if self.up.get(&(to, from.0)) != Some(&from.1) {
                    complain(format!(
                        "{to:?} is delivered a message of {from:?}, with which it has no circuit"
                    ));
                }
                let stream = self.streams.entry((from, to, class)).or_default();
                match stream.sent.get(stream.delivered) {
                    Some(next) if *next == message => stream.delivered += 1,
                    next => {
                        let place = stream.sent.iter().position(|m| *m == message);
                        complain(format!(
                            "{from:?} to {to:?}, class {class}: message {place:?} is delivered in place of {} ({})",
                            stream.delivered,
                            if next.is_some() { "sent" } else { "never sent" }
                        ));
                    }
                }
            }
            Passage::Down { at: me, peer, unknown } => {
                let lost: usize = self
                    .streams
                    .iter()
                    .filter(|((from, to, _), _)| (*from, *to) == (me, peer))
                    .map(|(_, stream)| stream.sent.len() - stream.delivered)
                    .sum();
                if unknown < lost {
                    complain(format!(
                        "{me:?} to {peer:?}: {lost} messages were not delivered, {unknown} are admitted"
                    ));
                }
            }
        }
    }

    /// All is calm and long enough: everything between runs that both live must have arrived.
    pub fn rest(&mut self, at: u64, alive: impl Fn(Run) -> bool) {
        for ((from, to, class), stream) in &self.streams {
            let missing = stream.sent.len() - stream.delivered;
            if missing > 0 && alive(*from) && alive(*to) {
                let text = format!("{from:?} to {to:?}, class {class}: {missing} messages never arrived");
                self.findings.add("delivery", at, text);
            }
        }
    }

    /// Messages delivered so far, on all circuits.
    pub fn delivered(&self) -> usize {
        self.streams.values().map(|s| s.delivered).sum()
    }

    /// Everything that was found.
    pub fn finish(self) -> Vec<Finding> {
        self.findings.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Run = (0, 1);
    const B: Run = (1, 1);
    const B2: Run = (1, 2);

    fn up(at: Run, peer: Run) -> Passage {
        Passage::Up { at, peer }
    }

    fn sent(message: u64) -> Passage {
        Passage::Sent { from: A, to: B, class: 0, message }
    }

    fn delivered(message: u64) -> Passage {
        Passage::Delivered { from: A, to: B, class: 0, message }
    }

    fn found(passages: &[Passage]) -> Vec<Finding> {
        let mut delivery = Delivery::default();
        for (n, passage) in passages.iter().enumerate() {
            delivery.see(n as u64, *passage);
        }
        delivery.rest(99, |run| run == A || run == B);
        delivery.finish()
    }

    #[test]
    fn accepts_a_prefix_and_an_honest_end() {
        assert_eq!(found(&[up(A, B), up(B, A), sent(1), sent(2), delivered(1), delivered(2)]), []);
        let mut delivery = Delivery::default();
        for passage in [up(A, B), sent(1), sent(2), Passage::Down { at: A, peer: B, unknown: 2 }, up(A, B2)] {
            delivery.see(1, passage);
        }
        assert_eq!(delivery.finish(), []);
    }

    #[test]
    fn rejects_gaps_duplicates_and_reordering() {
        let start = [up(B, A), sent(1), sent(2), sent(3)];
        for wrong in [&[2][..], &[1, 1], &[1, 3, 2], &[1, 2, 3, 3], &[1, 2, 7]] {
            let mut passages = start.to_vec();
            passages.extend(wrong.iter().map(|m| delivered(*m)));
            assert!(!found(&passages).is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn rejects_what_never_arrives() {
        assert!(
            found(&[up(B, A), sent(1), sent(2), delivered(1)])[0].text.contains("1 messages never arrived")
        );
    }

    #[test]
    fn rejects_messages_without_a_circuit_or_of_an_older_run() {
        assert!(found(&[sent(1), delivered(1)])[0].text.contains("no circuit"));
        assert!(found(&[up(B, A), up(B, (0, 2)), sent(1), delivered(1)])[0].text.contains("no circuit"));
        assert!(found(&[up(A, B2), up(A, B)])[0].text.contains("is up after"));
    }

    #[test]
    fn rejects_an_end_that_admits_too_little() {
        let passages = [
            up(A, B),
            up(B, A),
            sent(1),
            sent(2),
            delivered(1),
            Passage::Down { at: A, peer: B, unknown: 0 },
        ];
        assert!(found(&passages)[0].text.contains("admitted"));
    }
}
