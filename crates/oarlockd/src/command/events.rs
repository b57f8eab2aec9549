//! `oarlock events`: what happened at a node, and what happens.

use std::thread;
use std::time::Duration;

use super::cli::{Ask, Output};
use super::output;
use super::status::session;
use crate::console::doc::{Event, Events, Question, VERSION};
use crate::problem::Result;

/// How often a node is asked whether something happened: faster than people read, slower than anything costs.
const EVERY: Duration = Duration::from_millis(250);

/// Prints the last `count` events, then, if asked to, all that come.
pub fn run(count: usize, follow: bool, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let mut seen: Events = session.document(&Question::Events { after: 0 })?;
    let from = seen.events.len().saturating_sub(count);
    let mut after = seen.events.last().map_or(0, |last| last.number);
    seen.events.drain(..from);
    loop {
        for event in &seen.events {
            print(event, &seen.node, ask)?;
        }
        if !follow {
            return Ok(());
        }
        thread::sleep(EVERY);
        seen = session.document(&Question::Events { after })?;
        if seen.first > after + 1 {
            let missed = seen.first - after - 1;
            output::say(format_args!(
                "oarlock: {missed} events came and went faster than they could be read"
            ));
        }
        after = seen.events.last().map_or(after, |last| last.number);
    }
}

#[derive(serde::Serialize)]
struct Line<'a> {
    v: u32,
    node: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

fn print(event: &Event, node: &str, ask: &Ask) -> Result<()> {
    let document = Line { v: VERSION, node, event };
    match ask.format.output {
        // One document a line, so that a reader need not wait for an end.
        Output::Json => output::print_text(&serde_json::to_string(&document).expect("plain data")),
        Output::Yaml => {
            output::print_text("---")?;
            output::print_document(Output::Yaml, &document)
        }
        Output::Name => output::print_text(&event.number.to_string()),
        Output::Table | Output::Wide => output::print_text(&line(event)),
    }
}

fn line(event: &Event) -> String {
    let code = event.code.as_ref().map_or(String::new(), |code| format!("{code} "));
    format!("{} {:<5} {code}{}", event.at, event.level, event.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_with_its_code() {
        let mut event = Event {
            number: 9,
            at: "2001-09-09T01:46:40.000Z".into(),
            level: "warn".into(),
            code: Some("OAR-3101".into()),
            text: "node-c is silent".into(),
        };
        assert_eq!(line(&event), "2001-09-09T01:46:40.000Z warn  OAR-3101 node-c is silent");
        event.code = None;
        assert_eq!(line(&event), "2001-09-09T01:46:40.000Z warn  node-c is silent");
    }
}
