//! `oarlock key`: make keys, show them, and change the one of a node that runs.

use std::path::Path;
use std::time::Duration;

use super::cli::{Ask, Format, Key, Output};
use super::output::{self, Rows};
use super::session::Session;
use super::status::session;
use crate::console::doc::{Keys, MemberKey, Question, Rotation};
use crate::host::clock;
use crate::host::key::{Secret, print};
use crate::problem::{Problem, Result};
use oarlock_layout::code::Code;

/// How often a change under way is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The phase of a node whose key the cluster does not know.
const LOST: &str = "lost";

/// Runs one of them.
pub fn run(command: &Key) -> Result<()> {
    match command {
        Key::New { out, format } => {
            let key = Secret::generate();
            key.write_new(out)?;
            output::say(format_args!(
                "oarlock: private key in {}, readable by its owner only",
                out.display()
            ));
            show(out, &key, format)
        }
        Key::Show { file: Some(file), ask } => show(file, &Secret::read(file)?, &ask.format),
        Key::Show { file: None, ask } => {
            let seen: Keys = session(&ask.connect)?.document(&Question::Keys)?;
            print_keys(&seen, ask)
        }
        Key::Rotate { no_wait, ask } => rotate(*no_wait, ask),
        Key::Secret { out } => {
            Secret::generate().write_new(out)?;
            output::say(format_args!(
                "oarlock: cluster secret in {}; copy it to every member, by a safe way",
                out.display()
            ));
            Ok(())
        }
    }
}

fn show(file: &Path, key: &Secret, format: &Format) -> Result<()> {
    let public = print(&key.public());
    match format.output {
        form @ (Output::Json | Output::Yaml) => {
            output::print_document(form, &serde_json::json!({"v": 1, "file": file, "public_key": public}))
        }
        _ => output::print_text(&public),
    }
}

/// `oarlock key rotate`
fn rotate(no_wait: bool, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let before: Keys = session.document(&Question::Keys)?;
    if let Some(under_way) = &before.rotation {
        output::say(format_args!("{} changes its key already: this goes on with it", before.node));
        tell(under_way);
    } else if before.tokens > 0 {
        output::say(format_args!(
            "join tokens that were made at {} before this let nobody in once its key has changed: oarlock token ls",
            before.node
        ));
    }
    let mut seen: Keys = session.document(&Question::RotateKey)?;
    if !no_wait {
        seen = wait(&mut session, seen, before.rotation)?;
    }
    if seen.rotation.is_none() {
        let known = |it: &MemberKey| it.node == seen.node && it.public_key == seen.public_key;
        if !seen.members.iter().any(known) {
            return Err(Problem::new(Code::ChangeRefused, format!("{} is no member any more", seen.node))
                .because("it was removed while it changed its key, and nobody knows the next one"));
        }
    }
    match (&seen.rotation, ask.format.output) {
        (None, Output::Table | Output::Wide) => {
            output::say(format_args!(
                "{} has changed its key; no circuit was broken, and the key before is good for nothing",
                seen.node
            ));
        }
        (Some(rotation), Output::Table | Output::Wide) => tell(rotation),
        _ => {}
    }
    print_keys(&seen, ask)
}

/// Says how far it is whenever that is something else, until it is done. Whoever interrupts this interrupts nothing.
fn wait(session: &mut Session, mut seen: Keys, mut told: Option<Rotation>) -> Result<Keys> {
    while let Some(rotation) = &seen.rotation {
        if rotation.phase == LOST {
            let why = rotation.problem.clone().unwrap_or_else(|| "nobody has looked at it yet".into());
            return Err(Problem::new(Code::ChangeRefused, format!("{} cannot change its key", seen.node))
                .because(why));
        }
        if told.as_ref() != Some(rotation) {
            tell(rotation);
            told = Some(rotation.clone());
        }
        std::thread::sleep(LOOK_EVERY);
        seen = session.document(&Question::Keys)?;
    }
    Ok(seen)
}

fn tell(rotation: &Rotation) {
    let said = match rotation.phase.as_str() {
        "made" => "the next key is made",
        "announced" => "the next key is announced, and good beside the one in use",
        LOST => "the cluster does not know this node's key",
        "used" => "the next key is in use, and the one before still good",
        _ => "the key before is retired",
    };
    let waits = if rotation.waits.is_empty() { String::new() } else { format!("; waits {}", rotation.waits) };
    let problem = rotation.problem.as_ref().map_or(String::new(), |it| format!("; tried last: {it}"));
    output::say(format_args!("{said}{waits}{problem}"));
}

fn print_keys(seen: &Keys, ask: &Ask) -> Result<()> {
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, seen),
        Output::Name => output::print_text(&seen.public_key),
        Output::Table | Output::Wide => {
            let mut rows = Rows::new(&["NODE", "PUBLIC KEY", "MADE", "CHANGES TO", "NOT KNOWN TO"]);
            for it in &seen.members {
                rows.push(row(it, clock::wall_seconds()));
            }
            let rotation = match &seen.rotation {
                None => "is not being changed".into(),
                Some(it) => {
                    let waits =
                        if it.waits.is_empty() { String::new() } else { format!(", waits {}", it.waits) };
                    format!("is being changed to {}: {}{waits}", it.public_key, it.phase)
                }
            };
            output::print_text(&format!(
                "{}   key {} {rotation}\ncluster secret {}\n\n{}",
                seen.node,
                seen.public_key,
                seen.secret,
                rows.text(true)
            ))
        }
    }
}

fn row(it: &MemberKey, now: u64) -> Vec<String> {
    let none = || "-".to_owned();
    let age = |made: u64| {
        // The member's own clock said so.
        let seconds = now.saturating_sub(made);
        format!("{} ago", humantime::format_duration(Duration::from_secs(seconds)))
    };
    vec![
        it.node.clone(),
        it.public_key.clone(),
        it.made.map_or_else(none, age),
        it.next.clone().unwrap_or_else(none),
        if it.unaware.is_empty() { none() } else { it.unaware.join(",") },
    ]
}
