//! Finds definitions in Rust text, without a parser: what the compiler accepts has these shapes.

use super::tree::File;

/// A function with everything that belongs to it.
pub(super) struct Item<'t> {
    pub(super) name: String,
    /// Comments and attributes above it, signature and body.
    pub(super) text: &'t str,
    /// An attribute above it says that it is a test.
    pub(super) test: bool,
}

/// Words that introduce a name.
const KEYWORDS: &[&str] = &[
    "fn",
    "struct",
    "enum",
    "trait",
    "union",
    "const",
    "static",
    "mod",
    "type",
    "macro_rules!",
    "impl",
    "for",
];

/// Does masked code define (or implement) this name, or have it as a variant or field?
pub(super) fn defines(code: &str, name: &str) -> bool {
    let boundary = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].trim_end_matches([' ', '&']);
        let after = &code[at + name.len()..];
        let whole = boundary(code[..at].chars().next_back()) && boundary(after.chars().next());
        let introduced = KEYWORDS.iter().any(|word| before.ends_with(word));
        let generic = before.ends_with('>')
            && before.rsplit('\n').next().is_some_and(|l| l.trim_start().starts_with("impl"));
        // A variant or a field is the first word of its line; a call may be too, but not with a capital.
        let line = code[..at].rsplit('\n').next().unwrap_or_default().trim();
        let variant = name.starts_with(char::is_uppercase) && after.starts_with(['(', ' ', ',']);
        let listed = (line.is_empty() || line == "pub") && (variant || after.starts_with(": "));
        whole && (introduced || generic || listed)
    })
}

/// All functions of a Rust file.
pub(super) fn functions(file: &File) -> Vec<Item<'_>> {
    let code = &file.code;
    let mut items = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(end) = end(code, at) else { continue };
        if name.is_empty() {
            continue;
        }
        let start = start(&file.text, at);
        let attributes = &code[start..at];
        let test = attributes.contains("#[test]")
            || attributes.contains("::test]")
            || attributes.contains("::test(");
        items.push(Item { name, text: &file.text[start..end], test });
    }
    items
}

/// The end of the body of the function whose `fn` stands at `at`; none for a declaration.
fn end(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, c) in code[at..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return None,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + i + 1);
                }
            }
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The start of the comments and attributes above the line of `at`.
fn start(text: &str, at: usize) -> usize {
    let mut start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    while start > 0 {
        let above = text[..start - 1].rfind('\n').map_or(0, |n| n + 1);
        let line = text[above..start - 1].trim();
        if !line.starts_with("//") && !line.starts_with("#[") {
            break;
        }
        start = above;
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_come_with_their_comments_and_bodies() {
        let text = "use x;\n\n/// Says C1.\n#[test]\nfn a() {\n    if b { c() }\n}\n\ntrait T {\n    fn d();\n}\n\
                    async fn e() {}\n";
        let file = File::new("a.rs".into(), text.into());
        let items = functions(&file);
        let names: Vec<&str> = items.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["a", "e"]);
        assert!(items[0].test && !items[1].test);
        assert!(items[0].text.starts_with("/// Says C1.") && items[0].text.ends_with("c() }\n}"));
    }

    #[test]
    fn definitions_are_found_and_uses_are_not() {
        let code = "pub struct Queue<T> {\n    head: T,\n}\nenum Kind {\n    New,\n    Old(u8),\n}\nimpl<T> Queue<T> {}\n\
                    fn f(word: Word) {\n    call(other)\n}\n";
        for name in ["Queue", "Kind", "New", "Old", "f", "head"] {
            assert!(defines(code, name), "{name}");
        }
        for name in ["Word", "other", "call", "Que"] {
            assert!(!defines(code, name), "{name}");
        }
    }
}
