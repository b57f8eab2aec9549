//! Rust text with comments and literals blanked.

/// Replaces every byte of a comment, string or character literal by a blank; line ends stay, so that places
/// stay. It knows nested block comments, raw strings and lifetimes; that is all it takes for sources that
/// the compiler accepts.
pub(crate) fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'/' if bytes[i..].starts_with(b"//") => find(bytes, i, b"\n"),
            b'/' if bytes[i..].starts_with(b"/*") => block_end(bytes, i),
            b'"' => string_end(bytes, i + 1),
            b'r' | b'b' | b'c' if !joined(bytes, i) => match prefixed_end(bytes, i) {
                Some(end) => end,
                None => i,
            },
            b'\'' => character_end(bytes, i),
            _ => i,
        };
        for byte in &mut out[i..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        i = end.max(i + 1);
    }
    String::from_utf8(out).expect("whole characters were blanked")
}

/// Is this byte inside a longer word?
fn joined(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    bytes[from..].windows(what.len()).position(|w| w == what).map_or(bytes.len(), |n| from + n)
}

fn block_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut i) = (0, from);
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    bytes.len()
}

/// The end of a string whose opening quote is behind us.
fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut i = from;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// The end of a literal that starts with `r`, `b`, `c`, `br` or `cr`, if it is one.
fn prefixed_end(bytes: &[u8], at: usize) -> Option<usize> {
    let letters = bytes[at..].iter().take(2).take_while(|b| b"rbc".contains(b)).count();
    let raw = bytes[at..at + letters].contains(&b'r');
    let hashes = bytes[at + letters..].iter().take_while(|b| **b == b'#').count();
    let quote = at + letters + hashes;
    if bytes.get(quote) != Some(&b'"') || (hashes > 0 && !raw) {
        // `b'x'` is a character; its quote is seen next.
        return None;
    }
    if !raw {
        return Some(string_end(bytes, quote + 1));
    }
    let close: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
    Some((find(bytes, quote + 1, &close) + close.len()).min(bytes.len()))
}

/// The end of a character literal; the same place if the quote opens a lifetime.
fn character_end(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'\\') => (find(bytes, at + 3, b"'") + 1).min(bytes.len()),
        Some(first) => {
            let width = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if bytes.get(at + 1 + width) == Some(&b'\'') { at + 2 + width } else { at }
        }
        None => at,
    }
}

#[cfg(test)]
mod tests {
    use super::mask;

    fn check(text: &str, expected: &str) {
        assert_eq!(mask(text), expected);
    }

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("x\"y", 1)"#, "f(      , 1)");
        check(r##"f(r#"x"y"#, 1)"##, "f(        , 1)");
        check("f(b\"x\", br\"y\\\", z)", "f(    ,       , z)");
        check("let c = 'x';", "let c =    ;");
        check("let c = '\\'';", "let c =     ;");
        check("let c = 'ä';", "let c =     ;");
    }

    #[test]
    fn lifetimes_and_words_with_r_are_code() {
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("for r in b", "for r in b");
        check("number\"x\"", "number   ");
    }
}
