//! `cargo xtask layout`: writes `docs/layout.md` from the sources of `oarlock-layout`.
//!
//! The page cannot drift from the code: it is made of the encoders (every field in the order it is written,
//! with its width), of the constants with the sentences beside them, and of the golden files. `cargo xtask
//! tidy` compares.

mod constants;
mod encoders;

use std::fs;

use crate::context::{Context, Failure};

/// The page.
pub(crate) const PAGE: &str = "docs/layout.md";

const HEAD: &str = "\
# Layout: what travels, byte by byte

Made by `cargo xtask layout` from `crates/oarlock-layout`; `cargo xtask tidy` fails when it is out of date.

Numbers are little-endian and have fixed widths. `mode` is one byte (NL 0, CR 1, CW 2, PR 3, PW 4, EX 5), and 255
where there may be none. A bool is one byte, 0 or 1. `0 or 1, then …` is such a byte and, after a 1, the named
content. A name is one byte of length and 1 to 255 bytes; a label the same with at most 64 bytes of UTF-8; bytes
have four bytes of length. A decoder refuses everything else, so each message has exactly one encoding.
";

/// Conversations: heading, source file below `src/message`, types in the order to show them.
const MESSAGES: &[(&str, &str, &[&str])] = &[
    ("Between nodes", "peer.rs", &["PeerMessage"]),
    ("Masters and shadows", "lock.rs", &["Packet", "Info", "Conv", "Head", "Kind", "Reason", "Remains"]),
    ("Another view", "barrier.rs", &["Barrier", "Lost", "Member", "Report"]),
    ("Questions of people", "look.rs", &["Look", "Seen", "What", "Party", "Token"]),
    (
        "A search for deadlocks",
        "trace.rs",
        &["Trace", "Traced", "Sight", "Hold", "Wait", "Since", "WaitId", "Verdict", "Link", "Broken"],
    ),
    ("A program and its node", "session.rs", &["Request", "Reply", "Failure"]),
];

/// Writes the page.
pub(crate) fn write(context: &Context) -> Result<String, Failure> {
    let text = page(context)?;
    fs::write(context.root.join(PAGE), &text).map_err(|e| format!("{PAGE}: {e}"))?;
    Ok(format!("{PAGE}, {} lines", text.lines().count()))
}

/// The page as it should be.
pub(crate) fn page(context: &Context) -> Result<String, Failure> {
    let source = |file: &str| context.read(&format!("crates/oarlock-layout/src/{file}"));
    let mut page = String::from(HEAD);

    let frame = source("message/frame.rs")?;
    page += "\n## Datagrams\n\n";
    page += &drawing(&frame);
    page += &constants::table(&frame);

    for (heading, file, types) in MESSAGES {
        let text = source(&format!("message/{file}"))?;
        page += &format!("\n## {heading}\n");
        for name in *types {
            page += &encoders::table(&text, name).ok_or(format!("{file} encodes no {name}"))?;
        }
    }

    page += "\n## Flags of a request\n\nFour bytes, one bit each; an unknown bit is refused.\n\n";
    page += &constants::flags(&source("flags.rs")?);

    page += "\n## Golden bytes\n\nOne message of every kind as version 1 writes it; the bytes stand in the named files.\n";
    for conversation in ["peer", "request", "reply"] {
        let path = format!("crates/oarlock-layout/testdata/{conversation}.v1.txt");
        page += &format!("\n| `{path}` | bytes |\n| --- | --- |\n");
        page += &golden(&context.read(&path)?);
    }

    page += "\n## Limits\n\n";
    page += &constants::table(&source("limit.rs")?);
    page += "\n## Codes\n\nPrinted as `OAR-2101`; the number never gets another meaning.\n\n";
    page += &constants::codes(&source("code.rs")?);
    match page.lines().find(|l| l.starts_with("| ?")) {
        Some(row) => {
            Err(format!("an encoder has a line that xtask/src/layout/encoders.rs cannot read: {row}"))
        }
        None => Ok(page),
    }
}

/// The first drawing of a module's documentation.
fn drawing(source: &str) -> String {
    let lines = source.lines().map_while(|l| l.strip_prefix("//!")).map(|l| l.strip_prefix(' ').unwrap_or(l));
    let mut drawn = String::new();
    let mut inside = false;
    for line in lines {
        if line.starts_with("```") {
            drawn += if inside { "```\n\n" } else { "```text\n" };
            if inside {
                break;
            }
            inside = true;
        } else if inside {
            drawn += line;
            drawn += "\n";
        }
    }
    drawn
}

/// Names and sizes of a golden file's messages.
fn golden(text: &str) -> String {
    let mut rows = String::new();
    for message in text.split("\n\n").filter(|m| !m.trim().is_empty()) {
        let (name, bytes) = message.split_once('\n').unwrap_or((message, ""));
        rows += &format!("| {name} | {} |\n", bytes.split_whitespace().count());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_messages_are_counted() {
        assert_eq!(golden("a\n    01 02\n    03\n\nb\n    04\n\n"), "| a | 3 |\n| b | 1 |\n");
    }

    #[test]
    fn the_first_drawing_is_taken() {
        assert_eq!(
            drawing("//! x\n//! ```text\n//!  a\n//! ```\n//! ```\n//! b\n//! ```\n"),
            "```text\n a\n```\n\n"
        );
    }
}
