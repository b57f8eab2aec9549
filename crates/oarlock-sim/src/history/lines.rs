//! Histories as text: one JSON object a line, flat, so that any program can write one.
//!
//! ```text
//! {"at":17,"event":"opened","client":3,"node":1}
//! {"at":18,"event":"lock","client":3,"handle":1,"space":0,"name":"jobs/7","mode":"EX"}
//! {"at":40,"event":"granted","client":3,"handle":1,"mode":"EX","fence":17592186044423,"local":1}
//! {"at":90,"event":"unlock","client":3,"handle":1}
//! {"at":95,"event":"died","client":3}
//! ```

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;
use serde::{Deserialize, Serialize};

use super::{Ask, Block, End, Event, Mark, Told, What};

/// One line, field by field. Fields that a kind of event has no use for are absent.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Line {
    at: u64,
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    flags: u32,
    #[serde(skip_serializing_if = "is_zero")]
    timeout_ms: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<u64>,
    /// The value block in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid: Option<bool>,
    #[serde(skip_serializing_if = "is_false")]
    invalidate: bool,
    #[serde(skip_serializing_if = "is_false")]
    alternate: bool,
    /// The number behind `OAR-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// Why a line is not an event.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

const MARKS: [(&str, Mark); 7] = [
    ("storm", Mark::Storm),
    ("calm", Mark::Calm),
    ("polite", Mark::Polite),
    ("polite-end", Mark::PoliteEnd),
    ("drained", Mark::Drained),
    ("node-gone", Mark::NodeGone(None)),
    ("new-cluster", Mark::NewCluster),
];

/// The event as one line of JSON, without the line's end.
pub fn write_line(event: &Event) -> String {
    let mut line = Line { at: event.at, ..Line::default() };
    match &event.what {
        What::Opened { client, node } => {
            line.event = "opened".into();
            (line.client, line.node) = (Some(*client), Some(*node));
        }
        What::Asked { client, handle, ask } => {
            (line.client, line.handle) = (Some(*client), Some(*handle));
            asked(&mut line, ask);
        }
        What::Told { client, handle, told } => {
            (line.client, line.handle) = (Some(*client), Some(*handle));
            self::told(&mut line, told);
        }
        What::Ended { client, how } => {
            line.event = if *how == End::Died { "died" } else { "lost" }.into();
            line.client = Some(*client);
        }
        What::Mark(mark) => {
            let mut mark = *mark;
            if let Mark::NodeGone(node) = &mut mark {
                line.node = node.take();
            }
            let (name, _) = MARKS.iter().find(|(_, m)| *m == mark).expect("every mark has a name");
            line.event = (*name).into();
        }
    }
    serde_json::to_string(&line).expect("a struct of numbers and texts")
}

fn asked(line: &mut Line, ask: &Ask) {
    match ask {
        Ask::Lock { space, name, mode, flags, timeout_ms } => {
            line.event = "lock".into();
            (line.space, line.name) = (Some(*space), Some(name.to_string()));
            (line.mode, line.flags, line.timeout_ms) = (Some(mode.to_string()), flags.bits(), *timeout_ms);
        }
        Ask::Convert { mode, flags, timeout_ms, value } => {
            line.event = "convert".into();
            (line.mode, line.flags, line.timeout_ms) = (Some(mode.to_string()), flags.bits(), *timeout_ms);
            line.value = value.as_deref().map(hex);
        }
        Ask::Unlock { value, invalidate } => {
            line.event = "unlock".into();
            (line.value, line.invalidate) = (value.as_deref().map(hex), *invalidate);
        }
        Ask::Cancel => line.event = "cancel".into(),
    }
}

fn told(line: &mut Line, told: &Told) {
    match told {
        Told::Granted { mode, token, value, alternate } => {
            line.event = "granted".into();
            (line.mode, line.alternate) = (Some(mode.to_string()), *alternate);
            if let Some(token) = token {
                (line.fence, line.local) = (Some(token.fence.number()), Some(token.local));
            }
            if let Some(value) = value {
                (line.sequence, line.valid) = (Some(value.sequence), Some(value.valid));
                line.value = Some(hex(&value.bytes));
            }
        }
        Told::Token { token } => {
            line.event = "token".into();
            (line.fence, line.local) = (Some(token.fence.number()), Some(token.local));
        }
        Told::Released => line.event = "released".into(),
        Told::Failed { code } => {
            line.event = "failed".into();
            line.code = Some(code.number());
        }
        Told::Blocking { wanted } => {
            line.event = "blocking".into();
            line.mode = Some(wanted.to_string());
        }
    }
}

/// All events of a text; empty lines are skipped.
pub fn read_lines(text: &str) -> Result<Vec<Event>, LineError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(n, line)| read_line(line).map_err(|why| LineError { line: n + 1, why })).collect()
}

fn read_line(text: &str) -> Result<Event, String> {
    let line: Line = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let what = match line.event.as_str() {
        "opened" => What::Opened { client: need(line.client, "client")?, node: need(line.node, "node")? },
        "died" => What::Ended { client: need(line.client, "client")?, how: End::Died },
        "lost" => What::Ended { client: need(line.client, "client")?, how: End::Lost },
        "lock" | "convert" | "unlock" | "cancel" => What::Asked {
            client: need(line.client, "client")?,
            handle: need(line.handle, "handle")?,
            ask: read_ask(&line)?,
        },
        "granted" | "token" | "released" | "failed" | "blocking" => What::Told {
            client: need(line.client, "client")?,
            handle: need(line.handle, "handle")?,
            told: read_told(&line)?,
        },
        other => {
            let mark = MARKS.iter().find(|(name, _)| *name == other);
            match mark.ok_or_else(|| format!("no event is called {other:?}"))?.1 {
                Mark::NodeGone(_) => What::Mark(Mark::NodeGone(line.node)),
                mark => What::Mark(mark),
            }
        }
    };
    Ok(Event { at: line.at, what })
}

fn need<T>(field: Option<T>, name: &str) -> Result<T, String> {
    field.ok_or_else(|| format!("{name} is missing"))
}

fn read_mode(line: &Line) -> Result<Mode, String> {
    let text = line.mode.as_deref().ok_or("mode is missing")?;
    text.parse().map_err(|e| format!("{text:?} is {e}"))
}

fn read_ask(line: &Line) -> Result<Ask, String> {
    let flags = || Flags::from_bits(line.flags).ok_or_else(|| format!("unknown flags in {:#x}", line.flags));
    let value = || line.value.as_deref().map(unhex).transpose();
    Ok(match line.event.as_str() {
        "lock" => Ask::Lock {
            space: line.space.unwrap_or(0),
            name: Name::new(&Name::unescape(line.name.as_deref().ok_or("name is missing")?))
                .map_err(|e| e.to_string())?,
            mode: read_mode(line)?,
            flags: flags()?,
            timeout_ms: line.timeout_ms,
        },
        "convert" => Ask::Convert {
            mode: read_mode(line)?,
            flags: flags()?,
            timeout_ms: line.timeout_ms,
            value: value()?,
        },
        "unlock" => Ask::Unlock { value: value()?, invalidate: line.invalidate },
        _ => Ask::Cancel,
    })
}

fn read_token(line: &Line) -> Result<Token, String> {
    let fence = Fence::from_number(need(line.fence, "fence")?);
    Ok(Token { fence, local: need(line.local, "local")? })
}

fn read_told(line: &Line) -> Result<Told, String> {
    Ok(match line.event.as_str() {
        "granted" => Told::Granted {
            mode: read_mode(line)?,
            token: line.fence.map(|_| read_token(line)).transpose()?,
            value: match &line.value {
                Some(text) => Some(Box::new(Value {
                    sequence: need(line.sequence, "sequence")?,
                    valid: need(line.valid, "valid")?,
                    bytes: *unhex(text)?,
                })),
                None => None,
            },
            alternate: line.alternate,
        },
        "token" => Told::Token { token: read_token(line)? },
        "released" => Told::Released,
        "failed" => {
            let number = need(line.code, "code")?;
            Told::Failed { code: Code::from_number(number).ok_or_else(|| format!("no code is {number}"))? }
        }
        _ => Told::Blocking { wanted: read_mode(line)? },
    })
}

fn hex(bytes: &Block) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Result<Box<Block>, String> {
    let wrong = || format!("a value block is {} hexadecimal digits", 2 * VALUE_BYTES);
    if text.len() != 2 * VALUE_BYTES || !text.is_ascii() {
        return Err(wrong());
    }
    let mut block = Box::new([0; VALUE_BYTES]);
    for (i, byte) in block.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Event> {
        let name = Name::new(b"a\\b\x00\xff \"quoted\"").unwrap();
        let block = Box::new([0x5a; VALUE_BYTES]);
        let value = Box::new(Value { sequence: u64::MAX, valid: false, bytes: [7; VALUE_BYTES] });
        let token = Token { fence: Fence::from_number(u64::MAX), local: 3 };
        let asks = [
            Ask::Lock { space: 1, name, mode: Mode::CW, flags: Flags::all(), timeout_ms: 9 },
            Ask::Convert { mode: Mode::PR, flags: Flags::VALBLK, timeout_ms: 0, value: Some(block.clone()) },
            Ask::Unlock { value: Some(block), invalidate: true },
            Ask::Unlock { value: None, invalidate: false },
            Ask::Cancel,
        ];
        let tolds = [
            Told::Granted { mode: Mode::EX, token: Some(token), value: Some(value), alternate: true },
            Told::Granted { mode: Mode::NL, token: Some(token), value: None, alternate: false },
            Told::Granted { mode: Mode::PW, token: None, value: None, alternate: false },
            Told::Token { token },
            Told::Released,
            Told::Failed { code: Code::Busy },
            Told::Blocking { wanted: Mode::PW },
        ];
        let mut whats = vec![What::Opened { client: 4, node: 2 }];
        whats.extend(asks.map(|ask| What::Asked { client: 4, handle: 1, ask }));
        whats.extend(tolds.map(|told| What::Told { client: 4, handle: 1, told }));
        whats.extend([End::Died, End::Lost].map(|how| What::Ended { client: 4, how }));
        whats.extend(MARKS.map(|(_, mark)| What::Mark(mark)));
        whats.into_iter().enumerate().map(|(n, what)| Event { at: n as u64 * 7, what }).collect()
    }

    #[test]
    fn every_event_survives_its_line() {
        let events = every_kind();
        let text: Vec<String> = events.iter().map(write_line).collect();
        assert_eq!(read_lines(&text.join("\n")).unwrap(), events);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let wrong = |line: &str| read_lines(&format!("\n{line}")).unwrap_err().to_string();
        assert!(wrong("{").starts_with("line 2: "));
        assert!(wrong(r#"{"at":1,"event":"explode"}"#).contains("no event is called"));
        assert!(wrong(r#"{"at":1,"event":"died"}"#).contains("client is missing"));
        assert!(wrong(r#"{"at":1,"event":"unlock","client":1,"handle":1,"value":"00"}"#).contains("128"));
        assert!(wrong(r#"{"at":1,"event":"calm","colour":1}"#).contains("colour"));
        let mode = r#"{"at":1,"event":"lock","client":1,"handle":1,"name":"x","mode":"XX"}"#;
        assert!(wrong(mode).contains("not a lock mode"));
    }
}
