//! Questions about what a node keeps without a program: branches of lockspaces, and orphans. As JSON documents, since the daemon
//! answers people with the same.

use std::fmt::Write;

use oarlock_layout::code::Code;
use oarlock_layout::name::Escaped;

use crate::error::{Error, Result};
use crate::json::{self, Value};

/// A string as JSON has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// What is done with a branch.
pub(crate) enum Step {
    Find,
    Open { exclusive: bool },
    Close { force: bool },
}

pub(crate) fn branch(space: &str, branch: &str, step: &Step) -> String {
    let (space, branch) = (quoted(space), quoted(branch));
    let step = match step {
        Step::Find => format!(r#"{{"find":{{"branch":{branch}}}}}"#),
        Step::Open { exclusive } => format!(r#"{{"open":{{"branch":{branch},"exclusive":{exclusive}}}}}"#),
        Step::Close { force } => format!(r#"{{"close":{{"branch":{branch},"force":{force}}}}}"#),
    };
    format!(r#"{{"ask":"branch","space":{space},"step":{step}}}"#)
}

pub(crate) fn purge(space: &str, prefix: &[u8], pid: Option<u32>) -> String {
    let (space, prefix) = (quoted(space), quoted(&Escaped(prefix).to_string()));
    let pid = pid.map_or("null".into(), |pid| pid.to_string());
    format!(r#"{{"ask":"purge","space":{space},"prefix":{prefix},"pid":{pid}}}"#)
}

/// How often the branch is open by now.
pub(crate) fn opened(answer: &str) -> Result<u32> {
    let read = || match json::parse(answer)?.get("branches")? {
        Value::Array(branches) => branches.first()?.get("opened")?.number()?.parse().ok(),
        _ => None,
    };
    read().ok_or_else(|| strange(answer))
}

/// How many orphans were given back.
pub(crate) fn purged(answer: &str) -> Result<u64> {
    json::parse(answer).and_then(|it| it.get("purged")?.number()?.parse().ok()).ok_or_else(|| strange(answer))
}

/// Which member the node is that answered about itself.
pub(crate) fn member(answer: &str) -> Result<u16> {
    let read = || match json::parse(answer)?.get("members")? {
        Value::Array(members) => {
            let this = |it: &&Value| it.get("this") == Some(&Value::Bare("true".into()));
            members.iter().find(this)?.get("id")?.number()?.parse().ok()
        }
        _ => None,
    };
    read().ok_or_else(|| strange(answer))
}

fn strange(answer: &str) -> Error {
    let why = format!("the daemon answered {answer:?}");
    Error::new(Code::SessionMalformed, "cannot read an answer", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_json_whatever_the_names_are() {
        let text = branch("dlm", "a\"b\\\n", &Step::Open { exclusive: true });
        let read = json::parse(&text).unwrap();
        let open = read.get("step").and_then(|step| step.get("open")).unwrap();
        assert_eq!(open.get("branch").and_then(Value::text), Some("a\"b\\\n"));
        assert_eq!(open.get("exclusive"), Some(&Value::Bare("true".into())));
        let read = json::parse(&purge("x", b"v/\xff", Some(7))).unwrap();
        assert_eq!(read.get("prefix").and_then(Value::text), Some("v/\\xff"));
        assert_eq!(read.get("pid").and_then(Value::number), Some("7"));
    }

    #[test]
    fn answers_are_read_or_said_to_be_strange() {
        assert_eq!(opened(r#"{"v":1,"branches":[{"name":"a","opened":2}]}"#).unwrap(), 2);
        assert_eq!(purged(r#"{"v":1,"purged":3}"#).unwrap(), 3);
        let members = r#"{"members":[{"id":4,"this":false},{"id":7,"this":true}]}"#;
        assert_eq!(member(members).unwrap(), 7);
        assert_eq!(opened("{}").unwrap_err().code(), Code::SessionMalformed);
    }
}
