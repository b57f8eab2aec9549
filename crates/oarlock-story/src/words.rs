//! The words of a cell.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::str::Chars;
use core::time::Duration;

use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;

use crate::table::{COMPARISONS, Handle, Link, Place, Resource, WHYS};

/// Words with a meaning of their own. Nothing can be called so.
const RESERVED: &[&str] = &[
    "granted",
    "failed",
    "answered",
    "released",
    "blocking",
    "waiting",
    "lost",
    "attached",
    "after",
    "meet",
    "raised",
    "value",
    "token",
    "counter",
    "history",
    "not",
    "if",
    "else",
    "as",
    "at",
    "within",
    "node",
    "engine",
    "invalidate",
];

/// What is wrong with a cell.
pub(crate) type Wrong = String;

/// A word or a text in quotes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Word(String),
    Text(String),
}

/// Cuts a cell into commands at `;` and `<br>`, each into words.
pub(crate) fn commands(cell: &str) -> Result<Vec<Vec<Token>>, Wrong> {
    let mut all = Vec::new();
    let mut now = Vec::new();
    let mut rest = cell.chars();
    loop {
        let text = rest.as_str();
        if let Some(after) = text.strip_prefix(';').or_else(|| text.strip_prefix("<br>")) {
            all.push(core::mem::take(&mut now));
            rest = after.chars();
            continue;
        }
        match rest.clone().next() {
            None => break,
            Some(' ') => drop(rest.next()),
            Some('"') => now.push(quoted(&mut rest)?),
            Some(_) => now.push(word(&mut rest)),
        }
    }
    if !now.is_empty() {
        all.push(now);
    }
    Ok(all)
}

/// The words of a cell that is no list.
pub(crate) fn words(cell: &str) -> Result<Vec<Token>, Wrong> {
    match commands(cell)?.as_slice() {
        [] => Ok(Vec::new()),
        [one] if !cell.trim_end().ends_with(';') => Ok(one.clone()),
        _ => Err("one thing only, without `;`".into()),
    }
}

fn quoted(rest: &mut Chars<'_>) -> Result<Token, Wrong> {
    rest.next();
    let (text, after) =
        rest.as_str().split_once('"').ok_or_else(|| format!("no end of the text: \"{}", rest.as_str()))?;
    *rest = after.chars();
    Ok(Token::Text(text.into()))
}

fn word(rest: &mut Chars<'_>) -> Token {
    let text = rest.as_str();
    let ends = [text.find([' ', ';', '"']), text.find("<br>")];
    let end = ends.into_iter().flatten().min().unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after.chars();
    Token::Word(word.into())
}

/// Reads words one after the other.
pub(crate) struct Words<'a> {
    all: &'a [Token],
    at: usize,
}

impl<'a> Words<'a> {
    pub(crate) fn new(all: &'a [Token]) -> Words<'a> {
        Words { all, at: 0 }
    }

    /// The next word, without taking it.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        match self.all.get(self.at) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Takes the next word if it is this one.
    pub(crate) fn take(&mut self, wanted: &str) -> bool {
        let is = self.peek() == Some(wanted);
        self.at += usize::from(is);
        is
    }

    /// The next word; `what` says what it should be.
    pub(crate) fn word(&mut self, what: &str) -> Result<&'a str, Wrong> {
        let word = self.peek().ok_or_else(|| format!("{what} is missing"))?;
        self.at += 1;
        Ok(word)
    }

    pub(crate) fn expect(&mut self, wanted: &str) -> Result<(), Wrong> {
        if self.take(wanted) { Ok(()) } else { Err(format!("`{wanted}` is missing")) }
    }

    /// A text in quotes that fits a value block.
    pub(crate) fn text(&mut self) -> Result<String, Wrong> {
        let Some(Token::Text(text)) = self.all.get(self.at) else {
            return Err("a text in double quotes is missing".into());
        };
        self.at += 1;
        if text.len() > VALUE_BYTES {
            return Err(format!("a text has at most {VALUE_BYTES} bytes, this one has {}", text.len()));
        }
        Ok(text.clone())
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self.all.get(self.at), Some(Token::Text(_)))
    }

    /// A name: a letter, then letters, digits, `-` and `_`.
    pub(crate) fn name(&mut self, what: &str) -> Result<String, Wrong> {
        name(self.word(what)?, what)
    }

    pub(crate) fn mode(&mut self) -> Result<Mode, Wrong> {
        let word = self.word("a mode")?;
        self.mode_of(word)
            .ok_or_else(|| format!("`{word}` is no mode; the modes are NL, CR, CW, PR, PW and EX"))
    }

    fn mode_of(&self, word: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == word)
    }

    /// A mode, if one stands here.
    pub(crate) fn some_mode(&mut self) -> Option<Mode> {
        let mode = self.mode_of(self.peek()?)?;
        self.at += 1;
        Some(mode)
    }

    /// As many flags as stand here.
    pub(crate) fn flags(&mut self) -> Flags {
        let mut flags = Flags::empty();
        while let Some(flag) = self.peek().and_then(Flags::from_name) {
            flags |= flag;
            self.at += 1;
        }
        flags
    }

    pub(crate) fn within(&mut self) -> Result<Option<Duration>, Wrong> {
        if !self.take("within") {
            return Ok(None);
        }
        let time = self.duration()?;
        if time.as_millis() == 0 || !time.as_micros().is_multiple_of(1_000) {
            return Err("a request can give up after whole milliseconds only".into());
        }
        Ok(Some(time))
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, Wrong> {
        let word = self.word("a time")?;
        duration(word).ok_or_else(|| format!("`{word}` is no time; write 500us, 20ms or 3s"))
    }

    pub(crate) fn node(&mut self) -> Result<Place, Wrong> {
        let word = self.word("a node")?;
        let mut letters = word.strip_prefix("node-").unwrap_or_default().chars();
        match (letters.next(), letters.next()) {
            (Some(c @ 'a'..='z'), None) => Ok(Place(c as u16 - 'a' as u16)),
            _ => Err(format!("`{word}` is no node; nodes are node-a to node-z")),
        }
    }

    pub(crate) fn link(&mut self) -> Result<Link, Wrong> {
        let from = self.node()?;
        let one_way = self.take("->");
        let to = self.node()?;
        if from == to {
            return Err("a node is not cut from itself".into());
        }
        Ok(Link { from, to, one_way })
    }

    pub(crate) fn resource(&mut self) -> Result<Resource, Wrong> {
        let word = self.word("a resource")?;
        let (strict, rest) = match word.split_once(':') {
            None => (false, word),
            Some(("strict", rest)) => (true, rest),
            Some((space, _)) => {
                return Err(format!("there is no lockspace `{space}`; write NAME or strict:NAME"));
            }
        };
        if rest.is_empty() || rest.contains(':') || rest.len() > 200 {
            return Err(format!("`{word}` is no resource"));
        }
        Ok(Resource { strict, name: rest.into() })
    }

    /// A lock of this flow.
    pub(crate) fn handle(&mut self) -> Result<String, Wrong> {
        self.name("a lock")
    }

    /// A lock of this flow or, with `FLOW.`, of another.
    pub(crate) fn any_handle(&mut self) -> Result<Handle, Wrong> {
        let word = self.word("a lock")?;
        Ok(match word.split_once('.') {
            Some((flow, rest)) => Handle { flow: Some(name(flow, "a flow")?), name: name(rest, "a lock")? },
            None => Handle { flow: None, name: name(word, "a lock")? },
        })
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), Wrong> {
        match self.all.get(self.at) {
            None => Ok(()),
            Some(Token::Word(word)) => Err(format!("`{word}` has no meaning here")),
            Some(Token::Text(text)) => Err(format!("\"{text}\" has no meaning here")),
        }
    }
}

/// Checks a name.
pub(crate) fn name(word: &str, what: &str) -> Result<String, Wrong> {
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !word.starts_with(|c: char| c.is_ascii_alphabetic()) || !word.chars().all(letters) {
        return Err(format!("`{word}` is no name of {what}: a letter, then letters, digits, `-` and `_`"));
    }
    let taken = RESERVED.contains(&word)
        || WHYS.iter().any(|(why, _)| *why == word)
        || COMPARISONS.iter().any(|(sign, _)| *sign == word)
        || Flags::from_name(word).is_some()
        || Mode::ALL.iter().any(|mode| mode.name() == word);
    if taken {
        return Err(format!("`{word}` has a meaning of its own and cannot be the name of {what}"));
    }
    Ok(word.to_string())
}

fn duration(word: &str) -> Option<Duration> {
    let unit = word.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = word[..unit].parse().ok()?;
    // An hour of it is more than any storyboard needs.
    let time = match &word[unit..] {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    (time <= Duration::from_secs(3600)).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_end_at_semicolons_and_breaks_but_not_in_texts() {
        let all = commands("lock r EX; say \"a; b<br>c\"<br>raise x").unwrap();
        let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
        assert_eq!(lengths, [3, 2, 2]);
        assert_eq!(all[1][1], Token::Text("a; b<br>c".into()));
        assert!(commands("say \"no end").is_err());
    }

    #[test]
    fn times_are_whole_and_have_a_unit() {
        assert_eq!(duration("20ms"), Some(Duration::from_millis(20)));
        for wrong in ["20", "ms", "2h", "-1s", "1.5s", "99999s", "99999999999999999999s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn words_with_a_meaning_are_no_names() {
        for word in ["granted", "busy", "EX", "NOQUEUE", "if", "1st", "a.b", ""] {
            assert!(name(word, "a state").is_err(), "{word}");
        }
        assert_eq!(name("c-waits_2", "an event").as_deref(), Ok("c-waits_2"));
    }
}
