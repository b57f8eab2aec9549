//! `cargo xtask manual DIR`: writes the man pages of the C interface, made of `oarlock.h` as the header is of the crate:
//! `oarlock.3` for the whole, and one for each function.

use std::fs;
use std::path::Path;

use crate::context::{Context, Failure};
use crate::header::HEADER;

/// Something that the header explains.
struct Item {
    /// Paragraphs.
    said: Vec<String>,
    /// What is explained, as it stands in the header.
    code: String,
}

/// Writes all pages into a directory.
pub(crate) fn write(context: &Context, args: &[String]) -> Result<String, Failure> {
    let [dir] = args else { return Err("usage: cargo xtask manual DIR".into()) };
    let pages = pages(&context.read(HEADER)?)?;
    let dir = Path::new(dir);
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for (name, page) in &pages {
        let path = dir.join(format!("{name}.3"));
        fs::write(&path, page).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(format!("{} pages in {}", pages.len(), dir.display()))
}

/// Every page with its name.
fn pages(header: &str) -> Result<Vec<(String, String)>, Failure> {
    let items = items(header);
    let functions: Vec<(&str, &Item)> =
        items.iter().filter_map(|item| Some((function(&item.code)?, item))).collect();
    let mut pages = vec![("oarlock".to_owned(), overview(header, &items, &functions)?)];
    for (name, item) in functions {
        let mut page = head(name, &summary(item), &item.code);
        paragraphs(&mut page, &item.said);
        page += ".SH SEE ALSO\n.BR oarlock (3)\n";
        pages.push((name.to_owned(), page));
    }
    Ok(pages)
}

fn overview(header: &str, items: &[Item], functions: &[(&str, &Item)]) -> Result<String, Failure> {
    let comment = header.split("*/").next().and_then(|text| text.split_once("/* oarlock.h: "));
    let (_, comment) = comment.ok_or(format!("{HEADER} does not begin with what it is"))?;
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    for line in comment.lines().map(|line| bare(line).trim_end()) {
        match blocks.last_mut() {
            Some(block) if !line.is_empty() => block.push(line),
            _ => blocks.push(Vec::new()),
        }
    }
    let title = blocks.remove(0).join(" ");
    let mut page =
        head("oarlock", title.trim_end_matches('.'), "cc ... $(pkg-config --cflags --libs oarlock)");
    blocks.retain(|block| !block.is_empty() && !block[0].starts_with("SPDX"));
    for block in &blocks {
        if block.iter().any(|line| line.starts_with("    ")) {
            page += &format!(".PP\n.nf\n{}\n.fi\n", escaped(&block.join("\n")));
        } else {
            paragraphs(&mut page, &[block.join(" ")]);
        }
    }
    page += ".SH FUNCTIONS\n";
    for (name, item) in functions {
        page += &format!(".TP\n.BR {name} (3)\n{}.\n", escaped(&summary(item)));
    }
    for (title, prefix) in [("ERRORS", "#define OAR_E_"), ("MODES AND FLAGS", "#define OAR_")] {
        page += &format!(".SH {title}\n");
        for item in items.iter().filter(|item| item.code.starts_with(prefix)) {
            let name = item.code.split(' ').nth(1).unwrap_or_default();
            if prefix.ends_with("E_") || !name.starts_with("OAR_E_") {
                page += &format!(".TP\n.B {name}\n{}\n", escaped(&item.said.join(" ")));
            }
        }
    }
    page += ".SH SEE ALSO\n.BR oarlock (1)\n";
    Ok(page)
}

/// A line of a block comment without what makes it one.
fn bare(line: &str) -> &str {
    let Some(line) = line.strip_prefix(" *") else { return line };
    line.strip_prefix(' ').unwrap_or(line)
}

/// What every page begins with.
fn head(name: &str, summary: &str, synopsis: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH {name} 3 \"\" \"oarlock {version}\" \"C interface\"\n.SH NAME\n{name} \\- {}\n.SH SYNOPSIS\n.nf\n\
         #include <oarlock.h>\n.sp\n{}\n.fi\n.SH DESCRIPTION\n",
        escaped(summary),
        escaped(synopsis)
    )
}

fn paragraphs(page: &mut String, said: &[String]) {
    for paragraph in said {
        *page += &format!(".PP\n{}\n", escaped(paragraph));
    }
}

/// The first sentence, without its full stop.
fn summary(item: &Item) -> String {
    let first = item.said.first().map_or("", String::as_str);
    first.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// Text that has no meaning for roff.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let line =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The name of the function that a prototype declares.
fn function(code: &str) -> Option<&str> {
    let (before, _) = code.split_once('(').filter(|_| code.ends_with(");"))?;
    before.rsplit([' ', '*']).next().filter(|name| name.starts_with("oar_"))
}

/// Comments that begin at the left edge, each with what follows.
fn items(header: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut said: Vec<String> = Vec::new();
    let mut code = String::new();
    for line in header.lines() {
        if let Some(text) = line.strip_prefix("//") {
            match text.trim() {
                "" => said.push(String::new()),
                text => match said.last_mut() {
                    Some(last) if !last.is_empty() => *last += &format!(" {text}"),
                    Some(last) => *last = text.into(),
                    None => said.push(text.into()),
                },
            }
        } else if said.is_empty() {
            continue;
        } else {
            code += &format!("{}{line}", if code.is_empty() { "" } else { "\n" });
            if line.is_empty() || line.ends_with(';') || line.starts_with("#define") {
                items.push(Item { said: std::mem::take(&mut said), code: std::mem::take(&mut code) });
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "/* oarlock.h: locks.\n *\n *     int x;\n *\n * Two - lines\n * of it.\n */\n\n// A code.\n\
        #define OAR_E_X (-1)\n\n// A mode.\n#define OAR_EX 5\n\n// Does it. At once.\n//\n// .Really\n\
        const char *oar_do(int a,\n                   int b);\n";

    #[test]
    fn pages_are_made_of_comments_and_prototypes() {
        let pages = pages(SMALL).unwrap();
        assert_eq!(pages.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["oarlock", "oar_do"]);
        let (whole, one) = (&pages[0].1, &pages[1].1);
        assert!(whole.contains("oarlock \\- locks\n") && whole.contains("Two \\- lines of it."), "{whole}");
        assert!(
            whole.contains(".nf\n    int x;\n.fi") && whole.contains(".BR oar_do (3)\nDoes it.\n"),
            "{whole}"
        );
        assert!(whole.contains(
            ".SH ERRORS\n.TP\n.B OAR_E_X\nA code.\n.SH MODES AND FLAGS\n.TP\n.B OAR_EX\nA mode.\n"
        ));
        assert!(one.contains("const char *oar_do(int a,\n                   int b);\n.fi"), "{one}");
        assert!(one.contains(".PP\nDoes it. At once.\n.PP\n\\&.Really\n"), "{one}");
    }

    /// Nothing that the header declares is left out.
    #[test]
    fn every_function_of_the_header_has_a_page() {
        let header = include_str!("../../crates/oarlock-c/include/oarlock.h");
        let pages = pages(header).unwrap();
        let map = include_str!("../../crates/oarlock-c/oarlock.map");
        for name in map
            .lines()
            .filter_map(|line| line.trim().strip_suffix(';'))
            .filter(|name| name.starts_with("oar_"))
        {
            assert!(pages.iter().any(|(page, _)| page == name), "{name}");
        }
    }
}
