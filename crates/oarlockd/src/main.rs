//! The binary `oarlock`.

use std::process::ExitCode;

fn main() -> ExitCode {
    oarlockd::command::main(std::env::args_os().collect())
}
