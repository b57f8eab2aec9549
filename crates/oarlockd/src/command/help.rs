//! `oarlock explain`, `completions`, `man`, `version`.

use std::io;

use oarlock_layout::code::Code;
use oarlock_layout::message::session;

use super::cli::{self, Completions, Explain, Format, Man, Output};
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::{complete, output};
use crate::explain;
use crate::problem::{Problem, Result};

/// What `oarlock explain` tells of a code in the list of all.
pub static CODES: Columns = Columns {
    all: &[column("CODE", Kind::Word), column("EXIT", Kind::Count), column("MEANING", Kind::Name)],
    narrow: 3,
};

fn code_row(code: &Code) -> Vec<Cell> {
    vec![
        Cell::word(code.to_string()),
        Cell::count(code.exit().into()),
        Cell::name(explain::page(*code).title),
    ]
}

/// `oarlock explain`
pub fn explain(command: &Explain) -> Result<()> {
    let list = &command.list;
    let Some(text) = &command.code else {
        let plan = CODES.plan(list)?;
        let mut codes = Code::ALL.to_vec();
        plan.arrange(&mut codes, code_row);
        let all: Vec<_> = codes.iter().map(|c| document(*c)).collect();
        return plan.print(&codes, code_row, &serde_json::json!({"v": 1, "codes": all}));
    };
    if !(list.columns.is_empty() && list.conditions.is_empty() && list.sort.is_empty()) {
        return Err(Problem::new(Code::Usage, "--columns, --where and --sort need the list of all codes")
            .because(format!("`{text}` is one code"))
            .try_next("oarlock explain with these options and without a code"));
    }
    let code = explain::parse(text).ok_or_else(|| {
        Problem::new(Code::Usage, format!("`{text}` is not a code"))
            .because("codes look like OAR-2101")
            .try_next("oarlock explain lists all codes")
    })?;
    let page = explain::page(code);
    match list.format.output {
        form @ (Output::Json | Output::Yaml) => {
            let mut document = document(code);
            document["v"] = 1.into();
            output::print_document(form, &document)
        }
        Output::Name => output::print_text(&code.to_string()),
        Output::Table | Output::Wide => output::print_text(&format!(
            "{code}  {}\n  why:  {}\n  try:  {}\n  exit: {}",
            page.title,
            page.why,
            page.try_next,
            code.exit()
        )),
    }
}

fn document(code: Code) -> serde_json::Value {
    let page = explain::page(code);
    serde_json::json!({
        "code": code.to_string(),
        "title": page.title,
        "why": page.why,
        "try_next": page.try_next,
        "exit": code.exit(),
    })
}

/// `oarlock completions`
pub fn completions(command: &Completions) -> Result<()> {
    let mut out = Vec::new();
    match command.fixed {
        true => clap_complete::generate(command.shell, &mut cli::declaration(), "oarlock", &mut out),
        false => complete::script(command.shell, &mut out),
    }
    output::print_text(String::from_utf8_lossy(&out).trim())
}

/// `oarlock man`
pub fn man(command: &Man) -> Result<()> {
    let failed = |e: io::Error| Problem::io(Code::Failed, "cannot write the manual", &e);
    match &command.dir {
        None => {
            let mut out = Vec::new();
            clap_mangen::Man::new(cli::declaration()).render(&mut out).map_err(failed)?;
            output::print_text(String::from_utf8_lossy(&out).trim_end())
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(cli::declaration(), dir).map_err(failed)
        }
    }
}

/// `oarlock version`
pub fn version(format: &Format) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match format.output {
        form @ (Output::Json | Output::Yaml) => {
            let document =
                serde_json::json!({"v": 1, "version": version, "session_protocol": session::VERSION});
            output::print_document(form, &document)
        }
        Output::Name => output::print_text(version),
        Output::Table | Output::Wide => output::print_text(&format!(
            "oarlock {version}, session protocol {}, circuit protocol {}",
            session::VERSION,
            oarlock_layout::message::frame::VERSION
        )),
    }
}
