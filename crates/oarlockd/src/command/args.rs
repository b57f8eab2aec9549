//! Arguments that mean something: names, modes, durations. Each says what is wrong with its own code.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::{Name, NameError};

use crate::problem::{Problem, Result, did_you_mean};

/// A resource name as typed: `\xNN` stands for a byte, everything else for itself.
pub fn name(text: &OsStr) -> Result<Name> {
    let bytes = match text.to_str() {
        Some(text) => Name::unescape(text),
        None => text.as_bytes().to_vec(),
    };
    Name::new(&bytes).map_err(|e| {
        let shown: String = text.to_string_lossy().chars().take(40).collect();
        let problem = Problem::new(Code::BadName, format!("`{shown}` is not a resource name: {e}"));
        match e {
            NameError::Empty => problem.try_next("a name; perhaps a variable of the script is empty"),
            NameError::TooLong(_) => problem,
        }
    })
}

/// A lock mode.
pub fn mode(text: &str) -> Result<Mode> {
    text.parse().map_err(|_| {
        let problem = Problem::new(Code::BadMode, format!("`{text}` is not a lock mode"));
        let words = [("shared", "PR"), ("read", "PR"), ("exclusive", "EX"), ("write", "EX"), ("null", "NL")];
        let meant = words.iter().find(|(w, _)| w.eq_ignore_ascii_case(text)).map(|(_, m)| *m);
        match meant.or_else(|| did_you_mean(text, Mode::ALL.map(Mode::name))) {
            Some(meant) => problem.try_next(format!("did you mean {meant}?")),
            None => problem,
        }
    })
}

/// A duration: `250ms`, `1m 30s`, or a bare number of seconds as flock takes it.
pub fn duration(text: &str) -> Result<Duration> {
    let bad =
        |why: String| Problem::new(Code::BadDuration, format!("`{text}` is not a duration")).because(why);
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| match seconds < 0.0 {
            true => bad("time does not run backwards".into()),
            false => bad("it is no number, or too large a one".into()),
        });
    }
    humantime::parse_duration(text).map_err(|e| bad(e.to_string()))
}

/// A duration in whole milliseconds, rounded up: 0 means "for ever" on the socket, so nothing rounds to it.
pub fn timeout_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_flocks_and_peoples() {
        assert_eq!(duration("0.2").unwrap(), Duration::from_millis(200));
        assert_eq!(duration("10").unwrap(), Duration::from_secs(10));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("1m 30s").unwrap(), Duration::from_secs(90));
        for bad in ["", "-1", "soon", "10 parsecs", "NaN", "1e400"] {
            assert_eq!(duration(bad).unwrap_err().code, Code::BadDuration, "{bad}");
        }
        assert_eq!(timeout_ms(Duration::ZERO), 1);
        assert_eq!(timeout_ms(Duration::from_micros(1001)), 2);
        assert_eq!(timeout_ms(Duration::from_secs(1 << 40)), u32::MAX);
    }

    #[test]
    fn modes_are_suggested() {
        assert_eq!(mode("pw").unwrap(), Mode::PW);
        let p = mode("exclusive").unwrap_err();
        assert_eq!((p.code, p.try_next.as_str()), (Code::BadMode, "did you mean EX?"));
        assert!(mode("EXX").unwrap_err().try_next.contains("EX"));
    }

    #[test]
    fn names_may_be_any_bytes() {
        assert_eq!(name(OsStr::new(r"a\x00b")).unwrap().as_bytes(), b"a\0b");
        assert_eq!(name(OsStr::from_bytes(b"\xff")).unwrap().as_bytes(), b"\xff");
        assert_eq!(name(OsStr::new("")).unwrap_err().code, Code::BadName);
        assert_eq!(name(OsStr::new(&"x".repeat(256))).unwrap_err().code, Code::BadName);
    }
}
