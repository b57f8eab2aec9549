//! `oarlock join`: show a token to the member that made it, and keep what it tells.
//!
//! The key comes first and what makes this node a member last, so whatever stops this in between, the same command again completes it.

use std::io::{self, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::message::frame::{Datagram, VERSION};
use oarlock_layout::message::join::{
    JOIN_BYTES, Request, WELCOME_BYTES_MAX, Welcome, decode_answer, encode_question,
};
use oarlock_layout::seal::{Initiation, MacKey, Seal};
use xxhash_rust::xxh3::xxh3_64;

use super::args;
use super::cli::Join;
use super::members::own_address;
use super::output;
use crate::config::membership::{Accepted, FILE, Local, SECRET};
use crate::coordinator::control;
use crate::host::key::{self, Secret};
use crate::host::seal::HostSeal;
use crate::host::state::{DataDir, State};
use crate::host::token::{self, Token};
use crate::host::{file, random};
use crate::problem::{Problem, Result};

/// A question without an answer is asked again after this: the cluster may take a moment to decide.
const AGAIN: Duration = Duration::from_millis(700);

/// Runs it.
pub fn run(args: &Join) -> Result<()> {
    let local = Local::load(&args.config)?;
    let patience = args::duration(&args.timeout)?;
    let token = Token::parse(&text(&args.token)?)
        .ok_or_else(|| Problem::new(Code::TokenMalformed, "this is no join token"))?;
    if token.name != local.name {
        return Err(Problem::new(
            Code::TokenForOther,
            format!("the token lets in `{}`, and this node is called `{}`", token.name, local.name),
        )
        .because(format!("{} gives the name", local.path.display())));
    }
    let address = own_address(args.address, &local)?;
    if address.is_ipv4() != token.address.is_ipv4() {
        return Err(Problem::new(
            Code::Usage,
            format!("a node at {address} and the member at {} cannot send to each other", token.address),
        )
        .because("a node has one socket, which is for IPv4 or for IPv6"));
    }
    // Nobody else uses it from here on.
    let mut data = DataDir::open(&local.data_dir)?;
    data.refuse_left()?;
    data.refuse_disowned()?;
    let key = local.key()?;
    let asker = Asker { token: &token, key: &key, name: &local.name, address };
    let told = asker.ask(Instant::now() + patience)?;
    let accepted = local.accept(&told.text).map_err(|why| {
        Problem::new(Code::Failed, "the cluster that let this node in is not as its configuration has it")
            .because(why)
            .try_next("correct that, then the same command again; `oarlock version` on both machines")
    })?;
    keep(&local, &mut data, told.above, &accepted)?;
    output::say(format_args!(
        "{} is member {} of the cluster now; next: oarlock serve --config {}",
        local.name,
        told.node,
        local.path.display()
    ));
    Ok(())
}

/// The token, which `-` says is to be read: whatever stands on a command line others can see.
fn text(token: &str) -> Result<String> {
    if token != "-" {
        return Ok(token.into());
    }
    let mut text = String::new();
    match io::stdin().take(4096).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(e) => Err(Problem::io(Code::Failed, "cannot read the token from standard input", &e)),
    }
}

/// Writes what a member keeps. The last file is what makes it one.
fn keep(local: &Local, data: &mut DataDir, above: Incarnation, accepted: &Accepted) -> Result<()> {
    let Accepted { membership, secret, restoration, outside, .. } = accepted;
    let dir = &local.data_dir;
    let write = |name: &str, text: String| {
        file::replace(&dir.join(name), text.as_bytes(), 0o600)
            .map_err(|e| Problem::io(Code::DataDir, format!("cannot write {}", dir.join(name).display()), &e))
    };
    write(SECRET, format!("{}\n", key::print(&secret.bytes())))?;
    // A log that somebody left here would vote for another past.
    let log = dir.join(control::FILE);
    forget(&log)?;
    if !outside {
        control::prepare_newcomer(&log, *restoration)?;
    }
    data.store(State { incarnation: above, restored: *restoration, ..State::FIRST })?;
    write(FILE, membership.clone())
}

fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Problem::io(Code::DataDir, format!("cannot remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

/// All that a member told.
struct Told {
    node: NodeId,
    above: Incarnation,
    text: String,
}

/// Somebody with a token.
struct Asker<'a> {
    token: &'a Token,
    key: &'a Secret,
    name: &'a str,
    address: SocketAddr,
}

impl Asker<'_> {
    /// Asks for one part after the other until all are there.
    fn ask(&self, until: Instant) -> Result<Told> {
        let any = if self.token.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let fail = |e: io::Error| Problem::io(Code::Failed, "cannot open a socket", &e);
        let socket = UdpSocket::bind(any).map_err(fail)?;
        let mut whole = Vec::new();
        let mut of = None;
        loop {
            let Welcome::Part { node, above, hash, total, bytes } = self.part(&socket, whole.len(), until)?
            else {
                unreachable!("a refusal is a problem")
            };
            if of.is_some_and(|before| before != (hash, total)) {
                // Somebody joined or left meanwhile, so the whole is another.
                whole.clear();
                of = None;
                continue;
            }
            of = Some((hash, total));
            whole.extend_from_slice(&bytes);
            let damaged = bytes.is_empty() || whole.len() > WELCOME_BYTES_MAX;
            if whole.len() < total as usize && !damaged {
                continue;
            }
            return match String::from_utf8(whole) {
                Ok(text) if xxh3_64(text.as_bytes()) == hash => Ok(Told { node, above, text }),
                _ => Err(Problem::new(Code::Failed, "what the member told does not go together")
                    .try_next("the same again")),
            };
        }
    }

    /// Asks until there is an answer. Any question of this part may be answered: they ask for the same.
    fn part(&self, socket: &UdpSocket, offset: usize, until: Instant) -> Result<Welcome> {
        let fail = |e: io::Error| {
            Problem::io(Code::JoinUnanswered, format!("cannot ask {}", self.token.address), &e)
        };
        let mut waiting: Vec<(u32, Box<dyn Initiation + Send>)> = Vec::new();
        let mut buffer = vec![0; 2 * JOIN_BYTES];
        while Instant::now() < until {
            let (sender, question, initiation) = self.question(offset);
            waiting.push((sender, initiation));
            // One that cannot be sent now may be sent later: a network that comes up, a member that does not listen yet.
            let sent = socket.send_to(&question, self.token.address);
            let again = (Instant::now() + AGAIN).min(until);
            loop {
                let left = again.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                socket.set_read_timeout(Some(left)).map_err(fail)?;
                let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
                if from == self.token.address
                    && let Some(answer) = self.read(&buffer[..n], &mut waiting)
                {
                    return answer;
                }
            }
            if Instant::now() >= until {
                sent.map_err(fail)?;
            }
        }
        Err(Problem::new(
            Code::JoinUnanswered,
            format!("no answer from the member at {}", self.token.address),
        ))
    }

    fn question(&self, offset: usize) -> (u32, Vec<u8>, Box<dyn Initiation + Send>) {
        let hash = self.token.hash();
        let mut seal = HostSeal::new(self.key.bytes(), token::shared(&hash));
        let request = Request {
            token: self.token.secret,
            name: self.name.into(),
            address: self.address,
            offset: offset as u32,
        };
        let mut handshake = Vec::new();
        let prologue = token::prologue(&self.token.cluster);
        let waiting = seal.initiate(&self.token.key, &prologue, &request.to_bytes(), &mut handshake);
        let sender = random::seed() as u32;
        let mut bytes = encode_question(sender, token::id(&hash), self.token.cluster, &handshake);
        let proof = seal.mac(MacKey::Cluster, &[&bytes]);
        bytes.extend_from_slice(&proof);
        (sender, bytes, waiting)
    }

    /// What a datagram says, if it is an answer to one of these questions.
    fn read(
        &self,
        datagram: &[u8],
        waiting: &mut [(u32, Box<dyn Initiation + Send>)],
    ) -> Option<Result<Welcome>> {
        if let Ok(Datagram::Refusal { version, receiver, code, .. }) = Datagram::decode(datagram) {
            waiting.iter().find(|(sender, _)| *sender == receiver)?;
            return Some(Err(self.refused_in_clear(version, code)));
        }
        let (receiver, handshake) = decode_answer(datagram)?;
        let (_, initiation) = waiting.iter_mut().find(|(sender, _)| *sender == receiver)?;
        let (payload, _) = initiation.finish(handshake).ok()?;
        Some(match Welcome::from_bytes(&payload) {
            Ok(Welcome::Refused { code, text }) => Err(self.refused(code, &text)),
            Ok(part) => Ok(part),
            Err(e) => Err(Problem::new(Code::Failed, "the answer of the member cannot be read").because(e)),
        })
    }

    /// What anybody on the way could have said as well: good for a message to people, and nothing comes of it.
    fn refused_in_clear(&self, version: u8, code: u16) -> Problem {
        let whom = self.token.address;
        match Code::from_number(code) {
            Some(Code::PeerVersion) => Problem::new(
                Code::PeerVersion,
                format!("the member at {whom} speaks version {version} of the protocol, this one {VERSION}"),
            ),
            Some(Code::PeerKey) => Problem::new(
                Code::PeerKey,
                format!("the member at {whom} has another key than the one that made the token"),
            )
            .because("its address belongs to another node of the cluster by now, or its key was changed")
            .try_next("oarlock token create on a member of today"),
            Some(code) => Problem::new(code, format!("the member at {whom} does not let this node in")),
            None => Problem::new(Code::Refused, format!("the member at {whom} does not let this node in"))
                .because(format!("its reason has the number {code}, which this version does not know")),
        }
    }

    fn refused(&self, code: u16, text: &str) -> Problem {
        let what = format!("`{}` is not let in: {text}", self.name);
        Problem::new(Code::from_number(code).unwrap_or(Code::Refused), what)
    }
}
