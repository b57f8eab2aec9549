//! What a link does to datagrams, and what that means for one of them.

use std::time::Duration;

use oarlock_sim::Random;

/// The weather on one direction of a link. Fair weather is the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Weather {
    /// Of a thousand datagrams, so many vanish.
    pub drop_permille: u16,
    /// So many arrive twice.
    pub duplicate_permille: u16,
    /// So many have bits flipped.
    pub flip_permille: u16,
    /// So many wait before they go on, and others overtake them.
    pub delay_permille: u16,
    /// The longest such wait.
    pub delay_max: Duration,
    /// Nothing passes.
    pub cut: bool,
}

/// The worst weather that circuits are meant for: loss to 30 %, duplicates to 10 %, damage to 5 % (FT9-FT12).
const DROP_MAX: u64 = 300;
const DUPLICATE_MAX: u64 = 100;
const FLIP_MAX: u64 = 50;
/// Longer waits are rarer than shorter ones; the longest is still below the time in which keys are replaced.
const DELAY_MS_MAX: u64 = 2_000;

impl Weather {
    /// Everything vanishes.
    pub const CUT: Weather = Weather {
        drop_permille: 0,
        duplicate_permille: 0,
        flip_permille: 0,
        delay_permille: 0,
        delay_max: Duration::ZERO,
        cut: true,
    };

    /// Some weather between fair and the worst.
    pub fn draw(random: &mut Random) -> Weather {
        if random.chance(150) {
            return Weather::default();
        }
        let mut upto = |max: u64| random.below(max + 1) as u16;
        let (drop_permille, duplicate_permille) = (upto(DROP_MAX), upto(DUPLICATE_MAX));
        let (flip_permille, delay_permille) = (upto(FLIP_MAX), upto(400));
        let delay_max = Duration::from_millis(random.spread(1, DELAY_MS_MAX / 10) * random.between(1, 10));
        Weather { drop_permille, duplicate_permille, flip_permille, delay_permille, delay_max, cut: false }
    }
}

/// What becomes of one datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Cut,
    Dropped,
    /// It goes on, once or twice.
    Goes(Copy, Option<Copy>),
}

/// One that goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copy {
    pub(super) delay: Duration,
    /// Which bits to flip, counted from the first of the datagram; twice the same is none.
    pub(super) flips: Option<[usize; 2]>,
}

impl Fate {
    /// Draws the same number of numbers for every datagram that is not cut off, so that a change of weather
    /// does not shift the fate of all that follow.
    pub(super) fn draw(random: &mut Random, weather: &Weather, length: usize) -> Fate {
        let dropped = random.chance(weather.drop_permille.into());
        let twice = random.chance(weather.duplicate_permille.into());
        let mut copy = || {
            let delayed = random.chance(weather.delay_permille.into());
            let wait = random.below(weather.delay_max.as_micros() as u64 + 1);
            let flipped = random.chance(weather.flip_permille.into());
            let bits = length as u64 * 8;
            let flips = [random.below(bits.max(1)) as usize, random.below(bits.max(1)) as usize];
            Copy {
                delay: if delayed { Duration::from_micros(wait) } else { Duration::ZERO },
                flips: (flipped && length > 0 && flips[0] != flips[1]).then_some(flips),
            }
        };
        let (first, second) = (copy(), copy());
        match (weather.cut, dropped) {
            (true, _) => Fate::Cut,
            (_, true) => Fate::Dropped,
            _ => Fate::Goes(first, twice.then_some(second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, weather: Weather) -> Vec<Fate> {
        let mut random = Random::new(seed);
        (0..20_000).map(|_| Fate::draw(&mut random, &weather, 100)).collect()
    }

    #[test]
    fn fair_weather_changes_nothing() {
        let plain = Copy { delay: Duration::ZERO, flips: None };
        assert!(fates(1, Weather::default()).iter().all(|f| *f == Fate::Goes(plain, None)));
    }

    #[test]
    fn a_cut_lets_nothing_pass() {
        assert!(fates(1, Weather::CUT).iter().all(|f| *f == Fate::Cut));
    }

    #[test]
    fn a_seed_is_a_fate() {
        let weather = Weather { drop_permille: 300, flip_permille: 40, ..Weather::default() };
        assert_eq!(fates(7, weather), fates(7, weather));
        assert_ne!(fates(7, weather), fates(8, weather));
    }

    #[test]
    fn rates_are_what_was_asked_for() {
        let weather = Weather {
            drop_permille: 300,
            duplicate_permille: 100,
            flip_permille: 50,
            delay_permille: 200,
            delay_max: Duration::from_millis(40),
            cut: false,
        };
        let fates = fates(3, weather);
        let share =
            |holds: &dyn Fn(&Fate) -> bool| fates.iter().filter(|f| holds(f)).count() * 1000 / fates.len();
        let near =
            |got: usize, wanted: usize| assert!(got.abs_diff(wanted) < 20, "{got} instead of {wanted}");
        near(share(&|f| *f == Fate::Dropped), 300);
        near(share(&|f| matches!(f, Fate::Goes(_, Some(_)))), 70);
        near(share(&|f| matches!(f, Fate::Goes(c, _) if c.flips.is_some())), 35);
        near(share(&|f| matches!(f, Fate::Goes(c, _) if !c.delay.is_zero())), 140);
        assert!(fates.iter().all(|f| !matches!(f, Fate::Goes(c, _) if c.delay > weather.delay_max)));
    }

    #[test]
    fn drawn_weather_stays_within_what_circuits_are_meant_for() {
        let mut random = Random::new(5);
        for _ in 0..2000 {
            let w = Weather::draw(&mut random);
            assert!(w.drop_permille <= 300 && w.duplicate_permille <= 100 && w.flip_permille <= 50, "{w:?}");
            assert!(w.delay_max <= Duration::from_millis(DELAY_MS_MAX) && !w.cut, "{w:?}");
        }
    }
}
