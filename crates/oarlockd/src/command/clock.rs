//! `oarlock clock`: where the cluster clock stands, and what members have announced and acknowledged.

use std::thread;
use std::time::{Duration, Instant};

use super::args;
use super::cli::{Ask, Clock as Command, Output};
use super::output::{self, Rows};
use super::status::{counted, session};
use crate::console::doc::{Clock, Question, Stamps, Status};
use crate::problem::Result;

/// Runs it.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Show { ask } => {
            let status: Status = session(&ask.connect)?.document(&Question::Status)?;
            let clock = Clock::of(&status);
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &clock),
                Output::Name => output::print_text(&clock.stamp),
                Output::Table | Output::Wide => output::print_text(&page(&clock, !ask.format.no_headers)),
            }
        }
        Command::Stamp { count, ask } => {
            let stamps: Stamps = session(&ask.connect)?.document(&Question::Stamp { count: *count })?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &stamps),
                _ => output::print_text(&stamps.stamps.join("\n")),
            }
        }
        Command::Watch { every, during, ask } => {
            watch(args::duration(every)?, during.as_deref().map(args::duration).transpose()?, ask)
        }
    }
}

/// A line for each look at which something is new.
fn watch(every: Duration, during: Option<Duration>, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let end = during.map(|d| Instant::now() + d);
    let every = every.max(Duration::from_millis(10));
    let mut before = None;
    loop {
        let clock = Clock::of(&session.document(&Question::Status)?);
        if before.as_ref() != Some(&clock) {
            match ask.format.output {
                // One document a line, so that a reader need not wait for an end.
                Output::Json => output::print_text(&serde_json::to_string(&clock).expect("plain data"))?,
                Output::Yaml => {
                    output::print_text("---")?;
                    output::print_document(Output::Yaml, &clock)?;
                }
                Output::Name => output::print_text(&clock.stamp)?,
                Output::Table | Output::Wide => output::print_text(&line(&clock))?,
            }
        }
        before = Some(clock);
        let left = end.map_or(every, |end| every.min(end.saturating_duration_since(Instant::now())));
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left);
    }
}

fn line(c: &Clock) -> String {
    let watermark = c.watermark.as_deref().unwrap_or("not known");
    let granted = &c.granted;
    format!("stamp {}  watermark {watermark}  may issue up to {granted}  waits {}", c.stamp, c.waits)
}

fn page(c: &Clock, headers: bool) -> String {
    let mut out = vec![
        format!("clock      {} on {}, view {}", c.stamp, c.node, c.epoch),
        match &c.watermark {
            Some(watermark) => format!("watermark  {watermark}: no clock of the cluster is beyond it"),
            None => "watermark  not known until this node is in a view and has heard every member".into(),
        },
        format!("ceiling    {} announced, up to {} acknowledged by all", c.ceiling, c.granted),
        format!("stored     {}: the next run begins above it", c.stored),
        format!(
            "so far     {} issued, {} raises, {} stored, {}",
            c.issued,
            c.raises,
            c.stores,
            counted(c.waits, "wait")
        ),
    ];
    if !c.others.is_empty() {
        let mut rows = Rows::new(&["MEMBER", "CEILING", "HAS-ACKNOWLEDGED"]);
        for other in &c.others {
            let ceiling = other.ceiling.clone().unwrap_or_default();
            rows.push(vec![other.node.clone(), ceiling, other.acked.clone()]);
        }
        out.push(rows.text(headers));
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::ClockMember;

    #[test]
    fn a_page_says_what_is_known_and_what_is_waited_for() {
        let mut clock = Clock {
            v: 1,
            node: "node-a".into(),
            epoch: 3,
            stamp: "70".into(),
            watermark: Some("1024".into()),
            ceiling: "900".into(),
            granted: "800".into(),
            stored: "1024".into(),
            issued: 5,
            raises: 2,
            stores: 3,
            waits: 1,
            others: vec![ClockMember { node: "node-b".into(), ceiling: None, acked: "800".into() }],
        };
        let text = page(&clock, true);
        assert!(text.contains("watermark  1024") && text.contains("1 wait\n"), "{text}");
        assert!(text.ends_with("MEMBER  CEILING  HAS-ACKNOWLEDGED\nnode-b  -        800"), "{text}");
        clock.watermark = None;
        assert!(page(&clock, true).contains("not known until"));
        assert_eq!(line(&clock), "stamp 70  watermark not known  may issue up to 800  waits 1");
    }
}
