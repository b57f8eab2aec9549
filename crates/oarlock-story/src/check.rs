//! What a storyboard must be before it is played: each name is given somewhere, each row can come to run, and no
//! two rows want the same moment.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::code::Code;

use crate::fault::Fault;
use crate::table::{Command, Condition, DONE, Fact, Flow, Handle, On, Row, Story, Sum, Term};

/// Everything that is wrong, in the order of the file.
pub fn check(story: &Story) -> Vec<Fault> {
    let mut check = Check { names: Names::of(story), faults: Vec::new() };
    let mut seen = BTreeSet::new();
    for flow in &story.flows {
        if !seen.insert(flow.name.as_str()) {
            check.fault(Code::StoryAmbiguous, flow.line, format!("there are two flows {}", flow.name));
        }
        check.flow(flow);
    }
    let expects =
        |row: &Row| row.commands.iter().any(|c| matches!(c, Command::Expect(_) | Command::History(_)));
    if !story.flows.iter().flat_map(|flow| &flow.rows).any(expects) {
        let line = story.flows.first().map_or(1, |flow| flow.line);
        let text = "nothing is expected: without an `expect` the storyboard shows nothing";
        check.fault(Code::StoryExpectsNothing, line, text);
    }
    check.faults.sort_by_key(|fault| fault.line);
    check.faults
}

/// What the file gives a name to.
struct Names<'a> {
    raised: BTreeSet<&'a str>,
    killed: BTreeSet<&'a str>,
    /// Flows that come to each barrier.
    barriers: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Locks and variables of each flow.
    handles: BTreeMap<&'a str, BTreeSet<&'a str>>,
    variables: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Names<'a> {
    fn of(story: &'a Story) -> Names<'a> {
        let mut names = Names {
            raised: BTreeSet::new(),
            killed: BTreeSet::new(),
            barriers: BTreeMap::new(),
            handles: BTreeMap::new(),
            variables: BTreeMap::new(),
        };
        for flow in &story.flows {
            let handles = names.handles.entry(&flow.name).or_default();
            let variables = names.variables.entry(&flow.name).or_default();
            for row in &flow.rows {
                if let On::Meet(barrier) = &row.on {
                    names.barriers.entry(barrier).or_default().insert(&flow.name);
                }
                for command in &row.commands {
                    match command {
                        Command::Raise(event) => drop(names.raised.insert(event)),
                        Command::Kill(flow) => drop(names.killed.insert(flow)),
                        Command::Lock { handle, .. } => drop(handles.insert(handle)),
                        Command::Let(variable, _) => drop(variables.insert(variable)),
                        _ => {}
                    }
                }
            }
        }
        names
    }
}

struct Check<'a> {
    names: Names<'a>,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, code: Code, line: u32, text: impl Into<String>) {
        self.faults.push(Fault::new(code, line, text));
    }

    fn unknown(&mut self, line: u32, text: String) {
        self.fault(Code::StoryUnknownName, line, text);
    }

    fn flow(&mut self, flow: &Flow) {
        self.ambiguity(flow);
        self.ways(flow);
        for row in &flow.rows {
            self.event(flow, row);
            for command in &row.commands {
                self.command(flow, row.line, command);
            }
            for condition in row.next.conditions() {
                self.branch(flow, row.line, condition);
            }
        }
    }

    /// S2: two rows for one moment are an error here, not a matter of luck later.
    fn ambiguity(&mut self, flow: &Flow) {
        for (at, row) in flow.rows.iter().enumerate() {
            let Some(first) = flow.rows[..at].iter().find(|r| r.state == row.state && meets(&r.on, &row.on))
            else {
                continue;
            };
            let text = format!(
                "flow {}, state {}: `{}` and `{}` on line {} can mean the same moment",
                flow.name, row.state, row.on, first.on, first.line
            );
            self.fault(Code::StoryAmbiguous, row.line, text);
        }
    }

    /// Next states are states, every state can be reached, and an end can be too.
    fn ways(&mut self, flow: &Flow) {
        let states: BTreeSet<&str> = flow.rows.iter().map(|row| row.state.as_str()).collect();
        for row in &flow.rows {
            if row.state == DONE {
                let text = format!("flow {}: `{DONE}` is the end, it has no rows", flow.name);
                self.fault(Code::StoryMalformed, row.line, text);
            }
            for next in row.next.states().into_iter().filter(|next| *next != DONE && !states.contains(next)) {
                let text = format!("flow {}: there is no state {next}", flow.name);
                self.fault(Code::StoryUnknownState, row.line, text);
            }
        }
        let Some(first) = flow.rows.first() else { return };
        let mut reached = BTreeSet::from([first.state.as_str()]);
        let mut open = Vec::from([first.state.as_str()]);
        while let Some(state) = open.pop() {
            let next = flow.rows.iter().filter(|row| row.state == state).flat_map(|row| row.next.states());
            open.extend(next.filter(|next| reached.insert(next)));
        }
        let mut told = BTreeSet::new();
        for row in flow.rows.iter().filter(|row| !reached.contains(row.state.as_str())) {
            if told.insert(&row.state) {
                let text = format!("flow {}: nothing leads to the state {}", flow.name, row.state);
                self.fault(Code::StoryUnreachable, row.line, text);
            }
        }
        if !reached.contains(DONE) && !self.names.killed.contains(flow.name.as_str()) {
            let text =
                format!("flow {} never ends: no row leads to `{DONE}`, and nobody kills it", flow.name);
            self.fault(Code::StoryUnreachable, flow.line, text);
        }
    }

    fn event(&mut self, flow: &Flow, row: &Row) {
        match &row.on {
            On::Event(event) if !self.names.raised.contains(event.as_str()) => {
                self.unknown(row.line, format!("nobody raises {event}"));
            }
            On::Meet(barrier) if self.names.barriers[barrier.as_str()].len() < 2 => {
                self.unknown(row.line, format!("nobody else comes to the barrier {barrier}"));
            }
            On::Granted(handle)
            | On::Why(_, handle)
            | On::Failed(handle)
            | On::Answered(handle)
            | On::Released(handle)
            | On::Blocking(handle) => self.handle(flow, row.line, handle),
            On::Attached if !flow.rows.iter().any(|row| row.commands.contains(&Command::Attach)) => {
                self.unknown(row.line, format!("flow {} never does `attach`", flow.name));
            }
            On::Lost if flow.node.is_none() => self.fault(Code::StoryMalformed, row.line, no_node(flow)),
            _ => {}
        }
    }

    fn command(&mut self, flow: &Flow, line: u32, command: &Command) {
        match command {
            Command::Lock { .. } | Command::Attach if flow.node.is_none() => {
                self.fault(Code::StoryMalformed, line, no_node(flow));
            }
            Command::Convert { handle, .. }
            | Command::Read(handle)
            | Command::Unlock { handle, .. }
            | Command::Cancel(handle)
            | Command::Wait(handle) => self.handle(flow, line, handle),
            Command::Kill(other) if *other == flow.name => {
                self.fault(Code::StoryMalformed, line, format!("flow {other} cannot kill itself"));
            }
            Command::Kill(other) => self.other(line, other),
            Command::Let(_, sum) => self.sum(flow, line, sum),
            Command::Expect(condition) => self.fact(flow, line, &condition.fact),
            _ => {}
        }
    }

    /// A branch may look at the own flow only: flows meet through events and barriers, and nothing else (S4, S6).
    fn branch(&mut self, flow: &Flow, line: u32, condition: &Condition) {
        let foreign = match &condition.fact {
            Fact::Granted(h, _) | Fact::Waiting(h) | Fact::Why(_, h) | Fact::Failed(h) => h.flow.is_some(),
            Fact::Released(h) | Fact::Blocking(h) | Fact::Value(h, _) => h.flow.is_some(),
            Fact::Lost(other) => other.is_some(),
            Fact::Raised(_) => false,
            Fact::Compare(a, _, b) => {
                [a, b].iter().any(|sum| matches!(&sum.term, Term::Token(h) if h.flow.is_some()))
            }
        };
        if foreign {
            let text = "a branch looks at its own flow only; let the other flow raise an event";
            self.fault(Code::StoryMalformed, line, text);
        }
        self.fact(flow, line, &condition.fact);
    }

    fn fact(&mut self, flow: &Flow, line: u32, fact: &Fact) {
        match fact {
            Fact::Granted(h, _) | Fact::Waiting(h) | Fact::Why(_, h) | Fact::Failed(h) => {
                self.any(flow, line, h)
            }
            Fact::Released(h) | Fact::Blocking(h) | Fact::Value(h, _) => self.any(flow, line, h),
            Fact::Lost(Some(other)) => self.other(line, other),
            Fact::Lost(None) if flow.node.is_none() => self.fault(Code::StoryMalformed, line, no_node(flow)),
            Fact::Lost(None) => {}
            Fact::Raised(event) if !self.names.raised.contains(event.as_str()) => {
                self.unknown(line, format!("nobody raises {event}"));
            }
            Fact::Raised(_) => {}
            Fact::Compare(a, _, b) => {
                self.sum(flow, line, a);
                self.sum(flow, line, b);
            }
        }
    }

    fn sum(&mut self, flow: &Flow, line: u32, sum: &Sum) {
        match &sum.term {
            Term::Variable(name) if !self.names.variables[flow.name.as_str()].contains(name.as_str()) => {
                self.unknown(line, format!("flow {} has no `let {name} = …`", flow.name));
            }
            Term::Token(handle) => self.any(flow, line, handle),
            _ => {}
        }
    }

    fn other(&mut self, line: u32, flow: &str) {
        if !self.names.handles.contains_key(flow) {
            self.unknown(line, format!("there is no flow {flow}"));
        }
    }

    fn any(&mut self, flow: &Flow, line: u32, handle: &Handle) {
        let owner = handle.flow.as_deref().unwrap_or(&flow.name);
        match self.names.handles.get(owner) {
            None => self.unknown(line, format!("there is no flow {owner}")),
            Some(handles) if !handles.contains(handle.name.as_str()) => {
                self.unknown(line, format!("flow {owner} takes no lock {}", handle.name));
            }
            Some(_) => {}
        }
    }

    fn handle(&mut self, flow: &Flow, line: u32, handle: &str) {
        self.any(flow, line, &Handle { flow: None, name: handle.into() });
    }
}

fn no_node(flow: &Flow) -> String {
    format!("flow {} has no node, so it has no session: write `flow {} at node-a`", flow.name, flow.name)
}

/// Can one moment be both? Rows of a state whose events merely come close are taken in their order.
fn meets(a: &On, b: &On) -> bool {
    let answer = |on: &On| match on {
        On::Granted(h) | On::Why(_, h) | On::Failed(h) | On::Answered(h) | On::Released(h) => Some(h.clone()),
        _ => None,
    };
    match (a, b) {
        // A row that applies at once leaves no room for another.
        (On::Now, _) | (_, On::Now) => true,
        // Of two times the shorter always comes first.
        (On::After(_), On::After(_)) => true,
        (On::Answered(_), _) | (_, On::Answered(_)) => answer(a).is_some() && answer(a) == answer(b),
        (On::Failed(h), On::Why(_, i)) | (On::Why(_, i), On::Failed(h)) => h == i,
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    /// Two flows: `f` with these rows and an expectation, and `g`, which raises `ready`.
    fn faults(rows: &str) -> Vec<(Code, u32, String)> {
        let text = format!(
            "# t\n## flow g at node-b\n| state | on | do | next |\n|-|-|-|-|\n| s | - | raise ready; lock q PR; \
             expect not failed q | done |\n## flow f at node-a\n| state | on | do | next |\n|-|-|-|-|\n{rows}\n"
        );
        let story = parse(&text).unwrap_or_else(|faults| panic!("{}", faults[0]));
        check(&story).into_iter().map(|f| (f.code, f.line, f.text)).collect()
    }

    #[track_caller]
    fn finds(rows: &str, code: Code, line: u32, word: &str) {
        let all = faults(rows);
        let found = all.iter().any(|(c, l, text)| (*c, *l) == (code, line) && text.contains(word));
        assert!(found, "no {code} on line {line} with {word:?}, but {all:?}");
    }

    const END: &str = "\n| w | ready | - | done |";

    /// S2
    #[test]
    fn two_rows_for_one_moment_are_an_error() {
        for (first, second) in [
            ("-", "ready"),
            ("ready", "ready"),
            ("after 1s", "after 2s"),
            ("granted r", "answered r"),
            ("busy r", "failed r"),
            ("answered r", "answered r"),
        ] {
            let rows =
                format!("| s | - | lock r EX | w |\n| w | {first} | - | done |\n| w | {second} | - | done |");
            finds(&rows, Code::StoryAmbiguous, 11, "same moment");
        }
        let apart = "| s | - | lock r EX | w |\n| w | granted r | - | done |\n| w | failed r | - | done |\n\
                     | w | blocking r | - | done |\n| w | after 1s | - | done |\n| w | ready | - | done |";
        assert_eq!(faults(apart), []);
    }

    #[test]
    fn who_waits_for_another_session_must_ask_for_it_and_have_a_node() {
        let rows = "| s | - | lock r EX | w |\n| w | lost | - | v |\n| v | attached | - | done |";
        finds(rows, Code::StoryUnknownName, 11, "attach");
        let rows = "| s | - | lock r EX | w |\n| w | lost | attach | v |\n| v | attached | - | done |";
        assert_eq!(faults(rows), []);
        let text = "# t\n## flow g\n| state | on | do | next |\n|-|-|-|-|\n| s | - | attach; expect 1 == 1 | done |\n";
        let found = check(&parse(text).unwrap());
        assert!(found.iter().any(|fault| (fault.code, fault.line) == (Code::StoryMalformed, 5)), "{found:?}");
    }

    /// S3
    #[test]
    fn a_next_state_that_is_not_there_is_an_error_that_names_the_row() {
        let rows = format!("| s | - | lock r EX | w if granted r else lost-it |{END}");
        finds(&rows, Code::StoryUnknownState, 9, "lost-it");
    }

    #[test]
    fn names_that_nobody_gives_are_errors() {
        for (row, word) in [
            ("| s | nobody | - | w |", "nobody raises nobody"),
            ("| s | granted r | - | w |", "takes no lock r"),
            ("| s | - | unlock r | w |", "takes no lock r"),
            ("| s | - | expect granted g.r | w |", "flow g takes no lock r"),
            ("| s | - | expect granted h.r | w |", "no flow h"),
            ("| s | - | kill h | w |", "no flow h"),
            ("| s | - | expect x == 1 | w |", "no `let x"),
            ("| s | - | expect raised never | w |", "nobody raises never"),
            ("| s | meet alone | - | w |", "nobody else"),
        ] {
            finds(&format!("{row}{END}"), Code::StoryUnknownName, 9, word);
        }
        assert_eq!(faults(&format!("| s | - | expect not granted g.q | w |{END}")), []);
    }

    /// S4, S6
    #[test]
    fn a_branch_that_looks_at_another_flow_is_an_error() {
        let rows = format!("| s | - | - | w if granted g.q else done |{END}");
        finds(&rows, Code::StoryMalformed, 9, "own flow only");
    }

    #[test]
    fn states_that_nothing_leads_to_and_flows_without_an_end_are_errors() {
        finds("| s | - | - | done |\n| t | ready | - | done |", Code::StoryUnreachable, 10, "state t");
        finds("| s | ready | - | s |", Code::StoryUnreachable, 6, "never ends");
        finds("| s | - | - | done |\n| done | ready | - | done |", Code::StoryMalformed, 10, "no rows");
    }

    #[test]
    fn flows_of_one_name_and_flows_without_a_node_are_told() {
        let table = "| state | on | do | next |\n|-|-|-|-|\n| s | - | lock r EX; expect granted r | done |\n";
        let story = parse(&format!("## flow a\n{table}## flow a at node-a\n{table}")).unwrap();
        let codes: Vec<Code> = check(&story).iter().map(|f| f.code).collect();
        assert_eq!(codes, [Code::StoryMalformed, Code::StoryAmbiguous]);
    }

    /// S7
    #[test]
    fn a_storyboard_that_expects_nothing_is_told() {
        let story =
            parse("## flow a\n| state | on | do | next |\n|-|-|-|-|\n| s | - | - | done |\n").unwrap();
        assert_eq!(check(&story)[0].code, Code::StoryExpectsNothing);
    }
}
