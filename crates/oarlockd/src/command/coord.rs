//! `oarlock coord`: what the coordinator keeps.

use super::backup;
use super::cli::{self, Output};
use super::failover::{departed_text, run_text};
use super::output::{self, Rows};
use super::status::session;
use crate::console::doc::{Coordinator, Fence, MemberRecord, Question, Registry, Run};
use crate::problem::Result;

/// `oarlock coord …`
pub fn run(command: &cli::Coord) -> Result<()> {
    let ask = match command {
        cli::Coord::Show(ask) => ask,
        cli::Coord::Backup { file, here, ask } => return backup::take(file, *here, ask),
        cli::Coord::Restore(args) => return backup::restore(args),
    };
    let registry: Registry = session(&ask.connect)?.document(&Question::Registry)?;
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, &registry),
        Output::Name => {
            let names: Vec<_> = registry.members.iter().map(|m| m.node.as_str()).collect();
            output::print_text(&names.join("\n"))
        }
        Output::Table | Output::Wide => output::print_text(&page(&registry)),
    }
}

/// A pending fence in a sentence.
pub(super) fn fence(it: &Fence) -> String {
    let needs: Vec<_> = it.needs.iter().map(|need| need.text.as_str()).collect();
    format!("{}, out since view {}, waits for {}", run_text(&it.run), it.epoch, needs.join(" and "))
}

/// Whether etcd answers.
pub(super) fn etcd(c: &Coordinator) -> &'static str {
    if c.answers == Some(true) { "answers" } else { "does NOT answer" }
}

fn page(r: &Registry) -> String {
    let mut out = vec![
        format!("cluster      {}", r.cluster_id.as_deref().unwrap_or("none yet")),
        format!("revision     {} at {}", r.revision, r.node),
        format!("coordinator  {}", coordinator(&r.coordinator)),
        format!("watermark    {}", r.watermark),
        String::new(),
    ];
    let mut members = Rows::new(&["MEMBER", "ROLE", "IN VIEW", "ENTERED", "RENEWALS", "MARKS", "ADDRESS"]);
    for m in &r.members {
        members.push(vec![
            m.node.clone(),
            m.role.clone(),
            m.view_run.map_or(String::new(), |run| format!("run {run}")),
            if m.entered > 0 { format!("run {}", m.entered) } else { String::new() },
            m.renewals.to_string(),
            marks(m),
            m.address.clone(),
        ]);
    }
    out.push(members.text(true));
    out.push(String::new());
    let mut views = Rows::new(&["VIEW", "MEMBERS", "ENTERED", "OUT", "NOTE"]);
    for view in &r.views {
        views.push(vec![
            view.epoch.to_string(),
            view.members.iter().map(|m| m.node.as_str()).collect::<Vec<_>>().join(", "),
            runs(&view.entered),
            view.out.iter().map(departed_text).collect::<Vec<_>>().join("; "),
            view.note.clone().unwrap_or_default(),
        ]);
    }
    out.push(views.text(true));
    if !r.fences.is_empty() {
        out.push(String::new());
    }
    out.extend(r.fences.iter().map(|it| format!("fence: {}", fence(it))));
    out.join("\n")
}

fn runs(runs: &[Run]) -> String {
    runs.iter().map(run_text).collect::<Vec<_>>().join(", ")
}

fn marks(m: &MemberRecord) -> String {
    let marks = [(m.surrendered, "surrendered"), (m.drained, "drained")];
    marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect::<Vec<_>>().join(", ")
}

/// Who decides, in a line.
pub(super) fn coordinator(c: &Coordinator) -> String {
    if let Some(endpoint) = &c.endpoint {
        return format!("{}, by {endpoint}, which {}", c.engine, etcd(c));
    }
    let leader = c.leader.as_ref().map_or("nobody leads".into(), |leader| format!("{leader} leads"));
    let learners = match c.learners.is_empty() {
        true => String::new(),
        false => format!("; only follow: {}", c.learners.join(", ")),
    };
    format!("{}, {leader}; vote: {}{learners}", c.engine, c.voters.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::{Departed, Need, Verdict};

    fn one(node: &str, incarnation: u64) -> Run {
        Run { node: node.into(), incarnation }
    }

    #[test]
    fn the_registry_is_a_page() {
        let member = |node: &str, id, view_run: Option<u64>| MemberRecord {
            node: node.into(),
            id,
            role: if id == 2 { "learner" } else { "voter" }.into(),
            address: format!("10.0.0.1{id}:7401"),
            view_run,
            entered: 3,
            renewals: 812,
            surrendered: false,
            drained: id == 1,
        };
        let registry = Registry {
            v: 1,
            node: "node-a".into(),
            cluster_id: Some("00ff".into()),
            revision: 42,
            epoch: 7,
            watermark: "0".into(),
            coordinator: Coordinator {
                engine: "raft".into(),
                leader: Some("node-b".into()),
                voters: vec!["node-a".into(), "node-b".into()],
                learners: vec!["node-c".into()],
                ..Coordinator::default()
            },
            members: vec![
                member("node-a", 0, Some(3)),
                member("node-b", 1, Some(3)),
                member("node-c", 2, None),
            ],
            views: vec![Verdict {
                epoch: 7,
                members: vec![one("node-a", 3), one("node-b", 3)],
                out: vec![Departed {
                    run: one("node-c", 3),
                    basis: Some("by_hand".into()),
                    why: "somebody put it out by hand".into(),
                    fence: Some("lease only".into()),
                }],
                entered: vec![],
                note: Some("asked at node-a".into()),
            }],
            fences: vec![Fence {
                run: one("node-c", 3),
                epoch: 7,
                needs: vec![Need { need: "lease".into(), text: "the end of its lease".into() }],
                turn: None,
                tries: 0,
                failed: None,
                text: String::new(),
            }],
        };
        let expected = [
            "cluster      00ff",
            "revision     42 at node-a",
            "coordinator  raft, node-b leads; vote: node-a, node-b; only follow: node-c",
            "watermark    0",
            "",
            "MEMBER  ROLE     IN VIEW  ENTERED  RENEWALS  MARKS    ADDRESS",
            "node-a  voter    run 3    run 3    812       -        10.0.0.10:7401",
            "node-b  voter    run 3    run 3    812       drained  10.0.0.11:7401",
            "node-c  learner  -        run 3    812       -        10.0.0.12:7401",
            "",
            "VIEW  MEMBERS         ENTERED  OUT                                                      NOTE",
            "7     node-a, node-b  -        node-c (run 3): somebody put it out by hand; lease only  asked at node-a",
            "",
            "fence: node-c (run 3), out since view 7, waits for the end of its lease",
        ];
        assert_eq!(page(&registry).lines().collect::<Vec<_>>(), expected);
    }
}
