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
    let one =
        Line::new("search for deadlocks, for each waiting lock", "ns", table.metric(0, 0).median, &table)
            .mode("one pass, one node")
            .against("a hundred waiters", Some(table.metric(1, 0).median), Some(table.ratio((0, 0), (1, 0))))
            .also("waiters", many as f64);
    Ok(vec![one, over_nodes(setting)?])
}

/// The same over three nodes, from a hundred waits to many: what is waited for is held at another node, by owners who wait for something at a third.
fn over_nodes(setting: &Setting) -> Result<Line, Failure> {
    let many = if setting.quick { 10_000 } else { 100_000 };
    let sizes = [many, 100, 1_000, 10_000];
    let mut clusters = Vec::new();
    for count in sizes {
        clusters.push((count, chained(count)?));
    }
    let cost = |(count, pure): &mut (usize, Pure)| {
        let time = pure.search_over(0, PASSES)?;
        Ok(vec![time.as_secs_f64() * 1e9 / PASSES as f64 / *count as f64])
    };
    let names = ["many waiters", "a hundred", "a thousand", "ten thousand"];
    let mut contenders: Vec<_> =
        clusters.iter_mut().zip(names).map(|(it, name)| Contender::new(name, move || cost(it))).collect();
    let table = alternate(&setting.plan, &mut contenders)?;
    let line = Line::new(
        "search for deadlocks over three nodes, for each waiting lock",
        "ns",
        table.metric(0, 0).median,
        &table,
    );
    let hundred = table.metric(1, 0).median;
    Ok(line
        .mode("one pass of all nodes together")
        .against("a hundred waiters", Some(hundred), Some(table.ratio((0, 0), (1, 0))))
        .also("waiters", many as f64)
        .also("at_100_waiters", hundred)
        .also("at_1000_waiters", table.metric(2, 0).median)
        .also("at_10000_waiters", table.metric(3, 0).median))
}

/// So many waits: half of them at node 0, of owners who each hold a lock of their own and wait for one at node 1, each for another. Who holds
/// it waits for one at node 2, together with others, where nobody waits.
fn chained(count: usize) -> Result<Pure, Failure> {
    let mut pure = Pure::form(3, true)?;
    let (middle, end) = (count / 2, (count / 2).div_ceil(TOGETHER));
    let count = middle;
    let names = pure.names_mastered_from(0, count + middle + end);
    let (own, rest) = names.split_at(count);
    let parts = [own, &rest[..middle], &rest[middle..]];
    for (node, names) in parts.iter().enumerate() {
        for (at, name) in names.iter().enumerate() {
            // Those at the end are of one owner, who waits for nothing.
            let owner = if node == 2 { 1 } else { at as u64 + 1 };
            pure.ask_as(node, owner, at as u32, name);
        }
        pure.settle();
    }
    for node in [1, 0] {
        for at in 0..parts[node].len() {
            let handle = (parts[node].len() + at) as u32;
            let wanted = if node == 0 { at } else { at / TOGETHER };
            pure.ask_as(node, at as u64 + 1, handle, &parts[node + 1][wanted]);
        }
        pure.settle();
    }
    match pure.forget_granted() {
        Some(failure) => Err(failure),
        None => Ok(pure),
    }
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
    fn a_pass_over_nodes_asks_the_others_and_finds_nobody() {
        let mut pure = chained(200).unwrap();
        assert!(pure.search_over(0, 2).unwrap() > std::time::Duration::ZERO);
        assert!(pure.counted(0, "deadlock_asked") > 0);
        assert_eq!(pure.counted(0, "deadlock_given_up"), 0);
        assert_eq!(pure.forget_granted(), None, "nobody is refused");
    }

    #[test]
    fn a_pass_looks_at_all_who_wait_and_finds_nobody() {
        let mut pure = waiting(200).unwrap();
        assert!(pure.search(0, 2).unwrap() > std::time::Duration::ZERO);
        assert_eq!(pure.forget_granted(), None, "nobody is refused");
    }
}
