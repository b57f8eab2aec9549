//! The search for deadlocks: what a pass costs for each lock that waits, with few of them and with many.

use super::Setting;
use crate::pure::Pure;
use crate::report::Line;
use crate::rounds::{Contender, Failure, alternate};

/// Passes that are measured together.
const PASSES: u64 = 3;
/// Owners that wait for the same resource.
const TOGETHER: usize = 50;

/// Everybody holds something and waits, and nobody in a circle: the most that a pass has to look at without finding anything.
pub(crate) fn run(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let many = if setting.quick { 10_000 } else { 100_000 };
    let (mut few_wait, mut many_wait) = (waiting(100)?, waiting(many)?);
    let cost = |pure: &mut Pure, count: usize| {
        let time = pure.search(0, PASSES)?;
        Ok(vec![time.as_secs_f64() * 1e9 / PASSES as f64 / count as f64])
    };
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("many waiters", || cost(&mut many_wait, many)),
            Contender::new("few waiters", || cost(&mut few_wait, 100)),
        ],
    )?;
    let line =
        Line::new("search for deadlocks, for each waiting lock", "ns", table.metric(0, 0).median, &table)
            .mode("one pass, one node")
            .against("a hundred waiters", Some(table.metric(1, 0).median), Some(table.ratio((0, 0), (1, 0))))
            .also("waiters", many as f64);
    Ok(vec![line])
}

/// A node with so many owners of whom each holds a lock of its own and waits for one that somebody else holds who does not wait.
fn waiting(count: usize) -> Result<Pure, Failure> {
    let mut pure = Pure::form(1, true)?;
    let names = pure.names_mastered_from(0, count + count.div_ceil(TOGETHER));
    let (own, wanted) = names.split_at(count);
    let mut handle = 0;
    for (owner, name) in own.iter().chain(wanted).enumerate() {
        // The last ones are one owner, who waits for nothing.
        let owner = if owner < count { owner as u64 + 1 } else { count as u64 + 1 };
        pure.ask_as(0, owner, handle, name);
        handle += 1;
    }
    pure.settle();
    for owner in 0..count {
        pure.ask_as(0, owner as u64 + 1, handle, &wanted[owner / TOGETHER]);
        handle += 1;
    }
    pure.settle();
    match pure.forget_granted() {
        Some(failure) => Err(failure),
        None => Ok(pure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_looks_at_all_who_wait_and_finds_nobody() {
        let mut pure = waiting(200).unwrap();
        assert!(pure.search(0, 2).unwrap() > std::time::Duration::ZERO);
        assert_eq!(pure.forget_granted(), None, "nobody is refused");
    }
}
