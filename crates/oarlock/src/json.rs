//! Just enough JSON to read the file in which a development cluster describes itself.
//!
//! The library has one such file to read, so it takes no JSON library along. Depth is bounded, input is
//! bounded by the caller, and anything unexpected means "not such a file".

/// A value. Numbers and words stay text: nothing here computes with them.
#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    Object(Vec<(String, Value)>),
    Array(Vec<Value>),
    Text(String),
    /// A number, `true`, `false` or `null`.
    Bare(String),
}

/// Nobody nests this deep on purpose.
const DEPTH_MAX: usize = 16;

impl Value {
    pub(crate) fn members(&self) -> Option<&[(String, Value)]> {
        match self {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.members()?.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number(&self) -> Option<&str> {
        match self {
            Value::Bare(word) if word.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => Some(word),
            _ => None,
        }
    }
}

/// Reads a whole document.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let mut rest = text;
    let value = value(&mut rest, 0)?;
    rest.trim_start().is_empty().then_some(value)
}

fn take(rest: &mut &str, expected: char) -> Option<()> {
    *rest = rest.trim_start().strip_prefix(expected)?;
    Some(())
}

fn value(rest: &mut &str, depth: usize) -> Option<Value> {
    *rest = rest.trim_start();
    match rest.chars().next()? {
        '{' | '[' if depth == DEPTH_MAX => None,
        '{' => {
            let mut members = Vec::new();
            items(rest, '{', '}', |rest| {
                *rest = rest.trim_start();
                let key = text(rest)?;
                take(rest, ':')?;
                members.push((key, value(rest, depth + 1)?));
                Some(())
            })?;
            Some(Value::Object(members))
        }
        '[' => {
            let mut elements = Vec::new();
            items(rest, '[', ']', |rest| {
                elements.push(value(rest, depth + 1)?);
                Some(())
            })?;
            Some(Value::Array(elements))
        }
        '"' => text(rest).map(Value::Text),
        _ => {
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            *rest = after;
            (!word.is_empty()).then(|| Value::Bare(word.into()))
        }
    }
}

fn items<'a>(
    rest: &mut &'a str,
    open: char,
    close: char,
    mut item: impl FnMut(&mut &'a str) -> Option<()>,
) -> Option<()> {
    take(rest, open)?;
    if take(rest, close).is_some() {
        return Some(());
    }
    loop {
        item(rest)?;
        if take(rest, ',').is_none() {
            return take(rest, close);
        }
    }
}

fn text(rest: &mut &str) -> Option<String> {
    let mut chars = rest.strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => out.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => escaped(&mut chars)?,
                c @ ('"' | '\\' | '/') => c,
                _ => return None,
            }),
            c if c.is_control() => return None,
            c => out.push(c),
        }
    }
    *rest = chars.as_str();
    Some(out)
}

/// `\uXXXX`, and the second half of a pair if this is the first.
fn escaped(chars: &mut std::str::Chars<'_>) -> Option<char> {
    let first = four_digits(chars)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    if (chars.next()?, chars.next()?) != ('\\', 'u') {
        return None;
    }
    let second = four_digits(chars)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)
}

fn four_digits(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    (0..4).try_fold(0, |n, _| Some(n * 16 + chars.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_as_written() {
        let document =
            parse(r#" { "a" : [ 1 , -2.5e3, true, {} ], "b\u00e4\ud83d\ude00" : "x\"\\\n" } "#).unwrap();
        let bare = |word: &str| Value::Bare(word.into());
        let list = Value::Array(vec![bare("1"), bare("-2.5e3"), bare("true"), Value::Object(vec![])]);
        assert_eq!(document.get("a"), Some(&list));
        assert_eq!(document.get("bä😀").unwrap().text(), Some("x\"\\\n"));
        assert_eq!(bare("true").number(), None);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{\"a\"}", "[1,]", "{} x", "\"\\q\"", "\"\\ud800x\"", "\"\\udc00\"", "\"\n\""] {
            assert_eq!(parse(text), None, "{text}");
        }
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        assert_eq!(parse(&deep), None);
    }
}
