//! The processes of a play on real nodes.
//!
//! A session belongs to the process that connected its socket. Each flow's socket is made by `oarlock story`, which
//! speaks over it, and connected by a child that then does nothing but live: so the child can be killed, and the node
//! sees a program die.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use oarlock_layout::code::Code;
use rustix::process::Signal;

use super::super::connect;
use crate::host::{child, door};
use crate::problem::{Problem, Result};

/// What a program says when it has connected.
const READY: u8 = b'.';

/// A process that is killed when this is dropped.
pub(super) struct Program(Child);

impl Program {
    /// Starts one and gives the socket that it has connected.
    pub(super) fn start(socket: &Path) -> Result<(Program, OwnedFd)> {
        let failed = |e: std::io::Error| Problem::io(Code::Failed, "cannot start a program of the play", &e);
        let fd = door::unconnected().map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["story", "program"]).arg(socket);
        command.stdin(Stdio::from(fd.try_clone().map_err(failed)?)).stdout(Stdio::piped());
        // Ctrl-C is for the play, which then ends it.
        command.process_group(0);
        let mut program = Program(child::spawn_bound(&mut command, Signal::KILL).map_err(failed)?);
        let mut said = [0];
        let out = program.0.stdout.as_mut().expect("it has a pipe");
        match out.read_exact(&mut said) {
            Ok(()) if said == [READY] => Ok((program, fd)),
            // It has said why.
            _ => Err(Problem::new(
                Code::NoDaemon,
                format!("a program of the play could not reach {}", socket.display()),
            )),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Is such a program.
pub(super) fn live(socket: &Path) -> Result<()> {
    door::knock(std::io::stdin(), socket).map_err(|e| connect::failed(socket, &e))?;
    let mut out = std::io::stdout();
    out.write_all(&[READY])
        .and_then(|()| out.flush())
        .map_err(|e| Problem::io(Code::Failed, "nobody plays with this program", &e))?;
    loop {
        std::thread::park();
    }
}
