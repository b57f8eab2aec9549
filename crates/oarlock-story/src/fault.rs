//! What can be wrong with a storyboard before anybody plays it.

use alloc::string::String;
use core::fmt;

use oarlock_layout::code::Code;

/// One fault, with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Line of the file, from 1.
    pub line: u32,
    /// Which kind of fault.
    pub code: Code,
    /// What is wrong, with the words of this file.
    pub text: String,
}

impl Fault {
    pub(crate) fn new(code: Code, line: u32, text: impl Into<String>) -> Fault {
        Fault { line, code, text: text.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} {}", self.line, self.code, self.text)
    }
}

impl core::error::Error for Fault {}
