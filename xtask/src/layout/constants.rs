//! Constants and error codes with the sentences beside them.

/// A table of `pub const` items.
pub(super) fn table(source: &str) -> String {
    let mut rows = String::from("| constant | value | why |\n| --- | --- | --- |\n");
    let mut doc = String::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            doc += if doc.is_empty() { "" } else { " " };
            doc += text;
        } else if let Some((name, value)) = constant(line) {
            rows += &format!("| `{name}` | `{value}` | {} |\n", plain(&doc));
            doc.clear();
        } else {
            doc.clear();
        }
    }
    rows
}

/// Name and value of a constant on one line.
fn constant(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
    let (_, value) = rest.split_once('=')?;
    Some((name, value.trim().strip_suffix(';')?))
}

/// A table of the error codes: number, name, exit status, meaning.
pub(super) fn codes(source: &str) -> String {
    let mut rows = String::from("| code | name | exit | meaning |\n| --- | --- | --- | --- |\n");
    let mut doc = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            doc += if doc.is_empty() { "" } else { " " };
            doc += text;
            continue;
        }
        let parts = line.strip_suffix(';').and_then(|l| l.split_once(" = ")).and_then(|(name, rest)| {
            let (number, exit) = rest.split_once(", exit ")?;
            Some((name, number.parse::<u16>().ok()?, exit))
        });
        if let Some((name, number, exit)) = parts {
            rows += &format!("| OAR-{number} | `{name}` | {exit} | {} |\n", plain(&doc));
        }
        doc.clear();
    }
    rows
}

/// A table of the request flags: bit, name, meaning.
pub(super) fn flags(source: &str) -> String {
    let mut rows = String::from("| bit | flag | meaning |\n| --- | --- | --- |\n");
    let mut doc = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            doc += if doc.is_empty() { "" } else { " " };
            doc += text;
            continue;
        }
        let flag = line
            .strip_prefix("const ")
            .and_then(|l| l.strip_suffix(';'))
            .and_then(|l| l.split_once(" = 1 << "));
        if let Some((name, bit)) = flag {
            rows += &format!("| {bit} | `{name}` | {} |\n", plain(&doc));
        }
        doc.clear();
    }
    rows
}

/// Links of the documentation tool become plain words, bars would end a cell.
fn plain(doc: &str) -> String {
    doc.replace("[`", "`").replace("`]", "`").replace('|', "or")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_with_their_bits() {
        assert!(flags("    /// Now.\n    const NOQUEUE = 1 << 0;\n").ends_with("| 0 | `NOQUEUE` | Now. |\n"));
    }

    #[test]
    fn constants_and_codes_come_with_their_sentences() {
        let source = "/// Longest name.\n/// One byte.\npub const NAME_MAX: usize = 255;\nconst X: u8 = 1;\n";
        assert!(table(source).ends_with("| `NAME_MAX` | `255` | Longest name. One byte. |\n"));
        let source = "    /// Busy, see [`X`].\n    Busy = 2101, exit 75;\n";
        assert!(codes(source).ends_with("| OAR-2101 | `Busy` | 75 | Busy, see `X`. |\n"));
    }
}
