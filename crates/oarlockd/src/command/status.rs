//! `oarlock status`, `ok`, `node`, `metrics`: how a node is.

use oarlock_layout::code::Code;

use super::cli::{Ask, AskList, Connect, Node, Output};
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::output;
use super::session::{Session, parse};
use super::{connect, coord, hand, members, restart, space, waiting};
use crate::console::doc::{Circuit, Coordinator, Counter, Counters, Member, Question, Reason, Status};
use crate::explain;
use crate::problem::{Problem, Result, did_you_mean};

/// Connects as the command line says.
pub fn session(connect: &Connect) -> Result<Session> {
    let (path, _) = connect::find(connect.socket.as_deref())?;
    Session::open(&path, "oarlock")
}

/// `oarlock status`
pub fn status(ask: &Ask) -> Result<()> {
    let text = session(&ask.connect)?.ask(&Question::Status)?;
    let status: Status = parse(&text)?;
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, &status),
        Output::Name => output::print_text(&status.node),
        Output::Table | Output::Wide => output::print_text(&page(&status)),
    }
}

fn page(s: &Status) -> String {
    let health = match (s.serving, s.healthy) {
        (true, true) => "healthy",
        (true, false) => "serving, not healthy",
        (false, _) => s.phase.as_str(),
    };
    let sum = |of: fn(&crate::console::doc::Space) -> u64| s.spaces.iter().map(of).sum::<u64>();
    let grants = sum(|s| s.grants);
    let covered = match grants {
        0 => String::new(),
        n => format!(", {:.1} % without a message", 100.0 * sum(|s| s.covered_grants) as f64 / n as f64),
    };
    let fast = match sum(|s| s.attached_sessions) + sum(|s| s.fast_grants) {
        0 => None,
        _ => Some(format!(
            "fast     {} more by programs themselves ({} attached)",
            sum(|s| s.fast_grants),
            sum(|s| s.attached_sessions)
        )),
    };
    let mut out = vec![
        format!(
            "cluster {}   {health}   epoch {}   node {} (run {})",
            s.cluster, s.epoch, s.node, s.incarnation
        ),
        nodes(s),
        coordinator(&s.coordinator, &s.members),
        format!(
            "locks    {} waiting, {}, {} on this node",
            sum(|s| s.waiting),
            counted(sum(|s| s.resources), "resource"),
            counted(s.sessions, "session")
        ),
        format!("grants   {grants} so far{covered}"),
    ];
    out.extend(fast);
    out.extend([
        format!(
            "spaces   {}",
            s.spaces
                .iter()
                .map(|s| format!("{} ({})", s.name, s.order))
                .chain(space::hidden(s.hidden_spaces))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        format!("up       {}", waiting::age(s.uptime_s * 1_000_000)),
    ]);
    if !s.fencing.is_empty() {
        out.push(format!("fencing  {}", s.fencing));
    }
    out.extend(s.fences.iter().map(|fence| format!("fence    {}", fence.text)));
    for reason in &s.reasons {
        out.push(format!("health   {} {}", reason.code, reason.text));
    }
    if s.reasons.iter().any(|r| explain::parse(&r.code).is_some()) {
        out.push("         `oarlock explain CODE` says what to do".into());
    }
    out.join("\n")
}

fn nodes(s: &Status) -> String {
    let count = |of: fn(&&Member) -> bool| s.members.iter().filter(of).count();
    let (view, heard) = (count(|m| m.in_view), count(|m| m.heard));
    let out: Vec<_> = s.members.iter().filter(|m| !m.in_view).map(|m| m.node.as_str()).collect();
    let out = if out.is_empty() { String::new() } else { format!("; out: {}", out.join(", ")) };
    format!("nodes    {view} of {} in the view, {heard} heard{out}", s.members.len())
}

fn coordinator(c: &Coordinator, members: &[Member]) -> String {
    if let Some(endpoint) = &c.endpoint {
        return format!("{:<8} {endpoint} {}", c.engine, coord::etcd(c));
    }
    if c.voters.is_empty() && c.leader.is_none() {
        return format!("{:<8} starting: it is not open yet, or has heard of no voters", c.engine);
    }
    let leader = match &c.leader {
        Some(leader) => format!("{leader} leads"),
        None => "nobody leads, as far as this node knows".into(),
    };
    let heard = members.iter().filter(|m| m.heard && c.voters.contains(&m.node)).count();
    let learners = match c.learners.len() {
        0 => String::new(),
        n => format!(", {}", counted(n as u64, "learner")),
    };
    format!("{:<8} {leader}, {heard}/{} voters heard{learners}", c.engine, c.voters.len())
}

/// A number and its noun.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// `oarlock ok`
pub fn ok(ask: &Ask) -> Result<()> {
    let status: Status = session(&ask.connect)?.document(&Question::Status)?;
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, &Health::of(&status))?,
        Output::Name if serves(&status) => output::print_text(&status.node)?,
        Output::Table | Output::Wide if serves(&status) => output::print_text("ok")?,
        _ => {}
    }
    if serves(&status) { Ok(()) } else { Err(unhealthy(&status)) }
}

/// Whether the node grants locks; that a member is out is no reason to turn away from it.
fn serves(s: &Status) -> bool {
    s.serving && s.granting
}

/// What `oarlock ok` tells programs; why not stands in the reasons as well as in the error.
#[derive(serde::Serialize)]
struct Health<'a> {
    v: u32,
    ok: bool,
    node: &'a str,
    phase: &'a str,
    reasons: &'a [Reason],
}

impl Health<'_> {
    fn of(s: &Status) -> Health<'_> {
        Health { v: 1, ok: serves(s), node: &s.node, phase: &s.phase, reasons: &s.reasons }
    }
}

/// The problem of a node that is not well.
pub fn unhealthy(status: &Status) -> Problem {
    let what = match (status.serving, status.granting) {
        (true, true) => format!("{} serves, but not every member is heard", status.node),
        (true, false) => format!("{} serves, but grants nothing at this moment", status.node),
        (false, _) => format!("{} is {}", status.node, status.phase),
    };
    let code = status
        .reasons
        .iter()
        .filter_map(|r| explain::parse(&r.code))
        .find(|c| c.is_outage())
        .unwrap_or(if status.serving { Code::MemberSilent } else { Code::NotServing });
    let why: Vec<_> = status.reasons.iter().map(|r| r.text.as_str()).collect();
    let problem = Problem::new(code, what);
    if why.is_empty() { problem } else { problem.because(why.join("; ")) }
}

/// `oarlock node …`
pub fn node(node: &Node) -> Result<()> {
    match node {
        Node::Ls(ask) => {
            let plan = MEMBERS.plan(&ask.list)?;
            let mut members = session(&ask.connect)?.document::<Status>(&Question::Status)?.members;
            plan.arrange(&mut members, member_row);
            plan.print(&members, member_row, &Listed { v: 1, members: &members })
        }
        Node::Evict { name, sure, ask } => hand::evict(name, sure, ask),
        Node::Fence { name, confirmed: true, sure, ask } => hand::unfence(name, sure, ask),
        Node::Fence { name, confirmed: false, sure, ask } => hand::fence(name, sure, ask),
        Node::Drain { name, ask } => hand::drain(name, true, ask),
        Node::Undrain { name, ask } => hand::drain(name, false, ask),
        Node::Restart { itself: _, ask } => restart::run(ask),
        Node::Remove { name, sure, ask } => members::remove(name, sure, ask),
        Node::Unfence { name, sure, ask } => hand::unfence(name, sure, ask),
        Node::Show { name, ask } => {
            let status: Status = session(&ask.connect)?.document(&Question::Status)?;
            let name = name.as_ref().unwrap_or(&status.node);
            let names = || status.members.iter().map(|m| m.node.as_str());
            let member = status.members.iter().find(|m| m.node == *name).ok_or_else(|| {
                let problem = Problem::new(Code::Usage, format!("there is no member `{name}`"))
                    .because(format!("the members are {}", names().collect::<Vec<_>>().join(", ")));
                match did_you_mean(name, names()) {
                    Some(meant) => problem.try_next(format!("oarlock node show {meant}")),
                    None => problem.try_next("oarlock node ls"),
                }
            })?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &Shown { v: 1, member }),
                Output::Name => output::print_text(&member.node),
                Output::Table | Output::Wide => output::print_text(&member_page(member)),
            }
        }
    }
}

#[derive(serde::Serialize)]
struct Listed<'a> {
    v: u32,
    members: &'a [Member],
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    v: u32,
    #[serde(flatten)]
    member: &'a Member,
}

/// What `oarlock node ls` tells of a member.
pub static MEMBERS: Columns = Columns {
    all: &[
        column("NODE", Kind::Name),
        column("VIEW", Kind::Word),
        column("HEARD", Kind::Word),
        column("CIRCUIT", Kind::Word),
        column("RTT", Kind::Time),
        column("ADDRESS", Kind::Name),
        column("DRAINED", Kind::Word),
        column("VIEW RUN", Kind::Count),
        column("RUN", Kind::Count),
        column("SILENT", Kind::Time),
        column("SENT", Kind::Count),
        column("RECEIVED", Kind::Count),
        column("RESENT", Kind::Count),
        column("KEY AGE", Kind::Time),
    ],
    narrow: 7,
};

fn member_row(m: &Member) -> Vec<Cell> {
    let number = |of: fn(&Circuit) -> u64| m.circuit.as_ref().map(of);
    let count = |of| number(of).map_or(Cell::name(""), Cell::count);
    let rtt = number(|c| c.rtt_us).filter(|us| *us > 0);
    let state = m.circuit.as_ref().map_or(String::new(), |c| c.state.clone());
    vec![
        Cell::name(&m.node),
        Cell::word(if m.in_view { "in" } else { "OUT" }),
        Cell::word(if m.heard { "yes" } else { "NO" }),
        Cell::word(if m.this { "this node".into() } else { state }),
        Cell::shown(rtt.map_or(String::new(), |us| format!("{us} us")), rtt),
        Cell::name(&m.address),
        Cell::word(if m.drained { "yes" } else { "" }),
        if m.in_view { Cell::count(m.view_run) } else { Cell::name("") },
        Cell::count(m.incarnation),
        Cell::age(number(|c| c.silent_ms * 1000).filter(|us| *us > 0)),
        count(|c| c.sent),
        count(|c| c.received),
        count(|c| c.resent),
        Cell::age(number(|c| c.key_age_s * 1_000_000)),
    ]
}

fn member_page(m: &Member) -> String {
    let mut lines = vec![
        format!("node       {} (id {})", m.node, m.id),
        format!("address    {}", m.address),
        match m.in_view {
            true => format!("view       in it as run {}", m.view_run),
            false => "view       out".into(),
        },
        format!("heard      {}", if m.heard { "yes" } else { "no" }),
        format!("run        {}", m.incarnation),
    ];
    if m.drained {
        lines.push("drained    yes: it is to get no new work".into());
    }
    match &m.circuit {
        None => lines.push("circuit    none: this is the node that answers".into()),
        Some(c) => {
            lines.push(format!("circuit    {}", c.state));
            if let Some(why) = &c.why {
                lines.push(format!("why        {why}"));
            }
            if c.silent_ms > 0 {
                lines.push(format!("silent     {}", waiting::age(c.silent_ms * 1000)));
            }
            lines.push(format!("round trip {} us", c.rtt_us));
            lines.push(format!("keys       {} old", waiting::age(c.key_age_s * 1_000_000)));
            lines.push(format!("sent       {} datagrams, {} fragments again", c.sent, c.resent));
            lines.push(format!("received   {} datagrams, {} fragments twice", c.received, c.duplicates));
            lines.push(format!("backlog    {} bytes not acknowledged", c.backlog_bytes));
        }
    }
    lines.join("\n")
}

/// What `oarlock metrics` tells of a counter.
pub static COUNTERS: Columns = Columns {
    all: &[column("COUNTER", Kind::Name), column("VALUE", Kind::Count), column("COUNTS", Kind::Name)],
    narrow: 3,
};

fn counter_row(c: &Counter) -> Vec<Cell> {
    vec![Cell::name(&c.name), Cell::count(c.value), Cell::name(&c.help)]
}

/// `oarlock metrics`
pub fn metrics(ask: &AskList) -> Result<()> {
    let plan = COUNTERS.plan(&ask.list)?;
    let mut counters: Counters = session(&ask.connect)?.document(&Question::Counters)?;
    plan.arrange(&mut counters.counters, counter_row);
    plan.print(&counters.counters, counter_row, &counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::Space;

    fn member(node: &str, in_view: bool) -> Member {
        Member {
            node: node.into(),
            id: 0,
            address: "10.0.0.11:7401".into(),
            this: node == "node-a",
            in_view,
            view_run: if in_view { 7 } else { 0 },
            drained: false,
            heard: true,
            incarnation: 7,
            circuit: None,
        }
    }

    fn sick() -> Status {
        Status {
            v: 1,
            cluster: "harbour".into(),
            node: "node-a".into(),
            version: "0".into(),
            socket: "/run/oarlock/oarlock.sock".into(),
            listen: "10.0.0.11:7401".into(),
            api: None,
            phase: "serving".into(),
            serving: true,
            healthy: false,
            epoch: 3,
            granting: false,
            incarnation: 7,
            uptime_s: 61,
            shared: String::new(),
            reasons: vec![Reason { code: "OAR-3101".into(), text: "node-c has been silent for 4 s".into() }],
            members: vec![
                member("node-a", true),
                member("node-b", true),
                Member { heard: false, ..member("node-c", false) },
            ],
            spaces: vec![Space {
                name: "default".into(),
                order: "passover".into(),
                retain: true,
                resources: 5,
                resources_max: 10,
                mastered: 2,
                waiting: 1,
                grants: 8,
                covered_grants: 6,
                segment: true,
                attached_sessions: 1,
                fast_grants: 4000,
                fast_considered: 30,
                fast_handed_over: 20,
                messages: 3,
                owner: "root".into(),
                group: "root".into(),
                mode: "0660".into(),
                nodes: None,
                yours: "rw".into(),
            }],
            hidden_spaces: 0,
            sessions: 1,
            coordinator: Coordinator {
                engine: "raft".into(),
                leader: Some("node-a".into()),
                voters: ["node-a", "node-b", "node-c"].map(String::from).into(),
                learners: vec![],
                ..Coordinator::default()
            },
            fencing: "lease only".into(),
            fences: vec![],
            clock: None,
        }
    }

    #[test]
    fn a_sick_node_says_why_with_the_status_of_its_code() {
        let p = unhealthy(&sick());
        assert_eq!((p.code, p.exit()), (Code::MemberSilent, 69));
        assert!(p.why.contains("node-c"), "{p}");
        let forming = Status { serving: false, phase: "forming".into(), reasons: vec![], ..sick() };
        assert_eq!(unhealthy(&forming).code, Code::NotServing);
    }

    #[test]
    fn a_member_that_is_out_is_told_from_one_that_is_not_heard() {
        let cells = |m: &Member| member_row(m).into_iter().map(|c| c.text).collect::<Vec<_>>();
        assert_eq!(cells(&member("node-a", true)).len(), MEMBERS.all.len());
        assert_eq!(cells(&member("node-a", true))[..3], ["node-a", "in", "yes"]);
        let drained = Member { drained: true, ..member("node-c", false) };
        assert_eq!(cells(&drained)[..3], ["node-c", "OUT", "yes"]);
        assert_eq!(cells(&drained)[6..8], ["yes", ""]);
        assert!(member_page(&drained).contains("view       out"));
        assert!(member_page(&drained).contains("drained    yes"));
        assert!(member_page(&member("node-a", true)).contains("view       in it as run 7"));
    }

    #[test]
    fn status_is_one_short_page() {
        let page = page(&sick());
        assert!(
            page.contains("epoch 3")
                && page.contains("1 waiting")
                && page.contains("75.0 %")
                && page.contains("OAR-3101")
        );
        assert!(page.contains("4000 more by programs themselves (1 attached)"), "{page}");
        assert!(page.contains("nodes    2 of 3 in the view, 2 heard; out: node-c"), "{page}");
        assert!(page.contains("raft     node-a leads, 2/3 voters heard"), "{page}");
        assert!(page.contains("5 resources, 1 session on this node"), "{page}");
        assert!(page.lines().count() <= 11 && page.lines().all(|l| l.len() <= 80), "{page}");
    }
}
