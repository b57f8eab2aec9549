//! `oarlock failover`: how the last views came into effect at a node, barrier by barrier.

use oarlock_cluster::recovery::Gate;
use oarlock_layout::code::Code;

use super::cli::{self, Output};
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::status::session;
use super::{output, waiting};
use crate::console::doc::{Departed, Failover, Failovers, Question, Run, VERSION};
use crate::problem::{Problem, Result};

/// What `oarlock failover ls` tells of a view.
pub static FAILOVERS: Columns = Columns {
    all: &[
        column("EPOCH", Kind::Count),
        column("AGE", Kind::Time),
        column("STATE", Kind::Word),
        column("OUT", Kind::Name),
        column("IN", Kind::Name),
        column("GRANTED", Kind::Time),
        column("SLOWEST", Kind::Name),
        column("ARRIVED", Kind::Time),
        column("STATED", Kind::Time),
        column("RESTATED", Kind::Time),
        column("FENCED", Kind::Time),
        column("WHY", Kind::Name),
    ],
    narrow: 7,
};

/// `oarlock failover …`
pub fn run(command: &cli::Failover) -> Result<()> {
    match command {
        cli::Failover::Ls(ask) => {
            let plan = FAILOVERS.plan(&ask.list)?;
            let mut asked: Failovers = session(&ask.connect)?.document(&Question::Failovers)?;
            plan.arrange(&mut asked.failovers, row);
            plan.print(&asked.failovers, row, &asked)
        }
        cli::Failover::Show { epoch, ask } => {
            let wanted = wanted(epoch)?;
            let asked: Failovers = session(&ask.connect)?.document(&Question::Failovers)?;
            let failover = find(&asked, wanted)?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => {
                    output::print_document(form, &Shown { v: VERSION, node: &asked.node, failover })
                }
                Output::Name => output::print_text(&failover.epoch.to_string()),
                Output::Table | Output::Wide => output::print_text(&page(&asked.node, failover)),
            }
        }
    }
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    v: u32,
    node: &'a str,
    #[serde(flatten)]
    failover: &'a Failover,
}

/// The epoch that is typed; none stands for the last.
fn wanted(typed: &str) -> Result<Option<u32>> {
    if typed == "last" {
        return Ok(None);
    }
    typed.parse().map(Some).map_err(|_| {
        Problem::new(Code::Usage, format!("`{typed}` is not the number of a view"))
            .because("views are numbered, and the newest one is `last`")
            .try_next("oarlock failover ls")
    })
}

fn find(asked: &Failovers, wanted: Option<u32>) -> Result<&Failover> {
    let Some(epoch) = wanted else {
        return asked.failovers.last().ok_or_else(|| {
            Problem::new(Code::NotServing, format!("no view has been valid at {} yet", asked.node))
                .because("this run of the node is not in the cluster")
        });
    };
    asked.failovers.iter().find(|it| it.epoch == epoch).ok_or_else(|| {
        let known: Vec<_> = asked.failovers.iter().map(|it| it.epoch.to_string()).collect();
        let why = match known.is_empty() {
            true => "none has been valid there in this run of the node".into(),
            false => format!("it remembers {}", known.join(", ")),
        };
        Problem::new(Code::Usage, format!("{} has no view {epoch}", asked.node))
            .because(why)
            .try_next("oarlock failover ls; another node may remember it")
    })
}

/// Tenths of milliseconds: barriers are passed faster than people read.
pub(super) fn ms(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1_000.0)
}

pub(super) fn run_text(run: &Run) -> String {
    format!("{} (run {})", run.node, run.incarnation)
}

pub(super) fn departed_text(it: &Departed) -> String {
    let fence = it.fence.as_ref().map_or(String::new(), |fence| format!("; {fence}"));
    format!("{}: {}{fence}", run_text(&it.run), it.why)
}

fn state(it: &Failover) -> &str {
    match it.state.as_str() {
        "under_way" => "under way",
        other => other,
    }
}

fn row(it: &Failover) -> Vec<Cell> {
    let time = |us: Option<u64>| Cell::shown(us.map_or(String::new(), ms), us);
    let names = |runs: &mut dyn Iterator<Item = &Run>| {
        Cell::name(runs.map(|run| run.node.as_str()).collect::<Vec<_>>().join(", "))
    };
    let barrier = |name: &str| it.barriers.iter().find(|b| b.barrier == name);
    let slowest = it.slowest.as_deref().and_then(barrier).map_or(String::new(), |b| match &b.last {
        Some(last) => format!("{} ({last})", b.barrier),
        None => b.barrier.clone(),
    });
    let whys: Vec<_> = it.out.iter().map(|out| out.why.as_str()).collect();
    let mut cells = vec![
        Cell::count(it.epoch.into()),
        Cell::age(Some(it.age_us)),
        Cell::word(state(it)),
        names(&mut it.out.iter().map(|out| &out.run)),
        names(&mut it.entered.iter()),
        time(it.granted_us),
        Cell::name(slowest),
    ];
    let passed = ["arrived", "stated", "restated", "fenced"].map(|name| barrier(name).map(|b| b.after_us));
    cells.extend(passed.map(time));
    cells.push(Cell::name(whys.join("; ")));
    cells
}

fn page(node: &str, it: &Failover) -> String {
    let list = |lines: Vec<String>| if lines.is_empty() { "nobody".into() } else { lines.join("; ") };
    let mut out = vec![
        format!(
            "view {} at {node}   {}   since {} ({})",
            it.epoch,
            state(it),
            it.at,
            waiting::age(it.age_us)
        ),
        format!("out      {}", list(it.out.iter().map(departed_text).collect())),
        format!("entered  {}", list(it.entered.iter().map(run_text).collect())),
        format!("{:>12}  the view is valid here", ms(0)),
    ];
    for b in &it.barriers {
        let last = b.last.as_ref().map_or(String::new(), |last| format!("{last} was last"));
        let slowest = if it.slowest.as_ref() == Some(&b.barrier) { "← slowest" } else { "" };
        let line = format!("{:>12}  {:<9} {last:<22} {slowest}", ms(b.after_us), b.barrier);
        out.push(line.trim_end().into());
        if b.barrier == Gate::Restated.name() {
            out.push(format!("{:>12}  masters grant what nobody who left can have had", ms(b.after_us)));
        }
    }
    let all = it.barriers.iter().find(|b| b.barrier == Gate::Fenced.name());
    out.push(match (all, &it.waits) {
        (Some(b), _) => format!("{:>12}  masters grant everything", ms(b.after_us)),
        (None, Some(waits)) if !waits.fences.is_empty() => waits.fences.join("\n"),
        (None, Some(waits)) if waits.missing.is_empty() => format!("waits at \"{}\"", waits.barrier),
        (None, Some(waits)) => format!("waits at \"{}\" for {}", waits.barrier, waits.missing.join(", ")),
        (None, None) if it.granted_us.is_some() => "another view came before they granted everything".into(),
        (None, None) => "another view came before masters granted".into(),
    });
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::{Passed, Waits};

    fn failover() -> Failover {
        let passed = |barrier: &str, after_us, step_us, last: Option<&str>| Passed {
            barrier: barrier.into(),
            after_us,
            step_us,
            last: last.map(Into::into),
        };
        Failover {
            epoch: 7,
            at: "2001-09-09T01:46:40.000Z".into(),
            age_us: 12_000_000,
            state: "granting".into(),
            out: vec![Departed {
                run: Run { node: "node-c".into(), incarnation: 3 },
                basis: Some("lease_over".into()),
                why: "its lease ended".into(),
                fence: Some("lease only".into()),
            }],
            entered: vec![],
            barriers: vec![
                passed("arrived", 1_240, 1_240, Some("node-b")),
                passed("stated", 1_300, 60, Some("node-a")),
                passed("restated", 9_000, 7_700, Some("node-b")),
                passed("fenced", 9_000, 0, None),
            ],
            slowest: Some("restated".into()),
            waits: None,
            granted_us: Some(9_000),
        }
    }

    #[test]
    fn a_timeline_is_read_from_top_to_bottom() {
        let expected = [
            "view 7 at node-a   granting   since 2001-09-09T01:46:40.000Z (12 s)",
            "out      node-c (run 3): its lease ended; lease only",
            "entered  nobody",
            "      0.0 ms  the view is valid here",
            "      1.2 ms  arrived   node-b was last",
            "      1.3 ms  stated    node-a was last",
            "      9.0 ms  restated  node-b was last        ← slowest",
            "      9.0 ms  masters grant what nobody who left can have had",
            "      9.0 ms  fenced",
            "      9.0 ms  masters grant everything",
        ];
        assert_eq!(page("node-a", &failover()).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_not_over_says_what_it_waits_for() {
        let mut it = failover();
        it.barriers.truncate(2);
        (it.state, it.granted_us) = ("under_way".into(), None);
        it.waits = Some(Waits { barrier: "restated".into(), missing: vec!["node-b".into()], fences: vec![] });
        let text = page("node-a", &it);
        assert!(text.contains("under way") && text.ends_with("waits at \"restated\" for node-b"), "{text}");
        let fence = "waiting for the fence of node-c (run 3): node-b runs it";
        it.waits = Some(Waits { barrier: "fenced".into(), missing: vec![], fences: vec![fence.into()] });
        assert!(page("node-a", &it).ends_with(fence), "{}", page("node-a", &it));
        (it.state, it.waits) = ("overtaken".into(), None);
        assert!(page("node-a", &it).ends_with("another view came before masters granted"));
    }

    #[test]
    fn a_view_is_found_by_its_number_or_is_the_last() {
        let asked = Failovers { v: 1, node: "node-a".into(), failovers: vec![failover()] };
        for typed in ["last", "7"] {
            assert_eq!(find(&asked, wanted(typed).unwrap()).unwrap().epoch, 7);
        }
        let p = find(&asked, Some(6)).unwrap_err();
        assert!(p.exit() == 2 && p.why == "it remembers 7", "{p}");
        assert_eq!(wanted("node-c").unwrap_err().exit(), 2);
        let none = Failovers { failovers: vec![], ..asked };
        assert_eq!(find(&none, None).unwrap_err().exit(), 69);
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        let cells = row(&failover());
        assert_eq!(cells.len(), FAILOVERS.all.len());
        let shown: Vec<_> = cells[..7].iter().map(|c| c.text.as_str()).collect();
        assert_eq!(shown, ["7", "12 s", "granting", "node-c", "", "9.0 ms", "restated (node-b)"]);
    }
}
