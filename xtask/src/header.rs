//! `cargo xtask header`: writes `oarlock.h` from the sources of `oarlock-c` and `oarlock-handle`; `cargo xtask tidy` compares.

use std::fs;

use crate::context::{Context, Failure};

/// The header.
pub(crate) const HEADER: &str = "crates/oarlock-c/include/oarlock.h";

/// Where it is said how.
const CRATE: &str = "crates/oarlock-c";

/// What it is made from.
const SOURCES: [&str; 5] = [
    "crates/oarlock-handle/src/abi.rs",
    "crates/oarlock-handle/src/client.rs",
    "crates/oarlock-handle/src/lock.rs",
    "crates/oarlock-c/src/pointers.rs",
    "crates/oarlock-c/src/exports.rs",
];

/// Writes the header.
pub(crate) fn write(context: &Context) -> Result<String, Failure> {
    let text = header(context)?;
    fs::write(context.root.join(HEADER), &text).map_err(|e| format!("{HEADER}: {e}"))?;
    Ok(format!("{HEADER}, {} lines", text.lines().count()))
}

/// The header as it should be.
pub(crate) fn header(context: &Context) -> Result<String, Failure> {
    let home = context.root.join(CRATE);
    let config = cbindgen::Config::from_file(home.join("cbindgen.toml"))?;
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in SOURCES {
        builder = builder.with_src(context.root.join(file));
    }
    let bindings = builder.generate().map_err(|e| format!("{CRATE}: {e}"))?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).map_err(|e| format!("{HEADER}: {e}"))?;
    Ok(text.lines().map(polished).collect())
}

/// No blanks at ends of lines, a number below zero in parentheses, so that it is one word wherever it is used, and no
/// `struct` before what has a name without it.
fn polished(line: &str) -> String {
    if line.contains("struct oar_") && !line.starts_with("typedef struct") {
        return polished(&line.replace("struct oar_", "oar_"));
    }
    match line.rsplit_once(" -") {
        Some((define, number)) if define.starts_with("#define OAR_E_") => format!("{define} (-{number})\n"),
        _ => format!("{}\n", line.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::polished;

    #[test]
    fn codes_stand_in_parentheses_and_lines_end_without_blanks() {
        assert_eq!(polished("#define OAR_E_BUSY -1"), "#define OAR_E_BUSY (-1)\n");
        assert_eq!(polished("// a - b "), "// a - b\n");
        assert_eq!(polished("int f(struct oar_x *x); "), "int f(oar_x *x);\n");
        assert_eq!(polished("typedef struct oar_x {"), "typedef struct oar_x {\n");
    }
}
