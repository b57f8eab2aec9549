//! A node's own keys while it changes from one to the next, as files that make sense after a crash between any two writes.
//!
//! ```text
//!                     key_file     DATA/rotated.key   .next   .old      proves itself with   answers to
//!   at first          a                                                 a                    a
//!   make_next         a                               b                 a                    a, b
//!   switch            a                               b       a         a                    a, b
//!                     a            b                          a         b                    a, b
//!   finish            a            b                                    b                    b
//!                                  b                                    b                    b
//! ```
//!
//! `DATA/rotated.key` counts before `key_file`, which the daemon may not be allowed to write. The next change finds
//! `rotated.key` where this one found `key_file`. Which step may be taken when, the registry says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_layout::code::Code;

use super::file;
use super::key::{KEY_BYTES, Secret, print};
use crate::problem::{Problem, Result};

/// The key in use, once it is not the first one any more.
const ROTATED: &str = "rotated.key";
/// The one that comes next.
const NEXT: &str = "rotated.key.next";
/// The one before, as long as it is good.
const OLD: &str = "rotated.key.old";

/// Private keys by which a node is known; it proves itself with the first. Clones are the same ones.
#[derive(Clone)]
pub struct OwnKeys(Arc<Mutex<Vec<[u8; KEY_BYTES]>>>);

impl OwnKeys {
    /// One key.
    pub fn new(private: [u8; KEY_BYTES]) -> OwnKeys {
        OwnKeys(Arc::new(Mutex::new(vec![private])))
    }

    /// From now on these.
    ///
    /// # Panics
    /// If there is none.
    pub fn set(&self, keys: Vec<[u8; KEY_BYTES]>) {
        assert!(!keys.is_empty(), "a node has a key");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// With which the node proves itself.
    pub fn first(&self) -> [u8; KEY_BYTES] {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[0]
    }

    /// To which it answers.
    pub fn all(&self) -> Vec<[u8; KEY_BYTES]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The public halves of a node's keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// It proves itself with this.
    pub current: [u8; KEY_BYTES],
    /// It is about to change to this.
    pub next: Option<[u8; KEY_BYTES]>,
    /// It has changed from this.
    pub old: Option<[u8; KEY_BYTES]>,
}

struct Inner {
    current: Secret,
    next: Option<Secret>,
    old: Option<Secret>,
}

/// See the [module](self).
pub struct Keychain {
    data_dir: PathBuf,
    key_file: PathBuf,
    own: OwnKeys,
    inner: Mutex<Inner>,
}

impl Keychain {
    /// Reads what is there.
    ///
    /// # Errors
    /// What [`Secret::read`] has to say of a file.
    pub fn read(data_dir: &Path, key_file: &Path) -> Result<Keychain> {
        let maybe = |name: &str| -> Result<Option<Secret>> {
            let path = data_dir.join(name);
            match path.try_exists() {
                Ok(false) => Ok(None),
                _ => Secret::read(&path).map(Some),
            }
        };
        let current = match maybe(ROTATED)? {
            Some(rotated) => rotated,
            None => Secret::read(key_file)?,
        };
        let (next, old) = (maybe(NEXT)?, maybe(OLD)?);
        // Left by a crash in the middle of a switch, which is done again.
        let old = old.filter(|old| old.bytes() != current.bytes());
        let own = OwnKeys::new(current.bytes());
        let inner = Mutex::new(Inner { current, next, old });
        let chain = Keychain { data_dir: data_dir.into(), key_file: key_file.into(), own, inner };
        chain.show(&chain.inner());
        Ok(chain)
    }

    /// One that is nowhere on a disk.
    #[cfg(test)]
    pub fn held() -> Keychain {
        let current = Secret::generate();
        let own = OwnKeys::new(current.bytes());
        let inner = Mutex::new(Inner { current, next: None, old: None });
        Keychain { data_dir: "/nowhere".into(), key_file: "/nowhere/key".into(), own, inner }
    }

    /// The key in use is in the file that the configuration names.
    pub fn is_first(&self) -> bool {
        !self.data_dir.join(ROTATED).exists()
    }

    /// The file that the configuration names holds a key, and this node has changed to another one.
    pub fn passes_over(&self) -> bool {
        let inner = self.inner();
        let known = |key: &Secret| {
            [Some(&inner.current), inner.old.as_ref()]
                .into_iter()
                .flatten()
                .any(|it| it.bytes() == key.bytes())
        };
        !self.is_first() && Secret::read(&self.key_file).is_ok_and(|key| !known(&key))
    }

    /// For a seal that is to follow.
    pub fn own(&self) -> OwnKeys {
        self.own.clone()
    }

    /// The public halves.
    pub fn standing(&self) -> Standing {
        let inner = self.inner();
        let public = |key: &Option<Secret>| key.as_ref().map(Secret::public);
        Standing { current: inner.current.public(), next: public(&inner.next), old: public(&inner.old) }
    }

    /// Makes the next key, if there is none yet, and gives its public half. The node answers to it from now on.
    pub fn make_next(&self) -> Result<[u8; KEY_BYTES]> {
        let mut inner = self.inner();
        if inner.next.is_none() {
            let next = Secret::generate();
            self.put(NEXT, &next)?;
            inner.next = Some(next);
            self.show(&inner);
        }
        Ok(inner.next.as_ref().expect("it is there").public())
    }

    /// Proves itself with the next key from now on, and still answers to the one before.
    pub fn switch(&self) -> Result<()> {
        let mut inner = self.inner();
        let Some(next) = inner.next.clone() else { return Ok(()) };
        self.put(OLD, &inner.current)?;
        // The other way round a crash could leave the one before nowhere.
        let (from, to) = (self.data_dir.join(NEXT), self.data_dir.join(ROTATED));
        let renamed = match fs::rename(&from, &to) {
            // It was renamed before, and only then something failed.
            Err(e) if e.kind() == io::ErrorKind::NotFound && holds(&to, &next) => Ok(()),
            other => other,
        };
        renamed.and_then(|()| self.sync()).map_err(|e| self.failed(&to, &e))?;
        inner.old = Some(std::mem::replace(&mut inner.current, next));
        inner.next = None;
        self.show(&inner);
        Ok(())
    }

    /// Forgets the one before. True if the file that the configuration names could not be removed and still holds it.
    pub fn finish(&self) -> Result<bool> {
        let mut inner = self.inner();
        let Some(old) = &inner.old else { return Ok(false) };
        // First, because nothing says afterwards that there is something left to do. It may be on a disk that is not ours.
        let left = holds(&self.key_file, old) && fs::remove_file(&self.key_file).is_err();
        let path = self.data_dir.join(OLD);
        let removed = match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed.and_then(|()| self.sync()).map_err(|e| self.failed(&path, &e))?;
        inner.old = None;
        self.show(&inner);
        Ok(left)
    }

    fn put(&self, name: &str, key: &Secret) -> Result<()> {
        let path = self.data_dir.join(name);
        let text = format!("{}\n", print(&key.bytes()));
        file::replace(&path, text.as_bytes(), 0o600).map_err(|e| self.failed(&path, &e))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.data_dir)?.sync_all()
    }

    fn failed(&self, path: &Path, e: &io::Error) -> Problem {
        Problem::io(Code::DataDir, format!("cannot write {}", path.display()), e)
            .because(format!("{e}; a node's new key is kept in its data directory"))
    }

    /// What is changed here is so for the seal as well.
    fn show(&self, inner: &Inner) {
        let all = [Some(&inner.current), inner.next.as_ref(), inner.old.as_ref()];
        self.own.set(all.into_iter().flatten().map(Secret::bytes).collect());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holds(path: &Path, key: &Secret) -> bool {
    Secret::read(path).is_ok_and(|it| it.bytes() == key.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Place {
            let place = Place(tempfile::tempdir().unwrap());
            fs::create_dir(place.0.path().join("data")).unwrap();
            Secret::generate().write_new(&place.key()).unwrap();
            place
        }

        fn key(&self) -> PathBuf {
            self.0.path().join("key")
        }

        fn read(&self) -> Keychain {
            Keychain::read(&self.0.path().join("data"), &self.key()).unwrap()
        }
    }

    #[test]
    fn keys_take_turns_and_each_step_outlives_the_process() {
        let place = Place::new();
        let first = place.read().standing().current;
        for turn in 0..3 {
            let before = place.read().standing();
            assert_eq!((before.next, before.old), (None, None));
            let next = place.read().make_next().unwrap();
            assert_eq!(place.read().make_next().unwrap(), next, "one that is made is not made again");
            let made = Standing { next: Some(next), ..before };
            assert_eq!(place.read().standing(), made);
            place.read().switch().unwrap();
            let switched = Standing { current: next, next: None, old: Some(before.current) };
            assert_eq!(place.read().standing(), switched);
            assert_eq!(place.read().own().all().len(), 2);
            assert!(!place.read().finish().unwrap());
            assert_eq!(place.read().standing(), Standing { old: None, ..switched });
            assert!(!place.read().finish().unwrap(), "once more changes nothing");
            assert!(!place.key().exists(), "turn {turn}");
        }
        assert_ne!(place.read().standing().current, first);
        assert_eq!(fs::read_dir(place.0.path().join("data")).unwrap().count(), 1, "nothing is left over");
    }

    /// Whatever was written before a crash, the node still has the key by which it is known.
    #[test]
    fn a_switch_that_was_cut_short_is_made_again() {
        let place = Place::new();
        let chain = place.read();
        let (first, next) = (chain.standing().current, chain.make_next().unwrap());
        chain.put(OLD, &chain.inner().current).unwrap();
        drop(chain);
        let chain = place.read();
        assert_eq!(chain.standing(), Standing { current: first, next: Some(next), old: None });
        chain.switch().unwrap();
        assert_eq!(chain.standing(), Standing { current: next, next: None, old: Some(first) });
        // The first file went, the second did not.
        fs::remove_file(place.key()).unwrap();
        let chain = place.read();
        assert_eq!(chain.standing().old, Some(first));
        assert!(!chain.finish().unwrap());
        assert_eq!(place.read().standing(), Standing { current: next, next: None, old: None });
    }

    /// A file was moved, and then the directory could not be forced: whoever tries again finds the work done.
    #[test]
    fn a_step_that_failed_after_it_was_made_can_be_made_again() {
        let place = Place::new();
        let chain = place.read();
        let (first, next) = (chain.standing().current, chain.make_next().unwrap());
        chain.put(OLD, &chain.inner().current).unwrap();
        let data = place.0.path().join("data");
        fs::rename(data.join(NEXT), data.join(ROTATED)).unwrap();
        chain.switch().unwrap();
        assert_eq!(chain.standing(), Standing { current: next, next: None, old: Some(first) });
        assert_eq!(place.read().standing(), chain.standing());
        fs::remove_file(data.join(OLD)).unwrap();
        assert!(!chain.finish().unwrap());
        assert_eq!(chain.standing(), Standing { current: next, next: None, old: None });
        // But one of which nothing is left is not taken for made.
        chain.make_next().unwrap();
        fs::remove_file(data.join(NEXT)).unwrap();
        assert!(chain.switch().is_err());
        assert_eq!(chain.standing().current, next);
    }

    #[test]
    fn a_key_file_of_another_key_is_left_alone() {
        let place = Place::new();
        place.read().make_next().unwrap();
        place.read().switch().unwrap();
        fs::remove_file(place.key()).unwrap();
        let other = Secret::generate();
        other.write_new(&place.key()).unwrap();
        assert!(place.read().passes_over(), "whoever put it there is to be told that it is not used");
        assert!(!place.read().finish().unwrap());
        assert_eq!(Secret::read(&place.key()).unwrap().bytes(), other.bytes());
        assert!(place.read().passes_over());
        fs::remove_file(place.key()).unwrap();
        assert!(!place.read().passes_over());
    }
}
