//! What went wrong, for people: a code, what, why, and what to try next. Every error a command prints has
//! this one form, so that scripts can match the code and people never meet a bare errno.

use std::fmt;
use std::io;

use oarlock_layout::code::Code;
use oarlock_layout::message::session::Failure;

use crate::explain;

/// One error, complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Stable; decides the exit status.
    pub code: Code,
    /// What failed, with the names and numbers of this case.
    pub what: String,
    /// Why it failed, as far as it is known.
    pub why: String,
    /// A command or a step to try.
    pub try_next: String,
}

/// What functions of the binary return.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

impl Problem {
    /// A problem whose cause and remedy are those of its code; [`because`](Problem::because) and
    /// [`try_next`](Problem::try_next) replace them where more is known.
    pub fn new(code: Code, what: impl Into<String>) -> Problem {
        let page = explain::page(code);
        Problem { code, what: what.into(), why: page.why.into(), try_next: page.try_next.into() }
    }

    /// Replaces the cause.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Problem {
        self.why = why.to_string();
        self
    }

    /// Replaces the remedy.
    #[must_use]
    pub fn try_next(mut self, next: impl Into<String>) -> Problem {
        self.try_next = next.into();
        self
    }

    /// A failure of the operating system; recognises the few that have a code of their own.
    pub fn io(code: Code, what: impl Into<String>, error: &io::Error) -> Problem {
        let number = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
        let code = match number {
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Code::OutOfDescriptors,
            _ => code,
        };
        Problem::new(code, what).because(error)
    }

    /// A failure as the daemon told it.
    pub fn from_failure(failure: &Failure) -> Problem {
        Problem::new(failure.code, failure.text.clone())
    }

    /// The exit status it leads to.
    pub fn exit(&self) -> u8 {
        self.code.exit()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.why)?;
        }
        if !self.try_next.is_empty() {
            write!(f, "\n  try: {}", self.try_next)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// The candidate most like `word`, if one is near enough to be what was meant.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(&word, &c.to_lowercase()), c))
        .filter(|(score, _)| *score > 0.75)
        // Equal scores go to the earlier candidate, so that the hint does not depend on anything hidden.
        .fold(None, |best: Option<(f64, &str)>, it| match best {
            Some(b) if b.0 >= it.0 => Some(b),
            _ => Some(it),
        })
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_prints_code_what_why_and_next() {
        let p = Problem::new(Code::Busy, "jobs is held").because("node-b pid 7 has it").try_next("wait");
        assert_eq!(p.to_string(), "OAR-2101 jobs is held\n  why: node-b pid 7 has it\n  try: wait");
        assert_eq!(p.exit(), 75);
    }

    #[test]
    fn running_out_of_descriptors_keeps_its_own_code() {
        let error = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert_eq!(Problem::io(Code::NoDaemon, "x", &error).code, Code::OutOfDescriptors);
        let error = io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
        assert_eq!(Problem::io(Code::NoDaemon, "x", &error).code, Code::NoDaemon);
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let keys = ["listen", "name", "socket", "data_dir"];
        assert_eq!(did_you_mean("lisen", keys), Some("listen"));
        assert_eq!(did_you_mean("datadir", keys), Some("data_dir"));
        assert_eq!(did_you_mean("zzz", keys), None);
    }
}
