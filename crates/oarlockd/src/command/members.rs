//! `oarlock init`, `oarlock leave`, `oarlock node remove`, `oarlock token`: clusters that begin with one node, and whose members come and go.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::message::session::Reply;

use super::args;
use super::cli::{Ask, Init, Output, Sure, Token as Command};
use super::condition::{Cell, Kind};
use super::hand::agreed;
use super::listing::{Columns, column};
use super::output;
use super::session::{Session, parse};
use super::status::session;
use crate::config::membership::{FILE, Local, SECRET};
use crate::console::doc::{Left, NewToken, Question, Revoked, Status, Token, Tokens};
use crate::host::file;
use crate::host::key::Secret;
use crate::host::state::DataDir;
use crate::problem::{Problem, Result};

/// A leader hands over first, then programs hang up, then the others decide: each within its own bound, all below this.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// `oarlock init`
pub fn init(args: &Init) -> Result<()> {
    let local = Local::load(&args.config)?;
    let address = own_address(args.address, &local)?;
    let name_fits = (1..=oarlock_layout::limit::LABEL_BYTES_MAX).contains(&args.cluster.len())
        && args.cluster.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !args.cluster.starts_with('.');
    if !name_fits {
        return Err(Problem::new(Code::Usage, format!("a cluster cannot be called `{}`", args.cluster))
            .because("1 to 64 letters, digits, `-`, `_` or `.`, not beginning with `.`"));
    }
    let data = DataDir::open(&local.data_dir)?;
    data.refuse_left()?;
    let key = local.key()?;
    let secret = local.data_dir.join(SECRET);
    if !secret.exists() {
        Secret::generate().write_new(&secret)?;
    }
    let there = local.data_dir.join(FILE);
    let text = local.found(&args.cluster, address, &key.public());
    file::replace(&there, text.as_bytes(), 0o600)
        .map_err(|e| Problem::io(Code::DataDir, format!("cannot write {}", there.display()), &e))?;
    output::say(format_args!(
        "cluster {} begins with {} at {address}, its secret is in {}\n\
         next:  oarlock serve --config {}\n\
         then:  oarlock token create NAME    for each machine that is to join",
        args.cluster,
        local.name,
        secret.display(),
        local.path.display()
    ));
    Ok(())
}

/// Where the others will reach this node.
pub(super) fn own_address(named: Option<SocketAddr>, local: &Local) -> Result<SocketAddr> {
    let address = named.or(local.listen).ok_or_else(|| {
        Problem::new(Code::BadConfig, format!("{}: [node] has no `listen`", local.path.display()))
            .because("the other members send to that address")
            .try_next("listen = \"10.0.0.11:7401\" with this machine's own address")
    })?;
    let ip = address.ip();
    match ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        false => Ok(address),
        true => Err(Problem::new(Code::Usage, format!("{address} is no machine's address"))
            .because("the other members send to it")
            .try_next("--address IP:PORT with the address at which they reach this machine")),
    }
}

/// `oarlock leave`
pub fn leave(sure: &Sure, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let status: Status = session.document(&Question::Status)?;
    let plan = format!(
        "{} leaves the cluster {} for good: programs here lose their locks, the node ends, and its key is accepted no more.\n\
         It comes back only with a new token and an empty data directory.",
        status.node, status.cluster
    );
    if !agreed(&plan, &format!("let {} leave?", status.node), sure)? {
        return Ok(());
    }
    print_left(&left(&mut session, &Question::Leave, "this node")?, ask)
}

/// `oarlock node remove`
pub fn remove(name: &str, sure: &Sure, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let status: Status = session.document(&Question::Status)?;
    let plan = format!(
        "{name} is no member of the cluster {} any more: its vote does not count, and its key is accepted no more.\n\
         Should its machine come back, it is refused, until it joins with a new token and an empty data directory.",
        status.cluster
    );
    if !agreed(&plan, &format!("remove {name}?"), sure)? {
        return Ok(());
    }
    print_left(&left(&mut session, &Question::Remove { node: name.into() }, name)?, ask)
}

/// Asks for the end of a membership, which takes longer than other questions.
fn left(session: &mut Session, question: &Question, who: &str) -> Result<Left> {
    let request = session.ask_later(question)?;
    let end = Instant::now() + LEAVE_MAX;
    let mut text = Vec::new();
    loop {
        let reply = session.receive(Some(end)).map_err(|p| match p.code {
            Code::Lost | Code::NoDaemon => unknown(who, &p.why),
            _ => p,
        })?;
        match reply {
            Some(Reply::Answer { request: r, more, bytes }) if r == request => {
                text.extend_from_slice(&bytes);
                if !more {
                    return parse(&String::from_utf8_lossy(&text));
                }
            }
            Some(Reply::Denied { request: r, why }) if r == request => {
                return Err(Problem::from_failure(&why));
            }
            // The run of a node that leaves ends before its membership does, and this session hears of both.
            Some(_) => {}
            None => return Err(unknown(who, "the node has not answered for a minute")),
        }
    }
}

fn print_left(left: &Left, ask: &Ask) -> Result<()> {
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, left),
        Output::Name => output::print_text(&left.node),
        Output::Table | Output::Wide => {
            output::print_text(&format!("{} has left the cluster {}", left.node, left.cluster))
        }
    }
}

fn unknown(who: &str, why: &str) -> Problem {
    Problem::new(Code::OutcomeUnknown, format!("whether {who} is still a member is not known"))
        .because(why)
        .try_next("oarlock node ls --socket PATH, of another member")
}

/// What `oarlock token ls` tells of a token.
pub static TOKENS: Columns = Columns {
    all: &[column("TOKEN", Kind::Count), column("NODE", Kind::Name), column("LEFT", Kind::Time)],
    narrow: 3,
};

fn row(it: &Token) -> Vec<Cell> {
    vec![Cell::count(it.serial), Cell::name(&it.node), Cell::age(Some(it.seconds * 1_000_000))]
}

/// `oarlock token`
pub fn token(command: &Command) -> Result<()> {
    match command {
        Command::Create { name, ttl, ask } => {
            let seconds = args::duration(ttl)?.as_secs();
            let question = Question::CreateToken { node: name.clone(), seconds };
            let made: NewToken = session(&ask.connect)?.document(&question)?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &made),
                Output::Name => output::print_text(&made.serial.to_string()),
                Output::Table | Output::Wide => {
                    output::print_text(&made.token)?;
                    output::say(format_args!(
                        "on {}, within {}: oarlock join TOKEN    it asks {} at udp {}",
                        made.node,
                        humantime::format_duration(Duration::from_secs(made.seconds)),
                        made.member,
                        made.address
                    ));
                    Ok(())
                }
            }
        }
        Command::Ls(ask) => {
            let plan = TOKENS.plan(&ask.list)?;
            let mut seen: Tokens = session(&ask.connect)?.document(&Question::Tokens)?;
            plan.arrange(&mut seen.tokens, row);
            plan.print(&seen.tokens, row, &seen)
        }
        Command::Revoke { serial, ask } => {
            let done: Revoked =
                session(&ask.connect)?.document(&Question::RevokeToken { serial: *serial })?;
            if !done.changed {
                output::say(format_args!("it was out no more"));
            }
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &done),
                _ => output::print_text(&format!("join token {serial} lets nobody in")),
            }
        }
    }
}
