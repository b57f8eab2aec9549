//! etcd as a lock service: a transaction that creates a key if it is not there, and a delete.
//!
//! Spoken by hand: gRPC is a message with five bytes before it, in a stream of HTTP/2, and one call at a time
//! needs little of that. Response headers are not decoded; a call that fails has no message, and that is seen.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;

use super::server::{self, Server};
use crate::rounds::Failure;
use crate::service::Locker;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// How long a loser waits before it tries again; only contended keys would need a watch instead.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

pub(super) fn start() -> Result<Server, Failure> {
    let program = server::program("etcd", &["etcd-server"])?;
    let (directory, port, peers) = (server::directory()?, server::port()?, server::port()?);
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(directory.path().join("data")).args(["--name", "bench"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("bench={peer}")]);
    Server::start(command, port, Signal::TERM, directory)
}

/// A connection with one call at a time.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    authority: String,
    next: u32,
    held: Option<String>,
}

impl Client {
    pub(super) fn connect(port: u16) -> Result<Client, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let authority = format!("127.0.0.1:{port}");
        let mut client = Client { stream: BufReader::new(stream), authority, next: 1, held: None };
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut hello, SETTINGS, 0, 0, &[]);
        // Answers are small: with all the room there is, their flow needs no more thought.
        frame(&mut hello, WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
        client.write(&hello)?;
        // It listens before it has a leader; the first call waits for that.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match client.call("/etcdserverpb.KV/Range", &field(1, b"bench")) {
                Err(why) if std::time::Instant::now() > patience => return Err(why),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
                Ok(_) => return Ok(client),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.get_mut().write_all(bytes).map_err(|e| e.to_string())
    }

    /// One call: the message of its answer.
    fn call(&mut self, path: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let stream = self.next;
        self.next += 2;
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", &self.authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal that nobody is asked to remember; all are shorter than 127 bytes.
            headers.push(0);
            for text in [name, value] {
                headers.push(text.len() as u8);
                headers.extend_from_slice(text.as_bytes());
            }
        }
        let mut body = vec![0];
        body.extend_from_slice(&(message.len() as u32).to_be_bytes());
        body.extend_from_slice(message);
        let mut request = Vec::new();
        frame(&mut request, HEADERS, END_HEADERS, stream, &headers);
        frame(&mut request, DATA, END_STREAM, stream, &body);
        self.write(&request)?;
        let mut answer = Vec::new();
        loop {
            let (kind, flags, at, payload) = read_frame(&mut self.stream)?;
            match kind {
                DATA if at == stream => answer.extend_from_slice(&payload),
                SETTINGS if flags & ACK == 0 => {
                    let mut reply = Vec::new();
                    frame(&mut reply, SETTINGS, ACK, 0, &[]);
                    self.write(&reply)?;
                }
                PING if flags & ACK == 0 => {
                    let mut reply = Vec::new();
                    frame(&mut reply, PING, ACK, 0, &payload);
                    self.write(&reply)?;
                }
                GOAWAY => return Err("it closed the connection".into()),
                _ => {}
            }
            if at == stream && flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS) {
                return match answer.len() {
                    0 => Err(format!("{path} failed")),
                    _ => Ok(answer.split_off(5.min(answer.len()))),
                };
            }
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn read_frame(stream: &mut impl Read) -> Result<(u8, u8, u32, Vec<u8>), Failure> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).map_err(|e| e.to_string())?;
    let [a, b, c, kind, flags, stream_id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).map_err(|e| e.to_string())?;
    Ok((kind, flags, u32::from_be_bytes(stream_id) & 0x7fff_ffff, payload))
}

/// A field of a protobuf message that holds bytes; all here are shorter than 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128, "one byte of length");
    let mut out = vec![number << 3 | 2, bytes.len() as u8];
    out.extend_from_slice(bytes);
    out
}

/// "If the key was never created, put it": compare (create revision equal to 0), success (one put).
fn create_if_absent(key: &str, value: &str) -> Vec<u8> {
    // result = EQUAL (0) and create_revision = 0 are spelled out: the member of a choice must be present.
    let compare = [vec![1 << 3, 0, 2 << 3, 1], field(3, key.as_bytes()), vec![5 << 3, 0]].concat();
    let put = [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
    [field(1, &compare), field(2, &field(2, &put))].concat()
}

/// Whether the answer to a transaction says that its comparison held: field 2, a boolean, absent if false.
fn succeeded(answer: &[u8]) -> bool {
    let mut at = 0;
    while at + 1 < answer.len() {
        match answer[at] {
            0x10 => return answer[at + 1] == 1,
            tag if tag & 7 == 2 => at += 2 + usize::from(answer[at + 1]),
            _ => return false,
        }
    }
    false
}

impl Locker for Client {
    fn acquire(&mut self, key: &str) -> Result<(), Failure> {
        let request = create_if_absent(key, "held");
        while !succeeded(&self.call("/etcdserverpb.KV/Txn", &request)?) {
            std::thread::sleep(PAUSE);
        }
        self.held = Some(key.to_owned());
        Ok(())
    }

    fn release(&mut self) -> Result<(), Failure> {
        let key = self.held.take().ok_or("nothing is held")?;
        self.call("/etcdserverpb.KV/DeleteRange", &field(1, key.as_bytes())).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_was_written_is_read() {
        let mut bytes = Vec::new();
        frame(&mut bytes, DATA, END_STREAM, 5, b"abc");
        assert_eq!(read_frame(&mut bytes.as_slice()), Ok((DATA, END_STREAM, 5, b"abc".to_vec())));
    }

    #[test]
    fn a_transaction_succeeds_only_if_it_says_so() {
        let header = field(1, &[8, 1]);
        assert!(succeeded(&[header.clone(), vec![0x10, 1]].concat()));
        assert!(!succeeded(&header));
        assert!(!succeeded(&[]));
    }
}
