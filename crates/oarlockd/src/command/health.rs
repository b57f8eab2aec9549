//! `oarlock health`: how well a node is, a line for each matter.

use oarlock_layout::code::Code;

use super::cli::{Health as Args, Output};
use super::output::{self, Rows};
use super::{args, status};
use crate::console::doc::{Grade, Health, Question};
use crate::explain;
use crate::problem::{Problem, Result};

/// Prints it; fails by the worst of it.
pub(super) fn run(command: &Args) -> Result<()> {
    let stuck = args::duration(&command.stuck)?;
    let question = Question::Health { stuck_ms: u64::try_from(stuck.as_millis()).unwrap_or(u64::MAX) };
    let health: Health = status::session(&command.ask.connect)?.document(&question)?;
    match command.ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, &health)?,
        Output::Name => output::print_text(health.grade.name())?,
        Output::Table | Output::Wide => output::print_text(&page(&health, command.detail.is_some()))?,
    }
    judged(&health)
}

fn page(health: &Health, detail: bool) -> String {
    let mut rows = Rows::new(&["MATTER", "GRADE", "CODE", "FOUND"]);
    for it in &health.matters {
        rows.push(vec![
            it.matter.clone(),
            it.grade.name().into(),
            it.code.clone().unwrap_or_default(),
            it.found.clone(),
        ]);
    }
    let mut out = vec![rows.text(true)];
    let codes = health.matters.iter().filter_map(|it| it.code.as_deref()).filter_map(explain::parse);
    let mut codes: Vec<Code> = if detail { codes.collect() } else { Vec::new() };
    codes.sort();
    codes.dedup();
    for code in codes {
        let page = explain::page(code);
        out.push(format!("\n{code}  {}\n  why  {}\n  try  {}", page.title, page.why, page.try_next));
    }
    out.join("\n")
}

/// What the exit status says: 0 all is well, 1 there are warnings, 69 something is bad, 79 the node waits for a fence.
fn judged(health: &Health) -> Result<()> {
    let those = |grade| health.matters.iter().filter(move |it| it.grade == grade);
    let names = |grade| those(grade).map(|it| it.matter.as_str()).collect::<Vec<_>>().join(", ");
    let node = &health.node;
    match health.grade {
        Grade::Ok => Ok(()),
        Grade::Warn => {
            Err(Problem::new(Code::Degraded, format!("{node} serves, with warnings: {}", names(Grade::Warn)))
                .because("see the lines above"))
        }
        Grade::Bad => {
            let codes = those(Grade::Bad).filter_map(|it| explain::parse(it.code.as_deref()?));
            // That the node waits for a fence is why the others are as they are.
            let code =
                codes.filter(|code| code.is_outage()).min_by_key(|code| (*code != Code::Fenced, *code));
            let what = format!("{node} is not well: {}", names(Grade::Bad));
            Err(Problem::new(code.unwrap_or(Code::NotServing), what).because("see the lines above"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::Matter;

    fn health(verdicts: &[(&str, Grade, Option<Code>)]) -> Health {
        let matter = |(name, grade, code): &(&str, Grade, Option<Code>)| Matter {
            matter: (*name).into(),
            grade: *grade,
            code: code.map(|code| code.to_string()),
            found: "found".into(),
        };
        Health {
            v: 1,
            node: "node-a".into(),
            cluster: "harbour".into(),
            grade: verdicts.iter().map(|it| it.1).max().unwrap_or(Grade::Ok),
            matters: verdicts.iter().map(matter).collect(),
        }
    }

    #[test]
    fn the_worst_decides_the_exit_status() {
        let fine = ("serving", Grade::Ok, None);
        let warning = ("members", Grade::Warn, Some(Code::MemberSilent));
        let bad = ("quorum", Grade::Bad, Some(Code::NoMajority));
        let exit = |all: &[_]| judged(&health(all)).map_or_else(|p| p.exit(), |()| 0);
        assert_eq!((exit(&[fine]), exit(&[fine, warning]), exit(&[warning, bad])), (0, 1, 69));
        let fenced = ("serving", Grade::Bad, Some(Code::Fenced));
        let leaseless = ("lease", Grade::Bad, Some(Code::NotServing));
        assert_eq!(exit(&[fenced, bad, leaseless]), 79, "the others follow from that");
        let problem = judged(&health(&[fine, warning, bad])).unwrap_err();
        assert_eq!((problem.code, problem.what.as_str()), (Code::NoMajority, "node-a is not well: quorum"));
    }

    #[test]
    fn each_matter_is_a_line_and_its_code_is_explained_on_request() {
        let it = health(&[("serving", Grade::Ok, None), ("members", Grade::Warn, Some(Code::MemberSilent))]);
        let short = page(&it, false);
        assert_eq!(short.lines().count(), 3, "{short}");
        assert!(short.contains("members  WARN   OAR-3101  found"), "{short}");
        assert!(page(&it, true).contains("oarlock node ls"));
    }
}
