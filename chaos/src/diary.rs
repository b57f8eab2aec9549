//! What a client writes down: every request before it is sent, every answer after it was received.
//!
//! A line is one `write` system call, so that whatever a client had written when it was killed is in the file.
//! Only the last line of a killed client can be torn.
//!
//! Nobody can be told of the end of a lease while it stands still. So a line about something that is held bears the time
//! of a *look* that found it held, and a session that is lost ends with its last such look: that far the client has
//! believed with reason.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use oarlock_layout::code::Code;
use oarlock_layout::mode::Mode;
use oarlock_sim::history::{Ask, Block, Client, End, Event, Told, What, write_line};

use crate::clock;

/// A history of one worker, in a file of its own.
#[derive(Debug)]
pub struct Diary {
    file: File,
    client: Client,
    handles: u32,
    /// Until when the session is known to have held what it held.
    sure: u64,
}

impl Diary {
    /// An empty diary. Its sessions are numbered from `first` on.
    pub fn create(path: &Path, first: Client) -> io::Result<Diary> {
        Ok(Diary { file: File::create_new(path)?, client: first, handles: 0, sure: 0 })
    }

    /// A session begins; it is another client than the one before.
    pub fn opened(&mut self, node: u16) {
        self.client += 1;
        self.handles = 0;
        self.sure = clock::now();
        self.write(self.sure, What::Opened { client: self.client, node });
    }

    /// A look that began at this time found that nothing is lost.
    pub fn looked(&mut self, at: u64) {
        self.sure = self.sure.max(at);
    }

    /// Until when the session is known to have held what it held.
    pub fn sure(&self) -> u64 {
        self.sure
    }

    /// A lock of a session that is over is given back all the same, in memory that the program shares with others.
    pub fn gave_back(&mut self, handle: u32, value: Option<Box<Block>>, invalidate: bool) {
        let ask = Ask::Unlock { value, invalidate };
        self.write(self.sure, What::Asked { client: self.client, handle, ask });
    }

    /// The session is over, and every lock with it.
    pub fn lost(&mut self) {
        self.write(self.sure, What::Ended { client: self.client, how: End::Lost });
    }

    /// A new lock is about to be asked for. Returns the number by which the diary knows it.
    pub fn new_lock(&mut self, at: u64, ask: Ask) -> u32 {
        self.handles += 1;
        self.asked(at, self.handles, ask);
        self.handles
    }

    /// Something is about to be asked of a lock.
    pub fn asked(&mut self, at: u64, handle: u32, ask: Ask) {
        self.looked(at);
        self.write(at, What::Asked { client: self.client, handle, ask });
    }

    /// An answer came.
    pub fn told(&mut self, at: u64, handle: u32, told: Told) {
        self.looked(at);
        self.write(at, What::Told { client: self.client, handle, told });
    }

    /// A request failed.
    pub fn failed(&mut self, at: u64, handle: u32, code: Code) {
        self.told(at, handle, Told::Failed { code });
    }

    /// Others want it. That was true when it was sent, which may be long ago.
    pub fn blocking(&mut self, handle: u32, wanted: Mode) {
        let told = Told::Blocking { wanted };
        self.write(clock::now(), What::Told { client: self.client, handle, told });
    }

    fn write(&mut self, at: u64, what: What) {
        let mut line = write_line(&Event { at, what });
        line.push('\n');
        // A client that cannot write down what it does must not do it: its history would accuse others.
        self.file.write_all(line.as_bytes()).expect("the diary's disk has room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::flags::Flags;
    use oarlock_layout::name::Name;
    use oarlock_sim::history::read_lines;

    #[test]
    fn what_is_written_can_be_read_at_once_and_each_session_is_a_client() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("diary");
        let mut diary = Diary::create(&path, 70).unwrap();
        let ask = |mode| Ask::Lock {
            space: 0,
            name: Name::new(b"x").unwrap(),
            mode,
            flags: Flags::empty(),
            timeout_ms: 0,
        };
        diary.opened(2);
        assert_eq!(diary.new_lock(clock::now(), ask(Mode::EX)), 1);
        diary.failed(clock::now(), 1, Code::Busy);
        diary.lost();
        diary.opened(2);
        assert_eq!(diary.new_lock(clock::now(), ask(Mode::PR)), 1);

        let events = read_lines(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(events.windows(2).all(|w| w[0].at <= w[1].at));
        assert_eq!(events[0].what, What::Opened { client: 71, node: 2 });
        assert_eq!(events[3].what, What::Ended { client: 71, how: End::Lost });
        assert_eq!(events[4].what, What::Opened { client: 72, node: 2 });
        assert_eq!(events[5].what, What::Asked { client: 72, handle: 1, ask: ask(Mode::PR) });
        assert!(Diary::create(&path, 0).is_err(), "a diary is never overwritten");
    }

    #[test]
    fn a_lost_session_ends_with_the_last_look_that_found_its_locks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("diary");
        let mut diary = Diary::create(&path, 0).unwrap();
        diary.opened(0);
        let name = Name::new(b"x").unwrap();
        let ask = Ask::Lock { space: 0, name, mode: Mode::EX, flags: Flags::empty(), timeout_ms: 0 };
        let began = clock::now();
        let handle = diary.new_lock(began, ask);
        diary.told(
            began + 1,
            handle,
            Told::Granted { mode: Mode::EX, token: None, value: None, alternate: false },
        );
        diary.looked(began + 7);
        // It read an old notice after it had stood still.
        diary.blocking(handle, Mode::PR);
        diary.gave_back(handle, None, false);
        diary.lost();
        let events = read_lines(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let [.., gave_back, lost] = &events[..] else { panic!("{events:?}") };
        assert_eq!((gave_back.at, lost.at), (began + 7, began + 7));
    }
}
