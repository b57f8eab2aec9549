//! Reads the fields of a message off its encoder.
//!
//! An encoder of this project is a list of `out.u64(self.n);` in the order of the bytes, inside a `match` where
//! the message has kinds. What is read here is that list. A line of another shape makes a row that begins with
//! `?`, and no page is written.

/// Tables of the fields that `impl Wire for NAME` writes, one per kind; none if there is no such block.
pub(super) fn table(source: &str, name: &str) -> Option<String> {
    let start = source.find(&format!("impl Wire for {name} {{"))?;
    let body = &source[start..];
    let begin = body.find("fn encode(")?;
    let body = &body[begin..];
    let end = body.find("\n    }\n")?;
    let fields = fields(source, &statements(&body[body.find('{')? + 1..end]));

    let mut page = format!("\n### {name}\n\n| field | bytes |\n| --- | --- |\n");
    for field in fields {
        page += &match field {
            Field::Kind(kind) => format!("| **{kind}** | |\n"),
            Field::Bytes { what, width } => format!("| {what} | {width} |\n").replace("|  |", "| |"),
        };
    }
    Some(page)
}

#[derive(Debug, PartialEq)]
enum Field {
    /// What follows belongs to this kind of message.
    Kind(String),
    Bytes {
        what: String,
        width: String,
    },
}

/// Splits a body at `;`, `{`, `}` and `,` outside parentheses, blanks joined.
fn statements(body: &str) -> Vec<String> {
    let mut list = Vec::new();
    let mut now = String::new();
    let mut depth = 0;
    // Braces of a pattern like `Kind { field }`.
    let mut braces = 0;
    for c in body.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 && !ends_a_head(&now) => {
                braces += 1;
                depth += 1;
            }
            '}' if braces > 0 => {
                braces -= 1;
                depth -= 1;
                now.push(c);
                continue;
            }
            _ => {}
        }
        let ends = depth == 0 && matches!(c, ';' | '}' | ',') || c == '{' && depth == 0 && ends_a_head(&now);
        if ends {
            list.push(now.split_whitespace().collect::<Vec<_>>().join(" "));
            now.clear();
        } else {
            now.push(c);
        }
    }
    list.push(now.trim().to_string());
    list.retain(|s| !s.is_empty());
    list
}

/// Does a brace after this text open a block (and not the pattern `Kind { field }`)?
fn ends_a_head(text: &str) -> bool {
    let text = text.trim();
    text.ends_with("=>") || text.starts_with("match ") || text.starts_with("for ")
}

/// What the statements write.
fn fields(source: &str, statements: &[String]) -> Vec<Field> {
    let mut fields = Vec::new();
    for statement in statements {
        let mut rest = statement.as_str();
        if rest.starts_with("match ") || rest.starts_with("out.u8(match ") {
            // `out.u8(match self { Kind::New => 0, … })` is one byte with a meaning per number.
            if let Some(inner) = rest.strip_prefix("out.u8(match self {") {
                for arm in inner.trim_end_matches([')', '}', ' ']).split(',').filter(|a| a.contains("=>")) {
                    let (kind, number) = arm.split_once("=>").expect("filtered");
                    fields.push(bytes(short(kind), format!("1, always {}", number.trim())));
                }
            }
            continue;
        }
        if let Some(over) = rest.strip_prefix("for ") {
            let over = over.split(" in ").nth(1).unwrap_or(over);
            let lists: Vec<String> = over.trim_matches(['[', ']']).split(',').map(cleaned).collect();
            fields.push(bytes(format!("for each of {}:", lists.join(", then ")), String::new()));
            continue;
        }
        if let Some((kind, after)) = rest.split_once("=>") {
            fields.push(Field::Kind(short(kind)));
            rest = after.trim();
            if rest.is_empty() {
                continue;
            }
        }
        fields.push(field(source, rest));
    }
    fields
}

/// One write.
fn field(source: &str, statement: &str) -> Field {
    if let Some(what) = statement.strip_suffix(".encode(out)") {
        let what = cleaned(what);
        return bytes(if what == "m" { "the message".into() } else { what }, "as its table says".into());
    }
    if let Some(inside) = statement.strip_prefix("block(out, ").and_then(|s| s.strip_suffix(')')) {
        return bytes(cleaned(inside), "1: 0 or 1, then 64".into());
    }
    if let Some(inside) = statement.strip_prefix("text(out, ").and_then(|s| s.strip_suffix(')')) {
        let (what, max) = inside.split_once(',').unwrap_or((inside, ""));
        return bytes(cleaned(what), format!("4 + n, n at most `{}`", max.trim()));
    }
    let Some((method, arguments)) = statement.strip_prefix("out.").and_then(|s| s.split_once('(')) else {
        return bytes(format!("? {statement}"), "?".into());
    };
    let argument = arguments.strip_suffix(')').unwrap_or(arguments);
    let width = match method {
        "u8" => "1",
        "u16" => "2",
        "u32" => "4",
        "u64" => "8",
        "bool" => "1, a bool",
        "mode" => "1, a mode",
        "mode_option" => "1, a mode or 255",
        "name" => "1 + n, a name",
        "label" => "1 + n, a label",
        "bytes" => "4 + n",
        "raw" => "n",
        "value" => "73: sequence 8, valid 1, block 64",
        "option" => "1: 0 or 1, then the content",
        _ => "?",
    };
    let what = argument.split(", |").next().unwrap_or(argument);
    if method == "u8"
        && let Some(number) = number(source, what)
    {
        return bytes("kind".into(), format!("1, always {number}"));
    }
    bytes(cleaned(what), width.into())
}

fn bytes(what: String, width: String) -> Field {
    Field::Bytes { what, width }
}

/// The number that a literal or a constant of the same file stands for.
fn number(source: &str, what: &str) -> Option<u8> {
    if let Ok(number) = what.parse() {
        return Some(number);
    }
    let (_, after) = source.split_once(&format!("const {what}: u8 = "))?;
    after.split(';').next()?.parse().ok()
}

/// The name of a field without what Rust needs around it.
fn cleaned(expression: &str) -> String {
    let mut text = expression.trim().trim_start_matches(['*', '&']);
    for owner in ["self.", "m.", "h.", "w.", "s.", "k.", "row.", "member."] {
        text = text.strip_prefix(owner).unwrap_or(text);
    }
    for end in [".as_ref()", ".bits()", ".number()", ".0", " as u32", ".len()"] {
        if let Some(stem) = text.strip_suffix(end) {
            text = stem;
            if end == ".len()" {
                return format!("number of {}", cleaned(text));
            }
        }
    }
    if let Some(stem) = text.strip_suffix(".len()") {
        return format!("number of {}", cleaned(stem));
    }
    text.replace('_', " ")
}

/// A pattern's last name: `PeerMessage::Lock(m)` is `Lock`.
fn short(pattern: &str) -> String {
    let name = pattern.trim().split(['(', '{']).next().unwrap_or(pattern).trim();
    name.rsplit("::").next().unwrap_or(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, rows: &[&str]) {
        let source = format!(
            "const INFO: u8 = 7;\nimpl Wire for X {{\n    fn encode(&self, out: &mut Writer<'_>) {{\n{body}\n    }}\n}}\n"
        );
        let page = table(&source, "X").unwrap();
        let found: Vec<&str> = page.lines().skip(5).collect();
        assert_eq!(found, rows);
    }

    #[test]
    fn fields_come_in_the_order_they_are_written() {
        check(
            "        out.u64(self.n);\n        out.mode_option(self.held);\n        self.kind.encode(out);\n        \
             out.option(m.head.as_ref(), |out, head| head.encode(out));\n",
            &[
                "| n | 8 |",
                "| held | 1, a mode or 255 |",
                "| kind | as its table says |",
                "| head | 1: 0 or 1, then the content |",
            ],
        );
    }

    #[test]
    fn kinds_carry_their_number() {
        check(
            "        match self {\n            X::A { b, c } => {\n                out.u8(INFO);\n                \
             out.u16(*b);\n            }\n            X::D => out.u8(3),\n        }\n",
            &["| **A** | |", "| kind | 1, always 7 |", "| b | 2 |", "| **D** | |", "| kind | 1, always 3 |"],
        );
        check(
            "        out.u8(match self {\n            X::A => 0,\n            X::B => 1,\n        });\n",
            &["| A | 1, always 0 |", "| B | 1, always 1 |"],
        );
    }

    #[test]
    fn repetition_is_said() {
        check(
            "        out.u32(self.rows.len() as u32);\n        for row in &self.rows {\n            out.name(&row.name);\n        }\n",
            &["| number of rows | 4 |", "| for each of rows: | |", "| name | 1 + n, a name |"],
        );
    }

    #[test]
    fn no_encoder_no_table() {
        assert_eq!(table("", "X"), None);
    }
}
