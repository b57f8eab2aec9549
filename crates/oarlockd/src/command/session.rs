//! A command's session: the same conversation a program has, without threads and without a runtime.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{SessionId, SpaceId};
use oarlock_layout::limit::SESSION_PACKET_BYTES_MAX;
use oarlock_layout::message::session::{Reply, Request, VERSION};
use oarlock_shm::LeaseSight;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;

use super::connect;
use crate::config::DEFAULT_SPACE;
use crate::console::doc::{Question, Status};
use crate::host::clock;
use crate::host::door::{self, Received};
use crate::problem::{Problem, Result, did_you_mean};

/// How long a daemon may take for an answer that needs no lock. A node asks its peers for at most a second.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A conversation with a daemon.
pub struct Session {
    fd: OwnedFd,
    path: PathBuf,
    buffer: Vec<u8>,
    next_request: u32,
    identity: Option<(String, SessionId)>,
    /// When it said hello, by this process's clock.
    asked: oarlock_layout::time::Instant,
    lease: Option<LeaseSight>,
}

impl Session {
    /// Connects and says hello, without waiting for the answer: whatever is sent next follows in the same
    /// breath, and [`receive`](Session::receive) checks the answer when it comes.
    pub fn open(path: &Path, label: &str) -> Result<Session> {
        door::check_path(path)?;
        let fd = door::connect(path).map_err(|e| connect::failed(path, &e))?;
        Session::begin(fd, path, label)
    }

    /// The same on a socket that is connected already, by whichever process.
    pub fn begin(fd: OwnedFd, path: &Path, label: &str) -> Result<Session> {
        let mut session = Session {
            fd,
            path: path.into(),
            buffer: vec![0; SESSION_PACKET_BYTES_MAX],
            next_request: 1,
            identity: None,
            asked: clock::now(),
            lease: None,
        };
        session.send(&Request::Hello { version: VERSION, label: label.into() })?;
        Ok(session)
    }

    /// Name of the node and number of the session, once the daemon has said hello back.
    pub fn identity(&self) -> Option<(String, SessionId)> {
        self.identity.clone()
    }

    /// Takes what shows until when the node's lease lasts, which came with its welcome.
    pub fn take_lease(&mut self) -> Option<LeaseSight> {
        self.lease.take()
    }

    /// Sends one message.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        let bytes = request.to_bytes();
        loop {
            match door::send(&self.fd, &bytes) {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
                    let _ = poll(&mut fds, None);
                }
                Err(e) => {
                    // A daemon that refuses says why before it hangs up.
                    return match self.try_receive() {
                        Ok(_) => Err(connect::failed(&self.path, &e)),
                        Err(problem) => Err(problem),
                    };
                }
            }
        }
    }

    /// The next message if there is one. The daemon's end is a problem: [`Code::NoDaemon`] before the
    /// welcome, [`Code::Lost`] after it.
    pub fn try_receive(&mut self) -> Result<Option<Reply>> {
        loop {
            let mut with = None;
            let n = match door::receive_with(&self.fd, &mut self.buffer, &mut with) {
                Ok(Received::Packet(n)) => n,
                Ok(Received::Nothing) => return Ok(None),
                Ok(Received::End) if self.identity.is_some() => {
                    return Err(
                        Problem::new(Code::Lost, "the daemon hung up").because("it ended or was killed")
                    );
                }
                Ok(Received::End) => {
                    return Err(Problem::new(Code::NoDaemon, format!("{} hung up", self.path.display()))
                        .because("the daemon closed the connection without a word; perhaps it is stopping"));
                }
                Err(e) => return Err(Problem::io(Code::Lost, "the connection to the daemon broke", &e)),
            };
            let reply = Reply::from_bytes(&self.buffer[..n]).map_err(|e| {
                Problem::new(Code::SessionMalformed, "the daemon sent bytes that are no message").because(e)
            })?;
            match reply {
                Reply::Welcome { version, .. } if version != VERSION => return Err(version_problem(version)),
                Reply::Welcome { node, session, now, .. } => {
                    self.lease = with.and_then(|fd| LeaseSight::open(fd, self.asked, now, clock::now()));
                    self.identity = Some((node, session));
                }
                Reply::Refused { version, why } => {
                    return Err(match why.code {
                        Code::SessionVersion => version_problem(version),
                        _ => Problem::from_failure(&why),
                    });
                }
                other => return Ok(Some(other)),
            }
        }
    }

    /// The next message, waiting at most until `end` (`None`: for ever). `Ok(None)` when the time is over.
    pub fn receive(&mut self, end: Option<Instant>) -> Result<Option<Reply>> {
        loop {
            if let Some(reply) = self.try_receive()? {
                return Ok(Some(reply));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let left = left.map(timespec);
            let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], left.as_ref());
        }
    }

    /// Finds a lockspace. `default` has a fixed number, so it costs nothing.
    pub fn space(&mut self, name: &str) -> Result<SpaceId> {
        if name == DEFAULT_SPACE {
            return Ok(SpaceId(0));
        }
        let request = self.next();
        self.send(&Request::Open { request, space: name.into() })?;
        match self.receive(Some(Instant::now() + ANSWER_MAX))? {
            Some(Reply::Opened { request: r, space }) if r == request => Ok(space),
            Some(Reply::Denied { why, .. }) => {
                let problem = Problem::from_failure(&why);
                // The node has said which there are; its room of pure rules does not guess what was meant.
                let spaces = self.document::<Status>(&Question::Status).map_or(Vec::new(), |s| s.spaces);
                Err(match did_you_mean(name, spaces.iter().map(|s| s.name.as_str())) {
                    Some(meant) => problem.try_next(format!("did you mean `{meant}`?")),
                    None => problem,
                })
            }
            Some(Reply::Lost { why }) => Err(Problem::from_failure(&why)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a question without waiting; the answer comes as [`Reply::Answer`] pieces with this number.
    pub fn ask_later(&mut self, question: &Question) -> Result<u32> {
        let request = self.next();
        let question = serde_json::to_string(question).expect("a question is plain data");
        self.send(&Request::Ask { request, question })?;
        Ok(request)
    }

    /// Asks, waits, and returns the document as text. A question that changes nothing is asked again if the node was restarted before
    /// it had answered.
    pub fn ask(&mut self, question: &Question) -> Result<String> {
        let mut request = self.ask_later(question)?;
        let end = Instant::now() + ANSWER_MAX;
        let mut text = Vec::new();
        loop {
            // Nothing is held here, so a daemon that ends is only a daemon that is gone.
            let reply = self.receive(Some(end)).map_err(|p| match p.code {
                Code::Lost => Problem { code: Code::NoDaemon, ..p },
                _ => p,
            })?;
            match reply {
                Some(Reply::Answer { request: r, more, bytes }) if r == request => {
                    text.extend_from_slice(&bytes);
                    if !more {
                        break;
                    }
                }
                Some(Reply::Denied { request: r, why })
                    if r == request && why.code == Code::OutcomeUnknown && question.only_looks() =>
                {
                    text.clear();
                    request = self.ask_later(question)?;
                }
                Some(Reply::Denied { request: r, why }) if r == request => {
                    return Err(Problem::from_failure(&why));
                }
                Some(Reply::Lost { why }) => {
                    return Err(Problem::new(Code::NoDaemon, why.text)
                        .because("the run of the node that was asked has ended")
                        .try_next("the same again, once oarlock status says that the node serves"));
                }
                Some(_) => {}
                None => {
                    return Err(Problem::new(Code::NoDaemon, "the daemon does not answer")
                        .because(format!("nothing came for {} s", ANSWER_MAX.as_secs()))
                        .try_next("oarlock doctor"));
                }
            }
        }
        String::from_utf8(text)
            .map_err(|e| Problem::new(Code::SessionMalformed, "the daemon's answer is not text").because(e))
    }

    /// Asks and reads the document.
    pub fn document<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T> {
        parse(&self.ask(question)?)
    }

    fn next(&mut self) -> u32 {
        let n = self.next_request;
        self.next_request += 1;
        n
    }
}

/// Reads a document.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        Problem::new(Code::SessionMalformed, "the daemon's answer is not the document expected").because(e)
    })
}

fn version_problem(theirs: u16) -> Problem {
    Problem::new(
        Code::SessionVersion,
        format!("the daemon speaks version {theirs} of the session protocol, this command version {VERSION}"),
    )
}

fn unexpected(reply: &Option<Reply>) -> Problem {
    match reply {
        None => Problem::new(Code::NoDaemon, "the daemon does not answer").try_next("oarlock doctor"),
        Some(reply) => {
            Problem::new(Code::SessionMalformed, format!("an answer that was not asked for: {reply:?}"))
        }
    }
}

/// A duration as the kernel takes it.
pub fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
