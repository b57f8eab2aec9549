//! Redis as a lock service, without persistence.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;

use super::server::{self, Server};
use crate::rounds::Failure;
use crate::service::Locker;

/// How long a lock is kept if its holder dies.
const EXPIRY_MS: &str = "30000";
/// Deletes a key only if it is still the caller's: the usual way to release.
const RELEASE: &str =
    "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";
/// How long a loser waits before it tries again. Redis has no queue of waiters.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

pub(super) fn start() -> Result<Server, Failure> {
    let program = server::program("redis-server", &["redis-server"])?;
    let (directory, port) = (server::directory()?, server::port()?);
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
    command.arg(port.to_string()).arg("--dir").arg(directory.path());
    Server::start(command, port, Signal::TERM, directory)
}

/// A connection.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    owner: String,
    script: String,
    held: Option<String>,
    request: Vec<u8>,
}

impl Client {
    pub(super) fn connect(port: u16) -> Result<Client, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let owner = format!("{}", stream.local_addr().map_err(|e| e.to_string())?.port());
        let stream = BufReader::new(stream);
        let mut client = Client { stream, owner, script: String::new(), held: None, request: Vec::new() };
        client.script = client.call(&["SCRIPT", "LOAD", RELEASE])?.ok_or("it did not take the script")?;
        Ok(client)
    }

    /// One command and its reply; nothing for a null reply.
    fn call(&mut self, words: &[&str]) -> Result<Option<String>, Failure> {
        self.request.clear();
        let mut write = |text: String| self.request.extend_from_slice(text.as_bytes());
        write(format!("*{}\r\n", words.len()));
        words.iter().for_each(|word| write(format!("${}\r\n{word}\r\n", word.len())));
        self.stream.get_mut().write_all(&self.request).map_err(|e| e.to_string())?;
        read_reply(&mut self.stream)
    }
}

fn read_reply(stream: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let mut line = String::new();
    stream.read_line(&mut line).map_err(|e| e.to_string())?;
    let line = line.trim_end();
    let rest = line.get(1..).unwrap_or_default();
    match line.as_bytes().first() {
        Some(b'+' | b':') => Ok(Some(rest.to_owned())),
        Some(b'$') if rest == "-1" => Ok(None),
        Some(b'$') => {
            let length: usize = rest.parse().map_err(|_| format!("a strange length: {line}"))?;
            let mut text = vec![0; length + 2];
            stream.read_exact(&mut text).map_err(|e| e.to_string())?;
            text.truncate(length);
            String::from_utf8(text).map(Some).map_err(|e| e.to_string())
        }
        _ => Err(format!("it says {line:?}")),
    }
}

impl Locker for Client {
    fn acquire(&mut self, key: &str) -> Result<(), Failure> {
        let owner = self.owner.clone();
        while self.call(&["SET", key, &owner, "NX", "PX", EXPIRY_MS])?.is_none() {
            std::thread::sleep(PAUSE);
        }
        self.held = Some(key.to_owned());
        Ok(())
    }

    fn release(&mut self) -> Result<(), Failure> {
        let key = self.held.take().ok_or("nothing is held")?;
        let (script, owner) = (self.script.clone(), self.owner.clone());
        match self.call(&["EVALSHA", &script, "1", &key, &owner])?.as_deref() {
            Some("1") => Ok(()),
            other => Err(format!("the lock was not ours any more: {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_every_kind_are_read() {
        let mut bytes: &[u8] = b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n:1\r\n-ERR no\r\n";
        let mut next = || read_reply(&mut bytes);
        assert_eq!(next(), Ok(Some("OK".into())));
        assert_eq!(next(), Ok(Some("a\r\n".into())));
        assert_eq!(next(), Ok(None));
        assert_eq!(next(), Ok(Some("1".into())));
        assert!(next().is_err());
    }
}
