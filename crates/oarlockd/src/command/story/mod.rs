//! `oarlock story`: storyboards, checked and played.

mod program;
mod real;

use std::fs;
use std::path::Path;

use oarlock_layout::code::Code;
use oarlock_story::{Fault, Outcome, Report, Stage, Story, perform, read};

use super::cli::{Dev, Engine, Output, Story as Command};
use super::{dev, output};
use crate::problem::{Problem, Result};
use real::Real;

/// Runs one of them.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Check { files } => {
            let mut problems = Vec::new();
            for file in files {
                match load(file) {
                    Ok(story) => output::tell(format_args!("{}", summary(file, &story))),
                    Err(found) => problems.extend(found),
                }
            }
            all(problems)
        }
        Command::Program { socket } => program::live(socket),
        Command::Run { file, sim, dev, trace } => {
            let story = match load(file) {
                Ok(story) => story,
                Err(problems) => return all(problems),
            };
            let report = match dev {
                true => on_nodes(file, &story)?,
                false => simulated(file, &story, *sim)?,
            };
            if *trace || !report.is_kept() {
                output::print_text(&report.transcript.join("\n"))?;
            }
            let how = if *dev { "on real nodes".into() } else { format!("simulated, seed {sim}") };
            judged(file, &report, &how)
        }
    }
}

fn load(file: &Path) -> Result<Story, Vec<Problem>> {
    let text = fs::read_to_string(file)
        .map_err(|e| vec![Problem::io(Code::Failed, format!("cannot read {}", file.display()), &e)])?;
    read(&text).map_err(|faults| problems(file, faults))
}

fn problems(file: &Path, faults: Vec<Fault>) -> Vec<Problem> {
    let problem =
        |fault: Fault| Problem::new(fault.code, format!("{}:{}: {}", file.display(), fault.line, fault.text));
    faults.into_iter().map(problem).collect()
}

/// Prints all but the last, which ends the command.
fn all(mut problems: Vec<Problem>) -> Result<()> {
    let Some(last) = problems.pop() else { return Ok(()) };
    for problem in &problems {
        output::print_problem(problem, Output::Table);
    }
    Err(last)
}

fn summary(file: &Path, story: &Story) -> String {
    let rows: usize = story.flows.iter().map(|flow| flow.rows.len()).sum();
    let (flows, nodes) = (story.flows.len(), story.nodes());
    format!("{} makes sense: {flows} flows, {rows} rows, for {nodes} nodes", file.display())
}

fn simulated(file: &Path, story: &Story, seed: u64) -> Result<Report> {
    all(problems(file, oarlock_sim::story::refusals(story)))?;
    Ok(oarlock_sim::story::play(story, seed, &oarlock_sim::Options::default()))
}

fn on_nodes(file: &Path, story: &Story) -> Result<Report> {
    // Most of what real nodes cannot do is known before there are any.
    all(problems(file, real::refusals(story)))?;
    let args = Dev {
        dir: None,
        keep: true,
        nodes: story.nodes() as u8,
        quiet: true,
        space: vec!["strict:strict".into()],
        no_retain: false,
        no_offload: false,
        coordinator: Engine::Raft,
        harm: None,
    };
    dev::with_cluster(&args, |cluster| {
        let mut stage = Real::open(story, cluster)?;
        all(problems(file, story.refusals(|command| stage.refuses(command))))?;
        Ok(perform(story, &mut stage, None))
    })
}

fn judged(file: &Path, report: &Report, how: &str) -> Result<()> {
    let file = file.display();
    match &report.outcome {
        Outcome::Kept => {
            let (rows, expectations) = (report.rows, report.expectations);
            let expectations = match expectations {
                1 => "1 expectation".into(),
                n => format!("{n} expectations"),
            };
            output::tell(format_args!("{file} came true: {rows} rows, {expectations}, {how}"));
            Ok(())
        }
        Outcome::Failed(failure) => {
            Err(Problem::new(Code::StoryFailed, format!("{file}: {failure}")).because(how))
        }
        Outcome::Stuck(lines) => {
            Err(Problem::new(Code::StoryStuck, format!("{file} is stuck")).because(lines.join("\n       ")))
        }
        Outcome::Broken(found) => {
            Err(Problem::new(Code::StoryFailed, format!("{file}: a promise was broken"))
                .because(found.join("\n       ")))
        }
    }
}
