//! PostgreSQL's advisory locks, through prepared statements of its own protocol.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::server::{self, Server};
use crate::rounds::Failure;
use crate::service::Locker;

/// A user that may run the server: PostgreSQL refuses to run as root.
const USER: &str = "postgres";

pub(super) fn start() -> Result<Server, Failure> {
    let initdb = server::program("initdb", &["postgresql"])?;
    let postgres = initdb.canonicalize().map_err(|e| e.to_string())?.with_file_name("postgres");
    let (directory, port) = (server::directory()?, server::port()?);
    let data = directory.path().join("data");
    own(directory.path())?;
    let run = as_user(&initdb)
        .args(["--no-sync", "--auth", "trust", "--username", USER, "--pgdata"])
        .arg(&data)
        .output()
        .map_err(|e| format!("initdb: {e}"))?;
    if !run.status.success() {
        return Err(format!("initdb: {}", String::from_utf8_lossy(&run.stderr)));
    }
    let mut command = as_user(&postgres);
    command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p"]).arg(port.to_string());
    command.arg("-k").arg(directory.path()).args(["-c", "fsync=off", "-c", "autovacuum=off"]);
    // An immediate shutdown: nothing in its directory is worth keeping.
    Server::start(command, port, Signal::QUIT, directory)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program as a user who may run it.
fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    // `setpriv` becomes the program, so that a signal to it is one to the server.
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
    command
}

fn own(directory: &Path) -> Result<(), Failure> {
    if !is_root() {
        return Ok(());
    }
    let status = Command::new("chown").arg(USER).arg(directory).status();
    if matches!(status, Ok(status) if status.success()) { Ok(()) } else { Err("chown failed".into()) }
}

/// A connection with two prepared statements.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    held: i64,
    request: Vec<u8>,
}

impl Client {
    pub(super) fn connect(port: u16) -> Result<Client, Failure> {
        // It listens a moment before it lets anybody in.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match Client::try_connect(port) {
                Err(_) if std::time::Instant::now() < patience => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }

    fn try_connect(port: u16) -> Result<Client, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut client = Client { stream: BufReader::new(stream), held: 0, request: Vec::new() };
        let mut hello = 196_608u32.to_be_bytes().to_vec();
        for text in ["user", USER, "database", "postgres", ""] {
            hello.extend_from_slice(text.as_bytes());
            hello.push(0);
        }
        client.request.extend_from_slice(&(hello.len() as u32 + 4).to_be_bytes());
        client.request.extend_from_slice(&hello);
        client.flush()?;
        client.prepare("take", "SELECT pg_advisory_lock($1)")?;
        client.prepare("give", "SELECT pg_advisory_unlock($1)")?;
        Ok(client)
    }

    fn message(&mut self, kind: u8, body: &[&[u8]]) {
        let length: usize = body.iter().map(|part| part.len()).sum();
        self.request.push(kind);
        self.request.extend_from_slice(&(length as u32 + 4).to_be_bytes());
        body.iter().for_each(|part| self.request.extend_from_slice(part));
    }

    fn prepare(&mut self, name: &str, query: &str) -> Result<(), Failure> {
        let number_of_types = 1u16.to_be_bytes();
        let eight_byte_integer = 20u32.to_be_bytes();
        let body: [&[u8]; 6] =
            [name.as_bytes(), &[0], query.as_bytes(), &[0], &number_of_types, &eight_byte_integer];
        self.message(b'P', &body);
        self.message(b'S', &[]);
        self.flush().map(drop)
    }

    /// Runs a prepared statement with one number; true unless its result is `f`.
    fn execute(&mut self, name: &str, key: i64) -> Result<bool, Failure> {
        let one = 1u16.to_be_bytes();
        let none = 0u16.to_be_bytes();
        let eight = 8u32.to_be_bytes();
        // Portal, statement, one format (binary), one value, results as text.
        let key = key.to_be_bytes();
        let bind: [&[u8]; 9] = [&[0], name.as_bytes(), &[0], &one, &one, &one, &eight, &key, &none];
        self.message(b'B', &bind);
        self.message(b'E', &[&[0], &[0; 4]]);
        self.message(b'S', &[]);
        self.flush()
    }

    /// Sends what was written and reads until the server is ready again.
    fn flush(&mut self) -> Result<bool, Failure> {
        self.stream.get_mut().write_all(&self.request).map_err(|e| e.to_string())?;
        self.request.clear();
        let mut truth = true;
        loop {
            let (kind, body) = read_message(&mut self.stream)?;
            match kind {
                b'Z' => return Ok(truth),
                b'E' => return Err(format!("it says {}", String::from_utf8_lossy(&body).replace('\0', " "))),
                b'D' if body.last() == Some(&b'f') => truth = false,
                b'R' if body != [0, 0, 0, 0] => return Err("it wants a password".into()),
                _ => {}
            }
        }
    }
}

fn read_message(stream: &mut impl Read) -> Result<(u8, Vec<u8>), Failure> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).map_err(|e| e.to_string())?;
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length).checked_sub(4).ok_or("a message shorter than its head")?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).map_err(|e| e.to_string())?;
    Ok((kind, body))
}

impl Locker for Client {
    fn acquire(&mut self, key: &str) -> Result<(), Failure> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.held = hasher.finish() as i64;
        self.execute("take", self.held).map(drop)
    }

    fn release(&mut self) -> Result<(), Failure> {
        match self.execute("give", self.held)? {
            true => Ok(()),
            false => Err("the lock was not held".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_by_their_length() {
        let mut bytes: &[u8] = b"Z\0\0\0\x05IC\0\0\0\x04";
        assert_eq!(read_message(&mut bytes), Ok((b'Z', b"I".to_vec())));
        assert_eq!(read_message(&mut bytes), Ok((b'C', Vec::new())));
        assert!(read_message(&mut bytes).is_err());
    }
}
