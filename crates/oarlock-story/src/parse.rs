//! From Markdown to a storyboard.
//!
//! A heading `flow NAME` or `flow NAME at node-a`, at any level, begins a flow. The one table below it, with the
//! columns state, on, do and next, is the flow. Everything else is prose.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use oarlock_layout::code::Code;

use crate::fault::Fault;
use crate::table::{
    COMPARISONS, Command, Condition, Fact, Flow, Next, On, PROMISES, Read, Row, Story, Sum, Term, WHYS,
};
use crate::words::{Words, Wrong, commands, name, words};

/// Reads a file; every fault of its form is told, not only the first.
pub fn parse(text: &str) -> Result<Story, Vec<Fault>> {
    let mut reader = Reader::default();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        reader.line = at as u32 + 1;
        let line = line.trim();
        if line.starts_with("```") || line.starts_with("~~~") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        match line.strip_prefix('#') {
            Some(rest) => reader.heading(rest.trim_start_matches('#').trim()),
            None if line.starts_with('|') => reader.table(line),
            None => reader.part = if reader.part == Part::Rows { Part::Over } else { reader.part },
        }
    }
    reader.end_flow();
    if reader.flows.is_empty() {
        reader.fault("no flow: a heading `flow NAME` with a table below it is missing");
    }
    if reader.faults.is_empty() {
        Ok(Story { title: reader.title.unwrap_or_default(), flows: reader.flows })
    } else {
        Err(reader.faults)
    }
}

/// Where in a flow the reader is.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    /// In no flow.
    #[default]
    Prose,
    Header,
    Ruler,
    Rows,
    /// The table is over.
    Over,
}

#[derive(Default)]
struct Reader {
    line: u32,
    title: Option<String>,
    flows: Vec<Flow>,
    part: Part,
    faults: Vec<Fault>,
}

impl Reader {
    fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(Fault::new(Code::StoryMalformed, self.line, text));
    }

    fn heading(&mut self, text: &str) {
        self.end_flow();
        self.part = Part::Prose;
        let Some(rest) = text.strip_prefix("flow ") else {
            if self.title.is_none() {
                self.title = Some(text.into());
            }
            return;
        };
        match flow(rest) {
            Ok(flow) => {
                self.flows.push(Flow { line: self.line, ..flow });
                self.part = Part::Header;
            }
            Err(why) => self.fault(why),
        }
    }

    fn end_flow(&mut self) {
        if self.part == Part::Prose {
            return;
        }
        let Some((name, line)) = self.flows.last().filter(|f| f.rows.is_empty()).map(|f| (&f.name, f.line))
        else {
            return;
        };
        // Of rows that cannot be read something has been said.
        if self.faults.iter().all(|fault| fault.line < line) {
            let text = format!("flow {name} has no table with the columns state, on, do and next");
            self.faults.push(Fault::new(Code::StoryMalformed, line, text));
        }
    }

    fn table(&mut self, line: &str) {
        let cells = match cells(line) {
            Some(cells) => cells,
            None if self.part == Part::Prose => return,
            None => return self.fault("a line of a table ends with `|`"),
        };
        match self.part {
            Part::Prose => {}
            Part::Header => {
                if cells != ["state", "on", "do", "next"] {
                    self.fault("the columns of a flow are state, on, do and next");
                }
                self.part = Part::Ruler;
            }
            Part::Ruler => {
                let rule = |cell: &String| !cell.is_empty() && cell.chars().all(|c| c == '-' || c == ':');
                if cells.len() != 4 || !cells.iter().all(rule) {
                    self.fault("a line of dashes follows the names of the columns");
                }
                self.part = Part::Rows;
            }
            Part::Rows => match row(&cells) {
                Ok(row) => {
                    let line = self.line;
                    self.flows.last_mut().expect("rows belong to a flow").rows.push(Row { line, ..row });
                }
                Err(why) => self.fault(why),
            },
            Part::Over => self.fault("a flow has one table; the next one needs a heading of its own"),
        }
    }
}

/// The cells of a line. `\|` stands for itself.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|').filter(|inner| !inner.ends_with('\\'))?;
    let mut cells = Vec::new();
    let mut cell = String::new();
    let mut rest = inner.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.peek() == Some(&'|') => cell.extend(rest.next()),
            '|' => cells.push(core::mem::take(&mut cell).trim().to_string()),
            c => cell.push(c),
        }
    }
    cells.push(cell.trim().to_string());
    Some(cells)
}

fn flow(text: &str) -> Result<Flow, Wrong> {
    let all = words(text)?;
    let mut words = Words::new(&all);
    let name = words.name("a flow")?;
    let node = if words.take("at") { Some(words.node()?) } else { None };
    words.end()?;
    Ok(Flow { name, node, line: 0, rows: Vec::new() })
}

fn row(cells: &[String]) -> Result<Row, Wrong> {
    let [state, on, commands, next] = cells else {
        return Err(format!("a row has 4 cells, this one has {}", cells.len()));
    };
    // Empty cells: no event means at once, no commands mean nothing. Where a flow is and goes is always said.
    if state.is_empty() || next.is_empty() {
        return Err("the cells `state` and `next` are never empty; a flow that ends goes to `done`".into());
    }
    Ok(Row {
        line: 0,
        state: name(state, "a state")?,
        on: self::on(on)?,
        commands: all_commands(commands)?,
        next: self::next(next)?,
    })
}

fn on(cell: &str) -> Result<On, Wrong> {
    let all = words(cell)?;
    let mut words = Words::new(&all);
    let on = match words.peek() {
        None if all.is_empty() => On::Now,
        Some("-") => {
            words.word("")?;
            On::Now
        }
        _ => {
            let word = words.word("an event")?;
            let why = WHYS.iter().find(|(why, _)| *why == word);
            match (word, why) {
                (_, Some((_, code))) => On::Why(*code, words.handle()?),
                ("granted", _) => On::Granted(words.handle()?),
                ("failed", _) => On::Failed(words.handle()?),
                ("answered", _) => On::Answered(words.handle()?),
                ("released", _) => On::Released(words.handle()?),
                ("blocking", _) => On::Blocking(words.handle()?),
                ("lost", _) => On::Lost,
                ("attached", _) => On::Attached,
                ("after", _) => On::After(words.duration()?),
                ("meet", _) => On::Meet(words.name("a barrier")?),
                (event, _) => On::Event(name(event, "an event")?),
            }
        }
    };
    words.end()?;
    Ok(on)
}

fn all_commands(cell: &str) -> Result<Vec<Command>, Wrong> {
    if cell.is_empty() || cell == "-" {
        return Ok(Vec::new());
    }
    let read = |all: &Vec<_>| {
        if all.is_empty() {
            return Err("nothing stands between two `;`".into());
        }
        let mut words = Words::new(all);
        let command = command(&mut words)?;
        words.end()?;
        Ok(command)
    };
    commands(cell)?.iter().map(read).collect()
}

fn command(words: &mut Words<'_>) -> Result<Command, Wrong> {
    Ok(match words.word("a command")? {
        "lock" => {
            let resource = words.resource()?;
            let (mode, flags, within) = (words.mode()?, words.flags(), words.within()?);
            let handle = if words.take("as") {
                words.handle()?
            } else {
                name(&resource.name, "a lock; add `as NAME`")?
            };
            Command::Lock { resource, mode, flags, within, handle }
        }
        "convert" => {
            let handle = words.handle()?;
            let (mode, flags, within) = (words.mode()?, words.flags(), words.within()?);
            Command::Convert { handle, mode, flags, within, value: value(words)? }
        }
        "read" => Command::Read(words.handle()?),
        "unlock" => {
            let (handle, value) = (words.handle()?, value(words)?);
            Command::Unlock { handle, value, invalidate: words.take("invalidate") }
        }
        "cancel" => Command::Cancel(words.handle()?),
        "wait" => match words.peek() {
            Some(word) if word.starts_with(|c: char| c.is_ascii_digit()) => Command::Pass(words.duration()?),
            _ => Command::Wait(words.handle()?),
        },
        "raise" => Command::Raise(words.name("an event")?),
        "let" => {
            let variable = words.name("a number")?;
            words.expect("=")?;
            Command::Let(variable, sum(words)?)
        }
        "say" => Command::Say(words.text()?),
        "kill" if words.take("node") => Command::KillNode(words.node()?),
        "kill" if words.take("engine") => Command::KillEngine(words.node()?),
        "kill" => Command::Kill(words.name("a flow")?),
        "attach" => Command::Attach,
        "stop" => {
            words.expect("node")?;
            Command::StopNode(words.node()?)
        }
        "leave" => {
            words.expect("node")?;
            Command::LeaveNode(words.node()?)
        }
        "join" => {
            words.expect("node")?;
            Command::JoinNode(words.node()?)
        }
        "start" => {
            words.expect("node")?;
            Command::StartNode(words.node()?)
        }
        "pause" => Command::Pause(words.node()?),
        "continue" => Command::Continue(words.node()?),
        "cut" => Command::Cut(words.link()?),
        "heal" => Command::Heal(words.link()?),
        "expect" if words.take("history") => {
            let word = words.word("a promise")?;
            let found = PROMISES.iter().find(|(promise, _)| *promise == word);
            let known: Vec<&str> = PROMISES.iter().map(|(word, _)| *word).collect();
            let (_, promise) =
                found.ok_or_else(|| format!("`{word}` is no promise; there are {}", known.join(", ")))?;
            Command::History(*promise)
        }
        "expect" => Command::Expect(condition(words)?),
        other => {
            return Err(format!(
                "`{other}` is no command; there are lock, convert, read, unlock, cancel, wait, raise, let, say, \
                 attach, kill, stop, start, leave, join, pause, continue, cut, heal and expect"
            ));
        }
    })
}

fn value(words: &mut Words<'_>) -> Result<Option<String>, Wrong> {
    if words.take("value") { words.text().map(Some) } else { Ok(None) }
}

fn condition(words: &mut Words<'_>) -> Result<Condition, Wrong> {
    let not = words.take("not");
    Ok(Condition { not, fact: fact(words)? })
}

fn fact(words: &mut Words<'_>) -> Result<Fact, Wrong> {
    let first = words.peek().ok_or("what is to be so is missing")?;
    if let Some((_, code)) = WHYS.iter().find(|(why, _)| *why == first) {
        words.word("")?;
        return Ok(Fact::Why(*code, words.any_handle()?));
    }
    let known = ["granted", "waiting", "failed", "released", "blocking", "lost", "value", "raised"];
    if !known.contains(&first) {
        let a = sum(words)?;
        let sign = words.word("a comparison")?;
        let (_, comparison) = COMPARISONS
            .iter()
            .find(|(word, _)| *word == sign)
            .ok_or_else(|| format!("`{sign}` compares nothing"))?;
        return Ok(Fact::Compare(a, *comparison, sum(words)?));
    }
    Ok(match words.word("")? {
        "granted" => {
            let handle = words.any_handle()?;
            Fact::Granted(handle, words.some_mode())
        }
        "waiting" => Fact::Waiting(words.any_handle()?),
        "failed" => Fact::Failed(words.any_handle()?),
        "released" => Fact::Released(words.any_handle()?),
        "blocking" => Fact::Blocking(words.any_handle()?),
        "lost" if words.peek().is_none_or(|word| word == "else") => Fact::Lost(None),
        "lost" => Fact::Lost(Some(words.name("a flow")?)),
        "raised" => Fact::Raised(words.name("an event")?),
        _ => {
            let handle = words.any_handle()?;
            Fact::Value(handle, read(words)?)
        }
    })
}

fn read(words: &mut Words<'_>) -> Result<Read, Wrong> {
    if words.is_text() {
        return words.text().map(Read::Text);
    }
    Ok(match words.word("what was read")? {
        "invalid" => Read::Invalid,
        "never-written" => Read::Never,
        "not-read" => Read::Nothing,
        other => {
            return Err(format!("`{other}` is not read; write a text, invalid, never-written or not-read"));
        }
    })
}

fn sum(words: &mut Words<'_>) -> Result<Sum, Wrong> {
    let word = words.word("a number")?;
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("`{word}` is no number"));
    let term = match word {
        "token" => Term::Token(words.any_handle()?),
        "counter" => {
            let counter = name(words.word("a counter")?, "a counter")?;
            words.expect("at")?;
            Term::Counter(counter, words.node()?)
        }
        word if word.starts_with(|c: char| c.is_ascii_digit()) => Term::Number(number(word)?),
        word => Term::Variable(name(word, "a number")?),
    };
    let plus = if words.take("+") { number(words.word("a number")?)? } else { 0 };
    Ok(Sum { term, plus })
}

fn next(cell: &str) -> Result<Next, Wrong> {
    let all = words(cell)?;
    let mut words = Words::new(&all);
    let mut branches = Vec::new();
    let last = loop {
        let state = words.name("a state")?;
        if !words.take("if") {
            break state;
        }
        branches.push((state, condition(&mut words)?));
        words.expect("else")?;
    };
    words.end()?;
    let fold = |other, (state, condition)| Next::If(state, condition, Box::new(other));
    Ok(branches.into_iter().rev().fold(Next::State(last), fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &str) -> String {
        format!("# t\n## flow f at node-a\n| state | on | do | next |\n| - | - | - | - |\n{rows}\n")
    }

    /// The first fault of a row, which stands on line 5.
    #[track_caller]
    fn refused(row: &str, why: &str) {
        let faults = parse(&table(row)).expect_err(row);
        assert_eq!((faults[0].line, faults[0].code), (5, Code::StoryMalformed), "{row}");
        assert!(faults[0].text.contains(why), "not {why:?} but {}", faults[0]);
    }

    #[test]
    fn prose_fences_and_other_tables_are_left_alone() {
        let text = "# A title\nwords | words\n\n```\n## flow no\n```\n| any | table |\n|---|---|\n\n\
                    ### flow a\nprose\n\n| state | on | do | next |\n|:--|---|---|--:|\n| s | | | done |\nprose\n\
                    ## Notes\n| x |\n";
        let story = parse(text).unwrap();
        assert_eq!((story.title.as_str(), story.flows.len()), ("A title", 1));
        let flow = &story.flows[0];
        assert_eq!((flow.name.as_str(), flow.node, flow.line), ("a", None, 10));
        assert_eq!((flow.rows[0].line, &flow.rows[0].on, flow.rows[0].commands.len()), (15, &On::Now, 0));
    }

    #[test]
    fn empty_cells_have_a_meaning_or_are_refused() {
        assert!(parse(&table("| s | | - | done |")).is_ok());
        refused("|  | - | - | done |", "never empty");
        refused("| s | - | - |  |", "never empty");
        refused("| s | - | - |", "4 cells");
        refused("| s | - | raise a;; raise b | done |", "between two");
    }

    #[test]
    fn cells_that_cannot_be_read_say_what_is_wrong() {
        refused("| s | - | lick r EX | done |", "no command");
        refused("| s | - | lock r XX | done |", "no mode");
        refused("| s | - | lock other:r EX | done |", "no lockspace");
        refused("| s | - | lock a/b EX | done |", "as NAME");
        refused("| s | - | lock r EX as | done |", "missing");
        refused("| s | - | lock r EX HURRY | done |", "no meaning here");
        refused("| s | - | cut node-a node-a | done |", "itself");
        refused("| s | - | stop node-a | done |", "`node` is missing");
        refused("| s | - | kill engine anna | done |", "no node");
        refused("| s | - | attach node-a | done |", "no meaning here");
        refused("| engine | - | - | done |", "meaning of its own");
        refused("| s | - | cut node-1 node-a | done |", "no node");
        refused("| s | - | expect history truth | done |", "no promise");
        refused("| s | - | expect x ~ 3 | done |", "compares nothing");
        refused("| s | - | unlock r value old | done |", "double quotes");
        refused("| s | after 3 | - | done |", "no time");
        refused("| s | granted | - | done |", "missing");
        refused("| s | - | - | a if granted r |", "`else` is missing");
        refused("| if | - | - | done |", "meaning of its own");
    }

    #[test]
    fn a_file_without_a_flow_and_a_flow_without_a_table_are_told() {
        assert!(parse("# only prose\n").unwrap_err()[0].text.contains("no flow"));
        let faults = parse("## flow a\n## flow b\n").unwrap_err();
        assert_eq!(faults.iter().map(|f| f.line).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_next_state_may_be_worked_out_in_several_steps() {
        let story = parse(&table("| s | - | - | a if granted r EX else b if not busy r else c |")).unwrap();
        let next = &story.flows[0].rows[0].next;
        assert_eq!(next.states(), ["a", "b", "c"]);
        assert_eq!(next.to_string(), "a if granted r EX else b if not busy r else c");
    }
}
