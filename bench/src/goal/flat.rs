//! Messages of a remote acquire, counted exactly: they must not grow with the cluster.
//!
//! The counts are those of the protocol, and the same in every run.

use std::time::Duration;

use super::Setting;
use crate::pure::Pure;
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, Plan, alternate};

/// Sizes of the cluster.
const SIZES: [usize; 4] = [3, 5, 8, 16];
/// Acquires of each kind that are counted.
const ACQUIRES: usize = 100;

/// Messages of an acquire that nobody is in the way of, and of one that a third node must give way to.
pub(crate) fn run(_: &Setting) -> Result<Vec<Line>, Failure> {
    let mut counts = Vec::new();
    for size in SIZES {
        counts.push(count(size)?);
    }
    let (least, most) = (counts[0], counts[counts.len() - 1]);
    // Exact numbers: one round says it all, and noise does not matter.
    let once = Plan { rounds: 1, patience: Duration::ZERO, noise_max: 1.0, window: Duration::ZERO };
    let line = |name, kind: usize| {
        let numbers = || Ok(vec![most[kind], least[kind]]);
        let table = alternate(&once, &mut [Contender::new(name, numbers)])?;
        let mut line = Line::new(name, "messages", most[kind], &table)
            .mode("counted")
            .against("a cluster of 3 nodes", Some(least[kind]), Some(table.ratio((0, 0), (0, 1))))
            .must(Bound::AtMost(1.0));
        for (size, label) in ["at_3_nodes", "at_5_nodes", "at_8_nodes", "at_16_nodes"].into_iter().enumerate()
        {
            line = line.also(label, counts[size][kind]);
        }
        Ok::<Line, Failure>(line)
    };
    Ok(vec![
        line("messages of a remote acquire, nobody in the way", 0)?,
        line("messages of a remote acquire that a third node gives way to", 1)?,
    ])
}

/// Messages per acquire: of a free resource, and of one that another node retains.
fn count(size: usize) -> Result<[f64; 2], Failure> {
    let mut cluster = Pure::form(size, true)?;
    let names = cluster.names_mastered_from(2, ACQUIRES);
    // All acquire first and release then, so that releases are in no count.
    let (taken, free) = (cluster.messages(), names.iter().enumerate());
    for (at, name) in free {
        cluster.acquire(0, at as u32, name)?;
    }
    let free = cluster.messages() - taken;
    for at in 0..names.len() {
        cluster.release(0, at as u32);
    }
    cluster.settle();
    let before = cluster.messages();
    for (at, name) in names.iter().enumerate() {
        cluster.acquire(1, at as u32, name)?;
    }
    let retained = cluster.messages() - before;
    Ok([free, retained].map(|messages| messages as f64 / names.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acquire_asks_one_node_and_hears_from_it() {
        let [free, retained] = count(3).unwrap();
        assert_eq!(free, 2.0);
        assert!(retained > free, "{retained} messages");
    }
}
