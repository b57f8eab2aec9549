//! Rounds: everybody measured in turn, again and again, and ratios taken within a round.
//!
//! A number of this minute says little about this program and much about this minute. So whatever is compared
//! runs alternately, round after round, and only ratios of neighbours are kept; their median is the result and
//! their extremes are the spread. Rounds in which strangers used much of the machine are measured again: the
//! choice is made by what *they* used, never by the outcome.

use std::time::Duration;

use crate::machine::Noise;

/// What went wrong, in words for people.
pub(crate) type Failure = String;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// How long one contender runs in one round.
    pub(crate) window: Duration,
    /// Share of the machine that strangers may use in a round that counts at once.
    pub(crate) noise_max: f64,
    /// How long to wait for an idle moment before a round.
    pub(crate) patience: Duration,
}

impl Plan {
    /// Rounds and windows that one can build a judgement on.
    pub(crate) fn full() -> Plan {
        Plan { rounds: 5, window: Duration::from_secs(1), noise_max: 0.05, patience: Duration::from_secs(2) }
    }

    /// Just enough to see that everything runs.
    pub(crate) fn quick() -> Plan {
        Plan { rounds: 5, window: Duration::from_millis(150), noise_max: 1.0, patience: Duration::ZERO }
    }
}

/// Somebody who takes part in every round: ourselves, an anchor or a peer.
pub(crate) struct Contender<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> Result<Vec<f64>, Failure> + 'a>,
}

impl<'a> Contender<'a> {
    /// `run` measures once and returns its numbers, always the same ones in the same order.
    pub(crate) fn new(
        name: &'static str,
        run: impl FnMut() -> Result<Vec<f64>, Failure> + 'a,
    ) -> Contender<'a> {
        Contender { name, run: Box::new(run) }
    }
}

/// Numbers of the rounds that count: by round, by contender, by metric.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rounds: Vec<Round>,
}

#[derive(Clone, Debug)]
struct Round {
    numbers: Vec<Vec<f64>>,
    noise: f64,
}

/// A median and its extremes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

/// Runs all contenders alternately. Who begins changes from round to round.
pub(crate) fn alternate(plan: &Plan, contenders: &mut [Contender<'_>]) -> Result<Table, Failure> {
    let mut rounds = Vec::new();
    let mut quiet = 0;
    while quiet < plan.rounds && rounds.len() < 2 * plan.rounds {
        crate::machine::wait_for_quiet(plan.patience, plan.noise_max);
        let noise = Noise::begin();
        let mut numbers = vec![Vec::new(); contenders.len()];
        let turn = rounds.len();
        for step in 0..contenders.len() {
            let at = (turn + step) % contenders.len();
            let contender = &mut contenders[at];
            numbers[at] = (contender.run)().map_err(|why| format!("{}: {why}", contender.name))?;
        }
        let noise = noise.end();
        quiet += usize::from(noise <= plan.noise_max);
        rounds.push(Round { numbers, noise });
    }
    rounds.sort_by(|a, b| a.noise.total_cmp(&b.noise));
    rounds.truncate(plan.rounds);
    Ok(Table { rounds })
}

impl Table {
    /// How many rounds count.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// The largest share of the machine that strangers used in a round that counts.
    pub(crate) fn noise(&self) -> f64 {
        self.rounds.iter().map(|round| round.noise).fold(0.0, f64::max)
    }

    /// Something computed from each round's numbers (`[contender][metric]`).
    pub(crate) fn each(&self, compute: impl Fn(&[Vec<f64>]) -> f64) -> Spread {
        spread(self.rounds.iter().map(|round| compute(&round.numbers)).collect())
    }

    /// One contender's metric.
    pub(crate) fn metric(&self, contender: usize, metric: usize) -> Spread {
        self.each(|numbers| numbers[contender][metric])
    }

    /// The ratio of one contender's metric to another's, taken within each round.
    pub(crate) fn ratio(&self, ours: (usize, usize), anchor: (usize, usize)) -> Spread {
        self.each(|numbers| numbers[ours.0][ours.1] / numbers[anchor.0][anchor.1])
    }
}

/// Median and extremes of some numbers.
pub(crate) fn spread(mut numbers: Vec<f64>) -> Spread {
    assert!(!numbers.is_empty(), "there was a round");
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let median = match numbers.len() % 2 {
        0 => (numbers[middle - 1] + numbers[middle]) / 2.0,
        _ => numbers[middle],
    };
    Spread { median, min: numbers[0], max: numbers[numbers.len() - 1] }
}

/// Durations of single operations, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<u32>);

impl Times {
    /// One more operation.
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
    }

    /// Those of another thread.
    pub(crate) fn extend(&mut self, other: Times) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Median and 99th percentile in microseconds.
    pub(crate) fn percentiles(mut self) -> Result<[f64; 2], Failure> {
        if self.0.is_empty() {
            return Err("nothing finished within the window".into());
        }
        self.0.sort_unstable();
        let at =
            |share: usize| f64::from(self.0[(self.0.len() * share / 100).min(self.0.len() - 1)]) / 1000.0;
        Ok([at(50), at(99)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rounds: usize) -> Plan {
        Plan { rounds, window: Duration::ZERO, noise_max: 1.0, patience: Duration::ZERO }
    }

    #[test]
    fn the_median_of_ratios_is_taken_within_rounds() {
        // Both grow tenfold in the second round, as when the machine is busy: the ratio does not notice.
        let (mut a, mut b) = ([20.0, 200.0, 21.0].into_iter(), [10.0, 100.0, 10.0].into_iter());
        let next = |n: &mut std::array::IntoIter<f64, 3>| Ok(vec![n.next().unwrap()]);
        let mut contenders =
            [Contender::new("a", || next(&mut a)), Contender::new("b", || Ok(vec![b.next().unwrap()]))];
        let table = alternate(&plan(3), &mut contenders).unwrap();
        assert_eq!(table.ratio((0, 0), (1, 0)), Spread { median: 2.0, min: 2.0, max: 2.1 });
        assert_eq!(table.metric(0, 0).median, 21.0);
    }

    #[test]
    fn each_contender_begins_in_turn() {
        let order = std::cell::RefCell::new(Vec::new());
        let note = |name| {
            let order = &order;
            Contender::new(name, move || {
                order.borrow_mut().push(name);
                Ok(vec![1.0])
            })
        };
        alternate(&plan(2), &mut [note("a"), note("b")]).unwrap();
        assert_eq!(*order.borrow(), ["a", "b", "b", "a"]);
    }

    #[test]
    fn a_failure_names_the_contender() {
        let mut contenders = [Contender::new("redis", || Err("it is gone".into()))];
        assert_eq!(alternate(&plan(1), &mut contenders).unwrap_err(), "redis: it is gone");
    }

    #[test]
    fn percentiles_come_from_all_operations() {
        let mut times = Times::default();
        (1..=200).for_each(|n| times.push(Duration::from_micros(n)));
        assert_eq!(times.percentiles().unwrap(), [101.0, 199.0]);
        assert!(Times::default().percentiles().is_err());
    }

    #[test]
    fn an_even_number_of_rounds_has_its_median_between_two() {
        assert_eq!(spread(vec![4.0, 1.0, 3.0, 2.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
    }
}
