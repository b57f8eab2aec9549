//! `oarlock locks deadlocks`: what was found and broken, in words and as a picture.

use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use oarlock_layout::code::Code;

use super::cli::{Ask, Output};
use super::output;
use super::status::session;
use super::waiting::{age, party};
use crate::console::doc::{Deadlock, DeadlockWait, Deadlocks, Question};
use crate::problem::{Problem, Result};

/// Runs it.
pub fn run(svg: Option<&Path>, ask: &Ask) -> Result<()> {
    let asked: Deadlocks = session(&ask.connect)?.document(&Question::Deadlocks)?;
    if let Some(file) = svg {
        return save(file, &asked);
    }
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, &asked),
        Output::Name => {
            let victims = asked.deadlocks.iter().filter_map(|it| it.cycle.first());
            let names: Vec<String> =
                victims.map(|it| format!("{} {}", it.party.node, it.party.lock)).collect();
            output::print_text(&names.join("\n"))
        }
        Output::Table | Output::Wide => output::print_text(&pages(&asked)),
    }
}

fn save(file: &Path, asked: &Deadlocks) -> Result<()> {
    let Some(newest) = asked.deadlocks.last() else {
        return Err(Problem::new(Code::Usage, "there is no deadlock of which to make a picture")
            .because(format!("{} remembers none", asked.node))
            .try_next("oarlock locks deadlocks"));
    };
    let text = svg(newest);
    let written = match file == Path::new("-") {
        true => io::stdout().write_all(text.as_bytes()),
        false => fs::write(file, text),
    };
    written.map_err(|e| Problem::io(Code::Failed, format!("cannot write {}", file.display()), &e))
}

fn pages(asked: &Deadlocks) -> String {
    let mut text = match asked.deadlocks.len() {
        0 => format!("no deadlock was broken, as far as {} remembers\n", asked.node),
        _ => asked.deadlocks.iter().map(page).collect::<Vec<_>>().join("\n"),
    };
    if asked.hidden > 0 {
        let _ = writeln!(text, "{} more in lockspaces that this user may not look at", asked.hidden);
    }
    text.trim_end().into()
}

/// The circle, from whoever was refused back to it.
fn page(it: &Deadlock) -> String {
    let mut text =
        format!("{} ({} ago), broken after {}: {}\n", it.at, age(it.age_us), age(it.waited_us), it.why);
    for (at, wait) in it.cycle.iter().enumerate() {
        let refused = if at == 0 { "   ◄ refused" } else { "" };
        let _ = writeln!(text, "  {} {}{refused}", party(&wait.party), wish(wait));
        let next = match at + 1 == it.cycle.len() {
            true => "the first of these".into(),
            false => party(&it.cycle[at + 1].party),
        };
        let _ = match &wait.next_holds {
            Some(mode) => writeln!(text, "    └ held in {mode} by {next}"),
            None => writeln!(text, "    └ its place is behind {next}"),
        };
    }
    text
}

fn wish(wait: &DeadlockWait) -> String {
    let what = format!("{} of {}", wait.resource, wait.space);
    match &wait.held {
        Some(held) => format!("converts {held} to {} on {what}", wait.wanted),
        None => format!("waits for {} on {what}", wait.wanted),
    }
}

// ----- the picture --------------------------------------------------------------------------------------------

const WIDTH: f64 = 230.0;
const HEIGHT: f64 = 44.0;
const MARGIN: f64 = 40.0;

/// A drawing: programs are boxes, resources are rounded, and arrows go from whoever waits to what is waited for, and from there to whoever
/// is in the way (C19: two kinds of nodes, and no edge within a kind).
pub fn svg(it: &Deadlock) -> String {
    let count = 2 * it.cycle.len();
    let radius = (count as f64 * (WIDTH + 30.0) / TAU).max(150.0);
    let (middle_x, middle_y) = (MARGIN + WIDTH / 2.0 + radius, MARGIN + HEIGHT / 2.0 + radius);
    let place = |at: usize| {
        let turn = at as f64 / count as f64 * TAU - TAU / 4.0;
        (middle_x + radius * turn.cos(), middle_y + radius * turn.sin())
    };
    let (width, height) = (2.0 * middle_x, 2.0 * middle_y);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>{}</title>\n<defs><marker id=\"head\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" \
         markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\"/></marker></defs>\n",
        escaped(&format!("Deadlock, {}: {}", it.at, it.why))
    );
    for (at, wait) in it.cycle.iter().enumerate() {
        let program = place(2 * at);
        let resource = place(2 * at + 1);
        let next = place((2 * at + 2) % count);
        let wants = match &wait.held {
            Some(held) => format!("has {held}, wants {}", wait.wanted),
            None => format!("wants {}", wait.wanted),
        };
        let kept = match &wait.next_holds {
            Some(mode) => format!("held in {mode} by"),
            None => "behind".into(),
        };
        arrow(&mut out, program, resource, &wants);
        arrow(&mut out, resource, next, &kept);
        let (fill, note) = if at == 0 { ("#f6c9c4", ", refused") } else { ("#dfe8f3", "") };
        let who = format!("{}{note}", party(&wait.party));
        node(&mut out, program, 3.0, fill, &who);
        node(&mut out, resource, HEIGHT / 2.0, "#eee7d3", &format!("{}/{}", wait.space, wait.resource));
    }
    out + "</svg>\n"
}

fn node(out: &mut String, (x, y): (f64, f64), round: f64, fill: &str, text: &str) {
    let _ = writeln!(
        out,
        "<g><title>{full}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"{round}\" \
         fill=\"{fill}\" stroke=\"#333\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text></g>",
        x - WIDTH / 2.0,
        y - HEIGHT / 2.0,
        y + 4.5,
        escaped(&shortened(text)),
        full = escaped(text),
    );
}

/// From the edge of one box to the edge of the other.
fn arrow(out: &mut String, from: (f64, f64), to: (f64, f64), text: &str) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let reach = |dx: f64, dy: f64| {
        let x = if dx == 0.0 { f64::INFINITY } else { (WIDTH / 2.0 + 3.0) / dx.abs() };
        let y = if dy == 0.0 { f64::INFINITY } else { (HEIGHT / 2.0 + 3.0) / dy.abs() };
        x.min(y).min(0.45)
    };
    let part = reach(dx, dy);
    let (x1, y1) = (from.0 + dx * part, from.1 + dy * part);
    let (x2, y2) = (to.0 - dx * part, to.1 - dy * part);
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#333\" marker-end=\"url(#head)\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\" paint-order=\"stroke\" stroke=\"#fff\" \
         stroke-width=\"4\">{}</text>",
        (x1 + x2) / 2.0,
        (y1 + y2) / 2.0 - 5.0,
        escaped(text),
    );
}

fn shortened(text: &str) -> String {
    const MOST: usize = 32;
    match text.char_indices().nth(MOST) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::Party;

    fn wait(node: &str, pid: u32, resource: &str, next_holds: Option<&str>) -> DeadlockWait {
        let (node, lock, label) = (node.into(), format!("c{pid}.1"), "api".into());
        DeadlockWait {
            party: Party { node, lock, pid, label, owner: 0, transaction: 0 },
            space: "default".into(),
            resource: resource.into(),
            wanted: "EX".into(),
            held: None,
            next_holds: next_holds.map(Into::into),
        }
    }

    fn deadlock() -> Deadlock {
        Deadlock {
            at: "2026-11-28T07:40:00.000Z".into(),
            age_us: 3_000_000,
            waited_us: 150_000,
            why: "it was the youngest of those that waited for each other".into(),
            cycle: vec![
                wait("node-b", 102, "x<y", Some("PR")),
                wait("node-a", 101, "y", Some("EX")),
                wait("node-c", 103, "z", None),
            ],
        }
    }

    /// D7: who waited for whom, and whose wait was refused.
    #[test]
    fn a_deadlock_is_told_from_its_victim_around() {
        let asked = |deadlocks, hidden| Deadlocks { v: 1, node: "node-a".into(), deadlocks, hidden };
        let text = pages(&asked(vec![deadlock()], 2));
        assert_eq!(
            text,
            "2026-11-28T07:40:00.000Z (3.0 s ago), broken after 150 ms: it was the youngest of those that waited for each other\n\
             \x20 node-b pid 102 (api) waits for EX on x<y of default   ◄ refused\n\
             \x20   └ held in PR by node-a pid 101 (api)\n\
             \x20 node-a pid 101 (api) waits for EX on y of default\n\
             \x20   └ held in EX by node-c pid 103 (api)\n\
             \x20 node-c pid 103 (api) waits for EX on z of default\n\
             \x20   └ its place is behind the first of these\n\
             2 more in lockspaces that this user may not look at"
        );
        assert_eq!(pages(&asked(vec![], 0)), "no deadlock was broken, as far as node-a remembers");
    }

    /// C19: a picture of programs and resources, and arrows only between the two kinds.
    #[test]
    fn a_picture_has_a_box_for_each_program_and_each_resource() {
        let text = svg(&deadlock());
        assert_eq!(text.matches("<rect ").count(), 6);
        assert_eq!(text.matches("<line ").count(), 6);
        assert!(text.contains("default/x&lt;y") && !text.contains("x<y"), "{text}");
        assert!(text.contains("node-b pid 102 (api), refused"));
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        // One that waits for itself.
        let alone = Deadlock { cycle: vec![wait("node-b", 102, "x", Some("PR"))], ..deadlock() };
        assert_eq!(svg(&alone).matches("<rect ").count(), 2);
    }
}
